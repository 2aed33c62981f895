"""Readers beside a writer, and many threads that write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench import machine
from bench.core import Case, CaseResult, Contestant, Goal, Settings, Standing, WrongError, workload
from bench.inputs import Batch, Draw, batches, normals, scattered, shape_name
from bench.race import free_memory, race
from bench.workloads.table import make_table

#: Inputs that a thread goes round in: drawing anew would be timed too.
_POOL = 64


def _loop(call: Callable[[int], object], stop: threading.Event, count: list[int], failure: list[BaseException]) -> None:
    done = 0
    try:
        while not stop.is_set():
            call(done % _POOL)
            done += 1
    except BaseException as error:
        failure.append(error)
    count.append(done)


def rates(loops: dict[str, list[Callable[[int], object]]], seconds: float) -> dict[str, float]:
    """Run every loop in a thread of its own for some time; return calls a second for each name."""
    stop, failure = threading.Event(), list[BaseException]()
    counts: dict[str, list[int]] = {name: [] for name in loops}
    threads = [
        threading.Thread(target=_loop, args=(call, stop, counts[name], failure), daemon=True)
        for name, calls in loops.items()
        for call in calls
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    if failure:
        raise failure[0]
    return {name: sum(count) / elapsed for name, count in counts.items()}


class _Shared:
    """A table with a writer and readers that go round in ready inputs."""

    def __init__(self, rows: int, dim: int, settings: Settings) -> None:
        self.table = make_table(rows, dim)
        rng, draw = settings.random(40), Draw("uniform", rows)
        self.write_size, self.read_size = settings.pick((4096, 1024), (4096, 1024), (64, 32))
        self.writes = [
            (scattered(draw(rng, self.write_size)), normals(rng, self.write_size, dim)) for _ in range(_POOL)
        ]
        self.reads = [scattered(draw(rng, self.read_size)) for _ in range(_POOL)]
        self.dim = dim

    def writer(self) -> Callable[[int], object]:
        return lambda number: self.table.update(*self.writes[number])

    def reader(self) -> Callable[[int], object]:
        out = np.full((self.read_size, self.dim), np.float32(0.5))
        return lambda number: self.table.lookup(self.reads[number], out=out)

    def check(self, seconds: float) -> None:
        """Rows are written whole: each as one number, all rows the same one at a time."""
        ids = np.unique(self.reads[0])
        before, torn = self.table.lookup(ids), list[int]()

        def write(number: int) -> None:
            self.table.load(ids, np.full((len(ids), self.dim), np.float32(number)))

        def read(number: int) -> None:
            found = self.table.lookup(ids)
            torn.append(int((found != found[:, :1]).any(axis=1).sum()))

        write(0)
        rates({"writer": [write], "reader": [read]}, seconds)
        self.table.load(ids, before)
        if not torn or any(torn):
            raise WrongError(f"{sum(torn)} torn rows in {len(torn)} reads")


@workload("sharing/lookup", "lookups beside a writer that never rests, and the writer beside them")
def lookup(settings: Settings) -> Iterator[CaseResult]:
    """One writer and as many readers as there are CPUs left, each call on one thread: alone, then together."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (500, 8))
    readers = max(1, machine.cpus() - 1)
    seconds = settings.pick(1.0, 0.5, 0.05)
    threads_before = fi.get_num_threads()
    fi.set_num_threads(1)  # otherwise one call alone would take the CPUs that the other side needs
    try:
        shared = _Shared(rows, dim, settings)
        results = [_pair(side, shared, readers, shape_name(rows, dim)) for side in ("reader", "writer")]
        standings = {standing.name: standing for result in results for standing in result.standings}
        try:
            shared.check(min(seconds, 0.5))
            _alternate(shared, standings, readers, seconds, settings)
        except WrongError as error:
            for standing in standings.values():
                standing.status, standing.reason = "wrong", str(error)
        for result in results:
            if settings.size == "full":
                beside, alone = result.standings
                result.goals.append(Goal(f"{beside.name}, rate against {alone.name}", result.ratio(alone.name), 0.7))
            yield result
    finally:
        fi.set_num_threads(threads_before)
        free_memory()


