"""Fixtures for tests on Kubernetes: a cluster of the run's own, or the one that MILLRACE_E2E_KUBECONFIG names.

Who writes tests starts a cluster by `kube up` and names it by MILLRACE_E2E_KUBE_NAME: it is used and left as it is.
A cluster of the run's own is taken down at its end, whatever the end. After the first failures what helps to
understand them is written to a folder, whose name stands beside the failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_HERE))

from kube_machine import Failed, Helm, Kubectl, Machine, NotHere  # noqa: E402
from kube_machine.layout import build  # noqa: E402
from product import Cluster, Images, Load, Missing, Operator  # noqa: E402
from product import images as product_images  # noqa: E402

_given = os.environ.get("MILLRACE_E2E_KUBECONFIG", "")
_given_name = os.environ.get("MILLRACE_E2E_KUBE_NAME", "")
# The cluster of this run, for the report of a failure.
_machine: Machine | None = None
# Failures after these are most often consequences.
_dumps_left = 3
# Names of clusters of test runs: this and the run's process.
_PREFIX = "e2e-"
# Why the executables are not there.
_not_built = ""


@dataclass
class Kubernetes:
    """A cluster: its kubeconfig, the folder with kubectl and helm, and the machine, if it is the run's own."""

    kubeconfig: Path
    executables: Path
    machine: Machine | None


