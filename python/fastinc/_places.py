"""Which tables an index can search where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastinc import _core
from fastinc._cuda_table import CudaTable

if TYPE_CHECKING:
    from fastinc.table import EmbeddingTable

__all__ = ["check_place", "host_core"]


def check_place(table: EmbeddingTable, factory: str, device: str | None) -> str:
    """Return where an index of this factory over the table is, "cpu" or "cuda"; ValueError where it can't be there."""
    here = "cpu" if table.device == "cpu" else "cuda"
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device = {device!r} must be 'cpu' or 'cuda'")
    if factory == "exact":
        if device not in (None, here):
            raise ValueError(f"device = {device!r}: an index 'exact' is where its table is, on {table.device!r}")
        return here
    if here == "cuda":
        raise ValueError(f"factory = {factory!r} needs its table on the CPU, not {table.device!r}; 'exact' searches it")
    return device or "cpu"


def host_core(table: EmbeddingTable) -> _core.Table:
    """Return what holds the rows of a table that is on the CPU."""
    core = table._core
    assert not isinstance(core, CudaTable)
    return core
