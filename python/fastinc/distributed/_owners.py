"""Whose an id is, and what of a batch goes to whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "excluding", "firsts", "grouped", "order_of", "owners_of", "spread"]

Int64 = NDArray[np.int64]

#: The finaliser of MurmurHash3. The tables' own index mixes ids as splitmix64 does: by another function, so that the
#: ids of one shard are spread over all of its index.
_FACTORS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT = np.uint64(33)

#: A batch has fewer ids than 2 to this, as a table's has.
_POSITION_BITS = 32


def owners_of(ids: Int64, world: int) -> Int64:
    """Return the rank that each id's row is on: (n,), the same on every machine and in every version."""
    mixed = ids.astype(np.uint64)
    for factor in _FACTORS:
        mixed ^= mixed >> _SHIFT
        mixed *= factor
    mixed ^= mixed >> _SHIFT
    owners: Int64 = (mixed % np.uint64(world)).astype(np.int64)
    return owners


@dataclass(frozen=True, slots=True)
class Batch:
    """The distinct ids of a batch, those of rank 0 first, ascending within a rank.

    Attributes
    ----------
    ids, counts
        (m,) distinct ids, and how often each occurs.
    order
        (n,) positions in the batch, grouped by distinct id; within one, in the batch's order.
    sent
        (world,) how many of the distinct ids are whose.
    """

    ids: Int64
    counts: Int64
    order: Int64
    sent: Int64

    @property
    def starts(self) -> Int64:
        """Where each distinct id's positions begin in `order`: (m,)."""
        return excluding(self.counts)

    def inverse(self) -> Int64:
        """Return which distinct id is at each position of the batch: (n,)."""
        inverse = np.empty(len(self.order), dtype=np.int64)
        inverse[self.order] = np.repeat(np.arange(len(self.ids)), self.counts)
        return inverse

    def last(self) -> Int64:
        """Return each distinct id's last position in the batch: (m,)."""
        last: Int64 = self.order[self.starts + self.counts - 1]
        return last


def grouped(ids: Int64, world: int) -> Batch:
    """Return a batch's ids by owner. ids: (n,)."""
    order = order_of(ids)
    ascending = ids[order]
    starts = np.flatnonzero(firsts(ascending))
    counts = np.diff(starts, append=len(ids))
    distinct = ascending[starts]
    owners = owners_of(distinct, world)
    # Of numbers of 16 bits NumPy sorts by radix.
    by_owner = np.argsort(owners.astype(np.uint16) if world < 2**16 else owners, kind="stable")
    order = order[spread(starts[by_owner], counts[by_owner])]
    return Batch(distinct[by_owner], counts[by_owner], order, np.bincount(owners, minlength=world).astype(np.int64))


def order_of(ids: Int64) -> Int64:
    """Return ``np.argsort(ids, kind="stable")``, for which NumPy takes three times as long."""
    order = np.argsort(ids)  # equal ids are in any order
    key = np.cumsum(firsts(ids[order])) << _POSITION_BITS | order
    key.sort()
    ordered: Int64 = key & (2**_POSITION_BITS - 1)
    return ordered


def firsts(ascending: Int64) -> NDArray[np.bool_]:
    """Return which numbers differ from the one before: (n,)."""
    first = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


def excluding(counts: Int64) -> Int64:
    """Return the sum of all counts before each."""
    return np.cumsum(counts) - counts


def spread(starts: Int64, counts: Int64) -> Int64:
    """Return the ranges from each start, of so many numbers, one after another."""
    return np.repeat(starts - excluding(counts), counts) + np.arange(int(counts.sum()))
