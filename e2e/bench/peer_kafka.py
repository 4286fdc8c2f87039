"""Apache Kafka under the benchmark."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import parse
from peer import ENDLESS, FullPeer, Load, Peer, wait_gone, wait_made

from lib import kafka as kafka_lib
from lib import paths
from lib.batch import batch

_HEAP = ("-Xms512m", "-Xmx512m")


class KafkaClients(Peer):
    """Kafka's own load generators, whatever they are run against."""

    # Where they begin: HOST:PORT,...
    bootstrap: str

    def require(self) -> None:
        paths.kafka_lib()
        paths.kafka_classes()

    def producer(self, topic: str, load: Load) -> list[str]:
        spread = []
        if load.spread:
            spread = ["partitioner.class=org.apache.kafka.clients.producer.RoundRobinPartitioner"]
        return kafka_lib.java(
            "org.apache.kafka.tools.ProducerPerformance",
            "--bootstrap-server", self.bootstrap, "--topic", topic,
            "--num-records", str(load.records), "--record-size", str(load.record_size), "--throughput", "-1",
            "--command-property", "acks=all", f"batch.size={load.batch_bytes}", f"linger.ms={load.linger_ms}",
            "buffer.memory=67108864", "max.request.size=10485760",
            # An fsync in each of 1,000 partitions takes one request past the default of 30 s on
            # a slow disk; then the client hangs up, sends again and drops records after 120 s.
            "request.timeout.ms=180000", "delivery.timeout.ms=540000", *spread,
            heap_flags=_HEAP,
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        return parse.kafka_produced(out, load.records)

    def consumer(self, topic: str, load: Load) -> list[str]:
        return kafka_lib.java(
            "org.apache.kafka.tools.ConsumerPerformance",
            "--bootstrap-server", self.bootstrap, "--topic", topic,
            "--num-records", str(load.records), "--hide-header",
            heap_flags=_HEAP,
        )  # fmt: skip

    def consumed(self, out: str, load: Load) -> float:
        return parse.kafka_consumed(out, load.records)


class Kafka(KafkaClients, FullPeer):
    """Apache Kafka, as it comes (no fsync) or with an fsync of each append (flush.messages=1)."""

    def __init__(self, fsync: bool) -> None:
        self.fsync = fsync
        self.name = "Kafka, fsync" if fsync else "Kafka"

    def start(self, folder: Path) -> None:
        self.folder = folder / ("kafka-fsync" if self.fsync else "kafka")
        # Deleted topics go at once: three runs' data of each peer would fill a disk.
        self._kafka = kafka_lib.Kafka(self.folder, settings={"log.segment.delete.delay.ms": "100"})
        self.bootstrap = self._kafka.address
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
        # The tool returns when the controller has noted the topic; the broker makes its
        # partitions afterwards, 1,000 of them for seconds.
        assert self._kafka.data is not None
        wait_made(self._kafka.data, topic, partitions)

    def delete_topic(self, topic: str) -> None:
        self._kafka.topics("--delete", "--topic", topic)
        assert self._kafka.data is not None
        wait_gone(self._kafka.data, topic)

    def end_to_end(self, topic: str, rate: int, records: int, size: int, warmup: int) -> list[str]:
        return kafka_lib.java(
            "KafkaEndToEnd", self._kafka.address, topic, str(rate), str(records), str(size), str(warmup), "all",
            heap_flags=_HEAP,
        )  # fmt: skip

    def steady_sender(self, topic: str, rate: int) -> list[str]:
        return kafka_lib.java(
            "org.apache.kafka.tools.ProducerPerformance",
            "--bootstrap-server", self.bootstrap, "--topic", topic,
            "--num-records", str(ENDLESS), "--record-size", "100", "--throughput", str(rate),
            "--command-property", "acks=all",
            "partitioner.class=org.apache.kafka.clients.producer.RoundRobinPartitioner",
        )  # fmt: skip

    def member(self, topic: str, group: str) -> list[str]:
        return kafka_lib.java(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "--bootstrap-server", self.bootstrap, "--topic", topic, "--group", group,
            "--formatter-property", "print.partition=true", "--formatter-property", "print.value=false",
        )  # fmt: skip

    def partition_of(self, line: bytes) -> int | None:
        found = re.match(rb"Partition:(\d+)", line)
        return int(found[1]) if found else None

    def stop(self) -> None:
        self._kafka.stop()

    def kill(self) -> None:
        self._kafka.kill()

    def end(self) -> None:
        # Without Java or the disk's room `start` may have come to nothing.
        if hasattr(self, "_kafka"):
            self._kafka.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_recovery_seconds(self) -> float | None:
        found = re.findall(r"Loaded \d+ logs in (\d+) ?ms", self.process.out())
        return int(found[-1]) / 1000 if found else None
