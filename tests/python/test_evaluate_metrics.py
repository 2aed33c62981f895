"""Metrics of ranks by hand, their intervals, curves and slices."""

import json
import math

import numpy as np
import pytest

import fastinc as fi
from _evaluate import Lists, codes
from fastinc.evaluate import Curve, Estimate
from fastinc.evaluate.metrics import Metric, parse_metrics


@pytest.fixture(scope="module")
def report():
    events = fi.datasets.synthetic(3000, 60, 250, seed=2, labels=True)
    metrics = ["recall@10", "mrr", "precision@5", "ndcg@3"]
    return fi.evaluate.prequential(fi.baselines.ItemKNN(recency="rank"), events, metrics, window=300), events.sorted()


RANKS = np.array([0, 1, 2, 10, 11, -5], dtype=np.int32)
BY_HAND = {
    "recall@10": [0, 1, 1, 1, 0, 0],
    "hit_rate@10": [0, 1, 1, 1, 0, 0],
    "precision@10": [0, 0.1, 0.1, 0.1, 0, 0],
    "precision@1": [0, 1, 0, 0, 0, 0],
    "f1@10": [0, 2 / 11, 2 / 11, 2 / 11, 0, 0],
    "f1@1": [0, 1, 0, 0, 0, 0],
    "ndcg@10": [0, 1, 1 / np.log2(3), 1 / np.log2(11), 0, 0],
    "mrr": [0, 1, 1 / 2, 1 / 10, 1 / 11, 0],
    "mrr@10": [0, 1, 1 / 2, 1 / 10, 0, 0],
    "map@10": [0, 1, 1 / 2, 1 / 10, 0, 0],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_metrics_of_ranks(name):
    (metric,) = parse_metrics([name])
    assert (metric.family, metric.lower_is_better) == ("rank", False)
    np.testing.assert_allclose(metric.values(RANKS), BY_HAND[name])


def test_metrics_by_their_general_definition():
    """Of any number of relevant items: here one."""
    rng = np.random.default_rng(1)
    for rank in rng.integers(1, 30, 50):
        relevant = np.arange(1, 40) == rank
        for k in (1, 3, 10):
            hits = relevant[:k].sum()
            precision, recall = hits / k, hits / relevant.sum()
            average = sum(relevant[:i].sum() / i for i in range(1, k + 1) if relevant[i - 1]) / relevant.sum()
            f1 = 2 * precision * recall / (precision + recall) if hits else 0
            expected = {"precision": precision, "recall": recall, "hit_rate": float(hits > 0), "f1": f1, "map": average}
            for kind, value in expected.items():
                assert Metric.parse(f"{kind}@{k}").values(np.array([rank]))[0] == pytest.approx(value)


def test_families_and_what_is_better():
    families = {"auc": "label", "log_loss": "label", "rmse": "label", "coverage@5": "list", "novelty@5": "list"}
    for name, family in families.items():
        metric = Metric.parse(name)
        assert metric.family == family
        assert metric.lower_is_better == (name in ("log_loss", "rmse"))
        with pytest.raises(ValueError, match=f"'{name}' is not a metric of ranks"):
            metric.values(RANKS)
    for name in ("auc@5", "rmse@1", "coverage", "precision", "map", "f1@", "Recall@5"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            Metric.parse(name)


def test_an_interval_scales_with_what_a_hit_is_worth():
    ranks = np.random.default_rng(0).integers(0, 12, 200)
    estimates = {
        name: Estimate.of(Metric.parse(name), Metric.parse(name).values(ranks))
        for name in ("recall@5", "precision@5", "f1@5", "hit_rate@5")
    }
    recall = estimates["recall@5"]
    for name, worth in {"precision@5": 1 / 5, "f1@5": 2 / 6, "hit_rate@5": 1}.items():
        estimate = estimates[name]
        for scaled, plain in ((estimate.value, recall.value), (estimate.low, recall.low), (estimate.high, recall.high)):
            assert scaled == pytest.approx(worth * plain)


def test_slices_by_brute_force(report):
    report, events = report
    for result in report.models.values():
        cells = {kind: {} for kind in result.slices}
        had, seen = {}, {}
        for user, item, outcome in zip(events.users, events.items, result.outcomes, strict=True):
            if outcome >= 0:
                counts = {"history": had.get(user, 0), "item": seen.get(item, 0)}
                for kind, count in counts.items():
                    starts = {1: "1", 2: "2-4", 5: "5-19", 20: "20-99", 100: "100+"}
                    if kind == "item":
                        starts = {0: "new", 1: "1-4", 5: "5-19", 20: "20-99", 100: "100+"}
                    label = starts[max(start for start in starts if start <= count)]
                    cells[kind].setdefault(label, []).append(outcome)
            had[user], seen[item] = had.get(user, 0) + 1, seen.get(item, 0) + 1
        for kind, labels in result.slices.items():
            assert sum(label["mrr"].n for label in labels.values()) == result.scored
            for label, of in labels.items():
                ranks = np.array(cells[kind].get(label, []), dtype=np.int32)
                for name in report.metrics:
                    metric = Metric.parse(name)
                    assert str(of[name]) == str(Estimate.of(metric, metric.values(ranks)))
                    assert of[name].n == len(ranks)
        assert result.slices["item"]["new"]["mrr"].value == 0
        assert result.slices["item"]["new"]["mrr"].n == result.new_items > 0


def test_slices_as_tables_and_json(report):
    report, _ = report
    text = report.slices("mrr")
    result = report.models["item-kNN (recency)"]
    for kind, labels in result.slices.items():
        header = f"mrr by the events that the {'user' if kind == 'history' else 'item'} had had"
        assert header in text
        table = text[text.index(header) :].split("\n\n")[1]
        for label, of in labels.items():
            assert label in table
            assert f"{of['mrr'].n:,}" in table
            assert math.isnan(of["mrr"].value) or f"{of['mrr'].value:.4f}" in table
    assert report.slices() == report.slices("recall@10") != text
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))["models"]["popularity"]["slices"]
    mine = report.models["popularity"].slices["history"]["2-4"]["mrr"]
    assert found["history"]["2-4"]["mrr"] == {"value": mine.value, "low": mine.low, "high": mine.high, "n": mine.n}
    with pytest.raises(ValueError, match=r"metric must be one of ranks .*got 'auc'"):
        report.slices("auc")


