"""The metrics' names, and what each makes of the rank of an item."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Family = Literal["rank", "label", "list"]

_RANKS = ("recall", "hit_rate", "precision", "f1", "ndcg", "mrr", "map")
_LABELS = ("auc", "log_loss", "rmse")
_LISTS = ("coverage", "novelty")
_AT_K = re.compile(rf"({'|'.join(_RANKS + _LISTS)})@([1-9][0-9]{{0,8}})")
_WHOLE = ("mrr", *_LABELS)
NAMES = ", ".join([*(f"{kind}@k" for kind in _RANKS + _LISTS), *_WHOLE])


@dataclass(frozen=True)
class Metric:
    """A metric of an item's rank, of an event's label or of the lists.

    Of a rank, with one item to find, a miss being worth 0:

    ================ ==================================================================================
    ``recall@k``     1 within the first k; ``hit_rate@k`` is the same
    ``precision@k``  1 / k within the first k
    ``f1@k``         2 / (k + 1) within the first k: the harmonic mean of precision and recall
    ``ndcg@k``       1 / log2(1 + rank) within the first k
    ``mrr@k``        1 / rank within the first k; ``map@k`` is the same; ``mrr`` has no limit
    ================ ==================================================================================

    Parameters
    ----------
    name
        As the caller wrote it.
    kind
        The name up to the ``@``.
    k
        How many places count, or None for all of them.

    Examples
    --------
    >>> Metric.parse("ndcg@10").values(np.array([1, 3, 11, 0]))
    array([1. , 0.5, 0. , 0. ])
    """

    name: str
    kind: str
    k: int | None

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Return the metric of a name.

        Parameters
        ----------
        name
            One of the table above, ``"auc"``, ``"log_loss"``, ``"rmse"``, ``"coverage@k"`` or ``"novelty@k"``
            (k a positive number).

        Returns
        -------
        Metric
            The metric.

        Examples
        --------
        >>> Metric.parse("recall@20").k
        20
        """
        if isinstance(name, str) and name in _WHOLE:
            return cls(name, name, None)
        match = _AT_K.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise ValueError(f"metrics must be among {NAMES} (k from 1), got {name!r}")
        return cls(name, match[1], int(match[2]))

    @property
    def family(self) -> Family:
        """What the metric is of: an item's ``"rank"``, an event's ``"label"``, or the ``"list"`` given."""
        if self.kind in _RANKS:
            return "rank"
        return "label" if self.kind in _LABELS else "list"

    @property
    def lower_is_better(self) -> bool:
        """Whether it measures an error."""
        return self.kind in ("log_loss", "rmse")

    @property
    def most(self) -> float:
        """The largest value that it can have."""
        if self.kind in ("log_loss", "rmse", "novelty"):
            return math.inf
        return 1.0 if self.hit_value is None else self.hit_value

    @property
    def hit_value(self) -> float | None:
        """What an item within the first k is worth, where all places are worth the same, else None."""
        if self.kind in ("recall", "hit_rate"):
            return 1.0
        if self.k is None or self.kind not in ("precision", "f1"):
            return None
        return 1.0 / self.k if self.kind == "precision" else 2.0 / (1.0 + self.k)

    def values(self, ranks: npt.NDArray[Any]) -> Floats:
        """Return the metric of each rank.

        Parameters
        ----------
        ranks
            (n,) integers: ranks from 1; 0 and below for a miss.

        Returns
        -------
        numpy.ndarray
            (n,) float64.
        """
        if self.family != "rank":
            raise ValueError(f"{self.name!r} is not a metric of ranks")
        hit = ranks > 0
        if self.k is not None:
            hit &= ranks <= self.k
        if self.hit_value is not None:
            return np.where(hit, self.hit_value, 0.0)
        places = np.where(hit, ranks, 1).astype(np.float64)
        gain = 1.0 / np.log2(1.0 + places) if self.kind == "ndcg" else 1.0 / places
        return np.where(hit, gain, 0.0)

    def of_mean(self, mean: Any) -> Any:
        """Return the metric of the mean of its events' values: the root for rmse, else the mean itself.

        Parameters
        ----------
        mean
            A number or an array.

        Returns
        -------
        float or numpy.ndarray
            As `mean`.
        """
        return np.sqrt(mean) if self.kind == "rmse" else mean


def parse_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of some names, in their order.

    Parameters
    ----------
    names
        One or more different names, as for `Metric.parse`.

    Returns
    -------
    tuple of Metric
        The metrics.

    Examples
    --------
    >>> [metric.kind for metric in parse_metrics(("recall@10", "mrr"))]
    ['recall', 'mrr']
    """
    if isinstance(names, str):
        raise TypeError(f"metrics must be a sequence of names, got the string {names!r}")
    metrics = tuple(Metric.parse(name) for name in names)
    if not metrics:
        raise ValueError("metrics must name at least one metric, got none")
    listed = [metric.name for metric in metrics]
    for name in listed:
        if listed.count(name) > 1:
            raise ValueError(f"metrics must differ, got {name!r} twice")
    return metrics
