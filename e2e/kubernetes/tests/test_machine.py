"""The cluster itself: that it is a Kubernetes, that its faults are what they say, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kube_machine import Failed, Helm, Kubectl, Machine
from kube_machine.host import marked

_KUBE = Path(__file__).resolve().parents[1] / "kube"
_RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _pod_spec(image: str) -> dict:
    """A pod as strict as the policy `restricted` wants it, that serves on 8080."""
    zone = {"fieldRef": {"fieldPath": "metadata.labels['topology.kubernetes.io/zone']"}}
    return {
        "securityContext": _POD_SECURITY,
        "terminationGracePeriodSeconds": 2,
        "containers": [
            {
                "name": "probe",
                "image": image,
                "imagePullPolicy": "Never",
                "args": ["serve", ":8080"],
                "env": [{"name": "ZONE", "valueFrom": zone}],
                "securityContext": _SECURITY,
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            }
        ],
    }


@dataclass
class Workload:
    """Three pods with a claim each, one in each zone."""

    kubectl: Kubectl
    pods = ("probe-0", "probe-1", "probe-2")

    def node(self, pod: str) -> str:
        """Where a pod runs."""
        return self.kubectl.json("pod", pod)["spec"]["nodeName"]

    def wait_ready(self, timeout: float = 60) -> None:
        """All three run and answer."""
        self.kubectl.wait("condition=Ready", *(f"pod/{pod}" for pod in self.pods), timeout=timeout)


@pytest.fixture(scope="module")
def workload(cluster_kubectl: Kubectl, probe_image: str) -> Iterator[Workload]:
    """Shared by the tests: a StatefulSet in a namespace with the strictest security policy."""
    name = "workload"
    labels = {"app": "probe"}
    spec = _pod_spec(probe_image)
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": labels},
        }
    ]
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    kubectl = cluster_kubectl.within(name)
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": _RESTRICTED}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "peers"},
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels, "ports": ports},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "probe"},
            "spec": {"selector": labels, "ports": ports},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "probe"},
            "spec": {
                "serviceName": "peers",
                "replicas": 3,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
                "volumeClaimTemplates": [claim],
            },
        },
    )
    kubectl.rollout("statefulset/probe")
    yield Workload(kubectl)
    cluster_kubectl("delete", "namespace", name, "--wait=false")


def _ready(kubectl: Kubectl, node: str) -> bool:
    conditions = kubectl.json("node", node)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _wait_not_ready(kubectl: Kubectl, node: str) -> float:
    """Gives after how many seconds the cluster has missed the node."""
    began = time.monotonic()
    kubectl.until(f"{node} is missed", lambda: not _ready(kubectl, node), timeout=40)
    return time.monotonic() - began


# --- a Kubernetes ---


def test_nodes_are_ready_in_three_zones(machine: Machine, cluster_kubectl: Kubectl) -> None:
    nodes = cluster_kubectl.json("nodes")["items"]
    assert machine.api().ready_nodes() == {"node1", "node2", "node3"}
    assert {n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in nodes} == {"zone-1", "zone-2", "zone-3"}
    assert {state for state in machine.status().values()} == {"running"}


def test_pods_are_spread_and_know_their_zone(workload: Workload) -> None:
    nodes = {pod: workload.node(pod) for pod in workload.pods}
    assert len(set(nodes.values())) == 3
    for pod, node in nodes.items():
        labels = workload.kubectl.json("node", node)["metadata"]["labels"]
        assert workload.kubectl.exec(pod, "/probe", "env", "ZONE") == labels["topology.kubernetes.io/zone"]


def test_volumes_are_writable_without_root_and_lie_in_the_clusters_folder(machine: Machine, workload: Workload) -> None:
    workload.kubectl.exec("probe-0", "/probe", "write", "/data/file", "hello")
    volume = workload.kubectl.json("pvc", "data-probe-0")["spec"]["volumeName"]
    path = Path(workload.kubectl.json("pv", volume)["spec"]["hostPath"]["path"])
    assert path.parent == Path("/tmp/hostpath_pv")
    inside = machine.folder / "volumes" / path.name
    assert (inside / "file").read_text() == "hello\n"
    assert (inside / "file").stat().st_uid == 65532
    assert not path.exists()


def test_names_are_resolved_and_services_reached(workload: Workload) -> None:
    addresses = {workload.kubectl.json("pod", pod)["status"]["podIP"] for pod in workload.pods}
    resolved = workload.kubectl.exec("probe-0", "/probe", "resolve", "peers")
    assert set(resolved.split()) == addresses
    for peer in workload.pods:
        assert workload.kubectl.exec("probe-0", "/probe", "fetch", f"http://{peer}.peers:8080/") == peer
    seen = {
        workload.kubectl.exec("probe-1", "/probe", "fetch", "http://probe.workload.svc.cluster.local/")
        for _ in range(12)
    }
    assert len(seen) >= 2


def test_a_new_peer_is_resolved_before_it_is_ready(workload: Workload, probe_image: str) -> None:
    spec = _pod_spec(probe_image)
    spec["containers"][0]["readinessProbe"] = {"httpGet": {"port": 9, "path": "/"}}
    spec |= {"hostname": "late", "subdomain": "peers"}
    late = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "labels": {"app": "probe"}}, "spec": spec}

    def resolved() -> str:
        return workload.kubectl.exec("probe-0", "/probe", "resolve", "late.peers")

    with pytest.raises(Failed):
        resolved()
    workload.kubectl.apply(late)
    try:
        workload.kubectl.until("its name is known", resolved, timeout=20)
        assert workload.kubectl.json("pod", "late")["status"]["phase"] == "Running"
    finally:
        workload.kubectl.delete("pod", "late")


def test_admission_refuses_what_policies_forbid(workload: Workload, probe_image: str) -> None:
    spec = _pod_spec(probe_image)
    spec["containers"][0]["securityContext"] = {"privileged": True}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(Failed, match="violates PodSecurity"):
        workload.kubectl.apply(pod)
    rule = {"expression": "object.metadata.name != 'forbidden'", "message": "that name is forbidden"}
    match = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "names"}}
    policy = {
        **kind,
        "kind": "ValidatingAdmissionPolicy",
        "spec": {"matchConstraints": {"resourceRules": [match]}, "validations": [rule]},
    }
    binding = {
        **kind,
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": "names", "validationActions": ["Deny"]},
    }
    workload.kubectl.apply(policy, binding)

    def refused() -> bool:
        try:
            workload.kubectl("create", "configmap", "forbidden", "--dry-run=server")
        except Failed as failed:
            return "that name is forbidden" in str(failed)
        return False

    workload.kubectl.until("the policy is in force", refused, timeout=20)
    workload.kubectl.delete("validatingadmissionpolicy,validatingadmissionpolicybinding", "names")


def test_kubectl_and_helm_work_from_outside(workload: Workload, helm: Helm, tmp_path: Path) -> None:
    assert "serving" in workload.kubectl.logs("probe-0")
    forward = workload.kubectl.start("port-forward", "pod/probe-2", ":8080", "--address=127.0.0.1")
    try:
        assert forward.stdout is not None
        port = forward.stdout.readline().split("127.0.0.1:")[1].split(" ")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read() == b"probe-2"
    finally:
        forward.kill()
        forward.communicate()
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: chart\nversion: 1.0.0\n")
    (chart / "templates" / "map.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-helm}\ndata: {release: {{ .Release.Name }}}\n"
    )
    helm("install", "first", str(chart), "--namespace=workload", "--wait")
    assert workload.kubectl.json("configmap", "from-helm")["data"] == {"release": "first"}
    helm("uninstall", "first", "--namespace=workload")


def test_evictions_keep_to_budgets_and_are_noted_with_their_options(machine: Machine, workload: Workload) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "probe"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "probe"}}},
    }
    workload.kubectl.apply(budget)
    workload.kubectl.until(
        "the budget is counted",
        lambda: workload.kubectl.json("pdb", "probe").get("status", {}).get("currentHealthy") == 3,
    )
    node = workload.node("probe-1")
    uid = workload.kubectl.json("pod", "probe-1")["metadata"]["uid"]
    drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--grace-period=1"]
    with pytest.raises(Failed, match="disruption budget"):
        workload.kubectl(*drain, "--timeout=2s")
    workload.kubectl("patch", "pdb", "probe", "--type=merge", "-p", '{"spec":{"maxUnavailable":1}}')
    workload.kubectl(*drain, "--timeout=60s")
    workload.kubectl("uncordon", node)
    workload.kubectl.until("another pod", lambda: workload.kubectl.json("pod", "probe-1")["metadata"]["uid"] != uid)
    workload.wait_ready()
    workload.kubectl.delete("pdb", "probe")
    evictions = [
        entry
        for entry in machine.audit()
        if entry["objectRef"].get("subresource") == "eviction" and entry["objectRef"]["name"] == "probe-1"
    ]
    assert evictions[0]["responseStatus"]["code"] == 429
    assert evictions[-1]["responseStatus"]["code"] == 201
    assert evictions[-1]["requestObject"]["deleteOptions"]["gracePeriodSeconds"] == 1
    assert {e["stage"] for e in evictions} == {"ResponseComplete"}


def test_what_service_accounts_ask_is_noted(machine: Machine, kubectl: Kubectl, namespace: str) -> None:
    kubectl("create", "serviceaccount", "asker")
    token = kubectl("create", "token", "asker")
    config = json.loads(machine.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    context = ssl.create_default_context(cafile=str(machine.layout.pki / "ca.crt"))
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{server}/api/v1/namespaces/{namespace}/pods", headers=headers)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, context=context, timeout=10)
    entries = machine.audit()
    assert f"system:serviceaccount:{namespace}:asker" in {entry["user"]["username"] for entry in entries}
    # Of the system's own accounts what is deleted, as everybody's deletions are, and nothing of their daily work.
    daily = [entry for entry in entries if entry["verb"] not in {"delete", "deletecollection"}]
    users = {entry["user"]["username"] for entry in daily}
    assert not [u for u in users if u.startswith("system:serviceaccount:kube-system:") and "controller" not in u]


# --- its faults ---


@pytest.mark.long
def test_a_crashed_node_comes_back_with_its_disk(machine: Machine, workload: Workload) -> None:
    node = workload.node("probe-0")
    workload.kubectl.exec("probe-0", "/probe", "write", "/data/crash", "before")
    machine.crash(node)
    assert machine.node(node).state() == "crashed"
    with pytest.raises(Failed, match="has crashed already"):
        machine.crash(node)
    assert _wait_not_ready(workload.kubectl, node) < 25
    machine.start(node)
    workload.kubectl.until(
        "the pod runs again",
        lambda: workload.kubectl.json("pod", "probe-0")["status"]["containerStatuses"][0]["restartCount"] == 1,
    )
    workload.wait_ready()
    assert workload.node("probe-0") == node
    workload.kubectl.exec("probe-0", "/probe", "write", "/data/crash", "after")
    assert workload.kubectl.exec("probe-0", "/probe", "read", "/data/crash") == "before\nafter\n"


@pytest.mark.long
def test_frozen_and_cut_off_nodes_are_missed_and_go_on(machine: Machine, workload: Workload) -> None:
    frozen, cut = workload.node("probe-1"), workload.node("probe-2")
    machine.freeze(frozen)
    machine.cut(cut)
    try:
        assert machine.node(frozen).state() == "frozen"
        assert machine.node(cut).state() == "running, cut off"
        # A node's pods stand still with it, and are cut off with it.
        for pod in ("probe-1", "probe-2"):
            with pytest.raises(Failed):
                workload.kubectl.exec("probe-0", "/probe", "fetch", f"http://{pod}.peers:8080/")
        for node in (frozen, cut):
            _wait_not_ready(workload.kubectl, node)
    finally:
        machine.thaw(frozen)
        machine.join(cut)
    workload.kubectl.wait("condition=Ready", f"node/{frozen}", f"node/{cut}")
    workload.wait_ready()
    for pod in ("probe-1", "probe-2"):
        assert workload.kubectl.exec("probe-0", "/probe", "fetch", f"http://{pod}.peers:8080/") == pod
        assert workload.kubectl.json("pod", pod)["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.long
def test_the_control_plane_can_stop_and_freeze(machine: Machine, workload: Workload, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "kept", "--from-literal=a=b")
    for component in ("apiserver", "etcd"):
        machine.stop_component(component)
        with pytest.raises(Failed):
            kubectl("get", "configmap", "kept", "--request-timeout=2s")
        machine.start_component(component)
        kubectl.until("it answers", lambda: kubectl.json("configmap", "kept")["data"] == {"a": "b"})
    machine.freeze_component("apiserver")
    assert machine.status()["apiserver"] == "frozen"
    with pytest.raises(Failed):
        kubectl("get", "configmap", "kept", "--request-timeout=2s")
    machine.thaw_component("apiserver")
    machine.stop_component("controller-manager")
    machine.start_component("controller-manager")
    assert kubectl.json("configmap", "kept")["data"] == {"a": "b"}
    workload.wait_ready()


@pytest.mark.long
def test_a_node_can_be_added_and_removed(machine: Machine, kubectl: Kubectl, probe_image: str) -> None:
    added = machine.add_node()
    try:
        spec = {**_pod_spec(probe_image), "nodeSelector": {"kubernetes.io/hostname": added}}
        kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "there"}, "spec": spec})
        kubectl.wait("condition=Ready", "pod/there")
    finally:
        machine.remove_node(added)
    assert {n["metadata"]["name"] for n in kubectl.json("nodes")["items"]} == {"node1", "node2", "node3"}


# --- what is told ---


def _kube(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _KUBE, *words],
        env={**os.environ, "MILLRACE_KUBE_NAME": name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_cluster_it_is_told_how_to_start_one(machine: Machine, tmp_path: Path) -> None:
    name = f"{machine.name}-n"
    for words in (["env"], ["status"], ["load", tmp_path / "image.tar"]):
        done = _kube(name, *words)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.endswith(f"start it, as root, with MILLRACE_KUBE_NAME={name} {_KUBE} up\n"), done


def test_an_image_that_is_not_there_is_told_with_how_it_is_made(machine: Machine, tmp_path: Path) -> None:
    done = _kube(machine.name, "load", tmp_path / "image.tar")
    assert done.returncode == 1
    assert done.stderr.startswith(f"kube: there is no image archive {tmp_path}/image.tar: `make image` makes "), done


def test_the_hint_of_a_cluster_that_is_up_can_be_pasted(machine: Machine, tmp_path: Path) -> None:
    told = _kube(machine.name, "up").stderr
    hint = told[told.index("eval ") : told.index(" to use it")]
    nodes = subprocess.check_output(
        ["bash", "-ec", f"{hint}; kubectl get nodes --output=name"],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(machine.folder.parent)},
        cwd=tmp_path,
        text=True,
        timeout=60,
    )
    assert nodes.split() == ["node/node1", "node/node2", "node/node3"]


# --- its end ---


def _left_over(name: str) -> list[str]:
    """What is on this computer that bears a cluster's name."""
    machine = Machine(name)
    found = [str(path) for path in Path("/run/netns").glob(f"{machine.layout.prefix}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").rglob(f"{machine.layout.prefix}*")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if machine.layout.prefix in line]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(machine.folder) in line]
    found += [str(machine.folder)] if machine.folder.exists() else []
    return found + [Path(f"/proc/{pid}/cmdline").read_text() for pid in marked(machine.folder)]


