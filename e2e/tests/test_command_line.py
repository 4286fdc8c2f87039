"""The `millrace` command as people and scripts use it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from lib import paths
from lib.api import Client
from lib.broker import Broker, millrace
from lib.ports import free_port
from lib.proc import CLEAN_ENV, Process


@pytest.fixture
def name(topic: str) -> str:
    """A new topic's name."""
    return topic


def run(broker: Broker, *args: str, **options: object):
    """A command against the file's broker."""
    return millrace(*args, bootstrap=broker.address, **options)


# --- lines ---


def _awkward_lines(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    lines = [
        b"",
        b" ",
        b"\t",
        b"\r",
        b"ends with cr\r",
        b"\0",
        b"\xff\xfe\x80 no utf-8 \xc3",
        "ünïcödé ☃ 𝄞".encode(),
        b"-n",
        b"--help",
        b"\\n \\t \\",
        b'{"json": "quoted"}',
        b"a" * 65535,
        b"b" * 65536,
        b"c" * 65537,
        b"d" * 3_000_000,
        b"",
        b"",
    ]
    while len(lines) < count:
        lines.append(rng.randbytes(rng.randrange(300)).replace(b"\n", b"\0"))
    return lines


def test_awkward_lines_come_back_unchanged(shared: Broker, name: str) -> None:
    text = b"".join(line + b"\n" for line in _awkward_lines(1, 2000))
    run(shared, "produce", name, stdin=text).ok()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == text


def test_a_last_line_without_newline_is_a_message(shared: Broker, name: str) -> None:
    run(shared, "produce", name, stdin=b"one\ntwo").ok()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == b"one\ntwo\n"


def test_no_input_is_no_message(shared: Broker, name: str) -> None:
    run(shared, "produce", name, stdin=b"").ok()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == b""
    run(shared, "produce", name, stdin=b"\n").ok()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == b"\n"


@pytest.mark.parametrize("separator", [":", "=>", "\t"])
def test_a_key_separator_parts_and_joins(shared: Broker, name: str, separator: str) -> None:
    s = separator.encode()
    lines = [
        b"key" + s + b"value",
        s + b"empty key",
        b"empty value" + s,
        b"two" + s + b"of" + s + b"them",
        b"\xff" + s + b"\xfe",
    ]
    text = b"".join(line + b"\n" for line in lines)
    run(shared, "produce", name, "--key-separator", separator, stdin=text).ok()
    with Client(shared.address) as client:
        got = [(m.message.key, m.message.value) for m in client.read(name)]
    assert got == [tuple(line.split(s, 1)) for line in lines]
    values = run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok()
    assert values == b"".join(value + b"\n" for _, value in got)


def test_keys_and_values_are_told_apart_on_output(shared: Broker, name: str) -> None:
    run(shared, "produce", name, "--key-separator", ":", stdin=b"k1:v1\nk2:v2\n").ok()
    out = run(shared, "consume", name, "--from", "beginning", "--exit-at-end", "--format", "key-value").ok()
    lines = out.decode().splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"k{number}[\t :=]+v{number}", line), line


def test_json_output_tells_all(shared: Broker, name: str) -> None:
    run(shared, "produce", name, "--key-separator", ":", stdin=b"k:v\n:\xff\xfe\n").ok()
    out = run(shared, "consume", name, "--from", "beginning", "--exit-at-end", "--format", "json").ok()
    first, second = [json.loads(line) for line in out.splitlines()]
    assert (first["topic"], first["partition"], first["offset"]) == (name, 0, 0)
    assert (first["key"], first["value"]) == ("k", "v")
    assert second["offset"] == 1
    assert "timestamp" in first
    # Bytes that are no UTF-8 are still told apart from text that looks alike.
    run(shared, "produce", name, stdin="\ufffd\ufffd\n".encode()).ok()
    out = run(shared, "consume", name, "--from", "2", "--exit-at-end", "--format", "json").ok()
    third = json.loads(out)
    assert {k: v for k, v in second.items() if k.startswith("value")} != {
        k: v for k, v in third.items() if k.startswith("value")
    }


