"""What the commands show on the way, and the table of results: with rich on a terminal, else plain."""

from __future__ import annotations

import importlib.util
import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastinc._extras import require
from fastinc.evaluate.metrics import Metric

if TYPE_CHECKING:
    from fastinc.evaluate import PrequentialReport

Progress = Callable[[str, int, int], None]


def has_rich() -> bool:
    """Return whether rich is there."""
    return importlib.util.find_spec("rich") is not None


def _is_terminal(stream: Any) -> bool:
    """Tell whether somebody sees it; None: it was closed by whoever started the process."""
    return stream is not None and bool(stream.isatty())


def console() -> Any:
    """Return rich's console on stdout; where that is no terminal, wide enough that no row is broken."""
    rich = require("rich.console", extra="demo", purpose="this output")
    return rich.Console() if _is_terminal(sys.stdout) else rich.Console(width=120, color_system=None)


@contextmanager
def printable() -> Iterator[None]:
    """Have stdout and stderr take any text, for as long as this lasts: what an encoding lacks is escaped.

    Without it a name that is printed when all is done makes an error of it.
    """
    strict = ("strict", "surrogateescape")  # the latter, as the C locale has it, fails at letters
    streams = [each for each in (sys.stdout, sys.stderr) if isinstance(each, io.TextIOWrapper) and not each.closed]
    before = [(each, each.errors) for each in streams if each.errors in strict]
    for each, _ in before:
        each.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for each, errors in before:
            with suppress(ValueError, OSError):  # closed, or its reader has gone
                each.reconfigure(errors=errors)


def tell(line: str) -> None:
    """Print a line on stderr, at once; where that was closed, nowhere (`print` would take stdout)."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(unit: str = "events") -> Iterator[Progress]:
    """Give a function (what, done, total) that shows how far things are, on stderr.

    On a terminal that is a bar for each `what`; elsewhere (or without rich) a line for each when it is done.
    """
    if not _is_terminal(sys.stderr) or not has_rich():
        yield _lines(unit)
        return
    rich = require("rich.progress", extra="demo", purpose="the progress bar")
    stderr = require("rich.console", extra="demo", purpose="the progress bar").Console(stderr=True)
    columns = (
        *(rich.TextColumn("{task.description:<20}"), rich.BarColumn(), rich.MofNCompleteColumn()),
        *(rich.TextColumn(unit), rich.TimeRemainingColumn()),
    )
    with rich.Progress(*columns, console=stderr) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield advance


def _lines(unit: str) -> Progress:
    started: dict[str, float] = {}
    finished: set[str] = set()

    def advance(what: str, done: int, total: int) -> None:
        begin = started.setdefault(what, time.monotonic())
        if done >= total and what not in finished:
            finished.add(what)
            print(f"{what}: {total:,} {unit} in {time.monotonic() - begin:.1f} s", file=sys.stderr)

    return advance


def _cell(report: PrequentialReport, metric: str, name: str, bold: bool) -> str:
    estimate = report.models[name].metrics[metric]
    if math.isnan(estimate.value):
        return "-"
    values = [value for result in report.models.values() if not math.isnan(value := result.metrics[metric].value)]
    best = min(values) if Metric.parse(metric).lower_is_better else max(values)
    half = (estimate.high - estimate.low) / 2
    cell = f"{estimate.value:.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")
    return f"[bold]{cell}[/bold]" if bold and estimate.value == best else cell


def show_report(report: PrequentialReport) -> None:
    """Print the table of a report and the protocol it was made by."""
    if not has_rich():
        print(report)
        return
    rich = require("rich.table", extra="demo", purpose="the table")
    boxes = require("rich.box", extra="demo", purpose="the table")
    terminal = _is_terminal(sys.stdout)
    table = rich.Table(title=f"{report.events}, every event ranked before it is learned", title_justify="left")
    if terminal:  # no lines: three metrics just fit into 80 columns
        table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    else:
        table.box = boxes.ASCII
    table.add_column("model", no_wrap=True)
    for metric in report.metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("events/s", justify="right", no_wrap=True)
    for name, result in report.models.items():
        cells = [_cell(report, metric, name, bold=terminal) for metric in report.metrics]
        rate = result.events_per_second
        table.add_row(name, *cells, "-" if math.isnan(rate) else f"{rate:,.0f}")
    out = console()
    # Better a line that the terminal wraps than figures that are cut off.
    out.width = max(out.width, out.measure(table, options=out.options.update(width=1000)).maximum)
    out.print(table)
    for name, result in report.models.items():
        if result.nonfinite:  # such scores count as misses, and the reader should know that there were any
            out.print(f"{name}: {result.nonfinite} scores were not finite", markup=False)
    out.print(report.protocol, markup=False, highlight=False)