def test_recall_and_precision_up_to_k(report):
    report, _ = report
    recall, precision = report.recall_precision("popularity", k=10)
    metrics = report.models["popularity"].metrics
    assert recall[9] == pytest.approx(metrics["recall@10"].value)
    assert precision[4] == pytest.approx(metrics["precision@5"].value)
    assert len(recall) == len(precision) == 10
    assert (np.diff(recall) >= 0).all()
    np.testing.assert_allclose(precision, recall / np.arange(1, 11))
    with pytest.raises(ValueError, match=r"name must be a model of the report .*got 'mine'"):
        report.recall_precision("mine")
    with pytest.raises(ValueError, match="k = 0 must be at least 1"):
        report.recall_precision("popularity", k=0)


def test_lists_reach_no_further_than_they_were_asked_to():
    events = fi.datasets.synthetic(500, 40, 60, seed=1)
    listed = fi.evaluate.prequential(Lists(fi.baselines.Popularity()), events, ["recall@5"], baselines=False)
    engine = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@5"], baselines=False)
    assert (listed.models["Lists"].depth, engine.models["popularity"].depth) == (5, None)
    np.testing.assert_array_equal(listed.recall_precision("Lists", 5), engine.recall_precision("popularity", 5))
    with pytest.raises(ValueError, match=r"k must be at most 5, .*got 6"):
        listed.recall_precision("Lists", k=6)


def test_outcomes_are_kept_and_small(report):
    report, events = report
    for result in report.models.values():
        assert result.outcomes.dtype == np.int32
        assert len(result.outcomes) == len(events)
        assert result.predictions is None
        ranks = result.outcomes[result.outcomes >= 0]
        assert result.metrics["mrr"] == Estimate.of(Metric.parse("mrr"), Metric.parse("mrr").values(ranks))
    assert (report.users.dtype, report.items.dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(report.items, codes(events.items))
    assert "outcomes" not in report.to_dict()["models"]["popularity"]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    ranks = rng.geometric(0.05, (400, 200))
    for name in ("recall@5", "mrr", "ndcg@20"):
        metric = Metric.parse(name)
        truth = metric.values(rng.geometric(0.05, 1_000_000)).mean()
        estimates = [Estimate.of(metric, metric.values(row)) for row in ranks]
        held = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
        assert 0.91 < held < 0.985


def test_intervals_of_few_events():
    recall, mrr = Metric.parse("recall@1"), Metric.parse("mrr")
    assert Estimate.of(recall, np.zeros(10)).low == 0
    assert Estimate.of(recall, np.zeros(10)).high == pytest.approx(0.2775, abs=1e-4)  # Wilson: never just 0
    assert Estimate.of(mrr, np.array([0.5])) == Estimate(0.5, 0.0, 1.0, 1)
    assert math.isnan(Estimate.of(mrr, np.empty(0)).value)


@pytest.mark.parametrize(("n", "window"), [(1, 5), (7, 3), (1000, 30), (5000, 20), (23, 23)])
def test_curves(n, window):
    values = np.random.default_rng(n).random(n)
    curve = Curve.of(values, window)
    assert curve.events[-1] == n
    assert len(curve.events) <= 502
    for end, last, all_of_them in zip(curve.events.astype(int), curve.window, curve.cumulative, strict=True):
        assert last == pytest.approx(values[max(0, end - window) : end].mean())
        assert all_of_them == pytest.approx(values[:end].mean())


@pytest.mark.parametrize("warmup", [0.0, 0.99])
def test_where_nothing_is_scored_there_is_nothing_to_say(warmup):
    events = fi.datasets.Events(users=[1, 2, 3], items=[1, 1, 2], labels=[0, 1, 1])
    names = ["recall@5", "mrr", "auc", "log_loss", "rmse", "coverage@2", "novelty@2"]
    model = fi.Recommender(loss="logistic", dim=4)
    report = fi.evaluate.prequential(model, events, names, warmup=warmup)
    for result in report.models.values():
        assert result.scored == 0
        for name in ("recall@5", "mrr", "coverage@2", "novelty@2"):
            assert math.isnan(result.metrics[name].value)
            assert (result.metrics[name].n, len(result.curves[name].events)) == (0, 0)
    assert report.models["fastinc"].metrics["rmse"].n == (3 if warmup == 0 else 0)  # labels are predicted all the same
    assert np.isnan(report.recall_precision("fastinc", 3)).all()
    for draw in (report.plot, report.plot_recall_precision):
        assert draw().axes
    json.dumps(report.to_dict(), allow_nan=False)
    assert "0 of 3 events" in str(report)
    with pytest.raises(ValueError, match="needs at least 2 users, got 0"):
        fi.evaluate.compare(report, "fastinc", "popularity")
