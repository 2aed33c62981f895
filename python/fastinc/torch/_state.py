"""A table in a module's state_dict: everything but the optimizer's parameters and the start values."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch

from fastinc.table import EmbeddingTable

__all__ = ["load", "save"]

Tensor = Any
State = dict[str, Any]

#: NumPy's unsigned numbers that torch doesn't know everywhere, and what they are kept as.
_SIGNED = {"uint64": "int64", "uint32": "int32"}
_UNSIGNED = {"row_versions": "uint64", "frequencies": "uint32"}
_NUMBERS = ("version", "sightings_counted")
_LIMITED = ("frequencies", "sightings", "sightings_counted")  # of tables with limits alone
_REQUIRED = ("ids", "row_versions", "weights", "state", "version")


_Tensors = dict[EmbeddingTable, dict[str, Any]]  # of weak references, by table and name

#: The state_dict that is being made, and what is in it; nothing here keeps tensors alive.
_latest: tuple[Any, _Tensors] = (lambda: None, {})


def _shared(destination: State) -> _Tensors:
    """Return what the state_dict holds of tables so far."""
    global _latest
    made_of, tensors = _latest
    if made_of() is not destination:
        made_of, tensors = weakref.ref(destination), {}
        _latest = made_of, tensors
    return tensors


def save(table: EmbeddingTable, destination: State, prefix: str) -> None:
    """Write a table's rows to a state_dict; a second module of the same table gets the same tensors."""
    shared = _shared(destination)
    tensors = {name: tensor() for name, tensor in shared.get(table, {}).items()}
    if not tensors or any(tensor is None for tensor in tensors.values()):
        tensors = {name: _tensor(value) for name, value in table.__getstate__()["state"].items()}
        shared[table] = {name: weakref.ref(tensor) for name, tensor in tensors.items()}
    destination.update({prefix + name: tensor for name, tensor in tensors.items()})


def load(
    table: EmbeddingTable,
    state_dict: State,
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Replace a table's rows by those of a state_dict; or load a torch embedding's weight as rows 0, 1 and so on."""
    del local_metadata
    found = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    known = ("weight",) if "weight" in found else (*_REQUIRED, *_LIMITED)
    if strict:
        unexpected.extend(prefix + name for name in found if name not in known)
        missing.extend(prefix + name for name in _REQUIRED if "weight" not in found and name not in found)
    try:
        if "weight" in found:
            weight = found["weight"].detach().to(table.device, torch.float32).contiguous()
            table.load(torch.arange(weight.shape[0], device=weight.device), weight)
        elif all(name in found for name in _REQUIRED):
            table._core.import_state({name: _array(name, found[name]) for name in known if name in found})
    except (ValueError, TypeError, RuntimeError) as error:
        errors.append(f"{prefix or 'the table'}: {error}")


def _tensor(value: Any) -> Tensor:
    array = np.asarray(value)
    array = array.view(_SIGNED.get(array.dtype.name, array.dtype)) if array.ndim else array.astype(np.int64)
    return torch.from_numpy(array) if array.ndim else torch.tensor(int(array))


def _array(name: str, value: Tensor) -> Any:
    if name in _NUMBERS:
        return int(value)
    array = value.detach().cpu().contiguous().numpy()
    return array.view(_UNSIGNED.get(name, array.dtype))