def test_a_key_separator_that_a_line_lacks_is_an_error_that_names_the_line(shared: Broker, name: str) -> None:
    text = run(shared, "produce", name, "--key-separator", ":", stdin=b"a:b\nnone\n").failed()
    assert len(text.strip().splitlines()) == 1 and "2" in text, text


LINES = 1_000_000
LARGE_LINES = 10


def _write_many_lines(path: Path, separator: bytes) -> int:
    """Lines of 0 to 120 bytes, a tenth of them empty, and some of 1 to 4 MB; gives how many are empty.

    Nothing but the newline is kept out of them: they begin with, end with and are parts of the separator and
    carriage returns. With a separator each line has one or more: the shortest is that alone.
    """
    rng = random.Random(3)
    special = [b"\0", b"\xff", b"\r", b"\xc3\x28", separator[:1], separator]
    noise = rng.randbytes(4 << 20).replace(b"\n", b"\r")
    pieces = [b"".join(rng.choices([*special, noise[at : at + 20]], k=6)) for at in range(0, 100_000, 20)]
    large = set(rng.sample(range(LINES), LARGE_LINES))
    empty = 0
    with open(path, "wb") as f:
        for number in range(LINES):
            if number in large:
                value = noise[: rng.randrange(1_000_000, 4_000_000)]
            elif number % 10 == 0:
                value = b""
            else:
                value = b"%d" % number + pieces[rng.randrange(len(pieces))][: number % 110]
            # The key may be empty, and the value may have the separator in it too.
            key = (b"", b"k", b"\r\0\xff", b"%d" % number)[number % 4] if separator and number % 20 else b""
            empty += not key and not value
            f.write(key + separator + value + b"\n")
    return empty


def _same_lines(got: bytes, path: Path) -> None:
    """The first line that differs, instead of a hundred megabytes."""
    if got == path.read_bytes():
        return
    with open(path, "rb") as f:
        for number, (one, other) in enumerate(zip(f, io.BytesIO(got), strict=False), 1):
            assert one == other, f"line {number}: {one[:200]!r} of {len(one)} came as {other[:200]!r} of {len(other)}"
    raise AssertionError(f"{len(got)} bytes came of {path.stat().st_size}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("separator", ["", "=>"], ids=["values", "keys-and-values"])
def test_a_million_lines(shared: Broker, name: str, tmp_path: Path, separator: str) -> None:
    """Of any length and any bytes, from a file: they come back as they were, in their order."""
    path = tmp_path / "lines"
    assert _write_many_lines(path, separator.encode()) > LINES // 30
    keyed = ("--key-separator", separator) if separator else ()
    shown = ("--format", "key-value", *keyed) if separator else ()
    run(shared, "produce", name, *keyed, stdin=path, timeout=200).ok()
    with Client(shared.address) as client:
        assert client.log_end(name) == LINES
    got = run(shared, "consume", name, "--from", "beginning", "--exit-at-end", *shown, timeout=200).ok()
    _same_lines(got, path)


def _on_terminal(
    command: list[str | Path], watched: bool, stdin: Path | None = None, stdout: Path | None = None
) -> tuple[bytes, bytes]:
    """Runs a command whose standard error is a terminal, or a pipe; gives what the terminal showed, and all that came
    out elsewhere."""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    shown = bytearray()
    with open(stdin or os.devnull, "rb") as source, open(stdout or os.devnull, "wb") as target:
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=target if stdout else subprocess.PIPE,
            stderr=end if watched else subprocess.PIPE,
            env={**CLEAN_ENV, "TERM": "xterm"},
        )
    os.close(end)
    # A terminal that nobody reads would stop the command.
    reader = threading.Thread(target=_read_terminal, args=(terminal, shown), daemon=True)
    reader.start()
    out, err = process.communicate(timeout=60)
    reader.join(20)
    os.close(terminal)
    assert process.returncode == 0, (bytes(shown), err)
    return bytes(shown), (out or b"") + (err or b"")


