"""A partition whose only clean replica is lost: what is left is taken by a person's word, and what it costs is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.api import Client
from lib.cluster import Cluster, cluster_of_three
from lib.hosts import hosts


@pytest.fixture
def cluster(tmp_path: Path, watched: Callable) -> Iterator[Cluster]:
    """Three brokers that vote; the third holds nothing, and keeps the quorum."""
    network = hosts(["h0", "h1", "h2"])
    try:
        with cluster_of_three(network, tmp_path, watched) as made:
            made.wait_voters([0, 1, 2])
            yield made
    finally:
        network.close()


def _lose_the_clean_one(cluster: Cluster) -> tuple[int, int]:
    """The topic "t" on two brokers: one is away while 5 of 8 messages are acknowledged, then the other goes. Gives who
    was away, and is back, and who had all."""
    with Client(cluster.brokers[2].address) as client:
        client.create_topic("t", replicas=2, min_insync_replicas=1)
    cluster.wait_in_sync(["t"])
    whole = cluster.leader("t")
    (away,) = (id for id in cluster.topic("t").partitions[0].replicas if id != whole)
    with Client(cluster.brokers[whole].address) as client:
        client.publish("t", [b"%d" % number for number in range(3)])
        cluster.wait_in_sync(["t"])
        cluster.brokers[away].kill()
        _wait_in_sync_are(cluster, [whole])
        client.publish("t", [b"%d" % number for number in range(3, 8)])
    # Only with the one that comes back there is a majority again, which takes the lead away from who is gone.
    cluster.brokers[whole].kill()
    cluster.start([away])
    cluster.wait_available(away, True)
    cluster.wait_available(whole, False)
    return away, whole


def _wait_in_sync_are(cluster: Cluster, ids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while list(cluster.topic("t").partitions[0].in_sync_replicas) != ids:
        assert time.monotonic() < deadline, cluster.topic("t")
        time.sleep(0.1)


def _elect(cluster: Cluster, asked: int, *args: str):
    return cluster.millrace(
        "partition", "elect", "t", "0", "--unclean", "--accept-data-loss", *args, ids=[asked], json=True
    )


def test_the_longest_log_that_is_left_leads_and_what_is_lost_is_told(cluster: Cluster) -> None:
    away, whole = _lose_the_clean_one(cluster)
    (idle,) = {0, 1, 2} - {away, whole}
    assert not cluster.topic("t").partitions[0].HasField("leader_id")
    (planned,) = json.loads(_elect(cluster, idle, "--dry-run").ok())
    assert planned["elected"] and planned["leader"] == away, planned
    assert (planned["log_end"], planned["unheard_replicas"]) == (3, [whole]), planned
    assert not cluster.topic("t").partitions[0].HasField("leader_id"), "a dry run elects nobody"

    (elected,) = json.loads(_elect(cluster, idle).ok())
    assert (elected["leader"], elected["log_end"], elected["unheard_replicas"]) == (away, 3, [whole]), elected
    with Client(cluster.brokers[away].address) as client:
        assert [m.message.value for m in client.read("t")] == [b"0", b"1", b"2"]
        client.publish("t", [b"new"])
    # Who had more comes back, gives up what is not the leader's, and follows.
    cluster.start([whole])
    cluster.wait_in_sync(["t"])
    with Client(cluster.brokers[whole].address) as client:
        assert [m.message.value for m in client.read("t")] == [b"0", b"1", b"2", b"new"]


def test_a_broker_in_service_that_does_not_tell_is_not_passed_over(cluster: Cluster) -> None:
    away, whole = _lose_the_clean_one(cluster)
    (idle,) = {0, 1, 2} - {away, whole}
    # Both are in service; the one that is asked for its log's end can't open it.
    damaged = cluster.brokers[whole].partition_dir("t") / "truncate-fully"
    damaged.write_bytes(b"nonsense\n")
    cluster.start([whole])
    cluster.wait_available(whole, True)
    assert not cluster.topic("t").partitions[0].HasField("leader_id")
    refused = _elect(cluster, idle)
    (result,) = json.loads(refused.out)
    assert (result["elected"], result["reason"]) == (False, "BROKER_NOT_READY") and f"[{whole}]" in result["message"]
    assert not cluster.topic("t").partitions[0].HasField("leader_id")
    # By name it is possible all the same.
    (elected,) = json.loads(_elect(cluster, idle, "--to", str(away)).ok())
    assert (elected["leader"], elected["unheard_replicas"]) == (away, [whole]), elected
