"""The checks of the chart, in their order; charts/check says how they are run."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import alerts
import rules
import yaml
from definitions import KEEP, json_schemas
from fetch_schemas import VERSIONS
from helm import (
    CHART,
    CHARTS,
    HelmError,
    Object,
    case_of,
    dump_yaml,
    helm,
    is_definition,
    load_yaml,
    must,
    name_of,
    notes,
    template,
    value_files,
)
from made import COPIES, GOLDEN, README, SCHEMA, SOURCES, chart_files, documented_values, golden_files, leaves_of_schema

# Values that must be refused, and what the refusal has to name.
REFUSED = {
    "a name that is written wrongly": ("replicas=3", "replicas"),
    "the same further inside": ("rbac.clusterScoped.node=true", "node"),
    "a type": ("crds.enabled=yes", "crds/enabled"),
    "a pull policy": ("image.pullPolicy=Sometimes", "image/pullPolicy"),
    "a digest": ("image.digest=sha256:abc", "image/digest"),
    "a tag within the repository's digest": ("image.repository=millrace@sha256:abc", "image/repository"),
    "a namespace": ("watchNamespaces={Team A}", "watchNamespaces/0"),
    "one namespace twice": ("watchNamespaces={a,a}", "watchNamespaces"),
    "a secret that is no reference": ("imagePullSecrets={registry}", "imagePullSecrets/0"),
    "a log format": ("logFormat=xml", "logFormat"),
    "a budget that stops all drains": ("podDisruptionBudget.maxUnavailable=0", "podDisruptionBudget/maxUnavailable"),
    "several operators without election": ("replicaCount=2,leaderElection.enabled=false", "leaderElection.enabled"),
}


def freshness() -> Iterator[str]:
    """Copies, schema, README and golden files are what --write makes."""
    files = chart_files() | golden_files()
    for path, wanted in files.items():
        found = path.read_text() if path.exists() else ""
        if found != wanted:
            shown = path.relative_to(CHARTS.parent)
            lines = [*difflib.unified_diff(found.splitlines(), wanted.splitlines(), "there", "made now", lineterm="")]
            yield f"{shown} is not fresh (charts/check --write):\n" + "\n".join(lines[:60])
    for folder in (COPIES, GOLDEN):
        yield from (f"{path} is made from nothing" for path in folder.iterdir() if path not in files)


def lint() -> Iterator[str]:
    """`helm lint --strict` with each file of values."""
    for values in value_files():
        run = helm("lint", "--strict", CHART, "--values", values)
        if run.returncode != 0:
            yield f"{case_of(values)}: {run.stdout}{run.stderr}"


def metadata() -> Iterator[str]:
    """Chart.yaml agrees with the workspace and with the definitions."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    workspace = tomllib.loads((CHARTS.parent / "Cargo.toml").read_text())["workspace"]["package"]
    if chart["appVersion"] != workspace["version"]:
        yield f"appVersion is {chart['appVersion']}, the workspace's version {workspace['version']}"
    notes_of = {
        name.removeprefix("artifacthub.io/"): yaml.safe_load(text) for name, text in chart["annotations"].items()
    }
    listed = {(each["name"], each["kind"], each["version"]) for each in notes_of["crds"]}
    sources = [load_yaml(source.read_text())[0] for source in SOURCES.glob("*.yaml")]
    there = {
        (each["metadata"]["name"], each["spec"]["names"]["kind"], version["name"])
        for each in sources
        for version in each["spec"]["versions"]
    }
    if listed != there:
        yield f"crds lists {sorted(listed)}, there are {sorted(there)}"
    for image in notes_of["images"]:
        if not image["image"].endswith(f":{chart['appVersion']}"):
            yield f"images has {image['image']}"
    if chart["annotations"]["artifacthub.io/license"] != workspace["license"]:
        yield "the license is another one than the workspace's"
    if (CHART / "LICENSE").read_text() != (CHARTS.parent / "LICENSE").read_text():
        yield "LICENSE is another one than the repository's"


