"""The table of ratios and the JSON file."""

from __future__ import annotations

import textwrap
from dataclasses import asdict

from aims import FSYNC, KAFKA, LEAST_RATE_HELD, NATS, NATS_FSYNC, OURS, RATE_HELD, ROWS, Aim, Row, ratio
from limits import LIMITS
from results import Results

PEERS = (KAFKA, FSYNC, NATS, NATS_FSYNC, OURS)
COLUMNS = ["", "Kafka", "fsync", "NATS", "fsync", "Millrace", "x K", "x F", "limit", "of it", "aim", "met"]
STORAGES = {"disk": "ON DISK", "ram": "ON A RAM DISK"}
WIDTH = 120
# The figure columns; the others are text and stand to the left.
_FIGURES = range(1, 10)
LEGEND = """\
K  Kafka as it comes (no fsync). F  Kafka with an fsync of each append (flush.messages=1). L  the limit: what the
machine gives in the same run without a broker, listed below; of it  the share of it that Millrace reached. x K, x F
how many times better Millrace is, which forces to the disk before each acknowledgement. *  other work disturbed all
runs of this figure. !  did not hold the rate: the figure is compared with none; n/c: nor is the aim judged by it.
No limit stands beside memory, starts, waits, the rate held and idle partitions: no disk or network bounds them. Nor
beside 1,000 partitions: how many records share an fsync there is the client's and the broker's choice.
NATS JetStream with its own bench, 500 messages in flight: as it comes (an fsync every two minutes; a quarter of the
records) and with sync_interval: always (an fsync for each message; a fiftieth of them).
kill -9: Kafka serves when its old session has ended (9 s by default); reading the log is a line of its own.
A member: one of four of a consumer group, all clients with their defaults; until others consume all its partitions.
3 brokers: three replicas, min.insync.replicas=2; Millrace forces to the disk on all. wait: the longest that a record of
a steady idempotent load (acks=all, 1,000 records/s) waited for its acknowledgement, which no gap between
acknowledgements exceeds. 10,000 partitions idle: the broker that needs most."""


def number(value: float | None) -> str:
    """A figure in at most six characters, three digits of it meant."""
    if value is None:
        return "-"
    if value >= 100_000:
        return f"{value / 1000:,.0f}k"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _fell_behind(results: Results, measure: str, storage: str) -> dict[str, float]:
    """Peers that did not hold the rate at which a measure was made, with the share that they held."""
    held = {peer: results.median(measure, storage, peer, RATE_HELD) for peer in PEERS}
    return {peer: m.value for peer, m in held.items() if m and m.value < LEAST_RATE_HELD}


def _verdict(
    aim: Aim, ratios: dict[str, float | None], share: float | None, ours: float | None, behind: list[str]
) -> tuple[bool | None, bool]:
    """Whether the aim was met, None if that can't be told; and whether what was measured can be compared at all.

    A peer that fell `behind` the rate is no measure for ours; ours alone behind has missed.
    """
    if any(peer in behind for peer in aim.peers):
        return None, False
    if OURS in behind:
        return False, True
    return aim.met(ratios, share, ours), True


def _row(results: Results, row: Row, storage: str) -> dict[str, object]:
    medians = {p: results.median(row.measure, storage, p, row.figure) for p in PEERS}
    values = {p: m.value if m else None for p, m in medians.items()}
    limit = results.limit(row.limit, storage) if row.limit else None
    ours = values[OURS]
    # The share that was held is itself comparable.
    behind = [] if row.figure == RATE_HELD else list(_fell_behind(results, row.measure, storage))
    ratios = {
        p: None if p in behind or OURS in behind else ratio(ours, values[p], row.higher_is_better)
        for p in PEERS
        if p != OURS
    }
    # Inverse to the ratios: a share of 1 is the limit itself, less is worse.
    share = ratio(ours, limit.value, row.higher_is_better) if limit and OURS not in behind else None
    aim = row.aim(storage)
    met, comparable = _verdict(aim, ratios, share, ours, behind) if aim else (None, True)
    used = [m for m in (*medians.values(), limit) if m is not None]
    return {
        "title": row.title,
        "measure": row.measure,
        "figure": row.figure,
        "storage": storage,
        "higher_is_better": row.higher_is_better,
        "values": values,
        "disturbed_values": [p for p, m in medians.items() if m and m.disturbed],
        "ratios": ratios,
        "limit": limit.value if limit else None,
        "limit_name": row.limit,
        "limit_disturbed": bool(limit and limit.disturbed),
        "share_of_limit": share,
        "aim": aim.text() if aim else None,
        "met": met,
        "comparable": comparable,
        "fell_behind": [p for p in behind if values[p] is not None],
        "disturbed": any(m.disturbed for m in used),
        "runs_left_out": sum(m.left_out for m in used),
    }


def _touched(results: Results, measure: str, storage: str) -> bool:
    return storage in results.runs.get(measure, {}) or storage in results.failures.get(measure, {})


def rows(results: Results) -> list[dict[str, object]]:
    """The table's content: disk first, then RAM disk."""
    found = []
    for storage in STORAGES:
        for row in ROWS:
            if not _touched(results, row.measure, storage):
                continue
            content = _row(results, row, storage)
            # The first line of a measure stays even if all failed: it says so.
            if any(v is not None for v in content["values"].values()) or not row.title.startswith(" "):  # type: ignore[attr-defined]
                found.append(content)
    return found


