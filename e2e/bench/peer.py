"""What a measure asks of a broker that is compared, whichever it is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lib.proc import Process

MIB = 1 << 20
# More messages than are sent before whoever sends them is ended.
ENDLESS = 100_000_000


@dataclass(frozen=True)
class Steady:
    """What a producer sends at a rate, so that one sees when acknowledgements stay away."""

    # Records per second.
    rate: int
    # How long it sends what is measured.
    seconds: int
    record_size: int = 1024
    # Records that are sent before, whose waits do not count.
    warmup: int = 2000

    @property
    def records(self) -> int:
        """Records that count."""
        return self.rate * self.seconds

    @property
    def stored(self) -> int:
        """Records that are in the topic at the end."""
        return self.records + self.warmup


@dataclass(frozen=True)
class Load:
    """What a producer sends."""

    records: int
    record_size: int
    batch_bytes: int
    linger_ms: int = 5
    partitions: int = 1
    # Records go to the partitions in turn, so that each batch is small, instead of whole
    # batches to one partition after the other.
    spread: bool = False

    @property
    def mib(self) -> float:
        """MiB of record values."""
        return self.records * self.record_size / MIB

    def scaled(self, share: float) -> Load:
        """The same with this share of the records."""
        return replace(self, records=max(1, int(self.records * share)))


class Peer(ABC):
    """A broker with its load generators."""

    # What it is called in the table and in the JSON file.
    name: str
    # The part of a load that it is given: a peer that is slower by orders would hold up the rest.
    share: float = 1.0
    process: Process

    def processes(self) -> list[Process]:
        """Those that run now."""
        return [self.process]

    @abstractmethod
    def require(self) -> None:
        """Raises `lib.paths.Missing` if something that it needs is not on this machine."""

    @abstractmethod
    def start(self, folder: Path) -> None:
        """A new broker with its data in `folder`, serving."""

    @abstractmethod
    def create_topic(self, topic: str, partitions: int) -> None:
        """Creates a topic and waits until all its partitions can be written."""

    @abstractmethod
    def delete_topic(self, topic: str) -> None:
        """Deletes a topic and waits until its files are gone."""

    @abstractmethod
    def producer(self, topic: str, load: Load) -> list[str]:
        """The command of the load generator."""

    @abstractmethod
    def produced(self, out: str, load: Load) -> float:
        """Seconds that the generator took, from its output; ValueError if it did not send all."""

    @abstractmethod
    def consumer(self, topic: str, load: Load) -> list[str]:
        """The command of the reader."""

    @abstractmethod
    def consumed(self, out: str, load: Load) -> float:
        """MiB/s of the reader, from its output; ValueError if it did not read all."""

    def check_stored(self, topic: str, load: Load) -> None:  # noqa: B027
        """Raises ValueError or TimeoutError if a load is not where it should be, once its producer
        has been answered. One broker's answer is taken for it."""

    @abstractmethod
    def end(self) -> None:
        """Ends it however it is and deletes its data."""


class FullPeer(Peer):
    """A broker of which restarts and latency are measured as well."""

    @abstractmethod
    def restart_until_acked(self, topic: str) -> float:
        """Starts the (ended) process; seconds until a record for `topic` is acknowledged."""

    @abstractmethod
    def end_to_end(self, topic: str, rate: int, records: int, size: int, warmup: int) -> list[str]:
        """The command that measures latency; it prints JSON with latency_ms."""

    @abstractmethod
    def stop(self) -> None:
        """An orderly end."""

    @abstractmethod
    def kill(self) -> None:
        """kill -9."""

    @abstractmethod
    def steady_sender(self, topic: str, rate: int) -> list[str]:
        """The command that sends small messages to all partitions in turn until it is ended."""

    @abstractmethod
    def member(self, topic: str, group: str) -> list[str]:
        """The command of a group's member with the client's defaults, which writes a line for each message."""

    @abstractmethod
    def partition_of(self, line: bytes) -> int | None:
        """The partition of a message by a member's line; None if that is of no message."""

    @abstractmethod
    def log_recovery_seconds(self) -> float | None:
        """What the broker itself says that reading its logs took at the last start."""


