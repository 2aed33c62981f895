"""The exact search of a table, and of rows that are quantised already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench import limit, peers
from bench.core import Case, CaseResult, Contestant, Ready, Role, Settings, leave, workload
from bench.inputs import Float32, Ids, shape_name
from bench.pages import make_huge
from bench.race import free_memory, race
from bench.workloads._search import K, Searcher, Trained, query_lists, train


class LiveExact(Searcher):
    """fastinc's."""

    name = "fastinc exact"
    role: Role = "subject"
    timed = 'LiveIndex(table, "exact").search(queries, 100): any int64 ids, scores in float32; safe beside a writer'

    def set_up(self, settings: Settings) -> None:
        self.index = fi.LiveIndex(self.trained.table, "exact")

    def find(self, queries: Float32) -> Ids:
        found: Ids = self.index.search(queries, K)[1]
        return found


class TopkInt8(Searcher):
    """fastinc's, over an array that is the caller's."""

    name = "fastinc topk_int8"
    role: Role = "variant"
    timed = "fi.ops.topk_int8(queries, q, 100): scores of the int8 rows themselves"
    least_recall = 0.9

    def set_up(self, settings: Settings) -> None:
        self.q = make_huge(fi.ops.quantize_rowwise(self.trained.rows))

    def find(self, queries: Float32) -> Ids:
        found: Ids = fi.ops.topk_int8(queries, self.q, K)[1]
        return found


class Faiss(Searcher):
    """An index of FAISS's."""

    index: Any

    def find(self, queries: Float32) -> Ids:
        found: Ids = self.index.search(queries, K)[1]
        return found


class FlatIp(Faiss):
    """FAISS, exact."""

    name = "FAISS IndexFlatIP"
    timed = "index.search(queries, 100) over float32 rows"

    def set_up(self, settings: Settings) -> None:
        self.index = peers.faiss(settings).IndexFlatIP(self.trained.table.dim)
        self.index.add(self.trained.rows)


class Sq8(Faiss):
    """FAISS, 8 bits a value."""

    name = "FAISS SQ8"
    timed = "index.search(queries, 100): 8 bits a value, ranges over all rows"
    least_recall = 0.9

    def set_up(self, settings: Settings) -> None:
        faiss = peers.faiss(settings)
        rows = self.trained.rows
        self.index = faiss.index_factory(rows.shape[1], "SQ8", faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows)
        self.index.add(rows)


class Torch(Searcher):
    """torch in float32."""

    name = "torch mm + topk"
    timed = "torch.topk(queries @ rows.T, 100)"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        self.rows = self.torch.from_numpy(make_huge(self.trained.rows)).T

    def find(self, queries: Float32) -> Ids:
        found: Ids = self.torch.topk(self.torch.from_numpy(queries) @ self.rows, K).indices.numpy()
        return found


class TorchBf16(Searcher):
    """torch in bfloat16, whose products come as bfloat16 too."""

    name = "torch bf16 mm + topk"
    timed = "torch.topk(queries.bfloat16() @ rows.bfloat16().T, 100); the queries are converted in the call"
    least_recall = 0.7

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        self.rows = self.torch.from_numpy(self.trained.rows).bfloat16().T

    def find(self, queries: Float32) -> Ids:
        product = self.torch.from_numpy(queries).bfloat16() @ self.rows
        found: Ids = self.torch.topk(product, K).indices.numpy()
        return found


class Usearch(Searcher):
    """usearch, exact, 8 bits a value: every row by its largest value, for its int8 has no scales."""

    name = "usearch exact i8"
    timed = "usearch.index.search(rows, queries, 100, exact=True) over int8 rows"
    least_recall = 0.1  # without scales it is another order than the inner product's; its time is what counts here

    def set_up(self, settings: Settings) -> None:
        self.usearch = peers.usearch()
        self.threads = settings.threads
        self.rows = make_huge(self.coded(self.trained.rows))

    @staticmethod
    def coded(rows: Float32) -> Any:
        """Return int8 codes."""
        return np.rint(rows * (127 / np.abs(rows).max(axis=1, keepdims=True))).astype(np.int8)

    def find(self, queries: Float32) -> Ids:
        matches = self.usearch.search(
            self.rows,
            self.coded(queries),
            K,
            metric=self.usearch.MetricKind.IP,
            exact=True,
            threads=self.threads,
        )
        found: Ids = np.atleast_2d(matches.keys).astype(np.int64)
        return found


