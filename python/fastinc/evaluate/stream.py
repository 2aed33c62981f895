"""The stream of an evaluation: what its events alone say, the same for every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc._ids import IdMap
from fastinc.datasets.events import Events

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Stream:
    """Events in the order of an evaluation.

    Parameters
    ----------
    events
        The events.
    warm_up
        How many of them, from the first on, are learned and not scored.
    users, items
        (n,) codes 0, 1, 2, ... in the order of first appearance.
    """

    events: Events
    warm_up: int
    users: Ints
    items: Ints

    @classmethod
    def of(cls, events: Events, warm_up: int) -> Stream:
        """Return the stream of events.

        Parameters
        ----------
        events
            The events, in order.
        warm_up
            How many of them are not scored.

        Returns
        -------
        Stream
            The stream.

        Examples
        --------
        >>> stream = Stream.of(Events(users=[7, 8, 7], items=["tea", "jam", "jam"]), warm_up=0)
        >>> stream.users.tolist(), stream.items.tolist()
        ([0, 1, 0], [0, 1, 1])
        """
        return cls(events, warm_up, _codes(events.users, "users"), _codes(events.items, "items"))

    def __len__(self) -> int:
        return len(self.events)

    def counts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return how much was known of each event's user and item before it.

        Returns
        -------
        dict
            ``"history"`` and ``"item"``: (n,) how many earlier events had the same user, or the same item.

        Examples
        --------
        >>> Stream.of(Events(users=[7, 8, 7], items=["tea", "jam", "jam"]), warm_up=0).counts()["history"].tolist()
        [0, 0, 1]
        """
        return {"history": _earlier(self.users), "item": _earlier(self.items)}

    def candidates(self) -> npt.NDArray[np.int64]:
        """Return (n,) how many different items the events before each had.

        Examples
        --------
        >>> Stream.of(Events(users=[7, 8, 7], items=["tea", "jam", "jam"]), warm_up=0).candidates().tolist()
        [0, 1, 2]
        """
        highest = np.maximum.accumulate(self.items.astype(np.int64))  # codes count the items met so far
        return np.concatenate([[0], highest[:-1] + 1])


def _codes(ids: npt.NDArray[Any], name: str) -> Ints:
    return IdMap(name).encode(ids, add=True).astype(np.int32)


def _earlier(codes: Ints) -> npt.NDArray[np.int64]:
    """Return how often each code came before."""
    order = np.argsort(codes, kind="stable")
    in_order = codes[order]
    out = np.empty(len(codes), dtype=np.int64)
    out[order] = np.arange(len(codes)) - np.searchsorted(in_order, in_order, side="left")
    return out
