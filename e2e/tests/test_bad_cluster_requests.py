"""The same as `bad_requests` for the calls about moves, leaders, brokers, maintenance and the metadata quorum.

Nothing is asked with `validate_only` where it must be refused: what is not refused would be seen at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from lib.api import ApiError, Client, admin_pb2, call, expect_error
from lib.broker import Broker

INVALID = "INVALID_REQUEST"
BAD_NAME = "INVALID_TOPIC_NAME"
LEAST, MOST = -(2**31), 2**31 - 1
LEAST_64, MOST_64 = -(2**63), 2**63 - 1
HUGE = "x" * 1_000_000
# The one broker is 0 and its one voter 1.
NO_BROKERS = {"unknown": 77, "negative": -1, "least": LEAST, "huge": MOST}
NO_VOTERS = {"0": 0, "unknown": 77, "negative": -1, "least": LEAST_64, "huge": MOST_64}
UUID = "244253b9-0f3f-4cd8-bd97-fa97bd07a5a3"


def _move(**fields: object) -> admin_pb2.PartitionReassignment:
    return admin_pb2.PartitionReassignment(**{"topic": "good", "replicas": [0], **fields})


def _moves(*moves: admin_pb2.PartitionReassignment) -> admin_pb2.ReassignPartitionsRequest:
    return admin_pb2.ReassignPartitionsRequest(reassignments=moves)


REASSIGN = {
    "no moves": (_moves(), {INVALID}),
    "10,001 moves": (_moves(*[_move(partition=n) for n in range(10_001)]), {INVALID}),
    "a move of nothing": (_moves(admin_pb2.PartitionReassignment()), {BAD_NAME}),
    "unknown topic": (_moves(_move(topic="unknown")), {"UNKNOWN_TOPIC"}),
    "bad name": (_moves(_move(topic="a/b")), {BAD_NAME}),
    "huge name": (_moves(_move(topic=HUGE)), {BAD_NAME}),
    "the cluster's own": (_moves(_move(topic="__metadata")), {BAD_NAME, "UNKNOWN_TOPIC"}),
    "unknown partition": (_moves(_move(partition=1)), {"UNKNOWN_PARTITION"}),
    "negative partition": (_moves(_move(partition=-1)), {"UNKNOWN_PARTITION"}),
    "huge partition": (_moves(_move(partition=MOST)), {"UNKNOWN_PARTITION"}),
    "a partition twice": (_moves(_move(), _move()), {INVALID}),
    "moved and cancelled": (_moves(_move(), _move(cancel=True, replicas=[])), {INVALID}),
    "a good one and a bad one": (_moves(_move(), _move(topic="unknown")), {"UNKNOWN_TOPIC"}),
    "no replicas": (_moves(_move(replicas=[])), {INVALID}),
    "a broker twice": (_moves(_move(replicas=[0, 0])), {INVALID}),
    "100,000 replicas": (_moves(_move(replicas=range(100_000))), {INVALID}),
    "cancel with replicas": (_moves(_move(cancel=True)), {INVALID}),
    "cancel with a throttle": (_moves(_move(cancel=True, replicas=[], throttle_bytes_per_second=65_536)), {INVALID}),
    "cancel of no move": (_moves(_move(cancel=True, replicas=[])), {"NO_REASSIGNMENT_IN_PROGRESS"}),
    "throttle too low": (_moves(_move(throttle_bytes_per_second=65_535)), {INVALID}),
    "negative throttle": (_moves(_move(throttle_bytes_per_second=-1)), {INVALID}),
    "least throttle": (_moves(_move(throttle_bytes_per_second=LEAST_64)), {INVALID}),
    **{f"{name} broker": (_moves(_move(replicas=[b])), {INVALID, "UNKNOWN_BROKER"}) for name, b in NO_BROKERS.items()},
}
LIST = {
    "negative page": (admin_pb2.ListReassignmentsRequest(page_size=-1), {INVALID}),
    "least page": (admin_pb2.ListReassignmentsRequest(page_size=LEAST), {INVALID}),
    "unknown topic": (admin_pb2.ListReassignmentsRequest(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "bad name": (admin_pb2.ListReassignmentsRequest(topic="a/b"), {BAD_NAME}),
    "huge name": (admin_pb2.ListReassignmentsRequest(topic=HUGE), {BAD_NAME}),
    "a made-up token": (admin_pb2.ListReassignmentsRequest(page_token="\0"), {INVALID}),
    "a huge token": (admin_pb2.ListReassignmentsRequest(page_token=HUGE), {INVALID}),
}

PREFERRED, IN_SYNC, UNCLEAN = (
    admin_pb2.ELECTION_KIND_PREFERRED,
    admin_pb2.ELECTION_KIND_IN_SYNC,
    admin_pb2.ELECTION_KIND_UNCLEAN,
)


def _name(topic: str = "good", partition: int = 0) -> admin_pb2.PartitionName:
    return admin_pb2.PartitionName(topic=topic, partition=partition)


def _elect(**fields: object) -> admin_pb2.ElectLeadersRequest:
    return admin_pb2.ElectLeadersRequest(**{"partitions": [_name()], **fields})


ELECT = {
    "unknown kind": (_elect(kind=9), {INVALID}),
    "negative kind": (_elect(kind=-1), {INVALID}),
    "in sync, but nobody named": (_elect(kind=IN_SYNC), {INVALID}),
    "in sync with a loss": (_elect(kind=IN_SYNC, broker_id=0, accept_data_loss=True), {INVALID}),
    "in sync, no partitions": (_elect(kind=IN_SYNC, broker_id=0, partitions=[]), {INVALID}),
    "unclean, but nobody named, and no loss accepted": (_elect(kind=UNCLEAN), {INVALID}),
    "unclean without a loss": (_elect(kind=UNCLEAN, broker_id=0), {INVALID}),
    "unclean, no partitions": (_elect(kind=UNCLEAN, broker_id=0, accept_data_loss=True, partitions=[]), {INVALID}),
    "preferred with a broker": (_elect(kind=PREFERRED, broker_id=0), {INVALID}),
    "preferred with a loss": (_elect(kind=PREFERRED, accept_data_loss=True), {INVALID}),
    "no kind with a broker": (_elect(broker_id=0), {INVALID}),
    "10,001 partitions": (_elect(partitions=[_name(partition=n) for n in range(10_001)]), {INVALID}),
}


def _drain(*brokers: int, cancel: bool = False) -> admin_pb2.DrainBrokersRequest:
    return admin_pb2.DrainBrokersRequest(broker_ids=brokers, cancel=cancel)


DRAIN = {
    "none": (_drain(), {INVALID}),
    "none to cancel": (_drain(cancel=True), {INVALID}),
    "one twice": (_drain(0, 0), {INVALID}),
    "too low a throttle": (admin_pb2.DrainBrokersRequest(broker_ids=[0], throttle_bytes_per_second=65_535), {INVALID}),
    "a throttle to cancel": (
        admin_pb2.DrainBrokersRequest(broker_ids=[0], cancel=True, throttle_bytes_per_second=65_536),
        {INVALID},
    ),
    "one twice to cancel": (_drain(0, 0, cancel=True), {INVALID}),
    "100,000": (_drain(*range(100_000)), {INVALID}),
    "a known and an unknown one": (_drain(0, 77), {"UNKNOWN_BROKER"}),
    "the only one": (_drain(0), {"NOT_ENOUGH_BROKERS", "PLACEMENT_BLOCKED"}),
    **{name: (_drain(b), {"UNKNOWN_BROKER"}) for name, b in NO_BROKERS.items()},
    **{f"{name} to cancel": (_drain(b, cancel=True), {"UNKNOWN_BROKER"}) for name, b in NO_BROKERS.items()},
}


REBALANCE = {
    "onto one twice": (admin_pb2.RebalanceRequest(broker_ids=[0, 0]), {INVALID}),
    "onto 100,000": (admin_pb2.RebalanceRequest(broker_ids=range(100_000)), {INVALID}),
    "too low a throttle": (admin_pb2.RebalanceRequest(throttle_bytes_per_second=1), {INVALID}),
    "a negative throttle": (admin_pb2.RebalanceRequest(throttle_bytes_per_second=-1), {INVALID}),
    **{
        f"onto {name}": (admin_pb2.RebalanceRequest(broker_ids=[broker]), {"UNKNOWN_BROKER"})
        for name, broker in NO_BROKERS.items()
    },
}


def _of_brokers(request: type, **fields: object) -> dict:
    """The request for brokers that are not there."""
    return {name: (request(broker_id=b, **fields), {"UNKNOWN_BROKER"}) for name, b in NO_BROKERS.items()}


REMOVE = {
    **_of_brokers(admin_pb2.RemoveBrokerRequest),
    "unknown, by force": (admin_pb2.RemoveBrokerRequest(broker_id=77, force=True), {"UNKNOWN_BROKER"}),
    "in service": (admin_pb2.RemoveBrokerRequest(), {"STILL_NEEDED", "BROKER_STATE"}),
    "with a vote and replicas, by force": (admin_pb2.RemoveBrokerRequest(force=True), {"STILL_NEEDED"}),
}


def _replace(**fields: object) -> admin_pb2.ReplaceBrokerDirectoryRequest:
    return admin_pb2.ReplaceBrokerDirectoryRequest(**fields)


REPLACE = {
    **_of_brokers(admin_pb2.ReplaceBrokerDirectoryRequest, directory_id=UUID, accept_data_loss=True),
    "in service": (_replace(), {"BROKER_STATE"}),
    "in service, with a loss": (_replace(directory_id=UUID, accept_data_loss=True), {"BROKER_STATE"}),
    "no UUID": (_replace(broker_id=77, directory_id="x"), {INVALID}),
    "nearly a UUID": (_replace(directory_id=UUID[:-1]), {INVALID}),
    "a huge id": (_replace(directory_id=HUGE), {INVALID}),
}


def _acquire(**fields: object) -> admin_pb2.AcquireMaintenanceRequest:
    return admin_pb2.AcquireMaintenanceRequest(**{"holder": "tests", **fields})


BAD_TIMES = {
    "0": Duration(),
    "below a millisecond": Duration(nanos=999_999),
    "a day and a second": Duration(seconds=86_401),
    "a day and a nanosecond": Duration(seconds=86_400, nanos=1),
    "negative": Duration(seconds=-1),
    "negative nanoseconds": Duration(nanos=-1),
    "least nanoseconds": Duration(nanos=LEAST),
    "most": Duration(seconds=MOST_64),
    "more than most": Duration(seconds=MOST_64, nanos=MOST),
    "nearly least": Duration(seconds=LEAST_64 + 1),
    "least": Duration(seconds=LEAST_64),
    "less than least": Duration(seconds=LEAST_64, nanos=-1),
    "least of both": Duration(seconds=LEAST_64, nanos=LEAST),
    "least, and nanoseconds": Duration(seconds=LEAST_64, nanos=1),
}
ACQUIRE = {
    "no holder": (_acquire(holder=""), {INVALID}),
    "a holder of 301 bytes": (_acquire(holder="é" * 150 + "x"), {INVALID}),
    "a huge holder": (_acquire(holder=HUGE), {INVALID}),
    **_of_brokers(admin_pb2.AcquireMaintenanceRequest, holder="tests"),
    **{f"life {e}": (_acquire(broker_epoch=e), {"BROKER_STATE"}) for e in (LEAST_64, -1, 0, MOST_64)},
    **{f"time: {name}": (_acquire(ttl=ttl), {INVALID}) for name, ttl in BAD_TIMES.items()},
}
RELEASE = {
    "no holder": (admin_pb2.ReleaseMaintenanceRequest(), {INVALID}),
}


def _unvote(**fields: object) -> admin_pb2.RemoveVoterRequest:
    return admin_pb2.RemoveVoterRequest(**fields)


UNVOTE = {
    "nobody": (_unvote(), {INVALID}),
    "the only one": (_unvote(broker_id=0), {"STILL_NEEDED"}),
    "the only one by its voter id": (_unvote(voter_id=1), {"STILL_NEEDED"}),
    **_of_brokers(admin_pb2.RemoveVoterRequest),
    **{f"voter id {name}": (_unvote(voter_id=v), {"UNKNOWN_VOTER"}) for name, v in NO_VOTERS.items()},
}
REFUSED = {
    "ReassignPartitions": REASSIGN,
    "ListReassignments": LIST,
    "ElectLeaders": ELECT,
    "CordonBroker": _of_brokers(admin_pb2.CordonBrokerRequest),
    "UncordonBroker": _of_brokers(admin_pb2.UncordonBrokerRequest),
    "DrainBrokers": DRAIN,
    "Rebalance": REBALANCE,
    "RemoveBroker": REMOVE,
    "ReplaceBrokerDirectory": REPLACE,
    "MayRestart": _of_brokers(admin_pb2.MayRestartRequest),
    "AcquireMaintenance": ACQUIRE,
    "ReleaseMaintenance": RELEASE,
    "AddVoter": _of_brokers(admin_pb2.AddVoterRequest),
    "RemoveVoter": UNVOTE,
}


def _state(client: Client) -> tuple:
    """What these calls can change."""
    cluster = call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
    quorum = call(client.admin.DescribeQuorum, admin_pb2.DescribeQuorumRequest())
    moves = call(client.admin.ListReassignments, admin_pb2.ListReassignmentsRequest())
    members = [(m.voter_id, m.broker_id, m.directory_id, m.is_voter) for m in quorum.members]
    partitions = list(client.describe("good").partitions)
    return (list(cluster.brokers), cluster.HasField("maintenance"), members, list(moves.reassignments), partitions)


@pytest.fixture(scope="module")
def managed(shared: Broker) -> Iterator[Client]:
    """A client of a broker with one topic; at the end nothing about the cluster has changed."""
    assert shared.process is not None
    with Client(shared.address) as client:
        client.create_topic("good")
        before = _state(client)
        yield client
        assert _state(client) == before
        client.publish("good", [b"after"])
        assert [m.message.value for m in client.read("good")] == [b"after"]
        assert "panicked" not in shared.process.err()


@pytest.mark.parametrize(("method", "name"), [(method, name) for method, cases in REFUSED.items() for name in cases])
def test_a_bad_request_about_the_cluster_is_refused_by_name(managed: Client, method: str, name: str) -> None:
    request, reasons = REFUSED[method][name]
    error = expect_error(getattr(managed.admin, method), request)
    assert error.reason in reasons, error
    assert len(error.message) < 1000, f"a message of {len(error.message)} characters echoes the request"
    if error.reason == INVALID:
        assert error.bad_fields, f"no field is named: {error}"
    if error.reason == "UNKNOWN_PARTITION":
        assert error.metadata["partitions"] == "1", error


ELECTIONS = {
    "leads already": (_elect(), ["ELECTION_NOT_NEEDED"]),
    "leads already, in sync": (_elect(kind=IN_SYNC, broker_id=0), ["ELECTION_NOT_NEEDED"]),
    "an unclean one where there is a leader": (
        _elect(kind=UNCLEAN, broker_id=0, accept_data_loss=True),
        ["NOT_SUPPORTED"],
    ),
    "a partition twice": (_elect(partitions=[_name(), _name()]), ["ELECTION_NOT_NEEDED", INVALID]),
    "bad names among a good one": (
        _elect(
            partitions=[
                _name("unknown"),
                _name("a/b"),
                _name(""),
                _name(HUGE),
                _name(partition=1),
                _name(partition=-1),
                _name(partition=LEAST),
                _name(partition=MOST),
                _name(),
            ]
        ),
        ["UNKNOWN_TOPIC", *[BAD_NAME] * 3, *["UNKNOWN_PARTITION"] * 4, "ELECTION_NOT_NEEDED"],
    ),
    **{
        f"{name} broker": (_elect(kind=IN_SYNC, broker_id=b), ["ELIGIBLE_LEADER_NOT_AVAILABLE"])
        for name, b in NO_BROKERS.items()
    },
}


@pytest.mark.parametrize("name", ELECTIONS)
def test_a_bad_election_fails_and_stops_no_other(managed: Client, name: str) -> None:
    request, reasons = ELECTIONS[name]
    results = call(managed.admin.ElectLeaders, request).results
    assert [r.partition for r in results] == [p.partition for p in request.partitions]
    assert [ApiError.of_item(r.error).check_typed().reason for r in results] == reasons


GOOD = {
    # A broker that has nothing to give back is as it was to be.
    "release by another": ("ReleaseMaintenance", admin_pb2.ReleaseMaintenanceRequest(holder="nobody")),
    "release of no broker": ("ReleaseMaintenance", admin_pb2.ReleaseMaintenanceRequest(holder="nobody", broker_id=77)),
    # The most of what is allowed.
    "a holder of 300 bytes": ("AcquireMaintenance", _acquire(holder="é" * 150, validate_only=True)),
    "a whole day": ("AcquireMaintenance", _acquire(ttl=Duration(seconds=86_400), validate_only=True)),
    "a millisecond": ("AcquireMaintenance", _acquire(ttl=Duration(nanos=1_000_000), validate_only=True)),
    "the largest throttle": ("ReassignPartitions", _moves(_move(throttle_bytes_per_second=MOST_64))),
    "a page of more than there may be": ("ListReassignments", admin_pb2.ListReassignmentsRequest(page_size=MOST)),
    # What is so already.
    "no election is needed anywhere": ("ElectLeaders", admin_pb2.ElectLeadersRequest()),
    "no drain to end": ("DrainBrokers", _drain(0, cancel=True)),
    "nothing to even out": ("Rebalance", admin_pb2.RebalanceRequest(throttle_bytes_per_second=65_536)),
    "votes already": ("AddVoter", admin_pb2.AddVoterRequest()),
    "is not cordoned": ("UncordonBroker", admin_pb2.UncordonBrokerRequest()),
    "checked only": ("CordonBroker", admin_pb2.CordonBrokerRequest(validate_only=True)),
    "may it go": ("MayRestart", admin_pb2.MayRestartRequest()),
    "the quorum": ("DescribeQuorum", admin_pb2.DescribeQuorumRequest()),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_at_its_bound_or_so_already_is_no_error(managed: Client, name: str) -> None:
    method, request = GOOD[name]
    call(getattr(managed.admin, method), request)


LONG_NAMES = {
    "CreateTopic": (lambda n: admin_pb2.CreateTopicRequest(name=n), {BAD_NAME}),
    "DeleteTopic": (lambda n: admin_pb2.DeleteTopicRequest(name=n), {BAD_NAME}),
    "AlterTopic": (lambda n: admin_pb2.AlterTopicRequest(name=n, unset_configs=["flush"]), {BAD_NAME}),
    "CreatePartitions": (lambda n: admin_pb2.CreatePartitionsRequest(name=n, partitions=2), {BAD_NAME}),
    "DeleteMessages": (lambda n: admin_pb2.DeleteMessagesRequest(topic=n), {BAD_NAME}),
    "AlterConfigs": (lambda n: admin_pb2.AlterConfigsRequest(topic="good", unset=[n]), {"INVALID_CONFIG"}),
    "ReassignPartitions": (lambda n: _moves(_move(topic=n)), {BAD_NAME}),
    "ReplaceBrokerDirectory": (lambda n: _replace(broker_id=77, directory_id=n), {INVALID}),
    "AcquireMaintenance": (lambda n: _acquire(holder=n), {INVALID}),
    # There is nothing to give back, and nobody has such a name.
    "ReleaseMaintenance": (lambda n: admin_pb2.ReleaseMaintenanceRequest(holder=n), {INVALID, None}),
}


@pytest.mark.parametrize("method", LONG_NAMES)
@pytest.mark.parametrize("size", [1_000_000, 15_000_000])
def test_a_long_name_is_refused_before_it_is_stored(managed: Client, shared: Broker, method: str, size: int) -> None:
    """What the metadata log keeps goes to every broker's disk."""
    request, reasons = LONG_NAMES[method]
    assert shared.data is not None
    before = _bytes_in(shared.data)
    try:
        call(getattr(managed.admin, method), request("x" * size))
        reason = None
    except ApiError as error:
        reason = error.check_typed().reason
    assert reason in reasons
    grown = _bytes_in(shared.data) - before
    assert grown < 64 << 10, f"the broker stored {grown} bytes for it"


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_permission_that_another_one_has(managed: Client) -> None:
    """Neither taken nor given back by one who does not have it."""
    holder = call(managed.admin.AcquireMaintenance, _acquire(holder="first")).slot
    for method, request in (
        ("AcquireMaintenance", _acquire(holder="second")),
        ("ReleaseMaintenance", admin_pb2.ReleaseMaintenanceRequest(holder="second")),
        ("ReleaseMaintenance", admin_pb2.ReleaseMaintenanceRequest(holder="first", broker_id=77)),
    ):
        taken = expect_error(getattr(managed.admin, method), request)
        assert taken.reason == "MAINTENANCE_TAKEN"
        assert (taken.metadata["holder"], taken.metadata["broker_id"]) == ("first", "0")
    cluster = call(managed.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
    assert cluster.maintenance == holder
    call(managed.admin.ReleaseMaintenance, admin_pb2.ReleaseMaintenanceRequest(holder="first"))
