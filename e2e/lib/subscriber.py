"""A subscriber as an application writes it: one stream of `Messaging.Subscribe` with plain stubs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

import grpc
from google.protobuf.duration_pb2 import Duration

from lib.api import ApiError, Client, messaging_pb2, types_pb2

PATIENCE = 60.0
Partition = tuple[str, int]


def partitions(named: Iterable[Partition]) -> list[messaging_pb2.TopicPartition]:
    """Partitions as commands name them."""
    return [messaging_pb2.TopicPartition(topic=topic, partition=number) for topic, number in named]


def offsets(positions: dict[Partition, int]) -> list[messaging_pb2.TopicOffset]:
    """Offsets as commands name them."""
    return [messaging_pb2.TopicOffset(topic=t, partition=n, offset=o) for (t, n), o in positions.items()]


class Subscriber:
    """One stream. What it is told is noted; what it says is up to the test."""

    def __init__(
        self,
        client: Client,
        group: str,
        topics: Iterable[str] = (),
        credit: int = 1_000,
        session: float = 1_800.0,
        **fields: object,
    ) -> None:
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Condition()
        self.told: list[messaging_pb2.SubscribeResponse] = []
        self.token = b""
        self.member = ""
        self.has: dict[Partition, int] = {}
        self.revoking: set[Partition] = set()
        self.lost: list[messaging_pb2.SubscribeLost] = []
        self.got: list[types_pb2.ReceivedMessage] = []
        self.next: dict[Partition, int] = {}
        self.deliveries: list[messaging_pb2.SubscribeMessages] = []
        self.committed: dict[int, messaging_pb2.SubscribeCommitted] = {}
        self.errors: list[messaging_pb2.SubscribeError] = []
        self.error: ApiError | None = None
        self.ended = False
        opening = messaging_pb2.SubscribeOpen(
            group=group,
            topics=topics,
            session_timeout=Duration(nanos=int(session % 1 * 1e9), seconds=int(session)),
            credit=messaging_pb2.SubscribeCredit(messages=credit),
            **fields,
        )
        self._call = client.messaging.Subscribe(iter(self._out.get, None))
        self.send(open=opening)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, number: int = 0, **request: object) -> None:
        """Sends a request."""
        self._out.put(messaging_pb2.SubscribeRequest(id=number, **request))

    def credit(self, messages: int = 0, through: int | None = None) -> None:
        """Allows more messages; all that came is processed unless said otherwise."""
        if through is None:
            through = self.deliveries[-1].delivery_id if self.deliveries else 0
        self.send(credit=messaging_pb2.SubscribeCredit(messages=messages, processed_through=through))

    def commit(self, positions: dict[Partition, int], number: int = 1) -> messaging_pb2.SubscribeCommitted:
        """Commits, and waits for the answer."""
        self.send(number, commit=messaging_pb2.SubscribeCommit(offsets=offsets(positions)))
        self.wait("an answer to the commit", lambda: number in self.committed)
        return self.committed.pop(number)

    def leave(self) -> None:
        """Leaves, and waits for the end of the stream."""
        self.send(leave=messaging_pb2.SubscribeLeave())
        self.wait("the end", lambda: self.ended)

    def cut(self) -> None:
        """The stream breaks."""
        self._call.cancel()
        self._out.put(None)
        self._reader.join(10)

    def finish(self) -> None:
        """No more requests come."""
        self._out.put(None)

    def wait(self, what: str, holds: Callable[[], object], patience: float = PATIENCE) -> None:
        """Waits until it holds."""
        end = time.monotonic() + patience
        with self._lock:
            while not holds():
                left = end - time.monotonic()
                assert left > 0, f"not {what}: {self.error!r} {[str(t)[:200] for t in self.told[-5:]]}"
                # Also what holds elsewhere is looked at now and then.
                self._lock.wait(min(left, 0.05))

    def values(self) -> list[bytes]:
        """The values of all messages that came."""
        return [message.message.value for message in self.got]

    def _read(self) -> None:
        try:
            for response in self._call:
                with self._lock:
                    self._take(response)
                    self._lock.notify_all()
        except grpc.RpcError as error:
            with self._lock:
                self.error = ApiError.of(error)
        with self._lock:
            self.ended = True
            self._lock.notify_all()

    def _take(self, response: messaging_pb2.SubscribeResponse) -> None:
        self.told.append(response)
        kind = response.WhichOneof("response")
        told = getattr(response, kind)
        if kind == "opened":
            self.token, self.member = told.resume_token, told.member_id
            assert 0 < len(self.token) <= 64
        elif kind == "assigned":
            for at in told.partitions:
                self.has[at.topic, at.partition] = at.offset
                self.next[at.topic, at.partition] = at.offset
        elif kind == "revoking":
            self.revoking |= {(at.topic, at.partition) for at in told.partitions}
        elif kind == "lost":
            self.lost.append(told)
            for at in told.partitions:
                self._gone((at.topic, at.partition))
        elif kind == "messages":
            self._messages(told)
        elif kind == "committed":
            self.committed[told.id] = told
        else:
            self.errors.append(told)

    def _gone(self, partition: Partition) -> None:
        self.has.pop(partition, None)
        self.next.pop(partition, None)
        self.revoking.discard(partition)

    def _messages(self, told: messaging_pb2.SubscribeMessages) -> None:
        assert told.messages and told.delivery_id == len(self.deliveries) + 1
        first = told.messages[0]
        partition = first.topic, first.partition
        assert partition in self.has and partition not in self.revoking, f"a message of {partition}"
        for message in told.messages:
            assert (message.topic, message.partition) == partition
            assert message.offset >= self.next[partition], f"{message.offset} of {partition} again"
            self.next[partition] = message.offset + 1
        self.deliveries.append(told)
        self.got.extend(told.messages)
