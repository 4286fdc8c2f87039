"""An operator with rights in some namespaces only, and without those that are optional."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from conftest import Kubernetes
from kube_machine import Helm, Kubectl
from product import Cluster, Images, Load, Operator, Topic
from product.operator import now


@dataclass
class Scoped:
    """A second release, for two namespaces, without any right beyond them; the shared one stands still."""

    operator: Operator
    home: Kubectl
    neighbour: Kubectl
    elsewhere: Kubectl


@pytest.fixture(scope="module")
def scoped(
    kubernetes: Kubernetes, operator: Operator, helm: Helm, cluster_kubectl: Kubectl, images: Images
) -> Iterator[Scoped]:
    """Shared by the tests, whose Clusters have names of their own."""
    release = Operator(helm, cluster_kubectl, kubernetes.machine, images, namespace="scoped-system")
    namespaces = [f"scoped-{name}" for name in ("home", "neighbour", "elsewhere")]
    switches = ["crds.enabled", "admissionPolicies.deletionProtection", "rbac.aggregateRoles"]
    switches += [f"rbac.clusterScoped.{right}" for right in ("namespaces", "definitions")]
    for name in namespaces:
        cluster_kubectl("create", "namespace", name)
    with operator.stopped():
        try:
            watched = f"--set=watchNamespaces={{{namespaces[0]},{namespaces[1]}}}"
            release.install(watched, *(f"--set={switch}=false" for switch in switches))
            yield Scoped(release, *(cluster_kubectl.within(name) for name in namespaces))
        finally:
            release.uninstall()
            cluster_kubectl("delete", "namespace", "scoped-system", *namespaces, "--wait=false")


@pytest.mark.timeout(240)
def test_an_operator_of_some_namespaces(scoped: Scoped, images: Images) -> None:
    bindings = scoped.home.json("clusterrolebindings")["items"]
    subjects = [subject.get("namespace") for each in bindings for subject in each.get("subjects") or []]
    assert "scoped-system" not in subjects, "it has rights in all namespaces"
    ours = Cluster(scoped.home).create()
    others = Cluster(scoped.elsewhere).create(replicas=1)
    ours.wait_ready()
    ours.create_topic("ledger")
    load = Load(scoped.home, images).start(ours.bootstrap, "ledger")
    before = ours.pod_uids()
    ours.patch(config={"max.connections": "5000"})
    ours.wait_ready(300)
    assert not set(before.values()) & set(ours.pod_uids().values())
    # A Topic's end is its business, too.
    topic = Topic(scoped.home, "clicks", ours).create(partitions=1).wait_ready()
    assert "clicks" in {each["name"] for each in ours.ask("topic", "list")["topics"]}
    topic.delete()
    assert {each["name"] for each in ours.ask("topic", "list")["topics"]} == {"ledger"}
    load.verdict()
    # Racks are known all the same: pods know their zone by themselves.
    assert all(broker.get("rack") for broker in ours.status()["brokers"])
    assert "status" not in others.get() and others.pods() == {}
    _is_silent(scoped.operator)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_selector_of_namespaces_without_the_right_to_read_them(scoped: Scoped) -> None:
    home, neighbour = scoped.home, scoped.neighbour
    allowed = {"from": "Selector", "selector": {"matchLabels": {"topics": "yes"}}}
    cluster = Cluster(home, "chosen").create(replicas=1, topics={"allowedNamespaces": allowed})
    cluster.wait_ready()
    home("label", "namespace", str(neighbour.namespace), "topics=yes")
    theirs = Topic(neighbour, "theirs", cluster).create(partitions=1)
    Topic(home, "own", cluster).create(partitions=1).wait_ready()
    said = theirs.until_condition("Ready", "NotAllowedOrNotFound", status="False")
    assert "may not read namespaces" in said, said
    _is_silent(scoped.operator)


def _is_silent(operator: Operator) -> None:
    """It writes nothing, and what it may not is not asked for again and again."""
    operator.wait_quiet()
    if not operator.is_audited:
        return
    mark = now()
    time.sleep(15)
    assert operator.writes(mark) == []
    # A Topic that is refused is looked at again every ten seconds.
    assert len(operator.refusals(mark)) <= 3, f"it asks again and again: {operator.refusals(mark)}"
