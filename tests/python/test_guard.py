"""The guard: when it acts, what it goes back to, and that a poisoned stream doesn't ruin a model that has one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import fastinc as fi
from _reference import PLAIN_RECOMMENDER


class Logbook:
    """A model that notes what is asked of it; a snapshot is the number of events then."""

    def __init__(self):
        self.n_events = 0
        self.taken = []
        self.restored = []
        self.frozen = False

    def snapshot(self):
        self.taken.append(self.n_events)
        return self.n_events

    def restore(self, snapshot):
        self.restored.append(snapshot)


def feed(guard, model, *levels, step=10):
    """100 values at each level, in updates of `step`."""
    incidents = []
    for level in levels:
        hits = np.arange(100) % 10 < round(level * 10)  # every ten of them have this mean
        for begin in range(0, 100, step):
            model.n_events += step
            incidents.append(guard.update(hits[begin : begin + step]))
    return [incident for incident in incidents if incident is not None]


def guard_of(**more):
    model = Logbook()
    options = {"window": 100, "margin": 0.25, "patience": 2, "snapshot_every": 20, **more}
    return fi.Guard(**options).watch(model), model


# --- when it acts -------------------------------------------------------------------------------------------


def test_nothing_happens_while_the_level_holds():
    guard, model = guard_of()
    assert feed(guard, model, 0.4, 0.5, 0.4, 0.4, 0.6, 0.5) == []
    assert guard.incidents == ()
    assert model.restored == []
    assert not guard.stopped


def test_a_fall_is_acted_on_after_so_many_bad_checks_in_a_row():
    guard, model = guard_of(patience=3)
    feed(guard, model, 0.8, 0.8)
    (incident,) = feed(guard, model, 0.0)
    # levels at the checks: .64, .48 (below .6), .32, .16: the third bad one
    assert (incident.event, incident.metric, incident.action) == (280, "recall@10", "rollback")
    assert incident.level == pytest.approx(0.16)
    assert incident.best == pytest.approx(0.8)
    assert guard.incidents == (incident,)


def test_one_bad_check_is_forgiven():
    guard, model = guard_of(patience=2)
    feed(guard, model, 0.8)
    for value in ([0] * 30, [1] * 100):
        for begin in range(0, len(value), 10):
            assert guard.update(value[begin : begin + 10]) is None
    assert model.restored == []


def test_one_dip_is_one_incident():
    guard, model = guard_of()
    feed(guard, model, 0.8, 0.8)
    assert len(feed(guard, model, 0.0, 0.8, 0.8, 0.8)) == 1
    assert len(model.restored) == 1
    (again,) = feed(guard, model, 0.0)  # a second dip is another one
    assert again.action == "rollback"


def test_a_level_that_stays_low_is_accepted_in_the_end():
    guard, model = guard_of(repeats=2)
    feed(guard, model, 0.8, 0.8)
    incidents = feed(guard, model, *[0.3] * 6)
    assert [incident.action for incident in incidents] == ["rollback", "rollback", "accept"]
    assert len(model.restored) == 2
    assert feed(guard, model, *[0.3] * 4) == []
    (worse,) = feed(guard, model, 0.0)
    assert worse.best == pytest.approx(0.3)


# --- what it goes back to -----------------------------------------------------------------------------------


def test_it_goes_back_to_a_snapshot_that_a_whole_window_has_proven():
    guard, model = guard_of()
    feed(guard, model, 0.8, 0.8, 0.8)
    proven = [taken for taken in model.taken if taken <= 200][-1]
    (incident,) = feed(guard, model, 0.0)
    assert model.restored == [proven]
    assert proven <= incident.event - 100


def test_the_first_snapshot_is_of_the_beginning():
    guard, model = guard_of()
    assert model.taken == [0]
    feed(guard, model, 0.8)
    assert len(feed(guard, model, 0.0)) == 1
    assert model.restored == [0]


def test_memory_is_two_snapshots():
    guard, model = guard_of()
    feed(guard, model, *[0.8] * 20)
    assert len(model.taken) == 21  # one a window
    assert {guard._proven, guard._fresh} == set(model.taken[-2:])


def test_stopping_goes_back_and_freezes():
    guard, model = guard_of(action="stop")
    feed(guard, model, 0.8, 0.8)
    (incident,) = feed(guard, model, 0.0, 0.0, 0.0, 0.0)
    assert incident.action == "stop"
    assert guard.stopped
    assert model.frozen
    assert len(model.restored) == 1


def test_a_warning_leaves_the_model_alone():
    guard, model = guard_of(action="warn")
    feed(guard, model, 0.8, 0.8)
    (incident,) = feed(guard, model, 0.0)
    assert incident.action == "warn"
    assert model.taken == model.restored == []
    assert not model.frozen
    fi.Guard(action="warn").watch(fi.baselines.Popularity())


def test_watching_begins_anew():
    guard, model = guard_of()
    feed(guard, model, 0.8, 0.8, 0.0)
    guard.watch(model)
    assert guard.incidents == ()
    assert feed(guard, model, 0.1, 0.1) == []


def test_events_and_times_are_the_models_unless_given():
    model = fi.Recommender(dim=4).partial_fit([1, 1], [10, 11], timestamps=[5.0, 7.5])
    guard = fi.Guard(window=10, snapshot_every=1, patience=1).watch(model)
    guard.update([1] * 10)
    incident = guard.update([0] * 10)
    assert (incident.event, incident.time) == (2, 7.5)
    guard.update([1] * 10)
    incident = guard.update([0] * 10, event=99, time=1.25)
    assert (incident.event, incident.time) == (99, 1.25)
    assert str(incident) == "rollback at event 99: recall@10 0.0000, best 1.0000"


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "clicks"}, r"^metrics must be among recall@k.* got 'clicks'$"),
        ({"window": 0}, r"^window = 0 must be at least 1$"),
        ({"margin": 0.0}, r"^margin = 0\.0 must be above 0 and below 1$"),
        ({"margin": 1.0}, r"^margin = 1\.0 must be"),
        ({"margin": math.nan}, r"^margin = nan must be"),
        ({"patience": 0}, r"^patience = 0 must be"),
        ({"action": "reboot"}, r"^action = 'reboot' must be 'rollback' or 'stop' or 'warn'$"),
        ({"snapshot_every": 0}, r"^snapshot_every = 0 must be"),
        ({"repeats": 0}, r"^repeats = 0 must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fi.Guard(**options)


def test_bad_values_are_not_noted():
    guard, _ = guard_of()
    for values, message in (
        ([1.0, math.nan], r"^values\[1\] = nan is not finite$"),
        ([[1.0]], r"^values has shape \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            guard.update(values)
    assert len(guard._values) == 0
    with pytest.raises(ValueError, match=r"watch\(model\) comes before update\(\)$"):
        fi.Guard().update(1)
    with pytest.raises(TypeError, match=r"must be a fastinc\.Recommender for action='rollback', got ItemKNN"):
        fi.Guard().watch(fi.baselines.ItemKNN())
    assert guard.update(1) is None  # one value is a list of one


# --- in an evaluation ---------------------------------------------------------------------------------------

N = 24_000
POISON = (14_000, 17_000)


@pytest.fixture(scope="module")
def stream():
    return fi.datasets.synthetic(N, n_users=300, n_items=400, seed=4)


def run(events, **more):
    model = fi.Recommender(dim=16, optimizer=fi.Adagrad(lr=0.12, initial_accumulator_value=0.1), **PLAIN_RECOMMENDER)
    report = fi.evaluate.prequential(model, events, ["recall@10"], window=2000, baselines=False, **more)
    return report, model


def tail(report):
    """Recall over the last window, which is long after the poison."""
    return float(report.models["fastinc"].curves["recall@10"].window[-1])


def guard_for_stream(**more):
    return fi.Guard(**{"window": 1500, "snapshot_every": 250, "margin": 0.3, **more})


def test_no_incident_on_a_clean_stream(stream):
    plain, _ = run(stream)
    guard = guard_for_stream()
    watched, _ = run(stream, guard=guard)
    assert guard.incidents == watched.models["fastinc"].found == ()
    for name in ("window", "cumulative"):  # and being looked at changes nothing
        np.testing.assert_array_equal(
            getattr(watched.models["fastinc"].curves["recall@10"], name),
            getattr(plain.models["fastinc"].curves["recall@10"], name),
        )


class TooFast:
    """What a slip of an operator does: the learning rate is a hundred times too high for a while."""

    def __init__(self, model):
        self.model, self.right = model, model.optimizer.lr

    def __call__(self, name, done, total):
        wrong = POISON[0] <= done < POISON[1]
        self.model.optimizer.lr = 100 * self.right if wrong else self.right


def run_too_fast(stream, **more):
    model = fi.Recommender(dim=16, **PLAIN_RECOMMENDER)
    report = fi.evaluate.prequential(
        model, stream, ["recall@10"], window=2000, baselines=False, progress=TooFast(model), **more
    )
    return report, model


def test_a_learning_rate_that_was_too_high_for_a_while(stream):
    clean = tail(run(stream)[0])
    ruined = tail(run_too_fast(stream)[0])
    report, _ = run_too_fast(stream, guard=guard_for_stream())
    saved = tail(report)
    assert ruined < 0.6 * clean
    assert saved > 0.85 * clean
    found = report.models["fastinc"].found
    assert found[0].action == "rollback"
    assert POISON[0] < found[0].event < POISON[1]
    assert all(POISON[0] < incident.event < POISON[1] + 4000 for incident in found)


def test_stopping_keeps_what_was_good(stream):
    report, model = run_too_fast(stream, guard=guard_for_stream(action="stop"))
    assert [incident.action for incident in report.models["fastinc"].found] == ["stop"]
    assert model.frozen
    assert tail(report) > 1.25 * tail(run_too_fast(stream)[0])


def test_incidents_are_in_the_report(stream):
    report, _ = run_too_fast(stream, guard=guard_for_stream())
    first = report.models["fastinc"].found[0]
    assert f"fastinc: {first}" in str(report)
    assert "watched by Guard(metric='recall@10', window=1500" in report.protocol
    told = json.loads(json.dumps(report.to_dict()))["models"]["fastinc"]["found"][0]
    assert told == {"kind": "incident", **vars(first)}
    assert told["time"] == stream.timestamps[first.event - 1]


def test_a_guard_for_lists(stream):
    """Any model can be warned of; the metric of the guard need not be among those of the report."""

    class Popular:
        uses_labels = False

        def __init__(self):
            self.model = fi.baselines.Popularity()

        def partial_fit(self, users, items, labels=None, timestamps=None):
            self.model.partial_fit(users, items, timestamps=timestamps)

        def recommend(self, users, k=10, at=None, exclude_seen=True):
            assert k == 20
            return self.model.recommend(users, k=k, at=at, exclude_seen=exclude_seen)

    guard = fi.Guard("recall@20", window=500, snapshot_every=100, margin=0.9, action="warn")
    fi.evaluate.prequential(Popular(), stream[:2000], ["recall@10"], baselines=False, guard=guard)
    assert guard._seen > 1000
    with pytest.raises(ValueError, match="'mrr' needs the rank among all items"):
        fi.evaluate.prequential(Popular(), stream[:2000], ["recall@10"], guard=fi.Guard("mrr", action="warn"))


def test_what_is_no_guard(stream):
    for argument in ("guard", "adapt"):
        with pytest.raises(TypeError, match=rf"^{argument} must be a fastinc.Guard or"):
            run(stream, **{argument: "please"})
