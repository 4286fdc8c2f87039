"""Files against the real thing: Kafka's own tool reads ours, our tool reads Kafka's."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import kafka as kafka_tools
from lib.api import Client, messaging_pb2, types_pb2
from lib.broker import Broker, millrace
from lib.kafka import Kafka

CODECS = {
    "none": types_pb2.COMPRESSION_NONE,
    "gzip": types_pb2.COMPRESSION_GZIP,
    "snappy": types_pb2.COMPRESSION_SNAPPY,
    "lz4": types_pb2.COMPRESSION_LZ4,
    "zstd": types_pb2.COMPRESSION_ZSTD,
}


def _messages(seed: int, count: int) -> list[types_pb2.Message]:
    """Keys, tombstones, headers, empty ones; half of each value compresses."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        value: bytes | None = f"value {seed} {i} ".encode() * rng.randrange(1, 20) + rng.randbytes(rng.randrange(200))
        if i % 11 == 10:
            value = None if i % 2 else b""
        message = types_pb2.Message(key=None if i % 3 == 0 else f"key-{i}".encode(), value=value)
        if i % 5 == 0:
            message.headers.add(name="trace", value=rng.randbytes(8))
            message.headers.add(name="none")
        made.append(message)
    return made


def _write_everything(broker: Broker, topic: str) -> list[types_pb2.Message]:
    """Fills a topic in all codecs over several segments; gives the messages by offset."""
    written: list[types_pb2.Message] = []
    with Client(broker.address) as client:
        client.create_topic(topic, segment_bytes=65536, index_interval_bytes=1024)
        for round_number in range(20):
            for number, codec in enumerate(CODECS.values()):
                messages = _messages(round_number * 10 + number, 37)
                request = messaging_pb2.PublishRequest(topic=topic, messages=messages, partition=0, compression=codec)
                positions = client.messaging.Publish(request, timeout=30).positions
                assert [p.offset for p in positions] == list(range(len(written), len(written) + 37))
                written += messages
    return written


def _segment_files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def _check_dump(dump: kafka_tools.Dump, count: int) -> None:
    assert dump.complaints == []
    assert dump.record_offsets == list(range(count))
    following = 0
    for base, last, records in dump.batches:
        assert base == following, f"batch at {base}, expected {following}"
        assert records == last - base + 1
        following = last + 1
    assert following == count


def test_kafkas_dump_tool_reads_a_partition_in_all_codecs(new_broker: Callable[..., Broker]) -> None:
    kafka_tools.paths.kafka_lib()
    broker = new_broker().start()
    written = _write_everything(broker, "mixed")
    folder = broker.partition_dir("mixed")
    assert broker.stop() == 0

    logs = _segment_files(folder, ".log")
    assert len(logs) >= 4, "too few segments for this test"
    dump = kafka_tools.dump_log_segments(logs)
    _check_dump(dump, len(written))
    assert dump.codecs == set(CODECS)
    # The payload of every record that is plain text is in the dump; keys tell which is which.
    for offset, message in list(enumerate(written))[::97]:
        if message.key:
            assert f"| offset: {offset} " in dump.text
            line = next(text for text in dump.text.split("\n") if text.startswith(f"| offset: {offset} "))
            assert f" key: {message.key.decode()}" in line
            assert f"headerKeys: [{'trace,none' if message.headers else ''}]" in line

    indexes = _segment_files(folder, ".index") + _segment_files(folder, ".timeindex")
    assert len(indexes) == 2 * len(logs)
    checked = kafka_tools.dump_log_segments(indexes, print_data=False)
    assert checked.complaints == []
    sealed = [path for path in _segment_files(folder, ".index")[:-1] if path.stat().st_size == 0]
    assert sealed == [], "offset indexes of whole segments are empty"
    assert checked.text.count("position:") > len(logs)


