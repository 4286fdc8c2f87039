"""Too many, too slow, too much at once: back pressure and bounds, and others go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lib.api import ApiError, Client, PublishStream, log_pb2, messaging_pb2, messaging_pb2_grpc, types_pb2
from lib.batch import unsigned_varint
from lib.broker import Broker
from lib.http2 import GREETING, HalfSender
from lib.watch import (
    ACKNOWLEDGEMENTS,
    CONNECTION,
    DECODED,
    IDLE,
    MIB,
    ONE_WRITER,
    REQUESTS,
    STREAMS,
    WIDENED,
    Watch,
    readers,
    writers,
)


@pytest.fixture
def many_files() -> None:
    """Lets this process have some thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


def test_a_thousand_idle_connections(broker: Broker, watch: Watch, many_files: None) -> None:
    with watch.unharmed(IDLE + 1000 * 32 * 1024), contextlib.ExitStack() as stack:
        for number in range(1000):
            s = stack.enter_context(socket.create_connection(("127.0.0.1", broker.port), timeout=5))
            # A third says nothing, a third greets, a third greets half.
            if number % 3:
                s.sendall(GREETING if number % 3 == 1 else GREETING[:10])
        time.sleep(3)
    with Client(broker.address) as client:
        client.publish("watched", [b"after"])
    # Their places are free again.
    assert broker.process is not None
    deadline = time.monotonic() + 30
    while broker.process.open_files() > 200:
        assert time.monotonic() < deadline, f"{broker.process.open_files()} files are still open"
        time.sleep(0.2)


def test_few_file_handles_are_shared(new_broker: Callable[..., Broker], many_files: None) -> None:
    """More idle connections to each port, and more partitions, than the process may have files."""
    broker = new_broker()
    broker.open_files = 256
    broker.start()
    partitions = 400
    with contextlib.ExitStack() as stack:
        with Client(broker.address) as client:
            client.create_topic("wide", partitions=partitions, segment_bytes=1 << 20)
            client.create_topic("rolled", segment_bytes=1 << 20)
            for port in (broker.http_port, broker.internal_port, broker.port):
                # More would not even be connected: the operating system keeps 128 that are not accepted.
                for _ in range(120):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            # Each opens its file, and some a new one.
            for partition in range(partitions):
                client.publish("wide", [b"%d" % partition], partition)
            for _ in range(20):
                client.publish("rolled", [bytes(500_000)], 0)
            for partition in range(partitions):
                (read,) = client.read("wide", partition)
                assert read.message.value == b"%d" % partition
    assert broker.stop() == 0
    broker.start()
    with Client(broker.address) as client:
        assert client.log_end("rolled") == 20
        assert sum(client.log_end("wide", partition) for partition in range(partitions)) == partitions
    assert broker.process is not None
    assert "offline" not in broker.process.err()


def test_noise_on_the_client_port(broker: Broker, watch: Watch) -> None:
    with watch.unharmed(IDLE + 2 * CONNECTION):
        for noise in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\0" * 10_000,
            b"\x16\x03\x01\x02\0" * 1000,
            GREETING + b"\xff" * 100_000,
        ):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as s:
                    with contextlib.suppress(OSError):
                        s.sendall(noise)
                        s.shutdown(socket.SHUT_WR)
                        s.settimeout(10)
                        while s.recv(65536):
                            pass


def test_half_sent_messages_on_many_connections_cost_bounded_memory(broker: Broker, watch: Watch) -> None:
    """Each connection sends what the broker's HTTP/2 windows allow of large messages, and waits."""
    message = b"\0" + (7 * MIB).to_bytes(4, "big") + bytes(7 * MIB - 1)
    with Client(broker.address) as client:
        client.create_topic("half")
    senders = []
    try:
        with watch.unharmed(IDLE + REQUESTS + WIDENED + 150 * CONNECTION, starved=True):
            for _ in range(150):
                senders.append(HalfSender(broker.port, b"/millrace.v1.Messaging/Publish", [1, 3], message))
                senders[-1].go_on()
            for _ in range(6):
                time.sleep(0.5)
                for sender in senders:
                    sender.go_on()
            assert not any(sender.refused for sender in senders)
            sent = sum(sender.sent for sender in senders)
            assert sent > 150 * MIB, f"{sent >> 20} MiB were sent: the windows were not used"
    finally:
        for sender in senders:
            sender.close()


