"""Consumer groups of many processes and members: who has what is checked, how long it took is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib import paths
from lib.api import ApiError, Client, call, groups_pb2
from lib.broker import Broker
from lib.group_fleet import Fleet, Kind, Running, python_member, python_subscriber, rust_member
from lib.group_history import lines
from lib.group_times import Outputs, until_others_consume, wait_all_shown
from lib.hosts import Host

PATIENCE = 90.0
# That of members by default, in seconds.
SESSION = 5.0
TOPIC = "work"
GROUP = "workers"
HOST = Host("here", "127.0.0.1")


@contextmanager
def published(address: str, partitions: int) -> Iterator[None]:
    """A message in each partition every 50 ms, as long as the block lasts."""
    stop = threading.Event()
    failed: list[ApiError] = []

    def publish() -> None:
        number = 0
        with Client(address) as client:
            while not stop.wait(0.05) and not failed:
                number += 1
                for partition in range(partitions):
                    try:
                        client.publish(TOPIC, [b"%d" % number], partition)
                    except ApiError as error:
                        failed.append(error)
                        return

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failed, failed


def partition_of(line: bytes) -> int | None:
    """Of a line of a member."""
    return None if b'"event"' in line or not line else json.loads(line)["partition"]


def described(client: Client) -> groups_pb2.DescribeGroupResponse:
    """The group."""
    return call(client.groups.DescribeGroup, groups_pb2.DescribeGroupRequest(group=GROUP))


def wait_stable(client: Client, members: int) -> groups_pb2.DescribeGroupResponse:
    """Waits until all members have what they shall have."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            group = described(client)
            if group.state == groups_pb2.GROUP_STATE_STABLE and group.member_count == members:
                return group
        except ApiError as error:
            group = error
            assert error.reason in ("UNKNOWN_GROUP", "COORDINATOR_NOT_AVAILABLE"), error
        assert time.monotonic() < deadline, f"not stable with {members} members: {group}"
        time.sleep(0.1)


def assigned(one: Running) -> list[int]:
    """All partitions that a member was ever assigned, in the order of their numbers."""
    events = [line for line in lines(one.life.out) if line.get("event") == "assigned"]
    return sorted(p["partition"] for line in events for p in line["partitions"])


def holds(one: Running) -> set[int]:
    """What a member has at present, by its own word."""
    has: set[int] = set()
    for line in lines(one.life.out):
        partitions = {p["partition"] for p in line.get("partitions", [])}
        if line.get("event") == "assigned":
            has |= partitions
        elif line.get("event") in ("revoked", "lost"):
            has -= partitions
    return has


def _befalls(broker: Broker, folder: Path, kind: Kind, how: signal.Signals) -> None:
    """A member among four is killed or frozen: others consume its partitions, and a frozen one knows when it wakes."""
    partitions = 12
    with Client(broker.address) as client:
        client.create_topic(TOPIC, partitions)
        fleet = Fleet(broker.address, HOST, folder, GROUP, TOPIC)
        try:
            for _ in range(4):
                fleet.start(kind)
            wait_stable(client, 4)
            with published(broker.address, partitions):
                outs = [one.process.out_path for one in fleet.running]
                outputs = Outputs(partition_of)
                has = wait_all_shown(outputs, outs, partitions, PATIENCE, fleet.check_alive)[0]
                victim = fleet.running[0]
                assert holds(victim) == has
                others = [one.process.out_path for one in fleet.running[1:]]
                began = time.monotonic()
                os.kill(victim.process.pid, how)
                took = until_others_consume(outputs, others, has, began, PATIENCE, lambda: None)
                # A connection that is closed says it without a wait for the end of the session, and one that stays is
                # asked.
                assert took < (SESSION if how == signal.SIGKILL else 4 * SESSION), took
                print(f"{kind.__name__}, {how.name}: others consume its {len(has)} partitions after {took:.3f} s")
                if how == signal.SIGSTOP:
                    os.kill(victim.process.pid, signal.SIGCONT)
                    # It joins anew, and has a share again.
                    wait_stable(client, 4)
            if how == signal.SIGSTOP:
                _check_woken(victim, has)
        finally:
            fleet.end()


