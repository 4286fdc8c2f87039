"""An operator with rights in some namespaces only, and without those that are optional."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Kubernetes
from kube_machine import Helm, Kubectl
from product import Cluster, Images, Load, Operator
from product.operator import now


@pytest.fixture
def make_namespace(cluster_kubectl: Kubectl, home: Kubectl) -> Iterator[Callable[[str], Kubectl]]:
    """Makes namespaces beside the test's own."""
    made = []

    def make(suffix: str) -> Kubectl:
        made.append(f"{home.namespace}-{suffix}")
        cluster_kubectl("create", "namespace", made[-1])
        return cluster_kubectl.within(made[-1])

    yield make
    for name in made:
        cluster_kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def neighbour(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    """A namespace that the scoped operator looks after too."""
    return make_namespace("neighbour")


@pytest.fixture
def elsewhere(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    """A namespace that it has nothing to do with."""
    return make_namespace("elsewhere")


@pytest.fixture
def scoped(
    kubernetes: Kubernetes,
    operator: Operator,
    helm: Helm,
    cluster_kubectl: Kubectl,
    images: Images,
    home: Kubectl,
    neighbour: Kubectl,
) -> Iterator[Operator]:
    """A second release, for two namespaces, without any right beyond them; the shared one stands still."""
    release = Operator(helm, cluster_kubectl, kubernetes.machine, images, namespace="scoped-system")
    switches = ["crds.enabled", "admissionPolicies.deletionProtection", "rbac.aggregateRoles"]
    switches += [f"rbac.clusterScoped.{right}" for right in ("namespaces", "definitions")]
    with operator.stopped():
        watched = f"--set=watchNamespaces={{{home.namespace},{neighbour.namespace}}}"
        release.install(watched, *(f"--set={switch}=false" for switch in switches))
        try:
            yield release
        finally:
            release.uninstall()
            cluster_kubectl("delete", "namespace", "scoped-system", "--wait=false")


def test_an_operator_of_some_namespaces(scoped: Operator, images: Images, home: Kubectl, elsewhere: Kubectl) -> None:
    mark = now()
    bindings = elsewhere.json("clusterrolebindings")["items"]
    subjects = [s.get("namespace") for b in bindings for s in b.get("subjects") or []]
    assert "scoped-system" not in subjects, "it has rights in all namespaces"
    ours = Cluster(home).create()
    others = Cluster(elsewhere).create(replicas=1)
    ours.wait_ready()
    ours.create_topic("ledger")
    load = Load(home, images).start(ours.bootstrap, "ledger")
    before = ours.pod_uids()
    ours.patch(config={"max.connections": "5000"})
    ours.wait_ready(300)
    assert not set(before.values()) & set(ours.pod_uids().values())
    load.verdict()
    # Racks are known all the same: pods know their zone by themselves.
    assert all(broker.get("rack") for broker in ours.status()["brokers"])
    assert "status" not in others.get() and others.pods() == {}
    # What it may not is not asked for, again and again.
    scoped.wait_quiet(namespace=home.namespace)
    mark = now()
    time.sleep(20)
    assert scoped.refusals(mark) == []
    assert scoped.writes(mark) == []


def test_a_selector_of_namespaces_without_the_right_to_read_them(
    scoped: Operator, cluster_kubectl: Kubectl, home: Kubectl, neighbour: Kubectl
) -> None:
    allowed = {"from": "Selector", "selector": {"matchLabels": {"topics": "yes"}}}
    cluster = Cluster(home).create(replicas=1, topics={"allowedNamespaces": allowed})
    cluster.wait_ready()
    cluster_kubectl("label", "namespace", str(neighbour.namespace), "topics=yes")
    neighbour.apply(_topic("theirs", {"name": "orders", "namespace": home.namespace}))
    home.apply(_topic("own", {"name": "orders"}))
    home.wait("condition=Ready", "topic/own")
    said = neighbour.until("it is told why", lambda: _refusal(neighbour, "theirs"))
    assert "may not read namespaces" in said, said
    scoped.wait_quiet()
    mark = now()
    time.sleep(20)
    assert scoped.writes(mark) == []
    assert len(scoped.refusals(mark)) <= 2, f"it asks again and again: {scoped.refusals(mark)}"


def _topic(name: str, cluster: dict[str, str]) -> dict[str, Any]:
    spec = {"clusterRef": cluster, "partitions": 1}
    return {"apiVersion": "millrace.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec}


def _refusal(kubectl: Kubectl, topic: str) -> str:
    conditions = kubectl.json("topic", topic).get("status", {}).get("conditions", [])
    return next((c["message"] for c in conditions if c["type"] == "Ready" and c["status"] == "False"), "")
