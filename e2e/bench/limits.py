"""The limits: what the machine gives for a measure without any broker, to judge the figures by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import machine
from machine import MIB
from results import Figures

if TYPE_CHECKING:
    from measures import Options

_SMALL = 16384


@dataclass(frozen=True)
class Limit:
    """One of them: its unit, and what was done to find it, for people."""

    unit: str
    what: str


_CPU = "MiB per CPU s"
# By name, in the order in which they are listed.
LIMITS = {
    "write": Limit("MiB/s", "1 MiB after the other, one fdatasync behind the last"),
    "write, CPU": Limit(_CPU, "each byte received by TCP and written"),
    "write 16 KiB": Limit("MiB/s", "an fdatasync after each; batches that share one pass it"),
    "write 16 KiB, CPU": Limit(_CPU, "each byte received by TCP and written, an fdatasync after each 16 KiB"),
    "tcp": Limit("MiB/s", "one loopback connection"),
    "tcp, CPU": Limit(_CPU, "of its sending side"),
    "synced, p50": Limit("ms", "records at the rate, those that are due written and synced together"),
    "synced, p99": Limit("ms", "the same"),
    "synced, p99.9": Limit("ms", "the same"),
    "read the log": Limit("s", "all of it once from the page cache; a broker that need not read all may pass it"),
    "write / 3": Limit("MiB/s", "as write, a third: each of three brokers writes all"),
    "write by 3, CPU": Limit(_CPU, "each byte received and written by three, sent on twice"),
}


def _per_cpu_second(mib: float, cpu_seconds_per_mib: float) -> float:
    """MiB per CPU second; the kernel counts coarsely, so that a small copy may have taken none."""
    return 1 / max(cpu_seconds_per_mib, 0.0001 / mib)


def _costs(tcp: Figures, write: Figures) -> tuple[float, float, float]:
    """CPU seconds of a MiB: received, written, sent."""
    of_tcp, written = tcp["bytes"] / MIB, write["bytes"] / MIB
    return tcp["receive_cpu_seconds"] / of_tcp, write["cpu_seconds"] / written, tcp["send_cpu_seconds"] / of_tcp


def _others(*found: Figures) -> Figures:
    """The most that other work took while one of them was measured."""
    return {"other_cores": max(figures["other_cores"] for figures in found)}


def _produce(o: Options, folder: Path) -> Figures:
    tcp, write = machine.tcp(o.tcp_mib, MIB), machine.write(folder, o.disk_mib * MIB, MIB, False)
    received, written, _ = _costs(tcp, write)
    return {
        "write": write["mib_per_second"],
        "write, CPU": _per_cpu_second(o.disk_mib, received + written),
        **_others(tcp, write),
    }


def _small_batches(o: Options, folder: Path) -> Figures:
    # A sixty-fourth of what whole MiB would be: each waits for the disk.
    bytes_ = o.disk_mib * _SMALL
    tcp, write = machine.tcp(o.tcp_mib // 4, _SMALL), machine.write(folder, bytes_, _SMALL, True)
    received, written, _ = _costs(tcp, write)
    return {
        "write 16 KiB": write["mib_per_second"],
        "write 16 KiB, CPU": _per_cpu_second(bytes_ / MIB, received + written),
        **_others(tcp, write),
    }


def _consume(o: Options, _folder: Path) -> Figures:
    tcp = machine.tcp(o.tcp_mib, MIB)
    return {
        "tcp": tcp["mib_per_second"],
        "tcp, CPU": _per_cpu_second(o.tcp_mib, tcp["send_cpu_seconds"] / o.tcp_mib),
        **_others(tcp),
    }


def _latency(o: Options, folder: Path) -> Figures:
    paced = machine.paced(folder, o.rate * o.latency_seconds, 1024, o.rate)
    parts = ("p50", "p99", "p99.9")
    return {**{f"synced, {part}": paced[f"{part}_ms"] for part in parts}, **_others(paced)}


def _recovery(o: Options, folder: Path) -> Figures:
    read = machine.read(folder, int(o.recovery.mib * MIB))
    return {"read the log": read["seconds"], **_others(read)}


def _cluster_produce(o: Options, folder: Path) -> Figures:
    tcp, write = machine.tcp(o.tcp_mib, MIB), machine.write(folder, o.disk_mib * MIB, MIB, False)
    received, written, sent = _costs(tcp, write)
    return {
        "write / 3": write["mib_per_second"] / 3,
        "write by 3, CPU": _per_cpu_second(o.disk_mib, 3 * received + 3 * written + 2 * sent),
        **_others(tcp, write),
    }


# By measure; the values of the limits by name, and `other_cores`.
WAYS: dict[str, Callable[[Options, Path], Figures]] = {
    "produce": _produce,
    "small-batches": _small_batches,
    "consume": _consume,
    "latency": _latency,
    "recovery": _recovery,
    "cluster-produce": _cluster_produce,
}
