"""Results of the kind of an argument, and the shapes that they are made by."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastinc._device import empty_like, is_on_cuda

__all__ = ["as_kind_of", "new_like", "shape_of"]

Array = Any


def shape_of(x: Array, name: str, axes: int) -> tuple[int, ...]:
    """Return x's shape; ValueError, naming it, where it hasn't so many axes."""
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != axes:
        raise ValueError(f"{name} has shape {shape}; it must be {axes}-D")
    return tuple(map(int, shape))


def as_kind_of(x: Array, result: np.ndarray[Any, Any]) -> Array:
    """Return `result` as a torch tensor on the same memory if x is one, else as it is."""
    torch = sys.modules.get("torch")
    return torch.from_numpy(result) if torch is not None and isinstance(x, torch.Tensor) else result


def new_like(x: Array, shape: tuple[int, ...], dtype: str, name: str) -> Array:
    """Return a new array where x is: on its device by its library, on the CPU as :func:`as_kind_of` makes it."""
    return empty_like(x, shape, dtype, name) if is_on_cuda(x) else as_kind_of(x, np.empty(shape, dtype=dtype))
