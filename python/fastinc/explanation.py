"""Why an item has the score it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Explanation:
    """The parts of a score; they add up to it.

    Parameters
    ----------
    item
        The item whose score it is.
    items
        For each item of the user's history that counts, the most recent first, its id and its share: what the
        score would lose without it, as long as the network adds the same.
    bias
        What the item has for everybody.
    situation
        What follows from how many items the user has and how long ago the last was.
    user
        The share of the user's own vector; 0 where there are none.
    network
        What the network adds to all of that.
    offset
        What labelled losses start from: the mean label, or its log odds.
    """

    item: Any
    items: tuple[tuple[Any, float], ...]
    bias: float
    situation: float
    user: float
    network: float
    offset: float

    @property
    def score(self) -> float:
        """The sum of all parts."""
        rest = self.bias + self.situation + self.user + self.network + self.offset
        return sum((share for _, share in self.items), rest)

    def top(self, n: int = 3) -> tuple[tuple[Any, float], ...]:
        """Return the n items of the history with the largest shares, largest first.

        Parameters
        ----------
        n
            How many at most.

        Examples
        --------
        >>> Explanation("tea", (("milk", 0.1), ("cup", 0.4)), 0.2, 0.0, 0.0, 0.0, 0.0).top(1)
        (('cup', 0.4),)
        """
        return tuple(sorted(self.items, key=lambda pair: -pair[1])[:n])

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as dicts, lists and numbers, for JSON.

        Examples
        --------
        >>> sorted(Explanation("tea", (), 0.2, 0.0, 0.0, 0.0, 0.0).to_dict())
        ['bias', 'item', 'items', 'network', 'offset', 'score', 'situation', 'user']
        """
        parts = {name: getattr(self, name) for name in ("bias", "situation", "user", "network", "offset", "score")}
        return {"item": self.item, "items": [list(pair) for pair in self.items], **parts}
