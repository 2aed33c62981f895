"""Contestants in turns: set up, checked, then timed in rounds of shuffled order over inputs that are new each round."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench import pages
from bench.caches import ready, rule
from bench.core import Case, CaseResult, Contestant, Goal, MissingError, Settings, Standing, WrongError
from bench.machine import available_memory

#: Keys of the random streams; rounds count up from the last.
_ORDER, _CHECK, _ROUNDS = 0, 1, 2
#: Thread pools spin for a while after a call, and would take the next contestant's CPU.
_SETTLE_SECONDS = 0.005


def race(
    contestants: Sequence[Contestant], cases: Sequence[Case], settings: Settings, *, key: int = 0, needs: float = 0
) -> Iterator[CaseResult]:
    """Run every case and yield its result; the contestants are closed at the end.

    Parameters
    ----------
    contestants
        In the order they are reported; names differ.
    cases
        What is drawn for each round.
    settings
        How often.
    key
        Tells the random streams of several races apart.
    needs
        Bytes that all contestants take together: where there are fewer, none runs, and that is said.
    """
    unable: dict[str, Standing] = {}
    try:
        if needs > available_memory():
            reason = f"needs {needs / 2**30:.1f} GiB of memory, and {available_memory() / 2**30:.1f} are available"
            unable = {c.name: Standing(c.name, c.role, c.timed, "failed", reason) for c in contestants}
        huge: dict[str, float | None] = {}
        for contestant in contestants:
            if contestant.name not in unable:
                before = pages.resident()
                unable.update(_set_up(contestant, settings))
                huge[contestant.name] = pages.share(before, pages.resident())
        able = [contestant for contestant in contestants if contestant.name not in unable]
        for number, case in enumerate(cases):
            standings = {s.name: s for s in _run_case(able, case, settings, (key, number))}
            for standing in standings.values():
                standing.huge_pages = huge[standing.name]
            yield _result(case, [standings.get(c.name) or unable[c.name] for c in contestants], settings)
    finally:
        for contestant in contestants:
            contestant.close()
        free_memory()


def free_memory() -> None:
    """Give freed memory back to the system, so that the next workload starts as the first did."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _set_up(contestant: Contestant, settings: Settings) -> dict[str, Standing]:
    """Set a contestant up; return its standing if that fails."""
    try:
        contestant.set_up(settings)
    except MissingError as error:
        status, reason = "missing", str(error)
    except Exception as error:  # one peer that breaks is a result, not the end of the run
        status, reason = "failed", _told(error)
    else:
        return {}
    contestant.close()
    return {contestant.name: Standing(contestant.name, contestant.role, contestant.timed, status, reason)}  # type: ignore[arg-type]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _run_case(
    contestants: Sequence[Contestant], case: Case, settings: Settings, key: tuple[int, int]
) -> list[Standing]:
    standings = [Standing(c.name, c.role, c.timed, work=c.work() or case.work, calls=case.calls) for c in contestants]
    inputs = case.draw(settings.random(*key, _CHECK))
    for contestant, standing in zip(contestants, standings, strict=True):
        _check(contestant, standing, inputs)
    order = settings.random(*key, _ORDER)
    settle = _SETTLE_SECONDS if settings.device == "cpu" else 0.0  # a GPU has no such pools, and idle it slows down
    for number in range(settings.rounds + 1):
        inputs = case.draw(settings.random(*key, _ROUNDS + number))
        for index in order.permutation(len(contestants)):
            seconds = _measure(contestants[index], standings[index], inputs, settle)
            if number > 0 and seconds is not None:  # the first round warms up
                standings[index].seconds.append(seconds)
    return standings


def _check(contestant: Contestant, standing: Standing, inputs: Any) -> None:
    try:
        contestant.check(inputs)
    except WrongError as error:
        standing.status, standing.reason = "wrong", str(error)
    except MissingError as error:
        standing.status, standing.reason = "missing", str(error)
    except Exception as error:
        standing.status, standing.reason = "failed", _told(error)


def _measure(contestant: Contestant, standing: Standing, inputs: Any, settle: float) -> float | None:
    if standing.status != "ok":
        return None
    time.sleep(settle)
    gc.collect(0)
    gc.disable()
    try:
        return contestant.measure(inputs, ready)
    except Exception as error:
        standing.status, standing.reason = "failed", _told(error)
        return None
    finally:
        gc.enable()


def _result(case: Case, standings: list[Standing], settings: Settings) -> CaseResult:
    result = CaseResult(case.label, case.unit, standings, caches=rule())
    if settings.size == "full" and result.subject is not None:  # a goal is for the size it was set for
        name = result.subject.name
        result.goals = [
            Goal(f"{name}, rate against {other}", result.ratio(other), bound) for other, bound in case.goals.items()
        ]
        if case.goal_seconds is not None:
            goal = Goal(f"{name}, µs a call", result.subject.median * 1e6, case.goal_seconds * 1e6, at_least=False)
            result.goals.append(goal)
    return result
