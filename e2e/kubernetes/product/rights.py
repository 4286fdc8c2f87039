"""What an account may do by its roles, and what of that it did by the audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kube_machine import Kubectl


class Right(NamedTuple):
    """A verb on a kind of object, `pods/eviction` for one below."""

    group: str
    resource: str
    verb: str


def granted(kubectl: Kubectl, namespace: str, account: str) -> set[Right]:
    """What an account's bindings give it, anywhere."""
    subject = {"kind": "ServiceAccount", "namespace": namespace, "name": account}
    rights: set[Right] = set()
    for binding in kubectl.json("rolebindings,clusterrolebindings", "--all-namespaces")["items"]:
        if not any(subject.items() <= each.items() for each in binding.get("subjects") or []):
            continue
        role, where = binding["roleRef"], []
        if role["kind"] == "Role":
            where = [f"--namespace={binding['metadata']['namespace']}"]
        for rule in kubectl.json(role["kind"], role["name"], *where)["rules"]:
            rights |= set(_of_rule(rule))
    return rights


def _of_rule(rule: dict[str, Any]) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield Right(group, resource, verb)


def used(entries: Iterable[dict[str, Any]]) -> set[Right]:
    """What was done, of the audit's entries of an account."""
    rights: set[Right] = set()
    for entry in entries:
        code = entry.get("responseStatus", {}).get("code", 500)
        # That there is none is an answer, too.
        if code >= 400 and code != 404:
            continue
        right = _of_entry(entry)
        rights.add(right)
        if right.verb == "patch" and code == 201:
            # An apply that makes its object needs the right to make it, too.
            rights.add(right._replace(verb="create"))
    return rights


def lacking(entries: Iterable[dict[str, Any]]) -> set[str]:
    """What was refused for a right that the account lacks; quotas and namespaces that go refuse, too."""
    refused: set[str] = set()
    for entry in entries:
        status = entry.get("responseStatus", {})
        message = status.get("message", "")
        forbidden = entry.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
        # Rights that a request needs beyond its own are asked for later: to make what is applied, to name an owner.
        if forbidden or (status.get("code") == 403 and "cannot " in message):
            right = _of_entry(entry)
            refused.add(f"{right.verb} {right.resource}: {message}")
    return refused


def _of_entry(entry: dict[str, Any]) -> Right:
    reference = entry["objectRef"]
    parts = [reference["resource"], reference.get("subresource", "")]
    return Right(reference.get("apiGroup", ""), "/".join(part for part in parts if part), entry["verb"])
