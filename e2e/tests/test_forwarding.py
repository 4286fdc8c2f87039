"""Any broker answers any call of Messaging: plain stubs against each of three brokers, and leaders that die."""

from __future__ import annotations

import random
import threading
import time

import grpc
import pytest

from lib.api import ApiError, Client, PublishStream, admin_pb2, call, expect_error, messaging_pb2, types_pb2
from lib.broker import Broker
from lib.checker import FollowingReader, StreamProducer, check


@pytest.fixture
def cluster(three_brokers: list[Broker]) -> list[Broker]:
    """Three brokers in service, all of them voters."""
    return three_brokers


def create(broker: Broker, name: str, partitions: int) -> None:
    """A topic with a replica on each broker."""
    with Client(broker.address) as client:
        request = admin_pb2.CreateTopicRequest(name=name, partitions=partitions, replication_factor=3)
        call(client.admin.CreateTopic, request)


def leader_of(broker: Broker, topic: str, partition: int = 0) -> int:
    """The broker that leads a partition, as another one sees it."""
    with Client(broker.address) as client:
        return client.describe(topic).partitions[partition].leader_id


def test_plain_stubs_at_each_broker(cluster: list[Broker]) -> None:
    create(cluster[0], "orders", 3)
    for number, broker in enumerate(cluster):
        with Client(broker.address) as client:
            for partition in range(3):
                [position] = client.publish("orders", [b"from %d" % number], partition)
                assert (position.partition, position.offset) == (partition, number)
    for broker in cluster:
        with Client(broker.address) as client:
            for partition in range(3):
                values = [m.message.value for m in client.read("orders", partition, 0)]
                assert values == [b"from 0", b"from 1", b"from 2"]
            everything = client.read("orders")
            assert len(everything) == 9
            for described in client.describe("orders").partitions:
                assert described.log_end == 3 and described.size_bytes > 0 and not described.problem
            # The same errors as at the leader, typed.
            for partition in range(3):
                request = messaging_pb2.PublishRequest(
                    topic="orders",
                    partition=partition,
                    expected_offset=1,
                    messages=[types_pb2.Message(value=b"no")],
                )
                error = expect_error(client.messaging.Publish, request)
                assert error.reason == "OFFSET_MISMATCH"
                assert (error.metadata["end_offset"], error.metadata["outcome"]) == ("3", "not_written")
    # Of several writers that expect the same offset, through different brokers, one succeeds.
    won = 0
    for broker in cluster:
        with Client(broker.address) as client:
            try:
                client.publish("orders", [b"mine"], 0, expected_offset=3)
                won += 1
            except ApiError as error:
                assert error.reason == "OFFSET_MISMATCH"
    assert won == 1


def test_messages_deleted_through_any_broker(cluster: list[Broker]) -> None:
    create(cluster[0], "old", 1)
    for at, broker in enumerate(cluster):
        with Client(broker.address) as client:
            client.publish("old", [b"a", b"b"])
            request = admin_pb2.DeleteMessagesRequest(topic="old", partition=0, before_offset=2 * at + 1)
            assert call(client.admin.DeleteMessages, request).log_start == 2 * at + 1
            too_far = admin_pb2.DeleteMessagesRequest(topic="old", partition=0, before_offset=99)
            assert expect_error(client.admin.DeleteMessages, too_far).reason == "OFFSET_OUT_OF_RANGE"


def test_leaders_killed_under_streams_at_other_brokers(cluster: list[Broker]) -> None:
    """Producers and readers talk to one broker, which never dies; the others die in turn, with what they lead."""
    create(cluster[0], "orders", 3)
    stays = cluster[0]
    producers = [StreamProducer(stays.address, "orders", p, seed=p).start() for p in range(3)]
    readers = [FollowingReader(stays.address, "orders", p).start() for p in range(3)]
    for victim in (1, 2, 1):
        time.sleep(1.0)
        acked = [len(p.acked) for p in producers]
        cluster[victim].kill()
        deadline = time.monotonic() + 30
        while any(len(p.acked) == before for p, before in zip(producers, acked, strict=True)):
            for producer in producers:
                if producer.failure is not None:
                    raise producer.failure
            assert time.monotonic() < deadline, "a stream stands still after a leader was killed"
            time.sleep(0.01)
        time.sleep(1.0)
        cluster[victim].start()
        # Two of three must be in sync before the next one goes.
        with Client(stays.address) as client:
            deadline = time.monotonic() + 60
            while any(len(p.in_sync_replicas) < 3 for p in client.describe("orders").partitions):
                assert time.monotonic() < deadline, "a broker does not come back into the in-sync sets"
                time.sleep(0.05)
    for producer in producers:
        producer.stop()
        assert producer.breaks == 0, "the broker that stayed has ended a stream, or answered an error"
    for reader in readers:
        reader.stop()
        assert reader.seen
    for broker in cluster:
        with Client(broker.address) as client:
            assert check(client, producers, readers) > 0


