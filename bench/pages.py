"""Huge pages: random rows cost a page walk each, so all contestants' arrays get them, or it is said that they don't."""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Arrays from here on: NumPy asks for huge pages from the same size.
LARGE = 4 << 20
_HUGE = 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1; the module mmap doesn't name it before Python 3.13


def make_huge(array: Any) -> Any:
    """Ask for huge pages, also for those that are there already (Linux 6.1); return the array.

    Best effort: where the system has none, nothing changes.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or array.nbytes < LARGE:
        return array
    begin = -(-array.ctypes.data // _HUGE) * _HUGE
    size = (array.ctypes.data + array.nbytes) // _HUGE * _HUGE - begin
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for each in (advice, _COLLAPSE):
        call(begin, size, each)
    return array


def own(array: Any) -> Any:
    """Return a copy, on huge pages where it is large: what the heap gives depends on what was freed before."""
    return make_huge(np.array(array, order="C"))


def touch(size: int) -> float:
    """Touch this much new memory and give it back; return the seconds that took.

    A virtual machine has its memory from the host page by page, at the first touch and again some time after it was
    given back, which can take 15 times as long as clearing it: time that is the host's, not the program's.
    """
    start = time.perf_counter()
    with mmap.mmap(-1, max(size, mmap.PAGESIZE)) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1
    return time.perf_counter() - start


def resident() -> tuple[float, float]:
    """Return the bytes of this process's own memory, and how many of them are on huge pages; nan if unknown."""
    found: dict[str, float] = {}
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            found[name] = float(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return float("nan"), float("nan")
    return found.get("Anonymous", float("nan")), found.get("AnonHugePages", float("nan"))


def share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """Return the share on huge pages of what was allocated between two calls of `resident`; None for little."""
    allocated, huge = after[0] - before[0], after[1] - before[1]
    return min(max(huge / allocated, 0.0), 1.0) if allocated >= 4 * LARGE else None
