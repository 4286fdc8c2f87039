"""Stored data that is damaged while its broker serves."""

from __future__ import annotations

import time

from lib.api import Client, admin_pb2, call, expect_error, messaging_pb2, types_pb2
from lib.broker import Broker

TOPIC = "orders"
MESSAGES = [b"%d " % number * 100 for number in range(200)]


def segment_of(broker: Broker) -> bytes:
    """All that the partition holds on a broker's disk."""
    return (broker.partition_dir(TOPIC, 0) / f"{0:020}.log").read_bytes()


def flip_a_byte_in_the_middle(broker: Broker) -> None:
    """Under the broker that runs."""
    path = broker.partition_dir(TOPIC, 0) / f"{0:020}.log"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x40]))


def test_a_leader_that_meets_damage_is_replaced_and_fetches_it_again(three_brokers: list[Broker]) -> None:
    with Client(three_brokers[0].address) as client:
        request = admin_pb2.CreateTopicRequest(name=TOPIC, partitions=1, replication_factor=3)
        call(client.admin.CreateTopic, request)
        for message in MESSAGES:
            client.publish(TOPIC, [message], 0)
        leader = client.describe(TOPIC).partitions[0].leader_id
        flip_a_byte_in_the_middle(three_brokers[leader])
        # The read that meets it is told.
        start = types_pb2.Start(offset=0)
        asked = messaging_pb2.ReadRequest(topic=TOPIC, start=start)
        error = expect_error(client.messaging.Read, asked)
        assert error.reason == "DAMAGED_LOG", error
        # Nobody restarts anything.
        deadline = time.monotonic() + 60
        while True:
            described = client.describe(TOPIC).partitions[0]
            if described.leader_id != leader and len(described.in_sync_replicas) == 3 and not described.problem:
                break
            assert time.monotonic() < deadline, described
            time.sleep(0.1)
        assert [received.message.value for received in client.read(TOPIC, 0, 0)] == MESSAGES
        client.publish(TOPIC, [b"one more"], 0)
        whole = segment_of(three_brokers[described.leader_id])
        while segment_of(three_brokers[leader]) != whole:
            assert time.monotonic() < deadline, "the damaged replica holds something else"
            time.sleep(0.1)
        assert client.log_end(TOPIC) == len(MESSAGES) + 1
