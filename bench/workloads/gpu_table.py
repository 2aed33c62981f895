"""The growing table on a GPU: found, and found or inserted; ids alone, and with their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastinc as fi
from bench.core import Case, CaseResult, Role, Settings, WrongError, workload
from bench.gpu.contest import Copy, OnDevice, available, billions, check_bytes, contest, share_of_copy, to_host
from bench.gpu.device import Device, Tensor, open_device
from bench.gpu.draws import scattered
from bench.inputs import count_name, shape_name
from bench.reference import EPS, LR, check_equal

Draws = Callable[[np.random.Generator], Any]
DIM = 64
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Batch:
    """Ids, half of which a table hasn't, mixed; their gradients; and those new ids, to be removed again."""

    ids: Tensor
    grads: Tensor
    new: Tensor


def make_empty(dim: int, device: str) -> fi.EmbeddingTable:
    """Return a table, the same on every device."""
    optimizer = fi.RowWiseAdagrad(lr=LR, eps=EPS, initial_accumulator_value=1.0)
    return fi.EmbeddingTable(dim=dim, optimizer=optimizer, device=device)


class Filled:
    """A table of `rows` rows with ids all over int64, and what to ask it for."""

    def __init__(self, device: Device, rows: int, dim: int, settings: Settings) -> None:
        self.device, self.rows, self.dim = device, rows, dim
        with available(f"fi.EmbeddingTable(device={device.name!r})"):
            self.table = make_empty(dim, device.name)
            for begin in range(0, rows, _CHUNK):
                count = min(_CHUNK, rows - begin)
                vectors = device.uniforms((count, dim), -0.1, 0.1, settings.random(6, begin))
                self.table.load(self._numbered(begin, count), vectors)
        if len(self.table) != rows:
            raise WrongError(f"{len(self.table)} rows of {rows} are in the table")
        self._next = rows

    def _numbered(self, begin: int, count: int) -> Tensor:
        return scattered(self.device.torch.arange(begin, begin + count, device=self.device.name))

    def present(self, rng: np.random.Generator, count: int) -> Tensor:
        """Return ids that have a row, with repeats."""
        torch, generator = self.device.torch, self.device.generator(rng)
        return scattered(torch.randint(self.rows, (count,), generator=generator, device=self.device.name))

    def absent(self, count: int) -> Tensor:
        """Return ids that have none and never were in a batch."""
        self._next += count
        return self._numbered(self._next - count, count)

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return a batch of which half the ids are new."""
        torch = self.device.torch
        new = self.absent(count // 2)
        ids = torch.cat([self.present(rng, count - len(new)), new])
        order = torch.randperm(count, generator=self.device.generator(rng), device=self.device.name)
        return Batch(ids[order], self.device.normals((count, self.dim), rng), new)


class OfTable(OnDevice):
    """One that asks a table."""

    role: Role = "subject"

    def __init__(self, filled: Filled) -> None:
        super().__init__(filled.device)
        self.filled = filled


class Contains(OfTable):
    """Which ids have a row: beside the finding, the answers' way to the host."""

    name, role = "fastinc contains", "variant"
    timed = "table's contains(ids), all of which have a row: a bool for each id, in an array of the host"

    def set_up(self, settings: Settings) -> None:
        with available("contains() of a table"):
            self.run(self.filled.present(settings.random(9), 8))

    def run(self, prepared: Tensor) -> object:
        return self.filled.table._core.contains(prepared)

    def check(self, inputs: Tensor) -> None:
        for ids, answer in ((inputs, True), (self.filled.absent(len(inputs)), False)):
            if (to_host(self.run(ids)) != answer).any():
                raise WrongError(f"contains() isn't {answer} for every id")


class Lookup(OfTable):
    """The rows of ids."""

    def __init__(self, filled: Filled, count: int) -> None:
        super().__init__(filled)
        self.count = count
        self.name = f"fastinc lookup, dim {filled.dim}"
        self.timed = f"table.lookup(ids, out=out), dim {filled.dim}: all ids have a row"

    def set_up(self, settings: Settings) -> None:
        self.out = self.device.torch.full((self.count, self.filled.dim), 7.0, device=self.device.name)

    def run(self, prepared: Tensor) -> object:
        return self.filled.table.lookup(prepared, out=self.out)

    def check(self, inputs: Tensor) -> None:
        """What was loaded comes back, and ids without a row get the row that they would on the CPU."""
        self.run(inputs)
        ids = self.device.torch.unique(inputs[:1000])
        vectors = self.device.uniforms((len(ids), self.filled.dim), -0.1, 0.1, np.random.default_rng(8))
        self.filled.table.load(ids, vectors)
        check_bytes("rows", self.filled.table.lookup(ids), vectors)
        self.run(inputs)
        places = self.device.torch.searchsorted(ids, inputs[:1000])
        check_bytes("rows", self.out[:1000], vectors[places])
        absent = self.filled.absent(1000)
        expected = make_empty(self.filled.dim, "cpu").lookup(to_host(absent))
        check_bytes("start rows", self.filled.table.lookup(absent), expected)


