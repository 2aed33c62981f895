"""Test, then train."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastinc._arguments import as_number
from fastinc._stream import StreamModel
from fastinc.baselines import ItemKNN, Popularity
from fastinc.datasets.events import Events
from fastinc.evaluate.labels import check_labels
from fastinc.evaluate.metrics import Metric, parse_metrics
from fastinc.evaluate.report import PrequentialReport
from fastinc.evaluate.results import ModelResult, summarise
from fastinc.evaluate.runs import Asked, ListModel, Outcomes, predicts, start
from fastinc.evaluate.stream import Stream
from fastinc.evaluate.watcher import Watcher

if TYPE_CHECKING:
    from fastinc.drift import LearningRateBoost
    from fastinc.guard import Guard

Progress = Callable[[str, int, int], None]

_CHUNK = 1024  # events between two reports of progress, and two chances to interrupt; groups of events aren't cut
_WATCHED_CHUNK = 100  # the same where a guard looks on


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
    delay: float = 0.0,
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
    - *Delay.* With `delay` what happened becomes known that many seconds later: an event is ranked at its time,
      and learned before the first event at that time plus `delay` or later (all that are due at once, in
      order); what is left at the end is learned then. Candidates, seen items and known users come from the
      events at once, and are the same for all models. An item of which nothing has been learned yet is a miss.
    - *Predicted labels.* Metrics of labels are over every event after the warm-up, those skipped above too
      (users without history, new items, repeats, labels of at most 0): the model's `predict` for the event's
      user, item and time, before the event is learned. A model without predictions shows "-".
    - *Lists.* Metrics of lists are over the k best candidates at each scored event. Where a score is NaN or
      +inf there is no list.

    Earlier events are those of `events`: what the model learned before this call gives it knowledge, but
    neither candidates nor seen items nor known users. So all models are asked exactly the same.

    A model that is not one of fastinc's is asked for its `recommend` list, as long as the largest k of the
    metrics, for every event: candidates, equal scores and seen items are then as the model has them (with a
    delay, items that the user had and the model cannot know of are taken out). That takes longer. It is given
    labels unless it has an attribute ``uses_labels`` that is false, and asked for labels if it has a method
    ``predict(users, items, at=)``.

    Parameters
    ----------
    model
        A `fastinc.Recommender` or baseline, or any object with ``partial_fit(users, items, labels=,
        timestamps=)`` and ``recommend(users, k=, at=, exclude_seen=)``. It is trained in place: it should not
        have seen these events, and knows them afterwards.
    events
        The stream.
    metrics
        Of the item's rank: ``"recall@k"``, ``"ndcg@k"``, ``"mrr@k"``, ``"mrr"``, ``"precision@k"``,
        ``"f1@k"``, ``"hit_rate@k"`` and ``"map@k"``. With one item to find, hit rate is recall, precision is
        recall / k, f1 is recall times 2 / (k + 1), and MAP is MRR.
        Of predicted labels: ``"auc"`` (a label above 0 is positive, ties count half), ``"log_loss"`` (labels
        in [0, 1], a model with loss "logistic") and ``"rmse"``. The model must have loss "logistic" or "mse".
        Of the lists: ``"coverage@k"``, the share of the candidates that were in a list at all, and
        ``"novelty@k"``, the mean over lists of the mean over their items of -log2(the item's share of the
        events so far). Keeping the lists takes 4 k bytes a scored event while a model runs.
    window
        How many scored events (metrics of labels: predicted ones) the windowed curves are over.
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
    delay
        Seconds from an event to its learning; needs timestamps.
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
        It prints as a table; each `ModelResult` also has curves, and slices by the user's and the item's past.

    See Also
    --------
    compare : whether two of its models differ.

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
    delay = as_number(delay, "delay")
    _check(model, events, window, warmup, delay)
    watchers = _watchers(guard, adapt)
    watched = tuple(Metric.parse(watcher.metric) for watcher in watchers)
    _check_metrics(model, events, (*parsed, *watched))
    for watcher in watchers:
        watcher.watch(model)
    name = _name(model)
    contestants: dict[str, StreamModel | ListModel] = {name: model}
    if baselines:
        for baseline in (Popularity(), ItemKNN(), ItemKNN(recency="rank")):
            contestants[baseline.name if baseline.name != name else f"{name} (new)"] = baseline
    stream = Stream.of(_in_order(events, ties, seed), round(warmup * len(events)))
    asked = _asked((*parsed, *watched), exclude_seen, delay)
    results = {
        key: _evaluate(
            key, contestant, stream, parsed, window, asked, progress, watchers if contestant is model else ()
        )
        for key, contestant in contestants.items()
    }
    words = [*_words(stream, ties, seed, asked, window), *_words_on(results[name], stream, delay)]
    words += [f"{name}: watched by {watcher!r}, told every {_WATCHED_CHUNK} events" for watcher in watchers]
    return PrequentialReport(
        results,
        "\n".join(words),
        events.name,
        tuple(metric.name for metric in parsed),
        window,
        users=stream.users,
        items=stream.items,
        labels=stream.events.labels,
    )


def _check(model: StreamModel | ListModel, events: Events, window: int, warmup: float, delay: float) -> None:
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
    if not 0.0 <= delay < math.inf:
        raise ValueError(f"delay must be a number of seconds, 0 or more, got {delay}")
    if delay > 0.0 and events.timestamps is None:
        raise ValueError(f"delay={delay:g} needs events with timestamps, these have none")
    if isinstance(model, StreamModel):
        # All labels now: a bad one at the end must not stop a model that has learned all before it.
        model._check_labels(events.labels if model.uses_labels else None, len(events))
        return
    for method in ("partial_fit", "recommend"):
        if not callable(getattr(model, method, None)):
            raise TypeError(f"model must have partial_fit and recommend, got {type(model).__name__} without {method}")


def _check_metrics(model: StreamModel | ListModel, events: Events, metrics: tuple[Metric, ...]) -> None:
    kind = type(model).__name__
    check_labels(metrics, events.labels)
    for metric in metrics:
        if metric.kind == "mrr" and metric.k is None and not isinstance(model, StreamModel):
            raise ValueError(
                f"metrics: {metric.name!r} needs the rank among all items, which {kind} "
                f"does not give; use '{metric.name}@k'"
            )
        if metric.family != "label":
            continue
        if not predicts(model):
            how = "loss='logistic' or 'mse'" if isinstance(model, StreamModel) else "a method predict"
            raise ValueError(f"metrics: {metric.name!r} needs a model that predicts labels, with {how}; got {kind}")
        if metric.kind == "log_loss" and isinstance(model, StreamModel) and model._core.prediction != "probability":
            raise ValueError(f"metrics: 'log_loss' needs probabilities: loss='logistic'; {model!r} predicts labels")


def _name(model: StreamModel | ListModel) -> str:
    default = "fastinc" if isinstance(model, StreamModel) else type(model).__name__
    name = getattr(model, "name", default)
    return name if isinstance(name, str) else default


def _in_order(events: Events, ties: Literal["file", "shuffle"], seed: int) -> Events:
    if ties not in ("file", "shuffle"):
        raise ValueError(f"ties must be 'file' or 'shuffle', got {ties!r}")
    if events.timestamps is not None:
        return events.sorted(ties=ties, seed=seed)
    if ties == "shuffle":
        raise ValueError("ties='shuffle' needs events with timestamps, these have none")
    return events


def _words(stream: Stream, ties: str, seed: int, asked: Asked, window: int) -> list[str]:
    """Return the protocol, a line for each rule."""
    events = stream.events
    order = "by timestamp, equal timestamps " + ("in their order" if ties == "file" else f"shuffled (seed {seed})")
    timed = events.timestamps is not None
    lines = [
        f"order: {order if timed else 'as given (no timestamps)'}; one pass, each event scored, then learned",
        f"warm-up: the first {stream.warm_up:,} of {len(events):,} events are learned and not scored",
        "candidates: all items of earlier events; a new item is a miss",
        "seen items: what the user had before is no candidate, events with it are skipped"
        if asked.exclude_seen
        else "seen items: are candidates like all others",
        "unknown users: a user's first event is skipped",
        f"request time: {'the time of the event' if timed else '0 (no timestamps)'}",
        "equal scores: the item met first ranks first",
        "not finite: where the item's score is not finite, or a candidate's NaN or +inf, that is a miss",
        "intervals: 95 %, events taken as independent; Wilson for recall and what goes with it, DeLong for auc, "
        "normal for the others, none for coverage",
        f"windows: {window:,} scored events",
    ]
    if events.labels is not None:
        lines.insert(5, "labels: an event with a label of at most 0 is skipped")
    if asked.delay:
        lines.insert(
            1,
            f"delay: an event is learned {asked.delay:g} s after it happened; candidates, seen items and users count "
            "at once; an item not learned yet is a miss",
        )
    if asked.predict:
        lines.append("predicted labels: every event after the warm-up, skipped ones too, before it is learned")
    if asked.list_size:
        lines.append("lists: the best candidates at every scored event; none where a score is NaN or +inf")
    return lines


def _words_on(judged: ModelResult, stream: Stream, delay: float) -> list[str]:
    """Return what became of the events, a line for each thing to say."""
    left_out = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in judged.skipped.items() if count)
    new = "of items new or not learned yet" if delay else "new items"
    lines = [
        f"scored: {judged.scored:,} of {len(stream):,} events, {judged.new_items:,} of them {new}; "
        f"not scored: {left_out or 'none'}"
    ]
    if judged.depth is not None:
        lines.append(
            f"{judged.name}: read from the lists of {judged.depth} that recommend() gives; "
            "candidates, equal scores and seen items as the model has them"
        )
    return lines


def _asked(metrics: tuple[Metric, ...], exclude_seen: bool, delay: float) -> Asked:
    def most(*families: str) -> int:
        return max((metric.k or 0 for metric in metrics if metric.family in families), default=0)

    predict = any(metric.family == "label" for metric in metrics)
    return Asked(exclude_seen, delay, predict, list_size=most("list"), longest=max(1, most("rank", "list")))


def _evaluate(
    name: str,
    model: StreamModel | ListModel,
    stream: Stream,
    metrics: tuple[Metric, ...],
    window: int,
    asked: Asked,
    progress: Progress | None,
    watchers: tuple[Watcher[Any], ...],
) -> ModelResult:
    n, warm_up = len(stream), stream.warm_up
    step = _WATCHED_CHUNK if watchers else _CHUNK
    bounds = [*range(0, warm_up, _CHUNK), *range(warm_up, n, step), n]
    parts = []
    found: list[Any] = []
    seconds = 0.0
    if progress is not None:
        progress(name, 0, n)
    run = start(model, stream, asked)
    try:
        for begin, end in itertools.pairwise(bounds):
            outcomes, spent = run.chunk(begin, end)
            parts.append(outcomes)
            began = time.perf_counter()
            found += _tell(watchers, outcomes, stream.events, end)
            spent += time.perf_counter() - began
            seconds += spent if begin >= warm_up else 0.0
            if progress is not None:
                progress(name, end, n)
        seconds += run.finish()
    except BaseException:
        run.abandon()
        raise
    rate = (n - warm_up) / seconds if seconds > 0.0 and n > warm_up else np.nan
    depth = None if isinstance(model, StreamModel) else asked.longest
    joined = Outcomes.join(parts)
    return summarise(name, joined, stream, metrics, window=window, rate=rate, depth=depth, found=tuple(found))


def _watchers(guard: Any, adapt: Any) -> tuple[Watcher[Any], ...]:
    for argument, value in (("guard", guard), ("adapt", adapt)):
        if value is not None and not isinstance(value, Watcher):
            raise TypeError(f"{argument} must be a fastinc.Guard or fastinc.drift.LearningRateBoost, got {value!r}")
    return tuple(watcher for watcher in (guard, adapt) if watcher is not None)


def _tell(watchers: tuple[Watcher[Any], ...], outcomes: Outcomes, events: Events, end: int) -> list[Any]:
    """Tell the watchers what became of the events up to `end`; return what they found."""
    ranks = outcomes.ranks[outcomes.scored]
    if not watchers or not len(ranks):
        return []
    at = np.nan if events.timestamps is None else float(events.timestamps[end - 1])
    found = [one.update(Metric.parse(one.metric).values(ranks), event=end, time=at) for one in watchers]
    return [one for one in found if one is not None]
