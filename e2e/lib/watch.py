"""A good client beside what a test does to a broker, and the broker's memory meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from lib.api import Client
from lib.broker import Broker

MIB = 1 << 20
MEMORY_LIMIT = 300 * MIB


class Watch:
    """Another client that publishes and reads all the time, how long each round took, and the
    broker's memory meanwhile.

    Memory is what is resident without mapped files: windows of a log's files that readers have
    mapped are the page cache's, which the kernel takes back when it wants.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._stop = threading.Event()
        self.slowest = 0.0
        self.most_memory = 0
        self.rounds = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with Client(self._broker.address) as client:
                while not self._stop.is_set():
                    started = time.monotonic()
                    (position,) = client.publish("watched", [b"%d" % self.rounds])
                    (read,) = client.read("watched", 0, position.offset)
                    assert read.message.value == b"%d" % self.rounds
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    self.rounds += 1
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001 - raised again below
            self.failure = error

    def _sample(self) -> None:
        process = self._broker.process
        assert process is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has ended; the other thread tells
            while not self._stop.wait(0.01):
                self.most_memory = max(self.most_memory, process.rss_anonymous_bytes())

    @contextlib.contextmanager
    def unharmed(self, memory_limit: int = MEMORY_LIMIT) -> Iterator[None]:
        """The block under which the other client must go on as ever, and memory stay within a limit."""
        with Client(self._broker.address) as client:
            client.create_topic("watched")
        self._thread.start()
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        time.sleep(0.5)
        self.slowest = 0.0
        try:
            yield
            time.sleep(0.5)
        finally:
            self._stop.set()
            self._thread.join(60)
            sampler.join(10)
        if self.failure is not None:
            raise self.failure
        assert self.rounds > 10
        assert self.slowest < 10.0, f"another client waited {self.slowest:.1f} s"
        assert 0 < self.most_memory < memory_limit, f"{self.most_memory >> 20} MiB"
