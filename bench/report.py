"""Results as text, JSON and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bench.core import CaseResult, Settings, Standing, Workload
from bench.machine import one_line

_COLORS = {"subject": "#0b6e4f", "variant": "#74b49b", "peer": "#9a9a9a", "limit": "#3d6fb4"}
#: By the unit of work: what to divide a rate by, and its name then.
UNITS = {
    "rows": (1e6, "M rows/s"),
    "bytes": (1e9, "GB/s"),
    "queries": (1.0, "queries/s"),
    "keys": (1e9, "G keys/s"),
    "examples": (1e3, "k examples/s"),
    "events": (1e3, "k events/s"),
    "rows a rank": (1e6, "M rows/s a rank"),
}


def file_name(workload: Workload) -> str:
    """Return the name of a workload's files, without their ends."""
    return workload.name.replace("/", "-")


def seconds_text(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds < 999.5 * scale else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def ratio_text(ratio: float) -> str:
    """Return such as "27x" or "0.64x"."""
    return f"{ratio:.0f}x" if ratio >= 99.5 else f"{ratio:.3g}x"


def table(result: CaseResult) -> str:
    """Return a case as text: a line for each contestant, then its goals and figures."""
    scale, unit = UNITS[result.unit]
    subject = result.subject.name if result.subject else "fastinc"
    head = ("", "median", "min", "max", unit, f"{subject} is")
    lines = [_cells(standing, result, scale) for standing in result.standings]
    full = [line for line in lines if len(line) == len(head)]
    widths = [max(len(line[column]) for line in [head, *full]) for column in range(len(head))]
    widths[0] = max([widths[0], *(len(line[0]) for line in lines)])
    text = [result.label]
    for line in [head, *lines]:
        if len(line) == len(head):
            rest = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        else:
            rest = line[1]
        text.append(f"  {line[0].ljust(widths[0])}  {rest}".rstrip())
    text += [f"  {name}: {value:.3g}" for name, value in result.figures.items()]
    for goal in result.goals:
        word, sign = ("met" if goal.met else "MISSED"), ("≥" if goal.at_least else "≤")
        text.append(f"  goal {sign} {goal.bound:.3g}: {goal.what} = {goal.value:.3g}: {word}")
    return "\n".join(text)


def _cells(standing: Standing, result: CaseResult, scale: float) -> tuple[str, ...]:
    if not standing.counts:
        return standing.name, f"{standing.status} ({standing.reason})"
    times = (seconds_text(value) for value in (standing.median, standing.fastest, standing.slowest))
    ratio = result.ratio(standing.name)
    against = "" if standing is result.subject or math.isnan(ratio) else ratio_text(ratio)
    return standing.name, *times, f"{standing.rate / scale:.3g}", against


def footnotes(results: list[CaseResult]) -> str:
    """Return what the clock covered, once for each contestant."""
    timed: dict[str, str] = {}
    for result in results:
        for standing in result.standings:
            timed.setdefault(standing.name, standing.timed)
    lines = ["timed:", *(f"  {name}: {text}" for name, text in timed.items() if text)]
    shares = {s.name: s.huge_pages for result in results for s in result.standings if s.huge_pages is not None}
    if shares:
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        lines.append(f"  of the memory taken when set up, on huge pages: {told}")
    return "\n".join([*lines, *(f"  all: {text}" for text in dict.fromkeys(r.caches for r in results) if text)])


def to_dict(
    workload: Workload, results: list[CaseResult], settings: Settings, machine: dict[str, Any]
) -> dict[str, Any]:
    """Return a workload's results for JSON: seconds are per call, medians of rounds."""
    return {
        "workload": workload.name,
        "summary": workload.summary,
        "size": settings.size,
        "rounds": settings.rounds,
        "seed": settings.seed,
        "machine": machine,
        "cases": [_case(result) for result in results],
    }


def _case(result: CaseResult) -> dict[str, Any]:
    return {
        "case": result.label,
        "unit": result.unit,
        "caches": result.caches,
        "subject": result.subject.name if result.subject else None,
        "contestants": [_contestant(standing, result) for standing in result.standings],
        "figures": {name: _finite(value) for name, value in result.figures.items()},
        "goals": [
            {"what": g.what, "value": _finite(g.value), "at_least" if g.at_least else "at_most": g.bound, "met": g.met}
            for g in result.goals
        ],
    }


def _contestant(standing: Standing, result: CaseResult) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": standing.name, "role": standing.role, "status": standing.status}
    if not standing.counts:
        return {**facts, "reason": standing.reason}
    return {
        **facts,
        "timed": standing.timed,
        "median_seconds": standing.median,
        "min_seconds": standing.fastest,
        "p10_seconds": standing.quantile(0.1),
        "p90_seconds": standing.quantile(0.9),
        "max_seconds": standing.slowest,
        "measurements": len(standing.seconds),
        "calls_a_measurement": standing.calls,
        "huge_pages": standing.huge_pages,
        "rate": standing.rate,
        "subject_is_times_this": _finite(result.ratio(standing.name)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(
    folder: Path, workload: Workload, results: list[CaseResult], settings: Settings, machine: dict[str, Any]
) -> list[Path]:
    """Write the JSON, the tables and, where matplotlib is there, the plot; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(workload)
    facts = to_dict(workload, results, settings, machine)
    written = [folder / f"{name}.json", folder / f"{name}.txt"]
    written[0].write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    parts = [f"{workload.name}: {workload.summary}", one_line(machine), *map(table, results), footnotes(results)]
    written[1].write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if plot(folder / f"{name}.png", workload, results):
        written.append(folder / f"{name}.png")
    return written


def plot(path: Path, workload: Workload, results: list[CaseResult]) -> bool:
    """Draw rates as bars, a group for each case; return whether matplotlib is there."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    bars = sum(len(result.standings) + 1 for result in results)
    figure = Figure(figsize=(9, 1.2 + 0.24 * bars), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place, ticks = 0.0, {}
    for result in results:
        _note(axes, 0, place, result.label, weight="bold")
        for standing in result.standings:
            place += 1
            ticks[place] = standing.name
            _bar(axes, place, standing, result)
        place += 1.4
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.01)
    units = " or ".join(dict.fromkeys(UNITS[result.unit][1] for result in results))
    axes.set_xlabel(f"{units} by the median (in brackets: how many times that the first has)", fontsize=8)
    axes.set_title(f"{workload.name}: {workload.summary}", fontsize=9)
    figure.savefig(path, dpi=120)
    return True


def _bar(axes: Any, place: float, standing: Standing, result: CaseResult) -> None:
    if not standing.counts:
        _note(axes, 0, place, f" {standing.status}", color="#9a1c1c")
        return
    rate = standing.rate / UNITS[result.unit][0]
    axes.barh(place, rate, color=_COLORS[standing.role], height=0.8)
    ratio = result.ratio(standing.name)
    against = "" if standing is result.subject or math.isnan(ratio) else f"  ({ratio_text(ratio)})"
    axes.annotate(f" {rate:.3g}{against}", (rate, place), fontsize=7, va="center")


def _note(axes: Any, x: float, place: float, text: str, **style: Any) -> None:
    axes.annotate(text, (x, place), xycoords=("axes fraction", "data"), fontsize=7, va="center", **style)
