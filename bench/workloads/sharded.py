"""A table over the ranks of a process group: steps of lookup and update at 1, 2 and 4 ranks, and what travels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench import peers
from bench.core import Case, CaseResult, Contestant, Goal, Ready, Role, Settings, WrongError, leave, workload
from bench.inputs import Batch, Draw, batches, count_name
from bench.race import race
from bench.workloads._sharded_ranks import Answer, Ranks, Shape, make_init, make_optimizer

#: Of a vector that travels as float32, and as int8: bytes an id may cost each way (dim -> bytes).
_BUDGET = {"float32": lambda dim: 1.1 * 4 * dim + 16, "int8": lambda dim: 0.35 * (1.1 * 4 * dim + 16)}
WORLDS = (1, 2, 4)


class Sharded(Contestant):
    """``ShardedTable`` on so many ranks, each with a batch of its own."""

    def __init__(self, shape: Shape, role: Role) -> None:
        self.shape, self.role = shape, role
        self.name = ranks_name(shape.world, shape.wire)
        self.timed = (
            "lookup and update of each rank's batch, begun together, until the slowest is done; one thread a rank; "
            f'wire="{shape.wire}", presum="{shape.presum}"'
        )
        self.answers: list[Answer] = []

    def set_up(self, settings: Settings) -> None:
        peers.torch(settings)
        self.ranks = Ranks(self.shape)

    def _mine(self, inputs: list[list[Batch]]) -> list[list[Batch]]:
        return inputs[: self.shape.world]

    def check(self, inputs: list[list[Batch]]) -> None:
        """One step of all ranks, beside one table that is given their batches as one."""
        shape = self.shape
        one = fi.EmbeddingTable(shape.dim, make_optimizer(), make_init())
        one.update(np.arange(shape.rows), np.zeros((shape.rows, shape.dim), dtype=np.float32))
        first = [mine[:1] for mine in self._mine(inputs)]
        answers = self.ranks.steps(first, anew=True)
        ids, grads = (np.concatenate([getattr(mine[0], what) for mine in first]) for what in ("ids", "grads"))
        one.update(ids, grads)
        for mine, answer in zip(first, answers, strict=True):
            expected = one.lookup(mine[0].ids)
            if answer.rows is None:
                raise WrongError("no rows came back")
            if shape.wire == "float32" and not np.array_equal(answer.rows, expected):
                raise WrongError("rows are not the bytes of one table")
            if not np.allclose(answer.rows, expected, atol=0.02):
                raise WrongError("rows are not those of one table")

    def measure(self, inputs: list[list[Batch]], ready: Ready = leave) -> float:
        del ready  # the ranks' caches are their processes'
        self.answers = self.ranks.steps(self._mine(inputs))
        return max(answer.seconds for answer in self.answers)

    def bytes_an_id(self) -> dict[str, float]:
        """Return what an id of another rank has cost in the last measurement, by way: to its owner, and back."""
        sent = {kind: sum(answer.sent.get(kind, 0) for answer in self.answers) for kind in self.answers[0].sent}
        asked, given = (sum(getattr(answer, name) for answer in self.answers) for name in ("asked", "given"))
        an_id = sent["ids"] / (asked + given)
        there = an_id + (sent["gradients"] + sent.get("counts", 0)) / given
        back = sent.get("replies", 0) / given
        return {
            "lookup, there": an_id,
            "lookup, back": sent["rows"] / asked,
            "update, there": there,
            "update, back": back,
        }

    def close(self) -> None:
        """Keep what travelled: it is asked for when the race is over."""
        if hasattr(self, "ranks"):
            self.ranks.close()
            del self.ranks


def ranks_name(world: int, wire: str) -> str:
    """Return a contestant's name."""
    return f"{world} rank{'s' if world > 1 else ''}, {wire}"


def _cases(settings: Settings, shape: Shape, calls: int) -> Iterator[Case]:
    each = settings.pick(8192, 2048, 256)
    for kind in ("uniform", "zipf"):
        draw = batches(Draw(kind, shape.rows), each, shape.dim, calls * WORLDS[-1])

        def by_rank(rng: np.random.Generator, draw: Any = draw) -> list[list[Batch]]:
            drawn = draw(rng)
            return [drawn[rank * calls : (rank + 1) * calls] for rank in range(WORLDS[-1])]

        label = f"{count_name(shape.rows)} x {shape.dim}, {kind}, {each:,} ids a rank"
        yield Case(label, by_rank, each * calls, unit="rows a rank", calls=calls)


@workload(
    "sharded", "ShardedTable on 1, 2 and 4 ranks of a gloo group, each with a batch of the same size", judged=True
)
def sharded(settings: Settings) -> Iterator[CaseResult]:
    """Weak scaling: what a step takes as ranks are added, and the bytes that an id costs."""
    rows, dim, calls = settings.pick((1_000_000, 64, 4), (100_000, 64, 2), (1000, 8, 1))
    contestants = []
    for world in WORLDS if settings.size != "tiny" else WORLDS[:2]:
        role: Role = "subject" if world == 2 else "variant"
        contestants.append(Sharded(Shape(world, rows, dim, "float32", "exact"), role))
        contestants.append(Sharded(Shape(world, rows, dim, "int8", "all"), "variant"))
    for result in race(contestants, list(_cases(settings, contestants[0].shape, calls)), settings, key=30):
        result.caches = ""  # the ranks' are their processes', and as the step before left them
        for contestant in contestants:
            if contestant.shape.world == 1 or not contestant.answers:
                continue
            round_seconds = np.median([answer.round_seconds for answer in contestant.answers])
            result.figures[f"µs a round of agreement, {contestant.name}"] = 1e6 * float(round_seconds)
            for way, cost in contestant.bytes_an_id().items():
                result.figures[f"bytes an id, {contestant.name}, {way}"] = cost
                if settings.size == "full" and way in ("lookup, back", "update, there"):
                    bound = _BUDGET[contestant.shape.wire](dim)
                    goal = Goal(f"{contestant.name}, bytes an id, {way}", cost, bound, at_least=False)
                    result.goals.append(goal)
        yield result
