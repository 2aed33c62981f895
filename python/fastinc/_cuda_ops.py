"""The operations of :mod:`fastinc.ops` over arrays in CUDA memory.

What a call needs beside its arguments is made by the caller's library, so that its allocator and its CUDA graphs know
of it. Arguments are checked by the engine.
"""

from __future__ import annotations

from typing import Any

from fastinc import _core
from fastinc._device import DeferredCount, cuda_engine, current_stream, device_of, empty_like, settle

Array = Any


def _lengths(x: Array, axes: int) -> tuple[int, ...]:
    """Return x's shape; zeros where it hasn't so many axes, which the engine then refuses."""
    shape = tuple(getattr(x, "shape", ()))
    return tuple(map(int, shape)) if len(shape) == axes else (0,) * axes


def _report(x: Array, name: str) -> Array:
    """Return what the engine writes to about a call over x."""
    return empty_like(x, (cuda_engine(name).REPORT_BYTES,), "uint8", name)


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
    size = engine.update_scratch_bytes(_lengths(ids, 1)[0], rows, dim, device_of(weights))
    scratch = empty_like(weights, (size,), "uint8", "weights")
    report = _report(weights, "weights")
    check = nonfinite == "raise"
    engine.update(step, values, weights, state, ids, grads, check, scratch, report, current_stream(weights))
    settle(weights)
    return 0 if check else DeferredCount(report, rows, ids)


def quantize_rowwise(x: Array, out: Array, check_finite: bool) -> None:
    """Quantise rows; waits for the device if `check_finite`."""
    engine = cuda_engine("x")
    engine.quantize_rowwise(x, out, _report(x, "x"), check_finite, current_stream(x))
    settle(x)


def dequantize_rowwise(q: Array, out: Array) -> None:
    """Undo :func:`quantize_rowwise`."""
    cuda_engine("q").dequantize_rowwise(q, out, current_stream(q))
    settle(q)


def pool(
    weights: Array, ids: Array, offsets: Array, mode: str, per_sample_weights: Array | None, out: Array, check: bool
) -> None:
    """Sum or average rows per bag; waits for the device if `check`."""
    engine = cuda_engine("weights")
    report = _report(weights, "weights")
    engine.pool(weights, ids, offsets, mode, per_sample_weights, out, report, check, current_stream(weights))
    settle(weights)


def pool_backward(
    grads: Array, offsets: Array, mode: str, per_sample_weights: Array | None, out: Array, check: bool
) -> None:
    """Write the gradient of each id's row; waits for the device if `check`."""
    engine = cuda_engine("grads")
    report = _report(grads, "grads")
    engine.pool_backward(grads, offsets, mode, per_sample_weights, out, report, check, current_stream(grads))
    settle(grads)


def topk_int8(queries: Array, q: Array, scores: Array, rows: Array, check_finite: bool) -> None:
    """Write the k best rows of each query; waits for the device if `check_finite`."""
    engine = cuda_engine("queries")
    num_rows, columns = _lengths(q, 2)
    n, k = _lengths(scores, 2)
    # what the engine refuses needs none
    size = engine.topk_scratch_bytes(n, num_rows, columns - 8, k, device_of(queries)) if columns > 8 else 0
    scratch = empty_like(queries, (size,), "uint8", "queries")
    report = _report(queries, "queries")
    engine.topk_int8(queries, q, scores, rows, scratch, report, check_finite, current_stream(queries))
    settle(queries)