def test_kafkas_dump_tool_reads_what_our_client_compressed(new_broker: Callable[..., Broker]) -> None:
    """Batches that the Rust client packs; those of a Publish above are the broker's."""
    kafka_tools.paths.kafka_lib()
    broker = new_broker().start()
    rng = random.Random(7)
    written: list[tuple[str, bytes, bytes]] = []
    with Client(broker.address) as client:
        client.create_topic("packed", segment_bytes=65536, index_interval_bytes=1024)
    for codec in CODECS:
        part = []
        for i in range(600):
            value = b"%s value %d " % (codec.encode(), i) * (i % 17) + rng.randbytes(40).hex().encode()
            part.append((codec, b"key-%d" % i, value))
        lines = b"".join(b"%s\t%s\n" % (key, value) for _, key, value in part)
        options = ["--key-separator", "\t", "--header", "trace=abc", "--compression", codec]
        millrace("produce", "packed", *options, bootstrap=broker.address, stdin=lines).ok()
        written += part
    folder = broker.partition_dir("packed")
    assert broker.stop() == 0

    logs = _segment_files(folder, ".log")
    assert len(logs) >= 2, "too few segments for this test"
    dump = kafka_tools.dump_log_segments(logs)
    _check_dump(dump, len(written))
    found: dict[int, str] = {}
    codec = ""
    for line in dump.text.split("\n"):
        if batch := re.search(r"^(?:\| )?baseOffset: .* compresscodec: (\w+)", line):
            codec = batch[1].lower()
        elif record := re.match(r"\| offset: (\d+) .*headerKeys: \[trace\] key: (\S+) payload: (.*)", line):
            found[int(record[1])] = f"{codec} {record[2]} {record[3]}"
    expected = {i: f"{codec} {key.decode()} {value.decode()}" for i, (codec, key, value) in enumerate(written)}
    assert found == expected
    indexes = _segment_files(folder, ".index") + _segment_files(folder, ".timeindex")
    assert kafka_tools.dump_log_segments(indexes, print_data=False).complaints == []


def test_kafkas_dump_tool_reads_what_a_crash_left(new_broker: Callable[..., Broker]) -> None:
    kafka_tools.paths.kafka_lib()
    broker = new_broker().start()
    written = _write_everything(broker, "crashed")
    broker.kill()
    broker.start()
    assert broker.stop() == 0
    folder = broker.partition_dir("crashed")
    _check_dump(kafka_tools.dump_log_segments(_segment_files(folder, ".log")), len(written))
    indexes = _segment_files(folder, ".index") + _segment_files(folder, ".timeindex")
    assert kafka_tools.dump_log_segments(indexes, print_data=False).complaints == []


def test_kafkas_dump_tool_reads_the_producer_snapshots(new_broker: Callable[..., Broker]) -> None:
    kafka_tools.paths.kafka_lib()
    broker = new_broker().start()
    with Client(broker.address) as client:
        client.create_topic("snapshots", segment_bytes=16384)
    lines = b"".join(b"%05d %s\n" % (i, b"x" * 200) for i in range(500))
    millrace("produce", "snapshots", bootstrap=broker.address, stdin=lines).ok()
    folder = broker.partition_dir("snapshots")
    assert broker.stop() == 0
    snapshots = _segment_files(folder, ".snapshot")
    assert snapshots, "no producer snapshot beside several segments"
    dump = kafka_tools.dump_log_segments(snapshots[-1:], print_data=False)
    assert dump.complaints == []
    assert "producerId:" in dump.text, dump.text


# --- the other way round ---


@pytest.fixture(scope="module")
def kafkas_partition(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[dict]]]:
    """A partition that a real Kafka wrote, copied, and the data records that are in it."""
    folder = tmp_path_factory.mktemp("kafka-wrote")
    listing = folder / "records.jsonl"
    kafka_tools.tool("KafkaFixture", kafka.address, "fixture", "500", "1048576", listing)
    records = [json.loads(line) for line in listing.read_text().splitlines()]
    copy = folder / "fixture-0"
    shutil.copytree(kafka.partition_dir("fixture"), copy)
    yield copy, records


