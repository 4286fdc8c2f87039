"""What the operating system is asked to do: programs, processes, control groups. Nothing here knows Kubernetes.

A machine's processes are found by a variable in their environment, not by noted ids alone: so what a killed `up` left
behind is found too, and an id that another program has by now is never killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kube_machine.errors import Failed

# Its value is the machine's folder.
MARK = "MILLRACE_KUBE_MACHINE"
_CGROUPS = Path("/sys/fs/cgroup")
# Debian keeps ip, nft and sysctl in folders that a root's shell need not have in its PATH.
os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/local/sbin:/usr/sbin:/sbin"


def run(
    args: list[str | Path], *, timeout: float = 60, check: bool = True, show_errors: bool = False, **options: object
) -> str:
    """Runs a program to its end and gives its standard output; Failed, with its words, if it fails.

    With `show_errors` its standard error goes where this program's own goes.
    """
    command = [str(a) for a in args]
    options |= {"stdout": subprocess.PIPE, "stderr": None if show_errors else subprocess.PIPE}
    try:
        done = subprocess.run(command, timeout=timeout, **options)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: no end after {timeout:.0f} s") from None
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Failed(f"{' '.join(command)}: {words[-3000:]}")
    return done.stdout.decode(errors="replace")


def until(what: str, condition: Callable[[], object], timeout: float, pause: float = 0.1) -> None:
    """Waits until `condition` gives something true; Failed names `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {timeout:.0f} s")
        time.sleep(pause)


# --- processes ---


def spawn(args: list[str | Path], log: Path, machine: Path, path: str, descriptors: Iterable[int] = ()) -> int:
    """Starts a program that outlives this one, in a session of its own; gives its process id."""
    # The shell in between ends at once: the program is nobody's child here, and leaves no zombie in a long test run.
    script = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'
    out = run(
        ["sh", "-c", script, "sh", log, *args],
        env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", MARK: str(machine)},
        cwd="/",
        pass_fds=tuple(descriptors),
    )
    return int(out)


def _stat(pid: int) -> tuple[str, int, int] | None:
    """A process's state, its parent and the time of its start; None if there is no such process."""
    try:
        # The command's name, in parentheses, may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return fields[0], int(fields[1]), int(fields[19])


def started_at(pid: int) -> int | None:
    """What tells a process from a later one with the same id; None if it has ended (a zombie has)."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else stat[2]


def stopped(pid: int) -> bool:
    """True if SIGSTOP holds it."""
    stat = _stat(pid)
    return stat is not None and stat[0] == "T"


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def variable(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started with; None if there is no such one."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    needle = f"{name}=".encode()
    return next((os.fsdecode(v.removeprefix(needle)) for v in variables if v.startswith(needle)), None)


def mark(pid: int) -> Path | None:
    """The folder of the machine that a process was started for, by whichever command of it."""
    folder = variable(pid, MARK)
    return None if folder is None else Path(folder)


def marked(machine: Path) -> list[int]:
    """All living processes that were started for a machine."""
    return [pid for pid in _all() if pid != os.getpid() and mark(pid) == machine]


def children(pid: int) -> list[int]:
    """The living children of a process."""
    stats = {p: _stat(p) for p in _all()}
    return sorted(p for p, stat in stats.items() if stat is not None and stat[1] == pid and stat[0] not in "ZX")


def descendants(root: int) -> list[int]:
    """A process and all below it. Of the first process of a process namespace: all in it and in those nested in it,
    since orphans there become its children."""
    by_parent: dict[int, list[int]] = {}
    for pid in _all():
        stat = _stat(pid)
        if stat is not None and stat[0] not in "ZX":
            by_parent.setdefault(stat[1], []).append(pid)
    found = [root]
    for pid in found:
        found += by_parent.get(pid, [])
    return found


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal; to nobody if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def freeze(root: int, timeout: float = 10) -> None:
    """Stops a process and all below it, also those that are born meanwhile."""

    def all_stand() -> bool:
        moving = [pid for pid in descendants(root) if not stopped(pid)]
        for pid in moving:
            kill(pid, signal.SIGSTOP)
        return not moving

    until(f"process {root} and those below it stand", all_stand, timeout, 0.02)


def thaw(root: int, timeout: float = 10) -> None:
    """Lets a process and all below it go on."""

    def all_go() -> bool:
        standing = [pid for pid in descendants(root) if stopped(pid)]
        for pid in standing:
            kill(pid, signal.SIGCONT)
        return not standing

    until(f"process {root} and those below it go on", all_go, timeout, 0.02)


def end_all(machine: Path, timeout: float = 30) -> None:
    """Ends all processes of a machine at once, frozen ones too, and waits until they are gone."""

    def gone() -> bool:
        alive = marked(machine)
        for pid in alive:
            kill(pid)
        return not alive

    until(f"the processes of {machine} end", gone, timeout, 0.05)


# --- control groups ---


def _hierarchies() -> list[Path]:
    """The roots in which a node's groups are made: one for each controller (version 1), or one in all (version 2)."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    # `unified` is version 2 beside version 1: the kubelet then uses version 1. Links are second names (cpu,cpuacct).
    return [
        folder
        for folder in sorted(_CGROUPS.iterdir())
        if folder.name != "unified" and not folder.is_symlink() and (folder / "cgroup.procs").exists()
    ]


def make_cgroup(name: str) -> None:
    """Makes a control group "a/b" in each hierarchy, with all controllers that there are."""
    for root in _hierarchies():
        parent = root
        for part in name.split("/"):
            _hand_down(parent)
            folder = parent / part
            folder.mkdir(exist_ok=True)
            # With version 1 a new group has no processor, and no process can enter it.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if root.name.startswith("cpuset") and not (folder / file).read_text().strip():
                    (folder / file).write_text((parent / file).read_text())
            parent = folder
        _hand_down(parent)


def _hand_down(folder: Path) -> None:
    """With version 2 (not tried: the machine on which this was made has version 1), lets groups below use the
    controllers. In a container whose own root group holds processes the kernel refuses that, except for a few."""
    control = folder / "cgroup.subtree_control"
    if not control.exists():
        return
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            control.write_text(f"+{controller}")


def remove_cgroup(name: str, timeout: float = 20) -> None:
    """Removes a control group and those below it in all hierarchies. Its processes must have ended."""

    def gone() -> bool:
        left = False
        # In `unified` runc makes groups of the same names.
        for root in [*_hierarchies(), _CGROUPS / "unified"]:
            for folder, _, _ in os.walk(root / name, topdown=False):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    pass
                except OSError:
                    # A group whose last process has just died is busy for a moment.
                    left = True
        return not left

    until(f"control group {name} is removed", gone, timeout)


# --- files ---


def remove_folder(folder: Path, timeout: float = 20) -> None:
    """Removes a folder and what is mounted below it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        run(["umount", "-l", mount], check=False)

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(f"{folder} is removed", gone, timeout)


def tail(file: Path, limit: int = 4000) -> str:
    """The end of a file, whole lines."""
    try:
        with open(file, "rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - limit))
            text = f.read().decode(errors="replace")
    except OSError:
        return ""
    return text if size <= limit else text.partition("\n")[2]
