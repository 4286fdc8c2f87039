"""Compacted topics: of each key the last record stays, through kill -9; Kafka's own tool reads what is left."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable

import grpc
import pytest

from lib import kafka as kafka_tools
from lib.api import ApiError, Client, messaging_pb2, types_pb2
from lib.broker import Broker, millrace

TOPIC = "compacted"
KEYS = 60
BATCH = 20


class Writer:
    """Publishes keyed messages one request at a time, and knows what each key may be at the end."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 0
        # By offset, what was acknowledged there; by key, what may be its last value: the acknowledged one, and those of
        # later requests whose outcome is not known.
        self.acked: dict[int, tuple[bytes, bytes | None]] = {}
        self.last: dict[bytes, set[bytes | None]] = {}

    def _messages(self) -> list[types_pb2.Message]:
        made = []
        for _ in range(BATCH):
            self.number += 1
            key = b"key-%d" % self.rng.randrange(KEYS)
            value = (
                None if self.rng.random() < 0.15 else b"value-%d-" % self.number + self.rng.randbytes(60).hex().encode()
            )
            made.append(types_pb2.Message(key=key, value=value))
        return made

    def publish(self, client: Client, timeout: float = 60.0) -> bool:
        """One request; False if it failed, so that nobody knows whether it is stored."""
        messages = self._messages()
        codec = self.rng.choice([types_pb2.COMPRESSION_NONE, types_pb2.COMPRESSION_LZ4, types_pb2.COMPRESSION_ZSTD])
        request = messaging_pb2.PublishRequest(topic=TOPIC, messages=messages, partition=0, compression=codec)
        final = {m.key: m.value if m.HasField("value") else None for m in messages}
        try:
            positions = client.messaging.Publish(request, timeout=timeout).positions
        except grpc.RpcError:
            for message in messages:
                value = message.value if message.HasField("value") else None
                self.last.setdefault(message.key, set()).add(value)
            return False
        for position, message in zip(positions, messages, strict=True):
            self.acked[position.offset] = (message.key, message.value if message.HasField("value") else None)
        for key, value in final.items():
            self.last[key] = {value}
        return True

    def check(self, read: Iterable[types_pb2.ReceivedMessage]) -> int:
        """Compares what was read from 0 with what was acknowledged; gives how many records that was."""
        found: dict[bytes, bytes | None] = {}
        before, count = -1, 0
        for received in read:
            message = received.message
            assert received.offset > before, f"{received.offset} after {before}"
            before = received.offset
            count += 1
            value = message.value if message.HasField("value") else None
            if received.offset in self.acked:
                assert self.acked[received.offset] == (message.key, value), f"at {received.offset}"
            found[message.key] = value
        for key, allowed in self.last.items():
            # Within delete.retention.ms a deleted key is seen as deleted, and not only missing.
            assert key in found or len(allowed) > 1, f"{key!r} is missing"
            assert key not in found or found[key] in allowed, f"{key!r} is {found[key]!r}"
        return count


class Load(threading.Thread):
    """Has a writer publish without a pause, while the broker comes and goes."""

    def __init__(self, writer: Writer, address: str) -> None:
        super().__init__()
        self.writer, self.address = writer, address
        self.requests = 0
        self.ending = threading.Event()

    def run(self) -> None:
        with Client(self.address) as client:
            while not self.ending.is_set():
                if self.writer.publish(client):
                    self.requests += 1
                else:
                    time.sleep(0.02)

    def wait_for(self, more: int) -> None:
        """Waits until so many more requests are acknowledged."""
        wanted = self.requests + more
        deadline = time.monotonic() + 60
        while self.requests < wanted:
            assert self.is_alive() and time.monotonic() < deadline, "nothing is acknowledged"
            time.sleep(0.01)

    def end(self) -> None:
        self.ending.set()
        self.join(60)
        assert not self.is_alive()


def _create(client: Client, replicas: int) -> None:
    client.create_topic(
        TOPIC,
        replicas=replicas,
        cleanup_policy="compact",
        segment_bytes=16384,
        min_cleanable_dirty_ratio="0.2",
        index_interval_bytes=1024,
    )