def _fill(client: Client, topic: str, batches: int, batch_mib: int) -> None:
    client.create_topic(topic, flush="os")
    for _ in range(batches):
        client.publish(topic, [bytes(MIB)] * batch_mib)


def _fill_with_one_large(client: Client, topic: str) -> None:
    """A large batch among so many small records that an average says nothing about it."""
    client.create_topic(topic, flush="os")
    client.publish(topic, [bytes(7 * MIB)])
    for _ in range(20):
        client.publish(topic, [b"small"] * 10_000)


@pytest.mark.parametrize(
    ("batches", "batch_mib", "max_bytes"),
    [(40, 4, 0), (10, 7, 1), (0, 7, 0)],
    ids=["default", "one-byte-of-large-batches", "one-large-among-small"],
)
def test_slow_readers_cost_bounded_memory(
    broker: Broker, watch: Watch, batches: int, batch_mib: int, max_bytes: int
) -> None:
    """40 readers of large batches who take one answer and then none.

    A batch goes out whole, so not all of them can be held at once: those beyond what memory
    allows are told to come again.
    """
    with Client(broker.address) as client:
        if batches:
            _fill(client, "large", batches, batch_mib)
        else:
            _fill_with_one_large(client, "large")
        end = client.log_end("large")
    clients = [Client(broker.address) for _ in range(40)]
    calls = []
    served, refused = [], []
    try:
        # Of each fetch a whole batch is under way, and of each read a message of 1 MiB.
        with watch.unharmed(readers(encoded=20 * batch_mib * MIB + 20 * MIB)):
            for number, client in enumerate(clients):
                if number % 2:
                    request = messaging_pb2.ReadRequest(topic="large", follow=True)
                    calls.append(client.messaging.Read(request, timeout=120))
                else:
                    fetches = [
                        log_pb2.FetchRequest(
                            correlation_id=i,
                            max_bytes=max_bytes,
                            partitions=[log_pb2.FetchPartition(topic="large", partition=0, fetch_offset=0)],
                        )
                        for i in range(50)
                    ]
                    calls.append(client.log.Fetch(iter(fetches), timeout=120))
            # One answer is taken, and then none for a long time.
            with ThreadPoolExecutor(len(calls)) as pool:
                for call, problem in zip(calls, pool.map(_first_answer, calls), strict=True):
                    (served if problem is None else refused).append((call, problem))
            time.sleep(5)
        for _, problem in refused:
            problem.check_typed()
            assert problem.reason == "OVERLOADED" and problem.retry_delay_seconds is not None, problem
        assert len(served) >= 4, f"{len(served)} of {len(calls)} got an answer"
    finally:
        _end(calls, clients)
    # What the slow ones held is free again for one who reads.
    with Client(broker.address) as client:
        assert len(client.read("large")) == end


def test_slow_readers_of_compressed_batches_cost_bounded_memory(broker: Broker, watch: Watch) -> None:
    """40 readers of batches of a few kilobytes that are 12 MiB when decompressed."""
    values = [b"%06d" % number + bytes(64 << 10) for number in range(190)]
    # As many are decompressed at once.
    turns = min(len(os.sched_getaffinity(0)), 8)
    with Client(broker.address) as client:
        client.create_topic("zeros")
        for _ in range(4):
            client.publish("zeros", values, compression=types_pb2.COMPRESSION_ZSTD)
    clients = [Client(broker.address) for _ in range(40)]
    calls = []
    try:
        with watch.unharmed(readers(encoded=40 * MIB) + turns * 12 * MIB):
            request = messaging_pb2.ReadRequest(topic="zeros", follow=True)
            calls = [client.messaging.Read(request, timeout=120) for client in clients]
            with ThreadPoolExecutor(len(calls)) as pool:
                assert list(pool.map(_first_answer, calls)) == [None] * len(calls)
            time.sleep(5)
    finally:
        _end(calls, clients)
    with Client(broker.address) as client:
        assert [message.message.value for message in client.read("zeros")] == values * 4


def _end(calls: list[grpc.Call], clients: list[Client]) -> None:
    for call in calls:
        call.cancel()
    for client in clients:
        client.close()


