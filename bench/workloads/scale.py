"""What a row's step costs in a small and in a large table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.core import Case, CaseResult, Role, Settings, workload
from bench.inputs import Batch, Draw, batches, count_name, id_count
from bench.race import race
from bench.workloads._updaters import Fastinc
from bench.workloads.table import TableUpdate


def _folded(inputs: list[Batch], rows: int) -> list[Batch]:
    """Return the batches with their ids, uniform over a multiple of `rows`, folded into `rows`."""
    return [Batch(batch.ids % rows, batch.grads) for batch in inputs]


class SmallOps(Fastinc):
    """Compared with, not judged."""

    role: Role = "variant"

    def prepare(self, inputs: list[Batch]) -> Any:
        return super().prepare(_folded(inputs, self.shape[0]))

    def check(self, inputs: list[Batch]) -> None:
        super().check(_folded(inputs, self.shape[0]))


class SmallTable(TableUpdate):
    """Compared with, not judged."""

    role: Role = "variant"

    def prepare(self, inputs: list[Batch]) -> Any:
        return super().prepare(_folded(inputs, self.shape[0]))

    def check(self, inputs: list[Batch]) -> None:
        super().check(_folded(inputs, self.shape[0]))


def _cases(settings: Settings, small: int, large: int, dim: int) -> list[Case]:
    size = settings.pick(65_536, 65_536, 512)
    draw = batches(Draw("uniform", large), size, dim, 1)
    label = f"{count_name(large)} rows and {count_name(small)} x {dim}, uniform, {id_count([size])}"
    return [Case(label, draw, size, goals={_name(small): 1 / 1.5})]


def _name(rows: int) -> str:
    return f"fastinc, {count_name(rows)} rows"


def _sizes(settings: Settings) -> tuple[int, int, int]:
    return settings.pick((1_000_000, 30_000_000, 64), (50_000, 1_000_000, 64), (100, 3000, 8))


@workload(
    "scale/ops", "rowwise Adagrad at 1M and 30M rows: the cost of a row should not grow with the table", judged=True
)
def ops(settings: Settings) -> Iterator[CaseResult]:
    """The same gradients; ids are folded into the small array."""
    small, large, dim = _sizes(settings)
    contestants = [
        Fastinc("rowwise_adagrad", large, dim, name=_name(large)),
        SmallOps("rowwise_adagrad", small, dim, name=_name(small)),
    ]
    needs = (small + large) * (4 * dim + 4) + 2**30
    yield from race(contestants, _cases(settings, small, large, dim), settings, key=1, needs=needs)


@workload("scale/table", "EmbeddingTable.update at 1M and 30M rows", judged=True)
def table(settings: Settings) -> Iterator[CaseResult]:
    """The same gradients; ids are folded into the small table."""
    small, large, dim = _sizes(settings)
    contestants = [TableUpdate(large, dim, _name(large)), SmallTable(small, dim, _name(small))]
    needs = (small + large) * (5 * dim + 12 + 64) + 2**30
    yield from race(contestants, _cases(settings, small, large, dim), settings, key=2, needs=needs)
