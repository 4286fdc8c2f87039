"""A member of a consumer group as a program of its own, on plain stubs and by what the contract says alone.

    python -m lib.group_member --bootstrap A,B,C --group G --topic T [--instance-id I] [--session-timeout Ns]

It writes what `millrace consume --group G --assignments --output json` writes, a JSON object a line: messages, and
which partitions come and go. Besides, {"event": "committed", ...} for each offset that it was told to be committed.
SIGTERM has it commit and leave. Errors that a member must not meet end it with exit code 1.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

import grpc
from google.protobuf.duration_pb2 import Duration

from lib.api import ApiError, Client, call, groups_pb2, messaging_pb2, types_pb2
from lib.checker import TRANSIENT
from lib.program import member_arguments, run_and_end

# A partition by its topic's id and its number.
Key = tuple[bytes, int]

COMMIT_EVERY = 0.5
_TURN_SECONDS = 0.02
_CALL_SECONDS = 1.0


class Stream:
    """One stream of heartbeats; what comes on it goes to `events` with its number."""

    def __init__(self, client: Client, number: int, events: queue.SimpleQueue) -> None:
        self.number = number
        # When the request was sent that is not answered yet.
        self.sent_at: float | None = None
        # What was last reported on it.
        self.reported: frozenset[Key] | None = None
        self._events = events
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self._call = client.groups.Heartbeat(iter(self._out.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, request: groups_pb2.HeartbeatRequest) -> None:
        """Sends a request; the one before is answered."""
        self.sent_at = time.time()
        self._out.put(request)

    def close(self) -> None:
        """Ends it at once."""
        self._out.put(None)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._events.put(("response", self.number, response))
            error = ApiError(grpc.StatusCode.UNAVAILABLE, "the stream ended")
        except grpc.RpcError as failed:
            error = ApiError.of(failed)
        self._events.put(("broken", self.number, error))


class Reader:
    """Follows one partition from an offset on, at any broker, and gives its messages to `events` with itself."""

    def __init__(self, addresses: list[str], key: Key, topic: str, offset: int, events: queue.SimpleQueue) -> None:
        self.key = key
        self.topic = topic
        self._addresses, self._following, self._events = addresses, offset, events
        self._answers: grpc.Call | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Nothing that comes after this counts."""
        self._stopped.set()
        if self._answers is not None:
            self._answers.cancel()

    def is_stopped(self) -> bool:
        """Whether it is."""
        return self._stopped.is_set()

    def _run(self) -> None:
        turn = self.key[1]
        while not self._stopped.is_set():
            with Client(self._addresses[turn % len(self._addresses)]) as client:
                try:
                    self._read(client)
                except grpc.RpcError as error:
                    if error.code() not in TRANSIENT:
                        self._events.put(("failed", self.topic, ApiError.of(error)))
                        return
            turn += 1
            time.sleep(0.02)

    def _read(self, client: Client) -> None:
        start = types_pb2.Start(offset=self._following)
        request = messaging_pb2.ReadRequest(
            topic=self.topic, partitions=[messaging_pb2.PartitionStart(partition=self.key[1], start=start)], follow=True
        )
        self._answers = client.messaging.Read(request)
        if self._stopped.is_set():
            self._answers.cancel()
        for answer in self._answers:
            if answer.messages:
                self._following = answer.messages[-1].offset + 1
                self._events.put(("messages", self, list(answer.messages)))


