"""Runs of Helm, and what it renders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).resolve().parent.parent
CHART = CHARTS / "millrace"
RELEASE = "millrace"
NAMESPACE = "millrace-system"

Object = dict[str, Any]


# The ones in C: definitions are long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load_yaml(text: str) -> list[Object]:
    return [each for each in yaml.load_all(text, LOADER) if each]


def dump_yaml(objects: list[Object]) -> str:
    return yaml.dump_all(objects, Dumper=DUMPER, sort_keys=True, width=120)


def value_files() -> list[Path]:
    return sorted((CHART / "ci").glob("*-values.yaml"))


def case_of(values: Path) -> str:
    return values.name.removesuffix("-values.yaml")


class HelmError(Exception):
    """Helm has failed where it should not."""


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # None of the user's plugins, repositories and settings; no cluster either.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    environment |= {"HELM_NO_PLUGINS": "1", "KUBECONFIG": os.devnull}
    command = [os.environ["MILLRACE_HELM"], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def must(run: subprocess.CompletedProcess[str]) -> str:
    if run.returncode != 0:
        raise HelmError(f"{' '.join(run.args)}\n{run.stdout}{run.stderr}")
    return run.stdout


def template(*arguments: str | Path, chart: Path = CHART, kubernetes: str = "1.36.0") -> list[Object]:
    text = must(helm("template", RELEASE, chart, "--namespace", NAMESPACE, "--kube-version", kubernetes, *arguments))
    return load_yaml(text)


def notes(*arguments: str | Path) -> str:
    text = must(helm("install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=client", *arguments))
    return text.split("NOTES:\n", 1)[1]


def is_definition(each: Object) -> bool:
    return each["kind"] == "CustomResourceDefinition"


def name_of(each: Object) -> str:
    metadata = each["metadata"]
    return "/".join(filter(None, (each["kind"], metadata.get("namespace"), metadata["name"])))
