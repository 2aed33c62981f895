"""Tables as parameters and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastinc._cuda_table import AnyTable
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._described import describe_table, rebuild_bounds, rebuild_initializer, rebuild_optimizer
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable

__all__ = ["apply", "build", "export", "export_core", "fill_core"]


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
    """Return all of a table."""
    numbers, arrays = export_core(table._core, table.optimizer, "table.")
    return Change({**describe_table(table), **numbers}, arrays, True, None)


def build(parameters: Parameters, arrays: Arrays) -> EmbeddingTable:
    """Return the table that was exported."""
    table = EmbeddingTable(
        parameters["dim"],
        rebuild_optimizer(parameters["optimizer"]),
        rebuild_initializer(parameters["init"]),
        **rebuild_bounds(parameters),
    )
    numbers: dict[str, int] = {
        name: parameters[name] for name in ("version", "sightings_counted") if name in parameters
    }
    fill_core(table._core, arrays, numbers, "table.")
    return table


def apply(table: EmbeddingTable, parameters: Parameters, arrays: Arrays) -> None:
    """Take a change in."""
    raise NotImplementedError
