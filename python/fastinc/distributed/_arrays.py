"""Arrays of a rank: NumPy's where its rows are on the CPU, torch's on a GPU; checked before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastinc import _core, ops
from fastinc._arguments import as_ids, check_countable
from fastinc._device import is_on_cuda

__all__ = ["Place", "as_host", "as_host_ids"]

Array = Any
Tensor = Any
Int64 = NDArray[np.int64]

#: -0.0 as an int32: the least there is.
_NEGATIVE_ZERO = -(2**31)


def as_host(x: Array, name: str) -> np.ndarray[Any, Any]:
    """Return an array as NumPy's, in place where it is on the CPU."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass its filled()")
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, torch.Tensor):
        host: np.ndarray[Any, Any] = x.detach().cpu().resolve_neg().numpy()
        return host
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"{name} must be an array (NumPy, torch, or anything with DLPack), not {type(x).__name__}")
    return np.from_dlpack(x)


def as_host_ids(ids: Any, name: str = "ids") -> Int64:
    """Return ids, or offsets, as (n,) int64 of the host."""
    ids = as_ids(ids, name)
    check_countable(ids, name)
    host = as_host(ids, name)
    if host.dtype not in (np.int64, np.int32):
        raise TypeError(f"{name} has dtype {host.dtype}; it must be int64 or int32")
    return np.ascontiguousarray(host, dtype=np.int64)


class Place:
    """Where a rank's rows are, and what its arrays are there."""

    def __init__(self, device: str) -> None:
        self.on_cpu = device == "cpu"
        self.device = torch.device(device)

    def matrix(self, x: Array, name: str, shape: tuple[int, int], *, written: bool = False) -> Array:
        """Return a float32 matrix of a caller as an array of this place; raise, naming it, where it isn't one."""
        dtype = str(getattr(x, "dtype", None)).rpartition(".")[2]
        if not hasattr(x, "shape"):
            raise TypeError(f"{name} must be an array (NumPy, torch, or anything with DLPack), not {type(x).__name__}")
        if dtype != "float32":
            raise TypeError(f"{name} has dtype {dtype}; it must be float32")
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {shape}")
        if is_on_cuda(x) and self.on_cpu:
            raise ValueError(f"{name} is on a CUDA device; the table is on the CPU")
        if not self.on_cpu and is_on_cuda(x):
            given = x if isinstance(x, torch.Tensor) else torch.from_dlpack(x)
            if not given.is_contiguous():
                raise ValueError(f"{name} is not contiguous (C order); pass a contiguous copy")
            return given.detach()
        host = as_host(x, name)
        if not host.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous (C order); pass a contiguous copy")
        if written and not host.flags.writeable:
            raise ValueError(f"{name} is read-only, and this call writes to it")
        return host if self.on_cpu or written else torch.tensor(host, device=self.device)

    def empty(self, shape: tuple[int, int], dtype: str = "float32") -> Array:
        """Return a new array of any content."""
        if self.on_cpu:
            return np.empty(shape, dtype=dtype)
        return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)

    def extended(self, x: Array, rows: int, value: float) -> Array:
        """Return a matrix with so many rows of `value` more."""
        if rows == 0:
            return x
        out = self.empty((len(x) + rows, x.shape[1]))
        out[: len(x)], out[len(x) :] = x, value
        return out

    def index(self, numbers: np.ndarray[Any, Any]) -> Array:
        """Return numbers of the host where they can index arrays of this place."""
        return numbers if self.on_cpu else torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device)

    def tensor(self, x: Array) -> Tensor:
        """Return an array of this place as a tensor on the same memory."""
        return torch.from_numpy(x) if self.on_cpu else x

    def array(self, x: Tensor) -> Array:
        """Return a tensor as an array of this place."""
        return x.numpy() if self.on_cpu else x.to(self.device)

    def has_negative_zero(self, x: Array) -> bool:
        """Return whether any value of a float32 array is -0.0."""
        if self.on_cpu:
            return bool(x.view(np.int32).min(initial=0) == _NEGATIVE_ZERO)
        return bool((x.view(torch.int32) == _NEGATIVE_ZERO).any())

    def negative_zeros(self, x: Array) -> Array:
        """Return a float32 array with 1 where `x` has -0.0, else 0."""
        if self.on_cpu:
            return (x.view(np.int32) == _NEGATIVE_ZERO).astype(np.float32)
        return (x.view(torch.int32) == _NEGATIVE_ZERO).to(torch.float32)

    def largest(self, x: Array) -> float:
        """Return the largest magnitude of a float32 matrix; inf where a value isn't finite."""
        if self.on_cpu:
            return _core.largest_magnitude(x)
        most = float(x.abs().max()) if x.numel() else 0.0
        return most if most == most else float("inf")

    def check_finite(self, x: Array, name: str, advice: str = "") -> None:
        """Raise ValueError, naming the first value of a matrix that isn't finite."""
        if self.largest(x) < float("inf"):
            return
        host = as_host(x, name)
        row, column = np.argwhere(~np.isfinite(host))[0].tolist()
        raise ValueError(f"{name}[{row}, {column}] = {host[row, column]} is not finite{advice}")

    def quantized(self, x: Array) -> Array:
        """Return rows in the fused 8-bit format; one with a value that isn't finite comes back as NaN."""
        q = ops.quantize_rowwise(x, out=self.empty((len(x), x.shape[1] + 8), "uint8"), check_finite=False)
        if self.largest(x) == float("inf"):
            finite = np.isfinite(x) if self.on_cpu else torch.isfinite(x)
            q[~finite.all(1), -8:] = 0xFF  # scale and bias: NaN
        return q

    def dequantized(self, q: Array) -> Array:
        """Return rows from the fused 8-bit format."""
        return ops.dequantize_rowwise(q, out=self.empty((len(q), q.shape[1] - 8)))