def _check_bar(shown: bytes, elsewhere: bytes, watched: bool, total: bytes) -> None:
    """A bar of `total` where a person watches, and nothing of it anywhere else."""
    told = re.findall(rb"([0-9]+) % of " + total + rb", [0-9A-Za-z., ]+/s, [0-9a-z]+ left", shown)
    if watched:
        assert told, f"no progress: {shown[:500]!r}"
        percents = [int(percent) for percent in told]
        assert percents == sorted(percents) and percents[-1] <= 100, percents
    else:
        assert not shown and b" left" not in elsewhere and b"\x1b" not in elsewhere, elsewhere


_WATCHED = pytest.mark.parametrize("watched", [True, False], ids=["terminal", "no-terminal"])


@_WATCHED
def test_produce_from_a_file_tells_a_terminal_how_far_it_is(
    shared: Broker, name: str, tmp_path: Path, watched: bool
) -> None:
    """And nothing of it goes where no person watches."""
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%06d\n" % n for n in range(300_000)))
    command = [paths.binary("millrace"), "--bootstrap", shared.address, "produce", name]
    shown, elsewhere = _on_terminal(command, watched, stdin=path)
    # 2,100,000 bytes.
    _check_bar(shown, elsewhere, watched, rb"2\.00 MiB")
    # The sum stands where scripts find it, terminal or not.
    assert b"300,000 messages" in elsewhere + shown


@_WATCHED
def test_consume_to_an_end_into_a_file_tells_a_terminal_how_far_it_is(
    shared: Broker, name: str, tmp_path: Path, watched: bool
) -> None:
    run(shared, "produce", name, stdin=b"some\n" * 12_345).ok()
    command = [paths.binary("millrace"), "--bootstrap", shared.address, "consume", name]
    command += ["--from", "beginning", "--exit-at-end"]
    written = tmp_path / "messages"
    shown, elsewhere = _on_terminal(command, watched, stdout=written)
    _check_bar(shown, elsewhere, watched, rb"12,345 messages")
    assert written.read_bytes() == b"some\n" * 12_345
    # Into a pipe: what reads it may show the messages on the terminal.
    shown, elsewhere = _on_terminal(command, watched)
    assert (shown, elsewhere) == (b"", b"some\n" * 12_345)


@_WATCHED
def test_log_verify_and_bench_tell_a_terminal_how_far_they_are(shared: Broker, name: str, watched: bool) -> None:
    bench = [paths.binary("millrace"), "--bootstrap", shared.address, "bench", "produce", name, "--records", "4096"]
    shown, elsewhere = _on_terminal(bench, watched)
    _check_bar(shown, elsewhere, watched, rb"4,096 records")
    verify = [paths.binary("millrace"), "log", "verify", shared.partition_dir(name)]
    shown, elsewhere = _on_terminal(verify, watched)
    _check_bar(shown, elsewhere, watched, rb"[45]\.[0-9]+ MiB")
    assert b": sound; offsets 0 to 4095" in elsewhere


def _read_terminal(terminal: int, shown: bytearray) -> None:
    """All that is written to it; Linux ends that with an error once nobody has the other end."""
    try:
        while read := os.read(terminal, 65536):
            shown += read
    except OSError:
        pass


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_each_compression_and_acks(shared: Broker, name: str, compression: str, acks: str) -> None:
    text = b"".join(b"%d some text\n" % i for i in range(1000))
    run(shared, "produce", name, "--compression", compression, "--acks", acks, stdin=text).ok()
    deadline = time.monotonic() + 10
    while True:
        got = run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok()
        # With acks=0 the command may end before the broker has stored the last batch.
        if got == text or acks != "0" or time.monotonic() > deadline:
            break
    assert got == text


