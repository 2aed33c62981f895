"""Metrics of predicted labels: AUC, log loss and rmse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.curves import Curve, curve_points
from fastinc.evaluate.estimates import NOTHING, Estimate, Z
from fastinc.evaluate.metrics import Floats, Metric

Labels = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

_EPS = float(np.finfo(np.float32).eps)  # a probability in float32 says no more than that it is this near to 0 or 1


def label_values(metric: Metric, labels: Labels, predictions: Labels) -> Floats:
    """Return what each event adds to the mean of log loss or rmse.

    Parameters
    ----------
    metric
        ``log_loss``: -(y log p + (1 - y) log(1 - p)), p being kept 2**-23 away from 0 and 1; ``rmse``: the
        squared error.
    labels, predictions
        (n,) the labels, and what was predicted. A prediction that is not finite counts as the worst: as the
        wrong end for log loss, as infinitely far off for rmse.

    Returns
    -------
    numpy.ndarray
        (n,) float64.

    Examples
    --------
    >>> labels, predictions = np.float32([1, 0]), np.float32([0.5, 1.0])
    >>> label_values(Metric.parse("log_loss"), labels, predictions).round(2).tolist()
    [0.69, 15.94]
    """
    y, p = labels.astype(np.float64), predictions.astype(np.float64)
    finite = np.isfinite(p)
    if metric.kind == "rmse":
        return np.where(finite, np.square(np.where(finite, p, 0.0) - y), np.inf)
    p = np.clip(np.where(finite, p, y < 0.5), _EPS, 1.0 - _EPS)
    return np.asarray(-(y * np.log(p) + (1.0 - y) * np.log1p(-p)))


class _Pairs:
    """The predictions of positive and negative events, counted by their place among all predictions.

    A label above 0 is positive. A prediction that is not finite loses all its pairs.
    """

    def __init__(self, labels: Labels, predictions: Labels) -> None:
        self._positive = labels > 0
        worst = np.where(self._positive, -np.inf, np.inf)
        ordered = np.where(np.isfinite(predictions), predictions.astype(np.float64), worst)
        places, self._place = np.unique(ordered, return_inverse=True)
        self.positives = np.zeros(len(places), dtype=np.int64)
        self.negatives = np.zeros(len(places), dtype=np.int64)

    def count(self, begin: int, end: int, sign: int) -> None:
        """Add events, or take them away again."""
        place, positive = self._place[begin:end], self._positive[begin:end]
        np.add.at(self.positives, place[positive], sign)
        np.add.at(self.negatives, place[~positive], sign)

    def auc(self) -> float:
        """Return the share of (positive, negative) pairs in order, a tie being half of one: exact."""
        below = np.cumsum(self.negatives) - self.negatives
        pairs = int(self.positives.sum()) * int(self.negatives.sum())
        return int((self.positives * (2 * below + self.negatives)).sum()) / (2 * pairs) if pairs else np.nan

    def variance(self) -> float:
        """Return DeLong's variance of it; NaN where there is but one positive or negative."""
        below = np.cumsum(self.negatives) - self.negatives
        above = self.positives.sum() - np.cumsum(self.positives)
        of_positive = (below + self.negatives / 2) / self.negatives.sum()
        of_negative = (above + self.positives / 2) / self.positives.sum()
        parts = ((of_positive, self.positives), (of_negative, self.negatives))
        return sum(_variance(values, counts) / int(counts.sum()) for values, counts in parts)


def _variance(values: Floats, counts: Counts) -> float:
    n = int(counts.sum())
    if n < 2:
        return np.nan
    mean = float((values * counts).sum()) / n
    return float((np.square(values - mean) * counts).sum()) / (n - 1)


def auc(labels: Labels, predictions: Labels) -> Estimate:
    """Return the area under the ROC curve, exact, with DeLong's interval.

    Parameters
    ----------
    labels
        (n,) an event with a label above 0 is a positive one.
    predictions
        (n,) what was predicted; one that is not finite counts as the worst.

    Returns
    -------
    Estimate
        The share of pairs of a positive and a negative event in which the positive one has the larger
        prediction, ties being worth a half. NaN where all events are of one kind.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated receiver operating
    characteristic curves. Biometrics 44 (1988).

    Examples
    --------
    >>> auc(np.float32([1, 0, 1, 0]), np.float32([0.9, 0.9, 0.8, 0.1])).value
    0.625
    """
    n = len(labels)
    if n == 0:
        return NOTHING
    pairs = _Pairs(labels, predictions)
    pairs.count(0, n, 1)
    value = pairs.auc()
    if np.isnan(value):
        return Estimate(np.nan, np.nan, np.nan, n)
    variance = pairs.variance()
    if np.isnan(variance):  # one event of a kind says nothing about its variance
        return Estimate(value, 0.0, 1.0, n)
    half = Z * np.sqrt(variance)
    return Estimate(value, max(0.0, float(value - half)), min(1.0, float(value + half)), n)


