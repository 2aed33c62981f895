"""The training step of `examples/dlrm.py` over tables of several makers, and the tables' part of it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import machine, peers
from bench.core import Case, CaseResult, Contestant, Role, Settings, WrongError, workload
from bench.inputs import Batch, Draw, Float32, Ids, count_name, normals
from bench.pages import own
from bench.race import race
from bench.reference import FORMULAS, Rows, check_equal, check_update
from bench.workloads._dlrm_tables import FastincTables, Shape, Tables, TbeTables, TorchTables, example, row_bytes

_DENSE_ALONE = "dense part alone"
_LEARNING_RATE = 1e-3  # of the dense part


@dataclass(frozen=True)
class Examples:
    """A step's batch: (features, batch) row numbers, (batch, 13) counts, (batch,) clicks."""

    ids: Ids
    dense: Float32
    labels: Float32


@dataclass(frozen=True)
class Given:
    """What the tables' part alone takes: (features, batch) row numbers, (features, batch, dim) gradients."""

    ids: Ids
    grads: Float32


def draw_ids(rng: np.random.Generator, draw: Draw, shape: Shape) -> Ids:
    """Return (features, batch) row numbers."""
    return np.stack([draw(rng, shape.batch) for _ in range(shape.features)])


def draw_examples(draw: Draw, shape: Shape, calls: int) -> Callable[[np.random.Generator], list[Examples]]:
    """Return a function that draws the batches of `calls` steps; clicks are random, for time doesn't depend on them."""

    def make(rng: np.random.Generator) -> list[Examples]:
        batches = []
        for _ in range(calls):
            counts = np.floor(rng.lognormal(1.0, 1.0, (shape.batch, 13))).astype(np.float32)
            labels = (rng.random(shape.batch) < 0.3).astype(np.float32)
            batches.append(Examples(draw_ids(rng, draw, shape), counts, labels))
        return batches

    return make


def draw_given(draw: Draw, shape: Shape, calls: int) -> Callable[[np.random.Generator], list[Given]]:
    """Return a function that draws ids and gradients."""

    def make(rng: np.random.Generator) -> list[Given]:
        batches = []
        for _ in range(calls):
            grads = normals(rng, shape.features * shape.batch, shape.dim)
            batches.append(Given(draw_ids(rng, draw, shape), grads.reshape(shape.features, shape.batch, shape.dim)))
        return batches

    return make


