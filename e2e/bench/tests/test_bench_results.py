"""Which runs count, how often they are made, and what ends them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from results import Median, Results, Run, median
from rounds import Repeats, Rules, alternate, undisturbed


@dataclass
class FakePeer:
    name: str


def rules(runs: int = 3, warmups: int = 0, retries: int = 2) -> tuple[Rules, list[str]]:
    waits: list[str] = []
    return Rules(runs, warmups, 0.2, retries, lambda: waits.append("wait"), lambda text: None), waits


def test_median_leaves_disturbed_runs_out():
    runs = [Run({"x": 1.0}), Run({"x": 100.0}, disturbed=True), Run({"x": 3.0})]
    assert median(runs, "x") == Median(2.0, disturbed=False, runs=2, left_out=1)


def test_median_of_nothing_but_disturbed_runs_says_so():
    runs = [Run({"x": 1.0}, disturbed=True), Run({"x": 5.0}, disturbed=True)]
    assert median(runs, "x") == Median(3.0, disturbed=True, runs=2, left_out=0)


def test_what_was_not_measured_has_no_median():
    assert median([], "x") is None
    assert median([Run({"y": 1.0})], "x") is None
    assert Results().median("produce", "disk", "Kafka", "x") is None


def test_a_disturbed_run_is_repeated_until_it_is_not():
    others = iter([0.9, 0.5, 0.1, 0.0])
    with_waits, waits = rules()
    results = Results()
    done = undisturbed("m", lambda: {"other_cores": next(others)}, with_waits, Repeats(10, results))
    assert done == Run({"other_cores": 0.1}, disturbed=False)
    assert (len(waits), results.repeated) == (2, 2)


def test_a_run_that_stays_disturbed_is_marked():
    with_waits, waits = rules(retries=2)
    done = undisturbed("m", lambda: {"other_cores": 0.9}, with_waits, Repeats(10, Results()))
    assert done.disturbed
    assert len(waits) == 2


def test_peers_alternate_and_warm_ups_do_not_count():
    order: list[str] = []
    results = Results()

    def run(peer: FakePeer) -> dict[str, float]:
        order.append(peer.name)
        return {"x": float(len(order))}

    alternate(results, "m", "disk", [FakePeer("A"), FakePeer("B")], run, rules(runs=2, warmups=1)[0])
    assert "".join(order) == "ABABAB"
    assert [r.figures["x"] for r in results.runs["m"]["disk"]["A"]] == [3.0, 5.0]


def test_a_machine_that_is_never_quiet_ends_all_the_same():
    calls = 0
    results = Results()

    def run(_: FakePeer) -> dict[str, float]:
        nonlocal calls
        calls += 1
        return {"other_cores": 2.0}

    alternate(results, "m", "disk", [FakePeer("A"), FakePeer("B")], run, rules(runs=3, retries=50)[0])
    # 2 peers x 3 runs, and as many repeats in all.
    assert (calls, results.repeated) == (12, 6)
    assert all(r.disturbed for r in results.runs["m"]["disk"]["A"] + results.runs["m"]["disk"]["B"])


def test_a_peer_that_fails_is_left_out_and_the_others_go_on():
    results = Results()
    runs = {"A": 0, "B": 0}

    def run(peer: FakePeer) -> dict[str, float]:
        runs[peer.name] += 1
        if peer.name == "A" and runs["A"] == 2:
            raise RuntimeError("A broke")
        return {"x": 1.0}

    alternate(results, "m", "disk", [FakePeer("A"), FakePeer("B")], run, rules(runs=3)[0])
    assert runs == {"A": 2, "B": 3}
    assert results.failure("m", "disk", "A") == "RuntimeError: A broke"
    assert results.failure("m", "disk", "B") is None


def test_the_benchmarks_own_errors_end_it():
    def run(_: FakePeer) -> dict[str, float]:
        raise KeyError("a mistake here")

    with pytest.raises(KeyError):
        alternate(Results(), "m", "disk", [FakePeer("A")], run, rules()[0])
