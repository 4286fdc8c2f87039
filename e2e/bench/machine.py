"""The machine under the benchmark: whose CPU time it was, what its disk and loopback give."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib import paths
from lib.proc import Process

_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def _busy_seconds() -> float:
    # user nice system idle iowait irq softirq steal; idle and iowait are not work, steal is
    # other machines' work on our cores.
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


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


@contextmanager
def watch(broker: Process, idle: list[Process], clients: list[Process]) -> Iterator[Watched]:
    """Measures the block: CPU of the broker, of others, and the broker's memory.

    `clients` may be filled within the block; `idle` are brokers that only stand by.
    """
    watched = Watched()
    broker.reset_rss_peak()
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            samples.append(broker.rss_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    mine = sum(os.times()[:2])
    idle_before = sum(p.cpu_seconds() for p in idle)
    kernel, busy, cpu, started = _kernel_thread_seconds(), _busy_seconds(), broker.cpu_seconds(), time.monotonic()
    sampler.start()
    yield watched
    watched.seconds = time.monotonic() - started
    watched.broker_cpu = broker.cpu_seconds() - cpu
    known = watched.broker_cpu + sum(p.cpu_seconds() for p in clients)
    known += sum(p.cpu_seconds() for p in idle) - idle_before
    known += sum(os.times()[:2]) - mine
    known += _kernel_thread_seconds() - kernel
    watched.other_cores = max(0.0, _busy_seconds() - busy - known) / watched.seconds
    stop.set()
    sampler.join()
    watched.rss_peak = broker.rss_peak_bytes()
    samples.sort()
    watched.rss_typical = samples[len(samples) // 2] if samples else broker.rss_bytes()


def settle() -> None:
    """Writes back all that is dirty, so that a run does not pay for the one before."""
    os.sync()


def check_free(folder: Path, need: int) -> None:
    """Ends the benchmark if the file system of `folder` has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(
            f"bench: {folder} has {free >> 20} MiB free, this run needs up to {need >> 20} MiB; "
            "free some, choose another --folder, or run --quick"
        )


@contextmanager
def storage(kind: str, folder: Path | None, need: int) -> Iterator[Path]:
    """A folder for data: on the disk, or on a RAM disk; empty before and gone after."""
    if kind == "ram":
        base = Path("/dev/shm")
        # A tmpfs's pages are memory: they must fit beside the brokers.
        available = int(
            next(
                line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
            ).split()[1]
        )
        if available * 1024 < need + 4096 * MIB:
            raise SystemExit(
                f"bench: {available >> 10} MiB of memory available, a RAM disk run needs {need + 4096 * MIB >> 20}"
            )
    else:
        base = folder or Path(tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        kind_of = subprocess.run(["stat", "-f", "-c", "%T", str(base)], capture_output=True, text=True).stdout.strip()
        if kind_of == "tmpfs":
            raise SystemExit(f"bench: {base} is a RAM disk: give a --folder on a real one")
    check_free(base, need)
    made = Path(tempfile.mkdtemp(prefix="millrace-bench-", dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _limit(*args: str | int | Path) -> float:
    done = subprocess.run([str(a) for a in (paths.limits(), *args)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["mib_per_second"]


def tcp_limit(mib: int) -> float:
    """MiB/s of one loopback connection."""
    return _limit("tcp", mib * MIB, MIB)


def disk_limit(folder: Path, mib: int, chunk: int, each: bool) -> float:
    """MiB/s of sequential writes with fdatasync after each chunk or behind the last."""
    settle()
    return _limit("disk", folder / "limit", mib * MIB, chunk, "each" if each else "end")


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
