"""What operators do with the `millrace` command, on a broker that is alone: words, JSON, exit codes."""

from __future__ import annotations

import json

import pytest

from lib.broker import Broker, millrace


def run(broker: Broker, *args: str, **options: object):
    """A command against the file's broker."""
    return millrace(*args, bootstrap=broker.address, **options)


def _json(broker: Broker, *args: str):
    return json.loads(run(broker, *args, json=True).ok())


@pytest.fixture
def only(shared: Broker) -> str:
    """The only broker's id, as flags take it."""
    (broker,) = _json(shared, "broker", "list")
    return str(broker["broker_id"])


def test_the_cluster_tells_states_and_what_needs_attention(shared: Broker, topic: str, only: str) -> None:
    cluster = _json(shared, "cluster", "describe")
    (broker,) = cluster["brokers"]
    assert broker["available"] and broker["is_voter"] and not broker["cordoned"] and not broker["draining"]
    assert cluster["quorum"]["voters"] == [int(only)] and cluster["maintenance"] is None
    assert {list["count"] for list in cluster["health"].values()} == {0}
    text = run(shared, "cluster", "describe").ok().decode()
    assert "State:            healthy\n" in text and "VOTES" in text


def test_a_topic_tells_what_it_survives_now(shared: Broker, topic: str, only: str) -> None:
    described = _json(shared, "topic", "describe", topic)
    alone = "the loss of one broker's disk can lose messages; writes go on with no broker down"
    assert described["survives_now"] == alone
    for partition in described["partitions"]:
        assert partition["leader"] == int(only) and partition["eligible_leader_replicas"] == []
        assert partition["required_in_sync_replicas"] == 1
    text = run(shared, "topic", "describe", topic).ok().decode()
    assert "At the moment:" in text and "ELIGIBLE" in text


def test_the_quorum_is_described(shared: Broker, only: str) -> None:
    quorum = _json(shared, "quorum", "describe")
    (member,) = quorum["members"]
    assert quorum["leader_broker_id"] == int(only) == member["broker_id"]
    assert member["votes"] and member["leads"] and member["lag_entries"] == 0
    assert "metadata stands still when it is down" in run(shared, "quorum", "describe").ok().decode()


def test_a_broker_is_cordoned_and_uncordoned(shared: Broker, only: str) -> None:
    assert run(shared, "broker", "cordon", only, "--dry-run").ok().endswith(b"(dry run)\n")
    assert not _json(shared, "broker", "list")[0]["cordoned"]
    run(shared, "broker", "cordon", only).ok()
    try:
        assert "available, cordoned" in run(shared, "broker", "list").ok().decode()
        text = run(shared, "topic", "create", "has-no-place").failed()
        assert "uncordon brokers" in text, text
    finally:
        run(shared, "broker", "uncordon", only).ok()
    assert not _json(shared, "broker", "list")[0]["cordoned"]


def test_topic_defaults_are_shown_and_changed(shared: Broker, topic: str) -> None:
    def shown() -> dict:
        return {default["name"]: default for default in _json(shared, "topic", "defaults")}

    def in_force() -> str:
        described = _json(shared, "topic", "describe", topic, "--all-settings")
        return next(setting["value"] for setting in described["all_settings"] if setting["name"] == "retention.ms")

    assert not shown()["retention.ms"]["set"]
    run(shared, "topic", "defaults", "--config", "retention.ms=3600000", "--dry-run").ok()
    assert in_force() == "604800000"
    changed = run(shared, "topic", "defaults", "--config", "retention.ms=3600000").ok()
    assert changed == b"defaults of topics changed\n"
    try:
        assert (shown()["retention.ms"]["value"], shown()["retention.ms"]["set"]) == ("3600000", True)
        assert in_force() == "3600000"
        text = run(shared, "topic", "defaults").ok().decode()
        assert "retention.ms" in text and "for the cluster" in text, text
    finally:
        run(shared, "topic", "defaults", "--unset", "retention.ms").ok()
    assert in_force() == "604800000" and not shown()["retention.ms"]["set"]
    refused = run(shared, "topic", "defaults", "--config", "retention.mss=1").failed()
    assert "retention.ms" in refused, refused


