"""Fixtures: brokers that end with their test and show their logs if it failed."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import paths
from lib.api import Client, admin_pb2, call
from lib.broker import Broker
from lib.hosts import Loopback, Network, hosts
from lib.kafka import Kafka
from lib.watch import Watch

# Brokers of the present test, for the report of its failure.
_alive: list[Broker | Kafka] = []
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Without the product there is nothing to test: say so once, and never skip all in silence."""
    if config.option.collectonly:
        return
    for name in ("millrace-broker", "millrace"):
        try:
            paths.binary(name)
        except paths.Missing as missing:
            raise pytest.UsageError(str(missing)) from None


def _missing(what: paths.Missing) -> None:
    """Skips with the reason; where everything must be there (CI says so), fails."""
    if os.environ.get("MILLRACE_E2E_REQUIRE_ALL"):
        pytest.fail(f"{what}; MILLRACE_E2E_REQUIRE_ALL is set, so that nothing may be skipped", pytrace=False)
    pytest.skip(str(what))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item):
    """A part of the machine that is missing (Kafka, grpcurl) skips the test and says why, or fails it."""
    try:
        return (yield)
    except paths.Missing as missing:
        _missing(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """The same for what a test asks for in its body."""
    try:
        return (yield)
    except paths.Missing as missing:
        _missing(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Shows the end of each process's output beside a failure."""
    report = yield
    if report.failed:
        for server in _alive:
            if server.process is not None:
                process = server.process
                code = process.returncode()
                state = "running" if code is None else f"ended with {code}"
                report.sections.append(
                    (f"{process.name} ({state}) {process.err_path}", process.err()[-6000:] or process.out()[-6000:])
                )
    return report


@pytest.fixture
def network() -> Iterator[Network | Loopback]:
    """Three hosts for brokers, one for clients."""
    made = hosts(["h0", "h1", "h2", "clients"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Makes brokers (not started) that end with the test."""
    made: list[Broker] = []

    def make(data: Path | None = None, **settings: str | int) -> Broker:
        named = {key.replace("_", "."): str(value) for key, value in settings.items()}
        broker = Broker(tmp_path / f"broker{len(made)}", named, data)
        made.append(broker)
        _alive.append(broker)
        return broker

    yield make
    for broker in made:
        broker.end()
        _alive.remove(broker)


@pytest.fixture
def three_brokers(new_broker: Callable[..., Broker]) -> list[Broker]:
    """Three brokers in service, all of them voters."""
    first = new_broker(node_id=0, rack="r0")
    brokers = [first]
    for number in (1, 2):
        seeds = ",".join(f"127.0.0.1:{broker.internal_port}" for broker in brokers)
        brokers.append(new_broker(node_id=number, rack=f"r{number}", seeds=seeds))
    for broker in brokers:
        broker.start()
    with Client(first.address) as client:
        deadline = time.monotonic() + 60
        while True:
            described = call(client.admin.DescribeCluster, admin_pb2.DescribeClusterRequest())
            if len(described.quorum.voters) == 3 and sum(b.available for b in described.brokers) == 3:
                return brokers
            assert time.monotonic() < deadline, f"not three voters: {described}"
            time.sleep(0.05)


@pytest.fixture
def watched() -> Iterator[Callable[[Broker], Broker]]:
    """Takes brokers whose output shall stand beside a failure of the test."""
    taken: list[Broker] = []

    def take(broker: Broker) -> Broker:
        taken.append(broker)
        _alive.append(broker)
        return broker

    yield take
    for broker in taken:
        _alive.remove(broker)


@pytest.fixture
def broker(new_broker: Callable[..., Broker]) -> Broker:
    """A broker of the test's own, serving."""
    return new_broker().start()


@pytest.fixture
def watch(broker: Broker) -> Watch:
    """The other client."""
    return Watch(broker)


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    """One broker for all tests of a file: what a test does to it must not harm the next."""
    with tempfile.TemporaryDirectory(prefix="millrace-e2e-") as folder:
        server = Broker(Path(folder))
        _alive.append(server)
        try:
            yield server.start()
        finally:
            server.end()
            _alive.remove(server)


@pytest.fixture
def client(shared: Broker) -> Iterator[Client]:
    """A client of the file's broker."""
    with Client(shared.address) as made:
        yield made


@pytest.fixture
def topic(client: Client) -> str:
    """A new topic of one partition on the file's broker."""
    name = f"topic-{next(_numbers)}"
    client.create_topic(name)
    return name


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real Kafka broker."""
    with tempfile.TemporaryDirectory(prefix="millrace-e2e-kafka-") as folder:
        server = Kafka(Path(folder))
        _alive.append(server)
        try:
            yield server.format().start()
        finally:
            server.end()
            _alive.remove(server)
