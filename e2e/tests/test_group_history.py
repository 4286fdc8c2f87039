"""The checker of groups finds what it is there to find: histories with one thing wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lib.group_history import Life, Observed, check_group


def _event(event: str, at: float, partition: int = 0, **more: int) -> dict:
    time = datetime.fromtimestamp(at, UTC).isoformat()
    return {"event": event, "time": time, "partitions": [{"topic": "t", "partition": partition}], **more}


def _shown(offset: int, number: int | None = None, partition: int = 0) -> dict:
    number = offset if number is None else number
    return {"topic": "t", "partition": partition, "offset": offset, "value": f"{partition}:{number}:."}


ONE = [_event("assigned", 1), _shown(0), _shown(1), _event("committed", 2, offset=2), _event("revoked", 3)]
TWO = [_event("assigned", 4), _shown(2)]
LOOKS = [Observed(2.5, {0: 2}), Observed(5.0, {0: 3})]


def _check(folder: Path, one: list[dict], two: list[dict], looks: list[Observed], ended: float = 9.0):
    (folder / "told-0").write_text("1.0 acked 0 2 0\n2.0 refused 9 1 -1\n2.0 unknown 9 1 -1\n3.0 acked 2 1 2\n")
    lives = []
    for name, written in (("one", one), ("two", two)):
        out = folder / f"{name}.out"
        # The last line is torn: its process was killed.
        out.write_text("".join(json.dumps(line) + "\n" for line in written) + '{"event": "assi')
        lives.append(Life(name, out, ended))
    return check_group(lives, looks, folder, 1)


def test_a_history_in_which_all_is_right_is_clean(tmp_path: Path) -> None:
    verdict = _check(tmp_path, ONE, TWO, LOOKS)
    assert verdict.clean(), verdict.table()
    assert (verdict.acknowledged, verdict.shown, verdict.stretches) == (3, 3, 2)
    assert (verdict.commits, verdict.observed) == (1, 2)
    # What nobody had to be shown twice may be shown twice, from where it was committed on or before.
    again = [_event("assigned", 1.5), _shown(0), _shown(1), _shown(2)]
    assert _check(tmp_path, [_event("assigned", 1), _shown(0), _event("lost", 1.2)], again, []).clean()


WRONG: dict[str, tuple[list[dict], list[dict], list[Observed], str]] = {
    "acknowledged and shown to nobody": (ONE, TWO[:1], LOOKS, "not_delivered"),
    "shown as something else": (ONE, [TWO[0], _shown(2, 7)], LOOKS, "not_the_same"),
    "shown otherwise to two": (ONE, [_event("assigned", 1), _shown(1, 5), _shown(2)], [], "not_the_same"),
    "left out": ([ONE[0], _shown(1), _event("revoked", 3)], [TWO[0], _shown(0), _shown(2)], [], "out_of_order"),
    "twice in one stretch": ([*ONE[:3], _shown(1), *ONE[3:]], TWO, LOOKS, "out_of_order"),
    "shown after it was given back": ([*ONE, _shown(2)], TWO, LOOKS, "not_owned"),
    "shown to one that never had it": (ONE, [*TWO, _shown(0, partition=5)], LOOKS, "not_owned"),
    "assigned while it had it": ([ONE[0], *ONE], TWO, LOOKS, "not_owned"),
    "two owners": (ONE, [_event("assigned", 2.9), _shown(2)], LOOKS, "two_owners"),
    "two owners, one to its end": (ONE[:-1], TWO, LOOKS, "two_owners"),
    "committed goes back": (ONE, TWO, [*LOOKS, Observed(6.0, {0: 2})], "committed_back"),
    "committed is gone": (ONE, TWO, [*LOOKS, Observed(6.0, {})], "committed_back"),
    "committed by a member's word, and not seen": (ONE, TWO, [Observed(2.5, {0: 1})], "committed_back"),
    "begun before what is committed": (ONE, [TWO[0], _shown(1), _shown(2)], LOOKS, "began_before_committed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(tmp_path: Path, name: str) -> None:
    one, two, looks, figure = WRONG[name]
    verdict = _check(tmp_path, one, two, looks)
    assert not verdict.clean()
    assert getattr(verdict, figure) > 0, verdict.table()
    assert verdict.examples


def test_a_killed_member_has_its_partitions_until_then(tmp_path: Path) -> None:
    assert _check(tmp_path, ONE[:-1], TWO, LOOKS, ended=3.5).clean()
