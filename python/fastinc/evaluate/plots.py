"""A report as pictures: matplotlib, where it is there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc._extras import require
from fastinc.evaluate.metrics import Metric

if TYPE_CHECKING:
    from fastinc.evaluate.report import PrequentialReport

_MAIN = "#0b6e4f"
_OTHERS = ("#9a9a9a", "#d1495b", "#3d6fb4", "#b88a2b", "#7a5195")


def need_matplotlib(path: str | Path | None = None) -> None:
    """Raise now, not after the work is done, where matplotlib is missing or doesn't know a file's format.

    Parameters
    ----------
    path
        The picture to be written, if any.

    Examples
    --------
    >>> need_matplotlib("curve.png")
    """
    _new_figure(path)


def _new_figure(path: str | Path | None) -> Any:
    require("matplotlib", extra="demo", purpose="the plot")
    # The figure and the Agg canvas themselves: pyplot would choose a backend for the whole process.
    figures = require("matplotlib.figure", extra="demo", purpose="the plot")
    agg = require("matplotlib.backends.backend_agg", extra="demo", purpose="the plot")
    figure = figures.Figure(figsize=(9, 5), layout="constrained")
    canvas = agg.FigureCanvasAgg(figure)
    formats = canvas.get_supported_filetypes()
    if path is not None and _format(path) not in formats:
        raise ValueError(f"path must end with one of .{', .'.join(sorted(formats))}, got {str(path)!r}")
    return figure


def _format(path: str | Path) -> str:
    return Path(path).suffix[1:].lower() or "png"


def _finish(figure: Any, axes: Any, title: str, path: str | Path | None) -> Any:
    axes.set_title(title)
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path, format=_format(path), dpi=150)
    return figure


def _colour(number: int) -> str:
    return _MAIN if number == 0 else _OTHERS[(number - 1) % len(_OTHERS)]


def draw_curves(report: PrequentialReport, metric: str | None = None, path: str | Path | None = None) -> Any:
    """Draw a metric over the stream for every model of a report that has it.

    Parameters
    ----------
    report
        A report of `fastinc.evaluate.prequential`.
    metric
        Which metric; by default the report's first.
    path
        The file to write, if any.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    metric = report.metrics[0] if metric is None else metric
    if metric not in report.metrics:
        raise ValueError(f"metric must be one of {', '.join(report.metrics)}, got {metric!r}")
    figure = _new_figure(path)
    axes = figure.add_subplot()
    for number, (name, result) in enumerate(report.models.items()):
        curve = result.curves[metric]
        if math.isnan(result.metrics[metric].value):
            continue
        color, label = _colour(number), f"{name} ({result.metrics[metric].value:.3f})"
        marker = "o" if len(curve.events) < 3 else None  # a line through one point cannot be seen
        axes.plot(curve.events, curve.window, color=color, linewidth=2.2, marker=marker, label=label)
        axes.plot(curve.events, curve.cumulative, color=color, linewidth=0.9, alpha=0.6, linestyle="--")
    parsed = Metric.parse(metric)
    axes.set_xlabel("events predicted" if parsed.family == "label" else "events scored")
    axes.set_ylabel(metric)
    if parsed.family == "rank" or parsed.kind == "coverage":  # the others' differences are far from 0
        axes.set_ylim(bottom=0)
    title = f"{report.events}: {metric} over the stream (solid: window, dashed: since the beginning)"
    return _finish(figure, axes, title, path)


def draw_recall_precision(report: PrequentialReport, k: int, path: str | Path | None = None) -> Any:
    """Draw precision over recall within the first 1, 2, ..., k places for every model of a report.

    Parameters
    ----------
    report
        A report of `fastinc.evaluate.prequential`.
    k
        The most places.
    path
        The file to write, if any.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    figure = _new_figure(path)
    axes = figure.add_subplot()
    for number, name in enumerate(report.models):
        recall, precision = report.recall_precision(name, k)
        axes.plot(recall, precision, color=_colour(number), linewidth=1.6, marker="o", markersize=3.5, label=name)
    axes.set_xlabel(f"recall at 1 to {k}")
    axes.set_ylabel("precision")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return _finish(figure, axes, f"{report.events}: recall and precision within the first 1 to {k} places", path)