class Member:
    """The member: one thread that takes what comes and does what is due."""

    def __init__(self, addresses: list[str], group: str, topic: str, instance_id: str | None, session: float) -> None:
        self._addresses, self._group, self._instance_id = addresses, group, instance_id
        self._session = session
        self._settings = groups_pb2.MemberSettings(
            client_id="lib.group_member",
            topics=[topic],
            session_timeout=_duration(session),
        )
        self._clients: dict[str, Client] = {}
        self._turn = os.getpid()
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._streams = 0
        self._stream: Stream | None = None
        self._open_at, self._backoff = 0.0, 0.05
        self._interval, self._wanted = 1.0, False
        # When the last request that was answered had been sent.
        self._answered_at: float | None = None
        self._names: dict[bytes, str] = {}
        self._owned: set[Key] = set()
        self._assigned: set[Key] = set()
        self._releasing: dict[Key, float] = {}
        self._starting: set[Key] = set()
        self._start_at, self._commit_at = 0.0, 0.0
        self._readers: dict[Key, Reader] = {}
        # Written and not committed.
        self._written: dict[Key, int] = {}
        self._new_life()

    def stop(self, *_: object) -> None:
        """Has it leave."""
        self._stopping.set()

    def run(self) -> None:
        """Until it was told to leave."""
        while not self._stopping.is_set():
            self._look_at_the_clock()
            self._heartbeat()
            self._begin_reading()
            self._give_back()
            if time.time() >= self._commit_at:
                self._commit(self._written)
            try:
                self._take(*self._events.get(timeout=_TURN_SECONDS))
            except queue.Empty:
                continue
        self._leave()

    # --- the membership ---

    def _new_life(self) -> None:
        self._member_id, self._epoch, self._version = str(uuid.uuid4()), 0, 0

    def _end_of_session(self) -> float | None:
        return None if self._answered_at is None else self._answered_at + self._session

    def _look_at_the_clock(self) -> None:
        end = self._end_of_session()
        if end is not None and time.time() >= end:
            self._lose(set(self._owned), at=end)
            self._version, self._answered_at = 0, None
            self._break(None)
        if self._stream and self._stream.sent_at and time.time() >= self._stream.sent_at + self._session / 3:
            self._break(None)

    def _heartbeat(self) -> None:
        """Opens a stream or sends a request, if it is time; one at a time."""
        now = time.time()
        if self._stream is None:
            if now < self._open_at:
                return
            self._streams += 1
            self._stream = Stream(self._client(), self._streams, self._events)
        elif self._stream.sent_at is not None:
            return
        reported = self._stream.reported
        is_due = self._answered_at is None or now >= self._answered_at + self._interval
        if reported is not None and reported == self._owned and not is_due and not self._wanted:
            return
        request = groups_pb2.HeartbeatRequest(
            group=self._group,
            member_id=self._member_id,
            instance_id=self._instance_id,
            member_epoch=self._epoch,
            assignment_version=self._version,
            owned=groups_pb2.OwnedPartitions(topics=_by_topic(self._owned)),
        )
        if reported is None:
            request.settings.CopyFrom(self._settings)
        self._wanted = False
        self._stream.reported = frozenset(self._owned)
        self._stream.send(request)

    def _answer(self, answer: groups_pb2.HeartbeatAnswer) -> None:
        assert self._stream is not None
        self._answered_at, self._stream.sent_at = self._stream.sent_at, None
        self._backoff = 0.05
        self._epoch, self._version = answer.member_epoch, answer.assignment_version
        self._interval = max(0.05, answer.heartbeat_interval.ToTimedelta().total_seconds())
        if not answer.HasField("assignment"):
            return
        told = answer.assignment
        for topic in (*told.assigned, *told.revoking):
            if topic.topic:
                self._names[topic.topic_id] = topic.topic
        self._assigned, revoking = _keys(told.assigned), _keys(told.revoking)
        self._lose(self._owned - self._assigned - revoking)
        until = time.time() + told.revoke_within.ToTimedelta().total_seconds()
        for key in revoking & self._owned:
            self._stop_reading(key)
            self._releasing.setdefault(key, until)
        # What is not used any more is to be reported once more: the coordinator has not seen it yet.
        self._wanted = self._wanted or not revoking <= self._owned
        self._take_up()

    def _take_up(self) -> None:
        if new := self._assigned - self._owned:
            self._owned |= new
            self._starting |= new
            self._note("assigned", new)

    def _give_back(self) -> None:
        """Partitions that were committed, or for which there is no more time, are used no more."""
        if not self._releasing:
            return
        self._commit({key: offset for key, offset in self._written.items() if key in self._releasing})
        done = {key for key, until in self._releasing.items() if key not in self._written or time.time() >= until}
        if done:
            self._note("revoked", done)
            self._forget(done)
            self._take_up()

    def _lose(self, keys: set[Key], at: float | None = None) -> None:
        if keys:
            self._note("lost", keys, at)
            self._forget(keys)

    def _forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._stop_reading(key)
            self._owned.discard(key)
            self._releasing.pop(key, None)
            self._written.pop(key, None)

    def _stop_reading(self, key: Key) -> None:
        self._starting.discard(key)
        if reader := self._readers.pop(key, None):
            reader.stop()

    def _break(self, error: ApiError | None) -> None:
        """The stream is given up; another broker is next."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._turn += 1
        wait, self._backoff = self._backoff, min(1.0, self._backoff * 2)
        reason = error.reason if error else None
        if reason in ("FENCED_MEMBER", "UNKNOWN_MEMBER"):
            self._lose(set(self._owned))
            self._assigned.clear()
            self._answered_at = None
            self._new_life()
        elif error and reason == "INSTANCE_IN_USE":
            wait = int(error.metadata["retry_after_ms"]) / 1000
        elif error and error.code not in TRANSIENT and reason != "STALE_MEMBER_EPOCH":
            raise error
        self._open_at = time.time() + wait

    def _take(self, what: str, whose: object, said: object) -> None:
        if what == "failed":
            raise AssertionError(f"reading {whose}: {said}")
        if what == "messages":
            self._write(whose, said)
        elif self._stream is None or self._stream.number != whose:
            return
        elif what == "broken":
            self._break(said)
        elif said.HasField("answer"):
            self._look_at_the_clock()
            if self._stream is not None:
                self._answer(said.answer)
        else:
            self._wanted = True

    def _leave(self) -> None:
        for key in list(self._readers):
            self._stop_reading(key)
        deadline = time.time() + self._session
        while self._written and self._epoch > 0 and time.time() < min(deadline, self._end_of_session() or 0):
            self._commit(self._written)
            time.sleep(_TURN_SECONDS)
        self._note("revoked", self._owned)
        if self._stream is not None:
            self._stream.close()
        request = groups_pb2.LeaveGroupRequest(
            group=self._group, member_id=self._member_id, temporary=self._instance_id is not None
        )
        while self._streams > 0 and time.time() < deadline:
            try:
                call(self._client().groups.LeaveGroup, request, _CALL_SECONDS)
                return
            except ApiError as error:
                if error.reason in ("UNKNOWN_MEMBER", "UNKNOWN_GROUP", "FENCED_MEMBER"):
                    return
                if error.code not in TRANSIENT:
                    raise
                self._turn += 1
                time.sleep(0.05)

    # --- messages and offsets ---

    def _begin_reading(self) -> None:
        """Looks up where to begin in partitions that are new."""
        if not self._starting or time.time() < self._start_at:
            return
        self._start_at = time.time() + 0.1
        request = groups_pb2.FetchOffsetsRequest(
            group=self._group,
            member_id=self._member_id,
            member_epoch=self._epoch,
            topics=_by_topic(self._starting),
        )
        answer = self._asked(self._client().groups.FetchOffsets, request)
        for offset in answer.offsets if answer is not None else []:
            key, position = (offset.topic_id, offset.partition), offset.WhichOneof("position")
            assert not offset.HasField("begins_at") or offset.begins_at == types_pb2.EDGE_BEGINNING, offset
            if position == "pending" or key[0] not in self._names:
                continue
            # Of a topic of which nothing was deleted.
            begin = offset.committed.offset if position == "committed" else 0
            self._starting.discard(key)
            self._readers[key] = Reader(self._addresses, key, self._names[key[0]], begin, self._events)

    def _write(self, reader: Reader, messages: list[types_pb2.ReceivedMessage]) -> None:
        for message in messages:
            # Before each: nothing is handed out of what others may have.
            self._look_at_the_clock()
            if reader.is_stopped():
                return
            value = message.message.value.decode()
            _print({"topic": reader.topic, "partition": message.partition, "offset": message.offset, "value": value})
            self._written[reader.key] = message.offset + 1

    def _commit(self, offsets: dict[Key, int]) -> None:
        self._commit_at = time.time() + COMMIT_EVERY
        if not offsets or self._epoch == 0:
            return
        sys.stdout.flush()
        asked = list(offsets.items())
        topics = [
            groups_pb2.CommitTopicOffsets(
                topic_id=key[0], partitions=[groups_pb2.CommitPartitionOffset(partition=key[1], offset=offset)]
            )
            for key, offset in asked
        ]
        request = groups_pb2.CommitOffsetsRequest(
            group=self._group, member_id=self._member_id, member_epoch=self._epoch, topics=topics
        )
        answer = self._asked(self._client().groups.CommitOffsets, request)
        if answer is None:
            return
        assert len(answer.partitions) == len(asked), answer
        for (key, offset), outcome in zip(asked, answer.partitions, strict=True):
            assert key == (outcome.topic_id, outcome.partition), outcome
            if not outcome.HasField("error"):
                self._note("committed", {key}, offset=offset)
                if self._written.get(key) == offset:
                    del self._written[key]
                continue
            error = ApiError.of_item(outcome.error).check_typed()
            if error.reason == "PARTITION_NOT_ASSIGNED":
                self._lose({key})
                self._wanted = True
            elif error.reason == "STALE_MEMBER_EPOCH":
                self._wanted = True
            elif error.code not in TRANSIENT:
                raise error

    def _asked(self, function: object, request: object) -> object | None:
        """The answer; none where another try may bring one."""
        try:
            return call(function, request, _CALL_SECONDS)
        except ApiError as error:
            # The next heartbeat tells what is so.
            if error.reason in ("STALE_MEMBER_EPOCH", "FENCED_MEMBER", "UNKNOWN_MEMBER"):
                self._wanted = True
                return None
            if error.code not in TRANSIENT:
                raise
            self._turn += 1
            return None

    def _client(self) -> Client:
        address = self._addresses[self._turn % len(self._addresses)]
        if address not in self._clients:
            self._clients[address] = Client(address)
        return self._clients[address]

    def _note(self, event: str, keys: Iterable[Key], at: float | None = None, **more: int) -> None:
        partitions = [{"topic": self._names.get(key[0], ""), "partition": key[1]} for key in sorted(keys)]
        moment = datetime.fromtimestamp(at or time.time(), UTC).isoformat()
        _print({"event": event, "time": moment, "partitions": partitions, **more})
        sys.stdout.flush()


def _print(line: dict) -> None:
    sys.stdout.write(json.dumps(line) + "\n")


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _keys(topics: Iterable[groups_pb2.TopicPartitions]) -> set[Key]:
    return {(topic.topic_id, partition) for topic in topics for partition in topic.partitions}


def _by_topic(keys: Iterable[Key]) -> list[groups_pb2.TopicPartitions]:
    topics: dict[bytes, list[int]] = {}
    for topic_id, partition in sorted(keys):
        topics.setdefault(topic_id, []).append(partition)
    return [groups_pb2.TopicPartitions(topic_id=topic_id, partitions=numbers) for topic_id, numbers in topics.items()]


def main() -> None:
    """The command line."""
    args = member_arguments(session=5.0)
    member = Member(args.bootstrap, args.group, args.topic, args.instance_id, args.session_timeout)
    signal.signal(signal.SIGTERM, member.stop)
    run_and_end(member.run)


if __name__ == "__main__":
    main()
