"""What is deleted by somebody comes again, and data goes with nothing but its claim."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

import pytest
from kube_machine import Kubectl
from product import Cluster, Images, Load, Operator, PodWatch, Topic
from product.operator import now

Loaded = Callable[..., tuple[Cluster, Load]]

_OBJECTS = [
    "configmap/orders-broker",
    "service/orders-broker",
    "service/orders-bootstrap",
    "poddisruptionbudget/orders-broker",
    "networkpolicy/orders-broker",
    "serviceaccount/orders-broker",
    "pod/orders-broker-1",
]
# These are missed at the next look, within about a minute.
_NOT_WATCHED = ("networkpolicy/orders-broker", "serviceaccount/orders-broker")
# It takes its pods along, so that all brokers are down for a while.
_SET = "statefulset/orders-broker"
_CLAIM = "data-orders-broker-1"


def _uid(kubectl: Kubectl, what: str) -> str:
    return kubectl("get", what, "-o", "jsonpath={.metadata.uid}")


def test_what_is_deleted_comes_again(operator: Operator, loaded: Loaded) -> None:
    _comes_again(operator, loaded, _OBJECTS)


@pytest.mark.long
def test_a_deleted_stateful_set_comes_again(operator: Operator, loaded: Loaded) -> None:
    _comes_again(operator, loaded, [_SET], outage=True)


def _comes_again(operator: Operator, loaded: Loaded, objects: list[str], outage: bool = False) -> None:
    cluster, load = loaded()
    home, cluster_id, claims = cluster.kubectl, cluster.status()["clusterID"], cluster.claims()
    for what in objects:
        uid = _uid(home, what)
        home("delete", what, "--wait=false")
        until = cluster.until_seen if what in _NOT_WATCHED else cluster.until
        until(f"{what} comes again", lambda _, w=what, u=uid: _uid(home, w) not in (u, ""))
    cluster.wait_ready(300)
    assert cluster.status()["clusterID"] == cluster_id
    assert cluster.claims() == claims
    load.goes_on()
    load.verdict(outage=outage)
    operator.wait_quiet(namespace=home.namespace)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_is_deleted_while_there_is_no_operator_comes_again(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    home, cluster_id, claims = cluster.kubectl, cluster.status()["clusterID"], cluster.claims()
    everything = [*_OBJECTS, _SET]
    for what in [*everything, "everything"]:
        names = everything if what == "everything" else [what]
        uids = {name: _uid(home, name) for name in names}
        with operator.stopped():
            for name in names:
                home("delete", name, "--wait=false", "--ignore-not-found")
            if what.startswith("pod/"):
                # Kubernetes does that by itself.
                home.until("the pod comes again", lambda w=what, u=uids[what]: _uid(home, w) != u)
        for name, uid in uids.items():
            home.until(f"{name} comes again", lambda n=name, u=uid: _uid(home, n) not in (u, ""), timeout=120)
        cluster.wait_ready(300)
        assert cluster.status()["clusterID"] == cluster_id
        assert cluster.claims() == claims
        load.goes_on()
    load.verdict(outage=True)
    operator.wait_quiet(namespace=home.namespace)


def test_a_deleted_cluster_leaves_its_data_to_the_next_of_its_name(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    home, cluster_id, claims = cluster.kubectl, cluster.status()["clusterID"], cluster.claims()
    load.goes_on()
    # The load goes on through it all: to it, it is an outage.
    cluster.delete()
    kinds = "statefulsets,services,configmaps,pdb,networkpolicies"
    left = home.json(kinds, "-l", "millrace.dev/cluster=orders")["items"]
    home.until("its objects are gone", lambda: not home.json(kinds, "-l", "millrace.dev/cluster=orders")["items"])
    assert cluster.claims() == claims, f"its data must stay (and {len(left)} objects went)"
    cluster.create()
    cluster.wait_ready(300)
    assert cluster.status()["clusterID"] == cluster_id
    assert cluster.claims() == claims
    load.goes_on()
    load.verdict(outage=True)
    operator.wait_quiet(namespace=home.namespace)


@pytest.mark.long
def test_a_broker_with_an_empty_disk_begins_nothing(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    home, cluster_id, claims = cluster.kubectl, cluster.status()["clusterID"], cluster.claims()
    disks = _voting_disks(cluster)
    assert len(disks) == 3
    load.mark()
    # Nobody sees it go: the operator finds another disk, and no sign of what was.
    with operator.stopped():
        home("delete", "pvc", _CLAIM, "--wait=false")
        home("delete", "pod", "orders-broker-1", "--wait=false")
        home.until(
            "there is another disk",
            lambda: cluster.claims().get(_CLAIM, "") not in ("", claims[_CLAIM]),
        )
    # It asks the others and is refused: said where a person looks.
    said = cluster.until(
        "it is told",
        lambda told: next((c["message"] for c in told["conditions"] if "replace-disk" in c["message"]), None),
        120,
    )
    assert "1" in said, said
    load.goes_on(200)
    assert cluster.status()["clusterID"] == cluster_id
    quorum = cluster.ask("quorum", "describe", broker=0)
    assert quorum, "the others go on"
    cluster.rest(5, lambda: not _is_ready(cluster, 1), "it waits for the permission")
    cluster.millrace("broker", "replace-disk", "1", broker=0)
    cluster.wait_ready(240)
    assert cluster.status()["clusterID"] == cluster_id
    for partition in cluster.partitions("ledger"):
        assert sorted(partition["in_sync_replicas"]) == [0, 1, 2]
    home.until(
        "the new disk votes, and the lost one does not",
        lambda: len(_voting_disks(cluster)) == 3 and len(_voting_disks(cluster) - disks) == 1,
    )
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_claim_that_is_deleted_under_its_broker_is_told_and_nothing_taken(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    home, before, claims = cluster.kubectl, cluster.pod_uids(), cluster.claims()
    cluster_id, disks = cluster.status()["clusterID"], _voting_disks(cluster)
    # It waits for its pod, and the data with it: who takes the pod takes both.
    home("delete", "pvc", _CLAIM, "--wait=false")
    said = cluster.until_condition("StorageReady", "ClaimDeleted", status="False")
    assert "broker 1" in said and "Retain" in said, said
    with PodWatch(cluster) as watch:
        cluster.annotate(restartedAt="now")
        cluster.kubectl.until("all others are restarted", lambda: set(watch.ended) == {0, 2}, timeout=240)
        waits = cluster.until(
            "the roll waits", lambda told: (told.get("rollout") or {}).get("waitingFor") == said and told, 120
        )
        assert waits["rollout"].get("current") is None
        cluster.rest(10, lambda: cluster.pod_uids()[1] == before[1], "it goes on with its disk")
    assert sorted(watch.ended) == [0, 2]
    load.goes_on()
    load.check()
    # A person has seen to the data. What comes then is empty, and needs a person's word.
    home("delete", "pod", "orders-broker-1", "--wait=false")
    home.until("there is another disk", lambda: cluster.claims().get(_CLAIM, claims[_CLAIM]) != claims[_CLAIM])
    cluster.until("it is refused", lambda told: "replace-disk" in json.dumps(told["conditions"]), 120)
    cluster.millrace("broker", "replace-disk", "1", broker=0)
    cluster.wait_ready(240)
    assert cluster.status()["clusterID"] == cluster_id
    assert {name for name, uid in cluster.claims().items() if uid != claims[name]} == {_CLAIM}
    home.until("the new disk votes", lambda: len(_voting_disks(cluster) - disks) == 1)
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)


def _voting_disks(cluster: Cluster) -> set[str]:
    members = cluster.ask("quorum", "describe", broker=0)["members"]
    return {each["directory_id"] for each in members if each["votes"]}


def _is_ready(cluster: Cluster, broker: int) -> bool:
    return any(each["id"] == broker and each["ready"] for each in cluster.status()["brokers"])


# It is never done to a cluster that is not the tests' own: all Clusters and Topics go.
@pytest.mark.usefixtures("machine")
@pytest.mark.long
@pytest.mark.timeout(900)
# Topics' first: the brokers are there to delete what they are told to. Clusters' first: then there is no such kind any
# more when the operator is to let Topics go.
@pytest.mark.parametrize("first", ["topics", "clusters"])
def test_deleted_definitions_take_no_data(
    operator: Operator, home: Kubectl, cluster: Cluster, images: Images, first: str
) -> None:
    cluster.create()
    topics = [Topic(home, name, cluster) for name in ("ledger", "clicks")]
    for topic in topics:
        topic.create(partitions=2, replicationFactor=3)
    cluster.wait_ready()
    for topic in topics:
        topic.wait_ready()
        assert topic.is_held(), "it would be deleted with its data if it were deleted by itself"
    load = Load(home, images).start(cluster.bootstrap, "ledger", "clicks")
    cluster_id, claims = cluster.status()["clusterID"], cluster.claims()
    ids, runs = {topic.name: topic.status()["topicID"] for topic in topics}, _runs(operator)
    load.goes_on()
    # A definition is gone only when all its objects are.
    home.delete("crd", f"{first}.millrace.dev", timeout=120)
    if first == "topics":
        assert {topic["name"] for topic in cluster.ask("topic", "list")["topics"]} >= ids.keys()
        load.goes_on()
        load.check()
    home.delete("crd", "clusters.millrace.dev", "topics.millrace.dev", timeout=120)
    # To the load it is an outage.
    home.until("its pods are gone", lambda: not cluster.pods(), 120)
    assert cluster.claims() == claims, "its data must stay"
    operator.install()
    cluster.create()
    for topic in topics:
        topic.create(partitions=2, replicationFactor=3)
    cluster.wait_ready(300)
    for topic in topics:
        topic.wait_ready()
        told = topic.status()
        assert told["topicID"] == ids[topic.name]
        # It was there before its object, which does not take it along any more.
        assert told["adopted"] and not topic.is_held()
    assert _runs(operator) == runs, "an operator without definitions waits for them"
    assert cluster.status()["clusterID"] == cluster_id
    assert cluster.claims() == claims
    load.goes_on()
    load.verdict(outage=True)
    operator.wait_quiet(namespace=home.namespace)


def _runs(operator: Operator) -> dict[str, int]:
    """How often each of the operator's pods was started."""
    return {
        pod["metadata"]["uid"]: container["restartCount"]
        for pod in operator.pods()
        for container in pod["status"]["containerStatuses"]
    }


