"""Brokers are restarted one by one, when it is safe, and nothing is given up for what can't come."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from kube_machine import Failed
from product import Cluster, Images, Load, Operator, PodWatch
from product.operator import now

Loaded = Callable[..., tuple[Cluster, Load]]
_BROKERS = {0, 1, 2}


def _check_roll(watch: PodWatch, before: dict[int, str], cluster: Cluster, leader: int | None) -> None:
    """Each broker once, one at a time, the quorum's leader last."""
    assert sorted(watch.ended) == sorted(before), f"in turn: {watch.ended}"
    if leader is not None:
        assert watch.ended[-1] == leader, f"{leader} led the quorum; in turn: {watch.ended}"
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    after = cluster.pod_uids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_a_setting_rolls_all_brokers_one_by_one(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before, claims, mark = cluster.pod_uids(), cluster.claims(), now()
    leader = cluster.status()["quorum"]["leader"]
    with PodWatch(cluster) as watch:
        cluster.patch(config={"max.connections": "5000"})
        cluster.until_condition("Reconciling", "Rolling", timeout=30)
        cluster.wait_ready(300)
    _check_roll(watch, before, cluster, leader)
    assert cluster.claims() == claims
    if operator.is_audited:
        for eviction in operator.evictions(mark):
            options = eviction["requestObject"]["deleteOptions"]
            assert options["propagationPolicy"] == "Background"
            assert options["preconditions"]["uid"] in before.values()
        assert len(operator.evictions(mark)) == 3
    load.goes_on()
    load.verdict()

    # What needs no restart restarts nobody.
    uids = cluster.pod_uids()
    cluster.patch(config={"max.connections": "5000", "topic.default.retention.ms": "86400000"})
    cluster.kubectl.until("it is set", lambda: "86400000" in cluster.millrace("topic", "defaults"))
    cluster.wait_ready()
    assert cluster.pod_uids() == uids
    cluster.wait_leaders_even("ledger")
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


def test_a_bad_image_stops_at_the_first_broker_and_a_good_one_goes_on(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before = cluster.pod_uids()
    with PodWatch(cluster) as watch:
        cluster.patch(image="localhost/there-is-none:1")
        said = cluster.until_condition("Stalled", "ImagePullFailed")
        assert "there-is-none" in said
        time.sleep(10)
        after = cluster.pod_uids()
        changed = [number for number in before if after.get(number) != before[number]]
        assert len(changed) == 1, changed
        load.check()
        # The broken one is in nobody's way.
        cluster.patch(image=None)
        cluster.wait_ready(300)
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    kept = [number for number in before if cluster.pod_uids()[number] == before[number]]
    assert sorted(kept) == sorted(_BROKERS - set(changed)), "what ran the good image all the time is not restarted"
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


def test_a_spec_that_cannot_be_carried_out_gives_up_nobody(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before, mark = cluster.pod_uids(), now()
    for setting, value, words in (
        ("no.such.setting", "1", "config.no.such.setting is no setting of brokers"),
        ("node.id", "7", "config.node.id cannot be set"),
        ("seeds", "elsewhere:1", "config.seeds cannot be set"),
        ("topic.default.no.such", "1", "no.such"),
    ):
        cluster.patch(config={setting: value})
        cluster.until(f"{setting} is refused", lambda told, w=words: w in str(cluster.condition("Stalled", told)), 60)
        assert cluster.condition("Ready")["status"] == "True", "it serves as before"
        cluster.patch(config={setting: None})
        cluster.until("it is taken back", lambda told: not cluster.condition("Stalled", told), 60)
    # So is a field of pods that there is not, and what else is to be done does not wait for it.
    cluster.patch(podTemplate={"spec": {"priorityClas": "data"}})
    assert "priorityClas" in cluster.until_condition("Stalled", "AdmissionDenied", timeout=60)
    home = cluster.kubectl
    home("delete", "service", "orders-bootstrap")
    home.until("it comes again", lambda: "orders-bootstrap" in home("get", "services", "-o", "name"))
    cluster.patch(podTemplate=None)
    cluster.until("it is taken back", lambda told: not cluster.condition("Stalled", told), 60)
    assert cluster.pod_uids() == before
    assert not operator.is_audited or operator.evictions(mark) == []
    cluster.wait_ready()
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
def test_a_value_that_brokers_do_not_take_stops_at_the_first_broker(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before = cluster.pod_uids()
    with PodWatch(cluster) as watch:
        cluster.patch(config={"max.connections": "none at all"})
        said = cluster.until("it is told", lambda told: cluster.condition("Stalled", told).get("message"), 120)
        assert "max.connections" in said
        time.sleep(5)
        load.check()
        cluster.patch(config=None)
        cluster.wait_ready(300)
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    changed = [number for number in before if cluster.pod_uids()[number] != before[number]]
    assert len(changed) <= 1
    load.goes_on()
    load.verdict()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_brokers_that_all_crash_come_back_when_their_spec_is_mended(operator: Operator, cluster: Cluster) -> None:
    def said(told: dict[str, Any]) -> bool:
        return "max.connections" in str(cluster.condition("Stalled", told).get("message"))

    def crashes(number: int) -> bool:
        statuses = cluster.pods()[number]["status"].get("containerStatuses", [])
        return any(status["restartCount"] > 0 and not status["ready"] for status in statuses)

    # A Cluster that never began with a value that no broker takes.
    cluster.create(replicas=3, config={"max.connections": "none at all"})
    cluster.until("it is told", said, 120)
    cluster.patch(config=None)
    cluster.wait_ready(300)
    cluster.create_topic("kept")
    cluster.millrace("produce", "kept", given="kept\n")
    # And one whose brokers have all crashed: the disruption budget alone would let none of them be replaced.
    cluster.patch(config={"max.connections": "none at all"})
    cluster.until("it is told", said, 120)
    cluster.kubectl("delete", "pods", "-l", cluster.selector, "--wait=false")
    cluster.kubectl.until(
        "all of them crash", lambda: len(cluster.pods()) == 3 and all(crashes(number) for number in range(3)), 120
    )
    cluster.patch(config=None)
    cluster.wait_ready(300)
    assert cluster.millrace("consume", "kept", "--from=beginning", "--exit-at-end").strip() == "kept"


def test_pods_that_would_not_be_admitted_are_not_given_up_for(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before, mark = cluster.pod_uids(), now()
    home = cluster.kubectl
    # As many pods as there are: the load's and the brokers'.
    home("create", "quota", "full", f"--hard=pods={len(home.json('pods')['items'])}")
    home.until("the quota is counted", lambda: home.json("quota", "full")["status"].get("used", {}).get("pods"))
    cluster.patch(config={"max.connections": "5000"})
    said = cluster.until_condition("Stalled", "AdmissionDenied", timeout=60)
    assert "quota" in said
    time.sleep(5)
    assert cluster.pod_uids() == before
    assert not operator.is_audited or operator.evictions(mark) == []
    home.delete("quota", "full")
    home.until("the roll begins", lambda: cluster.pod_uids() != before)
    cluster.until("nothing is in its way", lambda told: not cluster.condition("Stalled", told))
    cluster.wait_ready(300)
    assert not set(cluster.pod_uids().values()) & set(before.values())
    load.goes_on()
    load.verdict()


@pytest.mark.long
def test_pods_that_policies_forbid_are_not_given_up_for(operator: Operator, loaded: Loaded) -> None:
    cluster, load = loaded()
    before, mark = cluster.pod_uids(), now()
    cluster.patch(podTemplate={"spec": {"hostNetwork": True}})
    said = cluster.until_condition("Stalled", "AdmissionDenied", timeout=60)
    assert "PodSecurity" in said
    time.sleep(5)
    assert cluster.pod_uids() == before
    assert not operator.is_audited or operator.evictions(mark) == []
    cluster.patch(podTemplate=None)
    cluster.wait_ready(120)
    assert cluster.pod_uids() == before
    load.goes_on()
    load.verdict()


@pytest.mark.long
def test_a_roll_can_wait_for_an_approval(operator: Operator, cluster: Cluster) -> None:
    cluster.create(rollout={"mode": "Approved"})
    cluster.wait_ready()
    before, mark = cluster.pod_uids(), now()
    cluster.patch(config={"max.connections": "5000"})
    cluster.until_condition("UpToDate", "AwaitingApproval", status="False")
    time.sleep(5)
    assert cluster.pod_uids() == before
    assert not operator.is_audited or operator.evictions(mark) == []
    cluster.annotate(approve=cluster.status()["rollout"]["templateHash"])
    cluster.wait_ready(300)
    assert not set(cluster.pod_uids().values()) & set(before.values())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_rolls_by_image_and_by_annotation(operator: Operator, images: Images, loaded: Loaded) -> None:
    if not images.product_again:
        pytest.skip("there is no second image (MILLRACE_E2E_IMAGE_AGAIN)")
    cluster, load = loaded()
    for change in (
        lambda: cluster.patch(image=images.product_again),
        lambda: cluster.annotate(restartedAt="2026-11-29T22:00:00Z"),
        lambda: cluster.patch(image=None),
    ):
        before, claims = cluster.pod_uids(), cluster.claims()
        leader = cluster.status()["quorum"]["leader"]
        with PodWatch(cluster) as watch:
            change()
            cluster.until_condition("Reconciling", "Rolling", timeout=30)
            cluster.wait_ready(300)
        _check_roll(watch, before, cluster, leader)
        assert cluster.claims() == claims
        load.check()
    load.verdict()
    operator.wait_quiet(namespace=cluster.kubectl.namespace)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_an_operator_that_is_killed_again_and_again_rolls_and_scales(
    operator: Operator, loaded: Loaded, more_nodes: Callable[[int], None]
) -> None:
    more_nodes(1)
    seed = int(time.time())
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster, load = loaded(partitions=8)
    claims = cluster.claims()
    rolling = outward = inward = 0
    # What is done is done in few of its lives: it is done again until there were enough of them.
    while rolling < 10:
        before, leader = cluster.pod_uids(), cluster.status()["quorum"]["leader"]
        with PodWatch(cluster) as watch:
            cluster.annotate(restartedAt=f"{seed}-{rolling}")
            rolling += _kill_until(operator, chance, lambda b=before: _is_whole(cluster, b))
            cluster.wait_ready(600)
        _check_roll(watch, before, cluster, leader)
        assert cluster.claims() == claims
        load.check()
    # The same for one broker more and one fewer.
    while outward < 10 or inward < 5:
        before, replicas = cluster.pod_uids(), cluster.replicas("ledger")
        with PodWatch(cluster) as watch:
            cluster.patch(replicas=4)
            outward += _kill_until(operator, chance, lambda: cluster.is_spread("ledger", brokers=4))
            cluster.wait_ready(600)
            assert cluster.held("ledger") == cluster.shares("ledger")
            moved = sum(len(set(now) - set(replicas[where])) for where, now in cluster.replicas("ledger").items())
            assert moved == cluster.shares("ledger")[3], "only what the new broker gets is copied"
            assert watch.ended == [], "more brokers end none"
            cluster.patch(replicas=3)
            inward += _kill_until(operator, chance, lambda: set(cluster.pods()) == {0, 1, 2})
            cluster.wait_ready(600)
        assert watch.ended == [3], "no other one goes"
        assert cluster.pod_uids() == before
        cluster.kubectl.until("the claim is gone", lambda: cluster.claims() == claims, timeout=60)
        assert [broker["broker_id"] for broker in cluster.ask("broker", "list")] == [0, 1, 2]
        load.check()
    print(f"killed in the midst of rolls {rolling} times, of scale-outs {outward}, of scale-ins {inward}")
    load.goes_on()
    load.verdict()
    operator.restart()
    operator.wait_quiet(10, namespace=cluster.kubectl.namespace)


def _kill_until(operator: Operator, chance: random.Random, done: Callable[[], bool], timeout: float = 600) -> int:
    """Kills it at random moments after it has begun to work; gives how often that was before all was done."""
    deadline = time.monotonic() + timeout
    kills = 0
    while True:
        operator.kill(after=chance.uniform(0, 2))
        if done():
            return kills
        kills += 1
        if time.monotonic() > deadline:
            raise Failed(f"not done after {timeout:.0f} s and {kills} lives of the operator")


def _is_whole(cluster: Cluster, before: dict[int, str]) -> bool:
    after = cluster.pod_uids()
    return after.keys() == before.keys() and not set(after.values()) & set(before.values())
