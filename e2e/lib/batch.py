"""Kafka's record batch (message format 2) written by hand, so that tests can damage it.

Layout: baseOffset i64, batchLength i32, partitionLeaderEpoch i32, magic i8, crc u32 (CRC-32C
over all that follows), attributes i16, lastOffsetDelta i32, baseTimestamp i64, maxTimestamp
i64, producerId i64, producerEpoch i16, baseSequence i32, recordCount i32, records.
"""

from __future__ import annotations

import gzip
import struct
import time
from dataclasses import dataclass, field

import cramjam

HEADER = 61
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


def _table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli); slow, for small batches."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(n: int) -> bytes:
    """A signed number as Kafka's (zig-zag) varint."""
    return unsigned_varint((n << 1) ^ (n >> 63))


def unsigned_varint(n: int) -> bytes:
    """The 64 bits of a number as a varint, as protobuf writes it."""
    n &= (1 << 64) - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _bytes_field(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    offset_delta: int,
    value: bytes | None,
    key: bytes | None = None,
    timestamp_delta: int = 0,
    headers: list[tuple[bytes | None, bytes | None]] | None = None,
) -> bytes:
    """One record with its length before it."""
    body = b"\0" + varint(timestamp_delta) + varint(offset_delta) + _bytes_field(key) + _bytes_field(value)
    body += varint(len(headers or []))
    for name, content in headers or []:
        body += _bytes_field(name) + _bytes_field(content)
    return varint(len(body)) + body


def compress(codec: int, data: bytes) -> bytes:
    """Compresses as Kafka's Java client does."""
    if codec == NONE:
        return data
    if codec == GZIP:
        return gzip.compress(data)
    if codec == SNAPPY:
        # The framing of xerial's snappy-java: magic, version, compatible version, blocks.
        out = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
        for at in range(0, len(data), 32768):
            block = bytes(cramjam.snappy.compress_raw(data[at : at + 32768]))
            out += struct.pack(">i", len(block)) + block
        return out
    if codec == LZ4:
        # Kafka's reader takes no blocks that refer to the one before.
        stream = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
        stream.compress(data)
        return bytes(stream.finish())
    return bytes(cramjam.zstd.compress(data))


@dataclass
class Batch:
    """The fields of a batch; each may be set to something that does not fit the others."""

    records: list[bytes]
    codec: int = NONE
    attributes: int | None = None
    base_offset: int = 0
    leader_epoch: int = -1
    magic: int = 2
    crc: int | None = None
    last_offset_delta: int | None = None
    base_timestamp: int = field(default_factory=lambda: int(time.time() * 1000))
    max_timestamp: int | None = None
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    count: int | None = None
    length: int | None = None
    payload: bytes | None = None

    def encode(self) -> bytes:
        """The batch's bytes; what was not set is computed to be right."""
        payload = self.payload if self.payload is not None else compress(self.codec, b"".join(self.records))
        count = len(self.records) if self.count is None else self.count
        last = len(self.records) - 1 if self.last_offset_delta is None else self.last_offset_delta
        checked = (
            struct.pack(
                ">hiqqqhii",
                self.codec if self.attributes is None else self.attributes,
                last,
                self.base_timestamp,
                self.base_timestamp if self.max_timestamp is None else self.max_timestamp,
                self.producer_id,
                self.producer_epoch,
                self.base_sequence,
                count,
            )
            + payload
        )
        crc = crc32c(checked) if self.crc is None else self.crc
        length = len(checked) + 9 if self.length is None else self.length
        return struct.pack(">qiibI", self.base_offset, length, self.leader_epoch, self.magic, crc) + checked


def batch(values: list[bytes | None], **fields: object) -> bytes:
    """A good batch of values, or one with the given fields wrong."""
    return Batch([record(i, v) for i, v in enumerate(values)], **fields).encode()  # type: ignore[arg-type]


@dataclass
class Header:
    """A batch's header, read back."""

    base_offset: int
    length: int
    leader_epoch: int
    attributes: int
    last_offset_delta: int
    count: int
    size: int


def headers(data: bytes) -> list[Header]:
    """The headers of all whole batches in `data`, back to back."""
    found, at = [], 0
    while at + HEADER <= len(data):
        base, length, epoch, _magic, _crc, attributes, last = struct.unpack(">qiibIhi", data[at : at + 27])
        (count,) = struct.unpack(">i", data[at + 57 : at + 61])
        if at + 12 + length > len(data):
            break
        found.append(Header(base, length, epoch, attributes, last, count, 12 + length))
        at += 12 + length
    return found
