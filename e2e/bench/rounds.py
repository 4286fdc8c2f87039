"""Peers in turn, warm-up rounds first, disturbed runs again: the order of a measure's runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from results import Figures, Results, Run


class Named(Protocol):
    """Something that runs of a measure belong to."""

    name: str


P = TypeVar("P", bound=Named)


@dataclass
class Rules:
    """How often runs are made and when they count.

    `max_other`: cores that other work may use on average while a run lasts.
    `retries`: how often one disturbed run is repeated at most.
    """

    runs: int
    warmups: int
    max_other: float
    retries: int
    # What is done between a disturbed run and the next: wait until the machine is quiet.
    wait_quiet: Callable[[], object]
    say: Callable[[str], None]

    def disturbed(self, figures: Figures) -> bool:
        """True if other work took too much of the machine."""
        return figures.get("other_cores", 0.0) > self.max_other


class Repeats:
    """Bounds the repeats of a whole measure: a machine that is never quiet must not hold it for ever."""

    def __init__(self, left: int, results: Results) -> None:
        self.left = left
        self.results = results

    def take(self) -> bool:
        """True if one more may be made, which it counts in the results."""
        if self.left <= 0:
            return False
        self.left -= 1
        self.results.repeated += 1
        return True


def undisturbed(name: str, run: Callable[[], Figures], rules: Rules, repeats: Repeats) -> Run:
    """Runs until nothing disturbed it, within the bounds; the last run is marked if it was disturbed."""
    attempt = 0
    while True:
        figures = run()
        if not rules.disturbed(figures):
            return Run(figures)
        if attempt >= rules.retries or not repeats.take():
            return Run(figures, disturbed=True)
        attempt += 1
        rules.say(f"{name}: other work used {figures['other_cores']:.2f} cores; again")
        rules.wait_quiet()


# What a run may raise when a peer or its client does not do what it should. Errors of the
# benchmark itself (TypeError, KeyError and so on) end it.
RUN_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, OSError)


def alternate(
    results: Results,
    measure: str,
    storage: str,
    peers: list[P],
    run: Callable[[P], Figures],
    rules: Rules,
    errors: tuple[type[Exception], ...] = RUN_ERRORS,
) -> None:
    """Runs all peers in turn and keeps what counts. A peer that fails is left out from there on."""
    repeats = Repeats(rules.runs * len(peers), results)
    going = list(peers)
    for number in range(-rules.warmups, rules.runs):
        label = "warm-up" if number < 0 else f"run {number + 1}"
        for peer in list(going):
            name = f"{measure} {storage} {label} {peer.name}"
            try:
                once = partial(run, peer)
                done = Run(once()) if number < 0 else undisturbed(name, once, rules, repeats)
            except errors as error:
                going.remove(peer)
                results.fail(measure, storage, peer.name, f"{type(error).__name__}: {error}")
                rules.say(f"{name} FAILED: {error}")
                continue
            shown = " ".join(f"{k}={v:.4g}" for k, v in done.figures.items())
            rules.say(f"{name}: {shown}{' DISTURBED' if done.disturbed else ''}")
            if number >= 0:
                results.add(measure, storage, peer.name, done)
