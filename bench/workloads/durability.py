"""What it costs to have a table on disk: beside the disk itself, and what people save arrays with today."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastinc as fi
from bench import peers
from bench.core import Case, CaseResult, Contestant, Goal, Role, Settings, Standing, WrongError, workload
from bench.inputs import Float32, normals, shape_name
from bench.race import free_memory, race

#: Results are of the disk that the clone is on.
_FOLDER = Path(__file__).resolve().parents[2] / "build"
_PIECE = 8 << 20
#: A round writes gigabytes.
_ROUNDS = 7
_CHANGED = 0.01
Arrays = dict[str, NDArray[Any]]


def disk() -> tempfile.TemporaryDirectory[str]:
    """Return a folder on the disk that is measured."""
    _FOLDER.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bench-disk-", dir=_FOLDER)


def fewer(settings: Settings) -> Settings:
    """Return the settings with as many rounds as a disk is asked for."""
    return dataclasses.replace(settings, rounds=min(settings.rounds, _ROUNDS))


def filled(optimizer: fi.Optimizer, rows: int, dim: int, settings: Settings) -> fi.EmbeddingTable:
    """Return a table of rows that have been updated once."""
    table = fi.EmbeddingTable(dim, optimizer)
    for begin in range(0, rows, 1 << 16):
        ids = np.arange(begin, min(begin + (1 << 16), rows))
        table.update(ids, normals(settings.random(80, begin), len(ids), dim))
    return table


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sync(path: Path) -> None:
    """Have a file's bytes on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Shared:
    """What all contestants save."""

    table: fi.EmbeddingTable
    arrays: Arrays
    folder: Path
    size: int

    @classmethod
    def make(cls, rows: int, dim: int, settings: Settings, folder: Path) -> Shared:
        """Fill a table, and take its rows out for those who save arrays."""
        table = filled(fi.Adagrad(lr=0.1), rows, dim, settings)
        state = table.__getstate__()["state"]
        arrays = {name: state[name] for name in ("ids", "row_versions", "weights", "state")}
        return cls(table, arrays, folder, sum(array.nbytes for array in arrays.values()))


class Saver(Contestant):
    """Saves to a new place each time, and loads that."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.path = shared.folder / type(self).__name__

    def check(self, inputs: Any) -> None:
        self.prepare(inputs)
        self.run(self.path)
        self.compare(self.read())

    def prepare(self, inputs: Any) -> Path:
        """Take away what was saved before."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self.path.unlink(missing_ok=True)
        return self.path

    def given(self, prepared: Any) -> None:
        return None

    def read(self) -> Any:
        """Return what was saved."""
        raise TypeError(f"{self.name} reads nothing")

    def compare(self, found: Any) -> None:
        """Raise WrongError unless these are the rows."""
        for name, array in self.shared.arrays.items():
            if np.asarray(found[name]).tobytes() != array.tobytes():
                raise WrongError(f"{name} didn't come back")

    def close(self) -> None:
        shared, path = self.shared, self.path
        super().close()
        self.shared, self.path = shared, path


class SaveFastinc(Saver):
    """A checkpoint."""

    name, role = "fastinc", "subject"
    timed = "fi.checkpoint.save(table, new folder): rows copied, checksummed, written, synced, named"

    def run(self, prepared: Path) -> None:
        fi.checkpoint.save(self.shared.table, prepared)

    def read(self) -> fi.EmbeddingTable:
        table: fi.EmbeddingTable = fi.checkpoint.load(self.path)[0]
        return table

    def compare(self, found: fi.EmbeddingTable) -> None:
        state = found.__getstate__()["state"]
        order = np.argsort(state["ids"])
        expected = np.argsort(self.shared.arrays["ids"])
        for name, array in self.shared.arrays.items():
            if not np.array_equal(state[name][order], array[expected]):
                raise WrongError(f"{name} didn't come back")


