"""Test, then train."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fastinc import _core
from fastinc._stream import StreamModel
from fastinc.baselines import ItemKNN, Popularity
from fastinc.datasets.events import Events
from fastinc.evaluate.metrics import Estimate, Metric, parse_metrics
from fastinc.evaluate.report import Curve, ModelResult, PrequentialReport
from fastinc.evaluate.watcher import Watcher

if TYPE_CHECKING:
    from fastinc.drift import LearningRateBoost
    from fastinc.guard import Guard

Ints = npt.NDArray[np.int32]
Progress = Callable[[str, int, int], None]
Run = _core.PrequentialRun  # its constants say what became of an event

_CHUNK = 1000  # events between two reports of progress, and two chances to interrupt
_WATCHED_CHUNK = 100  # the same where a guard looks on
_BEYOND = np.iinfo(np.int32).max  # the rank of an item that a list does not hold


class ListModel(Protocol):
    """What `prequential` asks of a model that is not one of fastinc's."""

    def partial_fit(self, users: Any, items: Any, labels: Any = None, timestamps: Any = None) -> Any:
        """Learn events."""

    def recommend(self, users: Any, k: int = 10, at: Any = None, exclude_seen: bool = True) -> tuple[Any, Any]:
        """Return ids and scores, best first."""


def prequential(
    model: StreamModel | ListModel,
    events: Events,
    metrics: Iterable[str] = ("recall@10", "ndcg@10", "mrr"),
    *,
    window: int = 5000,
    warmup: float = 0.2,
    baselines: bool = True,
    ties: Literal["file", "shuffle"] = "file",
    seed: int = 0,
    exclude_seen: bool = True,
    progress: Progress | None = None,
    guard: Guard | None = None,
    adapt: LearningRateBoost | None = None,
) -> PrequentialReport:
    """Rank the item of every event among the others, then learn the event, and see how well that went.

    The protocol, which the report repeats in the words of the options used:

    - *Order.* By timestamp. Events with equal timestamps stay in the order they came in, or are shuffled
      (`ties`). Events without timestamps stay in the order they came in. One pass, no replay.
    - *Warm-up.* The first events (`warmup`) are learned and not scored. All later ones are first scored, then
      learned, one by one.
    - *Candidates.* All items that an earlier event had, of whatever label. An item that none had cannot be
      found: a miss.
    - *Seen items.* With `exclude_seen` the items that the user had in an earlier event are no candidates, and
      an event with such an item is skipped: learned, not scored.
    - *Unknown users.* A user's first event is skipped.
    - *Labels.* An event with a label of at most 0 is skipped: it is not what a list should begin with. Models
      that use labels learn them; the others learn every event as one that happened.
    - *Request time.* The model ranks for the time of the event itself (0 where there are no timestamps).
    - *Equal scores.* The item that the model met first ranks first.
    - *Scores that are not finite.* If the item's own score is not finite, or any candidate's is NaN or +inf,
      the event is a miss, and is counted in `ModelResult.nonfinite`.

    Earlier events are those of `events`: what the model learned before this call gives it knowledge, but
    neither candidates nor seen items nor known users. So all models are asked exactly the same.

    A model that is not one of fastinc's is asked for its `recommend` list, as long as the largest k of the
    metrics, for every event: candidates, equal scores and seen items are then as the model has them. That
    takes longer. It is given labels unless it has an attribute ``uses_labels`` that is false.

    Parameters
    ----------
    model
        A `fastinc.Recommender` or baseline, or any object with ``partial_fit(users, items, labels=,
        timestamps=)`` and ``recommend(users, k=, at=, exclude_seen=)``. It is trained in place: it should not
        have seen these events, and knows them afterwards.
    events
        The stream.
    metrics
        ``"recall@k"`` (with one item to find: the hit rate), ``"ndcg@k"``, ``"mrr@k"`` and ``"mrr"``.
    window
        How many scored events the windowed curves average over.
    warmup
        The fraction of events that are learned and not scored, from 0 to below 1.
    baselines
        Whether to run `fastinc.baselines` (new ones) over the same events.
    ties
        Equal timestamps: ``"file"`` keeps their order, ``"shuffle"`` shuffles them. A file sorted by item
        within ties tells a model what comes next: when results under the two differ, believe the shuffled
        ones.
    seed
        Seeds the shuffle.
    exclude_seen
        Whether to leave out items that the user had.
    progress
        Called as ``progress(name of the model, events done, events in all)``.
    guard
        Watches `model` from the first scored event on; it is told the metric of every scored event, in batches of
        at most 100 events. Its incidents are in the report. Baselines have no guard.
    adapt
        Watches `model` likewise; its alarms are in the report.

    Returns
    -------
    PrequentialReport
        The results, named ``"fastinc"`` for a recommender (by its ``name`` or class for a model that is not
        fastinc's), and ``"popularity"``, ``"item-kNN"`` and ``"item-kNN (recency)"`` for the baselines.

    References
    ----------
    Gama, Sebastião, Rodrigues: On evaluating stream learning algorithms. Machine Learning 90 (2013).

    Examples
    --------
    >>> import fastinc as fi
    >>> events = fi.datasets.synthetic(2000, 60, 200, seed=1)
    >>> report = fi.evaluate.prequential(fi.Recommender(dim=8), events, metrics=["recall@10"], window=500)
    >>> list(report.models)
    ['fastinc', 'popularity', 'item-kNN', 'item-kNN (recency)']
    >>> report.models["fastinc"].metrics["recall@10"].n == report.models["popularity"].scored
    True
    """
    parsed = parse_metrics(metrics)
    watchers = _watchers(guard, adapt)
    watched = tuple(Metric.parse(watcher.metric) for watcher in watchers)
    _check(model, events, (*parsed, *watched), window, warmup)
    for watcher in watchers:
        watcher.watch(model)
    name = _name(model)
    contestants: dict[str, StreamModel | ListModel] = {name: model}
    if baselines:
        for baseline in (Popularity(), ItemKNN(), ItemKNN(recency="rank")):
            contestants[baseline.name if baseline.name != name else f"{name} (new)"] = baseline
    stream = _in_order(events, ties, seed)
    warm_up = round(warmup * len(stream))
    results = {
        key: _evaluate(
            key,
            contestant,
            stream,
            parsed,
            window,
            warm_up,
            exclude_seen,
            progress,
            watchers if contestant is model else (),
        )
        for key, contestant in contestants.items()
    }
    words = _words(stream, ties, seed, warm_up, exclude_seen, window)
    judged = results[name]
    left_out = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in judged.skipped.items() if count)
    words.append(
        f"scored: {judged.scored:,} of {len(stream):,} events, {judged.new_items:,} of them new items; "
        f"not scored: {left_out or 'none'}"
    )
    words += [f"{name}: watched by {watcher!r}, told every {_WATCHED_CHUNK} events" for watcher in watchers]
    if not isinstance(model, StreamModel):
        words.append(
            f"{name}: read from the lists of {_longest(parsed)} that recommend() gives; "
            "candidates, equal scores and seen items as the model has them"
        )
    return PrequentialReport(results, "\n".join(words), events.name, tuple(m.name for m in parsed), window)


