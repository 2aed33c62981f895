"""Contestants that update the rows of arrays: fastinc's kernels, FBGEMM, torch, NumPy, and the limit."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import fastinc as fi
from bench import peers
from bench.core import Contestant, MissingError, Ready, Role, Settings, WrongError, leave
from bench.inputs import Batch, Float32, fill
from bench.limit import Limit
from bench.pages import make_huge, own
from bench.reference import BETA, BETA1, BETA2, EPS, L1, LR, Rows, check_equal, check_update, sums

#: State arrays and whether they have an element for each weight, with the range they start in.
STATE: dict[str, dict[str, tuple[bool, float, float]]] = {
    "sgd": {},
    "adagrad": {"state": (True, 0.5, 1.5)},
    "rowwise_adagrad": {"state": (False, 0.5, 1.5)},
    "adam": {"exp_avg": (True, -0.1, 0.1), "exp_avg_sq": (True, 0.5, 1.5), "steps": (False, 100.0, 100.0)},
    "ftrl": {"z": (True, -1.0, 1.0), "n": (True, 0.5, 1.5)},
}


def state_bytes(optimizer: str, dim: int) -> int:
    """Return the bytes of a row's state."""
    return 4 * sum(dim if wide else 1 for wide, _, _ in STATE[optimizer].values())


class ArrayUpdater(Contestant):
    """Rows in arrays that NumPy can see; `formula` is what a step must agree with."""

    def __init__(self, optimizer: str, rows: int, dim: int) -> None:
        self.optimizer, self.shape = optimizer, (rows, dim)
        self.formula = optimizer

    def make_arrays(self) -> None:
        """Make weights and state of our own."""
        rows, dim = self.shape
        self.weights = make_huge(np.empty(self.shape, np.float32))
        self.state = {}
        for name, (wide, _, _) in STATE[self.formula].items():
            self.state[name] = make_huge(np.empty((rows, dim) if wide else rows, np.float32))
        self.fill_arrays()

    def fill_arrays(self) -> None:
        """Start everybody's arrays at the same numbers, and on huge pages."""
        for array in (self.weights, *self.state.values()):
            make_huge(array)
        fill(self.weights, -0.1, 0.1, seed=1)
        for name, (_, low, high) in STATE[self.formula].items():
            if name in self.state:
                fill(self.state[name], low, high, seed=2)

    def read(self, rows: Any) -> Rows:
        """Return copies of some rows."""
        return Rows(self.weights[rows], {name: array[rows] for name, array in self.state.items()})

    def check(self, inputs: list[Batch]) -> None:
        """One step on the first batch, against the formula in float64; rows outside it must not move."""
        batch = inputs[0]
        ids, _, _ = sums(batch)
        others = np.setdiff1d(np.linspace(0, self.shape[0] - 1, 1000).astype(np.int64), ids)
        before, before_others = self.read(ids), self.read(others)
        self.measure([batch])
        check_update(self.formula, batch, before, self.read(ids))
        after_others = self.read(others)
        if not np.array_equal(before_others.weights, after_others.weights):
            raise WrongError("rows outside the batch have changed")

    def prepare(self, inputs: list[Batch]) -> Any:
        """Copies: nobody's inputs are another's."""
        return [Batch(own(batch.ids), own(batch.grads)) for batch in inputs]


class Fastinc(ArrayUpdater):
    """``fi.ops``."""

    role: Role = "subject"

    def __init__(self, optimizer: str, rows: int, dim: int, name: str = "fastinc") -> None:
        super().__init__(optimizer, rows, dim)
        self.name, self.timed = name, f"fi.ops.{optimizer}_update(...) on NumPy arrays"

    def set_up(self, settings: Settings) -> None:
        self.make_arrays()
        self.update = getattr(fi.ops, f"{self.optimizer}_update")
        self.parameters: dict[str, float] = {"lr": LR}
        more = {"sgd": {}, "adam": {"eps": EPS, "beta1": BETA1, "beta2": BETA2}, "ftrl": {"beta": BETA, "l1": L1}}
        self.parameters.update(more.get(self.optimizer, {"eps": EPS}))

    def run(self, prepared: list[Batch]) -> None:
        update, weights, state, parameters = self.update, self.weights, self.state.values(), self.parameters
        for batch in prepared:
            update(weights, *state, batch.ids, batch.grads, **parameters)


