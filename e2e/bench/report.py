"""The table of ratios and the JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench import Results

KAFKA, FSYNC, NATS, OURS = "Kafka", "Kafka, fsync", "NATS", "Millrace"


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a measure, which way is better, and what it shall reach."""

    title: str
    measure: str
    figure: str
    unit: str
    higher_is_better: bool = True
    limit: str | None = None
    # The least ratio to Kafka (and to Kafka with fsync), ours in the better direction, per storage.
    target: tuple[tuple[str, str, float], ...] = ()
    # Or this share of the limit, where the limit binds both.
    or_of_limit: float | None = None
    and_of_limit: float | None = None


MEMORY = (("disk", KAFKA, 8.0), ("ram", KAFKA, 8.0))
ROWS = [
    Row(
        "produce, 1 MiB batches", "produce", "mib_per_second", "MiB/s", limit="write",
        target=(("disk", KAFKA, 2.0), ("disk", FSYNC, 2.0), ("ram", KAFKA, 3.0)), or_of_limit=0.7,
    ),
    Row("  per broker CPU second", "produce", "mib_per_broker_cpu_second", "MiB/CPU s"),
    Row("  broker memory, peak", "produce", "rss_peak_mib", "MiB", False, target=MEMORY),
    Row("  broker memory, typical", "produce", "rss_typical_mib", "MiB", False),
    Row(
        "produce, 16 KiB batches", "small-batches", "mib_per_second", "MiB/s", limit="write+fdatasync 16 KiB",
        target=(("disk", FSYNC, 5.0),),
    ),
    Row("  per broker CPU second", "small-batches", "mib_per_broker_cpu_second", "MiB/CPU s"),
    Row(
        "consume, page cache", "consume", "mib_per_second", "MiB/s", limit="tcp",
        target=(("disk", KAFKA, 3.0),), and_of_limit=0.6,
    ),
    Row("  per broker CPU second", "consume", "mib_per_broker_cpu_second", "MiB/CPU s"),
    Row("  broker memory, peak", "consume", "rss_peak_mib", "MiB", False, target=MEMORY),
    Row("end to end, p50", "latency", "p50_ms", "ms", False),
    Row("end to end, p99", "latency", "p99_ms", "ms", False, target=(("disk", KAFKA, 3.0),)),
    Row("end to end, p99.9", "latency", "p99.9_ms", "ms", False),
    Row("cold start to first ack", "cold-start", "seconds", "s", False, target=(("disk", KAFKA, 20.0),)),
    Row("kill -9 to first ack", "recovery", "seconds", "s", False, target=(("disk", KAFKA, 5.0),)),
    Row("  reading the log, as it says", "recovery", "log_recovery_seconds", "s", False),
    Row("1,000 partitions, 100 B", "partitions", "records_per_second", "records/s"),
    Row("  per broker CPU second", "partitions", "mib_per_broker_cpu_second", "MiB/CPU s"),
]  # fmt: skip
COLUMNS = [
    "measure",
    "on",
    "unit",
    KAFKA,
    FSYNC,
    NATS,
    OURS,
    "x Kafka",
    "x fsync",
    "limit",
    "of limit",
    "wanted",
    "reached",
]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(row: Row, ours: float | None, other: float | None) -> float | None:
    """How many times better ours is: above 1 is better, whichever way the figure goes."""
    if not ours or not other:
        return None
    return ours / other if row.higher_is_better else other / ours


def _verdict(row: Row, storage: str, ratios: dict[str, float | None], share: float | None) -> tuple[str, bool | None]:
    """What was wanted and whether it was reached; None where nothing was wanted or measured."""
    wanted = [(peer, least) for on, peer, least in row.target if on == storage and ratios.get(peer) is not None]
    if not wanted:
        return "", None
    text = ", ".join(f"{least:g}x {peer}" for peer, least in wanted)
    reached = all(ratios[peer] >= least for peer, least in wanted)  # type: ignore[operator]
    if row.or_of_limit is not None and share is not None:
        text += f" or {row.or_of_limit:g} of limit"
        reached = reached or share >= row.or_of_limit
    if row.and_of_limit is not None and share is not None:
        text += f" and {row.and_of_limit:g} of limit"
        reached = reached and share >= row.and_of_limit
    return text, reached


def rows(results: Results) -> list[dict[str, object]]:
    """The table's content."""
    found = []
    for row in ROWS:
        for storage in results.runs.get(row.measure, {}):
            values = {p: results.median(row.measure, storage, p, row.figure) for p in (KAFKA, FSYNC, NATS, OURS)}
            if all(v is None for v in values.values()):
                continue
            limit = results.limit_median(row.limit, storage) if row.limit else None
            ours = values[OURS]
            ratios = {p: _ratio(row, ours, values[p]) for p in (KAFKA, FSYNC)}
            share = ours / limit if ours and limit else None
            wanted, reached = _verdict(row, storage, ratios, share)
            runs = results.runs[row.measure][storage]
            found.append(
                {
                    "title": row.title,
                    "measure": row.measure,
                    "figure": row.figure,
                    "unit": row.unit,
                    "storage": storage,
                    "values": values,
                    "ratios": ratios,
                    "limit": limit,
                    "limit_name": row.limit,
                    "share_of_limit": share,
                    "wanted": wanted,
                    "reached": reached,
                    "disturbed": any(run.get("disturbed") for peer in runs.values() for run in peer),
                }
            )
    return found


def table(results: Results) -> str:
    """The table for people. A star marks what other work disturbed in every attempt."""
    lines = [COLUMNS]
    for row in rows(results):
        values, ratios = row["values"], row["ratios"]
        reached = {True: "yes", False: "NO", None: ""}[row["reached"]]  # type: ignore[index]
        lines.append(
            [
                str(row["title"]) + ("*" if row["disturbed"] else ""),
                str(row["storage"]),
                str(row["unit"]),
                *(_number(values[p]) for p in (KAFKA, FSYNC, NATS, OURS)),  # type: ignore[index]
                *(_number(ratios[p]) for p in (KAFKA, FSYNC)),  # type: ignore[index]
                _number(row["limit"]),  # type: ignore[arg-type]
                _number(row["share_of_limit"]),  # type: ignore[arg-type]
                str(row["wanted"]),
                reached,
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    text = []
    for number, line in enumerate(lines):
        cells = [
            c.ljust(w) if i < 3 or i > 10 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if number == 0:
            text.append("  ".join("-" * w for w in widths))
    text.append("")
    text.append(
        "x Kafka, x fsync: how many times better Millrace is (which forces to the disk before it acknowledges)."
    )
    for name, by_storage in results.limits.items():
        medians = ", ".join(f"{results.limit_median(name, s):,.0f} MiB/s on {s}" for s in by_storage)
        text.append(f"limit {name}: {medians}")
    return "\n".join(text)


def document(results: Results, machine: dict[str, object], commit: str, seconds: float) -> dict[str, object]:
    """The JSON file's content: the table, every run that counts, the limits, the machine."""
    return {
        "machine": machine,
        "commit": commit,
        "seconds": round(seconds, 1),
        "discarded_runs": results.discarded,
        "rows": rows(results),
        "runs": results.runs,
        "limits": results.limits,
    }
