"""Pooled lookup over your own arrays, and its gradient: public as :func:`fastinc.ops.pool` and its backward."""

from __future__ import annotations

from typing import Any, Literal

from fastinc import _core, _cuda_ops
from fastinc._arguments import as_choice, as_flag, as_whole
from fastinc._device import is_on_cuda
from fastinc._kinds import new_like, shape_of

__all__ = ["pool", "pool_backward"]

Array = Any
_MODES = ("sum", "mean")


def pool(
    weights: Array,
    ids: Array,
    offsets: Array,
    mode: Literal["sum", "mean"] = "mean",
    per_sample_weights: Array | None = None,
    *,
    out: Array | None = None,
    check: bool = True,
) -> Array:
    """Sum or average rows per bag, as ``torch.nn.functional.embedding_bag``.

    Rows are added in the order of `ids`, in float32; a mean is the sum divided by the number of ids.

    Parameters
    ----------
    weights
        (num_rows, dim) float32.
    ids
        (n,) int32 or int64 in [0, num_rows).
    offsets
        (bags,) int64, on the CPU also int32: where each bag starts in `ids`; the first is 0, none decreases. An empty
        bag is zero.
    mode
        "sum" or "mean".
    per_sample_weights
        (n,) float32, finite: what each row is multiplied by, for mode "sum".
    out
        (bags, dim) float32 to write to; made if None.
    check
        False: a GPU isn't waited for; ids out of range count as rows of zeros, and offsets out of range as the
        nearest there are. On the CPU arguments are always checked.

    Returns
    -------
    array
        (bags, dim) float32: `out`, or a new array as :func:`fastinc.ops.quantize_rowwise` makes them.

    Raises
    ------
    ValueError, TypeError, IndexError
        A wrong shape, dtype or layout, weights with mode "mean" or not finite, or an id out of range.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    >>> fi.ops.pool(weights, np.array([0, 2, 1]), np.array([0, 2]), mode="sum").tolist()
    [[4.0, 6.0], [2.0, 3.0]]
    """
    as_choice(mode, "mode", _MODES)
    check = as_flag(check, "check")
    if out is None:
        shape = (shape_of(offsets, "offsets", 1)[0], shape_of(weights, "weights", 2)[1])
        out = new_like(weights, shape, "float32", "weights")
    if is_on_cuda(weights):
        _cuda_ops.pool(weights, ids, offsets, mode, per_sample_weights, out, check)
    else:
        _core.pool(weights, ids, offsets, mode, per_sample_weights, out)
    return out


def pool_backward(
    grads: Array,
    offsets: Array,
    n: int,
    mode: Literal["sum", "mean"] = "mean",
    per_sample_weights: Array | None = None,
    *,
    out: Array | None = None,
    check: bool = True,
) -> Array:
    """Return the gradient of each id's row in :func:`pool`: what an update of the same ids takes.

    The gradient of a bag; divided by its number of ids for mode "mean", or times `per_sample_weights`.

    Parameters
    ----------
    grads
        (bags, dim) float32: the gradient of what :func:`pool` returned.
    offsets, mode, per_sample_weights, check
        As they were given to :func:`pool`.
    n
        The number of ids.
    out
        (n, dim) float32 to write to; made if None.

    Returns
    -------
    array
        (n, dim) float32: `out`, or a new array.

    Raises
    ------
    ValueError, TypeError
        A wrong shape, dtype or layout, or weights with mode "mean" or not finite.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> grads = np.array([[2, 4], [6, 8]], dtype=np.float32)
    >>> fi.ops.pool_backward(grads, np.array([0, 2]), 3, mode="mean").tolist()
    [[1.0, 2.0], [1.0, 2.0], [6.0, 8.0]]
    """
    as_choice(mode, "mode", _MODES)
    n = as_whole(n, "n", 0, 2**63 - 1)
    check = as_flag(check, "check")
    if out is not None and shape_of(out, "out", 2)[0] != n:
        raise ValueError(f"out has shape {tuple(out.shape)}; n = {n}")
    if out is None:
        out = new_like(grads, (n, shape_of(grads, "grads", 2)[1]), "float32", "grads")
    if is_on_cuda(grads):
        _cuda_ops.pool_backward(grads, offsets, mode, per_sample_weights, out, check)
    else:
        _core.pool_backward(grads, offsets, mode, per_sample_weights, out)
    return out
