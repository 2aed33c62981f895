"""What a workload is made of."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

Size = Literal["full", "small", "tiny"]
#: "subject" is what is judged, "variant" another way of fastinc's, "peer" what people use today, "limit" what the
#: machine could do.
Role = Literal["subject", "variant", "peer", "limit"]
Status = Literal["ok", "wrong", "missing", "failed"]
T = TypeVar("T")
Ready = Callable[[Any], None]

ROUNDS: dict[str, int] = {"full": 15, "small": 7, "tiny": 3}


def leave(given: Any) -> None:
    """Leave the caches as they are: for checks, where no time counts."""


class MissingError(Exception):
    """A contestant can't take part, and why: not installed, or it has no such operation."""


class WrongError(Exception):
    """A contestant's answer is wrong, and how."""


@dataclass(frozen=True)
class Settings:
    """How large, how often, with how many threads."""

    size: Size = "full"
    rounds: int = 15
    threads: int = 1
    seed: int = 0
    #: Where the arrays of workloads for a GPU are: "cuda", or "cpu", which tells that they run and nothing of speed.
    device: str = "cpu"

    def pick(self, full: T, small: T, tiny: T) -> T:
        """Return the value for this size."""
        return {"full": full, "small": small, "tiny": tiny}[self.size]

    def random(self, *key: int) -> np.random.Generator:
        """Return a generator that depends on the seed and `key` alone."""
        return np.random.default_rng([self.seed, *key])


class Contestant(ABC):
    """One way to do the work; it owns its arrays from `set_up` to `close`.

    `prepare` is not timed and turns the inputs of a round into what the way takes, in arrays of its own. Then the
    caches are emptied and what the call is given is touched (`caches.RULE`), the same for every contestant. `run` is
    timed.
    """

    name: str = ""
    role: Role = "peer"
    #: Exactly what the clock covers, in a line.
    timed: str = ""

    def set_up(self, settings: Settings) -> None:  # noqa: B027  nothing to make is common
        """Make arrays; raise MissingError if this can't be done here."""

    @abstractmethod
    def check(self, inputs: Any) -> None:
        """Do the work once and raise WrongError unless the answer is right: what isn't checked has no time."""

    def prepare(self, inputs: Any) -> Any:
        """Return what `run` takes."""
        return inputs

    def run(self, prepared: Any) -> object:
        """Do the work; one that has a `measure` of its own needs none."""
        raise TypeError(f"{self.name} has neither run() nor a measure() of its own")

    def given(self, prepared: Any) -> Any:
        """Return those of the prepared arrays that are warm when the clock starts."""
        return prepared

    def measure(self, inputs: Any, ready: Ready = leave) -> float:
        """Return the seconds that the work took; `ready` is called on what is given, right before the clock starts."""
        prepared = self.prepare(inputs)
        ready(self.given(prepared))
        start = time.perf_counter()
        result = self.run(prepared)
        seconds = time.perf_counter() - start
        del result  # freed outside the timed part, as it is for those that write to an array of their own
        return seconds

    def work(self) -> float | None:
        """Return the units of work of one measurement where they aren't the case's."""
        return None

    def close(self) -> None:
        """Free everything."""
        name, role, timed = self.name, self.role, self.timed
        self.__dict__.clear()
        self.name, self.role, self.timed = name, role, timed


@dataclass(frozen=True)
class Case:
    """One kind of input: what is drawn anew for every round."""

    label: str
    draw: Callable[[np.random.Generator], Any]
    #: Units of work in one measurement, and their name.
    work: float
    unit: str = "rows"
    #: Calls in one measurement: times are reported per call.
    calls: int = 1
    #: Contestant to the ratio of rates that the first subject is to reach against it.
    goals: Mapping[str, float] = field(default_factory=dict)
    #: What a call of the first subject may take, in seconds.
    goal_seconds: float | None = None


