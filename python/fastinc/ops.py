"""Kernels over your own arrays: in place, zero copy.

Arrays are NumPy arrays, torch tensors, or anything with DLPack, all on the CPU or all on one GPU. Rows are float32,
ids int32 or int64; arrays that are non-contiguous, or read-only where they are written to, raise. Ids repeat: their
gradients are summed in float32 in a fixed order and each row takes one step, with the same bytes for any number of
threads and any instruction set, on the CPU and on a GPU. All but small calls release the GIL: don't write to the
arrays from another thread meanwhile.

Arrays on a GPU are worked on there, on the stream that their library is working on (CuPy's and torch's current one).
A call waits for the device only to tell an error: with ``nonfinite="raise"``, ``check_finite=True`` or ``check=True``,
the defaults. Without them it can be captured in a CUDA graph.

All updates share these parameters:

``weights`` (num_rows, dim) float32, written; state arrays likewise, as each function says; ``ids`` (n,) int32 or
int64 in [0, num_rows); ``grads`` (n, dim) float32; ``nonfinite`` "raise" refuses a batch with a gradient (or a
sum of squares of summed gradients) that isn't finite in float32 and changes nothing, "skip" leaves out those rows.
They return how many rows were skipped; on a GPU under "skip" as a :class:`DeferredCount`, which waits for the device
where it is read, and for ids out of range, which are left out, raises only then. Errors: TypeError (dtype), ValueError
(shape, layout, device, non-finite, hyper-parameter), IndexError (id out of range), RuntimeError (CUDA can't be used);
each names the argument and the value, and changes nothing.
"""

from __future__ import annotations

from typing import Any, Literal

from fastinc import _core, _cuda_ops
from fastinc._arguments import as_choice, as_flag, as_number, as_whole
from fastinc._device import DeferredCount, is_on_cuda
from fastinc._kinds import new_like, shape_of
from fastinc._pooling import pool, pool_backward

__all__ = [
    "DeferredCount",
    "adagrad_update",
    "adam_update",
    "dequantize_rowwise",
    "ftrl_update",
    "pool",
    "pool_backward",
    "quantize_rowwise",
    "rowwise_adagrad_update",
    "sgd_update",
    "topk_int8",
]

NonFinite = Literal["raise", "skip"]
_POLICIES = ("raise", "skip")
#: A NumPy array, a torch tensor, or anything with ``__dlpack__``.
Array = Any

# Each optimizer with its parameters and state arrays by name, as the functions below bring them.
_DECAYED = ("weight_decay", "decoupled_weight_decay")
_SGD = _core.DenseUpdate("sgd", ("lr", "weight_decay"), ())
_MOMENTUM_SGD = _core.DenseUpdate("momentum_sgd", ("lr", "momentum", "weight_decay"), ("momentum_buffer",))
_ADAGRAD = _core.DenseUpdate("adagrad", ("lr", "eps", *_DECAYED, "forgetting_factor"), ("state",))
_ROWWISE_ADAGRAD = _core.DenseUpdate("rowwise_adagrad", ("lr", "eps", *_DECAYED, "forgetting_factor"), ("state",))
_ADAM = _core.DenseUpdate("adam", ("lr", "beta1", "beta2", "eps", *_DECAYED), ("exp_avg", "exp_avg_sq", "steps"))
_FTRL = _core.DenseUpdate("ftrl", ("lr", "beta", "l1", "l2"), ("z", "n"))


def _update(
    step: _core.DenseUpdate,
    values: tuple[float, ...],
    weights: Array,
    state: tuple[Array, ...],
    ids: Array,
    grads: Array,
    nonfinite: NonFinite,
) -> int | DeferredCount:
    if is_on_cuda(weights):
        return _cuda_ops.update(step, values, weights, state, ids, grads, nonfinite)
    return step(values, weights, state, ids, grads, nonfinite)


