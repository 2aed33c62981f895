"""Records of a log: one after another in a file, each carrying its own SHA-256 and that of the one before it.

::

    offset  bytes
    0       8    magic
    8       4    format version                                            (integers are little endian)
    12      4    m, bytes of the meta
    16      8    number
    24      8    p, bytes of the payload
    32      32   SHA-256 of the record before, or the chain of the base
    64      4    CRC-32 of the above
    68      4    CRC-32 of the meta
    72      m    meta: JSON
    72+m    p    payload: arrays in safetensors' format, compressed if the meta says so
    72+m+p  32   SHA-256 of all of the above

Nothing here writes, and nothing is made room for before it is known to be there. What reads is a function of an offset
and a count.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = [
    "MAGIC",
    "VERSION",
    "Head",
    "NewerFormatError",
    "Record",
    "Tail",
    "encode",
    "heads",
    "read_head",
    "read_record",
    "records",
]

MAGIC = b"\x89fiLog\r\n"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQ32s")
_CHECKS = struct.Struct("<II")
_HEAD_BYTES = _HEADER.size + _CHECKS.size
_DIGEST_BYTES = 32
#: Of what is searched at a time for the record after a damaged one.
_WINDOW = 1 << 20

#: Returns bytes from an offset on: fewer where the end is nearer.
Read = Callable[[int, int], bytes]


class ShortError(ValueError):
    """A file ends within a record, as one does that is being written."""


class NewerFormatError(ValueError):
    """A record is whole, but of a format that this version of fastinc doesn't read."""


@dataclass(frozen=True)
class Head:
    """What a record says of itself before its payload: checked by its CRCs alone."""

    number: int
    previous: bytes
    meta: dict[str, Any]
    offset: int
    payload: int
    end: int


@dataclass(frozen=True)
class Record:
    """A whole record, verified."""

    number: int
    previous: bytes
    meta: dict[str, Any]
    payload: bytes
    digest: bytes
    offset: int
    end: int


@dataclass
class Tail:
    """How a walk over a file ended.

    Parameters
    ----------
    offset
        Where the walk ended: of the end, or of the first byte that isn't part of a whole record.
    reason
        What is wrong there; None: nothing, the file ends there.
    resumes
        Where the next whole record begins, if one follows; the damage is in the middle then.
    is_short
        The file ends before the record there does: somebody may be writing it.
    """

    offset: int = 0
    reason: str | None = None
    resumes: int | None = None
    is_short: bool = False


def encode(number: int, previous: bytes, meta: dict[str, Any], payload: Iterable[Any]) -> tuple[list[Any], bytes]:
    """Return a record as pieces to be written one after another, and its digest."""
    parts = list(payload)
    text = json.dumps(meta, allow_nan=False, separators=(",", ":")).encode()
    size = sum(len(part) for part in parts)
    header = _HEADER.pack(MAGIC, VERSION, len(text), number, size, previous)
    pieces = [header + _CHECKS.pack(zlib.crc32(header), zlib.crc32(text)) + text, *parts]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.digest()], digest.digest()


def read_head(read: Read, offset: int, size: int) -> Head:
    """Return the head of the record at an offset in a file of `size` bytes; ValueError where there is none."""
    header = read(offset, min(_HEAD_BYTES, size - offset))
    if len(header) < _HEAD_BYTES:
        raise ShortError("it ends within a record's header")
    magic, version, meta_bytes, number, payload_bytes, previous = _HEADER.unpack_from(header)
    header_crc, meta_crc = _CHECKS.unpack_from(header, _HEADER.size)
    if magic != MAGIC or zlib.crc32(header[: _HEADER.size]) != header_crc:
        raise ValueError("a record's header doesn't match its checksum")
    if version != VERSION:
        raise NewerFormatError(f"a record has format version {version}; this fastinc reads {VERSION}")
    payload = offset + _HEAD_BYTES + meta_bytes
    end = payload + payload_bytes + _DIGEST_BYTES
    if end > size:
        raise ShortError(f"it ends within record {number}")
    text = read(offset + _HEAD_BYTES, meta_bytes)
    if len(text) < meta_bytes or zlib.crc32(text) != meta_crc:
        raise ValueError(f"the meta of record {number} doesn't match its checksum")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the meta of record {number} is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"the meta of record {number} is {type(meta).__name__}")
    return Head(number, previous, meta, offset, payload, end)


def read_record(read: Read, offset: int, size: int) -> Record:
    """Return the record at an offset in a file of `size` bytes, verified; ValueError where there is none."""
    head = read_head(read, offset, size)
    front = read(offset, head.payload - offset)
    payload = read(head.payload, head.end - _DIGEST_BYTES - head.payload)
    told = read(head.end - _DIGEST_BYTES, _DIGEST_BYTES)
    digest = hashlib.sha256(front)
    digest.update(payload)
    if digest.digest() != told:
        raise ValueError(f"record {head.number} doesn't match its SHA-256")
    return Record(head.number, head.previous, head.meta, payload, told, offset, head.end)


def records(read: Read, size: int, tail: Tail, offset: int = 0) -> Iterator[Record]:
    """Yield whole records from an offset on; when they end, `tail` tells how."""
    tail.offset, tail.reason, tail.resumes, tail.is_short = offset, None, None, False
    while tail.offset < size:
        try:
            record = read_record(read, tail.offset, size)
        except NewerFormatError:
            raise
        except ValueError as error:
            tail.reason, tail.is_short = str(error), isinstance(error, ShortError)
            tail.resumes = _next_record(read, tail.offset + 1, size)
            return
        tail.offset = record.end
        yield record


def heads(read: Read, size: int, offset: int = 0) -> Iterator[Head]:
    """Yield what records say of themselves, until one is damaged; payloads aren't read."""
    while offset < size:
        try:
            head = read_head(read, offset, size)
        except NewerFormatError:
            raise
        except ValueError:
            return
        offset = head.end
        yield head


def _next_record(read: Read, offset: int, size: int) -> int | None:
    """Return where the first whole record from an offset on begins."""
    while offset < size:
        window = read(offset, _WINDOW + len(MAGIC) - 1)
        at = window.find(MAGIC)
        while at >= 0:
            if _is_record(read, offset + at, size):
                return offset + at
            at = window.find(MAGIC, at + 1)
        offset += _WINDOW
    return None


def _is_record(read: Read, offset: int, size: int) -> bool:
    try:
        read_record(read, offset, size)
    except NewerFormatError:
        return True
    except ValueError:
        return False
    return True