def _missing(reason: str) -> None:
    """Skips with the reason; where everything must be there (CI says so), fails."""
    if os.environ.get("MILLRACE_E2E_REQUIRE_ALL"):
        pytest.fail(f"{reason}; MILLRACE_E2E_REQUIRE_ALL is set, so that nothing may be skipped", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """What a test finds to be missing on a cluster that is not the run's own leaves it out, as a fixture's does."""
    try:
        return (yield)
    except Missing as reason:
        _missing(str(reason))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Says beside a failure where the logs, events and the audit are."""
    global _dumps_left  # noqa: PLW0603
    report = yield
    if report.failed and _machine is not None and _machine.is_up() and _dumps_left > 0:
        _dumps_left -= 1
        folder = Path(tempfile.mkdtemp(prefix=f"millrace-kube-failure-{item.name[:40]}-"))
        _dump_product(_machine, folder)
        report.sections.append(("cluster", f"logs, events, objects and the audit: {_machine.dump(folder)}"))
    return report


def _dump_product(machine: Machine, into: Path) -> None:
    """Clusters and Topics, and what the operator made of them."""
    kubectl = Kubectl(machine.executables() / "kubectl", machine.kubeconfig)
    with contextlib.suppress(Failed):
        kinds = "clusters,topics,statefulsets,pdb,configmaps"
        (into / "product.yaml").write_text(kubectl("get", kinds, "-A", "-o", "yaml"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What judges by all that the others did comes last, and first what measures from the chart's installation on."""
    order = {"test_cluster_begins.py": 0, "test_rights.py": 2}
    items.sort(key=lambda item: order.get(item.path.name, 1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds before the first test: that takes minutes the first time, and tests have a time limit."""
    global _not_built  # noqa: PLW0603
    if session.config.option.collectonly or not any("executables" in i.fixturenames for i in session.items):
        return
    try:
        build()
    except Failed as reason:
        _not_built = str(reason)


def _remove_left_over() -> None:
    """Clusters of test runs that were killed."""
    for folder in Machine("any").folder.parent.glob(f"millrace-kube-{_PREFIX}*"):
        found = re.fullmatch(rf"millrace-kube-({_PREFIX}(\d+)(-[a-z]+)?)", folder.name)
        if found and not Path(f"/proc/{found[2]}").exists():
            Machine(found[1]).down()


@pytest.fixture(scope="session")
def executables() -> Path:
    """The folder with kubectl, helm, kubeconform and the rest."""
    if _not_built:
        _missing(f"no Kubernetes here: {_not_built}")
    return build()


@pytest.fixture(scope="session")
def kubernetes(executables: Path) -> Iterator[Kubernetes]:
    """The cluster, three nodes in three zones if it is the run's own."""
    global _machine  # noqa: PLW0603
    if _given:
        yield Kubernetes(Path(_given), executables, None)
        return
    if _given_name:
        _machine = Machine(_given_name)
        yield Kubernetes(_machine.kubeconfig, _machine.executables(), _machine)
        return
    machine = Machine(f"{_PREFIX}{os.getpid()}")

    def told_to_end(*_: object) -> None:
        raise KeyboardInterrupt

    # A CI that gives up sends it; the cluster must not outlive the run.
    before = signal.signal(signal.SIGTERM, told_to_end)
    try:
        try:
            if os.geteuid() == 0:
                _remove_left_over()
            machine.up()
        except NotHere as reason:
            _missing(f"no Kubernetes here: {reason}")
        _machine = machine
        yield Kubernetes(machine.kubeconfig, executables, machine)
    finally:
        _machine = None
        if os.geteuid() == 0:
            machine.down()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def machine(kubernetes: Kubernetes) -> Machine:
    """The cluster's machine, for faults. A test that uses it must leave all nodes Ready."""
    if kubernetes.machine is None:
        _missing("the cluster of MILLRACE_E2E_KUBECONFIG is not ours to break")
    assert kubernetes.machine is not None
    return kubernetes.machine


@pytest.fixture(scope="session")
def cluster_kubectl(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """kubectl in no namespace of its own."""
    home = tmp_path_factory.mktemp("kubectl")
    return Kubectl(kubernetes.executables / "kubectl", kubernetes.kubeconfig, home=home)


@pytest.fixture
def namespace(cluster_kubectl: Kubectl) -> Iterator[str]:
    """A namespace of the test's own, deleted after it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster_kubectl("create", "namespace", name)
    yield name
    cluster_kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubectl(cluster_kubectl: Kubectl, namespace: str) -> Kubectl:
    """kubectl in the test's own namespace."""
    return cluster_kubectl.within(namespace)


@pytest.fixture(scope="session")
def helm(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm on the cluster."""
    return Helm(kubernetes.executables / "helm", kubernetes.kubeconfig, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def probe_image(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of module/probe, on all nodes."""
    if kubernetes.machine is None:
        _missing("the cluster of MILLRACE_E2E_KUBECONFIG does not have the tests' own image")
    assert kubernetes.machine is not None
    archive = tmp_path_factory.mktemp("image") / "probe.tar"
    command = [sys.executable, _HERE.parents[1] / "image" / "archive.py", "--tag", "localhost/probe:1"]
    command += ["--root", kubernetes.executables.parent / "probe", "--entrypoint", "/probe"]
    command += ["--user", "65532:65532", "--output", archive]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    kubernetes.machine.load(archive)
    return "localhost/probe:1"


# --- the product ---


@pytest.fixture(scope="session")
def images(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The images of the product and of the load, on all nodes."""
    try:
        if kubernetes.machine is None:
            return product_images.given()
        return product_images.load(kubernetes.machine, tmp_path_factory.mktemp("images"))
    except Missing as reason:
        _missing(str(reason))
        raise


@pytest.fixture(scope="session")
def operator(kubernetes: Kubernetes, cluster_kubectl: Kubectl, helm: Helm, images: Images) -> Iterator[Operator]:
    """The chart's release that all tests share. A test that changes it puts it back."""
    release = Operator(helm, cluster_kubectl, kubernetes.machine, images)
    release.install()
    if _given_name:
        # It may be there from the last run, with the executables of then.
        release.restart()
        yield release
        return
    yield release
    # A cluster of the run's own goes with all that is on it.
    if kubernetes.machine is None:
        release.uninstall()


@pytest.fixture
def home(operator: Operator, cluster_kubectl: Kubectl, kubectl: Kubectl) -> Kubectl:
    """kubectl in the test's own namespace, which has the strictest security policy, with the operator there."""
    policy = "pod-security.kubernetes.io/enforce=restricted"
    cluster_kubectl("label", "namespace", str(kubectl.namespace), policy)
    return kubectl


@pytest.fixture
def cluster(home: Kubectl) -> Cluster:
    """A Cluster that is not made yet."""
    return Cluster(home)


@pytest.fixture
def loaded(home: Kubectl, images: Images) -> Callable[..., tuple[Cluster, Load]]:
    """Makes a Cluster with a topic of three partitions and three replicas, under load."""

    def make(rate: int = 300, size: int = 200, partitions: int = 3, **spec: object) -> tuple[Cluster, Load]:
        cluster = Cluster(home).create(**spec)
        cluster.wait_ready()
        cluster.create_topic("ledger", partitions)
        return cluster, Load(home, images).start(cluster.bootstrap, "ledger", rate=rate, size=size)

    return make


@pytest.fixture
def more_nodes(machine: Machine) -> Iterator[Callable[..., list[str]]]:
    """Adds nodes for a test and gives their names: each broker has a node of its own. They are in the zones that have
    the fewest, or all in one."""
    added: list[str] = []

    def add(count: int, zone: str | None = None) -> list[str]:
        names = [machine.add_node(zone) for _ in range(count)]
        added.extend(names)
        return names

    yield add
    for node in added:
        if node in machine.nodes():
            machine.remove_node(node)
