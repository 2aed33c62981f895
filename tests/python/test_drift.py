"""Drift detectors, and the boost of the learning rate that follows an alarm."""

from __future__ import annotations

import builtins
import math
import sys

import numpy as np
import pytest

import fastinc as fi
from fastinc.drift import Alarm, Detector, LearningRateBoost

pytest.importorskip("river")


def hits(seed, *rates, n=2000):
    rng = np.random.default_rng(seed)
    return [float(hit) for rate in rates for hit in rng.random(n) < rate]


def alarms(detector, values):
    return [i for i, value in enumerate(values) if detector.update(value)]


# --- detectors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adwin", "page-hinkley"])
@pytest.mark.parametrize("seed", range(3))
def test_a_fall_is_found_soon_and_steadiness_is_not(kind, seed):
    found = alarms(Detector(kind), hits(seed, 0.5, 0.2))
    assert found
    assert 2000 <= found[0] < 2600
    assert alarms(Detector(kind), hits(seed, 0.3, 0.3)) == []


@pytest.mark.parametrize("kind", ["adwin", "page-hinkley"])
@pytest.mark.parametrize(("direction", "falls", "rises"), [("down", 1, 0), ("up", 0, 1), ("both", 1, 1)])
def test_directions(kind, direction, falls, rises):
    assert bool(alarms(Detector(kind, direction=direction), hits(1, 0.5, 0.2))) == bool(falls)
    assert bool(alarms(Detector(kind, direction=direction), hits(1, 0.2, 0.5))) == bool(rises)


def test_they_are_rivers():
    from river import drift

    ours, theirs = Detector("adwin", direction="both", delta=0.01), drift.ADWIN(delta=0.01)
    values = hits(5, 0.4, 0.2, 0.5)
    expected = []
    for i, value in enumerate(values):
        theirs.update(value)
        if theirs.drift_detected:
            expected.append(i)
    assert alarms(ours, values) == expected != []
    ours.reset()
    assert alarms(ours, values) == expected
    assert repr(ours) == "Detector('adwin', direction='both', delta=0.01)"


def test_more_sensitive_ones_are_earlier():
    values = hits(2, 0.5, 0.2)
    late, early = (alarms(Detector("page-hinkley", threshold=t), values)[0] for t in (100.0, 20.0))
    assert early < late


@pytest.mark.parametrize(
    ("arguments", "parameters", "error", "message"),
    [
        (("kswin",), {}, ValueError, r"^kind = 'kswin' must be 'adwin' or 'page-hinkley'$"),
        (("adwin",), {"direction": "left"}, ValueError, r"^direction = 'left' must be"),
        (("adwin",), {"threshold": 3.0}, TypeError, r"^Detector\('adwin'\): .*threshold"),
        (("adwin",), {"delta": math.nan}, ValueError, r"^delta = nan is not finite$"),
        (("adwin",), {"delta": "small"}, TypeError, r"^delta = 'small' must be a number$"),
    ],
)
def test_bad_detectors(arguments, parameters, error, message):
    with pytest.raises(error, match=message):
        Detector(*arguments, **parameters)


def test_bad_values():
    with pytest.raises(ValueError, match=r"^value = nan is not finite$"):
        Detector().update(math.nan)
    with pytest.raises(TypeError, match=r"^value = 'a' must be a number$"):
        Detector().update("a")


def test_a_missing_river_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "river"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def importing(name, *more):
        if name.partition(".")[0] == "river":
            raise ModuleNotFoundError("No module named 'river'", name="river")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(ImportError, match=r"fi\.drift\.Detector needs river.*pip install 'fastinc\[drift\]'"):
        Detector()


# --- the boost ----------------------------------------------------------------------------------------------


class At:
    """A detector that goes off at given values."""

    def __init__(self, *at):
        self.at = at
        self.reset()

    def reset(self):
        self.seen = 0

    def update(self, value):
        self.seen += 1
        return self.seen - 1 in self.at


