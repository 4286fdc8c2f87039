"""From what befalls a member of a group until others consume its partitions, by whatever the members write.

For the product and for Kafka: members are processes that write a line for each message, from which `partition_of`
tells the partition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


class Outputs:
    """What members write, looked at line by line while they write it."""

    def __init__(self, partition_of: Callable[[bytes], int | None]) -> None:
        self._partition_of = partition_of
        self._read: dict[Path, int] = {}

    def partitions(self, out: Path) -> set[int]:
        """Of which partitions a member has written messages since the last look."""
        with open(out, "rb") as file:
            file.seek(self._read.get(out, 0))
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._read[out] = self._read.get(out, 0) + whole
        found = (self._partition_of(line) for line in text[:whole].split(b"\n"))
        return {partition for partition in found if partition is not None}


def wait_all_shown(
    outputs: Outputs, outs: list[Path], partitions: int, within: float, check: Callable[[], None]
) -> list[set[int]]:
    """Waits until the members write messages of all partitions, each at one member alone; gives what each writes."""
    deadline = time.monotonic() + within
    while True:
        for out in outs:
            outputs.partitions(out)
        time.sleep(0.5)
        shares = [outputs.partitions(out) for out in outs]
        shown = sorted(partition for share in shares for partition in share)
        if shown == list(range(partitions)) and all(shares):
            return shares
        check()
        assert time.monotonic() < deadline, f"after {within} s the members show {shares}"


def until_others_consume(
    outputs: Outputs, others: list[Path], partitions: set[int], began: float, within: float, check: Callable[[], None]
) -> float:
    """Seconds since `began` (of time.monotonic) until the others have written a message of each partition."""
    left = set(partitions)
    while left:
        for out in others:
            left -= outputs.partitions(out)
        if not left:
            break
        check()
        assert time.monotonic() - began < within, f"after {within} s nobody else consumes {sorted(left)}"
        time.sleep(0.002)
    return time.monotonic() - began
