"""The beginning and the end of what was read of a file, by which it is known again."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["HEAD_BYTES", "FilePrint", "head_digest", "open_regular"]

#: Bytes that are looked at, at most.
HEAD_BYTES = 1024


def open_regular(path: Path) -> io.FileIO:
    """Open a file without a buffer; what isn't a regular file, as a pipe that nobody writes to, is a ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def head_digest(descriptor: int, size: int) -> str:
    """Return the SHA-256 of a file's first bytes: of as many as it had, but not of more than 1,024.

    Parameters
    ----------
    descriptor
        Of the open file.
    size
        Bytes that the file had when it was the one that is to be known again: it may have grown since.
    """
    return hashlib.sha256(os.pread(descriptor, min(size, HEAD_BYTES), 0)).hexdigest()


def _tail_digest(descriptor: int, size: int) -> str:
    """Return the SHA-256 of the last (up to 1,024) bytes before a file's place."""
    begin = max(size - HEAD_BYTES, 0)
    return hashlib.sha256(os.pread(descriptor, size - begin, begin)).hexdigest()


@dataclass(frozen=True)
class FilePrint:
    """What a file has that was read so far, whatever its name: a copy of it, or what it grows to, has it, too."""

    bytes: int
    head: str
    tail: str

    @classmethod
    def of(cls, descriptor: int, size: int) -> FilePrint:
        """Return that of a file's first bytes."""
        return cls(size, head_digest(descriptor, size), _tail_digest(descriptor, size))

    @classmethod
    def from_json(cls, told: Any, name: str) -> FilePrint:
        """Return what `to_json` was called on."""
        kinds = {name: type(value) for name, value in told.items()} if isinstance(told, dict) else {}
        if kinds != {"bytes": int, "head": str, "tail": str} or told["bytes"] < 0:
            raise ValueError(f"{name} = {told!r} must have bytes, head and tail")
        return cls(**told)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def begins(self, descriptor: int) -> bool:
        """Whether a file begins with what was read."""
        return os.fstat(descriptor).st_size >= self.bytes and FilePrint.of(descriptor, self.bytes) == self
