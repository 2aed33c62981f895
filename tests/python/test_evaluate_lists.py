"""Coverage and novelty against their definitions, from lists of the engine and of other models."""

import math

import numpy as np
import pytest

import fastinc as fi
from _evaluate import Lists, Scripted, alone, as_strings, codes, stream
from test_baselines import ItemKnnReference, PopularityReference

METRICS = ["coverage@3", "coverage@7", "novelty@3", "novelty@7"]


@pytest.fixture(scope="module")
def synthetic():
    return fi.datasets.synthetic(1500, 60, 120, seed=2, labels=True)


def reference(model, events, warm_up, exclude_seen):
    """Return the list of each scored event and, before it, the items that there were and all of their events."""
    users, items = codes(events.users), codes(events.items)
    labels = np.ones(len(users)) if events.labels is None else events.labels
    had, lists, befores = {}, [], []
    for i, (user, item, label) in enumerate(zip(users, items, labels, strict=True)):
        past = had.setdefault(user, set())
        if i >= warm_up and label > 0 and past and not (exclude_seen and item in past):
            scores = model.score(user)
            candidates = [j for j in range(items[:i].max() + 1) if not (exclude_seen and j in past)]
            lists.append(sorted(candidates, key=lambda j: -scores[j])[:7])
            befores.append(items[:i])
        model.learn(user, item, label)
        past.add(item)
    return lists, befores


def brute(name, k, lists, befores, begin, end):
    if name == "coverage":
        offered = {item for of in lists[begin:end] for item in of[:k]}
        return len(offered) / len(set(befores[end - 1].tolist()))
    surprises = [
        np.mean([-math.log2(np.mean(before == item)) for item in of[:k]])
        for of, before in zip(lists[begin:end], befores[begin:end], strict=True)
    ]
    return np.mean(surprises)


MODELS = {
    "popularity": (fi.baselines.Popularity, PopularityReference),
    "knn": (lambda: fi.baselines.ItemKNN(recency="rank"), lambda n: ItemKnnReference(n, "rank")),
}


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_lists_by_brute_force(synthetic, name, exclude_seen):
    make, make_reference = MODELS[name]
    events = synthetic.sorted()
    lists, befores = reference(make_reference(120), events, 150, exclude_seen)
    options = {"metrics": METRICS, "warmup": 0.1, "window": 100, "exclude_seen": exclude_seen}
    result = alone(make(), events, **options)
    assert result.scored == len(lists)
    for metric in METRICS:
        kind, _, k = metric.partition("@")
        estimate, curve = result.metrics[metric], result.curves[metric]
        if kind == "novelty":  # a user who had all there was gets an empty list, whose mean there is not
            lists, befores = zip(*((of, before) for of, before in zip(lists, befores, strict=True) if of), strict=True)
        assert estimate.value == pytest.approx(brute(kind, int(k), lists, befores, 0, len(lists)))
        assert estimate.n == len(lists)
        for point in range(0, len(curve.events), 7):
            end = int(curve.events[point])
            assert curve.window[point] == pytest.approx(brute(kind, int(k), lists, befores, max(0, end - 100), end))
            assert curve.cumulative[point] == pytest.approx(brute(kind, int(k), lists, befores, 0, end))
    assert math.isnan(result.metrics["coverage@3"].low)  # no mean over events
    assert result.metrics["novelty@3"].low < result.metrics["novelty@3"].value < result.metrics["novelty@3"].high
    listed = alone(Lists(make()), as_strings(events), **options)
    assert {metric: str(of) for metric, of in listed.metrics.items()} == {
        metric: str(of) for metric, of in result.metrics.items()
    }


def test_lists_change_nothing_else(synthetic):
    with_lists = alone(fi.Recommender(dim=8), synthetic, metrics=["recall@10", *METRICS])
    without = alone(fi.Recommender(dim=8), synthetic, metrics=["recall@10"])
    np.testing.assert_array_equal(with_lists.outcomes, without.outcomes)
    assert with_lists.metrics["recall@10"] == without.metrics["recall@10"]


