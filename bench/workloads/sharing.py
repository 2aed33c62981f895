"""Readers beside a writer, and many threads that write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

import fastinc as fi
from bench import machine
from bench.core import Case, CaseResult, Contestant, Goal, Ready, Settings, Standing, WrongError, leave, workload
from bench.inputs import Batch, Draw, batches, id_count, normals, scattered, shape_name
from bench.pages import own
from bench.race import free_memory, race
from bench.workloads.table import make_table

#: How often each thread goes through its share of the updates: 32 threads take some ms to get going.
_TIMES = 10
#: Inputs that a thread goes round in: drawing anew would be timed too.
_POOL = 64


@dataclass
class Pace:
    """What the threads of one name did: calls a second together, and the CPUs that each had."""

    calls: float = 0.0
    cpu: float = 0.0


def _loop(
    call: Callable[[int], object], stop: threading.Event, count: list[tuple[int, float]], failure: list[BaseException]
) -> None:
    done, start = 0, time.thread_time()
    try:
        while not stop.is_set():
            call(done % _POOL)
            done += 1
    except BaseException as error:
        failure.append(error)
    count.append((done, time.thread_time() - start))


def rates(loops: dict[str, list[Callable[[int], object]]], seconds: float) -> dict[str, Pace]:
    """Run every loop in a thread of its own for some time; return how each name did."""
    stop, failure = threading.Event(), list[BaseException]()
    counts: dict[str, list[tuple[int, float]]] = {name: [] for name in loops}
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
    return {
        name: Pace(sum(done for done, _ in count) / elapsed, sum(cpu for _, cpu in count) / elapsed / len(count))
        for name, count in counts.items()
    }


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


@dataclass
class _Crowd:
    """Readers and a writer of one table, alone and together."""

    shared: _Shared
    readers: int
    threads: int
    shape: str
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def results(self) -> list[CaseResult]:
        """Return empty results, the readers' and the writer's."""
        pool = f"{self.threads} {'thread' if self.threads == 1 else 'threads'} a call, {machine.cpus()} CPUs"
        crowd = f"{self.shape}, 1 writer, {self.readers} {'reader' if self.readers == 1 else 'readers'}, {pool}"
        sides = {
            "reader": f"table.lookup of {self.shared.read_size:,} ids in a loop; the readers together",
            "writer": f"table.update of {self.shared.write_size:,} ids in a loop",
        }
        sizes = {"reader": self.shared.read_size, "writer": self.shared.write_size}
        return [
            CaseResult(
                f"{crowd}: the {side}'s rate",
                "rows",
                [
                    Standing(f"{side} beside {other}", "subject", sides[side], work=sizes[side]),
                    Standing(f"{side} alone", "variant", sides[side], work=sizes[side]),
                ],
            )
            for side, other in (("reader", "writer"), ("writer", "readers"))
        ]

    def alternate(self, standings: dict[str, Standing], seconds: float, settings: Settings) -> None:
        """Run the three phases in turns."""
        shared = self.shared
        read, write = [shared.reader() for _ in range(self.readers)], [shared.writer()]
        phases: dict[str, tuple[dict[str, str], dict[str, list[Callable[[int], object]]]]] = {
            "readers": ({"reader": "reader alone"}, {"reader": read}),
            "writer": ({"writer": "writer alone"}, {"writer": write}),
            "both": (
                {"reader": "reader beside writer", "writer": "writer beside readers"},
                {"reader": read, "writer": write},
            ),
        }
        order = settings.random(41)
        for number in range(settings.rounds + 1):
            for phase in order.permutation(list(phases)):
                names, loops = phases[phase]
                for side, pace in rates(loops, seconds).items():
                    if number > 0:  # the first round warms up
                        standings[names[side]].seconds.append(1.0 / max(pace.calls, 1e-9))
                        self.cpu.setdefault(names[side], []).append(pace.cpu)

    def run(self, seconds: float, settings: Settings) -> list[CaseResult]:
        """Return both results, with the share of a CPU that each thread had."""
        results = self.results()
        standings = {standing.name: standing for result in results for standing in result.standings}
        before = fi.get_num_threads()
        fi.set_num_threads(self.threads)
        try:
            self.shared.check(min(seconds, 0.5))
            self.alternate(standings, seconds, settings)
        except WrongError as error:
            for standing in standings.values():
                standing.status, standing.reason = "wrong", str(error)
        finally:
            fi.set_num_threads(before)
        for result in results:
            for standing in result.standings:
                if standing.counts:
                    share = float(np.median(self.cpu[standing.name]))
                    result.figures[f"CPUs that each thread had, {standing.name}"] = share
        return results


@workload("sharing/lookup", "lookups beside a writer that never rests, and the writer beside them", judged=True)
def lookup(settings: Settings) -> Iterator[CaseResult]:
    """One writer and as many readers as there are CPUs left, each call on one thread: they share locks, not CPUs.

    Then more threads than CPUs, without a goal: as many readers as CPUs, calls on all threads.
    """
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (500, 8))
    seconds = settings.pick(1.0, 0.5, 0.05)
    shared = _Shared(rows, dim, settings)
    try:
        for judged, readers, threads in (
            (True, max(1, machine.cpus() - 1), 1),
            (False, machine.cpus(), max(2, settings.threads)),
        ):
            for result in _Crowd(shared, readers, threads, shape_name(rows, dim)).run(seconds, settings):
                if settings.size == "full" and judged:
                    beside, alone = result.standings
                    goal = Goal(f"{beside.name}, rate against {alone.name}", result.ratio(alone.name), 0.7)
                    result.goals.append(goal)
                yield result
    finally:
        del shared
        free_memory()


class Threads(Contestant):
    """Small updates, split over Python threads."""

    def __init__(self, threads: int, rows: int, dim: int) -> None:
        self.threads, self.shape = threads, (rows, dim)
        self.name = f"fastinc, {threads} threads" if threads > 1 else "fastinc, 1 thread"
        self.role = "subject" if threads > 1 else "variant"
        self.timed = (
            "table.update, batches shared out over the threads, which wait at a barrier, and gone through "
            f"{_TIMES} times; from the first until the last"
        )

    def set_up(self, settings: Settings) -> None:
        self.table = fi.EmbeddingTable(dim=self.shape[1], optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
        ids = np.arange(self.shape[0])
        self.table.load(ids, np.ones((len(ids), self.shape[1]), np.float32))
        self.table.lookup_quantized([])  # with int8 copies, as one that serves

    def check(self, inputs: list[Batch]) -> None:
        """Whole numbers, so that the order of the threads can't be seen in the sums."""
        whole = [Batch(batch.ids, np.rint(batch.grads)) for batch in inputs]
        every = np.arange(self.shape[0])
        self.table.load(every, np.ones(self.shape, np.float32))
        expected = np.ones(self.shape, np.float32)
        for batch in whole:
            np.subtract.at(expected, batch.ids, _TIMES * batch.grads)
        self.measure(whole)
        if not np.array_equal(self.table.lookup(every), expected):
            raise WrongError("updates of several threads got lost or came twice")

    def measure(self, inputs: list[Batch], ready: Ready = leave) -> float:
        barrier, failure = threading.Barrier(self.threads + 1), list[BaseException]()
        times: list[tuple[float, float]] = []
        prepared = [Batch(own(batch.ids), own(batch.grads)) for batch in inputs]

        def work(share: list[Batch]) -> None:
            barrier.wait()
            start = time.perf_counter()
            try:
                for batch in share * _TIMES:
                    self.table.update(batch.ids, batch.grads)
            except BaseException as error:
                failure.append(error)
            times.append((start, time.perf_counter()))

        shares = [prepared[index :: self.threads] for index in range(self.threads)]
        threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
        for thread in threads:
            thread.start()
        ready(prepared)
        barrier.wait()
        for thread in threads:
            thread.join()
        if failure:
            raise failure[0]
        # From the first thread that began, which may have been long before this one went on.
        return max(end for _, end in times) - min(start for start, _ in times)


@workload("sharing/threads", "small updates from 32 Python threads and from one", judged=True)
def many(settings: Settings) -> Iterator[CaseResult]:
    """The same updates in total."""
    rows, dim = settings.pick((100_000, 64), (100_000, 64), (500, 8))
    calls = settings.pick(6400, 3200, 64)
    threads = settings.pick(32, 32, 4)
    cases = [
        Case(
            f"{shape_name(rows, dim)}, {id_count([size])} a call, {_TIMES * calls:,} calls",
            batches(Draw("uniform", rows), size, dim, calls),
            _TIMES * size * calls,
            calls=_TIMES * calls,
            goals={"fastinc, 1 thread": 1.0} if size == 32 else {},
        )
        for size in (1, 32)
    ]
    yield from race([Threads(threads, rows, dim), Threads(1, rows, dim)], cases, settings, key=42)