class Tbe(ArrayUpdater):
    """FBGEMM: the forward that a backward needs isn't timed; the caches are emptied after it."""

    name = peers.TBE
    timed = (
        "backward(grads) alone: bags of one id, SUM, weight_decay=0; the forwards it needs ran before the caches were "
        "emptied"
    )

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        self.table = peers.tbe(settings, *self.shape, self.optimizer, LR, EPS)
        self.weights = self.table.split_embedding_weights()[0].detach().numpy()
        states = [s.detach().numpy() for group in self.table.split_optimizer_states() for s in group]
        self.state = dict(zip(STATE[self.formula], states, strict=False))  # SGD has none
        self.fill_arrays()

    def prepare(self, inputs: list[Batch]) -> Any:
        """Tensors: ids, where their bags begin, gradients."""
        torch = self.torch
        arrays = [(own(batch.ids), np.arange(len(batch.ids) + 1), own(batch.grads)) for batch in inputs]
        return [tuple(torch.from_numpy(array) for array in each) for each in arrays]

    def measure(self, inputs: list[Batch], ready: Ready = leave) -> float:
        prepared = self.prepare(inputs)
        graphs = [(self.table(ids, offsets), grads) for ids, offsets, grads in prepared]
        ready(prepared)
        start = time.perf_counter()
        for out, grads in graphs:
            out.backward(grads)
        return time.perf_counter() - start


class WarmTbe(Tbe):
    """The same table, with the rows where its forward has just left them."""

    name = f"{peers.TBE} (rows warm)"
    timed = "backward(grads) alone, each straight after its untimed forward: its rows are still in the caches"

    def __init__(self, cold: Tbe) -> None:
        super().__init__(cold.optimizer, *cold.shape)
        self.cold = cold

    def set_up(self, settings: Settings) -> None:
        peers.fbgemm(settings)
        if not hasattr(self.cold, "table"):
            raise MissingError(f"{self.cold.name} has no table here")
        self.torch, self.table = self.cold.torch, self.cold.table
        self.weights, self.state = self.cold.weights, self.cold.state

    def measure(self, inputs: list[Batch], ready: Ready = leave) -> float:
        prepared, seconds = self.prepare(inputs), 0.0
        ready(prepared)
        for ids, offsets, grads in prepared:
            out = self.table(ids, offsets)
            start = time.perf_counter()
            out.backward(grads)
            seconds += time.perf_counter() - start
        return seconds


