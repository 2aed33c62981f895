"""Limits of a table: how many rows it keeps and for how long, and which ids get one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fastinc._arguments import as_number, as_whole

__all__ = ["TTL", "MinCount"]

#: Slots are 32-bit numbers, and one of them says that there is none.
_MOST_ROWS = 2**32 - 2
#: What the engine has in the place of a sketch that isn't there.
_ANY_WIDTH = 2**22


@dataclass(frozen=True)
class TTL:
    """A row goes when it hasn't been written for so many seconds.

    As ``fi.EmbeddingTable(..., eviction=fi.TTL(seconds))``. Writes are :meth:`~EmbeddingTable.update` and
    :meth:`~EmbeddingTable.load`; lookups prolong nothing. Rows whose time is over go with the next write to the table
    that doesn't write them, at most 1024 + 4 for each id of that batch at a time, or all at once by
    :meth:`~EmbeddingTable.expire`; until then they can be read, count as rows, and are found by searches. Time is kept
    in 1024 steps of `seconds`: a row goes at most 1/1024 of it late, and never early. In a pickled, copied or restored
    table every row counts as written at that moment.

    Parameters
    ----------
    seconds
        Greater than 0, by the system's monotonic clock.

    Examples
    --------
    >>> import time, numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, eviction=fi.TTL(0.01))
    >>> table.load([1], np.ones((1, 2), dtype=np.float32))
    >>> time.sleep(0.02)
    >>> table.expire(), len(table)
    (1, 0)
    """

    seconds: float

    def __post_init__(self) -> None:
        seconds = as_number(self.seconds, "seconds")
        if not (math.isfinite(seconds) and seconds > 0.0):
            raise ValueError(f"seconds = {self.seconds!r} must be greater than 0 and finite")
        object.__setattr__(self, "seconds", seconds)


@dataclass(frozen=True)
class MinCount:
    """An id gets a row once :meth:`~EmbeddingTable.update` has seen it `n` times.

    As ``fi.EmbeddingTable(..., admission=fi.MinCount(n))``. Every gradient of an id without a row is a sighting,
    repeats within a batch included. The update whose sighting is the `n`-th applies all the gradients it has of that
    id; those of ids that are still too rare are dropped, and counted in ``stats()["refused"]``.
    :meth:`~EmbeddingTable.load` gives a row at once. An id whose row has gone gets one again at its next sighting,
    unless those before have faded.

    Sightings are counted in a sketch of `width` bytes, in lines of 64; an id has four counters in one line. Every 16
    sightings the next line is halved, so that each is once in width / 4 sightings: about so long an id is
    remembered, and a single sighting half as long on average. Between two halvings a count is never too small, but
    ids share counters: of ids that are seen for the first time in an endless stream of others seen once, about 5 in
    100 count as seen before, whatever the width, and need a sighting less; fewer than 1 in 1000 need two less.

    Parameters
    ----------
    n
        Sightings, 1 to 255; 1 gives every id a row.
    width
        Counters of one byte, 64 to 2**38 and at least 8 `n`, rounded up to a power of two. Let `gap` be how many
        sightings of other ids without a row come between two of an id that should get one: 4 `n` `gap` give it the
        row at its `n`-th sighting, less than 2 `n` `gap` perhaps never. The default is for ids that come back within
        half a million (`n` = 2) or 100,000 (`n` = 10) such sightings.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, admission=fi.MinCount(2))
    >>> _ = table.update([1, 2, 2], np.ones((3, 2), dtype=np.float32))
    >>> 1 in table, 2 in table, table.stats()["refused"]
    (False, True, 1)
    """

    n: int
    width: int = _ANY_WIDTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", as_whole(self.n, "n", 1, 255))
        object.__setattr__(self, "width", as_whole(self.width, "width", 64, 2**38))
        if self.n > 1 and self.width < 8 * self.n:
            raise ValueError(
                f"width = {self.width} must be at least 8 n = {8 * self.n}: counters fade before they reach n"
            )


#: What `eviction` may be.
Eviction = Literal["lru", "lfu"] | TTL


@dataclass(frozen=True)
class Bounds:
    """A table's limits, checked one by one and together.

    Parameters
    ----------
    max_rows, eviction, admission
        As for :class:`EmbeddingTable`.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range, or `eviction` goes by use and there is no `max_rows`.
    """

    max_rows: int | None = None
    eviction: Eviction | None = None
    admission: MinCount | None = None

    def __post_init__(self) -> None:
        eviction, admission = self.eviction, self.admission
        if self.max_rows is not None:
            object.__setattr__(self, "max_rows", as_whole(self.max_rows, "max_rows", 1, _MOST_ROWS))
        if eviction is None:
            object.__setattr__(self, "eviction", None if self.max_rows is None else "lru")
        elif not isinstance(eviction, TTL):
            if not isinstance(eviction, str) or eviction not in ("lru", "lfu"):
                raise ValueError(f"eviction = {eviction!r} must be 'lru', 'lfu' or fastinc.TTL(seconds)")
            if self.max_rows is None:
                raise ValueError(f"eviction = {eviction!r} needs max_rows: with max_rows = None no row ever has to go")
        if admission is not None and not isinstance(admission, MinCount):
            raise TypeError(f"admission = {admission!r} must be fastinc.MinCount(n) or None")

    def _spec(self) -> tuple[int, str, float, int, int]:
        by_time = self.eviction.seconds if isinstance(self.eviction, TTL) else 0.0
        by_use = self.eviction if isinstance(self.eviction, str) else "none"
        admission = self.admission or MinCount(1)
        return self.max_rows or 0, by_use, by_time, admission.n, admission.width

    def __str__(self) -> str:
        """Return what isn't default, as arguments, each with a comma before it."""
        parts = ((name, getattr(self, name)) for name in ("max_rows", "eviction", "admission"))
        return "".join(f", {name}={value!r}" for name, value in parts if value is not None)