def _watchers(guard: Any, adapt: Any) -> tuple[Watcher[Any], ...]:
    for argument, value in (("guard", guard), ("adapt", adapt)):
        if value is not None and not isinstance(value, Watcher):
            raise TypeError(f"{argument} must be a fastinc.Guard or fastinc.drift.LearningRateBoost, got {value!r}")
    return tuple(watcher for watcher in (guard, adapt) if watcher is not None)


def _check(
    model: StreamModel | ListModel, events: Events, metrics: tuple[Metric, ...], window: int, warmup: float
) -> None:
    if not isinstance(events, Events):
        raise TypeError(f"events must be fastinc.datasets.Events, got {type(events).__name__}")
    if len(events) == 0:
        raise ValueError("events must not be empty, got 0 events")
    if isinstance(window, bool) or not isinstance(window, (int, np.integer)):
        raise TypeError(f"window must be an int, got {window!r}")
    if not 1 <= window < 2**31:
        raise ValueError(f"window must be at least 1, got {window}")
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"warmup must be from 0 to below 1, got {warmup}")
    if isinstance(model, StreamModel):
        # All labels now: a bad one at the end must not stop a model that has learned all before it.
        model._check_labels(events.labels if model.uses_labels else None, len(events))
        return
    for method in ("partial_fit", "recommend"):
        if not callable(getattr(model, method, None)):
            raise TypeError(f"model must have partial_fit and recommend, got {type(model).__name__} without {method}")
    for metric in metrics:
        if metric.k is None:
            raise ValueError(
                f"metrics: {metric.name!r} needs the rank among all items, which {type(model).__name__} "
                f"does not give; use '{metric.name}@k'"
            )


