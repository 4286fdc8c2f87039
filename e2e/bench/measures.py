"""The measures: what is done to each broker, and which figures come of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import clusters
import groups
import limits
import machine
import parse
import rounds
from peer import MIB, FullPeer, Load, Peer, Steady
from peer_kafka import Kafka
from peer_millrace import Millrace
from peer_nats import Nats
from results import Figures, Results, Run

from lib.api import ApiError
from lib.proc import Process

PEERS: dict[str, Callable[[], Peer]] = {
    "kafka": lambda: Kafka(fsync=False),
    "kafka-fsync": lambda: Kafka(fsync=True),
    "nats": lambda: Nats(fsync=False),
    "nats-fsync": lambda: Nats(fsync=True),
    "millrace": Millrace,
}
# The longest that one client may take.
_CLIENT_SECONDS = 600
_ERRORS = (*rounds.RUN_ERRORS, subprocess.SubprocessError, ApiError, AssertionError)


@dataclass
class Options:
    """How much is measured."""

    rules: rounds.Rules
    large: Load
    small: Load
    wide: Load
    recovery: Load
    # What three brokers get: the large load of cluster-produce, the steady one while a leader goes.
    cluster: Load
    steady: Steady
    # Partitions that idle on three brokers, how long they are watched, whether Kafka's as well.
    idle_partitions: int
    idle_seconds: int
    idle_kafka: bool
    # Records per second of the latency measure, and how many seconds it lasts.
    rate: int
    latency_seconds: int
    starts: int
    tcp_mib: int
    disk_mib: int
    # Names of PEERS that are measured.
    peers: list[str]
    # Where the clients' output is kept.
    logs: Path

    @property
    def need_bytes(self) -> int:
        """Free space that the runs can need: three brokers with the largest load each, and one
        more while it is deleted; or two loads of three replicas."""
        return int(max(4 * self.large.mib, 4 * self.recovery.mib, 6 * self.cluster.mib) * 1.1) * MIB


class Bench:
    """Runs measures in one storage folder."""

    def __init__(self, options: Options, results: Results, kind: str, folder: Path) -> None:
        self.options, self.results, self.kind, self.folder = options, results, kind, folder
        self._runs = 0
        # The client of the last run, and what else stands around each measured part: for a profile.
        self.client: Process | None = None
        self.observe: Callable[[], AbstractContextManager[None]] = nullcontext

    # --- one run ---

    def client_process(self, command: list[str]) -> Process:
        """Starts a client, whose output is kept."""
        self._runs += 1
        self.client = Process(command, self.options.logs, f"client-{self.kind}-{self._runs:03}")
        return self.client

    def _client(self, command: list[str], peer: Peer, measured: bool = True) -> tuple[str, Figures]:
        """Runs a client to its end; gives its output and the figures common to all runs.

        Not `measured`: it only prepares what is.
        """
        machine.settle()
        clients: list[Process] = []
        observed = self.observe() if measured else nullcontext()
        with observed, machine.watch(peer.processes(), clients) as watched:
            client = self.client_process(command)
            clients.append(client)
            try:
                code = client.wait(_CLIENT_SECONDS)
            finally:
                client.kill()
        if code != 0:
            raise RuntimeError(f"{' '.join(command[:8])} ... ended with {code}: {client.err()[-3000:]}")
        return client.out(), {
            "broker_cpu_seconds": watched.broker_cpu,
            "client_cpu_seconds": client.cpu_seconds(),
            "other_cores": watched.other_cores,
            "rss_peak_mib": watched.rss_peak / MIB,
            "rss_typical_mib": watched.rss_typical / MIB,
        }

    @contextmanager
    def started(self, measure: str, peers: list[Peer]) -> Iterator[list[Peer]]:
        """Starts the peers that can be; one that can't is noted and left out. Ends all."""
        tried: list[Peer] = []
        serving: list[Peer] = []
        try:
            for peer in peers:
                tried.append(peer)
                try:
                    peer.start(self.folder)
                    serving.append(peer)
                except _ERRORS as error:
                    self.options.rules.say(f"{measure} {self.kind} {peer.name} FAILED to start: {error}")
                    self.results.fail(measure, self.kind, peer.name, f"did not start: {error}")
            yield serving
        finally:
            for peer in tried:
                peer.end()

    def prepared(self, measure: str, peers: list[Peer], prepare: Callable[[Peer], None]) -> list[Peer]:
        """Those of the peers for which `prepare` went well; the others are noted."""
        ready = []
        for peer in peers:
            try:
                prepare(peer)
                ready.append(peer)
            except _ERRORS as error:
                self.options.rules.say(f"{measure} {self.kind} {peer.name} FAILED before its first run: {error}")
                self.results.fail(measure, self.kind, peer.name, f"{type(error).__name__}: {error}")
        return ready

    def alternate(
        self, measure: str, peers: list[Peer], run: Callable[[Peer], Figures], rules: rounds.Rules | None = None
    ) -> None:
        """Runs a measure of the peers in turn."""
        rounds.alternate(self.results, measure, self.kind, peers, run, rules or self.options.rules, _ERRORS)

    def rules(self, **changed: int) -> rounds.Rules:
        """The rules of all measures with what is different in one."""
        return rounds.Rules(**{**vars(self.options.rules), **changed})

    def _peers(self, *names: str) -> list[Peer]:
        """The peers of a measure that were asked for, in the order in which they alternate."""
        return [PEERS[name]() for name in names if name in self.options.peers]

    # --- measures ---

    def _produce_run(self, load: Load, peer: Peer) -> Figures:
        load = load.scaled(peer.share)
        topic = f"load-{self._runs}"
        peer.create_topic(topic, load.partitions)
        out, figures = self._client(peer.producer(topic, load), peer)
        seconds = peer.produced(out, load)
        peer.check_stored(topic, load)
        peer.delete_topic(topic)
        return {
            "mib_per_second": load.mib / seconds,
            "records_per_second": load.records / seconds,
            "mib_per_broker_cpu_second": load.mib / max(figures["broker_cpu_seconds"], 0.01),
            **figures,
        }

    def produce_by(self, measure: str, load: Load, peers: list[Peer]) -> None:
        """Measures how fast the peers take a load."""
        with self.started(measure, peers) as serving:
            self.alternate(measure, serving, lambda peer: self._produce_run(load, peer))

    def produce(self, only: list[Peer] | None = None) -> None:
        """Records of 1 KiB in batches of 1 MiB."""
        # On a RAM disk an fsync is nothing.
        names = ["kafka", "kafka-fsync", "nats", "nats-fsync"] if self.kind == "disk" else ["kafka", "nats"]
        self.produce_by("produce", self.options.large, only or self._peers(*names, "millrace"))

    def small_batches(self, only: list[Peer] | None = None) -> None:
        """The same in batches of 16 KiB."""
        peers = only or self._peers("kafka", "kafka-fsync", "millrace")
        self.produce_by("small-batches", self.options.small, peers)

    def partitions(self, only: list[Peer] | None = None) -> None:
        """Small records over 1,000 partitions, all with fsync before the acknowledgement."""
        self.produce_by("partitions", self.options.wide, only or self._peers("kafka", "kafka-fsync", "millrace"))

    def consume(self, only: list[Peer] | None = None) -> None:
        """Reading from the page cache what was just written."""
        load = self.options.large

        def run(peer: Peer) -> Figures:
            mine = load.scaled(peer.share)
            out, figures = self._client(peer.consumer("read", mine), peer)
            return {
                "mib_per_second": peer.consumed(out, mine),
                "mib_per_broker_cpu_second": mine.mib / max(figures["broker_cpu_seconds"], 0.01),
                **figures,
            }

        def fill(peer: Peer) -> None:
            mine = load.scaled(peer.share)
            peer.create_topic("read", 1)
            out, _ = self._client(peer.producer("read", mine), peer, measured=False)
            peer.produced(out, mine)

        with self.started("consume", only or self._peers("kafka", "nats", "millrace")) as serving:
            self.alternate("consume", self.prepared("consume", serving, fill), run)

    def latency(self, only: list[Peer] | None = None) -> None:
        """From send to receipt at a fixed rate."""
        o = self.options

        def run(peer: Peer) -> Figures:
            assert isinstance(peer, FullPeer)
            topic = f"latency-{self._runs}"
            peer.create_topic(topic, 1)
            command = peer.end_to_end(topic, o.rate, o.rate * o.latency_seconds, 1024, warmup=o.rate * 3)
            out, figures = self._client(command, peer)
            peer.delete_topic(topic)
            return {**parse.end_to_end(out, o.rate), **figures}

        with self.started("latency", only or self._peers("kafka", "kafka-fsync", "millrace")) as serving:
            # Each run warms its peer up itself.
            self.alternate("latency", serving, run, self.rules(warmups=0))

    def cold_start(self, only: list[Peer] | None = None) -> None:
        """From the start of the process to the first acknowledged record."""

        def run(peer: Peer) -> Figures:
            assert isinstance(peer, FullPeer)
            peer.stop()
            machine.settle()
            with self.observe(), machine.watch_short(lambda: [peer.process]) as watched:
                seconds = peer.restart_until_acked("first")
            return {"seconds": seconds, "other_cores": watched.other_cores}

        with self.started("cold-start", only or self._peers("kafka", "millrace")) as serving:
            ready = self.prepared("cold-start", serving, lambda peer: peer.create_topic("first", 1))
            self.alternate("cold-start", ready, run, self.rules(runs=self.options.starts, warmups=0))

    def recovery(self, only: list[Peer] | None = None) -> None:
        """From the start after kill -9, with a full log, to the first acknowledged record."""
        load = self.options.recovery

        def run(peer: Peer) -> Figures:
            assert isinstance(peer, FullPeer)
            topic = f"crashed-{self._runs}"
            peer.create_topic(topic, 1)
            out, _ = self._client(peer.producer(topic, load), peer, measured=False)
            peer.produced(out, load)
            peer.kill()
            machine.settle()
            with self.observe(), machine.watch_short(lambda: [peer.process]) as watched:
                figures = {"seconds": peer.restart_until_acked(topic)}
            figures["other_cores"] = watched.other_cores
            own = peer.log_recovery_seconds()
            if own is not None:
                figures["log_recovery_seconds"] = own
            peer.delete_topic(topic)
            return figures

        with self.started("recovery", only or self._peers("kafka", "millrace")) as serving:
            self.alternate("recovery", serving, run, self.rules(warmups=0))

    # --- limits ---

    def limits(self, measure: str) -> None:
        """What the machine itself gives for a measure: taken before and after it."""
        way = limits.WAYS.get(measure)
        if way is None:
            return
        rules = self.options.rules
        repeats = rounds.Repeats(rules.retries, self.results)
        once = partial(way, self.options, self.folder)
        done = rounds.undisturbed(f"limits of {measure}", once, rules, repeats)
        for name in limits.LIMITS:
            if name in done.figures:
                self.results.add_limit(name, self.kind, Run({"value": done.figures[name]}, done.disturbed))

    def measure(self, name: str) -> None:
        """Runs a measure by its name in MEASURES, its limits before and after it."""
        started = time.monotonic()
        self.limits(name)
        MEASURES[name](self)
        self.limits(name)
        self.options.rules.say(f"{name} on {self.kind} took {time.monotonic() - started:.0f} s")


# In the order of the table.
MEASURES: dict[str, Callable[..., None]] = {
    "produce": Bench.produce,
    "small-batches": Bench.small_batches,
    "consume": Bench.consume,
    "latency": Bench.latency,
    "cold-start": Bench.cold_start,
    "recovery": Bench.recovery,
    "partitions": Bench.partitions,
    **groups.MEASURES,
    **clusters.MEASURES,
}
# Those whose figures hang on the memory's or the disk's pace; the others run on the disk alone.
ALSO_ON_RAM = ("produce", "small-batches", "consume", "cluster-produce")
