"""Names and places of one machine: all that it makes on the computer bears its name, so that several can run."""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from kube_machine.errors import Failed
from kube_machine.host import run

_HERE = Path(__file__).resolve().parent
_DEFAULT_NAME = "millrace"
COMPONENTS = ("etcd", "apiserver", "controller-manager", "scheduler")
# A prefix of it is no other machine's name, since no name has a dot.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


def default_name() -> str:
    """What MILLRACE_KUBE_NAME says."""
    return os.environ.get("MILLRACE_KUBE_NAME") or _DEFAULT_NAME


class Layout:
    """Where things of the machine `name` are."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Failed(f"{name!r} can't name a cluster: small letters, digits and '-', at most 31")
        self.name = name
        # The name of its control group, and what its network namespaces' names begin with.
        self.prefix = f"millrace-kube.{name}"
        self.folder = Path(tempfile.gettempdir()).resolve() / f"millrace-kube-{name}"
        self.log = self.folder / "log"
        self.pki = self.folder / "pki"
        self.images = self.folder / "images"
        # Given to users: the API server by its address on this computer.
        self.kubeconfig = self.folder / "kubeconfig"
        # There since the API server served for the first time.
        self.serving = self.folder / "serving"
        self._state = self.folder / "state.json"

    def command(self, words: str) -> str:
        """How a shell in any folder is told to do this to the machine; for messages, to be pasted."""
        named = "" if self.name == _DEFAULT_NAME else f"MILLRACE_KUBE_NAME={self.name} "
        return f"{named}{shlex.quote(str(_HERE.parent / 'kube'))} {words}"

    def env_command(self) -> str:
        """The same, for a shell that is to use it."""
        return f'eval "$({self.command("env")})"'

    def node_disk(self, node: str) -> Path:
        """What survives a crash of the node."""
        return self.folder / "nodes" / node

    def pid_file(self, process: str) -> Path:
        """Where the process of a component or node is noted."""
        return self.folder / f"{process}.pid"

    def scripts(self) -> list[Path]:
        """The scripts that are copied into the folder: what runs is not changed by a change of the clone."""
        return sorted((_HERE / "scripts").glob("*.sh"))

    # --- what must outlive the command that made it ---

    def state(self) -> dict[str, Any]:
        """The machine's state; empty if there is none (or `up` was killed before it had one)."""
        try:
            return json.loads(self._state.read_text())
        except FileNotFoundError:
            return {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Replaces the state as a whole."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1))
        os.replace(new, self._state)


def build() -> Path:
    """Builds the executables, if they are not there yet, and gives their folder."""
    # What it says while it builds is for whoever waits.
    out = run([_HERE.parent / "build"], timeout=3600, show_errors=True)
    return Path(out.strip())
