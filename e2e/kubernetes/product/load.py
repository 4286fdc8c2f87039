"""The load on a cluster: a pod of millrace-load, which knows all that it was promised."""

from __future__ import annotations

import json
import time
from typing import Any

from kube_machine import Kubectl

from product.images import Images

# Without an outage no partition waits longer for an acknowledgement, on a computer with much other work.
_MAX_WAIT_MS = 30_000

_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


class Load:
    """Writes to topics and reads them, from within the cluster, until `verdict`."""

    def __init__(self, kubectl: Kubectl, images: Images, name: str = "load") -> None:
        self.kubectl, self._image, self._pull_policy = kubectl, images.load, images.pull_policy
        self.name = name
        self._path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}:8080/proxy"
        self._marked: dict[str, Any] = {}

    def start(self, bootstrap: str, *topics: str, rate: int = 300, producers: int = 2, size: int = 200) -> Load:
        """Starts it, and waits until something is acknowledged."""
        flags = {"bootstrap": bootstrap, "topics": ",".join(topics)}
        flags |= {"rate": str(rate), "producers": str(producers), "value-size": str(size)}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": {"app": "millrace-load"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                # A node that fails in a test must take a broker, and not what is known.
                "tolerations": [{"operator": "Exists"}],
                "containers": [
                    {
                        "name": "load",
                        "image": self._image,
                        "imagePullPolicy": self._pull_policy,
                        "args": [f"--{name}={value}" for name, value in flags.items()],
                        "securityContext": _SECURITY,
                        "readinessProbe": {"httpGet": {"port": 8080, "path": "/livez"}, "periodSeconds": 1},
                        "resources": {
                            "requests": {"cpu": "50m", "memory": "64Mi"},
                            "limits": {"memory": "1Gi"},
                        },
                    }
                ],
            },
        }
        self.kubectl.apply(pod)
        self.kubectl.wait("condition=Ready", f"pod/{self.name}", timeout=60)
        self.kubectl.until("something is acknowledged", lambda: self.status()["acknowledged"] > 0, timeout=60)
        self.mark()
        return self

    @property
    def node(self) -> str:
        """Where it runs: not a node to crash."""
        return self.kubectl.json("pod", self.name)["spec"]["nodeName"]

    def status(self) -> dict[str, Any]:
        """What it knows now."""
        return json.loads(self.kubectl("get", "--raw", f"{self._path}/status", timeout=20))

    def _post(self, what: str, timeout: float = 20) -> dict[str, Any]:
        return json.loads(self.kubectl("create", "--raw", f"{self._path}/{what}", "-f", "-", timeout=timeout, given=""))

    def mark(self) -> dict[str, Any]:
        """From here on waits are measured and acknowledgements counted anew; gives what was before."""
        before = self._post("mark")
        self._marked = before
        return before

    def pause(self) -> None:
        """Sends nothing for the moment."""
        self._post("pause")

    def resume(self) -> None:
        """Goes on."""
        self._post("resume")

    def goes_on(self, count: int = 50, timeout: float = 60) -> None:
        """Waits until some more is acknowledged from now on."""
        begin = self.status()["acknowledged"]
        self.kubectl.until("more is acknowledged", lambda: self.status()["acknowledged"] >= begin + count, timeout)

    def check(self, outage: bool = False) -> dict[str, Any]:
        """Fails if something is wrong already, or nothing was acknowledged since the mark.

        Without an outage since the mark all partitions could be written all the time.
        """
        told = self.status() if outage else self._looked()
        self._judge(told, outage)
        return told

    def _looked(self) -> dict[str, Any]:
        """What it knows once it has asked the cluster for its partitions since the mark."""

        def looked() -> dict[str, Any] | None:
            told = self.status()
            return told if told["health_looks"] else None

        return self.kubectl.until("the cluster is asked for its partitions", looked, timeout=30)

    def verdict(self, within: float = 120, outage: bool = False) -> dict[str, Any]:
        """Ends it: all that was sent is answered, all that is there is read, twice, and nothing is wrong.

        Without an outage since the mark all partitions could be written all the time.
        """
        began = time.monotonic()
        # The call is cut off if a node or the API server goes; it goes on all the same, and is asked for again.
        told = self.kubectl.until("the load's end", lambda: self._finish(within), within + 60, pause=1)
        print(
            f"load: {told['acknowledged']} acknowledged, {told['consumed']} read; longest without an acknowledgement: "
            f"{told['longest_gap_ms']} ms, in one partition {told['longest_partition_gap_ms']} ms "
            f"({told['longest_gap_partition']}); in {told['health_looks']} looks at most {told['under_min_in_sync']} "
            f"partitions under min.insync.replicas, for {told['under_min_in_sync_ms']} ms; "
            f"ended in {time.monotonic() - began:.1f} s"
        )
        if told["undone"]:
            raise AssertionError(f"the load could not be ended: {json.dumps(told, indent=1)}")
        self._judge(told, outage)
        return told

    def _judge(self, told: dict[str, Any], outage: bool) -> None:
        wrong = {name: told[name] for name in ("lost", "doubled", "misplaced", "skipped", "failed") if told[name]}
        if not outage:
            if told["under_min_in_sync"]:
                wrong["under_min_in_sync"] = told["under_min_in_sync_partitions"]
            if told["longest_partition_gap_ms"] > _MAX_WAIT_MS:
                wrong["longest_partition_gap_ms"] = told["longest_partition_gap_ms"]
            if not told["health_looks"]:
                wrong["health_looks"] = "the cluster was never asked for its partitions"
        if wrong:
            raise AssertionError(f"{wrong}: {json.dumps(told, indent=1)}")
        if told["acknowledged"] <= self._marked.get("acknowledged", 0):
            raise AssertionError(f"nothing was acknowledged meanwhile: {json.dumps(told, indent=1)}")

    def _finish(self, within: float) -> dict[str, Any]:
        pod = self.kubectl.json("pod", self.name)
        if pod["status"]["phase"] != "Running" or pod["status"]["containerStatuses"][0]["restartCount"]:
            raise RuntimeError(f"the load's pod has ended: {json.dumps(pod['status'], indent=1)}")
        return self._post(f"finish?within_seconds={within:.0f}", within + 20)
