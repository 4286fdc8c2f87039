"""The operator as a Helm release."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kube_machine import Failed, Helm, Kubectl, Machine

from product.cluster import Cluster
from product.images import Images, Missing
from product.topic import Topic

CHART = Path(__file__).resolve().parents[3] / "charts" / "millrace"
_READS = ("get", "list", "watch")
# What it writes that lies still when it does.
_WRITTEN = "clusters,topics,statefulsets,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies"


def now(later: float = 0) -> str:
    """A time as the audit writes it: this moment, or so many seconds later."""
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Operator:
    """A release of the chart: its operator is started, stopped and killed, and what it asks for is looked at."""

    name = "millrace-operator"

    def __init__(
        self, helm: Helm, kubectl: Kubectl, machine: Machine | None, images: Images, namespace: str = "millrace-system"
    ) -> None:
        self._helm, self._machine, self._images = helm, machine, images
        self.namespace = namespace
        self.release = "millrace"
        self.kubectl = kubectl.within(namespace)
        # When helm was called.
        self.began = 0.0
        # The audit's time from which on all that it asked for is of this run.
        self.since = now()
        self._uninstalled: list[tuple[str, str]] = []

    # --- the release ---

    def install(self, *arguments: str, wait: bool = True) -> None:
        """Installs the chart with the tests' image; a release that is there becomes as a new one would be."""
        repository, _, tag = self._images.product.rpartition(":")
        values = {"image.repository": repository, "image.tag": tag, "image.pullPolicy": self._images.pull_policy}
        sets = [f"--set={key}={value}" for key, value in values.items()]
        self.began = time.monotonic()
        waits = ["--wait", "--timeout=120s"] if wait else []
        where = [f"--namespace={self.namespace}", "--create-namespace"]
        self._helm("upgrade", "--install", self.release, str(CHART), *where, *sets, *arguments, *waits, timeout=150)

    def uninstall(self) -> None:
        """`helm uninstall`, with what the chart does before."""
        began = now()
        self._helm("uninstall", self.release, f"--namespace={self.namespace}", "--wait", "--timeout=120s", timeout=150)
        # Its roles may go before its last pod does, which helm does not wait for.
        self.kubectl.until("the operator's pods are gone", lambda: not self.pods(), 60)
        self._uninstalled.append((began, now(2)))

    def is_uninstalled(self, entry: dict[str, Any]) -> bool:
        """Whether an entry of the audit is of a time at which it was being uninstalled."""
        return any(began <= entry["requestReceivedTimestamp"] <= ended for began, ended in self._uninstalled)

    def test(self) -> str:
        """`helm test`, with what its pod said."""
        where = [f"--namespace={self.namespace}", "--logs", "--timeout=300s"]
        return self._helm("test", self.release, *where, timeout=330)

    # --- its pods ---

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods."""
        return self.kubectl.json("pods", "-l", f"app.kubernetes.io/name={self.name}")["items"]

    def scale(self, replicas: int) -> None:
        """Starts or stops it; waits until it is so."""
        self.kubectl("scale", f"deployment/{self.name}", f"--replicas={replicas}")
        if replicas:
            self.kubectl.rollout(f"deployment/{self.name}")
        self.kubectl.until("the operator's pods", lambda: len(self.pods()) == replicas)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Does without it for a while."""
        self.scale(0)
        try:
            yield
        finally:
            self.scale(1)

    def holder(self) -> str:
        """Who holds its Lease, as it is written there: a pod's name and more."""
        return self.kubectl.json("lease", self.name)["spec"].get("holderIdentity") or ""

    def kill(self, after: float) -> None:
        """Ends it by SIGKILL, so long after it has begun to work: it can end nothing in order, nor release its Lease.

        The Deployment starts another one, which works when the Lease has run out.
        """
        if self._machine is None:
            raise Missing("processes of the cluster of MILLRACE_E2E_KUBECONFIG can't be killed")

        def working() -> dict[str, Any] | None:
            holder = self.holder()
            return next((pod for pod in self.pods() if holder.startswith(pod["metadata"]["name"])), None)

        pod = self.kubectl.until("one of its pods works", working, timeout=120, pause=0.1)
        time.sleep(after)
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        if not self._machine.node(node).kill_pod(name):
            raise Failed(f"{name} has no process on {node}")
        if not self.holder().startswith(name):
            raise Failed(f"{name} has released its Lease, or lost it before it was killed")
        # Containers that end are started again after a time that grows; those of a new pod are not.
        self.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")

    def restart(self) -> None:
        """Ends it in order and waits for its successor."""
        self.kubectl("rollout", "restart", f"deployment/{self.name}")
        self.wait_single()

    def wait_single(self) -> dict[str, Any]:
        """Waits until the newest is there and all others are gone; gives its pod."""
        self.kubectl.rollout(f"deployment/{self.name}")
        self.kubectl.until("one operator", lambda: len(self.pods()) == 1)
        return self.pods()[0]

    def log(self) -> str:
        """What its pods said."""
        names = [pod["metadata"]["name"] for pod in self.pods()]
        return "".join(self.kubectl.logs(name, "--tail=-1") for name in names)

    # --- what it asked for ---

    @property
    def is_audited(self) -> bool:
        """Whether what it asks for can be looked at: not on a cluster that is not ours."""
        return self._machine is not None

    def requests(self, since: str) -> list[dict[str, Any]]:
        """All that it asked the API server for since a time. Missing, where there is no audit."""
        if self._machine is None:
            raise Missing("the cluster of MILLRACE_E2E_KUBECONFIG does not tell us what the operator asked for")
        user = f"system:serviceaccount:{self.namespace}:{self.name}"
        return [
            entry
            for entry in self._machine.audit()
            if entry["user"]["username"] == user and entry["requestReceivedTimestamp"] >= since
        ]

    def wait_looked(self, since: str, *objects: Cluster | Topic) -> None:
        """Waits until its newest pod has looked at each of them since a time, to the end: until it has begun twice."""
        newest = self.wait_single()["metadata"]["name"]

        def looked() -> bool:
            asked = [e["requestURI"].partition("?")[0] for e in self.requests(since) if pod_of(e) == newest]
            if all(asked.count(each.look) >= 2 for each in objects):
                return True
            for each in objects:
                each.look_again()
            return False

        self.kubectl.until("it has looked at all of them", looked, timeout=120, pause=0.5)

    def _changes(self, since: str, namespace: str | None, events: bool = False) -> list[dict[str, Any]]:
        return [
            entry
            for entry in self.requests(since)
            if entry["verb"] not in _READS
            and entry["objectRef"]["resource"] != "leases"
            and (entry["objectRef"]["resource"] == "events") == events
            and (namespace is None or entry["objectRef"].get("namespace") == namespace)
        ]

    def writes(self, since: str, namespace: str | None = None) -> list[str]:
        """What it wrote since a time, but for Leases and Events: `patch services/orders-broker: 200`."""
        return [_told(entry) for entry in self._changes(since, namespace)]

    def events(self, since: str, namespace: str) -> list[str]:
        """What Events it wrote of a namespace's objects, in the same words."""
        return [_told(entry) for entry in self._changes(since, namespace, events=True)]

    def writers(self, since: str, namespace: str | None = None) -> list[str]:
        """Which of its pods wrote that, in turn; one that writes several times on end is named once."""
        changes = sorted(self._changes(since, namespace), key=lambda entry: entry["requestReceivedTimestamp"])
        return [pod for pod, _ in itertools.groupby(changes, key=pod_of)]

    def refusals(self, since: str) -> list[str]:
        """What it was not allowed."""
        return [
            f"{entry['verb']} {_object(entry)}"
            for entry in self.requests(since)
            if entry.get("responseStatus", {}).get("code") in (401, 403)
        ]

    def evictions(self, since: str) -> list[dict[str, Any]]:
        """The evictions that were admitted, with their options."""
        return [
            entry
            for entry in self.requests(since)
            if entry["objectRef"].get("subresource") == "eviction" and entry["responseStatus"]["code"] == 201
        ]

    def wait_quiet(self, seconds: float = 3, timeout: float = 60, namespace: str | None = None) -> None:
        """Waits until it has written nothing for some time."""
        if self._machine is None:
            self._wait_unchanged(seconds, timeout, namespace)
            return
        deadline = time.monotonic() + timeout
        while found := self.writes(now(-seconds), namespace):
            if time.monotonic() > deadline:
                raise Failed(f"the operator does not come to rest; in {seconds} s it wrote {json.dumps(found)}")
            time.sleep(0.5)

    def _wait_unchanged(self, seconds: float, timeout: float, namespace: str | None) -> None:
        """The same where there is no audit: all that it writes to stays as it is."""

        def versions() -> dict[str, str]:
            items = self.kubectl.json(_WRITTEN, f"--namespace={namespace}" if namespace else "-A")["items"]
            return {i["metadata"]["uid"]: i["metadata"]["resourceVersion"] for i in items}

        deadline = time.monotonic() + timeout
        found = versions()
        while True:
            time.sleep(seconds)
            before, found = found, versions()
            if found == before:
                return
            if time.monotonic() > deadline:
                changed = sorted(set(found.items()) ^ set(before.items()))
                raise Failed(f"what the operator writes to does not come to rest: {changed}")


def pod_of(entry: dict[str, Any]) -> str:
    """The pod whose account has asked, by the audit."""
    return entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['verb']} {_object(entry)}: {entry.get('responseStatus', {}).get('code')}"


def _object(entry: dict[str, Any]) -> str:
    reference = entry["objectRef"]
    parts = [reference["resource"], reference.get("subresource", "")]
    kind = "/".join(part for part in parts if part)
    return f"{kind} {reference.get('namespace', '')}/{reference.get('name', '')}"
