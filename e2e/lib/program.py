"""The beginning and the end of programs on plain stubs."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def member_arguments(session: float | None) -> argparse.Namespace:
    """The command line of a member of a group, with the session time that it has if none is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", type=lambda text: text.split(","), required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--instance-id")
    parser.add_argument("--session-timeout", type=lambda text: float(text.removesuffix("s")), default=session)
    return parser.parse_args()


def run_and_end(work: Callable[[], None]) -> NoReturn:
    """Does the work, and ends the process: with 1 and the trace if it failed."""
    code = 0
    try:
        work()
    except BaseException:  # noqa: BLE001 - told with its trace
        traceback.print_exc()
        code = 1
    # Threads of gRPC that wait for a broker that is gone must not hold up the end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
