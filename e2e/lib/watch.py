"""A good client beside what a test does to a broker, and the broker's memory meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from lib.api import ApiError, Client
from lib.broker import Broker

MIB = 1 << 20
# What a broker may take is what it says that it takes (ARCHITECTURE.md, "Memory"; `--help-config`), by its defaults,
# and this while it has nothing to do: 28 MiB in a debug build on two cores, with a client that publishes and reads;
# each core has a thread more.
IDLE = (30 + 2 * len(os.sched_getaffinity(0))) * MIB
# The halves of memory.in.flight.bytes, and what is beside it for requests that are larger decoded, for what writes
# are answered with, for what streams remember, for large answers when memory is short, and for wider windows.
REQUESTS = ANSWERS = 32 * MIB
DECODED = 32 * MIB
ACKNOWLEDGEMENTS = 16 * MIB
STREAMS = 32 * MIB
LARGE_ANSWERS = 32 * MIB
WIDENED = 32 * MIB
# A connection's window, and a quarter as much for the frames' places in it and for what serves the connection.
CONNECTION = MIB + 256 * 1024
# What one connection's writes can have of all this: an eighth of the budget, half of what is for decoded ones, an
# eighth of the acknowledgements, 16 MiB of wider windows.
ONE_WRITER = 8 * MIB + DECODED // 2 + ACKNOWLEDGEMENTS // 8 + 16 * MIB + CONNECTION
# A broker without memory refuses a request after 20 s. Half of that, for a request and a read together: it had its
# turn. Most tests see less than 0.3 s, the flood of large requests 8 s, as they are served one after the other.
LONGEST_WAIT = 10.0


def writers(connections: int) -> int:
    """What a broker may take for so many connections that write as much as they can, each batch made beside its
    request."""
    return IDLE + 2 * REQUESTS + DECODED + ACKNOWLEDGEMENTS + WIDENED + connections * CONNECTION


def readers(encoded: int) -> int:
    """The same where answers are not taken: each stream's present one is `encoded` as well, in all so many bytes."""
    return IDLE + ANSWERS + LARGE_ANSWERS + encoded


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
        # How often it was told to come again.
        self.refused = 0
        self.most_memory = 0
        self.rounds = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with Client(self._broker.address) as client:
                while not self._stop.is_set():
                    started = time.monotonic()
                    try:
                        self._round(client)
                    except ApiError as error:
                        if error.check_typed().reason != "OVERLOADED":
                            raise
                        self.refused += 1
                        continue
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    self.rounds += 1
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001 - raised again below
            self.failure = error

    def _round(self, client: Client) -> None:
        (position,) = client.publish("watched", [b"%d" % self.rounds])
        (read,) = client.read("watched", 0, position.offset)
        assert read.message.value == b"%d" % self.rounds

    def _sample(self) -> None:
        process = self._broker.process
        assert process is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has ended; the other thread tells
            while not self._stop.wait(0.01):
                self.most_memory = max(self.most_memory, process.rss_anonymous_bytes())

    @contextlib.contextmanager
    def unharmed(self, memory_limit: int, starved: bool = False) -> Iterator[None]:
        """The block under which the other client must go on as ever, and memory stay within a limit.

        With `starved` nobody else has memory for a while: then the other client may wait and be told to come again.
        """
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
        memory = f"{self.most_memory / MIB:.0f} of {memory_limit / MIB:.0f} MiB"
        print(f"{memory}; another client waited {self.slowest:.2f} s and was refused {self.refused} times")
        if not starved:
            assert self.rounds > 10
            assert self.refused == 0, "another client was refused"
            assert self.slowest < LONGEST_WAIT, f"another client waited {self.slowest:.1f} s"
        assert 0 < self.most_memory < memory_limit, f"{self.most_memory >> 20} MiB"
