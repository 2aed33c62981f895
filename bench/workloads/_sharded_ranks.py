"""Ranks of a gloo group in processes of their own, which hold a sharded table and do steps over it."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import fastinc as fi
from bench.inputs import Batch, Float32

#: A rank that has no answer by then has failed.
_TIMEOUT_SECONDS = 120.0
_ROUNDS = 20


@dataclass(frozen=True)
class Shape:
    """What the ranks hold together, and how vectors travel."""

    world: int
    rows: int
    dim: int
    wire: Literal["float32", "int8"]
    presum: Literal["exact", "all"]


@dataclass(frozen=True)
class Answer:
    """Of one rank's steps."""

    seconds: float
    round_seconds: float  # of a call that only agrees
    rows: Float32 | None  # its ids' rows after the last step, where they were asked for
    sent: dict[str, int]  # bytes, by what they were
    asked: int  # distinct ids of other ranks
    given: int


def make_optimizer() -> fi.Optimizer:
    """Return a new optimizer: the one that checks compare with."""
    return fi.RowWiseAdagrad(lr=0.05)


def make_init() -> Any:
    """Return the start values."""
    return fi.init.Uniform(-0.1, 0.1, seed=3)


class Ranks:
    """Processes that are the ranks of one group."""

    def __init__(self, shape: Shape) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        for rank in range(shape.world):
            mine, theirs = context.Pipe()
            arguments = (rank, shape, str(Path(self._folder.name) / "store"), theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        self._receive()

    def steps(self, batches: list[list[Batch]], *, anew: bool = False) -> list[Answer]:
        """Look up and update each rank's batches; they begin together. Anew: over a new table, and rows come back."""
        for pipe, mine in zip(self._pipes, batches, strict=True):
            pipe.send((mine, anew))
        return self._receive()

    def _receive(self) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_TIMEOUT_SECONDS):
                raise RuntimeError(f"rank {rank} doesn't answer")
            answer = pipe.recv()
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, shape: Shape, store: str, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    try:
        fi.set_num_threads(1)
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=shape.world)
        pipe.send(None)
        while True:
            batches, anew = pipe.recv()
            if anew:
                table = _make_table(rank, shape)
            pipe.send(_steps(table, batches, anew, dist.barrier))
    except Exception as error:
        pipe.send(error)


def _make_table(rank: int, shape: Shape) -> Any:
    """Every id has a row, so that the clock sees none made."""
    init = make_init()
    table = fi.distributed.ShardedTable(shape.dim, make_optimizer(), init, wire=shape.wire, presum=shape.presum)
    part = np.arange(rank, shape.rows, shape.world)
    table.update(part, np.zeros((len(part), shape.dim), dtype=np.float32))
    return table


def _steps(table: Any, batches: list[Batch], anew: bool, barrier: Any) -> Answer:
    before = table.stats()
    barrier()
    start = time.perf_counter()
    for batch in batches:
        table.lookup(batch.ids)
        table.update(batch.ids, batch.grads)
    seconds = time.perf_counter() - start
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        table.rows()
        times.append(time.perf_counter() - start)
    after = table.stats()
    sent = {kind: way["sent"] - before["wire"].get(kind, {"sent": 0})["sent"] for kind, way in after["wire"].items()}
    asked, given = (after[name] - before[name] for name in ("looked_up", "updated"))
    rows = table.lookup(batches[-1].ids) if anew else None
    return Answer(seconds, float(np.median(times)), rows, sent, asked, given)