def test_one_follow_goes_on_over_a_failover(cluster: list[Broker]) -> None:
    """One call of Read, not one after the other: it neither ends, nor leaves out or repeats a message."""
    create(cluster[0], "orders", 1)
    leader = leader_of(cluster[0], "orders")
    reader, writer = (broker for number, broker in enumerate(cluster) if number != leader)
    with Client(reader.address) as reading, Client(writer.address) as writing:
        stream = PublishStream(writing)
        messages = reading.read_stream("orders", 0, 0, timeout=110, follow=True)
        for number in range(1, 61):
            if number == 20:
                cluster[leader].kill()
            request = messaging_pb2.PublishRequest(
                topic="orders", partition=0, messages=[types_pb2.Message(value=b"%d" % number)]
            )
            stream.send(number, request)
            answer = stream.next_answer(60)
            assert answer is not None and answer.WhichOneof("result") == "published", str(answer)
            message = next(messages)
            assert (message.offset, message.message.value) == (number - 1, b"%d" % number)
        stream.finish()


def test_a_stream_is_resumed_at_each_broker(cluster: list[Broker]) -> None:
    create(cluster[0], "orders", 1)
    leader = leader_of(cluster[0], "orders")
    token, number = None, 0
    unanswered: list[int] = []

    def request(number: int) -> messaging_pb2.PublishRequest:
        message = types_pb2.Message(value=b"%d" % number)
        return messaging_pb2.PublishRequest(topic="orders", partition=0, messages=[message])

    for round_number in range(6):
        if round_number == 3:
            cluster[leader].kill()
        alive = [b for at, b in enumerate(cluster) if round_number < 3 or at != leader]
        with Client(alive[round_number % len(alive)].address) as client:
            stream = PublishStream(client, token)
            token = stream.token
            for again in unanswered:
                stream.send(again, request(again))
            for _ in range(20):
                number += 1
                unanswered.append(number)
                stream.send(number, request(number))
            for _ in range(len(unanswered) if round_number == 5 else 7):
                answer = stream.next_answer(60)
                assert answer is not None and answer.WhichOneof("result") == "published", str(answer)
                assert answer.id == unanswered.pop(0)
                assert answer.published.positions[0].offset == answer.id - 1
            stream.cancel()
    for broker in (b for at, b in enumerate(cluster) if at != leader):
        with Client(broker.address) as client:
            stored = [int(m.message.value) for m in client.read("orders", 0, 0)]
            assert stored == list(range(1, number + 1))


def test_what_is_passed_on_counts_when_its_caller_has_gone(cluster: list[Broker]) -> None:
    """Calls that give up soon leave large batches on their way to the leader: those wait for memory like all."""
    create(cluster[0], "left", 1)
    leader = leader_of(cluster[0], "left")
    other = next(broker for number, broker in enumerate(cluster) if number != leader)
    message = types_pb2.Message(value=random.Random(1).randbytes(7 << 20))
    request = messaging_pb2.PublishRequest(topic="left", partition=0, messages=[message])
    assert other.process is not None
    other.process.reset_rss_peak()
    ends = time.monotonic() + 6

    def give_up_again_and_again() -> None:
        with Client(other.address) as client:
            while time.monotonic() < ends:
                try:
                    client.messaging.Publish(request, timeout=0.1)
                except grpc.RpcError:
                    pass

    threads = [threading.Thread(target=give_up_again_and_again, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert other.process.rss_peak_bytes() < 260 << 20
    with Client(other.address) as client:
        answer = call(client.messaging.Publish, request)
        assert answer.positions[0].offset >= 0
