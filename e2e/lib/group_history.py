"""The check of a group's members: who had which partition when, what each was shown, and what was committed.

Members write a JSON object a line, as `millrace consume --group G --assignments --output json` and
`lib/group_member.py` do. It counts instead of stopping at the first find.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lib.history import told

_EXAMPLES = 10


@dataclass
class Stretch:
    """From when until when a member had a partition, and which offsets it wrote meanwhile."""

    member: str
    partition: int
    begin: float
    end: float = float("inf")
    how: str = "had it to the end"
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        offsets = f"offsets {self.first} to {self.last}"
        return f"{self.member} from {self.begin:.6f} to {self.end:.6f} ({self.how}), {offsets}"


@dataclass
class Observed:
    """What was committed by partition, asked between two moments."""

    began: float
    offsets: dict[int, int]


@dataclass
class GroupVerdict:
    """What was found; all but the first five must be nothing."""

    acknowledged: int = 0
    shown: int = 0
    stretches: int = 0
    commits: int = 0  # that members told of
    observed: int = 0
    not_delivered: int = 0  # acknowledged, and no member was shown it
    not_the_same: int = 0  # shown as something else than what was acknowledged, or to somebody else
    out_of_order: int = 0  # not the next offset of a member's stretch
    not_owned: int = 0  # shown to a member that did not have the partition
    two_owners: int = 0
    committed_back: int = 0  # less than had been committed before
    began_before_committed: int = 0
    examples: list[str] = field(default_factory=list)

    def clean(self) -> bool:
        """Whether every promise was kept."""
        wrong = (self.not_delivered, self.not_the_same, self.out_of_order, self.not_owned)
        return not any((*wrong, self.two_owners, self.committed_back, self.began_before_committed))

    def note(self, text: str) -> None:
        """Keeps the first few examples."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)

    def table(self) -> str:
        """The figures, a line each."""
        rows = {
            "acknowledged": self.acknowledged,
            "shown to members": self.shown,
            "stretches of ownership": self.stretches,
            "commits told": self.commits,
            "looks at what is committed": self.observed,
            "acknowledged, not shown": self.not_delivered,
            "shown as something else": self.not_the_same,
            "out of order": self.out_of_order,
            "shown to a non-owner": self.not_owned,
            "partitions with two owners": self.two_owners,
            "committed offsets gone back": self.committed_back,
            "begun before the committed": self.began_before_committed,
        }
        text = "".join(f"  {name:<28}{count:>10}\n" for name, count in rows.items())
        return text + "".join(f"  {example}\n" for example in self.examples)


@dataclass
class Life:
    """A member's process: its name, what it wrote, and when it was killed or asked to leave."""

    name: str
    out: Path
    ended: float = float("inf")


def lines(out: Path) -> Iterable[dict]:
    """What a member wrote. A last line that is torn is none."""
    for line in out.read_bytes().split(b"\n")[:-1]:
        yield json.loads(line)


def check_group(lives: Iterable[Life], observed: list[Observed], folder: Path, partitions: int) -> GroupVerdict:
    """Compares what the members wrote with what `lib.load publish` noted in `folder`, and with each other."""
    verdict = GroupVerdict()
    seen: dict[tuple[int, int], str] = {}
    stretches: list[Stretch] = []
    commits: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for life in lives:
        stretches += _follow(verdict, life, seen, commits)
    verdict.stretches = len(stretches)
    verdict.observed = sum(1 for look in observed if look.offsets)
    for partition in range(partitions):
        for request in told(folder, partition):
            if request.what != "acked" or request.base < 0:
                continue
            verdict.acknowledged += request.count
            for i in range(request.count):
                _check_shown(verdict, partition, request.base + i, request.first + i, seen)
        _check_owners(verdict, [one for one in stretches if one.partition == partition])
        _check_commits(verdict, partition, sorted(commits[partition]), stretches, observed)
    return verdict