def round_trip() -> Iterator[str]:
    """Rendered definitions equal their source, apart from the annotation that keeps them; text like templates stays."""
    sources = sorted((load_yaml(path.read_text())[0] for path in SOURCES.glob("*.yaml")), key=name_of)
    for keep in (True, False):
        rendered = [each for each in template("--set", f"crds.keep={str(keep).lower()}") if is_definition(each)]
        for each in rendered:
            if each["metadata"].pop("annotations", {}) != (KEEP if keep else {}):
                yield f"crds.keep={keep}: wrong annotations of {each['metadata']['name']}"
        if sorted(rendered, key=name_of) != sources:
            yield f"crds.keep={keep}: rendered definitions differ from their source"
    if any(map(is_definition, template("--set", "crds.enabled=false"))):
        yield "crds.enabled=false renders definitions"
    with tempfile.TemporaryDirectory() as scratch:
        odd = Path(scratch) / "millrace"
        must_copy(CHART, odd)
        (odd / "files/crds/odd.yaml").write_text(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
            "metadata: {name: odd}\nspec: {description: 'a {{ .Values.nothing }} b'}\n"
        )
        texts = [each["spec"].get("description") for each in template(chart=odd) if is_definition(each)]
        if "a {{ .Values.nothing }} b" not in texts:
            yield f"text like a template does not stay: {texts}"


def values() -> Iterator[str]:
    """Every value is commented and in the schema; what is wrong is refused; within another chart it works as well."""
    text = (CHART / "values.yaml").read_text()
    documented = set(documented_values(text))
    leaves = set(leaves_of_schema(json.loads(SCHEMA.read_text()))) - {"global", "enabled"}
    yield from (f"{path} has a comment `# --` in values.yaml, but is not in the schema" for path in documented - leaves)
    yield from (f"{path} is in the schema, but has no comment `# --` in values.yaml" for path in leaves - documented)
    for what, (setting, named) in REFUSED.items():
        run = helm("template", "millrace", CHART, "--kube-version", VERSIONS[-1], "--set", setting)
        if run.returncode == 0:
            yield f"{what} is not refused: {setting}"
        elif named not in run.stderr.replace(".", "/") and named not in run.stderr:
            yield f"{what}: {setting} is refused without naming {named}: {run.stderr}"
    if helm("template", "millrace", CHART, "--kube-version", "1.32.9").returncode == 0:
        yield "Kubernetes 1.32 is not refused"
    with tempfile.TemporaryDirectory() as scratch:
        parent = Path(scratch) / "parent"
        must_copy(CHART, parent / "charts/millrace")
        (parent / "Chart.yaml").write_text(
            "apiVersion: v2\nname: parent\nversion: 0.1.0\n"
            "dependencies: [{name: millrace, version: '*', condition: millrace.enabled}]\n"
        )
        (parent / "values.yaml").write_text("global: {something: 1}\nmillrace: {enabled: true}\n")
        if not any(each["kind"] == "Deployment" for each in template(chart=parent)):
            yield "within another chart it renders nothing"


def names() -> Iterator[str]:
    """What the objects are called, by the release's name."""
    for release, wanted in {
        "millrace": "millrace-operator",
        "millrace-operator": "millrace-operator",
        "prod": "prod-millrace-operator",
        "a" * 53: "a" * 52,
    }.items():
        run = helm("template", release, CHART, "--kube-version", VERSIONS[-1])
        (found,) = (each["metadata"]["name"] for each in load_yaml(must(run)) if each["kind"] == "Deployment")
        if found != wanted:
            yield f"release {release}: {found}, not {wanted}"


def all_rules() -> Iterator[str]:
    """Pod security, rights, references, selectors and alerts of each render."""
    for path in value_files():
        given = yaml.safe_load(path.read_text()) or {}
        objects = template("--values", path)
        for fault in (*rules.faults(objects, given), *alerts.faults(objects)):
            yield f"{case_of(path)}: {fault}"


