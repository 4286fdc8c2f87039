"""A cluster of one broker becomes one of three, and its topics get three replicas, while it serves; and back again.

On the way a broker is killed while replicas are added, and a move is cancelled.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import paths
from lib.api import Client
from lib.clients import Load
from lib.cluster import Cluster, cluster_of_three
from lib.history import Verdict, check_lines, check_published
from lib.hosts import Loopback, Network
from lib.proc import Process

PARTITIONS = 4
TOPIC = "kept"
LINES = "lines"
LINES_PARTITIONS = 3
RECORDS = 40_000


@pytest.fixture
def cluster(network: Network | Loopback, tmp_path: Path, watched: Callable) -> Iterator[Cluster]:
    """A cluster of one broker, serving; two more wait, whose addresses clients know already."""
    with cluster_of_three(network, tmp_path, watched, start=[0]) as made:
        yield made


def _replicas(cluster: Cluster, topic: str) -> list[list[int]]:
    described = json.loads(cluster.millrace("topic", "describe", topic, json=True).ok())
    return [sorted(partition["replicas"]) for partition in described["partitions"]]


@pytest.mark.timeout(300)
def test_a_cluster_grows_to_three_and_shrinks_again_while_it_serves(cluster: Cluster, tmp_path: Path) -> None:
    with Client(cluster.brokers[0].address) as client:
        client.create_topic(TOPIC, PARTITIONS, replicas=1, min_insync_replicas=2)
        client.create_topic(LINES, LINES_PARTITIONS, replicas=1, min_insync_replicas=2)
    topics = [TOPIC, LINES]
    clients = cluster.network.hosts["clients"]
    seed = random.SystemRandom().randrange(1 << 32)
    load = Load(cluster.bootstrap(), clients, tmp_path, seed, TOPIC, PARTITIONS, LINES, 1000, RECORDS)
    try:
        load.wait_begun()
        _grow(cluster, topics, tmp_path)
        load.check_alive()
        # It is one of three: any of them may go, also the one that was first.
        cluster.brokers[0].kill()
        time.sleep(2.0)
        cluster.start([0])
        cluster.wait_in_sync(topics, replicas=3)
        load.check_alive()
        _shrink(cluster, topics)
        load.finish()
    except BaseException:
        print(f"\nat {time.monotonic():.3f}:\n{cluster.views(topics)}", flush=True)
        raise
    finally:
        load.end()
    addresses = [cluster.brokers[0].address]
    for verdict in (
        check_published(addresses, TOPIC, PARTITIONS, load.folder),
        check_lines(addresses, LINES, LINES_PARTITIONS, load.folder, load.consumed),
    ):
        print(verdict.table())
        _check(verdict)
    assert cluster.brokers[0].stop() == 0


def _check(verdict: Verdict) -> None:
    assert verdict.clean(), f"promises were broken:\n{verdict.table()}"
    assert verdict.acknowledged > verdict.sent // 2 > 0
    assert verdict.seen > verdict.sent // 2, "the consumers saw too little to tell anything"


def _grow(cluster: Cluster, topics: list[str], folder: Path) -> None:
    cluster.start([1, 2])
    # Two do not outlive more than one does: the second vote is given when the third can follow.
    cluster.wait_voters([0, 1, 2])
    assert all(replicas == [0] for topic in topics for replicas in _replicas(cluster, topic))
    rebalance = ("cluster", "rebalance", "--onto", "1,2", "--throttle", "100000000")
    cluster.millrace(*rebalance, "--dry-run").ok()
    assert all(replicas == [0] for topic in topics for replicas in _replicas(cluster, topic))
    cluster.millrace(*rebalance, "--wait", timeout=120).ok()
    held = Counter(replicas[0] for topic in topics for replicas in _replicas(cluster, topic))
    assert max(held.values()) - min(held[broker] for broker in (0, 1, 2)) <= 1, held
    assert b"nothing to move" in cluster.millrace(*rebalance).ok()
    for topic in topics:
        alter = ("topic", "alter", topic, "--replication-factor", "3", "--throttle", "100000000")
        cluster.millrace(*alter).ok()
    _kill_one_and_wait(cluster, topics, folder)
    for topic in topics:
        assert all(replicas == [0, 1, 2] for replicas in _replicas(cluster, topic))
    cluster.wait_in_sync(topics, replicas=3)
    cluster.millrace("partition", "move", TOPIC, "0", "--to", "2,1,0", "--wait", timeout=60).ok()
    cluster.wait_in_sync(topics, replicas=3)


def _kill_one_and_wait(cluster: Cluster, topics: list[str], folder: Path) -> None:
    """Kills a broker while replicas are added: one that gets them, or the one that has all. The same command, given
    again while the broker is down, waits for it and ends well."""
    killed = random.SystemRandom().randrange(3)
    cluster.brokers[killed].kill()
    moving = cluster.describe().health.moving.count
    print(f"broker {killed} was killed with {moving} moves under way", flush=True)
    cluster.wait_available(killed, False)
    others = sorted({0, 1, 2} - {killed})
    command = [paths.binary("millrace"), "--bootstrap", cluster.bootstrap(others), "topic", "alter"]
    waiting = [Process([*command, topic, "-r", "3", "--wait"], folder, f"alter-{topic}") for topic in topics]
    try:
        time.sleep(1.0)
        cluster.start([killed])
        for process in waiting:
            assert process.wait(120) == 0, process.err()
    finally:
        for process in waiting:
            process.kill()


def _cancel_a_move(cluster: Cluster) -> None:
    """A move to a broker that stands still is cancelled: the partition stays where it was, and the copy goes."""
    partition = 1
    (home,) = _replicas(cluster, TOPIC)[partition]
    # The quorum goes on without it.
    to = min({0, 1, 2} - {home, cluster.quorum_leader()})
    move = ["partition", "move", TOPIC, str(partition)]
    process = cluster.brokers[to].process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        cluster.millrace(*move, "--to", str(to)).ok()
        moves = json.loads(cluster.millrace("partition", "moves", TOPIC, json=True).ok())
        assert [(one["partition"], one["adding"], one["removing"]) for one in moves] == [(partition, [to], [home])]
        cluster.millrace(*move, "--cancel").ok()
        assert _replicas(cluster, TOPIC)[partition] == [home]
        assert json.loads(cluster.millrace("partition", "moves", json=True).ok()) == []
    finally:
        os.kill(process.pid, signal.SIGCONT)
    copy = cluster.brokers[to].partition_dir(TOPIC, partition)
    deadline = time.monotonic() + 60
    cluster.wait_available(to, True)
    while copy.exists():
        assert time.monotonic() < deadline, f"broker {to} keeps what it copied: {copy}"
        time.sleep(0.1)


def _drain(cluster: Cluster, brokers: list[int]) -> None:
    """A broker that is to take what they hold may be out of service for a moment, as its disk stalls."""
    deadline = time.monotonic() + 60
    while True:
        drained = cluster.millrace("broker", "drain", *map(str, brokers), "--wait", timeout=120)
        if b"can't be placed" not in drained.err or time.monotonic() > deadline:
            drained.ok()
            return
        time.sleep(0.5)


def _shrink(cluster: Cluster, topics: list[str]) -> None:
    for topic in topics:
        cluster.millrace("topic", "alter", topic, "--replication-factor", "1", "--wait", timeout=120).ok()
        assert all(len(replicas) == 1 for replicas in _replicas(cluster, topic))
    _cancel_a_move(cluster)
    # A broker that holds replicas and a vote is not removed, and the message says what is in the way.
    cluster.millrace("broker", "remove", "2").failed()
    _drain(cluster, [1, 2])
    for topic in topics:
        assert all(replicas == [0] for replicas in _replicas(cluster, topic))
    # Down first: a vote taken from a broker that lives on is given back to it where that makes three.
    assert cluster.brokers[2].stop(60) == 0
    cluster.millrace("quorum", "remove", "2", ids=[0, 1]).ok()
    # Of the two voters left both are needed, so this vote goes while its broker lives.
    cluster.millrace("quorum", "remove", "1", ids=[0, 1]).ok()
    assert cluster.brokers[1].stop(60) == 0
    for broker_id in (1, 2):
        cluster.millrace("broker", "remove", str(broker_id), ids=[0]).ok()
        del cluster.brokers[broker_id]
    assert [broker.broker_id for broker in cluster.describe().brokers] == [0]
    cluster.wait_voters([0])
    cluster.wait_in_sync(topics, replicas=1)
