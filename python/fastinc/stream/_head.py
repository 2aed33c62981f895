"""The beginning of a file, by which it is known again."""

from __future__ import annotations

import hashlib
import os

__all__ = ["HEAD_BYTES", "head_digest"]

#: Bytes that are looked at, at most.
HEAD_BYTES = 1024


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