def sgd_update(
    weights: Array,
    ids: Array,
    grads: Array,
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    momentum_buffer: Array | None = None,
    weight_decay: float = 0.0,
    nonfinite: NonFinite = "raise",
) -> int | DeferredCount:
    """SGD on the rows in `ids`: ``w -= lr * (G + weight_decay * w)``; see :class:`fastinc.SGD`.

    Parameters
    ----------
    weights, ids, grads, nonfinite
        See :mod:`fastinc.ops`.
    lr, weight_decay
        Learning rate and L2 penalty, >= 0.
    momentum
        In [0, 1); above 0 it needs `momentum_buffer`.
    momentum_buffer
        (num_rows, dim) float32, written.

    Returns
    -------
    int or DeferredCount
        Rows skipped.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights = np.zeros((3, 2), dtype=np.float32)
    >>> fi.ops.sgd_update(weights, np.array([1, 1]), np.ones((2, 2), dtype=np.float32), lr=0.5)
    0
    >>> weights[1].tolist()
    [-1.0, -1.0]
    """
    if momentum_buffer is None:
        if as_number(momentum, "momentum") != 0.0:
            raise ValueError(f"momentum_buffer is needed for momentum = {momentum}")
        as_choice(nonfinite, "nonfinite", _POLICIES)
        values: tuple[float, ...] = (as_number(lr, "lr"), as_number(weight_decay, "weight_decay"))
        return _update(_SGD, values, weights, (), ids, grads, nonfinite)
    as_choice(nonfinite, "nonfinite", _POLICIES)
    values = (as_number(lr, "lr"), as_number(momentum, "momentum"), as_number(weight_decay, "weight_decay"))
    return _update(_MOMENTUM_SGD, values, weights, (momentum_buffer,), ids, grads, nonfinite)


def adagrad_update(
    weights: Array,
    state: Array,
    ids: Array,
    grads: Array,
    *,
    lr: float = 0.1,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    forgetting_factor: float = 1.0,
    nonfinite: NonFinite = "raise",
) -> int | DeferredCount:
    """Adagrad: ``h += G**2; w -= lr * G / (sqrt(h) + eps)``; see :class:`fastinc.Adagrad`.

    Parameters
    ----------
    weights, ids, grads, nonfinite
        See :mod:`fastinc.ops`.
    state
        (num_rows, dim) float32: h, written.
    lr, eps, weight_decay, decoupled_weight_decay, forgetting_factor
        As in :class:`fastinc.Adagrad`.

    Returns
    -------
    int or DeferredCount
        Rows skipped.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights, state = np.zeros((3, 2), dtype=np.float32), np.zeros((3, 2), dtype=np.float32)
    >>> fi.ops.adagrad_update(weights, state, np.array([1]), np.full((1, 2), 3, dtype=np.float32), lr=0.5)
    0
    >>> weights[1].tolist(), state[1].tolist()
    ([-0.5, -0.5], [9.0, 9.0])
    """
    as_choice(nonfinite, "nonfinite", _POLICIES)
    values = (
        as_number(lr, "lr"),
        as_number(eps, "eps"),
        as_number(weight_decay, "weight_decay"),
        as_flag(decoupled_weight_decay, "decoupled_weight_decay"),
        as_number(forgetting_factor, "forgetting_factor"),
    )
    return _update(_ADAGRAD, values, weights, (state,), ids, grads, nonfinite)


def rowwise_adagrad_update(
    weights: Array,
    state: Array,
    ids: Array,
    grads: Array,
    *,
    lr: float = 0.1,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    forgetting_factor: float = 1.0,
    nonfinite: NonFinite = "raise",
) -> int | DeferredCount:
    """Rowwise Adagrad: ``h += mean(G**2); w -= lr * G / (sqrt(h) + eps)``; see :class:`fastinc.RowWiseAdagrad`.

    Parameters
    ----------
    weights, ids, grads, nonfinite
        See :mod:`fastinc.ops`.
    state
        (num_rows,) float32: h, written.
    lr, eps, weight_decay, decoupled_weight_decay, forgetting_factor
        As in :class:`fastinc.RowWiseAdagrad`.

    Returns
    -------
    int or DeferredCount
        Rows skipped.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights, state = np.zeros((3, 2), dtype=np.float32), np.zeros(3, dtype=np.float32)
    >>> grads = np.full((1, 2), 3, dtype=np.float32)
    >>> fi.ops.rowwise_adagrad_update(weights, state, np.array([1]), grads, lr=0.5)
    0
    >>> weights[1].tolist(), float(state[1])
    ([-0.5, -0.5], 9.0)
    """
    as_choice(nonfinite, "nonfinite", _POLICIES)
    values = (
        as_number(lr, "lr"),
        as_number(eps, "eps"),
        as_number(weight_decay, "weight_decay"),
        as_flag(decoupled_weight_decay, "decoupled_weight_decay"),
        as_number(forgetting_factor, "forgetting_factor"),
    )
    return _update(_ROWWISE_ADAGRAD, values, weights, (state,), ids, grads, nonfinite)


