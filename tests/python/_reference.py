"""Every optimizer of the engine, described once for all tests. A new optimizer is one entry of OPTIMIZERS."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import fastinc as fi
from _devices import ops
from _rounding import Bounded, group_sum

NAN, INF = float("nan"), float("inf")

#: Shape of a state array.
ELEMENT, ROW = "element", "row"


@dataclass(frozen=True)
class Spec:
    """How an optimizer is made, called and checked."""

    #: Its class, and what the class needs beside a variant's parameters.
    make: type[fi.Optimizer]
    #: fi.ops function; state arrays are passed by name.
    update: Callable[..., int]
    #: State arrays by name, in the order of a row's state in a table.
    state: dict[str, str]
    #: Parameter sets by name, large enough that every term shows.
    variants: dict[str, dict[str, Any]]
    #: step(params, w, G, state) -> (w, state): one step on rows, plain arithmetic on Bounded arrays.
    step: Callable[..., Any]
    #: Values that must be refused, by parameter.
    bad: dict[str, tuple[float, ...]]
    #: torch's own: (params) -> function of a list of tensors, or None where torch has none.
    torch: Callable[[dict[str, Any]], Callable[..., torch.optim.Optimizer] | None]
    #: Parameters the constructor has and fi.ops doesn't.
    only_constructor: tuple[str, ...] = field(default=())


def _decay(p, w, g):
    """(gradient, factor of w) under no, L2 or decoupled weight decay."""
    wd = p.get("weight_decay", 0.0)
    if p.get("decoupled_weight_decay"):
        return g, Bounded.constant(1.0 - p["lr"] * wd)
    return g + Bounded.constant(wd) * w, 1.0


def _sgd(p, w, g, state):
    return w - Bounded.constant(p["lr"]) * (g + Bounded.constant(p.get("weight_decay", 0.0)) * w), {}


def _momentum(p, w, g, state):
    g = g + Bounded.constant(p.get("weight_decay", 0.0)) * w
    b = Bounded.constant(p["momentum"]) * state["momentum_buffer"] + g
    return w - Bounded.constant(p["lr"]) * b, {"momentum_buffer": b}


def _kept(p, h):
    """What an accumulator keeps of itself."""
    return Bounded.constant(p.get("forgetting_factor", 1.0)) * h


def _adagrad(p, w, g, state):
    g, keep = _decay(p, w, g)
    h = _kept(p, state["state"]) + g * g
    w = w * keep - Bounded.constant(p["lr"]) * g / (h.sqrt() + Bounded.constant(p["eps"]))
    return w, {"state": h}


def _rowwise_adagrad(p, w, g, state):
    g, keep = _decay(p, w, g)
    h = _kept(p, state["state"]) + (g * g).mean_of_rows()
    # w - m (G + wd w), which the engine evaluates as (1 - m wd) w - m G: both roundings are within twice the bound
    multiplier = Bounded.constant(p["lr"]) / (h.sqrt() + Bounded.constant(p["eps"]))
    return w * keep - multiplier * g, {"state": h}


def _adam(p, w, g, state):
    g, keep = _decay(p, w, g)
    m = Bounded.constant(p["beta1"]) * state["exp_avg"] + Bounded.constant(1 - p["beta1"]) * g
    v = Bounded.constant(p["beta2"]) * state["exp_avg_sq"] + Bounded.constant(1 - p["beta2"]) * (g * g)
    t = state["steps"].value + 1
    step_size = Bounded(p["lr"] / (1 - p["beta1"] ** t))
    correction = Bounded(1 / np.sqrt(1 - p["beta2"] ** t))
    root = v.sqrt() * (correction * Bounded(1.0)) + Bounded.constant(p["eps"])
    w = w * keep - (step_size * Bounded(1.0)) * m / root
    return w, {"exp_avg": m, "exp_avg_sq": v, "steps": Bounded(t)}


def _ftrl(p, w, g, state):
    lr, l1 = Bounded.constant(p["lr"]), Bounded.constant(p.get("l1", 0.0))
    squares = state["n"] + g * g
    sigma = (squares.sqrt() - state["n"].sqrt()) / lr
    z = state["z"] + (g - sigma * w)
    quadratic = (Bounded.constant(p["beta"]) + squares.sqrt()) / lr + Bounded.constant(p.get("l2", 0.0))
    return (-z).shrink(l1) / quadratic, {"z": z, "n": squares}


def _torch_sgd(p):
    return lambda w: torch.optim.SGD(w, **p)


def _torch_adagrad(p):
    if p.get("decoupled_weight_decay") or "forgetting_factor" in p:
        return None
    return lambda w: torch.optim.Adagrad(
        w,
        lr=p["lr"],
        eps=p["eps"],
        weight_decay=p.get("weight_decay", 0.0),
        initial_accumulator_value=p.get("initial_accumulator_value", 0.0),
    )


class _TorchRowWiseAdagrad(torch.optim.Optimizer):
    """The published formula in torch: one accumulator a row."""

    def __init__(self, params, p):
        super().__init__(params, {})
        self.p = p

    @torch.no_grad()
    def step(self):
        p, wd = self.p, self.p.get("weight_decay", 0.0)
        for w in self.param_groups[0]["params"]:
            start = torch.full((len(w), 1), p.get("initial_accumulator_value", 0.0), dtype=w.dtype)
            h = self.state[w].setdefault("sum", start)
            g = w.grad if p.get("decoupled_weight_decay") else w.grad + wd * w
            h.mul_(p.get("forgetting_factor", 1.0)).add_(g.pow(2).mean(1, keepdim=True))
            if p.get("decoupled_weight_decay"):
                w *= 1 - p["lr"] * wd
            w.addcdiv_(g, (h.sqrt() + p["eps"]).expand_as(g), value=-p["lr"])


def _torch_rowwise_adagrad(p):
    return lambda w: _TorchRowWiseAdagrad(w, p)


def _torch_adam(p):
    kind = torch.optim.AdamW if p.get("decoupled_weight_decay") else torch.optim.Adam
    return lambda w: kind(
        w,
        lr=p["lr"],
        betas=(p["beta1"], p["beta2"]),
        eps=p["eps"],
        weight_decay=p.get("weight_decay", 0.0),
    )


_ADAGRAD_VARIANTS = {
    "plain": {"lr": 0.3, "eps": 1e-8},
    "eps": {"lr": 0.3, "eps": 0.25},
    "start": {"lr": 0.3, "eps": 1e-3, "initial_accumulator_value": 0.5},
    "l2": {"lr": 0.3, "eps": 1e-3, "weight_decay": 0.2},
    "decoupled": {"lr": 0.3, "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
    "forgetting": {"lr": 0.3, "eps": 1e-3, "forgetting_factor": 0.6, "initial_accumulator_value": 0.5},
}
_NEGATIVE = (-1.0, -1e-9, NAN, INF, -INF, 1e39)
_ADAGRAD_BAD = {
    "lr": _NEGATIVE,
    "eps": (0.0, *_NEGATIVE),
    "weight_decay": _NEGATIVE,
    "forgetting_factor": (0.0, 1.5, *_NEGATIVE),
}
_ADAM = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9}

OPTIMIZERS: dict[str, Spec] = {
    "sgd": Spec(
        make=fi.SGD,
        update=ops.sgd_update,
        state={},
        variants={"plain": {"lr": 0.3}, "l2": {"lr": 0.3, "weight_decay": 0.2}},
        step=_sgd,
        bad={"lr": _NEGATIVE, "weight_decay": _NEGATIVE, "momentum": (-0.5, 1.0, NAN, INF)},
        torch=_torch_sgd,
    ),
    "momentum": Spec(
        make=fi.SGD,
        update=ops.sgd_update,
        state={"momentum_buffer": ELEMENT},
        variants={
            "plain": {"lr": 0.3, "momentum": 0.7},
            "l2": {"lr": 0.3, "momentum": 0.7, "weight_decay": 0.2},
        },
        step=_momentum,
        bad={"lr": _NEGATIVE, "weight_decay": _NEGATIVE, "momentum": (-0.5, 1.0, 2.0, NAN, INF)},
        torch=_torch_sgd,
    ),
    "adagrad": Spec(
        make=fi.Adagrad,
        update=ops.adagrad_update,
        state={"state": ELEMENT},
        variants=_ADAGRAD_VARIANTS,
        step=_adagrad,
        bad=_ADAGRAD_BAD,
        torch=_torch_adagrad,
        only_constructor=("initial_accumulator_value",),
    ),
    "rowwise_adagrad": Spec(
        make=fi.RowWiseAdagrad,
        update=ops.rowwise_adagrad_update,
        state={"state": ROW},
        variants=_ADAGRAD_VARIANTS,
        step=_rowwise_adagrad,
        bad=_ADAGRAD_BAD,
        torch=_torch_rowwise_adagrad,
        only_constructor=("initial_accumulator_value",),
    ),
    "adam": Spec(
        make=fi.Adam,
        update=ops.adam_update,
        state={"exp_avg": ELEMENT, "exp_avg_sq": ELEMENT, "steps": ROW},
        variants={
            "plain": {**_ADAM, "eps": 1e-8},
            "eps": {**_ADAM, "eps": 0.25},
            "l2": {**_ADAM, "eps": 1e-3, "weight_decay": 0.2},
            "decoupled": {**_ADAM, "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
        },
        step=_adam,
        bad={
            "lr": _NEGATIVE,
            "beta1": (-0.1, 1.0, 1.5, NAN, INF),
            "beta2": (-0.1, 1.0, 1.5, NAN, INF),
            "eps": (0.0, *_NEGATIVE),
            "weight_decay": _NEGATIVE,
        },
        torch=_torch_adam,
    ),
    "ftrl": Spec(
        make=fi.FTRL,
        update=ops.ftrl_update,
        state={"z": ELEMENT, "n": ELEMENT},
        variants={
            "plain": {"lr": 0.3, "beta": 1.0},
            "l1": {"lr": 0.3, "beta": 1.0, "l1": 0.2},
            "l2": {"lr": 0.3, "beta": 0.5, "l1": 0.1, "l2": 0.7},
        },
        step=_ftrl,
        bad={
            "lr": (0.0, *_NEGATIVE),
            "beta": (0.0, *_NEGATIVE),
            "l1": _NEGATIVE,
            "l2": _NEGATIVE,
        },
        torch=lambda p: None,
    ),
}


@dataclass(frozen=True)
class Case:
    """One optimizer with one parameter set."""

    name: str
    variant: str

    @classmethod
    def plain(cls, name: str) -> Case:
        """The first variant, for tests where the variant doesn't matter."""
        return cls(name, next(iter(OPTIMIZERS[name].variants)))

    @property
    def spec(self) -> Spec:
        return OPTIMIZERS[self.name]

    @property
    def params(self) -> dict[str, Any]:
        return self.spec.variants[self.variant]

    @property
    def start(self) -> float:
        """What state starts from."""
        return self.params.get("initial_accumulator_value", 0.0)

    def optimizer(self) -> fi.Optimizer:
        return self.spec.make(**self.params)

    def make_state(self, rows: int, dim: int) -> dict[str, np.ndarray]:
        shapes = {ELEMENT: (rows, dim), ROW: (rows,)}
        return {name: np.full(shapes[shape], self.start, np.float32) for name, shape in self.spec.state.items()}

    def update(self, weights, state, ids, grads, **more) -> int:
        params = {k: v for k, v in self.params.items() if k not in self.spec.only_constructor}
        return self.spec.update(weights=weights, ids=ids, grads=grads, **state, **{**params, **more})

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}"


