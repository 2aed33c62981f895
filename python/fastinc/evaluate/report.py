"""What a prequential evaluation found out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_whole
from fastinc.evaluate import plots
from fastinc.evaluate.metrics import Floats, Metric
from fastinc.evaluate.results import ModelResult
from fastinc.evaluate.slices import EDGES
from fastinc.evaluate.stream import Ints


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
    users, items
        (events,) int32 codes in the order of the stream, or None: what `fastinc.evaluate.compare` goes by.
    labels
        (events,) float32 labels in the order of the stream, or None.
    """

    models: Mapping[str, ModelResult]
    protocol: str
    events: str
    metrics: tuple[str, ...]
    window: int
    users: Ints | None = None
    items: Ints | None = None
    labels: npt.NDArray[np.float32] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as dicts, lists, strings and numbers, for JSON. What is not finite becomes None.

        Returns
        -------
        dict
            With the keys ``events``, ``metrics``, ``window``, ``protocol`` and ``models``; what is kept for
            each event is not in it.

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
            "models": {name: result.to_dict() for name, result in self.models.items()},
        }

    def result(self, name: str) -> ModelResult:
        """Return the result of a model, or raise naming those that there are.

        Parameters
        ----------
        name
            The model's name in the report.

        Returns
        -------
        ModelResult
            Its result.

        Examples
        --------
        >>> PrequentialReport({}, "as ever", "clicks", ("mrr",), 5000).result("mine")
        Traceback (most recent call last):
        ...
        ValueError: name must be a model of the report (none), got 'mine'
        """
        if name not in self.models:
            raise ValueError(f"name must be a model of the report ({', '.join(self.models) or 'none'}), got {name!r}")
        return self.models[name]

    def slices(self, metric: str | None = None) -> str:
        """Return tables of a metric by the length of the user's history and by the events that the item had.

        Parameters
        ----------
        metric
            A metric of ranks that the report has; by default the first.

        Returns
        -------
        str
            A table for each kind of slice: a line for each model, a column for each slice. The figures are in
            `ModelResult.slices`.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(2000, 60, 200, seed=1)
        >>> report = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@10"], baselines=False)
        >>> print(report.slices())  # doctest: +ELLIPSIS
        recall@10 by the events that the user had had
        ...
        """
        ranked = [name for name in self.metrics if Metric.parse(name).family == "rank"]
        metric = (ranked[0] if ranked else "") if metric is None else metric
        if metric not in ranked:
            raise ValueError(f"metric must be one of ranks that the report has ({', '.join(ranked)}), got {metric!r}")
        tables = []
        for kind, labels in EDGES.items():
            rows = [["model", *labels]]
            for name, result in self.models.items():
                rows.append([name, *(_number(result.slices[kind][label][metric].value, ".4f") for label in labels)])
            first = next(iter(self.models.values()), None)
            if first is not None:  # the events are the same for all models
                rows.append(["events", *(f"{first.slices[kind][label][metric].n:,}" for label in labels)])
            of = "user" if kind == "history" else "item"
            tables.append("\n".join([f"{metric} by the events that the {of} had had", "", *_table(rows)]))
        return "\n\n".join(tables)

    def recall_precision(self, name: str, k: int = 20) -> tuple[Floats, Floats]:
        """Return recall and precision within the first 1, 2, ..., k places.

        Parameters
        ----------
        name
            The model's name in the report.
        k
            The most places.

        Returns
        -------
        recall, precision
            (k,) float64. With one item to find, precision at k is recall at k, over k.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(2000, 60, 200, seed=1)
        >>> report = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@10"], baselines=False)
        >>> recall, precision = report.recall_precision("popularity", k=10)
        >>> recall[9] == report.models["popularity"].metrics["recall@10"].value
        np.True_
        """
        k = as_whole(k, "k", 1)
        result = self.result(name)
        if result.depth is not None and k > result.depth:
            raise ValueError(f"k must be at most {result.depth}, the length of the lists of {name!r}, got {k}")
        places = np.arange(1, k + 1)
        hits = np.bincount(result.outcomes[(result.outcomes > 0) & (result.outcomes <= k)], minlength=k + 1)[1:]
        recall = np.cumsum(hits) / result.scored if result.scored else np.full(k, np.nan)
        return recall, recall / places

    def plot(self, path: str | Path | None = None, metric: str | None = None) -> Any:
        """Draw a metric over the stream for every model; needs matplotlib (``pip install 'fastinc[demo]'``).

        The thick lines are the windows, the thin ones all events since the beginning.

        Parameters
        ----------
        path
            Where to write the picture as well, if anywhere; the suffix decides the format, PNG without one.
        metric
            Which metric; by default the report's first.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(2000, 60, 200, seed=1)
        >>> report = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@10"], baselines=False)
        >>> report.plot("recall.png").axes[0].get_ylabel()
        'recall@10'
        """
        return plots.draw_curves(self, metric, path)

    def plot_recall_precision(self, path: str | Path | None = None, k: int = 20) -> Any:
        """Draw precision over recall, within the first 1, 2, ..., k places, for every model; needs matplotlib.

        Parameters
        ----------
        path
            Where to write the picture as well, if anywhere; the suffix decides the format, PNG without one.
        k
            The most places.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.

        Examples
        --------
        >>> import fastinc as fi
        >>> events = fi.datasets.synthetic(2000, 60, 200, seed=1)
        >>> report = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@10"], baselines=False)
        >>> report.plot_recall_precision(k=5).axes[0].get_xlabel()
        'recall at 1 to 5'
        """
        return plots.draw_recall_precision(self, as_whole(k, "k", 1), path)

    def __str__(self) -> str:
        """Return a table of the results, and the protocol."""
        rows = [["model", *self.metrics, "events/s"]]
        for name, result in self.models.items():
            cells = [str(result.metrics[metric]) for metric in self.metrics]
            rows.append([name, *cells, _number(result.events_per_second, ",.0f")])
        lines = [f"{self.events}, every event ranked before it is learned", "", *_table(rows)]
        for name, result in self.models.items():
            if result.nonfinite:
                lines.append(f"{name}: {result.nonfinite} events missed because a score was not finite")
            lines += [f"{name}: {one}" for one in result.found]
        return "\n".join([*lines, "", self.protocol])


def _table(rows: list[list[str]]) -> Iterable[str]:
    """Give the lines of a table: the first column to the left, the others to the right, the header underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        if number == 1:
            yield "  ".join("-" * width for width in widths)
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join([row[0].ljust(widths[0]), *cells])


def _number(value: float, how: str) -> str:
    return "-" if math.isnan(value) else format(value, how)
