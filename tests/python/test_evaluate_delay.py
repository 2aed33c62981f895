"""Labels that become known later: who has learned what when, in the engine and outside of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _evaluate import Lists, Scripted, alone, stream


class Recorder(Scripted):
    """Writes down every call in order."""

    def __init__(self):
        super().__init__([99], [1.0])
        self.calls = []

    def partial_fit(self, users, items, labels=None, timestamps=None):
        self.calls += [("learn", at) for at in timestamps.tolist()]

    def recommend(self, users, k=10, at=None, exclude_seen=True):
        self.calls.append(("rank", at))
        return self.answer


def reference_calls(events, warm_up, delay):
    """The rule, word by word. All events are of one user, who is known from the second on."""
    times = events.timestamps.tolist()
    waiting, calls = [], []
    for i, now in enumerate(times):
        if i >= warm_up:
            while waiting and waiting[0] + delay <= now:
                calls.append(("learn", waiting.pop(0)))
            calls += [("rank", now)] * (i > 0)
        waiting.append(now)
    return calls + [("learn", at) for at in waiting]


@given(
    st.lists(st.sampled_from([0, 0, 0.5, 1, 2, 7]), min_size=1, max_size=30),
    st.sampled_from([0.25, 1.0, 2.5, 40.0]),
    st.sampled_from([0.0, 0.3]),
)
def test_events_are_learned_before_the_first_ranking_at_which_they_are_known(gaps, delay, warmup):
    times = np.cumsum(gaps)
    n = len(times)
    events = stream(np.zeros(n, dtype=int), np.arange(n), timestamps=times)
    model = Recorder()
    result = alone(model, events, delay=delay, warmup=warmup, metrics=["recall@3", "coverage@3"])
    warm_up = round(warmup * n)
    expected = reference_calls(events, warm_up, delay)
    learned = [call for call in model.calls if call[0] == "learn"]
    assert learned == [("learn", at) for at in times.tolist()]  # all of them, in order

    def known_at_rankings(calls):
        return [(at, [c for c in calls[:i] if c[0] == "learn"]) for i, (what, at) in enumerate(calls) if what == "rank"]

    assert known_at_rankings(model.calls) == known_at_rankings(expected)
    assert result.scored == max(0, n - max(warm_up, 1))


def test_without_a_delay_each_event_is_learned_before_the_next():
    events = stream([1, 1, 2, 2, 1], [5, 6, 5, 6, 7], timestamps=[0, 1, 1, 1, 2])
    model = Recorder()
    alone(model, events)
    assert model.calls == [
        *[("learn", 0), ("learn", 1), ("learn", 1)],
        *[("rank", 1), ("learn", 1), ("learn", 2)],
    ]


@pytest.fixture(scope="module")
def synthetic():
    return fi.datasets.synthetic(3000, 60, 250, seed=2, labels=True)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("delay", [0.0, 30.0, 3600.0, 1e6, 1e9])
def test_lists_and_engine_agree(synthetic, delay, exclude_seen):
    metrics = ["recall@10", "ndcg@5", "coverage@5", "novelty@5"]
    options = {"metrics": metrics, "warmup": 0.1, "delay": delay, "exclude_seen": exclude_seen}
    for make in (fi.baselines.Popularity, lambda: fi.baselines.ItemKNN(recency="rank")):
        engine, lists = alone(make(), synthetic, **options), alone(Lists(make()), synthetic, **options)
        assert engine.metrics == lists.metrics
        assert (engine.scored, engine.skipped, engine.new_items) == (lists.scored, lists.skipped, lists.new_items)


def test_the_engine_learns_what_the_rule_says(synthetic):
    """Event by event through the public methods, with predictions that tell what had been learned."""
    events, delay = synthetic[:1200].sorted(), 7200.0
    labels = (events.labels > 2).astype(np.float32)
    events = stream(events.users, events.items, labels=labels, timestamps=events.timestamps)
    model, learned = fi.Recommender(dim=8, loss="logistic"), 0
    expected = np.full(1200, np.nan, dtype=np.float32)
    for i, now in enumerate(events.timestamps):
        due = learned
        while due < i and events.timestamps[due] + delay <= now:
            due += 1
        if i >= 300:
            model.partial_fit_events(events[learned:due])
            learned = due
            expected[i] = model.predict(events.users[i : i + 1], events.items[i : i + 1], at=now)[0]
    model.partial_fit_events(events[learned:])
    judged = fi.Recommender(dim=8, loss="logistic")
    result = alone(judged, events, metrics=["auc"], warmup=0.25, delay=delay)
    np.testing.assert_array_equal(result.predictions, expected)
    assert judged.n_events == model.n_events == 1200
    users = np.unique(events.users)
    np.testing.assert_array_equal(judged.user_vectors(users), model.user_vectors(users))


def test_a_delay_costs_recall_and_not_the_questions(synthetic):
    prompt, late = (
        fi.evaluate.prequential(fi.Recommender(dim=8), synthetic, ["recall@10"], delay=delay) for delay in (0.0, 1e6)
    )
    for name in prompt.models:
        assert prompt.models[name].scored == late.models[name].scored
        assert prompt.models[name].skipped == late.models[name].skipped
        assert prompt.models[name].new_items < late.models[name].new_items  # not learned yet is as good as new
    assert late.models["fastinc"].metrics["recall@10"].value < prompt.models["fastinc"].metrics["recall@10"].value
    assert "delay: an event is learned 1e+06 s after it happened" in late.protocol
    assert "delay" not in prompt.protocol


def test_no_delay_is_the_same_to_the_last_bit(synthetic):
    model, plain = fi.Recommender(dim=8), fi.Recommender(dim=8)
    results = [alone(model, synthetic, delay=0), alone(plain, synthetic)]
    np.testing.assert_array_equal(results[0].outcomes, results[1].outcomes)
    one_by_one = fi.Recommender(dim=8)
    events = synthetic.sorted()
    for i in range(len(events)):
        one_by_one.partial_fit_events(events[i : i + 1])
    users = np.unique(events.users)
    np.testing.assert_array_equal(model.user_vectors(users), one_by_one.user_vectors(users))


def test_after_an_interruption_no_id_is_known_that_was_not_learned(synthetic):
    events = synthetic.sorted()
    model = fi.Recommender(dim=4)

    def interrupt(name, done, total):
        if done >= 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone(model, events, delay=float(np.ptp(events.timestamps)) / 20, progress=interrupt)
    assert 0 < model.n_events < 1000
    assert len(model._user_ids) == model.n_users
    assert len(model._item_ids) == model.n_items
    model.partial_fit_events(events[model.n_events :])
    assert model.n_events == len(events)


@pytest.mark.parametrize(
    ("delay", "error", "message"),
    [
        (-1.0, ValueError, r"delay must be a number of seconds, 0 or more, got -1\.0"),
        (math.nan, ValueError, "delay must be .*got nan"),
        (math.inf, ValueError, "delay must be .*got inf"),
        ("1 h", TypeError, "delay = '1 h' must be a number"),
        (60.0, ValueError, "delay=60 needs events with timestamps"),
    ],
)
@pytest.mark.parametrize("make", [fi.baselines.Popularity, Recorder])
def test_bad_delays_are_named(make, delay, error, message):
    model = make()
    with pytest.raises(error, match=message):
        alone(model, stream([1, 2, 1], [5, 6, 6]), delay=delay)
    assert getattr(model, "n_events", 0) == 0
    assert getattr(model, "calls", []) == []
