"""Record batches with every kind of damage, bombs, and what they do to other clients."""

from __future__ import annotations

import gzip
import itertools
import random
import struct
from collections.abc import Iterator

import cramjam
import grpc
import pytest

from lib.api import ApiError, Client, log_pb2, messaging_pb2, types_pb2
from lib.batch import GZIP, LZ4, NONE, SNAPPY, ZSTD, Batch, batch, crc32c, record, varint
from lib.broker import Broker

CORRUPT = {"CORRUPT_BATCH"}
_numbers = itertools.count()
RECORDS = [record(i, b"value %d" % i, b"key") for i in range(3)]
GOOD = Batch(RECORDS).encode()


def _cut(at: int) -> bytes:
    return GOOD[:at]


def _patched(at: int, data: bytes, fix_crc: bool = True) -> bytes:
    """The good batch with bytes replaced; with a right CRC unless that is what is wrong."""
    damaged = bytearray(GOOD)
    damaged[at : at + len(data)] = data
    if fix_crc:
        damaged[17:21] = struct.pack(">I", crc32c(bytes(damaged[21:])))
    return bytes(damaged)


# Damage that the header, the CRC and the records' times show: it must be refused.
DAMAGED = {
    "nothing": (b"", CORRUPT | {"INVALID_REQUEST"}),
    **{f"cut to {at} bytes": (_cut(at), CORRUPT) for at in (1, 11, 12, 16, 17, 60, 61, len(GOOD) - 1)},
    "a byte behind it": (GOOD + b"\0", CORRUPT | {"INVALID_REQUEST"}),
    "two batches": (GOOD + GOOD, CORRUPT | {"INVALID_REQUEST"}),
    "length 0": (Batch(RECORDS, length=0).encode(), CORRUPT),
    "length -1": (Batch(RECORDS, length=-1).encode(), CORRUPT),
    "least length": (Batch(RECORDS, length=-(2**31)).encode(), CORRUPT),
    "length of the header less one": (Batch(RECORDS, length=48).encode(), CORRUPT),
    "length one too long": (Batch(RECORDS, length=len(GOOD) - 12 + 1).encode(), CORRUPT),
    "length one too short": (Batch(RECORDS, length=len(GOOD) - 12 - 1).encode(), CORRUPT),
    "length of 2 GiB": (Batch(RECORDS, length=2**31 - 1).encode(), CORRUPT | {"MESSAGE_TOO_LARGE"}),
    **{f"magic {m}": (Batch(RECORDS, magic=m).encode(), CORRUPT) for m in (-128, -1, 0, 1, 3, 127)},
    "wrong CRC": (Batch(RECORDS, crc=0).encode(), CORRUPT),
    "CRC of everything": (Batch(RECORDS, crc=crc32c(GOOD)).encode(), CORRUPT),
    **{f"codec {c}": (Batch(RECORDS, attributes=c).encode(), CORRUPT) for c in (5, 6, 7)},
    "a control batch": (Batch(RECORDS, attributes=0x20).encode(), CORRUPT | {"INVALID_REQUEST"}),
    "a transaction without a producer": (
        Batch(RECORDS, attributes=0x10).encode(),
        CORRUPT | {"INVALID_REQUEST", "NOT_SUPPORTED"},
    ),
    "a transaction that nobody began": (
        Batch(RECORDS, attributes=0x10, producer_id=1, producer_epoch=0, base_sequence=0).encode(),
        CORRUPT | {"INVALID_REQUEST", "NOT_SUPPORTED", "FENCED_PRODUCER"},
    ),
    "no records": (Batch([], last_offset_delta=0).encode(), CORRUPT),
    "count 0": (Batch(RECORDS, count=0).encode(), CORRUPT),
    "count -1": (Batch(RECORDS, count=-1).encode(), CORRUPT),
    "count of 2 G": (Batch(RECORDS, count=2**31 - 1).encode(), CORRUPT),
    "count above the offsets": (Batch(RECORDS, count=4).encode(), CORRUPT),
    "negative last offset": (Batch(RECORDS, last_offset_delta=-1).encode(), CORRUPT),
    "last offset ahead": (Batch(RECORDS, last_offset_delta=5).encode(), CORRUPT),
    "last offset and count of 2 G": (
        Batch(RECORDS, last_offset_delta=2**31 - 2, count=2**31 - 1).encode(),
        CORRUPT,
    ),
    "largest time": (Batch(RECORDS, base_timestamp=2**63 - 1).encode(), CORRUPT | {"INVALID_TIMESTAMP"}),
    "a producer without a sequence": (
        Batch(RECORDS, producer_id=7, producer_epoch=0, base_sequence=-1).encode(),
        CORRUPT | {"INVALID_REQUEST", "OUT_OF_ORDER_SEQUENCE"},
    ),
    # Kafka corrects the newest time; whoever sends one that is wrong has more that is wrong.
    "newest before oldest": (Batch(RECORDS, max_timestamp=0).encode(), CORRUPT),
    "newest never": (Batch(RECORDS, max_timestamp=-1).encode(), CORRUPT),
    "newest a millisecond late": (Batch(RECORDS, base_timestamp=1_000, max_timestamp=1_001).encode(), CORRUPT),
    "newest in the far future": (Batch(RECORDS, max_timestamp=2**62).encode(), CORRUPT | {"INVALID_TIMESTAMP"}),
    **{
        f"newest before oldest, codec {codec}": (Batch(RECORDS, codec=codec, max_timestamp=0).encode(), CORRUPT)
        for codec in (GZIP, SNAPPY, LZ4, ZSTD)
    },
    "9 MiB": (
        Batch([], payload=bytes(9 << 20), crc=0, count=1, last_offset_delta=0).encode(),
        CORRUPT | {"MESSAGE_TOO_LARGE"},
    ),
}


