"""Results by how much was known: of the user, and of the item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.estimates import Estimate
from fastinc.evaluate.metrics import Metric

Slices = Mapping[str, Mapping[str, Mapping[str, Estimate]]]

#: The slices of each kind, by the fewest events that they begin with.
EDGES: Mapping[str, Mapping[str, int]] = {
    "history": {"1": 1, "2-4": 2, "5-19": 5, "20-99": 20, "100+": 100},
    "item": {"new": 0, "1-4": 1, "5-19": 5, "20-99": 20, "100+": 100},
}


def slice_results(
    metrics: tuple[Metric, ...], outcomes: npt.NDArray[Any], counts: Mapping[str, npt.NDArray[Any]]
) -> Slices:
    """Return the metrics of ranks in each slice.

    Parameters
    ----------
    metrics
        Those asked for; the ones that are not of ranks are left out.
    outcomes
        (n,) the ranks of the scored events, 0 and below for a miss.
    counts
        For each kind of slice (n,) how many events the user, or the item, had had.

    Returns
    -------
    dict
        Kind, then slice, then metric.

    Examples
    --------
    >>> metrics = (Metric.parse("recall@1"),)
    >>> counts = {"history": np.array([1, 3, 3]), "item": np.array([0, 7, 500])}
    >>> slices = slice_results(metrics, np.array([0, 1, 2]), counts)
    >>> slices["history"]["2-4"]["recall@1"].value, slices["item"]["new"]["recall@1"].value
    (0.5, 0.0)
    """
    ranked = {metric: metric.values(outcomes) for metric in metrics if metric.family == "rank"}
    results = {}
    for kind, edges in EDGES.items():
        which = np.searchsorted(list(edges.values()), counts[kind], side="right") - 1
        results[kind] = {
            label: {metric.name: Estimate.of(metric, values[which == number]) for metric, values in ranked.items()}
            for number, label in enumerate(edges)
        }
    return results