def _pair(side: str, shared: _Shared, readers: int, shape: str) -> CaseResult:
    if side == "reader":
        other, size = "writer", shared.read_size
        timed = f"table.lookup of {size:,} ids in a loop for a while; rates of all {readers} readers together"
    else:
        other, size = "readers", shared.write_size
        timed = f"table.update of {size:,} ids in a loop for a while"
    return CaseResult(
        f"{shape}, 1 writer, {readers} {'reader' if readers == 1 else 'readers'}: the {side}'s rate",
        "rows",
        [
            Standing(f"{side} beside {other}", "subject", timed, work=size),
            Standing(f"{side} alone", "variant", timed, work=size),
        ],
    )


def _alternate(
    shared: _Shared, standings: dict[str, Standing], readers: int, seconds: float, settings: Settings
) -> None:
    phases: dict[str, tuple[dict[str, str], Callable[[], dict[str, Any]]]] = {
        "readers": ({"reader": "reader alone"}, lambda: {"reader": [shared.reader() for _ in range(readers)]}),
        "writer": ({"writer": "writer alone"}, lambda: {"writer": [shared.writer()]}),
        "both": (
            {"reader": "reader beside writer", "writer": "writer beside readers"},
            lambda: {"reader": [shared.reader() for _ in range(readers)], "writer": [shared.writer()]},
        ),
    }
    order = settings.random(41)
    for number in range(settings.rounds + 1):
        for phase in order.permutation(list(phases)):
            names, loops = phases[phase]
            for side, rate in rates(loops(), seconds).items():
                if number > 0:  # the first round warms up
                    standings[names[side]].seconds.append(1.0 / max(rate, 1e-9))


class Threads(Contestant):
    """Small updates, split over Python threads."""

    def __init__(self, threads: int, rows: int, dim: int) -> None:
        self.threads, self.shape = threads, (rows, dim)
        self.name = f"fastinc, {threads} threads" if threads > 1 else "fastinc, 1 thread"
        self.role = "subject" if threads > 1 else "variant"
        self.timed = (
            "table.update, batches shared out over the threads, which wait at a barrier; until the last is done"
        )

    def set_up(self, settings: Settings) -> None:
        self.table = fi.EmbeddingTable(dim=self.shape[1], optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
        ids = np.arange(self.shape[0])
        self.table.load(ids, np.ones((len(ids), self.shape[1]), np.float32))

    def check(self, inputs: list[Batch]) -> None:
        """Whole numbers, so that the order of the threads can't be seen in the sums."""
        whole = [Batch(batch.ids, np.rint(batch.grads)) for batch in inputs]
        every = np.arange(self.shape[0])
        self.table.load(every, np.ones(self.shape, np.float32))
        expected = np.ones(self.shape, np.float32)
        for batch in whole:
            np.subtract.at(expected, batch.ids, batch.grads)
        self.measure(whole)
        if not np.array_equal(self.table.lookup(every), expected):
            raise WrongError("updates of several threads got lost or came twice")

    def measure(self, inputs: list[Batch]) -> float:
        barrier, failure = threading.Barrier(self.threads + 1), list[BaseException]()
        prepared = [Batch(batch.ids.copy(), batch.grads.copy()) for batch in inputs]

        def work(share: list[Batch]) -> None:
            barrier.wait()
            try:
                for batch in share:
                    self.table.update(batch.ids, batch.grads)
            except BaseException as error:
                failure.append(error)

        shares = [prepared[index :: self.threads] for index in range(self.threads)]
        threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
        for thread in threads:
            thread.start()
        barrier.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        if failure:
            raise failure[0]
        return seconds


@workload("sharing/threads", "small updates from 32 Python threads and from one")
def many(settings: Settings) -> Iterator[CaseResult]:
    """The same updates in total."""
    rows, dim = settings.pick((100_000, 64), (100_000, 64), (500, 8))
    calls = settings.pick(6400, 3200, 64)
    threads = settings.pick(32, 32, 4)
    cases = [
        Case(
            f"{shape_name(rows, dim)}, {size} ids a call, {calls:,} calls",
            batches(Draw("uniform", rows), size, dim, calls),
            size * calls,
            calls=calls,
            goals={"fastinc, 1 thread": 1.0},
        )
        for size in (1, 32)
    ]
    yield from race([Threads(threads, rows, dim), Threads(1, rows, dim)], cases, settings, key=42)
