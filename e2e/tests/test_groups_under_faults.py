"""A group of members in two languages whose processes are killed, on brokers that are killed, under load.

Every acknowledged message is delivered, in order within a partition and owner; no committed offset goes back; no
partition has two owners.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import paths
from lib.api import Client
from lib.cluster import Cluster, cluster_of_three
from lib.faults import Faults
from lib.group_fleet import Fleet, Watcher, python_member, rust_member
from lib.group_history import check_group, lines
from lib.hosts import Loopback, Network
from lib.proc import Process

TOPIC = "work"
GROUP = "workers"
OFFSETS = "__consumer_offsets"
PARTITIONS = 60
MEMBERS = 20
RATE = 600


@pytest.fixture
def cluster(network: Network | Loopback, tmp_path: Path, watched: Callable) -> Iterator[Cluster]:
    """Three brokers, all of which vote."""
    with cluster_of_three(network, tmp_path, watched) as made:
        made.seed_the_first()
        made.wait_voters([0, 1, 2])
        yield made


def _producer(cluster: Cluster, folder: Path, seed: int) -> Process:
    folder.mkdir()
    env = {key: value for key, value in os.environ.items() if key.startswith("MILLRACE_")}
    env |= {"PYTHONPATH": str(paths.REPO / "e2e"), "GRPC_ENABLE_FORK_SUPPORT": "false"}
    flags = ["--bootstrap", cluster.bootstrap(), "--topic", TOPIC, "--partitions", str(PARTITIONS)]
    flags += ["--rate", str(RATE), "--seed", str(seed), "--folder", str(folder), "--patience=300"]
    command = [*cluster.network.hosts["clients"].prefix, sys.executable, "-m", "lib.load", "publish", *flags]
    return Process(command, folder, "publish", env=env, stdin=subprocess.PIPE)


def _plan(fleet: Fleet, faults: Faults, rng: random.Random) -> list[Callable[[], None]]:
    """What is done once around, in an order by chance."""

    def to_members(what: Callable[[random.Random], str]) -> Callable[[], None]:
        def do() -> None:
            time.sleep(rng.uniform(0.3, 1.5))
            print(f"{time.time():.3f} {what.__name__}: {what(rng)}", flush=True)

        return do

    def to_brokers(what: Callable[[], str]) -> Callable[[], None]:
        return lambda: faults.run(what)

    plan = [to_members(fleet.some_are_killed) for _ in range(4)] + [to_members(fleet.some_leave) for _ in range(2)]
    plan += [
        to_brokers(faults.a_broker_is_killed),
        to_brokers(faults.a_leader_is_killed_and_stays_away),
        to_brokers(faults.the_quorum_leader_is_killed),
    ]
    rng.shuffle(plan)
    return plan


def _run(cluster: Cluster, folder: Path, seconds: float) -> None:
    seed = int(os.environ.get("MILLRACE_E2E_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed} (MILLRACE_E2E_SEED={seed} repeats it); hosts are {cluster.network.what}", flush=True)
    rng = random.Random(seed)
    with Client(cluster.brokers[0].address) as client:
        client.create_topic(TOPIC, PARTITIONS, replicas=3, min_insync_replicas=2)
    cluster.wait_in_sync([TOPIC])
    load = folder / "load"
    producer = _producer(cluster, load, seed)
    fleet = Fleet(cluster.bootstrap(), cluster.network.hosts["clients"], folder, GROUP, TOPIC)
    watcher = Watcher(cluster.bootstrap(), GROUP)

    def check_alive() -> None:
        fleet.check_alive()
        code = producer.returncode()
        assert code is None or (code == 0 and ended), f"the producer ended with {code}: {producer.err()[-3000:]}"

    ended = False
    try:
        for number in range(MEMBERS):
            fleet.start(rust_member if number % 2 else python_member)
        # Once there is something committed, there is the topic of offsets.
        watcher.wait_committed({0: 1}, 120, check_alive)
        faults = Faults(cluster, rng, [TOPIC, OFFSETS], "clients", None, 0.0)
        until = time.monotonic() + seconds
        first = True
        while first or time.monotonic() < until:
            for do in _plan(fleet, faults, rng):
                if first or time.monotonic() < until:
                    do()
                    check_alive()
            first = False
        ended = True
        assert producer.stdin is not None
        producer.stdin.close()
        assert producer.wait(300) == 0, producer.err()[-3000:]
        cluster.wait_in_sync([TOPIC])
        with Client(cluster.brokers[0].address) as client:
            ends = {p.partition: p.high_watermark for p in client.describe(TOPIC).partitions}
        took = watcher.wait_committed(ends, 180, check_alive)
        print(f"all was committed {took:.1f} s after the last message", flush=True)
        fleet.leave(list(fleet.running))
        watcher.stop()
    except BaseException:
        print(f"\nat {time.time():.3f}:\n{cluster.views([TOPIC])}", flush=True)
        print(cluster.millrace("group", "describe", GROUP, "--members").out.decode(), flush=True)
        raise
    finally:
        fleet.end()
        producer.kill()
    verdict = check_group(fleet.lives, watcher.observed, load, PARTITIONS)
    lost = sum(line.get("event") == "lost" for life in fleet.lives for line in lines(life.out))
    print(f"{len(fleet.lives)} processes, which lost partitions {lost} times\n{verdict.table()}")
    assert verdict.clean(), f"seed {seed}: promises were broken\n{verdict.table()}"
    assert verdict.acknowledged > 0 and verdict.commits > 0 and verdict.observed > 0
    assert verdict.stretches > PARTITIONS, "partitions never went to another member"


@pytest.mark.timeout(600)
def test_members_and_brokers_are_killed_for_a_minute(cluster: Cluster, tmp_path: Path) -> None:
    _run(cluster, tmp_path, 60)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_members_and_brokers_are_killed_for_long(cluster: Cluster, tmp_path: Path) -> None:
    _run(cluster, tmp_path, 300)
