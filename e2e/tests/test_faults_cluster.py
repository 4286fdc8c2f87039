"""Three brokers on hosts of their own, under load, while processes, networks and disks fail.

Nothing that was acknowledged with acks=all is lost, doubled or moved, and nothing that a consumer
was shown goes away: topics have three replicas, two must be in sync, and writes are forced to the disk before
they are acknowledged, which promises to survive all of what is done here.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import paths
from lib.api import Client
from lib.clients import Load
from lib.cluster import Cluster
from lib.faults import Faults
from lib.history import check_lines, check_published
from lib.hosts import Loopback, Network, hosts

MIB = 1 << 20
PARTITIONS = 6
TOPIC = "kept"
LINES = "lines"
LINES_PARTITIONS = 3
# Far beyond a session's end.
FROZEN_SECONDS = 20.0


@pytest.fixture
def network() -> Iterator[Network | Loopback]:
    """Four hosts for brokers, one for clients."""
    made = hosts(["h0", "h1", "h2", "h3", "clients"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system in a file, so that a disk can be filled."""
    if os.geteuid() != 0:
        raise paths.Missing("mounting a small file system needs root")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(4096 * MIB if request.node.get_closest_marker("long") else 1024 * MIB)
    # No blocks kept for root: the broker under test runs as root and would get them.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        raise paths.Missing(f"can't mount a loop device here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cluster(network: Network | Loopback, small_disk: Path, tmp_path: Path, watched: Callable) -> Iterator[Cluster]:
    """Three brokers on three hosts, and one not started yet; broker 2's data is on the small disk."""
    made = Cluster(network, tmp_path, watched)
    try:
        for broker_id in range(4):
            made.add(broker_id, f"h{broker_id}", small_disk / "data" if broker_id == 2 else None)
        made.start([0, 1, 2])
        made.seed_the_first()
        # Before all three vote, one of two that do can't be lost.
        made.wait_voters([0, 1, 2])
        yield made
    finally:
        made.end()


def _create_topics(cluster: Cluster) -> None:
    with Client(cluster.brokers[0].address) as client:
        client.create_topic(TOPIC, PARTITIONS, replicas=3, min_insync_replicas=2, segment_bytes=4 * MIB)
        client.create_topic(LINES, LINES_PARTITIONS, replicas=3, min_insync_replicas=2, segment_bytes=4 * MIB)
    cluster.wait_in_sync([TOPIC, LINES])


def _plan(faults: Faults, network: Network | Loopback, rng: random.Random, rounds: int) -> list[Callable[[], str]]:
    """Faults in an order by chance; at the end those that change who there is."""
    plan: list[Callable[[], str]] = []
    for _ in range(rounds):
        part = [
            faults.a_broker_is_killed,
            faults.a_leader_is_killed_and_stays_away,
            faults.the_quorum_leader_is_killed,
            faults.all_brokers_are_killed,
            faults.a_leader_is_frozen,
            faults.a_leader_is_cut_off,
            faults.a_disk_is_full,
            faults.a_disk_is_wiped,
            faults.two_disks_are_swapped,
            faults.a_disk_goes_back_a_moment,
            faults.a_disk_goes_back_a_life,
            faults.a_bit_flips_at_rest,
        ]
        if network.pairs:
            part += [
                faults.a_leader_is_cut_off_from_brokers_only,
                faults.a_leader_is_not_heard,
                faults.a_broker_hears_nothing,
                faults.two_brokers_are_parted,
                faults.an_answer_way_is_cut,
            ]
        rng.shuffle(part)
        plan += part
    return [
        *plan,
        faults.brokers_are_restarted_in_turn,
        faults.a_broker_dies_while_it_is_drained,
        faults.a_voter_is_lost_for_good,
    ]


def _run(cluster: Cluster, small_disk: Path, folder: Path, records: int, rate: float, rounds: int) -> None:
    seed = int(os.environ.get("MILLRACE_E2E_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed} (MILLRACE_E2E_SEED={seed} repeats it); hosts are {cluster.network.what}", flush=True)
    rng = random.Random(seed)
    _create_topics(cluster)
    clients = cluster.network.hosts["clients"]
    load = Load(cluster.bootstrap(), clients, folder, seed, TOPIC, PARTITIONS, LINES, rate, records)
    faults = Faults(cluster, rng, [TOPIC, LINES], "clients", (2, small_disk), FROZEN_SECONDS)
    try:
        load.wait_begun()
        for fault in _plan(faults, cluster.network, rng, rounds):
            faults.run(fault)
            load.check_alive()
        load.finish()
    except BaseException:
        print(f"\nat {time.monotonic():.3f}:\n{cluster.views([TOPIC, LINES])}", flush=True)
        raise
    finally:
        load.end()
        print(f"\nseed {seed}\n{faults.table(load.folder, PARTITIONS)}", flush=True)
    cluster.wait_in_sync([TOPIC, LINES])
    addresses = cluster.bootstrap().split(",")
    kept = check_published(addresses, TOPIC, PARTITIONS, load.folder)
    lines = check_lines(addresses, LINES, LINES_PARTITIONS, load.folder, load.consumed)
    print(f"publish streams, {PARTITIONS} partitions:\n{kept.table()}millrace produce and consume:\n{lines.table()}")
    assert kept.clean() and lines.clean(), f"seed {seed}: promises were broken\n{kept.table()}{lines.table()}"
    assert kept.acknowledged >= records and lines.acknowledged > 0
    assert kept.refused > 0, "no producer has met the full disk of a leader"
    assert kept.seen > kept.sent // 2 and lines.seen > lines.sent // 2, "the consumers saw too little to tell anything"
    _check_replicas(cluster)


def _check_replicas(cluster: Cluster) -> None:
    """After a stop in order, the files of all replicas are sound and hold the same records."""
    started = [broker for broker in cluster.brokers.values() if broker.process is not None]
    for broker in started:
        assert broker.process is not None
        broker.process.terminate()
    for broker in started:
        assert broker.process is not None and broker.process.wait(60) == 0, broker.name
    for topic, count in ((TOPIC, PARTITIONS), (LINES, LINES_PARTITIONS)):
        for partition in range(count):
            dumps = set()
            for broker in started:
                folder = str(broker.partition_dir(topic, partition))
                done = subprocess.run(
                    [paths.binary("millrace"), "log", "verify", folder], capture_output=True, text=True
                )
                assert done.returncode == 0, f"{folder}: {done.stdout}{done.stderr}"
                dumps.add(_batches(broker.partition_dir(topic, partition)))
            assert len(dumps) == 1, f"the replicas of {topic}/{partition} differ"


def _batches(folder: Path) -> int:
    """A hash of a partition's record batches, as they lie in its segments one after the other."""
    data = b""
    for segment in sorted(folder.glob("*.log")):
        bytes_ = segment.read_bytes()
        at = 0
        # A segment may be longer than what is written: what follows the last batch is zeros.
        while at + 12 <= len(bytes_) and int.from_bytes(bytes_[at + 8 : at + 12], "big") > 0:
            at += 12 + int.from_bytes(bytes_[at + 8 : at + 12], "big")
        data += bytes_[:at]
    return hash(data)


@pytest.mark.timeout(600)
def test_faults_of_all_kinds_lose_double_and_move_nothing(cluster: Cluster, small_disk: Path, tmp_path: Path) -> None:
    _run(cluster, small_disk, tmp_path, records=200_000, rate=1800, rounds=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_faults_for_long(cluster: Cluster, small_disk: Path, tmp_path: Path) -> None:
    _run(cluster, small_disk, tmp_path, records=2_000_000, rate=3000, rounds=5)
