"""The machine under the benchmark: whose CPU time it was, what its disk and loopback give."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from results import Figures

from lib import paths
from lib.proc import Process

_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def cpu_states() -> dict[str, float]:
    """Seconds of all cores since the machine's start: busy, idle, iowait (idle while a disk is waited for)."""
    # user nice system idle iowait irq softirq steal; steal is other machines' work on our cores.
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return {
        "busy": (sum(fields) - fields[3] - fields[4]) / _TICKS,
        "idle": fields[3] / _TICKS,
        "iowait": fields[4] / _TICKS,
    }


def _kernel_thread_seconds() -> float:
    """CPU time of the kernel's own threads: it writes back what a measured broker left dirty."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[1] == "2":
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


@dataclass
class Watched:
    """What `watch` measured."""

    seconds: float = 0.0
    broker_cpu: float = 0.0
    other_cores: float = 0.0
    rss_peak: int = 0
    rss_typical: int = 0


def _own_seconds(processes: Iterable[Process]) -> float:
    """CPU time of the benchmark itself, of `processes`, and of all its children that have ended."""
    # An ended process has its time in our children's: ask for it before that is read.
    alive = [p for p in processes if p.alive()]
    return sum(os.times()[:4]) + sum(p.cpu_seconds() for p in alive)


@contextmanager
def other_work(ours: Callable[[], Iterable[Process]], watched: Watched) -> Iterator[None]:
    """Measures into `watched` how many cores all other work on the machine used during the block.

    `ours` gives the processes that are measured; it is asked again at the end, so that it may
    name those started within the block. Brokers that only stand by are other work, as is what a
    host took from the machine's cores.
    """
    own, kernel, busy, started = _own_seconds(ours()), _kernel_thread_seconds(), cpu_states()["busy"], time.monotonic()
    yield
    watched.seconds = time.monotonic() - started
    known = _own_seconds(ours()) - own + _kernel_thread_seconds() - kernel
    watched.other_cores = max(0.0, cpu_states()["busy"] - busy - known) / watched.seconds


@contextmanager
def watch(brokers: list[Process], clients: list[Process]) -> Iterator[Watched]:
    """Measures the block: CPU of the brokers and of others, and the brokers' memory, all
    brokers' together.

    `clients` may be filled within the block.
    """
    watched = Watched()
    for broker in brokers:
        broker.reset_rss_peak()
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            try:
                samples.append(sum(broker.rss_bytes() for broker in brokers))
            except (OSError, RuntimeError):
                # One has ended; the run fails for that.
                return

    sampler = threading.Thread(target=sample, daemon=True)
    cpu = sum(broker.cpu_seconds() for broker in brokers)
    with other_work(lambda: [*brokers, *clients], watched):
        sampler.start()
        try:
            yield watched
        finally:
            stop.set()
            sampler.join()
    for broker in brokers:
        if not broker.alive():
            raise RuntimeError(f"{broker.name} ended with {broker.returncode()}: {broker.err()[-2000:]}")
    watched.broker_cpu = sum(broker.cpu_seconds() for broker in brokers) - cpu
    watched.rss_peak = sum(broker.rss_peak_bytes() for broker in brokers)
    samples.sort()
    watched.rss_typical = samples[len(samples) // 2] if samples else sum(broker.rss_bytes() for broker in brokers)


# The kernel counts CPU time in steps of 10 ms: over less than this nothing can be told.
_LEAST_WINDOW_SECONDS = 1.0


@contextmanager
def watch_short(ours: Callable[[], Iterable[Process]]) -> Iterator[Watched]:
    """As `other_work`, for a block of perhaps a few milliseconds: the machine's rest before it
    and behind it is watched as well."""
    watched = Watched()
    with other_work(ours, watched):
        time.sleep(_LEAST_WINDOW_SECONDS / 2)
        yield watched
        time.sleep(_LEAST_WINDOW_SECONDS / 2)


def wait_quiet(max_other: float, timeout: float = 10.0) -> bool:
    """Waits until all work on the machine is below `max_other` cores for a second, `timeout` s at
    most; False if it never was."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        watched = Watched()
        with other_work(list, watched):
            time.sleep(1.0)
        if watched.other_cores <= max_other:
            return True
    return False


def settle() -> None:
    """Writes back all that is dirty, so that a run does not pay for the one before."""
    os.sync()


def allow_open_files(least: int) -> None:
    """Raises the bound of open files, which the brokers inherit, to `least`, or as far as that is permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= least:
        return
    most = hard if hard == resource.RLIM_INFINITY else max(hard, least)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_free(folder: Path, need: int) -> None:
    """Ends the benchmark if the file system of `folder` has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(
            f"bench: {folder} has {free >> 20} MiB free, this run needs up to {need >> 20} MiB; "
            "free some, choose another --folder, or run --quick"
        )


_PREFIX = "millrace-bench-"


def _remove_leftovers(base: Path) -> None:
    """Deletes data of earlier runs that were killed before they could."""
    for folder in base.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


@contextmanager
def storage(kind: str, folder: Path | None, need: int) -> Iterator[Path]:
    """A folder for data: on the disk, or on a RAM disk; empty before and gone after."""
    base = Path("/dev/shm") if kind == "ram" else folder or Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(base)
    command = ["stat", "-f", "-c", "%T", str(base)]
    is_tmpfs = subprocess.run(command, capture_output=True, text=True).stdout.strip() == "tmpfs"
    if kind == "ram":
        # A tmpfs's pages are memory: they must fit beside the brokers.
        available, wanted = _available_bytes(), need + 4096 * MIB
        if not is_tmpfs:
            raise SystemExit(f"bench: {base} is no RAM disk; run with --storage disk")
        if available < wanted:
            raise SystemExit(
                f"bench: {available >> 20} MiB of memory available, a RAM disk run needs {wanted >> 20}; "
                "run with --storage disk"
            )
    elif is_tmpfs:
        raise SystemExit(f"bench: {base} is a RAM disk: give a --folder on a real one")
    check_free(base, need)
    made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _given(*args: str | int | Path) -> Figures:
    """All that the limits program says, and `other_cores` while it ran."""
    watched = Watched()
    with other_work(list, watched):
        done = subprocess.run(
            [str(a) for a in (paths.limits(), *args)], capture_output=True, text=True, check=True, timeout=300
        )
    return {**json.loads(done.stdout), "other_cores": watched.other_cores}


def tcp(mib: int, chunk: int) -> Figures:
    """One loopback connection: `mib_per_second`, `send_cpu_seconds`, `receive_cpu_seconds`."""
    return _given("tcp", mib * MIB, chunk)


def write(folder: Path, bytes_: int, chunk: int, each: bool) -> Figures:
    """Sequential writes with fdatasync after each chunk or behind the last: `mib_per_second`, `cpu_seconds`."""
    settle()
    return _given("disk", folder / "limit", bytes_, chunk, "each" if each else "end")


def read(folder: Path, bytes_: int) -> Figures:
    """Sequential reads of a file in the page cache: `seconds`."""
    settle()
    return _given("read", folder / "limit", bytes_, MIB)


def paced(folder: Path, records: int, size: int, rate: int) -> Figures:
    """Milliseconds until records that are due at `rate` a second are on the disk, each fdatasync taking all that are
    due (group commit): `p50_ms`, `p99_ms`, `p99.9_ms`."""
    settle()
    return _given("paced", folder / "limit", records, size, rate)


def describe() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 10
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_mib": memory, "kernel": os.uname().release}