def _payload(codec: int, payload: bytes, count: int = 1) -> bytes:
    return Batch([], codec=codec, payload=payload, count=count, last_offset_delta=count - 1).encode()


_NOISE = random.Random(1).randbytes(300)
_XERIAL = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
# Damage behind a good header and CRC. A broker that does not open batches may store it; then
# whoever opens it gets a typed error, and nobody else is harmed.
WRONG_INSIDE = {
    **{
        f"noise as {name}": _payload(codec, _NOISE)
        for name, codec in {"records": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}.items()
    },
    **{f"nothing as codec {codec}": _payload(codec, b"") for codec in range(5)},
    "fewer records than told": _payload(NONE, record(0, b"x"), count=2),
    "more records than told": _payload(NONE, record(0, b"x") + record(1, b"y"), count=1),
    "bytes behind the records": _payload(NONE, record(0, b"x") + b"\0\0\0"),
    "a record longer than the batch": _payload(NONE, varint(1000) + b"\0\0\0"),
    "a record of negative length": _payload(NONE, varint(-5) + b"\0\0\0"),
    "a record of 2 GiB": _payload(NONE, varint(2**31 - 1) + b"\0\0\0"),
    "a key longer than its record": _payload(NONE, varint(6) + b"\0\0\0" + varint(500) + b"x"),
    "a key of length -2": _payload(NONE, varint(6) + b"\0\0\0" + varint(-2) + b"xx"),
    "a million headers": _payload(NONE, varint(8) + b"\0\0\0" + varint(-1) + varint(-1) + varint(1_000_000)),
    "negative headers": _payload(NONE, varint(6) + b"\0\0\0" + varint(-1) + varint(-1) + varint(-1)),
    "a varint without end": _payload(NONE, b"\xff" * 30),
    # Kafka stores these four: times are the producer's business, and without a producer id
    # the two other fields mean nothing.
    "negative time": Batch(RECORDS, base_timestamp=-5).encode(),
    "a sequence without a producer": Batch(RECORDS, base_sequence=5).encode(),
    "a producer without an epoch": Batch(RECORDS, producer_id=7, producer_epoch=-1, base_sequence=0).encode(),
    "a negative producer": Batch(RECORDS, producer_id=-9, producer_epoch=0, base_sequence=0).encode(),
    "offsets that repeat": Batch([record(0, b"a"), record(0, b"b")]).encode(),
    "a header name that is no UTF-8": Batch([record(0, b"a", headers=[(b"\xff\xfe", b"x")])]).encode(),
    "a header without a name": Batch([record(0, b"a", headers=[(None, b"x")])]).encode(),
    "snappy blocks behind the end": _payload(SNAPPY, _XERIAL + struct.pack(">i", 2**31 - 1) + b"abc"),
    "snappy blocks of negative length": _payload(SNAPPY, _XERIAL + struct.pack(">i", -1)),
    "snappy that tells of 4 GiB": _payload(SNAPPY, _XERIAL + struct.pack(">i", 6) + b"\xff\xff\xff\xff\x0f\0"),
}


