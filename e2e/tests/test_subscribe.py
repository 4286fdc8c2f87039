"""Consumer groups by a plain stream: members come, go and resume at any broker, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lib.api import ApiError, Client, admin_pb2, call, groups_pb2, messaging_pb2, types_pb2
from lib.broker import Broker
from lib.subscriber import Subscriber, offsets, partitions

PATIENCE = 60.0
MANUAL = messaging_pb2.COMMIT_MODE_MANUAL


def until(what: str, holds: Callable[[], object]) -> None:
    """Waits until it holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not {what}"
        time.sleep(0.02)


def committed(client: Client, group: str) -> dict[tuple[str, int], int]:
    """What a group has committed."""
    answer = call(client.groups.FetchOffsets, groups_pb2.FetchOffsetsRequest(group=group))
    return {(o.topic, o.partition): o.committed.offset for o in answer.offsets if o.HasField("committed")}


def described(client: Client, group: str) -> groups_pb2.DescribeGroupResponse:
    """The group."""
    return call(client.groups.DescribeGroup, groups_pb2.DescribeGroupRequest(group=group))


def members(client: Client, group: str) -> dict[str, int]:
    """The epochs of a group's members."""
    try:
        return {member.member_id: member.member_epoch for member in described(client, group).members}
    except ApiError as error:
        assert error.reason == "UNKNOWN_GROUP", error
        return {}


def publish(client: Client, topic: str, counts: dict[int, int], tag: str = "") -> list[bytes]:
    """Publishes so many messages in each partition; gives their values."""
    values = []
    for partition, count in counts.items():
        of_partition = [b"%s%d:%d" % (tag.encode(), partition, number) for number in range(count)]
        client.publish(topic, of_partition, partition=partition)
        values += of_partition
    return values


def release(subscriber: Subscriber) -> None:
    """Gives back what is to be given back."""
    if subscriber.revoking:
        named = set(subscriber.revoking)
        subscriber.send(release=messaging_pb2.SubscribeRelease(partitions=partitions(named)))
        for partition in named:
            subscriber._gone(partition)


