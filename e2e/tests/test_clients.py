"""A service with nothing but stubs: publish, read, follow, resume, append conditionally."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lib.api import ApiError, Client, PublishStream, admin_pb2, call, log_pb2, messaging_pb2, types_pb2
from lib.batch import batch, headers
from lib.broker import Broker
from lib.cutproxy import CutProxy


def test_what_is_published_is_read(client: Client, topic: str) -> None:
    at = Timestamp()
    at.FromDatetime(datetime(2024, 2, 29, 12, 0, 0, 123000))
    sent = [
        types_pb2.Message(value=b"plain"),
        types_pb2.Message(key=b"", value=b""),
        types_pb2.Message(key=b"gone"),
        types_pb2.Message(key=bytes(range(256)), value=bytes(reversed(range(256))), timestamp=at),
        types_pb2.Message(
            value=b"with headers",
            headers=[
                types_pb2.Header(name="twice", value=b"1"),
                types_pb2.Header(name="twice", value=b"2"),
                types_pb2.Header(name="empty", value=b""),
                types_pb2.Header(name="none"),
                types_pb2.Header(name="ünïcode", value=b"\xff"),
            ],
        ),
    ]
    answer = call(client.messaging.Publish, messaging_pb2.PublishRequest(topic=topic, messages=sent, partition=0))
    assert [p.offset for p in answer.positions] == [0, 1, 2, 3, 4]
    got = client.read(topic)
    for number, (message, received) in enumerate(zip(sent, got, strict=True)):
        assert (received.topic, received.partition, received.offset) == (topic, 0, number)
        assert received.message.HasField("key") == message.HasField("key")
        assert received.message.key == message.key
        assert received.message.HasField("value") == message.HasField("value")
        assert received.message.value == message.value
        assert list(received.message.headers) == list(message.headers)
        assert received.timestamp == answer.positions[number].timestamp
    assert got[3].timestamp == at
    assert abs(got[0].timestamp.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("codec", types_pb2.Compression.keys())
def test_each_compression_comes_back_unchanged(client: Client, topic: str, codec: str) -> None:
    values = [b"value %d " % i * 50 for i in range(500)]
    client.publish(topic, values, compression=codec)
    assert [m.message.value for m in client.read(topic)] == values


def test_keys_choose_partitions_as_kafkas_clients_do(client: Client) -> None:
    client.create_topic("by-key", partitions=7)
    # Kafka's Utils.toPositive(murmur2(key)) % 7, from Kafka's own UtilsTest and BuiltInPartitioner.
    keys = [b"21", b"foobar", b"a-little-bit-long-string", b"a-little-bit-longer-string", b"abc"]
    hashes = [-973932308, -790332482, -985981536, -1486304829, 479470107]
    answer = call(
        client.messaging.Publish,
        messaging_pb2.PublishRequest(topic="by-key", messages=[types_pb2.Message(key=k, value=k) for k in keys]),
    )
    assert [p.partition for p in answer.positions] == [(h & 0x7FFFFFFF) % 7 for h in hashes]


def test_messages_without_a_key_go_together(client: Client) -> None:
    client.create_topic("keyless", partitions=5)
    chosen = set()
    for _ in range(40):
        partitions = {p.partition for p in client.publish("keyless", [b"a", b"b", b"c"], partition=None)}
        assert len(partitions) == 1
        chosen |= partitions
    assert len(chosen) > 1, "each call went to the same partition"


def test_read_from_offset_time_and_edges(client: Client, topic: str) -> None:
    base = datetime(2025, 1, 1)
    messages = []
    for i in range(100):
        at = Timestamp()
        at.FromDatetime(base + timedelta(seconds=i))
        messages.append(types_pb2.Message(value=b"%d" % i, timestamp=at))
    for i in range(0, 100, 10):
        call(
            client.messaging.Publish,
            messaging_pb2.PublishRequest(topic=topic, messages=messages[i : i + 10], partition=0),
        )

    def values(start: types_pb2.Start, **fields: object) -> list[int]:
        request = messaging_pb2.ReadRequest(topic=topic, start=start, **fields)
        return [int(m.message.value) for answer in client.messaging.Read(request, timeout=20) for m in answer.messages]

    assert values(types_pb2.Start(offset=57)) == list(range(57, 100))
    assert values(types_pb2.Start(offset=100)) == []
    assert values(types_pb2.Start(edge=types_pb2.EDGE_BEGINNING)) == list(range(100))
    assert values(types_pb2.Start(edge=types_pb2.EDGE_END)) == []
    at = Timestamp()
    at.FromDatetime(base + timedelta(seconds=42, milliseconds=1))
    assert values(types_pb2.Start(time=at)) == list(range(43, 100))
    at.FromDatetime(base + timedelta(days=1))
    assert values(types_pb2.Start(time=at)) == []
    assert values(types_pb2.Start(offset=3), max_messages=5) == [3, 4, 5, 6, 7]


def test_progress_tells_how_far_behind_a_reader_is(client: Client, topic: str) -> None:
    client.publish(topic, [b"x"] * 10)
    request = messaging_pb2.ReadRequest(topic=topic, max_messages=4)
    answers = list(client.messaging.Read(request, timeout=20))
    last = [p for answer in answers for p in answer.progress][-1]
    assert (last.partition, last.next_offset, last.high_watermark, last.log_start) == (0, 4, 10, 0)


def test_follow_gets_each_message_soon(client: Client, topic: str) -> None:
    got: queue.Queue = queue.Queue()

    def read() -> None:
        try:
            for message in client.read_stream(topic, timeout=60, follow=True):
                got.put((message.message.value, time.monotonic()))
        except ApiError:
            pass  # the channel is closed at the test's end

    threading.Thread(target=read, daemon=True).start()
    for i in range(20):
        sent = time.monotonic()
        client.publish(topic, [b"%d" % i])
        value, at = got.get(timeout=10)
        assert value == b"%d" % i
        # A poll of half a second would show; a busy machine's hiccup does not.
        assert at - sent < 2.0
        time.sleep(0.02)


def test_follow_of_a_bounded_count_ends(client: Client, topic: str) -> None:
    client.publish(topic, [b"1", b"2"])
    threading.Timer(0.3, lambda: client.publish(topic, [b"3", b"4"])).start()
    assert [m.message.value for m in client.read(topic, follow=True, max_messages=3)] == [b"1", b"2", b"3"]


def test_follow_of_a_deleted_topic_ends_with_the_reason(client: Client) -> None:
    client.create_topic("gone-soon")
    client.publish("gone-soon", [b"1"])
    messages = client.read_stream("gone-soon", timeout=60, follow=True)
    assert next(messages).message.value == b"1"
    call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name="gone-soon"))
    with pytest.raises(ApiError) as ended:
        next(messages)
    assert ended.value.reason == "UNKNOWN_TOPIC", ended.value


def test_follow_of_all_partitions_takes_in_new_ones_from_their_beginning(client: Client) -> None:
    client.create_topic("grows")
    messages = client.read_stream("grows", timeout=60, follow=True)
    client.publish("grows", [b"old"])
    assert next(messages).message.value == b"old"
    call(client.admin.CreatePartitions, admin_pb2.CreatePartitionsRequest(name="grows", partitions=3))
    for partition in (1, 2):
        client.publish("grows", [b"%d" % partition], partition=partition)
    assert sorted((next(messages).partition, next(messages).partition)) == [1, 2]
    messages.close()


def test_of_fifty_racing_writers_exactly_one_wins(shared: Broker, client: Client, topic: str) -> None:
    for round_number in range(4):
        barrier = threading.Barrier(50)

        def write(who: int, barrier: threading.Barrier = barrier) -> ApiError | int:
            with Client(shared.address) as own:
                barrier.wait()
                try:
                    return own.publish(topic, [b"%d" % who], expected_offset=round_number)[0].offset  # noqa: B023
                except ApiError as error:
                    return error

        with ThreadPoolExecutor(50) as pool:
            results = list(pool.map(write, range(50)))
        won = [who for who, result in enumerate(results) if not isinstance(result, ApiError)]
        assert len(won) == 1, results
        assert results[won[0]] == round_number
        for result in results:
            if isinstance(result, ApiError):
                result.check_typed()
                assert result.reason == "OFFSET_MISMATCH"
                assert result.metadata["end_offset"] == str(round_number + 1)
                assert result.metadata["outcome"] == "not_written"
        stored = client.read(topic)
        assert len(stored) == round_number + 1
        assert stored[-1].message.value == b"%d" % won[0]


# --- publish streams ---


def _request(topic: str, number: int) -> messaging_pb2.PublishRequest:
    return messaging_pb2.PublishRequest(topic=topic, messages=[types_pb2.Message(value=b"%d" % number)], partition=0)


def test_a_stream_answers_each_request_in_order(client: Client, topic: str) -> None:
    stream = PublishStream(client)
    for number in range(1, 501):
        stream.send(number, _request(topic, number))
    for number in range(1, 501):
        answer = stream.next_answer(20)
        assert answer.id == number and answer.WhichOneof("result") == "published", answer
        assert answer.published.positions[0].offset == number - 1
    stream.finish()
    assert stream.next_answer(10) is None and stream.error is None, stream.error


def test_an_error_in_a_stream_does_not_end_it(client: Client, topic: str) -> None:
    stream = PublishStream(client)
    stream.send(1, _request(topic, 1))
    stream.send(2, _request("no-such-topic", 2))
    stream.send(3, messaging_pb2.PublishRequest(topic=topic, messages=[types_pb2.Message(value=b"x")], partition=9))
    stream.send(4, _request(topic, 4))
    answers = {}
    for _ in range(4):
        answer = stream.next_answer(20)
        answers[answer.id] = answer
    assert answers[1].WhichOneof("result") == "published"
    for number, reason in ((2, "UNKNOWN_TOPIC"), (3, "UNKNOWN_PARTITION")):
        assert answers[number].WhichOneof("result") == "error", answers[number]
        error = ApiError.of_item(answers[number].error).check_typed()
        assert error.reason == reason
        assert error.metadata["outcome"] == "not_written"
    assert answers[4].published.positions[0].offset == 1
    stream.cancel()


@pytest.mark.parametrize("broken", ["connection", "broker"])
def test_a_broken_stream_resumes_without_loss_or_double(broker: Broker, broken: str) -> None:
    with Client(broker.address) as direct, CutProxy(broker.port) as proxy:
        direct.create_topic("resumed")
        with Client(proxy.address) as client:
            stream = PublishStream(client)
            for number in range(1, 11):
                stream.send(number, _request("resumed", number))
            for number in range(1, 11):
                assert stream.next_answer(20).id == number
            # Requests 11 to 30 arrive and are stored; nobody hears of it.
            proxy.hold_answers()
            for number in range(11, 31):
                stream.send(number, _request("resumed", number))
            deadline = time.monotonic() + 20
            while direct.log_end("resumed") < 30:
                assert time.monotonic() < deadline, "the requests do not arrive"
                time.sleep(0.02)
            proxy.cut()
            proxy.let_answers_pass()
            answer = stream.next_answer(20)
            assert answer is None and stream.error is not None
            assert stream.error.code == grpc.StatusCode.UNAVAILABLE
            token = stream.token
            stream.cancel()
        if broken == "broker":
            broker.kill()
            broker.start()
        with Client(proxy.address) as client:
            stream = PublishStream(client, token)
            for number in range(11, 51):
                stream.send(number, _request("resumed", number))
            for number in range(11, 51):
                answer = stream.next_answer(20)
                assert answer.id == number and answer.WhichOneof("result") == "published", answer
                assert answer.published.positions[0].offset in (number - 1, -1)
            stream.cancel()
    with Client(broker.address) as client:
        values = [int(m.message.value) for m in client.read("resumed")]
    assert values == list(range(1, 51))


def test_resuming_takes_the_stream_over_from_one_that_still_lives(client: Client, topic: str) -> None:
    first = PublishStream(client)
    first.send(1, _request(topic, 1))
    assert first.next_answer(20).id == 1
    second = PublishStream(client, first.token)
    second.send(2, _request(topic, 2))
    assert second.next_answer(20).published.positions[0].offset == 1
    assert first.next_answer(20) is None
    assert first.error is not None
    first.error.check_typed()
    assert first.error.reason == "STREAM_TAKEN_OVER"
    second.cancel()
    first.cancel()
    assert [m.message.value for m in client.read(topic)] == [b"1", b"2"]


def test_a_refused_request_is_never_stored_behind_a_later_one(client: Client, topic: str) -> None:
    """Its answer may be lost, so that a sender who resumes sends it again: it must not come out of order."""

    def request(value: bytes, **fields: object) -> messaging_pb2.PublishRequest:
        return messaging_pb2.PublishRequest(
            topic=topic, partition=0, messages=[types_pb2.Message(value=value)], **fields
        )

    stream = PublishStream(client)
    # The second expects another end of the log. All three are sent before anything is answered.
    stream.send(1, request(b"1"))
    stream.send(2, request(b"2", expected_offset=1_000))
    stream.send(3, request(b"3"))
    answers = [stream.next_answer(30) for _ in range(3)]
    assert [answer.WhichOneof("result") for answer in answers] == ["published", "error", "published"]
    stream.finish()
    resumed = PublishStream(client, resume_token=stream.token)
    resumed.send(2, request(b"2"))
    resumed.send(4, request(b"2 anew"))
    again, anew = resumed.next_answer(30), resumed.next_answer(30)
    assert again.error.reason == types_pb2.ERROR_REASON_OUT_OF_ORDER_SEQUENCE, again
    assert anew.WhichOneof("result") == "published", anew
    assert [message.message.value for message in client.read(topic)] == [b"1", b"3", b"2 anew"]
    resumed.finish()


def test_a_stream_to_many_partitions(client: Client) -> None:
    client.create_topic("spread", partitions=8)
    stream = PublishStream(client)
    for number in range(1, 401):
        request = _request("spread", number)
        request.partition = number % 8
        stream.send(number, request)
    last = dict.fromkeys(range(8), 0)
    for _ in range(400):
        answer = stream.next_answer(20)
        assert answer.WhichOneof("result") == "published", answer
        partition = answer.published.positions[0].partition
        assert partition == answer.id % 8
        assert answer.id > last[partition], "answers of one partition changed places"
        last[partition] = answer.id
    stream.cancel()
    for partition in range(8):
        values = [int(m.message.value) for m in client.read("spread", partition)]
        assert values == [n for n in range(1, 401) if n % 8 == partition]


# --- Log and Admin, as a smart client uses them ---


def test_produce_and_fetch_whole_batches(client: Client, topic: str) -> None:
    sent = [batch([b"%d" % i + b"x" * i] * 3, codec=i % 5) for i in range(10)]
    requests = [
        log_pb2.ProduceRequest(
            correlation_id=100 + i, partitions=[log_pb2.ProducePartition(topic=topic, partition=0, records=data)]
        )
        for i, data in enumerate(sent)
    ]
    answers = list(client.log.Produce(iter(requests), timeout=20))
    assert [a.correlation_id for a in answers] == list(range(100, 110))
    assert [a.partitions[0].base_offset for a in answers] == list(range(0, 30, 3))
    assert not any(a.partitions[0].HasField("error") for a in answers)
    fetch = log_pb2.FetchRequest(
        correlation_id=7, partitions=[log_pb2.FetchPartition(topic=topic, partition=0, fetch_offset=0)]
    )
    (answer,) = client.log.Fetch(iter([fetch]), timeout=20)
    (fetched,) = answer.partitions
    assert answer.correlation_id == 7
    assert (fetched.high_watermark, fetched.last_stable_offset, fetched.log_start) == (30, 30, 0)
    got = headers(fetched.records)
    assert [h.base_offset for h in got] == list(range(0, 30, 3))
    # What is stored is what was sent, but for base offset and leader epoch.
    at = 0
    for data, header in zip(sent, got, strict=True):
        stored = fetched.records[at : at + header.size]
        assert stored[16:] == data[16:]
        assert header.leader_epoch == fetched.leader_epoch
        at += header.size


def test_an_idempotent_producers_repeat_is_answered_with_the_original(client: Client, topic: str) -> None:
    producer = call(client.log.InitProducer, log_pb2.InitProducerRequest())
    other = call(client.log.InitProducer, log_pb2.InitProducerRequest())
    assert producer.producer_id != other.producer_id

    def produce(sequence: int) -> log_pb2.ProducedPartition:
        data = batch(
            [b"a", b"b"],
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            base_sequence=sequence,
        )
        request = log_pb2.ProduceRequest(partitions=[log_pb2.ProducePartition(topic=topic, partition=0, records=data)])
        (answer,) = client.log.Produce(iter([request]), timeout=20)
        return answer.partitions[0]

    for number in range(3):
        done = produce(number * 2)
        assert (done.base_offset, done.duplicate) == (number * 2, False), done
    for number in (2, 1, 0):
        again = produce(number * 2)
        assert (again.base_offset, again.duplicate) == (number * 2, True), again
    gap = ApiError.of_item(produce(20).error).check_typed()
    assert gap.reason == "OUT_OF_ORDER_SEQUENCE"
    assert gap.metadata["expected_sequence"] == "6"
    assert len(client.read(topic)) == 6


def test_fetch_waits_for_data(client: Client, topic: str) -> None:
    def request(wait_ms: int) -> log_pb2.FetchRequest:
        made = log_pb2.FetchRequest(
            correlation_id=1, partitions=[log_pb2.FetchPartition(topic=topic, partition=0, fetch_offset=0)]
        )
        made.max_wait.FromMilliseconds(wait_ms)
        return made

    sent: queue.SimpleQueue = queue.SimpleQueue()
    answers = client.log.Fetch(iter(sent.get, None), timeout=60)
    # The first answer of a stream may come at once: it tells the watermarks.
    sent.put(request(0))
    assert not any(p.records for p in next(answers).partitions)
    started = time.monotonic()
    sent.put(request(400))
    assert not any(p.records for p in next(answers).partitions)
    assert 0.35 < time.monotonic() - started < 5
    publisher = threading.Timer(0.3, lambda: client.publish(topic, [b"now"]))
    publisher.start()
    started = time.monotonic()
    sent.put(request(20_000))
    assert headers(next(answers).partitions[0].records)[0].count == 1
    assert time.monotonic() - started < 10
    sent.put(None)
    # The reader may have the record before the publisher has its answer.
    publisher.join(10)


def test_metadata_pushes_changes(client: Client) -> None:
    client.create_topic("pushed", partitions=2)
    updates: queue.Queue = queue.Queue()
    stream = client.log.Metadata(log_pb2.MetadataRequest(follow=True), timeout=60)

    def read() -> None:
        try:
            for update in stream:
                updates.put(update)
        except grpc.RpcError:
            pass  # cancelled below

    threading.Thread(target=read, daemon=True).start()
    first = updates.get(timeout=10)
    pushed = next(t for t in first.topics if t.name == "pushed")
    assert [p.partition for p in pushed.partitions] == [0, 1]
    assert len(pushed.topic_id) == 16
    (broker_metadata,) = first.brokers
    assert all(p.leader_id == broker_metadata.broker_id for p in pushed.partitions)
    client.create_topic("pushed-later")
    deadline = time.monotonic() + 10
    version = first.version
    while True:
        update = updates.get(timeout=max(0.1, deadline - time.monotonic()))
        assert update.version >= version
        version = update.version
        if any(t.name == "pushed-later" for t in update.topics):
            break
    stream.cancel()


def test_list_offsets_and_epochs(client: Client, topic: str) -> None:
    client.publish(topic, [b"x"] * 5)
    begin = types_pb2.Start(edge=types_pb2.EDGE_BEGINNING)
    end = types_pb2.Start(edge=types_pb2.EDGE_END)
    answer = call(
        client.log.ListOffsets,
        log_pb2.ListOffsetsRequest(
            partitions=[log_pb2.ListOffsetsPartition(topic=topic, partition=0, at=at) for at in (begin, end)]
        ),
    )
    assert [p.offset for p in answer.partitions] == [0, 5]
    epoch = client.describe(topic).partitions[0].leader_epoch
    answer = call(
        client.log.OffsetForLeaderEpoch,
        log_pb2.OffsetForLeaderEpochRequest(
            partitions=[log_pb2.OffsetForLeaderEpochPartition(topic=topic, partition=0, leader_epoch=epoch)]
        ),
    )
    (found,) = answer.partitions
    assert (found.end.leader_epoch, found.end.end_offset) == (epoch, 5)


def test_a_topics_life(client: Client) -> None:
    created = call(
        client.admin.CreateTopic,
        admin_pb2.CreateTopicRequest(
            name="life", partitions=3, configs=[types_pb2.ConfigEntry(name="retention.ms", value="3600000")]
        ),
    )
    assert (len(created.topic_id), created.partitions, created.replication_factor) == (16, 3, 1)
    described = client.describe("life")
    assert [p.partition for p in described.partitions] == [0, 1, 2]
    assert [(c.name, c.value) for c in described.configs] == [("retention.ms", "3600000")]
    client.publish("life", [b"a", b"b", b"c"], 1)
    one = client.describe("life").partitions[1]
    assert (one.log_start, one.high_watermark, one.log_end) == (0, 3, 3)
    assert one.size_bytes > 61
    answer = call(
        client.admin.DeleteMessages, admin_pb2.DeleteMessagesRequest(topic="life", partition=1, before_offset=2)
    )
    assert answer.log_start == 2
    assert [m.offset for m in client.read("life", 1)] == [2]
    call(
        client.admin.AlterTopic,
        admin_pb2.AlterTopicRequest(
            name="life",
            set_configs=[types_pb2.ConfigEntry(name="segment.bytes", value="65536")],
            unset_configs=["retention.ms"],
        ),
    )
    assert [(c.name, c.value) for c in client.describe("life").configs] == [("segment.bytes", "65536")]
    call(
        client.admin.AlterConfigs,
        admin_pb2.AlterConfigsRequest(topic="life", set=[types_pb2.ConfigEntry(name="flush", value="os")]),
    )
    settings = call(client.admin.DescribeConfigs, admin_pb2.DescribeConfigsRequest(topic="life")).configs
    by_name = {c.name: c for c in settings}
    assert list(by_name) == sorted(by_name)
    assert by_name["flush"].value == "os" and by_name["flush"].source == admin_pb2.CONFIG_SOURCE_TOPIC
    assert by_name["retention.ms"].value == "604800000"
    assert all(c.documentation for c in settings)
    grown = call(client.admin.CreatePartitions, admin_pb2.CreatePartitionsRequest(name="life", partitions=5))
    assert grown.partitions == 5
    client.publish("life", [b"new"], 4)
    with pytest.raises(ApiError) as wrong_id:
        call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name="life", topic_id=b"\1" * 16))
    assert wrong_id.value.check_typed().reason == "UNKNOWN_TOPIC"
    call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name="life", topic_id=created.topic_id))
    with pytest.raises(ApiError) as gone:
        client.describe("life")
    assert gone.value.check_typed().reason == "UNKNOWN_TOPIC"
    # A topic of the same name is another one, and empty.
    client.create_topic("life")
    assert client.read("life") == []


def test_validate_only_changes_nothing(client: Client, topic: str) -> None:
    client.publish(topic, [b"a", b"b"])
    call(client.admin.CreateTopic, admin_pb2.CreateTopicRequest(name="only-checked", validate_only=True))
    call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name=topic, validate_only=True))
    call(
        client.admin.AlterTopic,
        admin_pb2.AlterTopicRequest(
            name=topic, set_configs=[types_pb2.ConfigEntry(name="flush", value="os")], validate_only=True
        ),
    )
    checked = call(
        client.admin.DeleteMessages,
        admin_pb2.DeleteMessagesRequest(topic=topic, partition=0, before_offset=-1, validate_only=True),
    )
    assert checked.log_start == 2
    names = [t.name for t in call(client.admin.ListTopics, admin_pb2.ListTopicsRequest()).topics]
    assert topic in names and "only-checked" not in names
    described = client.describe(topic)
    assert list(described.configs) == [] and described.partitions[0].log_start == 0
    with pytest.raises(ApiError) as refused:
        call(client.admin.CreateTopic, admin_pb2.CreateTopicRequest(name=topic, validate_only=True))
    assert refused.value.check_typed().reason == "TOPIC_EXISTS"


def test_topics_are_listed_in_pages(client: Client) -> None:
    names = [f"paged-{i:02}" for i in range(25)]
    for name in reversed(names):
        client.create_topic(name)
    found, token, pages = [], "", 0
    while True:
        answer = call(
            client.admin.ListTopics, admin_pb2.ListTopicsRequest(prefix="paged-", page_size=10, page_token=token)
        )
        found += [t.name for t in answer.topics]
        pages += 1
        token = answer.next_page_token
        if not token:
            break
    assert found == names and pages == 3


def test_the_cluster_is_described(shared: Broker, client: Client, topic: str) -> None:
    cluster = call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
    assert cluster.cluster_id
    (only,) = cluster.brokers
    assert only.address == shared.address and only.available and only.directory_id and only.version
    assert cluster.quorum.HasField("leader_id") and list(cluster.quorum.voters) == [cluster.quorum.leader_id]
    assert cluster.topics >= 1 and cluster.offline_partitions == 0 and cluster.under_replicated_partitions == 0


def test_everything_is_there_after_a_restart(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("kept", partitions=2, retention_ms=3_600_000)
        client.publish("kept", [b"1", b"2"], 1)
        before = call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
        epoch = client.describe("kept").partitions[1].leader_epoch
    for stop in (broker.stop, broker.kill):
        stop()
        broker.start()
        with Client(broker.address) as client:
            after = call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
            assert after.cluster_id == before.cluster_id
            assert after.brokers[0].directory_id == before.brokers[0].directory_id
            assert after.brokers[0].broker_epoch > before.brokers[0].broker_epoch
            described = client.describe("kept")
            assert [(c.name, c.value) for c in described.configs] == [("retention.ms", "3600000")]
            # A leader that restarts gets a new epoch before it may append.
            assert described.partitions[1].leader_epoch > epoch
            epoch = described.partitions[1].leader_epoch
            assert [m.message.value for m in client.read("kept", 1)] == [b"1", b"2"]
        before = after


def test_health(shared: Broker, client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    names = ["", "millrace.v1.Messaging", "millrace.v1.Log", "millrace.v1.Admin"]
    for name in names:
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
