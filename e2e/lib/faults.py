"""What is done to a cluster while it serves, each fault with its end, and the table of what was done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.cluster import SESSION_SECONDS, Cluster
from lib.disk_faults import DiskFaults
from lib.history import longest_gap


@dataclass
class Done:
    """A fault that was, a line of the table."""

    name: str
    details: str
    began: float
    ended: float
    in_sync_after: float = 0.0
    gap: float = 0.0


class Faults(DiskFaults):
    """Does faults to brokers 0, 1 and 2 of a cluster: those of disks, and these to processes and the network.

    `run` makes one under load and then waits until all replicas are in sync again.
    """

    def __init__(
        self,
        cluster: Cluster,
        rng: random.Random,
        topics: list[str],
        clients_host: str,
        small_disk: tuple[int, Path] | None,
        frozen_seconds: float,
    ) -> None:
        super().__init__(cluster, rng, topics, small_disk)
        self._clients_host = clients_host
        self._frozen_seconds = frozen_seconds
        self.done: list[Done] = []

    def run(self, fault: Callable[[], str], in_sync_within: float = 60) -> None:
        """Makes a fault under load and sees the cluster whole again."""
        name = fault.__name__.replace("_", " ")
        time.sleep(self._rng.uniform(0.3, 1.2))
        began = time.monotonic()
        print(f"{began:.3f} {name} ...", flush=True)
        details = fault()
        ended = time.monotonic()
        self.done.append(Done(name, details, began, ended))
        print(f"{ended:.3f} {name}: {details}", flush=True)
        self.done[-1].in_sync_after = self._cluster.wait_in_sync(self._topics, in_sync_within)

    def table(self, folder: Path, partitions: int) -> str:
        """What was done, and the longest pause in a partition's acknowledgements from its begin until all was whole."""
        text = f"  {'fault':<40}{'held s':>8}{'whole s':>9}{'gap s':>8}  details\n"
        for done in self.done:
            gap = longest_gap(folder, partitions, done.began, done.ended + done.in_sync_after + 0.3)
            figures = f"{done.ended - done.began:>8.1f}{done.in_sync_after:>9.1f}{gap:>8.1f}"
            text += f"  {done.name:<40}{figures}  {done.details}\n"
        return text

    # --- processes ---

    def _leader(self) -> int:
        return self._cluster.leader(self._topics[0], 0)

    def a_broker_is_killed(self) -> str:
        """kill -9, and back at once: before its lease ends."""
        broker_id = self._pick()
        self._broker(broker_id).kill()
        self._cluster.start([broker_id])
        return f"broker {broker_id}, back at once"

    def a_leader_is_killed_and_stays_away(self) -> str:
        """kill -9 of a leader, back when others lead."""
        broker_id = self._leader()
        self._broker(broker_id).kill()
        time.sleep(SESSION_SECONDS + self._rng.uniform(0.5, 2.0))
        self._cluster.start([broker_id])
        return f"broker {broker_id}"

    def the_quorum_leader_is_killed(self) -> str:
        """kill -9 of the broker that leads the metadata quorum, and again while it starts."""
        leader = self._cluster.quorum_leader()
        self._broker(leader).kill()
        self._broker(leader).launch()
        time.sleep(self._rng.uniform(0.0, 0.5))
        self._broker(leader).kill()
        time.sleep(self._rng.uniform(0.0, 2.0))
        self._cluster.start([leader])
        return f"broker {leader}, again while it started"

    def all_brokers_are_killed(self) -> str:
        """kill -9 of all within a moment."""
        ids = [0, 1, 2]
        self._rng.shuffle(ids)
        for broker_id in ids:
            self._broker(broker_id).kill()
        self._cluster.start(ids)
        return f"in the order {ids}"

    def brokers_are_restarted_in_turn(self) -> str:
        """SIGTERM and start, one after the other: as an upgrade does it."""
        for broker_id in range(3):
            code = self._broker(broker_id).stop(60)
            assert code == 0, f"broker {broker_id} stopped with {code}"
            self._cluster.start([broker_id])
            self._cluster.wait_in_sync(self._topics)
        return "0, 1, 2"

    def a_leader_is_frozen(self) -> str:
        """SIGSTOP beyond the session's end: it goes on later as if nothing had been."""
        broker_id = self._leader()
        process = self._broker(broker_id).process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            time.sleep(self._frozen_seconds)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        return f"broker {broker_id} for {self._frozen_seconds:.0f} s"

    # --- network ---

    def _hosts(self, *ids: int) -> list[str]:
        hosts = [self._broker(i).host for i in ids]
        return [host.name for host in hosts if host is not None]

    def _hold_cut(self, cuts: list[tuple[str, str]]) -> float:
        seconds = SESSION_SECONDS + self._rng.uniform(2.0, 4.0)
        try:
            for sender, receiver in cuts:
                self._cluster.network.cut(sender, receiver)
            time.sleep(seconds)
        finally:
            self._cluster.network.heal()
        return seconds

    def a_leader_is_cut_off(self) -> str:
        """Both ways, from brokers and clients."""
        broker_id = self._leader()
        (host,) = self._hosts(broker_id)
        others = [*self._hosts(*({0, 1, 2} - {broker_id})), self._clients_host]
        cuts = [(host, other) for other in others] + [(other, host) for other in others]
        return f"broker {broker_id} for {self._hold_cut(cuts):.1f} s"

    def a_leader_is_cut_off_from_brokers_only(self) -> str:
        """Both ways; its clients still reach it, and must get nothing acknowledged or shown that is lost later."""
        broker_id = self._leader()
        (host,) = self._hosts(broker_id)
        others = self._hosts(*({0, 1, 2} - {broker_id}))
        cuts = [(host, other) for other in others] + [(other, host) for other in others]
        return f"broker {broker_id} for {self._hold_cut(cuts):.1f} s"

    def a_leader_is_not_heard(self) -> str:
        """One way: what it sends to brokers is lost, what they send arrives."""
        broker_id = self._leader()
        (host,) = self._hosts(broker_id)
        cuts = [(host, other) for other in self._hosts(*({0, 1, 2} - {broker_id}))]
        return f"broker {broker_id} for {self._hold_cut(cuts):.1f} s"

    def a_broker_hears_nothing(self) -> str:
        """The other way: what brokers send to it is lost."""
        broker_id = self._pick()
        (host,) = self._hosts(broker_id)
        cuts = [(other, host) for other in self._hosts(*({0, 1, 2} - {broker_id}))]
        return f"broker {broker_id} for {self._hold_cut(cuts):.1f} s"

    def two_brokers_are_parted(self) -> str:
        """Both see the third: who campaigns all the time must not keep the others from working."""
        one, other = self._rng.sample(range(3), 2)
        a, b = self._hosts(one, other)
        return f"brokers {one} and {other} for {self._hold_cut([(a, b), (b, a)]):.1f} s"

    def an_answer_way_is_cut(self) -> str:
        """One of two brokers does not hear the other; the third hears and is heard."""
        one, other = self._rng.sample(range(3), 2)
        a, b = self._hosts(one, other)
        return f"broker {other} does not hear broker {one} for {self._hold_cut([(a, b)]):.1f} s"

    # --- who there is ---

    def a_broker_dies_while_it_is_drained(self) -> str:
        """kill -9 while its replicas move to broker 3, which was not started yet: the moves end without it; then it
        comes back with nothing on it, and may hold replicas again."""
        broker_id = self._pick()
        self._cluster.start([3])
        # The copies take some seconds. Broker 3 can't be frozen for that: it is asked how full it is.
        self._cluster.millrace("broker", "drain", str(broker_id), "--throttle", "1000000", ids=[0, 1, 2]).ok()
        self._broker(broker_id).kill()
        moving = self._cluster.describe().health.moving.count
        # Until there is a leader of the quorum again, if it was that.
        self._cluster.wait_available(broker_id, False)
        others = sorted({0, 1, 2, 3} - {broker_id})
        self._cluster.millrace("broker", "drain", str(broker_id), "--wait", ids=others, timeout=120).ok()
        self._cluster.start([broker_id])
        self._cluster.millrace("broker", "drain", str(broker_id), "--cancel").ok()
        return f"broker {broker_id}, with {moving} moves under way"

    def a_voter_is_lost_for_good(self) -> str:
        """A broker and its disk are gone; broker 3 takes its vote, and its replicas go to who has none of them."""
        broker_id, new = self._pick(), 3
        self._broker(broker_id).kill()
        self._empty(broker_id)
        del self._cluster.brokers[broker_id]
        self._cluster.start([new])
        self._cluster.millrace("quorum", "remove", str(broker_id)).ok()
        left = sorted({0, 1, 2, new} - {broker_id})
        self._cluster.wait_voters(left)
        self._cluster.millrace("broker", "drain", str(broker_id), "--wait", timeout=120).ok()
        # A small drain may be done before the killed broker's session ends.
        self._cluster.wait_available(broker_id, False)
        self._cluster.millrace("broker", "remove", str(broker_id)).ok()
        assert sorted(b.broker_id for b in self._cluster.describe().brokers) == left
        return f"broker {broker_id}, broker {new} votes in its place"
