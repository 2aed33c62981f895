"""What changed of a table since a version, by way of all of its state: for every table, as fast as none should be.

Reading and setting the whole state costs in proportion to the rows there are; what comes out, to those that changed.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc._cuda_table import AnyTable
from fastinc.checkpoint._arrays import Arrays
from fastinc.table import EmbeddingTable

__all__ = ["Mark", "changed", "mark", "merge"]

#: What holds a table's rows, and its version: setting an object's state gives it another one to hold them.
Mark = tuple["weakref.ref[AnyTable]", int]

#: Arrays of a table's state with an entry a row; the others are of all rows together.
_OF_ROWS = ("ids", "row_versions", "weights", "state", "frequencies", "slots")


def mark(table: EmbeddingTable) -> Mark:
    """Return what :func:`changed` is asked for later."""
    return weakref.ref(table._core), table.version


def changed(table: EmbeddingTable, mark: Mark, version: int, state: Arrays) -> Arrays | None:
    """Return what of a table's state at `version` is newer than a mark, or None: nobody knows."""
    core, since = mark
    if core() is not table._core or version < since:
        return None
    try:
        _, updated, removed, reset = table._core.changes(since)
    except ValueError:  # it was set to an older state meanwhile
        return None
    if reset:
        return None
    # That was asked after the state was taken: what is gone by now may be in it, and what was gone may be back.
    gone = np.setdiff1d(np.concatenate([removed, updated]), state["ids"])
    newer = np.flatnonzero(state["row_versions"] > since)
    return {name: array[newer] if name in _OF_ROWS else array for name, array in state.items()} | {"removed": gone}


def merge(state: Arrays, change: Arrays) -> Arrays:
    """Return a table's state with a change in it: rows stay where they are, new ones come last."""
    kept = np.flatnonzero(np.isin(state["ids"], change["removed"], invert=True))
    state = {name: array[kept] if name in _OF_ROWS else array for name, array in state.items()}
    known, at = _places(state["ids"], change["ids"])
    new = np.setdiff1d(np.arange(len(change["ids"])), known)
    merged = {**state, **{name: array for name, array in change.items() if name not in (*_OF_ROWS, "removed")}}
    for name in _OF_ROWS:
        if name in state:
            rows = state[name].copy()
            rows[at] = change[name][known]
            merged[name] = np.concatenate([rows, change[name][new]])
    return merged


def _places(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of the wanted ids are there, and where."""
    order: Any = np.argsort(ids, kind="stable")
    if len(ids) == 0:
        return order, order
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    known = np.flatnonzero(ids[at] == wanted)
    return known, at[known]
