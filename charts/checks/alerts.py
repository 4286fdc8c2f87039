"""Alerts: that their expressions are PromQL, and about metrics that the operator has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser
from helm import Object

METRICS = {
    "millrace_operator_leader",
    "millrace_operator_reconcile_errors_total",
    "millrace_operator_last_success_timestamp_seconds",
}


def faults(objects: list[Object]) -> Iterator[str]:
    for each in objects:
        if each["kind"] != "PrometheusRule":
            continue
        for rule in (rule for group in each["spec"]["groups"] for rule in group["rules"]):
            try:
                promql_parser.parse(rule["expr"])
            except ValueError as error:
                yield f"{rule['alert']}: {error}: {rule['expr']}"
            named = set(re.findall(r"millrace_\w+", rule["expr"]))
            if not named or named - METRICS:
                yield f"{rule['alert']}: is about {sorted(named)}"
            for field in ("summary", "description"):
                text = rule["annotations"].get(field, "")
                if not text or re.search(r"\{\{(?! \$labels\.kind \}\})", text):
                    yield f"{rule['alert']}: {field} is {text!r}"