def _first_answer(call: Iterator) -> ApiError | None:
    """Takes a stream's first answer; gives the error it had instead."""
    try:
        next(call)
    except grpc.RpcError as error:
        return ApiError.of(error)
    return None


def test_many_large_publishes_at_once_push_back_instead_of_growing(broker: Broker, watch: Watch) -> None:
    """60 clients with 7 MiB each are 420 MiB in flight."""
    with Client(broker.address) as client:
        client.create_topic("flood", partitions=4, flush="os")
    request = [
        messaging_pb2.PublishRequest(topic="flood", partition=p, messages=[types_pb2.Message(value=bytes(7 * MIB))])
        for p in range(4)
    ]
    outcomes: list[ApiError | None] = []

    def write(number: int) -> None:
        with Client(broker.address) as own:
            for _ in range(3):
                try:
                    own.messaging.Publish(request[number % 4], timeout=100)
                    outcomes.append(None)
                except grpc.RpcError as error:
                    outcomes.append(ApiError.of(error))

    with watch.unharmed(writers(61)):
        threads = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "some never got an answer"
    for outcome in outcomes:
        if outcome is not None:
            outcome.check_typed()
            assert outcome.reason == "OVERLOADED", outcome
            assert outcome.metadata["outcome"] == "not_written"
            assert outcome.retry_delay_seconds is not None
    stored = outcomes.count(None)
    assert stored > 0
    with Client(broker.address) as client:
        assert sum(client.log_end("flood", p) for p in range(4)) == stored


def test_large_publishes_of_one_connection_do_not_wait_for_each_other(broker: Broker) -> None:
    """More than a connection's share of memory: those that wait for it must leave room for the rest of those that
    have it."""
    with Client(broker.address) as client:
        client.create_topic("crowd", partitions=2, flush="os")
        for _ in range(2):
            requests = [
                messaging_pb2.PublishRequest(
                    topic="crowd", partition=n % 2, messages=[types_pb2.Message(value=bytes(6 * MIB))]
                )
                for n in range(10)
            ]
            calls = [client.messaging.Publish.future(request, timeout=100) for request in requests]
            for sent in calls:
                sent.result()
        assert sum(client.log_end("crowd", p) for p in range(2)) == 20


def test_a_publish_stream_whose_answers_are_not_taken_is_bounded(broker: Broker, watch: Watch) -> None:
    with Client(broker.address) as client, watch.unharmed(IDLE + ONE_WRITER):
        client.create_topic("mute", flush="os")
        sent = 0
        stop = threading.Event()

        def requests() -> Iterator[messaging_pb2.PublishStreamRequest]:
            nonlocal sent
            messages = [types_pb2.Message(value=b"x" * 100)] * 100
            while not stop.is_set() and sent < 40_000:
                sent += 1
                yield messaging_pb2.PublishStreamRequest(
                    id=sent, publish=messaging_pb2.PublishRequest(topic="mute", partition=0, messages=messages)
                )

        call = client.messaging.PublishStream(requests(), timeout=100)
        assert next(call).WhichOneof("result") == "opened"
        time.sleep(6)
        stop.set()
        # Whatever was taken is answered, in order, as soon as somebody listens.
        number = 0
        for answer in call:
            number += 1
            assert answer.id == number and answer.WhichOneof("result") == "published"
        assert number == sent
        assert client.log_end("mute") == sent * 100


def test_small_messages_without_waiting_are_pushed_back_and_never_cut_off(broker: Broker, watch: Watch) -> None:
    """Small messages come faster than they are stored, and for a while nobody takes the answers.

    Each is an HTTP/2 frame of its own, of which a connection must not keep many (an
    ENHANCE_YOUR_CALM ends it); and all calls share it.
    """
    count = 20_000
    with Client(broker.address) as client, watch.unharmed(IDLE + ONE_WRITER):
        client.create_topic("tiny", flush="os")
        client.create_topic("beside", flush="os")
        sent = 0

        def requests() -> Iterator[messaging_pb2.PublishStreamRequest]:
            nonlocal sent
            for sent in range(1, count + 1):  # noqa: B007 - read below
                message = types_pb2.Message(value=b"%020d" % sent)
                publish = messaging_pb2.PublishRequest(topic="tiny", partition=0, messages=[message])
                yield messaging_pb2.PublishStreamRequest(id=sent, publish=publish)

        call = client.messaging.PublishStream(requests(), timeout=100)
        assert next(call).WhichOneof("result") == "opened"
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            (position,) = client.publish("beside", [b"x"])
            assert len(client.read("beside", 0, position.offset)) == 1
        assert sent > 3_000, f"only {sent} were sent: nothing was pushed back"
        for number in range(1, count + 1):
            answer = next(call)
            assert answer.id == number and answer.WhichOneof("result") == "published"
        assert next(call, None) is None
        assert client.log_end("tiny") == count