def _name(model: StreamModel | ListModel) -> str:
    default = "fastinc" if isinstance(model, StreamModel) else type(model).__name__
    name = getattr(model, "name", default)
    return name if isinstance(name, str) else default


def _longest(metrics: tuple[Metric, ...]) -> int:
    return max(metric.k or 0 for metric in metrics)


def _in_order(events: Events, ties: Literal["file", "shuffle"], seed: int) -> Events:
    if ties not in ("file", "shuffle"):
        raise ValueError(f"ties must be 'file' or 'shuffle', got {ties!r}")
    if events.timestamps is not None:
        return events.sorted(ties=ties, seed=seed)
    if ties == "shuffle":
        raise ValueError("ties='shuffle' needs events with timestamps, these have none")
    return events


def _words(events: Events, ties: str, seed: int, warm_up: int, exclude_seen: bool, window: int) -> list[str]:
    """Return the protocol, a line for each rule."""
    order = "by timestamp, equal timestamps " + ("in their order" if ties == "file" else f"shuffled (seed {seed})")
    timed = events.timestamps is not None
    lines = [
        f"order: {order if timed else 'as given (no timestamps)'}; one pass, each event scored, then learned",
        f"warm-up: the first {warm_up:,} of {len(events):,} events are learned and not scored",
        "candidates: all items of earlier events; a new item is a miss",
        "seen items: what the user had before is no candidate, events with it are skipped"
        if exclude_seen
        else "seen items: are candidates like all others",
        "unknown users: a user's first event is skipped",
        f"request time: {'the time of the event' if timed else '0 (no timestamps)'}",
        "equal scores: the item met first ranks first",
        "not finite: where the item's score is not finite, or a candidate's NaN or +inf, that is a miss",
        "intervals: 95 %, events taken as independent; Wilson for recall, normal for the others",
        f"windows: {window:,} scored events",
    ]
    if events.labels is not None:
        lines.insert(5, "labels: an event with a label of at most 0 is skipped")
    return lines


def _evaluate(
    name: str,
    model: StreamModel | ListModel,
    events: Events,
    metrics: tuple[Metric, ...],
    window: int,
    warm_up: int,
    exclude_seen: bool,
    progress: Progress | None,
    watchers: tuple[Watcher[Any], ...],
) -> ModelResult:
    watched = tuple(Metric.parse(watcher.metric) for watcher in watchers)
    run = (
        _EngineRun(model, events, warm_up, exclude_seen)
        if isinstance(model, StreamModel)
        else _ListRun(model, events, warm_up, exclude_seen, _longest((*metrics, *watched)))
    )
    n = len(events)
    step = _WATCHED_CHUNK if watchers else _CHUNK
    bounds = [*range(0, warm_up, _CHUNK), *range(warm_up, n, step), n]
    parts = []
    found: list[Any] = []
    seconds = 0.0
    if progress is not None:
        progress(name, 0, n)
    for begin, end in itertools.pairwise(bounds):
        outcomes, spent = run.chunk(begin, end)
        parts.append(outcomes)
        start = time.perf_counter()
        found += _tell(watchers, watched, outcomes, events, end)
        spent += time.perf_counter() - start
        seconds += spent if begin >= warm_up else 0.0
        if progress is not None:
            progress(name, end, n)
    rate = (n - warm_up) / seconds if seconds > 0.0 else np.nan
    return _result(name, np.concatenate(parts), metrics, window, rate, found)


def _scored(outcomes: Ints) -> Ints:
    scored: Ints = outcomes[(outcomes >= 0) | (outcomes == Run.NON_FINITE)]
    return scored


def _tell(
    watchers: tuple[Watcher[Any], ...], metrics: tuple[Metric, ...], outcomes: Ints, events: Events, end: int
) -> list[Any]:
    """Tell the watchers what became of the events up to `end`; return what they found."""
    scored = _scored(outcomes)
    at = np.nan if events.timestamps is None else float(events.timestamps[end - 1])
    found = [
        watcher.update(metric.values(scored), event=end, time=at)
        for watcher, metric in zip(watchers, metrics, strict=True)
        if len(scored)
    ]
    return [one for one in found if one is not None]


