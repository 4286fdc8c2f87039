"""Members of a group as processes, of several kinds, which a test starts, kills and asks to leave; and who watches
what the group has committed."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib import paths
from lib.api import ApiError, Client, call, groups_pb2
from lib.checker import TRANSIENT
from lib.group_history import Life, Observed
from lib.hosts import Host
from lib.proc import Process

# What makes a member's command line, of brokers, group, topic and more flags.
Kind = Callable[[str, str, str, list[str]], list[str]]


def rust_member(bootstrap: str, group: str, topic: str, flags: list[str]) -> list[str]:
    """`millrace consume`, whose member is that of the Rust client."""
    command = [str(paths.binary("millrace")), "--bootstrap", bootstrap, "--output", "json"]
    return [*command, "consume", topic, "--group", group, "--from", "beginning", "--assignments", *flags]


def python_member(bootstrap: str, group: str, topic: str, flags: list[str]) -> list[str]:
    """The member of plain stubs."""
    own = ["--bootstrap", bootstrap, "--group", group, "--topic", topic]
    return [sys.executable, "-m", "lib.group_member", *own, *flags]


def python_subscriber(bootstrap: str, group: str, topic: str, flags: list[str]) -> list[str]:
    """One stream of plain stubs; the broker is the member."""
    own = ["--bootstrap", bootstrap, "--group", group, "--topic", topic]
    return [sys.executable, "-m", "lib.subscribe_member", *own, *flags]


@dataclass
class Running:
    """A member's process."""

    kind: Kind
    process: Process
    life: Life


class Fleet:
    """Members of one group that read one topic."""

    def __init__(self, bootstrap: str, host: Host, folder: Path, group: str, topic: str) -> None:
        self._bootstrap, self._host, self._group, self._topic = bootstrap, host, group, topic
        self._folder = folder / "members"
        self._folder.mkdir()
        self.running: list[Running] = []
        self.lives: list[Life] = []

    def start(self, kind: Kind, instance_id: str | None = None, session: str | None = None) -> Running:
        """One more; a static one if it has an instance id, with another session than the default if told."""
        flags = [] if instance_id is None else ["--instance-id", instance_id]
        flags += [] if session is None else ["--session-timeout", session]
        env = {key: value for key, value in os.environ.items() if key.startswith("MILLRACE_")}
        env |= {"PYTHONPATH": str(paths.REPO / "e2e"), "GRPC_ENABLE_FORK_SUPPORT": "false"}
        name = f"{len(self.lives):03}-{kind.__name__}"
        command = [*self._host.prefix, *kind(self._bootstrap, self._group, self._topic, flags)]
        process = Process(command, self._folder, name, env=env)
        one = Running(kind, process, Life(name, process.out_path))
        self.lives.append(one.life)
        self.running.append(one)
        return one

    def kill(self, one: Running) -> float:
        """kill -9; gives the time just before. It has surely ended once this returns."""
        one.life.ended = time.time()
        one.process.kill()
        self.running.remove(one)
        return one.life.ended

    def leave(self, some: list[Running]) -> None:
        """SIGTERM, and waits until they have left."""
        for one in some:
            # What it tells itself counts; what it has beyond that it has until now at least.
            one.life.ended = time.time()
            one.process.terminate()
        for one in some:
            code = one.process.wait(60)
            # 143 is the command that took the signal, -15 a process that had not come to take signals yet.
            assert code in (0, 143, -15), f"{one.process.name} ended with {code}: {one.process.err()[-3000:]}"
            self.running.remove(one)

    def check_alive(self) -> None:
        """A member that gives up has met an error that it must not meet."""
        for one in self.running:
            code = one.process.returncode()
            assert code is None, f"{one.process.name} ended with {code}: {one.process.err()[-3000:]}"

    def end(self) -> None:
        """Ends all at once."""
        for one in self.running:
            one.process.kill()

    # --- what is done to them ---

    def some_are_killed(self, rng: random.Random) -> str:
        """kill -9 of some within a moment; others come in their place, at once or later."""
        chosen = rng.sample(self.running, rng.randrange(1, 6))
        for one in chosen:
            self.kill(one)
        time.sleep(rng.choice([0.0, rng.uniform(0.0, 2.0)]))
        for one in chosen:
            self.start(one.kind)
        return ", ".join(one.life.name for one in chosen)

    def some_leave(self, rng: random.Random) -> str:
        """SIGTERM to some, and others come in their place."""
        chosen = rng.sample(self.running, rng.randrange(1, 4))
        self.leave(chosen)
        for one in chosen:
            self.start(one.kind)
        return ", ".join(one.life.name for one in chosen)


class Watcher:
    """Looks all the time at what a group has committed, at one broker after the other."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._addresses, self._group = bootstrap.split(","), group
        self.observed: list[Observed] = []
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it and raises what went wrong."""
        self._stop.set()
        self._thread.join(30)
        if self.failure is not None:
            raise self.failure

    def _guarded(self) -> None:
        try:
            turn = 0
            while not self._stop.wait(0.1):
                turn += 1
                with Client(self._addresses[turn % len(self._addresses)]) as client:
                    self._look(client)
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.failure = error

    def _look(self, client: Client) -> None:
        began = time.time()
        request = groups_pb2.FetchOffsetsRequest(group=self._group)
        try:
            answer = call(client.groups.FetchOffsets, request, timeout=2)
        except ApiError as error:
            # Before its first member, a group is not known.
            if error.code not in TRANSIENT and not (error.reason == "UNKNOWN_GROUP" and not self.observed):
                raise
            return
        offsets = {one.partition: one.committed.offset for one in answer.offsets if one.HasField("committed")}
        self.observed.append(Observed(began, offsets))

    def wait_committed(self, ends: dict[int, int], within: float, check: Callable[[], None]) -> float:
        """Waits until so much is committed; gives the seconds that took."""
        began = time.monotonic()
        while True:
            offsets = self.observed[-1].offsets if self.observed else {}
            behind = {p: (offsets.get(p), end) for p, end in ends.items() if (offsets.get(p) or 0) < end}
            if not behind:
                return time.monotonic() - began
            check()
            assert self.failure is None, self.failure
            assert time.monotonic() - began < within, f"committed and ends after {within} s: {behind}"
            time.sleep(0.1)
