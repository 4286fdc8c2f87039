"""Objects that can't be: the API server says why, and one that slipped through stops no other."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kube_machine import Failed, Kubectl
from product import Cluster, Operator
from product.operator import now

_API = "millrace.dev/v1alpha1"


def _cluster(name: str = "orders", **spec: Any) -> dict[str, Any]:
    spec.setdefault("storage", {"size": "10Gi"})
    return {"apiVersion": _API, "kind": "Cluster", "metadata": {"name": name}, "spec": spec}


def _topic(name: str = "clicks", **spec: Any) -> dict[str, Any]:
    spec.setdefault("clusterRef", {"name": "orders"})
    return {"apiVersion": _API, "kind": "Topic", "metadata": {"name": name}, "spec": spec}


_MANY = {f"key.{n}": "1" for n in range(300)}

# An object, and what the API server must say of it.
_REFUSED: list[tuple[dict[str, Any], str]] = [
    (_cluster("1orders"), "at most 40 lower case letters"),
    (_cluster("a" * 41), "at most 40 lower case letters"),
    (_cluster("a.b"), "at most 40 lower case letters"),
    (_cluster(replicas=0), "should be greater than or equal to 1"),
    (_cluster(replicas=201), "should be less than or equal to 200"),
    (_cluster(replicas="three"), "must be of type integer"),
    (_cluster(version="latest"), "should match"),
    (_cluster(image=""), "at least 1 chars long"),
    (_cluster(storage={}), "size: Required value"),
    (_cluster(storage={"size": "10GB"}), "size must be a quantity of at least 1Gi"),
    (_cluster(storage={"size": "1Mi"}), "size must be a quantity of at least 1Gi"),
    (_cluster(storage={"size": "1Gi", "whenScaled": "Shred"}), "supported values"),
    (_cluster(replicas=5, quorum={"voters": 4}), "voters must be 1, 3 or 5"),
    (_cluster(replicas=5, quorum={"voters": 7}), "should be less than or equal to 5"),
    (_cluster(replicas=1, quorum={"voters": 3}), "quorum.voters must not be more than replicas"),
    (_cluster(replicas=2, defaults={"replicationFactor": 3}), "defaults.replicationFactor must not be more"),
    (_cluster(defaults={"minInSyncReplicas": 4}), "defaults.minInSyncReplicas must not be more than"),
    (_cluster(defaults={"partitions": 0}), "should be greater than or equal to 1"),
    (_cluster(defaults={"partitions": 10_001}), "should be less than or equal to 10000"),
    (_cluster(defaults={"replicationFactor": 33}), "should be less than or equal to 32"),
    (_cluster(config=_MANY), "must have at most"),
    (_cluster(config={"a": {"b": "c"}}), "config"),
    (_cluster(config={"": "1"}), "each setting has a name of 1 to 249 characters"),
    (_cluster(defaults={"config": {"": "1"}}), "each setting has a name of 1 to 249 characters"),
    (_topic(config={"": "1"}), "each setting has a name of 1 to 249 characters"),
    (_topic(config={"a" * 250: "1"}), "each setting has a name of 1 to 249 characters"),
    (_cluster(topics={"allowedNamespaces": {"from": "Selector"}}), "selector must be there with from: Selector"),
    (_cluster(topics={"allowedNamespaces": {"from": "All", "selector": {}}}), "selector must be there"),
    (_cluster(topics={"allowedNamespaces": {"from": "Some"}}), "supported values"),
    (_cluster(topics={"namePrefix": "a b"}), "should match"),
    (_cluster(rebalance={"maxBytesPerSecond": "1Ki"}), "maxBytesPerSecond must be a quantity of at least 64Ki"),
    (_cluster(rebalance={"mode": "Sometimes"}), "supported values"),
    (_cluster(rollout={"deadlineSeconds": 5}), "should be greater than or equal to 30"),
    (_cluster(rollout={"mode": "Never"}), "supported values"),
    (_topic(name="t" * 250), "at most 249 characters"),
    (_topic(name="clicks", clusterRef={"name": ""}), "at least 1 chars long"),
    (_topic(clusterRef={}), "name: Required value"),
    (_topic(clusterRef={"name": "o" * 41}), "may not be more than 40"),
    (_topic(partitions=0), "should be greater than or equal to 1"),
    (_topic(partitions=10_001), "should be less than or equal to 10000"),
    (_topic(replicationFactor=0), "should be greater than or equal to 1"),
    (_topic(replicationFactor=33), "should be less than or equal to 32"),
    (_topic(deletionPolicy="Shred"), "supported values"),
    (_topic(adoptionPolicy="Always"), "supported values"),
    (_topic(config=_MANY), "must have at most"),
]


def _named(name: str) -> dict[str, Any]:
    topic = _topic()
    topic["spec"]["name"] = name
    return topic


_REFUSED += [
    (_named("."), "name must not be '.' or '..'"),
    (_named(".."), "name must not be '.' or '..'"),
    (_named("__offsets"), "nor begin with '__'"),
    (_named("a/b"), "should match"),
    (_named("a" * 250), "may not be more than 249"),
]

# An object, a change of its spec, and what the API server must say of that.
_CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (_cluster(), {"storage": {"size": "20Gi"}}, "size can not be changed yet"),
    (_cluster(), {"storage": {"storageClassName": "other"}}, "storageClassName can not be changed"),
    (
        _cluster(storage={"size": "1Gi", "storageClassName": "standard"}),
        {"storage": {"storageClassName": None}},
        "storageClassName can not be changed",
    ),
    (_cluster(quorum={"voters": 3}), {"replicas": 1}, "quorum.voters must not be more than replicas"),
    (_topic(), {"name": "other"}, "a topic's name can not be changed"),
    (_topic(), {"clusterRef": {"name": "other"}}, "clusterRef can not be changed"),
    (_topic(), {"clusterRef": {"namespace": "other"}}, "clusterRef can not be changed"),
]


def _said(kubectl: Kubectl, *arguments: str, given: str | None = None) -> str:
    try:
        kubectl(*arguments, given=given)
    except Failed as failed:
        return str(failed)
    return ""


def test_what_can_not_be_is_refused_with_its_reason(operator: Operator, home: Kubectl) -> None:
    wrong = []
    for value, words in _REFUSED:
        said = _said(home, "create", "--dry-run=server", "-f", "-", given=json.dumps(value))
        if words not in said:
            wrong.append(f"{json.dumps(value)[:300]}: {said or 'taken'!r} instead of {words!r}")
    assert not wrong, "\n".join(wrong)


def test_fields_that_there_are_not_are_refused(operator: Operator, home: Kubectl) -> None:
    for value in (_cluster(replica=3), _topic(partition=3)):
        said = _said(home, "create", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(value))
        assert "unknown field" in said


def test_what_can_not_change_is_refused_with_its_reason(operator: Operator, home: Kubectl) -> None:
    wrong = []
    with operator.stopped():
        for value, change, words in _CHANGES:
            kind, name = value["kind"].lower(), value["metadata"]["name"]
            home.apply(value)
            said = _said(home, "patch", kind, name, "--type=merge", "-p", json.dumps({"spec": change}))
            if words not in said:
                wrong.append(f"{json.dumps(value)} to {change}: {said or 'taken'!r} instead of {words!r}")
            home.delete(kind, name)
        # Partitions are compared with what the topic has.
        home.apply(_topic(partitions=6))
        status = {"status": {"partitions": 6}}
        home("patch", "topic", "clicks", "--subresource=status", "--type=merge", "-p", json.dumps(status))
        said = _said(home, "patch", "topic", "clicks", "--type=merge", "-p", '{"spec": {"partitions": 3}}')
        if "partitions can only be added" not in said:
            wrong.append(f"fewer partitions: {said or 'taken'!r}")
        home.delete("topic", "clicks")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def lenient(operator: Operator, cluster_kubectl: Kubectl) -> Iterator[None]:
    """Definitions that take anything, as older or newer ones might."""
    before = {}
    try:
        for plural in ("clusters", "topics"):
            definition = cluster_kubectl.json("crd", f"{plural}.millrace.dev")
            for field in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
                definition["metadata"].pop(field, None)
            definition.pop("status", None)
            before[plural] = copy.deepcopy(definition)
            schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            schema.pop("x-kubernetes-validations", None)
            # Fields that can be selected by must be there.
            name = {"type": "object", "properties": {"name": {"type": "string"}}}
            schema["properties"]["spec"] = {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"clusterRef": {**name, "x-kubernetes-preserve-unknown-fields": True}},
            }
            cluster_kubectl("replace", "-f", "-", given=json.dumps(definition))
        yield
    finally:
        for definition in before.values():
            cluster_kubectl("replace", "-f", "-", given=json.dumps(definition))


def test_one_broken_object_stops_no_other(operator: Operator, lenient: None, home: Kubectl) -> None:
    mark = now()
    value = _cluster("broken", quorum={"voters": "three"})
    home.until("the definitions take it", lambda: home.apply(value), timeout=30)
    home.apply(_topic("broken", partitions={"no": "number"}))
    broken = Cluster(home, "broken")
    broken.until_condition("Stalled", "InvalidSpec", timeout=60)
    assert "voters" in broken.condition("Ready")["message"] or "three" in broken.condition("Ready")["message"]
    cluster = Cluster(home).create(replicas=1)
    cluster.wait_ready()
    home.apply(_topic(partitions=2, replicationFactor=1))
    home.wait("condition=Ready", "topic/clicks")
    topics = {t["metadata"]["name"]: t.get("status", {}).get("conditions", []) for t in home.json("topics")["items"]}
    assert any(c["type"] == "Ready" and c["status"] == "False" for c in topics["broken"]), topics["broken"]
    # A restart finds them broken, and works all the same.
    operator.restart()
    cluster.patch(config={"topic.default.retention.ms": "86400000"})
    home.until("it is carried out", lambda: "86400000" in cluster.millrace("topic", "defaults"))
    assert not operator.is_audited or operator.writes(mark, home.namespace)
    operator.wait_quiet(namespace=home.namespace)
    home.delete("cluster,topic", "broken")