def test_log_dump_reads_what_kafka_wrote(kafkas_partition: tuple[Path, list[dict]]) -> None:
    folder, records = kafkas_partition
    assert len(list(folder.glob("*.log"))) >= 3, "too few segments for this test"
    out = millrace("log", "dump", str(folder), json=True).ok().decode()
    dumped = dumped_records(out)
    data = {r["offset"]: r for r in dumped if not r["control"]}
    assert sorted(data) == [r["offset"] for r in records]
    for record in records:
        found = data[record["offset"]]
        assert found["key"] == _raw(record["key"]), record["offset"]
        assert found["value"] == _raw(record["value"]), record["offset"]
    # One commit and one abort marker stand between the data.
    control = [r["offset"] for r in dumped if r["control"]]
    assert len(control) == 2
    last = max(*data, *control)
    assert sorted([*data, *control]) == list(range(last + 1))


def test_log_verify_has_no_complaint_about_what_kafka_wrote(kafkas_partition: tuple[Path, list[dict]]) -> None:
    folder, records = kafkas_partition
    done = millrace("log", "verify", str(folder))
    assert done.code == 0, done.out.decode() + done.err.decode()
    text = millrace("log", "verify", str(folder), json=True).ok().decode()
    assert find_number(json.loads(text), "records") == len(records) + 2


def test_log_verify_finds_each_flipped_byte_that_it_is_shown(
    kafkas_partition: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    folder, _ = kafkas_partition
    first = sorted(folder.glob("*.log"))[0]
    rng = random.Random(7)
    for _ in range(8):
        copy = tmp_path / "fixture-0"
        shutil.copytree(folder, copy)
        damaged = copy / first.name
        data = bytearray(damaged.read_bytes())
        # Behind the first batch's leader epoch: base offset and epoch are not under the CRC.
        at = rng.randrange(21, len(data))
        while _outside_crc(data, at):
            at = rng.randrange(21, len(data))
        data[at] ^= 1 << rng.randrange(8)
        damaged.write_bytes(data)
        done = millrace("log", "verify", str(copy))
        assert done.code == 1, f"byte {at} of {first.name} flipped, and verify found nothing"
        shutil.rmtree(copy)


def _outside_crc(data: bytes, at: int) -> bool:
    """True if the byte belongs to a batch's base offset or leader epoch."""
    start = 0
    while True:
        size = 12 + int.from_bytes(data[start + 8 : start + 12], "big")
        if at < start + size:
            return at - start < 8 or 12 <= at - start < 16
        start += size


def test_log_dump_and_verify_read_what_the_broker_wrote(new_broker: Callable[..., Broker]) -> None:
    broker = new_broker().start()
    written = _write_everything(broker, "own")
    folder = broker.partition_dir("own")
    assert broker.stop() == 0
    assert millrace("log", "verify", str(folder)).code == 0
    dumped = dumped_records(millrace("log", "dump", str(folder), json=True).ok().decode())
    assert [r["offset"] for r in dumped] == list(range(len(written)))
    for record, message in zip(dumped, written, strict=True):
        assert record["key"] == (message.key if message.HasField("key") else None)
        assert record["value"] == (message.value if message.HasField("value") else None)


def test_log_commands_on_what_is_no_log_fail_with_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing-0", tmp_path):
        for command in ("dump", "verify"):
            text = millrace("log", command, str(path)).failed()
            assert text.strip() and len(text.strip().splitlines()) == 1, text


def _raw(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def dumped_records(out: str) -> list[dict]:
    """The records of `log dump --output json`: one JSON object a line, one for each record."""
    found = []
    for line in out.splitlines():
        item = json.loads(line)
        if "offset" in item:
            for field in ("key", "value"):
                item[field] = _raw(item.get(field))
            item["control"] = bool(item.get("control", False))
            found.append(item)
    return found


def find_number(item: object, name: str) -> int:
    """The number of that name anywhere in a JSON value."""
    if isinstance(item, dict):
        if isinstance(item.get(name), int):
            return item[name]
        item = list(item.values())
    if isinstance(item, list):
        for inner in item:
            try:
                return find_number(inner, name)
            except KeyError:
                pass
    raise KeyError(name)
