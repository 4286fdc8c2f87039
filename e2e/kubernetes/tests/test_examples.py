"""What examples/ shows works as it stands there: its files are applied unchanged, its services built by its script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_machine import Failed, Kubectl, Machine
from product import Cluster, Operator

_EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
_PRODUCER, _CONSUMER, _SHIPPER = "orders-producer", "orders-consumer", "orders-shipper"
# Debian's Go may be older than what go.mod asks for.
_GO = {**os.environ, "PATH": f"/usr/local/go/bin:{os.environ['PATH']}", "GOWORK": "off", "PYTHON": sys.executable}


def _run(*command: str | Path) -> str:
    """A command on the services; gives what it says."""
    ended = subprocess.run(
        command,
        cwd=_EXAMPLES / "services",
        env=_GO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def _apply(kubectl: Kubectl, *files: str) -> None:
    """Strictly: a field that the API server does not know is an error."""
    for file in files:
        kubectl("apply", "--validate=strict", "-f", str(_EXAMPLES / file))


def _pods(kubectl: Kubectl, service: str) -> list[str]:
    pods = kubectl.json("pods", "-l", f"app.kubernetes.io/name={service}", "--field-selector=status.phase=Running")
    return [pod["metadata"]["name"] for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]


def _ask(kubectl: Kubectl, pod: str, page: str) -> str:
    return kubectl("get", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}:8080/proxy/{page}")


def _counters(kubectl: Kubectl, pod: str) -> dict[str, int]:
    lines = _ask(kubectl, pod, "metrics").splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def _wait_shared(kubectl: Kubectl) -> list[str]:
    """Waits until each of two shippers has half of the partitions and has shipped something; gives their pods."""

    def look() -> list[str] | None:
        counters = {pod: _counters(kubectl, pod) for pod in _pods(kubectl, _SHIPPER)}
        told = [(each["partitions_held"], each["shipments_stored_total"] > 0) for each in counters.values()]
        return list(counters) if told == [(3, True), (3, True)] else None

    return kubectl.until("two shippers share the orders", look, timeout=120)


def _values(cluster: Cluster, topic: str) -> list[dict[str, Any]]:
    """What a topic's messages say."""
    lines = cluster.millrace("consume", topic, "--from", "beginning", "--exit-at-end", "--output", "json").splitlines()
    return [json.loads(json.loads(line)["value"]) for line in lines]


def _report(kubectl: Kubectl) -> dict[str, Any]:
    """The consumer's; fails if it has met a gap or a double."""
    (pod,) = _pods(kubectl, _CONSUMER)
    report = json.loads(_ask(kubectl, pod, "report"))
    assert (report["gaps"], report["doubles"], report["partial"]) == (0, 0, False), report
    return report


def _all_consumed(kubectl: Kubectl, orders: int) -> dict[str, Any]:
    """Waits until the consumer has counted so many, not one more or less."""

    def look() -> dict[str, Any] | None:
        report = _report(kubectl)
        return report if report["orders"] >= orders else None

    return kubectl.until(f"{orders} orders are consumed", look, timeout=60)


@pytest.fixture
def services(machine: Machine, tmp_path: Path) -> None:
    """The services' image, on all nodes."""
    archive = tmp_path / "examples.tar"
    _run(_EXAMPLES / "services" / "build", "--output", archive)
    machine.load(archive)