def test_members_share_partitions_and_one_that_is_gone_leaves_them(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as first, Client(three_brokers[1].address) as second:
        first.create_topic("work", partitions=6, replicas=3)
        values = publish(first, "work", dict.fromkeys(range(6), 5))
        one = Subscriber(first, "workers", ["work"], session=3)
        one.wait("all partitions", lambda: len(one.has) == 6)
        one.wait("all messages", lambda: len(one.got) == 30)
        assert sorted(one.values()) == sorted(values)
        one.credit()
        until("a commit of all", lambda: committed(first, "workers") == {("work", n): 5 for n in range(6)})
        two = Subscriber(second, "workers", ["work"], session=3)
        one.wait("three to be given back", lambda: len(one.revoking) == 3)
        release(one)
        two.wait("the other half", lambda: len(two.has) == 3)
        assert {**one.has, **two.has}.keys() == {("work", n) for n in range(6)}
        assert all(offset == 5 for offset in two.has.values())
        more = publish(second, "work", dict.fromkeys(range(6), 2), "more ")
        two.wait("its messages", lambda: len(two.got) == 6)
        one.wait("its messages", lambda: len(one.got) == 36)
        assert sorted(two.values() + one.values()[30:]) == sorted(more)
        # It is gone without a word, and had said of nothing that it is processed.
        two.cut()
        one.wait("all partitions", lambda: len(one.has) == 6)
        one.wait("what the other had not processed", lambda: len(one.got) == 42)
        assert sorted(one.values()[30:]) == sorted(more)
        # Who leaves says so.
        one.credit()
        one.leave()
        assert one.error is None
        assert committed(first, "workers") == {("work", n): 7 for n in range(6)}
        assert not members(first, "workers")


def test_explicit_leaving_frees_partitions_at_once(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as first, Client(three_brokers[2].address) as second:
        first.create_topic("leave", partitions=2, replicas=3)
        # A session of half an hour: only leaving frees them.
        one = Subscriber(first, "leavers", ["leave"])
        one.wait("both", lambda: len(one.has) == 2)
        two = Subscriber(second, "leavers", ["leave"])
        one.wait("one to be given back", lambda: one.revoking or len(one.has) == 1)
        two.wait("one", lambda: len(two.has) == 1)
        one.leave()
        two.wait("both", lambda: len(two.has) == 2)
        two.leave()


def test_a_member_resumes_at_another_broker_without_a_rebalance(three_brokers: list[Broker]) -> None:
    clients = [Client(broker.address) for broker in three_brokers]
    clients[0].create_topic("resume", partitions=4, replicas=3)
    one = Subscriber(clients[0], "resumers", ["resume"])
    one.wait("all", lambda: len(one.has) == 4)
    two = Subscriber(clients[1], "resumers", ["resume"])
    one.wait("two to be given back", lambda: len(one.revoking) == 2)
    release(one)
    two.wait("its half", lambda: len(two.has) == 2)
    publish(clients[0], "resume", dict.fromkeys(range(4), 3))
    one.wait("its messages", lambda: len(one.got) == 6)
    two.wait("its messages", lambda: len(two.got) == 6)
    until("settled", lambda: described(clients[0], "resumers").state == groups_pb2.GROUP_STATE_STABLE)
    before, epoch = members(clients[0], "resumers"), described(clients[0], "resumers").group_epoch
    told = len(two.told)
    # Once after the stream broke, once while it stands, and once after its broker was killed.
    for at, how in ((1, "cut"), (2, "stands"), (1, "killed")):
        if how == "cut":
            one.cut()
        if how == "killed":
            three_brokers[2].kill()
        resumed = Subscriber(clients[at], "resumers", ["resume"], resume_token=one.token, positions=offsets(one.next))
        resumed.wait("its partitions", lambda r=resumed, had=one.has: r.has.keys() == had.keys())
        assert resumed.has == one.next, how
        if how == "stands":
            one.wait("taken over", lambda o=one: o.ended)
            assert one.error is not None and one.error.check_typed().reason == "STREAM_TAKEN_OVER"
        one = resumed
    until("an answer", lambda: answered(lambda: members(clients[0], "resumers") == before))
    assert described(clients[0], "resumers").group_epoch == epoch
    assert len(two.told) == told and not one.got, "nothing moved, and nothing came again"
    clients[0].publish("resume", [b"later"], partition=next(iter(one.has))[1])
    one.wait("what comes later", lambda: one.values() == [b"later"])
    for client in clients:
        client.close()


def test_a_connection_that_is_closed_leaves_a_member_for_its_reconnect_timeout(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as client:
        client.create_topic("reconnect", partitions=2, replicas=3)
        # Of a session of half an hour.
        for timeout, resumes in ((None, False), (Duration(seconds=120), True)):
            closed = Client(three_brokers[1].address)
            one = Subscriber(closed, "reconnecters", ["reconnect"], reconnect_timeout=timeout)
            one.wait("all", lambda o=one: len(o.has) == 2)
            one.finish()
            closed.close()
            if resumes:
                # Longer than the default.
                time.sleep(2)
                assert one.member in members(client, "reconnecters")
                resumed = Subscriber(
                    client, "reconnecters", ["reconnect"], resume_token=one.token, positions=offsets(one.next)
                )
                resumed.wait("what it had", lambda r=resumed, had=one.next: r.has == had)
                assert resumed.member == one.member
                resumed.leave()
            else:
                until("gone", lambda: answered(lambda: not members(client, "reconnecters")))


def answered(call_it: Callable[[], object]) -> object:
    """False where there is no coordinator at the moment."""
    try:
        return call_it()
    except ApiError as error:
        assert error.check_typed().reason in ("COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"), error
        return False


def test_tokens_that_are_forged_stale_or_anothers_are_refused_by_name(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("tokens")
        one = Subscriber(client, "holders", ["tokens"])
        one.wait("its partition", lambda: one.has)
        forged = bytes([one.token[0] ^ 1]) + one.token[1:]
        for group, token in (
            ("others", one.token),
            ("holders", forged),
            ("holders", b""),
            ("holders", one.token[:-1]),
            ("holders", bytes(1 << 20)),
        ):
            refused = Subscriber(client, group, ["tokens"], resume_token=token)
            refused.wait("refused", lambda r=refused: r.ended)
            assert refused.error is not None and refused.error.check_typed().reason == "INVALID_RESUME_TOKEN"
        one.leave()
        stale = Subscriber(client, "holders", ["tokens"], resume_token=one.token)
        stale.wait("refused", lambda: stale.ended)
        assert stale.error is not None and stale.error.check_typed().reason == "UNKNOWN_MEMBER"
        # The one whose token was tried by others was not harmed.
        again = Subscriber(client, "holders", ["tokens"])
        again.wait("its partition", lambda: again.has)
        again.leave()


def test_without_credit_nothing_comes_and_paused_partitions_wait(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("credit", partitions=2)
        publish(client, "credit", {0: 10, 1: 10})
        one = Subscriber(client, "credited", ["credit"], credit=0)
        one.wait("its partitions", lambda: len(one.has) == 2)
        # Answered behind whatever could have been sent.
        one.commit({("credit", 0): 0})
        assert not one.got
        one.credit(3)
        one.wait("three", lambda: len(one.got) == 3)
        one.send(pause=messaging_pb2.SubscribePause(partitions=partitions([("credit", 0)])))
        one.commit({("credit", 1): 0}, 2)
        came = [message for message in one.got if message.partition == 0]
        one.credit(100)
        one.wait("all of the other", lambda: sum(m.partition == 1 for m in one.got) == 10)
        one.commit({("credit", 1): 10}, 3)
        assert [message for message in one.got if message.partition == 0] == came
        one.send(resume=messaging_pb2.SubscribeResume(partitions=partitions([("credit", 0)])))
        one.wait("the rest", lambda: len(one.got) == 20)
        assert [m.offset for m in one.got if m.partition == 0] == list(range(10))
        one.leave()


def test_manual_commits_are_all_that_counts_and_a_restart_goes_on_there(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("manual")
        client.publish("manual", [b"%d" % n for n in range(10)])
        one = Subscriber(client, "byhand", ["manual"], commit_mode=MANUAL)
        one.wait("all", lambda: len(one.got) == 10)
        one.credit()
        outcome = one.commit({("manual", 0): 4}).partitions[0]
        assert not outcome.HasField("error")
        behind = ApiError.of_item(one.commit({("manual", 0): 2}).partitions[0].error).check_typed()
        assert (behind.reason, behind.metadata["committed_offset"]) == ("OFFSET_BEHIND_COMMITTED", "4")
        foreign = one.commit({("manual", 7): 2, ("nosuch", 0): 1}).partitions
        assert [ApiError.of_item(p.error).check_typed().reason for p in foreign] == [
            "UNKNOWN_PARTITION",
            "UNKNOWN_TOPIC",
        ]
        one.leave()
        assert committed(client, "byhand") == {("manual", 0): 4}
        two = Subscriber(client, "byhand", ["manual"], commit_mode=MANUAL)
        two.wait("the rest", lambda: len(two.got) == 6)
        assert two.values()[0] == b"4"
        two.leave()


def test_automatic_commits_survive_a_killed_broker_without_a_gap(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("auto")
        client.publish("auto", [b"%d" % n for n in range(5)])
        one = Subscriber(client, "auto", ["auto"])
        one.wait("all", lambda: len(one.got) == 5)
        one.credit()
        until("a commit", lambda: committed(client, "auto") == {("auto", 0): 5})
        client.publish("auto", [b"%d" % n for n in range(5, 8)])
        # These are not said to be processed.
        one.wait("more", lambda: len(one.got) == 8)
    broker.kill()
    broker.start()
    with Client(broker.address) as client:
        two = Subscriber(client, "auto", ["auto"], resume_token=one.token)
        two.wait("what was not processed", lambda: len(two.got) == 3)
        assert two.values() == [b"5", b"6", b"7"]
        two.credit()
        two.leave()
        assert committed(client, "auto") == {("auto", 0): 8}


def test_what_is_revoked_is_committed_before_another_reads_it(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as first, Client(three_brokers[1].address) as second:
        first.create_topic("revoke", partitions=2, replicas=3)
        publish(first, "revoke", {0: 10, 1: 10})
        for mode in (messaging_pb2.COMMIT_MODE_AUTO, MANUAL):
            group = f"revokers{mode}"
            one = Subscriber(first, group, ["revoke"], commit_mode=mode)
            one.wait("all", lambda o=one: len(o.got) == 20)
            two = Subscriber(second, group, ["revoke"], commit_mode=mode)
            one.wait("one to be given back", lambda o=one: o.revoking)
            [partition] = one.revoking
            assert not two.has, "it is not given before it is given back"
            # In the first mode all is said to be processed, in the other it commits.
            if mode == MANUAL:
                one.commit({partition: 10})
            else:
                one.credit()
            two.wait("its partition", lambda t=two: t.has)
            assert two.has == {partition: 10}, "where the former owner was"
            two.leave()
            one.leave()


def test_what_is_not_given_back_in_time_is_lost(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("late", partitions=2)
        publish(client, "late", {0: 3, 1: 3})
        one = Subscriber(client, "late", ["late"], revoke_timeout=Duration(seconds=1))
        one.wait("all", lambda: len(one.got) == 6)
        two = Subscriber(client, "late", ["late"])
        one.wait("one to be given back", lambda: one.revoking)
        one.wait("lost", lambda: one.lost)
        assert ApiError.of_item(one.lost[0].reason).check_typed().reason == "PARTITION_NOT_ASSIGNED"
        two.wait("it, and what was not processed", lambda: len(two.got) == 3)
        [(topic, number)] = two.has
        refused = one.commit({(topic, number): 3}).partitions[0]
        assert ApiError.of_item(refused.error).check_typed().reason == "PARTITION_NOT_ASSIGNED"
        assert len(one.has) == 1 and not one.ended, "the other one stays"
        one.leave()
        two.leave()


def test_a_subscriber_that_is_too_slow_loses_its_partitions_by_name(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("slow")
        client.publish("slow", [b"a", b"b"])
        one = Subscriber(client, "slow", ["slow"], processing_timeout=Duration(seconds=1))
        one.wait("the end", lambda: one.ended)
        assert len(one.got) == 2
        assert one.error is not None and one.error.check_typed().reason == "SUBSCRIBER_TOO_SLOW"
        # Its session is half an hour: others do not wait for it.
        two = Subscriber(client, "slow", ["slow"])
        two.wait("what was not processed", lambda: len(two.got) == 2)
        two.leave()


def test_new_partitions_and_topics_of_a_pattern_are_read_from_their_beginning(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("grow-a")
        client.publish("grow-a", [b"before"])
        end = types_pb2.Start(edge=types_pb2.EDGE_END)
        one = Subscriber(client, "growers", topic_pattern="grow-.*", start=end)
        one.wait("its partition", lambda: one.has == {("grow-a", 0): 1})
        assert committed(client, "growers") == {("grow-a", 0): 1}, "the end is looked up once, and stored"
        call(client.admin.CreatePartitions, admin_pb2.CreatePartitionsRequest(name="grow-a", partitions=2))
        client.publish("grow-a", [b"new partition"], partition=1)
        client.create_topic("grow-b")
        client.publish("grow-b", [b"new topic"])
        one.wait("both", lambda: len(one.got) == 2)
        assert sorted(one.values()) == [b"new partition", b"new topic"]
        one.leave()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"group": ""}, "INVALID_GROUP_ID"),
        ({"group": "g" * 256}, "INVALID_GROUP_ID"),
        ({"topics": []}, "INVALID_REQUEST"),
        ({"topics": ["a/b"]}, "INVALID_TOPIC_NAME"),
        ({"topics": ["t"] * 1_001}, "INVALID_REQUEST"),
        ({"topic_pattern": "("}, "INVALID_TOPIC_PATTERN"),
        ({"topic_pattern": "a" * 1_025}, "INVALID_TOPIC_PATTERN"),
        ({"instance_id": ""}, "INVALID_REQUEST"),
        ({"instance_id": "i" * 256}, "INVALID_REQUEST"),
        ({"client_id": "c" * 256}, "INVALID_REQUEST"),
        ({"rack": "r" * 256}, "INVALID_REQUEST"),
        ({"positions": offsets({("t", 0): 1})}, "INVALID_REQUEST"),
        ({"start": types_pb2.Start(offset=3)}, "INVALID_REQUEST"),
        ({"start": types_pb2.Start(time=Timestamp(seconds=-1))}, "INVALID_TIMESTAMP"),
        ({"start": types_pb2.Start(edge=9)}, "INVALID_REQUEST"),
        ({"session": 0.5}, "INVALID_REQUEST"),
        ({"session": 1_801.0}, "INVALID_REQUEST"),
        ({"reconnect_timeout": Duration(seconds=1_801)}, "INVALID_REQUEST"),
        ({"reconnect_timeout": Duration(seconds=-1)}, "INVALID_REQUEST"),
        ({"revoke_timeout": Duration(nanos=1)}, "INVALID_REQUEST"),
        ({"revoke_timeout": Duration(seconds=50_000)}, "INVALID_REQUEST"),
        ({"processing_timeout": Duration(nanos=1)}, "INVALID_REQUEST"),
        ({"processing_timeout": Duration(seconds=-1)}, "INVALID_REQUEST"),
        ({"commit_mode": 9}, "INVALID_REQUEST"),
        ({"credit": 1_000_001}, "INVALID_REQUEST"),
    ],
)
def test_what_can_not_be_opened_is_refused_by_name(broker: Broker, fields: dict, reason: str) -> None:
    with Client(broker.address) as client:
        refused = Subscriber(client, **{"group": "g", "topics": ["t"], **fields})
        refused.wait("refused", lambda: refused.ended)
        assert refused.error is not None and refused.error.check_typed().reason == reason


def test_commands_that_can_not_be_done_are_refused_and_the_stream_goes_on(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("commands")
        one = Subscriber(client, "commanded", ["commands"])
        one.wait("its partition", lambda: one.has)
        mine, foreign, no_topic = [("commands", 0)], [("commands", 5)], [("x" * 100_000, 0)]
        m = messaging_pb2
        many = [m.TopicOffset(topic="commands", partition=n, offset=1) for n in range(10_001)]
        bad = [
            {},
            {"open": m.SubscribeOpen(group="g")},
            {"credit": m.SubscribeCredit(messages=1_000_000)},
            {"credit": m.SubscribeCredit(processed_through=1)},
            {"commit": m.SubscribeCommit()},
            {"commit": m.SubscribeCommit(offsets=many)},
            {"commit": m.SubscribeCommit(offsets=offsets({("commands", 0): -1}))},
            {"commit": m.SubscribeCommit(offsets=2 * offsets({("commands", 0): 1}))},
            {"pause": m.SubscribePause()},
            {"pause": m.SubscribePause(partitions=partitions(foreign))},
            {"resume": m.SubscribeResume(partitions=partitions(foreign))},
            {"pause": m.SubscribePause(partitions=partitions(no_topic))},
            {"commit": m.SubscribeCommit(offsets=offsets({no_topic[0]: 1}))},
            {"release": m.SubscribeRelease(partitions=partitions(mine))},
            {"leave": m.SubscribeLeave(temporary=True)},
        ]
        for number, request in enumerate(bad, 1):
            one.send(number, **request)
        one.wait("all refused", lambda: len(one.errors) == len(bad))
        assert [error.id for error in one.errors] == list(range(1, len(bad) + 1))
        errors = [ApiError.of_item(error.error).check_typed() for error in one.errors]
        assert {e.reason for e in errors} == {"INVALID_REQUEST", "PARTITION_NOT_ASSIGNED", "INVALID_TOPIC_NAME"}
        assert all(len(error.message) < 1000 for error in errors)
        client.publish("commands", [b"goes on"])
        one.wait("a message", lambda: one.values() == [b"goes on"])
        one.leave()
        # A first request that opens nothing.
        answers = client.messaging.Subscribe(iter([m.SubscribeRequest(credit=m.SubscribeCredit())]))
        with pytest.raises(Exception) as failed:  # noqa: PT011
            next(answers)
        assert ApiError.of(failed.value).check_typed().reason == "INVALID_REQUEST"


def test_a_subscriber_that_says_no_more_gets_what_its_credit_allows(broker: Broker) -> None:
    """As `grpcurl` does it: one request, and the end of them."""
    with Client(broker.address) as client:
        client.create_topic("oneshot")
        client.publish("oneshot", [b"a", b"b", b"c"])
        one = Subscriber(client, "oneshot", ["oneshot"], credit=2)
        one.finish()
        one.wait("the end", lambda: one.ended)
        assert (one.error, one.values()) == (None, [b"a", b"b"])