def adam_update(
    weights: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    steps: Array,
    ids: Array,
    grads: Array,
    *,
    lr: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    nonfinite: NonFinite = "raise",
) -> int | DeferredCount:
    """Lazy Adam with a step count per row; see :class:`fastinc.Adam`.

    Parameters
    ----------
    weights, ids, grads, nonfinite
        See :mod:`fastinc.ops`.
    exp_avg, exp_avg_sq
        (num_rows, dim) float32: m and v, written.
    steps
        (num_rows,) float32: t of each row, written.
    lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay
        As in :class:`fastinc.Adam`.

    Returns
    -------
    int or DeferredCount
        Rows skipped.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights, m, v = (np.zeros((3, 2), dtype=np.float32) for _ in range(3))
    >>> steps = np.zeros(3, dtype=np.float32)
    >>> fi.ops.adam_update(weights, m, v, steps, np.array([1]), np.ones((1, 2), dtype=np.float32), lr=0.5)
    0
    >>> weights[1].round(6).tolist(), steps.tolist()
    ([-0.5, -0.5], [0.0, 1.0, 0.0])
    """
    as_choice(nonfinite, "nonfinite", _POLICIES)
    values = (
        as_number(lr, "lr"),
        as_number(beta1, "beta1"),
        as_number(beta2, "beta2"),
        as_number(eps, "eps"),
        as_number(weight_decay, "weight_decay"),
        as_flag(decoupled_weight_decay, "decoupled_weight_decay"),
    )
    return _update(_ADAM, values, weights, (exp_avg, exp_avg_sq, steps), ids, grads, nonfinite)


def ftrl_update(
    weights: Array,
    z: Array,
    n: Array,
    ids: Array,
    grads: Array,
    *,
    lr: float = 0.1,
    beta: float = 1.0,
    l1: float = 0.0,
    l2: float = 0.0,
    nonfinite: NonFinite = "raise",
) -> int | DeferredCount:
    """FTRL-Proximal; see :class:`fastinc.FTRL`.

    Parameters
    ----------
    weights, ids, grads, nonfinite
        See :mod:`fastinc.ops`.
    z, n
        (num_rows, dim) float32, written.
    lr, beta, l1, l2
        As in :class:`fastinc.FTRL`.

    Returns
    -------
    int or DeferredCount
        Rows skipped.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights, z, n = (np.zeros((3, 2), dtype=np.float32) for _ in range(3))
    >>> grads = np.array([[3, 0.5]], dtype=np.float32)
    >>> fi.ops.ftrl_update(weights, z, n, np.array([1]), grads, lr=0.5, l1=1.0)
    0
    >>> weights[1].tolist()
    [-0.25, 0.0]
    """
    as_choice(nonfinite, "nonfinite", _POLICIES)
    values = (as_number(lr, "lr"), as_number(beta, "beta"), as_number(l1, "l1"), as_number(l2, "l2"))
    return _update(_FTRL, values, weights, (z, n), ids, grads, nonfinite)


def quantize_rowwise(x: Array, *, out: Array | None = None, check_finite: bool = True) -> Array:
    """Quantise rows to 8 bits in the fused rowwise format of FBGEMM and torch.

    A row becomes its ``dim`` codes, then a float32 scale and a float32 bias: ``range = max - min``,
    ``scale = range / 255``, ``bias = min``, ``code = rint((x - min) * 255 / (range + 1e-8))`` half to even.
    Bit-exact with ``torch.ops.quantized.embedding_bag_byte_prepack``, save the sign of a zero bias where a row
    has both 0.0 and -0.0 as its minimum (the values it gives back are equal).

    Parameters
    ----------
    x
        (n, dim) float32, finite, dim >= 1.
    out
        (n, dim + 8) uint8 to write to; made if None.
    check_finite
        False: a row with a value that isn't finite becomes anything, and a GPU isn't waited for.

    Returns
    -------
    array
        `out`; else a new array: on the GPU where `x` is, as its library makes them; a torch tensor if `x` is one; or
        a NumPy array.

    Raises
    ------
    ValueError
        A value of `x` isn't finite, named with its place. Rows are checked as they are quantised: `out` then holds
        anything.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> fi.ops.quantize_rowwise(np.array([[0, 1, 2.55]], dtype=np.float32))[0, :3].tolist()
    [0, 100, 255]
    """
    check_finite = as_flag(check_finite, "check_finite")
    if out is None:
        rows, dim = shape_of(x, "x", 2)
        out = new_like(x, (rows, dim + 8), "uint8", "x")
    quantize = _cuda_ops.quantize_rowwise if is_on_cuda(x) else _core.quantize_rowwise
    quantize(x, out, check_finite)
    return out