def test_consume_from_offset_end_time_and_count(shared: Broker) -> None:
    run(shared, "topic", "create", "positions", "--partitions", "2").ok()
    run(shared, "produce", "positions", "--partition", "1", stdin=b"0\n1\n2\n3\n").ok()
    consume = ("consume", "positions", "--exit-at-end", "--partition", "1")
    assert run(shared, *consume, "--from", "2").ok() == b"2\n3\n"
    assert run(shared, *consume, "--from", "beginning", "--max-messages", "3").ok() == b"0\n1\n2\n"
    assert run(shared, *consume, "--from", "end").ok() == b""
    assert run(shared, *consume, "--from", "2020-01-01T00:00:00Z").ok() == b"0\n1\n2\n3\n"
    assert run(shared, *consume, "--from", "2100-01-01T00:00:00Z").ok() == b""
    assert run(shared, *consume, "--from", "2020-01-01").ok() == b"0\n1\n2\n3\n"
    assert run(shared, *consume, "--from", "2100-01-01").ok() == b""
    assert run(shared, *consume, "--from", "-1h").ok() == b"0\n1\n2\n3\n"
    time.sleep(0.02)
    assert run(shared, *consume, "--from", "-1ms").ok() == b""
    assert run(shared, "consume", "positions", "--exit-at-end", "--partition", "0", "--from", "beginning").ok() == b""


def test_consume_follows_until_it_is_interrupted(shared: Broker, name: str, tmp_path: Path) -> None:
    consume = Process(
        [paths.binary("millrace"), "--bootstrap", shared.address, "consume", name, "--from", "beginning"],
        tmp_path,
        "consume",
    )
    try:
        for number in range(3):
            run(shared, "produce", name, stdin=b"%d\n" % number).ok()
            deadline = time.monotonic() + 10
            while consume.out() != "".join(f"{n}\n" for n in range(number + 1)):
                assert time.monotonic() < deadline, consume.out() + consume.err()
                time.sleep(0.02)
        os.kill(consume.pid, signal.SIGINT)
        assert consume.wait(30) == 130, consume.err()
    finally:
        consume.kill()


def test_consume_into_a_closed_pipe_ends_quietly(shared: Broker, name: str) -> None:
    run(shared, "produce", name, stdin=b"x" * 100 + b"\n" + b"".join(b"%d\n" % i for i in range(100_000))).ok()
    consume = f"{paths.binary('millrace')} --bootstrap {shared.address} consume {name} --from beginning --exit-at-end"
    done = subprocess.run(["bash", "-c", f"{consume} | head -n 1"], capture_output=True, timeout=60)
    assert done.stdout == b"x" * 100 + b"\n"
    assert b"panicked" not in done.stderr and len(done.stderr.splitlines()) <= 1, done.stderr.decode()


def _bytes_in(pipe: IO[bytes]) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_consume_whose_output_nobody_reads_can_be_interrupted(
    shared: Broker, name: str, number: int, code: int
) -> None:
    """It stands in a write to a full pipe: a signal is all that reaches it."""
    run(shared, "produce", name, stdin=b"".join(b"%d\n" % i for i in range(100_000))).ok()
    command = [paths.binary("millrace"), "--bootstrap", shared.address, "consume", name, "--from", "beginning"]
    consume = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert consume.stdout is not None
        room = fcntl.fcntl(consume.stdout, fcntl.F_GETPIPE_SZ)
        deadline = time.monotonic() + 30
        while _bytes_in(consume.stdout) < room:
            assert time.monotonic() < deadline and consume.poll() is None
            time.sleep(0.01)
        consume.send_signal(number)
        assert consume.wait(30) == code
    finally:
        consume.kill()
        consume.communicate()


def _fed(broker: Broker, folder: Path, *args: str) -> Process:
    """A command against the broker whose input the test writes."""
    command = [paths.binary("millrace"), "--bootstrap", broker.address, *args]
    return Process(command, folder, args[0], stdin=subprocess.PIPE)


