"""The end of programs on plain stubs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


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
