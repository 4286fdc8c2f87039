"""Nodes are drained, crash and come back."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kube_machine import Kubectl, Machine
from product import Cluster, Images, Load, Operator, PodWatch
from product.operator import now

Loaded = Callable[..., tuple[Cluster, Load]]

_ZONE = "topology.kubernetes.io/zone"
# All but the load, which has nobody to start it again.
_DRAIN = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app!=millrace-load"]


@pytest.fixture(autouse=True)
def _nodes_are_whole(cluster_kubectl: Kubectl, machine: Machine) -> Iterator[None]:
    """Whatever happens, the next test finds all nodes."""
    yield
    for name, node in machine.nodes().items():
        if node.state() == "crashed":
            machine.start(name)
        cluster_kubectl("uncordon", name)


def _drain(kubectl: Kubectl, node: str, timeout: int = 150) -> None:
    kubectl("drain", node, *_DRAIN, f"--timeout={timeout}s", timeout=timeout + 10)


@contextlib.contextmanager
def _draining(kubectl: Kubectl, node: str) -> Iterator[subprocess.Popen[str]]:
    """A drain beside the test; it is over then, one way or the other."""
    drain = kubectl.start("drain", node, *_DRAIN, "--timeout=300s")
    try:
        yield drain
    finally:
        drain.kill()
        drain.communicate()


def test_a_drained_node_gives_its_broker_back(cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    nodes = cluster.nodes()
    number = next(n for n, node in nodes.items() if node != load.node)
    with PodWatch(cluster) as watch:
        _drain(cluster_kubectl, nodes[number])
        # Its place is on a node of its own, and there is none.
        cluster.until_condition("Stalled", "Unschedulable", timeout=60)
        load.goes_on()
        cluster_kubectl("uncordon", nodes[number])
        cluster.wait_ready(180)
    assert watch.ended == [number]
    assert len(watch.most_down) <= 1
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


def test_a_node_crashes_and_comes_back(machine: Machine, operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded(partitions=6)
    before, claims, mark = cluster.pod_uids(), cluster.claims(), now()
    # The operator is to tell of it: on the node itself it would be away for five minutes.
    used = {load.node, *(pod["spec"]["nodeName"] for pod in operator.pods())}
    number, node = next((n, node) for n, node in cluster.nodes().items() if node not in used)
    load.mark()
    machine.crash(node)
    try:
        load.goes_on(300)
        # It is missed. Whether it is gone for good is for Kubernetes to say, after five minutes, and not for us.
        cluster.until(
            "the broker is missed",
            lambda told: any(b["id"] == number and not b["ready"] for b in told["brokers"]),
            120,
        )
        # Each partition is led and written, and not only most of them.
        leaders = cluster.leaders("ledger")
        assert not {None, number} & leaders.keys() and leaders.total() == 6, leaders
        before_it = _high_watermarks(cluster)
        cluster.kubectl.until(
            "each partition goes on",
            lambda: all(mark > before_it[number] for number, mark in _high_watermarks(cluster).items()),
        )
        told = load.check()
        print(
            f"node crash: longest without an acknowledgement {told['longest_gap_ms']} ms, "
            f"in one partition {told['longest_partition_gap_ms']} ms"
        )
        assert cluster.pod_uids() == before
        assert cluster.condition("Ready")["status"] == "False"
    finally:
        machine.start(node)
    cluster.wait_ready(240)
    cluster.wait_leaders_even("ledger")
    assert cluster.claims() == claims
    assert cluster.pod_uids() == before, "the same pods, started again"
    assert not [write for write in operator.writes(mark, cluster.kubectl.namespace) if "pods" in write]
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


def _racks(status: dict[str, Any]) -> dict[int, str | None]:
    return {broker["id"]: broker.get("rack") for broker in status["brokers"]}


def _high_watermarks(cluster: Cluster) -> dict[int, int]:
    return {each["partition"]: each["high_watermark"] or 0 for each in cluster.partitions("ledger")}


@pytest.mark.long
def test_a_broker_without_a_zone_serves_and_is_told_of(
    cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded()
    number, node = next((n, node) for n, node in cluster.nodes().items() if node != load.node)
    zone = cluster_kubectl.json("node", node)["metadata"]["labels"][_ZONE]
    try:
        # A node that moves takes its broker to another rack.
        cluster_kubectl("label", "node", node, "--overwrite", f"{_ZONE}=elsewhere")
        cluster.kubectl("delete", "pod", f"orders-broker-{number}")
        cluster.until("its rack follows", lambda told: _racks(told).get(number) == "elsewhere")
        cluster.wait_ready()
        assert {each["broker_id"]: each["rack"] for each in cluster.ask("broker", "list")}[number] == "elsewhere"
        cluster_kubectl("label", "node", node, f"{_ZONE}-")
        cluster.kubectl("delete", "pod", f"orders-broker-{number}")
        said = cluster.until_condition("RackSpread", "RackUnknown", status="False")
        assert str(number) in said
        cluster.kubectl.wait("condition=Ready", f"pod/orders-broker-{number}", timeout=90)
        assert "rack" not in next(b for b in cluster.status()["brokers"] if b["id"] == number)
        load.goes_on()
    finally:
        cluster_kubectl("label", "node", node, f"{_ZONE}={zone}")
    cluster.kubectl("delete", "pod", f"orders-broker-{number}")
    cluster.until_condition("RackSpread", "Spread", timeout=120)
    cluster.wait_ready()
    load.verdict()


@pytest.mark.long
def test_pods_that_are_bound_by_name_know_their_zone_too(
    cluster_kubectl: Kubectl, operator: Operator, cluster: Cluster
) -> None:
    # Its claim must be bound before: what is not scheduled binds none.
    cluster.create(replicas=1)
    cluster.wait_ready()
    uids, node = cluster.pod_uids(), cluster.nodes()[0]
    # spec.nodeName goes past the scheduler, and not past what copies the zone to the pod.
    cluster.patch(podTemplate={"spec": {"nodeName": node}})
    cluster.wait_ready()
    assert cluster.pod_uids() != uids
    zone = cluster_kubectl.json("node", node)["metadata"]["labels"][_ZONE]
    assert cluster.status()["brokers"][0]["rack"] == zone
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_zones_are_told_to_be_too_few(cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded) -> None:
    nodes = cluster_kubectl.json("nodes")["items"]
    zones = {each["metadata"]["name"]: each["metadata"]["labels"][_ZONE] for each in nodes}
    moved, other = sorted(zones)[:2]
    try:
        cluster_kubectl("label", "node", moved, "--overwrite", f"{_ZONE}={zones[other]}")
        cluster, load = loaded()
        said = cluster.until_condition("RackSpread", "TooFewRacks", status="False")
        assert said.startswith("2 racks are too few: 3 partitions"), said
        assert sorted(Counter(_racks(cluster.status()).values()).values()) == [1, 2]
        # It is told, and in nobody's way.
        cluster.wait_ready()
        load.goes_on()
        load.check()
    finally:
        cluster_kubectl("label", "node", moved, "--overwrite", f"{_ZONE}={zones[moved]}")
    number = next(number for number, node in cluster.nodes().items() if node == moved)
    cluster.kubectl("delete", "pod", f"orders-broker-{number}")
    cluster.until_condition("RackSpread", "Spread")
    cluster.wait_ready()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_large_zone_and_two_small_ones_share_evenly(
    machine: Machine, more_nodes: Callable[..., list[str]], operator: Operator, loaded: Loaded
) -> None:
    large = sorted(node.zone for node in machine.nodes().values())[0]
    more_nodes(3, large)
    cluster, load = loaded(partitions=8, replicas=6)
    said = cluster.until_condition("RackSpread", "UnevenRacks", status="False")
    assert f"{large}: 4" in said, said
    racks = _racks(cluster.status())
    for replicas in cluster.replicas("ledger").values():
        assert len({racks[broker] for broker in replicas}) == 3, "a replica in each zone"
    # Those of the large zone have a quarter of what the others have.
    assert cluster.held("ledger") == cluster.shares("ledger")
    # A small zone has as much as the large one, and can be lost all the same: that only the load must not be.
    number, node = next((n, at) for n, at in cluster.nodes().items() if racks[n] != large and at != load.node)
    load.mark()
    machine.crash(node)
    try:
        cluster.kubectl.until("others lead", lambda: not {None, number} & cluster.leaders("ledger").keys(), timeout=120)
        load.goes_on(300)
        load.check()
    finally:
        machine.start(node)
    cluster.wait_ready(240)
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_nodes_that_are_gone_for_good_give_their_brokers_to_others(
    machine: Machine,
    cluster_kubectl: Kubectl,
    more_nodes: Callable[..., list[str]],
    operator: Operator,
    cluster: Cluster,
    images: Images,
) -> None:
    first, *others = machine.nodes()
    # One at the place of each that stays, and all brokers on these.
    places = {node: more_nodes(1, machine.node(node).zone)[0] for node in (first, *others)}
    for node in places:
        cluster_kubectl("cordon", node)
    cluster.create()
    cluster.wait_ready()
    cluster.create_topic("ledger", 6)
    assert set(cluster.nodes().values()) == set(places.values())
    for node in places.values():
        cluster_kubectl("cordon", node)
    cluster_kubectl("uncordon", first)
    load = Load(cluster.kubectl, images).start(cluster.bootstrap, "ledger")
    before, claims, cluster_id = cluster.pod_uids(), cluster.claims(), cluster.status()["clusterID"]

    # One: Kubernetes, which is told that it is gone, makes its pod anew, once, and its disk comes along.
    mark = now()
    number = next(number for number, node in cluster.nodes().items() if node == places[first])
    with PodWatch(cluster) as watch:
        machine.remove_node(places[first])
        cluster.kubectl.until("it is elsewhere", lambda: cluster.nodes().get(number) == first, timeout=240)
        cluster.wait_ready(240)
    assert watch.ended == [number], f"once, and no other one: {watch.ended}"
    after = cluster.pod_uids()
    assert {n for n in before if after[n] != before[n]} == {number}
    assert cluster.claims() == claims
    load.goes_on()
    load.check()

    # Two at once are an outage. It is told, and nothing is given up for it.
    for node in others:
        machine.crash(places[node])
    for node in others:
        machine.remove_node(places[node])
    cluster.until_condition("Stalled", "Unschedulable", timeout=300)
    ready = cluster.condition("Ready")
    assert ready["status"] == "False" and ready["reason"] in ("BrokersUnready", "QuorumLost"), ready
    assert cluster.claims() == claims
    # No broker was taken away by us, and no claim, though two had no node.
    written = operator.writes(mark, cluster.kubectl.namespace)
    assert not [write for write in written if "pods" in write or "persistentvolumeclaims" in write], written
    for node in others:
        cluster_kubectl("uncordon", node)
    cluster.wait_ready(300)
    assert {n for n in after if cluster.pod_uids()[n] != after[n]} == set(after) - {number}
    assert cluster.status()["clusterID"] == cluster_id and cluster.claims() == claims
    cluster.wait_leaders_even("ledger")
    load.goes_on()
    load.verdict(outage=True)
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_each_node_is_drained_in_turn_and_two_at_once(
    cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded()
    with PodWatch(cluster) as watch:
        for number, node in cluster.nodes().items():
            _drain(cluster_kubectl, node)
            cluster_kubectl("uncordon", node)
            cluster.wait_ready(180)
            assert watch.ended[-1] == number
            load.check()
        # Two at once: the second waits until the first broker is back.
        nodes = cluster.nodes()
        first, second = [number for number, node in nodes.items() if node != load.node][:2]
        with contextlib.ExitStack() as ended:
            drains = [ended.enter_context(_draining(cluster_kubectl, nodes[n])) for n in (first, second)]
            cluster.kubectl.until("one of them is gone", lambda: len(watch.ended) == 4)
            time.sleep(15)
            assert len(watch.ended) == 4, f"a second broker was taken: {watch.ended}"
            waiting = second if watch.ended[-1] == first else first
            load.goes_on()
            cluster_kubectl("uncordon", nodes[watch.ended[-1]])
            cluster.kubectl.until("the other one goes", lambda: len(watch.ended) == 5, timeout=180)
            assert watch.ended[-1] == waiting
            cluster_kubectl("uncordon", nodes[waiting])
            for drain in drains:
                assert drain.wait(120) == 0, drain.communicate()[0]
        cluster.wait_ready(240)
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    load.verdict()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_drain_and_a_roll_wait_while_partitions_need_all_that_they_have(
    machine: Machine, cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded()
    pods, uids, nodes = cluster.pods(), cluster.pod_uids(), cluster.nodes()

    def budget() -> int:
        return cluster.kubectl.json("pdb", "orders-broker")["spec"]["maxUnavailable"]

    assert budget() == 1
    # Both are there for everybody else: what one of them leads has two replicas in sync, and needs two.
    one, other = (pods[number] for number in nodes if number != cluster.status()["quorum"]["leader"])
    addresses = (one["status"]["podIP"], other["status"]["podIP"])
    drained = next(number for number, node in nodes.items() if node != load.node)
    with contextlib.ExitStack() as ended:
        with machine.node(one["spec"]["nodeName"]).parted(*addresses):
            cluster.kubectl.until("nobody may go", lambda: budget() == 0)
            drain = ended.enter_context(_draining(cluster_kubectl, nodes[drained]))
            cluster.annotate(restartedAt="now")
            cluster.until("the roll says why it waits", lambda told: "ledger" in _reconciling(cluster, told))
            cluster.rest(20, lambda: cluster.pod_uids() == uids and budget() == 0, "all stay")
            assert drain.poll() is None, drain.communicate()[0]
        with PodWatch(cluster) as watch:
            assert drain.wait(300) == 0, drain.communicate()[0]
            cluster_kubectl("uncordon", nodes[drained])
            cluster.wait_ready(300)
        assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    assert not set(cluster.pod_uids().values()) & set(uids.values())
    cluster.kubectl.until("one may go again", lambda: budget() == 1)
    load.goes_on()
    load.verdict(outage=True)
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


def _reconciling(cluster: Cluster, told: dict[str, Any]) -> str:
    return cluster.condition("Reconciling", told).get("message", "")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_drain_during_a_roll_takes_no_second_broker(
    cluster_kubectl: Kubectl, operator: Operator, loaded: Loaded
) -> None:
    cluster, load = loaded()
    before, nodes = cluster.pod_uids(), cluster.nodes()
    with PodWatch(cluster) as watch:
        cluster.annotate(restartedAt="now")
        cluster.kubectl.until("the roll has begun", lambda: watch.ended)
        others = [number for number in nodes if number != watch.ended[0] and nodes[number] != load.node]
        node = nodes[others[0]]
        with _draining(cluster_kubectl, node) as drain:
            assert drain.wait(310) == 0, drain.communicate()[0]
        cluster_kubectl("uncordon", node)
        cluster.wait_ready(300)
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    assert not set(cluster.pod_uids().values()) & set(before.values())
    load.verdict()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_nodes_lose_their_power_at_once(machine: Machine, operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    # The load is on one of them too, and what it knows must not go.
    load.verdict()
    load.kubectl.delete("pod", load.name)
    total = sum(p["high_watermark"] for p in cluster.partitions("ledger"))
    cluster_id = cluster.status()["clusterID"]
    for node in machine.nodes():
        machine.crash(node)
    time.sleep(5)
    for node in machine.nodes():
        machine.start(node, wait=False)
    cluster.kubectl.until("nodes are Ready", lambda: len(machine.api().ready_nodes()) == 3, timeout=120)
    # What was told of them before the power went is not what counts.
    cluster.kubectl.until("all brokers have started again", lambda: _restarts(cluster) == {0: 1, 1: 1, 2: 1}, 120)
    cluster.wait_ready(300)
    assert cluster.status()["clusterID"] == cluster_id

    def told() -> int:
        marks = [partition["high_watermark"] for partition in cluster.partitions("ledger")]
        # A leader may be yet to come, or to hear from its followers what is committed.
        return 0 if None in marks else sum(marks)

    # The operator was away as well: that all is Ready may be what it said before.
    cluster.kubectl.until("all that was acknowledged is there", lambda: told() >= total, 120)
    assert told() == total


def _restarts(cluster: Cluster) -> dict[int, int]:
    return {n: pod["status"]["containerStatuses"][0]["restartCount"] for n, pod in cluster.pods().items()}
