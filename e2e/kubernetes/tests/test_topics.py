"""Whose a topic is, who may have one, and what others do to it: on one Cluster, under load."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kube_machine import Kubectl
from product import Cluster, Images, Load, Operator, Topic
from product.operator import now

# What a Topic says that must not have its way.
_OTHERWISE = {"partitions": 9, "config": {"retention.ms": "1", "segment.ms": "1"}, "deletionPolicy": "Delete"}


@dataclass
class Shared:
    """A Cluster that takes Topics from namespaces with a label, and two such that have or get it."""

    cluster: Cluster
    home: Kubectl
    neighbour: Kubectl
    stranger: Kubectl

    def topic(self, name: str, where: Kubectl | None = None) -> Topic:
        """A Topic for the Cluster; in its own namespace if none is named."""
        return Topic(where or self.home, name, self.cluster)

    def described(self, topic: str) -> dict[str, Any]:
        """What of a topic is somebody's decision: whose it is, its id, its settings, its partitions."""
        told = self.cluster.ask("topic", "describe", topic)
        kept = {key: told[key] for key in ("topic_id", "settings", "replication_factor")}
        return {**kept, "managed_by": told.get("managed_by"), "partitions": len(told["partitions"])}

    def has(self, topic: str) -> bool:
        """Whether the cluster has a topic."""
        return any(each["name"] == topic for each in self.cluster.ask("topic", "list")["topics"])


@pytest.fixture(scope="module")
def shared(operator: Operator, cluster_kubectl: Kubectl) -> Iterator[Shared]:
    """Shared by the tests, whose topics have names of their own."""
    run = uuid.uuid4().hex[:8]
    names = [f"topics-{name}-{run}" for name in ("home", "neighbour", "stranger")]
    for name in names:
        cluster_kubectl("create", "namespace", name)
        cluster_kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    cluster_kubectl("label", "namespace", names[1], "topics=yes")
    home, neighbour, stranger = (cluster_kubectl.within(name) for name in names)
    allowed = {"from": "Selector", "selector": {"matchLabels": {"topics": "yes"}}}
    cluster = Cluster(home).create(topics={"allowedNamespaces": allowed})
    cluster.wait_ready()
    yield Shared(cluster, home, neighbour, stranger)
    cluster_kubectl("delete", "namespace", *names, "--wait=false")


@pytest.fixture
def loaded_topic(shared: Shared, images: Images) -> Iterator[Callable[[str], Load]]:
    """Puts load on a topic; its pod goes at the end."""
    loads: list[Load] = []

    def start(topic: str) -> Load:
        loads.append(Load(shared.home, images, f"load-{topic.replace('.', '-')}"))
        return loads[-1].start(shared.cluster.bootstrap, topic)

    yield start
    for load in loads:
        load.kubectl.delete("pod", load.name)


@pytest.mark.timeout(300)
def test_a_topic_has_one_owner(operator: Operator, shared: Shared, loaded_topic: Callable[[str], Load]) -> None:
    first = shared.topic("first").create(name="ledger", partitions=3, replicationFactor=3).wait_ready()
    load = loaded_topic("ledger")
    assert load.status()["retried"] == [], "the first records needed a second attempt"
    before = shared.described("ledger")
    owner = f"{shared.home.namespace}/first"
    assert before["managed_by"] == owner

    # Who comes later, from the same namespace and from another one, changes nothing and takes nothing along.
    second = shared.topic("second").create(name="ledger", **_OTHERWISE)
    third = shared.topic("ledger", shared.neighbour).create(**_OTHERWISE)
    for loser in (second, third):
        said = loser.until_condition("Ready", "Conflict", status="False")
        assert f"Topic {owner}," in said, said
        assert loser.status()["owner"] == owner
        # Nothing of a topic that is not its own, and nothing that would hold it.
        assert not {"topicID", "partitions", "replicationFactor", "effectiveConfig"} & loser.status().keys()
        assert not loser.is_held()
        assert loser.events("Conflict"), "a person hears of it"
    # Who is not let in is told neither whose it is nor that it is there.
    fourth = shared.topic("ledger", shared.stranger).create()
    said = fourth.until_condition("Ready", "NotAllowedOrNotFound", status="False")
    assert owner not in said and "first" not in str(fourth.status()), fourth.status()
    fourth.delete()
    third.delete()
    assert shared.described("ledger") == before
    load.goes_on()

    # The owner goes and leaves the topic: who waits for it has it, as it was but for what that one says.
    first.patch(deletionPolicy="Retain")
    first.kubectl.until("nothing holds it", lambda: not first.is_held())
    second.patch(config={"retention.ms": "86400000"}, partitions=None)
    first.delete()
    second.wait_ready()
    told = second.status()
    assert told["adopted"] is True and told["topicID"] == before["topic_id"], told
    assert second.events("TopicAdopted")
    now = shared.described("ledger")
    assert now["managed_by"] == f"{shared.home.namespace}/second"
    assert (now["topic_id"], now["partitions"]) == (before["topic_id"], 3)
    assert now["settings"]["retention.ms"] == "86400000"
    load.goes_on()

    # All objects are lost and made anew of what is in Git: the same name inherits, whatever its uid is.
    manifest, uid = second.body(name="ledger", config={"retention.ms": "86400000"}), second.get()["metadata"]["uid"]
    with operator.stopped():
        second.kubectl("patch", "topic", "second", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        second.delete()
        second.kubectl.apply(manifest)
    second.wait_ready()
    assert second.get()["metadata"]["uid"] != uid
    assert second.status()["topicID"] == before["topic_id"]
    assert second.status()["owner"] == f"{shared.home.namespace}/second"
    assert shared.described("ledger") == now
    # It was there before the object, which has not asked for its end.
    second.delete()
    assert shared.described("ledger")["topic_id"] == before["topic_id"]
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=shared.home.namespace)


