"""Tables as parameters and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastinc._cuda_table import AnyTable
from fastinc.checkpoint import _table_changes
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._described import (
    describe_table,
    rebuild_bounds,
    rebuild_initializer,
    rebuild_optimizer,
    without_rate,
)
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable

__all__ = ["apply", "build", "describe_change", "export", "export_core", "fill_core"]

_PREFIX = "table."
#: What a table counts: in its parameters beside what describes it.
_NUMBERS = ("version", "sightings_counted")


def export_core(core: AnyTable, optimizer: Optimizer, prefix: str) -> tuple[dict[str, int], Arrays]:
    """Return a table's numbers by name, and its arrays by prefixed name."""
    element, row = optimizer.state_floats_per_row
    state = core.export_state(element * core.dim + row)
    numbers = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    return numbers, {prefix + name: array for name, array in state.items() if name not in numbers}


def fill_core(core: AnyTable, arrays: Arrays, numbers: dict[str, int], prefix: str) -> None:
    """Set a table to what was exported."""
    state = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    core.import_state({**state, **numbers})


def export(table: EmbeddingTable, mark: Any) -> Change:
    """Return all of a table, or what changed since a mark."""
    numbers, arrays = export_core(table._core, table.optimizer, "")
    parameters = {**describe_table(table), **numbers}
    change = None if mark is None else _table_changes.changed(table, mark, numbers["version"], arrays)
    named = {_PREFIX + name: array for name, array in (arrays if change is None else change).items()}
    return Change(parameters, named, change is None, (_table_changes.mark(table)[0], numbers["version"]))


def build(parameters: Parameters, arrays: Arrays) -> EmbeddingTable:
    """Return the table that was exported."""
    table = EmbeddingTable(
        parameters["dim"],
        rebuild_optimizer(parameters["optimizer"]),
        rebuild_initializer(parameters["init"]),
        **rebuild_bounds(parameters),
    )
    fill_core(table._core, arrays, _numbers(parameters), _PREFIX)
    return table


def apply(table: EmbeddingTable, parameters: Parameters, arrays: Arrays) -> None:
    """Take a change in."""
    _, state = export_core(table._core, table.optimizer, "")
    change = {name[len(_PREFIX) :]: array for name, array in arrays.items() if name.startswith(_PREFIX)}
    fill_core(table._core, _table_changes.merge(state, change), _numbers(parameters), "")
    for name, value in rebuild_optimizer(parameters["optimizer"]).get_params().items():
        if getattr(table.optimizer, name) != value:
            setattr(table.optimizer, name, value)


def describe_change(parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes."""
    described = {name: value for name, value in parameters.items() if name not in _NUMBERS}
    return without_rate(described)


def _numbers(parameters: Parameters) -> dict[str, int]:
    return {name: parameters[name] for name in _NUMBERS if name in parameters}
