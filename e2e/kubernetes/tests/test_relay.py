"""The relay: many connections at once, each direction with an end of its own, and a reset where there is nobody."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """A server that answers with all it got, after the client has ended its direction."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:

        def answer(connection: socket.socket) -> None:
            with connection, connection.makefile("rb") as received:
                connection.sendall(received.read())

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def near(far: socket.socket, executables: Path) -> Iterator[tuple[str, int]]:
    """The relay's address."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        host, port = far.getsockname()
        command = [executables / "relay", str(listener.fileno()), f"{host}:{port}"]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
        address = listener.getsockname()
    yield address
    process.kill()
    process.wait()


def _ask(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=20) as connection, connection.makefile("rb") as answer:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return answer.read()


def test_many_at_once_and_half_closed(near: tuple[str, int]) -> None:
    questions = [bytes([number]) * 50_000 for number in range(200)]
    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(lambda data: _ask(near, data), questions)) == questions


def test_nobody_there_is_a_reset(near: tuple[str, int], far: socket.socket) -> None:
    # Closing alone would leave it to the thread that waits in accept.
    far.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionResetError):
        _ask(near, b"hello" * 10)
