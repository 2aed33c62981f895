"""Compiles and calls limit.cpp."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import MissingError, Settings
from bench.inputs import Float32, Ids

_SOURCE = Path(__file__).with_name("limit.cpp")
_CACHE = Path(__file__).resolve().parents[1] / "build" / "bench"
_FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread")
_WIDE = "-mprefer-vector-width=512"
DISTANCES = (4, 8, 16, 32)


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name
    raise MissingError("no C++ compiler to build limit.cpp with (CXX, g++, clang++ or c++)")


@functools.lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    compiler = _compiler()
    flags = [*_FLAGS, *([_WIDE] if platform.machine() == "x86_64" else [])]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    # -march=native is part of the key: a home directory may be shared by machines of several kinds.
    cpu = subprocess.run([compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull], capture_output=True).stdout
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join(flags).encode() + version.encode() + cpu).hexdigest()[:16]
    target = _CACHE / f"limit-{key}.so"
    if not target.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        done = subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(partial)], capture_output=True, text=True)
        if done.returncode != 0:
            raise MissingError(f"{compiler} can't build limit.cpp: {' '.join(done.stderr.split())[:200]}")
        partial.replace(target)
    library = ctypes.CDLL(str(target))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    rows: list[Any] = [pointer, size, pointer, size, size]
    library.set_threads.argtypes = [ctypes.c_int]
    library.update_rows.argtypes = [*rows, ctypes.c_float]
    library.add_rows.argtypes = [*rows, pointer]
    library.gather_rows.argtypes = [*rows, pointer]
    library.read_rows.argtypes, library.read_rows.restype = rows, ctypes.c_float
    library.copy_bytes.argtypes = [pointer, pointer, size]
    library.read_bytes.argtypes, library.read_bytes.restype = [pointer, size], ctypes.c_uint64
    for name in ("set_threads", "update_rows", "add_rows", "gather_rows", "copy_bytes"):
        getattr(library, name).restype = None
    return library


class Limit:
    """The rows of one array; every call takes raw addresses, so that calls on few ids cost little."""

    def __init__(self, weights: Float32, settings: Settings) -> None:
        self._library = _library()
        self._library.set_threads(settings.threads)
        self._weights, self._address, self._dim = weights, weights.ctypes.data, weights.shape[1]
        self.distance = self._tune(settings)

    def _tune(self, settings: Settings) -> int:
        """Return the prefetch distance that updates random rows fastest here."""
        rng = settings.random(len(self._weights))
        ids = rng.integers(0, len(self._weights), settings.pick(65_536, 65_536, 64), dtype=np.int64)
        times: dict[int, list[float]] = {distance: [] for distance in DISTANCES}
        for _ in range(7):
            for self.distance in DISTANCES:
                rng.shuffle(ids)
                start = time.perf_counter()
                self.update(ids, 0.25)
                times[self.distance].append(time.perf_counter() - start)
        return min(DISTANCES, key=lambda distance: float(np.median(times[distance])))

    def update(self, ids: Ids, delta: float) -> None:
        """Add `delta` to every element of the rows; a row that repeats may lose some."""
        self.caller(ids, delta)()

    def caller(self, ids: Ids, delta: float) -> Any:
        """Return `update` with its arguments as addresses; `ids` must live until it was called."""
        where = (self._address, self._dim, ids.ctypes.data, len(ids), self.distance, delta)
        return functools.partial(self._library.update_rows, *where)

    def adder(self, ids: Ids, grads: Float32) -> Any:
        """Return a call that adds row i of `grads` to the row of id i; a row that repeats may lose some."""
        where = (self._address, self._dim, ids.ctypes.data, len(ids), self.distance, grads.ctypes.data)
        return functools.partial(self._library.add_rows, *where)

    def gatherer(self, ids: Ids, out: Float32) -> Any:
        """Return a call that copies the rows to `out`."""
        where = (self._address, self._dim, ids.ctypes.data, len(ids), self.distance, out.ctypes.data)
        return functools.partial(self._library.gather_rows, *where)

    def reader(self, ids: Ids) -> Any:
        """Return a call that returns the sum over the rows, for which each was read."""
        where = (self._address, self._dim, ids.ctypes.data, len(ids), self.distance)
        return functools.partial(self._library.read_rows, *where)


def read(source: Any, settings: Settings) -> Any:
    """Return a call that reads every byte of an array, in all threads, and returns the sum of its 8-byte words."""
    library = _library()
    library.set_threads(settings.threads)
    return functools.partial(library.read_bytes, source.ctypes.data, source.nbytes)


def copy(to: Any, source: Any, settings: Settings) -> Any:
    """Return a call that copies one array's bytes to another of the same size, by memcpy in all threads."""
    library = _library()
    library.set_threads(settings.threads)
    if to.nbytes != source.nbytes:
        raise ValueError(f"to has {to.nbytes} bytes and source {source.nbytes}")
    return functools.partial(library.copy_bytes, to.ctypes.data, source.ctypes.data, source.nbytes)
