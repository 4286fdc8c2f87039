"""More brokers and fewer, with data, under load."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from kube_machine import Kubectl
from product import Cluster, Load, Operator, PodWatch
from product.cluster import is_even
from product.operator import now

Loaded = Callable[..., tuple[Cluster, Load]]


def _planned(cluster: Cluster, reason: str) -> int:
    """How many replicas all plans of a kind were to copy, as the operator told in events."""
    events = cluster.kubectl.json("events.events.k8s.io", f"--field-selector=reason={reason}")["items"]
    return sum(int(found[1]) for e in events if (found := re.search(r"(\d+) replicas of", e.get("note", ""))))


def _voters(status: dict[str, Any]) -> list[int]:
    return status.get("quorum", {}).get("voters", [])


def _brokers(cluster: Cluster) -> list[int]:
    return [broker["broker_id"] for broker in cluster.ask("broker", "list")]


@pytest.mark.timeout(400)
def test_one_broker_more_and_one_fewer(more_nodes: Callable[[int], None], operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded(partitions=8)
    claims, uids = cluster.claims(), cluster.pod_uids()
    more_nodes(1)
    cluster.patch(replicas=4)
    cluster.wait_ready(240)
    assert _brokers(cluster) == [0, 1, 2, 3]
    # Each zone has a replica of each partition: two brokers in one share these, and nothing else moves.
    assert cluster.held("ledger") == cluster.shares("ledger")
    assert _planned(cluster, "Rebalancing") == 4, "only what the new broker gets is copied"
    assert len(cluster.status()["quorum"]["voters"]) == 3, "a fourth one would help nobody"
    load.check()

    cluster.patch(replicas=3)
    cluster.until_condition("Reconciling", "Draining", timeout=60)
    cluster.wait_ready(240)
    cluster.kubectl.until("the claim is gone", lambda: cluster.claims() == claims)
    assert _planned(cluster, "Draining") == 4, "only what the last broker had is copied"
    assert _brokers(cluster) == [0, 1, 2]
    assert {n: u for n, u in cluster.pod_uids().items() if n < 3} == uids, "the others are not restarted"
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
def test_fewer_brokers_than_a_topic_has_replicas_are_refused(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    uids, claims, before = cluster.pod_uids(), cluster.claims(), cluster.replicas("ledger")
    cluster.patch(replicas=2)
    said = cluster.until_condition("Stalled", "ScaleInBlocked", timeout=60)
    assert "ledger" in said, said
    cluster.rest(10, lambda: cluster.pod_uids() == uids, "all brokers stay")
    brokers = {broker["broker_id"]: broker for broker in cluster.ask("broker", "list")}
    assert not any(broker.get("draining") for broker in brokers.values()), brokers
    assert cluster.replicas("ledger") == before
    load.goes_on()
    cluster.patch(replicas=3)
    cluster.until("it is not blocked any more", lambda told: not cluster.condition("Stalled", told), 60)
    cluster.wait_ready()
    assert not any(broker.get("cordoned") or broker.get("draining") for broker in cluster.ask("broker", "list"))
    assert cluster.claims() == claims
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
def test_brokers_that_found_no_node_leave_nothing(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    uids, claims = cluster.pod_uids(), cluster.claims()
    # There is a node for each of the three, and none for more.
    cluster.patch(replicas=5)
    cluster.kubectl.until("two more are asked for", lambda: len(cluster.claims()) == 5)
    cluster.patch(replicas=3)
    cluster.kubectl.until("their claims are gone", lambda: cluster.claims() == claims)
    cluster.wait_ready()
    assert cluster.pod_uids() == uids
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


class Bytes:
    """What brokers take of records between two moments in which nothing is written, and what of that was moved."""

    def __init__(self, cluster: Cluster, load: Load, *topics: str) -> None:
        self._cluster, self._load, self._topics = cluster, load, topics
        self.sizes: dict[tuple[str, int], int] = {}
        self._taken: dict[int, int] = {}

    def begin(self, *brokers: int) -> None:
        """Counts from here on."""
        self.sizes, self._taken = self._still(brokers)

    def moved(self, *brokers: int) -> tuple[int, dict[tuple[str, int], int]]:
        """The bytes that they have taken since besides one copy for each replica of what was written meanwhile; and by
        how much each partition has grown."""
        sizes, taken = self._still(brokers)
        grown = {where: sizes[where] - self.sizes[where] for where in sizes}
        copied = sum(taken[broker] - self._taken.get(broker, 0) for broker in brokers)
        return copied - 3 * sum(grown.values()), grown

    def _still(self, brokers: tuple[int, ...]) -> tuple[dict[tuple[str, int], int], dict[int, int]]:
        """Sizes and counts of a moment in which nothing is written nor copied."""
        self._load.pause()
        found: list[tuple[dict[tuple[str, int], int], dict[int, int]]] = []

        def still() -> bool:
            taken = {broker: self._cluster.taken(broker) for broker in brokers}
            found.append((self._cluster.sizes(*self._topics), taken))
            return found[-2:-1] == found[-1:]

        self._cluster.kubectl.until("nothing is copied", still, timeout=120)
        self._load.resume()
        return found[-1]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_brokers_more_with_data_and_two_fewer(
    more_nodes: Callable[[int], None], operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded(rate=1000, partitions=10, rebalance={"maxBytesPerSecond": "20Mi"})
    more_nodes(2)
    _fill(cluster, "archive")
    claims, topics = cluster.claims(), ("ledger", "archive")
    measured = Bytes(cluster, load, *topics)
    measured.begin(0, 1, 2)
    before, sizes = cluster.replicas(*topics), measured.sizes
    with PodWatch(cluster) as watch:
        cluster.patch(replicas=5)
        cluster.wait_ready(600)
        after = cluster.replicas(*topics)
        shares = cluster.shares(*topics)
        assert cluster.held(*topics) == shares
        moved = {where: len(set(after[where]) - set(before[where])) for where in before}
        # The new brokers' shares must be copied, and nothing else need be.
        bound = shares[3] + shares[4]
        planned = _planned(cluster, "Rebalancing")
        assert sum(moved.values()) <= bound * 1.1
        assert planned <= bound * 1.1
        # Topics of two sizes: what is needed of each in the mean, with a tenth more. What is written while a replica is
        # on its way comes to both brokers.
        least = bound * sum(sizes.values()) / len(sizes)
        copied, grown = measured.moved(0, 1, 2, 3, 4)
        seen = sum(count * sizes[where] for where, count in moved.items())
        twice = sum(count * grown[where] for where, count in moved.items())
        print(
            f"3 to 5: {sum(moved.values())} replicas moved, {planned} planned, {bound:.0f} needed; "
            f"{copied / 1e6:.1f} MB copied, {least / 1e6:.1f} MB needed, of {sum(sizes.values()) * 3 / 1e6:.1f} MB; "
            f"at most {twice / 1e6:.1f} MB came to both"
        )
        assert seen * 0.99 <= copied <= least * 1.1 + twice
        # Each broker is to lead as many as the others; it takes over half a minute after it has come.
        preferred = Counter(replicas[0] for replicas in after.values())
        assert is_even(preferred, 5), preferred
        cluster.wait_leaders_even(*topics, brokers=5)
        load.check()
        # Brokers that have been there for a while vote, too.
        cluster.until("all five vote", lambda told: _voters(told) == [0, 1, 2, 3, 4], timeout=600)
        load.check()

        # Fewer, while topics are made all the time. All that the last two have must be copied, and nothing else.
        measured.begin(0, 1, 2)
        placed = cluster.replicas(*topics)
        held = {where: len({3, 4} & set(replicas)) for where, replicas in placed.items()}
        cluster.patch(replicas=3)
        cluster.until_condition("Reconciling", "Draining", timeout=60)
        for number in range(10):
            cluster.create_topic(f"new-{number}", 2)
            time.sleep(1)
        cluster.wait_ready(600)
    cluster.kubectl.until("claims are gone", lambda: cluster.claims() == claims)
    planned = _planned(cluster, "Draining")
    least = sum(count * measured.sizes[where] for where, count in held.items())
    # All three have all of it now: what they took besides their copies of what was written is what the two had.
    copied, _ = measured.moved(0, 1, 2)
    print(
        f"5 to 3: {planned} replicas planned, {sum(held.values())} needed; {copied / 1e6:.1f} MB copied, "
        f"{least / 1e6:.1f} MB needed"
    )
    assert sum(held.values()) <= planned <= sum(held.values()) * 1.1
    assert least * 0.99 <= copied <= least * 1.1
    assert _brokers(cluster) == [0, 1, 2]
    assert watch.ended == [4, 3], "the last first, and no other one"
    cluster.until_seen("the others vote no more", lambda told: _voters(told) == [0, 1, 2])
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_scale_in_can_be_taken_back(more_nodes: Callable[[int], None], operator: Operator, loaded: Loaded) -> None:
    more_nodes(2)
    # Slowly, so that there is a middle.
    cluster, load = loaded(partitions=10, replicas=5, rebalance={"maxBytesPerSecond": "256Ki"})
    _fill(cluster, "archive")
    uids, claims = cluster.pod_uids(), cluster.claims()
    for _ in range(2):
        cluster.patch(replicas=3)
        cluster.until_condition("Reconciling", "Draining", timeout=60)
        time.sleep(3)
        assert cluster.pod_uids() == uids
        cluster.patch(replicas=5)
        cluster.wait_ready(600)
        assert not any(broker.get("cordoned") or broker.get("draining") for broker in cluster.ask("broker", "list"))
    assert cluster.pod_uids() == uids and cluster.claims() == claims
    # New topics come to all of them again.
    cluster.create_topic("after", 10)
    assert {broker for replicas in cluster.replicas("after").values() for broker in replicas} == {0, 1, 2, 3, 4}
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_stateful_set_that_is_scaled_by_hand(
    more_nodes: Callable[[int], None], operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded(partitions=6)
    more_nodes(1)
    uids, claims, mark = cluster.pod_uids(), cluster.claims(), now()
    # Down: the broker comes again, with its disk.
    cluster.kubectl("scale", "statefulset/orders-broker", "--replicas=2")
    cluster.kubectl.until("it is put back", lambda: cluster.pod_uids().get(2, uids[2]) != uids[2], timeout=120)
    cluster.wait_ready(240)
    assert cluster.claims() == claims
    load.check()
    # Up: the broker that nobody asked for goes again.
    cluster.kubectl("scale", "statefulset/orders-broker", "--replicas=4")
    cluster.kubectl.until("it goes again", lambda: set(cluster.pods()) == {0, 1, 2}, timeout=240)
    cluster.wait_ready(240)
    assert _brokers(cluster) == [0, 1, 2]
    assert not [e for e in operator.evictions(mark) if not e["objectRef"]["name"].endswith("-3")]
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_scaling_through_the_scale_subresource(
    more_nodes: Callable[[int], None], operator: Operator, loaded: Loaded, home: Kubectl
) -> None:
    cluster, load = loaded(partitions=6)
    more_nodes(1)
    home("scale", "cluster/orders", "--replicas=4")
    cluster.wait_ready(240)
    scale = home("get", "--raw", f"/apis/millrace.dev/v1alpha1/namespaces/{home.namespace}/clusters/orders/scale")
    assert '"replicas":4' in scale and "millrace.dev/cluster=orders" in scale
    home("scale", "cluster/orders", "--replicas=3")
    cluster.wait_ready(240)
    assert set(cluster.pods()) == {0, 1, 2}
    load.verdict()


def _fill(cluster: Cluster, topic: str, records: int = 50_000) -> None:
    """Data to move: a topic that nobody else writes to."""
    cluster.create_topic(topic, 10)
    cluster.millrace("bench", "produce", topic, f"--records={records}", "--record-size=1000", timeout=300)