def _feed(process: Process, lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.flush()


def _wait_until_it_takes(process: Process, signal_number: int) -> None:
    """Waits until the process has a handler for the signal."""
    deadline = time.monotonic() + 30
    while True:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE).group(1), 16)
        if caught & 1 << signal_number - 1:
            return
        assert time.monotonic() < deadline and process.alive(), process.err()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_input_that_is_cut_is_told_with_what_was_written(
    shared: Broker, name: str, tmp_path: Path, number: int, code: int
) -> None:
    produce = _fed(shared, tmp_path, "produce", name)
    try:
        _feed(produce, b"one\ntwo\n")
        run(shared, "consume", name, "--from", "beginning", "--max-messages", "2").ok()
        os.kill(produce.pid, number)
        assert produce.wait(30) == code
        assert f'2 messages written to "{name}"; the rest of the input was not read' in produce.err()
    finally:
        produce.kill()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == b"one\ntwo\n"


def test_a_broker_that_falls_silent_is_told_and_what_is_not_known_of(broker: Broker, tmp_path: Path) -> None:
    run(broker, "topic", "create", "silent").ok()
    # It looks what is wrong after 2 s, and takes silence for an answer after 5 s more: both before it gives up.
    produce = _fed(broker, tmp_path, "produce", "silent", "--timeout", "14s")
    try:
        _feed(produce, b"one\n")
        run(broker, "consume", "silent", "--from", "beginning", "--max-messages", "1").ok()
        # Readers may see it before its producer hears of it: by its next answers the broker has sent that one, too.
        for _ in range(2):
            run(broker, "topic", "describe", "silent").ok()
        os.kill(broker.process.pid, signal.SIGSTOP)
        _feed(produce, b"two\n")
        produce.stdin.close()
        produce.wait_for_error("millrace: waiting: ", 30)
        # Nor does it wait for the answer to what it has given up, which a broker has 30 s for.
        assert produce.wait(20) == 1
    finally:
        produce.kill()
        os.kill(broker.process.pid, signal.SIGCONT)
    text = produce.err().splitlines()[-1]
    assert text.startswith(
        'millrace: failed after 1 message written to "silent"; '
        "of 1 more message it is not known whether it is written: line 2 (--timeout 14s): "
    ), text


def test_a_long_line_may_be_compressed(shared: Broker, name: str) -> None:
    line = b"0" * 9_000_000 + b"\n"
    text = run(shared, "produce", name, stdin=line).failed()
    assert "line 1 is longer than 8,388,608 bytes, the topic's max.message.bytes" in text, text
    run(shared, "produce", name, "--compression", "zstd", stdin=line).ok()
    assert run(shared, "consume", name, "--from", "beginning", "--exit-at-end").ok() == line
    longest = b"1" * 16_776_156 + b"\n"
    run(shared, "produce", name, "--compression", "zstd", stdin=longest).ok()
    text = run(shared, "produce", name, "--compression", "zstd", stdin=b"1" + longest).failed()
    assert "the most that any message may have" in text, text


# --- topics and the cluster ---


def test_a_topics_life(shared: Broker) -> None:
    run(shared, "topic", "create", "lived", "--partitions", "3", "--config", "retention.ms=3600000").ok()
    assert b"lived" in run(shared, "topic", "list").ok()
    assert b"retention.ms" in run(shared, "topic", "describe", "lived").ok()
    listed = json.loads(run(shared, "topic", "list", json=True).ok())
    assert "lived" in json.dumps(listed)
    described = json.loads(run(shared, "topic", "describe", "lived", json=True).ok())
    assert len(described["partitions"]) == 3
    run(shared, "topic", "alter", "lived", "--set", "flush=os", "--unset", "retention.ms").ok()
    described = run(shared, "topic", "describe", "lived", json=True).ok().decode()
    assert "3600000" not in described and '"os"' in described
    run(shared, "topic", "delete", "lived").ok()
    assert b"lived" not in run(shared, "topic", "list").ok()


