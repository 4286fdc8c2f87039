"""The clients of a cluster as processes on a host of their own: they start, go on, and are asked to finish."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lib import paths
from lib.hosts import Host
from lib.proc import Process


class Load:
    """The programs of `lib/load.py`, and `millrace consume`, on the clients' host."""

    def __init__(
        self,
        bootstrap: str,
        host: Host,
        folder: Path,
        seed: int,
        topic: str,
        partitions: int,
        lines: str,
        rate: float,
        until: int,
    ) -> None:
        """Starts them: on `topic` with `partitions` at `rate` messages a second and at least `until` of them, on
        `lines` a twentieth of that."""
        self.folder = folder / "load"
        self.folder.mkdir()
        self._partitions = partitions
        common = ["--bootstrap", bootstrap, "--folder", str(self.folder)]
        kept = [*common, "--topic", topic, "--partitions", str(partitions)]
        # Variables of the test's own, which programs under test do not get.
        env = {key: value for key, value in os.environ.items() if key.startswith("MILLRACE_")}
        env |= {"PYTHONPATH": str(paths.REPO / "e2e"), "GRPC_ENABLE_FORK_SUPPORT": "false"}

        def start(name: str, *args: str) -> Process:
            command = [*host.prefix, sys.executable, "-m", "lib.load", *args]
            return Process(command, self.folder, name, env=env, stdin=subprocess.PIPE)

        self._publish = start(
            "publish", "publish", *kept, f"--rate={rate}", f"--until={until}", f"--seed={seed}", "--patience=540"
        )
        self._read = start("read", "read", *kept)
        self._lines = start("lines", "lines", *common, "--topic", lines, f"--rate={rate / 20}")
        command = [paths.binary("millrace"), "--bootstrap", bootstrap, "--output", "json", "consume", lines]
        self._consume = Process([*host.prefix, *command, "--from", "beginning"], self.folder, "consume")

    @property
    def consumed(self) -> Path:
        """What `millrace consume` wrote."""
        return self._consume.out_path

    def processes(self) -> list[Process]:
        """All of them."""
        return [self._publish, self._read, self._lines, self._consume]

    def wait_begun(self) -> None:
        """Waits until each of the producers has been told something."""
        deadline = time.monotonic() + 60
        for partition in range(self._partitions):
            told = self.folder / f"told-{partition}"
            while not told.exists() or told.stat().st_size == 0:
                self.check_alive()
                assert time.monotonic() < deadline, f"nothing is acknowledged in partition {partition}"
                time.sleep(0.05)

    def check_alive(self) -> None:
        """A program that gives up has met an error that it must not meet."""
        for process in self.processes():
            code = process.returncode()
            assert code is None, f"{process.name} ended with {code}: {process.err()[-3000:]}"

    def finish(self) -> None:
        """Lets the producers send what is missing, waits until all is answered, then ends the readers."""
        self.check_alive()
        for process in (self._publish, self._lines):
            assert process.stdin is not None
            process.stdin.close()
        for process in (self._publish, self._lines):
            code = process.wait(600)
            assert code == 0, f"{process.name} ended with {code}: {process.err()[-3000:]}"
        time.sleep(1.0)
        assert self._read.stdin is not None
        self._read.stdin.close()
        code = self._read.wait(60)
        assert code == 0, f"read ended with {code}: {self._read.err()[-3000:]}"
        assert self._consume.alive(), f"consume ended: {self._consume.err()[-3000:]}"
        self._consume.terminate()
        self._consume.wait(30)

    def end(self) -> None:
        """Ends all at once."""
        for process in self.processes():
            process.kill()
