"""Random ids and gradients; never zeros, and new for every round."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Float32 = NDArray[np.float32]

ZIPF_EXPONENT = 1.05
#: Odd, so that multiplying by it modulo 2**64 maps numbers to numbers one to one (2**64 / golden ratio).
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Batch:
    """What one update takes: (n,) row numbers, and (n, dim) gradients."""

    ids: Ids
    grads: Float32


@dataclass(frozen=True)
class Draw:
    """How ids of `rows` rows are drawn: "uniform" or "zipf" (p ~ 1 / rank ** 1.05, ranks scattered over the rows)."""

    kind: str
    rows: int

    def __call__(self, rng: np.random.Generator, count: int) -> Ids:
        """Return `count` ids."""
        if self.kind == "uniform":
            return rng.integers(0, self.rows, count, dtype=np.int64)
        cumulative, row_of_rank = _zipf(self.rows)
        ranks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        drawn: Ids = row_of_rank[np.minimum(ranks, self.rows - 1)]
        return drawn


@functools.lru_cache(maxsize=1)  # 80 MB at 5M rows
def _zipf(rows: int) -> tuple[NDArray[np.float64], Ids]:
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF_EXPONENT)
    return cumulative, np.random.default_rng(rows).permutation(rows).astype(np.int64)


def batches(draw: Draw, size: int, dim: int, calls: int) -> Callable[[np.random.Generator], list[Batch]]:
    """Return a function that draws `calls` batches of `size` ids with their gradients."""

    def make(rng: np.random.Generator) -> list[Batch]:
        return [Batch(draw(rng, size), normals(rng, size, dim)) for _ in range(calls)]

    return make


def id_lists(draw: Draw, size: int, calls: int) -> Callable[[np.random.Generator], list[Ids]]:
    """Return a function that draws `calls` arrays of `size` ids."""

    def make(rng: np.random.Generator) -> list[Ids]:
        return [draw(rng, size) for _ in range(calls)]

    return make


def normals(rng: np.random.Generator, rows: int, dim: int) -> Float32:
    """Return (rows, dim) standard normal numbers."""
    return rng.standard_normal((rows, dim), dtype=np.float32)


def fill(out: Float32, low: float, high: float, seed: int) -> Float32:
    """Fill an array with uniform numbers in [low, high), in pieces that stay in the cache; return it."""
    rng = np.random.default_rng(seed)
    flat = out.reshape(-1)
    if not np.shares_memory(flat, out):
        raise ValueError("out must be contiguous")
    for begin in range(0, flat.size, 1 << 18):
        piece = flat[begin : begin + (1 << 18)]
        rng.random(dtype=np.float32, out=piece)
        piece *= np.float32(high - low)
        piece += np.float32(low)
    return out


def scattered(rows: NDArray[Any]) -> Ids:
    """Return int64 keys for row numbers, spread over all of int64: what a user's ids look like to a hash map."""
    keys: Ids = (rows.astype(np.uint64) * _SCATTER).view(np.int64)
    return keys


def shape_name(rows: int, dim: int) -> str:
    """Return such as "5M x 64"."""
    return f"{count_name(rows)} x {dim}"


def count_name(count: int) -> str:
    """Return such as "5M", "30k" or "512"."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count:,}"


def id_count(sizes: Sequence[int]) -> str:
    """Return such as "1 id" or "65,536 ids"."""
    return ", ".join(f"{size:,} id{'s' if size != 1 else ''}" for size in sizes)
