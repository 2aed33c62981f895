"""A caller's user and item ids (int64 or str) to the engine's codes and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastinc import _core

Kind = Literal["int", "str"]


def as_id_array(ids: Any, name: str) -> NDArray[Any]:
    """Return `ids` as a 1-D int64 array, or an object array of str, or raise naming the argument."""
    if isinstance(ids, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass its filled()")
    array = ids if isinstance(ids, np.ndarray) else _from_sequence(ids)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be 1-D")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind == "i" or (array.dtype.kind == "u" and int(array.max()) < 2**63):
        return np.ascontiguousarray(array, dtype=np.int64)
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype == object and all(isinstance(x, str) for x in array):
        return array
    what = f"dtype {array.dtype}" if array.dtype != object else "values of several kinds"
    raise TypeError(f"{name} has {what}; ids are integers that fit int64, or strings")


def _from_sequence(ids: Any) -> NDArray[Any]:
    """Return strings as an object array (NumPy's own strings drop NULs at the end and swallow numbers)."""
    if isinstance(ids, (list, tuple)) and any(isinstance(x, (str, bool)) for x in ids):
        array = np.empty(len(ids), dtype=object)
        array[:] = ids
        return array
    return np.asarray(ids)


class IdMap:
    """One map from ids of one kind, int or str, to codes 0, 1, 2, ... in order of first appearance.

    Parameters
    ----------
    name
        What the ids are called in error messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: Kind | None = None
        self._core = _core.IdMap()

    def __len__(self) -> int:
        return len(self._core)

    def check(self, ids: Any, name: str | None = None) -> NDArray[Any]:
        """Return `ids` as an array of this map's kind; an empty array is of any kind."""
        name = self.name if name is None else name
        array = as_id_array(ids, name)
        kind: Kind = "str" if array.dtype == object else "int"
        if array.size and self.kind is not None and kind != self.kind:
            raise TypeError(f"{name} are {kind} ids, but this model has learned {self.kind} ids")
        return array

    def encode(self, ids: Any, *, add: bool, name: str | None = None) -> NDArray[np.int64]:
        """Return codes; an unknown id gets a new code if `add`, else -1. Errors call the ids `name`."""
        array = self.check(ids, name)
        if array.size == 0:
            return np.empty(0, dtype=np.int64)
        if array.dtype == object:
            codes = self._core.encode_strings(tuple(array), add)
        else:
            codes = self._core.encode_integers(array, add)
        if add and self.kind is None:
            self.kind = "str" if array.dtype == object else "int"
        return codes

    def add_keys(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Add strings, given as UTF-8 one after another and where each ends."""
        self._core.add_keys(text, ends)
        if len(ends) > 0:
            self.kind = "str"

    def truncate(self, size: int) -> None:
        """Forget all codes from `size` on."""
        self._core.truncate(size)

    def decode(self, codes: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids of codes of any shape; code -1 gives -1 or an empty string."""
        flat = np.ascontiguousarray(codes, dtype=np.int64).ravel()
        if self.kind == "str":
            ids = np.empty(len(flat), dtype=object)
            ids[:] = self._core.decode_strings(flat)
            return ids.reshape(codes.shape)
        return self._core.decode_integers(flat).reshape(codes.shape)

    def ids(self) -> NDArray[Any]:
        """Return all ids in order of their codes."""
        return self.decode(np.arange(len(self), dtype=np.int64))

    def memory_usage(self) -> int:
        """Return allocated bytes."""
        return self._core.bytes()
