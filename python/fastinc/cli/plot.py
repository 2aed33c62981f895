"""A metric over the stream, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastinc._extras import require

if TYPE_CHECKING:
    from fastinc.evaluate import PrequentialReport

_MAIN = "#0b6e4f"
_OTHERS = ("#9a9a9a", "#d1495b", "#3d6fb4", "#b88a2b", "#7a5195")


def need_matplotlib() -> None:
    """Raise now, not after the work is done, where matplotlib is missing."""
    require("matplotlib", extra="demo", purpose="the plot")


def plot_report(report: PrequentialReport, path: Path, metric: str | None = None) -> None:
    """Draw a metric over the stream for every model of a report, and write a PNG.

    The thick lines are the means of windows, the thin ones the means since the beginning.

    Parameters
    ----------
    report
        A report of `fastinc.evaluate.prequential`.
    path
        The file to write.
    metric
        Which metric; by default the report's first.
    """
    need_matplotlib()
    # The figure and the Agg canvas themselves: pyplot would choose a backend for the whole process.
    figures = require("matplotlib.figure", extra="demo", purpose="the plot")
    agg = require("matplotlib.backends.backend_agg", extra="demo", purpose="the plot")
    metric = report.metrics[0] if metric is None else metric
    if metric not in report.metrics:
        raise ValueError(f"metric must be one of {', '.join(report.metrics)}, got {metric!r}")
    figure = figures.Figure(figsize=(9, 5), layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, result) in enumerate(report.models.items()):
        curve = result.curves[metric]
        color = _MAIN if number == 0 else _OTHERS[(number - 1) % len(_OTHERS)]
        label = f"{name} ({result.metrics[metric].value:.3f})"
        marker = "o" if len(curve.events) < 3 else None  # a line through one point cannot be seen
        axes.plot(curve.events, curve.window, color=color, linewidth=2.2, marker=marker, label=label)
        axes.plot(curve.events, curve.cumulative, color=color, linewidth=0.9, alpha=0.6, linestyle="--")
    axes.set_xlabel("events scored")
    axes.set_ylabel(metric)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{report.events}: {metric} over the stream (solid: window, dashed: since the beginning)")
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)
