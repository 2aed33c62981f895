"""A table in a GPU's memory, behind the methods that `_core.Table` has.

Results are where a call's ids are: on the GPU as their library makes arrays, or NumPy arrays for ids of the host,
which are copied there and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._device import as_int64, cuda_engine, current_stream, empty_like, is_on_cuda, settle

if TYPE_CHECKING:
    from fastinc import _cuda

__all__ = ["AnyTable", "CudaTable", "device_number", "make_core"]

Array = Any
Result = TypeVar("Result")
#: The stream's number for arrays of the host.
_HOST = 0


def device_number(device: str) -> int:
    """Return n of "cuda:n", 0 of "cuda"; ValueError for anything else."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()) or device.endswith(":"):
        raise ValueError(f"device = {device!r} must be 'cpu', 'cuda' or 'cuda:<number>'")
    return int(number or 0)


class CudaTable:
    """See :class:`fastinc.EmbeddingTable`, which checks arguments first."""

    def __init__(self, dim: int, optimizer: _core.Optimizer, *rest: Any, device: int) -> None:
        self._table: _cuda.Table = cuda_engine(f"device = 'cuda:{device}'").Table(dim, optimizer, *rest, device)

    @property
    def dim(self) -> int:
        return self._table.dim

    @property
    def version(self) -> int:
        return self._table.version

    @property
    def init_spec(self) -> tuple[str, float, float, int]:
        return self._table.init_spec

    @property
    def load_factor(self) -> float:
        return self._table.load_factor

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, id: int) -> bool:
        return bool(self._table.contains(np.array([id], dtype=np.int64), _HOST)[0])

    def _out(self, ids: Array, out: Array | None, rows: Array, columns: int, dtype: str) -> Array | None:
        """Return what to write to on the GPU: `out`, or a new array; on the host None makes the engine make one."""
        if out is not None or not is_on_cuda(ids):
            return out
        shape = tuple(getattr(rows, "shape", ()))
        return empty_like(ids, (int(shape[0]) if len(shape) == 1 else 0, columns), dtype, "ids")

    def lookup(self, ids: Array, out: Array | None) -> Array:
        out = self._out(ids, out, ids, self.dim, "float32")
        return _settled(ids, self._table.lookup(as_int64(ids, "ids"), out, _stream(ids)))

    def lookup_quantized(self, ids: Array, out: Array | None) -> Array:
        out = self._out(ids, out, ids, self.dim + 8, "uint8")
        return _settled(ids, self._table.lookup_quantized(as_int64(ids, "ids"), out, _stream(ids)))

    def pool(self, ids: Array, offsets: Array, mode: str, weights: Array | None, out: Array | None) -> Array:
        out = self._out(ids, out, offsets, self.dim, "float32")
        positions = as_int64(offsets, "offsets")
        return _settled(ids, self._table.pool(as_int64(ids, "ids"), positions, mode, weights, out, _stream(ids)))

    def update(self, ids: Array, grads: Array, nonfinite: str) -> int:
        return _settled(ids, self._table.update(as_int64(ids, "ids"), grads, nonfinite, _stream(ids)))

    def load(self, ids: Array, vectors: Array) -> None:
        self._table.load(as_int64(ids, "ids"), vectors, _stream(ids))
        _settled(ids, None)

    def remove(self, ids: Array) -> int:
        return _settled(ids, self._table.remove(as_int64(ids, "ids"), _stream(ids)))

    def contains(self, ids: Array) -> NDArray[np.bool_]:
        return _settled(ids, self._table.contains(as_int64(ids, "ids"), _stream(ids)))

    def exact_search(self, queries: Array, k: int, metric: str, *lists: Any) -> tuple[Array, Array, int]:
        """Return scores, ids and the version; lists: excluded ids and offsets, allowed ids and offsets."""
        exclude_ids, exclude_offsets, allow_ids, allow_offsets = lists
        scores, ids = None, None
        if is_on_cuda(queries):
            shape = (len(queries), k)
            scores = empty_like(queries, shape, "float32", "queries")
            ids = empty_like(queries, shape, "int64", "queries")
        stream = _stream(queries)
        found = self._table.exact_search(
            queries, k, metric, exclude_ids, exclude_offsets, allow_ids, allow_offsets, scores, ids, stream
        )
        return _settled(queries, found)

    def advance(self) -> None:
        self._table.advance()

    def expire(self) -> int:
        return self._table.expire()

    def ids(self) -> NDArray[np.int64]:
        return self._table.ids()

    def changes(self, since: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64], bool]:
        return self._table.changes(since)

    def memory_usage(self) -> dict[str, int]:
        return self._table.memory_usage()

    def stats(self) -> dict[str, int]:
        return self._table.stats()

    def export_state(self, state_floats: int) -> dict[str, Any]:
        return self._table.export_state(state_floats)

    def import_state(self, state: dict[str, Any]) -> None:
        self._table.import_state(state)


#: What holds a table's rows.
AnyTable = _core.Table | CudaTable


def make_core(device: str, *parts: Any) -> tuple[AnyTable, str]:
    """Return what holds a table's rows on a device, and the device's full name."""
    if not isinstance(device, str):
        raise TypeError(f"device = {device!r} must be a string, such as 'cuda'")
    if device == "cpu":
        return _core.Table(*parts), "cpu"
    number = device_number(device)
    return CudaTable(*parts, device=number), f"cuda:{number}"


def _settled(ids: Array, result: Result) -> Result:
    """Return the result of a call over ids, once it may be used: see :func:`fastinc._device.settle`."""
    if is_on_cuda(ids):
        settle(ids)
    return result


def _stream(ids: Array) -> int:
    return current_stream(ids) if is_on_cuda(ids) else _HOST
