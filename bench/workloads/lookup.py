"""Reading rows: one by one, and summed in bags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench import peers
from bench.core import Case, CaseResult, Contestant, Role, Settings, workload
from bench.inputs import Draw, Float32, Ids, fill, id_count, id_lists, scattered, shape_name
from bench.limit import Limit
from bench.pages import make_huge, own
from bench.race import race
from bench.reference import EPS, LR, check_equal
from bench.workloads.table import make_table
from bench.workloads.update import SMALL_BATCHES, shapes

#: Ids in a bag of a pooled lookup.
BAG = 16


class Reader(Contestant):
    """Rows with random values; `rows` gives some of them for the check."""

    def __init__(self, rows: int, dim: int) -> None:
        self.shape = (rows, dim)

    def own_rows(self, ids: Ids) -> Float32:
        """Return rows read in the plainest way there is."""
        found: Float32 = self.weights[ids]
        return found

    def make_weights(self) -> None:
        """Make an array of our own."""
        self.weights = fill(make_huge(np.empty(self.shape, np.float32)), -0.1, 0.1, seed=1)

    def empty(self, count: int) -> Float32:
        """Return an array to write to whose pages are there."""
        out: Float32 = own(np.full((count, self.shape[1]), np.float32(0.5)))
        return out

    def check(self, inputs: list[Ids]) -> None:
        expected = self.expected(inputs[0])
        prepared = self.prepare(inputs[:1])
        check_equal("row", np.asarray(self.run(prepared)), expected, self.tolerance)

    tolerance = 0.0

    def expected(self, ids: Ids) -> Any:
        """Return what a call on these ids must give."""
        return self.own_rows(ids)


class TableLookup(Reader):
    """fastinc's table."""

    name = "fastinc table"
    role: Role = "subject"
    timed = "table.lookup(ids, out=out): any int64 ids, found by hash; safe beside a writer"

    def set_up(self, settings: Settings) -> None:
        self.table = make_table(*self.shape)

    def own_rows(self, ids: Ids) -> Float32:
        """Return rows as they were loaded, not as the table has them."""
        chunks, places = np.divmod(ids, 65_536)
        out = np.empty((len(ids), self.shape[1]), np.float32)
        for chunk in np.unique(chunks):
            size = min(65_536, self.shape[0] - int(chunk) * 65_536)
            loaded = fill(np.empty((size, self.shape[1]), np.float32), -0.1, 0.1, seed=int(chunk) * 65_536)
            out[chunks == chunk] = loaded[places[chunks == chunk]]
        return out

    def prepare(self, inputs: list[Ids]) -> Any:
        return [(scattered(ids), self.empty(len(ids))) for ids in inputs]

    def run(self, prepared: Any) -> object:
        lookup = self.table.lookup
        for ids, out in prepared:
            lookup(ids, out=out)
        return prepared[0][1]


class IndexSelect(Reader):
    """torch."""

    name = "torch index_select"
    timed = "torch.index_select(weights, 0, ids, out=out): ids are row numbers"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        self.tensor = self.torch.empty(self.shape)
        self.weights = fill(make_huge(self.tensor.numpy()), -0.1, 0.1, seed=1)

    def prepare(self, inputs: list[Ids]) -> Any:
        torch = self.torch
        return [(torch.from_numpy(ids.copy()), torch.from_numpy(self.empty(len(ids)))) for ids in inputs]

    def run(self, prepared: Any) -> object:
        select, weights = self.torch.index_select, self.tensor
        for ids, out in prepared:
            select(weights, 0, ids, out=out)
        return prepared[0][1]


class TbeForward(Reader):
    """FBGEMM; it has no way to be given the array that it writes to."""

    name = peers.TBE
    timed = "forward(ids, offsets) without autograd: bags of one id, SUM; makes the array it returns"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        self.table = peers.tbe(settings, *self.shape, "sgd", LR, EPS)
        self.weights = fill(make_huge(self.table.split_embedding_weights()[0].detach().numpy()), -0.1, 0.1, seed=1)

    def offsets(self, count: int) -> Any:
        """Return where bags begin, and the end."""
        return self.torch.arange(count + 1)

    def prepare(self, inputs: list[Ids]) -> Any:
        return [(self.torch.from_numpy(ids.copy()), self.offsets(len(ids))) for ids in inputs]

    def run(self, prepared: Any) -> object:
        out: Any = None
        with self.torch.no_grad():
            for ids, offsets in prepared:
                out = self.table(ids, offsets)
        return out


class Take(Reader):
    """NumPy."""

    name = "NumPy take"
    timed = 'np.take(weights, ids, axis=0, out=out, mode="clip")'

    def set_up(self, settings: Settings) -> None:
        self.make_weights()

    def prepare(self, inputs: list[Ids]) -> Any:
        return [(ids.copy(), self.empty(len(ids))) for ids in inputs]

    def run(self, prepared: Any) -> object:
        for ids, out in prepared:
            np.take(self.weights, ids, axis=0, out=out, mode="clip")
        return prepared[0][1]


class GatherLimit(Reader):
    """The rows copied with tuned prefetch."""

    name, role = "limit", "limit"
    timed = "a C++ loop: every id's row copied to an array; tuned prefetch; all threads above 1,024 ids"

    def set_up(self, settings: Settings) -> None:
        self.make_weights()
        self.limit = Limit(self.weights, settings)

    def prepare(self, inputs: list[Ids]) -> Any:
        kept = [(ids.copy(), self.empty(len(ids))) for ids in inputs]
        return kept, [self.limit.gatherer(ids, out) for ids, out in kept]

    def run(self, prepared: Any) -> object:
        for call in prepared[1]:
            call()
        return prepared[0][0][1]


