"""kill -9 with producers in flight: nothing acknowledged is lost, nothing doubled, order kept."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from lib import paths
from lib.api import Client, types_pb2
from lib.broker import Broker, millrace
from lib.checker import FollowingReader, StreamProducer, check

CODECS = [types_pb2.COMPRESSION_NONE, types_pb2.COMPRESSION_LZ4, types_pb2.COMPRESSION_ZSTD]


def _kill_again_and_again(broker: Broker, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with Client(broker.address) as client:
        client.create_topic("crash", partitions=3, segment_bytes=1 << 20)
    producers = [StreamProducer(broker.address, "crash", p, seed + p, compression=CODECS[p]).start() for p in range(3)]
    readers = [FollowingReader(broker.address, "crash", p).start() for p in range(2)]
    for _ in range(kills):
        acked = sum(len(p.acked) for p in producers)
        time.sleep(rng.uniform(0.1, 1.5))
        deadline = time.monotonic() + 30
        while sum(len(p.acked) for p in producers) == acked and time.monotonic() < deadline:
            for producer in producers:
                if producer.failure is not None:
                    raise producer.failure
            time.sleep(0.01)
        broker.kill()
        if rng.random() < 0.4:
            # A second crash in the midst of recovery.
            broker.launch()
            time.sleep(rng.uniform(0.0, 0.15))
            broker.kill()
        broker.start()
    for producer in producers:
        producer.stop()
    for reader in readers:
        reader.stop()
    with Client(broker.address) as client:
        total = check(client, producers, readers)
    assert total > 0
    for producer in producers:
        assert producer.breaks >= kills, f"the streams broke {producer.breaks} times in {kills} kills"
    assert sum(len(reader.seen) for reader in readers) > 0, "the readers saw nothing"
    assert broker.stop() == 0
    for partition in range(3):
        done = millrace("log", "verify", str(broker.partition_dir("crash", partition)))
        assert done.code == 0, done.out.decode() + done.err.decode()


def test_five_kills(broker: Broker) -> None:
    _kill_again_and_again(broker, 5, seed=random.SystemRandom().randrange(1 << 32))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_kills(broker: Broker) -> None:
    _kill_again_and_again(broker, 50, seed=random.SystemRandom().randrange(1 << 32))


def test_the_commands_producer_survives_kills(broker: Broker) -> None:
    """The Rust client behind `millrace produce`: idempotent by default, retries that keep order."""
    with Client(broker.address) as client:
        client.create_topic("lines", segment_bytes=1 << 20)
    produce = subprocess.Popen(
        [str(paths.binary("millrace")), "--bootstrap", broker.address, "produce", "lines", "--acks", "all"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        count = 0
        stop = threading.Event()

        def feed() -> None:
            nonlocal count
            assert produce.stdin is not None
            try:
                while not stop.is_set():
                    for _ in range(50):
                        produce.stdin.write(b"%d %s\n" % (count, b"x" * (count % 200)))
                        count += 1
                    produce.stdin.flush()
                    time.sleep(0.002)
                produce.stdin.close()
            except BrokenPipeError:
                pass  # its exit code is checked below

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        rng = random.Random()
        for _ in range(3):
            time.sleep(rng.uniform(0.3, 1.0))
            broker.kill()
            broker.start()
        time.sleep(0.3)
        stop.set()
        feeder.join(60)
        assert not feeder.is_alive(), "produce takes no more lines"
        code = produce.wait(60)
        assert produce.stderr is not None
        assert code == 0, produce.stderr.read().decode()
    finally:
        produce.kill()
        produce.wait()
    with Client(broker.address) as client:
        numbers = [int(m.message.value.split(b" ")[0]) for m in client.read("lines", 0, 0)]
    assert numbers == list(range(count)), f"{len(numbers)} messages of {count} lines"


def test_a_graceful_stop_loses_nothing_and_scans_nothing_later(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("calm", partitions=2, segment_bytes=1 << 20)
        for number in range(200):
            client.publish("calm", [b"%d" % number + b"x" * 20_000], number % 2)
    started = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - started < 10, "a stop without load takes too long"
    broker.start()
    assert scanned_bytes(broker) == 0
    with Client(broker.address) as client:
        for partition in range(2):
            values = [int(m.message.value.rstrip(b"x")) for m in client.read("calm", partition, 0)]
            assert values == list(range(partition, 200, 2))


def test_after_a_kill_the_tail_is_scanned(broker: Broker) -> None:
    """The counterpart: the figure that says 0 after a clean stop can say something else."""
    with Client(broker.address) as client:
        client.create_topic("torn", flush="os")
        for number in range(20):
            client.publish("torn", [b"%d" % number + b"x" * 20_000])
    broker.kill()
    broker.start()
    assert scanned_bytes(broker) > 0


def test_a_stop_with_producers_in_flight_loses_and_doubles_nothing(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("stopped", partitions=2)
    producers = [StreamProducer(broker.address, "stopped", p, p).start() for p in range(2)]
    for _ in range(2):
        time.sleep(0.7)
        assert broker.stop() == 0
        broker.start()
        assert scanned_bytes(broker) == 0
    time.sleep(0.3)
    for producer in producers:
        producer.stop()
    with Client(broker.address) as client:
        assert check(client, producers, []) > 0


def test_a_kill_of_a_broker_with_many_partitions_is_recovered(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("wide", partitions=100)
        for partition in range(0, 100, 3):
            client.publish("wide", [b"%d" % partition], partition)
        broker.kill()
        broker.start()
        values = sorted(int(m.message.value) for m in client.read("wide"))
    assert values == list(range(0, 100, 3))


def test_a_second_broker_on_the_same_directory_is_refused(broker: Broker, new_broker: Callable[..., Broker]) -> None:
    second = new_broker(data=broker.data).launch()
    assert second.process is not None
    assert second.process.wait(20) not in (0, -9)
    assert re.search("lock|in use|another", second.process.err(), re.IGNORECASE), second.process.err()[-2000:]
    with Client(broker.address) as client:
        client.create_topic("still-here")


def test_wrong_settings_are_refused_by_name(new_broker: Callable[..., Broker]) -> None:
    for settings in ({"no_such_key": "1"}, {"disk_reserve_bytes": "much"}):
        broker = new_broker(**settings).launch()
        assert broker.process is not None
        assert broker.process.wait(20) == 2, broker.process.err()
        named = next(iter(settings)).replace("_", ".")
        assert named in broker.process.err()


def scanned_bytes(broker: Broker) -> float:
    """How many bytes of log the last start had to scan."""
    status, _, text = broker.http("/metrics")
    assert status == 200
    found = re.search(r"^millrace_recovery_scanned_bytes(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, "no metric tells how many bytes were scanned at the start"
    return float(found[1])
