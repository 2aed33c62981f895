"""The optimizers in float64 on the rows of a batch, and how far float32 may be from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core import WrongError
from bench.inputs import Batch

Float64 = NDArray[np.float64]
State = dict[str, Any]
#: All contestants use these.
LR = 0.1
EPS = 1e-8
BETA1, BETA2 = 0.9, 0.999
BETA, L1 = 1.0, 0.1


@dataclass(frozen=True)
class Rows:
    """Some rows of a contestant: (n, dim) weights and its state arrays."""

    weights: NDArray[Any]
    state: State


def sums(batch: Batch) -> tuple[NDArray[np.int64], Float64, Float64]:
    """Return the distinct ids, the sums of their gradients, and the sums of the absolute values."""
    order = np.argsort(batch.ids, kind="stable")
    ids, starts = np.unique(batch.ids[order], return_index=True)
    grads = batch.grads[order].astype(np.float64)
    return ids, np.add.reduceat(grads, starts), np.add.reduceat(np.abs(grads), starts)


def _sgd(w: Float64, g: Float64, state: State) -> tuple[Float64, State]:
    return w - LR * g, {}


def _adagrad(w: Float64, g: Float64, state: State) -> tuple[Float64, State]:
    h = state["state"] + g * g
    return w - LR * g / (np.sqrt(h) + EPS), {"state": h}


def _rowwise_adagrad(w: Float64, g: Float64, state: State) -> tuple[Float64, State]:
    h = state["state"] + np.mean(g * g, axis=1)
    return w - (LR / (np.sqrt(h) + EPS))[:, None] * g, {"state": h}


def _adam(w: Float64, g: Float64, state: State) -> tuple[Float64, State]:
    m = BETA1 * state["exp_avg"] + (1 - BETA1) * g
    v = BETA2 * state["exp_avg_sq"] + (1 - BETA2) * g * g
    t = state["steps"] + 1
    correct1, correct2 = (1 - BETA1**t)[:, None], (1 - BETA2**t)[:, None]
    w = w - LR * (m / correct1) / (np.sqrt(v / correct2) + EPS)
    return w, {"exp_avg": m, "exp_avg_sq": v, "steps": t}


def _ftrl(w: Float64, g: Float64, state: State) -> tuple[Float64, State]:
    n = state["n"] + g * g
    z = state["z"] + g - (np.sqrt(n) - np.sqrt(state["n"])) / LR * w
    w = np.where(np.abs(z) <= L1, 0.0, -(z - np.sign(z) * L1) / ((BETA + np.sqrt(n)) / LR))
    return w, {"z": z, "n": n}


FORMULAS: dict[str, Callable[[Float64, Float64, State], tuple[Float64, State]]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rowwise_adagrad": _rowwise_adagrad,
    "adam": _adam,
    "ftrl": _ftrl,
}


def check_update(formula: str, batch: Batch, before: Rows, after: Rows) -> None:
    """Raise WrongError unless `after` is `before` after one step on the batch; rows are in the order of `sums`.

    The bound allows float32 sums in any order, and a few roundings in the formula: leaving out or doubling one of
    a row's gradients is far outside.
    """
    ids, g, absolute = sums(batch)
    state = {name: np.asarray(array, dtype=np.float64) for name, array in before.state.items()}
    start = np.asarray(before.weights, dtype=np.float64)
    expected, expected_state = FORMULAS[formula](start, g, state)
    # 4e-7 is 7 units in the last place of every addend.
    slack = 4e-7 * absolute
    _compare("weights", after.weights, expected, 1e-6 * np.abs(start) + 1e-5 * np.abs(expected - start) + slack, ids)
    for name, array in expected_state.items():
        wide = 2 * np.abs(g) * slack if array.ndim == 2 else np.max(2 * np.abs(g) * slack, axis=1)
        if name in ("exp_avg", "z"):  # sums with signs: what is near zero has the error of what it is made of
            wide = wide + slack + 1e-6
        _compare(name, after.state[name], array, 1e-5 * np.abs(array) + wide, ids)


def _compare(name: str, got: NDArray[Any], expected: Float64, bound: Float64, ids: NDArray[np.int64]) -> None:
    got = np.asarray(got, dtype=np.float64)
    if got.shape != expected.shape:
        raise WrongError(f"{name} of the batch's rows have shape {got.shape}, not {expected.shape}")
    bad = ~(np.abs(got - expected) <= bound)  # nan is bad
    if bad.any():
        at = tuple(int(index) for index in np.argwhere(bad)[0])
        raise WrongError(f"{name} of id {ids[at[0]]} is {got[at]:.8g}, not {expected[at]:.8g} (at {at})")


def check_equal(name: str, got: NDArray[Any], expected: NDArray[Any], tolerance: float = 0.0) -> None:
    """Raise WrongError unless two arrays agree: exactly, or within a relative and absolute tolerance."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        raise WrongError(f"{name} has shape {got.shape}, not {expected.shape}")
    close = got == expected if tolerance == 0.0 else np.isclose(got, expected, rtol=tolerance, atol=tolerance)
    if not close.all():
        at = tuple(int(index) for index in np.argwhere(~close)[0])
        raise WrongError(f"{name}{list(at)} is {got[at]!r}, not {expected[at]!r}")
