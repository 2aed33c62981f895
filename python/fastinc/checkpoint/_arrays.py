"""Arrays by name in safetensors' format, hashed while they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc._background import Aside
from fastinc.checkpoint._compression import shrink
from fastinc.checkpoint._disk import File, Reader
from fastinc.checkpoint._hashing import Hasher

__all__ = ["Arrays", "Written", "parse", "pieces", "read", "write"]

Arrays = dict[str, Any]

#: Of what is written and hashed at a time, side by side.
_CHUNK = 8 << 20
#: Of what is written the disk is told so early: it then works while the rest is made and hashed.
_SYNC = 64 << 20
_DTYPES = {"f4": "F32", "f8": "F64", "i4": "I32", "i8": "I64", "u1": "U8", "u4": "U32", "u8": "U64"}
_FROM_FILE = {name: "<" + code for code, name in _DTYPES.items()}


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
    size, plain = 0, 0

    def counted() -> Iterator[memoryview]:
        nonlocal plain
        for piece in pieces(arrays):
            plain += len(piece)
            yield piece

    with Hasher() as hasher, Aside() as aside:
        synced, syncing = 0, None
        for piece in shrink(counted(), compression):
            hasher.update(piece)
            file.write(piece)
            size += len(piece)
            if size - synced >= _SYNC and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()
                synced, syncing = size, aside.submit(file.sync)
        if syncing is not None:
            syncing.result()
        return Written(size, hasher.hexdigest(), plain)


def read(file: Reader) -> tuple[memoryview, str]:
    """Return a file's bytes, and their SHA-256 in hexadecimal."""
    data = np.empty(file.size, dtype=np.uint8).data  # where arrays lie as they must
    done = 0
    with Hasher() as hasher:
        while count := file.read_into(data[done : done + _CHUNK], done):
            hasher.update(data[done : done + count])
            done += count
        return data[:done], hasher.hexdigest()


def parse(data: bytes | memoryview) -> Arrays:
    """Return the arrays that were written, which lie in these bytes; raise ValueError where they are something else."""
    try:
        return dict(_parse(memoryview(data)))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not safetensors: {error}") from None


def _parse(data: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    begin = 8 + int.from_bytes(data[:8], "little")
    if not 8 < begin <= len(data):
        raise ValueError(f"a header of {begin - 8} bytes in {len(data)}")
    header = json.loads(data[8:begin].tobytes())
    header.pop("__metadata__", None)
    data, end = data[begin:], 0
    for name, entry in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        (first, last), dtype, shape = entry["data_offsets"], np.dtype(_FROM_FILE[entry["dtype"]]), entry["shape"]
        if any(type(number) is not int or number < 0 for number in (first, last, *shape)):
            raise ValueError(f"{name!r} has data_offsets {[first, last]} and shape {shape}")
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} of {dtype} and shape {shape} isn't at {[first, last]} after {end}")
        end = last
        array = np.frombuffer(data[first:last], dtype=dtype).reshape(shape)
        yield name, array if array.flags.aligned else array.copy()
    if end != len(data):
        raise ValueError(f"arrays end at {end} of {len(data)}")
