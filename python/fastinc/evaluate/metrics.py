"""Metrics of the rank of one item, and how sure their means are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NAME = re.compile(r"(recall|ndcg|mrr)(?:@([1-9][0-9]{0,8}))?")
_Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Metric:
    """A metric of a rank, between 0 and 1; a miss is worth 0.

    Parameters
    ----------
    name
        As the caller wrote it.
    kind
        ``"recall"`` (1 within the first k: with one item to find that is the hit rate), ``"ndcg"``
        (1 / log2(1 + rank) within the first k) or ``"mrr"`` (1 / rank, within the first k if there is a k).
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
            ``"recall@k"``, ``"ndcg@k"``, ``"mrr@k"`` (k a positive number) or ``"mrr"``.

        Returns
        -------
        Metric
            The metric.

        Examples
        --------
        >>> Metric.parse("recall@20").k
        20
        """
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None or (match[2] is None and match[1] != "mrr"):
            raise ValueError(f"metrics must be recall@k, ndcg@k, mrr@k (k from 1) or mrr, got {name!r}")
        return cls(name, match[1], None if match[2] is None else int(match[2]))

    def values(self, ranks: npt.NDArray[Any]) -> Floats:
        """Return the metric of each rank.

        Parameters
        ----------
        ranks
            (n,) integers: ranks from 1, and 0 for a miss.

        Returns
        -------
        numpy.ndarray
            (n,) float64.
        """
        hit = ranks > 0
        if self.k is not None:
            hit &= ranks <= self.k
        if self.kind == "recall":
            return hit.astype(np.float64)
        places = np.where(hit, ranks, 1).astype(np.float64)
        gain = 1.0 / np.log2(1.0 + places) if self.kind == "ndcg" else 1.0 / places
        return np.where(hit, gain, 0.0)


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


@dataclass(frozen=True)
class Estimate:
    """A mean over events, with a 95 % interval.

    The interval treats events as independent. Events of one user resemble each other, so it is the
    narrower side of the truth.

    Parameters
    ----------
    value
        The mean; NaN without events.
    low, high
        The ends of the interval, within [0, 1]; NaN without events.
    n
        How many events.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, metric: Metric, values: Floats) -> Estimate:
        """Return the mean of a metric with its interval: Wilson's for recall, the normal one for the others.

        Parameters
        ----------
        metric
            Which metric the values are of.
        values
            (n,) the metric of each event.

        Returns
        -------
        Estimate
            The estimate.

        Examples
        --------
        >>> recall = Metric.parse("recall@10")
        >>> e = Estimate.of(recall, np.array([1.0, 0.0, 0.0, 1.0]))
        >>> round(e.low, 2), e.value, round(e.high, 2), e.n
        (0.15, 0.5, 0.85, 4)
        """
        n = len(values)
        if n == 0:
            return cls(np.nan, np.nan, np.nan, 0)
        mean = float(values.mean())
        if metric.kind == "recall":
            centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
            half = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
        elif n == 1:  # one value says nothing about its variance
            return cls(mean, 0.0, 1.0, 1)
        else:
            centre, half = mean, _Z * float(values.std(ddof=1)) / np.sqrt(n)
        return cls(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)
