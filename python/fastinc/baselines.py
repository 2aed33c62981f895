"""The simple models that every result is printed beside: who loses to them is not worth the cost."""

from __future__ import annotations

from typing import Literal

from fastinc import _core
from fastinc._stream import StreamModel

Recency = Literal["uniform", "rank"]


def _check_history_size(history_size: int) -> None:
    if isinstance(history_size, bool) or not isinstance(history_size, int):
        raise TypeError(f"history_size must be an int, got {history_size!r}")
    if not 1 <= history_size <= 1_000_000:
        raise ValueError(f"history_size must be from 1 to 1000000, got {history_size}")


class Popularity(StreamModel):
    """Recommend what most events were about so far, the same to everybody.

    The score of an item is its number of events. An event with a label of at most 0 is not counted.

    Parameters
    ----------
    history_size
        How many of a user's last items are kept, which is how many can be left out of recommendations.

    Examples
    --------
    >>> model = Popularity().partial_fit([1, 2, 3], ["tea", "jam", "jam"])
    >>> ids, scores = model.recommend(4, k=2)
    >>> ids.tolist(), scores.tolist()
    (['jam', 'tea'], [2.0, 1.0])
    """

    name = "popularity"
    uses_labels = True

    def __init__(self, history_size: int = 1000) -> None:
        _check_history_size(history_size)
        super().__init__(_core.Popularity(history_size))


class ItemKNN(StreamModel):
    """Recommend what users took together with the user's own items: incremental item-kNN, cosine.

    For a user whose items are i_1, i_2, ... from the most recent one on, w_l being the weight of the l-th,

        score(j) = sum over l of w_l · C[i_l, j] / sqrt(n[i_l] · n[j])

    where n[i] is how many users took i, and C[i, j] sums w_l over the users who took both, l being the place
    that the first of the two had in the user's list when the second was taken. With weights of 1, C is
    simply how many users took both. All neighbours count, not just the nearest; an event costs time in
    proportion to the user's history. An event with a label of at most 0 is not counted.

    Parameters
    ----------
    recency
        The weights: ``"uniform"``, all 1, or ``"rank"``, w_l = 1 / l.
    history_size
        How many of a user's last items are kept; a user took what is among them.

    Examples
    --------
    >>> model = ItemKNN().partial_fit([1, 1, 2, 2, 3], ["tea", "jam", "tea", "ham", "jam"])
    >>> model.recommend(3, k=2)[0].tolist()
    ['tea', 'ham']
    """

    uses_labels = True

    def __init__(self, recency: Recency = "uniform", history_size: int = 1000) -> None:
        if recency not in ("uniform", "rank"):
            raise ValueError(f"recency must be 'uniform' or 'rank', got {recency!r}")
        _check_history_size(history_size)
        super().__init__(_core.ItemKnn(recency, history_size))
        self.name = "item-kNN" if recency == "uniform" else "item-kNN (recency)"
