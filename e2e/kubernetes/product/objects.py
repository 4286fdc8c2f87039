"""An object of Millrace's own kinds in a namespace of a test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from kube_machine import Failed, Kubectl

API = "millrace.dev/v1alpha1"


class Owned:
    """An object that the operator looks after: what users write, and what the operator says of it."""

    kind = ""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name

    def manifest(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The object as a user writes it."""
        return {"apiVersion": API, "kind": self.kind, "metadata": {"name": self.name}, "spec": spec}

    def patch(self, **spec: Any) -> None:
        """Changes fields of its spec; None takes one away."""
        self.kubectl("patch", self.kind, self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def annotate(self, **annotations: str) -> None:
        """Sets annotations of the group millrace.dev."""
        pairs = [f"millrace.dev/{name}={value}" for name, value in annotations.items()]
        self.kubectl("annotate", self.kind, self.name, "--overwrite", *pairs)

    def get(self) -> dict[str, Any]:
        """The object as it is."""
        return self.kubectl.json(self.kind, self.name)

    def status(self) -> dict[str, Any]:
        """What the operator says of it."""
        return self.get().get("status", {})

    def condition(self, kind: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
        """A condition; empty if it is not there."""
        conditions = (self.status() if status is None else status).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def until(self, what: str, holds: Callable[[dict[str, Any]], Any], timeout: float = 120) -> Any:
        """Waits until something holds of its status; says what it was otherwise."""
        last: list[Any] = [None]

        def look() -> Any:
            last[0] = self.status()
            return holds(last[0])

        try:
            return self.kubectl.until(what, look, timeout)
        except Failed as failed:
            raise Failed(f"{failed}\nits status: {json.dumps(last[0], indent=1)}") from None

    def until_condition(self, kind: str, reason: str, status: str = "True", timeout: float = 120) -> str:
        """Waits until a condition has a reason; gives its message."""

        def holds(told: dict[str, Any]) -> str | None:
            found = self.condition(kind, told)
            fits = found.get("status") == status and found.get("reason") == reason
            return (found["message"] or " ") if fits else None

        return self.until(f"condition {kind}={status}/{reason}", holds, timeout)

    def until_seen(self, what: str, holds: Callable[[dict[str, Any]], Any], timeout: float = 120) -> Any:
        """The same of what the operator does not watch: it is made to look, and not only within a minute or so."""

        def seen(told: dict[str, Any]) -> Any:
            self.look_again()
            return holds(told)

        return self.until(what, seen, timeout)

    def look_again(self) -> None:
        """Has the operator look at it now and not at its next look, which would be within about a minute."""
        self.annotate(touched=str(time.time_ns()))

    def events(self, reason: str) -> list[str]:
        """What the operator told of it for a reason."""
        about = f"--field-selector=reason={reason},regarding.kind={self.kind},regarding.name={self.name}"
        return [event.get("note", "") for event in self.kubectl.json("events.events.k8s.io", about)["items"]]
