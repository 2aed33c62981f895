"""The comparison in docs/quality.md: the presets, models with a part changed and the baselines on the same streams."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastinc.baselines import ItemKNN, Popularity
from fastinc.datasets.events import Events
from fastinc.datasets.synthetic import SPAN, synthetic
from fastinc.evaluate.metrics import Metric
from fastinc.evaluate.prequential import prequential
from fastinc.evaluate.results import ModelResult
from fastinc.evaluate.runs import Outcomes

if TYPE_CHECKING:
    from fastinc._stream import StreamModel

Tell = Callable[[str], None]

_RECALL = Metric.parse("recall@10")
_DRIFT_WINDOW = 1000  # scored events
_BACK = 0.9  # of the level before the drift
_REQUEST_ITEMS = 10_000
_REQUESTS = 2000

#: What each differs from the preset "quality" in. The first lines are the models it grew from.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "recent items alone (T1)": {
        "negatives": 200,
        "hard_negatives": None,
        "context_lr_scale": 1.0,
        "tie_weight": 0.0,
        "long_window": 0,
        "situations": False,
        "hidden": 0,
        "time_scale": None,
    },
    "every part, plain negatives (T5)": {
        "negatives": 200,
        "hard_negatives": None,
        "context_lr_scale": 1.0,
        "tie_weight": 0.5,
    },
    "400 plain negatives": {"hard_negatives": None},
    "hard negatives from mean + .3 deviations": {"hard_negatives": 0.3},
    "hard negatives from mean + 1 deviation": {"hard_negatives": 1.0},
    "200 negatives": {"negatives": 200},
    "400 plain negatives, half of them popular": {"hard_negatives": None, "popular_negatives": 0.5},
    "X at the full rate": {"context_lr_scale": 1.0},
    "no X": {"context_lr_scale": 0.0},
    "no ties": {"tie_weight": 0.0, "context_lr_scale": 1.0},
    "no long-term sum": {"long_window": 0},
    "no situations": {"situations": False},
    "no network": {"hidden": 0},
    "age doesn't count": {"time_scale": None},
    "time_scale of a day": {"time_scale": 86_400.0},
    "user vector beside the history": {"user": "both"},
    "BPR": {"loss": "bpr"},
    "dim 32": {"dim": 32},
    "dim 128": {"dim": 128},
}


@dataclass(frozen=True)
class Figures:
    """Means over seeds of one model on one stream.

    Parameters
    ----------
    recall, ndcg
        At 10, over all scored events.
    first, second
        recall@10 over the first and the second half of the scored events.
    rate
        Events ranked among all items and learned in a second.
    n
        Scored events of one run.
    """

    recall: float
    ndcg: float
    first: float
    second: float
    rate: float
    n: int

    @classmethod
    def of(cls, results: Sequence[ModelResult]) -> Figures:
        """Return the means over runs.

        Parameters
        ----------
        results
            One for each seed.
        """
        rows = []
        for result in results:
            hits = _hits(result)
            half = len(hits) // 2
            ndcg = result.metrics["ndcg@10"].value
            rows.append((hits.mean(), ndcg, hits[:half].mean(), hits[half:].mean(), result.events_per_second))
        recall, ndcg, first, second, rate = (float(np.mean(column)) for column in zip(*rows, strict=True))
        return cls(recall, ndcg, first, second, rate, results[0].scored)


def _hits(result: ModelResult) -> Any:
    return _RECALL.values(result.outcomes[_scored(result.outcomes)])


def _scored(outcomes: Any) -> Any:
    return Outcomes(outcomes, None, None).scored


def contestants() -> dict[str, Callable[[int], StreamModel]]:
    """Return what makes each model of the main table from a seed.

    Examples
    --------
    >>> list(contestants())
    ['popularity', 'item-kNN', 'item-kNN (recency)', 'fastinc, "fast"', 'fastinc, "quality"']
    """
    from fastinc.recommender import Recommender

    return {
        "popularity": lambda _: Popularity(),
        "item-kNN": lambda _: ItemKNN(),
        "item-kNN (recency)": lambda _: ItemKNN(recency="rank"),
        'fastinc, "fast"': lambda seed: Recommender(preset="fast", seed=seed),
        'fastinc, "quality"': lambda seed: Recommender(seed=seed),
    }


def variants() -> dict[str, Callable[[int], StreamModel]]:
    """Return what makes each model of `VARIANTS` from a seed."""
    from fastinc.recommender import Recommender

    def maker(changes: Mapping[str, Any]) -> Callable[[int], StreamModel]:
        return lambda seed: Recommender(seed=seed, **changes)

    return {'the preset "quality"': maker({}), **{name: maker(changes) for name, changes in VARIANTS.items()}}


def compare_models(
    makers: Mapping[str, Callable[[int], StreamModel]],
    events: Events,
    ties: Literal["file", "shuffle"],
    seeds: Sequence[int],
    tell: Tell = lambda _: None,
) -> dict[str, Figures]:
    """Run models over a stream, once for each seed of the model, its negatives and the order of ties.

    Parameters
    ----------
    makers
        What makes each model from a seed.
    events
        The stream.
    ties
        As for `fastinc.evaluate.prequential`.
    seeds
        One run for each.
    tell
        Told what is being done.

    Returns
    -------
    dict
        The figures by model.

    Examples
    --------
    >>> events = synthetic(1500, 60, 100, seed=1)
    >>> found = compare_models({"popularity": lambda _: Popularity()}, events, "file", (1,))
    >>> 0.0 < found["popularity"].recall < 1.0
    True
    """
    figures = {}
    for name, make in makers.items():
        results = []
        for seed in seeds:
            tell(f"{events.name}, ties {ties}: {name}, seed {seed}")
            report = prequential(make(seed), events, ("recall@10", "ndcg@10"), baselines=False, ties=ties, seed=seed)
            results.append(next(iter(report.models.values())))
        figures[name] = Figures.of(results)
    return figures


def recovery(result: ModelResult, drift_at: int) -> tuple[float, float, int | None]:
    """Return how a model came through a drift.

    Parameters
    ----------
    result
        Of a stream that drifts.
    drift_at
        The number of the first event after the drift.

    Returns
    -------
    before
        recall@10 over the last 1,000 scored events before the drift.
    after
        The same over the first 1,000 after it.
    events
        How many scored events after the drift it took until recall@10 over the last 1,000 of them was back at 90 %
        of `before`, 1,000 at least; None: it never was.

    Examples
    --------
    >>> events = synthetic(4000, 60, 300, drift="abrupt", seed=1)
    >>> report = prequential(Popularity(), events, ["recall@10"], baselines=False)
    >>> before, after, back = recovery(report.models["popularity"], 2000)
    >>> 0.0 <= after <= 1.0
    True
    """
    outcomes = result.outcomes
    scored = _scored(outcomes)
    before = _RECALL.values(outcomes[:drift_at][scored[:drift_at]])[-_DRIFT_WINDOW:].mean()
    hits = _RECALL.values(outcomes[drift_at:][scored[drift_at:]])
    total = np.concatenate([[0.0], np.cumsum(hits)])
    window = (total[_DRIFT_WINDOW:] - total[:-_DRIFT_WINDOW]) / _DRIFT_WINDOW
    back = np.flatnonzero(window >= _BACK * before)
    events = int(back[0]) + _DRIFT_WINDOW if len(back) else None
    return float(before), float(window[0]) if len(window) else float("nan"), events


def drift_table(seeds: Sequence[int], n_events: int = 100_000, tell: Tell = lambda _: None) -> dict[str, list[Any]]:
    """Run the contestants over a synthetic stream with an abrupt drift in its middle.

    Parameters
    ----------
    seeds
        A stream for each.
    n_events
        Events of a stream, of 1,000 users and 2,000 items.
    tell
        Told what is being done.

    Returns
    -------
    dict
        What `recovery` returns, for each model and seed.
    """
    found: dict[str, list[Any]] = {name: [] for name in contestants()}
    for seed in seeds:
        events = synthetic(n_events, 1000, 2000, drift="abrupt", seed=seed).sorted()
        assert events.timestamps is not None
        span = events.timestamps[0] + 0.5 * SPAN
        drift_at = int(np.searchsorted(events.timestamps, span))
        for name, make in contestants().items():
            tell(f"{events.name}: {name}, seed {seed}")
            report = prequential(make(seed), events, ("recall@10",), baselines=False)
            found[name].append(recovery(next(iter(report.models.values())), drift_at))
    return found


def cold_items(events: Events, seeds: Sequence[int], tell: Tell = lambda _: None) -> dict[str, dict[str, float]] | None:
    """Return what knowing the words of items' titles does for new items.

    Parameters
    ----------
    events
        The stream.
    seeds
        A run for each.
    tell
        Told what is being done.

    Returns
    -------
    dict or None
        For the preset "quality" with random start vectors, and with those that it makes of the words: recall@10 by how
        many events the item had had, and of all events ("all"). None where there are no titles.
    """
    from fastinc.features import Categorical
    from fastinc.recommender import Recommender

    if not events.item_titles:
        return None
    titles = {item: re.findall(r"\w+", title.lower()) for item, title in events.item_titles.items()}
    found: dict[str, dict[str, float]] = {}
    for name in ("random start vectors", "from the words of titles"):
        runs = []
        for seed in seeds:
            tell(f"{events.name}: {name}, seed {seed}")
            model = Recommender(seed=seed, item_features={"word": Categorical()} if found else None)
            if found:
                model.add_items(list(titles), {"word": list(titles.values())})
            report = prequential(model, events, ("recall@10",), baselines=False, ties="shuffle", seed=seed)
            runs.append(next(iter(report.models.values())))
        found[name] = {
            part: statistics.fmean(run.slices["item"][part]["recall@10"].value for run in runs)
            for part in runs[0].slices["item"]
        }
        found[name]["all"] = statistics.fmean(run.metrics["recall@10"].value for run in runs)
    return found


@dataclass(frozen=True)
class Speed:
    """How fast a preset is.

    Parameters
    ----------
    learned
        Events learned in a second, all in one call; the median of three.
    request
        Microseconds for one event learned and then ten of 10,000 items recommended to its user, from Python; the
        median of 2,000.
    """

    learned: float
    request: float


def measure_speed(events: Events, preset: Literal["quality", "fast"], tell: Tell = lambda _: None) -> Speed:
    """Return how fast a preset learns a stream, and how soon it answers from an event.

    Parameters
    ----------
    events
        The stream to learn in one call.
    preset
        Which.
    tell
        Told what is being done.
    """
    from fastinc.recommender import Recommender

    rates = []
    for _ in range(3):
        tell(f"{events.name}: speed of {preset!r}")
        model = Recommender(preset=preset)
        start = time.perf_counter()
        model.partial_fit_events(events)
        rates.append(len(events) / (time.perf_counter() - start))
    rng = np.random.default_rng(0)
    model = Recommender(preset=preset)
    users, items = rng.integers(0, 1000, 3 * _REQUEST_ITEMS), np.tile(np.arange(_REQUEST_ITEMS), 3)
    model.partial_fit(users, items, timestamps=np.arange(len(users), dtype=np.float64))
    times = []
    for i in range(_REQUESTS):
        user, item, at = int(users[i]), int(items[-1 - 7 * i]), float(len(users) + i)
        start = time.perf_counter()
        model.partial_fit(user, item, timestamps=at)
        model.recommend(user, k=10)
        times.append(time.perf_counter() - start)
    return Speed(statistics.median(rates), 1e6 * statistics.median(times))
