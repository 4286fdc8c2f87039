"""Which processes a profile is about."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from peer import ClusterPeer
from profiles import Brokers


@dataclass
class FakeProcess:
    pid: int
    running: bool = True

    def alive(self) -> bool:
        return self.running


def fake_cluster(processes: list[FakeProcess]) -> Any:
    class Cluster(ClusterPeer):
        def __init__(self) -> None:
            pass

        def processes(self) -> Any:
            return [p for p in processes if p.running]

    Cluster.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return Cluster()


def test_a_broker_that_is_started_in_the_block_is_the_one():
    peer = SimpleNamespace(processes=lambda: [process])
    process = FakeProcess(1, running=False)
    brokers = Brokers(peer)  # type: ignore[arg-type]
    brokers.look()
    process = FakeProcess(2)
    brokers.look()
    assert brokers.titles() == {"the broker": 2}


def test_three_brokers_have_a_title_each_the_killed_and_the_restarted_too():
    processes = [FakeProcess(1), FakeProcess(2), FakeProcess(3)]
    brokers = Brokers(fake_cluster(processes))
    brokers.look()
    processes[0].running = False
    processes.append(FakeProcess(4))
    brokers.look()
    assert brokers.titles() == {"broker 0": 1, "broker 1": 2, "broker 2": 3, "a broker that was started meanwhile": 4}
