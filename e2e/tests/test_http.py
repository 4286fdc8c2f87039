"""The HTTP port: liveness, readiness, metrics."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

from prometheus_client import parser as text_parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from lib.api import Client
from lib.broker import Broker
from lib.http2 import HalfSender


def scrape(broker: Broker) -> dict[str, Metric]:
    """All metric families, parsed as strictly as the content type asks."""
    status, content_type, body = broker.http("/metrics")
    assert status == 200
    if "openmetrics" in content_type:
        families = list(open_parser.text_string_to_metric_families(body))
    else:
        assert content_type.startswith("text/plain"), content_type
        families = list(text_parser.text_string_to_metric_families(body))
    return {family.name: family for family in families}


def test_live_and_ready(shared: Broker) -> None:
    for path in ("/livez", "/readyz"):
        status, _, body = shared.http(path)
        assert status == 200, (path, status, body)
    assert shared.http("/no-such-page")[0] == 404


def test_metrics_have_help_and_units(shared: Broker) -> None:
    with Client(shared.address) as client:
        client.create_topic("measured")
        client.publish("measured", [b"x" * 1000] * 10)
        client.read("measured")
    families = scrape(shared)
    assert len(families) > 10
    own = {name: family for name, family in families.items() if name.startswith("millrace_")}
    assert len(own) > 10
    for name, family in own.items():
        assert len(family.documentation) > 15, f"{name} has no help text"
        assert family.type not in ("unknown", "untyped"), f"{name} has no type"
        assert not re.search(r"_(ms|millis|milliseconds|micros|us|kib|mib|kb|mb)$", name), f"{name}: no base unit"
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_bytes")), f"{name}: a histogram of what unit?"
    assert any(name.endswith("_seconds") for name in own) and any(name.endswith("_bytes") for name in own)


def test_counters_count(shared: Broker) -> None:
    def counters() -> dict[tuple, float]:
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in scrape(shared).values()
            if family.type == "counter"
            for sample in family.samples
            if sample.name.endswith("_total")
        }

    with Client(shared.address) as client:
        client.create_topic("counted")
        before = counters()
        client.publish("counted", [b"x" * 1000] * 10)
        after = counters()
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    assert all(value >= 0 for value in grown.values()), "a counter fell"
    assert 1 in grown.values(), "no counter tells of one batch"
    assert any(10_000 < value < 12_000 for value in grown.values()), "no counter tells of their bytes"


def test_times_are_taken(shared: Broker) -> None:
    """Each histogram of a broker that stores something with acks=all has seen something."""
    with Client(shared.address) as client:
        client.create_topic("timed")
        client.publish("timed", [b"x"])
    histograms = {
        family.name: [sample.value for sample in family.samples if sample.name.endswith("_count")]
        for family in scrape(shared).values()
        if family.type == "histogram"
    }
    assert histograms
    assert all(counts and min(counts) > 0 for counts in histograms.values()), histograms


def test_garbage_on_the_http_port_harms_nobody(shared: Broker) -> None:
    for garbage in (
        b"\0" * 100,
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/9.9\r\n\r\n",
        b"\n",
    ):
        with socket.create_connection(("127.0.0.1", shared.http_port), timeout=5) as s:
            # The broker may hang up at any point.
            try:
                s.sendall(garbage)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
    assert shared.http("/livez")[0] == 200


def _probes(broker: Broker) -> tuple[tuple[int, str], int] | None:
    """What `/readyz` says and the status of `/livez`; none while nobody listens."""
    try:
        ready, _, text = broker.http("/readyz", timeout=5)
        live, _, _ = broker.http("/livez", timeout=5)
    except OSError:
        return None
    return (ready, text.strip()), live


# A connection with a call that does not end is given this long at a stop.
STOP_WAIT = 0.5


def test_alive_and_not_ready_while_stopping(new_broker: Callable[..., Broker]) -> None:
    """A probe must not have a broker killed that hands over what it has."""
    broker = new_broker().start()
    assert broker.process is not None
    assert _probes(broker) == ((200, "ok"), 200)
    held = HalfSender(broker.port, b"/millrace.v1.Messaging/Publish", [1], b"\0" + (1 << 20).to_bytes(4, "big"))
    held.go_on()
    broker.process.terminate()
    seen, longest = [], 0.0
    deadline = time.monotonic() + 60
    while broker.process.alive():
        asked = time.monotonic()
        if (probes := _probes(broker)) is not None:
            seen.append(probes)
        longest = max(longest, time.monotonic() - asked)
        assert asked < deadline, "it does not stop"
    held.close()
    assert broker.process.returncode() == 0
    assert {live for _, live in seen} <= {200}, seen
    stopping = [ready for ready, _ in seen if ready != (200, "ok")]
    assert set(stopping) <= {(503, "stopping")}, seen
    assert stopping or longest > STOP_WAIT / 2, f"asked {len(seen)} times, and never told that it stops"
    # Once it stops it does so to its end.
    assert [ready for ready, _ in seen][len(seen) - len(stopping) :] == stopping


def test_readiness_tells_how_far_recovery_is(new_broker: Callable[..., Broker]) -> None:
    """After a kill the logs are scanned: the broker lives, and says what it is at."""
    broker = new_broker().start()
    with Client(broker.address) as client:
        client.create_topic("scanned", partitions=16)
        for partition in range(16):
            client.publish("scanned", [b"some"] * 12, partition=partition)
    broker.kill()
    # Whoever opens it for reading waits for a writer: this partition is recovered when the test says so.
    held = broker.partition_dir("scanned", 3) / "leader-epoch-checkpoint"
    held.unlink()
    os.mkfifo(held)
    broker.launch()
    assert broker.process is not None
    seen: list[tuple[tuple[int, str], int]] = []

    def wait_for(expected: tuple[int, str]) -> None:
        deadline = time.monotonic() + 120
        while not seen or seen[-1][0] != expected:
            assert broker.process is not None and broker.process.alive(), broker.process.err()[-2000:]
            assert time.monotonic() < deadline, seen[-3:]
            if (probes := _probes(broker)) is not None:
                seen.append(probes)

    wait_for((503, "starting: recovering, 93 % (15 of 16 partitions)"))
    os.close(os.open(held, os.O_WRONLY | os.O_NONBLOCK))
    wait_for((200, "ok"))
    assert {live for _, live in seen} == {200}, seen
    told = [text for (ready, text), _ in seen if ready == 503]
    percents = [int(found[1]) for text in told if (found := re.match(r"starting: recovering, (\d+) %", text))]
    assert percents == sorted(percents) and percents[-1] <= 100, told
    with Client(broker.address) as client:
        assert client.log_end("scanned", 3) == 12
