"""Predicted labels: what is predicted when, and AUC, log loss and rmse against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _evaluate import Lists, Scripted, alone, as_strings, stream
from fastinc.evaluate import Estimate
from fastinc.evaluate.labels import auc, auc_curve, label_curve, label_estimate
from fastinc.evaluate.metrics import Metric


@pytest.fixture(scope="module")
def clicks():
    events = fi.datasets.synthetic(2500, 60, 200, seed=3).sorted()
    return stream(
        events.users, events.items, labels=np.random.default_rng(0).random(2500) < 0.7, timestamps=events.timestamps
    )


def learner(loss):
    return fi.Recommender(dim=8, loss=loss, batch_size=1, seed=1)


def reference_predictions(model, events, warm_up):
    """One event after the other by the public methods."""
    out = np.full(len(events), np.nan, dtype=np.float32)
    for i in range(len(events)):
        at = None if events.timestamps is None else events.timestamps[i]
        users, items, labels = events.users[i : i + 1], events.items[i : i + 1], events.labels[i : i + 1]
        if i >= warm_up:
            out[i] = model.predict(users, items, at=at)[0]
        model.partial_fit(users, items, labels, None if at is None else [at])
    return out


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("loss", ["logistic", "mse"])
def test_every_label_is_predicted_before_its_event_is_learned(clicks, loss, strings):
    events = as_strings(clicks) if strings else clicks
    metrics = ["auc", "rmse", "recall@10", *(["log_loss"] if loss == "logistic" else [])]
    result = alone(learner(loss), events, metrics=metrics, warmup=0.2, window=200)
    expected = reference_predictions(learner(loss), events, 500)
    np.testing.assert_array_equal(result.predictions, expected)
    assert result.outcomes.min() == fi._core.PrequentialRun.REPEAT or result.skipped["no_history"] > 0
    for name in ("auc", "rmse"):
        assert result.metrics[name].n == 2000  # skipped ones, too
        assert result.curves[name].events[-1] == 2000
        assert result.curves[name].cumulative[-1] == pytest.approx(result.metrics[name].value)
    y, p = events.labels[500:].astype(float), expected[500:].astype(float)
    assert result.metrics["rmse"].value == pytest.approx(np.sqrt(np.mean((y - p) ** 2)))
    if loss == "logistic":
        assert result.metrics["log_loss"].value == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    plain = alone(learner(loss), events, metrics=["recall@10"], warmup=0.2, window=200)
    np.testing.assert_array_equal(plain.outcomes, result.outcomes)  # to predict is not to learn
    assert plain.predictions is None


def test_a_model_of_labels_beats_chance():
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 30, 6000), rng.integers(0, 20, 6000)
    likes = rng.random((30, 20)) < 0.5
    events = stream(users, items, labels=likes[users, items])
    model = fi.Recommender(dim=16, loss="logistic", user="both", seed=1)
    result = alone(model, events, metrics=["auc", "log_loss", "rmse"], warmup=0.3)
    assert result.metrics["auc"].low > 0.6
    assert result.metrics["log_loss"].high < math.log(2)
    assert result.metrics["rmse"].high < 0.5


def test_models_without_predictions_show_none(clicks):
    report = fi.evaluate.prequential(learner("logistic"), clicks, ["auc", "log_loss", "rmse", "recall@10"])
    for name in ("popularity", "item-kNN", "item-kNN (recency)"):
        for metric in ("auc", "log_loss", "rmse"):
            estimate = report.models[name].metrics[metric]
            assert math.isnan(estimate.value)
            assert estimate.n == 0
            assert len(report.models[name].curves[metric].events) == 0
        assert report.models[name].metrics["recall@10"].value > 0
    line = next(line for line in str(report).splitlines() if line.startswith("popularity"))
    assert line.split()[1:4] == ["-", "-", "-"]
    assert "predicted labels: every event after the warm-up" in report.protocol
    assert "predicted labels" not in fi.evaluate.prequential(learner("mse"), clicks, baselines=False).protocol


class PredictingLists(Lists):
    uses_labels = True

    def predict(self, users, items, at=None):
        return self.model.predict(users, items, at=at)


def test_other_models_are_asked_for_predictions_too(clicks):
    metrics = ["auc", "log_loss", "rmse"]
    engine = alone(learner("logistic"), clicks, metrics=metrics, warmup=0.1)
    lists = alone(PredictingLists(learner("logistic")), clicks, metrics=metrics, warmup=0.1)
    np.testing.assert_array_equal(lists.predictions, engine.predictions)
    assert lists.metrics == engine.metrics


def brute_auc(labels, predictions):
    positive, negative = predictions[labels > 0], predictions[labels <= 0]
    if not len(positive) or not len(negative):
        return math.nan
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


labelled = st.lists(st.tuples(st.sampled_from([0.0, 1.0, -2.0, 0.5]), st.integers(0, 5)), min_size=1, max_size=40)


@given(labelled, st.integers(1, 12))
def test_auc_counts_pairs_and_ties(events, window):
    labels, predictions = (np.array(column, dtype=np.float32) for column in zip(*events, strict=True))
    assert auc(labels, predictions).value == pytest.approx(brute_auc(labels, predictions), nan_ok=True)
    curve = auc_curve(labels, predictions, window)
    for end, last, total in zip(curve.events.astype(int), curve.window, curve.cumulative, strict=True):
        part = slice(max(0, end - window), end)
        assert last == pytest.approx(brute_auc(labels[part], predictions[part]), nan_ok=True)
        assert total == pytest.approx(brute_auc(labels[:end], predictions[:end]), nan_ok=True)


def test_the_interval_of_auc_is_delongs_and_holds():
    rng = np.random.default_rng(2)

    def draw(n):
        labels = (rng.random(n) < 0.3).astype(np.float32)
        return labels, np.round(rng.normal(labels * 0.8), 1).astype(np.float32)

    labels, predictions = draw(60)
    estimate = auc(labels, predictions)
    positive, negative = predictions[labels > 0][:, None], predictions[labels <= 0][None, :]
    wins = (positive > negative) + 0.5 * (positive == negative)
    of_positive, of_negative = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_positive.var(ddof=1) / len(of_positive) + of_negative.var(ddof=1) / len(of_negative)
    assert estimate.high - estimate.value == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-5)
    truth = auc(*draw(1_000_000)).value
    held = np.mean([e.low <= truth <= e.high for e in (auc(*draw(200)) for _ in range(400))])
    assert 0.91 < held < 0.985
    assert auc(np.float32([1, 0, 0]), np.float32([3, 2, 1])) == Estimate(1.0, 0.0, 1.0, 3)  # one positive says little
    assert math.isnan(auc(np.float32([1, 1]), np.float32([3, 2])).value)


def test_predictions_that_are_not_finite_count_as_the_worst():
    labels, predictions = np.float32([1, 0, 1, 0]), np.float32([0.8, 0.1, np.nan, np.inf])
    assert auc(labels, predictions).value == 1 / 4  # only the first two are in order
    loss = label_estimate(Metric.parse("log_loss"), labels, predictions).value
    assert loss == pytest.approx(np.mean([-np.log(0.8), -np.log(0.9), *[23 * np.log(2)] * 2]), rel=1e-6)
    rmse = label_estimate(Metric.parse("rmse"), labels, predictions)
    assert rmse.value == math.inf
    assert math.isnan(rmse.low)
    curve = label_curve(Metric.parse("rmse"), labels, predictions, window=1)
    np.testing.assert_allclose(curve.window, [0.2, 0.1, np.inf, np.inf], rtol=1e-6)
    assert str(rmse) == "inf"


@pytest.mark.parametrize("name", ["log_loss", "rmse"])
def test_windows_of_errors(name):
    rng = np.random.default_rng(4)
    labels, predictions = rng.random((2, 300)).astype(np.float32)
    metric = Metric.parse(name)
    curve = label_curve(metric, labels, predictions, window=30)
    for end, last, total in zip(curve.events.astype(int), curve.window, curve.cumulative, strict=True):
        part = slice(max(0, end - 30), end)
        assert last == pytest.approx(label_estimate(metric, labels[part], predictions[part]).value)
        assert total == pytest.approx(label_estimate(metric, labels[:end], predictions[:end]).value)


def test_the_interval_of_rmse_holds():
    rng = np.random.default_rng(6)
    metric, held = Metric.parse("rmse"), []
    for _ in range(300):
        errors = rng.normal(size=300).astype(np.float32)
        estimate = label_estimate(metric, np.zeros(300, dtype=np.float32), errors)
        held.append(estimate.low <= 1 <= estimate.high)
    assert 0.9 < np.mean(held) < 0.985


UNLABELLED = stream([1, 2, 1], [5, 6, 6])
LABELLED = stream([1, 2, 1], [5, 6, 6], labels=[1, 0, 1])


@pytest.mark.parametrize(
    ("model", "events", "metric", "message"),
    [
        (lambda: learner("logistic"), UNLABELLED, "auc", "'auc' needs events with labels"),
        (
            lambda: learner("softmax"),
            LABELLED,
            "auc",
            "'auc' needs a model that predicts labels, with loss='logistic' or 'mse'",
        ),
        (fi.baselines.Popularity, LABELLED, "rmse", "'rmse' needs a model that predicts labels, .*got Popularity"),
        (lambda: Scripted([1], [1.0]), LABELLED, "auc", "'auc' needs a model .* a method predict; got Scripted"),
        (lambda: learner("mse"), LABELLED, "log_loss", "'log_loss' needs probabilities: loss='logistic'"),
        (
            lambda: learner("mse"),
            stream([1, 2], [5, 6], labels=[1, 5]),
            "log_loss",
            r"'log_loss' needs labels in \[0, 1\], got 5.0 at position 1",
        ),
        (lambda: learner("mse"), stream([1, 2], [5, 6], labels=[1, 5]), "auc", "all of these are above 0"),
        (lambda: learner("mse"), stream([1, 2], [5, 6], labels=[0, -5]), "auc", "all of these are at most 0"),
    ],
)
def test_what_a_metric_lacks_is_said_before_anything_is_learned(model, events, metric, message):
    model = model()
    with pytest.raises(ValueError, match=message):
        fi.evaluate.prequential(model, events, metrics=[metric])
    assert getattr(model, "n_events", 0) == 0


def test_the_engine_refuses_predictions_that_a_model_does_not_make():
    codes, out = np.array([0, 1]), np.empty(2, dtype=np.float32)
    core = fi._core.Popularity(10)
    run = fi._core.PrequentialRun(0, True)
    with pytest.raises(ValueError, match="predicts no labels"):
        run.run(core, codes, codes, None, None, None, predictions=out)
    with pytest.raises(ValueError, match="predictions"):
        run.run(core, codes, codes, None, None, None, predictions=out[:1])
    assert (run.position, core.event_count, core.prediction) == (0, 0, None)
    assert [learner(loss)._core.prediction for loss in ("softmax", "logistic", "mse")] == [None, "probability", "label"]
