"""Contestants that update the rows of arrays on a device: fastinc's kernels, and torch."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastinc as fi
from bench.core import Role, Settings, WrongError
from bench.gpu.contest import OnDevice, available, check_bytes, to_host
from bench.gpu.device import Call, Device, Tensor
from bench.gpu.draws import Batch
from bench.inputs import Batch as HostBatch
from bench.reference import EPS, LR, Rows, check_update

SPARSE, INDEX_ADD = "torch sparse Adagrad", "torch index_add SGD"
_CHECKED = 1000  # rows whose steps are compared with the formula


class Updater(OnDevice):
    """Rows in tensors; `formula` is what a step must agree with, `state` by its names."""

    formula = "rowwise_adagrad"
    weights: Tensor

    def __init__(self, device: Device, rows: int, dim: int) -> None:
        super().__init__(device)
        self.shape = (rows, dim)
        self.state: dict[str, Tensor] = {}

    def make_weights(self, settings: Settings) -> Tensor:
        """Start everybody's rows at the same numbers."""
        return self.device.uniforms(self.shape, -0.1, 0.1, settings.random(1))

    def read(self, rows: Tensor) -> Rows:
        """Return copies of some rows, on the host."""
        return Rows(to_host(self.weights[rows]), {name: to_host(array[rows]) for name, array in self.state.items()})

    def check(self, inputs: list[Batch]) -> None:
        """One step on the first batch, against the formula in float64; rows outside it must not move."""
        batch, torch = inputs[0], self.device.torch
        ids, counts = torch.unique(batch.ids, return_counts=True)
        picked = torch.linspace(0, len(ids) - 1, _CHECKED, dtype=torch.float64, device=ids.device).long()
        sample = torch.unique(torch.cat([ids[picked], ids[counts.argmax()][None]]))  # with the hottest row
        spread = torch.linspace(0, self.shape[0] - 1, _CHECKED, dtype=torch.float64, device=ids.device).long()
        others = spread[~torch.isin(spread, ids)]
        before, before_others = self.read(sample), self.read(others)
        self.measure([batch])
        kept = torch.isin(batch.ids, sample)
        of_sample = HostBatch(to_host(batch.ids[kept]), to_host(batch.grads[kept]))
        check_update(self.formula, of_sample, before, self.read(sample))
        if not np.array_equal(before_others.weights, self.read(others).weights):
            raise WrongError("rows outside the batch have changed")


class Fastinc(Updater):
    """``fi.ops.rowwise_adagrad_update``; "skip" doesn't wait for the device, "raise" does."""

    def __init__(self, device: Device, rows: int, dim: int, nonfinite: str = "skip", name: str = "fastinc") -> None:
        super().__init__(device, rows, dim)
        self.nonfinite, self.name = nonfinite, name
        self.role: Role = "subject" if nonfinite == "skip" else "variant"
        self.timed = f'fi.ops.rowwise_adagrad_update(weights, state, ids, grads, nonfinite="{nonfinite}")'

    def set_up(self, settings: Settings) -> None:
        self.weights = self.make_weights(settings)
        self.state = {"state": self.device.uniforms(self.shape[:1], 0.5, 1.5, settings.random(2))}
        with available("fi.ops.rowwise_adagrad_update"):
            self._step(self.weights[:1], self.state["state"][:1], self._one(0), self.weights[:1].clone())

    def _one(self, id: int) -> Tensor:
        return self.device.torch.tensor([id], device=self.device.name)

    def _step(self, weights: Any, state: Any, ids: Any, grads: Any) -> object:
        update = fi.ops.rowwise_adagrad_update
        return update(weights, state, ids, grads, lr=LR, eps=EPS, nonfinite=self.nonfinite)  # type: ignore[arg-type]

    def run(self, prepared: list[Batch]) -> object:
        weights, state, last = self.weights, self.state["state"], None
        for batch in prepared:
            last = self._step(weights, state, batch.ids, batch.grads)
        return last

    def check(self, inputs: list[Batch]) -> None:
        super().check(inputs)
        self.check_against_cpu(inputs)

    def check_against_cpu(self, inputs: list[Batch]) -> None:
        """All batches, against the engine of the CPU over the rows they touch: the same bytes."""
        torch, state = self.device.torch, self.state["state"]
        ids, places = torch.unique(torch.cat([batch.ids for batch in inputs]), return_inverse=True)
        expected, expected_state = to_host(self.weights[ids]), to_host(state[ids])
        self.measure(inputs)
        pieces = torch.split(places, [len(batch.ids) for batch in inputs])
        for batch, piece in zip(inputs, pieces, strict=True):
            self._step(expected, expected_state, to_host(piece), to_host(batch.grads))
        check_bytes("weights, beside the CPU's,", self.weights[ids], expected)
        check_bytes("state, beside the CPU's,", state[ids], expected_state)


