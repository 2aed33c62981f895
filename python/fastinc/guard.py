"""A guard over a model that learns in production: back to what was good when its metric falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fastinc._arguments import as_choice, as_number, as_whole
from fastinc.evaluate.watcher import Watcher

if TYPE_CHECKING:
    from fastinc.snapshot import Snapshot

__all__ = ["Guard", "Incident"]

Action = Literal["rollback", "stop", "warn"]


@dataclass(frozen=True)
class Incident:
    """A metric that fell too far below its own best, and what was done.

    Parameters
    ----------
    event
        How many events there had been.
    time
        The clock then.
    metric
        The metric's name.
    level
        Its mean over the window.
    best
        The best that such a mean had been.
    action
        ``"rollback"``, ``"stop"``, ``"warn"``, or ``"accept"``: see `Guard`.
    """

    event: int
    time: float
    metric: str
    level: float
    best: float
    action: str

    def __str__(self) -> str:
        return f"{self.action} at event {self.event:,}: {self.metric} {self.level:.4f}, best {self.best:.4f}"


class Guard(Watcher[Incident]):
    """Watches a model's metric over a window, and takes the model back when it falls too far below its own best.

    Every `snapshot_every` values is a *check*, once there are `window` of them: the metric's *level* is its mean over
    the last `window` values, and its *best* the highest level of any check. A check is bad when
    ``level < (1 - margin) * best``; after `patience` bad ones in a row the guard acts.

    *Snapshots.* At a check that isn't bad a snapshot is taken; it becomes the one to go back to when a whole window has
    passed after it and the check isn't bad either: what was measured since came from the model as it was then, or
    later. A bad check throws away the one not yet proven. So there are at most two in memory, and the one gone back to
    was taken one to two windows before the last check that wasn't bad.

    *Acting.* ``"rollback"`` restores the snapshot and goes on learning. ``"stop"`` restores it and freezes the model
    (:attr:`fastinc.Recommender.frozen`): early stopping. ``"warn"`` only says so. The window then begins anew, so that
    one dip is one incident. When `repeats` incidents in a row, each a window after the other, haven't brought the level
    back, it is the stream that has changed and not the model that broke: the level is taken as the new best, and as
    reason enough to leave the model alone (action ``"accept"``).

    Tell it a value for every request, such as whether it was a hit: sums also fall because it is night. A guard can't
    tell a model that broke from events that nobody could have foreseen, such as those of bots: going back doesn't bring
    such a level back and costs what was learned since, which is what `repeats` limits.

    Parameters
    ----------
    metric
        Whose values it is told, as named in `fastinc.evaluate.prequential`; higher is better.
    window
        Values in a level.
    margin
        The relative fall that is too far, in (0, 1).
    patience
        Bad checks in a row before it acts.
    action
        ``"rollback"``, ``"stop"`` or ``"warn"``.
    snapshot_every
        Values between two checks: they are made by the first `update` after so many.
    repeats
        Incidents in a row before the level is accepted.

    References
    ----------
    Prechelt: Early stopping, but when? In: Neural Networks: Tricks of the Trade (1998).

    Examples
    --------
    In an evaluation: ``fi.evaluate.prequential(model, events, guard=fi.Guard())``. In a service, with 1 for every
    recommendation that was taken and 0 for every other one:

    >>> import fastinc as fi
    >>> model = fi.Recommender(dim=8).partial_fit([1, 1], [10, 11])
    >>> guard = fi.Guard(window=100, snapshot_every=20, patience=2).watch(model)
    >>> for _ in range(20):
    ...     decision = guard.update([1, 0] * 5)
    >>> decision is None
    True
    >>> for _ in range(6):
    ...     decision = guard.update([0] * 10) or decision
    >>> decision.action, decision.level, decision.best
    ('rollback', 0.2, 0.5)
    """

    def __init__(
        self,
        metric: str = "recall@10",
        window: int = 5000,
        margin: float = 0.2,
        patience: int = 2,
        action: Action = "rollback",
        snapshot_every: int = 1000,
        repeats: int = 2,
    ) -> None:
        super().__init__(metric)
        self.window = as_whole(window, "window", 1)
        self.margin = as_number(margin, "margin")
        if not 0.0 < self.margin < 1.0:
            raise ValueError(f"margin = {margin} must be above 0 and below 1")
        self.patience = as_whole(patience, "patience", 1)
        self.action = as_choice(action, "action", ("rollback", "stop", "warn"))
        self.snapshot_every = as_whole(snapshot_every, "snapshot_every", 1)
        self.repeats = as_whole(repeats, "repeats", 1)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """What has happened since `watch`, oldest first; the last 1,000."""
        return tuple(self._found)

    @property
    def stopped(self) -> bool:
        """Whether the model was stopped: nothing happens any more."""
        return bool(self._found) and self._found[-1].action == "stop"

    def __repr__(self) -> str:
        names = ("metric", "window", "margin", "patience", "action", "snapshot_every", "repeats")
        return f"Guard({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _check(self, model: Any) -> None:
        if self.action == "warn":
            return
        for name in ("snapshot", "restore"):
            if not callable(getattr(model, name, None)):
                raise TypeError(
                    f"model must be a fastinc.Recommender for action={self.action!r}, got {type(model).__name__} "
                    f"without {name}()"
                )

    def _begin(self) -> None:
        self._values: npt.NDArray[np.float64] = np.empty(0)
        self._seen = 0  # values in all
        self._unchecked = 0
        self._best: float | None = None
        self._bad = self._in_a_row = 0
        self._proven: Snapshot | None = None
        self._fresh = self._snapshot()
        self._fresh_from = 0

    def _snapshot(self) -> Snapshot | None:
        snapshot: Snapshot | None = None if self.action == "warn" else self._model.snapshot()
        return snapshot

    def _see(self, values: npt.NDArray[np.float64], event: int, time: float) -> Incident | None:
        self._values = np.concatenate([self._values, values])[-self.window :]
        self._seen += len(values)
        self._unchecked += len(values)
        if self.stopped or len(self._values) < self.window or self._unchecked < self.snapshot_every:
            return None
        self._unchecked = 0
        level = float(self._values.mean())
        if self._best is None or level >= (1.0 - self.margin) * self._best:
            self._best = level if self._best is None else max(level, self._best)
            self._bad = self._in_a_row = 0
            self._keep_snapshots()
            return None
        self._fresh = None
        self._bad += 1
        if self._bad < self.patience:
            return None
        best = self._best
        return Incident(event, time, self.metric, level, best, self._act(level))

    def _keep_snapshots(self) -> None:
        if self._fresh is not None and self._seen - self._fresh_from >= self.window:
            self._proven, self._fresh = self._fresh, None
        if self._fresh is None:
            self._fresh, self._fresh_from = self._snapshot(), self._seen

    def _act(self, level: float) -> str:
        self._values = np.empty(0)
        self._bad = 0
        self._in_a_row += 1
        if self._in_a_row > self.repeats:
            self._best = level
            self._proven = self._snapshot()
            self._in_a_row = 0
            return "accept"
        if self._proven is not None:
            self._model.restore(self._proven)
        if self.action == "stop":
            self._model.frozen = True
        return self.action
