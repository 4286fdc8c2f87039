"""Three Apache Kafka brokers under the benchmark."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import parse
from peer import ClusterPeer, Steady, wait_gone, wait_made
from peer_kafka import KafkaClients

from lib import kafka as kafka_lib
from lib.proc import Process

# A java process that starts takes a second of CPU time, so it is not asked more often.
_TOOL_PAUSE_SECONDS = 0.5


class Node(kafka_lib.Kafka):
    """One broker of several, each with a controller in the same process."""

    def join(self, number: int, nodes: list[Node]) -> None:
        """Names the others in its configuration. The last of two lines with one key counts."""
        controllers = ",".join(f"127.0.0.1:{node.controller_port}" for node in nodes)
        with open(self._config, "a") as config:
            config.write(
                f"node.id={number + 1}\n"
                f"controller.quorum.bootstrap.servers={controllers}\n"
                "default.replication.factor=3\n"
                "min.insync.replicas=2\n"
                "offsets.topic.replication.factor=3\n"
                "transaction.state.log.replication.factor=3\n"
                "transaction.state.log.min.isr=2\n"
                "share.coordinator.state.topic.replication.factor=3\n"
                "share.coordinator.state.topic.min.isr=2\n"
            )

    def format_with(self, cluster: str, controllers: str) -> None:
        """Makes the data directory that of a member of a new cluster."""
        kafka_lib.tool(
            "kafka.tools.StorageTool", "format", "-t", cluster, "-c", self._config, "--initial-controllers", controllers
        )


class Nodes:
    """Three brokers, which both kinds of topics (with fsync and without) share: with six of
    them the machine would have no memory left for what is measured."""

    def __init__(self) -> None:
        self.all: list[Node] = []
        self._folder: Path | None = None

    def start(self, folder: Path) -> None:
        """Starts them, unless they run."""
        if self.all:
            return
        self._folder = folder / "kafka-cluster"
        # Deleted topics go at once: three runs' data of each peer would fill a disk.
        settings = {"log.segment.delete.delay.ms": "100"}
        self.all = [Node(self._folder / str(number), settings=dict(settings)) for number in range(3)]
        identifiers = [kafka_lib.tool("kafka.tools.StorageTool", "random-uuid").strip() for _ in range(4)]
        cluster, directories = identifiers[0], identifiers[1:]
        controllers = ",".join(
            f"{number + 1}@127.0.0.1:{node.controller_port}:{directory}"
            for number, (node, directory) in enumerate(zip(self.all, directories, strict=True))
        )
        for number, node in enumerate(self.all):
            node.join(number, self.all)
            node.format_with(cluster, controllers)
        for node in self.all:
            node.launch()

    def end(self) -> None:
        """Ends them, unless they have, and deletes their data."""
        for node in self.all:
            node.end()
        self.all = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class KafkaCluster(KafkaClients, ClusterPeer):
    """Three brokers of Apache Kafka with its defaults, among them broker.session.timeout.ms=9000.

    Its topics are as they come (no fsync) or with an fsync of each append (flush.messages=1) on
    each broker.
    """

    def __init__(self, fsync: bool, nodes: Nodes) -> None:
        self.fsync, self._nodes = fsync, nodes
        self.name = "Kafka, fsync" if fsync else "Kafka"

    def start(self, folder: Path) -> None:
        self._nodes.start(folder)
        self.bootstrap = ",".join(node.address for node in self._nodes.all)
        self.wait_whole()

    def _node(self, broker: int) -> Node:
        return self._nodes.all[broker]

    def _process(self, broker: int) -> Process:
        process = self._node(broker).process
        assert process is not None
        return process

    def processes(self) -> list[Process]:
        return [node.process for node in self._nodes.all if node.process is not None and node.process.alive()]

    def data(self, broker: int) -> Path:
        data = self._node(broker).data
        assert data is not None
        return data

    def _topics(self, *args: str) -> str:
        return kafka_lib.tool(
            "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.bootstrap, *args, timeout=600
        )

    def _create(self, topic: str, partitions: int, *placement: str) -> None:
        fsync = ["--config", "flush.messages=1"] if self.fsync else []
        self._topics("--create", "--topic", topic, *placement, "--config", "min.insync.replicas=2", *fsync)
        for broker in range(self.brokers):
            wait_made(self.data(broker), topic, partitions)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._create(topic, partitions, "--partitions", str(partitions), "--replication-factor", "3")

    def create_led_topic(self, topic: str, leader: int) -> None:
        order = [leader, *(broker for broker in range(self.brokers) if broker != leader)]
        self._create(topic, 1, "--replica-assignment", ":".join(str(broker + 1) for broker in order))

    def delete_topic(self, topic: str) -> None:
        self._topics("--delete", "--topic", topic)
        for broker in range(self.brokers):
            wait_gone(self.data(broker), topic)

    def metadata_leader(self) -> int:
        return parse.kafka_quorum_leader(
            kafka_lib.tool(
                "org.apache.kafka.tools.MetadataQuorumCommand",
                *("--bootstrap-server", self.bootstrap, "describe", "--status"),
            )
        ) - 1  # fmt: skip

    def leader(self, topic: str) -> int:
        return parse.kafka_leader(self._topics("--describe", "--topic", topic)) - 1

    def high_watermark(self, topic: str) -> int:
        out = kafka_lib.tool(
            "org.apache.kafka.tools.GetOffsetShell",
            *("--bootstrap-server", self.bootstrap, "--topic-partitions", f"{topic}:0"),
        )
        found = re.search(rf"^{re.escape(topic)}:0:(\d+)$", out, re.MULTILINE)
        if not found:
            raise ValueError(f"no offset in {out[-500:]!r}")
        return int(found[1])

    def steady_producer(self, topic: str, steady: Steady) -> list[str]:
        return kafka_lib.java(
            "org.apache.kafka.tools.ProducerPerformance",
            "--bootstrap-server", self.bootstrap, "--topic", topic,
            "--num-records", str(steady.stored), "--warmup-records", str(steady.warmup),
            "--record-size", str(steady.record_size), "--throughput", str(steady.rate),
            "--command-property", "acks=all", "enable.idempotence=true",
        )  # fmt: skip

    def longest_wait(self, out: str, steady: Steady) -> float:
        return parse.kafka_longest_wait(out, steady.stored, steady.records)

    def kill(self, broker: int) -> None:
        self._node(broker).kill()

    def stop(self, broker: int) -> None:
        self._node(broker).stop()

    def launch(self, broker: int) -> None:
        self._node(broker).launch()

    def serves(self, broker: int) -> bool:
        process = self._process(broker)
        if not process.alive():
            raise RuntimeError(f"Kafka ended: {process.out()[-3000:]}{process.err()[-2000:]}")
        # It takes connections once the controller has let it into service.
        return kafka_lib.api_versions_answered(self._node(broker).port)

    def all_in_sync(self) -> bool:
        return not self._topics("--describe", "--under-replicated-partitions").strip()

    def wait_whole(self, timeout: float = 180.0, every: float = 0.1) -> None:
        super().wait_whole(timeout, max(every, _TOOL_PAUSE_SECONDS))

    def end(self) -> None:
        self._nodes.end()