def _bomb(codec: int, mib: int) -> bytes:
    """Records of `mib` MiB of zeros in few bytes."""
    size = mib << 20
    zeros = bytes(1 << 20)
    head_body = b"\0\0\0" + varint(-1) + varint(size)
    head = varint(len(head_body) + size + 1) + head_body
    if codec == GZIP:
        return gzip.compress(head + zeros * mib + b"\0", compresslevel=9)
    if codec == SNAPPY:
        block = bytes(cramjam.snappy.compress_raw(zeros))
        out = _XERIAL
        first = bytes(cramjam.snappy.compress_raw(head))
        return out + struct.pack(">i", len(first)) + first + (struct.pack(">i", len(block)) + block) * mib
    if codec == LZ4:
        stream = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
    else:
        stream = cramjam.zstd.Compressor(level=3)
    out = bytearray()
    stream.compress(head)
    for _ in range(mib):
        stream.compress(zeros)
    out += bytes(stream.finish())
    return bytes(out)


@pytest.fixture(scope="module")
def served(shared: Broker) -> Iterator[Client]:
    """A client of a broker; at the end other topics are as they were and memory is within bounds."""
    assert shared.process is not None
    with Client(shared.address) as client:
        client.create_topic("others")
        client.publish("others", [b"before"])
        yield client
        client.publish("others", [b"after"])
        assert [m.message.value for m in client.read("others")] == [b"before", b"after"]
        peak = shared.process.rss_peak_bytes()
        assert peak < 300 << 20, f"bad batches took the broker to {peak >> 20} MiB"
        assert "panicked" not in shared.process.err()
        # What a client sent never stops the broker from starting.
        shared.kill()
        shared.start()
        assert [m.message.value for m in client.read("others")] == [b"before", b"after"]


@pytest.fixture
def fresh(served: Client) -> str:
    """A topic of the test's own."""
    name = f"batches-{next(_numbers)}"
    served.create_topic(name)
    return name


def _produce(client: Client, topic: str, records: bytes) -> log_pb2.ProducedPartition:
    request = log_pb2.ProduceRequest(
        correlation_id=1, partitions=[log_pb2.ProducePartition(topic=topic, partition=0, records=records)]
    )
    (answer,) = client.log.Produce(iter([request]), timeout=30)
    return answer.partitions[0]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_batch_is_refused(served: Client, fresh: str, name: str) -> None:
    data, reasons = DAMAGED[name]
    answer = _produce(served, fresh, data)
    assert answer.HasField("error"), f"stored at {answer.base_offset}"
    error = ApiError.of_item(answer.error).check_typed()
    assert error.reason in reasons, error
    assert error.metadata["outcome"] == "not_written"
    assert served.log_end(fresh) == 0


