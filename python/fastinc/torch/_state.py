"""A table in a module's state_dict: everything but the optimizer's parameters and the start values."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Container
from typing import Any

import numpy as np
import torch

from fastinc.distributed import ShardedTable
from fastinc.distributed._owners import owners_of
from fastinc.table import EmbeddingTable
from fastinc.torch._gradients import AnyTable, shard_of

__all__ = ["NAMES", "load", "save"]

Tensor = Any
State = dict[str, Any]

#: NumPy's unsigned numbers that torch doesn't know everywhere, and what they are kept as.
_SIGNED = {"uint64": "int64", "uint32": "int32"}
_UNSIGNED = {"row_versions": "uint64", "frequencies": "uint32", "slots": "uint32", "free_slots": "uint32"}
_NUMBERS = ("version", "sightings_counted")
_LIMITED = ("frequencies", "sightings", "sightings_counted", "slots", "free_slots")  # of tables with limits alone
_REQUIRED = ("ids", "row_versions", "weights", "state", "version")
#: What a module's state_dict has of its table.
NAMES = {*_REQUIRED, *_LIMITED}


#: Tensors by table, with the version they are of; nothing here keeps table or tensors alive.
_Tensors = weakref.WeakKeyDictionary[EmbeddingTable, tuple[int, dict[str, Any]]]

#: The state_dict that is being made, and what is in it.
_latest: tuple[Any, _Tensors] = (lambda: None, weakref.WeakKeyDictionary())


def _shared(destination: State) -> _Tensors:
    """Return what the state_dict holds of tables so far."""
    global _latest
    made_of, tensors = _latest
    if made_of() is not destination:
        tensors = weakref.WeakKeyDictionary()
        with contextlib.suppress(TypeError):  # a dict of the caller's own: nothing is shared in it
            _latest = weakref.ref(destination), tensors
    return tensors


def save(table: EmbeddingTable, destination: State, prefix: str) -> None:
    """Write a table's rows to a state_dict; a second module of the same table gets the same tensors."""
    shared = _shared(destination)
    version, known = shared.get(table, (-1, {}))
    tensors = {name: tensor() for name, tensor in known.items()}
    if version != table.version or any(tensor is None for tensor in tensors.values()):
        version = table.version
        tensors = {name: _tensor(value) for name, value in table.__getstate__()["state"].items()}
        shared[table] = version, {name: weakref.ref(tensor) for name, tensor in tensors.items()}
    destination.update({prefix + name: tensor for name, tensor in tensors.items()})


def refusal(table: AnyTable, state: State) -> str | None:
    """Return why a rank of a sharded table can't take a state, which is another rank's, or no rank's."""
    if not isinstance(table, ShardedTable):
        return None
    if "weight" in state:
        return "rows of a ShardedTable are set by its load(), on all ranks"
    if "ids" in state and (owners_of(_array("ids", state["ids"]), table.world_size) != table.rank).any():
        return f"these are not rank {table.rank}'s rows of {table.world_size}: see fastinc.distributed.save and load"
    return None


def load(
    table: AnyTable,
    others: Container[str],
    state_dict: State,
    prefix: str,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Replace a table's rows by those of a state_dict; or load a torch embedding's weight as rows 0, 1 and so on.

    others: what else of the module has names in the state_dict, as it is or followed by a dot
    """
    found = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    found = {name: value for name, value in found.items() if name.partition(".")[0] not in others}
    known = ("weight",) if "weight" in found else (*_REQUIRED, *_LIMITED)
    if strict:
        unexpected.extend(prefix + name for name in found if name not in known)
        missing.extend(prefix + name for name in _REQUIRED if "weight" not in found and name not in found)
    shard = shard_of(table)
    try:
        if (why := refusal(table, found)) is not None:
            raise ValueError(why)
        if "weight" in found:
            weight = found["weight"].detach().to(shard.device, torch.float32).contiguous()
            shard.load(torch.arange(weight.shape[0], device=weight.device), weight)
        elif all(name in found for name in _REQUIRED):
            shard._core.import_state({name: _array(name, found[name]) for name in known if name in found})
    except (ValueError, TypeError, RuntimeError) as error:
        errors.append(f"{prefix or 'the table'}: {error}")


def _tensor(value: Any) -> Tensor:
    array = np.asarray(value)
    array = array.view(_SIGNED.get(array.dtype.name, array.dtype)) if array.ndim else array.astype(np.int64)
    return torch.from_numpy(array) if array.ndim else torch.tensor(int(array))


def _array(name: str, value: Tensor) -> Any:
    if name in _NUMBERS:
        if value.numel() != 1 or value.is_floating_point() or int(value) < 0:
            raise ValueError(f"{name} = {value.tolist()} must be a whole number, at least 0")
        return int(value)
    array = value.detach().cpu().contiguous().numpy()
    return array.view(_UNSIGNED.get(name, array.dtype))
