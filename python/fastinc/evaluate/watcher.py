"""What looks at a model's metric while it learns, and may act on the model."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from fastinc.evaluate.metrics import Metric

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_KEPT = 1000  # what a process that runs for months has seen must not grow without end

Found = TypeVar("Found")


class Watcher(ABC, Generic[Found]):
    """Base of `fastinc.Guard` and `fastinc.drift.LearningRateBoost`.

    Parameters
    ----------
    metric
        The name of the metric whose values it is told, as in `fastinc.evaluate.prequential`.
    """

    def __init__(self, metric: str) -> None:
        parsed = Metric.parse(metric)
        if parsed.family != "rank":
            raise ValueError(f"metric = {metric!r} must be one of ranks, such as 'recall@10'")
        self.metric = parsed.name
        self._model: Any = None
        self._found: deque[Found] = deque(maxlen=_MOST_KEPT)
        self._lock = threading.Lock()

    def watch(self, model: Any) -> Self:
        """Begin anew with this model.

        Parameters
        ----------
        model
            The model whose metric is told from now on.

        Returns
        -------
        self
        """
        self._check(model)
        with self._lock:
            self._found.clear()
            self._model = model
            self._begin()
        return self

    def update(self, values: Any, *, event: int | None = None, time: float | None = None) -> Found | None:
        """Take note of what the metric was for the events since the last call, and act on it where due.

        Parameters
        ----------
        values
            (n,) numbers in the order of events, such as 1 for a hit and 0 for a miss; or one number.
        event, time
            What to call this moment in what is returned; default the number of events that the model has learned,
            and its clock.

        Returns
        -------
        Incident, Alarm or None
            What was found; None when all is well.

        Raises
        ------
        ValueError
            A value isn't finite, or no model is watched; nothing was noted.
        """
        if self._model is None:
            raise ValueError(f"{type(self).__name__}: watch(model) comes before update()")
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if array.ndim != 1:
            raise ValueError(f"values has shape {array.shape}; it must be (any,)")
        finite = np.isfinite(array)
        if not finite.all():
            first = int(np.argmin(finite))
            raise ValueError(f"values[{first}] = {array[first]} is not finite")
        with self._lock:
            event = self._model.n_events if event is None else event
            found = self._see(array, event, self._clock() if time is None else float(time))
            if found is not None:
                self._found.append(found)
            return found

    def _clock(self) -> float:
        core = getattr(self._model, "_core", None)
        return float(getattr(core, "latest_time", np.nan))

    @abstractmethod
    def _check(self, model: Any) -> None:
        """Raise TypeError for a model that this can't do anything for."""

    @abstractmethod
    def _begin(self) -> None:
        """Forget what was seen."""

    @abstractmethod
    def _see(self, values: npt.NDArray[np.float64], event: int, time: float) -> Found | None:
        """Note the values; act."""
