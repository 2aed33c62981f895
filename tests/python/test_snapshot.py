"""Snapshots of a recommender, freezing, schedules and boosts, as Python has them; the rows: tests/cpp/learn."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import numpy as np
import pytest

import fastinc as fi
from fastinc.schedules import Constant, Exponential, InverseSquareRoot, WarmUp

SCHEDULES = [
    Constant(),
    InverseSquareRoot(50),
    Exponential(100, floor=0.01),
    WarmUp(30),
    WarmUp(30, then=InverseSquareRoot(50)),
    WarmUp(30, then=Exponential(half_life=100.5, floor=0.25)),
]


def events(n=600, seed=3):
    return fi.datasets.synthetic(n, n_users=max(30, n // 20), n_items=80 + n // 20, seed=seed)


def model_of(**more):
    return fi.Recommender(**{"dim": 8, "negatives": 10, "batch_size": 1, "seed": 1, **more})


def item_rows(model):
    return model.item_table.lookup(range(model.n_items))


# --- snapshots ----------------------------------------------------------------------------------------------


def test_a_restored_model_answers_as_it_did_and_keeps_what_happened():
    stream = events()
    model = model_of().partial_fit_events(stream[:300])
    before, known = item_rows(model), model.n_items
    snapshot = model.snapshot()
    assert snapshot.events == 300
    assert snapshot.nbytes > before.nbytes
    assert repr(snapshot) == f"Snapshot(events=300, nbytes={snapshot.nbytes})"
    model.partial_fit_events(stream[300:])
    histories, stats = model._core.export_state(), model.stats()
    assert model.n_items > known  # so that some rows are newer than the snapshot
    assert not np.array_equal(item_rows(model)[:known], before)
    model.restore(snapshot)
    np.testing.assert_array_equal(item_rows(model)[:known], before)
    start = model_of().item_table.lookup(range(model.n_items))[known:]
    np.testing.assert_array_equal(item_rows(model)[known:, :-1], start[:, :-1])
    assert (item_rows(model)[known:, -1] == 0).all()  # the bias
    assert model.stats() == stats
    np.testing.assert_equal(model._core.export_state(), histories)


@pytest.mark.parametrize("kind", ["exact", "IVF4,Flat"])
def test_an_index_follows_a_restore(kind):
    if kind != "exact":
        pytest.importorskip("faiss")
    stream = events(2000)
    model = model_of().partial_fit_events(stream[:1000])
    snapshot = model.snapshot()
    index = fi.LiveIndex(model.item_table, kind, metric="ip", background=False)
    queries = model.user_vectors(stream.users[:5])
    index.search(queries, k=10)
    model.partial_fit_events(stream[1000:])
    taught = index.search(queries, k=10)
    version = model.item_table.version
    model.restore(snapshot)
    assert model.item_table.version == version + 1
    scores, found = index.search(queries, k=10)
    assert not np.array_equal(scores, taught[0])
    all_scores = queries @ item_rows(model).T
    if kind == "exact":
        np.testing.assert_allclose(scores, -np.sort(-all_scores, axis=1)[:, :10], rtol=1e-5)
    np.testing.assert_allclose(scores, np.take_along_axis(all_scores, found, axis=1), rtol=1e-5, atol=1e-6)
    codes = model.item_table.lookup_quantized(range(model.n_items))
    np.testing.assert_array_equal(codes, fi.ops.quantize_rowwise(item_rows(model)))


def test_changes_tell_of_a_restore():
    stream = events()
    model = model_of().partial_fit_events(stream[:590])
    snapshot, table = model.snapshot(), model.item_table
    seen = table.version
    model.partial_fit_events(stream[590:])
    written = sorted(table.changes(since=seen).updated.tolist())
    taught = table.version
    model.restore(snapshot)
    changes = table.changes(since=taught)
    assert sorted(changes.updated.tolist()) == written
    assert len(changes.removed) == 0
    assert not changes.reset


def test_other_models_snapshots_are_refused():
    model, stream = model_of().partial_fit([1], [10]), events()
    before = item_rows(model)
    for other, message in (
        (model_of(dim=9), r"^snapshot: of a model with dim = 9, not 8$"),
        (model_of(optimizer=fi.SGD()), r"^snapshot: of a model with optimizer = sgd, not adagrad$"),
        (model_of(), r"^snapshot: of another model with the same parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            model.restore(other.partial_fit_events(stream).snapshot())
    for wrong in (None, "snapshot", model):
        with pytest.raises(TypeError, match=r"^snapshot = .* must be a Snapshot$"):
            model.restore(wrong)
    with pytest.raises(TypeError, match="made by a Recommender"):
        fi.Snapshot(model._core)
    np.testing.assert_array_equal(item_rows(model), before)


def test_snapshots_are_not_copied_by_accident():
    snapshot = model_of().snapshot()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"fastinc\.checkpoint"):
            attempt(snapshot)


def test_restores_beside_learning_and_asking():
    """Every answer is of some whole state, and nothing is lost: run under a thread sanitizer, this is the test."""
    stream = events(4000)
    model = model_of().partial_fit_events(stream[:1000])
    snapshot = model.snapshot()
    done = threading.Event()
    errors = []

    def ask():
        while not done.is_set():
            _, scores = model.recommend(stream.users[:4], k=5)
            if not np.isfinite(scores).all():
                errors.append("a score that isn't finite")

    asking = [threading.Thread(target=ask) for _ in range(2)]
    learning = threading.Thread(target=lambda: model.partial_fit_events(stream[1000:]))
    for thread in (*asking, learning):
        thread.start()
    while learning.is_alive():
        model.restore(snapshot)
        model.snapshot()
    learning.join()
    done.set()
    for thread in asking:
        thread.join()
    assert not errors
    assert model.n_events == 4000
    model.restore(snapshot)
    twin = model_of().partial_fit_events(stream[:1000])
    np.testing.assert_array_equal(item_rows(model)[: twin.n_items], item_rows(twin))


# --- freezing -----------------------------------------------------------------------------------------------


def test_a_frozen_model_follows_the_stream_and_learns_nothing():
    stream = events()
    model = model_of().partial_fit_events(stream[:300])
    before = item_rows(model)
    assert model.frozen is False
    model.frozen = True
    model.partial_fit_events(stream[300:])
    np.testing.assert_array_equal(item_rows(model)[: len(before)], before)
    assert model.n_events == 600
    seen = set(stream.items[stream.users == stream.users[-1]].tolist())
    listed = model.recommend(stream.users[-1], k=model.n_items)[0].tolist()
    assert not seen & set(listed)
    assert set(stream.items.tolist()) - seen == set(listed) - {-1}
    model.frozen = False
    model.partial_fit_events(stream[-10:])
    assert not np.array_equal(item_rows(model)[: len(before)], before)
    with pytest.raises(TypeError, match=r"^frozen = 1 must be True or False$"):
        model.frozen = 1


# --- schedules ----------------------------------------------------------------------------------------------


def expected_factor(schedule, n):
    if isinstance(schedule, WarmUp):
        return min(1.0, (n + 1) / schedule.events) * expected_factor(schedule.then, n)
    if isinstance(schedule, InverseSquareRoot):
        return math.sqrt(schedule.events / max(n, schedule.events))
    return max(schedule.floor, 2 ** (-n / schedule.half_life)) if isinstance(schedule, Exponential) else 1.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_factors(schedule):
    for n in (0, 1, 29, 30, 31, 49, 50, 51, 1000, 10**9):
        assert schedule(n) == pytest.approx(expected_factor(schedule, n), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_rate_of_an_event_is_that_of_its_number(schedule):
    """However the stream is cut, and as if the rate had been set by hand before each event."""
    stream = events(200)
    whole = model_of(optimizer=fi.SGD(lr=0.5), schedule=schedule).partial_fit_events(stream)
    cut = model_of(optimizer=fi.SGD(lr=0.5), schedule=schedule)
    by_hand = model_of(optimizer=fi.SGD(lr=0.5))
    for begin in range(0, 200, 7):
        assert cut.learning_rate == 0.5 * schedule(begin)
        cut.partial_fit_events(stream[begin : begin + 7])
    for i in range(200):
        by_hand.optimizer.lr = 0.5 * schedule(i)
        by_hand.partial_fit_events(stream[i : i + 1])
    assert item_rows(whole).tobytes() == item_rows(cut).tobytes() == item_rows(by_hand).tobytes()
    assert whole.optimizer.lr == 0.5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_checkpoints_keep_the_schedule_a_boost_and_freezing(schedule, tmp_path):
    stream = events(300)
    model = model_of(schedule=schedule).partial_fit_events(stream[:100])
    model.boost_learning_rate(3.0, events=50)
    fi.checkpoint.save(model, tmp_path)
    twin, _ = fi.checkpoint.load(tmp_path)
    assert twin.schedule == schedule == twin.get_params()["schedule"]
    assert twin.learning_rate == model.learning_rate == model.optimizer.lr * (3.0 * schedule(100))
    for one in (model, twin):
        one.partial_fit_events(stream[100:])
    assert item_rows(model).tobytes() == item_rows(twin).tobytes()
    twin.frozen = True
    fi.checkpoint.save(twin, tmp_path)
    assert fi.checkpoint.load(tmp_path)[0].frozen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseSquareRoot(0), r"^events = 0 must be finite and at least 1$"),
        (lambda: InverseSquareRoot(math.nan), r"^events = nan must be"),
        (lambda: Exponential(0), r"^half_life = 0 must be finite and > 0$"),
        (lambda: Exponential(math.inf), r"^half_life = inf must be"),
        (lambda: Exponential(10, floor=1.5), r"^floor = 1\.5 must be from 0 to 1$"),
        (lambda: Exponential(10, floor=-0.1), r"^floor = -0\.1 must be"),
        (lambda: WarmUp(0), r"^events = 0 must be at least 1$"),
        (lambda: Constant()(-1), r"^n = -1 must be"),
    ],
)
def test_schedules_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseSquareRoot("a"), r"^events = 'a' must be a number$"),
        (lambda: WarmUp(1.5), r"^events = 1\.5 must be a whole number$"),
        (lambda: WarmUp(5, then=WarmUp(3)), r"^then = WarmUp\(.*other than WarmUp$"),
        (lambda: WarmUp(5, then=0.5), r"^then = 0\.5 must be a schedule"),
        (lambda: fi.schedules.Schedule()(0), "base class"),
        (lambda: fi.Recommender(schedule=0.1), r"^schedule = 0\.1 must be one of fastinc\.schedules"),
    ],
)
def test_what_is_no_schedule(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# --- boosts -------------------------------------------------------------------------------------------------


def test_a_boost_ends_after_its_events():
    stream = events(60)
    model, by_hand = model_of(optimizer=fi.SGD(lr=0.25)), model_of(optimizer=fi.SGD(lr=0.25))
    model.partial_fit_events(stream[:10])
    by_hand.partial_fit_events(stream[:10])
    model.boost_learning_rate(4.0, events=33)
    model.partial_fit_events(stream[10:])  # one call: the rate falls back in the middle of it
    by_hand.optimizer.lr = 1.0
    by_hand.partial_fit_events(stream[10:43])
    by_hand.optimizer.lr = 0.25
    by_hand.partial_fit_events(stream[43:])
    assert item_rows(model).tobytes() == item_rows(by_hand).tobytes()
    assert model.learning_rate == model.optimizer.lr == 0.25


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_bad_boosts(factor):
    model = model_of()
    with pytest.raises(ValueError, match=rf"^factor = {factor:g} must be finite and > 0$"):
        model.boost_learning_rate(factor, 10)
    with pytest.raises(ValueError, match=r"^events = -1 must be"):
        model.boost_learning_rate(2.0, -1)
    assert model.learning_rate == model.optimizer.lr
