"""What callers are told."""

from __future__ import annotations


class Failed(Exception):
    """Something went wrong; the text is for people and says what to look at."""


class NotHere(Failed):
    """This computer can't carry a cluster (not Linux, not root, a program is missing); the text says why."""