class TorchSparse(ArrayUpdater):
    """torch.optim on a sparse gradient: what nn.Embedding(sparse=True) gives, without its backward."""

    _KINDS = {"sgd": "SGD", "adagrad": "Adagrad", "rowwise_adagrad": "Adagrad", "adam": "SparseAdam"}  # noqa: RUF012

    def __init__(self, optimizer: str, rows: int, dim: int) -> None:
        super().__init__(optimizer, rows, dim)
        self.kind = self._KINDS[optimizer]
        self.formula = "adagrad" if self.kind == "Adagrad" else optimizer
        self.name = f"torch sparse {self.kind}"
        self.timed = f"{self.kind}.step() alone, on a ready sparse gradient (not coalesced, as backward gives it)"

    def set_up(self, settings: Settings) -> None:
        self.torch = torch = peers.torch(settings)
        self.parameter = torch.nn.Parameter(torch.empty(self.shape))
        more: dict[str, dict[str, Any]] = {
            "SGD": {},
            "Adagrad": {"eps": EPS},
            "SparseAdam": {"eps": EPS, "betas": (BETA1, BETA2)},
        }
        self.step = getattr(torch.optim, self.kind)([self.parameter], lr=LR, **more[self.kind])
        self.weights = self.parameter.detach().numpy()
        self.parameter.grad = self._sparse(np.zeros(1, np.int64), np.ones((1, self.shape[1]), np.float32))
        self.step.step()  # makes the state
        own = self.step.state[self.parameter]
        names = {"Adagrad": {"state": "sum"}, "SparseAdam": {n: n for n in ("exp_avg", "exp_avg_sq")}}
        self.state = {ours: own[theirs].numpy() for ours, theirs in names.get(self.kind, {}).items()}
        self.fill_arrays()
        if self.kind == "SparseAdam":
            own["step"] = 100

    def _sparse(self, ids: Any, grads: Float32) -> Any:
        indices, values = self.torch.from_numpy(ids[None]), self.torch.from_numpy(grads)
        return self.torch.sparse_coo_tensor(indices, values, self.shape, check_invariants=False)

    def read(self, rows: Any) -> Rows:
        found = super().read(rows)
        if self.kind == "SparseAdam":  # one count of steps for all rows
            found.state["steps"] = np.full(len(rows), self.step.state[self.parameter]["step"], np.float32)
        return found

    def measure(self, inputs: list[Batch], ready: Ready = leave) -> float:
        prepared, seconds = self.prepare(inputs), 0.0
        gradients = [self._sparse(batch.ids, batch.grads) for batch in prepared]
        ready(prepared)
        for self.parameter.grad in gradients:
            start = time.perf_counter()
            self.step.step()
            seconds += time.perf_counter() - start
        return seconds


class NumPy(ArrayUpdater):
    """The formula in NumPy: sort, sum with reduceat (np.add.at takes as long), index."""

    name = "NumPy"
    timed = "argsort, np.add.reduceat, the formula on the rows found by index, written back by index"

    def set_up(self, settings: Settings) -> None:
        self.make_arrays()

    def run(self, prepared: list[Batch]) -> None:
        for batch in prepared:
            order = np.argsort(batch.ids, kind="stable")
            ids, starts = np.unique(batch.ids[order], return_index=True)
            self._step(ids, np.add.reduceat(batch.grads[order], starts))

    def _step(self, ids: Any, g: Float32) -> None:
        w, state, lr = self.weights, self.state, np.float32(LR)
        if self.optimizer == "sgd":
            w[ids] -= lr * g
        elif self.optimizer == "adagrad":
            h = state["state"][ids] + g * g
            state["state"][ids] = h
            w[ids] -= lr * g / (np.sqrt(h) + np.float32(EPS))
        elif self.optimizer == "rowwise_adagrad":
            h = state["state"][ids] + np.mean(g * g, axis=1)
            state["state"][ids] = h
            w[ids] -= (lr / (np.sqrt(h) + np.float32(EPS)))[:, None] * g
        elif self.optimizer == "adam":
            self._adam(ids, g)
        else:
            self._ftrl(ids, g)

    def _adam(self, ids: Any, g: Float32) -> None:
        state, beta1, beta2 = self.state, np.float32(BETA1), np.float32(BETA2)
        t = state["steps"][ids] + 1
        m = beta1 * state["exp_avg"][ids] + (1 - beta1) * g
        v = beta2 * state["exp_avg_sq"][ids] + (1 - beta2) * g * g
        state["steps"][ids], state["exp_avg"][ids], state["exp_avg_sq"][ids] = t, m, v
        correct1, correct2 = (1 - beta1**t)[:, None], (1 - beta2**t)[:, None]
        self.weights[ids] -= np.float32(LR) * (m / correct1) / (np.sqrt(v / correct2) + np.float32(EPS))

    def _ftrl(self, ids: Any, g: Float32) -> None:
        state, lr, l1 = self.state, np.float32(LR), np.float32(L1)
        n = state["n"][ids]
        squares = n + g * g
        root = np.sqrt(squares)
        z = state["z"][ids] + g - (root - np.sqrt(n)) / lr * self.weights[ids]
        state["z"][ids], state["n"][ids] = z, squares
        self.weights[ids] = -np.sign(z) * np.maximum(np.abs(z) - l1, 0) / ((np.float32(BETA) + root) / lr)


