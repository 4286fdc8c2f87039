"""Clusters of several brokers: as `millrace dev` runs them, and as processes on one machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

from lib import paths
from lib.broker import Broker, Result, millrace
from lib.ports import free_port
from lib.proc import Process


def brokers(address: str) -> list[dict]:
    """The brokers as `cluster describe` tells them."""
    return json.loads(millrace("cluster", "describe", bootstrap=address, json=True).ok())["brokers"]


def free_ports_in_a_row() -> int:
    """A port from which on the ports of three brokers are likely free: apart from those given out."""
    return 20000 + free_port() % 10000


def test_dev_runs_a_cluster_and_keeps_it(tmp_path: Path) -> None:
    port = free_ports_in_a_row()
    command = [
        *(paths.binary("millrace"), "dev", "--brokers", "3"),
        *("--data-dir", tmp_path / "data", "--port", str(port)),
    ]
    for start in range(2):
        dev = Process(command, tmp_path, "dev")
        try:
            address = dev.wait_for_line("ready ", 60)
            assert address == f"127.0.0.1:{port}"
            assert [broker["broker_id"] for broker in brokers(address)] == [0, 1, 2]
            assert all(broker["available"] for broker in brokers(f"127.0.0.1:{port + 10}"))
            if start == 0:
                millrace("topic", "create", "tried", "--partitions", "3", bootstrap=address).ok()
            listed = millrace("topic", "list", bootstrap=f"127.0.0.1:{port + 20}").ok()
            assert b"tried" in listed
            dev.terminate()
            assert dev.wait(30) == 0
        finally:
            dev.kill()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        ".dev-port",
        *("broker-0", "broker-1", "broker-2"),
    ]
    verified = json.loads(millrace("log", "verify", str(tmp_path / "data"), json=True).ok())
    assert any(part["path"].endswith("/tried-0") for part in verified["partitions"]), verified
    text = millrace("dev", "--data-dir", str(tmp_path / "data"), "--port", str(port)).failed()
    assert "--brokers" in text
    text = millrace("dev", "--brokers", "3", "--data-dir", str(tmp_path / "data"), "--port", str(port + 100)).failed()
    assert f"had --port {port}" in text


def test_who_waits_for_a_leader_says_so(tmp_path: Path) -> None:
    first = Broker(tmp_path / "0")
    second = Broker(tmp_path / "1", settings={"node.id": "1", "seeds": f"127.0.0.1:{first.internal_port}"})
    waiting = []
    try:
        second.launch()
        first.start()
        assert second.process is not None
        second.process.wait_for_line("ready ", 30)
        millrace("topic", "create", "t", "-p", "2", "-r", "1", bootstrap=first.address).ok()
        described = json.loads(millrace("topic", "describe", "t", bootstrap=first.address, json=True).ok())
        (lost,) = (part["partition"] for part in described["partitions"] if part["leader"] == 1)
        second.end()
        command = [paths.binary("millrace"), "--bootstrap", first.address]
        written = tmp_path / "line"
        written.write_text("line\n")
        with written.open("rb") as line:
            produce = [*command, "produce", "t", "--partition", str(lost)]
            waiting.append(Process(produce, tmp_path, "produce", stdin=line.fileno()))
        consume = [*command, "consume", "t", "--from", "beginning", "--max-messages", "1"]
        waiting.append(Process(consume, tmp_path, "consume"))
        for process in waiting:
            process.wait_for_error(f'waiting: partition {lost} of "t" has no leader now', 60)
        second.start()
        for process in waiting:
            assert process.wait(60) == 0
    finally:
        for process in waiting:
            process.kill()
        first.end()
        second.end()


def test_produce_without_a_majority_says_why_and_what_was_written(tmp_path: Path) -> None:
    first = Broker(tmp_path / "0")
    seeds = f"127.0.0.1:{first.internal_port}"
    others = [Broker(tmp_path / str(n), settings={"node.id": str(n), "seeds": seeds}) for n in (1, 2)]
    try:
        for other in others:
            other.launch()
        first.start()
        for other in others:
            other.process.wait_for_line("ready ", 60)
        millrace("topic", "create", "t", "-p", "1", "-r", "3", bootstrap=first.address).ok()
        deadline = time.monotonic() + 60
        while True:
            quorum = json.loads(millrace("quorum", "describe", bootstrap=first.address, json=True).ok())
            if sum(member["votes"] for member in quorum["members"]) == 3:
                break
            assert time.monotonic() < deadline, quorum
            time.sleep(0.1)
        for other in others:
            other.kill()
        text = millrace("produce", "t", "--timeout", "15s", stdin=b"hi\n", bootstrap=first.address).failed()
    finally:
        for broker in (first, *others):
            broker.end()
    assert "millrace: waiting: " in text, text
    assert text.splitlines()[-1].startswith('millrace: failed after 0 messages written to "t": '), text


def test_a_broker_joins_by_a_seed(tmp_path: Path) -> None:
    first = Broker(tmp_path / "0")
    second = Broker(tmp_path / "1", settings={"node.id": "1", "seeds": f"127.0.0.1:{first.internal_port}"})
    try:
        second.launch()
        first.start()
        assert second.process is not None
        assert second.process.wait_for_line("ready ", 30) == second.address
        assert [broker["available"] for broker in brokers(second.address)] == [True, True]
        assert first.http("/readyz")[0] == 200 and second.http("/readyz")[0] == 200
        assert second.stop() == 0
        deadline = time.monotonic() + 10
        while [broker["available"] for broker in brokers(first.address)] != [True, False]:
            assert time.monotonic() < deadline, "a broker that has gone is still called available"
        assert first.stop() == 0
    finally:
        first.end()
        second.end()


def test_a_move_goes_no_faster_than_its_bound(tmp_path: Path) -> None:
    first = Broker(tmp_path / "0")
    second = Broker(tmp_path / "1", settings={"node.id": "1", "seeds": f"127.0.0.1:{first.internal_port}"})
    mib = 1 << 20

    def run(*args: str, timeout: float = 60) -> Result:
        return millrace(*args, bootstrap=first.address, timeout=timeout)

    def moves() -> list[dict]:
        return json.loads(run("partition", "moves", "--output", "json").ok())

    try:
        first.start()
        second.start()
        run("topic", "create", "t", "--partitions", "2", "--replication-factor", "1").ok()
        listed = json.loads(run("topic", "describe", "t", "--output", "json").ok())
        homes = [partition["replicas"][0] for partition in listed["partitions"]]
        for partition, home in enumerate(homes):
            if home != 0:
                run("partition", "move", "t", str(partition), "--to", "0", "--wait").ok()
        run("bench", "produce", "t", "--records", "24576", "--record-size", "1024", "--batch-bytes", str(mib)).ok()
        began = time.monotonic()
        rate = 2 * mib
        for partition in ("0", "1"):
            run("partition", "move", "t", partition, "--to", "1,0", "--throttle", str(rate)).ok()
        # While they copy, the leader takes what it is given at once.
        run("bench", "produce", "t", "--records", "100", "--record-size", "100", timeout=30).ok()
        under_way = moves()
        assert [move["throttle_bytes_per_second"] for move in under_way] == [rate, rate], under_way
        assert b"at most 2" in run("partition", "moves").ok()
        time.sleep(3.0)
        copied = sum(replica["log_end"] or 0 for move in moves() for replica in move["replicas"])
        seconds = time.monotonic() - began
        # All that the bound lets through since, and an answer of each partition that went out ahead.
        assert 0 < copied * 1024 <= seconds * rate + 2 * 2 * mib, f"{copied} records after {seconds:.1f} s"
        for partition in ("0", "1"):
            run("partition", "move", "t", partition, "--to", "1,0", "--wait", timeout=60).ok()
        assert moves() == []
        run("partition", "move", "t", "0", "--to", "1,0", "--throttle", "0").failed(2)
        run("partition", "move", "t", "0", "--cancel", "--throttle", "65536").failed(2)
    finally:
        first.end()
        second.end()