class SaveDisk(Saver):
    """The disk."""

    name = "the disk"
    role: Role = "limit"
    timed = "as many bytes written to a new file in pieces of 8 MiB, synced; read likewise"

    def run(self, prepared: Path) -> None:
        piece = self.shared.arrays["weights"].reshape(-1).view(np.uint8)[:_PIECE].data
        with open(prepared, "xb", buffering=0) as file:
            left = self.shared.size
            while left > 0:
                left -= file.write(piece[:left])
            os.fsync(file.fileno())

    def read(self) -> int:
        piece, found = bytearray(_PIECE), 0
        with open(self.path, "rb", buffering=0) as file:
            while count := file.readinto(piece):
                found += count
        return found

    def compare(self, found: int) -> None:
        if found != self.shared.size:
            raise WrongError(f"{found} bytes instead of {self.shared.size}")


class SaveTorch(Saver):
    """The usual way in PyTorch."""

    name = "torch.save"
    timed = "torch.save of the same arrays, fsync; torch.load(weights_only=True)"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)

    def run(self, prepared: Path) -> None:
        self.torch.save({name: self.torch.from_numpy(array) for name, array in self.shared.arrays.items()}, prepared)
        sync(prepared)

    def read(self) -> Arrays:
        found = self.torch.load(self.path, weights_only=True)
        return {name: tensor.numpy() for name, tensor in found.items()}


class SaveNumpy(Saver):
    """The usual way in NumPy."""

    name = "numpy.savez"
    timed = "numpy.savez of the same arrays, fsync; numpy.load of each"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.path = self.path.with_suffix(".npz")

    def run(self, prepared: Path) -> None:
        np.savez(prepared, **self.shared.arrays)  # type: ignore[arg-type]
        sync(prepared)

    def read(self) -> Arrays:
        with np.load(self.path) as file:
            return dict(file)


SAVERS = (SaveFastinc, SaveDisk, SaveTorch, SaveNumpy)


class Loader(Contestant):
    """Reads what a saver has saved, warm: the page cache has it."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.name, self.role, self.timed = saver.name, saver.role, saver.timed

    def set_up(self, settings: Settings) -> None:
        self.saver.set_up(settings)
        self.saver.run(self.saver.prepare(None))

    def check(self, inputs: Any) -> None:
        self.saver.compare(self.saver.read())

    def prepare(self, inputs: Any) -> None:
        return None

    def run(self, prepared: Any) -> object:
        return self.saver.read()


def _nothing(rng: np.random.Generator) -> None:
    """Every round saves the same rows."""


@workload("durability/save", "a whole table to disk and back, beside the disk alone", judged=True)
def save(settings: Settings) -> Iterator[CaseResult]:
    """A new file each time; all is synced before the next contestant begins."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (1000, 8))
    with disk() as folder:
        shared = Shared.make(rows, dim, settings, Path(folder))
        savers = [saver(shared) for saver in SAVERS]
        what = f"{shape_name(rows, dim)} with Adagrad's state"
        case = Case(f"save, {what}", _nothing, shared.size, "bytes", goals={"the disk": 0.5})
        yield from race(savers, [case], fewer(settings), key=80)
        case = Case(f"load, {what}", _nothing, shared.size, "bytes")
        yield from race([Loader(saver(shared)) for saver in SAVERS], [case], fewer(settings), key=81)
        del shared, savers


