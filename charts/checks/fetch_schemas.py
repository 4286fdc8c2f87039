"""Puts JSON schemas where kubeconform finds them: fetch_schemas.py INTO PROMETHEUS_OPERATOR.

Kubernetes' own come from the Python package kubernetes-validate, which has those of every version, a little altered for
kubeconform; those of ServiceMonitor and PrometheusRule are made from the Prometheus operator's definitions.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml
from definitions import json_schemas

# The oldest version that the chart allows, and the newest that is tested.
VERSIONS = ("1.33.0", "1.36.0")


def main(into: Path, prometheus_operator: Path) -> None:
    package = Path(find_spec("kubernetes_validate").submodule_search_locations[0]) / "kubernetes-json-schema"
    for version in VERSIONS:
        folder = into / version
        folder.mkdir(parents=True)
        for source in (package / f"v{version}-local-strict").glob("*.json"):
            schema = json.loads(source.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
            # Its id is an address of no server, from where references would be looked up.
            schema.pop("$id", None)
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
            (folder / source.name).write_text(json.dumps(schema))
    for plural in ("servicemonitors", "prometheusrules"):
        source = prometheus_operator / f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml"
        for name, schema in json_schemas(yaml.safe_load(source.read_text())).items():
            (into / name).write_text(json.dumps(schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
