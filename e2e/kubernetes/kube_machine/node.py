"""One node: a network namespace, a folder that is its disk, and a first process with which all on it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kube_machine import configs
from kube_machine.certificates import Authority
from kube_machine.errors import Failed
from kube_machine.host import (
    children,
    descendants,
    freeze,
    kill,
    make_cgroup,
    remove_cgroup,
    run,
    started_at,
    stopped,
    thaw,
    until,
    variable,
)
from kube_machine.layout import Layout
from kube_machine.network import Network, inside, node_address, pod_network
from kube_machine.processes import Processes


class Node:
    """The node of a machine with a number (from 1 on, never given twice) in a zone."""

    def __init__(self, layout: Layout, processes: Processes, number: int, zone: str) -> None:
        self.number = number
        self.name = f"node{number}"
        self.zone = zone
        self._layout = layout
        self._processes = processes
        self._network = Network(layout.prefix)
        self._disk = layout.node_disk(self.name)
        self._cgroup = f"{layout.prefix}/{self.name}"

    # --- made and started ---

    def make(self, authority: Authority) -> None:
        """Makes its disk with its configuration and its right to be this node."""
        address = node_address(self.number)
        cni = self._disk / "var-lib" / "cni" / "conf"
        cni.mkdir(parents=True)
        (self._disk / "var-log").mkdir()
        (self._disk / "imported").mkdir()
        # No name server but the cluster's for pods that want the node's own: there is no way out.
        (self._disk / "resolv.conf").write_text(f"nameserver {configs.GATEWAY}\n")
        seen = f"{configs.HERE}/nodes/{self.name}"
        (self._disk / "containerd.toml").write_text(configs.containerd(_snapshotter(self._layout.folder)))
        (self._disk / "kubelet.json").write_text(configs.kubelet(address, self._cgroup, f"{seen}/resolv.conf"))
        (self._disk / "proxy.json").write_text(configs.proxy(self.name))
        (cni / "10-pods.conflist").write_text(configs.pod_network(pod_network(self.number)))
        authority.client(self.name, f"/O=system:nodes/CN=system:node:{self.name}", configs.API)

    def start(self, linked: bool = True) -> None:
        """Starts it with its disk as it is; its network begins anew, as after any boot."""
        if self.running():
            raise Failed(f"{self.name} runs already")
        self._network.remove_node(self.name)
        self._network.make_node(self.name, self.number, linked)
        # No groups of pods from before a crash: the kubelet would wait seconds for each to tell whose it is.
        remove_cgroup(self._cgroup)
        make_cgroup(self._cgroup)
        namespaces = ["unshare", "--mount", "--propagation", "private"]
        namespaces += ["--pid", "--fork", "--mount-proc", "--kill-child"]
        script = f"{configs.HERE}/scripts/node.sh"
        self._processes.start(
            self.name,
            [
                *inside(self._network.of_node(self.name)),
                *namespaces,
                *self._processes.private("sh", script, self.name, node_address(self.number), self.zone),
            ],
        )

    def restart(self) -> None:
        """Starts it after a crash. A cable that was cut stays cut."""
        self.start(self._network.linked(self.name))

    # --- its state ---

    def _first(self) -> int | None:
        """The node's first process, as this computer numbers it."""
        outer = self._processes.pid(self.name)
        below = children(outer) if outer is not None else []
        return below[0] if below else None

    def running(self) -> bool:
        """True if it has not crashed."""
        return self._processes.pid(self.name) is not None

    def state(self) -> str:
        """One word, or two, for people."""
        first = self._first()
        if first is None:
            return "crashed"
        state = "frozen" if stopped(first) else "running"
        return state if self._network.linked(self.name) else f"{state}, cut off"

    def pids(self) -> list[int]:
        """For import and for looking: the node's first process, or Failed if the node has crashed."""
        first = self._first()
        if first is None:
            raise Failed(f"{self.name} has crashed")
        return [first]

    # --- what is done to it ---

    def crash(self) -> None:
        """Ends all its processes at once, kubelet, containers and all, as a power cut does."""
        outer, first = self._processes.pid(self.name), self._first()
        if outer is None:
            raise Failed(f"{self.name} has crashed already")
        for pid in (first, outer):
            if pid is not None:
                kill(pid)
        # The kernel ends the rest before the first process is gone; `outer` waits for that.
        until(f"{self.name} is gone", lambda: all(started_at(p) is None for p in (first, outer) if p), 20, 0.02)

    def kill_pod(self, pod: str) -> int:
        """Ends all processes of a pod at once by SIGKILL, which none of them can take; gives how many there were."""
        # A container's processes are told its pod's name.
        found = [pid for pid in descendants(self.pids()[0]) if variable(pid, "HOSTNAME") == pod]
        for pid in found:
            kill(pid)
        return len(found)

    def freeze(self) -> None:
        """Lets all its processes stand still; its kernel still answers pings and takes connections."""
        freeze(self.pids()[0])

    def thaw(self) -> None:
        """Lets them go on."""
        thaw(self.pids()[0])

    def cut(self) -> None:
        """Takes its network link down."""
        self._network.link(self.name, up=False)

    def join(self) -> None:
        """Brings its network link up."""
        self._network.link(self.name, up=True)

    @contextlib.contextmanager
    def parted(self, own: str, other: str) -> Iterator[None]:
        """Two pods, of which the first is on this node, don't hear of each other: by their addresses."""
        self._network.part(self.name, own, other)
        try:
            yield
        finally:
            self._network.unite(self.name, own, other)

    def import_images(self) -> None:
        """Brings the machine's images that it does not have yet into its containerd. A crashed node does so when it
        starts."""
        run(
            self.enter("sh", f"{configs.HERE}/scripts/import.sh", self.name),
            timeout=300,
            env={"PATH": self._processes.path},
        )

    def enter(self, *command: str) -> list[str]:
        """The command line that runs a command on the node itself, with its files, network and processes."""
        return ["nsenter", f"--target={self.pids()[0]}", "--mount", "--net", "--pid", "--", *command]

    def remove(self) -> None:
        """Removes what is left of it after its crash."""
        self._network.remove_node(self.name)
        remove_cgroup(self._cgroup)
        shutil.rmtree(self._disk)
        self._layout.pid_file(self.name).unlink(missing_ok=True)


def _snapshotter(folder: Path) -> str:
    """How containers' layers are laid over each other. Where the folder lies on an overlay itself (as in a container),
    the kernel refuses another on top: then files are copied. (That way was not tried.)"""
    kind = run(["stat", "--file-system", "--format=%T", os.fspath(folder)]).strip()
    return "native" if kind == "overlayfs" else "overlayfs"
