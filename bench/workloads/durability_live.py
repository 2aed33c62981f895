"""What saving costs those who go on: a writer beside saves, a replica behind its leader, a stream's events."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastinc as fi
from bench.core import Case, CaseResult, Contestant, Goal, Role, Settings, Standing, WrongError, workload
from bench.inputs import normals, shape_name
from bench.race import free_memory, race
from bench.workloads.durability import disk, fewer, filled

_TIMEOUT_SECONDS = 60.0


class _Writer:
    """A thread that updates batch after batch, and notes when each began and how long it took."""

    def __init__(self, table: fi.EmbeddingTable, rows: int, batch: int, settings: Settings) -> None:
        rng = settings.random(83, batch)
        self._table, self._grads = table, normals(rng, batch, table.dim)
        self._ids = [rng.integers(0, rows, batch) for _ in range(50)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times: list[tuple[float, float]] = []
        self.failure: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                start = time.perf_counter()
                self._table.update(self._ids[len(self.times) % 50], self._grads)
                self.times.append((start, time.perf_counter() - start))
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def between(self, begin: float, end: float) -> list[float]:
        """Return the seconds of the batches of which some part lies between two times."""
        return [seconds for start, seconds in self.times if start < end and start + seconds > begin]


_MEDIAN, _SLOWEST = "median batch during a save / before", "slowest batch during a save / before"
_PAUSE = "slowest batch during a save / median before"
_HASHING = "slowest batch beside hashing / median before"


def _hash_for(seconds: float) -> None:
    """Keep another CPU busy with what needs nothing of fastinc: what a batch loses by that is the machine's."""
    piece, digest, end = bytes(1 << 20), hashlib.sha256(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        digest.update(piece)


def _beside_saves(table: fi.EmbeddingTable, rows: int, batch: int, saves: int, settings: Settings) -> CaseResult:
    """Before each save the writer has as long as the save before took, alone and then beside a thread that hashes."""
    standings = [
        Standing("beside a save", "subject", "table.update in a thread while another saves the table", work=batch),
        Standing("alone", "variant", "table.update in a thread, as long before each save as a save takes", work=batch),
        Standing("beside hashing", "variant", "as long, while another thread does SHA-256 of its own MiB", work=batch),
    ]
    ratios: dict[str, list[float]] = {_PAUSE: [], _HASHING: [], _SLOWEST: [], _MEDIAN: []}
    took = 0.0
    with disk() as folder, _Writer(table, rows, batch, settings) as writer:
        for number in range(saves + 1):
            start = time.perf_counter()
            while time.perf_counter() < start + took or not writer.between(start, time.perf_counter()):
                time.sleep(0.001)
            hashing = time.perf_counter()
            _hash_for(took)
            begin = time.perf_counter()
            fi.checkpoint.save(table, folder)
            end = time.perf_counter()
            took = end - begin
            time.sleep(0.001)
            while not writer.times or writer.times[-1][0] < end:  # one that the save stopped has ended
                time.sleep(0.001)
            alone, hashed = writer.between(start, hashing), writer.between(hashing, begin)
            beside = writer.between(begin, end)
            if number > 0:  # the first warms up, and tells how long a save takes
                standings[0].seconds += beside
                standings[1].seconds += alone
                standings[2].seconds += hashed
                ratios[_PAUSE].append(max(beside) / float(np.median(alone)))
                ratios[_HASHING].append(max(hashed) / float(np.median(alone)))
                ratios[_SLOWEST].append(max(beside) / max(alone))
                ratios[_MEDIAN].append(float(np.median(beside) / np.median(alone)))
    threads = fi.get_num_threads()
    case = f"{shape_name(rows, table.dim)}, {batch:,} random ids a batch, {threads} thread{'s' * (threads > 1)}"
    result = CaseResult(case, "rows", standings)
    result.figures = {f"{name}, median of saves": float(np.median(found)) for name, found in ratios.items()}
    result.figures |= {"a save, s": took, "saves": float(saves)}
    if settings.size == "full":
        name = f"{_PAUSE}, median of saves"
        result.goals = [Goal(name, result.figures[name], 3.0, at_least=False)]
    return result


@workload("durability/pause", "a writer's batches while the table is saved", judged=True)
def pause(settings: Settings) -> Iterator[CaseResult]:
    """One thread updates all the time, another saves again and again."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (2000, 8))
    batches = settings.pick((4096, 65_536), (4096, 65_536), (64, 256))
    table = filled(fi.Adagrad(lr=0.1), rows, dim, settings)
    before = fi.get_num_threads()
    try:
        for threads in (1, 2):
            fi.set_num_threads(threads)
            for batch in batches:
                yield _beside_saves(table, rows, batch, fewer(settings).rounds, settings)
    finally:
        fi.set_num_threads(before)
    del table
    free_memory()


# --- a replica ------------------------------------------------------------------------------------------------


def _follow(folder: str, marked: int, appends: int, pipe: Connection) -> None:
    """In another process: tell when each append's mark was seen in a row, and how far behind that was."""
    try:
        seen, behind = [], []
        with fi.replica.follow(folder, timeout=_TIMEOUT_SECONDS) as replica:
            pipe.send(replica.number)
            first = replica.number
            for number in range(first + 1, first + appends + 1):
                replica.wait(number, _TIMEOUT_SECONDS)
                row = replica.lookup([marked])[0]
                seen.append(time.monotonic())
                behind.append(replica.lag().versions)
                if row[0] < number:
                    raise WrongError(f"append {number} is taken in, and the row is of {row[0]}")
        pipe.send((seen, behind))
    except Exception as error:
        pipe.send(error)


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(_TIMEOUT_SECONDS):
        raise RuntimeError("the replica doesn't answer")
    told = pipe.recv()
    if isinstance(told, Exception):
        raise told
    return told


def _lead(table: fi.EmbeddingTable, folder: str, appends: int, batch: int, pace: float, settings: Settings) -> Any:
    """Append at a pace; return when each append returned, when the replica showed it, and versions behind."""
    rng, rows = settings.random(84), len(table)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    mark = np.zeros((1, table.dim), dtype=np.float32)
    with fi.checkpoint.Log(folder, compact=None) as log:
        log.append(table)
        follower = context.Process(target=_follow, args=(folder, rows, appends, theirs), daemon=True)
        follower.start()
        try:
            _receive(mine)
            done, start = [], time.monotonic()
            for number in range(appends):
                time.sleep(max(0.0, start + number * pace - time.monotonic()))
                ids = rng.integers(0, rows - 1, batch)
                table.update(ids, normals(rng, batch, table.dim))
                table.load([rows], mark + np.float32(number + 2))
                log.append(table)
                done.append(time.monotonic())
            seen, behind = _receive(mine)
        finally:
            follower.kill()
            follower.join()
    return np.array(done), np.array(seen), np.array(behind)


@workload("durability/replica", "from append() to the row in another process")
def replica(settings: Settings) -> Iterator[CaseResult]:
    """A leader that appends 20 times a second; the follower looks at the log as often as it does by default."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (1000, 8))
    appends, pace = settings.pick((400, 0.05), (100, 0.05), (10, 0.01))
    for batch in settings.pick((1000, 10_000), (1000, 10_000), (10,)):
        table = filled(fi.Adagrad(lr=0.1), rows, dim, settings)
        timed = "from log.append() returning here to replica.lookup() answering from it in another process, poll=0.05"
        standing = Standing("replica", "subject", timed, work=batch)
        label = f"{shape_name(rows, dim)}, {batch:,} ids updated and appended every {1e3 * pace:.0f} ms"
        result = CaseResult(label, "rows", [standing])
        with disk() as folder:
            try:
                done, seen, behind = _lead(table, folder, appends, batch, pace, settings)
            except WrongError as error:
                standing.status, standing.reason = "wrong", str(error)
            else:
                # One may be seen before append() has returned from its sync.
                late = np.maximum(seen - done, 1e-9)
                standing.seconds = late.tolist()
                result.figures = {
                    "p50, ms": float(np.quantile(late, 0.5)) * 1e3,
                    "p99, ms": float(np.quantile(late, 0.99)) * 1e3,
                    "versions behind when seen, mean": float(np.mean(behind)),
                    "versions behind when seen, most": float(np.max(behind)),
                    "appends a second": len(done) / (done[-1] - done[0]),
                }
        yield result
        del table
        free_memory()


# --- a stream -------------------------------------------------------------------------------------------------


Events = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _model() -> fi.Recommender:
    return fi.Recommender(dim=32, seed=1)


def _partial_fit(model: fi.Recommender, events: Events) -> None:
    """As `fi.stream.train` cuts the stream."""
    users, items, times = events
    for begin in range(0, len(users), 1024):
        part = slice(begin, begin + 1024)
        model.partial_fit(users[part], items[part], timestamps=times[part])


class _Stream(Contestant):
    """A new model learns from a file, into a log."""

    def __init__(self, name: str, role: Role, every: int, events: Events) -> None:
        self.name, self.role, self._every, self._events = name, role, every, events
        self.timed = f"fi.stream.train from a file of JSON lines into a log, {name}"

    def prepare(self, inputs: Path) -> tuple[fi.Recommender, Path]:
        shutil.rmtree(inputs / "log", ignore_errors=True)
        return _model(), inputs

    def given(self, prepared: Any) -> None:
        return None

    def run(self, prepared: tuple[fi.Recommender, Path]) -> None:
        model, folder = prepared
        with fi.stream.open(folder / "events.jsonl") as source, fi.checkpoint.Log(folder / "log", compact=None) as log:
            fi.stream.train(model, source, log, checkpoint_every=self._every, checkpoint_seconds=None)

    def check(self, inputs: Path) -> None:
        self.run(self.prepare(inputs))
        saved, expected = fi.checkpoint.load(inputs / "log")[0], _model()
        _partial_fit(expected, self._events)
        ids = expected.item_table.ids()
        if saved.n_events != len(self._events[0]) or len(saved.item_table) != len(ids):
            raise WrongError(f"{saved.n_events} events and {len(saved.item_table)} items were saved")
        if not np.array_equal(saved.item_table.lookup(ids), expected.item_table.lookup(ids)):
            raise WrongError("other rows were saved than partial_fit makes")

    def close(self) -> None:
        every, events = self._every, self._events
        super().close()
        self._every, self._events = every, events


class _Memory(_Stream):
    """The same events from arrays, and nothing saved."""

    def __init__(self, events: Events) -> None:
        super().__init__("partial_fit", "limit", 0, events)
        self.timed = "model.partial_fit of the same events, arrays in memory, 1,024 a call"

    def run(self, prepared: tuple[fi.Recommender, Path]) -> None:
        _partial_fit(prepared[0], self._events)

    def check(self, inputs: Path) -> None:
        """It is what the others are compared with."""


@workload("durability/stream", "events learned from a file with checkpoints, beside the same from memory")
def stream(settings: Settings) -> Iterator[CaseResult]:
    """Integer ids and times, a line each."""
    count = settings.pick(100_000, 20_000, 500)
    found = fi.datasets.synthetic(count, n_users=count // 10 + 60, n_items=count // 20 + 60, seed=settings.seed)
    users, items, times = (np.asarray(column) for column in (found.users, found.items, found.timestamps))
    with disk() as folder:
        names = ("user", "item", "timestamp")
        with open(Path(folder) / "events.jsonl", "w") as out:
            for event in zip(users.tolist(), items.tolist(), times.tolist(), strict=True):
                out.write(json.dumps(dict(zip(names, event, strict=True))) + "\n")
        contestants: list[Contestant] = [
            _Stream("a checkpoint every 10,000", "subject", 10_000, (users, items, times)),
            _Stream("one at the end", "variant", 2**31 - 1, (users, items, times)),
            _Memory((users, items, times)),
        ]
        case = Case(f"{count:,} events, Recommender(dim=32)", lambda _: Path(folder), count, "events")
        yield from race(contestants, [case], fewer(settings), key=85)
