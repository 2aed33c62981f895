"""A FAISS index that is kept in step with its table, and searches beside a writer."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

import fastinc as fi
from bench import machine, peers
from bench.core import Case, CaseResult, Contestant, Goal, Role, Settings, Standing, WrongError, workload
from bench.inputs import Float32, Ids, normals, shape_name
from bench.race import free_memory, race
from bench.workloads._search import K, Searcher, Trained, best, query_lists, recall, train

_NPROBE = 16
#: K-means begins at random: one rebuild's recall is as good as another's within some hundredths.
_SEEDS = (1234, 1, 2)


class Base:
    """A LiveIndex over FAISS, FAISS's own index as it was when both were built, and one over the rows as they are."""

    def __init__(self, trained: Trained, factory: str, settings: Settings) -> None:
        self.faiss, self.trained, self.factory = peers.faiss(settings), trained, factory
        self.index = fi.LiveIndex(trained.table, factory)
        self.plain = self.build()

    def build(self, seed: int = _SEEDS[0]) -> Any:
        """Return FAISS's index over the rows as they are; the seed is k-means', FAISS's own unless given."""
        rows = self.trained.rows
        index = self.faiss.index_factory(rows.shape[1], self.factory, self.faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.train(rows)
        index.add(rows)
        index.nprobe = _NPROBE
        return index

    def change(self, count: int, rng: np.random.Generator) -> None:
        """Move this many rows as an update does."""
        table = self.trained.table
        ids = rng.choice(len(table), count, replace=False)
        table.update(ids, normals(rng, count, table.dim) * np.float32(0.1))

    def settle(self, queries: Float32) -> None:
        """Search until the background thread has folded what it is to fold."""
        end = time.monotonic() + 60.0
        while self.index._base is not None and self.index._base.core.count_unfolded() > self.index._fold_rows:
            self.index.search(queries, K, nprobe=_NPROBE)
            time.sleep(0.01)
            if time.monotonic() > end:
                raise WrongError("the background thread doesn't keep up with a table at rest")


class LiveFaiss(Searcher):
    """fastinc over FAISS."""

    name = "fastinc over FAISS"
    role: Role = "subject"
    timed = f"LiveIndex(table, factory).search(queries, 100, nprobe={_NPROBE}): current float32 scores, fresh rows too"
    least_recall = 0.1  # that of 16 lists of an IVF index over rows of unequal length; compared below

    def __init__(self, base: Base) -> None:
        super().__init__(base.trained)
        self.base = base

    def find(self, queries: Float32) -> Ids:
        return self.base.index.search(queries, K, nprobe=_NPROBE)[1]

    def close(self) -> None:
        base = self.base
        super().close()
        self.base = base


class PlainFaiss(LiveFaiss):
    """FAISS alone, of the rows as they were."""

    name, role = "plain FAISS", "peer"
    timed = f"index.search(queries, 100), nprobe = {_NPROBE}: what the table was when the index was built"

    def find(self, queries: Float32) -> Ids:
        found: Ids = self.base.plain.search(queries, K)[1]
        return found


@workload("search/ivf", "an IVF index whose table changes: 0, 1 and 5 % of its rows", judged=True)
def ivf(settings: Settings) -> Iterator[CaseResult]:
    """One query a call; after each change the background thread is given the time to fold."""
    rows, dim = settings.pick((500_000, 128), (50_000, 128), (2000, 16))
    factory = settings.pick("IVF1024,SQ8", "IVF256,SQ8", "IVF16,SQ8")
    trained = train(rows, dim, settings)
    base = Base(trained, factory, settings)
    changed, calls = 0.0, settings.pick(64, 32, 4)
    for share, bound in ((0.0, 1.1), (0.01, 1.3), (0.05, 2.0)):
        base.change(int((share - changed) * rows), settings.random(62, int(share * 100)))
        changed = share
        queries = trained.queries(settings.random(63), settings.pick(256, 256, 16))
        base.settle(queries[:1])
        case = Case(
            f"{factory}, {shape_name(rows, dim)}, {share:.0%} changed, 1 query, k = {K}",
            query_lists(trained, 1, calls),
            calls,
            unit="queries",
            calls=calls,
        )
        contestants: list[Contestant] = [LiveFaiss(base), PlainFaiss(base)]
        for result in race(contestants, [case], settings, key=62):
            truth = best(trained.rows, queries)
            ours = recall(base.index.search(queries, K, nprobe=_NPROBE)[1], truth)
            rebuilt = [recall(base.build(seed).search(queries, K)[1], truth) for seed in _SEEDS]
            theirs = float(np.mean(rebuilt))
            result.figures |= {
                f"recall@{K}": ours,
                f"recall@{K}, plain FAISS on a fresh rebuild, mean of {len(_SEEDS)}": theirs,
                "the same, the worst": min(rebuilt),
                "the same, the best": max(rebuilt),
                f"recall@{K}, plain FAISS as it was built": recall(base.plain.search(queries, K)[1], truth),
                "rebuilds": float(base.index.stats()["rebuilds"]),
            }
            if settings.size == "full":
                slower = 1.0 / result.ratio("plain FAISS")
                result.goals = [
                    Goal("times plain FAISS's time", slower, bound, at_least=False),
                    Goal(f"recall@{K} beyond plain FAISS's on a fresh rebuild", ours - theirs, 0.0),
                ]
            yield result
    del trained, base
    free_memory()


def _grown(settings: Settings, kind: str) -> dict[str, float]:
    """Build one index over the trained table, in a process that does nothing else; return bytes a row."""
    rows, dim = settings.pick((500_000, 128), (50_000, 128), (2000, 16))
    factory = settings.pick("IVF1024,SQ8", "IVF256,SQ8", "IVF16,SQ8")
    trained = train(rows, dim, settings)
    base = Base.__new__(Base)
    base.faiss, base.trained, base.factory = peers.faiss(settings), trained, factory
    head = fi.EmbeddingTable(dim)
    head.load(np.arange(rows // 8), trained.rows[: rows // 8])
    fi.LiveIndex(head, settings.pick("IVF128,SQ8", "IVF32,SQ8", "IVF4,SQ8"))  # libraries and their threads
    del head
    free_memory()
    before = machine.resident_memory()
    start = time.perf_counter()
    index = base.build() if kind == "plain" else fi.LiveIndex(trained.table, factory)
    figures = {"seconds": time.perf_counter() - start}
    if isinstance(index, fi.LiveIndex):
        rng = settings.random(64)
        ids = rng.choice(rows, rows // 20, replace=False)
        trained.table.update(ids, normals(rng, len(ids), dim) * np.float32(0.001))
        del ids
        index.fold()
        figures["stamps"] = trained.table.memory_usage()["headers"] / rows - 16
        figures["counted"] = index.stats()["bytes"] / rows
    free_memory()
    return figures | {"resident": (machine.resident_memory() - before) / rows}


@workload("search/memory", "what an index takes beside FAISS's own and the int8 rows", judged=True)
def memory(settings: Settings) -> Iterator[CaseResult]:
    """Resident memory that building takes, FAISS's index alone and fastinc's over it, and 5 % of the rows folded in."""
    rows, dim = settings.pick((500_000, 128), (50_000, 128), (2000, 16))
    factory = settings.pick("IVF1024,SQ8", "IVF256,SQ8", "IVF16,SQ8")
    grown = {}
    for kind in ("plain", "live"):  # memory that one has freed would count for the next
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            grown[kind] = process.submit(_grown, settings, kind).result()
    plain, live = grown["plain"], grown["live"]
    timed = "LiveIndex(table, factory)"
    standing = Standing("fastinc over FAISS", "subject", timed, seconds=[live["seconds"]], work=rows)
    result = CaseResult(f"{factory}, {shape_name(rows, dim)}, 5% changed", "rows", [standing])
    name = "bytes a row beyond FAISS's index and the int8 rows"
    result.figures = {
        name: live["resident"] - plain["resident"] + live["stamps"],
        "the same, as the index counts them": live["counted"] + live["stamps"],
        "FAISS's index, bytes a row": plain["resident"],
        "fastinc over FAISS, bytes a row": live["resident"],
    }
    if settings.size == "full":
        result.goals = [Goal(name, result.figures[name], 16.0, at_least=False)]
    yield result


class Paced:
    """A writer that updates so many rows a second, in a thread of its own; `rate` 0: none."""

    def __init__(self, write: Callable[[int], object], batch: int, rate: float) -> None:
        self._write, self._batch, self._rate = write, batch, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rows = 0
        self.failure: BaseException | None = None

    def _run(self) -> None:
        start = time.perf_counter()
        try:
            while not self._stop.is_set():
                self._write(self.rows // self._batch)
                self.rows += self._batch
                time.sleep(max(0.0, start + self.rows / self._rate - time.perf_counter()))
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> Paced:
        if self._rate > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._rate > 0:
            self._thread.join()
        if self.failure is not None:
            raise self.failure


@workload("search/latency", "searches while 100,000 rows a second are updated", judged=True)
def latency(settings: Settings) -> Iterator[CaseResult]:
    """One searcher, one query a call; a writer in turns with none."""
    rows, dim = settings.pick((500_000, 128), (50_000, 128), (2000, 16))
    trained = train(rows, dim, settings)
    rate, batch, seconds = settings.pick((100_000, 1000, 1.0), (100_000, 1000, 0.3), (10_000, 100, 0.05))
    rng = settings.random(65)
    writes = [(rng.choice(rows, batch, replace=False), normals(rng, batch, dim) * np.float32(0.01)) for _ in range(64)]
    queries = trained.queries(rng, 256)
    for factory in ("exact", settings.pick("IVF1024,SQ8", "IVF256,SQ8", "IVF16,SQ8")):
        index = fi.LiveIndex(trained.table, factory)
        nprobe = None if factory == "exact" else _NPROBE
        times: dict[str, list[float]] = {"beside a writer": [], "at rest": []}
        paces = []
        for number in range(settings.rounds + 1):
            for name in settings.random(66, number).permutation(list(times)):
                busy = name == "beside a writer"
                with Paced(lambda n: trained.table.update(*writes[n % 64]), batch, rate if busy else 0.0) as writer:
                    found: list[float] = []
                    end = time.perf_counter() + seconds
                    while time.perf_counter() < end:
                        start = time.perf_counter()
                        index.search(queries[len(found) % 256], K, nprobe=nprobe)
                        found.append(time.perf_counter() - start)
                if number > 0:
                    times[name] += found
                    paces += [writer.rows / seconds] if busy else []
        standings = [
            Standing(
                f"{factory} {name}",
                "subject" if name == "beside a writer" else "variant",
                "index.search(query, 100) in a loop",
                seconds=found,
            )
            for name, found in times.items()
        ]
        case = f"{factory}, {shape_name(rows, dim)}, 1 query, k = {K}, {rate:,} rows/s in batches of {batch:,}"
        if np.median(paces) < settings.pick(0.9, 0.9, 0.1) * rate:  # tiny windows may well be spent waiting for a CPU
            standings[0].status, standings[0].reason = "failed", f"{np.median(paces):,.0f} rows/s were updated"
        result = CaseResult(case, "queries", standings)
        p99 = {name: float(np.quantile(found, 0.99)) * 1e3 for name, found in times.items()}
        ratio = p99["beside a writer"] / p99["at rest"]
        result.figures = {f"p99, ms, {name}": value for name, value in p99.items()}
        result.figures |= {"p99 beside a writer / at rest": ratio, "rows a second updated": float(np.median(paces))}
        stats = index.stats()
        result.figures |= {"folds": float(stats["folds"]), "rebuilds": float(stats["rebuilds"])}
        if settings.size == "full":
            result.goals = [Goal("p99 beside a writer / at rest", ratio, 2.0, at_least=False)]
        yield result
        del index
        free_memory()


class _Freshness:
    """A table whose hot rows hold the number of the batch that set them, and an index over it."""

    def __init__(self, factory: str, rows: int, dim: int, batch: int, settings: Settings) -> None:
        self.least = settings.pick(2000, 200, 20)  # searches, however many updates that takes
        self.table = fi.EmbeddingTable(dim, fi.SGD(lr=1.0), init=fi.init.Zeros())
        self.table.load(np.arange(rows), np.abs(normals(settings.random(67), rows, dim)))
        self.index = fi.LiveIndex(self.table, factory)
        self.nprobe = None if factory == "exact" else 4
        self.hot = settings.random(68).choice(rows, batch, replace=False)
        self.query = np.ones(dim, np.float32)
        self.noted = self.searches = self.older = self.updated = 0
        self.seconds: list[float] = []
        self.done = threading.Event()

    def write(self, batches: int) -> None:
        """Set the hot rows to one number after another; note each when it is done. Go on until there were searches."""
        number = 0
        try:
            while number < batches or self.searches < self.least:
                number += 1
                self.table.load(self.hot, np.full((len(self.hot), len(self.query)), np.float32(number + 100)))
                self.noted = number
                self.updated += len(self.hot)
        finally:
            self.done.set()

    def search(self) -> None:
        """The best rows are hot ones: none may hold a number before the one noted."""
        before, version = self.noted, self.table.version
        start = time.perf_counter()
        scores, _, reflects = self.index.search(self.query, 10, nprobe=self.nprobe, with_version=True)
        self.seconds.append(time.perf_counter() - start)
        self.searches += 1
        outdated = before > 0 and bool((scores < (before + 100) * len(self.query)).any())
        self.older += outdated or reflects < version

    def run(self, batches: int) -> None:
        """Search for as long as the writer is at it, and once more."""
        writer = threading.Thread(target=self.write, args=(batches,), daemon=True)
        writer.start()
        while not self.done.is_set():
            self.search()
        writer.join()
        self.search()


@workload("search/fresh", "whether any search answers from an older version than it must", judged=True)
def fresh(settings: Settings) -> Iterator[CaseResult]:
    """A writer that sets rows to the number of its batch, and a searcher that reads the numbers back."""
    rows, dim, total, batch = settings.pick(
        (100_000, 32, 1_000_000, 500), (20_000, 32, 200_000, 500), (1000, 8, 20_000, 50)
    )
    for factory in ("exact", settings.pick("IVF256,Flat", "IVF64,Flat", "IVF4,Flat")):
        shared = _Freshness(factory, rows, dim, batch, settings)
        shared.run(total // batch)
        timed = "index.search(query, 10) in a loop"
        standing = Standing(f"fastinc {factory}", "subject", timed, seconds=shared.seconds)
        result = CaseResult(
            f"{factory}, {shape_name(rows, dim)}, at least {total:,} rows updated", "queries", [standing]
        )
        older = "searches answered from an older version"
        result.figures = {
            older: float(shared.older),
            "searches": float(shared.searches),
            "rows updated meanwhile": float(shared.updated),
        }
        if settings.size == "full":
            result.goals = [Goal(older, float(shared.older), 0.0, at_least=False)]
        yield result
        del shared
        free_memory()
