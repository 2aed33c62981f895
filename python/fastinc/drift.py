"""Drift: detectors over a metric's values, and what a model does when one goes off.

The detectors are river's (``pip install 'fastinc[drift]'``), imported where first used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_choice, as_number, as_whole
from fastinc._extras import require
from fastinc.evaluate.watcher import Watcher

__all__ = ["Alarm", "Detector", "LearningRateBoost"]

Direction = Literal["down", "up", "both"]
_KINDS = {"adwin": "ADWIN", "page-hinkley": "PageHinkley"}


class Detector:
    """Tells when the mean of a stream of values has changed.

    "adwin" (Bifet & Gavaldà 2007) keeps a window that it cuts where its two halves differ by more than chance
    (`delta`) allows. "page-hinkley" (Page 1954) sums how far values are from their mean, and goes off when the sum
    moves by more than `threshold` (for hits: about that many hits too few).

    Parameters
    ----------
    kind
        "adwin" or "page-hinkley".
    direction
        Which changes count: "down" (a metric gets worse), "up" or "both".
    parameters
        As river's ADWIN or PageHinkley has them, such as ``delta``; numbers.

    Raises
    ------
    ImportError
        river is not installed; the message names the extra.

    References
    ----------
    Montiel et al.: River: machine learning for streaming data in Python. JMLR 22 (2021).

    Examples
    --------
    >>> import fastinc as fi
    >>> detector = fi.drift.Detector("page-hinkley", threshold=20.0)
    >>> [i for i, hit in enumerate([1, 0] * 500 + [0] * 100) if detector.update(hit)]
    [1040]
    """

    def __init__(self, kind: str = "adwin", *, direction: Direction = "down", **parameters: float) -> None:
        self.kind = as_choice(kind, "kind", tuple(_KINDS))
        self.direction = as_choice(direction, "direction", ("down", "up", "both"))
        for name, value in parameters.items():
            if not math.isfinite(as_number(value, name)):
                raise ValueError(f"{name} = {value} is not finite")
        self.parameters = dict(parameters)
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        module = require("river.drift", extra="drift", purpose="fi.drift.Detector")
        more = {"mode": self.direction} if self.kind == "page-hinkley" else {}
        try:
            self._river: Any = getattr(module, _KINDS[self.kind])(**self.parameters, **more)
        except TypeError as error:
            raise TypeError(f"Detector({self.kind!r}): {error}") from None

    def update(self, value: float) -> bool:
        """Take one value; whether a change was found just now.

        Parameters
        ----------
        value
            A number, such as 1 for a hit and 0 for a miss.

        Returns
        -------
        bool
            True at the value that gives the change away, False at all others.
        """
        value = as_number(value, "value")
        if not math.isfinite(value):
            raise ValueError(f"value = {value} is not finite")
        if self.kind == "page-hinkley":
            self._river.update(value)
            return bool(self._river.drift_detected)
        before = self._river.estimation
        self._river.update(value)
        if not self._river.drift_detected:
            return False
        fell = self._river.estimation < before  # what it cut off was higher
        return self.direction == "both" or fell == (self.direction == "down")

    def __repr__(self) -> str:
        parameters = "".join(f", {name}={value!r}" for name, value in self.parameters.items())
        return f"Detector({self.kind!r}, direction={self.direction!r}{parameters})"


@dataclass(frozen=True)
class Alarm:
    """A change that a detector found, and what was done.

    Parameters
    ----------
    event
        How many events there had been.
    time
        The clock then.
    metric
        The metric's name.
    factor, events
        The learning rate was multiplied by this, for so many events.
    """

    event: int
    time: float
    metric: str
    factor: float
    events: int

    def __str__(self) -> str:
        return f"alarm at event {self.event:,}: learning rate x {self.factor:g} for {self.events:,} events"


class LearningRateBoost(Watcher[Alarm]):
    """Learns faster for a while after drift: on alarm the learning rate is multiplied by `factor` for `events` events.

    The model counts the events itself (:meth:`fastinc.Recommender.boost_learning_rate`), so the rate then returns to
    exactly what the optimizer and the schedule say, however the stream is cut. Another alarm begins the boost anew; the
    factors don't multiply.

    Parameters
    ----------
    detector
        It sees every value of the metric.
    factor
        Of the learning rate, > 0.
    events
        How many, >= 1.
    metric
        Whose values it is told, as named in `fastinc.evaluate.prequential`.

    Notes
    -----
    Measured over ``fi.datasets.synthetic(100_000, 1000, 2000, seed=1, 2 and 3)`` with ``Recommender(time_scale=120.0,
    tie_weight=0.5, long_window=100, situations=True, hidden=64)``:

    - The *items* change (all ids permuted halfway): ADWIN goes off 300 events later. A boost of 3 for 5,000 events
      brings half of the former recall@10 back after 26,000 to 36,000 scored events, 42,000 to 43,000 without; recall@10
      of the whole stream .084 to .091.
    - The *users* change (``drift="abrupt"``): their histories tell, and recall@10 is back at 90 % of its former level
      after 2,000 to 3,500 scored events without any boost. ADWIN's default is silent there. More sensitive detectors do
      harm, and so does a boost that is told the right moment: over the 10,000 events after it .146 without, .141 with 2
      for 2,000 events, .126 with 3 for 5,000.
    - MovieLens-100k (all ratings, ties shuffled): the metric moves with who is rating just then. ADWIN goes off 17
      times, and recall@10 falls from .229 to .197.

    So a boost is for catalogues whose items change their meaning, and a detector for a log that somebody reads; measure
    before you turn either loose on a model.

    Examples
    --------
    In an evaluation: ``fi.evaluate.prequential(model, events, adapt=boost)``. In a service:

    >>> import fastinc as fi
    >>> model = fi.Recommender(dim=8, optimizer=fi.Adagrad(lr=0.1)).partial_fit(1, 10)
    >>> boost = fi.drift.LearningRateBoost(fi.drift.Detector("page-hinkley", threshold=20.0), factor=3.0, events=2)
    >>> alarm = boost.watch(model).update([1, 0] * 500 + [0] * 100)
    >>> alarm.event, round(model.learning_rate, 6)
    (1, 0.3)
    >>> model.partial_fit([1, 1], [11, 12]).learning_rate
    0.1
    """

    def __init__(self, detector: Detector, factor: float = 3.0, events: int = 5000, metric: str = "recall@10") -> None:
        super().__init__(metric)
        if not callable(getattr(detector, "update", None)):
            raise TypeError(f"detector = {detector!r} must be a fastinc.drift.Detector")
        self.detector = detector
        self.factor = as_number(factor, "factor")
        if not 0.0 < self.factor < math.inf:
            raise ValueError(f"factor = {factor} must be finite and > 0")
        self.events = as_whole(events, "events", 1)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What has happened since `watch`, oldest first; the last 1,000."""
        return tuple(self._found)

    def __repr__(self) -> str:
        return (
            f"LearningRateBoost({self.detector!r}, factor={self.factor!r}, events={self.events!r}, "
            f"metric={self.metric!r})"
        )

    def _check(self, model: Any) -> None:
        if not callable(getattr(model, "boost_learning_rate", None)):
            raise TypeError(f"model must be a fastinc.Recommender, got {type(model).__name__}")

    def _begin(self) -> None:
        self.detector.reset()

    def _see(self, values: npt.NDArray[np.float64], event: int, time: float) -> Alarm | None:
        alarms = [self.detector.update(value) for value in values.tolist()]  # all of them, whatever comes first
        if not any(alarms):
            return None
        self._model.boost_learning_rate(self.factor, self.events)
        return Alarm(event, time, self.metric, self.factor, self.events)