def _result(
    name: str, outcomes: Ints, metrics: tuple[Metric, ...], window: int, rate: float, found: list[Any]
) -> ModelResult:
    scored = _scored(outcomes)
    values = {metric: metric.values(scored) for metric in metrics}
    reasons = {
        "warm_up": Run.WARM_UP,
        "not_target": Run.NOT_TARGET,
        "no_history": Run.NO_HISTORY,
        "repeat": Run.REPEAT,
    }
    return ModelResult(
        name=name,
        metrics={metric.name: Estimate.of(metric, of) for metric, of in values.items()},
        curves={metric.name: Curve.of(of, window) for metric, of in values.items()},
        events_per_second=float(rate),
        scored=len(scored),
        skipped={reason: int(np.count_nonzero(outcomes == code)) for reason, code in reasons.items()},
        new_items=int(np.count_nonzero(outcomes == Run.NEW_ITEM)),
        nonfinite=int(np.count_nonzero(outcomes == Run.NON_FINITE)),
        found=tuple(found),
    )


class _EngineRun:
    """One of fastinc's models: the engine ranks all candidates."""

    def __init__(self, model: StreamModel, events: Events, warm_up: int, exclude_seen: bool) -> None:
        self._model = model
        self._events = events
        self._run = Run(warm_up, exclude_seen)

    def chunk(self, begin: int, end: int) -> tuple[Ints, float]:
        events = self._events[begin:end]
        # Chunk by chunk, so that after an interruption the model knows no ids that it has not learned about.
        targets = None if events.labels is None else (events.labels > 0).astype(np.uint8)
        with self._model._adding_ids():
            users, items, labels, times = self._model._encode_events(events)
            start = time.perf_counter()
            outcomes = self._run.run(self._model._core, users, items, labels, times, targets)
            return outcomes, time.perf_counter() - start


class _ListRun:
    """Any other model: the rank is the place in the list that it recommends."""

    def __init__(self, model: ListModel, events: Events, warm_up: int, exclude_seen: bool, k: int) -> None:
        self._model = model
        self._events = events
        self._warm_up = warm_up
        self._exclude_seen = exclude_seen
        self._k = k
        self._known: set[Any] = set()
        self._had: dict[Any, set[Any]] = {}

    def chunk(self, begin: int, end: int) -> tuple[Ints, float]:
        outcomes = np.full(end - begin, Run.WARM_UP, dtype=np.int32)
        start = time.perf_counter()
        if end <= self._warm_up:
            self._learn(begin, end)
        else:
            for i in range(begin, end):
                outcomes[i - begin] = self._judge(i)
                self._learn(i, i + 1)
        return outcomes, time.perf_counter() - start

    def _learn(self, begin: int, end: int) -> None:
        events = self._events[begin:end]
        labels = events.labels if getattr(self._model, "uses_labels", True) else None
        self._model.partial_fit(events.users, events.items, labels=labels, timestamps=events.timestamps)
        for user, item in zip(events.users.tolist(), events.items.tolist(), strict=True):
            self._known.add(item)
            self._had.setdefault(user, set()).add(item)

    def _judge(self, i: int) -> int:
        events = self._events
        user, item = events.users[i].item(), events.items[i].item()
        if events.labels is not None and events.labels[i] <= 0:
            return Run.NOT_TARGET
        if user not in self._had:
            return Run.NO_HISTORY
        if item not in self._known:
            return Run.NEW_ITEM
        if self._exclude_seen and item in self._had[user]:
            return Run.REPEAT
        at = None if events.timestamps is None else float(events.timestamps[i])
        ids, scores = self._model.recommend(events.users[i : i + 1], k=self._k, at=at, exclude_seen=self._exclude_seen)
        return _place(np.asarray(ids).reshape(-1), np.asarray(scores, dtype=np.float64).reshape(-1), item)


def _place(ids: npt.NDArray[Any], scores: npt.NDArray[np.float64], item: Any) -> int:
    """Return the place of an item in a list. Entries with a score of -inf fill it up and are nobody's."""
    if len(ids) != len(scores):
        raise ValueError(f"recommend must give as many ids as scores, got {len(ids)} and {len(scores)}")
    if np.isnan(scores).any() or np.isposinf(scores).any():
        return Run.NON_FINITE
    for place, (offered, score) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True), start=1):
        if offered == item and score > -np.inf:
            return place
    return _BEYOND
