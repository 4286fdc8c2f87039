"""The brokers that are compared, each driven by its own client and load generator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from lib import kafka as kafka_lib
from lib import paths
from lib.api import ApiError, Client, admin_pb2, call
from lib.batch import batch
from lib.broker import Broker
from lib.ports import free_port, port_open
from lib.proc import Process

MIB = 1 << 20


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


class Peer(ABC):
    """A broker with its load generators. `name` is its column's head."""

    name: str
    process: Process

    @abstractmethod
    def start(self, folder: Path) -> None:
        """A new broker with its data in `folder`, serving."""

    @abstractmethod
    def create_topic(self, topic: str, partitions: int) -> None:
        """Creates a topic."""

    @abstractmethod
    def delete_topic(self, topic: str) -> None:
        """Deletes a topic and waits until its files are gone."""

    @abstractmethod
    def producer(self, topic: str, load: Load) -> list[str]:
        """The command of the load generator."""

    @abstractmethod
    def produced(self, out: str, load: Load) -> float:
        """Seconds that the generator took, from its output."""

    @abstractmethod
    def consumer(self, topic: str, load: Load) -> list[str]:
        """The command of the reader."""

    @abstractmethod
    def consumed(self, out: str, load: Load) -> float:
        """MiB/s of the reader, from its output."""

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
    def log_recovery_seconds(self) -> float | None:
        """What the broker itself says that reading its logs took at the last start."""


