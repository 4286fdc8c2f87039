"""kubectl and helm for tests: each call ends after a time, and a failed one says what was asked and answered."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kube_machine.errors import Failed
from kube_machine.host import run


class _Tool:
    """A program that works on one cluster. `home` is where it keeps what it learned of it, instead of the user's own
    settings and caches; a folder that goes with this object if none is given."""

    def __init__(self, program: Path | str, kubeconfig: Path, home: Path | None = None) -> None:
        self._program = str(program)
        self.kubeconfig = kubeconfig
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if home is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="millrace-kube-home-")
            home = Path(self._temporary.name)
        self.home = home
        self.env = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(home)}

    def run(self, *arguments: str, timeout: float = 60, given: str | None = None, check: bool = True) -> str:
        """Runs it and gives its standard output; Failed if it fails, unless `check` is false."""
        return run(
            [self._program, *arguments],
            timeout=timeout,
            check=check,
            env=self.env,
            input=given.encode() if given is not None else b"",
        )


class Kubectl(_Tool):
    """kubectl, in one namespace if it is given."""

    def __init__(
        self, program: Path | str, kubeconfig: Path, namespace: str | None = None, home: Path | None = None
    ) -> None:
        super().__init__(program, kubeconfig, home)
        self.namespace = namespace

    def within(self, namespace: str) -> Kubectl:
        """The same in another namespace."""
        other = Kubectl(self._program, self.kubeconfig, namespace, self.home)
        # Keeps the folder as long as one of them is used.
        other._temporary = self._temporary
        return other

    def __call__(self, *arguments: str, timeout: float = 60, given: str | None = None, check: bool = True) -> str:
        """Any command of it."""
        before = [f"--namespace={self.namespace}"] if self.namespace else []
        return self.run(*before, *arguments, timeout=timeout, given=given, check=check)

    def get(self, *arguments: str, timeout: float = 30) -> str:
        """`kubectl get` as text."""
        return self("get", *arguments, timeout=timeout)

    def json(self, *arguments: str, timeout: float = 30) -> Any:
        """`kubectl get -o json`: an object or a list."""
        return json.loads(self("get", *arguments, "-o", "json", timeout=timeout))

    def apply(self, *objects: dict[str, Any] | str, timeout: float = 60) -> str:
        """Applies objects, or YAML text."""
        texts = [given if isinstance(given, str) else json.dumps(given) for given in objects]
        return self("apply", "-f", "-", timeout=timeout, given="\n---\n".join(texts))

    def delete(self, *arguments: str, timeout: float = 120) -> str:
        """Deletes and waits until it is gone."""
        return self("delete", *arguments, "--ignore-not-found", f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def wait(self, what: str, *arguments: str, timeout: float = 60) -> None:
        """`kubectl wait --for=...`: what is waited for, then which objects."""
        self("wait", f"--for={what}", *arguments, f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def rollout(self, *arguments: str, timeout: float = 120) -> None:
        """Waits until a workload is as it should be."""
        self("rollout", "status", *arguments, f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def exec(self, pod: str, *command: str, timeout: float = 30) -> str:
        """Runs a command in a pod."""
        return self("exec", pod, "--", *command, timeout=timeout)

    def logs(self, pod: str, *arguments: str, timeout: float = 30) -> str:
        """A pod's output."""
        return self("logs", pod, *arguments, timeout=timeout)

    def until(self, what: str, condition: Callable[[], Any], timeout: float = 60, pause: float = 0.25) -> Any:
        """Waits until `condition` gives something true, and gives it. A call that fails counts as not yet."""
        deadline = time.monotonic() + timeout
        last: object = None
        while time.monotonic() < deadline:
            try:
                last = condition()
            except (Failed, AssertionError, json.JSONDecodeError) as error:
                last = error
            else:
                if last:
                    return last
            time.sleep(pause)
        raise Failed(f"{what}: not after {timeout:.0f} s; last seen: {last}")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command that goes on (port-forward, a watch); whoever calls ends it."""
        before = [f"--namespace={self.namespace}"] if self.namespace else []
        return subprocess.Popen(
            [self._program, *before, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class Helm(_Tool):
    """helm: `helm("install", "name", "chart", "--wait", timeout=120)`."""

    def __call__(self, *arguments: str, timeout: float = 120, check: bool = True) -> str:
        """Any command of it."""
        return self.run(*arguments, timeout=timeout, check=check)