CASES = [Case(name, variant) for name, spec in OPTIMIZERS.items() for variant in spec.variants]
#: One case per optimizer, where the variant doesn't matter.
PLAIN_CASES = [Case.plain(name) for name in OPTIMIZERS]
BAD_PARAMETERS = [
    (name, parameter, value)
    for name, spec in OPTIMIZERS.items()
    for parameter, values in spec.bad.items()
    for value in values
]


class Reference:
    """Rows under an optimizer in float64, with bounds on what float32 may differ by."""

    def __init__(self, case: Case, weights: np.ndarray, state: dict[str, np.ndarray]) -> None:
        self.case = case
        self.weights = Bounded(weights.copy())
        self.state = {
            name: Bounded(array.copy() if array.ndim == 2 else array[:, None].copy()) for name, array in state.items()
        }

    def update(self, ids, grads) -> None:
        """Sum duplicates as the engine promises to, then one step per row."""
        ids = np.asarray(ids)
        for row in np.unique(ids):
            at = slice(int(row), int(row) + 1)
            g = Bounded(group_sum(np.asarray(grads)[ids == row])[None])
            state = {name: array[at] for name, array in self.state.items()}
            self.weights[at], state = self.case.spec.step(self.case.params, self.weights[at], g, state)
            for name, array in state.items():
                self.state[name][at] = array

    def assert_holds(self, weights, state) -> None:
        self.weights.assert_holds(weights, "weights")
        for name, array in state.items():
            self.state[name].assert_holds(np.asarray(array).reshape(self.state[name].value.shape), name)


def case_ids(cases) -> dict[str, Any]:
    """Arguments of pytest.mark.parametrize over cases."""
    return {"argnames": "case", "argvalues": cases, "ids": [str(case) for case in cases]}


def bytes_of(*arrays) -> tuple[bytes, ...]:
    """The bytes of arrays and of dicts of arrays, for comparisons that -0.0 and NaN can't hide from."""
    flat = itertools.chain.from_iterable(a.values() if isinstance(a, dict) else (a,) for a in arrays)
    return tuple(np.asarray(a).tobytes() for a in flat)


#: A Recommender with none of the parts that presets add, learning one event after the other.
PLAIN_RECOMMENDER = {
    "hard_negatives": None,
    "context_lr_scale": 1.0,
    "tie_weight": 0.0,
    "long_window": 0,
    "situations": False,
    "hidden": 0,
    "batch_size": 1,
}