def test_produce_answers_that_are_not_taken_are_bounded(broker: Broker, watch: Watch) -> None:
    """Each answer has an error for each of 10,000 partitions, many times the request's size."""
    partitions = range(10_000)
    parts = [log_pb2.ProducePartition(topic="x", partition=p) for p in partitions]
    requests = [log_pb2.ProduceRequest(correlation_id=number, partitions=parts) for number in range(100)]
    with Client(broker.address) as client, watch.unharmed(IDLE + ONE_WRITER):
        call = client.log.Produce(iter(requests), timeout=100)
        time.sleep(6)
        # Whatever was taken is answered, in order, as soon as somebody listens.
        for number in range(20):
            answer = next(call)
            assert answer.correlation_id == number
            assert [part.partition for part in answer.partitions] == list(partitions)
            assert all(part.error.code == grpc.StatusCode.NOT_FOUND.value[0] for part in answer.partitions)
        call.cancel()


def test_writers_that_never_take_their_answers_are_let_go(broker: Broker, watch: Watch) -> None:
    """What they hold must not be held for ever; what they wrote stays."""
    parts = [log_pb2.ProducePartition(topic="x", partition=p) for p in range(10_000)]
    messages = [types_pb2.Message(value=b"x")] * 1_000
    publish = messaging_pb2.PublishRequest(topic="mute", partition=0, messages=messages)
    with Client(broker.address) as client, Client(broker.address) as other, watch.unharmed(IDLE + 2 * ONE_WRITER):
        client.create_topic("mute", flush="os")
        errors = client.log.Produce((log_pb2.ProduceRequest(partitions=parts) for _ in range(30)), timeout=100)
        published = other.messaging.PublishStream(
            (messaging_pb2.PublishStreamRequest(id=number, publish=publish) for number in range(1, 2_001)), timeout=100
        )
        time.sleep(36)
        for call in (errors, published):
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
            assert ended.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED, ended.value
        assert client.publish("mute", [b"later"], partition=0)[0].offset % 1_000 == 0, "half of a request is stored"


def test_more_publish_streams_than_a_broker_serves(broker: Broker, watch: Watch) -> None:
    """All are served up to the limit; one more is told why it is not, and has its place when another one ends."""

    async def streams() -> None:
        apart = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(broker.address, apart) for _ in range(41)]
        stubs = [messaging_pb2_grpc.MessagingStub(channel) for channel in channels]

        async def open_one(number: int) -> grpc.aio.StreamStreamCall:
            call = stubs[number % len(stubs)].PublishStream(timeout=100)
            await call.write(messaging_pb2.PublishStreamRequest())
            answer = await call.read()
            assert answer.WhichOneof("result") == "opened"
            return call

        served = await asyncio.gather(*(open_one(number) for number in range(2_000)))
        with pytest.raises(grpc.RpcError) as refused:
            await open_one(2_000)
        error = ApiError.of(refused.value)
        assert error.reason == "OVERLOADED" and "2000 publish streams" in error.message
        served[7].cancel()
        for _ in range(100):
            with contextlib.suppress(grpc.RpcError):
                served.append(await open_one(2_000))
                break
            await asyncio.sleep(0.1)
        assert len(served) == 2_001, "the place of one that ended stays taken"
        for channel in channels:
            await channel.close()

    with watch.unharmed(IDLE + 41 * CONNECTION + 2001 * 32 * 1024):
        asyncio.run(streams())