def _metric(broker: Broker, name: str) -> float:
    status, _, text = broker.http("/metrics")
    assert status == 200
    found = re.search(rf"^millrace_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"no {name} in {text}"
    return float(found[1])


def _wait_for_rounds(broker: Broker) -> None:
    """Waits until a round was done in this process life."""
    deadline = time.monotonic() + 120
    while _metric(broker, "log_compactions_total") == 0:
        assert time.monotonic() < deadline, "nothing is compacted"
        time.sleep(0.05)
    assert _metric(broker, "log_compaction_failures_total") == 0


def _wait_until_clean(broker: Broker) -> None:
    """Waits until no log is as dirty as its topic lets it be. Nobody writes meanwhile."""
    _wait_for_rounds(broker)
    deadline = time.monotonic() + 120
    while _metric(broker, "log_compaction_max_dirty_ratio") >= 0.2:
        assert time.monotonic() < deadline, "a log stays dirty"
        time.sleep(0.05)


def _check_files(broker: Broker) -> None:
    folder = broker.partition_dir(TOPIC)
    done = millrace("log", "verify", str(folder))
    assert done.code == 0, done.out.decode() + done.err.decode()
    logs = sorted(folder.glob("*.log"))
    dump = kafka_tools.dump_log_segments(logs)
    assert dump.complaints == []
    assert dump.record_offsets == sorted(set(dump.record_offsets))
    indexes = sorted(folder.glob("*.index")) + sorted(folder.glob("*.timeindex"))
    assert kafka_tools.dump_log_segments(indexes, print_data=False).complaints == []
    assert list(folder.glob("*.cleaned")) == []


def test_the_last_value_of_each_key_survives_kills_while_its_log_is_compacted(
    new_broker: Callable[..., Broker],
) -> None:
    kafka_tools.paths.kafka_lib()
    broker = new_broker(log_cleaner_backoff_ms=100).start()
    with Client(broker.address) as client:
        _create(client, replicas=1)
    writer = Writer(1)
    rng = random.Random(2)
    for _ in range(6):
        load = Load(writer, broker.address)
        load.start()
        try:
            load.wait_for(50)
            _wait_for_rounds(broker)
            # Into the midst of another round, as likely as not.
            load.wait_for(rng.randrange(1, 60))
            broker.kill()
        finally:
            load.end()
        broker.start()
        with Client(broker.address) as client:
            writer.check(client.read(TOPIC, 0, 0))
    with Client(broker.address) as client:
        for _ in range(60):
            assert writer.publish(client)
        _wait_until_clean(broker)
        left = writer.check(client.read(TOPIC, 0, 0))
        end = client.log_end(TOPIC)
    assert left < end // 2, f"{left} of {end} records are left"
    assert broker.stop() == 0
    _check_files(broker)
    # Replaced records went from the disk, not only from what is read.
    dump = kafka_tools.dump_log_segments(sorted(broker.partition_dir(TOPIC).glob("*.log")))
    assert len(dump.record_offsets) <= left


def test_a_message_without_a_key_is_refused(new_broker: Callable[..., Broker]) -> None:
    broker = new_broker().start()
    with Client(broker.address) as client:
        _create(client, replicas=1)
        with pytest.raises(ApiError) as refused:
            client.publish(TOPIC, [b"value"])
        error = refused.value
        error.check_typed()
        assert (error.reason, error.code) == ("INVALID_RECORD", grpc.StatusCode.INVALID_ARGUMENT)
        assert error.metadata["outcome"] == "not_written"
        told = millrace("produce", TOPIC, bootstrap=broker.address, stdin=b"value\n").failed()
        assert "no key" in told and "--key-separator" in told, told
        millrace("produce", TOPIC, "--key-separator", ":", bootstrap=broker.address, stdin=b"k:v\n").ok()
        assert client.log_end(TOPIC) == 1
        # What the topic takes changes with its policy.
        millrace("topic", "alter", TOPIC, "--config", "cleanup.policy=delete", bootstrap=broker.address).ok()
        client.publish(TOPIC, [b"value"])


def test_settings_that_contradict_each_other_are_refused(new_broker: Callable[..., Broker]) -> None:
    broker = new_broker().start()
    with Client(broker.address) as client, pytest.raises(ApiError) as refused:
        client.create_topic(TOPIC, min_compaction_lag_ms=2000, max_compaction_lag_ms=1000)
    assert refused.value.reason == "INVALID_CONFIG"
    assert refused.value.metadata["key"] == "min.compaction.lag.ms"


def test_replicas_compact_by_themselves_while_each_of_them_is_killed(three_brokers: list[Broker]) -> None:
    kafka_tools.paths.kafka_lib()
    with Client(three_brokers[0].address) as client:
        _create(client, replicas=3)
    writer = Writer(3)
    for turn in range(6):
        killed, other = three_brokers[turn % 3], three_brokers[(turn + 1) % 3]
        # By one that lives on: what a dead one has passed on might be stored after later requests.
        load = Load(writer, other.address)
        load.start()
        try:
            load.wait_for(60)
            killed.kill()
            load.wait_for(60)
        finally:
            load.end()
        killed.settings["log.cleaner.backoff.ms"] = "100"
        killed.start()
        with Client(other.address) as client:
            deadline = time.monotonic() + 60
            while len(client.describe(TOPIC).partitions[0].in_sync_replicas) < 3:
                assert time.monotonic() < deadline, "it does not get in sync again"
                time.sleep(0.05)
            writer.check(client.read(TOPIC, 0, 0))
    for broker in three_brokers:
        _wait_for_rounds(broker)
    with Client(three_brokers[0].address) as client:
        left = writer.check(client.read(TOPIC, 0, 0))
        assert left < client.log_end(TOPIC) // 2
    for broker in three_brokers:
        assert broker.stop(timeout=60) == 0
    for broker in three_brokers:
        _check_files(broker)