class ReadLimit(Contestant):
    """The int8 rows read once a call."""

    name, role = "limit", "limit"
    timed = "a C++ loop that reads dim + 8 bytes a row, all threads: once a call, however many queries"

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def set_up(self, settings: Settings) -> None:
        rows, dim = len(self.trained.table), self.trained.table.dim
        words = np.arange(1, rows * (dim + 8) // 8 // 8 * 8 + 1, dtype=np.uint64)
        self.words = make_huge(words)
        self.call = limit.read(self.words, settings)

    def check(self, inputs: list[Float32]) -> None:
        count = len(self.words)
        if self.call() != (count * (count + 1) // 2) % 2**64:
            raise AssertionError("the limit didn't read every byte")

    def measure(self, inputs: list[Float32], ready: Ready = leave) -> float:
        return self.timed_calls(len(inputs), ready)

    def timed_calls(self, calls: int, ready: Ready) -> float:
        """Return the seconds of so many calls."""
        prepared = [None] * calls
        ready(prepared)
        return super().measure(prepared)

    def run(self, prepared: Any) -> object:
        return [self.call() for _ in prepared]


_GOALS = {
    1: {"FAISS IndexFlatIP": 15.0, "FAISS SQ8": 7.0, "torch mm + topk": 7.0, "limit": 0.6},
    64: {"FAISS IndexFlatIP": 40.0, "torch bf16 mm + topk": 5.0},
}


@workload("search/exact", "the 100 best rows of a trained table, exactly", judged=True)
def exact(settings: Settings) -> Iterator[CaseResult]:
    """One query a call, and 64."""
    rows, dim = settings.pick((500_000, 128), (50_000, 128), (1000, 16))
    trained = train(rows, dim, settings)
    kinds = (LiveExact, TopkInt8, FlatIp, Sq8, Torch, TorchBf16, Usearch)
    searchers = [kind(trained) for kind in kinds]
    cases = [
        Case(
            f"{shape_name(rows, dim)}, {size} {'query' if size == 1 else 'queries'}, k = {K}",
            query_lists(trained, size, calls),
            size * calls,
            unit="queries",
            calls=calls,
            goals=_GOALS[size],
        )
        for size, calls in ((1, settings.pick(8, 8, 2)), (64, 1))
    ]
    needs = rows * dim * 4 * 6 + 2**30
    for result in race([*searchers, ReadLimit(trained)], cases, settings, key=60, needs=needs):
        for searcher in searchers:
            if searcher.recall == searcher.recall:
                result.figures[f"recall@{K}, {searcher.name}"] = searcher.recall
        yield result
    del trained, searchers
    free_memory()


class Sized(LiveExact):
    """A table of some size, searched by one query a call."""

    def __init__(self, rows: int, dim: int, role: Role, calls: int) -> None:
        self.shape, self.role, self.calls = (rows, dim), role, calls
        self.name = f"fastinc exact, {shape_name(rows, dim)}"
        self.recall = float("nan")

    def set_up(self, settings: Settings) -> None:
        rows, dim = self.shape
        self.trained = train(rows, dim, settings)
        super().set_up(settings)

    def work(self) -> float | None:
        return float(self.shape[0] * self.calls)

    def prepare(self, inputs: list[Any]) -> list[Float32]:
        """Return queries for seeds: each table was trained with tastes of its own."""
        return [self.trained.queries(np.random.default_rng(seed), 1) for seed in inputs]

    def check(self, inputs: list[Any]) -> None:
        super().check(self.prepare(inputs))

    def close(self) -> None:
        kept = self.shape, self.role, self.name, self.recall, self.calls
        Contestant.close(self)
        self.shape, self.role, self.name, self.recall, self.calls = kept


@workload("search/rows", "whether many rows cost more a row than few", judged=True)
def rows(settings: Settings) -> Iterator[CaseResult]:
    """The same search of tables of two sizes."""
    large, small, dim = settings.pick((5_000_000, 500_000, 128), (200_000, 50_000, 128), (3000, 1000, 16))
    calls = settings.pick(4, 4, 2)
    contestants = [Sized(large, dim, "subject", calls), Sized(small, dim, "variant", calls)]

    def seeds(rng: np.random.Generator) -> list[int]:
        return [int(seed) for seed in rng.integers(2**31, size=calls)]

    case = Case(f"1 query, k = {K}", seeds, calls * large, calls=calls, goals={contestants[1].name: 0.9})
    yield from race(contestants, [case], settings, key=61, needs=large * dim * 6 + 2**31)
    free_memory()