def test_an_alarm_raises_the_rate_for_so_many_events():
    model = fi.Recommender(dim=4, optimizer=fi.SGD(lr=0.1)).partial_fit([1, 1], [10, 11], timestamps=[3.0, 4.0])
    boost = LearningRateBoost(At(5), factor=3.0, events=2).watch(model)
    assert boost.update([1, 0, 1]) is None
    alarm = boost.update([0, 0, 0, 0])
    assert alarm == Alarm(event=2, time=4.0, metric="recall@10", factor=3.0, events=2)
    assert str(alarm) == "alarm at event 2: learning rate x 3 for 2 events"
    assert boost.alarms == (alarm,)
    rates = []
    for item in (12, 13, 14):
        rates.append(model.learning_rate)
        model.partial_fit([1], [item])
    assert rates == [0.1 * 3.0, 0.1 * 3.0, 0.1]
    assert model.optimizer.lr == 0.1


def test_alarms_do_not_add_up():
    model = fi.Recommender(dim=4, optimizer=fi.SGD(lr=0.1))
    boost = LearningRateBoost(At(0, 1, 2), factor=3.0, events=10).watch(model)
    boost.update([0, 0])
    boost.update(0)
    assert model.learning_rate == 0.1 * 3.0
    assert len(boost.alarms) == 2
    boost.watch(model)
    assert boost.alarms == ()
    assert boost.detector.seen == 0


def test_alarms_are_in_the_report_and_the_stream_is_learned_as_said():
    stream = fi.datasets.synthetic(4000, n_users=100, n_items=200, seed=2)

    def model():
        return fi.Recommender(dim=8, optimizer=fi.SGD(lr=0.05), batch_size=1)

    boosted = model()
    boost = LearningRateBoost(At(500), factor=2.0, events=350)
    report = fi.evaluate.prequential(boosted, stream, ["recall@10"], baselines=False, adapt=boost)
    (alarm,) = report.models["fastinc"].found
    assert boost.alarms == (alarm,)
    assert alarm.event % 100 == 0
    assert f"fastinc: {alarm}" in str(report)
    assert "watched by LearningRateBoost(" in report.protocol
    assert report.to_dict()["models"]["fastinc"]["found"] == [{"kind": "alarm", **vars(alarm)}]

    by_hand, ordered = model(), stream.sorted()
    by_hand.partial_fit_events(ordered[: alarm.event])
    by_hand.optimizer.lr = 0.1
    by_hand.partial_fit_events(ordered[alarm.event : alarm.event + 350])
    by_hand.optimizer.lr = 0.05
    by_hand.partial_fit_events(ordered[alarm.event + 350 :])
    rows = [one.item_table.lookup(range(one.n_items)).tobytes() for one in (boosted, by_hand)]
    assert rows[0] == rows[1]


def test_a_guard_and_a_boost_together():
    stream = fi.datasets.synthetic(3000, n_users=100, n_items=200, seed=2)
    guard = fi.Guard(window=200, snapshot_every=100, action="warn", margin=0.99)
    boost = LearningRateBoost(At(500))
    report = fi.evaluate.prequential(fi.Recommender(dim=8), stream, ["mrr"], baselines=False, guard=guard, adapt=boost)
    assert report.models["fastinc"].found == boost.alarms
    assert guard._seen == boost.detector.seen == report.models["fastinc"].scored


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"detector": None}, TypeError, r"^detector = None must be a fastinc\.drift\.Detector$"),
        ({"factor": 0.0}, ValueError, r"^factor = 0\.0 must be finite and > 0$"),
        ({"factor": math.inf}, ValueError, r"^factor = inf must be"),
        ({"events": 0}, ValueError, r"^events = 0 must be at least 1$"),
        ({"metric": "hits"}, ValueError, r"^metrics must be among recall@k"),
    ],
)
def test_bad_boosts(options, error, message):
    with pytest.raises(error, match=message):
        LearningRateBoost(**{"detector": At(1), **options})


def test_what_cannot_be_boosted():
    with pytest.raises(TypeError, match=r"^model must be a fastinc\.Recommender, got Popularity$"):
        LearningRateBoost(At(1)).watch(fi.baselines.Popularity())
