"""Millrace against Apache Kafka on one machine in one run.

Every measure runs its peers in turn (A B A B), after a round that is thrown away, and gives
medians. A run in which other work took more CPU than --max-other is thrown away and repeated.
Each run's data is deleted before the next.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import machine
import report
from peers import FullPeer, Kafka, Load, Millrace, Nats, Peer

from lib.proc import Process

MIB = 1 << 20
MEASURES = ["produce", "small-batches", "consume", "latency", "cold-start", "recovery", "partitions"]
PEERS: dict[str, Callable[[], Peer]] = {
    "kafka": lambda: Kafka(fsync=False),
    "kafka-fsync": lambda: Kafka(fsync=True),
    "millrace": Millrace,
    "nats": Nats,
}


@dataclass
class Options:
    """How much is measured."""

    runs: int
    warmups: int
    max_other: float
    large: Load
    small: Load
    wide: Load
    recovery: Load
    rate: int
    latency_records: int
    starts: int
    tcp_mib: int
    disk_mib: int
    peers: list[str]
    logs: Path
    retries: int


@dataclass
class Results:
    """All figures: measure, storage, peer, one dict of figures for each run."""

    runs: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = field(default_factory=dict)
    limits: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    discarded: int = 0

    def add(self, measure: str, storage: str, peer: str, figures: dict[str, float]) -> None:
        """Keeps a run."""
        self.runs.setdefault(measure, {}).setdefault(storage, {}).setdefault(peer, []).append(figures)

    def limit(self, name: str, storage: str, value: float) -> None:
        """Keeps a limit."""
        self.limits.setdefault(name, {}).setdefault(storage, []).append(value)

    def median(self, measure: str, storage: str, peer: str, figure: str) -> float | None:
        """The median of a figure, None if it was not measured."""
        runs = self.runs.get(measure, {}).get(storage, {}).get(peer, [])
        values = [run[figure] for run in runs if run.get(figure) is not None]
        return statistics.median(values) if values else None

    def limit_median(self, name: str, storage: str) -> float | None:
        """The median of a limit, None if it was not measured."""
        values = self.limits.get(name, {}).get(storage, [])
        return statistics.median(values) if values else None


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Bench:
    """Runs measures in one storage folder."""

    def __init__(self, options: Options, results: Results, kind: str, folder: Path) -> None:
        self.options, self.results, self.kind, self.folder = options, results, kind, folder
        self._client_number = 0

    # --- one run ---

    def _client(self, command: list[str], peer: Peer, others: list[Peer], timeout: float = 600) -> tuple[str, dict]:
        """Runs a client to its end; gives its output and the figures common to all runs."""
        self._client_number += 1
        name = f"client-{self.kind}-{self._client_number:03}"
        machine.settle()
        clients: list[Process] = []
        with machine.watch(peer.process, [p.process for p in others], clients) as watched:
            client = Process(command, self.options.logs, name)
            clients.append(client)
            try:
                code = client.wait(timeout)
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

    def _alternate(self, measure: str, peers: list[Peer], run: Callable[[Peer, list[Peer], int], dict]) -> None:
        """All peers in turn, warm-up rounds first; keeps the runs that were not disturbed."""
        for number in range(-self.options.warmups, self.options.runs):
            for peer in peers:
                others = [p for p in peers if p is not peer]
                for attempt in range(self.options.retries + 1):
                    figures = run(peer, others, number)
                    other = figures.get("other_cores", 0.0)
                    if number < 0 or other <= self.options.max_other:
                        break
                    if attempt < self.options.retries:
                        self.results.discarded += 1
                        say(f"{measure} {self.kind} {peer.name}: others used {other:.2f} cores; again")
                        time.sleep(2)
                figures["disturbed"] = float(figures.get("other_cores", 0.0) > self.options.max_other)
                shown = " ".join(f"{k}={v:.4g}" for k, v in figures.items() if v is not None)
                label = "warm-up" if number < 0 else f"run {number + 1}"
                say(f"{measure} {self.kind} {label} {peer.name}: {shown}")
                if number >= 0:
                    self.results.add(measure, self.kind, peer.name, figures)

    def _with_peers(self, peers: list[Peer], body: Callable[[], None]) -> None:
        started: list[Peer] = []
        try:
            for peer in peers:
                started.append(peer)
                peer.start(self.folder)
            body()
        finally:
            for peer in started:
                peer.end()

    def _peers(self, *names: str) -> list[Peer]:
        """The peers of a measure that were asked for, in the order in which they alternate."""
        return [PEERS[name]() for name in names if name in self.options.peers]

    # --- measures ---

    def _produce_run(self, load: Load, peer: Peer, others: list[Peer]) -> dict:
        topic = f"load-{self._client_number}"
        peer.create_topic(topic, load.partitions)
        out, figures = self._client(peer.producer(topic, load), peer, others)
        seconds = peer.produced(out, load)
        peer.delete_topic(topic)
        return {
            "mib_per_second": load.mib / seconds,
            "records_per_second": load.records / seconds,
            "mib_per_broker_cpu_second": load.mib / max(figures["broker_cpu_seconds"], 0.01),
            **figures,
        }

    def _produce(self, measure: str, load: Load, peers: list[Peer]) -> None:
        self._with_peers(
            peers,
            lambda: self._alternate(measure, peers, lambda peer, others, _: self._produce_run(load, peer, others)),
        )

    def produce(self) -> None:
        """Records of 1 KiB in batches of 1 MiB."""
        self._produce("produce", self.options.large, self._peers("kafka", "kafka-fsync", "nats", "millrace"))

    def small_batches(self) -> None:
        """The same in batches of 16 KiB."""
        self._produce("small-batches", self.options.small, self._peers("kafka", "kafka-fsync", "millrace"))

    def partitions(self) -> None:
        """Small records over 1,000 partitions, all with fsync before the acknowledgement."""
        self._produce("partitions", self.options.wide, self._peers("kafka-fsync", "millrace"))

    def consume(self) -> None:
        """Reading from the page cache what was just written."""
        load = self.options.large
        peers = self._peers("kafka", "nats", "millrace")

        def run(peer: Peer, others: list[Peer], _: int) -> dict:
            out, figures = self._client(peer.consumer("read", load), peer, others)
            return {
                "mib_per_second": peer.consumed(out, load),
                "mib_per_broker_cpu_second": load.mib / max(figures["broker_cpu_seconds"], 0.01),
                **figures,
            }

        def body() -> None:
            for peer in peers:
                peer.create_topic("read", 1)
                others = [p for p in peers if p is not peer]
                out, _ = self._client(peer.producer("read", load), peer, others)
                peer.produced(out, load)
            self._alternate("consume", peers, run)

        self._with_peers(peers, body)

    def latency(self) -> None:
        """From send to receipt at a fixed rate."""
        o = self.options
        peers = self._peers("kafka", "kafka-fsync", "millrace")

        def run(peer: Peer, others: list[Peer], _: int) -> dict:
            assert isinstance(peer, FullPeer)
            topic = f"latency-{self._client_number}"
            peer.create_topic(topic, 1)
            command = peer.end_to_end(topic, o.rate, o.latency_records, 1024, warmup=o.rate * 3)
            out, figures = self._client(command, peer, others)
            # Kafka's client may log lines before its result.
            result = json.loads(out[out.index("{") :])
            peer.delete_topic(topic)
            # A peer that fell behind was not measured at this rate.
            held = result["records"] / result["seconds"] / o.rate
            latency = {f"{k}_ms": v for k, v in result["latency_ms"].items()}
            return {**latency, "rate_held": held, **figures}

        self._with_peers(peers, lambda: self._alternate("latency", peers, run))

    def cold_start(self) -> None:
        """From the start of the process to the first acknowledged record."""
        peers = self._peers("kafka", "millrace")

        def run(peer: Peer, _others: list[Peer], _: int) -> dict:
            assert isinstance(peer, FullPeer)
            peer.stop()
            machine.settle()
            return {"seconds": peer.restart_until_acked("first")}

        def body() -> None:
            for peer in peers:
                peer.create_topic("first", 1)
            for _ in range(self.options.starts):
                self._alternate_once("cold-start", peers, run)

        self._with_peers(peers, body)

    def recovery(self) -> None:
        """From the start after kill -9, with a full log, to the first acknowledged record."""
        load = self.options.recovery
        peers = self._peers("kafka", "millrace")

        def run(peer: Peer, others: list[Peer], _: int) -> dict:
            assert isinstance(peer, FullPeer)
            topic = f"crashed-{self._client_number}"
            peer.create_topic(topic, 1)
            out, _figures = self._client(peer.producer(topic, load), peer, others)
            peer.produced(out, load)
            peer.kill()
            machine.settle()
            figures = {"seconds": peer.restart_until_acked(topic)}
            own = peer.log_recovery_seconds()
            if own is not None:
                figures["log_recovery_seconds"] = own
            peer.delete_topic(topic)
            return figures

        def body() -> None:
            for _ in range(max(1, self.options.runs - 1)):
                self._alternate_once("recovery", peers, run)

        self._with_peers(peers, body)

    def _alternate_once(self, measure: str, peers: list[Peer], run: Callable[[Peer, list[Peer], int], dict]) -> None:
        for peer in peers:
            figures = run(peer, [p for p in peers if p is not peer], 0)
            say(f"{measure} {self.kind} {peer.name}: " + " ".join(f"{k}={v:.4g}" for k, v in figures.items()))
            self.results.add(measure, self.kind, peer.name, figures)

    def limits(self) -> None:
        """What the machine gives, measured between the others."""
        o = self.options
        self.results.limit("tcp", self.kind, machine.tcp_limit(o.tcp_mib))
        for name, chunk, each, mib in (
            ("write", MIB, False, o.disk_mib),
            ("write+fdatasync 1 MiB", MIB, True, o.disk_mib),
            ("write+fdatasync 16 KiB", 16384, True, max(16, o.disk_mib // 16)),
        ):
            self.results.limit(name, self.kind, machine.disk_limit(self.folder, mib, chunk, each))


def _options(args: argparse.Namespace, logs: Path) -> Options:
    full = not args.quick
    return Options(
        runs=args.runs or (3 if full else 1),
        warmups=1 if full else 0,
        max_other=args.max_other,
        large=Load(2_000_000 if full else 200_000, 1024, MIB),
        small=Load(300_000 if full else 50_000, 1024, 16384),
        wide=Load(200_000 if full else 50_000, 100, 16384, partitions=1000 if full else 100, spread=True),
        recovery=Load(2 * MIB if full else 200_000, 1024, MIB),
        rate=args.rate,
        latency_records=args.rate * (20 if full else 3),
        starts=5 if full else 1,
        tcp_mib=8192 if full else 1024,
        disk_mib=1024 if full else 128,
        peers=args.peers.split(","),
        logs=logs,
        retries=5 if full else 0,
    )


def main() -> int:
    """Measures, prints the table, writes the JSON file."""
    parser = argparse.ArgumentParser(prog="e2e/bench/run", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", default=",".join(MEASURES), help=f"measures, comma-separated, of: {', '.join(MEASURES)}"
    )
    parser.add_argument("--storage", default="disk,ram", help="disk, ram, or both (default)")
    parser.add_argument(
        "--folder", type=Path, help="where the data directories are made (default: the temporary folder)"
    )
    parser.add_argument("--quick", action="store_true", help="little data, one run, no warm-up: checks that all works")
    parser.add_argument("--runs", type=int, help="runs that count of each measure and peer (default 3)")
    parser.add_argument("--rate", type=int, default=2000, help="records per second of the latency measure")
    parser.add_argument("--max-other", type=float, default=0.2, help="cores that other work may use in a run")
    parser.add_argument(
        "--peers", default="kafka,kafka-fsync,millrace", help=f"brokers, comma-separated, of: {', '.join(PEERS)}"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are written")
    args = parser.parse_args()
    # An end by SIGTERM ends the brokers and deletes their data as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen, storages = args.only.split(","), args.storage.split(",")
    if (
        unknown := set(chosen) - set(MEASURES)
        | set(storages) - {"disk", "ram"}
        | set(args.peers.split(",")) - set(PEERS)
    ):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    logs = Path(args.json).resolve().parent / (args.json.stem + "-logs")
    logs.mkdir(parents=True, exist_ok=True)
    options, results = _options(args, logs), Results()
    # Three brokers with the largest load each, and one more while it is deleted.
    need = int(4 * max(options.large.mib, options.recovery.mib) * 1.1) * MIB
    started = time.monotonic()
    for kind in storages:
        with machine.storage(kind, args.folder, need) as folder:
            bench = Bench(options, results, kind, folder)
            for measure in chosen:
                say(f"{measure} on {kind} ...")
                bench.limits()
                getattr(bench, measure.replace("-", "_"))()
                bench.limits()

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    document = report.document(results, machine.describe(), commit.stdout.strip(), time.monotonic() - started)
    args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report.table(results))
    if args.quick:
        print("--quick: one short run each (and 100 partitions, not 1,000); the figures compare nothing.")
    say(f"figures in {args.json}, clients' output in {logs}; {results.discarded} disturbed runs thrown away")
    return 0


if __name__ == "__main__":
    sys.exit(main())
