"""Asks a name server for an address: ask_name.py SERVER NAME ADDRESS writes "yes" if NAME has ADDRESS.

A program of its own since it runs in the network namespace in which the server listens.
"""

from __future__ import annotations

import socket
import struct
import sys


def main() -> None:
    """The command line."""
    server, name, address = sys.argv[1:]
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    # Header (id, recursion desired, one question), name, type A, class IN: RFC 1035, 4.1.
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(1)
        try:
            asked.sendto(question, (server, 53))
            answer = asked.recv(1500)
        except OSError:
            return
    # The one answer that there is ends with the address.
    if answer.endswith(socket.inet_aton(address)):
        print("yes")


if __name__ == "__main__":
    main()