def kubernetes_schemas() -> Iterator[str]:
    """kubeconform, for the oldest and the newest version: all renders, and all examples of our own resources."""
    own = {}
    for source in SOURCES.glob("*.yaml"):
        own |= json_schemas(load_yaml(source.read_text())[0])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, schema in own.items():
            (folder / name).write_text(json.dumps(schema))
        for version in VERSIONS:
            for path in value_files():
                objects = template("--values", path, kubernetes=version)
                yield from conform(objects, version, folder, f"{case_of(path)} on {version}")
        examples = list(example_objects())
        if len(examples) < 4:
            yield f"only {len(examples)} examples found"
        yield from conform(examples, VERSIONS[-1], folder, "examples")
        wrong = [{**examples[0], "spec": {**examples[0]["spec"], "replcas": 3}}]
        if not list(conform(wrong, VERSIONS[-1], folder, "")):
            yield "a wrong example is not refused: the check does not work"


def conform(objects: list[Object], version: str, own: Path, what: str) -> Iterator[str]:
    schemas = Path(os.environ["MILLRACE_SCHEMAS"])
    name = "{{.ResourceKind}}{{.KindSuffix}}.json"
    run = subprocess.run(
        [os.environ["MILLRACE_KUBECONFORM"], "-strict", "-kubernetes-version", version, "-summary"]
        + [word for place in (schemas / version, schemas, own) for word in ("-schema-location", f"{place}/{name}")],
        input=dump_yaml(objects),
        capture_output=True,
        text=True,
    )
    if run.returncode != 0 or f"Valid: {len(objects)}," not in run.stdout:
        yield f"{what}: {run.stdout}{run.stderr}"


def example_objects() -> Iterator[Object]:
    """Clusters and Topics in Chart.yaml, in the README and in what is told after an installation."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    yield from yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    texts = re.findall(r"```yaml\n(apiVersion: millrace.*?)```", README.read_text(), re.DOTALL)
    for path in value_files():
        texts += re.findall(r"<<'END'\n(.*?)\nEND\n", notes("--values", path), re.DOTALL)
    for text in texts:
        yield from load_yaml(text)


def package() -> Iterator[str]:
    """What `helm package` puts together has all that is needed, and nothing of the checks."""
    with tempfile.TemporaryDirectory() as scratch:
        must(helm("package", CHART, "--destination", scratch))
        (packed,) = Path(scratch).iterdir()
        with tarfile.open(packed) as archive:
            files = {name.removeprefix("millrace/") for name in archive.getnames()}
        copies = {f"files/crds/{source.name}" for source in SOURCES.glob("*.yaml")}
        yield from (f"{name} is missing" for name in sorted((copies | {"README.md", "LICENSE"}) - files))
        yield from (f"{name} is in it" for name in sorted(files) if name.startswith("ci/"))
        if template(chart=packed) != template():
            yield "it renders something else than the folder"


def must_copy(chart: Path, to: Path) -> None:
    for source in chart.rglob("*"):
        if source.is_file():
            target = to / source.relative_to(chart)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


CHECKS: list[Callable[[], Iterator[str]]] = [
    freshness, lint, metadata, round_trip, values, names, all_rules, kubernetes_schemas, package
]  # fmt: skip


def write() -> None:
    # The renders are of the chart as it is after the first step.
    for files in (chart_files, golden_files):
        for path, text in files().items():
            if not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                print(f"wrote {path.relative_to(CHARTS.parent)}")


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print("usage: charts/check [--write]", file=sys.stderr)
        return 2
    if arguments:
        write()
    failed = 0
    for check in CHECKS:
        found = []
        try:
            found.extend(check())
        except HelmError as error:
            # The other checks may tell why.
            found.append(str(error))
        failed += len(found)
        print(f"{'FAIL' if found else 'ok  '} {check.__name__}: {check.__doc__}")
        for fault in found:
            print("     " + fault.strip().replace("\n", "\n     "))
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
