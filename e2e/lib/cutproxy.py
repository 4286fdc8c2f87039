"""A TCP proxy on loopback that a test can cut or hold: the broken network."""

from __future__ import annotations

import socket
import threading

from lib.ports import free_port


class CutProxy:
    """Forwards connections to `port` until told otherwise."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._answers_pass = threading.Event()
        self._answers_pass.set()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CutProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._answers_pass.set()
        self.cut()

    def cut(self) -> None:
        """Resets all connections; new ones are accepted."""
        with self._lock:
            sockets, self._open = self._open, []
        for s in sockets:
            try:
                # A reset, not an orderly end: neither side may believe that all was delivered.
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def hold_answers(self) -> None:
        """Requests reach the broker, its answers do not come back: the worst moment to cut."""
        self._answers_pass.clear()

    def let_answers_pass(self) -> None:
        """Ends hold_answers."""
        self._answers_pass.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, self._answers_pass), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, gate: threading.Event | None) -> None:
        try:
            while data := source.recv(65536):
                if gate is not None:
                    gate.wait()
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
