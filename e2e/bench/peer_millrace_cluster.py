"""Three Millrace brokers under the benchmark."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import parse
from peer import ClusterPeer, Steady, wait_gone, wait_made, wait_until
from peer_millrace import MillraceClients

from lib.api import ApiError, Client, admin_pb2, call, types_pb2
from lib.broker import Broker
from lib.proc import Process

T = TypeVar("T")


class MillraceCluster(MillraceClients, ClusterPeer):
    """Three brokers, each a voter of the metadata quorum; each forces to its disk what it has
    before that counts for an acknowledgement (flush=ack)."""

    name = "Millrace"

    def __init__(self) -> None:
        self._brokers: list[Broker] = []
        # The one that may know least of what went on.
        self._launched_last: int | None = None

    def start(self, folder: Path) -> None:
        self.folder = folder / "millrace-cluster"
        first = Broker(self.folder / "0", settings={"node.id": "0"})
        seeds = f"127.0.0.1:{first.internal_port}"
        others = [
            Broker(self.folder / str(number), settings={"node.id": str(number), "seeds": seeds})
            for number in range(1, self.brokers)
        ]
        self._brokers = [first, *others]
        self.bootstrap = ",".join(broker.address for broker in self._brokers)
        for broker in self._brokers:
            broker.launch()
        self.wait_whole()

    def _process(self, broker: int) -> Process:
        process = self._brokers[broker].process
        assert process is not None
        return process

    def processes(self) -> list[Process]:
        return [p for broker in self._brokers if (p := broker.process) is not None and p.alive()]

    def data(self, broker: int) -> Path:
        data = self._brokers[broker].data
        assert data is not None
        return data

    def _admin(self, ask: Callable[[Client], T]) -> T:
        """Asks one broker after the other, the one that was started last at the end, until one answers."""
        order = sorted(range(self.brokers), key=lambda broker: broker == self._launched_last)
        failure: ApiError | None = None
        for broker in order:
            if not self._process(broker).alive():
                continue
            with Client(self._brokers[broker].address) as client:
                try:
                    return ask(client)
                except ApiError as error:
                    failure = failure or error
        raise failure or RuntimeError("no broker runs")

    def create_topic(self, topic: str, partitions: int) -> None:
        request = admin_pb2.CreateTopicRequest(
            name=topic,
            partitions=partitions,
            replication_factor=3,
            configs=[
                types_pb2.ConfigEntry(name="min.insync.replicas", value="2"),
                types_pb2.ConfigEntry(name="flush", value="ack"),
            ],
        )
        self._admin(lambda client: call(client.admin.CreateTopic, request, timeout=600))
        for broker in range(self.brokers):
            wait_made(self.data(broker), topic, partitions)

    def create_led_topic(self, topic: str, leader: int) -> None:
        self.create_topic(topic, 1)
        wait_until(self.all_in_sync, f"{topic} is in sync")
        if self.leader(topic) == leader:
            return
        request = admin_pb2.ElectLeadersRequest(
            partitions=[admin_pb2.PartitionName(topic=topic, partition=0)],
            kind=admin_pb2.ELECTION_KIND_IN_SYNC,
            broker_id=leader,
        )
        result = self._admin(lambda client: call(client.admin.ElectLeaders, request)).results[0]
        if result.HasField("error"):
            raise ApiError.of_item(result.error)
        wait_until(lambda: self.leader(topic) == leader, f"{topic} is led by broker {leader}")

    def delete_topic(self, topic: str) -> None:
        request = admin_pb2.DeleteTopicRequest(name=topic)
        self._admin(lambda client: call(client.admin.DeleteTopic, request, timeout=120))
        for broker in range(self.brokers):
            wait_gone(self.data(broker), topic)

    def metadata_leader(self) -> int:
        found = self._admin(lambda client: call(client.admin.DescribeQuorum, admin_pb2.DescribeQuorumRequest()))
        if not found.HasField("leader_broker_id"):
            raise RuntimeError("nobody leads the metadata quorum")
        return found.leader_broker_id

    def leader(self, topic: str) -> int:
        partition = self._admin(lambda client: client.describe(topic)).partitions[0]
        if not partition.HasField("leader_id"):
            raise RuntimeError(f"nobody leads {topic}")
        return partition.leader_id

    def high_watermark(self, topic: str) -> int:
        # Only the leader knows it.
        with Client(self._brokers[self.leader(topic)].address) as client:
            partition = client.describe(topic).partitions[0]
        if not partition.HasField("high_watermark"):
            raise RuntimeError(f"{topic}'s leader does not tell its high watermark: {partition.problem}")
        return partition.high_watermark

    def steady_producer(self, topic: str, steady: Steady) -> list[str]:
        # With acks=all it is idempotent.
        return self.bench(
            "produce", topic, "--records", steady.records, "--warmup-records", steady.warmup,
            "--record-size", steady.record_size, "--rate", steady.rate, "--acks", "all",
        )  # fmt: skip

    def longest_wait(self, out: str, steady: Steady) -> float:
        return parse.millrace_longest_wait(out, steady.records)

    def kill(self, broker: int) -> None:
        self._brokers[broker].kill()

    def stop(self, broker: int) -> None:
        code = self._brokers[broker].stop(120)
        if code != 0:
            raise RuntimeError(f"broker {broker} ended with {code}: {self._process(broker).err()[-2000:]}")

    def launch(self, broker: int) -> None:
        self._brokers[broker].launch()
        self._launched_last = broker

    def serves(self, broker: int) -> bool:
        process = self._process(broker)
        if not process.alive():
            raise RuntimeError(f"broker {broker} ended with {process.returncode()}: {process.err()[-3000:]}")
        try:
            return self._brokers[broker].http("/readyz")[0] == 200
        except OSError:
            return False

    def all_in_sync(self) -> bool:
        try:
            found = self._admin(lambda client: call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest()))
        except ApiError:
            # It is still starting.
            return False
        return (
            [broker.available for broker in found.brokers] == [True] * self.brokers
            and len(found.quorum.voters) == self.brokers
            and found.offline_partitions == found.under_replicated_partitions == 0
        )

    def end(self) -> None:
        for broker in self._brokers:
            broker.end()
        self._brokers = []
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)
