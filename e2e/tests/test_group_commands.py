"""Consumer groups by the `millrace` command, as people and scripts use it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import paths
from lib.broker import Broker, millrace
from lib.proc import Process

PATIENCE = 60.0


@pytest.fixture
def name(topic: str) -> str:
    """A new topic's name."""
    return topic


def run(broker: Broker, *args: str, **options: object):
    """A command against the file's broker."""
    return millrace(*args, bootstrap=broker.address, **options)


def told(broker: Broker, *args: str) -> dict:
    """What a command prints as JSON."""
    return json.loads(run(broker, *args, json=True).ok())


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Waits until it holds."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, f"not {what}"
        time.sleep(0.05)


@pytest.fixture
def member(shared: Broker, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `millrace consume --group`; all end with the test."""
    members: list[Process] = []

    def start(topic: str, group: str, *args: str) -> Process:
        command = [paths.binary("millrace"), "--bootstrap", shared.address, "consume", topic, "--group", group, *args]
        members.append(Process(command, tmp_path, f"member-{len(members)}"))
        return members[-1]

    yield start
    for one in members:
        one.kill()


def shares(broker: Broker, group: str) -> list[int]:
    """How many partitions each member has, once all have what they shall have."""
    done = run(broker, "group", "describe", group, "--members", json=True)
    if done.code != 0:
        return []
    described = json.loads(done.ok())
    if described["state"] != "stable":
        return []
    return sorted(sum(len(topic["partitions"]) for topic in member["assigned"]) for member in described["members"])


def committed(broker: Broker, group: str) -> dict[int, int | None]:
    """The committed offset of each partition."""
    return {part["partition"]: part["committed"] for part in told(broker, "group", "describe", group)["partitions"]}


def produce(broker: Broker, topic: str, numbers: range) -> None:
    """A message for each number, spread by its key."""
    lines = "".join(f"k{n}:{n}\n" for n in numbers)
    run(broker, "produce", topic, "--key-separator", ":", stdin=lines.encode()).ok()


def test_a_groups_life(shared: Broker, member: Callable[..., Process]) -> None:
    run(shared, "topic", "create", "orders", "--partitions", "6").ok()
    produce(shared, "orders", range(60))
    assert "check the spelling" in run(shared, "group", "describe", "billing").failed()
    one = member("orders", "billing", "--from", "beginning")
    wait_for("all partitions at the first", lambda: shares(shared, "billing") == [6])
    two = member("orders", "billing", "--from", "beginning")
    wait_for("equal shares", lambda: shares(shared, "billing") == [3, 3])
    produce(shared, "orders", range(60, 90))
    both = [*range(90)]
    wait_for("all read", lambda: sorted(int(line) for line in (one.out() + two.out()).split()) == both)
    wait_for("all committed", lambda: told(shared, "group", "describe", "billing")["lag"] == 0)
    [listed] = told(shared, "group", "list", "bill")["groups"]
    assert (listed["group"], listed["state"], listed["members"]) == ("billing", "stable", 2)

    os.kill(two.pid, signal.SIGKILL)
    wait_for("its partitions at the other", lambda: shares(shared, "billing") == [6])
    before = len(one.out().split())
    produce(shared, "orders", range(90, 120))
    wait_for("all read by the one that is left", lambda: len(one.out().split()) == before + 30)
    wait_for("all committed", lambda: told(shared, "group", "describe", "billing")["lag"] == 0)

    # What a member uses is left alone, and told for each partition.
    ends = committed(shared, "billing")
    assert sum(end or 0 for end in ends.values()) == 120
    busy = run(shared, "group", "reset-offsets", "billing", "--all-topics", "--to-earliest", "--execute", json=True)
    assert busy.code == 1
    parts = json.loads(busy.out)["partitions"]
    assert [part["error"]["reason"] for part in parts] == ["GROUP_NOT_EMPTY"] * 6
    assert "stop them first" in run(shared, "group", "delete", "billing").failed()
    assert committed(shared, "billing") == ends

    os.kill(one.pid, signal.SIGINT)
    assert one.wait(30) == 130, one.err()
    wait_for("a group without members", lambda: told(shared, "group", "describe", "billing")["state"] == "empty")
    text = run(shared, "group", "reset-offsets", "billing", "--all-topics", "--to-earliest")
    assert text.ok().decode().count("would be set") == 6 and b"--execute" in text.err
    assert committed(shared, "billing") == ends, "a dry run changes nothing"
    done = told(shared, "group", "reset-offsets", "billing", "--all-topics", "--to-earliest", "--execute")
    assert [part["after"] for part in done["partitions"]] == [0] * 6
    described = told(shared, "group", "describe", "billing")
    assert described["lag"] == 120 and described["time_lag_ms"] > 0
    for part in described["partitions"]:
        assert part["lag"] == part["end"] == ends[part["partition"]]
        assert 0 < part["time_lag_ms"] <= described["time_lag_ms"]
    text = run(shared, "group", "describe", "billing").ok().decode()
    assert "\nLag:             120\n" in text and "TIME LAG" in text

    again = run(shared, "consume", "orders", "--group", "billing", "--max-messages", "120").ok()
    assert sorted(map(int, again.split())) == [*range(120)]
    assert told(shared, "group", "describe", "billing")["lag"] == 0
    run(shared, "group", "delete", "billing", "--dry-run").ok()
    run(shared, "group", "delete", "billing").ok()
    assert told(shared, "group", "list", "bill")["groups"] == []


def test_offsets_go_where_they_are_told_to(shared: Broker) -> None:
    run(shared, "topic", "create", "moved", "--partitions", "2").ok()
    lines = "".join(f"{n}\n" for n in range(10)).encode()
    produce(shared, "moved", range(40))
    between = str(int(time.time() * 1000) + 1)
    time.sleep(0.01)
    run(shared, "produce", "moved", stdin=lines).ok()
    run(shared, "consume", "moved", "--group", "mover", "--from", "beginning", "--max-messages", "50").ok()
    ends = committed(shared, "mover")
    assert sum(end or 0 for end in ends.values()) == 50

    def planned(*args: str) -> dict[int, int | None]:
        outcome = told(shared, "group", "reset-offsets", "mover", *args)
        assert outcome["dry_run"]
        for part in outcome["partitions"]:
            assert part["before"] == ends[part["partition"]]
        return {part["partition"]: part["after"] for part in outcome["partitions"]}

    everything = ("--topic", "moved")
    assert planned(*everything, "--to-earliest") == {0: 0, 1: 0}
    assert planned(*everything, "--to-latest") == ends
    assert planned("--all-topics", "--shift-by", "-3") == {n: (end or 0) - 3 for n, end in ends.items()}
    assert planned("--topic", "moved:1", "--to-offset", "4") == {1: 4}
    # What a partition does not hold becomes its nearest end.
    assert planned(*everything, "--shift-by", "1000") == ends
    assert planned(*everything, "--shift-by", "-1000") == {0: 0, 1: 0}
    assert planned(*everything, "--to-time", "-1h") == {0: 0, 1: 0}
    later = planned(*everything, "--to-time", f"@{between}")
    assert sum(end or 0 for end in later.values()) == 40, "what was written before that time is behind"
    assert planned(*everything, "--forget") == {0: None, 1: None}
    assert committed(shared, "mover") == ends, "nothing of it was done"

    set_to = told(shared, "group", "reset-offsets", "mover", "--topic", "moved:1", "--to-offset", "4", "--execute")
    assert not set_to["dry_run"] and committed(shared, "mover") == {**ends, 1: 4}
    told(shared, "group", "reset-offsets", "mover", "--topic", "moved:0", "--forget", "--execute")
    assert committed(shared, "mover").get(0) is None
    # All that was there is known: nothing of it is called new.
    assert not set_to["is_new"]


def test_a_group_that_is_not_there_yet_is_made_by_a_reset_and_said_to_be_new(shared: Broker) -> None:
    run(shared, "topic", "create", "seeded", "--partitions", "2").ok()
    produce(shared, "seeded", range(10))
    reset = ("group", "reset-offsets", "made", "--topic", "seeded")
    planned = told(shared, *reset, "--to-earliest")
    assert planned["dry_run"] and planned["is_new"]
    text = run(shared, *reset, "--to-earliest").ok().decode()
    assert "group/made is new: it would be made by this" in text
    assert "check the spelling" in run(shared, "group", "describe", "made").failed(), "a dry run makes nothing"
    text = run(shared, *reset, "--to-latest", "--execute").ok().decode()
    assert "group/made is new: it was made by this" in text
    assert sum(end or 0 for end in committed(shared, "made").values()) == 10
    done = told(shared, *reset, "--to-earliest", "--execute")
    assert not done["dry_run"] and not done["is_new"]
    assert "is new" not in run(shared, *reset, "--to-earliest").ok().decode()
    nothing = run(shared, "group", "reset-offsets", "misspelt", "--topic", "seeded", "--forget", "--execute").ok()
    assert b"group/misspelt does not exist" in nothing
    assert "check the spelling" in run(shared, "group", "describe", "misspelt").failed()


def test_what_a_dry_run_has_planned_is_not_done_to_what_the_group_has_become(shared: Broker) -> None:
    run(shared, "topic", "create", "planned", "--partitions", "1").ok()
    produce(shared, "planned", range(10))
    run(shared, "consume", "planned", "--group", "planner", "--from", "beginning", "--max-messages", "4").ok()
    reset = ("group", "reset-offsets", "planner", "--topic", "planned", "--to-earliest")
    version = told(shared, *reset)["version"]
    assert f"--expected-version {version}".encode() in run(shared, *reset).err
    run(shared, "consume", "planned", "--group", "planner", "--max-messages", "2").ok()
    as_planned = (*reset, "--execute", "--expected-version")
    refused = json.loads(run(shared, *as_planned, version, json=True).failed())
    assert refused["error"]["reason"] == "GROUP_CHANGED"
    assert "has changed since" in run(shared, *as_planned, version).failed()
    assert committed(shared, "planner") == {0: 6}
    done = told(shared, *as_planned, told(shared, *reset)["version"])
    assert done["version"] != version and committed(shared, "planner") == {0: 0}
    assert "expected_version" in run(shared, *as_planned, "17").failed()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("describe", "no-such-group"), 1, "check the spelling"),
        (("delete", "no-such-group"), 1, "check the spelling"),
        (("describe", ""), 1, "must not be empty"),
        (("reset-offsets", "g", "--topic", "no-such-topic", "--to-earliest"), 1, "no topic"),
        (("reset-offsets", "g", "--topic", "t", "--to-offset", "-1"), 2, "--to-offset"),
        (("reset-offsets", "g", "--topic", "t"), 2, "--to-earliest|"),
        (("reset-offsets", "g", "--to-earliest"), 2, "--topic"),
        (("reset-offsets", "g", "--to-earliest", "--to-latest", "--topic", "t"), 2, "cannot be used with"),
        (("reset-offsets", "g", "--topic", "t", "--to-datetime", "2026-01-31T12:00:00.000"), 2, "--to-time"),
        (("reset-offsets", "--group", "g", "--topic", "t", "--to-latest"), 2, "without a flag"),
    ],
)
def test_what_is_wrong_is_told(shared: Broker, args: tuple[str, ...], code: int, words: str) -> None:
    text = run(shared, "group", *args).failed(code)
    assert words in text and "panicked" not in text, text
    if code == 1:
        assert len(text.strip().splitlines()) == 1, text


def test_a_member_tells_that_its_topic_is_not_there_yet(shared: Broker, member: Callable[..., Process]) -> None:
    one = member("to-come", "early", "--from", "beginning")
    wait_for("a word of what is waited for", lambda: 'no topic "to-come"' in one.err())
    run(shared, "topic", "create", "to-come").ok()
    run(shared, "produce", "to-come", stdin=b"at last\n").ok()
    wait_for("its first message", lambda: one.out() == "at last\n")


@pytest.mark.parametrize(("start", "goes_on_at"), [("beginning", 6), ("end", 10)])
def test_a_member_goes_on_behind_what_retention_has_deleted(
    shared: Broker, name: str, member: Callable[..., Process], start: str, goes_on_at: int
) -> None:
    group = f"late-{start}"
    run(shared, "produce", name, stdin=b"".join(b"%d\n" % n for n in range(10))).ok()
    run(shared, "group", "reset-offsets", group, "--topic", name, "--to-offset", "2", "--execute").ok()
    run(shared, "topic", "delete-messages", name, "--partition", "0", "--before", "6").ok()
    one = member(name, group, "--from", start)
    told = f"offset 2 of {name}-0 is not there any more: going on at"
    wait_for("a word of what is gone", lambda: told in one.err() and f"({goes_on_at})" in one.err())
    # The end is looked up beside: what is written from now on may be before it.
    if start == "beginning":
        wait_for("what is kept", lambda: one.out().split() == ["6", "7", "8", "9"])
        wait_for("its offset committed", lambda: committed(shared, group) == {0: 10})
    assert one.returncode() is None, one.err()
