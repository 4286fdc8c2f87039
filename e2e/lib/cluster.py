"""Brokers on hosts of their own as one cluster, and what a test asks and tells it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lib.api import ApiError, Client, admin_pb2, call
from lib.broker import Broker, Result, millrace
from lib.hosts import Loopback, Network

# Short enough that a frozen broker is replaced while a test looks on, long enough for a debug build
# on a busy machine not to lose its lease by itself.
SESSION_SECONDS = 1.5


class Cluster:
    """Brokers by id. The first begins the cluster, the others join by those before them as their seeds.

    Each broker that is added is given to `watched`, so that its output stands beside a failure.
    """

    def __init__(
        self, network: Network | Loopback, folder: Path, watched: Callable[[Broker], Broker] = lambda broker: broker
    ) -> None:
        self.network = network
        self._folder = folder
        self._watched = watched
        self.brokers: dict[int, Broker] = {}

    def add(self, broker_id: int, host: str, data: Path | None = None) -> Broker:
        """A broker, not started yet. Its seeds are the others that there are."""
        settings = {
            "node.id": str(broker_id),
            "broker.session.timeout.ms": str(int(SESSION_SECONDS * 1000)),
            "broker.heartbeat.interval.ms": "250",
            "rack": host,
            "log.level": "info,openraft=warn",
        }
        if self.brokers:
            settings["seeds"] = ",".join(broker.internal_address for broker in self.brokers.values())
        broker = Broker(
            self._folder / str(broker_id),
            settings,
            data,
            name=f"broker-{broker_id}",
            ready_timeout=60,
            host=self.network.hosts[host],
        )
        if not self.network.pairs:
            broker.behind_a_proxy()
        self.brokers[broker_id] = self._watched(broker)
        return broker

    def seed_the_first(self) -> None:
        """Gives the broker that began the cluster the others as its seeds: without any, an empty directory of
        its would begin a cluster anew."""
        first, *others = self.brokers.values()
        first.settings["seeds"] = ",".join(broker.internal_address for broker in others)

    def start(self, ids: Iterable[int] | None = None) -> None:
        """Starts brokers together, those that run already excepted, and waits until all serve."""
        chosen = [self.brokers[i] for i in (self.brokers if ids is None else ids)]
        chosen = [broker for broker in chosen if broker.process is None or not broker.process.alive()]
        for broker in chosen:
            broker.launch()
        for broker in chosen:
            assert broker.process is not None
            broker.process.wait_for_line("ready ", broker.ready_timeout)

    def bootstrap(self, ids: Iterable[int] | None = None) -> str:
        """The client addresses."""
        return ",".join(self.brokers[i].address for i in (self.brokers if ids is None else ids))

    def end(self) -> None:
        """Ends all in whatever state they are."""
        for broker in self.brokers.values():
            broker.end()

    def millrace(self, *args: str, ids: Iterable[int] | None = None, json: bool = False, timeout: float = 60) -> Result:
        """Runs the command on the cluster."""
        return millrace(*args, bootstrap=self.bootstrap(ids), json=json, timeout=timeout)

    # --- what it is like now, asked of whichever broker answers ---

    def views(self, topics: Iterable[str]) -> str:
        """What each broker that runs says of topics: for the report of a failure."""
        text = ""
        for broker in self.brokers.values():
            state = "not started" if broker.process is None else broker.process.returncode()
            if state is not None:
                text += f"  {broker.name} {broker.address}: {state}\n"
                continue
            for name in topics:
                text += f"  {broker.name} {broker.address} says of {name}:\n"
                try:
                    with Client(broker.address) as client:
                        request = admin_pb2.DescribeTopicRequest(name=name)
                        described = call(client.admin.DescribeTopic, request, timeout=3)
                    for p in described.partitions:
                        leader, watermark, end = (
                            getattr(p, name) if p.HasField(name) else "?"
                            for name in ("leader_id", "high_watermark", "log_end")
                        )
                        text += (
                            f"    {p.partition}: leader {leader} epoch {p.leader_epoch} replicas {list(p.replicas)} "
                            f"in sync {list(p.in_sync_replicas)} watermark {watermark} end {end} {p.problem}\n"
                        )
                except ApiError as error:
                    text += f"    {error}\n"
        return text

    def _ask(self, method: str, request: object) -> object:
        problems = []
        for broker in self.brokers.values():
            if broker.process is None or not broker.process.alive():
                continue
            try:
                with Client(broker.address) as client:
                    return call(getattr(client.admin, method), request, timeout=3)
            except ApiError as error:
                problems.append(f"{broker.name}: {error}")
        raise ConnectionError("; ".join(problems) or "no broker runs")

    def topic(self, name: str) -> admin_pb2.DescribeTopicResponse:
        """All about a topic."""
        return self._ask("DescribeTopic", admin_pb2.DescribeTopicRequest(name=name))

    def describe(self) -> admin_pb2.DescribeClusterResponse:
        """All about the cluster."""
        return self._ask("DescribeCluster", admin_pb2.DescribeClusterRequest())

    def quorum(self) -> admin_pb2.DescribeQuorumResponse:
        """All about the metadata quorum."""
        return self._ask("DescribeQuorum", admin_pb2.DescribeQuorumRequest())

    def quorum_leader(self) -> int:
        """Who leads the metadata quorum."""
        deadline = time.monotonic() + 30
        while not (quorum := self.quorum()).HasField("leader_broker_id"):
            assert time.monotonic() < deadline, f"the quorum has no leader: {quorum}"
            time.sleep(0.1)
        return quorum.leader_broker_id

    def leader(self, topic: str, partition: int = 0) -> int:
        """Who leads a partition."""
        deadline = time.monotonic() + 30
        while True:
            described = self.topic(topic).partitions[partition]
            if described.HasField("leader_id"):
                return described.leader_id
            assert time.monotonic() < deadline, f"{topic}/{partition} has no leader: {described}"
            time.sleep(0.1)

    def wait_in_sync(self, topics: Iterable[str], timeout: float = 60, replicas: int | None = None) -> float:
        """Waits until by the word of every broker that runs all replicas are in sync (and there are
        `replicas` of each); gives the seconds that took."""
        began = time.monotonic()
        while True:
            missing = [problem for name in topics for problem in self._not_in_sync(name, replicas)]
            if not missing:
                return time.monotonic() - began
            if time.monotonic() - began > timeout:
                ended = [
                    f"{b.name} ended with {b.process.returncode()}"
                    for b in self.brokers.values()
                    if b.process is not None and not b.process.alive()
                ]
                raise AssertionError(f"not in sync after {timeout} s: {missing[:6]} {ended}")
            time.sleep(0.1)

    def _not_in_sync(self, topic: str, replicas: int | None) -> list[str]:
        # Each is asked: what one broker knows may be of before a cut or a freeze.
        problems = []
        for broker in self.brokers.values():
            if broker.process is None or not broker.process.alive():
                continue
            try:
                with Client(broker.address) as client:
                    described = call(client.admin.DescribeTopic, admin_pb2.DescribeTopicRequest(name=topic), timeout=3)
            except ApiError as error:
                problems.append(f"{broker.name}: {error}")
                continue
            for p in described.partitions:
                whole = sorted(p.replicas) == sorted(p.in_sync_replicas) and p.HasField("leader_id")
                if not whole or (replicas is not None and len(p.replicas) != replicas):
                    leader = p.leader_id if p.HasField("leader_id") else "nobody"
                    problems.append(
                        f"{broker.name} says: {topic}/{p.partition} has replicas {list(p.replicas)}, in sync "
                        f"{list(p.in_sync_replicas)}, led by {leader} {p.problem}"
                    )
        return problems

    def wait_available(self, broker_id: int, available: bool, timeout: float = 30) -> None:
        """Waits until a broker is in service, or fenced."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                states = {broker.broker_id: broker.available for broker in self.describe().brokers}
                if states.get(broker_id) == available:
                    return
            except ConnectionError:
                states = {}
            assert time.monotonic() < deadline, f"broker {broker_id} is not {available=} after {timeout} s: {states}"
            time.sleep(0.1)

    def wait_voters(self, ids: list[int], timeout: float = 30) -> None:
        """Waits until these brokers vote and nobody else."""
        deadline = time.monotonic() + timeout
        while (voters := self.voters()) != ids:
            assert time.monotonic() < deadline, f"voters are {voters} after {timeout} s, not {ids}"
            time.sleep(0.2)

    def voters(self) -> list[int]:
        """The brokers that vote."""
        members = self.quorum().members
        return sorted(m.broker_id if m.HasField("broker_id") else -1 for m in members if m.is_voter)


@contextlib.contextmanager
def cluster_of_three(
    network: Network | Loopback, folder: Path, watched: Callable[[Broker], Broker], start: Iterable[int] | None = None
) -> Iterator[Cluster]:
    """Brokers 0 to 2, on the hosts h0 to h2, of which all or some are started; ended with the block."""
    cluster = Cluster(network, folder, watched)
    try:
        for broker_id in range(3):
            cluster.add(broker_id, f"h{broker_id}")
        cluster.start(start)
        yield cluster
    finally:
        cluster.end()