def test_fetches_of_many_partitions_from_many_connections_are_bounded(broker: Broker, watch: Watch) -> None:
    """Each request takes many times its bytes once it is decoded, and so does its answer."""
    parts = [log_pb2.FetchPartition(topic="x", partition=p) for p in range(10_000)]
    request = log_pb2.FetchRequest(partitions=parts)
    clients = [Client(broker.address) for _ in range(40)]
    calls = []
    try:
        # Encoded answers are under way only of those calls whose requests have memory: a few.
        with watch.unharmed(readers(encoded=22 * MIB) + STREAMS):
            for client in clients:
                calls += [client.log.Fetch(iter([request] * 3), timeout=100) for _ in range(4)]
            with ThreadPoolExecutor(len(calls)) as pool:
                problems = list(pool.map(_first_answer, calls))
        for problem in problems:
            if problem is not None:
                problem.check_typed()
                assert problem.reason == "OVERLOADED" and problem.retry_delay_seconds is not None, problem
        assert problems.count(None) > 0
    finally:
        _end(calls, clients)
    with Client(broker.address) as client:
        (answer,) = list(client.log.Fetch(iter([request]), timeout=30))
        assert len(answer.partitions) == len(parts)


def _encoded_calls(client: Client) -> dict[str, Callable[[bytes], object]]:
    """Calls whose requests are given encoded: as no stub would send them."""
    channel, kept = client.channel, {"request_serializer": bytes, "response_deserializer": bytes}

    def unary(path: str) -> Callable[[bytes], object]:
        return lambda request: channel.unary_unary(path, **kept)(request, timeout=100)

    def stream(path: str) -> Callable[[bytes], object]:
        return lambda request: list(channel.stream_stream(path, **kept)(iter([request]), timeout=100))

    return {
        "publish": unary("/millrace.v1.Messaging/Publish"),
        "publish-stream": stream("/millrace.v1.Messaging/PublishStream"),
        "produce": stream("/millrace.v1.Log/Produce"),
        "list-offsets": unary("/millrace.v1.Log/ListOffsets"),
        "reassign": unary("/millrace.v1.Admin/ReassignPartitions"),
        "alter-configs": unary("/millrace.v1.Admin/AlterConfigs"),
    }


# Per call, the two bytes of an empty item in the list that it has: field number and wire type, and no length.
EMPTY_ITEMS = {
    "publish": b"\x12\0",
    "produce": b"\x22\0",
    "list-offsets": b"\x12\0",
    "reassign": b"\x0a\0",
    "alter-configs": b"\x1a\0",
}


@pytest.mark.parametrize("kind", ["publish", "publish-stream", "produce", "list-offsets", "reassign", "alter-configs"])
def test_millions_of_empty_items_are_refused_before_they_take_memory(broker: Broker, watch: Watch, kind: str) -> None:
    """16 MiB have room for eight million items of two bytes, each with a hundred bytes in memory."""
    if kind == "publish-stream":
        # The same in the request that a request of the stream holds.
        items = EMPTY_ITEMS["publish"] * (7 << 20)
        encoded = b"\x08\1\x12" + unsigned_varint(len(items)) + items
    else:
        encoded = EMPTY_ITEMS[kind] * (8 << 20)
    clients = [Client(broker.address) for _ in range(8)]

    def send(client: Client) -> ApiError:
        with pytest.raises(grpc.RpcError) as raised:
            _encoded_calls(client)[kind](encoded)
        return ApiError.of(raised.value)

    try:
        with watch.unharmed(IDLE + REQUESTS + 9 * CONNECTION), ThreadPoolExecutor(len(clients)) as pool:
            problems = list(pool.map(send, clients))
    finally:
        _end([], clients)
    for problem in problems:
        problem.check_typed()
        assert problem.reason == "MESSAGE_TOO_LARGE", problem
        assert int(problem.metadata["size_bytes"]) > int(problem.metadata["limit_bytes"])
        assert problem.metadata["outcome"] == "not_written"