def missed(results: Results) -> list[tuple[str, str]]:
    """Measure and storage of all lines whose aim was not met, in the table's order, each once."""
    found = [(str(r["measure"]), str(r["storage"])) for r in rows(results) if r["met"] is False]
    return list(dict.fromkeys(found))


def _cell(results: Results, row: dict[str, object], peer: str) -> str:
    value = row["values"][peer]  # type: ignore[index]
    if value is not None:
        behind = "!" if peer in row["fell_behind"] else ""  # type: ignore[operator]
        return number(value) + behind + ("*" if peer in row["disturbed_values"] else "")  # type: ignore[operator]
    if results.failure(str(row["measure"]), str(row["storage"]), peer):
        return "failed"
    if peer in results.missing:
        return "n/a"
    return "-"


def _line(results: Results, row: dict[str, object]) -> list[str]:
    known = {True: "yes", False: "NO", None: "?" if row["comparable"] else "n/c"}
    verdict = known[row["met"]] if row["aim"] else ""  # type: ignore[index]
    star = "*" if row["disturbed"] and verdict else ""
    ratios: dict[str, float | None] = row["ratios"]  # type: ignore[assignment]
    return [
        str(row["title"]),
        *(_cell(results, row, p) for p in PEERS),
        *(number(ratios[p]) for p in (KAFKA, FSYNC)),
        number(row["limit"]) + ("*" if row["limit_disturbed"] else ""),  # type: ignore[arg-type]
        number(row["share_of_limit"]),  # type: ignore[arg-type]
        str(row["aim"] or ""),
        verdict + star,
    ]


def _aligned(lines: list[list[str]]) -> list[str]:
    """Lines of one element are headings and widen no column."""
    full = [line for line in lines if len(line) > 1]
    widths = [max(len(line[i]) for line in full) for i in range(len(COLUMNS))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    text = []
    for line in lines:
        if len(line) == 1:
            text.append(line[0])
            continue
        cells = [
            cell.rjust(width) if i in _FIGURES else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append(gap.join(cells).rstrip())
    return text


def _notes(results: Results) -> list[str]:
    notes = [f"{peer}: not measured: {reason}" for peer, reason in results.missing.items()]
    for measure, by_storage in results.failures.items():
        for storage, by_peer in by_storage.items():
            for peer, reason in by_peer.items():
                notes.append(f"FAILED {measure} on {storage}, {peer}: {reason.splitlines()[0][:300] if reason else ''}")
    content = rows(results)
    for measure, storage in dict.fromkeys((str(r["measure"]), str(r["storage"])) for r in content):
        for peer, held in _fell_behind(results, measure, storage).items():
            notes.append(f"{measure} on {storage}: not comparable: {peer} held {held:.0%} of the rate only")
    left_out = {(r["measure"], r["storage"]): r["runs_left_out"] for r in content if r["runs_left_out"]}
    for (measure, storage), count in left_out.items():
        notes.append(f"{measure} on {storage}: {count} disturbed runs stayed so when repeated and are in no median")
    marked = dict.fromkeys(f"{r['measure']} on {r['storage']}" for r in content if r["disturbed"])
    if marked:
        notes.append(f"DISTURBED by other work, to be measured again: {', '.join(marked)}")
    if not results.complete:
        notes.append("INCOMPLETE: the benchmark was ended before all was measured")
    return [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]


def _limits(results: Results) -> list[str]:
    lines = []
    for name, limit in LIMITS.items():
        found = {storage: results.limit(name, storage) for storage in STORAGES}
        given = " ".join(f"{number(f.value)}{'*' if f.disturbed else ''} on {s}," for s, f in found.items() if f)
        if given:
            lines += textwrap.wrap(
                f"{name}: {given.removesuffix(',')} ({limit.unit}; {limit.what})",
                WIDTH, initial_indent="  ", subsequent_indent="    ",
            )  # fmt: skip
    return lines


def table(results: Results) -> str:
    """The table for people, within 120 columns."""
    lines: list[list[str]] = [COLUMNS]
    storage = None
    for row in rows(results):
        if row["storage"] != storage:
            storage = str(row["storage"])
            lines.append([f"{STORAGES[storage]} {'-' * (WIDTH - 1 - len(STORAGES[storage]))}"])
        lines.append(_line(results, row))
    text = [*_aligned(lines), "", LEGEND]
    if limits := _limits(results):
        text += ["Limits:", *limits]
    text += _notes(results)
    for measure, by_storage in results.profiles.items():
        for storage, profile in by_storage.items():
            text += ["", f"Where the time of {measure} on {storage} goes:", profile]
    return "\n".join(text)


def document(results: Results, machine: dict[str, object], commit: str, seconds: float) -> dict[str, object]:
    """The JSON file's content: the table, every run that counts, the limits, the machine."""
    return {
        "machine": machine,
        "commit": commit,
        "seconds": round(seconds, 1),
        "complete": results.complete,
        "disturbed": any(row["disturbed"] for row in rows(results)),
        "repeated_runs": results.repeated,
        "rows": rows(results),
        "missing_peers": results.missing,
        "failures": results.failures,
        "profiles": results.profiles,
        "runs": {
            measure: {s: {p: [asdict(run) for run in runs] for p, runs in peers.items()} for s, peers in on.items()}
            for measure, on in results.runs.items()
        },
        "limits": {name: {s: [asdict(r) for r in rs] for s, rs in on.items()} for name, on in results.limits.items()},
    }
