"""Kubernetes' definitions (CRDs): the chart's copies of ours, and JSON schemas made from any."""

from __future__ import annotations

from typing import Any

KEEP = {"helm.sh/resource-policy": "keep"}


def json_schemas(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A definition's schemas as kubeconform names them: file name to schema, in which unknown fields are refused."""
    group = definition["spec"]["group"].split(".")[0]
    kind = definition["spec"]["names"]["kind"].lower()
    schemas = {}
    for version in definition["spec"]["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "required": ["name"]},
        }
        schemas[f"{kind}-{group}-{version['name']}.json"] = schema
    return schemas


def strict(schema: Any) -> Any:
    """The same in plain JSON schema: as Kubernetes does it, but unknown fields are refused and not dropped."""
    if not isinstance(schema, dict):
        return schema
    made = {name: value for name, value in schema.items() if not name.startswith("x-kubernetes-")}
    for word in ("nullable", "format", "description"):
        made.pop(word, None)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    if "properties" in made:
        made["properties"] = {name: strict(each) for name, each in made["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    elif isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(made["additionalProperties"])
    if "items" in made:
        made["items"] = strict(made["items"])
    return made