class ClusterPeer(Peer):
    """Three brokers, numbered from 0. Topics have three replicas, min.insync.replicas is 2."""

    brokers: int = 3

    @abstractmethod
    def data(self, broker: int) -> Path:
        """The folder with a broker's partitions, each in one of its own."""

    @abstractmethod
    def metadata_leader(self) -> int:
        """The broker that leads the metadata quorum."""

    @abstractmethod
    def create_led_topic(self, topic: str, leader: int) -> None:
        """Creates a topic of one partition that `leader` leads."""

    @abstractmethod
    def leader(self, topic: str) -> int:
        """The broker that leads the topic's partition 0."""

    @abstractmethod
    def high_watermark(self, topic: str) -> int:
        """How many records the topic's partition 0 holds for readers."""

    @abstractmethod
    def steady_producer(self, topic: str, steady: Steady) -> list[str]:
        """The command of an idempotent producer with acks=all that sends at a rate."""

    @abstractmethod
    def longest_wait(self, out: str, steady: Steady) -> float:
        """The longest time in seconds that a record waited for its acknowledgement, from the
        producer's output; ValueError if it did not store all."""

    @abstractmethod
    def kill(self, broker: int) -> None:
        """kill -9."""

    @abstractmethod
    def stop(self, broker: int) -> None:
        """An orderly end: SIGTERM, and the wait for it."""

    @abstractmethod
    def launch(self, broker: int) -> None:
        """Starts an ended broker and does not wait."""

    @abstractmethod
    def serves(self, broker: int) -> bool:
        """Whether a broker says that it is ready."""

    @abstractmethod
    def all_in_sync(self) -> bool:
        """Whether all brokers are in service and all replicas in sync, told by one that was not
        restarted last."""

    def wait_whole(self, timeout: float = 180.0, every: float = 0.1) -> None:
        """Waits until all brokers serve and all replicas are in sync; looks each `every` seconds."""

        def whole() -> bool:
            return all(self.serves(broker) for broker in range(self.brokers)) and self.all_in_sync()

        wait_until(whole, "all brokers serve and all replicas are in sync", timeout, every)

    def check_high_watermark(self, topic: str, records: int) -> None:
        """Raises ValueError unless the topic's partition 0 holds each record once."""
        stored = self.high_watermark(topic)
        if stored != records:
            raise ValueError(f"{records} records were acknowledged, {stored} are stored")

    def check_stored(self, topic: str, load: Load) -> None:
        if load.partitions != 1:
            raise ValueError("only loads of one partition are checked")
        self.check_high_watermark(topic, load.records)
        # The slowest may be behind: two acknowledge. It must get all the same.
        least = load.records * load.record_size
        for broker in range(self.brokers):
            wait_until(
                lambda broker=broker: self.stored_bytes(broker, topic) >= least,
                f"broker {broker} has the {least} bytes of {topic}",
            )

    def stored_bytes(self, broker: int, topic: str) -> int:
        """Bytes of the topic's partition 0 in a broker's log."""
        return sum(segment.stat().st_size for segment in self.data(broker).glob(f"{topic}-0/*.log"))


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 180.0, every: float = 0.1) -> None:
    """Waits until something holds; TimeoutError, which names it, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:.0f} s still not so: {what}")
        time.sleep(every)


def wait_made(data: Path, topic: str, partitions: int) -> None:
    """Waits until a topic has a folder for each partition."""
    wait_until(lambda: sum(1 for _ in data.glob(f"{topic}-*")) >= partitions, f"{topic} has {partitions} partitions")


def wait_gone(data: Path, topic: str) -> None:
    """Waits until no folder of a topic's partitions is left, renamed ones included."""
    wait_until(lambda: not any(data.glob(f"{topic}-*")) and not any(data.glob(f"{topic}.*")), f"{topic}'s files gone")
