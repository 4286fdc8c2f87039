"""Free TCP ports on 127.0.0.1."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that this process was not given before.

    Another process may still take it before it is used; ports are taken from the kernel's
    ephemeral range at random, so that this is rare.
    """
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def port_open(port: int) -> bool:
    """True if something accepts connections on the port."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
