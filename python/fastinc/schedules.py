"""Learning-rate schedules: the rate of a model's n-th event is ``optimizer.lr * schedule(n)``.

n counts the events that the model has learned before, so that it makes no difference how a stream is cut into calls.
``optimizer.lr`` itself stays what it was set to; :attr:`fastinc.Recommender.learning_rate` is the product.

>>> import fastinc as fi
>>> schedule = fi.schedules.WarmUp(100, then=fi.schedules.InverseSquareRoot(1000))
>>> [schedule(n) for n in (0, 49, 99, 1000, 4000)]
[0.01, 0.5, 1.0, 1.0, 0.5]
>>> model = fi.Recommender(dim=8, schedule=schedule)
"""

from __future__ import annotations

from dataclasses import dataclass

from fastinc import _core
from fastinc._arguments import as_number, as_whole

__all__ = ["Constant", "Exponential", "InverseSquareRoot", "Schedule", "WarmUp"]

_Spec = tuple[str, float, float, float]  # kind, events, floor, events of warm-up


class Schedule:
    """Base of the schedules; not to be made itself. ``schedule(n)`` is the factor of event n, from 0.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.schedules.Constant()(10)
    1.0
    """

    def _spec(self) -> _Spec:
        raise TypeError("Schedule is a base class; use one of its subclasses, such as fastinc.schedules.WarmUp")

    def __call__(self, n: int) -> float:
        """Return the factor of the learning rate after n events, n >= 0."""
        return _core.schedule_factor(self._spec(), as_whole(n, "n", 0, 2**63 - 1))


@dataclass(frozen=True)
class Constant(Schedule):
    """``1``: the optimizer's own learning rate, for ever.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.schedules.Constant()(10**9)
    1.0
    """

    def _spec(self) -> _Spec:
        return "constant", 1.0, 0.0, 0.0


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """``1`` up to n = events, then ``sqrt(events / n)`` (as T5, Raffel et al. 2020; Vaswani et al. 2017).

    Sums to infinity, as stochastic approximation asks (Robbins & Monro 1951), but ever slower: for streams that don't
    change. One that does needs a rate which stays up.

    Parameters
    ----------
    events
        From here on it falls, >= 1.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.schedules.InverseSquareRoot(1000)(4000)
    0.5
    """

    events: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", as_number(self.events, "events"))
        _core.schedule_factor(self._spec(), 0)

    def _spec(self) -> _Spec:
        return "inverse_square_root", self.events, 0.0, 0.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """``max(floor, 2 ** (-n / half_life))``: halves every `half_life` events, down to `floor`.

    Parameters
    ----------
    half_life
        Events, > 0.
    floor
        The least that it falls to, from 0 to 1.

    Examples
    --------
    >>> import fastinc as fi
    >>> schedule = fi.schedules.Exponential(half_life=1000, floor=0.1)
    >>> [schedule(n) for n in (0, 1000, 2000, 10**6)]
    [1.0, 0.5, 0.25, 0.1]
    """

    half_life: float
    floor: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_life", as_number(self.half_life, "half_life"))
        object.__setattr__(self, "floor", as_number(self.floor, "floor"))
        _core.schedule_factor(self._spec(), 0)

    def _spec(self) -> _Spec:
        return "exponential", self.half_life, self.floor, 0.0


@dataclass(frozen=True)
class WarmUp(Schedule):
    """``min(1, (n + 1) / events) * then(n)``: the rate rises over the first events (Goyal et al. 2017).

    Parameters
    ----------
    events
        How many, >= 1.
    then
        Another schedule, which counts from the first event like this one; default `Constant`.

    Examples
    --------
    >>> import fastinc as fi
    >>> [fi.schedules.WarmUp(4)(n) for n in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    events: int
    then: Schedule = Constant()

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", as_whole(self.events, "events", 1))
        if not isinstance(self.then, Schedule) or isinstance(self.then, WarmUp):
            raise TypeError(f"then = {self.then!r} must be a schedule of fastinc.schedules other than WarmUp")

    def _spec(self) -> _Spec:
        kind, events, floor, _ = self.then._spec()
        return kind, events, floor, float(self.events)


def from_spec(spec: _Spec) -> Schedule:
    """Return the schedule that has this specification."""
    kind, events, floor, warm_up = spec
    then: Schedule = Constant()
    if kind != "constant":
        then = InverseSquareRoot(events) if kind == "inverse_square_root" else Exponential(events, floor)
    return WarmUp(int(warm_up), then) if warm_up > 0 else then
