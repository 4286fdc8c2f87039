"""From nothing to the first record, and then silence: who has nothing to do writes nothing."""

from __future__ import annotations

import re
import time

import pytest
from kube_machine import Kubectl
from product import Cluster, Images, Load, Operator, Topic
from product.operator import now


def test_from_install_to_the_first_record(operator: Operator, images: Images, cluster: Cluster) -> None:
    began = operator.began
    cluster.create(replicas=3)
    topic = Topic(cluster.kubectl, "ledger", cluster).create(partitions=3, replicationFactor=3)
    # What a user would do: nothing else may be needed before the first record.
    cluster.kubectl.wait("condition=Ready", "cluster/orders", timeout=300)
    ready = time.monotonic() - began
    topic.wait_ready()
    load = Load(cluster.kubectl, images).start(cluster.bootstrap, "ledger")
    first = time.monotonic() - began
    print(f"after `helm install`: cluster ready {ready:.1f} s, first record acknowledged {first:.1f} s")
    assert first < 900
    assert load.status()["retried"] == [], "the first records needed a second attempt"

    nodes = cluster.kubectl.json("nodes")["items"]
    zones = {n["metadata"]["name"]: n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in nodes}
    placed = {number: zones[node] for number, node in cluster.nodes().items()}
    assert len(set(placed.values())) == 3, placed
    cluster.wait_ready()
    status = cluster.status()
    assert {broker["id"]: broker["rack"] for broker in status["brokers"]} == placed
    for partition in cluster.partitions("ledger"):
        assert {placed[broker] for broker in partition["replicas"]} == set(placed.values())
    assert cluster.condition("RackSpread")["status"] == "True"
    assert len(status["quorum"]["voters"]) == 3
    load.goes_on()
    load.verdict()
    cluster.wait_ready()
    columns = cluster.kubectl.get("clusters").splitlines()
    assert columns[0].split() == ["NAME", "READY", "BROKERS", "DESIRED", "VERSION", "REASON", "AGE"]
    assert columns[1].split()[:4] == ["orders", "True", "3", "3"]


def test_the_chart_tests_itself(operator: Operator) -> None:
    # Each in its turn, the last when all that the test made was taken away.
    said = operator.test()
    assert re.search(r"made Cluster.*made Topic.*wrote 3 records.*read them.*all of it works", said, re.DOTALL), said
    # What it made goes: the claim as soon as no pod uses it any more. So does what Helm made for it.
    kinds = "clusters,topics,pods,pvc,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings"
    operator.kubectl.until(
        "nothing is left", lambda: "-test" not in operator.kubectl.get(kinds, "-o", "name", "--ignore-not-found"), 120
    )


def test_a_second_look_writes_nothing(operator: Operator, cluster: Cluster) -> None:
    cluster.create(config={"max.connections": "5000", "topic.default.retention.ms": "86400000"})
    cluster.wait_ready()
    cluster.create_topic("ledger")
    topic = Topic(cluster.kubectl, "clicks", cluster).create(partitions=2).wait_ready()
    # What is new since the last look is still to be told: the number of partitions.
    cluster.until_seen("all partitions are counted", lambda told: told["partitions"]["total"] == 5)
    cluster.wait_ready()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)

    mark, before = now(), cluster.objects()
    operator.wait_looked(mark, cluster, topic)
    assert operator.writes(mark, cluster.kubectl.namespace) == []
    assert cluster.objects() == before
    # What somebody else writes beside is nobody's business.
    for kind, name in (("cluster", cluster.name), ("statefulset", "orders-broker"), ("pod", "orders-broker-1")):
        cluster.kubectl("label", kind, name, "touched=yes")
    operator.wait_looked(now(), cluster, topic)
    assert operator.writes(mark, cluster.kubectl.namespace) == []
    # One that knows nothing yet finds nothing to do either.
    mark, before = now(), cluster.objects()
    operator.restart()
    operator.wait_looked(mark, cluster, topic)
    operator.wait_quiet(namespace=cluster.kubectl.namespace)
    assert operator.writes(mark, cluster.kubectl.namespace) == []
    assert operator.refusals(mark) == []
    assert cluster.objects() == before


@pytest.mark.long
def test_a_cluster_of_one_broker(home: Kubectl, images: Images, operator: Operator) -> None:
    cluster = Cluster(home, "single").create(replicas=1)
    cluster.wait_ready()
    cluster.create_topic("ledger", 2, 1)
    load = Load(home, images).start(cluster.bootstrap, "ledger")
    # With one broker each roll is an outage; a disruption budget would only hang drains.
    assert home.json("pdb")["items"] == []
    uids = cluster.pod_uids()
    cluster.patch(config={"max.connections": "5000"})
    cluster.wait_ready()
    assert cluster.pod_uids() != uids
    load.goes_on()
    # Two have one, which goes with the second.
    uids = cluster.pod_uids()
    cluster.patch(replicas=2)
    cluster.wait_ready()
    assert home.json("pdb")["items"] != []
    cluster.patch(replicas=1)
    cluster.wait_ready()
    assert home.json("pdb")["items"] == []
    assert cluster.pod_uids() == uids
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)