class _Appends:
    """A log of a table of which a hundredth changes between two appends."""

    def __init__(self, rows: int, dim: int, settings: Settings, folder: Path) -> None:
        self.folder, self.rows, self.settings = folder, rows, settings
        self.table = filled(fi.Adagrad(lr=0.1), rows, dim, settings)
        self.table_bytes = 0
        self.seconds: dict[str, list[float]] = {"increment": [], "base": []}
        self.bytes: dict[str, list[int]] = {"increment": [], "base": []}

    def change(self, number: int) -> None:
        """Update a hundredth of the rows."""
        rng = self.settings.random(82, number)
        ids = rng.choice(self.rows, int(_CHANGED * self.rows), replace=False)
        grads: Float32 = normals(rng, len(ids), self.table.dim)
        self.table.update(ids, grads)

    def append(self, log: fi.checkpoint.Log, kind: str) -> None:
        """Append on the clock."""
        start = time.perf_counter()
        entry = log.append(self.table)
        seconds = time.perf_counter() - start
        if entry.kind != kind:
            raise WrongError(f"the append wrote a {entry.kind}")
        self.seconds[kind].append(seconds)
        self.bytes[kind].append(entry.bytes)

    def run(self, rounds: int) -> None:
        """In turns: a base by a log that doesn't know the table, and an increment after it."""
        for number in range(rounds + 1):
            with fi.checkpoint.Log(self.folder, keep=1, compact=None) as log:
                self.append(log, "base")
                self.change(number)
                self.append(log, "increment")
        for times in self.seconds.values():
            del times[0]  # the first round warms up
        restored = fi.checkpoint.load(self.folder)[0]
        ids = np.arange(self.rows)
        if not np.array_equal(restored.lookup(ids), self.table.lookup(ids)):
            raise WrongError("the rows that were appended didn't come back")


@workload("durability/append", "an append to a log of which 1 % of the rows have changed", judged=True)
def append(settings: Settings) -> Iterator[CaseResult]:
    """Bytes and time, relative to a whole state."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (1000, 32))
    standings = [
        Standing("increment", "subject", "log.append(table) after 1 % of its rows were updated", work=_CHANGED * rows),
        Standing("base", "variant", "log.append(table) to a log that begins anew: all of it", work=rows),
    ]
    result = CaseResult(f"{shape_name(rows, dim)} with Adagrad's state, 1 % changed", "rows", standings)
    with disk() as folder:
        run = _Appends(rows, dim, settings, Path(folder))
        try:
            run.run(fewer(settings).rounds)
        except WrongError as error:
            standings[0].status, standings[0].reason = "wrong", str(error)
        for standing in standings:
            standing.seconds = run.seconds[standing.name]
        if standings[0].counts:
            share = float(np.median(run.bytes["increment"]) / np.median(run.bytes["base"]))
            result.figures = {
                "bytes of an increment / of a base": share,
                "time of an increment / of a base": standings[0].median / standings[1].median,
            }
            if settings.size == "full":
                result.goals = [Goal("bytes of an increment / of a base", share, 0.02, at_least=False)]
        yield result
        del run
    free_memory()


@workload("durability/int8", "int8 rows alone, for serving, beside a checkpoint", judged=True)
def int8(settings: Settings) -> Iterator[CaseResult]:
    """Bytes, relative to a whole state."""
    rows, dim = settings.pick((1_000_000, 64), (100_000, 64), (1000, 64))
    for optimizer in (fi.SGD(lr=0.1), fi.RowWiseAdagrad(lr=0.1), fi.Adagrad(lr=0.1)):
        table = filled(optimizer, rows, dim, settings)
        standings = [
            Standing("int8", "subject", "fi.checkpoint.export_int8(table, path)", work=rows),
            Standing("checkpoint", "variant", "fi.checkpoint.save(table, folder)", work=rows),
        ]
        label = f"{shape_name(rows, dim)}, {type(optimizer).__name__}"
        result = CaseResult(label, "rows", standings)
        with disk() as folder:
            file, whole = Path(folder) / "rows.npz", Path(folder) / "whole"
            for number in range(fewer(settings).rounds + 1):
                start = time.perf_counter()
                fi.checkpoint.export_int8(table, file)
                between = time.perf_counter()
                fi.checkpoint.save(table, whole)
                if number > 0:
                    standings[0].seconds.append(between - start)
                    standings[1].seconds.append(time.perf_counter() - between)
            with np.load(file) as found:
                if not np.array_equal(found["codes"], table.lookup_quantized(found["ids"].astype(np.int64))):
                    standings[0].status, standings[0].reason = "wrong", "the codes are not the table's"
            times = bytes_in(whole) / file.stat().st_size
        result.figures = {"times smaller than a checkpoint": times}
        if settings.size == "full":
            result.goals = [Goal("times smaller than a checkpoint", times, 3.5)]
        yield result
        del table
        free_memory()
