"""Contestants on a device, the copy that they are held against, and goals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core import Case, CaseResult, Contestant, Goal, MissingError, Ready, Settings, leave
from bench.gpu.device import Call, Device, Tensor
from bench.race import race
from bench.reference import check_equal

COPY = "copy"
SHARE = "of copy bandwidth"


class OnDevice(Contestant):
    """A contestant whose clock is the device's."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def clock(self, call: Call) -> float:
        """Return the seconds that count of a call."""
        return self.device.seconds(call)

    def measure(self, inputs: Any, ready: Ready = leave) -> float:
        """Return the seconds of the work; `ready` is for arrays on the CPU, the device has a rule of its own."""
        prepared = self.prepare(inputs)
        return self.clock(lambda: self.run(prepared))


class Copy(OnDevice):
    """What the memory can do: bytes read and bytes written both count."""

    name, role = COPY, "limit"

    def __init__(self, device: Device, settings: Settings) -> None:
        super().__init__(device)
        self.size = settings.pick(2 << 30, 1 << 26, 1 << 16)
        self.timed = f"target.copy_(source) of {self.size / 1e9:.3g} GB of float32; bytes read and written both counted"

    def set_up(self, settings: Settings) -> None:
        self.source = self.device.normals((self.size // 4,), settings.random(90))
        self.target = self.device.normals((self.size // 4,), settings.random(91))

    def check(self, inputs: Any) -> None:
        self.run(self.prepare(inputs))
        check_equal("copy", to_host(self.target[::997]), to_host(self.source[::997]))

    def prepare(self, inputs: Any) -> Any:
        self.source[:: 1 << 12] += 1.0  # never the same bytes again
        return None

    def run(self, prepared: Any) -> object:
        return self.target.copy_(self.source)

    def work(self) -> float:
        return 2.0 * self.size


def to_host(x: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor, or what NumPy takes, as a NumPy array."""
    made: np.ndarray[Any, Any] = x.cpu().numpy() if hasattr(x, "cpu") else np.asarray(x)
    return made


def check_bytes(name: str, got: Tensor, expected: Any) -> None:
    """Raise WrongError unless two arrays of 4-byte numbers are the same, bit for bit."""
    check_equal(name, to_host(got).view(np.uint32), to_host(expected).view(np.uint32))


@contextmanager
def available(what: str) -> Iterator[None]:
    """Turn what an API that isn't there raises, or isn't there for this device, into MissingError.

    A RuntimeError is no such answer: a kernel that can't run is a failure.
    """
    try:
        yield
    except (AttributeError, ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise MissingError(f"not available: {what}: {' '.join(str(error).split())[:200]}") from error


@dataclass(frozen=True)
class Target:
    """What a case is to reach: a figure of its result, and the bound."""

    what: str
    bound: float
    figure: Callable[[CaseResult], float]
    at_least: bool = True
    #: Whether no figure means that it was missed.
    needed: bool = True


def share_of_copy(bound: float) -> Target:
    """The share of the copy's bytes a second."""
    return Target(SHARE, bound, lambda result: result.ratio(COPY))


def times(name: str, bound: float, needed: bool = True) -> Target:
    """How many times as fast as another contestant, which may be missing if it isn't `needed`."""
    return Target(f"times {name}", bound, lambda result: result.ratio(name), needed=needed)


def billions(bound: float) -> Target:
    """Billions of units of work a second."""
    return Target("billions a second", bound, lambda r: r.subject.rate / 1e9 if r.subject else float("nan"))


def microseconds(bound: float) -> Target:
    """Microseconds a call."""
    return Target("µs a call", bound, lambda r: r.subject.median * 1e6 if r.subject else float("nan"), at_least=False)


def goals_apply(settings: Settings) -> bool:
    """Whether goals are for these figures: they were set for one GPU, at full size."""
    return settings.device == "cuda" and settings.size == "full"


def judge(result: CaseResult, targets: Sequence[Target], settings: Settings) -> None:
    """Put the goals of a case into its result."""
    if not goals_apply(settings):
        return
    for target in targets:
        value = target.figure(result)
        if target.needed or not math.isnan(value):
            result.goals.append(Goal(target.what, value, target.bound, target.at_least))


def contest(
    device: Device,
    contestants: Sequence[Contestant],
    cases: Sequence[tuple[Case, Sequence[Target]]],
    settings: Settings,
    key: int,
) -> Iterator[CaseResult]:
    """Race contestants on a device over every case and yield its result, judged by the case's targets."""
    results = race(contestants, [case for case, _ in cases], settings, key=key)
    for (_, targets), result in zip(cases, results, strict=True):
        result.caches = device.rule
        for standing in result.standings:
            standing.huge_pages = None  # of the host
        if any(standing.name == COPY for standing in result.standings):
            result.figures[SHARE] = result.ratio(COPY)
        judge(result, targets, settings)
        yield result
    device.release()
