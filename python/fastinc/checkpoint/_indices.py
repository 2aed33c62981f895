"""Live indices as parameters and arrays: those of their tables, and how they were made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastinc.checkpoint import _tables
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.live_index import LiveIndex

__all__ = ["apply", "build", "describe", "describe_change", "export", "mark"]


def export(index: LiveIndex, since: Any) -> Change:
    """Return all of an index, or what changed of its table since a mark; what was built from the table is left out."""
    change = _tables.export(index.table, since)
    return replace(change, parameters={"index": describe(index), "table": change.parameters})


def describe(index: LiveIndex) -> Parameters:
    """Return the arguments that make an index like it; what it is on a GPU is on the CPU then."""
    names = ("rebuild_share", "rebuild_rows", "fold_rows", "drift_share")
    given = {name: getattr(index, f"_{name}") for name in names}
    background = index._background is not None or index._factory is None
    return {"factory": index._name, "metric": index.metric, "background": background, **given}


def build(parameters: Parameters, arrays: Arrays) -> LiveIndex:
    """Return the index that was exported, built anew."""
    return LiveIndex(_tables.build(parameters["table"], arrays), **parameters["index"])


def apply(index: LiveIndex, parameters: Parameters, arrays: Arrays, keep_versions: bool = True) -> None:
    """Take a change in."""
    _tables.apply(index.table, parameters["table"], arrays, keep_versions)


def mark(index: LiveIndex) -> Any:
    """Return the mark of an index as it is now."""
    return _tables.mark(index.table)


def describe_change(parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes."""
    return {"index": parameters["index"], "table": _tables.describe_change(parameters["table"])}
