"""Rows of a recommender as they were, in memory."""

from __future__ import annotations

from typing import Any

from fastinc import _core

__all__ = ["Snapshot"]


class Snapshot:
    """The weights and optimizer state of all rows of a :class:`fastinc.Recommender` at one moment.

    Made by :meth:`fastinc.Recommender.snapshot`, gone back to by :meth:`fastinc.Recommender.restore`. Nothing changes
    it, and it belongs to the one model that made it: to keep a model on disk, or to make another of it, use
    :mod:`fastinc.checkpoint`.

    Examples
    --------
    >>> import fastinc as fi
    >>> model = fi.Recommender(dim=8).partial_fit([1, 1], [10, 11])
    >>> snapshot = model.snapshot()
    >>> snapshot.events, snapshot.nbytes > 4 * 2 * (9 + 8)
    (2, True)
    """

    __slots__ = ("_core",)

    def __init__(self, core: _core.Snapshot) -> None:
        if not isinstance(core, _core.Snapshot):
            raise TypeError("a Snapshot is made by a Recommender's snapshot()")
        self._core = core

    @property
    def events(self) -> int:
        """Events that the model had learned."""
        return self._core.events

    @property
    def nbytes(self) -> int:
        """Bytes it takes: the weights and state of every row."""
        return self._core.nbytes

    def __repr__(self) -> str:
        return f"Snapshot(events={self.events}, nbytes={self.nbytes})"

    def __reduce__(self) -> Any:
        raise TypeError("a Snapshot is not pickled: fastinc.checkpoint.save keeps a model on disk")