def auc_curve(labels: Labels, predictions: Labels, window: int) -> Curve:
    """Return the AUC within windows, and since the beginning.

    Parameters
    ----------
    labels, predictions
        (n,) as for `auc`, in the order of the stream.
    window
        How many events a window holds. One without a positive and a negative event has NaN.

    Returns
    -------
    Curve
        The curve.

    Examples
    --------
    >>> auc_curve(np.float32([1, 0, 1]), np.float32([0.9, 0.1, 0.05]), window=2).window.tolist()
    [nan, 1.0, 0.0]
    """
    begins, ends = curve_points(len(labels), window)
    last, all_of_them = _Pairs(labels, predictions), _Pairs(labels, predictions)
    windows, totals = np.empty(len(ends)), np.empty(len(ends))
    begun = done = 0
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        for pairs in (last, all_of_them):
            pairs.count(done, end, 1)
        last.count(begun, begin, -1)
        begun, done = begin, end
        windows[i], totals[i] = last.auc(), all_of_them.auc()
    return Curve(events=ends.astype(np.float64), window=windows, cumulative=totals)


def label_estimate(metric: Metric, labels: Labels, predictions: Labels) -> Estimate:
    """Return a metric of predicted labels.

    Parameters
    ----------
    metric
        ``auc``, ``log_loss`` or ``rmse``.
    labels, predictions
        (n,) the labels, and what was predicted.

    Returns
    -------
    Estimate
        The estimate.

    Examples
    --------
    >>> label_estimate(Metric.parse("rmse"), np.float32([4, 2]), np.float32([3, 3])).value
    1.0
    """
    if metric.kind == "auc":
        return auc(labels, predictions)
    return Estimate.of(metric, label_values(metric, labels, predictions))


def label_curve(metric: Metric, labels: Labels, predictions: Labels, window: int) -> Curve:
    """Return the course of a metric of predicted labels.

    Parameters
    ----------
    metric
        ``auc``, ``log_loss`` or ``rmse``.
    labels, predictions
        (n,) the labels, and what was predicted, in the order of the stream.
    window
        How many events a window holds.

    Returns
    -------
    Curve
        The curve.

    Examples
    --------
    >>> label_curve(Metric.parse("rmse"), np.float32([4, 2]), np.float32([3, 4]), window=1).window.tolist()
    [1.0, 2.0]
    """
    if metric.kind == "auc":
        return auc_curve(labels, predictions, window)
    return Curve.of(label_values(metric, labels, predictions), window, metric)


def check_labels(metrics: tuple[Metric, ...], labels: Any) -> None:
    """Raise where labels lack what a metric needs.

    Parameters
    ----------
    metrics
        Those asked for.
    labels
        (n,) float32, or None.

    Examples
    --------
    >>> check_labels((Metric.parse("log_loss"),), np.float32([0, 1, 5]))
    Traceback (most recent call last):
    ...
    ValueError: metrics: 'log_loss' needs labels in [0, 1], got 5.0 at position 2
    """
    for metric in metrics:
        if metric.family != "label":
            continue
        if labels is None:
            raise ValueError(f"metrics: {metric.name!r} needs events with labels, these have none")
        outside = ~((labels >= 0) & (labels <= 1))
        if metric.kind == "log_loss" and outside.any():
            first = int(np.argmax(outside))
            raise ValueError(f"metrics: 'log_loss' needs labels in [0, 1], got {labels[first]} at position {first}")
        if metric.kind == "auc" and ((labels > 0).all() or (labels <= 0).all()):
            kind = "above 0" if labels[0] > 0 else "at most 0"
            raise ValueError(f"metrics: 'auc' needs labels above 0 and labels at most 0, all of these are {kind}")
