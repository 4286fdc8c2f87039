"""A real Kafka broker (KRaft, one node) and Kafka's own tools."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from lib import paths
from lib.ports import free_port
from lib.proc import Process

_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
# The default of 1 MiB refuses the batches of 1 MiB that the benchmark sends.
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.retention.hours=1
"""
# Kafka's own start script's flags, with the heap that one node needs here.
_BROKER_FLAGS = [
    "-Xms1G",
    "-Xmx1G",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
]


def java(main: str, *args: str | Path, heap_flags: tuple[str, ...] = ("-Xmx512m",)) -> list[str]:
    """The command line of one of Kafka's classes, or of ours in e2e/kafka."""
    return [
        "java",
        *heap_flags,
        f"-Dlog4j2.configurationFile={paths.REPO / 'e2e/kafka/log4j2-tools.yaml'}",
        "-cp",
        # Java expands the star; a shell must not.
        f"{paths.kafka_lib()}/*:{paths.kafka_classes()}",
        main,
        *[str(a) for a in args],
    ]


def tool(main: str, *args: str | Path, timeout: float = 300.0) -> str:
    """Runs one of Kafka's tools to its end and gives its standard output."""
    done = subprocess.run(java(main, *args), capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(f"{main} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@dataclass
class Kafka:
    """One Kafka broker with its controller in the same process."""

    folder: Path
    data: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    ready_timeout: float = 90.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.data or self.folder / "data"
        self.port = free_port()
        self.controller_port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process: Process | None = None
        self._config = self.folder / "server.properties"
        text = _CONFIG.format(port=self.port, controller=self.controller_port, data=self.data)
        self._config.write_text(text + "".join(f"{k}={v}\n" for k, v in self.settings.items()))

    def format(self) -> Kafka:
        """Makes the data directory a new cluster's."""
        cluster = tool("kafka.tools.StorageTool", "random-uuid").strip()
        tool("kafka.tools.StorageTool", "format", "-t", cluster, "-c", self._config, "--standalone")
        return self

    def launch(self) -> Kafka:
        """Starts the process and does not wait."""
        args = [
            "java",
            *_BROKER_FLAGS,
            f"-Dlog4j2.configurationFile={paths.REPO / 'e2e/kafka/log4j2.yaml'}",
            "-cp",
            f"{paths.kafka_lib()}/*",
            "kafka.Kafka",
            self._config,
        ]
        self.process = Process(args, self.folder, "kafka")
        return self

    def start(self) -> Kafka:
        """Starts it and waits until it answers."""
        self.launch()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Waits until it answers an ApiVersions request."""
        assert self.process is not None
        deadline = time.monotonic() + self.ready_timeout
        while not api_versions_answered(self.port):
            if not self.process.alive():
                raise RuntimeError(f"Kafka ended: {self.process.out()[-4000:]}{self.process.err()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka is not ready after {self.ready_timeout} s")
            time.sleep(0.02)

    def create_topic(self, topic: str, partitions: int = 1, **configs: str | int) -> None:
        """Creates a topic; configs by name with underscores for dots."""
        extra: list[str] = []
        for key, value in configs.items():
            extra += ["--config", f"{key.replace('_', '.')}={value}"]
        self.topics("--create", "--topic", topic, "--partitions", str(partitions), "--replication-factor", "1", *extra)

    def topics(self, *args: str) -> str:
        """Runs kafka-topics."""
        return tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.address, *args)

    def partition_dir(self, topic: str, partition: int = 0) -> Path:
        """Where a partition's files are."""
        assert self.data is not None
        return self.data / f"{topic}-{partition}"

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()

    def stop(self, timeout: float = 60.0) -> None:
        """SIGTERM; then kill -9 if it does not end."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except TimeoutError:
            self.process.kill()

    def end(self) -> None:
        """Ends it in whatever state it is."""
        if self.process is not None:
            self.process.kill()


def _roundtrip(port: int, request: bytes, timeout: float) -> bytes | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
            s.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
                part = s.recv(65536)
                if not part:
                    return None
                answer += part
            return answer[4:]
    except OSError:
        return None


def api_versions_answered(port: int) -> bool:
    """True if a Kafka broker answers on the port."""
    # ApiVersions (18), version 0, correlation id 1, client id "r".
    return _roundtrip(port, struct.pack(">hhih", 18, 0, 1, 1) + b"r", 2.0) is not None


def produce_once(port: int, topic: str, batch: bytes) -> bool:
    """Sends one batch to partition 0 with acks=all by the raw protocol; True if acknowledged.

    No Java client is in the way, so the time to the first acknowledged record is the broker's.
    """
    name = topic.encode()
    # Produce (0), version 3: the lowest that Kafka 4 takes (KIP-896).
    request = struct.pack(">hhih", 0, 3, 1, 1) + b"r"
    request += struct.pack(">hhii", -1, -1, 5000, 1)
    request += struct.pack(">h", len(name)) + name
    request += struct.pack(">iii", 1, 0, len(batch)) + batch
    answer = _roundtrip(port, request, 10.0)
    if answer is None:
        return False
    # correlation id, topic count, name, partition count, partition, error code
    at = 4 + 4 + 2 + len(name) + 4 + 4
    return len(answer) >= at + 2 and struct.unpack(">h", answer[at : at + 2])[0] == 0


# --- DumpLogSegments ---

_BATCH = re.compile(r"^(?:\| )?baseOffset: (\d+) lastOffset: (\d+) count: (\d+) .*isvalid: (\w+)")
_RECORD = re.compile(r"^\| offset: (\d+) ")
_COMPLAINTS = (
    "Mismatches in",
    "Index timestamp mismatch",
    "Index timestamp of log entries is out of order",
    "Non-sequential offsets",
    "non-consecutive offsets",
    "invalid bytes at the end",
    "Found timestamp mismatch",
    "Found out of order timestamp",
    "isvalid: false",
    "Could not read snapshot",
    "is corrupt",
)


@dataclass
class Dump:
    """What Kafka's DumpLogSegments says of files."""

    text: str
    batches: list[tuple[int, int, int]]
    record_offsets: list[int]
    codecs: set[str]
    complaints: list[str]


def dump_log_segments(files: list[Path], print_data: bool = True, timeout: float = 300.0) -> Dump:
    """Runs DumpLogSegments over log, index and time index files."""
    args: list[str | Path] = ["--files", ",".join(str(f) for f in files), "--deep-iteration"]
    args += ["--max-message-size", str(64 << 20)]
    if print_data:
        args.append("--print-data-log")
    done = subprocess.run(java("org.apache.kafka.tools.DumpLogSegments", *args), capture_output=True, timeout=timeout)
    # Values may hold any bytes; latin-1 keeps each byte one character.
    text = done.stdout.decode("latin-1")
    complaints = [line for line in text.split("\n") if any(c in line for c in _COMPLAINTS)]
    errors = done.stderr.decode("utf-8", "replace")
    complaints += [line for line in errors.split("\n") if "Exception" in line or "ERROR" in line]
    if done.returncode != 0:
        complaints.append(f"exit code {done.returncode}: {errors[-1000:]}")
    batches, offsets, codecs = [], [], set()
    for line in text.split("\n"):
        if found := _BATCH.match(line):
            batches.append((int(found[1]), int(found[2]), int(found[3])))
            codecs.add(re.search(r"compresscodec: (\w+)", line)[1].lower())
        elif found := _RECORD.match(line):
            offsets.append(int(found[1]))
    return Dump(text, batches, offsets, codecs, complaints)
