"""Producers and a reader that keep count, and the check that nothing was lost, doubled or moved.

For one broker; `lib/load.py` and `lib/history.py` do it for a cluster. Every value is
`PRODUCER:NUMBER:` with padding. A producer numbers its messages from 0 without gaps and sends them
on a publish stream that it resumes after each break, so in the end its partition must hold exactly
0, 1, 2, ... in this order.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field

import grpc

from lib.api import ApiError, Client, PublishStream, messaging_pb2, types_pb2

# Errors after which the same request is sent again.
TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass
class Pending:
    """A request that is not answered yet."""

    number: int
    first: int
    count: int
    request: messaging_pb2.PublishRequest
    breaks: int = 0  # how many breaks there were before it was first sent


@dataclass
class StreamProducer:
    """Publishes to one partition with many requests in flight, through any number of breaks."""

    address: str  # several with commas between: after a break it is the next one's turn
    topic: str
    partition: int
    seed: int
    in_flight: int = 32
    compression: int = types_pb2.COMPRESSION_NONE
    transient: Set[grpc.StatusCode] = TRANSIENT
    answer_timeout: float = 60.0
    may_hang: bool = False  # whether no answer for `answer_timeout` seconds is a break like others
    acked: dict[int, int] = field(default_factory=dict)  # message number -> offset, -1 if not told
    sent: int = 0
    breaks: int = 0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._rng = random.Random(self.seed)
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> StreamProducer:
        """Begins."""
        self._thread.start()
        return self

    def stop(self, timeout: float = 60.0) -> None:
        """Sends nothing new, waits until all is answered, and raises what went wrong."""
        self._stop.set()
        self._thread.join(timeout)
        if self.failure is not None:
            raise self.failure
        assert not self._thread.is_alive(), f"not all requests are answered after {timeout} s"

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.failure = error

    def _run(self) -> None:
        token: bytes | None = None
        pending: deque[Pending] = deque()
        number = 0
        addresses = self.address.split(",")
        while True:
            with Client(addresses[self.breaks % len(addresses)]) as client:
                stream = None
                try:
                    stream = PublishStream(client, token, open_timeout=self.answer_timeout)
                    token = stream.token
                    for waiting in pending:
                        stream.send(waiting.number, waiting.request)
                    while True:
                        while len(pending) < self.in_flight and self._more(bool(pending)):
                            number += 1
                            waiting = self._next(number)
                            pending.append(waiting)
                            stream.send(waiting.number, waiting.request)
                        if not pending:
                            stream.finish()
                            return
                        answer = stream.next_answer(self.answer_timeout)
                        if answer is None:
                            raise stream.error or AssertionError("the stream ended without an error")
                        self._take(answer, pending)
                except ApiError as error:
                    if error.code not in self.transient:
                        raise
                    self.breaks += 1
                    self._broke(str(error))
                    time.sleep(0.02)
                except queue.Empty:
                    text = f"no answer for {self.answer_timeout} s, {len(pending)} requests wait"
                    if not self.may_hang:
                        raise AssertionError(text) from None
                    self.breaks += 1
                    self._broke(text)
                finally:
                    if stream is not None:
                        stream.cancel()

    def _more(self, waiting: bool) -> bool:
        """Whether to send another request now; may block if none is `waiting` for its answer."""
        return not self._stop.is_set()

    def _broke(self, why: str) -> None:
        """Told of each break."""

    def _next(self, number: int) -> Pending:
        count = self._rng.randrange(1, 20)
        messages = [
            types_pb2.Message(value=b"%d:%d:" % (self.partition, self.sent + i) + b"." * self._rng.randrange(300))
            for i in range(count)
        ]
        request = messaging_pb2.PublishRequest(
            topic=self.topic, partition=self.partition, messages=messages, compression=self.compression
        )
        waiting = Pending(number, self.sent, count, request)
        self.sent += count
        return waiting

    def _take(self, answer: messaging_pb2.PublishStreamResponse, pending: deque[Pending]) -> None:
        if answer.WhichOneof("result") == "error":
            error = ApiError.of_item(answer.error)
            # A stopping broker may refuse; the request stays pending and is sent on the next stream.
            if error.code in self.transient:
                raise error
            raise AssertionError(f"request {answer.id} failed: {error}")
        waiting = pending.popleft()
        assert answer.id == waiting.number, f"answer {answer.id} came before {waiting.number} of the same partition"
        assert len(answer.published.positions) == waiting.count
        for i, position in enumerate(answer.published.positions):
            assert position.partition == self.partition
            self.acked[waiting.first + i] = position.offset


@dataclass
class FollowingReader:
    """Reads on through breaks from where it stood, and remembers what it was shown."""

    address: str
    topic: str
    partition: int
    seen: dict[int, bytes] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> FollowingReader:
        """Begins."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends it and raises what went wrong."""
        self._stop.set()
        self._thread.join(30)
        if self.failure is not None:
            raise self.failure
        assert not self._thread.is_alive(), "the reader does not end"

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.failure = error

    def _run(self) -> None:
        following = 0
        while not self._stop.is_set():
            with Client(self.address) as client:
                try:
                    # A short deadline ends the call now and then, so that stop() is noticed.
                    for message in client.read_stream(self.topic, self.partition, following, timeout=2, follow=True):
                        assert message.offset == following, f"offset {message.offset} after {following - 1}"
                        self.seen[message.offset] = message.message.value
                        following += 1
                        if self._stop.is_set():
                            return
                except ApiError as error:
                    if error.code not in TRANSIENT:
                        raise
                    time.sleep(0.02)


def check(client: Client, producers: list[StreamProducer], readers: list[FollowingReader]) -> int:
    """Reads everything and compares; gives the number of messages."""
    total = 0
    for producer in producers:
        stored = client.read(producer.topic, producer.partition, 0, timeout=120)
        assert [m.offset for m in stored] == list(range(len(stored))), "offsets have gaps"
        numbers = []
        for message in stored:
            who, number, _ = message.message.value.split(b":", 2)
            assert int(who) == producer.partition, f"offset {message.offset} holds another partition's message"
            numbers.append(int(number))
        lost = sorted(set(producer.acked) - set(numbers))
        assert not lost, f"{len(lost)} acknowledged messages are lost, the first is {lost[:5]}"
        assert len(set(numbers)) == len(numbers), f"{len(numbers) - len(set(numbers))} messages are doubled"
        assert numbers == sorted(numbers), "messages have changed places"
        assert numbers == list(range(producer.sent)), "something is missing that was sent again after each break"
        for number, offset in producer.acked.items():
            assert offset in (-1, number), f"message {number} was acknowledged at {offset}, it is at {number}"
        for reader in readers:
            if reader.partition == producer.partition:
                for offset, value in reader.seen.items():
                    assert offset < len(stored), f"a reader was shown offset {offset}, which is gone"
                    assert stored[offset].message.value == value, f"a reader was shown something else at {offset}"
        total += len(stored)
    return total
