"""Reads what the load generators print. ValueError says what a run did not do or say."""

from __future__ import annotations

import json
import re
from typing import Any


def _object(out: str) -> dict[str, Any]:
    # Kafka's client may log lines before the result.
    start = out.find("{")
    if start < 0:
        raise ValueError(f"no result in {out[-500:]!r}")
    return json.loads(out[start:])


def _enough(done: int, wanted: int, verb: str, out: str) -> None:
    if done < wanted:
        raise ValueError(f"{verb} {done} of {wanted} records: {out.strip()[-300:]}")


def millrace_produced(out: str, records: int) -> float:
    """Seconds of `millrace bench produce`."""
    result = _object(out)
    _enough(result["records"], records, "stored", out)
    return float(result["seconds"])


def millrace_consumed(out: str, records: int) -> float:
    """MiB/s of `millrace bench consume`."""
    result = _object(out)
    _enough(result["records"], records, "read", out)
    return float(result["mib_per_second"])


def kafka_produced(out: str, records: int) -> float:
    """Seconds of ProducerPerformance, which goes on without the records that it lost."""
    lines = re.findall(r"^(\d+) records sent, ([\d.]+) records/sec", out, re.MULTILINE)
    if not lines:
        raise ValueError(f"no result in {out[-500:]!r}")
    sent, rate = int(lines[-1][0]), float(lines[-1][1])
    _enough(sent, records, "stored", out)
    return sent / rate


def kafka_consumed(out: str, records: int) -> float:
    """MiB/s of ConsumerPerformance while it fetched, without the time that joining the group took."""
    lines = out.strip().splitlines()
    columns = [c.strip() for c in lines[-1].split(",")] if lines else []
    # start, end, MiB, MiB/s, records, records/s, rebalance ms, fetch ms, fetch MiB/s, fetch records/s
    if len(columns) != 10:
        raise ValueError(f"no result in {out[-500:]!r}")
    _enough(int(columns[4]), records, "read", out)
    return float(columns[8])


def nats_rate(out: str) -> float:
    """Messages per second of `nats bench`."""
    found = re.findall(r" stats: ([\d,]+) msgs/sec", out)
    if not found:
        raise ValueError(f"no result in {out[-500:]!r}")
    return float(found[-1].replace(",", ""))


def end_to_end(out: str, rate: float) -> dict[str, float]:
    """Percentiles in ms (p50_ms, p99_ms, p99.9_ms, max_ms) and the share of the rate that was held."""
    result = _object(out)
    found = {f"{key}_ms": float(value) for key, value in result["latency_ms"].items()}
    # A peer that fell behind was not measured at this rate.
    found["rate_held"] = result["records"] / result["seconds"] / rate
    return found


def millrace_longest_wait(out: str, records: int) -> float:
    """Seconds that the record waited which `millrace bench produce` saw acknowledged latest after it was due."""
    result = _object(out)
    _enough(result["records"], records, "stored", out)
    return float(result["latency_ms"]["max"]) / 1000


def kafka_longest_wait(out: str, stored: int, steady: int) -> float:
    """The same of ProducerPerformance, of those of its `stored` records that are not warm-up: the
    `steady` last ones. It loses records without failing."""
    kafka_produced(out, stored)
    lines = re.findall(r"^(\d+) steady state records sent, .* ([\d.]+) ms max latency", out, re.MULTILINE)
    if not lines:
        raise ValueError(f"no result in {out[-500:]!r}")
    _enough(int(lines[-1][0]), steady, "stored", out)
    return float(lines[-1][1]) / 1000


def kafka_leader(out: str) -> int:
    """The node id of the leader of partition 0, as kafka-topics --describe tells it."""
    found = re.search(r"Partition: 0\s+Leader: (\d+)", out)
    if not found:
        raise ValueError(f"no leader in {out[-500:]!r}")
    return int(found[1])


def kafka_quorum_leader(out: str) -> int:
    """The node id of the active controller, as kafka-metadata-quorum describe --status tells it."""
    found = re.search(r"^LeaderId:\s+(\d+)", out, re.MULTILINE)
    if not found:
        raise ValueError(f"no leader in {out[-500:]!r}")
    return int(found[1])


def perf_symbols(out: str, most: int = 10) -> list[tuple[float, str]]:
    """Share (0 to 1) and symbol of the lines of `perf report --sort symbol,dso`, the largest first."""
    found = []
    for line in out.splitlines():
        if match := re.match(r"^\s*([\d.]+)%\s+(.+?)\s*$", line):
            # Some versions end a line with empty columns for cycles of branches.
            symbol = re.sub(r"(\s+-)+$", "", match[2])
            found.append((float(match[1]) / 100, re.sub(r"\s{2,}", "  ", symbol)))
    found.sort(key=lambda pair: -pair[0])
    return found[:most]
