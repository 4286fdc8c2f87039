"""Hosts for brokers and clients on one machine: network namespaces that a test can cut apart.

A host is a namespace with an address of its own, joined to the others by a bridge. What one
host sends to another can be dropped in silence, in one direction or both, as a broken switch
does: neither side gets an error, only timeouts tell. Where the machine does not permit
namespaces there is `Loopback`, whose faults are coarser.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import dataclass, field

from lib.cutproxy import CutProxy
from lib.paths import Missing

# No card has this address (it is locally administered): what is sent there is lost without a word.
_NOWHERE = "02:00:de:ad:00:00"
# The names begin so, then come the number of the process that made them and the host's.
_PREFIX = "mre"


@dataclass
class Host:
    """Where a process runs: its address, and what stands before the command line of a process on it."""

    name: str
    ip: str
    prefix: list[str] = field(default_factory=list)
    # For brokers on `Loopback`: the way to the internal listener that can be cut.
    proxy: CutProxy | None = None


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Hosts made of namespaces. The test process reaches them too: the bridge has an address."""

    pairs = True
    what = "network namespaces joined by a bridge"

    def __init__(self, names: list[str]) -> None:
        if os.geteuid() != 0:
            raise Missing("network namespaces need root")
        self._id = f"{_PREFIX}{os.getpid()}"
        self._bridge = f"{self._id}b"
        self._cuts: set[tuple[str, str]] = set()
        self.hosts: dict[str, Host] = {}
        try:
            _remove_left_over()
            self._make(names)
        except OSError as error:
            self.close()
            raise Missing(f"can't make hosts of network namespaces here: {error}") from None

    def _make(self, names: list[str]) -> None:
        subnet = _free_subnet()
        # Rules for forwarded packets (as container runtimes set them) are none of the bridge's business.
        _ip("link", "add", self._bridge, "type", "bridge", "nf_call_iptables", "0", "stp_state", "0")
        _ip("addr", "add", f"{subnet}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(names, start=1):
            namespace, near, far = f"{self._id}-{name}", f"{self._id}n{number}", f"{self._id}f{number}"
            _ip("netns", "add", namespace)
            self.hosts[name] = Host(name, f"{subnet}.{number}", ["ip", "netns", "exec", namespace])
            _ip("link", "add", near, "type", "veth", "peer", "name", far)
            _ip("link", "set", far, "netns", namespace, "name", "eth0", "address", self._mac(name))
            _ip("-n", namespace, "addr", "add", f"{subnet}.{number}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("link", "set", near, "master", self._bridge, "up")
        for sender in names:
            for receiver in names:
                if sender != receiver:
                    self._send_to(sender, receiver, self._mac(receiver))

    def _mac(self, name: str) -> str:
        return f"02:00:00:00:00:{list(self.hosts).index(name) + 1:02x}"

    def _send_to(self, sender: str, receiver: str, mac: str) -> None:
        namespace = self.hosts[sender].prefix[-1]
        to = [self.hosts[receiver].ip, "lladdr", mac, "nud", "permanent", "dev", "eth0"]
        _ip("-n", namespace, "neigh", "replace", *to)

    def cut(self, sender: str, receiver: str) -> None:
        """What `sender` sends to `receiver` is lost; the other direction is not touched."""
        self._send_to(sender, receiver, _NOWHERE)
        self._cuts.add((sender, receiver))

    def heal(self) -> None:
        """All packets arrive again."""
        for sender, receiver in sorted(self._cuts):
            self._send_to(sender, receiver, self._mac(receiver))
        self._cuts.clear()

    def close(self) -> None:
        """Removes the hosts; processes on them must have ended."""
        _remove(self._id)


def _remove(name: str) -> None:
    """Removes all namespaces and interfaces of a process's network."""
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines():
        namespace = line.split(" ")[0]
        if namespace.startswith(name + "-"):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
    links = subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True).stdout
    for link in re.findall(rf"^\d+: ({name}[bnf]\d*)[@:]", links, re.MULTILINE):
        subprocess.run(["ip", "link", "del", link], capture_output=True)


def _remove_left_over() -> None:
    """What test runs left behind that were killed."""
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    found += subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True).stdout
    for pid in set(re.findall(rf"\b{_PREFIX}(\d+)[-bnf]", found)):
        if not os.path.exists(f"/proc/{pid}"):
            _remove(f"{_PREFIX}{pid}")


def _free_subnet() -> str:
    """The first three bytes of a private network that no route of this machine knows."""
    known = _ip("-4", "route", "show")
    while True:
        subnet = f"10.{random.randrange(128, 255)}.{random.randrange(1, 255)}"
        if f"{subnet}." not in known:
            return subnet


class Loopback:
    """The substitute: all hosts are 127.0.0.1, and each broker's internal listener is behind a proxy.

    A host can be made deaf (its answers to other brokers do not come back, new connections to it
    lead nowhere); what it says to others by itself still arrives, and clients still reach it.
    """

    pairs = False
    what = "loopback with a proxy before each internal listener (no network namespaces here)"

    def __init__(self, names: list[str]) -> None:
        self.hosts = {name: Host(name, "127.0.0.1") for name in names}

    def cut(self, sender: str, receiver: str) -> None:
        """What `sender` answers is lost, to whomever: the proxy does not know `receiver`."""
        proxy = self.hosts[sender].proxy
        if proxy is not None:
            proxy.hold_answers()

    def heal(self) -> None:
        """All is as before."""
        for host in self.hosts.values():
            if host.proxy is not None:
                host.proxy.let_answers_pass()
                host.proxy.cut()

    def close(self) -> None:
        """Ends the proxies."""
        for host in self.hosts.values():
            if host.proxy is not None:
                host.proxy.__exit__()


def hosts(names: list[str]) -> Network | Loopback:
    """Hosts as good as the machine permits; Missing where everything is required and they are not the best."""
    try:
        return Network(names)
    except Missing as missing:
        if os.environ.get("MILLRACE_E2E_REQUIRE_ALL"):
            raise
        print(f"no network namespaces: {missing}")
        return Loopback(names)
