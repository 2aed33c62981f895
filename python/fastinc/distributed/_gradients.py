"""Gradients on their way from the ranks that have them to the ranks whose rows they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc.distributed._arrays import Place
from fastinc.distributed._exchange import Exchange
from fastinc.distributed._owners import Batch
from fastinc.distributed._sums import merge, pieces, sum_pieces, sum_runs, tree_sums

__all__ = ["by_rank", "send_gradients", "send_ids", "send_rows"]

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


def send_gradients(
    exchange: Exchange, place: Place, batch: Batch, grads: Array, received: Int64, exact: bool, int8: bool
) -> tuple[Int64, Array]:
    """Send a batch's gradients; return the ids and gradients that this rank's shard is to be updated with.

    batch: its ids by owner; grads: (n, dim) float32; received: (world,) how many ids come from each rank
    """
    ids_coming = exchange.swap(batch.ids, batch.sent, received, "ids")
    if not exact:
        sums = tree_sums(place, grads, batch.order, batch.counts)
        rows = send_rows(exchange, place, sums, batch.sent, received, "gradients", int8)
        return ids_coming.wait(), rows
    counts_coming = exchange.swap(batch.counts.astype(np.int32), batch.sent, received, "counts")
    sums = tree_sums(place, grads, batch.order, batch.counts)  # while ids travel; all there is, of most ids
    plan = merge(ids_coming.wait(), counts_coming.wait())
    begun = exchange.swap(plan.begun, received, batch.sent, "replies").wait().astype(np.int64)
    vectors = by_rank(pieces(batch.counts, begun)[0], batch.sent)
    sums = sum_pieces(place, grads, batch, sums, begun)
    rows = send_rows(exchange, place, sums, vectors, by_rank(plan.vectors, received), "gradients", int8)
    return plan.ids, sum_runs(place, rows, plan.positions, plan.starts)