def _check_woken(victim: Running, had: set[int]) -> None:
    """It tells that it lost all that it had before it gets anything."""
    deadline = time.monotonic() + PATIENCE
    while True:
        events = [line for line in lines(victim.life.out) if line.get("event") in ("assigned", "lost")]
        lost = next((place for place, line in enumerate(events) if line["event"] == "lost"), None)
        if lost is not None and any(line["event"] == "assigned" for line in events[lost:]):
            break
        assert time.monotonic() < deadline, events
        time.sleep(0.05)
    gone = {p["partition"] for line in events if line["event"] == "lost" for p in line["partitions"]}
    assert gone == had, (gone, had)


@pytest.mark.parametrize("kind", [rust_member, python_member, python_subscriber], ids=["rust", "python", "subscriber"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_others_consume_what_a_member_had(broker: Broker, tmp_path: Path, kind: Kind, how: signal.Signals) -> None:
    _befalls(broker, tmp_path, kind, how)


@pytest.mark.timeout(400)
def test_a_rolling_restart_of_static_members_moves_nothing(broker: Broker, tmp_path: Path) -> None:
    members, partitions = 50, 100
    names = [f"pod-{number}" for number in range(members)]
    with Client(broker.address) as client:
        client.create_topic(TOPIC, partitions)
        fleet = Fleet(broker.address, HOST, tmp_path, GROUP, TOPIC)
        try:
            # Longer than a restart takes on any machine; a killed one's session ends before the next process joins.
            running = {name: fleet.start(rust_member, name, "20s") for name in names}
            before = wait_stable(client, members)
            shares = {member.instance_id: list(member.target[0].partitions) for member in before.members}
            assert sorted(p for share in shares.values() for p in share) == list(range(partitions))
            lives = {name: [one] for name, one in running.items()}

            def wait_reading(name: str) -> None:
                deadline = time.monotonic() + PATIENCE
                while len(assigned(lives[name][-1])) < len(shares[name]):
                    fleet.check_alive()
                    assert time.monotonic() < deadline, f"{name} does not read what it had"
                    time.sleep(0.02)

            for name in names:
                wait_reading(name)
            first = {name: assigned(one) for name, one in running.items()}
            began = time.monotonic()
            # As a rollout does it: some at a time. One is killed, and its successor waits for the end of its session.
            for place in range(0, members, 5):
                rolled = names[place : place + 5]
                if place == 0:
                    fleet.kill(running[rolled[0]])
                    fleet.leave([running[name] for name in rolled[1:]])
                else:
                    fleet.leave([running[name] for name in rolled])
                for name in rolled:
                    running[name] = fleet.start(rust_member, name, "20s")
                    lives[name].append(running[name])
                for name in rolled:
                    wait_reading(name)
            print(f"{members} static members were restarted in {time.monotonic() - began:.1f} s")
            after = wait_stable(client, members)
            fleet.check_alive()
        finally:
            fleet.end()
    assert {member.instance_id: list(member.target[0].partitions) for member in after.members} == shares
    # Nothing was shared out anew meanwhile, or a member had had to give something back.
    assert (after.group_epoch, after.assignment_epoch) == (before.group_epoch, before.assignment_epoch)
    for name in names:
        assert assigned(lives[name][1]) == shares[name], name
        # While the first ones came, partitions moved; from the first restart on they did not.
        assert assigned(lives[name][0]) == first[name], name
        assert not any(line.get("event") == "lost" for life in lives[name] for line in lines(life.life.out)), name
        assert not any(line.get("event") == "revoked" for line in lines(lives[name][1].life.out)), name


@pytest.mark.timeout(300)
def test_a_thousand_members_join_at_once(broker: Broker) -> None:
    members, partitions = 1_000, 1_000
    with Client(broker.address) as client:
        client.create_topic(TOPIC, partitions)
    command = [str(paths.binary("millrace-group-load")), "--bootstrap", broker.address, "storm", "--group", GROUP]
    command += ["--topic", TOPIC, "--partitions", str(partitions), "--members", str(members), "--patience", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    storm = json.loads(done.stdout)
    print(f"{members} members joined and had their share after {storm['seconds']:.1f} s: {storm}")
    # Those of the same tenth of a second are shared out together, and are one epoch.
    assert storm["member_epochs"] <= storm["group_epoch"] <= storm["seconds"] / 0.1 + 2, storm
