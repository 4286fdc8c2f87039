"""The broker under test as a process, and the command."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from lib import paths
from lib.cutproxy import CutProxy
from lib.hosts import Host
from lib.ports import free_port, port_open
from lib.proc import CLEAN_ENV, Process


@dataclass
class Broker:
    """A `millrace-broker` on fixed free ports, so that clients find it again after a restart."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    data: Path | None = None
    name: str = "broker"
    ready_timeout: float = 30.0
    host: Host | None = None
    open_files: int | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.data or self.folder / "data"
        self.port = free_port()
        self.http_port = free_port()
        self.internal_port = free_port()
        self.ip = "127.0.0.1" if self.host is None else self.host.ip
        self.address = f"{self.ip}:{self.port}"
        self.internal_address = f"{self.ip}:{self.internal_port}"
        self.process: Process | None = None

    def behind_a_proxy(self) -> Broker:
        """Has other brokers come through a proxy that can be cut."""
        assert self.host is not None
        self.host.proxy = CutProxy(self.internal_port)
        self.internal_address = self.host.proxy.address
        self.settings["advertised.internal.address"] = self.internal_address
        return self

    def command(self) -> list[str]:
        """The command line that starts it."""
        args = [
            *(self.host.prefix if self.host is not None else []),
            *(["prlimit", f"--nofile={self.open_files}:{self.open_files}"] if self.open_files is not None else []),
            str(paths.binary("millrace-broker")),
            "--data-dir",
            str(self.data),
            "--listen",
            self.address,
            "--http",
            f"{self.ip}:{self.http_port}",
            "--listen-internal",
            f"{self.ip}:{self.internal_port}",
            "--format-if-empty",
        ]
        for key, value in self.settings.items():
            args += ["--set", f"{key}={value}"]
        return args

    def launch(self) -> Broker:
        """Starts the process and does not wait."""
        assert self.process is None or not self.process.alive(), "it runs already"
        env = {"RUST_BACKTRACE": "1"}
        self.process = Process(self.command(), self.folder, self.name, env=env)
        return self

    def start(self) -> Broker:
        """Starts it and waits until it serves."""
        self.launch()
        assert self.process is not None
        address = self.process.wait_for_line("ready ", self.ready_timeout)
        assert address == self.address, f"ready line names {address}, asked for {self.address}"
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout)

    def end(self) -> None:
        """Ends it in whatever state it is."""
        if self.process is not None:
            self.process.kill()

    def http(self, path: str, timeout: float = 5.0) -> tuple[int, str, str]:
        """Status, content type and body of a GET on the HTTP port."""
        try:
            with urllib.request.urlopen(f"http://{self.ip}:{self.http_port}{path}", timeout=timeout) as answer:
                return answer.status, answer.headers.get("content-type", ""), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("content-type", ""), error.read().decode()

    def wait_connectable(self, timeout: float) -> None:
        """Waits until the port accepts, without asking the ready line."""
        deadline = time.monotonic() + timeout
        while not port_open(self.port):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on {self.port}")
            time.sleep(0.005)

    def partition_dir(self, topic: str, partition: int = 0) -> Path:
        """Where a partition's files are."""
        assert self.data is not None
        return self.data / f"{topic}-{partition}"


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: bytes
    err: bytes

    def ok(self) -> bytes:
        """Standard output of a command that must have succeeded."""
        assert self.code == 0, f"exit code {self.code}: {self.err.decode(errors='replace')}"
        return self.out

    def failed(self, code: int = 1) -> str:
        """Standard error of a command that must have failed with `code`."""
        text = self.err.decode()
        assert self.code == code, f"exit code {self.code}, not {code}: {text or self.out[:500]!r}"
        return text


def millrace(
    *args: str,
    bootstrap: str | None = None,
    stdin: bytes | Path = b"",
    timeout: float = 60.0,
    json: bool = False,
) -> Result:
    """Runs the `millrace` command to its end."""
    command = [str(paths.binary("millrace"))]
    if bootstrap is not None:
        command += ["--bootstrap", bootstrap]
    if json:
        command += ["--output", "json"]
    command += args
    if isinstance(stdin, Path):
        with open(stdin, "rb") as source:
            done = subprocess.run(command, stdin=source, capture_output=True, timeout=timeout, env=CLEAN_ENV)
    else:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, env=CLEAN_ENV)
    return Result(done.returncode, done.stdout, done.stderr)
