"""The check at the end: what was acknowledged and seen, as `lib/load.py` noted it, against all that is stored.

It counts instead of stopping at the first find, so that a failure tells how much is wrong and where.
"""

from __future__ import annotations

import itertools
import json
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from lib.api import ApiError, Client, types_pb2
from lib.load import KEYS

_EXAMPLES = 10


@dataclass
class Verdict:
    """What was found; all but the first six must be nothing."""

    stored: int = 0
    acknowledged: int = 0
    seen: int = 0
    sent: int = 0
    refused: int = 0  # surely not written, by the broker's word
    unknown: int = 0  # written or not
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    seen_then_gone: int = 0
    elsewhere: int = 0  # acknowledged at an offset that holds something else
    foreign: int = 0  # stored and never sent
    refused_yet_stored: int = 0
    unanswered: int = 0  # neither acknowledged nor refused nor unknown
    examples: list[str] = field(default_factory=list)

    def clean(self) -> bool:
        """Whether every promise was kept."""
        wrong = (self.lost, self.doubled, self.out_of_order, self.seen_then_gone)
        return not any(wrong) and not any((self.elsewhere, self.foreign, self.refused_yet_stored, self.unanswered))

    def table(self) -> str:
        """The figures, a line each."""
        rows = {
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "refused": self.refused,
            "unknown": self.unknown,
            "stored": self.stored,
            "seen by consumers": self.seen,
            "acknowledged lost": self.lost,
            "doubled": self.doubled,
            "out of order": self.out_of_order,
            "seen then gone": self.seen_then_gone,
            "acknowledged elsewhere": self.elsewhere,
            "stored, never sent": self.foreign,
            "refused, yet stored": self.refused_yet_stored,
            "never answered": self.unanswered,
        }
        text = "".join(f"  {name:<24}{count:>10}\n" for name, count in rows.items())
        return text + "".join(f"  {example}\n" for example in self.examples)

    def note(self, text: str) -> None:
        """Keeps the first few examples."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)


@dataclass
class Told:
    """What a producer was told of a request: when, its messages' numbers, and where they are."""

    at: float
    what: str  # acked, refused, unknown
    first: int
    count: int
    base: int


def told(folder: Path, partition: int) -> list[Told]:
    """What a partition's producer was told, in its order. A last line that is torn is none."""
    found = []
    for line in (folder / f"told-{partition}").read_text().split("\n")[:-1]:
        at, what, first, count, base = line.split()
        found.append(Told(float(at), what, int(first), int(count), int(base)))
    return found


def longest_gap(folder: Path, partitions: int, begin: float, end: float) -> float:
    """The longest time within [begin, end] in which one of the partitions had no acknowledgement."""
    longest = 0.0
    for partition in range(partitions):
        times = [request.at for request in told(folder, partition) if request.what == "acked"]
        times = [begin, *times[bisect_left(times, begin) : bisect_left(times, end)], end]
        longest = max(longest, *(later - earlier for earlier, later in zip(times, times[1:], strict=False)))
    return longest


def _stored(addresses: list[str], topic: str, partition: int) -> Iterator[types_pb2.ReceivedMessage]:
    """All that is stored in a partition, from whichever broker gives it."""
    following, deadline = 0, time.monotonic() + 60
    for turn in itertools.count():
        with Client(addresses[turn % len(addresses)]) as client:
            try:
                for message in client.read_stream(topic, partition, following, timeout=600):
                    following, deadline = message.offset + 1, time.monotonic() + 60
                    yield message
                return
            except ApiError as error:
                if error.code != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def check_published(addresses: list[str], topic: str, partitions: int, folder: Path) -> Verdict:
    """Reads a topic of `load publish` and compares it with the notes of its producers and readers."""
    verdict = Verdict()
    for partition in range(partitions):
        offsets: list[int] = []
        numbers: list[int] = []
        sums: dict[int, int] = {}  # offset -> CRC of the value
        at: dict[int, int] = {}  # number -> offset
        for message in _stored(addresses, topic, partition):
            who, number_text, _ = message.message.value.split(b":", 2)
            number = int(number_text)
            where = f"partition {partition} offset {message.offset}"
            if offsets and message.offset <= offsets[-1]:
                verdict.out_of_order += 1
                verdict.note(f"{where} was read after offset {offsets[-1]}")
            if int(who) != partition or message.message.key != b"%d" % (number % KEYS):
                verdict.foreign += 1
                verdict.note(f"{where} holds {message.message.key!r} {message.message.value[:40]!r}")
            if number in at:
                verdict.doubled += 1
                verdict.note(f"{where} holds number {number}, as offset {at[number]} does")
            elif numbers and number < numbers[-1]:
                verdict.out_of_order += 1
                verdict.note(f"{where} holds number {number} after {numbers[-1]}")
            offsets.append(message.offset)
            numbers.append(number)
            at.setdefault(number, message.offset)
            sums[message.offset] = zlib.crc32(message.message.value)
        sent = int((folder / f"sent-{partition}").read_text())
        verdict.sent += sent
        verdict.stored += len(numbers)
        for number in [number for number in at if number >= sent]:
            verdict.foreign += 1
            verdict.note(f"partition {partition} has number {number}, {sent} were sent")
        answered = 0
        for request in told(folder, partition):
            answered += request.count
            setattr(verdict, _FIELD[request.what], getattr(verdict, _FIELD[request.what]) + request.count)
            for i in range(request.count):
                _check_told(verdict, partition, request, i, at)
        verdict.unanswered += sent - answered
        _check_seen(verdict, folder, partition, offsets, sums)
    return verdict


