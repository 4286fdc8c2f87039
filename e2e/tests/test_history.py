"""The checker of the tests of faults finds each kind of broken promise, and nothing where none is broken."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from lib import history
from lib.api import types_pb2
from lib.load import KEYS

# Requests 0-1 and 4-5 are acknowledged at these offsets, 2 is surely refused, 3 is unknown.
TOLD = "1.0 acked 0 2 0\n2.0 refused 2 1 -1\n3.0 unknown 3 1 -1\n4.0 acked 4 2 2\n"
STORED = [0, 1, 4, 5]


def _value(number: int) -> bytes:
    return b"0:%d:..." % number


def _messages(numbers: list[int]) -> list[types_pb2.ReceivedMessage]:
    return [
        types_pb2.ReceivedMessage(
            partition=0, offset=at, message=types_pb2.Message(key=b"%d" % (number % KEYS), value=_value(number))
        )
        for at, number in enumerate(numbers)
    ]


def _verdict(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    stored: list[int],
    seen: list[tuple[int, int]],
    told: str = TOLD,
) -> history.Verdict:
    """What is found where `stored` numbers lie from offset 0 on and a reader was shown (offset, number) pairs."""
    (folder / "told-0").write_text(told)
    (folder / "sent-0").write_text("6")
    (folder / "seen-0").write_text("".join(f"{at} {number} {zlib.crc32(_value(number))}\n" for at, number in seen))
    monkeypatch.setattr(history, "_stored", lambda *_: iter(_messages(stored)))
    return history.check_published(["nowhere:1"], "t", 1, folder)


def test_kept_promises_are_clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = _verdict(monkeypatch, tmp_path, STORED, list(enumerate(STORED)))
    assert verdict.clean(), verdict.table()
    assert (verdict.acknowledged, verdict.refused, verdict.unknown, verdict.stored, verdict.seen) == (4, 1, 1, 4, 4)
    assert history.longest_gap(tmp_path, 1, 0.0, 5.0) == 3.0


@pytest.mark.parametrize(
    ("stored", "seen", "found"),
    [
        ([0, 1, 4], [], {"lost": 1}),
        ([0, 1, 4, 5, 5], [], {"doubled": 1}),
        ([0, 1, 5, 4], [], {"out_of_order": 1, "elsewhere": 2}),
        ([0, 1, 2, 4, 5], [], {"refused_yet_stored": 1, "elsewhere": 2}),
        ([0, 1, 4, 5, 6], [], {"foreign": 1}),
        (STORED, [(0, 0), (1, 1), (2, 3)], {"seen_then_gone": 1}),
        (STORED, [(0, 0), (1, 1), (2, 4), (3, 5), (4, 6)], {"seen_then_gone": 1}),
        (STORED, [(0, 0), (2, 4)], {"out_of_order": 1}),
    ],
)
def test_a_broken_promise_is_counted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stored: list[int],
    seen: list[tuple[int, int]],
    found: dict[str, int],
) -> None:
    verdict = _verdict(monkeypatch, tmp_path, stored, seen)
    kinds = [
        "lost",
        "doubled",
        "out_of_order",
        "seen_then_gone",
        "elsewhere",
        "foreign",
        "refused_yet_stored",
        "unanswered",
    ]
    assert {kind: getattr(verdict, kind) for kind in kinds if getattr(verdict, kind)} == found, verdict.table()
    assert not verdict.clean() and verdict.examples


def test_a_request_that_was_never_answered_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = TOLD.rsplit("\n", 2)[0] + "\n"
    verdict = _verdict(monkeypatch, tmp_path, STORED, [], told)
    assert verdict.unanswered == 2 and not verdict.clean()


@pytest.mark.parametrize(
    ("lives", "numbers", "found"),
    [
        ("3 3\n", [0, 1, 2], {}),
        ("3 3\n", [0, 1], {"lost": 1}),
        ("3 2\n", [0, 1], {}),
        ("3 2\n", [0], {"lost": 1}),
        ("3 3\n", [0, 1, 2, 2], {"doubled": 1}),
        ("2 2\n", [0, 1, 2], {"foreign": 1}),
        (f"{KEYS + 1} 0\n", [KEYS, 0], {"out_of_order": 1}),
    ],
)
def test_lines_are_checked_by_key_and_life(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lives: str, numbers: list[int], found: dict[str, int]
) -> None:
    (tmp_path / "lines-sent").write_text(lives)
    messages = [
        types_pb2.ReceivedMessage(
            offset=at, message=types_pb2.Message(key=b"0.%d" % (n % KEYS), value=b"%d" % (n // KEYS))
        )
        for at, n in enumerate(numbers)
    ]
    shown = [{"partition": 0, "offset": 0, "key": f"0.{numbers[0] % KEYS}", "value": str(numbers[0] // KEYS)}]
    shown += [{"partition": 0, "offset": 99, "key": "0.0", "value": "0"}]
    (tmp_path / "consumed").write_text("".join(json.dumps(one) + "\n" for one in shown))
    monkeypatch.setattr(history, "_stored", lambda *_: iter(messages))
    verdict = history.check_lines(["nowhere:1"], "t", 1, tmp_path, tmp_path / "consumed")
    kinds = ["lost", "doubled", "out_of_order", "foreign"]
    assert {kind: getattr(verdict, kind) for kind in kinds if getattr(verdict, kind)} == found, verdict.table()
    assert verdict.seen == 2 and verdict.seen_then_gone == 1
