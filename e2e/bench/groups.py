"""The measures of consumer groups: from what befalls a member until others consume its partitions."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import machine
from peer import FullPeer, Peer
from peer_kafka import Kafka
from peer_millrace import Millrace
from results import Figures

from lib.group_times import Outputs, until_others_consume, wait_all_shown
from lib.proc import Process

if TYPE_CHECKING:
    from measures import Bench

MEMBERS = 4
PARTITIONS = 12
# Messages per second over all partitions: each gets one every 10 ms.
RATE = 1200
# The longest that members may take to share the partitions out, and others to take over: far above Kafka's session.
_PATIENCE_SECONDS = 180


def _befalls(bench: Bench, measure: str, how: signal.Signals, only: list[Peer] | None) -> None:
    """A member gets a signal while all consume; all settings are the clients' own defaults."""
    runs = 0

    def run(peer: Peer) -> Figures:
        nonlocal runs
        assert isinstance(peer, FullPeer)
        runs += 1
        topic = f"{measure}-{runs}"
        peer.create_topic(topic, PARTITIONS)
        clients: list[Process] = []
        machine.settle()
        try:
            clients.append(bench.client_process(peer.steady_sender(topic, RATE)))
            clients += [bench.client_process(peer.member(topic, f"group-{measure}-{runs}")) for _ in range(MEMBERS)]
            members = clients[1:]

            def check() -> None:
                for one in clients:
                    # The victim is the first member.
                    if one is not members[0] and not one.alive():
                        raise RuntimeError(f"{one.name} ended with {one.returncode()}: {one.err()[-3000:]}")

            outputs = Outputs(peer.partition_of)
            outs = [one.out_path for one in members]
            has = wait_all_shown(outputs, outs, PARTITIONS, _PATIENCE_SECONDS, check)[0]
            with bench.observe(), machine.watch_short(lambda: [*peer.processes(), *clients]) as watched:
                began = time.monotonic()
                os.kill(members[0].pid, how)
                seconds = until_others_consume(outputs, outs[1:], has, began, _PATIENCE_SECONDS, check)
        finally:
            for one in clients:
                one.kill()
        peer.delete_topic(topic)
        return {"seconds": seconds, "other_cores": watched.other_cores}

    made: dict[str, Callable[[], Peer]] = {"kafka": lambda: Kafka(fsync=False), "millrace": Millrace}
    peers = only or [make() for name, make in made.items() if name in bench.options.peers]
    with bench.started(measure, peers) as serving:
        bench.alternate(measure, serving, run, bench.rules(warmups=0))


def member_killed(bench: Bench, only: list[Peer] | None = None) -> None:
    """kill -9 of a member: its connection is gone."""
    _befalls(bench, "member-killed", signal.SIGKILL, only)


def member_frozen(bench: Bench, only: list[Peer] | None = None) -> None:
    """SIGSTOP of a member: its connection stays, and nothing comes by it."""
    _befalls(bench, "member-frozen", signal.SIGSTOP, only)


# In the order of the table.
MEASURES: dict[str, Callable[..., None]] = {"member-killed": member_killed, "member-frozen": member_frozen}
