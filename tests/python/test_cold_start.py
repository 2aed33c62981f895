"""New items: known early, started from features, explored; and steps of limited length."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import fastinc as fi
from _logs import table_arrays
from fastinc.checkpoint import _kinds, _models

KINDS = {"kind": fi.features.Categorical(64)}


def model_of(**more):
    return fi.Recommender(**{"dim": 8, "negatives": 30, "seed": 1, "batch_size": 4, **more})


def two_tastes(n=3000):
    """Users 0 .. 19 take items 0 .. 19, users 20 .. 39 items 20 .. 39."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 40, n)
    return users, rng.integers(0, 20, n) + 20 * (users >= 20), np.arange(n, dtype=np.float64)


def arrays_of(model, table):
    return table_arrays(model._core.tables[table])


def everything(model):
    tables = {name: arrays_of(model, name) for name in model._core.tables}
    state = {name: np.asarray(value).tolist() for name, value in model._core.export_state().items()}
    return {name: {part: x.tolist() for part, x in table.items()} for name, table in tables.items()}, state


def weights_of(model):
    return {name: arrays_of(model, name)["weights"] for name in model._core.tables}


# --- known early ----------------------------------------------------------------------------------------------


def test_items_are_known_before_their_first_event():
    model = model_of().partial_fit([1, 1], [10, 11]).add_items([12, 13, 11]).add_items(14)
    assert model.n_items == 5
    assert model.n_events == 2
    assert model.stats()["new_items"] == 5
    assert sorted(model.recommend(1, k=5)[0].tolist()) == [-1, -1, 12, 13, 14]
    assert model.item_codes([12, 13, 14]).tolist() == [2, 3, 4]
    model.add_items([])
    assert model.partial_fit(1, 13).n_items == 5
    assert model.item_events([10, 11, 12, 13, 99]).tolist() == [1, 1, 0, 1, 0]


def test_refused_items_leave_nothing():
    model = model_of().partial_fit(1, 10)
    for items, error in ((["a"], TypeError), ([[1]], ValueError), ([1.5], TypeError), (["\ud800"], TypeError)):
        with pytest.raises(error):
            model.add_items(items)
    with pytest.raises(UnicodeEncodeError):
        fi.Recommender().add_items(["\ud800"])
    assert model.n_items == 1


def test_an_item_that_nobody_had_keeps_its_row():
    users, items, times = two_tastes(400)
    model = model_of().partial_fit(users, items, timestamps=times).add_items([99])
    code = model.item_codes(99)
    before = model.item_table.lookup(code).tobytes()
    model.partial_fit(users, items, timestamps=times)
    assert model.item_table.lookup(code).tobytes() == before


# --- features -------------------------------------------------------------------------------------------------


def tastes_of(model):
    """How much better item 100 is for users of the first taste than 101, and for those of the second."""
    ids = np.arange(40)
    return np.array([model.predict(ids, [item] * 40).reshape(2, 20).mean(axis=1) for item in (100, 101)])


def test_a_new_item_is_for_those_who_like_its_kind():
    users, items, times = two_tastes()
    model = model_of(item_features=KINDS)
    model.add_items(range(40), {"kind": ["first"] * 20 + ["second"] * 20})
    model.partial_fit(users, items, timestamps=times)
    model.add_items([100, 101], {"kind": ["first", "second"]})
    scores = tastes_of(model)
    assert scores[0, 0] > scores[1, 0] + 1.0
    assert scores[1, 1] > scores[0, 1] + 1.0
    plain = model_of().partial_fit(users, items, timestamps=times).add_items([100, 101])
    random = np.abs(np.diff(tastes_of(plain), axis=0)).max()
    assert np.abs(np.diff(scores, axis=0)).min() > 3 * random


def test_an_item_known_early_follows_what_is_learned():
    users, items, times = two_tastes()
    model = model_of(item_features=KINDS)
    model.add_items([*range(40), 100, 101], {"kind": ["first"] * 20 + ["second"] * 20 + ["first", "second"]})
    untaught = np.abs(np.diff(tastes_of(model), axis=0)).max()
    model.partial_fit(users, items, timestamps=times)
    scores = tastes_of(model)
    assert untaught < 0.1
    assert scores[0, 0] > scores[1, 0] + 1.0
    assert scores[1, 1] > scores[0, 1] + 1.0


