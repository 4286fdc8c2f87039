"""From nothing to the first record, and then silence: who has nothing to do writes nothing."""

from __future__ import annotations

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


def test_a_second_look_writes_nothing(operator: Operator, cluster: Cluster) -> None:
    cluster.create(config={"max.connections": "5000", "topic.default.retention.ms": "86400000"})
    cluster.wait_ready()
    cluster.create_topic("ledger")
    Topic(cluster.kubectl, "clicks", cluster).create(partitions=2).wait_ready()
    cluster.wait_ready()
    # What is new since the last look is still to be told: the number of partitions.
    _touch(cluster, "now")
    time.sleep(10)
    _touch(cluster, "once")
    cluster.until("all partitions are counted", lambda told: told["partitions"]["total"] == 5, 90)
    operator.wait_quiet(10, namespace=cluster.kubectl.namespace)

    mark = now()
    _touch(cluster, "twice")
    time.sleep(10)
    assert operator.requests(mark), "it did not look at all"
    assert operator.writes(mark, cluster.kubectl.namespace) == []
    mark, before = now(), cluster.objects()
    operator.restart()
    time.sleep(20)
    assert operator.writes(mark, cluster.kubectl.namespace) == []
    assert operator.requests(mark), "it did not look at all"
    assert operator.refusals(mark) == []
    assert cluster.objects() == before


def _touch(cluster: Cluster, how: str) -> None:
    """Makes the operator look again at the cluster and at the topic."""
    cluster.kubectl("label", "cluster", cluster.name, "--overwrite", f"touched={how}")
    cluster.annotate(touched=how)
    cluster.kubectl("annotate", "topic", "clicks", "--overwrite", f"touched={how}")
    cluster.kubectl("label", "statefulset", "orders-broker", "--overwrite", f"touched={how}")
    cluster.kubectl("label", "pod", "orders-broker-1", "--overwrite", f"touched={how}")


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
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)
