"""Means over events, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastinc.evaluate.metrics import Floats, Metric

Z = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Estimate:
    """A metric over events, with a 95 % interval.

    The interval treats events as independent. Events of one user resemble each other, so it is the
    narrower side of the truth; `fastinc.evaluate.compare` takes that into account.

    Parameters
    ----------
    value
        The metric; NaN without events.
    low, high
        The ends of the interval, within the metric's range; NaN without events, and where there is none.
    n
        How many events.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, metric: Metric, values: Floats) -> Estimate:
        """Return a metric that is a mean (rmse: the root of one) over events.

        The interval is Wilson's where an event is worth one of two values (recall, hit rate, precision, f1),
        else the normal one; rmse takes the roots of its ends.

        Parameters
        ----------
        metric
            Which metric the values are of.
        values
            (n,) what each event adds to the mean.

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
            return NOTHING
        mean = float(values.mean())
        if not math.isfinite(mean):  # a prediction was not
            return cls(mean, np.nan, np.nan, n)
        if metric.hit_value is not None:
            low, high = _wilson(np.count_nonzero(values) / n, n)
            low, high = low * metric.hit_value, high * metric.hit_value
        elif n == 1:  # one value says nothing about its variance
            low, high = 0.0, metric.most
        else:
            half = Z * float(values.std(ddof=1)) / math.sqrt(n)
            low, high = mean - half, mean + half
        low, high = max(0.0, low), min(metric.most, high)
        value, low, high = (float(metric.of_mean(x)) for x in (mean, low, high))
        return cls(value, low, high, n)

    def __str__(self) -> str:
        """Return the value with its interval where it has one."""
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.4f}" + ("" if math.isnan(self.low) else f" [{self.low:.4f}, {self.high:.4f}]")


#: Of no events.
NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


def _wilson(share: float, n: int) -> tuple[float, float]:
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return centre - half, centre + half