class IndexSelect(OnDevice):
    """torch's rows by their numbers: nothing to find."""

    name = "torch index_select"
    timed = "torch.index_select(weights, 0, rows, out=out): the rows' numbers, no ids to find"

    def __init__(self, filled: Filled, count: int) -> None:
        super().__init__(filled.device)
        self.filled, self.count = filled, count

    def set_up(self, settings: Settings) -> None:
        shape = (self.filled.rows, self.filled.dim)
        self.weights = self.device.uniforms(shape, -0.1, 0.1, settings.random(7))
        self.out = self.device.torch.full((self.count, self.filled.dim), 7.0, device=self.device.name)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return row numbers: as random as the ids."""
        return inputs % self.filled.rows  # of torch: not negative

    def run(self, prepared: Tensor) -> object:
        return self.device.torch.index_select(self.weights, 0, prepared, out=self.out)

    def check(self, inputs: Tensor) -> None:
        rows = self.prepare(inputs)
        self.run(rows)
        check_equal("rows", to_host(self.out[::97]), to_host(self.weights[rows[::97]]))


class Insert(OfTable):
    """An update whose ids are found, or get a row."""

    def __init__(self, filled: Filled) -> None:
        super().__init__(filled)
        self.name = f"fastinc update, dim {filled.dim}"
        self.timed = f"table.update(ids, grads), dim {filled.dim}: half of the ids have no row; removed again, untimed"

    def run(self, prepared: Batch) -> object:
        return self.filled.table.update(prepared.ids, prepared.grads)

    def measure(self, inputs: Batch, *ready: Any) -> float:
        seconds = super().measure(inputs)
        if self.filled.table.remove(inputs.new) != len(inputs.new):
            raise WrongError("not all new ids had a row")
        return seconds

    def check(self, inputs: Batch) -> None:
        """Found or made, stepped and quantised as on the CPU, from rows whose state is known: they were just loaded."""
        table, torch = self.filled.table, self.device.torch
        old = torch.unique(inputs.ids)
        old = old[~torch.isin(old, inputs.new)]
        vectors = table.lookup(old)
        table.load(old, vectors)
        twin = make_empty(self.filled.dim, "cpu")
        twin.load(to_host(old), to_host(vectors))
        before = len(table)
        self.run(inputs)
        twin.update(to_host(inputs.ids), to_host(inputs.grads))
        if len(table) != before + len(inputs.new):
            raise WrongError(f"{len(table)} rows after {before} and {len(inputs.new)} new ids")
        some = inputs.ids[:20_000]
        check_bytes("rows, beside the CPU's,", table.lookup(some), twin.lookup(to_host(some)))
        codes = to_host(table.lookup_quantized(some))
        check_equal("codes, beside the CPU's,", codes, twin.lookup_quantized(to_host(some)))
        table.remove(inputs.new)


def insert_bytes(device: Device, drawn: Batch) -> float:
    """Return what an update of these must move: rows that are there are read and written, new ones written."""
    n, dim = drawn.grads.shape
    new = len(drawn.new)
    old = len(device.torch.unique(drawn.ids)) - new
    return float(n * (8 + 4 * dim) + old * (8 * dim + 8 + dim + 8) + new * (4 * dim + 4 + dim + 8))


@workload("gpu/table", "EmbeddingTable: find, and find or insert; keys or bytes a second", on_gpu=True)
def table(settings: Settings) -> Iterator[CaseResult]:
    """Rows such that an index of a power of two is half full; then the same with rows of one float: ids alone."""
    device = open_device(settings)
    rows = settings.pick(1 << 25, 1 << 18, 1 << 11)
    counts = settings.pick((1 << 22, 1 << 20), (1 << 16, 1 << 15), (512, 256))
    yield from _with_rows(device, Filled(device, rows, DIM, settings), *counts, settings)
    device.release()
    yield from _alone(device, Filled(device, rows, 1, settings), *counts, settings)


def _with_rows(device: Device, filled: Filled, finds: int, updates: int, settings: Settings) -> Iterator[CaseResult]:
    ids, batch = _draws(filled, finds, updates)
    name, target = shape_name(filled.rows, filled.dim), share_of_copy(0.6)
    unique = len(device.torch.unique(ids(settings.random(78))))
    work = finds * (8 + 4.0 * filled.dim) + unique * 4.0 * filled.dim
    case = Case(f"{name}, find {count_name(finds)} rows", ids, work, unit="bytes")
    there = [Lookup(filled, finds), IndexSelect(filled, finds), Copy(device, settings)]
    yield from _told(filled, contest(device, there, [(case, [target])], settings, key=78))
    work = insert_bytes(device, batch(settings.random(79)))
    case = Case(f"{name}, find or insert {count_name(updates)} rows", batch, work, unit="bytes")
    there = [Insert(filled), Copy(device, settings)]
    yield from _told(filled, contest(device, there, [(case, [target])], settings, key=79))


def _alone(device: Device, filled: Filled, finds: int, updates: int, settings: Settings) -> Iterator[CaseResult]:
    ids, batch = _draws(filled, finds, updates)
    name = shape_name(filled.rows, filled.dim)
    case = Case(f"{name}, find {count_name(finds)} ids", ids, finds, "keys")
    there: list[OnDevice] = [Lookup(filled, finds), Contains(filled)]
    yield from _told(filled, contest(device, there, [(case, [billions(2.0)])], settings, key=77))
    case = Case(f"{name}, find or insert {count_name(updates)} ids", batch, updates, "keys")
    yield from _told(filled, contest(device, [Insert(filled)], [(case, [billions(1.0)])], settings, key=80))


def _draws(filled: Filled, finds: int, updates: int) -> tuple[Draws, Draws]:
    """Return what draws ids that are there, and batches of which half are."""
    return lambda rng: filled.present(rng, finds), lambda rng: filled.batch(rng, updates)


def _told(filled: Filled, results: Iterator[CaseResult]) -> Iterator[CaseResult]:
    """Add how full the index was when a case was done."""
    for result in results:
        result.figures["load of the index"] = float(filled.table.stats()["load"])
        yield result
