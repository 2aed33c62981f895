"""The stream of events that everything else consumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FLOAT32_MAX = float(np.finfo(np.float32).max)


def _ids(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return ids as int64 or as '<U' strings; refuse what would lose information on the way."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass its filled()")
    if isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values):
        # NumPy would turn numbers into strings and drop NULs at the end of strings
        if not all(isinstance(value, str) for value in values):
            raise TypeError(f"{name} must be integers or strings, got both")
        array = np.empty(len(values), dtype=object)
        array[:] = values
    else:
        array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {array.shape}")
    if array.size == 0 and array.dtype == np.float64 and not isinstance(values, np.ndarray):
        return array.astype(np.int64)  # NumPy makes an empty list float64: it says nothing about the ids
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        strings = array.astype(np.str_)
        for text, kept in zip(array, strings, strict=True):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"{name} must be valid Unicode, got {text!r}")
            if text != kept:  # NumPy drops trailing NULs, which would merge two ids
                raise ValueError(f"{name} must not end with a NUL character, got {text!r}")
        return strings
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers or strings, got dtype {array.dtype}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit in int64, got {array.max()}")
    return array.astype(np.int64, copy=False)


def _reals(values: npt.ArrayLike, name: str, dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Return finite float32 or float64 values."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass its filled()")
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    limit = FLOAT32_MAX if dtype is np.float32 else np.inf
    good = np.isfinite(array) & (np.abs(array.astype(np.float64)) <= limit)
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        raise ValueError(f"{name} must be finite {np.dtype(dtype)}, got {array[at]} at position {at}")
    return array.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """A stream of events: who took what, perhaps how they liked it, perhaps when.

    Parameters
    ----------
    users, items
        One id per event: integers (kept as int64) or strings (kept as ``'<U'``).
    labels
        Ratings, clicks or weights, finite float32, or None.
    timestamps
        Seconds (from any origin), finite float64, or None. They need not be sorted.
    item_titles
        Names to show for items, or None. Items may be missing from it.
    name
        What to call the stream in reports.
    source
        Where it came from.
    skipped
        How many rows the reader left out because they could not be parsed.

    Examples
    --------
    >>> events = Events(users=[7, 8, 7], items=["tea", "jam", "jam"], timestamps=[3, 1, 2])
    >>> events
    Events('events', 3 events, timestamps)
    >>> list(events.sorted().users), len(events[:2])
    ([np.int64(8), np.int64(7), np.int64(7)], 2)
    """

    users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    labels: npt.NDArray[np.float32] | None = None
    timestamps: npt.NDArray[np.float64] | None = None
    item_titles: Mapping[Any, str] | None = None
    name: str = "events"
    source: str = ""
    skipped: int = 0

    def __post_init__(self) -> None:
        columns: dict[str, npt.NDArray[Any]] = {
            "users": _ids(self.users, "users"),
            "items": _ids(self.items, "items"),
        }
        if self.labels is not None:
            columns["labels"] = _reals(self.labels, "labels", np.float32)
        if self.timestamps is not None:
            columns["timestamps"] = _reals(self.timestamps, "timestamps", np.float64)
        for column, array in columns.items():
            if len(array) != len(columns["users"]):
                raise ValueError(
                    f"{column} must be as long as users ({len(columns['users'])}), got length {len(array)}"
                )
        if self.skipped < 0:
            raise ValueError(f"skipped must not be negative, got {self.skipped}")
        for column, array in columns.items():
            object.__setattr__(self, column, array)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        extras = [name for name in ("labels", "timestamps") if getattr(self, name) is not None]
        if self.item_titles is not None:
            extras.append("titles")
        if self.skipped:
            extras.append(f"{self.skipped} rows skipped")
        return f"Events({', '.join([repr(self.name), f'{len(self)} events', *extras])})"

    def __getitem__(self, which: slice | npt.ArrayLike) -> Events:
        """Return some of the events, by slice, boolean mask or array of positions."""
        if not isinstance(which, slice):
            which = np.asarray(which)
            if which.ndim != 1 or which.dtype.kind not in "biu":
                raise TypeError(
                    "events are indexed by a slice, a 1-D boolean mask or a 1-D array of positions, "
                    f"got dtype {which.dtype} with shape {which.shape}"
                )
        return replace(
            self,
            users=self.users[which],
            items=self.items[which],
            labels=None if self.labels is None else self.labels[which],
            timestamps=None if self.timestamps is None else self.timestamps[which],
        )

    def sorted(self, ties: Literal["file", "shuffle"] = "file", seed: int = 0) -> Events:
        """Return the events in the order of their timestamps.

        Parameters
        ----------
        ties
            What to do with equal timestamps: ``"file"`` keeps their order, ``"shuffle"`` shuffles
            them. A file sorted by item within ties tells a model what comes next: when results
            under the two differ, believe the shuffled ones.
        seed
            Seeds the shuffle.

        Returns
        -------
        Events
            The same events, sorted.

        Examples
        --------
        >>> Events(users=[1, 2], items=[3, 4], timestamps=[9.0, 5.0]).sorted().users.tolist()
        [2, 1]
        """
        if self.timestamps is None:
            raise ValueError("timestamps must be present to sort the events, got None")
        if ties == "file":
            return self[np.argsort(self.timestamps, kind="stable")]
        if ties == "shuffle":
            order = np.random.default_rng(seed).permutation(len(self))
            return self[order[np.argsort(self.timestamps[order], kind="stable")]]
        raise ValueError(f"ties must be 'file' or 'shuffle', got {ties!r}")

    def filter(self, *, min_label: float) -> Events:
        """Return the events whose label is at least `min_label`.

        Parameters
        ----------
        min_label
            The smallest label to keep.

        Returns
        -------
        Events
            Those events, in the same order; the name says what was left out.

        Examples
        --------
        >>> Events(users=[1, 1], items=[2, 3], labels=[5, 1], name="ratings").filter(min_label=4)
        Events('ratings (label >= 4)', 1 events, labels)
        """
        if self.labels is None:
            raise ValueError(f"min_label={min_label} needs labels, and {self.name!r} has none")
        if not np.isfinite(min_label):
            raise ValueError(f"min_label must be finite, got {min_label}")
        return replace(self[self.labels >= min_label], name=f"{self.name} (label >= {min_label:g})")
