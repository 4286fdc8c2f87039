"""The load on a cluster as programs of their own, so that they run on a host of their own.

    python -m lib.load publish --bootstrap A,B,C --topic T --partitions N --rate R --until M --folder F
    python -m lib.load read    --bootstrap A,B,C --topic T --partitions N --folder F
    python -m lib.load lines   --bootstrap A,B,C --topic T --rate R --folder F

`publish` has one idempotent producer a partition (acks=all) on the stubs, `read` a reader that
follows, `lines` feeds `millrace produce`. Each goes on until its standard input ends (`publish` also until
M messages are sent in all), then until all is answered; exit code 0 means: all is acknowledged,
no call failed for good. What was acknowledged and seen is in files of the folder, which
`lib/history.py` reads.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc

from lib import paths
from lib.api import ApiError, Client, messaging_pb2, types_pb2
from lib.checker import TRANSIENT, Pending, StreamProducer
from lib.program import run_and_end

KEYS = 100
# After so long without an answer the next broker is tried: the one asked may be frozen or cut off.
_HANG_SECONDS = 2.0


class PacedProducer(StreamProducer):
    """A producer of `rate` messages a second that writes down what it is told of each request, and when.

    A request ends in one of three states: acknowledged; refused for sure (outcome "not_written" when it was sent
    for the first time), then it is not sent again, for later ones of the stream may be stored already, and must
    never be seen; or unknown, then it is sent again until it is known, or the broker can't tell it any more.
    """

    def pace(self, rate: float, until: int, folder: Path) -> PacedProducer:
        """Begins; sends at least `until` messages."""
        self._rate, self._until, self._began = rate, until, time.monotonic()
        self._notes = open(folder / f"told-{self.partition}", "wb")  # noqa: SIM115 - as long as it lives
        self._breaks = open(folder / f"breaks-{self.partition}", "w")  # noqa: SIM115 - as long as it lives
        self.transient = TRANSIENT | {grpc.StatusCode.RESOURCE_EXHAUSTED}
        self.refused = 0
        self.answer_timeout, self.may_hang = _HANG_SECONDS, True
        self.start()
        return self

    def _more(self, waiting: bool) -> bool:
        while not (self._stop.is_set() and self.sent - self.refused >= self._until):
            if self._stop.is_set() or self.sent <= self._rate * (time.monotonic() - self._began):
                return True
            if waiting:
                return False
            time.sleep(0.002)
        return False

    def _broke(self, why: str) -> None:
        print(f"{time.monotonic():.3f} {why}", file=self._breaks, flush=True)

    def _next(self, number: int) -> Pending:
        count = self._rng.randrange(1, 80)
        messages = [
            types_pb2.Message(
                key=b"%d" % ((self.sent + i) % KEYS),
                value=b"%d:%d:" % (self.partition, self.sent + i) + b"." * self._rng.randrange(200),
            )
            for i in range(count)
        ]
        request = messaging_pb2.PublishRequest(
            topic=self.topic,
            partition=self.partition,
            messages=messages,
            acks=types_pb2.ACKS_ALL,
            compression=self.compression,
        )
        waiting = Pending(number, self.sent, count, request, self.breaks)
        self.sent += count
        return waiting

    def _take(self, answer: messaging_pb2.PublishStreamResponse, pending: deque[Pending]) -> None:
        waiting = pending[0]
        if answer.WhichOneof("result") == "error":
            assert answer.id == waiting.number, f"answer {answer.id} came before {waiting.number}"
            error = ApiError.of_item(answer.error)
            surely = error.metadata.get("outcome") == "not_written" and waiting.breaks == self.breaks
            if surely and error.code in self.transient:
                self._note(pending.popleft(), "refused")
                self.refused += waiting.count
            elif error.reason == "OUT_OF_ORDER_SEQUENCE" and error.metadata.get("outcome") == "unknown":
                # It was unknown, and a later one is stored: this one may be sent no more.
                self._note(pending.popleft(), "unknown")
                self.refused += waiting.count
                return
            elif error.code not in self.transient:
                raise AssertionError(f"request {answer.id} failed: {error}")
            # Another broker may know better.
            raise error if error.code in TRANSIENT else ApiError(grpc.StatusCode.UNAVAILABLE, str(error))
        super()._take(answer, pending)
        offsets = [self.acked.pop(waiting.first + i) for i in range(waiting.count)]
        base = offsets[0]
        assert offsets == ([-1] * len(offsets) if base == -1 else list(range(base, base + len(offsets))))
        self._note(waiting, "acked", base)

    def _note(self, request: Pending, what: str, base: int = -1) -> None:
        # A line at once: what a program that is killed has noted still counts.
        line = f"{time.monotonic():.3f} {what} {request.first} {request.count} {base}\n"
        self._notes.write(line.encode())
        self._notes.flush()


class NotingReader:
    """Follows a partition over any of the brokers and writes down what it was shown."""

    def __init__(self, addresses: list[str], topic: str, partition: int, folder: Path) -> None:
        self._addresses, self._topic, self._partition = addresses, topic, partition
        self._notes = open(folder / f"seen-{partition}", "wb")  # noqa: SIM115 - as long as it lives
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it and raises what went wrong."""
        self._stop.set()
        self._thread.join(30)
        if self.failure is not None:
            raise self.failure
        assert not self._thread.is_alive(), "a reader does not end"

    def _guarded(self) -> None:
        try:
            turn, following = self._partition, 0
            while not self._stop.is_set():
                following = self._read_on(self._addresses[turn % len(self._addresses)], following)
                turn += 1
        except BaseException as error:  # noqa: BLE001 - raised again by stop()
            self.failure = error
        finally:
            self._notes.close()

    def _read_on(self, address: str, following: int) -> int:
        """Reads from one broker for some seconds; gives the next offset to read."""
        with Client(address) as client:
            try:
                # The deadline is also the patience with a broker that is frozen or cut off.
                for message in client.read_stream(
                    self._topic, self._partition, following, timeout=_HANG_SECONDS, follow=True
                ):
                    assert message.offset >= following, f"offset {message.offset} after {following - 1}"
                    following = message.offset + 1
                    value = message.message.value
                    number = int(value.split(b":", 2)[1])
                    self._notes.write(b"%d %d %d\n" % (message.offset, number, zlib.crc32(value)))
            except ApiError as error:
                if error.code not in TRANSIENT:
                    raise AssertionError(
                        f"{time.monotonic():.3f} {address} on partition {self._partition} from {following}: {error}"
                    ) from None
                time.sleep(0.02)
            self._notes.flush()
        return following


