"""Rows that are pulled back to where they were: the arithmetic, what is kept, what is forgotten."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import threading

import numpy as np
import pytest

import fastinc as fi
from _logs import table_arrays
from fastinc.checkpoint import _kinds, _models
from fastinc.checkpoint._described import describe

INF, NAN = float("inf"), float("nan")
#: A model that has rows in every table, all of which learn at the optimizer's rate.
WHOLE = {
    "user": "both",
    "hidden": 6,
    "context_lr_scale": 1.0,
    "hidden_lr_scale": 1.0,
    "item_features": {"kind": fi.features.Categorical(8)},
}
TABLES = {"items", "contexts", "users", "long_terms", "situations", "hidden_in", "hidden_out", "features"}


def model_of(**more):
    return fi.Recommender(**{"dim": 8, "negatives": 20, "seed": 1, "batch_size": 4, **more})


def whole_model(**more):
    model = model_of(**{**WHOLE, **more})
    return model.add_items(range(60), {"kind": [f"kind {i % 5}" for i in range(60)]})


def stream(n=600, users=30, items=60, seed=0):
    rng = np.random.default_rng(seed)
    return fi.datasets.Events(
        rng.integers(0, users, n), rng.integers(0, items, n), timestamps=np.arange(n, dtype=np.float64)
    )


def tables_of(model):
    """Weights of every table, and what it keeps of gradients beside them."""
    parts = {name: table_arrays(table) for name, table in model._core.tables.items()}
    return {name: part["weights"] for name, part in parts.items()}, {
        name: part["state"] for name, part in parts.items()
    }


def everything(model):
    state = {name: np.asarray(value).tobytes() for name, value in model._core.export_state().items()}
    return [{name: rows.tobytes() for name, rows in part.items()} for part in tables_of(model)], state


def anchors_of(model):
    state = model._core.export_state()
    return {name: value.tobytes() for name, value in state.items() if name.startswith("anchors_")}


def twin_of(model, optimizer):
    """The same rows and histories without anchors, to learn by another optimizer."""
    exported = _models.export(model, None)
    parameters, arrays = exported.parameters, exported.arrays
    parameters["params"] |= {"anchor": 0.0, "optimizer": describe(optimizer)}
    arrays = {name: array for name, array in arrays.items() if not name.startswith("anchors_")}
    arrays |= {name: np.empty(0, np.float32) for name in arrays if name.endswith(".state")}
    return _models.build(json.loads(json.dumps(parameters)), arrays)


# --- one step -------------------------------------------------------------------------------------------------


def one_step(optimizer, **more):
    """Learn a group of events by a model with anchors: rows and state before, gradients without the pull, after."""
    events, strength = stream(), 0.75
    model = whole_model(optimizer=optimizer, anchor=strength, **more)
    model.partial_fit_events(events[:200])
    model.set_anchor()
    anchors, _ = tables_of(model)
    late = fi.datasets.Events(events.users + 10, events.items + 20, timestamps=events.timestamps + 600)
    model.partial_fit_events(late[:200])  # new users and items have no anchors
    before, state = tables_of(model)
    twin = twin_of(model, fi.SGD(lr=1.0))
    group = late[200:204]
    twin.partial_fit_events(group)
    model.partial_fit_events(group)
    # of the step that the group takes, not of what items' first events and features do beside it
    assert set(group.items.tolist()) <= set(np.concatenate([events.items[:200], late.items[:200]]).tolist())
    after, state_after = tables_of(model)
    assert set(after) == TABLES
    for name, rows in before.items():
        gradient = rows.astype(np.float64) - tables_of(twin)[0][name]
        pulled = np.zeros(len(rows), bool)
        pulled[: len(anchors[name])] = True
        yield name, (rows, state[name]), gradient, (anchors[name], pulled), (after[name], state_after[name])


def expected_gradient(rows, gradient, anchors, pulled):
    touched = (gradient != 0).any(axis=1)
    total = gradient.copy()
    pull = 0.75 * (rows[pulled].astype(np.float64) - anchors)
    total[pulled] += np.where(touched[pulled, None], pull, 0.0)
    return total, touched


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_a_step_of_sgd_is_the_gradient_and_the_pull(max_grad_norm):
    lr, free = 0.125, 0
    for name, (rows, _), gradient, (anchors, pulled), (after, _) in one_step(
        fi.SGD(lr=lr), max_grad_norm=max_grad_norm
    ):
        total, touched = expected_gradient(rows, gradient, anchors, pulled)
        np.testing.assert_allclose(after, rows - lr * total, atol=5e-7, err_msg=name)
        assert after[~touched].tobytes() == rows[~touched].tobytes()
        assert touched.any()
        assert np.abs(total - gradient)[touched & pulled].max() > 1e-4, name  # the pull shows
        free += (touched & ~pulled).sum()
        if max_grad_norm is not None:  # it is the data's gradient that is shortened
            assert np.linalg.norm(gradient, axis=1).max() < max_grad_norm * 1.01
    assert free > 2


def test_a_step_of_adagrad_is_the_gradient_and_the_pull():
    lr = 0.25
    for name, (rows, sums), gradient, (anchors, pulled), (after, sums_after) in one_step(
        fi.Adagrad(lr=lr, initial_accumulator_value=0.1)
    ):
        total, touched = expected_gradient(rows, gradient, anchors, pulled)
        sums = sums.reshape(rows.shape) + total**2
        np.testing.assert_allclose(sums_after.reshape(rows.shape), sums, rtol=2e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(after, rows - lr * total / (np.sqrt(sums) + 1e-8), atol=5e-6, err_msg=name)
        assert touched.any()


def test_without_anchors_nothing_changes():
    events = stream()
    plain = whole_model().partial_fit_events(events)
    assert everything(whole_model(anchor=0.0).partial_fit_events(events)) == everything(plain)
    assert everything(whole_model(anchor=3.0).partial_fit_events(events)) == everything(plain)  # there are none yet
    anchored = whole_model(anchor=3.0).partial_fit_events(events[:300])
    anchored.set_anchor()
    assert everything(anchored.partial_fit_events(events[300:]))[0] != everything(plain)[0]


def test_a_strong_anchor_holds_rows_and_moves_with_the_next_call():
    events = stream(2000)

    def moved(anchor):
        model = whole_model(anchor=anchor, optimizer=fi.SGD(lr=0.01)).partial_fit_events(events[:1000])
        if anchor:
            model.set_anchor()
        before = tables_of(model)[0]
        after = tables_of(model.partial_fit_events(events[1000:]))[0]
        return model, before, {name: np.linalg.norm(after[name] - before[name]) for name in TABLES}

    (_, _, free), (model, before, held) = moved(0.0), moved(60.0)
    for name in TABLES - {"users"}:  # few users come often enough to be pulled
        assert held[name] < 0.3 * free[name], name
    model.set_anchor()
    again = tables_of(model)[0]["items"]
    assert anchors_of(model)["anchors_items_values"] == again.tobytes() != before["items"].tobytes()


# --- the same bytes -------------------------------------------------------------------------------------------


def anchored(cuts=(), **more):
    events = stream()
    model = whole_model(anchor=0.3, max_grad_norm=1.0, **more).partial_fit_events(events[:200])
    model.set_anchor()
    model.warm_start([3, 70], np.full((2, 8), 0.125, np.float32))
    begin = 200
    for end in (*cuts, len(events)):
        model.partial_fit_events(events[begin:end])
        begin = end
    return everything(model)


def test_the_same_bytes_for_any_instruction_set_and_threads(isa, threads):
    settings = {"batch_size": 64, "negatives": 50}
    found = anchored(**settings)
    fi.set_isa("base")
    fi.set_num_threads(1)
    assert anchored(**settings) == found


@pytest.mark.parametrize("cuts", [(204,), range(204, 600, 4), (400, 408, 592)], ids=str)
def test_the_same_bytes_for_any_cut_of_the_stream(cuts):
    assert anchored(cuts) == anchored()


# --- what is kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [fi.Adagrad(lr=0.1), fi.SGD(lr=0.05), fi.FTRL(lr=0.1), fi.Adam(lr=0.01)])
def test_a_checkpoint_goes_on_as_if_it_were_the_model(tmp_path, optimizer):
    events = stream()
    model = whole_model(anchor=0.3, optimizer=optimizer).partial_fit_events(events[:200])
    model.set_anchor()
    model.warm_start([900, 5], np.full((2, 8), 0.125, np.float32)).partial_fit_events(events[200:300])
    fi.checkpoint.save(model, tmp_path)
    again, _ = fi.checkpoint.load(tmp_path)
    assert again.get_params()["anchor"] == 0.3
    assert len(anchors_of(again)) == 2 * len(TABLES)
    assert everything(again) == everything(model)
    for each in (model, again):
        each.partial_fit_events(events[300:])
    assert everything(again) == everything(model)


def test_checkpoints_of_before_there_were_anchors_load(tmp_path, monkeypatch):
    model = whole_model().partial_fit_events(stream())

    def as_before(saved, mark):
        change = _models.export(saved, mark)
        del change.parameters["params"]["anchor"]
        del change.arrays["items_known_given"]
        return change

    kind = dataclasses.replace(_kinds.KINDS["Recommender"], export=as_before)
    monkeypatch.setitem(_kinds.KINDS, "Recommender", kind)
    fi.checkpoint.save(model, tmp_path)
    monkeypatch.undo()
    again, _ = fi.checkpoint.load(tmp_path)
    assert again.get_params()["anchor"] == 0.0
    assert everything(again) == everything(model)


def test_states_whose_anchors_dont_fit_are_refused():
    model = whole_model(anchor=0.3).partial_fit_events(stream())
    model.set_anchor()
    before, state = everything(model), model._core.export_state()
    for name, spoilt in (
        ("anchors_items_rows", np.full_like(state["anchors_items_rows"], 60)),
        ("anchors_items_values", state["anchors_items_values"][1:]),
        ("anchors_items_values", np.full_like(state["anchors_items_values"], np.nan)),
    ):
        with pytest.raises(ValueError, match=r"^recommender state: "):
            model._core.import_state({**state, name: spoilt})
    assert everything(model) == before


def anchored_items(model):
    return model._core.export_state().get("anchors_items_rows", np.empty(0)).tolist()


def test_items_that_follow_their_features_have_no_anchor():
    model = model_of(anchor=1.0, item_features={"kind": fi.features.Categorical(8)})
    model.add_items([1, 2, 3], {"kind": ["a", "b", "a"]})
    model.partial_fit([7, 7, 8], [1, 4, 4])
    model.set_anchor()
    assert anchored_items(model) == model.item_codes([1, 4]).tolist()


def test_rows_made_since_a_snapshot_lose_their_anchors():
    model = model_of(anchor=1.0).partial_fit_events(stream(100, items=10))
    model.set_anchor()
    snapshot, kept = model.snapshot(), anchored_items(model)
    model.warm_start([500], np.ones((1, 8), np.float32))
    assert len(anchored_items(model)) == len(kept) + 1
    model.restore(snapshot)
    assert anchored_items(model) == kept


def test_restoring_rows_leaves_anchors():
    events = stream()
    model = whole_model(anchor=0.3).partial_fit_events(events[:200])
    model.set_anchor()
    snapshot, rows = model.snapshot(), tables_of(model)[0]["items"]
    model.partial_fit_events(events[200:400])
    model.set_anchor()
    anchors = anchors_of(model)
    model.restore(snapshot)
    assert tables_of(model)[0]["items"].tobytes() == rows.tobytes()
    assert anchors_of(model) == anchors
    assert anchors["anchors_items_values"] != rows.tobytes()


def test_a_guard_takes_an_anchored_model_back():
    events = stream()
    model = whole_model(anchor=0.3).partial_fit_events(events[:200])
    model.set_anchor()
    guard = fi.Guard(window=100, snapshot_every=50).watch(model)
    guard.update([1, 0, 0, 0, 1] * 100)
    rows = tables_of(model)[0]["items"].tobytes()
    model.partial_fit_events(events[200:])
    assert any(guard.update([0] * 50) is not None for _ in range(10))
    assert tables_of(model)[0]["items"].tobytes() == rows


def test_frozen_rows_are_not_pulled():
    events = stream()
    model = model_of(anchor=5.0).partial_fit_events(events[:200])
    model.set_anchor()
    model.partial_fit_events(events[200:300])
    model.frozen = True
    before = tables_of(model)[0]["items"]
    model.partial_fit_events(events[300:])
    assert tables_of(model)[0]["items"][: len(before)].tobytes() == before.tobytes()
    model.frozen = False
    model.partial_fit_events(events[:10])
    assert tables_of(model)[0]["items"][: len(before)].tobytes() != before.tobytes()


def test_prequential_learns_with_anchors():
    events = stream()

    def model():
        made = whole_model(anchor=0.3).partial_fit_events(events[:200])
        made.set_anchor()
        return made

    evaluated = model()
    fi.evaluate.prequential(evaluated, events[200:], ["recall@10"], baselines=False, warmup=0.0)
    learned = model()
    for i in range(200, 600):
        learned.partial_fit_events(events[i : i + 1])
    assert everything(evaluated) == everything(learned)


def test_anchors_are_counted():
    model = whole_model(anchor=0.3).partial_fit_events(stream())
    assert model.memory_usage()["anchors"] == 0
    total, weights = model.memory_usage()["total"], sum(rows.nbytes for rows in tables_of(model)[0].values())
    model.set_anchor()
    assert weights <= model.memory_usage()["anchors"] <= 2 * weights
    assert model.memory_usage()["total"] == total + model.memory_usage()["anchors"]


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", [-1.0, INF, NAN, 1e60, 1e-60])
def test_how_strong_an_anchor_can_be(anchor):
    with pytest.raises(ValueError, match=r"^anchor = "):
        model_of(anchor=anchor)


@pytest.mark.parametrize("anchor", [None, "1", True])
def test_an_anchor_is_a_number(anchor):
    with pytest.raises(TypeError, match=r"^anchor = .* must be a number"):
        model_of(anchor=anchor)


def test_anchors_that_would_do_nothing_are_refused():
    model = model_of().partial_fit([1], [10])
    before = everything(model)
    with pytest.raises(ValueError, match=r"^anchor = 0: rows are not pulled to anything"):
        model.set_anchor()
    assert everything(model) == before
    empty = model_of(anchor=1.0)
    empty.set_anchor()  # of a model without rows: there are none yet
    assert not anchors_of(empty)


def test_anchors_while_others_learn_and_ask():
    events = stream(4000)
    model = whole_model(anchor=0.3).partial_fit_events(events[:100])
    stop, vectors = threading.Event(), np.full((2, 8), 0.5, np.float32)

    def until_told(work):
        while not stop.is_set():
            work()

    works = (
        model.set_anchor,
        lambda: model.warm_start([3, 500], vectors),
        lambda: model.recommend([1, 2, 3], k=5),
        model.memory_usage,
    )
    with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(until_told, work) for work in works]
        for begin in range(100, 4000, 50):
            model.partial_fit_events(events[begin : begin + 50])
        stop.set()
        for work in running:
            work.result()
    assert all(np.isfinite(rows).all() for rows in tables_of(model)[0].values())


def test_steps_that_overshoot_leave_rows_finite_and_are_counted():
    events = fi.datasets.synthetic(3000, 100, 200, seed=1)
    model = model_of(anchor=1000.0, optimizer=fi.SGD(lr=0.1)).partial_fit_events(events[:1000])
    model.set_anchor()
    model.partial_fit_events(events[1000:])
    assert all(np.isfinite(rows).all() for rows in tables_of(model)[0].values())
    assert model.stats()["skipped"] > 1000


# --- what it is for -------------------------------------------------------------------------------------------


def forgetting(anchor, seed):
    """recall@10 of what phase A held out, before and after phase B; then that of phase B as it is learned.

    The same items, but which go together is drawn anew for phase B, whose users are others.
    """
    first, second = (fi.datasets.synthetic(8000, 250, 300, seed=100 * phase + seed) for phase in (1, 2))
    order = np.argsort(first.users, kind="stable")
    ends = np.cumsum(np.bincount(first.users, minlength=250))
    held = np.array([order[end - 1] for end in ends if end > 0])
    taught = np.setdiff1d(np.arange(len(first)), held)
    model = fi.Recommender(16, preset="fast", negatives=50, anchor=anchor, seed=seed)
    model.partial_fit(first.users[taught], first.items[taught], timestamps=first.timestamps[taught])

    def recall():
        lists = [model.recommend(first.users[i], k=10, at=first.timestamps[i])[0] for i in held]
        return np.mean([first.items[i] in found for i, found in zip(held, lists, strict=True)])

    before = recall()
    if anchor:
        model.set_anchor()
    later = fi.datasets.Events(second.users + 1000, second.items, timestamps=second.timestamps + first.timestamps.max())
    report = fi.evaluate.prequential(model, later, ["recall@10"], baselines=False, warmup=0.0)
    return before, recall(), report.models["fastinc"].metrics["recall@10"].value


def test_an_anchored_model_forgets_less_and_pays_for_it():
    free, soft, hard = (np.mean([forgetting(anchor, s) for s in (1, 2)], axis=0) for anchor in (0.0, 0.01, 0.3))
    assert free[0] == soft[0] == hard[0]
    assert free[1] < 0.5 * free[0]  # without anchors most is forgotten
    assert hard[1] > 0.8 * free[0] > 1.5 * free[1]
    assert free[1] < soft[1] < hard[1]
    assert free[2] > soft[2] > hard[2]  # and what holds the old back learns the new less
