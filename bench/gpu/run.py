"""All workloads for a GPU in one file of results, with a table of goals: measured, goal, met or missed."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.core import CaseResult, Goal, MissingError, Settings, Standing, Workload
from bench.gpu.device import Device, open_device

#: Measurements of each contestant; a GPU's are short.
ROUNDS = {"full": 50, "small": 15, "tiny": 3}


@dataclass
class Outcome:
    """What a workload came to."""

    workload: Workload
    results: list[CaseResult] = field(default_factory=list)
    #: Why there are no (further) results.
    missing: str = ""
    failed: str = ""
    clocks: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether something of fastinc's was wrong or failed."""
        return bool(self.failed) or any(result.broken for result in self.results)


def run_all(workloads: Sequence[Workload], settings: Settings, folder: Path, stem: str = "") -> int:
    """Run workloads, each whatever became of the others; return 0, 1 where one was wrong or failed, 2 without a device.

    Results are written after each workload, so that a run which is cut off leaves those it has.
    """
    load = machine.load()
    try:
        device = open_device(settings)
    except MissingError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    facts = {**machine.describe(settings, load), "gpu": device.facts()}
    print(machine.one_line(facts), json.dumps(facts["gpu"]), sep="\n", flush=True)
    name = stem or f"gpu-{slug(facts['gpu']['name'])}"
    outcomes: list[Outcome] = []
    for workload in workloads:
        outcomes.append(run_one(workload, settings, device))
        written = write(folder, name, outcomes, settings, facts)
    print(f"\n{goal_table(outcomes)}\n\n{', '.join(map(str, written))}", flush=True)
    print(f"\n{tally(outcomes)}", flush=True)
    broken = [outcome.workload.name for outcome in outcomes if outcome.broken]
    if broken:
        print(f"\nbench: fastinc was wrong or failed in: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def slug(name: str) -> str:
    """Return a device's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_one(workload: Workload, settings: Settings, device: Device) -> Outcome:
    """Run one workload, and print each case when it is done."""
    begin, outcome = time.monotonic(), Outcome(workload)
    outcome.clocks["before"] = device.clocks()
    print(f"\n# {workload.name}: {workload.summary}", flush=True)
    try:
        for result in workload.run(settings):
            outcome.results.append(result)
            print(f"\n{report.table(result)}", flush=True)
    except MissingError as error:
        outcome.missing = str(error)
    except Exception as error:  # one that breaks is a result, not the end of the run
        outcome.failed = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    outcome.clocks["after"] = device.clocks()
    device.release()
    if outcome.results:
        print(f"\n{report.footnotes(outcome.results)}")
    for word in (outcome.missing, outcome.failed):
        if word:
            print(f"\n  {word}")
    print(f"{time.monotonic() - begin:.0f} s; {' '.join(outcome.clocks['after'].values())}", flush=True)
    return outcome


def write(
    folder: Path, name: str, outcomes: Sequence[Outcome], settings: Settings, facts: dict[str, Any]
) -> list[Path]:
    """Write one JSON and one text for all workloads so far; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for outcome in outcomes:
        run = report.to_dict(outcome.workload, outcome.results, settings, {})
        del run["machine"]  # the same for all
        told = {"missing": outcome.missing or None, "failed": outcome.failed or None, "clocks": outcome.clocks}
        runs.append({**run, **told})
    everything = {"device": settings.device, "machine": facts, "workloads": runs}
    json_file, text_file = folder / f"{name}.json", folder / f"{name}.txt"
    text = json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False)
    json_file.write_text(text + "\n", encoding="utf-8")
    parts = [machine.one_line(facts), json.dumps(facts["gpu"]), goal_table(outcomes)]
    for outcome in outcomes:
        parts.append(f"# {outcome.workload.name}: {outcome.workload.summary}")
        parts += [report.table(result) for result in outcome.results]
        parts += [word for word in (outcome.missing, outcome.failed) if word]
        parts += [report.footnotes(outcome.results)] if outcome.results else []
    text_file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [json_file, text_file]


def goal_table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each goal: what, measured, goal, met or missed; or why there is no figure."""
    lines = [("what", "measured", "goal", "")]
    for outcome in outcomes:
        lines += [_goal_line(outcome, result, goal) for result in outcome.results for goal in result.goals]
        for result in outcome.results:
            if not result.goals:
                lines.append((_what(outcome, result), *_without_goal(result)))
        if outcome.missing or outcome.failed:
            lines.append((outcome.workload.name, "", "", outcome.missing or f"failed: {outcome.failed}"))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    rows = [
        f"{line[0].ljust(widths[0])}  {line[1].rjust(widths[1])}  {line[2].rjust(widths[2])}  {line[3]}".rstrip()
        for line in lines
    ]
    return "\n".join(rows)


def tally(outcomes: Sequence[Outcome]) -> str:
    """Return how many goals are met, missed and without a figure, and how many workloads or subjects have no result."""
    results = [result for outcome in outcomes for result in outcome.results]
    goals = [goal for result in results for goal in result.goals]
    none = sum(math.isnan(goal.value) for goal in goals)
    met = sum(goal.met for goal in goals)
    absent = sum(result.subject is None or not result.subject.counts for result in results)
    absent += sum(bool(outcome.missing or outcome.failed) for outcome in outcomes)
    return (
        f"goals: {met} met, {len(goals) - met - none} missed, {none} without a figure; "
        f"{absent} cases or workloads in which fastinc has none"
    )


def _what(outcome: Outcome, result: CaseResult) -> str:
    return f"{outcome.workload.name}: {result.label}"


def _goal_line(outcome: Outcome, result: CaseResult, goal: Goal) -> tuple[str, str, str, str]:
    what = f"{_what(outcome, result)}: {goal.what}"
    bound = f"{'≥' if goal.at_least else '≤'} {goal.bound:.3g}"
    if math.isnan(goal.value):
        return what, "", bound, _why(result, goal)
    return what, f"{goal.value:.3g}", bound, "met" if goal.met else "MISSED"


def _without_goal(result: CaseResult) -> tuple[str, str, str]:
    subject = result.subject
    if subject is None or not subject.counts:
        return "", "none", _reason(subject)
    return report.seconds_text(subject.median), "none", ""


def _why(result: CaseResult, goal: Goal) -> str:
    """Return whose time is missing: fastinc's, or that of the contestant in the goal's name."""
    if result.subject is None or not result.subject.counts:
        return _reason(result.subject)
    absent = [s for s in result.standings if not s.counts and s.name in goal.what]
    return f"{absent[0].name}: {_reason(absent[0])}" if absent else "no figure"


def _reason(standing: Standing | None) -> str:
    if standing is None:
        return "no figure"
    return standing.reason if standing.status == "missing" else f"{standing.status}: {standing.reason}"
