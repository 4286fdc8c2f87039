"""A full disk: produce is refused with the cause, reads go on, room made is room used."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from lib.api import ApiError, Client, admin_pb2, call, types_pb2
from lib.broker import Broker
from lib.paths import Missing

MIB = 1 << 20
DISK_MIB = 160


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of DISK_MIB in a file."""
    if os.geteuid() != 0:
        raise Missing("mounting a small file system needs root")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as f:
        f.truncate(DISK_MIB * MIB)
    # No blocks kept for root: the broker under test runs as root and would get them.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        raise Missing(f"can't mount a loop device here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def on_small_disk(small_disk: Path, new_broker: Callable[..., Broker]) -> Iterator[Broker]:
    """A broker whose data directory is on the small disk; it ends before the disk goes."""
    broker = new_broker(
        data=small_disk / "data",
        **{"disk_reserve_bytes": 16 * MIB},
    )
    yield broker
    broker.end()


def _publish_until_full(client: Client, topic: str) -> tuple[list[int], ApiError]:
    """Publishes 1 MiB messages until refused; gives the offsets acknowledged and the error."""
    offsets: list[int] = []
    for number in range(DISK_MIB * 2):
        try:
            (position,) = client.publish(topic, [b"%08d" % number + os.urandom(MIB - 8)])
            offsets.append(position.offset)
        except ApiError as error:
            return offsets, error
    raise AssertionError(f"{DISK_MIB * 2} MiB went on a disk of {DISK_MIB} MiB")


def _check_disk_full(error: ApiError) -> None:
    error.check_typed()
    assert error.reason == "DISK_FULL", error
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.metadata["outcome"] == "not_written"
    assert int(error.metadata["available_bytes"]) < DISK_MIB * MIB
    assert int(error.metadata["reserve_bytes"]) == 16 * MIB


def _readable(client: Client, topic: str) -> list[int]:
    return [int(m.message.value[:8]) for m in client.read_stream(topic, 0, timeout=60)]


def _take_the_rest(disk: Path) -> None:
    """Fills the disk to the last block. The broker's small files come and go meanwhile, so that one try may miss a
    block that is free for a moment."""
    ballast = os.open(disk / "ballast", os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(100):
            size = MIB
            while size >= 512:
                try:
                    os.write(ballast, b"\1" * size)
                except OSError:
                    size //= 2
            os.fsync(ballast)
            if os.statvfs(disk).f_bavail == 0:
                return
    finally:
        os.close(ballast)
    raise AssertionError("the disk does not get full")


def test_a_full_disk_from_refusal_to_recovery(on_small_disk: Broker, small_disk: Path) -> None:
    broker = on_small_disk.start()
    with Client(broker.address) as client:
        client.create_topic("full", segment_bytes=4 * MIB)
        client.create_topic("other")
        client.create_topic("room")
        client.publish("other", [b"before"])
        offsets, error = _publish_until_full(client, "full")
        assert len(offsets) > DISK_MIB // 3
        _check_disk_full(error)
        # Refused again, for every topic, with the same answer; and the broker lives.
        with pytest.raises(ApiError) as again:
            client.publish("other", [b"x" * MIB])
        _check_disk_full(again.value)
        assert broker.http("/livez")[0] == 200
        # Reads go on, and everything acknowledged is there, and nothing that was refused.
        assert _readable(client, "full") == offsets
        assert [m.message.value for m in client.read("other")] == [b"before"]

    # Now the reserve is gone as well: not one byte is left.
    _take_the_rest(small_disk)

    for stop in (broker.kill, broker.stop):
        stop()
        broker.start()
        with Client(broker.address) as client:
            assert _readable(client, "full") == offsets
            with pytest.raises(ApiError) as refused:
                client.publish("full", [b"x" * MIB])
            assert refused.value.reason == "DISK_FULL", refused.value

    # Retention makes room, without a restart, and the same publish works again.
    with Client(broker.address) as client:
        call(
            client.admin.AlterTopic,
            admin_pb2.AlterTopicRequest(
                name="full", set_configs=[types_pb2.ConfigEntry(name="retention.bytes", value=str(32 * MIB))]
            ),
        )
        _wait_for_room(client)
        first = client.describe("full").partitions[0].log_start
        assert first > 0, "retention removed nothing"
        kept = _readable(client, "full")
        assert kept == list(range(first, first + len(kept)))
        assert offsets[-1] in kept, "the newest messages went, not the oldest"
        client.publish("other", [b"after"])
        assert [m.message.value for m in client.read("other")] == [b"before", b"after"]


def test_deleting_messages_makes_room(on_small_disk: Broker) -> None:
    broker = on_small_disk.start()
    with Client(broker.address) as client:
        client.create_topic("full", segment_bytes=4 * MIB)
        client.create_topic("room")
        offsets, error = _publish_until_full(client, "full")
        _check_disk_full(error)
        answer = call(
            client.admin.DeleteMessages,
            admin_pb2.DeleteMessagesRequest(topic="full", partition=0, before_offset=offsets[-1] - 5),
        )
        assert answer.log_start == offsets[-1] - 5
        _wait_for_room(client)


def test_deleting_a_topic_makes_room(on_small_disk: Broker) -> None:
    broker = on_small_disk.start()
    with Client(broker.address) as client:
        client.create_topic("big", segment_bytes=4 * MIB)
        client.create_topic("room")
        _, error = _publish_until_full(client, "big")
        _check_disk_full(error)
        call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name="big"))
        _wait_for_room(client)


def _wait_for_room(client: Client) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            client.publish("room", [b"y" * MIB])
            return
        except ApiError as error:
            assert error.reason == "DISK_FULL", error
            assert time.monotonic() < deadline, "no room after 90 s"
            time.sleep(0.25)
