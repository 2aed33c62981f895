"""Gradients summed by several ranks in the order in which one table would sum them.

A table sums the gradients of an id in a tree (``cpu/rows.h``): 64 after 64 of them in batch order, from left to right,
then those sums 64 after 64, and so on. Its batch is here the ranks' batches one after another. An id that one rank
alone has is summed there, to the top of the tree. Of an id that several have, a rank sends one by one what completes
the 64 that lower ranks have begun, then a sum for each 64 of its own. The owner adds what belongs to the same 64, from
left to right, and gives those sums to its table, whose tree over them is the rest of the tree over all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc import ops
from fastinc.distributed._arrays import Place
from fastinc.distributed._owners import Batch, excluding, firsts, order_of, spread

__all__ = ["GROUP", "Merge", "merge", "pieces", "sum_pieces", "sum_runs", "tree_sums"]

Array = Any
Int64 = NDArray[np.int64]

#: How many gradients a table sums from left to right: kSumGroup of cpu/rows.h.
GROUP = 64
#: Instead of how many of the 64 lower ranks have begun: no other rank has the id.
ALONE = -1


def sum_runs(place: Place, x: Array, positions: Int64, starts: Int64) -> Array:
    """Return the sum of each run of rows, from left to right, of one row that row: (runs, dim) float32.

    x: (n, dim) float32; positions: rows, run after run; starts: (runs,) where each begins, none of them empty
    """
    at, begin = place.index(positions), place.index(starts)
    sums = ops.pool(x, at, begin, "sum", out=place.empty((len(starts), x.shape[1])))
    if len(positions) and place.has_negative_zero(x):
        # The pool starts from 0.0 and a table from the first row: they differ where all rows have -0.0.
        negative = place.negative_zeros(x)
        every = ops.pool(negative, at, begin, "sum") == place.index(np.diff(starts, append=len(positions))[:, None])
        sums[every] = -0.0
    return sums


def tree_sums(place: Place, x: Array, positions: Int64, counts: Int64) -> Array:
    """Return the sum of each run of `counts` rows, none 0, in the table's order: (runs, dim) float32."""
    while True:
        groups = -(-counts // GROUP)
        starts = np.repeat(excluding(counts), groups) + GROUP * spread(np.zeros_like(groups), groups)
        x = sum_runs(place, x, positions, starts)
        if len(x) == len(counts):
            return x
        positions, counts = np.arange(len(x)), groups


def pieces(counts: Int64, begun: Int64) -> tuple[Int64, Int64]:
    """Return how many vectors a rank sends of each id, and how many of them are single gradients.

    counts: (m,) occurrences; begun: (m,) how many of their first 64 lower ranks have, or ALONE
    """
    singles = np.where(begun == ALONE, 0, np.minimum(counts, -begun % GROUP))
    return np.where(begun == ALONE, 1, singles - (-(counts - singles) // GROUP)), singles


def sum_pieces(place: Place, grads: Array, batch: Batch, sums: Array, begun: Int64) -> Array:
    """Return what a rank sends: (vectors, dim) float32, those of an id one after another.

    sums: (m, dim) float32, the tree_sums() of all ids
    """
    vectors, singles = pieces(batch.counts, begun)
    summed = (begun == ALONE) | ((begun == 0) & (batch.counts <= GROUP))  # the rest is in parts
    if summed.all():
        return sums
    parts = ~summed
    starts, counts, vectors_of, singles_of = batch.starts[parts], batch.counts[parts], vectors[parts], singles[parts]
    number = spread(np.zeros_like(vectors_of), vectors_of)
    single = np.repeat(singles_of, vectors_of)
    within = np.where(number < single, number, single + GROUP * (number - single))
    runs = np.repeat(excluding(counts), vectors_of) + within
    out = place.empty((int(vectors.sum()), sums.shape[1]))
    first = excluding(vectors)
    out[place.index(first[summed])] = sums[place.index(np.flatnonzero(summed))]
    of_parts = sum_runs(place, grads, batch.order[spread(starts, counts)], runs)
    out[place.index(spread(first[parts], vectors_of))] = of_parts
    return out


@dataclass(frozen=True, slots=True)
class Merge:
    """What an owner makes of the ids that ranks tell it.

    Attributes
    ----------
    begun
        (m,) int8, for each id as it came: how many of its first 64 lower ranks have begun, or ALONE.
    vectors
        (m,) how many vectors will come for it.
    positions, starts, ids
        Vectors as they will come, those to be summed from left to right in runs; where these begin; whose they are.
    """

    begun: NDArray[np.int8]
    vectors: Int64
    positions: Int64
    starts: Int64
    ids: Int64


def merge(ids: Int64, counts: Int64) -> Merge:
    """Return how gradients of ids are put together. ids, counts: (m,) from rank 0, then rank 1, and so on."""
    order = order_of(ids)  # by id, then by rank
    ascending, occurrences = ids[order], counts[order].astype(np.int64)
    first = firsts(ascending)
    sharing = np.diff(np.flatnonzero(first), append=len(ids))  # ranks that have an id
    before = excluding(occurrences)
    before -= np.repeat(before[first], sharing)  # occurrences that lower ranks have
    begun = np.where(np.repeat(sharing, sharing) == 1, ALONE, before % GROUP)
    vectors, singles = pieces(occurrences, begun)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    number, single = spread(np.zeros_like(vectors), vectors), np.repeat(singles, vectors)
    # Singles complete the 64 that was begun; what follows are 64 each.
    group = np.repeat(before, vectors) // GROUP + np.where(number < single, 0, number - single + (single > 0))
    of_id = np.repeat(ascending, vectors)
    new = firsts(of_id) | firsts(group)
    vectors_came = vectors[back]
    positions = spread(excluding(vectors_came)[order], vectors)
    return Merge(begun[back].astype(np.int8), vectors_came, positions, np.flatnonzero(new), of_id[new])
