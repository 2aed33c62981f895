"""Rowwise Adagrad on a GPU: large batches, small ones, and in a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core import Case, CaseResult, Settings, workload
from bench.gpu.contest import Copy, Target, contest, judge, microseconds, share_of_copy, times
from bench.gpu.device import Device, open_device
from bench.gpu.draws import Batch, Draw, batches
from bench.gpu.updaters import (
    INDEX_ADD,
    SPARSE,
    Fastinc,
    FastincGraph,
    FastincOneGraph,
    FastincWaited,
    FastincWall,
    IndexAdd,
    IndexAddWall,
    SparseAdagrad,
    SparseAdagradWall,
)
from bench.inputs import count_name, shape_name


def shape(settings: Settings) -> tuple[int, int]:
    """Return (rows, dim) of the table."""
    return settings.pick((10_000_000, 128), (500_000, 128), (2000, 8))


def bytes_moved(device: Device, drawn: list[Batch]) -> tuple[float, float]:
    """Return the bytes of these updates, and their distinct rows.

    Each id and gradient is read once; of each distinct row, weights and state are read and written once.
    """
    total = unique = 0.0
    for batch in drawn:
        n, dim = batch.grads.shape
        rows = len(device.torch.unique(batch.ids))
        total, unique = total + n * (8 + 4 * dim) + rows * (8 * dim + 8), unique + rows
    return total, unique


@workload("gpu/update", "rowwise Adagrad, a large batch in place; rates are of the bytes it must move", on_gpu=True)
def update(settings: Settings) -> Iterator[CaseResult]:
    """Uniform and zipf; "raise" beside "skip"."""
    device = open_device(settings)
    rows, dim = shape(settings)
    count = settings.pick(1_000_000, 100_000, 512)
    contestants = [
        Fastinc(device, rows, dim),
        Fastinc(device, rows, dim, "raise", "fastinc, raise"),
        SparseAdagrad(device, rows, dim),
        IndexAdd(device, rows, dim),
        Copy(device, settings),
    ]
    cases: list[tuple[Case, list[Target]]] = []
    unique: list[float] = []
    for kind in ("uniform", "zipf"):
        draw = batches(Draw(device, kind, rows), count, dim)
        work, distinct = bytes_moved(device, draw(settings.random(70)))
        unique.append(distinct)
        targets = [share_of_copy(0.6), times(SPARSE, 5), times(INDEX_ADD, 3)] if kind == "uniform" else []
        label = f"{shape_name(rows, dim)}, {kind}, {count_name(count)} ids"
        cases.append((Case(label, draw, work, unit="bytes"), targets))
    a_row = []
    for distinct, result in zip(unique, contest(device, contestants, cases, settings, key=70), strict=True):
        result.figures["distinct rows"] = distinct
        a_row.append(result.subject.median / distinct if result.subject else float("nan"))
        result.figures["ns a distinct row"] = a_row[-1] * 1e9
        if len(a_row) == 2:
            compared = Target("time a distinct row, of uniform's", 1.0, lambda _: a_row[1] / a_row[0], at_least=False)
            judge(result, [compared], settings)
        yield result


@workload("gpu/small", "rowwise Adagrad, small batches: calls from Python, and in a CUDA graph", on_gpu=True)
def small(settings: Settings) -> Iterator[CaseResult]:
    """So many batches in a measurement that their rows and gradients don't fit the caches."""
    device = open_device(settings)
    rows, dim = shape(settings)
    count, calls = settings.pick((1024, 256), (1024, 64), (64, 3))
    draw = batches(Draw(device, "uniform", rows), count, dim, calls)
    work, _ = bytes_moved(device, draw(settings.random(71)))
    label = f"{shape_name(rows, dim)}, uniform, {count:,} ids"
    walls = [
        FastincWall(device, rows, dim),
        FastincWall(device, rows, dim, "raise", "fastinc, raise"),
        FastincWaited(device, rows, dim),
        SparseAdagradWall(device, rows, dim),
        IndexAddWall(device, rows, dim),
    ]
    case = Case(f"{label}, from Python", draw, work, unit="bytes", calls=calls)
    yield from contest(device, walls, [(case, [microseconds(40)])], settings, key=71)
    graphs = [FastincGraph(device, rows, dim), FastincOneGraph(device, rows, dim)]
    case = Case(f"{label}, in a CUDA graph", draw, work, unit="bytes", calls=calls)
    yield from contest(device, graphs, [(case, [microseconds(15)])], settings, key=72)