def publish(args: argparse.Namespace) -> None:
    """The producers."""
    codecs = [types_pb2.COMPRESSION_NONE, types_pb2.COMPRESSION_LZ4, types_pb2.COMPRESSION_ZSTD]
    producers = []
    for partition in range(args.partitions):
        # Each begins with another broker.
        addresses = (
            args.bootstrap[partition % len(args.bootstrap) :] + args.bootstrap[: partition % len(args.bootstrap)]
        )
        codec = codecs[partition % len(codecs)]
        producer = PacedProducer(",".join(addresses), args.topic, partition, args.seed + partition, compression=codec)
        producers.append(producer.pace(args.rate / args.partitions, -(-args.until // args.partitions), args.folder))
    _until_told(lambda: any(producer.failure is not None for producer in producers))
    for producer in producers:
        producer.stop(args.patience)
    for producer in producers:
        (args.folder / f"sent-{producer.partition}").write_text(str(producer.sent))


def read(args: argparse.Namespace) -> None:
    """The readers."""
    readers = [NotingReader(args.bootstrap, args.topic, p, args.folder) for p in range(args.partitions)]
    _until_told(lambda: any(reader.failure is not None for reader in readers))
    for reader in readers:
        reader.stop()


def lines(args: argparse.Namespace) -> None:
    """`millrace produce`, fed with lines `LIFE.KEY<tab>NUMBER`; in a life each key's numbers ascend from 0.

    A full disk ends the command, which tells how many messages are written; then the next life begins. The file
    `lines-sent` has a line for each: how many lines it got, and how many of them are surely written.
    """
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), told.set()), daemon=True).start()
    with open(args.folder / "lines-sent", "w") as notes:
        life = 0
        while not told.is_set():
            print(*_one_life(args, life, told), file=notes, flush=True)
            life += 1


def _one_life(args: argparse.Namespace, life: int, told: threading.Event) -> tuple[int, int]:
    command = [str(paths.binary("millrace")), "--bootstrap", ",".join(args.bootstrap), "produce", args.topic]
    errors = args.folder / f"produce-{life}.err"
    with open(errors, "wb") as err:
        producer = subprocess.Popen(
            [*command, "--acks", "all", "--key-separator", "\t"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    assert producer.stdin is not None
    began, count = time.monotonic(), 0
    try:
        while not told.is_set() and producer.poll() is None:
            while count < args.rate * (time.monotonic() - began):
                producer.stdin.write(b"%d.%d\t%d\n" % (life, count % KEYS, count // KEYS))
                count += 1
            producer.stdin.flush()
            time.sleep(0.01)
        producer.stdin.close()
    except BrokenPipeError:
        pass  # its exit code tells
    code = producer.wait(args.patience)
    if code == 0:
        return count, count
    text = errors.read_text()
    failed = re.search(r"failed after ([\d,]+) messages? written.*disk is full", text, re.DOTALL)
    assert code == 1 and failed, f"millrace produce ended with {code}: {text}"
    time.sleep(1.0)
    return count, int(failed[1].replace(",", ""))


def _until_told(failed: Callable[[], bool]) -> None:
    """Waits for the end of standard input, or a failure."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    while not ended.wait(0.2):
        if failed():
            return


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["publish", "read", "lines"])
    parser.add_argument("--bootstrap", type=lambda text: text.split(","), required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--until", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds until all must be answered")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    run_and_end(lambda: {"publish": publish, "read": read, "lines": lines}[args.what](args))


if __name__ == "__main__":
    main()
