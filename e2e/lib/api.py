"""A client as an application writes it: grpcio and the stubs that setup.sh made from proto/."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc

from lib import paths

if not os.environ.get("MILLRACE_E2E_STUBS"):
    raise RuntimeError("MILLRACE_E2E_STUBS is not set: start by e2e/test or e2e/bench/run")
sys.path.insert(0, os.environ["MILLRACE_E2E_STUBS"])

from google.rpc import error_details_pb2  # noqa: E402
from grpc_status import rpc_status  # noqa: E402
from millrace.v1 import (  # noqa: E402
    admin_pb2,
    admin_pb2_grpc,
    groups_pb2,
    groups_pb2_grpc,
    log_pb2,
    log_pb2_grpc,
    messaging_pb2,
    messaging_pb2_grpc,
    types_pb2,
)

__all__ = [
    "ApiError",
    "Client",
    "PublishStream",
    "admin_pb2",
    "groups_pb2",
    "log_pb2",
    "messaging_pb2",
    "paths",
    "types_pb2",
]

DOMAIN = "millrace.dev"
# The names that ErrorInfo carries: those of the enum without its prefix.
REASONS = {name.removeprefix("ERROR_REASON_") for name in types_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}
# The gRPC code of each reason, as the comments of the enum say.
CODE_OF_REASON = {
    **dict.fromkeys(range(1, 20), grpc.StatusCode.INVALID_ARGUMENT),
    **dict.fromkeys((20, 21, 22, 24, 25, 26), grpc.StatusCode.NOT_FOUND),
    23: grpc.StatusCode.ALREADY_EXISTS,
    **dict.fromkeys(range(40, 60), grpc.StatusCode.ABORTED),
    60: grpc.StatusCode.OUT_OF_RANGE,
    **dict.fromkeys((*range(80, 89), 90, 91), grpc.StatusCode.UNAVAILABLE),
    89: grpc.StatusCode.DEADLINE_EXCEEDED,
    **dict.fromkeys(range(100, 120), grpc.StatusCode.RESOURCE_EXHAUSTED),
    **dict.fromkeys(range(120, 140), grpc.StatusCode.FAILED_PRECONDITION),
    **dict.fromkeys((140, 141), grpc.StatusCode.DATA_LOSS),
    160: grpc.StatusCode.INTERNAL,
}

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # Else channels to one address share a connection, and a test that cuts one cuts all.
    ("grpc.use_local_subchannel_pool", 1),
    # A broker that was restarted must be found again at once, not after seconds.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass
class ApiError(Exception):
    """A failed call, taken apart."""

    code: grpc.StatusCode
    message: str
    reason: str | None = None
    domain: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    retry_delay_seconds: float | None = None
    bad_fields: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, error: grpc.RpcError) -> ApiError:
        """Takes a gRPC error apart."""
        found = cls(error.code(), error.details() or "")
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else []:
            info = error_details_pb2.ErrorInfo()
            retry = error_details_pb2.RetryInfo()
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(info):
                found.reason, found.domain, found.metadata = info.reason, info.domain, dict(info.metadata)
            elif detail.Unpack(retry):
                found.retry_delay_seconds = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad):
                found.bad_fields = [violation.field for violation in bad.field_violations]
        return found

    @classmethod
    def of_item(cls, error: types_pb2.Error) -> ApiError:
        """The same for an error inside a stream or batch."""
        code = next(c for c in grpc.StatusCode if c.value[0] == error.code)
        delay = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
        name = types_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
        return cls(code, error.message, name, DOMAIN, dict(error.metadata), delay)

    def check_typed(self) -> ApiError:
        """Asserts what the contract promises of every error a client can cause."""
        assert self.reason in REASONS, f"no reason of the list in {self!r}"
        assert self.domain == DOMAIN, f"domain of {self!r}"
        assert self.reason != "INTERNAL", f"the broker blames itself: {self!r}"
        number = types_pb2.ErrorReason.Value("ERROR_REASON_" + self.reason)
        assert self.code == CODE_OF_REASON[number], f"code and reason do not fit: {self!r}"
        assert self.message, f"no message in {self!r}"
        return self


def call(function: Callable, request: object, timeout: float = 30.0, **kwargs: object):
    """A unary call; raises ApiError."""
    try:
        return function(request, timeout=timeout, **kwargs)
    except grpc.RpcError as error:
        raise ApiError.of(error) from None


def expect_error(function: Callable, request: object, timeout: float = 30.0) -> ApiError:
    """A call (unary or with a stream of answers) that must fail; gives the error, checked."""
    try:
        answer = function(request, timeout=timeout)
        if hasattr(answer, "__next__"):
            answers = list(answer)
            raise AssertionError(f"succeeded with {len(answers)} answers: {str(request)[:300]}")
        raise AssertionError(f"succeeded: {str(request)[:300]}")
    except grpc.RpcError as error:
        return ApiError.of(error).check_typed()


class Client:
    """All services of one broker, and the short forms that tests use all the time."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=_OPTIONS)
        self.messaging = messaging_pb2_grpc.MessagingStub(self.channel)
        self.log = log_pb2_grpc.LogStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)
        self.groups = groups_pb2_grpc.GroupsStub(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.channel.close()

    def create_topic(self, name: str, partitions: int = 1, replicas: int = 1, **configs: str | int) -> None:
        """Creates a topic; configs by name with underscores for dots."""
        entries = [
            types_pb2.ConfigEntry(name=key.replace("_", "."), value=str(value)) for key, value in configs.items()
        ]
        call(
            self.admin.CreateTopic,
            admin_pb2.CreateTopicRequest(
                name=name, partitions=partitions, replication_factor=replicas, configs=entries
            ),
        )

    def publish(
        self,
        topic: str,
        values: list[bytes | None],
        partition: int | None = 0,
        timeout: float = 30.0,
        **fields: object,
    ) -> list[types_pb2.Position]:
        """Publishes values without keys; gives their positions."""
        request = messaging_pb2.PublishRequest(
            topic=topic, messages=[types_pb2.Message(value=v) for v in values], partition=partition, **fields
        )
        return list(call(self.messaging.Publish, request, timeout).positions)

    def read(
        self, topic: str, partition: int | None = None, offset: int | None = None, timeout: float = 60.0, **fields
    ) -> list[types_pb2.ReceivedMessage]:
        """Reads to the present end."""
        return list(self.read_stream(topic, partition, offset, timeout, **fields))

    def read_stream(
        self, topic: str, partition: int | None = None, offset: int | None = None, timeout: float = 60.0, **fields
    ) -> Iterator[types_pb2.ReceivedMessage]:
        """Reads message by message; ends the call when the iterator is closed."""
        start = None if offset is None else types_pb2.Start(offset=offset)
        starts = [] if partition is None else [messaging_pb2.PartitionStart(partition=partition, start=start)]
        request = messaging_pb2.ReadRequest(
            topic=topic, partitions=starts, start=start if partition is None else None, **fields
        )
        answers = self.messaging.Read(request, timeout=timeout)
        try:
            for answer in answers:
                yield from answer.messages
        except grpc.RpcError as error:
            raise ApiError.of(error) from None
        finally:
            answers.cancel()

    def log_end(self, topic: str, partition: int = 0) -> int:
        """Where the next message will be stored."""
        answer = call(self.admin.DescribeTopic, admin_pb2.DescribeTopicRequest(name=topic))
        return answer.partitions[partition].log_end

    def describe(self, topic: str) -> admin_pb2.DescribeTopicResponse:
        """All about a topic."""
        return call(self.admin.DescribeTopic, admin_pb2.DescribeTopicRequest(name=topic))


class PublishStream:
    """One publish stream: send without waiting, answers by a callback-free queue."""

    def __init__(
        self,
        client: Client,
        resume_token: bytes | None = None,
        timeout: float | None = 120.0,
        open_timeout: float = 30.0,
    ) -> None:
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self.answers: queue.SimpleQueue = queue.SimpleQueue()
        self.error: ApiError | None = None
        self._call = client.messaging.PublishStream(iter(self._out.get, None), timeout=timeout)
        self._out.put(messaging_pb2.PublishStreamRequest(id=0, resume_token=resume_token))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        opened = self.next_answer(open_timeout)
        if opened is None:
            raise self.error or AssertionError("the stream ended before it was opened")
        assert opened.WhichOneof("result") == "opened", f"first answer: {opened}"
        self.token = opened.opened.resume_token
        assert 0 < len(self.token) <= 64, f"a token of {len(self.token)} bytes"

    def _read(self) -> None:
        try:
            for answer in self._call:
                self.answers.put(answer)
        except grpc.RpcError as error:
            self.error = ApiError.of(error)
        self.answers.put(None)

    def send(self, number: int, request: messaging_pb2.PublishRequest) -> None:
        """Sends one request."""
        self._out.put(messaging_pb2.PublishStreamRequest(id=number, publish=request))

    def next_answer(self, timeout: float) -> messaging_pb2.PublishStreamResponse | None:
        """The next answer; None when the stream has ended; queue.Empty after `timeout` seconds."""
        answer = self.answers.get(timeout=timeout)
        if answer is None:
            self.answers.put(None)
        return answer

    def finish(self) -> None:
        """Tells the broker that no more requests come."""
        self._out.put(None)

    def cancel(self) -> None:
        """Ends the call at once."""
        self._call.cancel()
        self._out.put(None)
        self._reader.join(10)
