"""Whether two models differ, event by event."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_choice, as_seed, as_whole
from fastinc.evaluate.labels import label_values
from fastinc.evaluate.metrics import Floats, Metric
from fastinc.evaluate.report import PrequentialReport
from fastinc.evaluate.results import ModelResult
from fastinc.evaluate.runs import Core, Outcomes


@dataclass(frozen=True)
class Comparison:
    """How much two models differ over the same events.

    Parameters
    ----------
    metric
        The metric.
    first, second
        The models' names.
    difference
        The first one's metric less the second one's.
    low, high
        Its 95 % interval: percentiles of the bootstrap samples.
    above_zero
        The share of samples with a difference above 0.
    p_value
        Two-sided, of no difference: twice the smaller share of samples on one side of 0 (0 included), where
        the data at hand counts as one more sample.
    n
        How many events were compared.
    by, units
        What was resampled: ``"users"`` or blocks of ``"time"``, and how many there are.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    above_zero: float
    p_value: float
    n: int
    by: Literal["users", "time"]
    units: int

    def __str__(self) -> str:
        """Return a line."""
        of = "users" if self.by == "users" else "blocks of time"
        return (
            f"{self.metric}: {self.first} - {self.second} = {self.difference:+.4f} "
            f"[{self.low:+.4f}, {self.high:+.4f}], p = {self.p_value:.2g} "
            f"({self.n:,} events, {self.units:,} {of} resampled)"
        )


def compare(
    report: PrequentialReport,
    first: str,
    second: str,
    metric: str | None = None,
    *,
    other: PrequentialReport | None = None,
    by: Literal["users", "time"] = "users",
    samples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models that were asked about the same events.

    Pairs of outcomes are compared, event by event. Events are not independent, so whole users are resampled
    (the cluster bootstrap) or whole stretches of the stream (the bootstrap of blocks that don't overlap, of
    about sqrt(n) events each). Users suit models that differ in how they treat users; time suits streams that
    drift, where neighbouring events resemble each other whoever they are of. If the two disagree, believe the
    wider interval.

    Parameters
    ----------
    report
        A report of `fastinc.evaluate.prequential`.
    first, second
        Names of two models.
    metric
        Any metric of ranks, whether or not the report has it; or ``"log_loss"`` or ``"rmse"`` of a report with
        metrics of labels. By default the report's first.
    other
        The report that `second` is in; by default `report` as well. It must be of the same events in the same
        order, with the same warm-up and rules.
    by
        What to resample.
    samples
        How many bootstrap samples.
    seed
        Seeds them.

    Returns
    -------
    Comparison
        The difference, first less second, and how sure it is.

    References
    ----------
    Field, Welsh: Bootstrapping clustered data. Journal of the Royal Statistical Society B 69 (2007).
    Carlstein: The use of subseries values for estimating the variance of a general statistic from a stationary
    sequence. Annals of Statistics 14 (1986).
    Davison, Hinkley: Bootstrap methods and their application (1997), section 4.2, for the p-value.

    Examples
    --------
    >>> import fastinc as fi
    >>> events = fi.datasets.synthetic(3000, 60, 200, seed=1)
    >>> report = fi.evaluate.prequential(fi.Recommender(dim=8), events, ["recall@10"])
    >>> result = fi.evaluate.compare(report, "fastinc", "popularity")
    >>> result.n == report.models["fastinc"].scored, result.low <= result.difference <= result.high
    (True, True)
    """
    samples, seed = as_whole(samples, "samples", 100), as_seed(seed)
    as_choice(by, "by", ("users", "time"))
    parsed = Metric.parse(report.metrics[0] if metric is None else metric)
    theirs = report if other is None else other
    one, two = report.result(first), theirs.result(second)
    _check_same_events(report, theirs)
    ours = _values(parsed, report, one), _values(parsed, theirs, two)
    which = ours[0][0]
    if not np.array_equal(which, ours[1][0]):
        raise ValueError("other must have scored the same events: with the same warm-up and rules")
    n = int(np.count_nonzero(which))
    assert report.users is not None
    units = report.users[which] if by == "users" else np.arange(n) // max(1, math.ceil(math.sqrt(n)))
    _, unit = np.unique(units, return_inverse=True)
    columns = [np.bincount(unit, weights=of) for of in (ours[0][1], ours[1][1], np.ones(n))]
    sums = np.stack(columns).astype(np.float64)
    if sums.shape[1] < 2:
        raise ValueError(f"by={by!r} needs at least 2 {'users' if by == 'users' else 'blocks'}, got {sums.shape[1]}")
    return _comparison(parsed, (first, second), sums, by, samples, seed)


def _comparison(
    metric: Metric, names: tuple[str, str], sums: Floats, by: Literal["users", "time"], samples: int, seed: int
) -> Comparison:
    units = sums.shape[1]
    rng = np.random.default_rng(seed)
    drawn = np.empty(samples)
    for i in range(samples):
        times = np.bincount(rng.integers(0, units, units), minlength=units)
        drawn[i] = _difference(metric, sums @ times)
    low, high = np.quantile(drawn, [0.025, 0.975])
    sides = min(np.count_nonzero(drawn <= 0.0), np.count_nonzero(drawn >= 0.0))
    total = sums.sum(axis=1)
    return Comparison(
        metric=metric.name,
        first=names[0],
        second=names[1],
        difference=_difference(metric, total),
        low=float(low),
        high=float(high),
        above_zero=float(np.count_nonzero(drawn > 0.0)) / samples,
        p_value=min(1.0, 2.0 * (1 + sides) / (samples + 1)),
        n=int(total[2]),
        by=by,
        units=units,
    )


def _difference(metric: Metric, sums: Floats) -> float:
    one, two, n = sums
    return float(metric.of_mean(one / n) - metric.of_mean(two / n))


def _values(metric: Metric, report: PrequentialReport, result: ModelResult) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return which events a metric is over, and what each of them adds to its mean."""
    if metric.family == "rank":
        if result.depth is not None and (metric.k is None or metric.k > result.depth):
            raise ValueError(f"metric={metric.name!r} needs more than the {result.depth} places of {result.name!r}")
        which = Outcomes(result.outcomes, None, None).scored
        return which, metric.values(result.outcomes[which])
    if metric.kind not in ("log_loss", "rmse"):
        raise ValueError(f"metric must be one of ranks, 'log_loss' or 'rmse': {metric.name!r} is no mean over events")
    if result.predictions is None or report.labels is None:
        raise ValueError(f"metric={metric.name!r} needs predicted labels, and {result.name!r} has none")
    which = result.outcomes != Core.WARM_UP
    values = label_values(metric, report.labels[which], result.predictions[which])
    if not np.isfinite(values).all():
        raise ValueError(f"metric={metric.name!r}: a prediction of {result.name!r} is not finite")
    return which, values


def _check_same_events(one: PrequentialReport, two: PrequentialReport) -> None:
    def same(a: Any, b: Any) -> bool:
        return a is b or (a is not None and b is not None and np.array_equal(a, b))

    if one.users is None or two.users is None:
        raise ValueError("report must be one that prequential() made: this one kept no events")
    if not (same(one.users, two.users) and same(one.items, two.items) and same(one.labels, two.labels)):
        raise ValueError("other must be a report of the same events in the same order")
