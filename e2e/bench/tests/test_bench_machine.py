"""Whose CPU time it was, when a measured process is killed and started again."""

from __future__ import annotations

import sys
from pathlib import Path

import machine
from peer import wait_until

from lib.proc import Process

_BURN = [sys.executable, "-c", "while True: pass"]


def _burner(folder: Path, name: str) -> Process:
    process = Process(_BURN, folder, name)
    wait_until(lambda: process.cpu_seconds() >= 0.5, f"{name} has used half a second", 60, 0.01)
    return process


def test_a_killed_process_and_its_successor_are_counted_once(tmp_path: Path):
    first = _burner(tmp_path, "first")
    running = [first]
    second = None
    try:
        at_start = first.cpu_seconds()
        own = machine._own_seconds(running)
        wait_until(lambda: first.cpu_seconds() >= at_start + 0.3, "more of it", 60, 0.01)
        first.kill()
        second = _burner(tmp_path, "second")
        running.append(second)
        used = machine._own_seconds(running) - own
        of_both = first.cpu_seconds() - at_start + second.cpu_seconds()
        # Beside the two there is only this process, which mostly waited.
        assert of_both - 0.05 <= used <= of_both + 0.4
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()


def test_work_of_others_is_seen_when_a_measured_process_is_killed(tmp_path: Path):
    measured, other = _burner(tmp_path, "measured"), _burner(tmp_path, "other")
    watched = machine.Watched()
    try:
        with machine.other_work(lambda: [measured], watched):
            before = other.cpu_seconds()
            wait_until(lambda: other.cpu_seconds() >= before + 1.0, "the other has used a second", 60, 0.01)
            measured.kill()
            used = other.cpu_seconds() - before
        assert watched.other_cores >= 0.7 * used / watched.seconds
    finally:
        measured.kill()
        other.kill()