class SparseAdagrad(Updater):
    """torch.optim.Adagrad on a sparse gradient: what nn.Embedding(sparse=True) gives, without its backward."""

    name, formula = SPARSE, "adagrad"
    timed = "Adagrad.step() alone, on a ready sparse gradient (not coalesced, as backward gives it)"

    def set_up(self, settings: Settings) -> None:
        torch = self.device.torch
        self.parameter = torch.nn.Parameter(self.make_weights(settings))
        self.optimizer = torch.optim.Adagrad([self.parameter], lr=LR, eps=EPS)
        self.weights = self.parameter.detach()
        self.state = {"state": self.optimizer.state[self.parameter]["sum"]}
        self.state["state"].copy_(self.device.uniforms(self.shape, 0.5, 1.5, settings.random(2)))

    def prepare(self, inputs: list[Batch]) -> list[Tensor]:
        make = self.device.torch.sparse_coo_tensor
        return [make(batch.ids[None], batch.grads, self.shape, check_invariants=False) for batch in inputs]

    def run(self, prepared: list[Tensor]) -> None:
        for self.parameter.grad in prepared:
            self.optimizer.step()


class IndexAdd(Updater):
    """SGD in one call of torch: no state, and gradients added one by one."""

    name, formula = INDEX_ADD, "sgd"
    timed = "weights.index_add_(0, ids, grads, alpha=-lr)"

    def set_up(self, settings: Settings) -> None:
        self.weights = self.make_weights(settings)

    def run(self, prepared: list[Batch]) -> None:
        for batch in prepared:
            self.weights.index_add_(0, batch.ids, batch.grads, alpha=-LR)


class Wall(Updater):
    """A contestant by the caller's clock: from the first call to the end of the last one's work."""

    def clock(self, call: Call) -> float:
        return self.device.wall(call)


class FastincWall(Wall, Fastinc):
    """Calls one after the other."""

    def __init__(self, device: Device, rows: int, dim: int, nonfinite: str = "skip", name: str = "fastinc") -> None:
        super().__init__(device, rows, dim, nonfinite, name)
        self.timed = f"wall, calls in a row, then a wait: {self.timed}"


class FastincWaited(FastincWall):
    """Each call waited for before the next: what one batch alone takes."""

    def __init__(self, device: Device, rows: int, dim: int) -> None:
        super().__init__(device, rows, dim, name="fastinc, each waited for")
        self.role = "variant"
        self.timed = self.timed.replace("then a wait", "a wait after each")

    def run(self, prepared: list[Batch]) -> None:
        for batch in prepared:
            super().run([batch])
            self.device.synchronize()


class SparseAdagradWall(Wall, SparseAdagrad):
    """torch, by the caller's clock."""

    timed = f"wall: {SparseAdagrad.timed}"


class IndexAddWall(Wall, IndexAdd):
    """torch, by the caller's clock."""

    timed = f"wall: {IndexAdd.timed}"


class FastincGraph(Fastinc):
    """All batches of a measurement in one CUDA graph, whose inputs are written before each replay."""

    def __init__(self, device: Device, rows: int, dim: int) -> None:
        super().__init__(device, rows, dim, name="fastinc in a graph")
        self.timed = f"replay of one CUDA graph with all the calls: {self.timed}"
        self.slots: list[Batch] = []

    def prepare(self, inputs: list[Batch]) -> list[Batch]:
        if not self.slots:
            self.slots = [Batch(batch.ids.clone(), batch.grads.clone()) for batch in inputs]
            with_slots = self.slots
            self.replay = self.device.graph(lambda: super(FastincGraph, self).run(with_slots))
        for slot, batch in zip(self.slots, inputs, strict=True):
            slot.ids.copy_(batch.ids)
            slot.grads.copy_(batch.grads)
        return self.slots

    def run(self, prepared: list[Batch]) -> object:
        return self.replay()

    def clock(self, call: Call) -> float:
        return self.device.seconds(call, long=True)  # a graph of thousands of kernels

    def check(self, inputs: list[Batch]) -> None:
        """Steps of a graph are those of calls: the CPU's bytes."""
        self.prepare(inputs)  # captures, which takes a step
        self.check_against_cpu(inputs)


class FastincOneGraph(FastincGraph):
    """A graph with one update, replayed: the rows are warm from the replay before."""

    def __init__(self, device: Device, rows: int, dim: int) -> None:
        super().__init__(device, rows, dim)
        self.name, self.role = "fastinc, graph of one", "variant"
        self.timed = "wall, replays in a row of a CUDA graph with one call, the same ids each time: rows warm"

    def prepare(self, inputs: list[Batch]) -> list[Batch]:
        self.replays = len(inputs)
        return super().prepare(inputs[:1])

    def run(self, prepared: list[Batch]) -> None:
        for _ in range(self.replays):
            self.replay()

    def clock(self, call: Call) -> float:
        return self.device.wall(call)

    def check(self, inputs: list[Batch]) -> None:
        super().check(inputs[:1])