def _cases(settings: Settings, rows: int, dim: int, judged: bool) -> list[Case]:
    large = settings.pick(65_536, 65_536, 512)
    cases = []
    for kind in ("uniform", "zipf"):
        label = f"{shape_name(rows, dim)}, {kind}, {id_count([large])}"
        goals = {"torch index_select": 0.7} if judged and kind == "uniform" else {}
        cases.append(Case(label, id_lists(Draw(kind, rows), large, 1), large, goals=goals))
    for size, calls in SMALL_BATCHES:
        calls = settings.pick(calls, calls, 3)
        label = f"{shape_name(rows, dim)}, uniform, {id_count([size])}"
        goal = 1.5e-6 if judged and size == 1 else None
        draw = id_lists(Draw("uniform", rows), size, calls)
        cases.append(Case(label, draw, size * calls, calls=calls, goal_seconds=goal))
    return cases


@workload("table/lookup", "EmbeddingTable.lookup, every id there", judged=True)
def lookup(settings: Settings) -> Iterator[CaseResult]:
    """All but FBGEMM write to an array that is given."""
    for key, (rows, dim) in enumerate(shapes(settings)):
        kinds = (TableLookup, IndexSelect, TbeForward, Take, GatherLimit)
        needs = rows * (5 * 4 * dim + dim + 72) + 2**30
        contestants: list[Contestant] = [kind(rows, dim) for kind in kinds]
        yield from race(contestants, _cases(settings, rows, dim, key == 0), settings, key=10 + key, needs=needs)


class Pooled(Reader):
    """Sums of bags of BAG ids."""

    tolerance = 1e-5

    def expected(self, ids: Ids) -> Any:
        rows = self.own_rows(ids).astype(np.float64)
        return rows.reshape(-1, BAG, self.shape[1]).sum(axis=1)

    def starts(self, count: int) -> Ids:
        """Return where bags begin."""
        return np.arange(0, count, BAG, dtype=np.int64)


class TablePool(Pooled, TableLookup):
    """fastinc's table."""

    timed = 'table.pool(ids, offsets, mode="sum", out=out)'

    def prepare(self, inputs: list[Ids]) -> Any:
        return [(scattered(ids), self.starts(len(ids)), self.empty(len(ids) // BAG)) for ids in inputs]

    def run(self, prepared: Any) -> object:
        for ids, offsets, out in prepared:
            self.table.pool(ids, offsets, mode="sum", out=out)
        return prepared[0][2]


class EmbeddingBag(Pooled, IndexSelect):
    """torch."""

    name = "torch embedding_bag"
    timed = 'F.embedding_bag(ids, weights, offsets, mode="sum") without autograd; makes the array it returns'

    def prepare(self, inputs: list[Ids]) -> Any:
        return [(self.torch.from_numpy(ids.copy()), self.torch.from_numpy(self.starts(len(ids)))) for ids in inputs]

    def run(self, prepared: Any) -> object:
        bag, out = self.torch.nn.functional.embedding_bag, None
        with self.torch.no_grad():
            for ids, offsets in prepared:
                out = bag(ids, self.tensor, offsets, mode="sum")
        return out


class TbePool(Pooled, TbeForward):
    """FBGEMM."""

    timed = "forward(ids, offsets) without autograd: SUM; makes the array it returns"

    def offsets(self, count: int) -> Any:
        return self.torch.arange(0, count + 1, BAG)


class Reduceat(Pooled, Take):
    """NumPy."""

    name = "NumPy reduceat"
    timed = "np.add.reduceat(weights[ids], offsets)"

    def run(self, prepared: Any) -> object:
        out = None
        for ids, _ in prepared:
            out = np.add.reduceat(self.weights[ids], self.starts(len(ids)))
        return out


class ReadLimit(Pooled, GatherLimit):
    """The rows read and summed into one number."""

    timed = "a C++ loop: every id's row read and summed, nothing written; tuned prefetch; all threads"
    tolerance = 1e-2

    def expected(self, ids: Ids) -> Any:
        return np.array([self.weights[ids].sum(dtype=np.float64)])

    def prepare(self, inputs: list[Ids]) -> Any:
        kept = [ids.copy() for ids in inputs]
        return kept, [self.limit.reader(ids) for ids in kept]

    def run(self, prepared: Any) -> object:
        return [call() for call in prepared[1]]


@workload("table/pool", f"EmbeddingTable.pool: sums of bags of {BAG} rows")
def pool(settings: Settings) -> Iterator[CaseResult]:
    """Rates count ids, not bags."""
    for key, (rows, dim) in enumerate(shapes(settings)):
        kinds = (TablePool, EmbeddingBag, TbePool, Reduceat, ReadLimit)
        size = settings.pick(65_536, 65_536, 512)
        cases = [
            Case(f"{shape_name(rows, dim)}, {kind}, {id_count([size])}", id_lists(Draw(kind, rows), size, 1), size)
            for kind in ("uniform", "zipf")
        ]
        needs = rows * (5 * 4 * dim + dim + 72) + 2**30
        yield from race([kind(rows, dim) for kind in kinds], cases, settings, key=20 + key, needs=needs)
