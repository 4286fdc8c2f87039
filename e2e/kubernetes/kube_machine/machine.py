"""A whole cluster: control plane, nodes, and the faults that tests put in.

Each method can be called from any process, whichever started the machine: what is to be known lies in its folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kube_machine import configs
from kube_machine.api import Api
from kube_machine.certificates import Authority
from kube_machine.errors import Failed, NotHere
from kube_machine.host import end_all, freeze, mark, remove_cgroup, remove_folder, run, stopped, tail, thaw, until
from kube_machine.layout import COMPONENTS, Layout, build, default_name
from kube_machine.network import API_ADDRESS, GATEWAY, Network, inside, node_address
from kube_machine.node import Node
from kube_machine.processes import Processes

# On 2 cores with other work beside; it is about ten seconds when there is none.
_START_TIMEOUT = 120.0
# Kubelets, containerds and kube-proxies watch files; the usual limit of a user is 128 such watchers.
_INOTIFY_INSTANCES = 4096


class Machine:
    """The cluster of a name. Made or not: `is_up` tells."""

    def __init__(self, name: str | None = None) -> None:
        self.layout = Layout(name or default_name())
        self.name = self.layout.name
        self.folder = self.layout.folder
        self.kubeconfig = self.layout.kubeconfig
        self._network = Network(self.layout.prefix)
        # Seconds that parts of `up` took, for those who want to know.
        self.times: dict[str, float] = {}

    # --- up and down ---

    def is_up(self) -> bool:
        """True if it was started as a whole and not taken down."""
        return bool(self.layout.state().get("complete"))

    def up(self, nodes: int = 3, zones: int = 3) -> Path:
        """Starts the cluster and waits until all nodes are Ready and names are answered; gives the kubeconfig."""
        _check_computer(self.folder)
        if not 1 <= nodes <= 100 or not 1 <= zones <= nodes:
            raise Failed(f"{nodes} nodes in {zones} zones can't be: 1 to 100 nodes, and no zone without a node")
        executables = build()
        with self._alone():
            if self.is_up():
                raise Failed(
                    f"{self.name} is up already: {self.layout.env_command()} to use it, "
                    f"{self.layout.command('down')} to end it"
                )
            # What a killed `up` left.
            self._remove()
            try:
                self._start(executables, nodes, zones)
            except BaseException:
                self._remove()
                raise
        return self.kubeconfig

    def down(self) -> None:
        """Ends and removes all of it, whatever state it is in."""
        if os.geteuid() != 0:
            raise NotHere("this needs root")
        with self._alone():
            self._remove()

    def _remove(self) -> None:
        end_all(self.folder)
        # Of the same name, but started with another TMPDIR: taking its network away would leave the rest running.
        for other in {mark(pid) for pid in self._network.pids()} - {None}:
            raise Failed(f"{self.name} runs in {other}: TMPDIR={shlex.quote(str(Path(str(other)).parent))} says that")
        self._network.remove()
        remove_cgroup(self.layout.prefix)
        remove_folder(self.folder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds off other commands that change the same machine. A name that the kernel forgets with its holder."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:

            def taken() -> bool:
                try:
                    lock.bind(f"\0{self.layout.prefix}")
                except OSError:
                    return False
                return True

            until(f"another command that changes {self.name} ends", taken, _START_TIMEOUT + 60)
            yield

    def _start(self, executables: Path, nodes: int, zones: int) -> None:
        began = time.monotonic()

        def done(what: str) -> None:
            self.times[what] = time.monotonic() - began

        layout = self.layout
        _raise_inotify()
        for folder in (layout.folder, layout.log, layout.images, layout.folder / "scripts", layout.folder / "nodes"):
            folder.mkdir(mode=0o755)
        # Pods of any user write into folders of it.
        (layout.folder / "volumes").mkdir()
        (layout.folder / "volumes").chmod(0o777)
        for script in layout.scripts():
            shutil.copy(script, layout.folder / "scripts")
        shutil.copy(executables.parent / "pause.tar", layout.images / "pause.tar")
        (layout.folder / "audit-policy.json").write_text(configs.audit_policy())
        (layout.folder / "Corefile").write_text(configs.corefile())

        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        port = listener.getsockname()[1]
        state: dict[str, Any] = {"executables": str(executables), "port": port, "nodes": {}, "next": 1}
        layout.save_state(state)
        self._network.make_control()
        processes = self._processes()
        with listener:
            listener.set_inheritable(True)
            relay = [str(executables / "relay"), str(listener.fileno()), f"{GATEWAY}:6443"]
            processes.start("relay", [*inside(self._network.control), *relay], [listener.fileno()])

        # etcd needs no certificates and starts beside.
        authority = Authority(layout.pki)
        authority.make()
        self._start_component("etcd")
        with ThreadPoolExecutor() as pool:
            admin = pool.submit(authority.client, "admin", "/O=system:masters/CN=admin", f"https://127.0.0.1:{port}")
            names = "DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
            server = pool.submit(
                authority.certificate,
                "apiserver",
                "/CN=kube-apiserver",
                f"{names},IP:127.0.0.1,IP:{GATEWAY},IP:{API_ADDRESS}",
            )
            others = [
                pool.submit(authority.client, name, f"/CN={user}", configs.API)
                for name, user in (
                    ("controller-manager", "system:kube-controller-manager"),
                    ("scheduler", "system:kube-scheduler"),
                    ("proxy", "system:kube-proxy"),
                    ("coredns", "system:coredns"),
                )
            ]
            shutil.copy(admin.result(), self.kubeconfig)
            server.result()
            self._start_component("apiserver")
            for other in others:
                other.result()
        done("API server started")
        made = [self._new_node(state, f"zone-{index % zones + 1}") for index in range(nodes)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: (node.make(authority), node.start()), made))
        done("nodes started")

        api = Api(self.kubeconfig)
        self._wait("the API server serves", api.serves, ["etcd", "apiserver", "relay"], "apiserver")
        layout.serving.touch()
        done("API server serves")
        for name in ("controller-manager", "scheduler", "coredns"):
            self._start_component(name)
        for collection, body in configs.objects():
            # The rules of who may do what come a moment after the API server says that it is ready.
            make = functools.partial(_created, api, collection, body)
            self._wait(f"{collection} can be written", make, ["apiserver"], "apiserver")
        done("objects made")
        self._wait_ready(made, api)
        done("nodes ready")
        self._wait("names are answered", self._answers_names, ["coredns"], "coredns")
        # Pods need it, and it is made by a controller a moment after the start.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("service accounts are made", lambda: api.get(account), ["controller-manager"], "controller-manager")
        state["complete"] = True
        layout.save_state(state)
        done("complete")

    # --- parts of it ---

    def _processes(self) -> Processes:
        state = self.layout.state()
        if not state:
            raise Failed(
                f"no cluster {self.name} is up (its folder would be {self.folder}): "
                f"start it, as root, with {self.layout.command('up')}"
            )
        return Processes(self.layout, Path(state["executables"]))

    def executables(self) -> Path:
        """The folder with kubectl, helm and the rest."""
        self._processes()
        return Path(self.layout.state()["executables"])

    def api(self) -> Api:
        """The API server, asked as administrator."""
        self._processes()
        return Api(self.kubeconfig)

    def _wait(
        self, what: str, condition: Callable[[], object], alive: Iterable[str], guilty: str | None = None
    ) -> None:
        """Waits; Failed, with the end of the log of who is to blame, if it takes too long or a process ends."""
        processes = self._processes()

        def holds() -> bool:
            processes.check(*alive)
            try:
                return bool(condition())
            except OSError:
                return False
            except Failed:
                return False

        try:
            until(what, holds, _START_TIMEOUT)
        except Failed as failed:
            if guilty is None or "log ends" in str(failed):
                raise
            raise Failed(f"{failed}; the log of {guilty} ends:\n{tail(processes.log(guilty))}") from None

    def _wait_ready(self, nodes: Iterable[Node], api: Api) -> None:
        names = {node.name for node in nodes}
        ready: set[str] = set()

        def all_ready() -> bool:
            ready.update(api.ready_nodes())
            return names <= ready

        try:
            self._wait("all nodes are Ready", all_ready, [*names, "apiserver"])
        except Failed as failed:
            if "log ends" in str(failed):
                raise
            log = self.layout.log / f"{min(names - ready)}-kubelet.log"
            raise Failed(f"{failed}; {log} ends:\n{tail(log)}") from None

    def _answers_names(self) -> bool:
        """True if CoreDNS knows the cluster's first Service. Asked inside, where it listens."""
        script = Path(__file__).with_name("ask_name.py")
        command = [*inside(self._network.control), sys.executable, "-IS", str(script), GATEWAY]
        return run([*command, "kubernetes.default.svc.cluster.local", API_ADDRESS], check=False).strip() == "yes"

    def _start_component(self, name: str) -> None:
        processes = self._processes()
        own_mounts = ["unshare", "--mount", "--propagation", "private"]
        command = processes.private(*configs.component(name))
        processes.start(name, [*inside(self._network.control), *own_mounts, *command])

    def _component(self, name: str) -> str:
        if name not in COMPONENTS:
            raise Failed(f"no component {name!r}: {', '.join(COMPONENTS)}")
        return name

    # --- nodes ---

    def _new_node(self, state: dict[str, Any], zone: str) -> Node:
        number = state["next"]
        state["next"] += 1
        state["nodes"][f"node{number}"] = {"number": number, "zone": zone}
        self.layout.save_state(state)
        return Node(self.layout, self._processes(), number, zone)

    def nodes(self) -> dict[str, Node]:
        """The nodes by their names, crashed ones too."""
        processes = self._processes()
        known = self.layout.state()["nodes"]
        return {name: Node(self.layout, processes, node["number"], node["zone"]) for name, node in known.items()}

    def node(self, name: str) -> Node:
        """One node."""
        nodes = self.nodes()
        if name not in nodes:
            raise Failed(f"no node {name!r}: {', '.join(nodes)}")
        return nodes[name]

    def crash(self, node: str) -> None:
        """Power cut: see Node.crash."""
        self.node(node).crash()

    def start(self, node: str, wait: bool = True) -> None:
        """Brings a crashed node back with its old disk; waits until it is Ready (a node cut off is not waited for)."""
        with self._alone():
            back = self.node(node)
            before = self._heartbeats().get(node)
            back.restart()
        if wait and self._network.linked(node):
            # The API server may not have noticed the crash yet: what counts is a sign of life after the start.
            self._wait(f"{node} is back", lambda: self._heartbeats().get(node) != before, [node, "apiserver"])
            self._wait_ready([back], self.api())

    def _heartbeats(self) -> dict[str, str]:
        """When each node's kubelet was started, as it told itself."""
        with contextlib.suppress(OSError, Failed):
            nodes = self.api().get("/api/v1/nodes")["items"]
            return {
                n["metadata"]["name"]: c["lastHeartbeatTime"]
                for n in nodes
                for c in n.get("status", {}).get("conditions", [])
                if c["type"] == "Ready"
            }
        return {}

    def freeze(self, node: str) -> None:
        """All its processes stand still: see Node.freeze."""
        self.node(node).freeze()

    def thaw(self, node: str) -> None:
        """They go on."""
        self.node(node).thaw()

    def cut(self, node: str) -> None:
        """Its network link goes down."""
        self.node(node).cut()

    def join(self, node: str) -> None:
        """Its network link comes up."""
        self.node(node).join()

    def add_node(self, zone: str | None = None) -> str:
        """Adds a node, by default in the zone that has the fewest; waits until it is Ready; gives its name."""
        with self._alone():
            state = self.layout.state()
            nodes = list(self.nodes().values())
            counts = {n.zone: sum(m.zone == n.zone for m in nodes) for n in nodes}
            chosen = zone or min(sorted(counts), key=lambda z: counts[z], default="zone-1")
            node = self._new_node(state, chosen)
            node.make(Authority(self.layout.pki))
            node.start()
        self._wait_ready([node], self.api())
        return node.name

    def remove_node(self, name: str) -> None:
        """Crashes a node for good and deletes it from the cluster."""
        with self._alone():
            node = self.node(name)
            if node.running():
                node.crash()
            self.api().delete(f"/api/v1/nodes/{name}")
            node.remove()
            state = self.layout.state()
            del state["nodes"][name]
            self.layout.save_state(state)

    # --- images ---

    def load(self, *archives: Path | str) -> None:
        """Brings image archives (docker-archive or OCI) onto every node; one that is down gets them at its start."""
        with self._alone():
            nodes = self.nodes()
            for archive in map(Path, archives):
                if not archive.is_file():
                    raise Failed(
                        f"there is no image archive {archive}: `make image` makes target/image/millrace.tar, "
                        "`docker save -o FILE IMAGE` one of an image that Docker has"
                    )
                with open(archive, "rb") as file:
                    name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
                stored = self.layout.images / f"{name}.tar"
                if not stored.exists():
                    # A node that starts meanwhile must not see half of it.
                    new = stored.with_suffix(".new")
                    shutil.copyfile(archive, new)
                    os.replace(new, stored)
            running = [node for node in nodes.values() if node.state().startswith("running")]
            with ThreadPoolExecutor() as pool:
                list(pool.map(Node.import_images, running))

    # --- the control plane ---

    def stop_component(self, name: str) -> None:
        """Kills a part of the control plane."""
        self._processes().end(self._component(name))

    def start_component(self, name: str, wait: bool = True) -> None:
        """Starts it again, and waits until the API server serves, if it is up at all."""
        with self._alone():
            self._start_component(self._component(name))
        processes = self._processes()
        if wait and all(processes.pid(needed) is not None for needed in ("etcd", "apiserver")):
            self._wait("the API server serves", Api(self.kubeconfig, 2).serves, [name], "apiserver")

    def freeze_component(self, name: str) -> None:
        """Lets it stand still."""
        freeze(self._processes().need(self._component(name)))

    def thaw_component(self, name: str) -> None:
        """Lets it go on."""
        thaw(self._processes().need(self._component(name)))

    # --- what can be looked at ---

    def status(self) -> dict[str, str]:
        """In what state each part is."""
        processes = self._processes()
        found = {}
        for name in (*COMPONENTS, "coredns", "relay"):
            pid = processes.pid(name)
            found[name] = "stopped" if pid is None else "frozen" if stopped(pid) else "running"
        for node in self.nodes().values():
            found[f"{node.name} ({node.zone}, {node_address(node.number)})"] = node.state()
        return found

    def audit(self) -> Iterator[dict[str, Any]]:
        """What the API server was asked (configs.audit_policy says what of it is noted), in order."""
        folder = (self.folder / configs.AUDIT_LOG).parent
        # The names of older files hold the times at which they were put aside.
        older = sorted(folder.glob("audit-*.log"))
        for path in [*older, self.folder / configs.AUDIT_LOG]:
            with contextlib.suppress(FileNotFoundError), open(path) as file:
                for line in file:
                    # The last line may be in the midst of being written.
                    if line.endswith("\n"):
                        yield json.loads(line)

    def dump(self, into: Path) -> Path:
        """Writes what helps to understand a failure into a folder: ends of logs, the audit, objects and events."""
        into.mkdir(parents=True, exist_ok=True)
        for log in self.layout.log.glob("*.log"):
            (into / log.name).write_text(tail(log, 200_000))
        # What pods wrote, crashed nodes' too: nodes/NODE/var-log/pods/NAMESPACE_POD_UID/CONTAINER/RESTART.log.
        for log in self.folder.glob("nodes/*/var-log/pods/*/*/*.log"):
            node, pod, container = log.parts[-6], log.parts[-3].rpartition("_")[0], log.parts[-2]
            (into / f"pod-{pod}-{container}-{log.stem}-{node}.log").write_text(tail(log, 200_000))
        with contextlib.suppress(Failed):
            (into / "status.txt").write_text("".join(f"{k}: {v}\n" for k, v in self.status().items()))
        kubectl = [str(self.executables() / "kubectl"), f"--kubeconfig={self.kubeconfig}", "--request-timeout=10s"]
        for file, arguments in {
            "events.txt": ["get", "events", "-A", "--sort-by=.lastTimestamp"],
            "objects.txt": ["get", "nodes,pods,pvc,pv,services,statefulsets,deployments", "-A", "-o", "wide"],
            "pods.yaml": ["get", "pods", "-A", "-o", "yaml"],
        }.items():
            with open(into / file, "wb") as out, contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*kubectl, *arguments], stdout=out, stderr=subprocess.STDOUT, timeout=30)
        return into


def _created(api: Api, collection: str, body: dict[str, Any]) -> bool:
    api.create(collection, body)
    return True


def _check_computer(folder: Path) -> None:
    if platform.system() != "Linux":
        raise NotHere("a cluster of namespaces needs Linux")
    if os.geteuid() != 0:
        raise NotHere("network, mount and process namespaces need root")
    if str(folder).startswith("/run/"):
        raise NotHere(f"{folder}: set TMPDIR to a folder that is not in /run, which is hidden from the nodes")
    missing = [program for program in ("unshare", "nsenter", "setsid", "sysctl") if shutil.which(program) is None]
    if missing:
        raise NotHere(f"not installed: {', '.join(missing)} (on Debian: util-linux procps)")


def _raise_inotify() -> None:
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < _INOTIFY_INSTANCES:
        with contextlib.suppress(OSError):
            limit.write_text(str(_INOTIFY_INSTANCES))
