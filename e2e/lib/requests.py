"""Requests made from the contract's descriptors, field by field, out of values that are hard to bear.

They are encoded by hand: stubs would refuse much of what a peer can send, as strings that are no UTF-8, both
fields of a oneof, or a field more than once. The same seed makes the same requests, but for the time in a record
batch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from lib.api import admin_pb2, groups_pb2, log_pb2, messaging_pb2
from lib.batch import batch, unsigned_varint

F = FieldDescriptor
INT32 = [0, 1, -1, 2, 7, 10_001, 65_536, 2**31 - 1, -(2**31)]
INT64 = [*INT32, 5, 10**9, 2**62, -(2**62), 2**63 - 1, -(2**63)]
# More than a second is waited for by calls that wait, up to their bound of minutes.
SECONDS = [0, 1, -1, 301, 86_401, 2**31, 253_402_300_800, 2**63 - 1, -(2**63), -(2**63) + 1]
NANOS = [0, 1, -1, 999_999_999, 10**9, -(10**9), 2**31 - 1, -(2**31)]
UINT32 = [0, 1, 2, 7, 2**31, 2**32 - 1]
UINT64 = [0, 1, 2, 3, 2**31, 2**63, 2**64 - 1]
ENUM = [0, 1, 2, 3, 99, -1, -(2**31), 2**31 - 1]
TOPICS = ["good", "three"]
STRINGS = ["", "gone", "a/b", ".", "__metadata", "a\0b", "ünï", "x" * 249, "x" * 250, "flush", "os", "-1"]
UUID = "244253b9-0f3f-4cd8-bd97-fa97bd07a5a3"
HUGE = [1_000, 100_000, 2_000_000]
NOT_UTF8 = [b"\xff", b"good\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"]
BATCH = batch([b"x"])
BYTES = [b"", b"\0", b"x" * 16, b"\xff" * 1000, BATCH, BATCH + BATCH, BATCH[:-1], BATCH[:40] + b"\7" + BATCH[41:]]
COUNTS = [1, 1, 1, 1, 1, 2, 3, 20]
ABSENT = [0.02, 0.2, 0.5]
# What is refused at its first field shows nothing of those behind it: so most fields have good values, which are
# these where others are more likely to be bad.
MILDNESS = [0.6, 0.9, 0.97]
MILD = {
    "topic": TOPICS,
    "topics": TOPICS,
    "topic_id": [b""],
    "partition": [0, 0, 1, 2],
    "partitions": [1, 2, 3],
    "replication_factor": [1],
    "records": [BATCH],
    "broker_id": [0],
    "broker_ids": [0],
    "replicas": [0],
    "leader_epoch": [0],
    "current_leader_epoch": [0],
    "last_fetched_epoch": [0],
    "expected_offset": [0, 1, 2, 3],
    "fetch_offset": [0, 1, 2],
    "before_offset": [0, 1, 2, -1],
    "offset": [0, 1, 2],
    "min_bytes": [0, 1, 1000],
    "max_bytes": [0, 1, 1000],
    "seconds": [0, 1],
    "nanos": [0, 1],
    "page_size": [0, 1, 5],
    "page_token": [""],
    "throttle_bytes_per_second": [0, 65_536],
    "holder": ["h"],
    "directory_id": [UUID],
    "id": [1, 2, 3],
    "Header.name": ["h"],
    "ConfigEntry.name": ["flush"],
    "ConfigEntry.value": ["os", "ack"],
    "group": ["g", "g", "h"],
    # One that never has members.
    "CommitOffsetsRequest.group": ["g", "e"],
    "ResetOffsetsRequest.group": ["g", "e"],
    "DeleteGroupRequest.group": ["g", "e"],
    "member_id": ["m", "n"],
    "CommitOffsetsRequest.member_id": [""],
    "FetchOffsetsRequest.member_id": [""],
    "instance_id": ["i"],
    "member_epoch": [0],
    "assignment_version": [0],
    "topic_pattern": ["", "thr.*"],
    "prefix": ["", "g"],
    "unset": ["flush"],
    "unset_configs": ["flush"],
    "name": TOPICS,
}
DEEPEST = 5
# Fields that most requests are good without: a stream that is resumed, a call that ends only when its caller does.
SELDOM = {
    "resume_token",
    "positions",
    "follow",
    "owned",
    "session_timeout",
    "reconnect_timeout",
    "rebalance_timeout",
    "revoke_timeout",
    "processing_timeout",
}
# The first request of a stream, and no other.
FIRST = {"SubscribeRequest.open"}
# Some more than a broker takes, and less than what a stub sends.
MOST_BYTES = 40 << 20


def methods() -> Iterator[MethodDescriptor]:
    """All calls of the contract."""
    for file in (messaging_pb2, log_pb2, admin_pb2, groups_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


@dataclass
class Request:
    """One encoded request, and what protobuf's own library makes of it."""

    encoded: bytes
    # None: it can't be decoded.
    message: Message | None

    def __str__(self) -> str:
        text = " ".join(str(self.message).split()) if self.message is not None else repr(self.encoded[:100])
        text = re.sub(r'"((?:[^"\\]|\\.)*)"', _shortened, text)
        return text if len(text) < 800 else f"{text[:800]}... ({len(self.encoded)} bytes)"


