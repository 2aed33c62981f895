"""Tables as parameters and arrays."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from fastinc import _core
from fastinc.checkpoint import _table_changes
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._described import (
    describe_table,
    rebuild_bounds,
    rebuild_initializer,
    rebuild_optimizer,
    set_rate,
    without_rate,
)
from fastinc.table import EmbeddingTable

__all__ = ["apply", "build", "describe_change", "export", "export_change", "join_change", "mark", "split_change"]

_PREFIX = "table."
#: What a table counts: in its parameters beside what describes it.
_NUMBERS = ("version", "sightings_counted")


def export_change(core: _core.Table, since: tuple[int, int] | None) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return what changed of a CPU table since the engine's mark, or all of it, and its mark then."""
    change = core.export_change(since)
    return change, (change.pop("epoch"), change["version"])


def split_change(change: dict[str, Any], prefix: str) -> tuple[dict[str, int], Arrays]:
    """Return the numbers of an export by name, and its arrays by prefixed name."""
    arrays = {prefix + name: value for name, value in change.items() if isinstance(value, np.ndarray)}
    return {name: change[name] for name in _NUMBERS if name in change}, arrays


def join_change(arrays: Arrays, numbers: dict[str, int], prefix: str) -> dict[str, Any]:
    """Return what :func:`split_change` was given."""
    return {**{name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}, **numbers}


def export(table: EmbeddingTable, since: Any) -> Change:
    """Return all of a table, or what changed since a mark."""
    core = table._core  # read once: setting an object's state gives it another one
    if not isinstance(core, _core.Table):
        change, end, whole = _table_changes.export(table, since)
    else:
        held, told = (None, None) if since is None else since
        change, version = export_change(core, told if held is not None and held() is core else None)
        end, whole = (weakref.ref(core), version), change["whole"]
    numbers, arrays = split_change(change, _PREFIX)
    return Change({**describe_table(table), **numbers}, arrays, whole, end)


def mark(table: EmbeddingTable) -> Any:
    """Return the mark of a table as it is now."""
    core = table._core
    return (weakref.ref(core), core.mark()) if isinstance(core, _core.Table) else _table_changes.mark(table)


def build(parameters: Parameters, arrays: Arrays) -> EmbeddingTable:
    """Return the table that was exported."""
    table = EmbeddingTable(
        parameters["dim"],
        rebuild_optimizer(parameters["optimizer"]),
        rebuild_initializer(parameters["init"]),
        **rebuild_bounds(parameters),
    )
    table._core.import_state(join_change(arrays, _numbers(parameters), _PREFIX))
    return table


def apply(table: EmbeddingTable, parameters: Parameters, arrays: Arrays, keep_versions: bool = True) -> None:
    """Take a change in; without `keep_versions` its rows are a batch of the table's own."""
    change = join_change(arrays, _numbers(parameters), _PREFIX)
    if not isinstance(table._core, _core.Table):
        raise TypeError("changes are taken in by tables on the CPU")
    table._core.apply_change(change, keep_versions)
    set_rate(table.optimizer, parameters["optimizer"])


def describe_change(parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes."""
    described = {name: value for name, value in parameters.items() if name not in _NUMBERS}
    return without_rate(described)


def _numbers(parameters: Parameters) -> dict[str, int]:
    return {name: parameters[name] for name in _NUMBERS if name in parameters}
