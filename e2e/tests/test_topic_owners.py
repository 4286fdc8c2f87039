"""Topics that objects outside of the cluster manage, as Topics in Kubernetes do."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from lib.api import ApiError, Client, admin_pb2, call, expect_error
from lib.broker import Broker, millrace

FIRST = admin_pb2.TopicOwner(namespace="shop", name="orders", uid="uid-1")
SECOND = admin_pb2.TopicOwner(namespace="bank", name="orders", uid="uid-2")
# Restored from a backup: the same object, another uid.
RESTORED = admin_pb2.TopicOwner(namespace="shop", name="orders", uid="uid-3")


def _claim(client: Client, topic: str, owner: admin_pb2.TopicOwner, **more: bool) -> admin_pb2.ClaimTopicResponse:
    return call(client.admin.ClaimTopic, admin_pb2.ClaimTopicRequest(name=topic, owner=owner, **more))


def _owner(client: Client, topic: str) -> admin_pb2.TopicOwner | None:
    summary = client.describe(topic).topic
    return summary.owner if summary.HasField("owner") else None


def _changes(topic: str, owner: admin_pb2.TopicOwner) -> dict[str, object]:
    """All that an owner may do to a topic."""
    return {
        "AlterTopic": admin_pb2.AlterTopicRequest(name=topic, unset_configs=["flush"], as_owner=owner),
        "CreatePartitions": admin_pb2.CreatePartitionsRequest(name=topic, partitions=2, as_owner=owner),
        "DeleteTopic": admin_pb2.DeleteTopicRequest(name=topic, as_owner=owner),
    }


def test_only_the_owner_changes_a_topic_in_an_owners_name(client: Client, shared: Broker) -> None:
    name = "owned"
    call(client.admin.CreateTopic, admin_pb2.CreateTopicRequest(name=name, partitions=1, owner=FIRST))
    assert _owner(client, name) == FIRST
    client.publish(name, [b"kept"])
    shown = json.loads(millrace("topic", "describe", name, bootstrap=shared.address, json=True).ok())
    assert shown["managed_by"] == "shop/orders"

    for method, request in _changes(name, SECOND).items():
        error = expect_error(getattr(client.admin, method), request)
        assert (error.reason, error.metadata["owner"]) == ("TOPIC_OWNED", "shop/orders/uid-1"), (method, error)
    nobody = admin_pb2.TopicOwner(namespace="shop", name="orders")
    for method, request in _changes(name, nobody).items():
        assert expect_error(getattr(client.admin, method), request).bad_fields == ["as_owner.uid"], method
    same_factor = admin_pb2.AlterTopicRequest(name=name, replication_factor=1, as_owner=SECOND)
    assert expect_error(client.admin.AlterTopic, same_factor).reason == "TOPIC_OWNED"
    release = admin_pb2.ReleaseTopicRequest(name=name, owner=SECOND)
    assert expect_error(client.admin.ReleaseTopic, release).reason == "TOPIC_OWNED"
    assert [m.message.value for m in client.read(name)] == [b"kept"]

    # The object was made anew under its name: it inherits, and what is left of the former one is refused.
    assert not _claim(client, name, RESTORED).adopted
    for method, request in _changes(name, FIRST).items():
        assert expect_error(getattr(client.admin, method), request).reason == "TOPIC_OWNED", method
    for method, request in _changes(name, RESTORED).items():
        call(getattr(client.admin, method), request)
    names = [t.name for t in call(client.admin.ListTopics, admin_pb2.ListTopicsRequest()).topics]
    assert name not in names


def test_nobodys_topic_is_adopted_on_request_and_released_with_its_data(client: Client, topic: str) -> None:
    client.publish(topic, [b"kept"])
    claim = admin_pb2.ClaimTopicRequest(name=topic, owner=FIRST)
    refused = expect_error(client.admin.ClaimTopic, claim)
    assert refused.reason == "TOPIC_OWNED" and "owner" not in refused.metadata, refused
    assert _claim(client, topic, FIRST, adopt=True, validate_only=True).adopted
    assert _owner(client, topic) is None
    assert _claim(client, topic, FIRST, adopt=True).adopted
    assert not _claim(client, topic, FIRST, adopt=True).adopted
    call(client.admin.ReleaseTopic, admin_pb2.ReleaseTopicRequest(name=topic, owner=FIRST))
    assert _owner(client, topic) is None
    assert [m.message.value for m in client.read(topic)] == [b"kept"]
    assert _claim(client, topic, SECOND, adopt=True).adopted


def test_a_restart_keeps_the_owner(broker: Broker) -> None:
    with Client(broker.address) as client:
        call(client.admin.CreateTopic, admin_pb2.CreateTopicRequest(name="t", partitions=1, owner=FIRST))
    broker.kill()
    broker.start()
    with Client(broker.address) as client:
        assert _owner(client, "t") == FIRST


def test_of_twenty_racing_claims_exactly_one_wins(client: Client, shared: Broker, topic: str) -> None:
    barrier = threading.Barrier(20)

    def claim(who: int) -> bool:
        owner = admin_pb2.TopicOwner(namespace="shop", name=f"object-{who}", uid="1")
        with Client(shared.address) as own:
            barrier.wait()
            try:
                return _claim(own, topic, owner, adopt=True).adopted
            except ApiError as error:
                assert error.reason == "TOPIC_OWNED", error
                return False

    with ThreadPoolExecutor(20) as pool:
        won = [who for who, adopted in enumerate(pool.map(claim, range(20))) if adopted]
    assert len(won) == 1, won
    owner = _owner(client, topic)
    assert owner is not None and owner.name == f"object-{won[0]}"
