"""Events that were read and not learned yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastinc.stream._events import id_column
from fastinc.stream._source import Batch, Rejected

if TYPE_CHECKING:
    from fastinc.recommender import Recommender

__all__ = ["Pending", "acceptable"]

Column = npt.NDArray[Any]
_COLUMNS = ("users", "items", "labels", "timestamps")


class Pending:
    """Columns of events, taken from the front."""

    def __init__(self) -> None:
        self._columns: list[Column | None] = []

    def __len__(self) -> int:
        return len(self._columns[0]) if self._columns and self._columns[0] is not None else 0

    def add(self, columns: list[Column | None]) -> None:
        """Append events; labels and timestamps are in all of a stream's batches that have events, or in none."""
        if columns[0] is None or not len(columns[0]):  # all were malformed: nothing says what events have
            return
        if not len(self):
            self._columns = columns
            return
        for name, before, after in zip(_COLUMNS, self._columns, columns, strict=True):
            if (before is None) != (after is None):
                raise ValueError(f"{name}: all events of a stream must have them, or none")
        self._columns = [
            None if before is None or after is None else np.concatenate([before, after])
            for before, after in zip(self._columns, columns, strict=True)
        ]

    def take(self, n: int) -> list[Column | None]:
        """Remove and return the first n."""
        taken = [None if column is None else column[:n] for column in self._columns]
        self._columns = [None if column is None else column[n:] for column in self._columns]
        return taken

    def to_json(self) -> dict[str, Any] | None:
        """Return them as JSON; None where there are none."""
        if not len(self):
            return None
        pairs = zip(_COLUMNS, self._columns, strict=True)
        return {name: None if column is None else column.tolist() for name, column in pairs}

    def load(self, held: Any) -> None:
        """Take over what `to_json` returned."""
        if held is None:
            return
        columns = [held.get(name) for name in _COLUMNS] if isinstance(held, dict) else [None]
        try:
            self._columns = [_ids(columns[0]), _ids(columns[1]), _floats(columns[2], "f4"), _floats(columns[3], "f8")]
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise ValueError(f"position: held = {str(held)[:200]} must have {', '.join(_COLUMNS)}: {error}") from None
        if any(column is not None and len(column) != len(self) for column in self._columns):
            raise ValueError(f"position: held = {str(held)[:200]}: its columns must be of one length")


def _ids(values: Any) -> Column:
    """Return ids as they were before they were JSON."""
    if not isinstance(values, list) or {type(value) for value in values} not in ({int}, {str}):
        raise TypeError(f"{str(values)[:80]} is no list of ids of one kind")
    return id_column(values)


def _floats(values: Any, dtype: str) -> Column | None:
    return None if values is None else np.array(values, dtype=dtype).reshape(len(values))


def acceptable(model: Recommender, batch: Batch) -> tuple[list[Column | None], list[Rejected]]:
    """Return the columns of those events that a model learns, and the others with its reasons.

    Labels are left out where the model has no use for them, as in `Recommender.partial_fit_events`.
    """
    labels = batch.labels if model.uses_labels else None
    columns = [batch.users, batch.items, labels, batch.timestamps]
    refused = dict(_refused(model, columns, 0, len(batch)))
    if not refused:
        return columns, []
    keep = np.ones(len(batch), dtype=bool)
    keep[list(refused)] = False
    rejected = [Rejected(_event_text(batch, at), reason, batch.wheres[at]) for at, reason in sorted(refused.items())]
    return [None if column is None else column[keep] for column in columns], rejected


def _refused(model: Recommender, columns: list[Column | None], begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Yield the places and reasons of refused events, found by halving."""
    if begin == end:
        return
    try:
        model._checked(*(None if column is None else column[begin:end] for column in columns))
    except (ValueError, TypeError) as error:
        if end - begin == 1:
            yield begin, f"the model refuses it: {error}"
            return
        middle = (begin + end) // 2
        yield from _refused(model, columns, begin, middle)
        yield from _refused(model, columns, middle, end)


def _event_text(batch: Batch, at: int) -> str:
    names = {"user": batch.users, "item": batch.items, "label": batch.labels, "timestamp": batch.timestamps}
    return json.dumps({name: column[at : at + 1].tolist()[0] for name, column in names.items() if column is not None})
