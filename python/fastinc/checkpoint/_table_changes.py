"""What changed of a CUDA table since a version, by way of all of its state.

Reading that costs in proportion to the rows there are; what comes out, to those that changed.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from fastinc._cuda_table import AnyTable
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import OF_ROWS
from fastinc.table import EmbeddingTable

__all__ = ["Mark", "export", "mark"]

#: What holds a table's rows, and its version: setting an object's state gives it another one to hold them.
Mark = tuple["weakref.ref[AnyTable]", int]


def mark(table: EmbeddingTable) -> Mark:
    """Return what :func:`export` is asked for later."""
    return weakref.ref(table._core), table.version


def export(table: EmbeddingTable, since: Any) -> tuple[dict[str, Any], Any, bool]:
    """Return what changed of a table since a mark, or all of it; its mark then; whether it is all."""
    element, row = table.optimizer.state_floats_per_row
    state = table._core.export_state(element * table.dim + row)
    change = None if since is None else _changed(table, since, state["version"], state)
    return state if change is None else change, (mark(table)[0], state["version"]), change is None


def _changed(table: EmbeddingTable, mark: Mark, version: int, state: Arrays) -> Arrays | None:
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
    of_rows = (*OF_ROWS, "slots")
    return {name: array[newer] if name in of_rows else array for name, array in state.items()} | {"removed": gone}
