"""Every RPC with fields that are missing, huge, negative, unknown or contradict: a typed error."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from lib.api import (
    ApiError,
    Client,
    PublishStream,
    admin_pb2,
    expect_error,
    log_pb2,
    messaging_pb2,
    types_pb2,
)
from lib.batch import batch
from lib.broker import Broker
from lib.requests import methods
from lib.watch import ONE_WRITER

M = types_pb2.Message
INVALID = "INVALID_REQUEST"
TOO_LONG = "x" * 250
HUGE = "x" * 1_000_000
BAD_NAMES = ["", ".", "..", "a/b", "a b", "ünï", "a\0b", "../../etc/passwd", TOO_LONG, HUGE]
ONE = [M(value=b"x")]


def _time(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


def _publish(**fields: object) -> messaging_pb2.PublishRequest:
    return messaging_pb2.PublishRequest(**{"topic": "good", "messages": ONE, **fields})


def _headers(*headers: types_pb2.Header) -> list[M]:
    return [M(value=b"x", headers=headers)]


PUBLISH = {
    "nothing set": (messaging_pb2.PublishRequest(), {INVALID, "INVALID_TOPIC_NAME"}),
    "no messages": (_publish(messages=[]), {INVALID}),
    "unknown topic": (_publish(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "negative partition": (_publish(partition=-1), {INVALID, "UNKNOWN_PARTITION"}),
    "least partition": (_publish(partition=-(2**31)), {INVALID, "UNKNOWN_PARTITION"}),
    "unknown partition": (_publish(partition=1), {"UNKNOWN_PARTITION"}),
    "huge partition": (_publish(partition=2**31 - 1), {"UNKNOWN_PARTITION"}),
    "unknown acks": (_publish(acks=99), {INVALID}),
    "negative acks": (_publish(acks=-1), {INVALID}),
    "unknown compression": (_publish(compression=99), {INVALID}),
    "expected offset without partition": (_publish(expected_offset=0), {INVALID}),
    "negative expected offset": (_publish(partition=0, expected_offset=-1), {INVALID}),
    "expected offset far ahead": (_publish(partition=0, expected_offset=2**63 - 1), {"OFFSET_MISMATCH"}),
    "empty header name": (_publish(messages=_headers(types_pb2.Header(name=""))), {INVALID}),
    "long header name": (_publish(messages=_headers(types_pb2.Header(name="n" * 32769))), {INVALID}),
    "too many headers": (_publish(messages=_headers(*[types_pb2.Header(name="n")] * 1001)), {INVALID}),
    "before 1970": (_publish(messages=[M(value=b"x", timestamp=_time(-1))]), {"INVALID_TIMESTAMP"}),
    "in two hours": (
        _publish(messages=[M(value=b"x", timestamp=_time(int(time.time()) + 7200))]),
        {"INVALID_TIMESTAMP"},
    ),
    "time overflows": (_publish(messages=[M(value=b"x", timestamp=_time(2**63 - 1))]), {"INVALID_TIMESTAMP", INVALID}),
    "time underflows": (_publish(messages=[M(value=b"x", timestamp=_time(-(2**63)))]), {"INVALID_TIMESTAMP", INVALID}),
    "negative nanoseconds": (
        _publish(messages=[M(value=b"x", timestamp=_time(1, -1))]),
        {"INVALID_TIMESTAMP", INVALID},
    ),
    "too many nanoseconds": (
        _publish(messages=[M(value=b"x", timestamp=_time(1, 2**31 - 1))]),
        {"INVALID_TIMESTAMP", INVALID},
    ),
    "too many messages": (_publish(messages=[M()] * 100_001), {INVALID}),
    "a message of 9 MiB": (_publish(messages=[M(value=bytes(9 << 20))]), {"MESSAGE_TOO_LARGE"}),
    "a key of 9 MiB": (_publish(messages=[M(key=bytes(9 << 20))]), {"MESSAGE_TOO_LARGE"}),
    "a message of 40 MiB": (_publish(messages=[M(value=bytes(40 << 20))]), {"MESSAGE_TOO_LARGE", INVALID}),
    "messages of 21 MiB in all": (
        _publish(messages=[M(value=bytes(7 << 20))] * 3),
        {"MESSAGE_TOO_LARGE", INVALID},
    ),
    "a small topic's limit": (
        _publish(topic="small", messages=[M(value=random.Random(1).randbytes(2000))]),
        {"MESSAGE_TOO_LARGE"},
    ),
    **{f"topic name {n[:20]!r} of {len(n)}": (_publish(topic=n), {"INVALID_TOPIC_NAME"}) for n in BAD_NAMES},
}


def _read(**fields: object) -> messaging_pb2.ReadRequest:
    return messaging_pb2.ReadRequest(**{"topic": "good", **fields})


def _from(partition: int, **start: object) -> list[messaging_pb2.PartitionStart]:
    return [messaging_pb2.PartitionStart(partition=partition, start=types_pb2.Start(**start))]


OUT_OF_RANGE = "OFFSET_OUT_OF_RANGE"
READ = {
    "nothing set": (messaging_pb2.ReadRequest(), {INVALID, "INVALID_TOPIC_NAME"}),
    "unknown topic": (_read(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "negative partition": (_read(partitions=_from(-1)), {INVALID, "UNKNOWN_PARTITION"}),
    "unknown partition": (_read(partitions=_from(7)), {"UNKNOWN_PARTITION"}),
    "a partition twice": (_read(partitions=_from(0) + _from(0)), {INVALID}),
    "a million partitions": (_read(partitions=_from(0) * 1_000_000), {INVALID}),
    "negative offset": (_read(start=types_pb2.Start(offset=-1)), {INVALID, OUT_OF_RANGE}),
    "least offset": (_read(partitions=_from(0, offset=-(2**63))), {INVALID, OUT_OF_RANGE}),
    "offset behind the end": (_read(partitions=_from(0, offset=2**62)), {OUT_OF_RANGE}),
    "offset behind the end, following": (_read(partitions=_from(0, offset=2**62), follow=True), {OUT_OF_RANGE}),
    "unknown edge": (_read(start=types_pb2.Start(edge=77)), {INVALID}),
    "negative edge": (_read(start=types_pb2.Start(edge=-7)), {INVALID}),
    "time out of range": (_read(start=types_pb2.Start(time=_time(0, -5))), {INVALID, "INVALID_TIMESTAMP"}),
    "time overflows": (_read(start=types_pb2.Start(time=_time(2**63 - 1))), {INVALID, "INVALID_TIMESTAMP"}),
    "unknown isolation": (_read(isolation=9), {INVALID}),
    **{f"topic name {n[:20]!r} of {len(n)}": (_read(topic=n), {"INVALID_TOPIC_NAME"}) for n in BAD_NAMES},
}


def _create(**fields: object) -> admin_pb2.CreateTopicRequest:
    return admin_pb2.CreateTopicRequest(**{"name": "created-by-bad-request", **fields})


def _config(name: str, value: str) -> list[types_pb2.ConfigEntry]:
    return [types_pb2.ConfigEntry(name=name, value=value)]


BAD_CONFIGS = {
    "unknown key": _config("no.such.key", "1"),
    "empty key": _config("", "1"),
    "huge key": _config(HUGE, "1"),
    "huge value": _config("retention.ms", "9" * 1_000_000),
    "no number": _config("retention.ms", "soon"),
    "number overflows": _config("retention.ms", str(2**63)),
    "below the least": _config("segment.bytes", "0"),
    "negative": _config("max.message.bytes", "-1"),
    "no choice": _config("flush", "sometimes"),
}
CREATE = {
    "zero partitions": (_create(partitions=0), {INVALID}),
    "negative partitions": (_create(partitions=-1), {INVALID}),
    "10,001 partitions": (_create(partitions=10_001), {INVALID, "LIMIT_REACHED"}),
    "all the partitions in the world": (_create(partitions=2**31 - 1), {INVALID, "LIMIT_REACHED"}),
    "replication factor 0": (_create(replication_factor=0), {INVALID}),
    "negative replication factor": (_create(replication_factor=-3), {INVALID}),
    "more replicas than brokers": (_create(replication_factor=3), {"NOT_ENOUGH_BROKERS"}),
    "huge replication factor": (_create(replication_factor=2**31 - 1), {INVALID, "NOT_ENOUGH_BROKERS"}),
    "exists": (_create(name="good"), {"TOPIC_EXISTS"}),
    "the cluster's own": (_create(name="__metadata"), {"INVALID_TOPIC_NAME"}),
    "one key with two values": (
        _create(configs=_config("flush", "os") + _config("flush", "ack")),
        {INVALID, "INVALID_CONFIG"},
    ),
    "a hundred thousand settings": (_create(configs=_config("flush", "os") * 100_000), {INVALID, "INVALID_CONFIG"}),
    **{f"name {n[:20]!r} of {len(n)}": (_create(name=n), {"INVALID_TOPIC_NAME"}) for n in BAD_NAMES},
    **{f"setting: {k}": (_create(configs=v), {"INVALID_CONFIG"}) for k, v in BAD_CONFIGS.items()},
}
DELETE = {
    "unknown": (admin_pb2.DeleteTopicRequest(name="unknown"), {"UNKNOWN_TOPIC"}),
    "short id": (admin_pb2.DeleteTopicRequest(name="good", topic_id=b"\1"), {INVALID, "UNKNOWN_TOPIC"}),
    "long id": (admin_pb2.DeleteTopicRequest(name="good", topic_id=b"\1" * 100_000), {INVALID, "UNKNOWN_TOPIC"}),
    "another's id": (admin_pb2.DeleteTopicRequest(name="good", topic_id=b"\1" * 16), {"UNKNOWN_TOPIC"}),
    **{
        f"name {n[:20]!r} of {len(n)}": (admin_pb2.DeleteTopicRequest(name=n), {"INVALID_TOPIC_NAME"})
        for n in BAD_NAMES
    },
}
ALTER = {
    "unknown": (admin_pb2.AlterTopicRequest(name="unknown", unset_configs=["flush"]), {"UNKNOWN_TOPIC"}),
    "nothing to change": (admin_pb2.AlterTopicRequest(name="good"), {INVALID}),
    "a throttle of no move": (
        admin_pb2.AlterTopicRequest(name="good", unset_configs=["flush"], throttle_bytes_per_second=65_536),
        {INVALID},
    ),
    "too low a throttle": (
        admin_pb2.AlterTopicRequest(name="good", replication_factor=1, throttle_bytes_per_second=-1),
        {INVALID},
    ),
    "set and unset": (
        admin_pb2.AlterTopicRequest(name="good", set_configs=_config("flush", "os"), unset_configs=["flush"]),
        {INVALID, "INVALID_CONFIG"},
    ),
    "unset of an unknown key": (
        admin_pb2.AlterTopicRequest(name="good", unset_configs=["no.such.key"]),
        {"INVALID_CONFIG"},
    ),
    **{
        f"setting: {k}": (admin_pb2.AlterTopicRequest(name="good", set_configs=v), {"INVALID_CONFIG"})
        for k, v in BAD_CONFIGS.items()
    },
}
ALTER_CONFIGS = {
    "unknown": (admin_pb2.AlterConfigsRequest(topic="unknown", unset=["flush"]), {"UNKNOWN_TOPIC"}),
    "no topic": (admin_pb2.AlterConfigsRequest(unset=["flush"]), {"INVALID_TOPIC_NAME", INVALID}),
    "a topic and the defaults": (
        admin_pb2.AlterConfigsRequest(topic="good", topic_defaults=True, unset=["flush"]),
        {INVALID},
    ),
    "no default": (admin_pb2.AlterConfigsRequest(topic_defaults=True), {INVALID}),
    "an unknown default": (admin_pb2.AlterConfigsRequest(topic_defaults=True, unset=["no.such"]), {"INVALID_CONFIG"}),
    "set and unset": (
        admin_pb2.AlterConfigsRequest(topic="good", set=_config("flush", "os"), unset=["flush"]),
        {INVALID, "INVALID_CONFIG"},
    ),
    **{
        f"setting: {k}": (admin_pb2.AlterConfigsRequest(topic="good", set=v), {"INVALID_CONFIG"})
        for k, v in BAD_CONFIGS.items()
    },
}
LIST = {
    "negative page": (admin_pb2.ListTopicsRequest(page_size=-1), {INVALID}),
}
DESCRIBE = {
    "unknown": (admin_pb2.DescribeTopicRequest(name="unknown"), {"UNKNOWN_TOPIC"}),
    **{
        f"name {n[:20]!r} of {len(n)}": (admin_pb2.DescribeTopicRequest(name=n), {"INVALID_TOPIC_NAME"})
        for n in BAD_NAMES
    },
}
PARTITIONS = {
    "unknown": (admin_pb2.CreatePartitionsRequest(name="unknown", partitions=2), {"UNKNOWN_TOPIC"}),
    "none": (admin_pb2.CreatePartitionsRequest(name="good"), {INVALID, "NOT_SUPPORTED"}),
    "negative": (admin_pb2.CreatePartitionsRequest(name="good", partitions=-5), {INVALID, "NOT_SUPPORTED"}),
    "fewer": (admin_pb2.CreatePartitionsRequest(name="three", partitions=2), {"NOT_SUPPORTED"}),
    "too many": (admin_pb2.CreatePartitionsRequest(name="good", partitions=10_001), {INVALID, "LIMIT_REACHED"}),
    "far too many": (
        admin_pb2.CreatePartitionsRequest(name="good", partitions=2**31 - 1),
        {INVALID, "LIMIT_REACHED"},
    ),
}
DELETE_MESSAGES = {
    "unknown topic": (admin_pb2.DeleteMessagesRequest(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "unknown partition": (admin_pb2.DeleteMessagesRequest(topic="good", partition=1), {"UNKNOWN_PARTITION"}),
    "negative partition": (
        admin_pb2.DeleteMessagesRequest(topic="good", partition=-1),
        {INVALID, "UNKNOWN_PARTITION"},
    ),
    "behind the end": (admin_pb2.DeleteMessagesRequest(topic="good", before_offset=10**9), {OUT_OF_RANGE}),
    "negative offset": (admin_pb2.DeleteMessagesRequest(topic="good", before_offset=-2), {INVALID, OUT_OF_RANGE}),
}
DESCRIBE_CONFIGS = {
    "nothing": (admin_pb2.DescribeConfigsRequest(), {INVALID}),
    "unknown topic": (admin_pb2.DescribeConfigsRequest(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "unknown broker": (admin_pb2.DescribeConfigsRequest(broker_id=77), {"UNKNOWN_BROKER"}),
    "negative broker": (admin_pb2.DescribeConfigsRequest(broker_id=-1), {"UNKNOWN_BROKER", INVALID}),
    "bad name": (admin_pb2.DescribeConfigsRequest(topic="a/b"), {"INVALID_TOPIC_NAME"}),
}
OWNER = admin_pb2.TopicOwner(namespace="shop", name="orders", uid="1")
BAD_OWNERS = {
    "of nobody": admin_pb2.TopicOwner(),
    "of a long name": admin_pb2.TopicOwner(namespace="shop", name="n" * 254, uid="1"),
    "of a name with a slash": admin_pb2.TopicOwner(namespace="shop", name="a/b", uid="1"),
    "of a name that is no ASCII": admin_pb2.TopicOwner(namespace="shop", name="bücher", uid="1"),
}
CLAIM = {
    "no owner": (admin_pb2.ClaimTopicRequest(name="good", adopt=True), {INVALID}),
    "unknown topic": (admin_pb2.ClaimTopicRequest(name="unknown", owner=OWNER, adopt=True), {"UNKNOWN_TOPIC"}),
    "bad name": (admin_pb2.ClaimTopicRequest(name="a/b", owner=OWNER, adopt=True), {"INVALID_TOPIC_NAME"}),
    "short id": (admin_pb2.ClaimTopicRequest(name="good", topic_id=b"1", owner=OWNER, adopt=True), {INVALID}),
    "another's id": (
        admin_pb2.ClaimTopicRequest(name="good", topic_id=b"1" * 16, owner=OWNER, adopt=True),
        {"UNKNOWN_TOPIC"},
    ),
    "nobody's, not to be adopted": (admin_pb2.ClaimTopicRequest(name="good", owner=OWNER), {"TOPIC_OWNED"}),
    **{n: (admin_pb2.ClaimTopicRequest(name="good", owner=o, adopt=True), {INVALID}) for n, o in BAD_OWNERS.items()},
}
RELEASE = {
    "no owner": (admin_pb2.ReleaseTopicRequest(name="good"), {INVALID}),
    "unknown topic": (admin_pb2.ReleaseTopicRequest(name="unknown", owner=OWNER), {"UNKNOWN_TOPIC"}),
    **{n: (admin_pb2.ReleaseTopicRequest(name="good", owner=o), {INVALID}) for n, o in BAD_OWNERS.items()},
}
UNARY = {
    ("messaging", "Publish"): PUBLISH,
    ("messaging", "Read"): READ,
    ("admin", "CreateTopic"): CREATE,
    ("admin", "DeleteTopic"): DELETE,
    ("admin", "AlterTopic"): ALTER,
    ("admin", "AlterConfigs"): ALTER_CONFIGS,
    ("admin", "ListTopics"): LIST,
    ("admin", "DescribeTopic"): DESCRIBE,
    ("admin", "CreatePartitions"): PARTITIONS,
    ("admin", "DeleteMessages"): DELETE_MESSAGES,
    ("admin", "DescribeConfigs"): DESCRIBE_CONFIGS,
    ("admin", "ClaimTopic"): CLAIM,
    ("admin", "ReleaseTopic"): RELEASE,
}


@pytest.fixture(scope="module")
def served(shared: Broker) -> Iterator[Client]:
    """A client of a broker with the topics that the requests name; at the end the broker is checked."""
    assert shared.process is not None
    with Client(shared.address) as client:
        client.create_topic("good")
        client.create_topic("small", max_message_bytes=1024)
        client.create_topic("three", partitions=3)
        client.publish("good", [b"before"])
        idle = shared.process.rss_bytes()
        yield client
        # None of all that was stored or changed anything, and the broker goes on as before.
        assert [m.message.value for m in client.read("good")] == [b"before"]
        client.publish("good", [b"after"])
        assert [m.message.value for m in client.read("good")] == [b"before", b"after"]
        names = [t.name for t in client.admin.ListTopics(admin_pb2.ListTopicsRequest(), timeout=10).topics]
        assert sorted(names) == ["good", "small", "three"]
        assert list(client.describe("good").configs) == []
        # They come one after the other: what a connection may have, and about 30 MiB are reached.
        grown = shared.process.rss_peak_bytes() - idle
        assert grown < ONE_WRITER, f"bad requests took {grown >> 20} MiB"
        assert "panicked" not in shared.process.err()


@pytest.mark.parametrize(
    ("service", "method", "name"),
    [(service, method, name) for (service, method), cases in UNARY.items() for name in cases],
)
def test_a_bad_request_is_refused_by_name(served: Client, service: str, method: str, name: str) -> None:
    request, reasons = UNARY[service, method][name]
    error = expect_error(getattr(getattr(served, service), method), request)
    assert error.reason in reasons, error
    assert len(error.message) < 1000, f"a message of {len(error.message)} characters echoes the request"
    if error.reason == INVALID:
        assert error.bad_fields, f"no field is named: {error}"
    if error.reason == "OFFSET_OUT_OF_RANGE":
        assert {"log_start", "high_watermark"} <= set(error.metadata), error
    if error.reason == "MESSAGE_TOO_LARGE":
        assert int(error.metadata["size_bytes"]) > int(error.metadata["limit_bytes"]), error
    if error.reason == "UNKNOWN_PARTITION":
        assert error.metadata["partitions"] == "1", error
    if method == "Publish":
        assert error.metadata.get("outcome") == "not_written", error


# --- what is no message at all ---


GARBAGE = {
    "no protobuf": b"\xff" * 100,
    "length behind the end": b"\x0a\x7f" + b"x",
    "huge length": b"\x0a\xff\xff\xff\xff\x7f",
    "endless varint": b"\x08" + b"\xff" * 20,
    # Field 1 of most requests is a string.
    "no UTF-8": b"\x0a\x04\xff\xfe\xc3\x28",
    "deep groups": b"\x0b" * 5000,
}


@pytest.mark.parametrize(
    ("service", "method", "streaming"),
    [(m.containing_service.full_name, m.name, bool(m.client_streaming)) for m in methods()],
)
def test_garbage_bytes_are_refused(served: Client, service: str, method: str, streaming: bool) -> None:
    path = f"/{service}/{method}"
    for name, garbage in GARBAGE.items():
        if streaming:
            answers = served.channel.stream_stream(path)(iter([garbage]), timeout=20)
        else:
            # The same on the wire whether one answer comes or many.
            answers = served.channel.unary_stream(path)(garbage, timeout=20)
        try:
            got = list(answers)
        except grpc.RpcError as error:
            refused = ApiError.of(error).check_typed()
            allowed = {grpc.StatusCode.INVALID_ARGUMENT}
            if name == "no UTF-8" and method in {"DrainBrokers", "Rebalance"}:
                # There they are packed numbers, of brokers that are not there.
                allowed.add(grpc.StatusCode.NOT_FOUND)
            assert refused.code in allowed, (name, refused)
        else:
            # Bytes of unknown fields are no error in protobuf; a string that is no UTF-8 may be one.
            assert name == "no UTF-8", f"{name} was answered with {len(got)} messages"


def test_unknown_fields_are_ignored(served: Client) -> None:
    # Field 1000, length-delimited: what a newer client may send.
    unknown = b"\xc2\x3e\x05hello"
    request = admin_pb2.DescribeTopicRequest(name="good").SerializeToString() + unknown
    answer = served.channel.unary_unary("/millrace.v1.Admin/DescribeTopic")(request, timeout=20)
    assert admin_pb2.DescribeTopicResponse.FromString(answer).topic.name == "good"


@pytest.mark.parametrize("path", ["/millrace.v1.Admin/NoSuchMethod", "/no.such.Service/Call", "/", "//"])
def test_unknown_methods_are_unimplemented(served: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.channel.unary_unary(path)(b"", timeout=20)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_no_request_at_all(served: Client) -> None:
    """A unary call that ends before its message."""
    with pytest.raises(grpc.RpcError) as refused:
        next(served.channel.stream_stream("/millrace.v1.Admin/DescribeTopic")(iter([]), timeout=20))
    assert refused.value.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)


# --- publish streams ---


@pytest.mark.parametrize("token", [b"\0", b"\xff" * 64, b"x" * 65, b"x" * 1_000_000, bytes(48)])
def test_a_wrong_resume_token_is_refused(served: Client, token: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        PublishStream(served, token)
    assert refused.value.check_typed().reason == "INVALID_RESUME_TOKEN"


def test_each_bit_of_a_resume_token_counts(served: Client) -> None:
    stream = PublishStream(served)
    token = stream.token
    stream.cancel()
    rng = random.Random(5)
    for at in range(len(token)):
        damaged = bytearray(token)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ApiError) as refused:
            PublishStream(served, bytes(damaged))
        assert refused.value.check_typed().reason == "INVALID_RESUME_TOKEN"


def test_a_token_for_one_more_than_it_is_long(served: Client) -> None:
    stream = PublishStream(served)
    for wrong in (stream.token[:-1], stream.token + b"\0"):
        with pytest.raises(ApiError) as refused:
            PublishStream(served, wrong)
        assert refused.value.check_typed().reason == "INVALID_RESUME_TOKEN"
    stream.cancel()


def _stream_error(stream: PublishStream, number: int) -> ApiError:
    """The error of one request, whether it ends the stream or not."""
    answer = stream.next_answer(20)
    if answer is None:
        assert stream.error is not None, "the stream ended as if all was well"
        return stream.error.check_typed()
    assert answer.id == number and answer.WhichOneof("result") == "error", answer
    return ApiError.of_item(answer.error).check_typed()


@pytest.mark.parametrize("number", [0, 2**31, 2**64 - 1])
def test_an_id_out_of_bounds_is_refused(served: Client, number: int) -> None:
    stream = PublishStream(served)
    stream.send(number, messaging_pb2.PublishRequest(topic="three", messages=[]))
    assert _stream_error(stream, number).reason == INVALID
    stream.cancel()


def test_ids_that_do_not_rise_are_refused_or_duplicates(served: Client) -> None:
    served.create_topic("rising")
    try:
        stream = PublishStream(served)
        for number, value in ((5, b"five"), (5, b"again"), (4, b"lower"), (6, b"six")):
            request = messaging_pb2.PublishRequest(topic="rising", messages=[M(value=value)], partition=0)
            stream.send(number, request)
        offsets = []
        for _ in range(4):
            answer = stream.next_answer(20)
            if answer is None:
                stream.error.check_typed()
                break
            if answer.WhichOneof("result") == "published":
                offsets.append(answer.published.positions[0].offset)
            else:
                ApiError.of_item(answer.error).check_typed()
        stream.cancel()
        stored = [m.message.value for m in served.read("rising")]
        assert stored in ([b"five"], [b"five", b"six"]), stored
        assert all(offset in (-1, 0, 1) for offset in offsets)
    finally:
        served.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="rising"), timeout=10)


@pytest.mark.parametrize("name", [n for n in PUBLISH if n not in ("nothing set",)])
def test_a_bad_publish_in_a_stream_is_one_answer(served: Client, name: str) -> None:
    request, reasons = PUBLISH[name]
    stream = PublishStream(served)
    stream.send(1, request)
    error = _stream_error(stream, 1)
    assert error.reason in reasons, error
    assert stream.error is not None or error.metadata.get("outcome") == "not_written", error
    if stream.error is None:
        stream.send(2, messaging_pb2.PublishRequest(topic="unknown-too", messages=ONE))
        assert _stream_error(stream, 2).reason == "UNKNOWN_TOPIC"
    stream.cancel()


# --- Log ---

GOOD = batch([b"x"])


def _produce(**fields: object) -> log_pb2.ProduceRequest:
    partition = {"topic": "three", "partition": 0, "records": GOOD, **fields}
    return log_pb2.ProduceRequest(correlation_id=1, partitions=[log_pb2.ProducePartition(**partition)])


def _fetch(**fields: object) -> log_pb2.FetchRequest:
    partition = {"topic": "good", "partition": 0, **fields}
    return log_pb2.FetchRequest(correlation_id=1, partitions=[log_pb2.FetchPartition(**partition)])


FENCED = {"FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH"}
PRODUCE_WHOLE = {
    "no partitions": log_pb2.ProduceRequest(correlation_id=1),
    "negative timeout": log_pb2.ProduceRequest(
        timeout=Duration(seconds=-1), partitions=_produce(topic="unknown").partitions
    ),
    "endless timeout": log_pb2.ProduceRequest(
        timeout=Duration(seconds=2**40), partitions=_produce(topic="unknown").partitions
    ),
    "nonsense timeout": log_pb2.ProduceRequest(
        timeout=Duration(seconds=1, nanos=-(2**31)), partitions=_produce(topic="unknown").partitions
    ),
    "unknown acks": log_pb2.ProduceRequest(acks=9, partitions=_produce(topic="unknown").partitions),
    "one partition twice": log_pb2.ProduceRequest(
        partitions=[_produce(records=b"").partitions[0], _produce(records=b"").partitions[0]]
    ),
    "10,001 partitions": log_pb2.ProduceRequest(
        partitions=[_produce(topic=f"u{i}", records=b"").partitions[0] for i in range(10_001)]
    ),
}
PRODUCE_PARTITION = {
    "unknown topic": (_produce(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "bad name": (_produce(topic="a/b"), {"INVALID_TOPIC_NAME", "UNKNOWN_TOPIC"}),
    "no name": (_produce(topic=""), {"INVALID_TOPIC_NAME", "UNKNOWN_TOPIC"}),
    "unknown partition": (_produce(partition=3), {"UNKNOWN_PARTITION"}),
    "negative partition": (_produce(partition=-1), {"UNKNOWN_PARTITION", INVALID}),
    "another topic's id": (_produce(topic_id=b"\7" * 16), {"UNKNOWN_TOPIC"}),
    "an id of 3 bytes": (_produce(topic_id=b"\7" * 3), {"UNKNOWN_TOPIC", INVALID}),
    "an old leader epoch": (_produce(leader_epoch=-5), FENCED | {INVALID}),
    "a leader epoch to come": (_produce(leader_epoch=2**31 - 1), FENCED),
    "negative expected offset": (_produce(expected_offset=-1), {INVALID, "OFFSET_MISMATCH"}),
    "expected offset far ahead": (_produce(expected_offset=2**62), {"OFFSET_MISMATCH"}),
}
FETCH_WHOLE = {
    "no partitions": log_pb2.FetchRequest(correlation_id=1),
    "negative wait": log_pb2.FetchRequest(max_wait=Duration(seconds=-1), partitions=_fetch().partitions),
    "endless wait": log_pb2.FetchRequest(max_wait=Duration(seconds=2**40), partitions=_fetch().partitions),
    "negative least": log_pb2.FetchRequest(min_bytes=-1, partitions=_fetch().partitions),
    "huge least": log_pb2.FetchRequest(min_bytes=2**31 - 1, partitions=_fetch().partitions),
    "negative most": log_pb2.FetchRequest(max_bytes=-1, partitions=_fetch().partitions),
    "negative most of a partition": _fetch(max_bytes=-1),
    "huge most": log_pb2.FetchRequest(max_bytes=2**31 - 1, partitions=_fetch().partitions),
    "unknown isolation": log_pb2.FetchRequest(isolation=9, partitions=_fetch().partitions),
    "one partition twice": log_pb2.FetchRequest(partitions=[*_fetch().partitions, *_fetch().partitions]),
    "10,001 partitions": log_pb2.FetchRequest(partitions=[_fetch(topic=f"u{i}").partitions[0] for i in range(10_001)]),
}
FETCH_PARTITION = {
    "unknown topic": (_fetch(topic="unknown"), {"UNKNOWN_TOPIC"}),
    "bad name": (_fetch(topic="a/b"), {"INVALID_TOPIC_NAME", "UNKNOWN_TOPIC"}),
    "unknown partition": (_fetch(partition=9), {"UNKNOWN_PARTITION"}),
    "negative partition": (_fetch(partition=-9), {"UNKNOWN_PARTITION", INVALID}),
    "another topic's id": (_fetch(topic_id=b"\7" * 16), {"UNKNOWN_TOPIC"}),
    "negative offset": (_fetch(fetch_offset=-1), {OUT_OF_RANGE, INVALID}),
    "offset behind the end": (_fetch(fetch_offset=10**15), {OUT_OF_RANGE}),
    "a leader epoch to come": (_fetch(current_leader_epoch=2**31 - 1), FENCED),
}


def _whole(call: Callable[[], Iterable], reasons: set[str]) -> None:
    """A request that is wrong as a whole ends the stream or fails in each of its partitions."""
    try:
        answers = list(call())
    except grpc.RpcError as error:
        assert ApiError.of(error).check_typed().reason in reasons
        return
    assert answers and all(answer.partitions for answer in answers), "answered as if it were good"
    for answer in answers:
        for partition in answer.partitions:
            assert partition.HasField("error"), partition
            assert ApiError.of_item(partition.error).check_typed().reason in reasons


@pytest.mark.parametrize("name", PRODUCE_WHOLE)
def test_a_bad_produce_request(served: Client, name: str) -> None:
    _whole(lambda: served.log.Produce(iter([PRODUCE_WHOLE[name]]), timeout=20), {INVALID})
    assert served.log_end("three") == 0


@pytest.mark.parametrize("name", PRODUCE_PARTITION)
def test_a_bad_partition_in_a_produce_request(served: Client, name: str) -> None:
    request, reasons = PRODUCE_PARTITION[name]
    # The stream goes on after it: the request behind it gets its own answer.
    behind = _produce(topic="unknown-behind")
    behind.correlation_id = 2
    first, second = served.log.Produce(iter([request, behind]), timeout=20)
    error = ApiError.of_item(first.partitions[0].error).check_typed()
    assert error.reason in reasons, error
    assert error.metadata["outcome"] == "not_written"
    assert ApiError.of_item(second.partitions[0].error).reason == "UNKNOWN_TOPIC"
    assert served.log_end("three") == 0


def test_one_bad_partition_does_not_harm_the_others(served: Client) -> None:
    request = _produce(topic="unknown")
    request.partitions.extend(_produce(topic="small").partitions)
    (answer,) = served.log.Produce(iter([request]), timeout=20)
    assert answer.partitions[0].HasField("error") and not answer.partitions[1].HasField("error")


@pytest.mark.parametrize("name", FETCH_WHOLE)
def test_a_bad_fetch_request(served: Client, name: str) -> None:
    _whole(lambda: served.log.Fetch(iter([FETCH_WHOLE[name]]), timeout=20), {INVALID})


@pytest.mark.parametrize("name", FETCH_PARTITION)
def test_a_bad_partition_in_a_fetch_request(served: Client, name: str) -> None:
    request, reasons = FETCH_PARTITION[name]
    (answer,) = served.log.Fetch(iter([request]), timeout=20)
    error = ApiError.of_item(answer.partitions[0].error).check_typed()
    assert error.reason in reasons, error


@pytest.mark.parametrize(
    ("item", "reasons"),
    [
        (dict(topic="unknown"), {"UNKNOWN_TOPIC"}),
        (dict(topic="a/b"), {"INVALID_TOPIC_NAME", "UNKNOWN_TOPIC"}),
        (dict(topic="good", partition=-1), {"UNKNOWN_PARTITION", INVALID}),
        (dict(topic="good", partition=8), {"UNKNOWN_PARTITION"}),
        (dict(topic="good", current_leader_epoch=2**31 - 1), FENCED),
        (dict(topic="good", at=types_pb2.Start(edge=50)), {INVALID}),
        (dict(topic="good", at=types_pb2.Start(time=_time(1, -4))), {INVALID, "INVALID_TIMESTAMP"}),
    ],
)
def test_bad_offsets_to_list(served: Client, item: dict, reasons: set[str]) -> None:
    request = log_pb2.ListOffsetsRequest(partitions=[log_pb2.ListOffsetsPartition(**item)])
    _whole(lambda: [served.log.ListOffsets(request, timeout=20)], reasons)


@pytest.mark.parametrize(
    ("item", "reasons"),
    [
        (dict(topic="unknown"), {"UNKNOWN_TOPIC"}),
        (dict(topic="good", partition=-1), {"UNKNOWN_PARTITION", INVALID}),
        (dict(topic="good", current_leader_epoch=2**31 - 1), FENCED),
    ],
)
def test_bad_epochs_to_look_up(served: Client, item: dict, reasons: set[str]) -> None:
    request = log_pb2.OffsetForLeaderEpochRequest(partitions=[log_pb2.OffsetForLeaderEpochPartition(**item)])
    _whole(lambda: [served.log.OffsetForLeaderEpoch(request, timeout=20)], reasons)


@pytest.mark.parametrize("method", ["ListOffsets", "OffsetForLeaderEpoch"])
def test_look_ups_of_none_and_of_too_many(served: Client, method: str) -> None:
    request = getattr(log_pb2, method + "Request")
    item = getattr(log_pb2, method + "Partition")
    for partitions in ([], [item(topic="good", partition=0)] * 10_001):
        error = expect_error(getattr(served.log, method), request(partitions=partitions))
        assert error.reason == INVALID and error.bad_fields


def test_metadata_of_unknown_and_impossible_topics_leaves_them_out(served: Client) -> None:
    request = log_pb2.MetadataRequest(topics=["good", "unknown", *BAD_NAMES, *(f"n{i}" for i in range(20_000))])
    try:
        (answer,) = served.log.Metadata(request, timeout=20)
    except grpc.RpcError as error:
        assert ApiError.of(error).check_typed().reason in {INVALID, "INVALID_TOPIC_NAME"}
    else:
        assert [t.name for t in answer.topics] == ["good"]