def test_lists_of_a_model_that_learned_other_events_before(synthetic):
    """Its item codes are not those of the stream."""
    first, second = synthetic[:500].sorted(), synthetic[500:].sorted()
    make = fi.baselines.Popularity
    engine = make().partial_fit(first.users, first.items, first.labels)
    other = make().partial_fit(first.users, first.items, first.labels)
    found = alone(engine, second, metrics=METRICS)

    class Restricted(Lists):
        """Recommends what is a candidate of this stream."""

        def __init__(self, model):
            super().__init__(model)
            self.known, self.had = set(), {}

        def partial_fit(self, users, items, labels=None, timestamps=None):
            super().partial_fit(users, items, labels, timestamps)
            for user, item in zip(users.tolist(), items.tolist(), strict=True):
                self.known.add(item)
                self.had.setdefault(user, set()).add(item)

        def recommend(self, users, k=10, at=None, exclude_seen=True):
            ids, scores = self.model.recommend(users, k=500, at=at, exclude_seen=False)
            had = self.had.get(users[0].item(), set())
            stays = [item in self.known and item not in had for item in ids[0].tolist()]
            return ids[0][stays][:k], scores[0][stays][:k]

    expected = alone(Restricted(other), second, metrics=METRICS)
    assert {m: str(of) for m, of in found.metrics.items()} == {m: str(of) for m, of in expected.metrics.items()}


def test_there_is_no_list_where_scores_have_no_order():
    diverged = fi.Recommender(dim=4, optimizer=fi.SGD(lr=1e8))
    result = alone(diverged, fi.datasets.synthetic(3000, 60, 250, seed=2), metrics=["coverage@5", "novelty@5"])
    assert result.nonfinite > 100
    assert 0 < result.metrics["novelty@5"].n <= result.scored - result.nonfinite
    lists = alone(Scripted([6, 7], [np.nan, 1.0]), stream([1, 2, 1], [5, 6, 6]), metrics=["coverage@5", "novelty@5"])
    assert lists.metrics["coverage@5"].value == 0
    assert math.isnan(lists.metrics["novelty@5"].value)


def test_only_candidates_count_in_lists_of_others():
    events = stream([1, 2, 1, 1], [5, 6, 6, 9])
    result = alone(Scripted([77, 6, 7], [3.0, 2.0, 1.0]), events, metrics=["coverage@3", "novelty@3", "recall@3"])
    # Two events are scored; at both items 5 and 6 are there, 6 had 1 of 2 and then 2 of 3 events.
    assert result.metrics["coverage@3"].value == 1 / 2
    assert result.metrics["novelty@3"].value == pytest.approx(np.mean([1, -math.log2(2 / 3)]))
    assert result.new_items == 1


def test_popularity_covers_less_than_item_knn(synthetic):
    report = fi.evaluate.prequential(fi.baselines.Popularity(), synthetic, METRICS, window=200)
    popular, knn = report.models["popularity"], report.models["item-kNN"]
    for metric in METRICS:
        assert popular.metrics[metric].value < knn.metrics[metric].value
    assert "lists: the best candidates at every scored event" in report.protocol
    assert " [" not in next(line for line in str(report).splitlines() if line.startswith("popularity")).split("  ")[1]


def test_the_engine_refuses_bad_arrays_for_lists():
    core, item = fi._core.Popularity(10), np.array([0, 1])
    run = fi._core.PrequentialRun(0, True)
    for bad in (np.empty((3, 4), dtype=np.int32), np.empty((2, 4)), np.empty(2, dtype=np.int32)):
        with pytest.raises((ValueError, TypeError), match="lists"):
            run.run(core, item, item, None, None, None, lists=bad)
    assert core.event_count == 0
