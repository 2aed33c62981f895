"""What an evaluation found out about one model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.curves import Curve
from fastinc.evaluate.estimates import NOTHING, Estimate
from fastinc.evaluate.labels import label_curve, label_estimate
from fastinc.evaluate.lists import coverage_curve, novelty_values
from fastinc.evaluate.metrics import Metric
from fastinc.evaluate.runs import Core, Outcomes
from fastinc.evaluate.slices import Slices, slice_results
from fastinc.evaluate.stream import Ints, Stream

if TYPE_CHECKING:
    from fastinc.drift import Alarm
    from fastinc.guard import Incident

_REASONS = {
    "warm_up": Core.WARM_UP,
    "not_target": Core.NOT_TARGET,
    "no_history": Core.NO_HISTORY,
    "repeat": Core.REPEAT,
}


@dataclass(frozen=True, eq=False)
class ModelResult:
    """How one model did.

    Parameters
    ----------
    name
        The model's name in the report.
    metrics
        Each metric over the scored events, with an interval; NaN where the model has no such thing.
    curves
        For each metric its course.
    slices
        For each kind of slice (``"history"``: events that the user had had, ``"item"``: events that the item
        had had), slice and metric of ranks: the mean over the slice's scored events.
    events_per_second
        Events ranked and learned in a second, after the warm-up; NaN if there were none.
    scored
        How many events the metrics of ranks are over.
    skipped
        How many events were learned without being scored, by reason: ``"warm_up"``, ``"not_target"`` (a
        label of at most 0), ``"no_history"`` (a user's first event), ``"repeat"`` (an item that the user had
        before).
    new_items
        How many scored events were misses because their item was new (with a delay: or not learned yet).
    nonfinite
        How many scored events were misses because a score was not finite.
    outcomes
        (events,) int32, in the order of the stream: the rank of the event's item, 0 for a new item, or the
        negative code of what else became of the event.
    predictions
        (events,) float32: the label predicted, NaN in the warm-up; None without metrics of labels.
    depth
        How many places `outcomes` reaches down; None: all of them.
    found
        What a guard and what adapts the model found, in the order of the stream: `fastinc.guard.Incident` and
        `fastinc.drift.Alarm`.
    """

    name: str
    metrics: Mapping[str, Estimate]
    curves: Mapping[str, Curve]
    slices: Slices
    events_per_second: float
    scored: int
    skipped: Mapping[str, int]
    new_items: int
    nonfinite: int
    outcomes: Ints
    predictions: npt.NDArray[np.float32] | None
    depth: int | None
    found: tuple[Incident | Alarm, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as dicts, lists, strings and numbers; what is not finite becomes None.

        Returns
        -------
        dict
            All but what is kept for each event.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(500, 40, 60, seed=1)
        >>> report = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["mrr"], baselines=False)
        >>> sorted(report.models["popularity"].to_dict()["metrics"]["mrr"])
        ['high', 'low', 'n', 'value']
        """
        return {
            "name": self.name,
            "metrics": {name: _estimate(estimate) for name, estimate in self.metrics.items()},
            "curves": {name: _curve(curve) for name, curve in self.curves.items()},
            "slices": {
                kind: {
                    label: {name: _estimate(estimate) for name, estimate in of.items()} for label, of in parts.items()
                }
                for kind, parts in self.slices.items()
            },
            "events_per_second": _json(self.events_per_second),
            "scored": self.scored,
            "skipped": dict(self.skipped),
            "new_items": self.new_items,
            "nonfinite": self.nonfinite,
            "found": [_found(one) for one in self.found],
        }


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _found(found: Incident | Alarm) -> dict[str, Any]:
    return {"kind": type(found).__name__.lower(), **asdict(found), "time": _json(found.time)}


def _estimate(e: Estimate) -> dict[str, Any]:
    return {"value": _json(e.value), "low": _json(e.low), "high": _json(e.high), "n": e.n}


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "events": curve.events.tolist(),
        "window": [_json(value) for value in curve.window.tolist()],
        "cumulative": [_json(value) for value in curve.cumulative.tolist()],
    }


def summarise(
    name: str,
    outcomes: Outcomes,
    stream: Stream,
    metrics: tuple[Metric, ...],
    *,
    window: int,
    rate: float,
    depth: int | None,
    found: tuple[Incident | Alarm, ...] = (),
) -> ModelResult:
    """Return what a model's outcomes amount to.

    Parameters
    ----------
    name
        The model's name.
    outcomes
        Those of all events of the stream.
    stream
        The events.
    metrics
        The metrics to work out.
    window
        How many events a windowed metric is over.
    rate
        Events in a second.
    depth
        How many places the ranks reach down; None: all of them.
    found
        What a guard and what adapts the model found.

    Returns
    -------
    ModelResult
        The result.

    Examples
    --------
    >>> from fastinc.datasets import Events
    >>> stream = Stream.of(Events(users=[1, 2, 1], items=[5, 6, 6]), warm_up=0)
    >>> outcomes = Outcomes(np.array([-3, -3, 1], dtype=np.int32), None, None)
    >>> result = summarise("mine", outcomes, stream, (Metric.parse("mrr"),), window=5, rate=1.0, depth=None)
    >>> result.metrics["mrr"].value, result.skipped["no_history"]
    (1.0, 2)
    """
    scored = outcomes.scored
    ranks = outcomes.ranks[scored]
    measured = {metric.name: _measure(metric, outcomes, stream, window) for metric in metrics}
    return ModelResult(
        name=name,
        metrics={metric: estimate for metric, (estimate, _) in measured.items()},
        curves={metric: curve for metric, (_, curve) in measured.items()},
        slices=slice_results(metrics, ranks, {kind: of[scored] for kind, of in stream.counts().items()}),
        events_per_second=rate,
        scored=len(ranks),
        skipped={reason: int(np.count_nonzero(outcomes.ranks == code)) for reason, code in _REASONS.items()},
        new_items=int(np.count_nonzero(ranks == Core.NEW_ITEM)),
        nonfinite=int(np.count_nonzero(ranks == Core.NON_FINITE)),
        outcomes=outcomes.ranks,
        predictions=outcomes.predictions,
        depth=depth,
        found=found,
    )


def _measure(metric: Metric, outcomes: Outcomes, stream: Stream, window: int) -> tuple[Estimate, Curve]:
    if metric.family == "label":
        labels, predictions = stream.events.labels, outcomes.predictions
        if labels is None or predictions is None:
            return NOTHING, Curve.of(np.empty(0), window)
        judged = slice(stream.warm_up, None)
        return (
            label_estimate(metric, labels[judged], predictions[judged]),
            label_curve(metric, labels[judged], predictions[judged], window),
        )
    if metric.family == "rank":
        values = metric.values(outcomes.ranks[outcomes.scored])
        return Estimate.of(metric, values), Curve.of(values, window)
    assert outcomes.lists is not None
    lists, at = outcomes.lists[:, : metric.k], np.flatnonzero(outcomes.scored)
    if metric.kind == "coverage":
        curve = coverage_curve(lists, stream.candidates()[at], window)
        share = float(curve.cumulative[-1]) if len(at) else np.nan
        return Estimate(share, np.nan, np.nan, len(at)), curve  # a share of items, not a mean over events
    values = novelty_values(lists, at, stream.items)
    values = values[~np.isnan(values)]  # where a score was not finite there is no list
    return Estimate.of(metric, values), Curve.of(values, window)