@dataclass
class Standing:
    """How one contestant did in one case."""

    name: str
    role: Role
    timed: str
    status: Status = "ok"
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    work: float = 1.0
    calls: int = 1
    #: The share of its memory that is on huge pages; None where that can't be told.
    huge_pages: float | None = None

    @property
    def median(self) -> float:
        """Median seconds a call; nan without any."""
        return statistics.median(self.seconds) / self.calls if self.counts else float("nan")

    @property
    def fastest(self) -> float:
        """Fewest seconds a call."""
        return min(self.seconds) / self.calls if self.counts else float("nan")

    @property
    def slowest(self) -> float:
        """Most seconds a call."""
        return max(self.seconds) / self.calls if self.counts else float("nan")

    def quantile(self, share: float) -> float:
        """Seconds a call that this share of the measurements stays under."""
        return float(np.quantile(self.seconds, share)) / self.calls if self.counts else float("nan")

    @property
    def rate(self) -> float:
        """Units of work a second, by the median."""
        return self.work / (self.median * self.calls)

    @property
    def counts(self) -> bool:
        """Whether there are times, and an answer that was right."""
        return self.status == "ok" and bool(self.seconds)


@dataclass(frozen=True)
class Goal:
    """A figure and what it is to reach."""

    what: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it does; a figure that is nan doesn't."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class CaseResult:
    """What a case came to."""

    label: str
    unit: str
    standings: list[Standing]
    goals: list[Goal] = field(default_factory=list)
    #: Further figures, by name with the unit in it.
    figures: dict[str, float] = field(default_factory=dict)
    #: What the caches held when a clock started, where that was seen to.
    caches: str = ""

    @property
    def subject(self) -> Standing | None:
        """What is judged: the first subject."""
        return next((standing for standing in self.standings if standing.role == "subject"), None)

    def ratio(self, name: str) -> float:
        """Return how many times the rate of `name` the subject has: the ratio of medians; nan without both."""
        other = next((standing for standing in self.standings if standing.name == name), None)
        if self.subject is None or other is None or not (self.subject.counts and other.counts):
            return float("nan")
        return self.subject.rate / other.rate

    @property
    def sound(self) -> bool:
        """Whether everything of fastinc's was right and ran."""
        ours = [standing for standing in self.standings if standing.role in ("subject", "variant")]
        return all(standing.counts for standing in ours)

    @property
    def broken(self) -> bool:
        """Whether something of fastinc's was wrong or failed: what is missing isn't."""
        ours = [standing for standing in self.standings if standing.role in ("subject", "variant")]
        return any(standing.status in ("wrong", "failed") for standing in ours)


@dataclass(frozen=True)
class Workload:
    """A named set of cases, run lazily so that one's memory is free before the next begins."""

    name: str
    summary: str
    run: Callable[[Settings], Iterator[CaseResult]]
    #: Whether it has goals at full size: without a result, the README says so.
    judged: bool = False
    #: Whether its arrays are on a GPU: it runs only where it is named.
    on_gpu: bool = False


WORKLOADS: dict[str, Workload] = {}
Runner = Callable[[Settings], Iterator[CaseResult]]


def workload(name: str, summary: str, *, judged: bool = False, on_gpu: bool = False) -> Callable[[Runner], Runner]:
    """Register a function from settings to case results under a name such as "update/sgd".

    `judged` says that the README shows its goals at full size, `on_gpu` that its arrays are on a GPU.
    """

    def register(run: Runner) -> Runner:
        if name in WORKLOADS:
            raise ValueError(f"there is a workload {name!r} already")
        WORKLOADS[name] = Workload(name, summary, run, judged, on_gpu)
        return run

    return register


def choose(names: Sequence[str]) -> list[Workload]:
    """Return the workloads that are called so, or whose names begin with it and a slash.

    For no names, all but those on a GPU.
    """
    chosen: dict[str, Workload] = {}
    for name in names or [key for key, w in WORKLOADS.items() if not w.on_gpu]:
        found = {key: w for key, w in WORKLOADS.items() if key == name or key.startswith(f"{name.rstrip('/')}/")}
        if not found:
            raise ValueError(f"no workload is called {name!r}; there are {', '.join(WORKLOADS)}")
        chosen.update(found)
    return list(chosen.values())