def test_maintenance_has_one_holder(shared: Broker, topic: str, only: str) -> None:
    answer = _json(shared, "broker", "may-restart", only)
    assert answer["allowed"] and answer["exempt"]["count"] >= 1 and answer["forbidding"]["count"] == 0
    acquired = _json(shared, "broker", "maintenance", "acquire", only, "--holder", "first", "--for", "1m")
    try:
        assert acquired["holder"] == "first" and acquired["until"]
        text = run(shared, "broker", "maintenance", "acquire", only, "--holder", "second", json=True).failed()
        assert json.loads(text)["error"]["reason"] == "MAINTENANCE_TAKEN", text
        assert f'broker {only}, by "first" until ' in run(shared, "cluster", "describe").ok().decode()
    finally:
        run(shared, "broker", "maintenance", "release", only, "--holder", "first").ok()
    assert _json(shared, "cluster", "describe")["maintenance"] is None


def test_moves_and_elections_that_change_nothing(shared: Broker, topic: str, only: str) -> None:
    moved = _json(shared, "partition", "move", topic, "0", "--to", only, "--wait")
    assert moved["done"] and moved["to"] == [int(only)]
    assert run(shared, "partition", "moves").ok() == b"no partition moves\n"
    assert _json(shared, "partition", "moves", topic) == []
    results = _json(shared, "partition", "elect", topic)
    assert results and {result["reason"] for result in results} == {"ELECTION_NOT_NEEDED"}
    assert _json(shared, "partition", "elect", "--all") == []
    altered = _json(shared, "topic", "alter", topic, "--replication-factor", "1", "--wait")
    assert altered["partitions"] == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("broker", "cordon", "77"), "UNKNOWN_BROKER"),
        (("broker", "uncordon", "77"), "UNKNOWN_BROKER"),
        (("broker", "drain", "77"), "UNKNOWN_BROKER"),
        (("broker", "remove", "77"), "UNKNOWN_BROKER"),
        (("broker", "replace-disk", "77"), "UNKNOWN_BROKER"),
        (("broker", "may-restart", "77"), "UNKNOWN_BROKER"),
        (("broker", "maintenance", "acquire", "77", "--holder", "h"), "UNKNOWN_BROKER"),
        (("broker", "replace-disk", "{only}"), "BROKER_STATE"),
        (("broker", "remove", "{only}", "--force"), "STILL_NEEDED"),
        (("broker", "drain", "{only}"), "NOT_ENOUGH_BROKERS"),
        (("quorum", "add", "77"), "UNKNOWN_BROKER"),
        (("quorum", "remove", "{only}"), "STILL_NEEDED"),
        (("quorum", "remove", "--voter-id", "77"), "UNKNOWN_VOTER"),
        (("partition", "move", "no-such-topic", "0", "--to", "{only}"), "UNKNOWN_TOPIC"),
        (("partition", "move", "{topic}", "9", "--to", "{only}"), "UNKNOWN_PARTITION"),
        (("partition", "move", "{topic}", "0", "--to", "77"), "INVALID_REQUEST"),
        (("partition", "move", "{topic}", "0", "--cancel"), "NO_REASSIGNMENT_IN_PROGRESS"),
        (("partition", "moves", "no-such-topic"), "UNKNOWN_TOPIC"),
        (("partition", "elect", "no-such-topic"), "UNKNOWN_TOPIC"),
        (("topic", "alter", "{topic}", "--replication-factor", "3"), "NOT_ENOUGH_BROKERS"),
    ],
)
def test_what_can_not_be_is_one_line_and_exit_code_1(
    shared: Broker, topic: str, only: str, args: tuple[str, ...], reason: str
) -> None:
    args = tuple(arg.format(topic=topic, only=only) for arg in args)
    text = run(shared, *args).failed()
    assert text.startswith("millrace: ") and len(text.strip().splitlines()) == 1, text
    error = json.loads(run(shared, *args, json=True).failed())["error"]
    assert error["reason"] == reason, error


def test_an_election_that_fails_is_told_and_exit_code_1(shared: Broker, topic: str) -> None:
    text = run(shared, "partition", "elect", topic, "0", "--to", "77").failed()
    assert "77 holds no replica" in text and len(text.strip().splitlines()) == 1, text


@pytest.mark.parametrize(
    "args",
    [
        ("partition", "move", "t", "0"),
        ("partition", "move", "t", "0", "--to", "1", "--cancel"),
        ("partition", "elect", "t", "0", "--unclean", "--to", "1"),
        ("broker", "drain"),
        ("broker", "maintenance", "acquire", "1", "--holder", "h", "--for", "25h"),
        ("quorum", "remove"),
        ("topic", "alter", "t", "--replication-factor", "0"),
    ],
)
def test_wrong_usage_is_exit_code_2(shared: Broker, args: tuple[str, ...]) -> None:
    assert "panicked" not in run(shared, *args).failed(2)
