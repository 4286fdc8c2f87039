"""Where the programs and files are that tests use, and why one is not there.

`e2e/setup.sh --env` tells most of it; `e2e/test` and `e2e/bench/run` put that in the
environment. The product's own binaries come from MILLRACE_BIN_DIR.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class Missing(Exception):
    """Something that a test needs is not on this machine; the text says what and how to get it."""


def _from_setup(variable: str, what: str) -> Path:
    value = os.environ.get(variable, "")
    if not value or not Path(value).exists():
        raise Missing(f"{what} is not there: see what e2e/setup.sh says, and start by e2e/test")
    return Path(value)


def binary(name: str) -> Path:
    """The product's executable `name`, from MILLRACE_BIN_DIR or the build folder."""
    folder = os.environ.get("MILLRACE_BIN_DIR")
    if folder is None:
        # Cargo takes a relative folder from where it runs, which is the clone's root.
        folder = str(REPO / os.environ.get("CARGO_TARGET_DIR", "target") / "debug")
    path = Path(folder) / name
    if not path.exists():
        raise Missing(f"{path} is not built (set MILLRACE_BIN_DIR to the folder that has it)")
    return path


def grpcurl() -> Path:
    """The grpcurl command."""
    return _from_setup("MILLRACE_E2E_GRPCURL", "grpcurl")


def limits() -> Path:
    """The program that measures loopback TCP and the disk (bench/limits.c)."""
    return _from_setup("MILLRACE_E2E_LIMITS", "the limits program (needs a C compiler)")


def kafka_lib() -> Path:
    """The folder with Kafka's jars."""
    return _from_setup("MILLRACE_E2E_KAFKA_LIB", "Kafka (needs Java and Maven)")


def kafka_classes() -> Path:
    """The folder with the compiled classes of e2e/kafka."""
    return _from_setup("MILLRACE_E2E_KAFKA_CLASSES", "Kafka (needs Java and Maven)")


def nats() -> Path:
    """The NATS command with its bench."""
    return _from_setup("MILLRACE_E2E_NATS", "the NATS command (needs Go)")
