"""The measures of three brokers: replicated writes, failover, planned restarts, many idle partitions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import machine
from peer import MIB, ClusterPeer, Peer, wait_until
from peer_kafka_cluster import KafkaCluster, Nodes
from peer_millrace_cluster import MillraceCluster
from results import Figures

from lib.proc import Process

if TYPE_CHECKING:
    from measures import Bench

# Seconds of the steady load before the leader goes: clients have warmed up then.
_BEFORE_SECONDS = 4
# The longest that a producer may take to end behind the time that its load lasts.
_LATE_SECONDS = 180
# Kafka's controller takes no more in one request.
_PARTITIONS_PER_TOPIC = 1000
# Files of one partition that Kafka holds open (log, offset index, time index), with room for more. Millrace does with
# fewer.
_FILES_PER_PARTITION = 6
# How closely a restart is watched.
_LOOK_SECONDS = 0.02


def _peers(bench: Bench, *names: str) -> list[Peer]:
    """The clusters of a measure whose single brokers were asked for, in the order in which they alternate."""
    nodes = Nodes()
    clusters: dict[str, Callable[[], ClusterPeer]] = {
        "kafka": lambda: KafkaCluster(fsync=False, nodes=nodes),
        "kafka-fsync": lambda: KafkaCluster(fsync=True, nodes=nodes),
        "millrace": MillraceCluster,
    }
    return [clusters[name]() for name in names if name in bench.options.peers]


def produce(bench: Bench, only: list[Peer] | None = None) -> None:
    """Records of 1 KiB in batches of 1 MiB, three replicas."""
    # On a RAM disk an fsync is nothing.
    names = ["kafka", "kafka-fsync"] if bench.kind == "disk" else ["kafka"]
    bench.produce_by("cluster-produce", bench.options.cluster, only or _peers(bench, *names, "millrace"))


# --- a leader goes ---


def _until_gone(bench: Bench, peer: ClusterPeer, topic: str, leader: int, go: Callable[[], None]) -> Figures:
    """Runs the steady load, calls `go` in the midst of it, which takes the leader away, and gives
    the longest time that a record waited for its acknowledgement."""
    steady = bench.options.steady
    clients: list[Process] = []
    watched = machine.Watched()
    machine.settle()
    # A restarted broker is another process, which is why the peer is asked again.
    with bench.observe(), machine.other_work(lambda: [*peer.processes(), *clients], watched):
        client = bench.client_process(peer.steady_producer(topic, steady))
        clients.append(client)
        try:
            before = (steady.warmup + _BEFORE_SECONDS * steady.rate) * steady.record_size
            wait_until(
                lambda: peer.stored_bytes(leader, topic) >= before or not client.alive(),
                f"{before} bytes of the load are stored",
                _LATE_SECONDS,
            )
            if client.alive():
                go()
            # What came behind the end of the load nobody waited for.
            ended = not client.alive()
            code = client.wait(steady.seconds + _LATE_SECONDS)
        finally:
            client.kill()
    if code != 0:
        raise RuntimeError(f"the producer lost records (exit code {code}): {client.err()[-3000:]}")
    longest = peer.longest_wait(client.out(), steady)
    if ended:
        raise RuntimeError(f"the load of {steady.seconds} s ended before the broker was gone and back")
    return {"longest_wait_seconds": longest, "other_cores": watched.other_cores}


def _failover(bench: Bench, measure: str, of_metadata: bool, only: list[Peer] | None) -> None:
    """kill -9 of the leader of a partition, which leads the metadata quorum as well or does not."""
    runs = 0

    def run(peer: Peer) -> Figures:
        nonlocal runs
        assert isinstance(peer, ClusterPeer)
        runs += 1
        topic = f"{measure}-{runs}"
        metadata = peer.metadata_leader()
        leader = metadata if of_metadata else (metadata + 1) % peer.brokers
        peer.create_led_topic(topic, leader)
        killed = False

        def kill() -> None:
            nonlocal killed
            peer.kill(leader)
            killed = True

        try:
            figures = _until_gone(bench, peer, topic, leader, kill)
        finally:
            if killed:
                peer.launch(leader)
        peer.wait_whole()
        peer.check_high_watermark(topic, bench.options.steady.stored)
        peer.delete_topic(topic)
        return figures

    with bench.started(measure, only or _peers(bench, "kafka", "millrace")) as serving:
        bench.alternate(measure, serving, run, bench.rules(warmups=0))


def failover(bench: Bench, only: list[Peer] | None = None) -> None:
    """kill -9 of a leader under load, which does not lead the metadata quorum."""
    _failover(bench, "failover", False, only)


def failover_metadata(bench: Bench, only: list[Peer] | None = None) -> None:
    """kill -9 of a leader under load, which leads the metadata quorum as well."""
    _failover(bench, "failover-metadata", True, only)


def planned_restart(bench: Bench, only: list[Peer] | None = None) -> None:
    """SIGTERM of a leader under load, and its start once it has ended."""
    measure, runs = "planned-restart", 0

    def run(peer: Peer) -> Figures:
        nonlocal runs
        assert isinstance(peer, ClusterPeer)
        runs += 1
        topic = f"{measure}-{runs}"
        # Over the runs each broker has its turn: the one that leads the metadata as well.
        leader = runs % peer.brokers
        peer.create_led_topic(topic, leader)

        def restart() -> None:
            peer.stop(leader)
            peer.launch(leader)
            wait_until(lambda: peer.serves(leader), f"broker {leader} is ready again")

        figures = _until_gone(bench, peer, topic, leader, restart)
        peer.wait_whole()
        peer.check_high_watermark(topic, bench.options.steady.stored)
        peer.delete_topic(topic)
        return figures

    with bench.started(measure, only or _peers(bench, "kafka", "millrace")) as serving:
        bench.alternate(measure, serving, run, bench.rules(warmups=0))


# --- many partitions, no load ---


def _restart_seconds(peer: ClusterPeer, broker: int) -> tuple[float, machine.Watched]:
    """From the start of a broker that was stopped until it serves and all replicas are in sync."""
    peer.stop(broker)
    # Else one could be told what was so before.
    wait_until(lambda: not peer.all_in_sync(), f"the others know that broker {broker} is gone")
    machine.settle()
    with machine.watch_short(peer.processes) as watched:
        started = time.monotonic()
        peer.launch(broker)
        peer.wait_whole(600, _LOOK_SECONDS)
        seconds = time.monotonic() - started
    return seconds, watched


def partitions(bench: Bench, only: list[Peer] | None = None) -> None:
    """What partitions cost that nobody uses: CPU, memory, a restart. Each has three replicas, so
    that each broker holds all of them."""
    o = bench.options
    measure = "cluster-partitions"
    empty: dict[str, list[int]] = {}
    runs = 0

    def fill(peer: Peer) -> None:
        empty[peer.name] = [process.rss_bytes() for process in peer.processes()]
        left, number = o.idle_partitions, 0
        while left > 0:
            peer.create_topic(f"idle-{number}", min(left, _PARTITIONS_PER_TOPIC))
            left, number = left - _PARTITIONS_PER_TOPIC, number + 1
        assert isinstance(peer, ClusterPeer)
        peer.wait_whole(600)

    def idle(peer: ClusterPeer) -> Figures:
        machine.settle()
        processes = peer.processes()
        before = [process.cpu_seconds() for process in processes]
        watched = machine.Watched()
        with machine.other_work(lambda: processes, watched):
            time.sleep(o.idle_seconds)
        used = [process.cpu_seconds() - cpu for process, cpu in zip(processes, before, strict=True)]
        grown = [process.rss_bytes() - rss for process, rss in zip(processes, empty[peer.name], strict=True)]
        # Of the broker that needs most.
        return {
            "cpu_percent": 100 * max(used) / watched.seconds,
            "rss_kib_per_partition": max(grown) / 1024 / o.idle_partitions,
            "rss_mib": max(process.rss_bytes() for process in processes) / MIB,
            "other_cores": watched.other_cores,
        }

    def run(peer: Peer) -> Figures:
        nonlocal runs
        assert isinstance(peer, ClusterPeer)
        broker = runs % peer.brokers
        runs += 1
        with bench.observe():
            figures = idle(peer)
            seconds, restarted = _restart_seconds(peer, broker)
        figures["other_cores"] = max(figures["other_cores"], restarted.other_cores)
        return {**figures, "restart_seconds": seconds}

    names = ["kafka", "millrace"] if o.idle_kafka else ["millrace"]
    peers = only or _peers(bench, *names)
    machine.allow_open_files(o.idle_partitions * _FILES_PER_PARTITION)
    with bench.started(measure, peers) as serving:
        ready = bench.prepared(measure, serving, fill)
        bench.alternate(measure, ready, run, bench.rules(warmups=0))


# In the order of the table.
MEASURES: dict[str, Callable[..., None]] = {
    "cluster-produce": produce,
    "failover": failover,
    "failover-metadata": failover_metadata,
    "planned-restart": planned_restart,
    "cluster-partitions": partitions,
}