def test_each_flipped_bit_under_the_crc_is_refused(served: Client, fresh: str) -> None:
    requests = []
    # From the CRC itself to the end; magic and length are in the cases above.
    for bit in range(17 * 8, len(GOOD) * 8):
        damaged = bytearray(GOOD)
        damaged[bit // 8] ^= 0x80 >> (bit % 8)
        requests.append(
            log_pb2.ProduceRequest(
                correlation_id=bit,
                partitions=[log_pb2.ProducePartition(topic=fresh, partition=0, records=bytes(damaged))],
            )
        )
    answers = list(served.log.Produce(iter(requests), timeout=60))
    assert len(answers) == len(requests)
    for answer in answers:
        assert answer.partitions[0].HasField("error"), f"bit {answer.correlation_id} flipped and stored"
        assert ApiError.of_item(answer.partitions[0].error).check_typed().reason == "CORRUPT_BATCH"
    assert served.log_end(fresh) == 0
    assert _produce(served, fresh, GOOD).base_offset == 0


def _open_or_typed(client: Client, topic: str) -> None:
    """Whoever reads a topic gets messages or a typed error."""
    try:
        for _ in client.read_stream(topic, 0, 0, timeout=60):
            pass
    except ApiError as error:
        error.check_typed()
        assert error.reason in {"DAMAGED_LOG", "CORRUPT_BATCH", "MESSAGE_TOO_LARGE"}, error


@pytest.mark.parametrize("name", WRONG_INSIDE)
def test_damage_inside_a_batch_harms_nobody_else(served: Client, fresh: str, name: str) -> None:
    answer = _produce(served, fresh, WRONG_INSIDE[name])
    if answer.HasField("error"):
        assert ApiError.of_item(answer.error).check_typed().reason in {
            "CORRUPT_BATCH",
            "INVALID_REQUEST",
            "FENCED_PRODUCER",
            "INVALID_TIMESTAMP",
        }
        assert served.log_end(fresh) == 0
    _open_or_typed(served, fresh)
    served.publish(fresh, [b"good"])
    (good,) = served.read(fresh, 0, served.log_end(fresh) - 1)
    assert good.message.value == b"good"


@pytest.mark.parametrize(("codec", "mib"), [(GZIP, 2000), (SNAPPY, 170), (LZ4, 2000), (ZSTD, 2000)])
def test_a_decompression_bomb_costs_bounded_memory(
    shared: Broker, served: Client, fresh: str, codec: int, mib: int
) -> None:
    data = _payload(codec, _bomb(codec, mib))
    limit = 8 << 20
    assert len(data) < limit or codec == LZ4, f"a bomb of {len(data)} bytes is none"
    if len(data) >= limit:
        data = _payload(codec, _bomb(codec, 1000))
    answer = _produce(served, fresh, data)
    if answer.HasField("error"):
        ApiError.of_item(answer.error).check_typed()
    _open_or_typed(served, fresh)
    assert shared.process is not None
    assert shared.process.rss_peak_bytes() < 300 << 20


def test_a_topic_that_compresses_itself_opens_nothing_it_should_not(served: Client, fresh: str) -> None:
    """With compression.type the broker must open batches: then damage inside is always refused."""
    name = fresh + "-gzip"
    served.create_topic(name, compression_type="gzip")
    for what, data in WRONG_INSIDE.items():
        answer = _produce(served, name, data)
        if what.startswith("a header"):
            continue
        if answer.HasField("error"):
            ApiError.of_item(answer.error).check_typed()
    answer = _produce(served, name, _payload(ZSTD, _bomb(ZSTD, 2000)))
    assert answer.HasField("error"), "a bomb of 2 GB was compressed anew"
    error = ApiError.of_item(answer.error).check_typed()
    assert error.reason in {"CORRUPT_BATCH", "MESSAGE_TOO_LARGE"}, error


def test_too_large_for_its_topic(served: Client, fresh: str) -> None:
    name = fresh + "-small"
    served.create_topic(name, max_message_bytes=2000)
    answer = _produce(served, name, batch([b"x" * 3000]))
    error = ApiError.of_item(answer.error).check_typed()
    assert error.reason == "MESSAGE_TOO_LARGE"
    assert error.metadata["limit_bytes"] == "2000" and int(error.metadata["size_bytes"]) > 3000
    assert _produce(served, name, batch([b"x" * 1000])).base_offset == 0


def test_a_request_above_16_mib_is_refused_and_the_connection_lives(served: Client, fresh: str) -> None:
    many = [
        log_pb2.ProducePartition(topic=fresh, partition=0, records=bytes(7 << 20)),
        log_pb2.ProducePartition(topic=fresh, partition=1, records=bytes(7 << 20)),
        log_pb2.ProducePartition(topic=fresh, partition=2, records=bytes(7 << 20)),
    ]
    try:
        answers = list(served.log.Produce(iter([log_pb2.ProduceRequest(partitions=many)]), timeout=30))
    except grpc.RpcError as error:
        assert ApiError.of(error).check_typed().reason in {"INVALID_REQUEST", "MESSAGE_TOO_LARGE"}
    else:
        for partition in answers[0].partitions:
            assert ApiError.of_item(partition.error).check_typed()
    assert served.publish(fresh, [b"x"])[0].offset == 0


def test_every_length_of_a_message_from_zero_up(served: Client, fresh: str) -> None:
    """Around each length at which a varint or a buffer gets longer."""
    sizes = sorted({max(0, (1 << p) + d) for p in range(0, 21) for d in (-70, -3, -2, -1, 0, 1)})
    for codec in (types_pb2.COMPRESSION_NONE, types_pb2.COMPRESSION_SNAPPY, types_pb2.COMPRESSION_LZ4):
        for size in sizes:
            served.publish(fresh, [b"s" * size], compression=codec)
    got = [len(m.message.value) for m in served.read(fresh)]
    assert got == sizes * 3


def test_garbage_in_the_middle_of_a_publish_stream(served: Client, fresh: str) -> None:
    good = messaging_pb2.PublishStreamRequest(
        id=1, publish=messaging_pb2.PublishRequest(topic=fresh, messages=[types_pb2.Message(value=b"x")])
    ).SerializeToString()
    call = served.channel.stream_stream("/millrace.v1.Messaging/PublishStream")(
        iter([good, b"\xff" * 50, good]), timeout=30
    )
    with pytest.raises(grpc.RpcError) as refused:
        list(call)
    assert ApiError.of(refused.value).check_typed().code == grpc.StatusCode.INVALID_ARGUMENT
