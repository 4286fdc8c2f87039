"""Millrace against Apache Kafka, with NATS JetStream beside them, on one machine in one run.

Every measure runs its peers in turn (A B A B), after a round that is thrown away, and gives
medians. A run in which other work took more CPU than --max-other is thrown away and repeated;
what stays disturbed is marked and is in no median as long as there are undisturbed runs. Each
run's data is deleted before the next.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clusters
import machine
import profiles
import report
from measures import ALSO_ON_RAM, MEASURES, PEERS, Bench, Options
from peer import MIB, Load, Steady
from peer_millrace_cluster import MillraceCluster
from results import Results
from rounds import Rules

from lib import paths


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="e2e/bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default=",".join(MEASURES), help=f"measures, comma-separated, of: {', '.join(MEASURES)}"
    )
    parser.add_argument(
        "--storage",
        default="disk,ram",
        help=f"disk, ram, or both (default); on the RAM disk only {', '.join(ALSO_ON_RAM)} are measured",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data directories are made (default: the temporary folder)"
    )
    parser.add_argument("--quick", action="store_true", help="little data, one run, no warm-up: checks that all works")
    parser.add_argument("--runs", type=int, help="runs that count of each measure and peer (default 3)")
    parser.add_argument("--rate", type=int, default=2000, help="records per second of the latency measure")
    parser.add_argument("--max-other", type=float, default=0.2, help="cores that other work may use in a run")
    parser.add_argument("--retries", type=int, help="how often a disturbed run is repeated at most (default 3)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"brokers, comma-separated, of: {', '.join(PEERS)}")
    parser.add_argument(
        "--profile",
        choices=("missed", "all", "none"),
        default="missed",
        help="measures that are run once more under perf, if it is there: those that miss an aim, all, none",
    )
    parser.add_argument(
        "--idle-partitions", type=int, default=10_000, help="partitions of cluster-partitions (default 10,000)"
    )
    parser.add_argument(
        "--idle-kafka", action="store_true", help="let three Kafka brokers have the idle partitions as well"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures are written")
    args = parser.parse_args()
    args.only, args.storage, args.peers = (text.split(",") for text in (args.only, args.storage, args.peers))
    unknown = set(args.only) - set(MEASURES) | set(args.storage) - set(report.STORAGES) | set(args.peers) - set(PEERS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if (args.runs is not None and args.runs < 1) or (args.retries is not None and args.retries < 0) or args.rate < 1:
        parser.error("--runs and --rate begin at 1, --retries at 0")
    if args.idle_partitions < 1:
        parser.error("--idle-partitions begins at 1")
    return args


def _options(args: argparse.Namespace, logs: Path) -> Options:
    full = not args.quick
    rules = Rules(
        runs=args.runs or (3 if full else 1),
        warmups=1 if full else 0,
        max_other=args.max_other,
        retries=args.retries if args.retries is not None else (3 if full else 0),
        wait_quiet=lambda: machine.wait_quiet(args.max_other),
        say=say,
    )
    return Options(
        rules=rules,
        large=Load(2_000_000 if full else 100_000, 1024, MIB),
        small=Load(200_000 if full else 20_000, 1024, 16384),
        wide=Load(150_000 if full else 20_000, 100, 16384, partitions=1000 if full else 100, spread=True),
        recovery=Load(2 * MIB if full else 100_000, 1024, MIB),
        cluster=Load(1_000_000 if full else 50_000, 1024, MIB),
        # Kafka's session of 9 s and its start are within.
        steady=Steady(1000, 45),
        idle_partitions=args.idle_partitions if full else min(args.idle_partitions, 100),
        idle_seconds=30 if full else 5,
        idle_kafka=args.idle_kafka,
        rate=args.rate,
        latency_seconds=15 if full else 3,
        starts=5 if full else 1,
        tcp_mib=8192 if full else 1024,
        disk_mib=1024 if full else 128,
        peers=args.peers,
        logs=logs,
    )


def _leave_out_missing(options: Options, results: Results) -> None:
    """Peers that are not on this machine are noted; the rest goes on."""
    for name in list(options.peers):
        peer = PEERS[name]()
        try:
            peer.require()
        except paths.Missing as missing:
            if name == "millrace":
                raise SystemExit(f"bench: {missing}") from None
            options.peers.remove(name)
            results.missing[peer.name] = str(missing)
            say(f"{peer.name} is not measured: {missing}")


def _profile(bench: Bench, results: Results, measure: str) -> None:
    """One more run of Millrace alone, under perf, which counts in no median."""
    say(f"{measure} on {bench.kind} once more, for a profile ...")
    scratch = Results()
    changed = {**vars(bench.options), "rules": Rules(1, 0, float("inf"), 0, lambda: None, say), "starts": 1}
    alone = Bench(Options(**changed), scratch, f"{bench.kind}-profile", bench.folder)
    peer = MillraceCluster() if measure in clusters.MEASURES else PEERS["millrace"]()
    brokers = profiles.Brokers(peer)

    @contextmanager
    def observed() -> Iterator[None]:
        # Behind the measure nothing runs any more.
        brokers.look()
        with profile.recording():
            yield
            brokers.look()

    def processes() -> dict[str, int]:
        figures = scratch.runs[measure][alone.kind][peer.name][0].figures
        cpu = {k: f", {figures[k]:.2f} CPU seconds" if k in figures else "" for k in
               ("broker_cpu_seconds", "client_cpu_seconds")}  # fmt: skip
        # Those of three brokers were not counted apart.
        found = {
            f"{title}{cpu['broker_cpu_seconds'] if title == 'the broker' else ''}": pid
            for title, pid in brokers.titles().items()
        }
        # Restarts are driven from here: a client there only filled the log.
        if alone.client is not None and measure not in ("cold-start", "recovery"):
            found[f"its client{cpu['client_cpu_seconds']}"] = alone.client.pid
        return found

    try:
        profile = profiles.Profile(bench.options.logs, f"{bench.kind}-{measure}")
    except (profiles.Unavailable, OSError, subprocess.SubprocessError) as unavailable:
        results.profiles.setdefault(measure, {})[bench.kind] = f"  no profile: {unavailable}"
        return
    try:
        alone.observe = observed
        MEASURES[measure](alone, only=[peer])
        why = scratch.failure(measure, alone.kind, peer.name)
        text = f"  no profile: {why}" if why else profile.text(processes())
    except (OSError, subprocess.SubprocessError) as error:
        text = f"  no profile: {error}"
    finally:
        profile.close()
    results.profiles.setdefault(measure, {})[bench.kind] = text


def _run(args: argparse.Namespace, options: Options, results: Results) -> None:
    for kind in args.storage:
        chosen = [m for m in args.only if kind == "disk" or m in ALSO_ON_RAM]
        if not chosen:
            continue
        with machine.storage(kind, args.folder, options.need_bytes) as folder:
            bench = Bench(options, results, kind, folder)
            for measure in chosen:
                say(f"{measure} on {kind} ...")
                bench.measure(measure)
            if args.profile != "none" and "millrace" in options.peers:
                missed = [m for m, on in report.missed(results) if on == kind]
                again = chosen if args.profile == "all" else missed
                for measure in again:
                    _profile(bench, results, measure)
    results.complete = True


def _end_on(number: int, _frame: object) -> None:
    # What is cleaned up on the way out must not be cut short by a second Ctrl-C.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    """Measures, prints the table, writes the JSON file; 1 if a measure failed."""
    args = _arguments()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _end_on)
    logs = args.json.resolve().parent / (args.json.stem + "-logs")
    logs.mkdir(parents=True, exist_ok=True)
    options, results = _options(args, logs), Results()
    _leave_out_missing(options, results)
    started = time.monotonic()
    if not machine.wait_quiet(args.max_other):
        say("other work uses this machine: runs will be repeated, and rows marked where that does not help")
    try:
        _run(args, options, results)
    finally:
        # What was measured before an end that came early is not lost.
        if results.runs or results.failures:
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
            )
            document = report.document(results, machine.describe(), commit.stdout.strip(), time.monotonic() - started)
            args.json.write_text(json.dumps(document, indent=1) + "\n")
            print(report.table(results))
            if args.quick:
                print("--quick: one short run each with few partitions; the figures compare nothing.")
            say(f"figures in {args.json}, clients' output in {logs}; {results.repeated} disturbed runs repeated")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