def test_features_leave_a_seen_item_as_it_is_and_a_clone_is_told_apart():
    model = model_of(item_features=KINDS).partial_fit([1, 1], [10, 11])
    before = model.item_table.lookup([0, 1]).tobytes()
    model.add_items([10], {"kind": ["a"]})
    assert model.item_table.lookup([0, 1]).tobytes() == before
    model.add_items([12, 13], {"kind": [["a", "b"], ["b", "a"]]})
    rows = model.item_table.lookup([2, 3])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    model.add_items([13], {"kind": [["c"]]})
    assert np.abs(rows[0] - model.item_table.lookup([3])[0]).max() > 1e-3


def test_all_of_it_is_kept(tmp_path):
    users, items, times = two_tastes(600)
    schema = {"text": fi.features.Dense(3), **KINDS}
    vectors = np.random.default_rng(1).normal(size=(60, 3))
    model = model_of(item_features=schema, popular_negatives=0.5, explore=0.25, explore_below=3, max_grad_norm=2.0)
    model.add_items(range(60), {"text": vectors, "kind": [["a", i % 5] for i in range(60)]})
    model.partial_fit(users[:300], items[:300], timestamps=times[:300])
    fi.checkpoint.save(model, tmp_path)
    again, _ = fi.checkpoint.load(tmp_path)
    assert again.get_params() == {**model.get_params(), "optimizer": again.optimizer, "schedule": again.schedule}
    assert everything(again) == everything(model)
    for each in (model, again):
        each.partial_fit(users[300:], items[300:], timestamps=times[300:])
    assert everything(again) == everything(model)
    assert again.stats() == model.stats()


def test_checkpoints_of_before_there_were_features_load(tmp_path, monkeypatch):
    users, items, times = two_tastes(200)
    model = model_of().partial_fit(users, items, timestamps=times)

    def as_before(saved, mark):
        change = _models.export(saved, mark)
        parameters = json.loads(json.dumps(change.parameters))
        for name in (
            "popular_negatives",
            "max_grad_norm",
            "item_features",
            "feature_lr_scale",
            "explore",
            "explore_below",
        ):
            del parameters["params"][name]
        del parameters["versions"]["features"]
        later = ("features.", "items_known_")
        arrays = {name: array for name, array in change.arrays.items() if not name.startswith(later)}
        return dataclasses.replace(change, parameters=parameters, arrays=arrays)

    kind = dataclasses.replace(_kinds.KINDS["Recommender"], export=as_before)
    monkeypatch.setitem(_kinds.KINDS, "Recommender", kind)
    fi.checkpoint.save(model, tmp_path)
    monkeypatch.undo()
    again, _ = fi.checkpoint.load(tmp_path)
    assert again.stats()["new_items"] == 0
    for each in (model, again):
        each.partial_fit(users, items, timestamps=times)
    assert everything(again)[0] == everything(model)[0]