def test_the_most_messages_that_a_publish_may_have_from_many_at_once(broker: Broker, watch: Watch) -> None:
    """48 calls of a few hundred kilobytes, which are together a gigabyte when decoded: one after the other."""
    count = 100_000
    messages = [types_pb2.Message(value=b"v")] * count
    request = messaging_pb2.PublishRequest(topic="most", messages=messages)
    with Client(broker.address) as client:
        client.create_topic("most", partitions=4, flush="os")
    clients = [Client(broker.address) for _ in range(12)]
    path = "/millrace.v1.Messaging/Publish"
    kept = {"request_serializer": bytes, "response_deserializer": bytes}
    try:
        with watch.unharmed(IDLE + REQUESTS + DECODED + ACKNOWLEDGEMENTS + 13 * CONNECTION):
            encoded = request.SerializeToString()
            calls = [client.channel.unary_unary(path, **kept).future(encoded, timeout=100) for client in clients * 4]
            answers = [messaging_pb2.PublishResponse.FromString(call.result()) for call in calls]
    finally:
        _end([], clients)
    assert {len(answer.positions) for answer in answers} == {count}
    with Client(broker.address) as client:
        assert sum(client.log_end("most", partition) for partition in range(4)) == count * len(answers)


def test_metadata_that_is_not_taken_is_the_same_memory_for_all(broker: Broker) -> None:
    """400 followers of 2,000 partitions."""
    with Client(broker.address) as client:
        for number in range(20):
            client.create_topic(f"wide-{number}", partitions=100)
    clients = [Client(broker.address) for _ in range(2)]
    try:
        assert broker.process is not None
        before = broker.process.rss_anonymous_bytes()
        followed = log_pb2.MetadataRequest(follow=True)
        calls = [clients[number % 2].log.Metadata(followed, timeout=100) for number in range(400)]
        time.sleep(3)
        grown = broker.process.rss_anonymous_bytes() - before
        assert grown < 48 * MIB, f"400 followers take {grown >> 20} MiB"
        versions = {next(call).version for call in calls}
        assert len(versions) == 1
        with Client(broker.address) as client:
            client.create_topic("one-more")
        for call in calls:
            answer = next(call)
            assert len(answer.topics) == 21 and answer.version > max(versions)
    finally:
        for client in clients:
            client.close()


def test_compressed_grpc_messages_are_refused_with_a_typed_error(broker: Broker) -> None:
    with Client(broker.address) as client:
        gzip = grpc.Compression.Gzip
        produce = log_pb2.ProduceRequest(partitions=[log_pb2.ProducePartition(topic="x" * 2000)])
        fetch = log_pb2.FetchRequest(partitions=[log_pb2.FetchPartition(topic="x" * 2000)])
        publish = messaging_pb2.PublishRequest(topic="x" * 2000)
        for call in (
            lambda: list(client.log.Produce(iter([produce]), timeout=10, compression=gzip)),
            lambda: list(client.log.Fetch(iter([fetch]), timeout=10, compression=gzip)),
            lambda: client.messaging.Publish(publish, timeout=10, compression=gzip),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call()
            error = ApiError.of(raised.value)
            error.check_typed()
            assert error.reason == "INVALID_REQUEST" and "identity" in error.message, error


def test_clients_that_vanish_leave_nothing(broker: Broker, watch: Watch) -> None:
    with watch.unharmed(IDLE + 2 * CONNECTION):
        with Client(broker.address) as client:
            client.create_topic("left")
        for _ in range(100):
            client = Client(broker.address)
            stream = PublishStream(client)
            stream.send(1, messaging_pb2.PublishRequest(topic="left", messages=[types_pb2.Message(value=b"x")]))
            reader = client.messaging.Read(messaging_pb2.ReadRequest(topic="left", follow=True), timeout=60)
            next(reader)
            stream.cancel()
            reader.cancel()
            client.close()
        assert broker.process is not None
        deadline = time.monotonic() + 20
        while broker.process.open_files() > 150:
            assert time.monotonic() < deadline, f"{broker.process.open_files()} files are still open"
            time.sleep(0.2)


def test_many_topics_and_partitions_are_light(broker: Broker) -> None:
    with Client(broker.address) as client:
        client.create_topic("first")
        assert broker.process is not None
        before = broker.process.rss_bytes()
        for number in range(10):
            client.create_topic(f"wide-{number}", partitions=100)
        grown = broker.process.rss_bytes() - before
        # 1,000 idle partitions; 64 KiB each would be a lot.
        assert grown < 64 * MIB, f"1,000 partitions take {grown >> 20} MiB"
        client.publish("wide-7", [b"x"], 99)
        assert len(client.read("wide-7", 99)) == 1
