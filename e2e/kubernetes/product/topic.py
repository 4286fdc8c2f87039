"""A Topic object."""

from __future__ import annotations

from typing import Any

from kube_machine import Kubectl

from product.cluster import Cluster
from product.objects import Owned

FINALIZER = "millrace.dev/topic"


class Topic(Owned):
    """A Topic in a namespace of a test, for a Cluster in this or another one."""

    kind = "Topic"

    def __init__(self, kubectl: Kubectl, name: str, cluster: Cluster) -> None:
        super().__init__(kubectl, name)
        self._cluster = {"name": cluster.name}
        if cluster.kubectl.namespace != kubectl.namespace:
            self._cluster["namespace"] = str(cluster.kubectl.namespace)

    def body(self, **spec: Any) -> dict[str, Any]:
        """The object as a user writes it."""
        return self.manifest({"clusterRef": self._cluster, **spec})

    def create(self, **spec: Any) -> Topic:
        """Makes it."""
        self.kubectl.apply(self.body(**spec))
        return self

    @property
    def look(self) -> str:
        """With what each look at it begins."""
        return f"/apis/millrace.dev/v1alpha1/namespaces/{self.kubectl.namespace}/topics/{self.name}"

    def wait_ready(self, timeout: float = 120) -> Topic:
        """What users wait for before the first record."""
        self.kubectl.wait("condition=Ready", f"topic/{self.name}", timeout=timeout)
        return self

    def is_held(self) -> bool:
        """Whether it is kept until its topic is deleted."""
        return FINALIZER in self.get()["metadata"].get("finalizers", [])

    def delete(self, timeout: float = 120) -> None:
        """Deletes the object and waits until it is gone."""
        self.kubectl.delete("topic", self.name, timeout=timeout)