@pytest.mark.timeout(300)
def test_a_namespace_is_let_in_by_its_label_and_out_by_it(
    operator: Operator, shared: Shared, loaded_topic: Callable[[str], Load], cluster_kubectl: Kubectl
) -> None:
    there = str(shared.stranger.namespace)
    theirs = shared.topic("clicks", shared.stranger).create(partitions=2, deletionPolicy="Delete")
    said = theirs.until_condition("Ready", "NotAllowedOrNotFound", status="False")
    # The same words for a Cluster that there is not: they tell nothing of what others have.
    nowhere = Topic(shared.stranger, "nowhere", Cluster(shared.home, "nowhere")).create()
    other = nowhere.until_condition("Ready", "NotAllowedOrNotFound", status="False")
    assert other.replace("/nowhere ", "/orders ") == said
    assert theirs.status().keys() == nowhere.status().keys()
    nowhere.delete()
    assert not theirs.is_held() and not shared.has("clicks")

    cluster_kubectl("label", "namespace", there, "topics=yes")
    theirs.wait_ready()
    assert theirs.is_held()
    load = loaded_topic("clicks")
    before = shared.described("clicks")
    assert before["managed_by"] == f"{there}/clicks"

    # What is withdrawn is withdrawn, and takes nothing away.
    cluster_kubectl("label", "namespace", there, "topics-")
    theirs.patch(partitions=4, config={"retention.ms": "1"})
    assert theirs.until_condition("Ready", "NotAllowedOrNotFound", status="False") == said
    load.goes_on()
    assert shared.described("clicks") == before
    theirs.delete()
    assert shared.described("clicks") == before
    assert any("stays in the cluster" in note for note in theirs.events("TopicKept"))
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=there)


@pytest.mark.timeout(300)
def test_what_others_change_is_put_right_and_what_they_delete_is_missed(operator: Operator, shared: Shared) -> None:
    cluster = shared.cluster
    config = {"retention.ms": "86400000", "max.message.bytes": "100000"}
    topic = shared.topic("orders").create(partitions=2, replicationFactor=3, config=config).wait_ready()
    before = shared.described("orders")
    cluster.millrace("topic", "alter", "orders", "--config=retention.ms=1000", "--config=segment.ms=70000")
    topic.look_again()
    # What the object says nothing of is not its business.
    after = {**before, "settings": {**before["settings"], "segment.ms": "70000"}}
    topic.kubectl.until("it is put right", lambda: shared.described("orders") == after)
    told = topic.kubectl.until("it is told", lambda: topic.events("DriftCorrected"))
    assert told == ['retention.ms: found "1000", wanted "86400000".']
    cluster.millrace("topic", "alter", "orders", "--unset=max.message.bytes", "--replication-factor=2")
    topic.look_again()
    topic.kubectl.until("it is put right", lambda: shared.described("orders") == after)
    topic.until_condition("Synced", "Synced")

    # Somebody has deleted it. An empty one in its place would hide that.
    topic_id = topic.status()["topicID"]
    cluster.millrace("topic", "delete", "orders")
    topic.look_again()
    said = topic.until_condition("Ready", "TopicMissing", status="False")
    assert "millrace.dev/recreate=true" in said, said
    assert topic.condition("Stalled")["reason"] == "TopicMissing"
    operator.wait_looked(now(), topic)
    assert not shared.has("orders"), "it is not made anew by itself"
    # What it knows stands in the object and not in its memory.
    operator.restart()
    operator.wait_looked(now(), topic)
    assert not shared.has("orders") and topic.condition("Ready")["reason"] == "TopicMissing"
    topic.annotate(recreate="true")
    topic.wait_ready()
    assert topic.status()["topicID"] != topic_id
    assert shared.described("orders")["partitions"] == 2
    # The permission was for once.
    assert "millrace.dev/recreate" not in topic.get()["metadata"]["annotations"]
    topic.delete()
    assert not shared.has("orders"), "the object made it, and it goes with it"
    operator.wait_quiet(namespace=shared.home.namespace)
