"""A member of a consumer group as a program of its own, by one stream of `Messaging.Subscribe` and plain stubs.

    python -m lib.subscribe_member --bootstrap A,B,C --group G --topic T [--instance-id I] [--session-timeout Ns]

It writes what `millrace consume --group G --assignments --output json` writes, a JSON object a line: messages, and
which partitions come and go. A stream that breaks is resumed, at the next broker. SIGTERM has it leave. Errors that a
subscriber must not meet end it with exit code 1.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import grpc
from google.protobuf.duration_pb2 import Duration

from lib.api import ApiError, Client, messaging_pb2
from lib.checker import TRANSIENT
from lib.program import member_arguments, run_and_end
from lib.subscriber import Partition, offsets, partitions

CREDIT = 1_000
# What tells that the member is none any more: it is to begin anew.
_OVER = ("UNKNOWN_MEMBER", "FENCED_MEMBER", "SUBSCRIBER_TOO_SLOW", "STREAM_TAKEN_OVER")


class Member:
    """The member: one thread that takes what comes."""

    def __init__(
        self, addresses: list[str], group: str, topic: str, instance_id: str | None, session: float | None
    ) -> None:
        self._clients = [Client(address) for address in addresses]
        self._turn = 0
        self._open = messaging_pb2.SubscribeOpen(
            group=group,
            topics=[topic],
            instance_id=instance_id,
            session_timeout=None if session is None else Duration(seconds=int(session), nanos=int(session % 1 * 1e9)),
            credit=messaging_pb2.SubscribeCredit(messages=CREDIT),
        )
        self._token = b""
        # What it has, and the offset of the next message of each.
        self._next: dict[Partition, int] = {}
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._stopping = threading.Event()

    def stop(self, *_: object) -> None:
        """Has it leave."""
        self._stopping.set()
        self._requests.put(messaging_pb2.SubscribeRequest(leave=messaging_pb2.SubscribeLeave()))

    def run(self) -> None:
        """Until it was told to leave."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except grpc.RpcError as failed:
                error = ApiError.of(failed)
                if error.reason in _OVER:
                    self._gone("lost", set(self._next))
                    self._token = b""
                elif failed.code() not in TRANSIENT:
                    raise
                self._turn += 1
                time.sleep(0.05)
        self._gone("revoked", set(self._next))

    def _follow(self) -> None:
        self._requests = requests = queue.SimpleQueue()
        opening = messaging_pb2.SubscribeOpen()
        opening.CopyFrom(self._open)
        if self._token:
            opening.resume_token = self._token
            opening.positions.extend(offsets(self._next))
        requests.put(messaging_pb2.SubscribeRequest(open=opening))
        if self._stopping.is_set():
            return
        client = self._clients[self._turn % len(self._clients)]
        for response in client.messaging.Subscribe(iter(requests.get, None)):
            self._take(response)
        if not self._stopping.is_set():
            raise AssertionError("the stream ended without a word")

    def _take(self, response: messaging_pb2.SubscribeResponse) -> None:
        what = response.WhichOneof("response")
        said = getattr(response, what)
        if what == "opened":
            self._token = said.resume_token
        elif what == "assigned":
            told = {(o.topic, o.partition): o.offset for o in said.partitions}
            new = told.keys() - self._next.keys()
            self._next |= told
            if new:
                self._note("assigned", new)
        elif what == "revoking":
            # All that came of them is written.
            named = {(p.topic, p.partition) for p in said.partitions}
            self._gone("revoked", named)
            release = messaging_pb2.SubscribeRelease(partitions=partitions(named))
            self._requests.put(messaging_pb2.SubscribeRequest(release=release))
        elif what == "lost":
            self._gone("lost", {(p.topic, p.partition) for p in said.partitions})
        elif what == "messages":
            self._write(said)
        elif what == "error":
            raise AssertionError(said)

    def _write(self, delivery: messaging_pb2.SubscribeMessages) -> None:
        for message in delivery.messages:
            place = (message.topic, message.partition)
            # Of one that is given back, what was on its way is another's.
            if place not in self._next:
                continue
            value = message.message.value.decode()
            _print({"topic": place[0], "partition": place[1], "offset": message.offset, "value": value})
            self._next[place] = message.offset + 1
        sys.stdout.flush()
        more = messaging_pb2.SubscribeCredit(messages=len(delivery.messages), processed_through=delivery.delivery_id)
        self._requests.put(messaging_pb2.SubscribeRequest(credit=more))

    def _gone(self, event: str, named: Iterable[Partition]) -> None:
        had = {partition for partition in named if self._next.pop(partition, None) is not None}
        if had:
            self._note(event, had)

    def _note(self, event: str, named: Iterable[Partition]) -> None:
        told = [{"topic": topic, "partition": number} for topic, number in sorted(named)]
        _print({"event": event, "time": datetime.now(UTC).isoformat(), "partitions": told})
        sys.stdout.flush()


def _print(line: dict) -> None:
    sys.stdout.write(json.dumps(line) + "\n")


def main() -> None:
    """The command line."""
    args = member_arguments(session=None)
    member = Member(args.bootstrap, args.group, args.topic, args.instance_id, args.session_timeout)
    signal.signal(signal.SIGTERM, member.stop)
    run_and_end(member.run)


if __name__ == "__main__":
    main()
