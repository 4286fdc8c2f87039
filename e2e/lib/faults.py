"""What is done to a cluster while it serves, each fault with its end, and the table of what was done."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.broker import Broker
from lib.cluster import SESSION_SECONDS, Cluster
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


class Faults:
    """Does faults to brokers 0, 1 and 2 of a cluster; `small_disk` tells whose disk fills up, and where it is.

    All choices come from `rng`. Each method makes a fault, holds it, ends it and gives a line of details;
    `run` then waits until all replicas are in sync again.
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
        self._cluster = cluster
        self._rng = rng
        self._topics = topics
        self._clients_host = clients_host
        self._small_disk = small_disk
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

    def _broker(self, broker_id: int) -> Broker:
        return self._cluster.brokers[broker_id]

    def _pick(self) -> int:
        return self._rng.randrange(3)

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
        leader = self._quorum_leader()
        self._broker(leader).kill()
        self._broker(leader).launch()
        time.sleep(self._rng.uniform(0.0, 0.5))
        self._broker(leader).kill()
        time.sleep(self._rng.uniform(0.0, 2.0))
        self._cluster.start([leader])
        return f"broker {leader}, again while it started"

    def _quorum_leader(self) -> int:
        deadline = time.monotonic() + 30
        while not (quorum := self._cluster.quorum()).HasField("leader_broker_id"):
            assert time.monotonic() < deadline, f"the quorum has no leader: {quorum}"
            time.sleep(0.1)
        return quorum.leader_broker_id

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

    # --- disks ---

    def a_disk_is_full(self) -> str:
        """Not a byte is left on the disk of one broker, then there is room again."""
        assert self._small_disk is not None
        broker_id, folder = self._small_disk
        ballast = folder / "ballast"
        with open(ballast, "wb") as file:
            self._fill(file.fileno(), folder)
        held = self._rng.uniform(3.0, 5.0)
        time.sleep(held)
        left = os.statvfs(folder).f_bavail
        ballast.unlink()
        broker = self._broker(broker_id)
        assert broker.process is not None
        how = "it lived on"
        time.sleep(1.0)
        if not broker.process.alive():
            how = f"it ended with {broker.process.returncode()} and was started again"
            self._cluster.start([broker_id])
        return f"broker {broker_id} for {held:.1f} s, {left} blocks left at the end; {how}"

    @staticmethod
    def _fill(file: int, folder: Path) -> None:
        """Takes every byte: large pieces that need no writing first, then down to a sector."""
        size, at = 1 << 30, 0
        while size >= 512:
            try:
                os.posix_fallocate(file, at, size)
                at += size
            except OSError:
                size //= 2
        assert os.statvfs(folder).f_bavail < 64, "the ballast has not filled the disk"

    def _refused(self, broker_id: int) -> str:
        """Starts a broker that must not be let in; gives its last words."""
        broker = self._broker(broker_id).launch()
        assert broker.process is not None
        code = broker.process.wait(30)
        text = broker.process.err()
        assert code not in (0, -9), f"broker {broker_id} ended with {code}: {text[-1000:]}"
        assert "panicked" not in text, text[-3000:]
        assert "ready " not in broker.process.out()
        return text

    def a_disk_is_wiped(self) -> str:
        """An empty directory under a known number: refused with the next step, permitted, refilled."""
        broker_id = self._pick()
        broker = self._broker(broker_id)
        broker.kill()
        assert broker.data is not None
        for path in broker.data.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        text = self._refused(broker_id)
        assert f"millrace broker replace-disk {broker_id}" in text, text[-2000:]
        others = sorted({0, 1, 2} - {broker_id})
        self._cluster.wait_available(broker_id, False)
        self._cluster.millrace("broker", "replace-disk", str(broker_id), ids=others).ok()
        self._cluster.start([broker_id])
        whole = self._cluster.wait_in_sync(self._topics)
        votes = self._mend_quorum(broker_id)
        return f"broker {broker_id}, refused, permitted, refilled in {whole:.1f} s; {votes}"

    def _mend_quorum(self, broker_id: int) -> str:
        """Takes the vote of a lost disk away and sees the broker's new one voting."""
        old = [m for m in self._cluster.quorum().members if m.broker_id == broker_id and self._is_lost(m.voter_id)]
        for member in old:
            self._cluster.millrace("quorum", "remove", "--voter-id", str(member.voter_id)).ok()
        self._cluster.wait_voters([0, 1, 2])
        return f"voters lost and removed: {[member.voter_id for member in old]}"

    def _is_lost(self, voter_id: int) -> bool:
        """Whether a member is no broker's present one."""
        now = {b.voter_id for b in self._cluster.describe().brokers if b.HasField("voter_id") and b.available}
        return voter_id not in now

    def two_disks_are_swapped(self) -> str:
        """Each of two brokers gets the other's directory: both refused; put right, both serve."""
        one, other = self._rng.sample([i for i in range(3) if self._small_disk is None or i != self._small_disk[0]], 2)
        a, b = self._broker(one), self._broker(other)
        for broker in (a, b):
            broker.kill()
        assert a.data is not None and b.data is not None
        self._swap(a.data, b.data)
        for broker_id in (one, other):
            text = self._refused(broker_id)
            owner = one if broker_id == other else other
            assert re.search(rf"belongs to broker {owner}\b", text), text[-2000:]
        self._swap(a.data, b.data)
        self._cluster.start([one, other])
        return f"brokers {one} and {other}, both refused"

    @staticmethod
    def _swap(a: Path, b: Path) -> None:
        aside = a.with_name("aside")
        a.rename(aside)
        b.rename(a)
        aside.rename(b)

    def a_voter_is_lost_for_good(self) -> str:
        """A broker and its disk are gone; broker 3, which was not started yet, takes its vote and its replicas."""
        broker_id, new = self._pick(), 3
        broker = self._broker(broker_id)
        broker.kill()
        assert broker.data is not None
        for path in broker.data.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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
        return f"broker {broker_id}, broker {new} in its place"
