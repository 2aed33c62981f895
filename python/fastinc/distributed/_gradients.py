"""Gradients on their way from the ranks that have them to the ranks whose rows they are of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc.distributed._arrays import Place, as_host
from fastinc.distributed._exchange import Exchange
from fastinc.distributed._owners import Batch
from fastinc.distributed._sums import merge, pieces, sum_pieces, sum_runs, tree_sums
from fastinc.optimizers import SGD
from fastinc.table import EmbeddingTable

__all__ = ["SKIP", "Gradients", "by_rank", "send_gradients", "send_ids", "send_rows"]

Array = Any
Int64 = NDArray[np.int64]


def by_rank(values: Int64, counts: Int64) -> Int64:
    """Return the sum of each rank's values: (world,). values: rank 0's `counts[0]` first."""
    ends = np.cumsum(counts)
    before: Int64 = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values)])
    sums: Int64 = before[ends] - before[ends - counts]
    return sums


def send_ids(exchange: Exchange, batch: Batch, received: Int64) -> Int64:
    """Send distinct ids to their owners; return those that came: (sum of received,)."""
    ids: Int64 = exchange.swap(batch.ids, batch.sent, received, "ids").wait()
    return ids


def send_rows(
    exchange: Exchange, place: Place, rows: Array, sent: Int64, received: Int64, kind: str, int8: bool
) -> Array:
    """Send float32 rows; return those that came, of 8 bits on their way where int8."""
    if not int8:
        return exchange.swap(rows, sent, received, kind, on_host=False).wait()
    return place.dequantized(exchange.swap(place.quantized(rows), sent, received, kind, on_host=False).wait())


#: What an error says of gradients that aren't finite.
SKIP = "; pass nonfinite='skip' to skip such rows"
#: Squares of sums below this can't add up to more than float32 holds: see surely_finite() in cpu/update.cpp.
_SAFE = 1.7e38


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a shard is to be updated with.

    Attributes
    ----------
    ids, rows
        (n,) ids and (n, dim) float32 gradients.
    came, counts
        (m,) distinct ids that each rank had, rank 0's first, and how often; None where they aren't counted.
    """

    ids: Int64
    rows: Array
    came: Int64
    counts: Int64 | None

    def check_sums(self, place: Place) -> None:
        """Raise where the shard would: each gradient is finite, but they may add up to what isn't."""
        dim = self.rows.shape[1]
        if (place.largest(self.rows) * len(self.ids)) ** 2 * dim < _SAFE:
            return
        trial = EmbeddingTable(dim, SGD(lr=0.0))
        if trial.update(self.ids, as_host(self.rows, "grads"), nonfinite="skip"):
            id = int(np.setdiff1d(self.ids, trial.ids())[0])
            raise ValueError(f"grads: the summed gradient of id {id} overflows float32 when squared{SKIP}")

    def with_sightings(self, place: Place, shard: EmbeddingTable) -> Gradients:
        """Have ids without a row as often as they occurred, for `admission` to count."""
        assert self.counts is not None
        distinct, at = np.unique(self.came, return_inverse=True)
        seen = np.bincount(at, self.counts, len(distinct)).astype(np.int64)
        there = np.bincount(np.searchsorted(distinct, self.ids), minlength=len(distinct))
        more = np.repeat(distinct, np.where(shard._core.contains(distinct), 0, seen - there))
        # -0.0 added to any number is that number: behind the others it changes no sum.
        return replace(self, ids=np.concatenate([self.ids, more]), rows=place.extended(self.rows, len(more), -0.0))


def send_gradients(
    exchange: Exchange, place: Place, batch: Batch, grads: Array, received: Int64, exact: bool, int8: bool, count: bool
) -> Gradients:
    """Send a batch's gradients; return those that this rank's shard is to be updated with.

    batch: its ids by owner; grads: (n, dim) float32; received: (world,) how many ids come from each rank;
    count: whether owners are to know how often ids occurred
    """
    ids_coming = exchange.swap(batch.ids, batch.sent, received, "ids")
    counts_coming = None
    if exact or count:
        counts_coming = exchange.swap(batch.counts.astype(np.int32), batch.sent, received, "counts")
    sums = tree_sums(place, grads, batch.order, batch.counts)  # while ids travel; all there is, of most ids
    ids, counts = ids_coming.wait(), None if counts_coming is None else counts_coming.wait()
    if not exact or counts is None:
        rows = send_rows(exchange, place, sums, batch.sent, received, "gradients", int8)
        return Gradients(ids, rows, ids, counts)
    plan = merge(ids, counts)
    begun = exchange.swap(plan.begun, received, batch.sent, "replies").wait().astype(np.int64)
    vectors = by_rank(pieces(batch.counts, begun)[0], batch.sent)
    sums = sum_pieces(place, grads, batch, sums, begun)
    rows = send_rows(exchange, place, sums, vectors, by_rank(plan.vectors, received), "gradients", int8)
    return Gradients(plan.ids, sum_runs(place, rows, plan.positions, plan.starts), ids, counts)
