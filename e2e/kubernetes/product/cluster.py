"""A Cluster object and all that belongs to it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from kube_machine import Failed, Kubectl

from product.objects import Owned


class Cluster(Owned):
    """A Cluster in a namespace of a test."""

    kind = "Cluster"

    def __init__(self, kubectl: Kubectl, name: str = "orders") -> None:
        super().__init__(kubectl, name)
        self.selector = f"millrace.dev/cluster={name},app.kubernetes.io/component=broker"
        self.bootstrap = f"{name}-bootstrap.{kubectl.namespace}.svc:9650"

    # --- the object ---

    def create(self, **spec: Any) -> Cluster:
        """Makes it, by default of three brokers."""
        self.kubectl.apply(self.body(**spec))
        return self

    def body(self, **spec: Any) -> dict[str, Any]:
        """The object as a user writes it."""
        spec.setdefault("storage", {"size": "1Gi"})
        return self.manifest(spec)

    def wait_ready(self, timeout: float = 180) -> None:
        """All of it is as its spec says: Ready, of its generation, with nothing under way."""
        generation = self.get()["metadata"]["generation"]

        def whole(told: dict[str, Any]) -> bool:
            conditions = {each["type"]: each["status"] for each in told.get("conditions", [])}
            return (
                told.get("observedGeneration", 0) >= generation
                and all(conditions.get(each) == "True" for each in ("Ready", "UpToDate", "ReplicasInSync"))
                and "Reconciling" not in conditions
                and "Stalled" not in conditions
                and all(broker["ready"] for broker in told["brokers"])
            )

        self.until(f"{self.name} is ready", whole, timeout)

    @property
    def look(self) -> str:
        """With what each look at it begins, besides the object, which looks at Topics read, too."""
        return f"/apis/apps/v1/namespaces/{self.kubectl.namespace}/statefulsets/{self.name}-broker"

    # --- what belongs to it ---

    def pods(self) -> dict[int, dict[str, Any]]:
        """Its brokers' pods by their number."""
        items = self.kubectl.json("pods", "-l", self.selector)["items"]
        return {int(pod["metadata"]["name"].rpartition("-")[2]): pod for pod in items}

    def pod_uids(self) -> dict[int, str]:
        """Which pods they are."""
        return {number: pod["metadata"]["uid"] for number, pod in self.pods().items()}

    def nodes(self) -> dict[int, str]:
        """Where they run."""
        return {number: pod["spec"].get("nodeName", "") for number, pod in self.pods().items()}

    def claims(self) -> dict[str, str]:
        """The uids of its claims by their names."""
        items = self.kubectl.json("pvc", "-l", self.selector)["items"]
        return {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in items}

    def objects(self) -> dict[str, str]:
        """The resourceVersions of all that the operator makes of it, by kind and name."""
        kinds = "statefulsets,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,pvc"
        items = self.kubectl.json(kinds, "-l", f"millrace.dev/cluster={self.name}")["items"]
        return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in items}

    # --- its brokers ---

    def millrace(
        self, *arguments: str, broker: int | None = None, timeout: float = 60, given: str | None = None
    ) -> str:
        """The command, in a broker's pod: one that is ready if none is named."""
        if broker is None:
            ready = [broker["id"] for broker in self.status().get("brokers", []) if broker["ready"]]
            broker = ready[0] if ready else 0
        command = ["millrace", "--bootstrap", "localhost:9650", *arguments]
        pod = [f"{self.name}-broker-{broker}"] if given is None else ["-i", f"{self.name}-broker-{broker}"]
        return self.kubectl("exec", *pod, "--", *command, timeout=timeout, given=given)

    def ask(self, *arguments: str, broker: int | None = None) -> Any:
        """What the command answers to programs."""
        return json.loads(self.millrace(*arguments, "--output", "json", broker=broker))

    def create_topic(self, name: str, partitions: int = 3, replicas: int = 3) -> None:
        """Makes a topic by the command."""
        self.millrace("topic", "create", name, f"--partitions={partitions}", f"--replication-factor={replicas}")

    def partitions(self, topic: str) -> list[dict[str, Any]]:
        """Each partition's leader, replicas and in-sync replicas."""
        return self.ask("topic", "describe", topic)["partitions"]

    def replicas(self, *topics: str) -> dict[tuple[str, int], list[int]]:
        """Who has each partition."""
        return {(topic, p["partition"]): p["replicas"] for topic in topics for p in self.partitions(topic)}

    def held(self, *topics: str) -> dict[int, float]:
        """How many replicas each broker has."""
        return Counter(broker for replicas in self.replicas(*topics).values() for broker in replicas)

    def shares(self, *topics: str) -> dict[int, float]:
        """How many it should have: with three zones and three replicas each zone has one of each partition."""
        racks = {broker["id"]: broker["rack"] for broker in self.status()["brokers"]}
        assert len(set(racks.values())) == 3
        total = len(self.replicas(*topics))
        return {broker: total / list(racks.values()).count(rack) for broker, rack in racks.items()}

    def is_spread(self, *topics: str, brokers: int) -> bool:
        """Whether so many brokers have what they should have."""
        racks = [broker.get("rack") for broker in self.status()["brokers"]]
        return len(racks) == brokers and None not in racks and self.held(*topics) == self.shares(*topics)

    def sizes(self, *topics: str) -> dict[tuple[str, int], int]:
        """The bytes of each partition's log, of one replica."""
        return {(topic, p["partition"]): p["size_bytes"] for topic in topics for p in self.partitions(topic)}

    def taken(self, broker: int) -> int:
        """All bytes of records that a broker has taken since it was started: from clients, and from other brokers."""
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/pods/{self.name}-broker-{broker}:9652/proxy/metrics"
        metrics = self.kubectl("get", "--raw", path)
        counts = re.findall(r"^millrace_(appended|replicated)_bytes_total(?:\{.*\})? (\d+)$", metrics, re.MULTILINE)
        assert "replicated" in dict(counts), metrics
        return sum(int(count) for _, count in counts)

    def leaders(self, *topics: str) -> Counter[int | None]:
        """How many partitions each broker leads; None is where nobody does."""
        return Counter(partition["leader"] for topic in topics for partition in self.partitions(topic))

    def wait_leaders_even(self, *topics: str, brokers: int = 3, timeout: float = 120) -> None:
        """Waits until so many brokers lead equally many partitions, or one more."""
        found: list[Counter[int | None]] = []

        def even() -> bool:
            found[:] = [self.leaders(*topics)]
            return None not in found[0] and is_even(found[0], brokers)

        try:
            self.kubectl.until("leaders are even", even, timeout)
        except Failed as failed:
            raise Failed(f"{failed}; partitions that each broker leads: {found}") from None

    def delete(self, timeout: float = 120) -> None:
        """Deletes the object and waits until its pods are gone."""
        self.kubectl.delete("cluster", self.name, timeout=timeout)
        self.kubectl.until("its pods are gone", lambda: not self.pods(), timeout)

    def rest(self, seconds: float, holds: Callable[[], Any], what: str) -> None:
        """Fails if something stops to hold within some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not holds():
                raise Failed(f"{what}: not any more; its status: {json.dumps(self.status(), indent=1)}")
            time.sleep(1)


def is_even(counts: Counter[Any], brokers: int) -> bool:
    """Whether so many brokers have equally many, or one more."""
    return len(counts) == brokers and max(counts.values()) - min(counts.values()) <= 1
