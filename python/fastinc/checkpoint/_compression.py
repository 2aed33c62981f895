"""Arrays' bytes made smaller, and back within what was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastinc._arguments import as_choice
from fastinc._extras import require

__all__ = ["as_compression", "shrink", "unshrink"]


def _zstandard() -> Any:
    return require("zstandard", extra="zstd", purpose='compression="zstd"')


def as_compression(compression: Any) -> str | None:
    """Return "zstd" or None; refuse anything else, and "zstd" where its package is missing."""
    if compression is None:
        return None
    as_choice(compression, "compression", ("zstd",))
    _zstandard()
    return "zstd"


def shrink(pieces: Iterable[Any], compression: str | None) -> Iterator[Any]:
    """Yield bytes that :func:`unshrink` takes back."""
    if compression is None:
        yield from pieces
        return
    compressor = _zstandard().ZstdCompressor(level=3).compressobj()
    for piece in pieces:
        if small := compressor.compress(piece):
            yield small
    yield compressor.flush()


def unshrink(data: bytes | memoryview, compression: Any, size: Any) -> bytes | memoryview:
    """Return what was compressed; ValueError where it isn't `size` bytes, which are all that is ever made of it."""
    if compression is None:
        return data
    if compression != "zstd" or isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"compression {compression!r} to {size!r} bytes is not one that this fastinc reads")
    zstandard = _zstandard()
    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=False) as reader:
            plain = _at_most(reader, size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"not zstd: {error}") from None
    if len(plain) != size:
        raise ValueError(f"what is compressed isn't the {size} bytes that were told")
    return plain


def _at_most(reader: Any, most: int) -> bytes:
    """Read until the end, or until there is more than was told: nothing is made room for ahead."""
    pieces, count = [], 0
    while count < most and (piece := reader.read(min(1 << 24, most - count))):
        pieces.append(piece)
        count += len(piece)
    return b"".join(pieces)
