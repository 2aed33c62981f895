"""A table that takes in new ids: the slowest batch, and bytes a row."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import fastinc as fi
from bench import machine, pages
from bench.core import CaseResult, Goal, Settings, Standing, WrongError, workload
from bench.inputs import Batch, Float32, Ids, count_name, normals, scattered
from bench.race import free_memory
from bench.reference import EPS, LR, Rows, check_update

_POOL = 16
_REACHED = 10.0
_BYTES_A_ROW = 32.0
#: How often the same table is filled with the same ids.
_RUNS = 3
RULE = (
    "free memory was touched before, so that the host of a virtual machine has given it; a batch's time is its least "
    "over the fills: a pause of the table's own comes at the same batch every time, one of the machine's does not"
)


class _Growth:
    """The same ids into a new table, batch by batch, several times."""

    def __init__(self, total: int, batch: int, dim: int, settings: Settings) -> None:
        self.total, self.batch, self.dim = total, batch, dim
        self.grads = [normals(settings.random(50, number), batch, dim) for number in range(_POOL)]
        self.beyond: list[float] = []
        self.beyond_with_slack: list[float] = []
        #: By fill, then by batch: seconds on the clock, and of CPU in all of the process's threads.
        self.wall: list[list[float]] = []
        self.cpu: list[list[float]] = []
        #: By fill: seconds that touching its memory took beforehand.
        self.touched: list[float] = []

    def ids(self, begin: int) -> Ids:
        """Return the ids of the batch that begins there."""
        return scattered(np.arange(begin, min(begin + self.batch, self.total), dtype=np.uint64))

    def fill(self) -> None:
        """Insert all ids into a new table, batch by batch on the clock."""
        start_resident = machine.resident_memory()
        optimizer = fi.RowWiseAdagrad(lr=LR, eps=EPS)
        self.table = fi.EmbeddingTable(dim=self.dim, optimizer=optimizer, init=fi.init.Zeros())
        self.table.lookup_quantized([])  # with int8 copies from the start, as one that serves
        wall, cpu = list[float](), list[float]()
        report = max(1, self.total // self.batch // 40)  # sizes at which memory is looked at
        for index, begin in enumerate(range(0, self.total, self.batch)):
            ids = self.ids(begin)
            grads = self.grads[index % _POOL][: len(ids)].copy()
            start, start_cpu = time.perf_counter(), time.process_time()
            self.table.update(ids, grads)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            last = begin + self.batch >= self.total
            if last or (len(self.table) >= 1_000_000 and index % report == 0):
                self.weigh()
        self.resident_beyond = (machine.resident_memory() - start_resident) / len(self.table) - self.owed()
        self.wall.append(wall)
        self.cpu.append(cpu)

    def weigh(self) -> None:
        """Note the bytes a row that aren't its data: without, and with the room for rows to come."""
        usage, rows = self.table.memory_usage(), len(self.table)
        self.beyond.append((usage["total"] - usage["weights"] - usage["state"] - usage["codes"]) / rows)
        self.beyond_with_slack.append(usage["total"] / rows - self.owed())

    def least(self, times: list[list[float]]) -> NDArray[np.float64]:
        """Return each whole batch's least time over the fills; one that is short would be the fastest."""
        least: NDArray[np.float64] = np.array(times)[:, : self.total // self.batch].min(axis=0)
        return least

    def owed(self) -> float:
        """Return the bytes of a row that are weights, state and int8 copy with its scale and bias."""
        return 4 * self.dim + 4 + self.dim + 8

    def check(self) -> None:
        """All rows are there, and some from all over are what one step from zero makes."""
        if len(self.table) != self.total:
            raise WrongError(f"{len(self.table)} rows after {self.total} new ids")
        batches = -(-self.total // self.batch)
        for index in {0, batches // 2, batches - 1}:
            begin = index * self.batch
            ids = self.ids(begin)
            grads: Float32 = self.grads[index % _POOL][: len(ids)]
            batch = Batch(np.arange(len(ids)), grads)
            zeros, h = np.zeros_like(grads), np.mean(grads.astype(np.float64) ** 2, axis=1)
            before = Rows(zeros, {"state": np.zeros(len(ids), np.float32)})
            check_update("rowwise_adagrad", batch, before, Rows(self.table.lookup(ids), {"state": h}))


def _touchable(settings: Settings, needs: float) -> int:
    """Return how much memory to touch: nearly all that is free, for nobody knows which the table will get."""
    return int(settings.pick(max(needs, 0.85 * machine.available_memory()), needs, needs))


@workload("growth", "new ids, batch after batch: no batch may stop the world", judged=True)
def growth(settings: Settings) -> Iterator[CaseResult]:
    """Every batch is all new; every fill is of a new table."""
    total, size, dim = settings.pick((20_000_000, 4096, 64), (1_000_000, 4096, 64), (10_000, 256, 8))
    timed = f"table.update of {size:,} new ids; {RULE}"
    standing = Standing("fastinc table", "subject", timed, work=size)
    run = _Growth(total, size, dim, settings)
    needs = total * (run.owed() + 64) + 2**30
    try:
        if needs > machine.available_memory():
            raise MemoryError(f"needs {needs / 2**30:.1f} GiB of memory")
        for number in range(min(settings.rounds, _RUNS)):
            run.touched.append(pages.touch(_touchable(settings, needs)))
            before = pages.resident()
            run.fill()
            standing.huge_pages = pages.share(before, pages.resident())
            if number == 0:
                run.check()
            del run.table
            free_memory()
        standing.seconds = run.least(run.wall).tolist()
    except WrongError as error:
        standing.status, standing.reason = "wrong", str(error)
    except MemoryError as error:
        standing.status, standing.reason = "failed", str(error)
    result = CaseResult(f"{count_name(total)} ids x {dim}, {size:,} ids a batch", "rows", [standing])
    if standing.counts:
        result.figures = _figures(run)
        if settings.size == "full":
            result.goals = [
                Goal(name, result.figures[name], bound, at_least=False)
                for name, bound in ((_SLOWEST, _REACHED), (_BEYOND, _BYTES_A_ROW))
            ]
    yield result


_SLOWEST = "slowest batch / median one"
_BEYOND = "bytes a row beyond weights, state and codes, most"


def _figures(run: _Growth) -> dict[str, float]:
    wall, cpu = run.least(run.wall), run.least(run.cpu)
    fills = [float(max(times) / np.median(times)) for times in (np.array(run.wall)[:, : len(wall)])]
    return {
        _SLOWEST: float(wall.max() / np.median(wall)),
        f"{_SLOWEST}, by CPU time": float(cpu.max() / np.median(cpu)),
        f"{_SLOWEST}, in the best single fill": min(fills),
        f"{_SLOWEST}, in the worst single fill": max(fills),
        "which batch is the slowest": float(wall.argmax()),
        "99.9 % of batches are below, ms": float(np.quantile(wall, 0.999)) * 1e3,
        "99.9 % of batches are below, ms, by CPU time": float(np.quantile(cpu, 0.999)) * 1e3,
        "99.9 % of batches are below, ms, all fills": float(np.quantile(run.wall, 0.999)) * 1e3,
        _BEYOND: max(run.beyond),
        "the same with the room for rows to come": max(run.beyond_with_slack),
        "seconds that touching the memory took, before the first fill": run.touched[0],
        "seconds that touching the memory took, before the last fill": run.touched[-1],
        "bytes a row beyond its data, by the process's memory": run.resident_beyond,
    }
