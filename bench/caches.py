"""What the CPU's caches hold when a clock starts: the rows out, and what a call is given in, for everybody alike."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import cpus

RULE = (
    "rows cold, what the call is given warm: before each measurement of any contestant, every CPU reads its part of "
    "{size} MiB, then the arrays given to the call (ids, gradients, the array to write to) are rewritten, ids last, "
    "and all CPUs kept busy for {busy:.0f} ms"
)
#: A core that sleeps, or has slowed down, takes time to come back, which is noise in what follows.
_BUSY_SECONDS = 0.003
_AT_LEAST = 128 << 20
_AT_MOST = 4 << 30
_CPU = Path("/sys/devices/system/cpu")


def cache_bytes() -> int:
    """Return the bytes of all last-level caches together; 0 where that can't be told."""
    found: dict[str, int] = {}
    for folder in _CPU.glob("cpu[0-9]*/cache/index3"):
        try:
            size, shared = ((folder / name).read_text().strip() for name in ("size", "shared_cpu_list"))
        except OSError:
            continue
        found[shared] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
    if found:
        return sum(found.values())
    try:
        return max(0, os.sysconf("SC_LEVEL3_CACHE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0


def evicting_bytes() -> int:
    """Return how many bytes are read to empty the caches: four times the last level, and 128 MiB at least."""
    return min(max(_AT_LEAST, 4 * cache_bytes()), _AT_MOST)


class Evictor:
    """A buffer that all CPUs read, each its own part: that empties their own caches too.

    The buffer is only read: lines that were written would have to go back to memory while the clock runs.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1] * cpus()
        self._free, self._count = iter(allowed), len(allowed)
        self._parts = np.array_split(np.ones(size // 8, np.uint64), self._count)
        self._gate = threading.Barrier(self._count)  # so that no thread takes two parts
        self._threads = ThreadPoolExecutor(self._count, "evict", initializer=self._pin)

    def _pin(self) -> None:
        """Keep this thread on a CPU of its own, whose caches it is to empty."""
        cpu = next(self._free)
        if cpu >= 0:
            os.sched_setaffinity(0, {cpu})

    def _read(self, part: Any) -> int:
        self._gate.wait()
        return int(np.bitwise_or.reduce(part))

    def _spin(self, part: Any) -> None:
        self._gate.wait()
        end, few = time.perf_counter() + _BUSY_SECONDS, part[:4096]
        while time.perf_counter() < end:
            np.bitwise_or.reduce(few)

    def keep_busy(self) -> None:
        """Let every CPU work for a moment, on next to no memory."""
        for _ in self._threads.map(self._spin, self._parts):
            pass

    def evict(self) -> None:
        """Read the whole buffer."""
        for _ in self._threads.map(self._read, self._parts):
            pass


@functools.lru_cache(maxsize=1)
def _evictor() -> Evictor:
    return Evictor(evicting_bytes())


def rule() -> str:
    """Return what is done before each measurement, in a line."""
    return RULE.format(size=_evictor().size >> 20, busy=_BUSY_SECONDS * 1e3)


def ready(given: Any) -> None:
    """Empty the caches, touch what a call is given, wake the CPUs: the last thing before a clock starts."""
    _evictor().evict()
    touch(given)
    _evictor().keep_busy()


def touch(given: Any) -> None:
    """Rewrite the arrays in `given` (lists, tuples, dataclasses, torch tensors), the first of them last."""
    for array in reversed(list(_arrays(given))):
        flat = array.reshape(-1).view(np.uint8 if array.nbytes % 8 else np.uint64)
        np.bitwise_or(flat, flat.dtype.type(0), out=flat)


def _arrays(given: Any) -> Iterator[Any]:
    if isinstance(given, np.ndarray):
        yield given
    elif isinstance(given, (list, tuple)):
        for part in given:
            yield from _arrays(part)
    elif is_dataclass(given):
        for field in fields(given):
            yield from _arrays(getattr(given, field.name))
    elif type(given).__module__ == "torch":
        yield given.numpy()