def test_cluster_describe(shared: Broker) -> None:
    assert shared.address.encode() in run(shared, "cluster", "describe").ok()
    cluster = json.loads(run(shared, "cluster", "describe", json=True).ok())
    assert cluster["brokers"][0]["address"] == shared.address


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("topic", "describe", "no-such-topic"), 1),
        (("topic", "delete", "no-such-topic"), 1),
        (("topic", "create", "bad/name"), 1),
        (("topic", "create", "ok-name", "--config", "no.such.key=1"), 1),
        (("topic", "create", "ok-name", "--replication-factor", "3"), 1),
        (("produce", "no-such-topic"), 1),
        (("consume", "no-such-topic", "--exit-at-end"), 1),
        (("log", "verify", "/no/such/folder"), 1),
        (("topic", "create"), 2),
        (("topic", "create", "ok-name", "--partitions", "many"), 2),
        (("topic", "create", "ok-name", "--partitions", "0"), 2),
        (("topic", "create", "ok-name", "--partitions", "10001"), 2),
        (("topic", "create", "ok-name", "--config", "noequals"), 2),
        (("no-such-command",), 2),
        (("produce", "x", "--acks", "7"), 2),
        (("consume", "x", "--from", "yesterday-ish"), 2),
        (("consume", "x", "--format", "xml"), 2),
    ],
)
def test_exit_codes_and_one_line_of_error(shared: Broker, args: tuple[str, ...], code: int) -> None:
    text = run(shared, *args, stdin=b"x\n").failed(code)
    assert text.strip(), "no word of what is wrong"
    assert "panicked" not in text and "RUST_BACKTRACE" not in text
    if code == 1:
        assert len(text.strip().splitlines()) == 1, text


def test_no_broker_is_an_error_that_names_the_address() -> None:
    port = free_port()
    started = time.monotonic()
    text = millrace("topic", "list", bootstrap=f"127.0.0.1:{port}").failed()
    assert text == (
        f"millrace: can't connect to 127.0.0.1:{port}: connection refused. "
        "Start a broker (millrace dev) or name one with --bootstrap or MILLRACE_BOOTSTRAP.\n"
    )
    # About a second by design; the rest is for a busy machine.
    assert time.monotonic() - started < 4


def test_a_host_that_is_not_there_is_told_as_such() -> None:
    text = millrace("topic", "list", bootstrap="nosuchhost.invalid:9650").failed()
    assert "nosuchhost.invalid: no such host" in text and len(text.strip().splitlines()) == 1, text


def test_the_http_port_is_told_from_the_client_port(shared: Broker) -> None:
    address = f"127.0.0.1:{shared.http_port}"
    text = millrace("topic", "list", bootstrap=address).failed()
    assert text.startswith(f"millrace: {address} answers HTTP but is no Millrace client port"), text


def test_the_internal_port_is_told_from_the_client_port_at_once(shared: Broker) -> None:
    for bootstrap in (shared.internal_address, f"{shared.internal_address},{shared.internal_address}"):
        text = millrace("topic", "list", bootstrap=bootstrap).failed()
        assert text == (
            f"millrace: {bootstrap} answers gRPC but is no Millrace client port "
            "(default 9650; 9651 is for brokers among themselves): name that with --bootstrap\n"
        )
    # Another of the addresses may be a broker's.
    millrace("topic", "list", bootstrap=f"{shared.internal_address},{shared.address}").ok()


def test_a_broker_that_hangs_leaves_time_for_the_others(shared: Broker) -> None:
    # The kernel takes the connection, and nobody ever says a word: as with a process that is stopped.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        millrace("topic", "list", bootstrap=f"127.0.0.1:{port},{shared.address}").ok()
        text = millrace("topic", "list", bootstrap=f"127.0.0.1:{port}").failed()
        assert "takes connections but did not answer" in text, text


def test_a_missing_topic_is_not_to_be_created_to_be_deleted(shared: Broker) -> None:
    text = run(shared, "topic", "delete", "no-such-topic").failed()
    assert "create" not in text and "millrace topic list" in text, text