class RowLimit(ArrayUpdater):
    """The same rows read and written in the order they come."""

    name, role = "limit", "limit"
    timed = "a C++ loop: every id's row read, a constant added, written; tuned prefetch; all threads above 1,024 ids"

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__("sgd", rows, dim)

    def set_up(self, settings: Settings) -> None:
        self.make_arrays()
        self.limit = Limit(self.weights, settings)

    def check(self, inputs: list[Batch]) -> None:
        """Every row of the batch moved, by one delta for each time it is there (or less, where two threads met)."""
        ids, counts = np.unique(inputs[0].ids, return_counts=True)
        before = self.weights[ids].astype(np.float64)
        others = np.setdiff1d(np.linspace(0, self.shape[0] - 1, 1000).astype(np.int64), ids)
        before_others = self.weights[others]
        self.limit.update(inputs[0].ids, 0.25)
        moved = self.weights[ids] - before
        least, most = 0.25 - 1e-3, 0.25 * counts[:, None] * (1 + 1e-3) + 1e-3
        if not ((moved >= least) & (moved <= most)).all() or not np.array_equal(self.weights[others], before_others):
            raise WrongError("rows have not moved by what was added")

    def prepare(self, inputs: list[Batch]) -> Any:
        ids = [own(batch.ids) for batch in inputs]
        sign = 1.0 if self.__dict__.setdefault("rises", False) else -1.0
        self.rises = sign < 0  # up and down in turns, so that weights stay small
        return ids, [self.limit.caller(each, sign * 0.25) for each in ids]

    def run(self, prepared: Any) -> None:
        for call in prepared[1]:
            call()


class GradientLimit(ArrayUpdater):
    """The rows of the limit once more, each with its gradient added: what an update can't do without."""

    name, role = "limit with gradients", "limit"
    timed = "the loop of the limit, which adds the gradient's row that comes with the id instead of a constant"

    def __init__(self, rows_alone: RowLimit) -> None:
        super().__init__("sgd", *rows_alone.shape)
        self.rows_alone = rows_alone

    def set_up(self, settings: Settings) -> None:
        if not hasattr(self.rows_alone, "limit"):
            raise MissingError("the limit is missing")
        self.limit, self.weights, self.state = self.rows_alone.limit, self.rows_alone.weights, {}

    def check(self, inputs: list[Batch]) -> None:
        """Rows that come once have their gradient added; of the others, some may be lost where two threads met."""
        ids, first, counts = np.unique(inputs[0].ids, return_index=True, return_counts=True)
        others = np.setdiff1d(np.linspace(0, self.shape[0] - 1, 1000).astype(np.int64), ids)
        before, before_others = self.weights[ids], self.weights[others]
        self.measure(inputs[:1])
        expected = before + inputs[0].grads[first]
        check_equal("rows", self.weights[ids][counts == 1], expected[counts == 1])
        if (self.weights[ids] == before).all(axis=1).any() or not np.array_equal(self.weights[others], before_others):
            raise WrongError("rows have not moved by what was added")

    def prepare(self, inputs: list[Batch]) -> Any:
        kept = super().prepare(inputs)
        return kept, [self.limit.adder(batch.ids, batch.grads) for batch in kept]

    def run(self, prepared: Any) -> None:
        for call in prepared[1]:
            call()


def missing(name: str, reason: str) -> Contestant:
    """Return a contestant that has no such operation."""

    class Missing(Contestant):
        def set_up(self, settings: Settings) -> None:
            raise MissingError(reason)

        def check(self, inputs: Any) -> None:
            self.set_up(Settings())

    contestant = Missing()
    contestant.name = name
    return contestant
