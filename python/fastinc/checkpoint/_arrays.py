"""Arrays by name in safetensors' format, hashed while they are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastinc._runtime import get_num_threads
from fastinc._extras import require
from fastinc.checkpoint._compression import shrink
from fastinc.checkpoint._disk import File

__all__ = ["Arrays", "Written", "parse", "pieces", "write"]

Arrays = dict[str, Any]

#: Of what is written and hashed at a time, side by side.
_CHUNK = 8 << 20
#: Of what is written the disk is told so early: it then works while the rest is made and hashed.
_SYNC = 64 << 20
_DTYPES = {"f4": "F32", "f8": "F64", "i4": "I32", "i8": "I64", "u1": "U8", "u4": "U32", "u8": "U64", "b1": "BOOL"}


@dataclass(frozen=True)
class Written:
    """How much was written, its SHA-256 in hexadecimal, and how much it was before it was compressed."""

    bytes: int
    sha256: str
    plain_bytes: int


def pieces(arrays: Arrays) -> Iterator[memoryview]:
    """Yield the format's bytes: the header's length, the header, the arrays, the widest types first."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.str[1:]], "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        flat = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
        for begin in range(0, len(flat), _CHUNK):
            yield flat[begin : begin + _CHUNK].data


def write(file: File, arrays: Arrays, compression: str | None = None) -> Written:
    """Write arrays by name into a file."""
    digest, size, plain = hashlib.sha256(), 0, 0

    def counted() -> Iterator[memoryview]:
        nonlocal plain
        for piece in pieces(arrays):
            plain += len(piece)
            yield piece

    alone = get_num_threads() == 1
    with ThreadPoolExecutor(2) as pool:
        synced, syncing = 0, None
        for piece in shrink(counted(), compression):
            hashed = None if alone else pool.submit(digest.update, piece)
            file.write(piece)
            if hashed is None:
                digest.update(piece)
            else:
                hashed.result()
            size += len(piece)
            if size - synced >= _SYNC and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()
                synced, syncing = size, pool.submit(file.sync)
        if syncing is not None:
            syncing.result()
    return Written(size, digest.hexdigest(), plain)


def parse(data: bytes) -> Arrays:
    """Return the arrays that were written; raise ValueError where that isn't what the bytes are."""
    safetensors = require("safetensors", extra="checkpoint", purpose="fi.checkpoint")
    try:
        arrays: Arrays = require("safetensors.numpy", extra="checkpoint", purpose="fi.checkpoint").load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"not safetensors: {error}") from None
    return arrays
