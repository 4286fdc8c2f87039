"""Consumer groups with plain stubs: members share partitions, offsets are kept, and processes are killed."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time

import grpc
from google.protobuf.duration_pb2 import Duration

from lib.api import ApiError, Client, call, groups_pb2, types_pb2
from lib.broker import Broker

PATIENCE = 60.0
# A member that is killed is found out by its connection, not by its session.
LONG = Duration(seconds=1800)


class Member:
    """One member: it takes what it is given at once, and gives back at once."""

    def __init__(self, client: Client, group: str, member: str, topic: str) -> None:
        self.has: list[int] = []
        self.error: ApiError | None = None
        self._settings = groups_pb2.MemberSettings(topics=[topic], session_timeout=LONG)
        self._next = groups_pb2.HeartbeatRequest(group=group, member_id=member, owned=groups_pb2.OwnedPartitions())
        self._topic = topic
        self.answered = 0
        self.reopen(client)

    def reopen(self, client: Client) -> None:
        """Begins a stream; one before it is closed."""
        self.answered, self._out = 0, queue.SimpleQueue()
        self._call = client.groups.Heartbeat(iter(self._out.get, None))
        self._send(settings=True)
        threading.Thread(target=self._read, args=(self._call,), daemon=True).start()

    @property
    def epoch(self) -> int:
        """The member's epoch."""
        return self._next.member_epoch

    def _send(self, settings: bool = False) -> None:
        request = groups_pb2.HeartbeatRequest()
        request.CopyFrom(self._next)
        if settings:
            request.settings.CopyFrom(self._settings)
        self._out.put(request)

    def _read(self, answers: grpc.Call) -> None:
        try:
            for message in answers:
                self.answered += message.HasField("answer")
                if message.HasField("answer") and not self._take(message.answer):
                    continue
                self._send()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                self.error = ApiError.of(error)

    def _take(self, answer: groups_pb2.HeartbeatAnswer) -> bool:
        """Whether there is something to report."""
        self._next.member_epoch = answer.member_epoch
        self._next.assignment_version = answer.assignment_version
        if not answer.HasField("assignment"):
            return False
        self.has = sorted(n for topic in answer.assignment.assigned for n in topic.partitions)
        del self._next.owned.topics[:]
        self._next.owned.topics.add(topic=self._topic, partitions=self.has)
        return bool(answer.assignment.revoking)

    def close(self) -> None:
        """Its stream ends."""
        self._out.put(None)
        self._call.cancel()


def wait_for(what: str, holds) -> float:
    """Waits until it holds; gives the seconds that it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE, f"not {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def commit(client: Client, group: str, topic: str, offset: int, member: Member | None = None, name: str = ""):
    """Commits an offset of partition 0; gives its outcome."""
    offsets = groups_pb2.CommitTopicOffsets(
        topic=topic, partitions=[groups_pb2.CommitPartitionOffset(partition=0, offset=offset, metadata="by hand")]
    )
    request = groups_pb2.CommitOffsetsRequest(group=group, topics=[offsets])
    if member is not None:
        request.member_id, request.member_epoch = name, member.epoch
    return call(client.groups.CommitOffsets, request).partitions[0]


def fetched(client: Client, group: str) -> list[groups_pb2.GroupOffset]:
    """All offsets of a group, with what is left."""
    request = groups_pb2.FetchOffsetsRequest(group=group, with_lag=True)
    return list(call(client.groups.FetchOffsets, request).offsets)


def test_members_share_partitions_and_a_killed_one_loses_its_share(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as one_client, Client(three_brokers[1].address) as two_client:
        one_client.create_topic("work", partitions=4, replicas=3)
        one = Member(one_client, "workers", "one", "work")
        wait_for("all partitions at the first", lambda: one.has == [0, 1, 2, 3])
        two = Member(two_client, "workers", "two", "work")
        wait_for("equal shares", lambda: len(one.has) == len(two.has) == 2)
        assert sorted(one.has + two.has) == [0, 1, 2, 3]
        request = groups_pb2.DescribeGroupRequest(group="workers")
        described = call(two_client.groups.DescribeGroup, request)
        assert {m.member_id for m in described.members} == {"one", "two"} and described.last_rebalance_reason
        # Its stream alone says nothing of it.
        two.close()
        time.sleep(2)
        assert len(one.has) == 2
        two.reopen(two_client)
        wait_for("the other one is back", lambda: two.answered > 0)
        two_client.close()
        wait_for("all partitions at the one that is left", lambda: one.has == [0, 1, 2, 3])
        # A process of its own, which no code of its says good-bye for.
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, three_brokers[2].address],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        try:
            wait_for("a share for the process", lambda: len(one.has) == 2)
            child.send_signal(signal.SIGKILL)
            wait_for("all partitions back", lambda: one.has == [0, 1, 2, 3])
        finally:
            child.kill()
            child.wait()
        assert one.error is None and two.error is None
        one.close()


def test_offsets_outlive_brokers_and_are_reset_and_deleted(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as client:
        client.create_topic("orders", replicas=3)
        client.publish("orders", [b"%d" % n for n in range(10)])
        assert not commit(client, "readers", "orders", 4).HasField("error")
        behind = commit(client, "readers", "orders", 2)
        error = ApiError.of_item(behind.error).check_typed()
        assert (error.reason, error.metadata["committed_offset"]) == ("OFFSET_BEHIND_COMMITTED", "4")
        found = call(client.groups.FindCoordinator, groups_pb2.FindCoordinatorRequest(group="readers"))
    coordinator = next(b for b in three_brokers if b.address == found.address)
    coordinator.kill()
    other = next(b for b in three_brokers if b is not coordinator)
    with Client(other.address) as client:

        def answered() -> bool:
            try:
                return bool(fetched(client, "readers"))
            except ApiError as error:
                assert error.check_typed().reason == "COORDINATOR_NOT_AVAILABLE", error
                return False

        wait_for("offsets at another broker", answered)
        wait_for("an answer of all leaders", lambda: fetched(client, "readers")[0].HasField("lag"))
        [offset] = fetched(client, "readers")
        assert (offset.committed.offset, offset.committed.metadata, offset.lag) == (4, "by hand", 6)
        assert offset.HasField("time_lag")
        reset = groups_pb2.ResetOffsetsRequest(group="readers", edge=types_pb2.EDGE_BEGINNING)
        [done] = call(client.groups.ResetOffsets, reset).partitions
        assert (done.before, done.after, done.HasField("error")) == (4, 0, False)
        listed = call(client.groups.ListGroups, groups_pb2.ListGroupsRequest(prefix="read")).groups
        assert [group.group for group in listed] == ["readers"]
        call(client.groups.DeleteGroup, groups_pb2.DeleteGroupRequest(group="readers"))
        assert fetched(client, "readers") == []


if __name__ == "__main__":
    with Client(sys.argv[1]) as own:
        Member(own, "workers", "process", "work")
        threading.Event().wait()