def _follow(
    verdict: GroupVerdict, life: Life, seen: dict[tuple[int, int], str], commits: dict[int, list[tuple[float, int]]]
) -> Iterable[Stretch]:
    """A member's stretches, by what it wrote."""
    has: dict[int, Stretch] = {}
    for line in lines(life.out):
        event = line.get("event")
        if event is None:
            _show(verdict, life, has, seen, line)
            continue
        at = datetime.fromisoformat(line["time"]).timestamp()
        for partition in (one["partition"] for one in line["partitions"]):
            if event == "committed":
                verdict.commits += 1
                commits[partition].append((at, line["offset"]))
            elif event == "assigned":
                if partition in has:
                    verdict.not_owned += 1
                    verdict.note(f"{life.name} got partition {partition} twice: {has[partition]}")
                has[partition] = Stretch(life.name, partition, at)
            elif partition in has:
                stretch = has.pop(partition)
                stretch.end, stretch.how = at, event
                yield stretch
    for stretch in has.values():
        stretch.end = life.ended
        yield stretch


def _show(
    verdict: GroupVerdict, life: Life, has: dict[int, Stretch], seen: dict[tuple[int, int], str], line: dict
) -> None:
    """A message that a member was shown."""
    verdict.shown += 1
    partition, offset, value = line["partition"], line["offset"], line["value"]
    if seen.setdefault((partition, offset), value) != value:
        verdict.not_the_same += 1
        verdict.note(f"{partition}/{offset} is {value!r} at {life.name}, elsewhere {seen[(partition, offset)]!r}")
    stretch = has.get(partition)
    if stretch is None:
        verdict.not_owned += 1
        verdict.note(f"{life.name} was shown {partition}/{offset} and does not have the partition")
        return
    if stretch.last is not None and offset != stretch.last + 1:
        verdict.out_of_order += 1
        verdict.note(f"{life.name} was shown {partition}/{offset} after {stretch.last}")
    stretch.first = offset if stretch.first is None else stretch.first
    stretch.last = offset


def _check_shown(
    verdict: GroupVerdict, partition: int, offset: int, number: int, seen: dict[tuple[int, int], str]
) -> None:
    value = seen.get((partition, offset))
    if value is None:
        verdict.not_delivered += 1
        verdict.note(f"{partition}/{offset}, number {number}, was acknowledged and shown to nobody")
    elif not value.startswith(f"{partition}:{number}:"):
        verdict.not_the_same += 1
        verdict.note(f"{partition}/{offset} was acknowledged as number {number} and shown as {value!r}")


def _check_owners(verdict: GroupVerdict, stretches: list[Stretch]) -> None:
    """No stretch of a partition begins before all that began earlier have ended."""
    latest: Stretch | None = None
    for stretch in sorted(stretches, key=lambda one: one.begin):
        if latest is not None and stretch.begin < latest.end:
            verdict.two_owners += 1
            verdict.note(f"partition {stretch.partition} had two owners: {latest}; {stretch}")
        if latest is None or stretch.end > latest.end:
            latest = stretch


def _check_commits(
    verdict: GroupVerdict,
    partition: int,
    commits: list[tuple[float, int]],
    stretches: list[Stretch],
    observed: list[Observed],
) -> None:
    """What is committed never goes back, whoever asks, and who begins goes on there."""
    # The highest offset that was certainly committed at the time of each commit.
    times, highest = [], []
    for at, offset in commits:
        times.append(at)
        highest.append(max(offset, highest[-1] if highest else 0))

    def committed_at(moment: float) -> int:
        place = bisect_left(times, moment)
        return highest[place - 1] if place else 0

    before = 0
    for look in observed:
        offset = look.offsets.get(partition)
        # A partition that an answer leaves out has never had an offset.
        least = max(before, committed_at(look.began))
        if (offset or 0) < least:
            verdict.committed_back += 1
            verdict.note(f"partition {partition} at {look.began:.6f}: committed is {offset}, was {least}")
        before = max(before, offset or 0)
    for stretch in stretches:
        if stretch.partition == partition and stretch.first is not None:
            least = committed_at(stretch.begin)
            if stretch.first < least:
                verdict.began_before_committed += 1
                verdict.note(f"partition {partition}: {least} was committed before {stretch}")
