"""Metrics of the lists themselves, whatever the user took: coverage and novelty."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.curves import Curve, curve_points
from fastinc.evaluate.metrics import Floats

Ints = npt.NDArray[np.int32]

_ENTRIES = 1 << 20  # of lists worked on at a time: their counts take 8 bytes each


def coverage_curve(lists: Ints, candidates: npt.NDArray[Any], window: int) -> Curve:
    """Return the share of the candidates that appear in at least one list.

    Parameters
    ----------
    lists
        (n, k) item codes of each scored event's list, -1 behind them.
    candidates
        (n,) how many items there were at that event.
    window
        How many lists a window holds.

    Returns
    -------
    Curve
        The share in the lists of a window, and in all lists so far, of the candidates at the last of them.

    Examples
    --------
    >>> coverage_curve(np.int32([[0, 1], [1, 0], [3, -1]]), np.array([4, 4, 5]), window=2).cumulative.tolist()
    [0.5, 0.5, 0.6]
    """
    begins, ends = curve_points(len(lists), window)
    last = np.full(int(lists.max(initial=-1)) + 1, -1)  # the last list that had the item
    windows, totals = np.empty(len(ends)), np.empty(len(ends))
    done = 0
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        part = lists[done:end]
        rows, columns = np.nonzero(part >= 0)
        np.maximum.at(last, part[rows, columns], done + rows)
        windows[i], totals[i] = np.count_nonzero(last >= begin), np.count_nonzero(last >= 0)
        done = end
    there = candidates[ends - 1]
    return Curve(events=ends.astype(np.float64), window=windows / there, cumulative=totals / there)


def novelty_values(lists: Ints, at: npt.NDArray[Any], items: Ints) -> Floats:
    """Return the mean of -log2(popularity) over the items of each list.

    Parameters
    ----------
    lists
        (n, k) item codes, -1 behind them.
    at
        (n,) the position in the stream at which each list was given.
    items
        (events,) the codes of the stream's items. An item's popularity is its share of the events before a
        list.

    Returns
    -------
    numpy.ndarray
        (n,) float64; NaN for a list without items.

    References
    ----------
    Castells, Hurley, Vargas: Novelty and diversity in recommender systems. Recommender Systems Handbook (2015).

    Examples
    --------
    >>> novelty_values(np.int32([[0, 1], [1, -1]]), np.array([4, 4]), np.int32([0, 0, 1, 2, 1])).tolist()
    [1.5, 2.0]
    """
    n_events = len(items)
    # Events by item, then position: how many an item had before one is a place among these.
    keys = np.sort(items.astype(np.int64) * n_events + np.arange(n_events))
    first = np.searchsorted(keys, np.arange(int(items.max(initial=-1)) + 1) * n_events)
    out = np.empty(len(lists))
    rows = max(1, _ENTRIES // max(1, lists.shape[1]))
    for begin in range(0, len(lists), rows):
        part, now = lists[begin : begin + rows].astype(np.int64), at[begin : begin + rows, None]
        there = part >= 0
        counts = np.searchsorted(keys, part * n_events + now) - first[part]
        share = np.where(there, counts, 1) / np.where(there, now, 1)
        total, length = -np.log2(share).sum(axis=1), there.sum(axis=1)
        out[begin : begin + rows] = np.where(length > 0, total / np.maximum(length, 1), np.nan)
    return out
