"""What is made from other files, and kept in the repository so that the chart is whole: file to content."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from helm import CHART, CHARTS, case_of, dump_yaml, is_definition, name_of, template, value_files

SOURCES = CHARTS.parent / "crds/yaml"
COPIES = CHART / "files/crds"
GOLDEN = CHARTS / "golden"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
TABLE = re.compile(r"(<!-- values -->\n).*?(<!-- end of values -->)", re.DOTALL)


def chart_files() -> dict[Path, str]:
    """Parts of the chart itself."""
    values = documented_values((CHART / "values.yaml").read_text())
    return {
        **{COPIES / source.name: source.read_text() for source in sorted(SOURCES.glob("*.yaml"))},
        SCHEMA: described_schema(SCHEMA.read_text(), values),
        README: TABLE.sub(lambda parts: parts[1] + table(values) + parts[2], README.read_text()),
    }


def golden_files() -> dict[Path, str]:
    """What it renders for each file of values, sorted, without the definitions: their source is at hand."""
    return {GOLDEN / f"{case_of(values)}.yaml": golden(values) for values in value_files()}


def golden(values: Path) -> str:
    objects = [each for each in template("--values", values) if not is_definition(each)]
    objects.sort(key=name_of)
    return dump_yaml(objects)


def documented_values(text: str) -> dict[str, tuple[str, Any]]:
    """The values that users set: dotted path to (its comment `# --`, its default)."""
    found: dict[str, tuple[str, Any]] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    inside_below: int | None = None
    defaults = yaml.safe_load(text)
    for line in text.splitlines():
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if stripped.startswith("# -- "):
            comment = [stripped[5:]]
            inside_below = None
        elif stripped.startswith("# ") and comment:
            comment.append(stripped[2:])
        elif match := re.match(r"([A-Za-z]+):", stripped):
            if inside_below is not None and indent > inside_below:
                continue
            inside_below = None
            while path and path[-1][0] >= indent:
                path.pop()
            path.append((indent, match[1]))
            if comment:
                default = defaults
                for _, name in path:
                    default = default[name]
                found[".".join(name for _, name in path)] = (" ".join(comment), default)
                comment = []
                # What stands below is this value's default.
                inside_below = indent
        else:
            comment = []
    return found


def leaves_of_schema(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    leaves: dict[str, dict[str, Any]] = {}
    for name, each in schema["properties"].items():
        if each.get("properties") and each.get("type") == "object":
            leaves |= leaves_of_schema(each, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = each
    return leaves


def described_schema(text: str, values: dict[str, tuple[str, Any]]) -> str:
    """The schema, with the values' comments as descriptions, which editors show."""
    schema = json.loads(text)
    for path, leaf in leaves_of_schema(schema).items():
        if path in values:
            leaf["description"] = values[path][0]
    return json.dumps(schema, indent=2) + "\n"


def table(values: dict[str, tuple[str, Any]]) -> str:
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for path, (comment, default) in values.items():
        shown = json.dumps(default)
        shown = "see values.yaml" if len(shown) > 40 else f"`{shown}`"
        rows.append(f"| `{path}` | {shown} | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"