def test_a_snapshot_holds_the_map():
    users, items, times = two_tastes(400)
    model = model_of(item_features=KINDS).add_items(range(40), {"kind": [str(i // 20) for i in range(40)]})
    model.partial_fit(users, items, timestamps=times)
    snapshot, before = model.snapshot(), everything(model)[0]["features"]["weights"]
    model.partial_fit(users, items, timestamps=times)
    assert everything(model)[0]["features"]["weights"] != before
    model.restore(snapshot)
    assert everything(model)[0]["features"]["weights"] == before


def test_it_is_counted():
    model = model_of(item_features={"text": fi.features.Dense(50)})
    before = model.memory_usage()
    model.add_items(range(1000), {"text": np.zeros((1000, 50))})
    after = model.memory_usage()
    assert after["items_known"] - before["items_known"] >= 1000 * 50 * 4
    assert after["features"] >= 51 * 9 * 4 * 2
    assert after["total"] == sum(size for name, size in after.items() if name != "total")


# --- exploring ------------------------------------------------------------------------------------------------


def explored_model(**more):
    """Items 0 .. 39 with many events, 100 .. 119 with none."""
    users, items, times = two_tastes(4000)
    return model_of(**more).partial_fit(users, items, timestamps=times).add_items(range(100, 120))


def test_new_items_get_their_share_of_places():
    model = explored_model()
    lists, scores = model.recommend(np.tile(np.arange(40), 50), k=10, explore=0.2, exclude_seen=False)
    places = (lists >= 100).sum(axis=1)
    assert (model.recommend(range(40), k=10, exclude_seen=False)[0] < 100).all()
    assert abs(places.mean() - 2.0) < 0.15  # of 10; a standard deviation is about .03
    assert len(np.unique(places)) > 3
    assert set(np.unique(lists[lists >= 100])) == set(range(100, 120))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in lists.tolist())
    np.testing.assert_allclose(scores[7], model.predict([7] * 10, lists[7]), atol=1e-6)


def test_the_rest_of_a_list_is_the_best_of_it():
    model = explored_model(explore=0.3)
    plain = model.recommend(3, k=10, explore=0.0, exclude_seen=False)[0].tolist()
    explored = []
    for _ in range(50):
        ids = model.recommend(3, k=10, exclude_seen=False)[0].tolist()
        old = [item for item in ids if item < 100]
        assert old == ids[: len(old)] == plain[: len(old)]
        explored.append(10 - len(old))
    assert 1.5 < np.mean(explored) < 4.5


def test_nobody_explores_what_they_may_not_have():
    model = explored_model(explore=1.0)
    model.partial_fit([5] * 3, [100, 101, 102], timestamps=[5000.0] * 3)
    lists = np.array([model.recommend(5, k=10, exclude=[103, 104])[0] for _ in range(100)])
    assert set(lists[lists >= 100].tolist()) == set(range(105, 120))
    assert 100 in np.array([model.recommend(5, k=10, exclude_seen=False)[0] for _ in range(100)])
    everything_else = [*range(40), *range(103, 120)]
    assert model.recommend(5, k=3, exclude=everything_else)[0].tolist() == [-1, -1, -1]
    assert sorted(model.recommend(5, k=4, exclude=everything_else[:-2])[0].tolist()) == [-1, -1, 118, 119]


def test_items_are_new_until_they_had_events_enough():
    model = explored_model(explore=1.0, explore_below=2)
    assert model.stats()["new_items"] == 20
    model.partial_fit([900, 901, 902], [100, 100, 101])
    assert model.stats()["new_items"] == 19
    assert explored_model(explore_below=0).stats()["new_items"] == 0
    never = explored_model(explore=1.0, explore_below=0)
    assert never.recommend(3)[0].tolist() == never.recommend(3, explore=0.0)[0].tolist()


def test_without_new_items_lists_stay_as_they_are():
    users, items, times = two_tastes(1000)
    model = model_of(explore=1.0).partial_fit(users, items, timestamps=times)
    assert model.stats()["new_items"] == 0
    assert model.recommend(3)[0].tolist() == model.recommend(3, explore=0.0)[0].tolist()


@pytest.mark.parametrize("explore", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(explore):
    with pytest.raises(ValueError, match=r"^explore = .* must be from 0 to 1"):
        model_of(explore=explore)
    with pytest.raises(ValueError, match=r"^explore = .* must be from 0 to 1"):
        model_of().recommend(1, explore=explore)


# --- steps of limited length ----------------------------------------------------------------------------------


def test_no_row_steps_further_than_the_norm_allows():
    users, items, times = two_tastes(400)

    def steps(**more):
        model = model_of(optimizer=fi.SGD(lr=0.05), hidden_lr_scale=1.0, context_lr_scale=1.0, **more)
        model.partial_fit(users[:396], items[:396], timestamps=times[:396])
        before = weights_of(model)
        model.partial_fit(users[396:], items[396:], timestamps=times[396:])
        after = weights_of(model)
        return model, np.concatenate(
            [np.linalg.norm(after[name] - before[name], axis=1) for name in before if before[name].size]
        )

    free, lengths = steps()
    clipped, short = steps(max_grad_norm=0.02)
    assert lengths.max() > 0.05 * 0.04
    assert short.max() <= 0.05 * 0.02 * (1 + 1e-4)
    assert np.isclose(short, 0.05 * 0.02, rtol=1e-3).sum() > 3
    assert steps(max_grad_norm=1e30)[1].tobytes() == lengths.tobytes()
    assert (free.get_params()["max_grad_norm"], clipped.get_params()["max_grad_norm"]) == (None, 0.02)


def test_the_norm_is_above_0():
    with pytest.raises(ValueError, match=r"^max_grad_norm = 0 must be finite and > 0, or None"):
        model_of(max_grad_norm=0)
    with pytest.raises(ValueError, match=r"^max_grad_norm = inf must be finite"):
        model_of(max_grad_norm=float("inf"))
    with pytest.raises(ValueError, match=r"^max_grad_norm = 1e-60 is too small"):
        model_of(max_grad_norm=1e-60)


@pytest.mark.parametrize("optimizer", [fi.SGD(lr=0.12), fi.Adagrad(lr=0.12), fi.FTRL(lr=0.1), fi.Adam(lr=0.01)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e6])
def test_features_of_any_size_leave_all_rows_finite_and_skip_no_event(optimizer, size):
    users, items, times = two_tastes(1000)
    vectors = size * np.random.default_rng(1).normal(size=(40, 20)).clip(-1, 1)
    model = model_of(item_features={"text": fi.features.Dense(20)}, optimizer=optimizer, max_grad_norm=1.0)
    model.add_items(range(40), {"text": vectors}).partial_fit(users, items, timestamps=times)
    assert all(np.isfinite(weights).all() for weights in weights_of(model).values())
    assert model.stats()["skipped"] == 0


def test_popular_negatives_skip_no_event():
    model = model_of(hard_negatives=None, popular_negatives=1.0, negatives=50, batch_size=256, preset="fast")
    model.partial_fit(np.arange(4000) % 77, np.concatenate([np.zeros(2000, int), np.arange(2000)]))
    assert model.stats()["skipped"] == 0


def test_what_was_popular_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 70_000), rng.integers(0, 40, 70_000)
    model = fi.Recommender(
        4, preset="fast", hard_negatives=None, popular_negatives=0.5, negatives=2, long_window=0, batch_size=256
    )
    model.partial_fit(users, items)
    fi.checkpoint.save(model, tmp_path)
    again, _ = fi.checkpoint.load(tmp_path)
    for each in (model, again):
        each.partial_fit(users[:1000], items[:1000])
    assert everything(again)[0] == everything(model)[0]


def test_restoring_starts_later_items_from_their_features():
    model = model_of(item_features=KINDS).partial_fit([1], [1])
    snapshot = model.snapshot()
    model.add_items([2, 3], {"kind": ["a", "a"]}).partial_fit([5, 6], [2, 3])
    model.restore(snapshot)
    rows = model.item_table.lookup(model.item_codes([2, 3]))
    np.testing.assert_array_equal(rows[0], rows[1])
    model.add_items([4], {"kind": ["a"]})
    np.testing.assert_array_equal(rows[0], model.item_table.lookup(model.item_codes([4]))[0])


def test_explored_lists_go_on_after_a_checkpoint(tmp_path):
    model = explored_model(explore=0.5)
    model.partial_fit([1] * 12, [103, 107] * 6)  # which are new no longer
    first = [model.recommend(3, k=10)[0].tolist() for _ in range(5)]
    fi.checkpoint.save(model, tmp_path)
    again, _ = fi.checkpoint.load(tmp_path)
    lists = [[each.recommend(3, k=10)[0].tolist() for _ in range(5)] for each in (model, again)]
    assert lists[0] == lists[1] != first