def _shortened(quoted: re.Match) -> str:
    return quoted[0] if len(quoted[0]) < 30 else quoted[0][:26] + '..."'


class Requests:
    """Makes requests from a seed."""

    def __init__(self, seed: int | str) -> None:
        self._rng = random.Random(seed)
        self._huge = self._bad_utf8 = self._doubled = False
        self._absent = self._mildness = 0.0
        self._place = 0

    def make(self, method: MethodDescriptor, number: int = 0) -> Request:
        """A request of this call: of a stream, that of this number."""
        self._place = number
        # Most are well formed: what can't be decoded goes no further.
        self._huge = self._rng.random() < 0.05
        self._bad_utf8 = self._rng.random() < 0.05
        self._doubled = self._rng.random() < 0.1
        self._absent = self._rng.choice(ABSENT)
        self._mildness = self._rng.choice(MILDNESS)
        encoded = self._message(method.input_type, 0)
        if len(encoded) > MOST_BYTES:
            return self.make(method, number)
        try:
            return Request(encoded, GetMessageClass(method.input_type).FromString(encoded))
        except DecodeError:
            return Request(encoded, None)

    def _message(self, kind: Descriptor, depth: int) -> bytes:
        parts = []
        # A field that is there with the value that it has when it is absent is another case than an absent one.
        for field in kind.fields:
            if self._is_absent(field):
                continue
            parts += self._field(field, depth)
        if self._doubled:
            parts += [part for part in parts if self._rng.random() < 0.2]
        if self._rng.random() < 0.1:
            self._rng.shuffle(parts)
        return b"".join(parts)

    def _is_absent(self, field: FieldDescriptor) -> bool:
        if field.name in SELDOM and self._rng.random() < self._mildness:
            return True
        kind = field.containing_type
        if any(f"{kind.name}.{other.name}" in FIRST for other in kind.fields) and self._rng.random() < self._mildness:
            is_first = f"{kind.name}.{field.name}" in FIRST
            if field.containing_oneof and is_first != (self._place == 0):
                return True
            if is_first:
                return False
        # Of a oneof usually one field is taken; one that is `optional` is a oneof of its own.
        others = len(field.containing_oneof.fields) if field.containing_oneof and not self._doubled else 1
        return self._rng.random() < self._absent or self._rng.random() > 1 / others

    def _field(self, field: FieldDescriptor, depth: int) -> list[bytes]:
        if not field.is_repeated:
            return [self._item(field, depth)] if depth < DEEPEST else []
        count = self._rng.choice(COUNTS)
        items = [self._item(field, depth) for _ in range(count)] if depth < DEEPEST else []
        if items and self._rng.random() < 0.05:
            items.append(items[0])
        return items

    def _item(self, field: FieldDescriptor, depth: int) -> bytes:
        if field.type == F.TYPE_MESSAGE:
            return _sized(field, self._message(field.message_type, depth + 1))
        if field.type == F.TYPE_STRING:
            return _sized(field, self._string(field))
        if field.type == F.TYPE_BYTES:
            return _sized(field, self._bytes(field))
        return unsigned_varint(field.number << 3) + unsigned_varint(self._number(field))

    def _string(self, field: FieldDescriptor) -> bytes:
        if self._bad_utf8 and self._rng.random() < 0.3:
            return self._rng.choice(NOT_UTF8)
        if self._huge and self._rng.random() < 0.3:
            return b"x" * self._rng.choice(HUGE)
        mild = self._mild(field)
        return str(self._rng.choice(STRINGS) if mild is None else mild).encode()

    def _bytes(self, field: FieldDescriptor) -> bytes:
        if self._huge and self._rng.random() < 0.3:
            return bytes(self._rng.choice(HUGE))
        mild = self._mild(field)
        return self._rng.choice(BYTES) if mild is None else bytes(mild)

    def _number(self, field: FieldDescriptor) -> int:
        mild = self._mild(field)
        return self._rng.choice(_numbers(field)) if mild is None else int(mild)

    def _mild(self, field: FieldDescriptor) -> object | None:
        """A value that is likely to be good, or that there shall be none."""
        if self._rng.random() > self._mildness:
            return None
        own = MILD.get(f"{field.containing_type.name}.{field.name}", MILD.get(field.name))
        if own is None and field.type == F.TYPE_ENUM:
            own = [value.number for value in field.enum_type.values]
        return None if own is None else self._rng.choice(own)


def _numbers(field: FieldDescriptor) -> list[int]:
    if field.name in ("seconds", "nanos"):
        return SECONDS if field.name == "seconds" else NANOS
    kinds = {
        F.TYPE_INT32: INT32,
        F.TYPE_INT64: INT64,
        F.TYPE_UINT32: UINT32,
        F.TYPE_UINT64: UINT64,
        F.TYPE_ENUM: ENUM,
        F.TYPE_BOOL: [0, 1],
    }
    return kinds[field.type]


def _sized(field: FieldDescriptor, content: bytes) -> bytes:
    return unsigned_varint(field.number << 3 | 2) + unsigned_varint(len(content)) + content
