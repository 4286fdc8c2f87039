"""What holds for everything that the chart renders: Kubernetes' Pod Security Standard "restricted", rights, references.

The rules are those of kube-linter that make sense here, which is not to be had as a Go module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from helm import NAMESPACE, RELEASE, Object, name_of

CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
ROLES = {"Role", "ClusterRole"}
BINDINGS = {"RoleBinding", "ClusterRoleBinding"}
# Rights with which one gets others.
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate"}
FORBIDDEN_RESOURCES = {
    "*",
    "secrets",
    "roles",
    "rolebindings",
    "clusterroles",
    "clusterrolebindings",
    "nodes/proxy",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/log",
    "serviceaccounts/token",
}


def faults(objects: list[Object], given: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with one render; `given` are the values of the file that it was rendered with."""
    watched = given.get("watchNamespaces") or []
    for each in objects:
        for fault in (*faults_of_place(each, watched), *faults_of_rights(each)):
            yield f"{name_of(each)}: {fault}"
        if template := pod_template(each):
            for fault in faults_of_pod(each, template):
                yield f"{name_of(each)}: {fault}"
    yield from faults_of_references(objects, given)
    yield from faults_of_selectors(objects)
    names = [name_of(each) for each in objects]
    yield from (f"{name}: rendered twice" for name in sorted({name for name in names if names.count(name) > 1}))


def pod_template(each: Object) -> Object | None:
    if each["kind"] == "Pod":
        return each
    return each.get("spec", {}).get("template") if each["kind"] in {"Deployment", "Job"} else None


def faults_of_place(each: Object, watched: list[str]) -> Iterator[str]:
    metadata = each["metadata"]
    labels = metadata.get("labels", {})
    if each["kind"] in CLUSTER_SCOPED:
        if "namespace" in metadata:
            yield "belongs to no namespace and has one"
    elif each["kind"] != "ConfigMap":  # extraObjects: the user's own
        if metadata.get("namespace") not in {NAMESPACE, *watched}:
            yield f"is in the namespace {metadata.get('namespace')}"
        if metadata["name"] == RELEASE:
            yield "has a name that the operator may give what it makes for a Cluster called as the release"
    if each["kind"] not in {"CustomResourceDefinition", "ConfigMap"}:
        for label in ("name", "instance", "version", "managed-by", "component", "part-of"):
            if f"app.kubernetes.io/{label}" not in labels:
                yield f"lacks the label app.kubernetes.io/{label}"
        if "helm.sh/chart" not in labels:
            yield "lacks the label helm.sh/chart"
    for label, value in labels.items():
        if len(value) > 63:
            yield f"label {label} is too long"


def faults_of_rights(each: Object) -> Iterator[str]:
    if each["kind"] in BINDINGS and each["roleRef"]["name"] == "cluster-admin":
        yield "binds cluster-admin"
    if each["kind"] not in ROLES:
        return
    for rule in each["rules"]:
        if "*" in rule.get("apiGroups", []) or "nonResourceURLs" in rule:
            yield f"gives rights to all groups or to URLs: {rule}"
        for verb in FORBIDDEN_VERBS & set(rule["verbs"]):
            yield f"gives the verb {verb}: {rule}"
        for resource in rule["resources"]:
            if resource in FORBIDDEN_RESOURCES or resource.endswith("/*"):
                yield f"gives rights to {resource}: {rule}"
            if resource == "customresourcedefinitions" and (rule["verbs"] != ["get"] or not rule.get("resourceNames")):
                yield f"gives more than reading named definitions: {rule}"


def faults_of_pod(each: Object, template: Object) -> Iterator[str]:
    pod = template["spec"]
    outer = pod.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"has {field}"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"mounts {volume}"
    if pod.get("enableServiceLinks") is not False:
        yield "has enableServiceLinks"
    if pod.get("serviceAccountName", "default") == "default":
        yield "runs as the namespace's default ServiceAccount"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        inner = container.get("securityContext", {})
        both = {**outer, **inner}
        wanted = {
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
            "allowPrivilegeEscalation: false": inner.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": inner.get("readOnlyRootFilesystem") is True,
            "capabilities.drop: [ALL]": inner.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": both.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "no privileged": not inner.get("privileged"),
            "requests": {"cpu", "memory"} <= set(container.get("resources", {}).get("requests", {})),
            "a memory limit": "memory" in container.get("resources", {}).get("limits", {}),
            "an image with tag or digest": not container["image"].endswith(":latest")
            and ("@" in container["image"] or ":" in container["image"].rsplit("/", 1)[-1]),
            "no variables from Secrets": not any(
                "secretKeyRef" in one.get("valueFrom", {}) for one in container.get("env", [])
            ),
        }
        yield from (f"container {container['name']} lacks {name}" for name, there in wanted.items() if not there)
        if each["kind"] == "Deployment":
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if container.get(probe, {}).get("httpGet", {}).get("port") not in ports:
                    yield f"container {container['name']} lacks a {probe} at one of its ports"


def faults_of_references(objects: list[Object], given: dict[str, Any]) -> Iterator[str]:
    names = {name_of(each) for each in objects}
    brought = given.get("serviceAccount", {})
    if brought.get("create") is False:
        names.add(f"ServiceAccount/{NAMESPACE}/{brought['name']}")
    for each in objects:
        wanted = set()
        if each["kind"] in BINDINGS:
            role = each["roleRef"]
            where = "" if role["kind"] == "ClusterRole" else f"/{each['metadata']['namespace']}"
            wanted.add(f"{role['kind']}{where}/{role['name']}")
            wanted |= {f"{one['kind']}/{one['namespace']}/{one['name']}" for one in each["subjects"]}
        if template := pod_template(each):
            wanted.add(f"ServiceAccount/{NAMESPACE}/{template['spec']['serviceAccountName']}")
        yield from (f"{name_of(each)}: there is no {name}" for name in sorted(wanted - names))


def faults_of_selectors(objects: list[Object]) -> Iterator[str]:
    pods = {name_of(each): pod_template(each)["metadata"]["labels"] for each in objects if pod_template(each)}
    services = {name_of(each): each["metadata"]["labels"] for each in objects if each["kind"] == "Service"}
    for each in objects:
        spec = each.get("spec", {})
        chosen = pods
        match each["kind"]:
            case "Service":
                selector = spec["selector"]
            case "Deployment" | "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case "ServiceMonitor":
                selector, chosen = spec["selector"]["matchLabels"], services
            case _:
                continue
        if set(selector) != {"app.kubernetes.io/name", "app.kubernetes.io/instance"}:
            yield f"{name_of(each)}: selects by {selector}"
        if selector.get("app.kubernetes.io/name") == "millrace":
            yield f"{name_of(each)}: selects brokers of a Cluster that is called as the release"
        matched = [name for name, labels in chosen.items() if selector.items() <= labels.items()]
        kind = "Service" if chosen is services else "Deployment"
        if [name.split("/")[0] for name in matched] != [kind]:
            yield f"{name_of(each)}: selects {matched}, not the one {kind}"