class OverTables(Contestant):
    """What has the tables of a maker in it."""

    def __init__(self, tables: Tables, role: Role) -> None:
        self.tables, self.name, self.role = tables, tables.name, role
        # The same for both kinds, for it is printed once.
        self.timed = (
            "a step: forward, loss, backward, Adam for the dense part, the rows' step; its tables' part: forward, "
            f"backward from given gradients, the rows' step; by {tables.steps}"
        )

    def set_up(self, settings: Settings) -> None:
        self.tables.make(settings)
        self.torch = self.tables.torch

    def keys(self, ids: Ids) -> Any:
        """Return the keys of row numbers, as a tensor."""
        return self.torch.from_numpy(own(self.tables.keys(ids)))

    def check_rows(self, ids: Ids, run: Callable[[list[Rows]], Float32]) -> None:
        """Call `run` with the batch's rows, one `Rows` a feature; check what it does by the gradients it returns."""
        rows, tables = [np.unique(each) for each in ids], self.tables
        before = [tables.renew(feature, each) for feature, each in enumerate(rows)]
        others = [np.setdiff1d(np.arange(0, tables.shape.rows, 1 + tables.shape.rows // 1000), each) for each in rows]
        before_others = [tables.read(feature, each) for feature, each in enumerate(others)]
        grads = run(before)
        for feature, each in enumerate(rows):
            batch = Batch(ids[feature], grads[feature])
            state = tables.state(feature, each)
            if state is None:  # a table doesn't show it
                state = self._accumulated(batch, before[feature])
            after = Rows(tables.read(feature, each), {"state": state})
            check_update(tables.optimizer, batch, before[feature], after)
            if not np.array_equal(tables.read(feature, others[feature]), before_others[feature]):
                raise WrongError(f"rows of feature {feature} outside the batch have changed")

    def _accumulated(self, batch: Batch, before: Rows) -> Any:
        """Return the formula's accumulators after a step."""
        _, place = np.unique(batch.ids, return_inverse=True)
        total = np.zeros(before.weights.shape)
        np.add.at(total, place, batch.grads)
        return FORMULAS[self.tables.optimizer](before.weights, total, before.state)[1]["state"]


class Step(OverTables):
    """A whole step of training."""

    def set_up(self, settings: Settings) -> None:
        super().set_up(settings)
        self.example, shape = example(settings), self.tables.shape
        self.torch.manual_seed(0)
        self.model = self.example.Dlrm(self.tables.module, shape.features, shape.dim)
        self.adam = self.torch.optim.Adam(self.model.dense_parameters(), lr=_LEARNING_RATE)

    def prepare(self, inputs: list[Examples]) -> list[Any]:
        tensor = self.torch.from_numpy
        return [
            self.example.Batch(tensor(own(each.dense)), self.keys(each.ids), tensor(own(each.labels)))
            for each in inputs
        ]

    def given(self, prepared: list[Any]) -> Any:
        return [(each.ids, each.dense, each.labels) for each in prepared]

    def run(self, prepared: list[Any]) -> list[float]:
        step, model, adam = self.example.train_step, self.model, self.adam
        return [step(model, adam, batch) for batch in prepared]

    def check(self, inputs: list[Examples]) -> None:
        """One step: its loss, and all rows by the formula, from gradients of rows that are given as plain tensors."""
        examples, torch = inputs[0], self.torch

        def run(before: list[Rows]) -> Float32:
            rows = [
                torch.from_numpy(each.weights[np.searchsorted(np.unique(ids), ids)]).requires_grad_()
                for each, ids in zip(before, examples.ids, strict=True)
            ]
            logits = self.model.score(torch.from_numpy(examples.dense), rows)
            labels = torch.from_numpy(examples.labels)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            loss.backward()
            dense = [parameter.detach().clone() for parameter in self.model.dense_parameters()]
            (found,) = self.run(self.prepare([examples]))
            check_equal("loss", np.array([found]), np.array([loss.item()]), 1e-5)
            if any(torch.equal(a, b) for a, b in zip(dense, self.model.dense_parameters(), strict=True)):
                raise WrongError("part of the dense part has not moved")
            return np.stack([row.grad.numpy() for row in rows])

        self.check_rows(examples.ids, run)


class DenseAlone(Contestant):
    """The same step, where the rows are the same few numbers, and nothing is done with their gradients."""

    name, role = _DENSE_ALONE, "limit"
    timed = "a step with constants for what comes out of the tables, and nothing done with their gradients"

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def set_up(self, settings: Settings) -> None:
        self.example, torch = example(settings), peers.torch(settings)
        features, _, dim, batch = self.shape
        torch.manual_seed(0)
        rows = torch.empty(features, batch, dim).uniform_(-0.1, 0.1)

        class Constants(torch.nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, keys: Any) -> Any:
                return [each.detach().requires_grad_() for each in rows]

            def step(self) -> None:
                pass

        self.torch, self.model = torch, self.example.Dlrm(Constants(), features, dim)
        self.adam = torch.optim.Adam(self.model.dense_parameters(), lr=_LEARNING_RATE)

    def check(self, inputs: list[Examples]) -> None:
        """The losses of repeated steps on a batch fall."""
        batch = self.prepare(inputs[:1]) * 10
        losses = self.run(batch)
        if not losses[-1] < losses[0]:
            raise WrongError(f"the loss of one batch went from {losses[0]:.6g} to {losses[-1]:.6g} in ten steps")

    def prepare(self, inputs: list[Examples]) -> list[Any]:
        parts = ([own(part) for part in (each.dense, each.ids, each.labels)] for each in inputs)
        return [self.example.Batch(*map(self.torch.from_numpy, each)) for each in parts]

    def given(self, prepared: list[Any]) -> Any:
        return [(each.ids, each.dense, each.labels) for each in prepared]

    def run(self, prepared: list[Any]) -> list[float]:
        return [self.example.train_step(self.model, self.adam, batch) for batch in prepared]


class Part(OverTables):
    """The tables' part of a step alone."""

    def prepare(self, inputs: list[Given]) -> list[Any]:
        return [(self.keys(each.ids), self.tables.grads(each.grads)) for each in inputs]

    def run(self, prepared: list[Any]) -> None:
        part = self.tables.part
        for keys, grads in prepared:
            part(keys, grads)

    def check(self, inputs: list[Given]) -> None:
        """One step: all rows by the formula; what the forward gives is checked in the whole step."""
        given = inputs[0]

        def run(before: list[Rows]) -> Float32:
            self.run(self.prepare([given]))
            return given.grads

        self.check_rows(given.ids, run)


_MAKERS: dict[str, tuple[type[Tables], ...]] = {
    "rowwise_adagrad": (FastincTables, TbeTables),
    "adagrad": (FastincTables, TorchTables, TbeTables),
}
#: Times a maker's rate that a whole step is to reach.
_GOALS = {"rowwise_adagrad": {peers.TBE: 1.5}, "adagrad": {TorchTables.name: 3.0, peers.TBE: 1.5}}


def bytes_needed(optimizer: str, shape: Shape) -> float:
    """Return the bytes of an optimizer's contestants, and of what comes and goes."""
    rows = shape.features * shape.rows
    return sum(rows * row_bytes(maker, optimizer, shape.dim) for maker in _MAKERS[optimizer]) + 2 * 2**30


def choose_shape(optimizer: str, settings: Settings) -> tuple[Shape, str]:
    """Return the shape, and what to say of it where the memory decided."""
    wanted = settings.pick(Shape(26, 1_000_000, 64, 2048), Shape(26, 20_000, 64, 2048), Shape(3, 500, 8, 64))
    needs, available = bytes_needed(optimizer, wanted), machine.available_memory()
    if settings.size != "full" or needs <= available:
        return wanted, ""
    less = wanted._replace(rows=200_000)
    reason = f" ({count_name(wanted.rows)} take {needs / 2**30:.0f} GiB, {available / 2**30:.0f} are available)"
    return less, reason


def _figures(result: CaseResult) -> dict[str, float]:
    """Return how fastinc stands to the fastest peer, and how much of its step is the dense part."""
    rates = {each.name: each.rate for each in result.standings if each.counts and each.role == "peer"}
    figures = {}
    if rates:
        fastest = max(rates, key=lambda name: rates[name])
        figures[f"times the rate of the fastest peer, {fastest}"] = result.ratio(fastest)
    for each in result.standings:
        if each.name == _DENSE_ALONE and each.counts:
            figures["the dense part's share of fastinc's step"] = result.ratio(each.name)
    return figures


def run_optimizer(optimizer: str, settings: Settings) -> Iterator[CaseResult]:
    """Race whole steps, then the tables' parts, over new tables."""
    shape, because = choose_shape(optimizer, settings)
    label = f"{shape.features} tables of {count_name(shape.rows)} x {shape.dim}{because}"
    calls, needs = settings.pick(2, 2, 1), bytes_needed(optimizer, shape)
    for key, (what, kind) in enumerate((("a step", Step), ("its tables' part", Part))):
        contestants: list[Contestant] = [
            kind(maker(optimizer, shape), "subject" if maker is FastincTables else "peer")
            for maker in _MAKERS[optimizer]
        ]
        if kind is Step:
            contestants.append(DenseAlone(shape))
        draw_inputs: Any = draw_examples if kind is Step else draw_given
        cases = [
            Case(
                f"{what}, {label}, {distribution}, {shape.batch:,} examples",
                draw_inputs(Draw(distribution, shape.rows), shape, calls),
                shape.batch * calls,
                unit="examples",
                calls=calls,
                goals=_GOALS[optimizer] if kind is Step else {},
            )
            for distribution in ("uniform", "zipf")
        ]
        for result in race(contestants, cases, settings, key=key, needs=needs):
            result.figures = _figures(result)
            yield result


@workload("dlrm/rowwise_adagrad", "a training step of examples/dlrm.py, rows stepped by rowwise Adagrad", judged=True)
def rowwise_adagrad(settings: Settings) -> Iterator[CaseResult]:
    """Torch has no rowwise Adagrad."""
    return run_optimizer("rowwise_adagrad", settings)


@workload("dlrm/adagrad", "a training step of examples/dlrm.py, rows stepped by Adagrad", judged=True)
def adagrad(settings: Settings) -> Iterator[CaseResult]:
    """What torch has; accumulators of all values double the memory."""
    return run_optimizer("adagrad", settings)
