"""The metadata quorum without a majority, and with just as many voters as it needs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.broker import Broker, millrace
from lib.cluster import Cluster, cluster_of_three
from lib.hosts import Loopback, Network, hosts


@pytest.fixture
def network() -> Iterator[Network | Loopback]:
    """Three hosts for brokers."""
    made = hosts(["h0", "h1", "h2"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(network: Network | Loopback, tmp_path: Path, watched: Callable) -> Iterator[Cluster]:
    """Three brokers that vote."""
    with cluster_of_three(network, tmp_path, watched) as made:
        made.wait_voters([0, 1, 2])
        yield made


def wait_ready(broker: Broker, expected: str) -> None:
    """Waits until /readyz says it."""
    deadline = time.monotonic() + 30
    while (answer := broker.http("/readyz")[2]) != expected:
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


def test_a_broker_without_the_quorums_leader_says_so(cluster: Cluster) -> None:
    leader = cluster.quorum().leader_broker_id
    survivor = cluster.brokers[(leader + 1) % 3]
    others = [broker_id for broker_id in range(3) if cluster.brokers[broker_id] is not survivor]
    assert survivor.http("/readyz")[2] == "ok\n"
    for broker_id in others:
        cluster.brokers[broker_id].kill()
    wait_ready(survivor, "the metadata quorum has no leader\n")
    assert "\nmillrace_metadata_has_leader 0\n" in survivor.http("/metrics")[2]
    text = millrace("cluster", "describe", bootstrap=survivor.address).ok().decode()
    assert "the metadata quorum has no leader: the last sign of one was " in text, text
    assert "leader: none, voting brokers: [0,1,2]" in text, text
    quorum = json.loads(millrace("quorum", "describe", bootstrap=survivor.address, json=True).ok())
    assert quorum["leader_broker_id"] is None and not any(member["leads"] for member in quorum["members"])
    # It is as well with one more.
    cluster.start(others)
    wait_ready(survivor, "ok\n")
    assert "\nmillrace_metadata_has_leader 1\n" in survivor.http("/metrics")[2]


def _gauge(broker: Broker, name: str) -> int:
    (line,) = [line for line in broker.http("/metrics")[2].splitlines() if line.startswith(f"millrace_{name} ")]
    return int(line.split()[1])


def test_what_is_left_with_a_voter_down_is_told(cluster: Cluster) -> None:
    cluster.millrace("topic", "create", "t", "--partitions", "4", "--replication-factor", "3").ok()
    cluster.wait_in_sync(["t"])
    assert sum(_gauge(broker, "led_partitions") for broker in cluster.brokers.values()) == 4
    assert sum(_gauge(broker, "under_replicated_partitions") for broker in cluster.brokers.values()) == 0
    text = cluster.millrace("quorum", "describe").ok().decode()
    assert "all of them are heard; metadata goes on with 1 of them down" in text, text
    down = (cluster.quorum().leader_broker_id + 1) % 3
    cluster.brokers[down].kill()
    left = [broker_id for broker_id in range(3) if broker_id != down]
    deadline = time.monotonic() + 30
    expected = f"broker {down} not heard: metadata stands still when one more is down"
    while expected not in (text := cluster.millrace("quorum", "describe", ids=left).ok().decode()):
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    while sum(_gauge(cluster.brokers[broker_id], "under_replicated_partitions") for broker_id in left) != 4:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert sum(_gauge(cluster.brokers[broker_id], "under_min_isr_partitions") for broker_id in left) == 0


def test_a_voter_may_not_restart_where_all_are_needed(cluster: Cluster) -> None:
    assert cluster.millrace("broker", "may-restart", "0").ok() == b"broker/0 may restart\n"
    cluster.millrace("quorum", "remove", "1").ok()
    cluster.wait_voters([0, 2])
    refused = cluster.millrace("broker", "may-restart", "0", json=True)
    answer = json.loads(refused.out)
    assert not answer["allowed"] and "`millrace quorum add 1`" in answer["reasons"][0], answer
    text = cluster.millrace("broker", "maintenance", "acquire", "0", "--holder", "tester").failed()
    assert "`millrace quorum add 1`" in text, text
    assert cluster.millrace("broker", "may-restart", "1").ok() == b"broker/1 may restart\n"
    cluster.millrace("quorum", "add", "1").ok()
    cluster.wait_voters([0, 1, 2])
    assert cluster.millrace("broker", "may-restart", "0").ok() == b"broker/0 may restart\n"


def test_a_removed_broker_that_comes_back_is_told(cluster: Cluster) -> None:
    removed = cluster.brokers[2]
    assert removed.stop(60) == 0
    cluster.millrace("quorum", "remove", "2", ids=[0, 1]).ok()
    cluster.wait_voters([0, 1])
    cluster.millrace("broker", "remove", "2", ids=[0, 1]).ok()
    removed.launch()
    assert removed.process is not None
    removed.process.wait_for_error("broker 2 was removed from this cluster", 60)
    assert removed.process.wait(30) != 0


def test_a_broker_that_is_removed_while_it_runs_ends(cluster: Cluster) -> None:
    removed = cluster.brokers[2]
    assert removed.process is not None
    cluster.millrace("quorum", "remove", "2").ok()
    cluster.wait_voters([0, 1])
    # Silent when it is removed, so that it needs no force to take it for gone.
    os.kill(removed.process.pid, signal.SIGSTOP)
    cluster.wait_available(2, False)
    cluster.millrace("broker", "remove", "2", ids=[0, 1]).ok()
    os.kill(removed.process.pid, signal.SIGCONT)
    removed.process.wait_for_error("broker 2 was removed from this cluster", 60)
    assert removed.process.wait(30) != 0
