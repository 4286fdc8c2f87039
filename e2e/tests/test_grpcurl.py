"""grpcurl without any .proto file: everything by reflection."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest

from lib import paths
from lib.broker import Broker


def grpcurl(broker: Broker, *args: str, data: object = None) -> subprocess.CompletedProcess:
    command = [str(paths.grpcurl()), "-plaintext", "-max-time", "20"]
    if data is not None:
        command += ["-d", json.dumps(data)]
    # Flags come before the address, verbs and symbols after it.
    return subprocess.run([*command, broker.address, *args], capture_output=True, text=True, timeout=40)


def called(broker: Broker, method: str, data: object) -> list[dict]:
    """The answers of a call that must succeed."""
    done = grpcurl(broker, method, data=data)
    assert done.returncode == 0, done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        item, end = decoder.raw_decode(text)
        found.append(item)
        text = text[end:].lstrip()
    return found


def test_it_lists_the_services(shared: Broker) -> None:
    done = grpcurl(shared, "list")
    assert done.returncode == 0, done.stderr
    services = set(done.stdout.split())
    assert {"millrace.v1.Messaging", "millrace.v1.Log", "millrace.v1.Admin", "grpc.health.v1.Health"} <= services
    methods = grpcurl(shared, "list", "millrace.v1.Messaging").stdout.split()
    assert sorted(methods) == [f"millrace.v1.Messaging.{m}" for m in ("Publish", "PublishStream", "Read", "Subscribe")]


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("millrace.v1.Messaging", "rpc PublishStream ( stream .millrace.v1.PublishStreamRequest )"),
        ("millrace.v1.PublishRequest", "optional int64 expected_offset = 6;"),
        ("millrace.v1.ErrorReason", "ERROR_REASON_DISK_FULL = 100;"),
    ],
)
def test_it_describes(shared: Broker, symbol: str, expected: str) -> None:
    done = grpcurl(shared, "describe", symbol)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_it_publishes_and_reads(shared: Broker) -> None:
    (created,) = called(shared, "millrace.v1.Admin/CreateTopic", {"name": "curled", "partitions": 1})
    assert created["partitions"] == 1
    value = base64.b64encode(b"hello \xff").decode()
    (published,) = called(
        shared,
        "millrace.v1.Messaging/Publish",
        {"topic": "curled", "partition": 0, "messages": [{"value": value}, {"key": "", "value": value}]},
    )
    assert [p.get("offset", "0") for p in published["positions"]] == ["0", "1"]
    answers = called(shared, "millrace.v1.Messaging/Read", {"topic": "curled"})
    messages = [m for answer in answers for m in answer.get("messages", [])]
    assert [m["message"]["value"] for m in messages] == [value, value]
    (described,) = called(shared, "millrace.v1.Admin/DescribeTopic", {"name": "curled"})
    assert described["partitions"][0]["logEnd"] == "2"


def test_it_subscribes_for_as_long_as_its_credit_lasts(shared: Broker) -> None:
    called(shared, "millrace.v1.Admin/CreateTopic", {"name": "followed", "partitions": 1})
    value = base64.b64encode(b"hello").decode()
    called(shared, "millrace.v1.Messaging/Publish", {"topic": "followed", "messages": 3 * [{"value": value}]})
    opening = {"open": {"group": "curlers", "topics": ["followed"], "credit": {"messages": 2}}}
    told = called(shared, "millrace.v1.Messaging/Subscribe", opening)
    assert [next(iter(response)) for response in told] == ["opened", "assigned", "messages"]
    assert [m["message"]["value"] for m in told[2]["messages"]["messages"]] == [value, value]


def test_it_checks_the_health(shared: Broker) -> None:
    (answer,) = called(shared, "grpc.health.v1.Health/Check", {})
    assert answer == {"status": "SERVING"}


def test_an_error_comes_with_its_details(shared: Broker) -> None:
    done = grpcurl(shared, "millrace.v1.Messaging/Publish", data={"topic": "curled-none", "messages": [{}]})
    assert done.returncode == 64 + 5, "grpcurl's exit code is 64 plus the gRPC code NOT_FOUND"
    assert "google.rpc.ErrorInfo" in done.stderr
    assert "UNKNOWN_TOPIC" in done.stderr and "millrace.dev" in done.stderr
