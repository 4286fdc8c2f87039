"""From nothing to the first record, and then silence: who has nothing to do writes nothing."""

from __future__ import annotations

import os
import re
import time

import pytest
from kube_machine import Kubectl
from product import Cluster, Images, Load, Operator, Topic
from product.operator import CHART, now

# A bound for a computer that does nothing else: `make test-kubernetes-long` gives the one that the product promises.
_FIRST_RECORD_SECONDS = float(os.environ.get("MILLRACE_E2E_FIRST_RECORD_SECONDS") or 900)


def test_from_install_to_the_first_record(operator: Operator, images: Images, cluster: Cluster) -> None:
    began = operator.began
    cluster.create(replicas=3)
    topics = [Topic(cluster.kubectl, name, cluster) for name in ("clicks", "ledger")]
    for topic in topics:
        topic.create(partitions=3, replicationFactor=3)
    # What a user would do: nothing else may be needed before the first record.
    cluster.kubectl.wait("condition=Ready", "cluster/orders", timeout=300)
    ready = time.monotonic() - began
    for topic in topics:
        topic.wait_ready()
    # Once, by the one who waited.
    cluster.millrace("produce", "clicks", given="the first one\n")
    first = time.monotonic() - began
    print(f"after `helm install`: cluster ready {ready:.1f} s, first record acknowledged {first:.1f} s")
    assert first < _FIRST_RECORD_SECONDS
    load = Load(cluster.kubectl, images).start(cluster.bootstrap, "ledger")
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
    cluster.wait_leaders_even("clicks", "ledger")
    columns = cluster.kubectl.get("clusters").splitlines()
    assert columns[0].split() == ["NAME", "READY", "BROKERS", "DESIRED", "VERSION", "REASON", "AGE"]
    assert columns[1].split()[:4] == ["orders", "True", "3", "3"]
    columns = cluster.kubectl.get("topics").splitlines()
    assert columns[0].split() == ["NAME", "CLUSTER", "PARTITIONS", "RF", "READY", "REASON", "AGE"]
    assert [line.split()[:5] for line in columns[1:]] == [[t.name, "orders", "3", "3", "True"] for t in topics]
    names = [f"topic.millrace.dev/{topic.name}" for topic in topics]
    for asked, found in (
        (["millrace"], ["cluster.millrace.dev/orders", *names]),
        (["mrc"], ["cluster.millrace.dev/orders"]),
        (["mrt", "--field-selector=spec.clusterRef.name=orders"], names),
        (["mrt", "--field-selector=spec.clusterRef.name=other"], []),
    ):
        assert sorted(cluster.kubectl.get(*asked, "-o", "name").split()) == found, asked


def test_the_chart_tests_itself(operator: Operator) -> None:
    # Each in its turn, the last when all that the test made was taken away.
    said = operator.test()
    steps = r"made Cluster.*made Topic.*wrote 3 records.*read them\n.*as two members of a group.*all of it works"
    assert re.search(steps, said, re.DOTALL), said
    # What it made goes: the claim as soon as no pod uses it any more. So does what Helm made for it but the pod:
    # Helm 3 reads its log only then.
    kinds = "clusters,topics,pods,pvc,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings"

    def left() -> list[str]:
        return [name for name in operator.kubectl.get(kinds, "-o", "name").split() if "-test" in name]

    operator.kubectl.until("nothing else is left", lambda: left() == [f"pod/{operator.name}-test"], 120)
    assert "all of it works" in operator.kubectl.logs(f"{operator.name}-test")
    # Whoever is to be alerted needs metrics of the names that alerts have.
    alerts = (CHART / "templates" / "monitoring" / "prometheusrule.yaml").read_text()
    named = set(re.findall(r"\bmillrace_operator_\w+", alerts))
    pod = operator.wait_single()["metadata"]["name"]
    metrics = f"/api/v1/namespaces/{operator.namespace}/pods/{pod}:9652/proxy/metrics"
    told = set(re.findall(r"^(millrace_\w+)[ {]", operator.kubectl("get", "--raw", metrics), re.MULTILINE))
    assert len(named) >= 3, named
    assert named <= told, told


def test_a_second_look_writes_nothing(operator: Operator, images: Images, cluster: Cluster) -> None:
    cluster.create(config={"max.connections": "5000", "topic.default.retention.ms": "86400000"})
    cluster.wait_ready()
    cluster.create_topic("ledger")
    topic = Topic(cluster.kubectl, "clicks", cluster).create(partitions=2).wait_ready()
    # What is new since the last look is still to be told: the number of partitions.
    cluster.until_seen("all partitions are counted", lambda told: told["partitions"]["total"] == 5)
    cluster.wait_ready()
    # What is written to the cluster is nothing to write of.
    load = Load(cluster.kubectl, images).start(cluster.bootstrap, "ledger", "clicks")
    namespace = str(cluster.kubectl.namespace)
    operator.wait_quiet(namespace=namespace)

    mark, before = now(), cluster.objects()
    operator.wait_looked(mark, cluster, topic)
    load.goes_on()
    assert operator.writes(mark, namespace) + operator.events(mark, namespace) == []
    assert cluster.objects() == before
    # What somebody else writes beside is nobody's business.
    for kind, name in (("cluster", cluster.name), ("statefulset", "orders-broker"), ("pod", "orders-broker-1")):
        cluster.kubectl("label", kind, name, "touched=yes")
    operator.wait_looked(now(), cluster, topic)
    assert operator.writes(mark, namespace) + operator.events(mark, namespace) == []
    # One that knows nothing yet finds nothing to do either.
    mark, before = now(), cluster.objects()
    operator.restart()
    operator.wait_looked(mark, cluster, topic)
    operator.wait_quiet(namespace=namespace)
    load.goes_on()
    assert operator.writes(mark, namespace) + operator.events(mark, namespace) == []
    assert operator.refusals(mark) == []
    assert cluster.objects() == before
    load.verdict()


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
    load.verdict(outage=True)
    operator.wait_quiet(namespace=home.namespace)
