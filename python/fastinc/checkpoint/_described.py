"""Optimizers, initializers and limits as JSON, and back."""

from __future__ import annotations

from typing import Any

from fastinc import init as initializers
from fastinc import optimizers
from fastinc.bounds import TTL, MinCount
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable

__all__ = [
    "describe",
    "describe_bounds",
    "describe_table",
    "rebuild_bounds",
    "rebuild_initializer",
    "rebuild_optimizer",
    "set_rate",
    "without_rate",
]


def describe(obj: Optimizer | initializers.Initializer) -> dict[str, Any]:
    """Return the class and parameters of an optimizer or initializer."""
    module = optimizers if isinstance(obj, Optimizer) else initializers
    kind = type(obj).__name__
    if getattr(module, kind, None) is not type(obj):
        raise TypeError(f"{kind} is not one of fastinc's own classes: it could not be loaded again")
    parameters = obj.get_params() if isinstance(obj, Optimizer) else vars(obj)
    return {"kind": kind, **parameters}


def _rebuild(module: Any, description: dict[str, Any]) -> Any:
    parameters = dict(description)
    kind = parameters.pop("kind")
    if kind not in module.__all__:
        raise ValueError(f"manifest names {kind!r}, which this version of fastinc doesn't have")
    return getattr(module, kind)(**parameters)


def rebuild_optimizer(description: dict[str, Any]) -> Any:
    """Return the optimizer that was described."""
    return _rebuild(optimizers, description)


def rebuild_initializer(description: dict[str, Any]) -> Any:
    """Return the initializer that was described."""
    return _rebuild(initializers, description)


def describe_bounds(table: EmbeddingTable) -> dict[str, Any]:
    """Return the limits that a table has."""
    eviction, admission = table.eviction, table.admission
    described = {
        "max_rows": table.max_rows,
        "eviction": {"ttl": eviction.seconds} if isinstance(eviction, TTL) else eviction,
        "admission": None if admission is None else {"min_count": admission.n, "width": admission.width},
    }
    return {name: value for name, value in described.items() if value is not None}


def rebuild_bounds(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a table with the limits in these parameters."""
    eviction, admission = parameters.get("eviction"), parameters.get("admission")
    return {
        "max_rows": parameters.get("max_rows"),
        "eviction": TTL(eviction["ttl"]) if isinstance(eviction, dict) else eviction,
        "admission": None if admission is None else MinCount(admission["min_count"], admission["width"]),
    }


def describe_table(table: EmbeddingTable) -> dict[str, Any]:
    """Return what makes a table like this one, without rows."""
    return {
        "dim": table.dim,
        "optimizer": describe(table.optimizer),
        "init": describe(table.init),
        **describe_bounds(table),
    }


def set_rate(optimizer: Optimizer, description: dict[str, Any]) -> None:
    """Give an optimizer the learning rate that was described, where it has another."""
    if "lr" in description and getattr(optimizer, "lr", None) != description["lr"]:
        optimizer.lr = description["lr"]  # type: ignore[attr-defined]


def without_rate(described: dict[str, Any]) -> dict[str, Any]:
    """Return a description without the optimizer's learning rate, which changes while a model learns."""
    optimizer = {name: value for name, value in described["optimizer"].items() if name != "lr"}
    return {**described, "optimizer": optimizer}
