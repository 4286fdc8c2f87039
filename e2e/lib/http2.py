"""HTTP/2 by hand (RFC 9113): what a peer can send that no stub does."""

from __future__ import annotations

import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 7, 8
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW_SIZE = 4
FRAME = 16384


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame (4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# What a client says first.
GREETING = PREFACE + frame(SETTINGS)


def call_headers(path: bytes) -> bytes:
    """A gRPC call's headers as literals that no table is needed for (RFC 7541, 6.2.2)."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    return b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


class HalfSender:
    """A connection with calls whose message never ends: it sends all that the peer's windows allow, and no more."""

    def __init__(self, port: int, path: bytes, streams: list[int], message: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._message = message
        self._received = b""
        self._initial = self._connection = 65535
        self._sent = dict.fromkeys(streams, 0)
        self._updates = dict.fromkeys(streams, 0)
        self._settled = self.refused = False
        # Windows are what the peer's settings say, so these are waited for.
        self._socket.sendall(GREETING)
        while not self._settled:
            self._take(self._socket.recv(65536))
        for stream in streams:
            self._socket.sendall(frame(HEADERS, END_HEADERS, stream, call_headers(path)))
        self._socket.setblocking(False)

    @property
    def sent(self) -> int:
        """Bytes of messages that were sent."""
        return sum(self._sent.values())

    def go_on(self) -> None:
        """Sends what the windows allow now."""
        try:
            while read := self._socket.recv(65536):
                self._take(read)
            self.refused = True
        except BlockingIOError:
            self._send()
        except OSError:
            self.refused = True

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _send(self) -> None:
        self._socket.setblocking(True)
        for stream, at in self._sent.items():
            room = min(self._connection, self._initial + self._updates[stream] - at, len(self._message) - at)
            self._connection -= room
            self._sent[stream] += room
            for start in range(at, at + room, FRAME):
                end = min(start + FRAME, at + room)
                self._socket.sendall(frame(DATA, 0, stream, self._message[start:end]))
        self._socket.setblocking(False)

    def _take(self, read: bytes) -> None:
        """What the peer's frames say about windows."""
        if not read:
            raise ConnectionError("closed")
        self._received += read
        while len(self._received) >= 9 and len(self._received) >= 9 + (size := int.from_bytes(self._received[:3])):
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9])
            payload = self._received[9 : 9 + size]
            self._received = self._received[9 + size :]
            if kind == SETTINGS and not flags & ACK:
                for at in range(0, size, 6):
                    if int.from_bytes(payload[at : at + 2]) == INITIAL_WINDOW_SIZE:
                        self._initial = int.from_bytes(payload[at + 2 : at + 6])
                self._socket.sendall(frame(SETTINGS, ACK))
                self._settled = True
            elif kind == WINDOW_UPDATE and stream == 0:
                self._connection += int.from_bytes(payload)
            elif kind == WINDOW_UPDATE:
                self._updates[stream] += int.from_bytes(payload)
            elif kind == GOAWAY:
                self.refused = True
