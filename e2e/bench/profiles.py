"""Where the time of a measure goes, by `perf`: one extra run of Millrace alone."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import machine
import parse
from peer import ClusterPeer, Peer, wait_until

from lib.proc import Process

# Samples per second and core: odd, so that it does not beat with timers.
_FREQUENCY = 499
_SYMBOLS = 10
_START_SECONDS = 0.3


class Unavailable(Exception):
    """No profile can be had here; the text says why."""


def require() -> None:
    """Raises Unavailable if perf is not there or may not watch the machine."""
    if shutil.which("perf") is None:
        raise Unavailable("perf is not on this machine (on Debian: apt-get install linux-perf)")
    command = ["perf", "record", "-a", "-F", "99", "-o", "/dev/null", "--", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if tried.returncode != 0:
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Unavailable(f"perf may not record here (see kernel.perf_event_paranoid): {reason}")


def _report(data: Path, pid: int) -> list[tuple[float, str]]:
    command = ["perf", "report", "-i", str(data), "--stdio", "--no-children", "--pid", str(pid)]
    command += ["--sort", "symbol,dso", "--percentage", "relative"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    return parse.perf_symbols(done.stdout, _SYMBOLS)


def _text(title: str, symbols: list[tuple[float, str]]) -> str:
    if not symbols:
        return f"  {title}: no samples"
    lines = [f"    {share:6.1%}  {symbol[:108]}" for share, symbol in symbols]
    if sum(share for share, symbol in symbols if "0x0000" in symbol) > 0.3:
        lines.append("    (the binaries are stripped: build them with CARGO_PROFILE_DIST_STRIP=none for names)")
    return "\n".join([f"  {title}:", *lines])


class Brokers:
    """The broker processes of a peer that ran in the block that is recorded, with a title for each."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._looked = False
        self._titles: dict[int, str] = {}

    def look(self) -> None:
        """Notes those that run now: called before and behind what is measured, which may start and end some."""
        single = not isinstance(self._peer, ClusterPeer)
        for number, process in enumerate(self._peer.processes()):
            if process.pid in self._titles or not process.alive():
                continue
            if single:
                self._titles = {process.pid: "the broker"}
            else:
                title = "a broker that was started meanwhile" if self._looked else f"broker {number}"
                self._titles[process.pid] = title
        self._looked = True

    def titles(self) -> dict[str, int]:
        """Their titles and process ids."""
        return {title: pid for pid, title in self._titles.items()}


class Profile:
    """Samples of the whole machine over one block: `with profile.recording(): ...`, then `text`."""

    def __init__(self, folder: Path, name: str) -> None:
        require()
        self._folder, self._name = folder, name
        self._data = folder / f"{name}.perf"
        self._shares: dict[str, float] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the block."""
        command = ["perf", "record", "-a", "-F", str(_FREQUENCY), "-o", str(self._data)]
        perf = Process(command, self._folder, f"{self._name}-perf")
        try:
            # It says nothing when it has begun; the file is there shortly before.
            wait_until(lambda: self._data.exists() or not perf.alive(), "perf records", 20)
            time.sleep(_START_SECONDS)
            before = machine.cpu_states()
            yield
            after = machine.cpu_states()
            perf.terminate()
            perf.wait(60)
        finally:
            perf.kill()
        total = max(sum(after.values()) - sum(before.values()), 0.01)
        self._shares = {state: (after[state] - before[state]) / total for state in after}

    def text(self, processes: dict[str, int]) -> str:
        """The symbols that took most CPU time in each process (title and id), for people.

        What is not busy waits: for the disk, or for the other side.
        """
        if not self._shares:
            return "  no profile: the run did not come to what is measured"
        shares = self._shares
        head = f"  all cores: {shares['busy']:.0%} busy, {shares['iowait']:.0%} waiting for the disk"
        text = [f"{head}, {shares['idle']:.0%} idle"]
        text += [_text(title, _report(self._data, pid)) for title, pid in processes.items()]
        return "\n".join(text)

    def close(self) -> None:
        """Deletes the samples."""
        self._data.unlink(missing_ok=True)
