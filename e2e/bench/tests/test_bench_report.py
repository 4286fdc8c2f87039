"""Ratios, aims, and the table that people see."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import machine
import pytest
import report
from aims import FSYNC, KAFKA, NATS, NATS_FSYNC, OURS, ROWS, Aim, ratio
from limits import LIMITS, WAYS
from peer import MIB, Load
from results import Results, Run


def test_ratio_is_above_one_where_ours_is_better():
    assert ratio(300.0, 100.0, higher_is_better=True) == 3.0
    assert ratio(10.0, 80.0, higher_is_better=False) == 8.0
    assert ratio(None, 80.0, True) is None
    assert ratio(10.0, 0.0, True) is None


PRODUCE = Aim(2, (KAFKA, FSYNC), or_of_limit=0.7)
CONSUME = Aim(3, (KAFKA,), and_of_limit=0.6)


@pytest.mark.parametrize(
    ("aim", "ratios", "share", "met"),
    [
        (PRODUCE, {KAFKA: 2.0, FSYNC: 2.5}, 0.1, True),
        (PRODUCE, {KAFKA: 1.9, FSYNC: 2.5}, 0.69, False),
        (PRODUCE, {KAFKA: 1.0, FSYNC: 1.0}, 0.7, True),
        # What was not measured is not reached, and not missed either.
        (PRODUCE, {KAFKA: 2.5, FSYNC: None}, 0.1, None),
        (PRODUCE, {KAFKA: 1.0, FSYNC: None}, 0.1, False),
        (PRODUCE, {KAFKA: 1.0, FSYNC: 1.0}, None, None),
        (CONSUME, {KAFKA: 3.0}, 0.6, True),
        (CONSUME, {KAFKA: 3.0}, 0.59, False),
        (CONSUME, {KAFKA: 2.9}, 0.9, False),
        (CONSUME, {KAFKA: 3.0}, None, None),
        (CONSUME, {}, 0.9, None),
        (CONSUME, {}, 0.1, False),
    ],
)
def test_aims(aim: Aim, ratios: dict[str, float | None], share: float | None, met: bool | None):
    assert aim.met(ratios, share) is met


def test_aims_text():
    assert PRODUCE.text() == "2x K+F or .7 L"
    assert CONSUME.text() == "3x K and .6 L"
    assert Aim(20, (KAFKA,)).text() == "20x K"
    assert Aim(at_most=0.3).text() == "<= 0.3"


@pytest.mark.parametrize(("value", "met"), [(0.29, True), (0.3, True), (0.31, False), (None, None)])
def test_an_aim_with_a_bound_looks_at_the_value_alone(value: float | None, met: bool | None):
    assert Aim(at_most=0.3).met({KAFKA: 100.0}, 1.0, value) is met
    assert Aim(at_most=0.3).met({}, None, value) is met


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0.0, "0"), (0.00021, "0.0002"), (0.1234, "0.123"), (12.34, "12.3"), (999.4, "999"),
        (1234.5, "1,234"), (99_999.0, "99,999"), (306_000.0, "306k"), (12_345_678.0, "12,346k"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, shown: str):
    assert report.number(value) == shown


def everything(scale: float = 1.0, disturbed: bool = False) -> Results:
    """All measures on both storages, with every peer, ours ten times better."""
    results = Results(complete=True)
    for row in ROWS:
        for storage in ("disk", "ram"):
            for peer in (KAFKA, FSYNC, NATS, NATS_FSYNC, OURS):
                better = (10.0 if row.higher_is_better else 0.1) if peer == OURS else 1.0
                figures = {row.figure: better * scale}
                results.add(row.measure, storage, peer, Run(figures, disturbed))
            if row.limit:
                results.add_limit(row.limit, storage, Run({"value": 10 * scale}, disturbed))
    return results


@pytest.mark.parametrize("scale", [0.000_123_4, 1.0, 12_345.6])
@pytest.mark.parametrize("disturbed", [False, True])
def test_the_table_fits_120_columns(scale: float, disturbed: bool):
    results = everything(scale, disturbed)
    results.complete = not disturbed
    text = report.table(results)
    long = [line for line in text.splitlines() if len(line) > report.WIDTH]
    assert not long
    assert "2x K+F or .7 L" in text


# A measure's figures that no disk and no network bounds; the legend says so.
NO_LIMIT = {
    "produce": {"rss_peak_mib", "rss_typical_mib"},
    "consume": {"rss_peak_mib", "rss_typical_mib"},
    "latency": {"rate_held"},
    "cold-start": {"seconds"},
    "partitions": {"records_per_second", "mib_per_broker_cpu_second", "rss_peak_mib"},
    "cluster-produce": {"rss_peak_mib"},
    "failover": {"longest_wait_seconds"},
    "failover-metadata": {"longest_wait_seconds"},
    "planned-restart": {"longest_wait_seconds"},
    "member-killed": {"seconds"},
    "member-frozen": {"seconds"},
    "cluster-partitions": {"cpu_percent", "rss_kib_per_partition", "restart_seconds"},
}


def test_each_row_has_its_limit_beside_it_or_none_that_means_something():
    for row in ROWS:
        without = row.figure in NO_LIMIT.get(row.measure, set())
        assert (row.limit is None) == without, row
        assert row.limit is None or row.limit in LIMITS, row
    assert {row.limit for row in ROWS} - {None} == set(LIMITS)


OPTIONS = SimpleNamespace(
    tcp_mib=1000, disk_mib=100, rate=10, latency_seconds=2, recovery=Load(1000, 1024, 1024)
)  # fmt: skip


def test_the_ways_give_each_limit_of_their_measure(monkeypatch: pytest.MonkeyPatch):
    written = {"bytes": 100 * MIB, "mib_per_second": 300.0, "cpu_seconds": 0.1, "other_cores": 0.5}
    received = {"send_cpu_seconds": 2.0, "receive_cpu_seconds": 1.0, "bytes": 1000 * MIB}
    tcp = {"mib_per_second": 4000.0, "other_cores": 0.1, **received}
    monkeypatch.setattr(machine, "tcp", lambda *_: tcp)
    monkeypatch.setattr(machine, "write", lambda *_: written)
    monkeypatch.setattr(machine, "read", lambda *_: {"seconds": 0.3, "other_cores": 0.0})
    paced = {"p50_ms": 1.0, "p99_ms": 2.0, "p99.9_ms": 3.0, "other_cores": 0.0}
    monkeypatch.setattr(machine, "paced", lambda *_: paced)
    given = {measure: way(OPTIONS, Path()) for measure, way in WAYS.items()}
    for row in ROWS:
        assert row.limit is None or row.limit in given[row.measure], row
    # A millisecond of CPU for a MiB received, one to write it, two to send it.
    assert given["produce"] == {"write": 300.0, "write, CPU": pytest.approx(500.0), "other_cores": 0.5}
    assert given["consume"] == {"tcp": 4000.0, "tcp, CPU": pytest.approx(500.0), "other_cores": 0.1}
    assert given["cluster-produce"]["write by 3, CPU"] == pytest.approx(100.0)
    assert given["cluster-produce"]["write / 3"] == 100.0
    assert given["recovery"]["read the log"] == 0.3


def test_limits_are_listed_with_their_unit_and_what_was_done():
    results = everything()
    text = report.table(results)
    assert "  tcp: 10 on disk, 10 on ram (MiB/s; one loopback connection)" in text
    results.limits = {"tcp": {"ram": [Run({"value": 5.0}, disturbed=True)]}}
    text = report.table(results)
    assert "  tcp: 5* on ram (MiB/s; one loopback connection)" in text
    assert "  write: " not in text


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_met_and_missed():
    results = everything()
    text = report.table(results)
    assert line_of(text, "produce 1 MiB").endswith("yes")
    # Ten times better is not twenty times.
    assert line_of(text, "cold start").endswith("NO")
    assert report.missed(results) == [("cold-start", "disk")]


def test_bounds_are_looked_at_in_the_table():
    results = everything()
    for wait in (0.9, 1.1, 1.2):
        results.add("failover", "disk", OURS, Run({"longest_wait_seconds": wait}))
    # The median of 0.1, 0.9, 1.1 and 1.2 is 1.
    assert line_of(report.table(results), "kill -9 of a leader").endswith("yes")
    results.add("failover", "disk", OURS, Run({"longest_wait_seconds": 1.2}))
    assert line_of(report.table(results), "kill -9 of a leader").endswith("NO")
    # A bound holds without Kafka beside it.
    del results.runs["failover"]["disk"][KAFKA]
    assert ("failover", "disk") in report.missed(results)


def at_rate(results: Results, **held: float):
    for letter, share in held.items():
        peer = {"kafka": KAFKA, "fsync": FSYNC, "ours": OURS}[letter]
        results.runs["latency"]["disk"][peer] = [Run({"p50_ms": 5.0, "p99_ms": 5.0, "rate_held": share})]


def p99(results: Results) -> dict[str, object]:
    return next(r for r in report.rows(results) if r["figure"] == "p99_ms" and r["storage"] == "disk")


def test_a_peer_that_did_not_hold_the_rate_is_no_win_and_no_number():
    results = everything()
    at_rate(results, kafka=0.8, fsync=1.0, ours=1.0)
    text = report.table(results)
    line = line_of(text, "end to end p99, ms")
    assert line.endswith("n/c")
    assert " 5! " in line
    assert "latency on disk: not comparable: Kafka held 80% of the rate only" in text
    # Not missed: a profile of ours would not tell why.
    assert ("latency", "disk") not in report.missed(results)
    row = p99(results)
    assert (row["met"], row["comparable"], row["fell_behind"]) == (None, False, [KAFKA])
    # The other peer held it; what was held can be compared all the same.
    assert (row["ratios"][KAFKA], row["ratios"][FSYNC]) == (None, 1.0)  # type: ignore[index]
    held = next(r for r in report.rows(results) if r["figure"] == "rate_held" and r["storage"] == "disk")
    assert held["ratios"][KAFKA] == pytest.approx(1.25)  # type: ignore[index]
    assert (held["fell_behind"], held["comparable"]) == ([], True)


def test_a_peer_that_the_aim_does_not_name_takes_nothing_from_the_verdict():
    results = everything()
    at_rate(results, kafka=0.995, fsync=0.5)
    row = p99(results)
    # 5 ms of Kafka against our 0.1.
    assert (row["met"], row["comparable"]) == (True, True)
    assert row["ratios"] == {KAFKA: 50.0, FSYNC: None, NATS: 10.0, NATS_FSYNC: 10.0}
    assert "not comparable: Kafka, fsync held 50% of the rate only" in report.table(results)


def test_ours_behind_the_rate_is_a_miss_unless_kafka_is_behind_too():
    results = everything()
    at_rate(results, kafka=1.0, ours=0.9)
    row = p99(results)
    assert (row["met"], row["share_of_limit"], row["ratios"][KAFKA]) == (False, None, None)  # type: ignore[index]
    assert "not comparable: Millrace held 90% of the rate only" in report.table(results)
    assert ("latency", "disk") in report.missed(results)
    at_rate(results, kafka=0.7, ours=0.9)
    assert p99(results)["comparable"] is False
    assert line_of(report.table(results), "end to end p99, ms").endswith("n/c")


def test_disturbed_rows_are_marked_in_the_table_and_in_the_json_file():
    results = everything()
    results.runs["latency"]["disk"][KAFKA] = [Run({"p99_ms": 1.0}, disturbed=True)]
    text = report.table(results)
    assert line_of(text, "end to end p99, ms").endswith("yes*")
    assert " 1*" in line_of(text, "end to end p99, ms")
    assert "DISTURBED by other work, to be measured again: latency on disk" in text
    document = json.loads(json.dumps(report.document(results, {}, "abc", 1.0)))
    assert document["disturbed"] is True
    marked = [(r["measure"], r["storage"], r["figure"]) for r in document["rows"] if r["disturbed"]]
    assert marked == [("latency", "disk", "p99_ms")]
    assert document["runs"]["latency"]["disk"][KAFKA][0]["disturbed"] is True


def test_runs_that_were_left_out_are_told():
    results = everything()
    results.add("produce", "disk", KAFKA, Run({"mib_per_second": 0.01}, disturbed=True))
    text = report.table(results)
    assert "produce on disk: 1 disturbed runs stayed so" in text
    assert not line_of(text, "produce 1 MiB").endswith("*")


def test_failed_and_missing_peers_are_told():
    results = Results(complete=True, missing={NATS: "the NATS command is not there"})
    results.add("produce", "disk", OURS, Run({"mib_per_second": 500.0}))
    results.fail("produce", "disk", KAFKA, "RuntimeError: it broke\nat line 1")
    text = report.table(results)
    row = line_of(text, "produce 1 MiB")
    assert "failed" in row
    assert "n/a" in row
    # Without Kafka nobody knows whether the aim was met.
    assert row.endswith("?")
    assert "FAILED produce on disk, Kafka: RuntimeError: it broke" in text
    assert "NATS: not measured: the NATS command is not there" in text


def test_an_end_that_came_early_is_told():
    results = everything()
    results.complete = False
    assert "INCOMPLETE" in report.table(results)
