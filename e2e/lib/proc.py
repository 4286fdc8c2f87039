"""Processes that are certain to end: with the test, with the test run, with its crash.

Each has its output in files, so that a failed test can show them, and tells its memory
and CPU time from /proc.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from pathlib import Path

_running: set[Process] = set()
# What a developer's shell or e2e/test has set is no configuration of the program under test.
CLEAN_ENV = {k: v for k, v in os.environ.items() if not k.startswith("MILLRACE_")}
_TICKS = os.sysconf("SC_CLK_TCK")


# Without it a test run that is killed leaves its servers behind. A preexec_fn would do the
# same, but forks while gRPC's threads run, which can hang.
_DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]


@atexit.register
def _end_all() -> None:
    for process in list(_running):
        process.kill()


class Process:
    """One started program; standard output and standard error go to files in `folder`.

    Start it from the main thread: the kernel's parent-death signal is bound to the thread.
    """

    def __init__(
        self,
        args: list[str | Path],
        folder: Path,
        name: str,
        env: dict[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self.args = [str(a) for a in args]
        self.out_path = folder / f"{name}.out"
        self.err_path = folder / f"{name}.err"
        self.started = time.monotonic()
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            # What a start before this one wrote stays in the files but is not this one's.
            self._out_from, self._err_from = out.tell(), err.tell()
            self._popen = subprocess.Popen(
                [*_DIE_WITH_PARENT, *self.args],
                stdin=stdin,
                stdout=out,
                stderr=err,
                env={**CLEAN_ENV, **(env or {})},
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self.stdin = self._popen.stdin
        self.usage: os.struct_rusage | None = None
        _running.add(self)

    # --- its end ---

    def alive(self) -> bool:
        """True while it runs."""
        return self.returncode() is None

    def returncode(self) -> int | None:
        """The exit code; minus the signal's number if a signal ended it; None while it runs."""
        if self._popen.returncode is None:
            try:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._popen.returncode = -255
                pid = 0
            else:
                if pid:
                    self.usage = usage
                    self._popen.returncode = os.waitstatus_to_exitcode(status)
            if pid:
                _running.discard(self)
        return self._popen.returncode

    def wait(self, timeout: float) -> int:
        """Waits for its end; TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        pause = 0.001
        while (code := self.returncode()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not ended after {timeout} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return code

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and all that it started, at once (SIGKILL), and waits for that."""
        if self.alive():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.wait(20)

    # --- its output ---

    def out(self) -> str:
        """What this start of it wrote to standard output so far."""
        return self._tail(self.out_path, self._out_from)

    def err(self) -> str:
        """What this start of it wrote to standard error so far."""
        return self._tail(self.err_path, self._err_from)

    @staticmethod
    def _tail(path: Path, start: int) -> str:
        with open(path, "rb") as f:
            f.seek(start)
            return f.read().decode("utf-8", "replace")

    def wait_for_line(self, prefix: str, timeout: float) -> str:
        """Waits for a whole line on standard output that begins with `prefix`, and gives the rest."""
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.alive()
            lines = self.out().split("\n")
            for line in lines[:-1]:
                if line.startswith(prefix):
                    return line[len(prefix) :].strip()
            if ended:
                raise RuntimeError(
                    f"{self.name} ended with {self.returncode()} before it wrote {prefix!r}; "
                    f"its errors end:\n{self.err()[-3000:]}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self.name} has not written {prefix!r} in {timeout} s; its errors end:\n{self.err()[-3000:]}"
                )
            time.sleep(0.005)

    def wait_for_error(self, text: str, timeout: float) -> None:
        """Waits until it has written `text` to standard error."""
        deadline = time.monotonic() + timeout
        while text not in self.err():
            if not self.alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has not written {text!r}; its errors end:\n{self.err()[-3000:]}")
            time.sleep(0.01)

    # --- its cost ---

    def cpu_seconds(self) -> float:
        """User and system time that it has used."""
        if self.usage is not None:
            return self.usage.ru_utime + self.usage.ru_stime
        return cpu_seconds(self.pid)

    def rss_bytes(self) -> int:
        """Memory that it has resident now."""
        return _status_kib(self.pid, "VmRSS") * 1024

    def rss_peak_bytes(self) -> int:
        """The most memory it ever had resident."""
        return _status_kib(self.pid, "VmHWM") * 1024

    def rss_anonymous_bytes(self) -> int:
        """Resident memory without mapped files: what the kernel can't take back."""
        return _status_kib(self.pid, "RssAnon") * 1024

    def reset_rss_peak(self) -> None:
        """Lets the peak begin anew at what is resident now (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        """How many file descriptors it has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process."""
    # The command's name, in parentheses, may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no {key}")