def test_what_only_has_a_partitions_name_is_none(shared: Broker, name: str, tmp_path: Path) -> None:
    (tmp_path / "dbus-1").mkdir()
    (tmp_path / "dbus-1" / "session.conf").write_text("x")
    text = millrace("log", "verify", str(tmp_path)).failed()
    assert "holds no partition's files" in text, text
    # A new partition has no record yet, and Kafka's metadata file at least.
    (tmp_path / "kafka-0").mkdir()
    (tmp_path / "kafka-0" / "partition.metadata").write_text("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n")
    assert b"kafka-0: sound; no records" in millrace("log", "verify", str(tmp_path)).ok()
    assert f"{name}-0: sound".encode() in millrace("log", "verify", str(shared.data)).ok()


def test_errors_are_json_where_results_are(shared: Broker) -> None:
    text = run(shared, "topic", "describe", "no-such-topic", json=True).failed()
    error = json.loads(text)["error"]
    assert error["reason"] == "UNKNOWN_TOPIC" and "no-such-topic" in error["message"], text
    text = millrace("topic", "list", bootstrap=f"127.0.0.1:{free_port()}", json=True).failed()
    assert json.loads(text)["error"]["reason"] == "CONNECTION"


@pytest.mark.parametrize("args", [["topic", "create"], ["topic"], ["topic", "list", "--colour"], ["no-such-command"]])
def test_wrong_usage_is_json_where_results_are(args: list[str]) -> None:
    done = millrace(*args, json=True)
    assert done.code == 2 and done.out == b""
    (line,) = done.err.decode().splitlines()
    error = json.loads(line)["error"]
    assert error["reason"] == "WRONG_USAGE" and error["message"]
    done = millrace(*args)
    assert done.code == 2 and done.err and not done.err.startswith(b"{")


def test_a_wrong_setting_is_told_with_where_the_list_is(shared: Broker, name: str) -> None:
    for args in (("topic", "create", "never-made"), ("topic", "alter", name)):
        text = run(shared, *args, "--config", "no.such.key=1").failed()
        assert "no.such.key" in text and "millrace topic create --help" in text, text
    listed = millrace("topic", "create", "--help").ok().decode()
    described = json.loads(run(shared, "topic", "describe", name, "--all-settings", json=True).ok())
    for setting in described["all_settings"]:
        assert f"  {setting['name']}  [default: " in listed, setting["name"]


def test_describe_tells_what_is_in_force(shared: Broker) -> None:
    run(shared, "topic", "create", "in-force", "--set", "retention.ms=3600000").ok()
    run(shared, "topic", "alter", "in-force", "-c", "flush=os").ok()
    described = json.loads(run(shared, "topic", "describe", "in-force", json=True).ok())
    assert described["settings"] == {"retention.ms": "3600000", "flush": "os"}
    assert described["effective_settings"]["flush"] == "os"
    assert described["effective_settings"].keys() >= {"min.insync.replicas", "retention.bytes", "retention.ms"}
    assert (described["brokers_lost_without_loss"], described["brokers_down_while_writable"]) == (0, 0)
    text = run(shared, "topic", "describe", "in-force").ok().decode()
    assert "[0]" in text and "1/1" in text and "if this broker's disk is lost" in text, text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = millrace("completion", shell).ok().decode()
    assert "consume" in script and "topic" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script.encode(), capture_output=True).returncode == 0


def test_help_and_version() -> None:
    assert b"consume" in millrace("--help").ok()
    assert re.search(rb"\d+\.\d+\.\d+", millrace("--version").ok())


