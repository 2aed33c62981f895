"""Items that are given vectors: what is set, who sees it at once, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import fastinc as fi
from _logs import table_arrays

KINDS = {"kind": fi.features.Categorical(64)}
NAN, INF = np.float32("nan"), np.float32("inf")


def model_of(**more):
    return fi.Recommender(**{"dim": 8, "negatives": 20, "seed": 1, "batch_size": 1, **more})


def vectors_of(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.5, (n, dim)).astype(np.float32)


def parts_of(model, table="items"):
    return table_arrays(model._core.tables[table])


def rows_of(model, items):
    return model.item_table.lookup(model.item_codes(items))


def everything(model):
    state = model._core.export_state()
    tables = {f"{name}.{part}": array for name in model._core.tables for part, array in parts_of(model, name).items()}
    kinds = (model._item_ids.kind, model._user_ids.kind, model._item_ids.ids().tolist())
    return (
        {name: np.asarray(value).tobytes() for name, value in {**state, **tables}.items()},
        kinds,
        (
            model.stats(),
            model.memory_usage(),
            model.item_table.version,
        ),
    )


def used_model(**more):
    users, items = np.arange(200) % 7, np.arange(200) % 23
    return model_of(**more).partial_fit(users, items, timestamps=np.arange(200.0))


# --- what is set ----------------------------------------------------------------------------------------------


def test_rows_are_those_given_and_fresh():
    model, vectors, biases = used_model(), vectors_of(3), np.array([0.5, -1.0, 2.0], np.float32)
    others = np.setdiff1d(np.arange(23), [5, 6])
    before = rows_of(model, others)
    contexts = parts_of(model, "contexts")["weights"][:23].copy()
    version = model.item_table.version
    assert model.warm_start([5, 900, 6], vectors, biases) is model
    np.testing.assert_array_equal(rows_of(model, [5, 900, 6]), np.column_stack([vectors, biases]))
    assert rows_of(model, others).tobytes() == before.tobytes()
    assert parts_of(model, "contexts")["weights"][:23].tobytes() == contexts.tobytes()
    state = parts_of(model)["state"].reshape(24, 9)
    initial = np.float32(model.optimizer.initial_accumulator_value)
    assert (state[model.item_codes([5, 900, 6])] == initial).all()
    assert (state[model.item_codes(others)] != initial).any()
    assert model.item_table.version == version + 1  # of one version, all of them
    changes = model.item_table.changes(since=version)
    assert sorted(changes.updated.tolist()) == sorted(model.item_codes([5, 900, 6]).tolist())
    codes = model.item_table.lookup_quantized(range(24))
    np.testing.assert_array_equal(codes, fi.ops.quantize_rowwise(model.item_table.lookup(range(24))))


def test_biases_are_0_if_not_given_and_the_last_of_equal_items_wins():
    model, vectors = used_model(), vectors_of(4)
    model.warm_start([5, 900, 5, 900], vectors)
    np.testing.assert_array_equal(rows_of(model, [5, 900])[:, :-1], vectors[2:])
    assert (rows_of(model, [5, 900])[:, -1] == 0).all()
    assert model.n_items == 24


def test_items_given_are_known_as_items_added_are():
    vectors = vectors_of(3)
    given, added = model_of(explore_below=1), model_of(explore_below=1)
    given.warm_start(["tea", "milk", "ale"], vectors)
    added.add_items(["tea", "milk", "ale"])
    assert given.stats() == added.stats()
    assert given.stats()["new_items"] == given.n_items == 3
    assert given.item_events(["tea"]).tolist() == [0]
    assert sorted(given.recommend("ann", k=3)[0].tolist()) == ["ale", "milk", "tea"]
    for model in (given, added):
        model.partial_fit(["ann", "bob"], ["tea", "gin"])
    assert given.stats() == added.stats()


def test_one_item_none_and_other_kinds_of_arrays():
    model, vectors = model_of(), vectors_of(2)
    model.warm_start(7, vectors[:1]).warm_start(np.array([8], np.int32), vectors[1:], None)
    np.testing.assert_array_equal(rows_of(model, [7, 8])[:, :-1], vectors)
    version = model.item_table.version
    model.warm_start([], np.empty((0, 8), np.float32))
    assert (model.n_items, model.item_table.version) == (2, version)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    model, vectors = model_of(), vectors_of(2)
    model.warm_start([1, 2], torch.from_numpy(vectors), torch.ones(2))
    np.testing.assert_array_equal(rows_of(model, [1, 2]), np.column_stack([vectors, np.ones(2, np.float32)]))


# --- who sees it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [50, 3000])  # scored all, and searched
def test_lists_and_neighbours_come_from_the_rows_given(n):
    model = used_model().warm_start(range(100, 100 + n), vectors_of(n))
    best = np.zeros((1, 8), np.float32)
    model.warm_start([100], best, np.array([50.0], np.float32))
    assert model.recommend(3, k=1)[0].tolist() == [100]
    model.warm_start([100], best, np.array([-50.0], np.float32))
    assert 100 not in model.recommend(3, k=10)[0].tolist()
    vectors = vectors_of(1, seed=4)
    model.warm_start([100, 101], np.concatenate([vectors, 2 * vectors]))
    assert model.similar_items(100, k=1)[0].tolist() == [101]


@pytest.mark.parametrize("kind", ["exact", "IVF4,Flat"])
def test_an_index_answers_from_them_at_once(kind):
    if kind != "exact":
        pytest.importorskip("faiss")
    model = used_model().warm_start(range(100, 400), vectors_of(300))
    index = fi.LiveIndex(model.item_table, kind, metric="ip", background=False)
    queries = model.user_vectors([1, 2])
    index.search(queries, k=5)
    model.warm_start([7, 1000], vectors_of(2), np.array([90.0, 100.0], np.float32))
    for found in index.search(queries, k=2)[1]:
        assert model.items_of(found).tolist() == [1000, 7]


def test_they_learn_from_there():
    """Two clusters that a pretrained model tells apart serve a user's first event; others have to be learned."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1.0, (2, 8))
    vectors = (np.repeat(centres, 20, axis=0) + rng.normal(0, 0.2, (40, 8))).astype(np.float32)
    model = model_of().warm_start(range(40), vectors)
    found = [model.partial_fit(user, user % 40).recommend(user, k=10)[0] // 20 for user in range(40)]
    assert np.mean([(clusters == user % 40 // 20).mean() for user, clusters in enumerate(found)]) > 0.9
    before = rows_of(model, [0])
    model.partial_fit([100, 100], [1, 0])
    assert rows_of(model, [0]).tobytes() != before.tobytes()


def test_what_was_given_is_what_rows_are_pulled_to():
    events = np.arange(2000) % 30

    def distance(anchor):
        model = model_of(anchor=anchor).warm_start(range(30), vectors_of(30), np.ones(30, np.float32))
        given = rows_of(model, range(30))
        model.partial_fit(events % 7, events, timestamps=np.arange(2000.0))
        return np.abs(rows_of(model, range(30)) - given).mean()

    assert distance(0.0) > distance(0.1) > 5 * distance(10.0) > 0


def test_a_warm_start_moves_the_anchors_of_its_items_alone():
    model = used_model(anchor=0.5)
    model.set_anchor()
    before = model._core.export_state()["anchors_items_values"].reshape(23, 9)
    model.warm_start([900, 5], vectors_of(2))
    model.partial_fit([1] * 5, [5, 900, 6, 7, 8])
    model.add_items([901, 902]).warm_start([902], vectors_of(1))
    state = model._core.export_state()
    codes, anchors = state["anchors_items_rows"], state["anchors_items_values"].reshape(-1, 9)
    assert codes.tolist() == [*range(24), model.item_codes(902)[0]]  # 901 has none
    known = dict(zip(codes.tolist(), anchors, strict=True))
    np.testing.assert_array_equal(known[model.item_codes(5)[0]], [*vectors_of(2)[1], 0.0])
    np.testing.assert_array_equal(known[model.item_codes(900)[0]], [*vectors_of(2)[0], 0.0])
    np.testing.assert_array_equal(known[model.item_codes(902)[0]], [*vectors_of(1)[0], 0.0])
    others = np.setdiff1d(np.arange(23), model.item_codes(5))
    np.testing.assert_array_equal(np.array([known[code] for code in others]), before[others])


# --- beside features, snapshots, checkpoints ------------------------------------------------------------------


@pytest.mark.parametrize("first", ["features", "vectors"])
def test_a_vector_given_overrides_features(first, tmp_path):
    model, vectors = model_of(item_features=KINDS), vectors_of(2)
    model.add_items(range(20), {"kind": ["a", "b"] * 10}).partial_fit([1] * 18, range(18))

    def steps():
        yield lambda: model.add_items([18, 19, 500], {"kind": ["a", "b", "b"]})
        yield lambda: model.warm_start([18, 500], vectors)

    for step in list(steps())[:: 1 if first == "features" else -1]:
        step()
    model.partial_fit([2] * 18, range(18))  # items that had no event would follow F here
    np.testing.assert_array_equal(rows_of(model, [18, 500])[:, :-1], vectors)
    fi.checkpoint.save(model, tmp_path)
    for each in (model, fi.checkpoint.load(tmp_path)[0]):
        followed = rows_of(each, [19])
        each.partial_fit([3] * 18, range(18))
        np.testing.assert_array_equal(rows_of(each, [18, 500])[:, :-1], vectors)
        assert rows_of(each, [19]).tobytes() != followed.tobytes()  # this one still does
        each.frozen = True
        each.partial_fit([3, 3], [18, 500])  # nor do they start from F at their first event
        np.testing.assert_array_equal(rows_of(each, [18, 500])[:, :-1], vectors)
        each.frozen = False
        each.partial_fit([4], [18])
        assert np.abs(rows_of(each, [18])[:, :-1] - vectors[0]).max() < 0.3  # it learns from there


def test_restoring_takes_a_warm_start_back():
    model = model_of(item_features=KINDS)
    model.add_items(range(20), {"kind": ["a", "b"] * 10}).partial_fit([1] * 18, range(18))
    snapshot, before = model.snapshot(), rows_of(model, range(20))
    model.warm_start([3, 18, 500], vectors_of(3)).add_items([500], {"kind": ["a"]})
    model.restore(snapshot)
    assert rows_of(model, range(20)).tobytes() == before.tobytes()
    model.add_items([501], {"kind": ["a"]})
    assert rows_of(model, [500]).tobytes() == rows_of(model, [501]).tobytes()  # started again, from its features
    model.partial_fit([2] * 30, np.arange(30) % 18)
    assert np.abs(rows_of(model, [18])[0] - before[18]).max() < 0.2  # and this one follows them again
    assert rows_of(model, [18]).tobytes() != before[18].tobytes()


def test_a_checkpoint_goes_on_as_if_it_were_the_model(tmp_path):
    model = used_model(anchor=0.5).warm_start([5, 900], vectors_of(2))
    fi.checkpoint.save(model, tmp_path)
    again, _ = fi.checkpoint.load(tmp_path)
    for each in (model, again):
        each.partial_fit([1, 2, 3], [5, 900, 6])
    assert everything(again)[0] == everything(model)[0]


def test_a_frozen_model_can_be_given_vectors():
    model = used_model()
    model.frozen = True
    model.warm_start([5], vectors_of(1))
    np.testing.assert_array_equal(rows_of(model, [5])[:, :-1], vectors_of(1))


# --- what is refused ------------------------------------------------------------------------------------------


REFUSED = {
    "too few": ([1, 2], vectors_of(1), None, ValueError, "^vectors has shape"),
    "too short": ([1, 2], vectors_of(2, dim=7), None, ValueError, "^vectors has shape"),
    "one-dimensional": ([1], vectors_of(1)[0], None, ValueError, "^vectors has shape"),
    "doubles": ([1, 2], vectors_of(2).astype(np.float64), None, TypeError, "^vectors .*float64"),
    "lists": ([1], [[0.0] * 8], None, TypeError, "^vectors"),
    "NaN": ([1, 2], np.where(np.eye(2, 8) > 0, NAN, vectors_of(2)), None, ValueError, r"^vectors\[0, 0\] = nan is not"),
    "inf": ([1, 900], np.where(np.eye(2, 8, 6) > 0, INF, vectors_of(2)), None, ValueError, r"^vectors\[0, 6\] = inf"),
    "biases too few": ([1, 2], vectors_of(2), np.ones(1, np.float32), ValueError, "^biases has shape"),
    "biases as doubles": ([1, 2], vectors_of(2), np.ones(2), TypeError, "^biases .*float64"),
    "biases of NaN": ([1, 2], vectors_of(2), np.array([1, NAN], np.float32), ValueError, r"^biases\[1\] = nan is not"),
    "other ids": (["a", "b"], vectors_of(2), None, TypeError, "^items are str ids"),
    "no ids": ([1.5, 2.5], vectors_of(2), None, TypeError, "^items"),
    "ids in a square": ([[1, 2]], vectors_of(2), None, ValueError, r"^items has shape \(1, 2\)"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("anchor", [0.0, 1.0])
def test_what_is_refused_changes_nothing(case, anchor):
    items, vectors, biases, error, message = REFUSED[case]
    model = used_model(anchor=anchor)
    before = everything(model)
    with pytest.raises(error, match=message):
        model.warm_start(items, vectors, biases)
    assert everything(model) == before


def test_a_refused_first_call_doesnt_settle_what_ids_are():
    model = model_of()
    before = everything(model)
    with pytest.raises(ValueError, match=r"^vectors has shape"):
        model.warm_start(["a"], vectors_of(2))
    with pytest.raises(UnicodeEncodeError):
        model.warm_start(["\ud800"], vectors_of(1))
    assert everything(model) == before
    assert model.partial_fit(1, 10).n_items == 1


def test_parts_of_arrays_are_taken():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = fi.Recommender(dim=3).warm_start([1, 2, 3], rows[:, :-1], rows[:, -1])
    assert np.array_equal(model.item_table.lookup(model.item_codes([1, 2, 3])), rows)
