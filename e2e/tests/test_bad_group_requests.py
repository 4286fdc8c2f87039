"""Every call about groups with what is missing, huge, negative, stale or somebody else's: a typed error, no memory."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lib.api import ApiError, Client, call, expect_error, groups_pb2, types_pb2
from lib.broker import Broker
from lib.watch import MIB

G = groups_pb2
INVALID = "INVALID_REQUEST"
TOPIC = "good"
PARTITIONS = 4
LONG_ID = "x" * 256
BAD_GROUPS = ["", "a\nb", "\0", "a\u0085b", LONG_ID, "x" * 1_000_000]
# A topic id that no topic has.
NOBODYS = bytes(15) + b"\1"


@pytest.fixture(scope="module", autouse=True)
def topic_of_the_file(shared: Broker) -> None:
    """The topic that requests name."""
    with Client(shared.address) as client:
        client.create_topic(TOPIC, PARTITIONS)


def _some(*numbers: int, topic: str = TOPIC, topic_id: bytes = b"") -> list[G.TopicPartitions]:
    return [G.TopicPartitions(topic=topic, topic_id=topic_id, partitions=numbers)]


def _commit(
    *offsets: G.CommitPartitionOffset, topic: str = TOPIC, topic_id: bytes = b"", **fields
) -> G.CommitOffsetsRequest:
    topics = [G.CommitTopicOffsets(topic=topic, topic_id=topic_id, partitions=offsets)]
    return G.CommitOffsetsRequest(**{"group": "g", "topics": topics, **fields})


def _at(partition: int = 0, offset: int = 1, **fields) -> G.CommitPartitionOffset:
    return G.CommitPartitionOffset(partition=partition, offset=offset, **fields)


def _fetch(**fields) -> G.FetchOffsetsRequest:
    return G.FetchOffsetsRequest(**{"group": "g", **fields})


def _reset(**fields) -> G.ResetOffsetsRequest:
    return G.ResetOffsetsRequest(**{"group": "g", "topics": _some(0), **fields})


GROUP_ONLY = {
    "FindCoordinator": G.FindCoordinatorRequest,
    "DescribeGroup": G.DescribeGroupRequest,
    "DeleteGroup": G.DeleteGroupRequest,
    "FetchOffsets": G.FetchOffsetsRequest,
}
# The method, the request, the reasons of which one must come.
UNARY: dict[str, tuple[str, object, set[str]]] = {
    **{
        f"{method} of the group {group[:8]!r} of {len(group)}": (method, make(group=group), {"INVALID_GROUP_ID"})
        for method, make in GROUP_ONLY.items()
        for group in BAD_GROUPS
    },
    **{
        f"{method} of the group {group[:8]!r} of {len(group)}": (method, request(group), {"INVALID_GROUP_ID"})
        for group in BAD_GROUPS
        for method, request in {
            "LeaveGroup": lambda group: G.LeaveGroupRequest(group=group, member_id="m"),
            "CommitOffsets": lambda group: _commit(_at(), group=group),
            "ResetOffsets": lambda group: _reset(group=group, offset=0),
        }.items()
    },
    "leave: no member": ("LeaveGroup", G.LeaveGroupRequest(group="g"), {INVALID}),
    "leave: a long member": ("LeaveGroup", G.LeaveGroupRequest(group="g", member_id=LONG_ID), {INVALID}),
    "leave: a stranger": (
        "LeaveGroup",
        G.LeaveGroupRequest(group="g", member_id="nobody"),
        {"UNKNOWN_MEMBER", "UNKNOWN_GROUP"},
    ),
    "commit: nothing": ("CommitOffsets", G.CommitOffsetsRequest(group="g"), {INVALID}),
    "commit: a topic without partitions": ("CommitOffsets", _commit(), {INVALID}),
    "commit: 10,001 partitions": ("CommitOffsets", _commit(*[_at(n) for n in range(10_001)]), {INVALID}),
    "commit: a partition twice": ("CommitOffsets", _commit(_at(0), _at(0)), {INVALID}),
    "commit: a negative partition": ("CommitOffsets", _commit(_at(-1)), {INVALID}),
    "commit: an epoch of nobody": ("CommitOffsets", _commit(_at(), member_epoch=1), {INVALID}),
    "commit: a member without an epoch": ("CommitOffsets", _commit(_at(), member_id="m"), {INVALID}),
    "commit: a negative epoch": ("CommitOffsets", _commit(_at(), member_id="m", member_epoch=-1), {INVALID}),
    "commit: a long member": ("CommitOffsets", _commit(_at(), member_id=LONG_ID, member_epoch=1), {INVALID}),
    "commit: a stranger": (
        "CommitOffsets",
        _commit(_at(), member_id="nobody", member_epoch=1),
        {"UNKNOWN_MEMBER", "UNKNOWN_GROUP"},
    ),
    "fetch: an unknown topic": ("FetchOffsets", _fetch(topics=_some(0, topic="unknown")), {"UNKNOWN_TOPIC"}),
    "fetch: a short topic id": ("FetchOffsets", _fetch(topics=_some(0, topic_id=b"short")), {INVALID}),
    "fetch: a negative partition": ("FetchOffsets", _fetch(topics=_some(-1)), {INVALID}),
    "fetch: a partition twice": ("FetchOffsets", _fetch(topics=_some(0, 0)), {INVALID}),
    "fetch: 10,001 partitions": ("FetchOffsets", _fetch(topics=_some(*range(10_001))), {INVALID}),
    "fetch: an epoch of nobody": ("FetchOffsets", _fetch(member_epoch=3), {INVALID}),
    "fetch: a stranger": ("FetchOffsets", _fetch(member_id="nobody", member_epoch=1), {"UNKNOWN_MEMBER"}),
    "fetch: a negative page": ("FetchOffsets", _fetch(page_size=-1), {INVALID}),
    "fetch: a page of nowhere": ("FetchOffsets", _fetch(page_token="nowhere"), {INVALID}),
    "fetch: a page of nowhere in a list": ("FetchOffsets", _fetch(topics=_some(0), page_token="-1"), {INVALID}),
    "list: a negative page": ("ListGroups", G.ListGroupsRequest(page_size=-1), {INVALID}),
    "list: a long prefix": ("ListGroups", G.ListGroupsRequest(prefix=LONG_ID), {INVALID}),
    "list: a long page": ("ListGroups", G.ListGroupsRequest(page_token="x" * 100_000), {INVALID}),
    "describe: an unknown group": ("DescribeGroup", G.DescribeGroupRequest(group="unknown"), {"UNKNOWN_GROUP"}),
    "describe: a negative page": ("DescribeGroup", G.DescribeGroupRequest(group="g", page_size=-5), {INVALID}),
    "delete: an unknown group": ("DeleteGroup", G.DeleteGroupRequest(group="unknown"), {"UNKNOWN_GROUP"}),
    "delete: an unknown group, to check": (
        "DeleteGroup",
        G.DeleteGroupRequest(group="unknown", validate_only=True),
        {"UNKNOWN_GROUP"},
    ),
    "reset: to nothing": ("ResetOffsets", _reset(), {INVALID}),
    "reset: to no edge": ("ResetOffsets", _reset(edge=0), {INVALID}),
    "reset: to an unknown edge": ("ResetOffsets", _reset(edge=77), {INVALID}),
    "reset: to a negative offset": ("ResetOffsets", _reset(offset=-1), {INVALID}),
    "reset: to a time that overflows": (
        "ResetOffsets",
        _reset(time=Timestamp(seconds=2**63 - 1)),
        {INVALID, "INVALID_TIMESTAMP"},
    ),
    "reset: negative nanoseconds": (
        "ResetOffsets",
        _reset(time=Timestamp(seconds=1, nanos=-1)),
        {INVALID, "INVALID_TIMESTAMP"},
    ),
    "reset: an unknown topic": ("ResetOffsets", _reset(topics=_some(topic="unknown"), offset=0), {"UNKNOWN_TOPIC"}),
    "reset: a short topic id": ("ResetOffsets", _reset(topics=_some(topic_id=b"x"), offset=0), {INVALID}),
    "reset: a partition twice": ("ResetOffsets", _reset(topics=_some(0, 0), offset=0), {INVALID}),
    "reset: a negative partition": ("ResetOffsets", _reset(topics=_some(-1), offset=0), {INVALID}),
}


@pytest.mark.parametrize("name", UNARY)
def test_a_call_with_bad_fields_is_refused(client: Client, name: str) -> None:
    method, request, reasons = UNARY[name]
    error = expect_error(getattr(client.groups, method), request)
    assert error.reason in reasons, error
    if error.reason == INVALID:
        assert error.bad_fields, f"which field? {error}"


# What becomes of one partition of a commit.
ITEMS: dict[str, tuple[G.CommitOffsetsRequest, str]] = {
    "a negative offset": (_commit(_at(0, -1)), INVALID),
    "the least offset": (_commit(_at(0, -(2**63))), INVALID),
    "too much metadata": (_commit(_at(0, 1, metadata="x" * 4097)), INVALID),
    "an unknown partition": (_commit(_at(PARTITIONS, 1)), "UNKNOWN_PARTITION"),
    "the highest partition": (_commit(_at(2**31 - 1, 1)), "UNKNOWN_PARTITION"),
    "an unknown topic": (_commit(_at(0, 1), topic="unknown"), "UNKNOWN_TOPIC"),
    "an empty topic": (_commit(_at(0, 1), topic=""), "INVALID_TOPIC_NAME"),
    "a topic's name as long as a request": (_commit(_at(0, 1), topic="x" * 1_000_000), "INVALID_TOPIC_NAME"),
    "a short topic id": (_commit(_at(0, 1), topic_id=b"short"), INVALID),
}


@pytest.mark.parametrize("name", ITEMS)
def test_a_partition_that_can_not_be_committed_is_named(client: Client, name: str) -> None:
    request, reason = ITEMS[name]
    # Another partition of the same request is committed.
    good = _commit(_at(1, 7), rewind=True).topics[0]
    request.topics.append(good)
    outcomes = call(client.groups.CommitOffsets, request).partitions
    error = ApiError.of_item(outcomes[0].error).check_typed()
    assert error.reason == reason, error
    assert error.metadata.get("outcome") == "not_written", error
    assert not outcomes[1].HasField("error"), outcomes[1]


def test_an_id_of_no_topic_is_none_of_the_topics(client: Client) -> None:
    outcome = call(client.groups.CommitOffsets, _commit(_at(), topic="", topic_id=NOBODYS)).partitions[0]
    assert ApiError.of_item(outcome.error).check_typed().reason in ("UNKNOWN_TOPIC", "UNKNOWN_PARTITION")


def _settings(**fields) -> G.MemberSettings:
    return G.MemberSettings(**{"topics": [TOPIC], **fields})


def _join(**fields) -> G.HeartbeatRequest:
    return G.HeartbeatRequest(**{"group": "beats", "member_id": "bad", "settings": _settings(), **fields})


def _seconds(seconds: int, nanos: int = 0) -> Duration:
    return Duration(seconds=seconds, nanos=nanos)


BEATS: dict[str, tuple[list[G.HeartbeatRequest], set[str]]] = {
    **{
        f"the group {group[:8]!r} of {len(group)}": ([_join(group=group)], {"INVALID_GROUP_ID"}) for group in BAD_GROUPS
    },
    "no member": ([_join(member_id="")], {INVALID}),
    "a long member": ([_join(member_id=LONG_ID)], {INVALID}),
    "an empty instance": ([_join(instance_id="")], {INVALID}),
    "a long instance": ([_join(instance_id=LONG_ID)], {INVALID}),
    "a negative epoch": ([_join(member_epoch=-1)], {INVALID}),
    "the epoch of nobody": ([_join(member_epoch=5)], {"UNKNOWN_MEMBER", "FENCED_MEMBER"}),
    "the highest epoch": ([_join(member_epoch=2**31 - 1)], {"UNKNOWN_MEMBER", "FENCED_MEMBER"}),
    "no settings": ([G.HeartbeatRequest(group="beats", member_id="bad")], {INVALID}),
    "nothing to read": ([_join(settings=_settings(topics=[]))], {INVALID}),
    "1,001 topics": ([_join(settings=_settings(topics=[f"t{n}" for n in range(1001)]))], {INVALID}),
    "a bad topic": ([_join(settings=_settings(topics=["a/b"]))], {INVALID, "INVALID_TOPIC_NAME"}),
    "a long pattern": ([_join(settings=_settings(topic_pattern="x" * 1025))], {INVALID, "INVALID_TOPIC_PATTERN"}),
    "no pattern": ([_join(settings=_settings(topic_pattern="("))], {"INVALID_TOPIC_PATTERN"}),
    "a pattern that looks back": ([_join(settings=_settings(topic_pattern=r"(a)\1"))], {"INVALID_TOPIC_PATTERN"}),
    "a pattern that explodes": (
        [_join(settings=_settings(topic_pattern="((a{1000}){1000}){1000}"))],
        {"INVALID_TOPIC_PATTERN"},
    ),
    "a long name": ([_join(settings=_settings(client_id=LONG_ID))], {INVALID}),
    "a long rack": ([_join(settings=_settings(rack=LONG_ID))], {INVALID}),
    "no session": ([_join(settings=_settings(session_timeout=_seconds(0)))], {INVALID}),
    "a short session": ([_join(settings=_settings(session_timeout=_seconds(0, 999_000_000)))], {INVALID}),
    "a long session": ([_join(settings=_settings(session_timeout=_seconds(1801)))], {INVALID}),
    "a negative session": ([_join(settings=_settings(session_timeout=_seconds(-5)))], {INVALID}),
    "a session that overflows": ([_join(settings=_settings(session_timeout=_seconds(2**63 - 1)))], {INVALID}),
    "a reconnect time above the session": ([_join(settings=_settings(reconnect_timeout=_seconds(6)))], {INVALID}),
    "a negative reconnect time": ([_join(settings=_settings(reconnect_timeout=_seconds(-1)))], {INVALID}),
    "a short rebalance time": ([_join(settings=_settings(rebalance_timeout=_seconds(1)))], {INVALID}),
    "a long rebalance time": ([_join(settings=_settings(rebalance_timeout=_seconds(86_401)))], {INVALID}),
    "an unknown assignor": ([_join(settings=_settings(assignor=99))], {INVALID}),
    "a start at an offset": ([_join(settings=_settings(start=types_pb2.Start(offset=5)))], {INVALID}),
    "a start at no edge": ([_join(settings=_settings(start=types_pb2.Start(edge=77)))], {INVALID}),
    "a start at a time that overflows": (
        [_join(settings=_settings(start=types_pb2.Start(time=Timestamp(seconds=2**63 - 1))))],
        {INVALID, "INVALID_TIMESTAMP"},
    ),
    "a negative partition": ([_join(owned=G.OwnedPartitions(topics=_some(-1)))], {INVALID}),
    "a topic id of five bytes": ([_join(owned=G.OwnedPartitions(topics=_some(0, topic_id=b"short")))], {INVALID}),
    "another group": ([_join(member_id="moves"), _join(member_id="moves", group="other")], {INVALID}),
    "another member": ([_join(member_id="changes"), _join(member_id="other")], {INVALID}),
    "another instance": ([_join(member_id="named"), _join(member_id="named", instance_id="i")], {INVALID}),
}


@pytest.mark.parametrize("name", BEATS)
def test_a_bad_heartbeat_ends_its_stream_with_the_reason(client: Client, name: str) -> None:
    requests, reasons = BEATS[name]
    answers = client.groups.Heartbeat(iter(requests), timeout=30)
    came = []
    with pytest.raises(grpc.RpcError) as failed:
        came.extend(answers)
    error = ApiError.of(failed.value).check_typed()
    assert error.reason in reasons, error
    # What came before the bad one was answered.
    assert sum(answer.HasField("answer") for answer in came) == len(requests) - 1


def test_a_stream_without_a_request_is_no_members(client: Client) -> None:
    assert list(client.groups.Heartbeat(iter(()), timeout=30)) == []


class Joined:
    """A member that has joined, and its last answer."""

    def __init__(self, client: Client, group: str, member_id: str, **fields) -> None:
        self._go = threading.Event()
        self.group, self.member_id = group, member_id
        self._requests: list[G.HeartbeatRequest] = [_join(group=group, member_id=member_id, **fields)]
        self._call = client.groups.Heartbeat(self._out(), timeout=60)
        self.answer = self._next()

    def _out(self) -> Iterator[G.HeartbeatRequest]:
        yield self._requests[0]
        self._go.wait()

    def _next(self) -> G.HeartbeatAnswer:
        return next(message.answer for message in self._call if message.HasField("answer"))

    def close(self) -> None:
        """Its stream ends."""
        self._go.set()
        self._call.cancel()


_ids = itertools.count()


@pytest.fixture
def member(client: Client) -> Iterator[Joined]:
    """A member of a group of its own with all partitions."""
    number = next(_ids)
    joined = Joined(client, f"owners-{number}", f"m-{number}")
    yield joined
    joined.close()


def test_what_is_somebody_elses_is_refused(client: Client, member: Joined) -> None:
    epoch = member.answer.member_epoch
    mine = {"group": member.group, "member_id": member.member_id}
    assert [list(topic.partitions) for topic in member.answer.assignment.assigned] == [list(range(PARTITIONS))]
    # As nobody, while there are members.
    error = expect_error(client.groups.CommitOffsets, _commit(_at(), group=member.group))
    assert error.reason == "GROUP_NOT_EMPTY" or error.reason in ("UNKNOWN_MEMBER", "FENCED_MEMBER"), error
    # As somebody else, in another's group, and with an epoch that is not there yet.
    stranger = _commit(_at(), group=member.group, member_id="nobody", member_epoch=epoch)
    assert expect_error(client.groups.CommitOffsets, stranger).reason == "UNKNOWN_MEMBER"
    ahead = _commit(_at(), **mine, member_epoch=epoch + 7)
    error = expect_error(client.groups.CommitOffsets, ahead)
    assert error.reason in ("FENCED_MEMBER", "STALE_MEMBER_EPOCH"), error
    error = expect_error(client.groups.FetchOffsets, _fetch(**mine, member_epoch=epoch + 7))
    assert error.reason in ("FENCED_MEMBER", "STALE_MEMBER_EPOCH"), error
    # What it has it commits, once on, and not back.
    assert (
        not call(client.groups.CommitOffsets, _commit(_at(0, 5), **mine, member_epoch=epoch))
        .partitions[0]
        .HasField("error")
    )
    back = call(client.groups.CommitOffsets, _commit(_at(0, 4), **mine, member_epoch=epoch)).partitions[0]
    error = ApiError.of_item(back.error).check_typed()
    assert (error.reason, error.metadata["committed_offset"]) == ("OFFSET_BEHIND_COMMITTED", "5")
    # A second life under the same id; and what a member uses can't be set or deleted by others.
    request = G.DeleteGroupRequest(group=member.group)
    assert expect_error(client.groups.DeleteGroup, request).reason == "GROUP_NOT_EMPTY"
    reset = call(client.groups.ResetOffsets, _reset(group=member.group, offset=0)).partitions[0]
    assert ApiError.of_item(reset.error).check_typed().reason == "GROUP_NOT_EMPTY"
    [kept] = call(client.groups.FetchOffsets, _fetch(group=member.group, topics=_some(0))).offsets
    assert kept.committed.offset == 5


def test_a_member_that_left_is_none(client: Client, member: Joined) -> None:
    epoch = member.answer.member_epoch
    call(client.groups.LeaveGroup, G.LeaveGroupRequest(group=member.group, member_id=member.member_id))
    left = {"group": member.group, "member_id": member.member_id, "member_epoch": epoch}
    assert expect_error(client.groups.CommitOffsets, _commit(_at(), **left)).reason == "UNKNOWN_MEMBER"
    assert expect_error(client.groups.FetchOffsets, _fetch(**left)).reason == "UNKNOWN_MEMBER"
    leave = G.LeaveGroupRequest(group=member.group, member_id=member.member_id)
    assert expect_error(client.groups.LeaveGroup, leave).reason in ("UNKNOWN_MEMBER", "UNKNOWN_GROUP")
    # Its id is used up: a late copy of its join does not bring it back.
    late = _join(group=member.group, member_id=member.member_id)
    assert expect_error(client.groups.Heartbeat, iter([late])).reason == "UNKNOWN_MEMBER"


def test_a_second_process_of_an_instance_has_to_wait(client: Client) -> None:
    one = Joined(client, "instances", "one", instance_id="pod-0")
    try:
        second = _join(group="instances", member_id="two", instance_id="pod-0")
        error = expect_error(client.groups.Heartbeat, iter([second]))
        assert error.reason == "INSTANCE_IN_USE" and 0 < int(error.metadata["retry_after_ms"]) <= 5_000, error
    finally:
        one.close()


@pytest.mark.timeout(900)
def test_a_hundred_thousand_bogus_groups_take_bounded_memory(new_broker) -> None:
    """Groups that do not exist are asked for, and offsets are committed in others that nobody is a member of."""
    broker = new_broker(offsets_topic_num_partitions=4).start()
    count = 100_000
    rng = random.Random(1)
    with Client(broker.address) as client:
        client.create_topic(TOPIC)
        call(client.groups.CommitOffsets, _commit(_at(), group="first"))
        assert broker.process is not None
        time.sleep(1)
        before = broker.process.rss_anonymous_bytes()
        asked = [client.groups.FetchOffsets, client.groups.DescribeGroup]
        makes = [G.FetchOffsetsRequest, G.DescribeGroupRequest]
        _flood(count // 5, lambda n: asked[n % 2].future(makes[n % 2](group=f"asked-{n}"), timeout=60))
        after_asking = broker.process.rss_anonymous_bytes()
        names = [f"bogus-{n}-" + "x" * rng.randrange(240) for n in range(count)]
        refused = _flood(
            count, lambda n: client.groups.CommitOffsets.future(_commit(_at(0, n), group=names[n]), timeout=60)
        )
        after = broker.process.rss_anonymous_bytes()
        print(
            f"memory {before / MIB:.0f} MiB, after asking for {count // 5} groups {after_asking / MIB:.0f} MiB, after "
            f"commits in {count} {after / MIB:.0f} MiB; {refused} were refused"
        )
        # What does not exist leaves nothing.
        assert after_asking - before < 16 * MIB
        # Ten thousand groups a coordinator, and what the rest of it may have grown to.
        assert refused > 0 and after - before < 160 * MIB
        # The groups that there were go on.
        assert not call(client.groups.CommitOffsets, _commit(_at(0, 9), group="first")).partitions[0].HasField("error")


def _flood(count: int, begin) -> int:
    """Makes calls, some hundred at a time; gives how many were refused for a limit. Any other failure is one."""
    refused = 0
    for first in range(0, count, 500):
        calls = [begin(n) for n in range(first, min(first + 500, count))]
        for one in calls:
            try:
                one.result()
            except grpc.RpcError as failed:
                error = ApiError.of(failed).check_typed()
                assert error.reason in ("LIMIT_REACHED", "UNKNOWN_GROUP"), error
                refused += error.reason == "LIMIT_REACHED"
    return refused
