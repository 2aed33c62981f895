"""What a prequential evaluation found out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastinc.evaluate.metrics import Estimate, Floats

if TYPE_CHECKING:
    from fastinc.drift import Alarm
    from fastinc.guard import Incident

_MOST_POINTS = 500  # more points in a curve than a picture can show only make the report large


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric over the stream.

    Parameters
    ----------
    events
        (points,) how many events had been scored.
    window
        (points,) the mean over the last `window` of them (over all of them while there are fewer).
    cumulative
        (points,) the mean over all of them.
    """

    events: Floats
    window: Floats
    cumulative: Floats

    @classmethod
    def of(cls, values: Floats, window: int) -> Curve:
        """Return the curve of a metric's values: a point every tenth of a window, and at most 500 or so.

        Parameters
        ----------
        values
            (n,) the metric of each scored event, in the order of the stream.
        window
            How many events a windowed mean is over.

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
        n = len(values)
        step = max(1, window // 10, math.ceil(n / _MOST_POINTS))
        ends = np.unique(np.append(np.arange(step, n + 1, step), n)) if n else np.empty(0, dtype=np.int64)
        total = np.concatenate([[0.0], np.cumsum(values)])
        begins = np.maximum(ends - window, 0)
        return cls(
            events=ends.astype(np.float64),
            window=(total[ends] - total[begins]) / (ends - begins),
            cumulative=total[ends] / ends,
        )


@dataclass(frozen=True, eq=False)
class ModelResult:
    """How one model did.

    Parameters
    ----------
    name
        The model's name in the report.
    metrics
        For each metric its mean over the scored events, with an interval.
    curves
        For each metric its course.
    events_per_second
        Events ranked and learned in a second, after the warm-up; NaN if there were none.
    scored
        How many events the metrics are over.
    skipped
        How many events were learned without being scored, by reason: ``"warm_up"``, ``"not_target"`` (a
        label of at most 0), ``"no_history"`` (a user's first event), ``"repeat"`` (an item that the user had
        before).
    new_items
        How many scored events were misses because their item was new.
    nonfinite
        How many scored events were misses because a score was not finite.
    found
        What a guard and what adapts the model found, in the order of the stream: `fastinc.guard.Incident` and
        `fastinc.drift.Alarm`.
    """

    name: str
    metrics: Mapping[str, Estimate]
    curves: Mapping[str, Curve]
    events_per_second: float
    scored: int
    skipped: Mapping[str, int]
    new_items: int
    nonfinite: int
    found: tuple[Incident | Alarm, ...] = ()


@dataclass(frozen=True, eq=False)
class PrequentialReport:
    """The results of all models over the same events.

    Parameters
    ----------
    models
        The results by name: the model's own first, then those of the baselines.
    protocol
        What exactly was done, in words.
    events
        The stream's name.
    metrics
        The metrics' names.
    window
        How many scored events a windowed mean is over.
    """

    models: Mapping[str, ModelResult]
    protocol: str
    events: str
    metrics: tuple[str, ...]
    window: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, for JSON. NaN becomes None.

        Returns
        -------
        dict
            With the keys ``events``, ``metrics``, ``window``, ``protocol`` and ``models``.

        Examples
        --------
        >>> PrequentialReport({}, "as ever", "clicks", ("mrr",), 5000).to_dict()["metrics"]
        ['mrr']
        """
        return {
            "events": self.events,
            "metrics": list(self.metrics),
            "window": self.window,
            "protocol": self.protocol,
            "models": {name: _result_dict(result) for name, result in self.models.items()},
        }

    def __str__(self) -> str:
        """Return a table of the results, and the protocol."""
        header = ["model", *self.metrics, "events/s"]
        rows = [header]
        for name, result in self.models.items():
            cells = [_cell(result.metrics[metric]) for metric in self.metrics]
            rows.append([name, *cells, _number(result.events_per_second, ",.0f")])
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [f"{self.events}, every event ranked before it is learned", ""]
        for row in rows:
            first = row[0].ljust(widths[0])
            lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
        lines.insert(3, "  ".join("-" * width for width in widths))
        for name, result in self.models.items():
            if result.nonfinite:
                lines.append(f"{name}: {result.nonfinite} events missed because a score was not finite")
            lines += [f"{name}: {one}" for one in result.found]
        return "\n".join([*lines, "", self.protocol])


def _number(value: float, how: str) -> str:
    return "-" if math.isnan(value) else format(value, how)


def _cell(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _json(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _found_dict(found: Incident | Alarm) -> dict[str, Any]:
    fields = asdict(found)
    return {"kind": type(found).__name__.lower(), **fields, "time": _json(found.time)}


def _result_dict(result: ModelResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "metrics": {
            name: {"value": _json(e.value), "low": _json(e.low), "high": _json(e.high), "n": e.n}
            for name, e in result.metrics.items()
        },
        "curves": {
            name: {
                "events": curve.events.tolist(),
                "window": curve.window.tolist(),
                "cumulative": curve.cumulative.tolist(),
            }
            for name, curve in result.curves.items()
        },
        "events_per_second": _json(result.events_per_second),
        "scored": result.scored,
        "skipped": dict(result.skipped),
        "new_items": result.new_items,
        "nonfinite": result.nonfinite,
        "found": [_found_dict(one) for one in result.found],
    }
