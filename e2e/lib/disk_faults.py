"""What is done to the disks of a cluster while it serves, each fault with its end: full, wiped, swapped, an older
image of itself, a flipped bit."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

from lib.api import ApiError, Client
from lib.broker import Broker
from lib.checker import TRANSIENT
from lib.cluster import Cluster

# Of so many batches at the begin of a segment one is damaged: they were stored long ago.
_OLD_BATCHES = 8
# A record batch begins with a header of so many bytes, behind which its checksum covers everything.
_HEADER_BYTES = 61


class DiskFaults:
    """Does it to the disks of brokers 0, 1 and 2; `small_disk` tells whose disk fills up, and where it is.

    All choices come from `rng`. Each method makes a fault, holds it, ends it and gives a line of details.
    """

    def __init__(
        self, cluster: Cluster, rng: random.Random, topics: list[str], small_disk: tuple[int, Path] | None
    ) -> None:
        self._cluster = cluster
        self._rng = rng
        self._topics = topics
        self._small_disk = small_disk

    def _broker(self, broker_id: int) -> Broker:
        return self._cluster.brokers[broker_id]

    def _data(self, broker_id: int) -> Path:
        data = self._broker(broker_id).data
        assert data is not None
        return data

    def _pick(self) -> int:
        return self._rng.randrange(3)

    def _lead(self, topic: str, partition: int, broker_id: int) -> None:
        """Has a broker lead a partition, from now on."""
        deadline = time.monotonic() + 60
        while self._cluster.leader(topic, partition) != broker_id:
            # Refused while the broker is out of sync for a moment.
            done = self._cluster.millrace("partition", "elect", topic, str(partition), "--to", str(broker_id))
            assert time.monotonic() < deadline, f"broker {broker_id} does not lead {topic}/{partition}: {done}"
            time.sleep(0.1)

    # --- full ---

    def a_disk_is_full(self) -> str:
        """Not a byte is left on the disk of one broker, which leads and follows; then there is room again."""
        assert self._small_disk is not None
        broker_id, folder = self._small_disk
        self._lead(self._topics[0], 0, broker_id)
        self._lead(self._topics[0], 1, (broker_id + 1) % 3)
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

    # --- lost ---

    def a_disk_is_wiped(self) -> str:
        """An empty directory under a known number: refused with the next step, permitted, refilled."""
        broker_id = self._pick()
        self._broker(broker_id).kill()
        return f"broker {broker_id}, {self._replace(broker_id)}"

    def _replace(self, broker_id: int) -> str:
        """Empties the disk of a broker that is down, is refused, and goes on as the refusal says."""
        self._empty(broker_id)
        text = self._refused(broker_id)
        assert f"millrace broker replace-disk {broker_id}" in text, text[-2000:]
        others = sorted({0, 1, 2} - {broker_id})
        self._cluster.wait_available(broker_id, False)
        self._cluster.millrace("broker", "replace-disk", str(broker_id), ids=others).ok()
        self._cluster.start([broker_id])
        whole = self._cluster.wait_in_sync(self._topics)
        votes = self._mend_quorum(broker_id)
        return f"refused, permitted, refilled in {whole:.1f} s; {votes}"

    def _empty(self, broker_id: int) -> None:
        for path in self._data(broker_id).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

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

    # --- another one ---

    def two_disks_are_swapped(self) -> str:
        """Each of two brokers gets the other's directory: both refused; put right, both serve."""
        one, other = self._rng.sample([i for i in range(3) if self._small_disk is None or i != self._small_disk[0]], 2)
        for broker_id in (one, other):
            self._broker(broker_id).kill()
        self._swap(self._data(one), self._data(other))
        for broker_id in (one, other):
            text = self._refused(broker_id)
            owner = one if broker_id == other else other
            assert re.search(rf"belongs to broker {owner}\b.*mount broker {broker_id}'s own volume", text), text[-2000:]
        self._swap(self._data(one), self._data(other))
        self._cluster.start([one, other])
        return f"brokers {one} and {other}, both refused"

    @staticmethod
    def _swap(a: Path, b: Path) -> None:
        aside = a.with_name("aside")
        a.rename(aside)
        b.rename(a)
        aside.rename(b)

    # --- older ---

    def a_disk_goes_back_a_moment(self) -> str:
        """A volume comes back as a snapshot that was taken while the broker served, in the life that now ends."""
        broker_id = self._pick()
        process = self._broker(broker_id).process
        assert process is not None
        # A snapshot is of one moment.
        os.kill(process.pid, signal.SIGSTOP)
        try:
            image = self._image(broker_id)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(self._rng.uniform(1.0, 2.0))
        self._broker(broker_id).kill()
        return f"broker {broker_id}, {self._come_back(broker_id, image)}"

    def a_disk_goes_back_a_life(self) -> str:
        """The same with a snapshot from before the broker's last start, which lacks metadata that it acknowledged
        to the quorum's leader."""
        leader = self._cluster.quorum_leader()
        broker_id = self._rng.choice([number for number in range(3) if number != leader])
        self._broker(broker_id).kill()
        image = self._image(broker_id)
        self._cluster.start([broker_id])
        self._cluster.wait_in_sync(self._topics)
        time.sleep(self._rng.uniform(0.5, 1.5))
        self._broker(broker_id).kill()
        return f"broker {broker_id}, {self._come_back(broker_id, image)}"

    def _image(self, broker_id: int) -> Path:
        image = self._broker(broker_id).folder / "image"
        shutil.copytree(self._data(broker_id), image)
        return image

    def _come_back(self, broker_id: int, image: Path) -> str:
        """Starts a broker that is down with an older image of its disk.

        It is filled up as one that is behind. Or it lacks metadata that it had acknowledged to the quorum's leader:
        then that keeps it out, and its log says what to do, which is done.
        """
        self._empty(broker_id)
        shutil.copytree(image, self._data(broker_id), dirs_exist_ok=True)
        shutil.rmtree(image)
        told = self._older_images_told(broker_id)
        broker = self._broker(broker_id).launch()
        assert broker.process is not None
        deadline = time.monotonic() + 90
        while "ready " not in broker.process.out():
            assert broker.process.alive(), f"{broker.name} ended: {broker.process.err()[-3000:]}"
            if self._older_images_told(broker_id) > told:
                broker.kill()
                return f"kept out as an older image; {self._replace(broker_id)}"
            assert time.monotonic() < deadline, f"nobody tells why {broker.name} waits: {broker.process.err()[-3000:]}"
            time.sleep(0.1)
        return "took its place again"

    def _older_images_told(self, broker_id: int) -> int:
        """How often other brokers have told that a member of the quorum has an older image."""
        others = [broker.process for number, broker in self._cluster.brokers.items() if number != broker_id]
        return sum(process.err().count("an older image of itself") for process in others if process is not None)

    # --- damaged ---

    def a_bit_flips_at_rest(self) -> str:
        """In a leader's log, where nobody reads: the first read that meets it is told, another broker leads, and what
        was damaged is fetched again. Nobody restarts anything."""
        topic, broker_id = self._topics[0], self._pick()
        partition = self._rng.randrange(len(self._cluster.topic(topic).partitions))
        self._lead(topic, partition, broker_id)
        segment = min(self._broker(broker_id).partition_dir(topic, partition).glob("*.log"))
        place, offset = self._an_old_byte(segment)
        sound = self._byte(segment, place)
        with segment.open("r+b") as file:
            file.seek(place)
            file.write(bytes([sound[0] ^ 1 << self._rng.randrange(8)]))
        met, deadline = False, time.monotonic() + 60
        while self._byte(segment, place) != sound:
            assert time.monotonic() < deadline, f"{segment} is still damaged at byte {place}, {met=}"
            if not met:
                # Another may lead by now: then this one does not look.
                self._lead(topic, partition, broker_id)
                met = self._meets_damage(broker_id, topic, partition, offset)
            time.sleep(0.1)
        return f"broker {broker_id}, {topic}/{partition} offset {offset}"

    def _an_old_byte(self, segment: Path) -> tuple[int, int]:
        """Where a byte of a batch's records is that was stored long ago, and the batch's offset."""
        with segment.open("rb") as file:
            data = file.read(1 << 20)
        batches, at = [], 0
        while len(batches) < _OLD_BATCHES and at + _HEADER_BYTES < len(data):
            end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
            if end > len(data):
                break
            batches.append((at, end, int.from_bytes(data[at : at + 8], "big")))
            at = end
        assert batches, f"{segment} holds nothing yet"
        begin, end, offset = self._rng.choice(batches)
        return self._rng.randrange(begin + _HEADER_BYTES, end), offset

    @staticmethod
    def _byte(segment: Path, place: int) -> bytes:
        """The byte at a place; nothing while it is cut off."""
        try:
            with segment.open("rb") as file:
                file.seek(place)
                return file.read(1)
        except FileNotFoundError:
            return b""

    def _meets_damage(self, broker_id: int, topic: str, partition: int, offset: int) -> bool:
        """Reads at an offset over a broker; whether it was told of damage there."""
        with Client(self._broker(broker_id).address) as client:
            messages = client.read_stream(topic, partition, offset, timeout=10)
            try:
                first = next(messages)
            except ApiError as error:
                if error.code in TRANSIENT:
                    return False
                assert error.reason == "DAMAGED_LOG", error
                return True
            finally:
                messages.close()
        assert first.offset == offset, f"damage at offset {offset} was passed over in silence: {first.offset}"
        return False
