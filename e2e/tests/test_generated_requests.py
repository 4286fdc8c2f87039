"""Requests made from the contract's descriptors: each is answered, or refused as the contract says."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lib.api import ApiError, Client, admin_pb2, types_pb2
from lib.broker import Broker
from lib.requests import TOPICS, Request, Requests, methods
from lib.watch import Watch, writers

METHODS = list(methods())
SEEDS = [int(s) for s in os.environ.get("MILLRACE_E2E_SEED", "").split()] or [1, 2, 3]
ROUNDS = 100
WORKERS = 8
# No answer within it is a failure. No request waits for more than a second, but the machine may be busy.
PATIENCE = 60.0
FOLLOWED = 0.2


class Problems:
    """What went wrong, each kind once, and how calls ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.found: dict[tuple, str] = {}
        self.ended: Counter[tuple[str, str]] = Counter()

    def note(self, method: MethodDescriptor, problem: str, requests: list[Request]) -> None:
        """A failure, with what was sent."""
        with self._lock:
            sent = "\n    ".join(str(r) for r in requests)
            kind = re.sub(r"\d+", "#", problem)[:60]
            self.found.setdefault((method.name, kind), f"{method.full_name}: {problem}\n    {sent}")

    def count(self, method: MethodDescriptor, how: str) -> None:
        """One call's end."""
        with self._lock:
            self.ended[method.name, how] += 1


class Caller:
    """Sends requests and judges what comes back."""

    def __init__(self, client: Client, problems: Problems) -> None:
        self._client = client
        self._problems = problems

    def call(self, method: MethodDescriptor, requests: list[Request]) -> None:
        """One call with these requests; several only where the method takes a stream."""
        # One that subscribes gets messages for as long as it has credit.
        follows = method.name == "Subscribe" or any(getattr(r.message, "follow", False) for r in requests)
        answers: list[Message] = []
        try:
            for answer in self._answers(method, requests, FOLLOWED if follows else PATIENCE):
                answers.append(answer)
                self._check_items(method, answer, requests)
        except grpc.RpcError as error:
            self._check_error(method, ApiError.of(error), requests, follows)
        else:
            self._problems.count(method, "OK")
            if any(r.message is None for r in requests):
                self._problems.note(method, "what can't be decoded was taken", requests)
            elif (missing := _unanswered(method, requests, answers)) is not None:
                self._problems.note(method, missing, requests)

    def _answers(self, method: MethodDescriptor, requests: list[Request], timeout: float) -> Iterator[Message]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        decode = GetMessageClass(method.output_type).FromString
        if method.client_streaming:
            stream = self._client.channel.stream_stream(path, response_deserializer=decode)
            return stream((r.encoded for r in requests), timeout=timeout)
        # The same on the wire whether one answer comes or many.
        return self._client.channel.unary_stream(path, response_deserializer=decode)(
            requests[0].encoded, timeout=timeout
        )

    def _check_error(self, method: MethodDescriptor, error: ApiError, requests: list[Request], follows: bool) -> None:
        if follows and error.reason is None and error.code == grpc.StatusCode.DEADLINE_EXCEEDED:
            self._problems.count(method, "followed")
            return
        self._problems.count(method, error.reason or str(error.code))
        try:
            error.check_typed()
            assert error.reason != "INVALID_REQUEST" or error.bad_fields, f"no field is named: {error!r}"
            assert len(error.message) < 1000, f"a message of {len(error.message)} characters"
        except AssertionError as problem:
            self._problems.note(method, str(problem), requests)

    def _check_items(self, method: MethodDescriptor, answer: Message, requests: list[Request]) -> None:
        for error in _errors(answer):
            self._problems.count(method, types_pb2.ErrorReason.Name(error.reason))
            try:
                found = ApiError.of_item(error).check_typed()
                assert len(found.message) < 1000, f"a message of {len(found.message)} characters"
            except AssertionError as problem:
                self._problems.note(method, str(problem), requests)


def _errors(message: Message) -> Iterator[types_pb2.Error]:
    """All errors within an answer."""
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else [value]:
            if isinstance(item, types_pb2.Error):
                yield item
            else:
                yield from _errors(item)


def _unanswered(method: MethodDescriptor, requests: list[Request], answers: list[Message]) -> str | None:
    """What a call that ended well owes, as words."""
    sent = [r.message for r in requests]
    if method.name == "PublishStream":
        # What has neither an id nor content asks for nothing.
        due = Counter([0, *(m.id for m in sent if m.HasField("publish"))])
        may = Counter(m.id for m in sent if not m.HasField("publish"))
        got = Counter(a.id for a in answers)
    elif method.name == "Heartbeat":
        answered = sum(a.HasField("answer") for a in answers)
        return None if answered == len(sent) else f"{answered} answers to {len(sent)} requests"
    elif method.name == "Subscribe":
        # Only commits and what is refused have answers, and who asks no more may not get them.
        return None
    elif method.client_streaming:
        # Nobody waits for an answer to ACKS_NONE, and only what is refused as a whole has one.
        unheeded = [getattr(m, "acks", None) == types_pb2.ACKS_NONE for m in sent]
        due = Counter(m.correlation_id for m, alone in zip(sent, unheeded, strict=True) if not alone)
        may = Counter(m.correlation_id for m, alone in zip(sent, unheeded, strict=True) if alone)
        got = Counter(a.correlation_id for a in answers)
    else:
        return None if method.server_streaming or len(answers) == 1 else f"{len(answers)} answers"
    if due <= got <= due + may:
        return None
    return f"answers to {list(got.elements())}, requests {list(due.elements())} and maybe {list(may.elements())}"


def _restore(client: Client) -> None:
    """Topics that requests have deleted, and places for their partitions; others may cordon the broker meanwhile."""
    client.admin.UncordonBroker(admin_pb2.UncordonBrokerRequest(), timeout=PATIENCE)
    for name in TOPICS:
        try:
            client.create_topic(name, partitions=3 if name == "three" else 1)
        except ApiError as error:
            error.check_typed()


@pytest.mark.parametrize("seed", SEEDS)
def test_generated_requests_are_answered_or_refused_by_name(broker: Broker, watch: Watch, seed: int) -> None:
    """The seed makes the requests; MILLRACE_E2E_SEED repeats one. In which order they meet is not always the same."""
    problems = Problems()
    turns = itertools.count()

    def work(_: int) -> None:
        with Client(broker.address) as client:
            caller = Caller(client, problems)
            while (turn := next(turns)) < ROUNDS:
                _restore(client)
                for method in METHODS:
                    made = Requests(f"{seed}/{turn}/{method.full_name}")
                    for number in range(3):
                        count = 1 + number if method.client_streaming else 1
                        caller.call(method, [made.make(method, at) for at in range(count)])

    with watch.unharmed(writers(WORKERS + 1)), ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    for (method, how), number in sorted(problems.ended.items()):
        print(f"{method:25} {number:6} {how}")
    assert not problems.found, f"seed {seed}:\n" + "\n".join(problems.found.values())
    assert broker.process is not None and broker.process.alive()
    assert "panicked" not in broker.process.err()
    # It is of no use if all are refused at their first field.
    for method in METHODS:
        if method.name not in NEVER_GOOD:
            good = problems.ended[method.name, "OK"] + problems.ended[method.name, "followed"]
            assert good > 0, f"not one good request of {method.name}"


# Where there is one broker, which is in service, and a member is gone soon after its stream.
NEVER_GOOD = {"RemoveBroker", "ReplaceBrokerDirectory", "RemoveVoter", "LeaveGroup"}
