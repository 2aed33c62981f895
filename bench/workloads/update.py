"""Updates in place: one optimizer step on the rows of a batch."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core import Case, CaseResult, Contestant, Settings, workload
from bench.inputs import Draw, batches, id_count, shape_name
from bench.race import race
from bench.workloads._updaters import (
    Fastinc,
    GradientLimit,
    NumPy,
    RowLimit,
    Tbe,
    TorchSparse,
    WarmTbe,
    missing,
    state_bytes,
)

#: (batch size, calls in a measurement)
SMALL_BATCHES = ((1, 200), (32, 100), (1024, 20))
TBE, TORCH, LIMIT = "FBGEMM TBE", "torch sparse ", "limit"
#: optimizer, distribution: what a batch of 65,536 ids of 5M x 64 is to reach.
GOALS: dict[tuple[str, str], dict[str, float]] = {
    ("rowwise_adagrad", "uniform"): {TBE: 25, TORCH + "Adagrad": 25, LIMIT: 0.6},
    ("rowwise_adagrad", "zipf"): {TBE: 12, LIMIT: 0.6},
    ("adagrad", "uniform"): {TBE: 20},
    ("adam", "uniform"): {TORCH + "SparseAdam": 20},
    ("sgd", "uniform"): {TBE: 6, TORCH + "SGD": 6},
}


def shapes(settings: Settings) -> list[tuple[int, int]]:
    """Return (rows, dim) of the tables."""
    return settings.pick([(5_000_000, 64), (1_000_000, 128)], [(200_000, 64), (100_000, 128)], [(2000, 8), (500, 12)])


def update_cases(
    settings: Settings, rows: int, dim: int, goals: dict[str, dict[str, float]], one: float | None = None
) -> list[Case]:
    """Return the cases of an update: large batches by distribution, then small ones."""
    large = settings.pick(65_536, 65_536, 512)
    shape = shape_name(rows, dim)
    cases = []
    for kind in ("uniform", "zipf"):
        draw = batches(Draw(kind, rows), large, dim, 1)
        cases.append(Case(f"{shape}, {kind}, {id_count([large])}", draw, large, goals=goals.get(kind, {})))
    for size, calls in SMALL_BATCHES:
        calls = settings.pick(calls, calls, 3)
        draw = batches(Draw("uniform", rows), size, dim, calls)
        goal = one if size == 1 else None
        label = f"{shape}, uniform, {id_count([size])}"
        cases.append(Case(label, draw, size * calls, calls=calls, goal_seconds=goal))
    return cases


def _contestants(optimizer: str, rows: int, dim: int) -> list[Contestant]:
    tbe, limit = Tbe(optimizer, rows, dim), RowLimit(rows, dim)
    peers: list[Contestant] = [tbe]
    if optimizer in ("rowwise_adagrad", "adagrad", "sgd"):  # those it has on the CPU
        peers.append(WarmTbe(tbe))
    if optimizer == "ftrl":
        peers.append(missing("torch sparse", "torch has no FTRL"))
    else:
        peers.append(TorchSparse(optimizer, rows, dim))
    return [Fastinc(optimizer, rows, dim), *peers, NumPy(optimizer, rows, dim), limit, GradientLimit(limit)]


def run_optimizer(optimizer: str, settings: Settings) -> Iterator[CaseResult]:
    """Race the contestants of an optimizer over all shapes."""
    for key, (rows, dim) in enumerate(shapes(settings)):
        contestants = _contestants(optimizer, rows, dim)
        needs = rows * (5 * 4 * dim + 4 * state_bytes(optimizer, dim)) + 2**30
        goals = {kind: GOALS.get((optimizer, kind), {}) for kind in ("uniform", "zipf")} if key == 0 else {}
        yield from race(contestants, update_cases(settings, rows, dim, goals), settings, key=key, needs=needs)


@workload("update/rowwise_adagrad", "one step of rowwise Adagrad on the rows of a batch, in place", judged=True)
def rowwise_adagrad(settings: Settings) -> Iterator[CaseResult]:
    """Torch has no rowwise Adagrad: its Adagrad is what people use, and is checked as that."""
    return run_optimizer("rowwise_adagrad", settings)


@workload("update/adagrad", "one step of Adagrad on the rows of a batch, in place", judged=True)
def adagrad(settings: Settings) -> Iterator[CaseResult]:
    """Adagrad has an accumulator for every weight."""
    return run_optimizer("adagrad", settings)


@workload("update/sgd", "one step of SGD on the rows of a batch, in place", judged=True)
def sgd(settings: Settings) -> Iterator[CaseResult]:
    """SGD has no state."""
    return run_optimizer("sgd", settings)


@workload("update/adam", "one step of lazy Adam on the rows of a batch, in place", judged=True)
def adam(settings: Settings) -> Iterator[CaseResult]:
    """Fastinc counts the steps of each row, SparseAdam those of the table: each is checked with its own."""
    return run_optimizer("adam", settings)


@workload("update/ftrl", "one step of FTRL-Proximal on the rows of a batch, in place")
def ftrl(settings: Settings) -> Iterator[CaseResult]:
    """Neither FBGEMM (on the CPU) nor torch has it: NumPy is what there is."""
    return run_optimizer("ftrl", settings)
