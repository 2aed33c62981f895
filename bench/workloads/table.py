"""`EmbeddingTable.update`: ids hashed, rows found or made, int8 copy and version written too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench.core import Case, CaseResult, Contestant, Role, Settings, WrongError, workload
from bench.inputs import Batch, Ids, fill, scattered
from bench.pages import own
from bench.race import race
from bench.reference import EPS, LR, Rows, check_update, sums
from bench.workloads._updaters import Fastinc, GradientLimit, RowLimit, Tbe, WarmTbe, state_bytes
from bench.workloads.update import shapes, update_cases

_CHUNK = 65_536


def make_table(rows: int, dim: int, *, codes: bool = True) -> fi.EmbeddingTable:
    """Return a table with the rows ``scattered(range(rows))``, random values, and accumulators at 1.

    codes: whether it keeps int8 copies, as one that serves does
    """
    optimizer = fi.RowWiseAdagrad(lr=LR, eps=EPS, initial_accumulator_value=1.0)
    table = fi.EmbeddingTable(dim=dim, optimizer=optimizer)
    for begin in range(0, rows, _CHUNK):
        ids = scattered(np.arange(begin, min(begin + _CHUNK, rows)))
        table.load(ids, fill(np.empty((len(ids), dim), np.float32), -0.1, 0.1, seed=begin))
    if codes:
        table.lookup_quantized([])
    return table


class TableUpdate(Contestant):
    """fastinc's table, whose keys are spread over int64."""

    role: Role = "subject"
    codes = True

    def __init__(self, rows: int, dim: int, name: str = "fastinc table") -> None:
        self.name, self.shape = name, (rows, dim)
        self.timed = "table.update(ids, grads): any int64 ids, rows found by hash, int8 copy and version written too"

    def set_up(self, settings: Settings) -> None:
        self.table = make_table(*self.shape, codes=self.codes)

    def check(self, inputs: list[Batch]) -> None:
        """The formula from rows that are loaded for it, so that their accumulators are known; and the int8 copies."""
        batch = inputs[0]
        rows, _, _ = sums(batch)
        ids, others = (
            scattered(rows),
            scattered(np.setdiff1d(np.arange(0, self.shape[0], 1 + self.shape[0] // 1000), rows)),
        )
        before, before_others = self.table.lookup(ids), self.table.lookup(others)
        self.table.load(ids, before)
        version = self.table.version
        self.measure([batch])
        after = self.table.lookup(ids)
        ones = np.ones(len(ids), np.float32)
        h = ones + np.mean(sums(batch)[1] ** 2, axis=1)  # a table doesn't show its state
        check_update("rowwise_adagrad", batch, Rows(before, {"state": ones}), Rows(after, {"state": h}))
        if not np.array_equal(self.table.lookup(others), before_others):
            raise WrongError("rows outside the batch have changed")
        if (self.table.memory_usage()["codes"] > 0) != self.codes:
            raise WrongError(f"int8 copies are {'not ' * self.codes}kept")
        if self.codes and not np.array_equal(self.table.lookup_quantized(ids), fi.ops.quantize_rowwise(after)):
            raise WrongError("the int8 copies are not those of the rows")
        if self.table.version != version + 1 or len(self.table) != self.shape[0]:
            raise WrongError(f"version {self.table.version} after {version}, {len(self.table)} rows")

    def prepare(self, inputs: list[Batch]) -> list[tuple[Ids, Any]]:
        return [(scattered(batch.ids), own(batch.grads)) for batch in inputs]

    def run(self, prepared: list[tuple[Ids, Any]]) -> None:
        update = self.table.update
        for ids, grads in prepared:
            update(ids, grads)


class TrainedOnly(TableUpdate):
    """One that nobody has searched."""

    role: Role = "variant"
    codes = False

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(rows, dim, "fastinc table, trained only")
        self.timed = "the same of a table that was never asked for int8 copies, and so has none"


class Variant(Fastinc):
    """The kernels alone, beside the table."""

    role: Role = "variant"


def contestants(rows: int, dim: int) -> list[Contestant]:
    """Return the table, the kernels, FBGEMM and the limit."""
    kernels = Variant("rowwise_adagrad", rows, dim, name="fastinc ops")
    tbe, limit = Tbe("rowwise_adagrad", rows, dim), RowLimit(rows, dim)
    tables = [TableUpdate(rows, dim), TrainedOnly(rows, dim)]
    return [*tables, kernels, tbe, WarmTbe(tbe), limit, GradientLimit(limit)]


def bytes_needed(rows: int, dim: int) -> float:
    """Return the bytes of these contestants."""
    return rows * (5 * 4 * dim + 4 * state_bytes("rowwise_adagrad", dim) + dim + 96) + 2**30


@workload("table/update", "EmbeddingTable.update with rowwise Adagrad, every id already there", judged=True)
def update(settings: Settings) -> Iterator[CaseResult]:
    """FBGEMM's ids are row numbers, and it writes neither int8 copies nor versions."""
    for key, (rows, dim) in enumerate(shapes(settings)):
        goals = {kind: {"FBGEMM TBE": 10.0} for kind in ("uniform", "zipf")} if key == 0 else {}
        cases: list[Case] = update_cases(settings, rows, dim, goals, one=3e-6)
        yield from race(contestants(rows, dim), cases, settings, key=key, needs=bytes_needed(rows, dim))
