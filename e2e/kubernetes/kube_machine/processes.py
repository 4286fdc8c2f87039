"""The long-running processes of a machine by their names; each is noted, and written to a log of its name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kube_machine.errors import Failed
from kube_machine.host import kill, spawn, started_at, tail, until
from kube_machine.layout import Layout


class Processes:
    """Starts, finds and ends them. `executables` is the folder of the build."""

    def __init__(self, layout: Layout, executables: Path) -> None:
        self._layout = layout
        self._executables = executables
        self.path = f"{executables}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def private(self, *command: str) -> list[str]:
        """The command line of a command that has /run and /tmp of its own, in a mount namespace of its own."""
        script = self._layout.folder / "scripts" / "private.sh"
        return ["sh", str(script), str(self._layout.folder), str(self._executables), *command]

    def start(self, name: str, command: list[str], descriptors: Iterable[int] = ()) -> None:
        """Starts one and notes it."""
        if self.pid(name) is not None:
            raise Failed(f"{name} runs already")
        pid = spawn(command, self.log(name), self._layout.folder, self.path, descriptors)
        note = self._layout.pid_file(name)
        new = note.with_suffix(".new")
        new.write_text(f"{pid} {started_at(pid)}\n")
        os.replace(new, note)

    def pid(self, name: str) -> int | None:
        """The process, or None if it has ended or never ran."""
        try:
            pid, started = self._layout.pid_file(name).read_text().split()
        except FileNotFoundError:
            return None
        return int(pid) if str(started_at(int(pid))) == started else None

    def need(self, name: str) -> int:
        """The process; Failed if it does not run."""
        pid = self.pid(name)
        if pid is None:
            raise Failed(f"{name} does not run")
        return pid

    def check(self, *names: str) -> None:
        """Failed, with the end of its log, if one of them has ended."""
        for name in names:
            if self.pid(name) is None:
                raise Failed(f"{name} has ended; its log ends:\n{tail(self.log(name))}")

    def end(self, name: str) -> None:
        """Kills one and waits for its end."""
        pid = self.need(name)
        kill(pid)
        until(f"{name} ends", lambda: self.pid(name) is None, 10, 0.02)

    def log(self, name: str) -> Path:
        """Where it writes to, all starts of it in one file."""
        return self._layout.log / f"{name}.log"