class Millrace(FullPeer):
    """The product. It forces each batch to the disk before it acknowledges (flush=ack)."""

    name = "Millrace"

    def start(self, folder: Path) -> None:
        self.folder = folder / "millrace"
        self._broker = Broker(self.folder).start()
        assert self._broker.process is not None
        self.process = self._broker.process

    def restart_until_acked(self, topic: str) -> float:
        started = time.monotonic()
        self._broker.launch()
        assert self._broker.process is not None
        self.process = self._broker.process
        self._broker.wait_connectable(300)
        while True:
            with Client(self._broker.address) as client:
                try:
                    client.publish(topic, [b"first"], timeout=120)
                    return time.monotonic() - started
                except ApiError:
                    if time.monotonic() - started > 300:
                        raise
                    time.sleep(0.002)

    def create_topic(self, topic: str, partitions: int) -> None:
        with Client(self._broker.address) as client:
            client.create_topic(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        with Client(self._broker.address) as client:
            call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name=topic))
        assert self._broker.data is not None
        _wait_gone(self._broker.data, topic)

    def _bench(self, *args: str | int) -> list[str]:
        command = [paths.binary("millrace"), "--bootstrap", self._broker.address, "bench", *args]
        return [str(a) for a in command]

    def producer(self, topic: str, load: Load) -> list[str]:
        spread = ["--partitioner", "round-robin"] if load.spread else []
        return self._bench(
            "produce", topic, "--records", load.records, "--record-size", load.record_size,
            "--batch-bytes", load.batch_bytes, "--linger-ms", load.linger_ms,
            "--acks", "all", "--compression", "none", *spread,
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        result = json.loads(out)
        assert result["records"] == load.records, result
        return result["seconds"]

    def consumer(self, topic: str, load: Load) -> list[str]:
        return self._bench("consume", topic, "--records", load.records, "--from", "beginning")

    def consumed(self, out: str, load: Load) -> float:
        result = json.loads(out)
        assert result["records"] >= load.records, result
        return result["mib_per_second"]

    def end_to_end(self, topic: str, rate: int, records: int, size: int, warmup: int) -> list[str]:
        return self._bench(
            "end-to-end", topic, "--rate", rate, "--records", records, "--record-size", size,
            "--warmup-records", warmup,
        )  # fmt: skip

    def log_recovery_seconds(self) -> float | None:
        _, _, text = self._broker.http("/metrics")
        found = re.search(r"^millrace_log_recovery_seconds(?:\{[^}]*\})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def stop(self) -> None:
        self._broker.stop(120)

    def kill(self) -> None:
        self._broker.kill()

    def end(self) -> None:
        self._broker.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Kafka(FullPeer):
    """Apache Kafka, as it comes (no fsync) or with an fsync of each append (flush.messages=1)."""

    def __init__(self, fsync: bool) -> None:
        self.fsync = fsync
        self.name = "Kafka, fsync" if fsync else "Kafka"

    def start(self, folder: Path) -> None:
        self.folder = folder / ("kafka-fsync" if self.fsync else "kafka")
        # Deleted topics go at once: three runs' data of each peer would fill a disk.
        self._kafka = kafka_lib.Kafka(self.folder, settings={"log.segment.delete.delay.ms": "100"})
        self._kafka.format().start()
        assert self._kafka.process is not None
        self.process = self._kafka.process

    def restart_until_acked(self, topic: str) -> float:
        record = batch([b"first"])
        started = time.monotonic()
        self._kafka.launch()
        assert self._kafka.process is not None
        self.process = self._kafka.process
        while not kafka_lib.produce_once(self._kafka.port, topic, record):
            if time.monotonic() - started > 300:
                raise TimeoutError("Kafka acknowledged nothing for 300 s")
            if not self.process.alive():
                raise RuntimeError(self.process.out()[-3000:])
            time.sleep(0.005)
        return time.monotonic() - started

    def create_topic(self, topic: str, partitions: int) -> None:
        self._kafka.create_topic(topic, partitions, **({"flush_messages": 1} if self.fsync else {}))

    def delete_topic(self, topic: str) -> None:
        self._kafka.topics("--delete", "--topic", topic)
        assert self._kafka.data is not None
        _wait_gone(self._kafka.data, topic)

    def producer(self, topic: str, load: Load) -> list[str]:
        spread = []
        if load.spread:
            spread = ["partitioner.class=org.apache.kafka.clients.producer.RoundRobinPartitioner"]
        return kafka_lib.java(
            "org.apache.kafka.tools.ProducerPerformance",
            "--bootstrap-server", self._kafka.address, "--topic", topic,
            "--num-records", str(load.records), "--record-size", str(load.record_size), "--throughput", "-1",
            "--command-property", "acks=all", f"batch.size={load.batch_bytes}", f"linger.ms={load.linger_ms}",
            "buffer.memory=67108864", "max.request.size=10485760", *spread,
            heap_flags=("-Xms512m", "-Xmx512m"),
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        last = re.findall(r"^(\d+) records sent, ([\d.]+) records/sec", out, re.MULTILINE)[-1]
        assert int(last[0]) == load.records, out
        return load.records / float(last[1])

    def consumer(self, topic: str, load: Load) -> list[str]:
        return kafka_lib.java(
            "org.apache.kafka.tools.ConsumerPerformance",
            "--bootstrap-server", self._kafka.address, "--topic", topic,
            "--num-records", str(load.records), "--hide-header",
            heap_flags=("-Xms512m", "-Xmx512m"),
        )  # fmt: skip

    def consumed(self, out: str, load: Load) -> float:
        columns = [c.strip() for c in out.strip().splitlines()[-1].split(",")]
        assert int(columns[4]) >= load.records, out
        # Column 8: while fetching, without the time that joining the group took.
        return float(columns[8])

    def end_to_end(self, topic: str, rate: int, records: int, size: int, warmup: int) -> list[str]:
        return kafka_lib.java(
            "KafkaEndToEnd", self._kafka.address, topic, str(rate), str(records), str(size), str(warmup), "all",
            heap_flags=("-Xms512m", "-Xmx512m"),
        )  # fmt: skip

    def stop(self) -> None:
        self._kafka.stop()

    def kill(self) -> None:
        self._kafka.kill()

    def end(self) -> None:
        self._kafka.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_recovery_seconds(self) -> float | None:
        found = re.findall(r"Loaded \d+ logs in (\d+) ?ms", self.process.out())
        return int(found[-1]) / 1000 if found else None


class Nats(Peer):
    """NATS JetStream, one server, as it comes (no fsync): where its own bench measures the same."""

    name = "NATS"
    _IN_FLIGHT = 500

    def start(self, folder: Path) -> None:
        self.folder = folder / "nats"
        self.folder.mkdir()
        port = free_port()
        self._url = f"nats://127.0.0.1:{port}"
        config = self.folder / "server.conf"
        config.write_text(
            f"server_name: c1\nhost: 127.0.0.1\nport: {port}\nmax_payload: 8MB\n"
            f'jetstream {{ store_dir: "{self.folder}/data", max_file_store: 20GB, max_memory_store: 1GB }}\n'
        )
        server = Path(sys.executable).parent / "nats-server"
        self.process = Process([server, "-c", config], self.folder, "nats")
        deadline = time.monotonic() + 20
        while not port_open(port):
            if time.monotonic() > deadline:
                raise TimeoutError(self.process.err())
            time.sleep(0.01)

    def _nats(self, *args: str | int) -> list[str]:
        return [str(a) for a in (paths.nats(), "--no-context", "-s", self._url, *args)]

    def create_topic(self, topic: str, partitions: int) -> None:
        # The publisher makes the stream: its size is a reservation that it must know.
        if partitions != 1:
            raise ValueError("a stream has no partitions")

    def delete_topic(self, topic: str) -> None:
        subprocess.run(self._nats("stream", "rm", topic, "-f"), check=True, capture_output=True)

    def producer(self, topic: str, load: Load) -> list[str]:
        return self._nats(
            "bench", "js", "pub", "async", f"{topic}.x", "--create", "--replicas", 1, "--storage", "file",
            "--maxbytes", f"{int(load.mib * 1.3) + 64}MB", "--size", load.record_size, "--msgs", load.records,
            "--batch", self._IN_FLIGHT, "--stream", topic, "--no-progress",
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        return load.records / self._rate(out)

    def consumer(self, topic: str, load: Load) -> list[str]:
        # Its durable consumer stands where the last run left it.
        subprocess.run(self._nats("consumer", "rm", topic, "nats-bench", "-f"), capture_output=True)
        return self._nats(
            "bench", "js", "consume", "--size", load.record_size, "--msgs", load.records,
            "--batch", self._IN_FLIGHT, "--acks", "none", "--stream", topic, "--no-progress",
        )  # fmt: skip

    def consumed(self, out: str, load: Load) -> float:
        return self._rate(out) * load.record_size / MIB

    @staticmethod
    def _rate(out: str) -> float:
        return float(re.findall(r" stats: ([\d,]+) msgs/sec", out)[-1].replace(",", ""))

    def end(self) -> None:
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _wait_gone(data: Path, topic: str, timeout: float = 120.0) -> None:
    """Waits until no folder of a topic's partitions is left, renamed ones included."""
    deadline = time.monotonic() + timeout
    while any(data.glob(f"{topic}-*")) or any(data.glob(f"{topic}.*")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic}'s files are still in {data}")
        time.sleep(0.1)
