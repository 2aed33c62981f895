"""What a search is given: queries and lists of ids, checked, with errors that name the argument and the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc._device import is_on_cuda

__all__ = ["IdLists", "as_id_lists", "as_query_matrix"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class IdLists:
    """Ids for every query, or a list for each.

    Attributes
    ----------
    ids, offsets
        Query i has ``ids[offsets[i]:offsets[i + 1]]``; offsets None: all have all. Both None: not given.
    longest
        The length of the longest list.
    """

    ids: Int64 | None
    offsets: Int64 | None
    longest: int


NOT_GIVEN = IdLists(None, None, 0)


def as_query_matrix(queries: Any, dim: int, on_gpu: bool = False) -> tuple[Float32, bool]:
    """Return queries as a (n, dim) view, and whether there was one (dim,) query.

    on_gpu: they may be on a GPU.
    """
    if on_gpu and is_on_cuda(queries):  # the engine checks the rest
        shape = tuple(map(int, queries.shape))
        if len(shape) not in (1, 2) or shape[-1] != dim:
            raise ValueError(f"queries has shape {shape}; it must be (any, {dim}) or ({dim},)")
        return (queries if len(shape) == 2 else queries.reshape(1, dim)), len(shape) == 1
    if not isinstance(queries, np.ndarray):
        if not hasattr(queries, "__dlpack__"):
            raise TypeError(
                f"queries must be an array (NumPy, torch, or anything with DLPack), not {type(queries).__name__}"
            )
        try:
            if getattr(queries, "is_neg", lambda: False)():
                raise BufferError("it is lazily negated; pass its resolve_neg()")
            queries = np.from_dlpack(queries)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ValueError(f"queries can't be read in place by the CPU: {error}") from error
    if queries.dtype != np.float32:
        raise TypeError(f"queries has dtype {queries.dtype}; it must be float32")
    if queries.ndim not in (1, 2) or queries.shape[-1] != dim:
        raise ValueError(f"queries has shape {queries.shape}; it must be (any, {dim}) or ({dim},)")
    if not queries.flags.c_contiguous:
        raise ValueError("queries is not contiguous (C order); pass a contiguous copy")
    return queries.reshape(-1, dim), queries.ndim == 1


def _id_array(ids: Any, name: str) -> Int64:
    """Return a list, set or array of integers as (n,) int64."""
    array = np.asarray(list(ids) if isinstance(ids, (set, frozenset, range)) else ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be 1-D")
    if array.dtype == np.object_ or array.dtype.kind not in "iu" or int(array.max()) >= 2**63:
        raise TypeError(f"{name} has dtype {array.dtype}; ids are integers that fit int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def as_id_lists(lists: Any, n: int, name: str) -> IdLists:
    """Return what the argument `name` of a search of n queries holds."""
    if lists is None:
        return NOT_GIVEN
    if isinstance(lists, (int, np.integer, str, bytes, bytearray, dict)):
        raise TypeError(f"{name} must be ids or a list of ids for each query, not {type(lists).__name__}")
    if not isinstance(lists, (list, tuple, set, frozenset, range, np.ndarray)):
        lists = np.asarray(lists)
    nested = lists.ndim == 2 if isinstance(lists, np.ndarray) else _has_lists(lists)
    if not nested:
        ids = _id_array(lists, name)
        return IdLists(ids, None, len(ids))
    if len(lists) != n:
        raise ValueError(f"{name} has {len(lists)} lists, but there are {n} queries")
    arrays = [_id_array(ids, f"{name}[{i}]") for i, ids in enumerate(lists)]
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in arrays], out=offsets[1:])
    ids = np.concatenate([np.empty(0, dtype=np.int64), *arrays])
    return IdLists(ids, offsets, max(map(len, arrays), default=0))


def _has_lists(ids: Any) -> bool:
    if isinstance(ids, (set, frozenset, range)):
        return False
    return any(not isinstance(item, (int, np.integer, float, str, bytes)) for item in ids)
