"""A leader that can't be reached: who waits for it is told why."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib import paths
from lib.broker import Broker, millrace
from lib.ports import free_port
from lib.proc import Process


@pytest.mark.parametrize("command", [["consume", "t", "--from", "beginning"], ["produce", "t"]])
def test_a_wrong_advertised_address_is_named_while_the_command_waits(
    new_broker: Callable[..., Broker], tmp_path: Path, command: list[str]
) -> None:
    wrong = f"127.0.0.1:{free_port()}"
    broker = new_broker(advertised_address=wrong).start()
    millrace("topic", "create", "t", bootstrap=broker.address)
    process = Process(
        [paths.binary("millrace"), "--bootstrap", broker.address, *command], tmp_path, "command", stdin=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"x\n")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while "can't be reached" not in process.err():
            assert process.alive() and time.monotonic() < deadline, process.err()
            time.sleep(0.1)
        assert wrong in process.err()
    finally:
        process.kill()
