"""Paired comparisons: the difference by hand, how wide its interval is, what it refuses."""

import numpy as np
import pytest

import fastinc as fi
from _evaluate import stream
from fastinc.evaluate import PrequentialReport, compare
from fastinc.evaluate.metrics import Metric


@pytest.fixture(scope="module")
def synthetic():
    return fi.datasets.synthetic(4000, 80, 200, seed=2, labels=True)


@pytest.fixture(scope="module")
def report(synthetic):
    return fi.evaluate.prequential(fi.Recommender(dim=8), synthetic, ["recall@10", "ndcg@10"], window=500)


@pytest.mark.parametrize("by", ["users", "time"])
@pytest.mark.parametrize("metric", [None, "ndcg@10", "mrr", "precision@3"])
def test_the_difference_is_that_of_the_metrics(report, metric, by):
    found = compare(report, "fastinc", "popularity", metric, by=by, samples=300)
    parsed = Metric.parse(metric or "recall@10")
    one, two = (
        parsed.values(outcomes[(outcomes >= 0)])
        for outcomes in (report.models[name].outcomes for name in ("fastinc", "popularity"))
    )
    assert found.difference == pytest.approx(one.mean() - two.mean())
    assert found.n == len(one) == report.models["fastinc"].scored
    assert found.low < found.difference < found.high
    assert found.metric == parsed.name
    assert found.by == by
    backwards = compare(report, "popularity", "fastinc", metric, by=by, samples=300)
    assert backwards.difference == -found.difference
    assert (backwards.low, backwards.high) == pytest.approx((-found.high, -found.low))
    assert str(found).startswith(f"{parsed.name}: fastinc - popularity = ")


def test_seeds_and_what_is_resampled(report):
    one, same, another = (compare(report, "fastinc", "popularity", samples=200, seed=seed) for seed in (1, 1, 2))
    assert one == same != another
    scored = report.models["fastinc"].outcomes >= 0
    assert one.units == len(np.unique(report.users[scored]))
    by_time = compare(report, "fastinc", "popularity", by="time", samples=200)
    assert by_time.units == int(np.ceil(by_time.n / np.ceil(np.sqrt(by_time.n))))


def made(users, first, second):
    """Return a report of two models with the ranks given."""
    events = stream(users, np.zeros(len(users), dtype=int))
    base = fi.evaluate.prequential(fi.baselines.Popularity(), events, ["recall@1"], baselines=False, warmup=0.0)
    (result,) = base.models.values()

    def having(name, ranks):
        return type(result)(**{**vars(result), "name": name, "outcomes": np.asarray(ranks, dtype=np.int32)})

    models = {"first": having("first", first), "second": having("second", second)}
    return PrequentialReport(models, "", "made", ("recall@1",), 100, base.users, base.items)


def test_two_models_that_are_the_same_do_not_differ(report):
    found = compare(report, "fastinc", "fastinc", samples=200)
    assert (found.difference, found.low, found.high, found.above_zero, found.p_value) == (0, 0, 0, 0, 1)


def test_a_clear_difference_is_clear():
    users = np.repeat(np.arange(40), 20)
    found = compare(made(users, np.ones(800), np.full(800, 2)), "first", "second")
    assert (found.difference, found.low, found.high, found.above_zero) == (1, 1, 1, 1)
    assert found.p_value == pytest.approx(2 / 2001)