@pytest.fixture
def reinstalled(operator: Operator) -> Iterator[Operator]:
    """The operator, which a test uninstalls."""
    yield operator
    if not operator.pods():
        operator.install()


@pytest.fixture
def leaving(cluster_kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace that a test deletes."""
    name = f"leaving-{uuid.uuid4().hex[:8]}"
    cluster_kubectl("create", "namespace", name)
    yield cluster_kubectl.within(name)
    cluster_kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.mark.timeout(600)
def test_an_uninstalled_chart_leaves_clusters_and_their_data(
    reinstalled: Operator, loaded: Loaded, leaving: Kubectl
) -> None:
    cluster, load = loaded(topics={"allowedNamespaces": {"from": "All"}})
    home, uids, claims = cluster.kubectl, cluster.pod_uids(), cluster.claims()
    topic = Topic(home, "clicks", cluster).create(partitions=2).wait_ready()
    small = Cluster(leaving, "small").create(replicas=1)
    guest = Topic(leaving, "guest", cluster).create(partitions=1).wait_ready()
    own = Topic(leaving, "own", small).create(partitions=1).wait_ready()
    assert guest.is_held() and own.is_held()
    reinstalled.uninstall()
    # The definitions stay, and with them the objects; brokers go on.
    assert home.json("clusters", "orders")["metadata"].get("deletionTimestamp") is None
    load.goes_on()
    assert cluster.pod_uids() == uids and cluster.claims() == claims
    # Nobody is there to take a finalizer off.
    topic.delete(timeout=20)
    assert "clicks" in cluster.millrace("topic", "list"), "its data is kept: nobody was there to decide otherwise"
    # Nor does a namespace wait for somebody.
    leaving.delete("namespace", str(leaving.namespace), timeout=180)
    assert "guest" in cluster.millrace("topic", "list"), "what was in another namespace is kept, too"
    mark = now()
    reinstalled.install()
    # It waits until what the uninstallation has taken of the Lease is over.
    reinstalled.wait_looked(mark, cluster)
    cluster.wait_ready(180)
    assert cluster.pod_uids() == uids, "an operator that comes restarts nobody"
    load.goes_on()
    load.verdict()
    reinstalled.wait_quiet(namespace=home.namespace)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_topics_go_by_all_and_with_their_namespace_and_claims_stay(
    operator: Operator, loaded: Loaded, leaving: Kubectl
) -> None:
    cluster, load = loaded(topics={"allowedNamespaces": {"from": "All"}})
    home, uids, claims = cluster.kubectl, cluster.pod_uids(), cluster.claims()
    small = Cluster(leaving, "small").create(replicas=1)
    topics = [Topic(home, name, cluster).create(partitions=2) for name in ("clicks", "views")]
    guests = [Topic(leaving, name, cluster).create(partitions=1) for name in ("guest", "visitor")]
    guests[1].patch(deletionPolicy="Retain")
    own = Topic(leaving, "own", small).create(partitions=1)
    for topic in (*topics, *guests, own):
        topic.wait_ready()
    load.goes_on()
    home.delete("topics", "--all", timeout=120)
    assert home.json("topics")["items"] == []
    assert _topics(cluster) == {"ledger", "guest", "visitor"}, "what objects made goes with them, and nothing else"
    assert cluster.claims() == claims and cluster.pod_uids() == uids
    # The Cluster may go before its Topic can be deleted on it.
    leaving.delete("namespace", str(leaving.namespace), timeout=180)
    home.until("only the guest's topic is gone", lambda: _topics(cluster) == {"ledger", "visitor"})
    assert cluster.claims() == claims and cluster.pod_uids() == uids
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)


def _topics(cluster: Cluster) -> set[str]:
    return {topic["name"] for topic in cluster.ask("topic", "list")["topics"]}
