"""All figures of a run of the benchmark, and which of them count."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

# Figures of one run, by name.
Figures = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One run of a measure, and whether other work on the machine disturbed it."""

    figures: Figures
    disturbed: bool = False


@dataclass(frozen=True)
class Median:
    """A figure of the table. Disturbed: all runs were, so it rests on disturbed ones."""

    value: float
    disturbed: bool
    runs: int
    left_out: int


def median(runs: list[Run], figure: str) -> Median | None:
    """The median over the runs that were not disturbed, or over all if each was; None without any."""
    having = [run for run in runs if figure in run.figures]
    if not having:
        return None
    quiet = [run for run in having if not run.disturbed]
    used = quiet or having
    value = statistics.median(run.figures[figure] for run in used)
    return Median(value, not quiet, len(used), len(having) - len(used))


@dataclass
class Results:
    """What was measured: runs by measure, storage (disk or ram) and peer; limits by name and storage."""

    runs: dict[str, dict[str, dict[str, list[Run]]]] = field(default_factory=dict)
    limits: dict[str, dict[str, list[Run]]] = field(default_factory=dict)
    # Why a peer's runs of a measure ended early, by the same keys.
    failures: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    # Peers that are not on this machine, and why.
    missing: dict[str, str] = field(default_factory=dict)
    # Where the time went, by measure and storage; text for people.
    profiles: dict[str, dict[str, str]] = field(default_factory=dict)
    # Disturbed runs that were repeated.
    repeated: int = 0
    complete: bool = False

    def add(self, measure: str, storage: str, peer: str, run: Run) -> None:
        """Keeps a run."""
        self.runs.setdefault(measure, {}).setdefault(storage, {}).setdefault(peer, []).append(run)

    def add_limit(self, name: str, storage: str, run: Run) -> None:
        """Keeps a limit; its figure is `value`."""
        self.limits.setdefault(name, {}).setdefault(storage, []).append(run)

    def fail(self, measure: str, storage: str, peer: str, reason: str) -> None:
        """Keeps why a peer could not be measured (further)."""
        self.failures.setdefault(measure, {}).setdefault(storage, {})[peer] = reason

    def failure(self, measure: str, storage: str, peer: str) -> str | None:
        """Why a peer could not be measured (further)."""
        return self.failures.get(measure, {}).get(storage, {}).get(peer)

    def median(self, measure: str, storage: str, peer: str, figure: str) -> Median | None:
        """The median of a figure, None if it was not measured."""
        return median(self.runs.get(measure, {}).get(storage, {}).get(peer, []), figure)

    def limit(self, name: str, storage: str) -> Median | None:
        """The median of a limit, None if it was not measured."""
        return median(self.limits.get(name, {}).get(storage, []), "value")
