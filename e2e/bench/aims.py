"""What Millrace shall reach, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass

KAFKA, FSYNC, NATS, NATS_FSYNC, OURS = "Kafka", "Kafka, fsync", "NATS", "NATS, fsync", "Millrace"
# Peers' letters in the table.
LETTERS = {KAFKA: "K", FSYNC: "F"}
# The figure that says what share of the rate a peer held at which a measure was made, and the least of it with which
# the measure's other figures can be compared: who falls behind was not measured at this rate.
RATE_HELD = "rate_held"
LEAST_RATE_HELD = 0.99


def ratio(ours: float | None, other: float | None, higher_is_better: bool) -> float | None:
    """How many times better ours is: above 1 is better, whichever way the figure goes."""
    if not ours or not other:
        return None
    return ours / other if higher_is_better else other / ours


@dataclass(frozen=True)
class Aim:
    """`times` better than each of `peers`; and, or instead, at least a share of the machine's limit.

    Or a bound that holds whatever others reach: `at_most`.
    """

    times: float = 1.0
    peers: tuple[str, ...] = ()
    or_of_limit: float | None = None
    and_of_limit: float | None = None
    at_most: float | None = None

    def text(self) -> str:
        """For the table: "2x K+F or .7 L"."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        text = f"{self.times:g}x {'+'.join(LETTERS[p] for p in self.peers)}"
        if self.or_of_limit is not None:
            text += f" or {self.or_of_limit:g} L".replace("0.", ".")
        if self.and_of_limit is not None:
            text += f" and {self.and_of_limit:g} L".replace("0.", ".")
        return text

    def met(self, ratios: dict[str, float | None], share: float | None, value: float | None = None) -> bool | None:
        """Whether it was reached by `value`; None where what was measured does not tell."""
        if self.at_most is not None:
            return None if value is None else value <= self.at_most
        if self.or_of_limit is not None and share is not None and share >= self.or_of_limit:
            return True
        parts = [None if (r := ratios.get(peer)) is None else r >= self.times for peer in self.peers]
        if self.and_of_limit is not None:
            parts.append(None if share is None else share >= self.and_of_limit)
        if False in parts:
            # A share of the limit that was not measured might still have reached it.
            return None if self.or_of_limit is not None and share is None else False
        return None if None in parts else True


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a measure, which way is better, what it shall reach on each storage."""

    title: str
    measure: str
    figure: str
    higher_is_better: bool = True
    limit: str | None = None
    disk: Aim | None = None
    ram: Aim | None = None

    def aim(self, storage: str) -> Aim | None:
        """Its aim on a storage, if it has one."""
        return self.disk if storage == "disk" else self.ram


_MEMORY = Aim(8, (KAFKA,))
ROWS = [
    Row(
        "produce 1 MiB batches, MiB/s", "produce", "mib_per_second", limit="write",
        disk=Aim(2, (KAFKA, FSYNC), or_of_limit=0.7), ram=Aim(3, (KAFKA,)),
    ),
    Row("  MiB per broker CPU second", "produce", "mib_per_broker_cpu_second", limit="write, CPU"),
    Row("  broker memory peak, MiB", "produce", "rss_peak_mib", False, disk=_MEMORY, ram=_MEMORY),
    Row("  broker memory typical, MiB", "produce", "rss_typical_mib", False),
    Row(
        "produce 16 KiB batches, MiB/s", "small-batches", "mib_per_second",
        limit="write 16 KiB", disk=Aim(5, (FSYNC,)),
    ),
    Row("  MiB per broker CPU second", "small-batches", "mib_per_broker_cpu_second", limit="write 16 KiB, CPU"),
    Row(
        "consume page cache, MiB/s", "consume", "mib_per_second", limit="tcp",
        disk=Aim(3, (KAFKA,), and_of_limit=0.6), ram=Aim(3, (KAFKA,), and_of_limit=0.6),
    ),
    Row("  MiB per broker CPU second", "consume", "mib_per_broker_cpu_second", limit="tcp, CPU"),
    Row("  broker memory peak, MiB", "consume", "rss_peak_mib", False, disk=_MEMORY, ram=_MEMORY),
    Row("  broker memory typical, MiB", "consume", "rss_typical_mib", False),
    Row("end to end p50, ms", "latency", "p50_ms", False, limit="synced, p50"),
    Row("end to end p99, ms", "latency", "p99_ms", False, limit="synced, p99", disk=Aim(3, (KAFKA,))),
    Row("end to end p99.9, ms", "latency", "p99.9_ms", False, limit="synced, p99.9"),
    Row("  share of the rate held", "latency", RATE_HELD),
    Row("cold start to first ack, s", "cold-start", "seconds", False, disk=Aim(20, (KAFKA,))),
    Row(
        "kill -9, 2 GiB, to ack, s", "recovery", "seconds", False,
        limit="read the log", disk=Aim(5, (KAFKA,)),
    ),
    Row("  of it reading the log, s", "recovery", "log_recovery_seconds", False, limit="read the log"),
    Row("1,000 partitions, records/s", "partitions", "records_per_second"),
    Row("  MiB per broker CPU second", "partitions", "mib_per_broker_cpu_second"),
    Row("  broker memory peak, MiB", "partitions", "rss_peak_mib", False),
    Row("kill -9 of a member, s", "member-killed", "seconds", False, disk=Aim(at_most=1)),
    Row("SIGSTOP of a member, s", "member-frozen", "seconds", False, disk=Aim(at_most=6)),
    Row(
        "3 brokers: produce, MiB/s", "cluster-produce", "mib_per_second", limit="write / 3",
        disk=Aim(2, (KAFKA, FSYNC), or_of_limit=0.7), ram=Aim(3, (KAFKA,)),
    ),
    Row("  MiB per broker CPU second", "cluster-produce", "mib_per_broker_cpu_second", limit="write by 3, CPU"),
    Row("  memory of all three, MiB", "cluster-produce", "rss_peak_mib", False),
    Row("kill -9 of a leader, wait, s", "failover", "longest_wait_seconds", False, disk=Aim(at_most=1)),
    Row("  of the metadata's too, s", "failover-metadata", "longest_wait_seconds", False, disk=Aim(at_most=1)),
    Row("planned restart, wait, s", "planned-restart", "longest_wait_seconds", False, disk=Aim(at_most=0.3)),
    Row("10,000 partitions idle, CPU %", "cluster-partitions", "cpu_percent", False, disk=Aim(at_most=1)),
    Row("  memory a partition, KiB", "cluster-partitions", "rss_kib_per_partition", False, disk=Aim(at_most=16)),
    Row("  restart to all in sync, s", "cluster-partitions", "restart_seconds", False, disk=Aim(at_most=5)),
]  # fmt: skip
