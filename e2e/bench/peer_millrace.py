"""Millrace under the benchmark."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import parse
from peer import ENDLESS, FullPeer, Load, Peer, wait_gone, wait_made

from lib import paths
from lib.api import ApiError, Client, admin_pb2, call
from lib.broker import Broker
from lib.ports import port_open


class MillraceClients(Peer):
    """Millrace's own load generators, whatever they are run against."""

    # Where they begin: HOST:PORT,...
    bootstrap: str

    def require(self) -> None:
        paths.binary("millrace-broker")
        paths.binary("millrace")

    def bench(self, *args: str | int) -> list[str]:
        """The command of `millrace bench`."""
        command = [paths.binary("millrace"), "--bootstrap", self.bootstrap, "bench", *args]
        return [str(a) for a in command]

    def producer(self, topic: str, load: Load) -> list[str]:
        spread = ["--partitioner", "round-robin"] if load.spread else []
        return self.bench(
            "produce", topic, "--records", load.records, "--record-size", load.record_size,
            "--batch-bytes", load.batch_bytes, "--linger-ms", load.linger_ms,
            "--acks", "all", "--compression", "none", *spread,
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        return parse.millrace_produced(out, load.records)

    def consumer(self, topic: str, load: Load) -> list[str]:
        return self.bench("consume", topic, "--records", load.records, "--from", "beginning")

    def consumed(self, out: str, load: Load) -> float:
        return parse.millrace_consumed(out, load.records)


class Millrace(MillraceClients, FullPeer):
    """The product. It forces each batch to the disk before it acknowledges (flush=ack)."""

    name = "Millrace"

    def start(self, folder: Path) -> None:
        self.folder = folder / "millrace"
        self._broker = Broker(self.folder)
        self.bootstrap = self._broker.address
        self._broker.start()
        assert self._broker.process is not None
        self.process = self._broker.process

    def restart_until_acked(self, topic: str) -> float:
        started = time.monotonic()
        self._broker.launch()
        assert self._broker.process is not None
        self.process = self._broker.process
        while not port_open(self._broker.port):
            if time.monotonic() - started > 300:
                raise TimeoutError("Millrace does not listen after 300 s")
            if not self.process.alive():
                raise RuntimeError(self.process.err()[-3000:])
            time.sleep(0.002)
        while True:
            with Client(self._broker.address) as client:
                try:
                    client.publish(topic, [b"first"], timeout=120)
                    return time.monotonic() - started
                except ApiError:
                    if time.monotonic() - started > 300:
                        raise
                    time.sleep(0.002)

    def create_topic(self, topic: str, partitions: int) -> None:
        with Client(self._broker.address) as client:
            request = admin_pb2.CreateTopicRequest(name=topic, partitions=partitions, replication_factor=1)
            call(client.admin.CreateTopic, request, timeout=120)
        assert self._broker.data is not None
        wait_made(self._broker.data, topic, partitions)

    def delete_topic(self, topic: str) -> None:
        with Client(self._broker.address) as client:
            call(client.admin.DeleteTopic, admin_pb2.DeleteTopicRequest(name=topic), timeout=120)
        assert self._broker.data is not None
        wait_gone(self._broker.data, topic)

    def end_to_end(self, topic: str, rate: int, records: int, size: int, warmup: int) -> list[str]:
        return self.bench(
            "end-to-end", topic, "--rate", rate, "--records", records, "--record-size", size,
            "--warmup-records", warmup,
        )  # fmt: skip

    def steady_sender(self, topic: str, rate: int) -> list[str]:
        return self.bench(
            "produce", topic, "--records", ENDLESS, "--record-size", 100, "--rate", rate, "--acks", "all",
            "--partitioner", "round-robin",
        )  # fmt: skip

    def member(self, topic: str, group: str) -> list[str]:
        command = [paths.binary("millrace"), "--bootstrap", self.bootstrap, "consume", topic, "--group", group]
        return [*map(str, command), "--format", "json"]

    def partition_of(self, line: bytes) -> int | None:
        return json.loads(line)["partition"] if line else None

    def log_recovery_seconds(self) -> float | None:
        _, _, text = self._broker.http("/metrics")
        found = re.search(r"^millrace_log_recovery_seconds(?:\{[^}]*\})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def stop(self) -> None:
        self._broker.stop(120)

    def kill(self) -> None:
        self._broker.kill()

    def end(self) -> None:
        if hasattr(self, "_broker"):
            self._broker.end()
        shutil.rmtree(self.folder, ignore_errors=True)