def dequantize_rowwise(q: Array, *, out: Array | None = None) -> Array:
    """Undo :func:`quantize_rowwise`: ``code * scale + bias``, rounded once.

    Parameters
    ----------
    q
        (n, dim + 8) uint8.
    out
        (n, dim) float32 to write to; made if None.

    Returns
    -------
    array
        `out`; else a new array, as :func:`quantize_rowwise` makes them.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> x = np.array([[0, 1, 2.55]], dtype=np.float32)
    >>> fi.ops.dequantize_rowwise(fi.ops.quantize_rowwise(x)).round(4).tolist()
    [[0.0, 1.0, 2.549999952316284]]
    """
    if out is None:
        rows, columns = shape_of(q, "q", 2)
        if columns < 9:
            raise ValueError(f"q has {columns} columns; a row is at least 9 bytes (1 code, scale, bias)")
        out = new_like(q, (rows, columns - 8), "float32", "q")
    dequantize = _cuda_ops.dequantize_rowwise if is_on_cuda(q) else _core.dequantize_rowwise
    dequantize(q, out)
    return out


def topk_int8(queries: Array, q: Array, k: int, *, check_finite: bool = True) -> tuple[Array, Array]:
    """Return the k rows of `q` with the largest inner product with each query: all of them, scored in float32.

    Integer inner products (VNNI where the CPU has it) bound every row's score; what may be among the best is scored
    as ``queries @ dequantize_rowwise(q).T`` would, so that no approximation is left in the answer.

    Parameters
    ----------
    queries
        (n, dim) or (dim,) float32, finite.
    q
        (rows, dim + 8) uint8, as :func:`quantize_rowwise` makes them; dim at most 65536.
    k
        At least 1; more than there are rows is padded.
    check_finite
        False: on a GPU, which then isn't waited for, a query that isn't finite gets padding. The CPU always checks.

    Returns
    -------
    scores, rows
        (n, k) float32 and int64, or (k,) for one (dim,) query; made as :func:`quantize_rowwise` makes arrays.
        Best first, equal scores by smaller row; padded with score -3.4028235e38 and row -1. The same bytes for any
        thread count and instruction set. Rows with values that aren't finite are left out.

    Raises
    ------
    ValueError, TypeError
        A wrong shape, dtype or layout, a query that isn't finite, or k below 1.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> q = fi.ops.quantize_rowwise(np.array([[0, 1], [5, 5], [2, 0]], dtype=np.float32))
    >>> scores, rows = fi.ops.topk_int8(np.array([1, 0], dtype=np.float32), q, k=2)
    >>> scores.tolist(), rows.tolist()
    ([5.0, 2.0], [1, 2])
    """
    k = as_whole(k, "k", 1)
    shape = tuple(getattr(queries, "shape", ()))
    if len(shape) not in (1, 2):
        raise ValueError(f"queries has shape {shape}; it must be 1-D or 2-D")
    matrix = queries.reshape(1, -1) if len(shape) == 1 else queries
    check_finite = as_flag(check_finite, "check_finite")
    scores = new_like(queries, (len(matrix), k), "float32", "queries")
    rows = new_like(queries, (len(matrix), k), "int64", "queries")
    if is_on_cuda(queries):
        _cuda_ops.topk_int8(matrix, q, scores, rows, check_finite)
    else:
        _core.topk_int8(matrix, q, scores, rows)
    return (scores[0], rows[0]) if len(shape) == 1 else (scores, rows)
