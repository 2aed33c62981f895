"""The operations of :mod:`fastinc.ops` over arrays in CUDA memory.

What a call needs beside its arguments is made by the caller's library, so that its allocator and its CUDA graphs know
of it. Arguments are checked by the engine.
"""

from __future__ import annotations

from typing import Any

from fastinc import _core
from fastinc._device import DeferredCount, cuda_engine, current_stream, empty_like

Array = Any


def _lengths(x: Array, axes: int) -> tuple[int, ...]:
    """Return x's shape; zeros where it hasn't so many axes, which the engine then refuses."""
    shape = tuple(getattr(x, "shape", ()))
    return tuple(map(int, shape)) if len(shape) == axes else (0,) * axes


def update(
    step: _core.DenseUpdate,
    values: tuple[float, ...],
    weights: Array,
    state: tuple[Array, ...],
    ids: Array,
    grads: Array,
    nonfinite: str,
) -> int | DeferredCount:
    """One optimizer step per distinct id; waits for the device unless `nonfinite` is "skip"."""
    engine = cuda_engine("weights")
    rows, dim = _lengths(weights, 2)
    scratch = empty_like(weights, (engine.update_scratch_bytes(_lengths(ids, 1)[0], rows, dim),), "uint8", "weights")
    report = empty_like(weights, (engine.REPORT_BYTES,), "uint8", "weights")
    check = nonfinite == "raise"
    engine.update(step, values, weights, state, ids, grads, check, scratch, report, current_stream(weights))
    return 0 if check else DeferredCount(report, rows, ids)


def quantize_rowwise(x: Array, out: Array | None, check_finite: bool) -> Array:
    """Quantise rows; waits for the device if `check_finite`."""
    engine = cuda_engine("x")
    if out is None:
        rows, dim = _lengths(x, 2)
        out = empty_like(x, (rows, dim + 8), "uint8", "x")
    report = empty_like(x, (engine.REPORT_BYTES,), "uint8", "x")
    engine.quantize_rowwise(x, out, report, check_finite, current_stream(x))
    return out


def dequantize_rowwise(q: Array, out: Array | None) -> Array:
    """Undo :func:`quantize_rowwise`."""
    engine = cuda_engine("q")
    if out is None:
        rows, columns = _lengths(q, 2)
        out = empty_like(q, (rows, max(columns - 8, 0)), "float32", "q")
    engine.dequantize_rowwise(q, out, current_stream(q))
    return out
