"""Network namespaces: one for the control plane, with a bridge, and one for each node, with a link to it.

Nothing of it shows among the interfaces of the computer, and no namespace has a way out. Addresses are the same in
every machine, since no two can see each other. Pods' packets between nodes go by way of the bridge's namespace, which
alone knows where each node's pods are.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from kube_machine.errors import Failed
from kube_machine.host import run, until

GATEWAY = "172.30.0.1"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"


def node_address(number: int) -> str:
    """A node's address."""
    return f"172.30.1.{number}"


def pod_network(number: int) -> str:
    """The network of the pods on a node."""
    return f"10.244.{number}.0/24"


def inside(namespace: str) -> list[str]:
    """What stands before the command line of a program in a namespace. (`ip netns exec` would mount another /sys, in
    which a kubelet finds no control groups.)"""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def _ip(namespace: str, *commands: str) -> None:
    """Runs several commands of ip(8) in a namespace, with one start of it."""
    run(["ip", "-n", namespace, "-batch", "-"], input="".join(f"{c}\n" for c in commands).encode())


def _existing(prefix: str) -> list[str]:
    folder = Path("/run/netns")
    return sorted(f.name for f in folder.glob(f"{prefix}*")) if folder.exists() else []


class Network:
    """The network of one machine. `name` begins the names of all its namespaces."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.control = f"{name}.control"

    def of_node(self, node: str) -> str:
        """The namespace of a node."""
        return f"{self._name}.{node}"

    def make_control(self) -> None:
        """Makes the control plane's namespace."""
        run(["ip", "netns", "add", self.control])
        _ip(
            self.control,
            "link set lo up",
            "link add br0 type bridge stp_state 0",
            f"address add {GATEWAY}/16 dev br0",
            "link set br0 up",
        )
        # Packets of pods come in by the bridge and leave by it: no news of a shorter way for the nodes.
        _sysctl(self.control, "ip_forward=1", "conf.all.send_redirects=0", "conf.br0.send_redirects=0")

    def make_node(self, node: str, number: int, linked: bool = True) -> None:
        """Makes a node's namespace and its link, which is down if not `linked`."""
        namespace, address = self.of_node(node), node_address(number)
        run(["ip", "netns", "add", namespace])
        state = "up" if linked else "down"
        _ip(
            self.control,
            f"link add {node} type veth peer name eth0 netns {namespace}",
            f"link set {node} master br0 {state}",
            f"route replace {pod_network(number)} via {address}",
        )
        _ip(
            namespace,
            "link set lo up",
            f"address add {address}/16 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
        )
        _sysctl(namespace, "ip_forward=1")

    def remove_node(self, node: str) -> None:
        """Removes a node's namespace with its link."""
        # The kernel takes a namespace apart at its leisure; the link's name must be free now.
        with contextlib.suppress(Failed):
            _ip(self.control, f"link delete {node}")
        if self.of_node(node) in _existing(self._name):
            run(["ip", "netns", "delete", self.of_node(node)])

    def link(self, node: str, up: bool) -> None:
        """Cuts a node off, or joins it again."""
        _ip(self.control, f"link set {node} {'up' if up else 'down'}")

    def part(self, node: str, sender: str, receiver: str) -> None:
        """Nothing from one pod on a node gets to another pod any more, and so no answer of the one does."""
        _ip(self.of_node(node), f"rule add from {sender} to {receiver} blackhole")

    def unite(self, node: str, sender: str, receiver: str) -> None:
        """Takes that back."""
        _ip(self.of_node(node), f"rule delete from {sender} to {receiver} blackhole")

    def linked(self, node: str) -> bool:
        """True if the node's link is up."""
        shown = run(["ip", "-n", self.control, "-json", "link", "show", node], check=False)
        return bool(shown) and "UP" in json.loads(shown)[0]["flags"]

    def pids(self) -> list[int]:
        """The processes in the namespaces of this machine."""
        found = [run(["ip", "netns", "pids", name], check=False) for name in _existing(f"{self._name}.")]
        return [int(pid) for pids in found for pid in pids.split()]

    def remove(self) -> None:
        """Removes all namespaces of this machine."""

        def gone() -> bool:
            for namespace in _existing(f"{self._name}."):
                subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
            return not _existing(f"{self._name}.")

        until("the network namespaces are removed", gone, 20)


def _sysctl(namespace: str, *settings: str) -> None:
    run([*inside(namespace), "sysctl", "-qw", *(f"net.ipv4.{s}" for s in settings)])
