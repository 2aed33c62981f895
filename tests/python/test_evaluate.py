"""Prequential evaluation: ranks against a short version in Python, the rules of the protocol, the report."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _evaluate import Lists, Scripted, alone, as_strings, codes, stream
from _reference import PLAIN_RECOMMENDER
from fastinc import _core
from fastinc.evaluate import Estimate
from fastinc.evaluate.metrics import Metric
from test_baselines import ItemKnnReference, PopularityReference, random_stream

Run = _core.PrequentialRun


def reference_outcomes(model, users, items, labels, warm_up, exclude_seen):
    """Rank every item the slow way. `model` has score(user) over all items and learn(user, item, label)."""
    known, had, outcomes = [], {}, []
    for i, (user, item, label) in enumerate(zip(users, items, labels, strict=True)):
        past = had.setdefault(user, set())
        if i < warm_up:
            outcomes.append(Run.WARM_UP)
        elif label <= 0:
            outcomes.append(Run.NOT_TARGET)
        elif not past:
            outcomes.append(Run.NO_HISTORY)
        elif item not in known:
            outcomes.append(Run.NEW_ITEM)
        elif exclude_seen and item in past:
            outcomes.append(Run.REPEAT)
        else:
            scores = model.score(user)
            rivals = [j for j in known if not (exclude_seen and j in past)]  # in the order they were met in
            ranking = sorted(rivals, key=lambda j: -scores[j])  # stable
            outcomes.append(ranking.index(item) + 1)
        model.learn(user, item, label)
        past.add(item)
        if item not in known:
            known.append(item)
    return np.array(outcomes, dtype=np.int32)


def engine_outcomes(core, users, items, labels, warm_up, exclude_seen, cuts=()):
    run = Run(warm_up, exclude_seen)
    targets = (labels > 0).astype(np.uint8)
    bounds = [0, *cuts, len(users)]
    parts = [
        run.run(core, users[a:b], items[a:b], labels[a:b], None, targets[a:b]) for a, b in itertools.pairwise(bounds)
    ]
    assert run.position == len(users)
    return np.concatenate(parts)


PAIRS = {
    "popularity": (lambda: _core.Popularity(1000), PopularityReference),
    "knn": (lambda: _core.ItemKnn("uniform", 1000), ItemKnnReference),
    "recency": (lambda: _core.ItemKnn("rank", 4), lambda n: ItemKnnReference(n, "rank", 4)),
}


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("pair", PAIRS)
def test_ranks_are_those_of_the_definition(pair, exclude_seen):
    make, reference = PAIRS[pair]
    users, items, labels = random_stream(5, 800, 20, 40)
    users, items = codes(users), codes(items)
    expected = reference_outcomes(reference(40), users, items, labels, 100, exclude_seen)
    found = engine_outcomes(make(), users, items, labels, 100, exclude_seen)
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected.tolist()) & {Run.NOT_TARGET, Run.WARM_UP}) == 2
    assert (expected > 0).sum() > 100


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranks_on_small_streams_however_they_are_cut(data):
    event = st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
    events = data.draw(st.lists(event, min_size=1, max_size=40))
    warm_up = data.draw(st.integers(0, len(events)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    make, reference = PAIRS[data.draw(st.sampled_from(sorted(PAIRS)))]
    exclude_seen = data.draw(st.booleans())
    users, items = (codes(np.array(column)) for column in list(zip(*events, strict=True))[:2])
    labels = np.array([label for _, _, label in events], dtype=np.float32)
    expected = reference_outcomes(reference(7), users, items, labels, warm_up, exclude_seen)
    found = engine_outcomes(make(), users, items, labels, warm_up, exclude_seen, cuts)
    np.testing.assert_array_equal(found, expected)


def test_the_engine_refuses_bad_arrays_and_learns_nothing():
    core, run = _core.Popularity(10), Run(0, True)
    good = np.array([0, 1], dtype=np.int64)
    for bad, argument in (
        ({"users": good.astype(np.int32)}, "users"),
        ({"items": good[:1]}, "items"),
        ({"items": -good}, "items"),
        ({"labels": np.array([1, np.nan], dtype=np.float32)}, "labels"),
        ({"times": np.array([1, np.inf])}, "timestamps"),
        ({"targets": np.ones(3, dtype=np.uint8)}, "targets"),
    ):
        columns = {"users": good, "items": good, "labels": None, "times": None, "targets": None, **bad}
        with pytest.raises((ValueError, TypeError), match=argument):
            run.run(core, **columns)
    assert (run.position, core.event_count, core.item_count) == (0, 0, 0)
    with pytest.raises(ValueError, match="'time' must be 'uniform' or 'rank'"):
        _core.ItemKnn("time", 10)


@pytest.fixture(scope="module")
def synthetic():
    return fi.datasets.synthetic(3000, 60, 250, seed=2, labels=True)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("make", [fi.baselines.Popularity, lambda: fi.baselines.ItemKNN(recency="rank")])
def test_lists_and_engine_agree(synthetic, make, strings):
    events = as_strings(synthetic) if strings else synthetic
    options = {"metrics": ["recall@10", "ndcg@5", "mrr@7"], "window": 300, "warmup": 0.1, "ties": "shuffle"}
    engine, lists = alone(make(), events, **options), alone(Lists(make()), events, **options)
    assert lists.name == "Lists"
    assert engine.metrics == lists.metrics
    assert (engine.scored, engine.skipped, engine.new_items) == (lists.scored, lists.skipped, lists.new_items)
    for name in options["metrics"]:
        np.testing.assert_array_equal(engine.curves[name].window, lists.curves[name].window)
    assert engine.metrics["recall@10"].value > 1.5 * 10 / 250  # well above chance


def test_every_event_has_its_place_in_the_protocol():
    events = stream(
        [1, 1, 2, 2, 1, 3, 2, 2],
        [5, 6, 5, 6, 5, 5, 7, 6],
        labels=[1, 1, 1, 1, 1, 1, 1, 0],
        timestamps=[0, 1, 2, 3, 4, 5, 6, 7],
    )
    result = alone(fi.baselines.Popularity(), events, warmup=0.25, metrics=["mrr"])
    # Warm-up twice; 2 is new; 6 ranks first of what 2 had not; 1 had 5; 3 is new; 7 is new; label 0.
    assert result.skipped == {"warm_up": 2, "not_target": 1, "no_history": 2, "repeat": 1}
    assert (result.scored, result.new_items, result.nonfinite) == (2, 1, 0)
    assert result.metrics["mrr"].value == 0.5

    result = alone(fi.baselines.Popularity(), events, warmup=0.25, metrics=["mrr"], exclude_seen=False)
    assert result.skipped["repeat"] == 0
    assert result.metrics["mrr"] == Estimate.of(Metric.parse("mrr"), np.array([1 / 2, 1, 0]))


def test_equal_scores_rank_by_who_was_first():
    events = stream([1, 1, 1, 2, 2], [30, 20, 10, 40, 10])
    # To user 2, items 30, 20 and 10 are equally popular; 10 came last.
    assert alone(fi.baselines.Popularity(), events, metrics=["mrr"]).metrics["mrr"].value == pytest.approx(
        np.mean([0, 0, 1 / 3])
    )


def test_order_ties_and_request_time():
    events = stream([1, 1, 1], [5, 6, 7], timestamps=[30, 10, 30])
    model = Scripted([7], [1.0])
    alone(model, events)
    assert [learned[1] for learned in model.learned] == [[6], [5], [7]]
    model = Scripted([7], [1.0])
    alone(model, stream([1, 2, 1, 2], [5, 6, 6, 5], timestamps=[1, 2, 4, 8]), exclude_seen=False)
    assert model.asked == [([1], 10, 4.0, False), ([2], 10, 8.0, False)]
    model = Scripted([7], [1.0])
    alone(model, stream([1, 2, 1], [5, 6, 6]))
    assert model.asked == [([1], 10, None, True)]

    many = stream(np.arange(50), np.arange(50), timestamps=np.zeros(50))
    orders = []
    for seed in (3, 3, 4):
        model = Scripted([7], [1.0])
        alone(model, many, ties="shuffle", seed=seed)
        orders.append([learned[1][0] for learned in model.learned])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))


def test_labels_go_to_models_that_use_them():
    events = stream([1, 1], [5, 6], labels=[3, 4])
    model = Scripted([7], [1.0])
    alone(model, events)
    assert [learned[2].tolist() for learned in model.learned] == [[3], [4]]
    model = Scripted([7], [1.0])
    model.uses_labels = False
    alone(model, events)
    assert [learned[2] for learned in model.learned] == [None, None]


@pytest.mark.parametrize(
    ("ids", "scores", "nonfinite", "value"),
    [
        ([6, 7], [2.0, 1.0], 0, 1.0),
        ([7, 6], [2.0, 1.0], 0, 0.5),
        ([7, 8], [2.0, 1.0], 0, 0.0),
        ([7, 6], [np.nan, 1.0], 1, 0.0),
        ([7, 6], [2.0, np.nan], 1, 0.0),
        ([6, 7], [np.inf, 1.0], 1, 0.0),
        ([7, 6], [2.0, -np.inf], 0, 0.0),  # fills the list up
    ],
)
def test_scores_that_are_not_finite_are_misses_and_counted(ids, scores, nonfinite, value):
    result = alone(Scripted(ids, scores), stream([1, 2, 1], [5, 6, 6]))
    assert result.scored == 1
    assert result.nonfinite == nonfinite
    assert result.metrics["mrr@10"].value == value
    assert result.new_items == 0


def test_a_model_that_diverged_does_not_look_good(synthetic):
    healthy = alone(fi.Recommender(dim=4), synthetic, metrics=["recall@10"])
    diverged = alone(
        fi.Recommender(dim=4, optimizer=fi.SGD(lr=1e25), **PLAIN_RECOMMENDER), synthetic, metrics=["recall@10"]
    )
    assert healthy.nonfinite == 0
    assert diverged.nonfinite > 100
    assert diverged.scored == healthy.scored
    assert diverged.metrics["recall@10"].value < healthy.metrics["recall@10"].value
    assert diverged.metrics["recall@10"].value <= 1 - diverged.nonfinite / diverged.scored
    report = fi.evaluate.prequential(
        fi.Recommender(dim=4, optimizer=fi.SGD(lr=1e25), **PLAIN_RECOMMENDER),
        synthetic,
        metrics=["recall@10"],
        baselines=False,
    )
    assert "events missed because a score was not finite" in str(report)


def test_a_model_that_learned_before_is_asked_like_a_new_one(synthetic):
    first, second = synthetic[:1000].sorted(), synthetic[1000:].sorted()
    trained = fi.baselines.Popularity().partial_fit(first.users, first.items, first.labels)
    report = fi.evaluate.prequential(trained, second, metrics=["recall@10"], warmup=0.0)
    assert list(report.models) == ["popularity", "popularity (new)", "item-kNN", "item-kNN (recency)"]
    old, new = report.models["popularity"], report.models["popularity (new)"]
    assert (old.scored, old.new_items, old.skipped) == (new.scored, new.new_items, new.skipped)
    assert old.metrics != new.metrics


def test_report_of_the_recommender(synthetic):
    seen = []
    model = fi.Recommender(dim=8)
    report = fi.evaluate.prequential(model, synthetic, window=300, progress=lambda *progress: seen.append(progress))
    names = ["fastinc", "popularity", "item-kNN", "item-kNN (recency)"]
    assert list(report.models) == names
    assert report.metrics == ("recall@10", "ndcg@10", "mrr")
    assert model.n_events == len(synthetic)  # it has learned them
    for name in names:
        result = report.models[name]
        steps = [progress[1:] for progress in seen if progress[0] == name]
        assert steps[0] == (0, 3000)
        assert steps[-1] == (3000, 3000)
        assert steps == sorted(steps)
        assert result.scored == report.models["fastinc"].scored == 3000 - sum(result.skipped.values())
        assert result.skipped["warm_up"] == 600
        assert result.events_per_second > 0
        for metric in report.metrics:
            estimate, curve = result.metrics[metric], result.curves[metric]
            assert 0 <= estimate.low < estimate.value < estimate.high <= 1
            assert curve.events[-1] == estimate.n == result.scored
            assert curve.cumulative[-1] == pytest.approx(estimate.value)
    assert report.models["fastinc"].metrics["recall@10"].low > 10 / 250  # better than chance
    text = str(report)
    for part in (
        *names,
        *report.metrics,
        "events/s",
        "the first 600 of 3,000",
        "at most 0",
        "item met first",
    ):
        assert part in text


def test_report_as_json(synthetic):
    report = fi.evaluate.prequential(fi.Recommender(dim=4), synthetic[:400], metrics=["recall@5"], window=50)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["metrics"] == ["recall@5"]
    assert document["protocol"] == report.protocol
    result = document["models"]["item-kNN"]
    assert result["metrics"]["recall@5"]["value"] == report.models["item-kNN"].metrics["recall@5"].value
    assert len(result["curves"]["recall@5"]["window"]) == len(result["curves"]["recall@5"]["events"])


def test_nothing_scored_is_said_and_no_number_made_up():
    report = fi.evaluate.prequential(fi.baselines.Popularity(), stream([1, 2, 3], [4, 5, 6]), baselines=False)
    result = report.models["popularity"]
    assert result.scored == 0
    assert math.isnan(result.metrics["mrr"].value)
    assert len(result.curves["mrr"].events) == 0
    document = report.to_dict()["models"]["popularity"]
    assert document["metrics"]["mrr"] == {"value": None, "low": None, "high": None, "n": 0}
    json.dumps(document, allow_nan=False)
    assert " - " in str(report)


def test_the_protocol_says_what_was_done(synthetic):
    def protocol(events, **options):
        return fi.evaluate.prequential(
            fi.baselines.Popularity(), events, metrics=["recall@3"], baselines=False, **options
        ).protocol

    untimed = stream(synthetic.users[:50], synthetic.items[:50])
    assert "equal timestamps in their order" in protocol(synthetic[:50])
    assert "equal timestamps shuffled (seed 9)" in protocol(synthetic[:50], ties="shuffle", seed=9)
    assert "as given (no timestamps)" in protocol(untimed)
    assert "request time: 0" in protocol(untimed)
    assert "label" not in protocol(untimed)
    assert "events with it are skipped" in protocol(untimed)
    assert "candidates like all others" in protocol(untimed, exclude_seen=False)
    assert "the first 5 of 50" in protocol(untimed, warmup=0.1)
    lists = fi.evaluate.prequential(
        Lists(fi.baselines.Popularity()), untimed, metrics=["recall@3", "ndcg@8"], baselines=False
    )
    assert "Lists: read from the lists of 8" in lists.protocol


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["recall"]}, ValueError, "'recall'"),
        ({"metrics": ["recall@0"]}, ValueError, "'recall@0'"),
        ({"metrics": ["recall@10", "accuracy@10"]}, ValueError, "'accuracy@10'"),
        ({"metrics": ["mrr", "mrr"]}, ValueError, "'mrr' twice"),
        ({"metrics": []}, ValueError, "at least one metric"),
        ({"metrics": [10]}, ValueError, "got 10"),
        ({"metrics": "recall@10"}, TypeError, "'recall@10'"),
        ({"window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"window": 2.5}, TypeError, r"window must be an int, got 2\.5"),
        ({"warmup": 1.0}, ValueError, r"warmup must be from 0 to below 1, got 1\.0"),
        ({"warmup": math.nan}, ValueError, "warmup .* got nan"),
        ({"ties": "random"}, ValueError, "'random'"),
        ({"ties": "shuffle"}, ValueError, "ties='shuffle' needs events with timestamps"),
        ({"events": [(1, 2)]}, TypeError, "events must be fastinc.datasets.Events, got list"),
        ({"events": stream([], [])}, ValueError, "got 0 events"),
        ({"model": object()}, TypeError, "object without partial_fit"),
        ({"model": Scripted([1], [1.0])}, ValueError, "'mrr' needs the rank among all items"),
    ],
)
def test_errors_name_the_argument_and_change_nothing(options, error, message):
    model = options.get("model", fi.baselines.Popularity())
    events = options.get("events", stream([1, 1, 2], [4, 5, 4]))
    rest = {name: value for name, value in options.items() if name not in ("model", "events")}
    with pytest.raises(error, match=message):
        fi.evaluate.prequential(model, events, **rest)
    assert getattr(model, "n_events", 0) == 0
    assert getattr(model, "n_items", 0) == 0


def test_a_label_that_the_model_refuses_stops_it_before_it_learns():
    labels = np.ones(2500)
    labels[-1] = 5
    model = fi.Recommender(dim=4, loss="logistic")
    with pytest.raises(ValueError, match="labels"):
        alone(model, stream(np.arange(2500) % 7, np.arange(2500) % 9, labels=labels))
    assert (model.n_events, model.n_items) == (0, 0)


def test_a_list_with_fewer_scores_than_ids_is_refused():
    with pytest.raises(ValueError, match="as many ids as scores, got 2 and 1"):
        alone(Scripted([6, 7], [1.0]), stream([1, 2, 1], [5, 6, 6]))
