"""A table that takes in new ids: the slowest batch, and bytes a row."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

import fastinc as fi
from bench import machine
from bench.core import CaseResult, Goal, Settings, Standing, WrongError, workload
from bench.inputs import Batch, Float32, count_name, normals, scattered
from bench.race import free_memory
from bench.reference import EPS, LR, Rows, check_update

_POOL = 16
_REACHED = 10.0
_BYTES_A_ROW = 32.0


class _Growth:
    """One table, filled batch by batch."""

    def __init__(self, total: int, batch: int, dim: int, settings: Settings) -> None:
        self.total, self.batch, self.dim = total, batch, dim
        self.grads = [normals(settings.random(50, number), batch, dim) for number in range(_POOL)]
        self.bytes_beyond: list[float] = []

    def fill(self, number: int) -> list[float]:
        """Insert all ids into a new table; return the seconds of each batch."""
        start_resident = machine.resident_memory()
        optimizer = fi.RowWiseAdagrad(lr=LR, eps=EPS)
        self.table = fi.EmbeddingTable(dim=self.dim, optimizer=optimizer, init=fi.init.Zeros())
        seconds = []
        report = max(1, self.total // self.batch // 40)  # sizes at which memory is looked at
        for index, begin in enumerate(range(0, self.total, self.batch)):
            rows = np.arange(begin, min(begin + self.batch, self.total), dtype=np.uint64)
            ids, grads = scattered(rows + np.uint64(number << 40)), self.grads[index % _POOL][: len(rows)].copy()
            start = time.perf_counter()
            self.table.update(ids, grads)
            seconds.append(time.perf_counter() - start)
            last = begin + self.batch >= self.total
            if last or (len(self.table) >= 1_000_000 and index % report == 0):
                self.bytes_beyond.append(self.table.memory_usage()["total"] / len(self.table) - self.owed())
        self.resident_beyond = (machine.resident_memory() - start_resident) / len(self.table) - self.owed()
        return seconds

    def owed(self) -> float:
        """Return the bytes of a row that are weights, state and int8 copy with its scale and bias."""
        return 4 * self.dim + 4 + self.dim + 8

    def check(self, number: int) -> None:
        """All rows are there, and some from all over are what one step from zero makes."""
        if len(self.table) != self.total:
            raise WrongError(f"{len(self.table)} rows after {self.total} new ids")
        batches = -(-self.total // self.batch)
        for index in {0, batches // 2, batches - 1}:
            begin = index * self.batch
            rows = np.arange(begin, min(begin + self.batch, self.total), dtype=np.uint64)
            ids = scattered(rows + np.uint64(number << 40))
            grads: Float32 = self.grads[index % _POOL][: len(ids)]
            batch = Batch(np.arange(len(ids)), grads)
            zeros, h = np.zeros_like(grads), np.mean(grads.astype(np.float64) ** 2, axis=1)
            before = Rows(zeros, {"state": np.zeros(len(ids), np.float32)})
            check_update("rowwise_adagrad", batch, before, Rows(self.table.lookup(ids), {"state": h}))


@workload("growth", "new ids, batch after batch: no batch may stop the world")
def growth(settings: Settings) -> Iterator[CaseResult]:
    """Every batch is all new; a round fills a new table."""
    total, size, dim = settings.pick((20_000_000, 4096, 64), (1_000_000, 4096, 64), (10_000, 256, 8))
    timed = f"table.update of {size:,} new ids; one time for each batch of every round"
    standing = Standing("fastinc table", "subject", timed, work=size)
    run = _Growth(total, size, dim, settings)
    worst: list[float] = []
    needs = total * (run.owed() + 64) + 2**30
    try:
        if needs > machine.available_memory():
            raise MemoryError(f"needs {needs / 2**30:.1f} GiB of memory")
        for number in range(min(settings.rounds, 3)):
            seconds = run.fill(number)
            if number == 0:
                run.check(number)
            whole = seconds[: total // size]  # a last batch that is short would be the fastest
            standing.seconds += whole
            worst.append(max(whole) / float(np.median(whole)))
            del run.table
            free_memory()
    except WrongError as error:
        standing.status, standing.reason = "wrong", str(error)
    except MemoryError as error:
        standing.status, standing.reason = "failed", str(error)
    result = CaseResult(f"{count_name(total)} ids x {dim}, {size:,} ids a batch", "rows", [standing])
    if standing.counts:
        result.figures = _figures(standing, worst, run)
        if settings.size == "full":
            slowest, beyond = "slowest batch / median one, median of rounds", "bytes a row beyond its data, most"
            result.goals = [
                Goal(slowest, result.figures[slowest], _REACHED, at_least=False),
                Goal(beyond, result.figures[beyond], _BYTES_A_ROW, at_least=False),
            ]
    yield result


def _figures(standing: Standing, worst: list[float], run: _Growth) -> dict[str, float]:
    p999 = float(np.quantile(standing.seconds, 0.999))
    return {
        "slowest batch / median one, median of rounds": float(np.median(worst)),
        "slowest batch / median one, worst round": max(worst),
        "99.9 % of batches are below, ms": p999 * 1e3,
        "bytes a row beyond its data, most": max(run.bytes_beyond),
        "bytes a row beyond its data, by the process's memory": run.resident_beyond,
    }
