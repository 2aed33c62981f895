"""A metric over the stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.metrics import Floats, Metric

_MOST_POINTS = 500  # more points in a curve than a picture can show only make the report large


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric over the stream.

    Parameters
    ----------
    events
        (points,) how many events had been scored (label metrics: predicted).
    window
        (points,) the metric over the last `window` of them (over all of them while there are fewer).
    cumulative
        (points,) the metric over all of them.
    """

    events: Floats
    window: Floats
    cumulative: Floats

    @classmethod
    def of(cls, values: Floats, window: int, metric: Metric | None = None) -> Curve:
        """Return the curve of a metric that is a mean: a point every tenth of a window, and at most 500 or so.

        Parameters
        ----------
        values
            (n,) what each event adds to the mean, in the order of the stream.
        window
            How many events a windowed mean is over.
        metric
            Which metric the values are of; by default one that is the mean itself.

        Returns
        -------
        Curve
            The curve; its last point is the end of the stream.

        Examples
        --------
        >>> curve = Curve.of(np.array([0.0, 1.0, 1.0, 0.0]), window=2)
        >>> curve.events.tolist(), curve.window.tolist()
        ([1.0, 2.0, 3.0, 4.0], [0.0, 0.5, 1.0, 0.5])
        """
        begins, ends = curve_points(len(values), window)
        if not np.isfinite(values).all():  # a sum that went on from infinity would stay there
            windows = np.array([values[b:e].mean() for b, e in zip(begins, ends, strict=True)])
            totals = np.array([values[:e].mean() for e in ends])
        else:
            total = np.concatenate([[0.0], np.cumsum(values)])
            windows = (total[ends] - total[begins]) / (ends - begins)
            totals = total[ends] / ends
        if metric is not None:
            windows, totals = metric.of_mean(windows), metric.of_mean(totals)
        return cls(events=ends.astype(np.float64), window=windows, cumulative=totals)


def curve_points(n: int, window: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return where the windows of a curve's points begin and end.

    Parameters
    ----------
    n
        How many events there are.
    window
        How many of them a window holds.

    Returns
    -------
    begins, ends
        (points,) integers: a window is of events ``begin`` to ``end - 1``.

    Examples
    --------
    >>> [points.tolist() for points in curve_points(5, 2)]
    [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5]]
    """
    step = max(1, window // 10, math.ceil(n / _MOST_POINTS))
    ends = np.unique(np.append(np.arange(step, n + 1, step), n)) if n else np.empty(0, dtype=np.int64)
    return np.maximum(ends - window, 0), ends
