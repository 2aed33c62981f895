"""The table of goals in the README, from the results that are in the repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core import Workload
from bench.machine import one_line
from bench.report import UNITS, file_name, ratio_text, seconds_text

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_HEAD = ("what", "fastinc", "times the rate of", "of the limit", "goal", "reached", "")
Result = dict[str, Any]


def rewrite(readme: Path, folder: Path, workloads: Sequence[Workload]) -> int:
    """Put the table between the markers of a file; return how many goals aren't met, or have no result."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme} needs one line {BEGIN} and after it one line {END}: the table goes between them")
    found = {workload.name: _read(folder, workload) for workload in workloads if workload.judged}
    lines = [line for workload, result in found.items() for line in _lines(workload, result)]
    rows = ["| " + " | ".join(cells) + " |" for cells in (_HEAD, ("---",) * len(_HEAD), *lines)]
    table = "\n".join([*_machines(found), "", *rows])
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{table}\n{after}", encoding="utf-8")
    return sum(line[-1] != "met" for line in lines)


def _read(folder: Path, workload: Workload) -> Result | None:
    path = folder / f"{file_name(workload)}.json"
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return result


def _machines(found: dict[str, Result | None]) -> list[str]:
    """Return the machine, the date and the commit; a line for each where they differ."""
    places: dict[str, list[tuple[str, str]]] = {}
    for name, result in found.items():
        if result is not None:
            machine = result["machine"]
            places.setdefault(one_line(machine), []).append((name, machine["date"][:10]))
    lines = []
    for place, results in places.items():
        dates = sorted({date for _, date in results})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        what = "" if len(places) == 1 else f" ({', '.join(name for name, _ in results)})"
        lines.append(f"{place}; {when}{what}.")
    return lines or ["No results yet: `make bench`."]


def _lines(workload: str, result: Result | None) -> list[tuple[str, ...]]:
    if result is None:
        return [_empty(workload, "not measured")]
    if result["size"] != "full":
        return [_empty(workload, f"measured at size {result['size']} alone")]
    lines = [_line(workload, case, goal) for case in result["cases"] for goal in case["goals"]]
    return lines or [_empty(workload, "no goal in its results")]


def _empty(workload: str, why: str) -> tuple[str, ...]:
    return (workload, "", "", "", "", "", why)


def _line(workload: str, case: Result, goal: Result) -> tuple[str, ...]:
    contestants = {one["name"]: one for one in case["contestants"]}
    subject = contestants.get(case["subject"], {})
    others = [one for one in contestants.values() if one["role"] != "limit" and one is not subject]
    limits = [one for one in contestants.values() if one["role"] == "limit"]
    sign, bound = ("≥", goal["at_least"]) if "at_least" in goal else ("≤", goal["at_most"])
    reached = goal["value"] is not None
    verdict = ("met" if goal["met"] else "**missed**") if reached else _why(case, goal, subject)
    return (
        f"{workload}: {case['case']}",
        _rate(case, subject),
        ", ".join(map(_against, others)),
        ", ".join(map(_against, limits)),
        f"{goal['what'].removeprefix(str(case['subject']) + ', ')} {sign} {bound:.3g}",
        f"{goal['value']:.3g}" if reached else "",
        verdict,
    )


def _rate(case: Result, subject: Result) -> str:
    if subject.get("status") != "ok":
        return str(subject.get("status", "missing"))
    scale, unit = UNITS[case["unit"]]
    return f"{subject['rate'] / scale:.3g} {unit} ({seconds_text(subject['median_seconds'])} a call)"


def _against(one: Result) -> str:
    ratio = one.get("subject_is_times_this")
    if one["status"] != "ok":
        return f"{one['name']} {one['status']}"
    return f"{one['name']} {'no figure' if ratio is None else ratio_text(ratio)}"


def _why(case: Result, goal: Result, subject: Result) -> str:
    """Return why a goal has no figure: who has no time."""
    if subject.get("status") != "ok":
        return f"fastinc {subject.get('status', 'missing')}"
    absent = [one for one in case["contestants"] if one["status"] != "ok" and goal["what"].endswith(one["name"])]
    return f"{absent[0]['name']} {absent[0]['status']}" if absent else "no figure"