_FIELD = {"acked": "acknowledged", "refused": "refused", "unknown": "unknown"}


def _check_told(verdict: Verdict, partition: int, request: Told, i: int, at: dict[int, int]) -> None:
    """Whether message `i` of a request is where the producer was told, or nowhere if so it was told."""
    number = request.first + i
    where = at.get(number)
    if request.what == "refused" and where is not None:
        verdict.refused_yet_stored += 1
        verdict.note(f"partition {partition} number {number} was refused as not written, it is at {where}")
    elif request.what == "acked" and where is None:
        verdict.lost += 1
        verdict.note(f"partition {partition} lost number {number}, acknowledged at {request.base + i}")
    elif request.what == "acked" and request.base >= 0 and where != request.base + i:
        verdict.elsewhere += 1
        verdict.note(f"partition {partition} number {number} is at {where}, acknowledged at {request.base + i}")


def _check_seen(verdict: Verdict, folder: Path, partition: int, offsets: list[int], sums: dict[int, int]) -> None:
    """What a reader was shown must be there still, and must have come whole and in order."""
    lines = (folder / f"seen-{partition}").read_bytes().split(b"\n")[:-1]
    for place, line in enumerate(lines):
        offset, number, crc = (int(text) for text in line.split())
        verdict.seen += 1
        if sums.get(offset) != crc:
            verdict.seen_then_gone += 1
            verdict.note(f"partition {partition} offset {offset} was shown with number {number} and is not so now")
        elif offset != offsets[place]:
            verdict.out_of_order += 1
            verdict.note(f"partition {partition}: a reader was shown offset {offset} where {offsets[place]} was next")


def check_lines(addresses: list[str], topic: str, partitions: int, folder: Path, consumed: Path) -> Verdict:
    """The same for a topic of `load lines`: what is acknowledged is there, each key in order, and so is what
    `millrace consume --output json` wrote to the file `consumed`."""
    lives = [tuple(map(int, line.split())) for line in (folder / "lines-sent").read_text().splitlines()]
    verdict = Verdict(sent=sum(count for count, _ in lives), acknowledged=sum(surely for _, surely in lives))
    stored: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    last: dict[bytes, int] = {}
    found: set[tuple[bytes, int]] = set()
    for message in itertools.chain.from_iterable(_stored(addresses, topic, p) for p in range(partitions)):
        key, value = message.message.key, message.message.value
        number = int(value)
        stored[(message.partition, message.offset)] = (key, value)
        verdict.stored += 1
        if (key, number) in found:
            verdict.doubled += 1
            verdict.note(f"key {key!r} number {number} is there twice, also at {message.partition}/{message.offset}")
        elif number < last.get(key, -1):
            verdict.out_of_order += 1
            verdict.note(f"key {key!r} number {number} comes after {last[key]}")
        found.add((key, number))
        last[key] = number
    for life, (count, surely) in enumerate(lives):
        sent = {(b"%d.%d" % (life, n % KEYS), n // KEYS) for n in range(count)}
        if surely == count:
            for key, number in sorted(sent - found):
                verdict.lost += 1
                verdict.note(f"key {key!r} number {number} is lost")
        elif len(sent & found) < surely:
            verdict.lost += surely - len(sent & found)
            verdict.note(f"of life {life} there are {len(sent & found)} messages, {surely} were acknowledged")
        found -= sent
    verdict.foreign = len(found)
    for line in consumed.read_bytes().split(b"\n")[:-1]:
        shown = json.loads(line)
        verdict.seen += 1
        pair = (shown["key"].encode(), shown["value"].encode())
        if stored.get((shown["partition"], shown["offset"])) != pair:
            verdict.seen_then_gone += 1
            verdict.note(f"{shown['partition']}/{shown['offset']} was shown as {pair} and is not so now")
    return verdict