@pytest.mark.long
def test_another_cluster_beside_goes_without_a_trace_in_whatever_state(machine: Machine) -> None:
    beside = Machine(f"{machine.name}-b")
    try:
        beside.up(nodes=2, zones=1)
        assert beside.api().ready_nodes() == {"node1", "node2"}
        assert len(_left_over(beside.name)) > 10
        with pytest.raises(Failed, match="is up already"):
            beside.up()
        beside.freeze("node1")
        beside.cut("node1")
        beside.crash("node2")
        beside.freeze_component("etcd")
    finally:
        beside.down()
    assert not _left_over(beside.name)
    assert machine.api().serves()
    beside.down()


@pytest.mark.long
def test_what_a_killed_start_left_is_removed(machine: Machine) -> None:
    name = f"{machine.name}-k"
    environment = {**os.environ, "MILLRACE_KUBE_NAME": name}
    log = Machine(name).layout.log / "node1-kubelet.log"
    up = subprocess.Popen(
        [sys.executable, _KUBE, "up", "--nodes", "1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert log.exists()
    finally:
        up.send_signal(signal.SIGKILL)
        up.wait(10)
        assert _left_over(name)
        down = subprocess.run([sys.executable, _KUBE, "down"], env=environment, timeout=60)
    assert down.returncode == 0
    assert not _left_over(name)