def test_events_of_a_user_who_are_alike_are_worth_one():
    """The cluster bootstrap's width is that of as many events as there are users."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 25)
    of_user = rng.integers(1, 3, 200)
    ranks = np.repeat(of_user, 25)  # each user's events all hit or all miss
    found = compare(made(users, ranks, np.full(5000, 2)), "first", "second")
    hits = (of_user == 1).astype(float)
    assert found.high - found.low == pytest.approx(2 * 1.96 * hits.std() / np.sqrt(200), rel=0.1)
    shuffled = rng.permutation(ranks)  # the same events, but a user's are as different as all are
    alike = compare(made(users, shuffled, np.full(5000, 2)), "first", "second")
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * hits.std() / np.sqrt(5000), rel=0.15)


def test_stretches_of_time_that_are_alike_widen_the_interval():
    rng = np.random.default_rng(1)
    users = rng.integers(0, 500, 5000)
    runs = np.repeat(rng.integers(1, 3, 100), 50)  # 50 events in a row alike, whoever they are of
    report = made(users, runs, np.full(5000, 2))
    by_users, by_time = (compare(report, "first", "second", by=by) for by in ("users", "time"))
    assert by_time.high - by_time.low > 3 * (by_users.high - by_users.low)


@pytest.mark.parametrize("by", ["users", "time"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(by):
    rng = np.random.default_rng(2)
    held, sure = [], []
    for seed in range(60):
        users = np.repeat(np.arange(60), 10)
        taste = rng.random(60)
        ranks = [1 + (rng.random(600) < taste[users]) for _ in range(2)]  # both hit as often
        found = compare(made(rng.permutation(users), *ranks), "first", "second", by=by, samples=300, seed=seed)
        held.append(found.low <= 0 <= found.high)
        sure.append(found.p_value < 0.05)
    assert np.mean(held) > 0.85
    assert np.mean(sure) < 0.15


def test_two_reports_of_the_same_events(synthetic, report):
    wider = fi.evaluate.prequential(fi.Recommender(dim=32, seed=5), synthetic, ["mrr"], baselines=False)
    found = compare(report, "fastinc", "fastinc", other=wider, metric="recall@10", samples=200)
    outcomes = [of.models["fastinc"].outcomes for of in (report, wider)]
    hits = [((of > 0) & (of <= 10))[of >= 0].mean() for of in outcomes]
    assert found.difference == pytest.approx(hits[0] - hits[1])


def test_errors_of_labels_can_be_compared(synthetic):
    labels = (synthetic.labels > 2).astype(np.float32)
    events = stream(synthetic.users, synthetic.items, labels=labels, timestamps=synthetic.timestamps)
    logistic, mse = (
        fi.evaluate.prequential(fi.Recommender(dim=4, loss=loss), events, metrics)
        for loss, metrics in (("logistic", ["log_loss", "rmse"]), ("mse", ["rmse"]))
    )
    found = compare(logistic, "fastinc", "fastinc", "rmse", other=mse, samples=200)
    values = [of.models["fastinc"].metrics["rmse"] for of in (logistic, mse)]
    assert found.difference == pytest.approx(values[0].value - values[1].value)
    assert found.n == values[0].n == 3200
    assert compare(logistic, "fastinc", "fastinc", samples=200).metric == "log_loss"
    with pytest.raises(ValueError, match="'rmse' needs predicted labels, and 'popularity' has none"):
        compare(logistic, "fastinc", "popularity", "rmse")


def test_what_cannot_be_compared_is_said(synthetic, report):
    for arguments, options, message in (
        (("mine", "popularity"), {}, "name must be a model of the report .*got 'mine'"),
        (("fastinc", "mine"), {}, "got 'mine'"),
        (("fastinc", "popularity", "auc"), {}, "'auc' is no mean over events"),
        (("fastinc", "popularity", "coverage@3"), {}, "'coverage@3' is no mean over events"),
        (("fastinc", "popularity", "rmse"), {}, "'rmse' needs predicted labels"),
        (("fastinc", "popularity", "hits"), {}, "got 'hits'"),
        (("fastinc", "popularity"), {"by": "items"}, "by = 'items' must be 'users' or 'time'"),
        (("fastinc", "popularity"), {"samples": 5}, "samples = 5 must be at least 100"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(report, *arguments, **options)
    options = {"metrics": ["recall@10"], "baselines": False}
    fewer = fi.evaluate.prequential(fi.baselines.Popularity(), synthetic[:3000], **options)
    later = fi.evaluate.prequential(fi.baselines.Popularity(), synthetic, warmup=0.5, **options)
    with pytest.raises(ValueError, match="other must be a report of the same events"):
        compare(report, "fastinc", "popularity", other=fewer)
    with pytest.raises(ValueError, match="other must have scored the same events"):
        compare(report, "fastinc", "popularity", other=later)
    with pytest.raises(ValueError, match="this one kept no events"):
        compare(report, "fastinc", "fastinc", other=PrequentialReport(report.models, "", "", ("mrr",), 5))
    with pytest.raises(ValueError, match="by='users' needs at least 2 users, got 1"):
        compare(made(np.zeros(50, dtype=int), np.ones(50), np.ones(50)), "first", "second")