def test_bench_prints_one_json_object(shared: Broker, name: str) -> None:
    size = ("--records", "20000", "--record-size", "100")
    flags = ("--batch-bytes", "65536", "--linger-ms", "5", "--acks", "all", "--compression", "none")
    produced = json.loads(run(shared, "bench", "produce", name, *size, *flags).ok())
    assert (produced["records"], produced["bytes"]) == (20000, 2_000_000)
    assert produced["records_per_second"] == pytest.approx(20000 / produced["seconds"], rel=0.02)
    assert produced["mib_per_second"] == pytest.approx(2_000_000 / 1048576 / produced["seconds"], rel=0.02)
    latency = produced["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert produced["cpu_seconds"] > 0
    consumed = json.loads(run(shared, "bench", "consume", name, "--records", "20000", "--from", "beginning").ok())
    assert (consumed["records"], consumed["bytes"]) == (20000, 2_000_000)
    # At a fixed rate it takes the time that it must take.
    limited = json.loads(
        run(
            shared, "bench", "produce", name, "--records", "2000", "--record-size", "100", *flags, "--rate", "2000"
        ).ok()
    )
    assert 0.8 < limited["seconds"] < 5
    end_to_end = json.loads(
        run(shared, "bench", "end-to-end", name, "--rate", "1000", "--records", "2000", "--record-size", "100").ok()
    )
    assert end_to_end["records"] == 2000 and end_to_end["latency_ms"]["p50"] > 0


def test_bench_consume_ends_where_the_topic_does(shared: Broker, name: str) -> None:
    run(shared, "produce", name, stdin=b"12345\n" * 5).ok()
    done = run(shared, "bench", "consume", name, "--records", "1000000")
    assert "the topic has only 5 records and 1,000,000 were asked for" in done.failed()
    measured = json.loads(done.out)
    assert (measured["records"], measured["bytes"]) == (5, 25)


def test_bench_that_is_interrupted_prints_what_it_has(shared: Broker, name: str, tmp_path: Path) -> None:
    produce = _fed(shared, tmp_path, "bench", "produce", name, "--records", "1000000", "--rate", "500")
    try:
        run(shared, "consume", name, "--from", "beginning", "--max-messages", "1").ok()
        os.kill(produce.pid, signal.SIGINT)
        assert produce.wait(30) == 130, produce.err()
    finally:
        produce.kill()
    written = json.loads(produce.out())["records"]
    assert 1 <= written < 1_000_000 and f"interrupted: {written:,} of 1,000,000 records written" in produce.err()
    stored = run(shared, "consume", name, "--from", "beginning", "--exit-at-end", "--format", "json").ok()
    assert len(stored.splitlines()) == written
    consume = _fed(shared, tmp_path, "bench", "consume", name, "--records", "1000000", "--from", "end")
    try:
        _wait_until_it_takes(consume, signal.SIGINT)
        os.kill(consume.pid, signal.SIGINT)
        assert consume.wait(30) == 130, consume.err()
    finally:
        consume.kill()
    assert consume.err() == "millrace: interrupted: 0 of 1,000,000 records read\n"


# --- dev ---


def test_dev_starts_a_broker_and_keeps_its_data(tmp_path: Path) -> None:
    port = free_port()
    command = [paths.binary("millrace"), "dev", "--data-dir", tmp_path / "data", "--port", port, "--http-port", 0]
    text = b"".join(b"%d\n" % i for i in range(1000))
    for start in range(2):
        dev = Process(command, tmp_path, "dev")
        try:
            address = dev.wait_for_line("ready ", 60)
            assert address.endswith(f":{port}")
            if start == 0:
                millrace("topic", "create", "tried", "--partitions", "3", bootstrap=address).ok()
                millrace("produce", "tried", "--partition", "1", bootstrap=address, stdin=text).ok()
            got = millrace("consume", "tried", "--from", "beginning", "--exit-at-end", bootstrap=address).ok()
            assert got == text
            dev.terminate()
            assert dev.wait(30) == 0
        finally:
            dev.kill()


def test_dev_says_that_its_port_is_taken(shared: Broker) -> None:
    text = millrace("dev", "--port", str(shared.port), "--http-port", "0").failed()
    assert str(shared.port) in text and len(text.strip().splitlines()) == 1, text