@pytest.fixture
def shared(operator: Operator, cluster_kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl where cluster-full.yaml makes its Cluster; what it and topics-shared.yaml make is removed."""
    kubectl = cluster_kubectl.within("platform")
    yield kubectl
    unprotect = '{"spec":{"deletionProtection":false}}'
    kubectl("patch", "cluster", "events", "--type=merge", "-p", unprotect, check=False)
    for file in ("topics-shared.yaml", "cluster-full.yaml"):
        cluster_kubectl.delete("-f", str(_EXAMPLES / file), timeout=120)


@pytest.mark.timeout(600)
def test_services_lose_and_double_nothing(home: Kubectl, services: None) -> None:
    _apply(home, "cluster.yaml")
    cluster = Cluster(home, "demo")
    cluster.wait_ready()
    _apply(home, "topics.yaml")
    home.wait("condition=Ready", "topic/clicks", "topic/orders", "topic/shipments", timeout=60)
    # The namespace has the strictest security policy.
    _apply(home, "services/deploy.yaml")
    for service in (_PRODUCER, _CONSUMER, _SHIPPER):
        home.rollout(f"deployment/{service}")
    _all_consumed(home, 30)
    shippers = _wait_shared(home)
    home("delete", "pod", shippers[0], "--force", "--grace-period=0")

    (producer,) = _pods(home, _PRODUCER)
    # Whichever broker the services are connected with is among them.
    for broker in sorted(cluster.pods()):
        home("delete", "pod", f"demo-broker-{broker}", "--force", "--grace-period=0")
        _all_consumed(home, _counters(home, producer)["orders_made_total"] + 20)
        cluster.wait_ready()
    counters = _counters(home, producer)
    assert counters["streams_resumed_total"] >= 1, counters
    # One that begins anew comes to the same sums.
    home("rollout", "restart", f"deployment/{_CONSUMER}")
    home.rollout(f"deployment/{_CONSUMER}")
    _all_consumed(home, counters["orders_stored_total"])
    _wait_shared(home)

    output = home.start("logs", "--follow", f"deployment/{_PRODUCER}")
    home("scale", f"deployment/{_PRODUCER}", "--replicas=0")
    said, _ = output.communicate(timeout=60)
    stopped = json.loads(said.splitlines()[-1])
    assert stopped["msg"] == "stopped" and stopped["made"] == stopped["stored"], said
    report = _all_consumed(home, stopped["stored"])
    assert report["orders"] == stopped["stored"]
    assert sum(customer["orders"] for customer in report["customers"].values()) == stopped["stored"]
    # At least once: what is said to be processed is shipped, also by the one that is gone.
    home.until("all is processed", lambda: cluster.ask("group", "describe", "shipping")["lag"] == 0, timeout=60)
    shipped = {shipment["order"] for shipment in _values(cluster, "shipments")}
    assert shipped == {"{writer}/{customer}/{number}".format_map(order) for order in _values(cluster, "orders")}
    assert len(shipped) == stopped["stored"]
    home("delete", "-f", str(_EXAMPLES / "services" / "deploy.yaml"), "-f", str(_EXAMPLES / "topics.yaml"))
    cluster.delete()


@pytest.fixture
def one_node(cluster_kubectl: Kubectl) -> Iterator[None]:
    """All nodes but one take no pods."""
    _, *others = [node["metadata"]["name"] for node in cluster_kubectl.json("nodes")["items"]]
    cluster_kubectl("cordon", *others)
    yield
    cluster_kubectl("uncordon", *others)


def test_a_cluster_on_a_single_node(home: Kubectl, one_node: None) -> None:
    _apply(home, "cluster.yaml")
    cluster = Cluster(home, "demo")
    # As it says in README.md of those who begin with three brokers.
    cluster.until_condition("Stalled", "Unschedulable", timeout=120)
    _apply(home, "one-node.yaml")
    home.wait("condition=Ready", "topic/orders", "topic/shipments", timeout=120)
    cluster.wait_ready()
    assert list(cluster.pods()) == [0]
    assert set(map(len, cluster.replicas("orders").values())) == {1}
    home("delete", "topic", "orders", "shipments")
    cluster.delete()


def test_a_cluster_for_many_teams(shared: Kubectl, cluster_kubectl: Kubectl) -> None:
    _apply(cluster_kubectl, "cluster-full.yaml", "topics-shared.yaml")
    cluster = Cluster(shared, "events")
    cluster.wait_ready()
    cluster_kubectl.within("billing").wait("condition=Ready", "topic/invoices", timeout=60)
    assert len(cluster.partitions("billing.invoices")) == 6
    with pytest.raises(Failed, match="deletionProtection"):
        shared("delete", "cluster", "events", "--wait=false")


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """The names of all fields that are Millrace's own."""
    for name, field in schema.get("properties", {}).items():
        yield name
        # What is below is Kubernetes' own.
        if name != "selector":
            yield from _fields(field)


@pytest.mark.parametrize(
    ("definition", "files"),
    [
        ("clusters.millrace.dev", ["cluster-full.yaml"]),
        ("topics.millrace.dev", ["topics.yaml", "topics-shared.yaml"]),
    ],
)
def test_every_field_is_shown(operator: Operator, cluster_kubectl: Kubectl, definition: str, files: list[str]) -> None:
    (version,) = cluster_kubectl.json("crd", definition)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    text = "\n".join((_EXAMPLES / file).read_text() for file in files)
    # In a comment, if it can't be set in every cluster.
    missing = [name for name in _fields(spec) if not re.search(rf"^ *(# )?{name}:", text, re.MULTILINE)]
    assert missing == []


@pytest.mark.timeout(600)
def test_the_services_code_is_sound() -> None:
    _run(_EXAMPLES / "services" / "generate", "--check")
    assert _run("gofmt", "-l", ".") == ""
    _run("go", "mod", "tidy", "-diff")
    _run("go", "vet", "./...")
    _run("go", "test", "./...")
