"""The Recommender's arguments: ids, labels, times, limits, and what it answers when it knows little."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _reference import PLAIN_RECOMMENDER

EXTREMES = [-(2**63), -1, 0, 1, 2**63 - 1]
NAN, INF = float("nan"), float("inf")


def model_of(loss="softmax", **more):
    return fi.Recommender(**{"dim": 8, "loss": loss, "negatives": 10, "seed": 1, **more})


def fitted(loss="softmax", **more):
    """Users 1 and 2; items 10 .. 14; user 1 has had 10, 11, 12."""
    model = model_of(loss, **more)
    labels = [1.0, 0.5, 1.0, 0.25, 0.75, 0.5] if model.uses_labels else None
    return model.partial_fit([1, 1, 1, 2, 2, 2], [10, 11, 12, 10, 13, 14], labels, [0, 60, 120, 130, 140, 150])


def everything(model):
    users, items = [1, 2, 99], [10, 11, 12, 13, 14]
    return (
        model.stats(),
        model.memory_usage(),
        model.user_vectors(users).tobytes(),
        model.item_table.lookup(range(model.n_items)).tobytes(),
        *(a.tobytes() for a in model.recommend(users, k=5, exclude_seen=False)),
        model.predict([1] * 5, items).tobytes(),
    )


# --- ids ----------------------------------------------------------------------------------------------------


def test_any_int64_is_an_id():
    model = model_of().partial_fit(EXTREMES, EXTREMES[::-1])
    ids, scores = model.recommend(EXTREMES, k=5, exclude_seen=False)
    assert [sorted(row) for row in ids.tolist()] == [EXTREMES] * 5
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32


@given(
    kind=st.sampled_from(["int", "str"]),
    seed=st.integers(0, 2**32 - 1),
    names=st.lists(st.text(max_size=6).filter(lambda s: "\0" not in s and s), min_size=1, unique=True),
)
def test_ids_come_back_as_they_went_in(kind, seed, names):
    names = [s for s in names if not any(0xD800 <= ord(c) < 0xE000 for c in s)] or ["x"]
    items = names if kind == "str" else np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, len(names))
    model = model_of().partial_fit(items, items)
    assert sorted(model.items_of(range(model.n_items)).tolist()) == sorted(set(items))
    np.testing.assert_array_equal(model.item_codes(items), np.arange(len(items)))
    ids, _ = model.recommend(items, k=len(names), exclude_seen=False)
    assert set(ids[0].tolist()) == set(items)


@pytest.mark.parametrize("items", [[5, 6], (5, 6), np.array([5, 6], np.int8), np.array([5, 6], np.uint64)], ids=repr)
def test_kinds_of_whole_numbers(items):
    model = model_of().partial_fit([1, 1], items)
    assert model.items_of([0, 1]).tolist() == [5, 6]


@pytest.mark.parametrize(
    "bad",
    [
        [1.0, 2.0],
        [True, False],
        [None, 1],
        [b"a", b"b"],
        [2**63, 2**64 - 1],
        [2**70, 1],
        [1, "a"],
        ["a", 1],
        ["a", None],
        np.array([1, "a"], dtype=object),
        np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("argument", ["users", "items"])
def test_what_is_no_id_is_refused(bad, argument):
    model = fitted()
    before = everything(model)
    arguments = {"users": [1, 1], "items": [10, 10], argument: bad}
    with pytest.raises((TypeError, ValueError), match=f"^{argument}"):
        model.partial_fit(**arguments)
    with pytest.raises((TypeError, ValueError), match=f"^{argument}"):
        model.predict(**arguments)
    assert everything(model) == before


def test_mixing_kinds_is_refused_and_named():
    ints, texts = fitted(), model_of().partial_fit(["ann", "bob"], ["tea", "milk"])
    with pytest.raises(TypeError, match=r"^users are str ids, but this model has learned int ids$"):
        ints.partial_fit(["ann"], [10])
    with pytest.raises(TypeError, match=r"^items are str ids, but this model has learned int ids$"):
        ints.partial_fit([1], ["tea"])
    with pytest.raises(TypeError, match=r"^users are int ids, but this model has learned str ids$"):
        texts.recommend(5)
    with pytest.raises(TypeError, match=r"^exclude are int ids, but this model has learned str ids$"):
        texts.recommend("ann", exclude=[3])
    with pytest.raises(TypeError, match=r"^items are int ids"):
        texts.similar_items([3])
    with pytest.raises(TypeError, match=r"^users are int ids"):
        texts.user_vectors([3])
    users_int_items_str = model_of().partial_fit([1, 2], ["tea", "milk"])
    assert users_int_items_str.recommend(1, k=1)[0].tolist() == ["milk"]


@pytest.mark.parametrize("mixed", [[1, "a"], ["a", 1], ("a", 2.5), ["a", True]], ids=repr)
def test_two_kinds_in_one_list_are_refused(mixed):
    """NumPy would turn all of them into strings, and 1 would come back as "1"."""
    model = model_of()
    with pytest.raises(TypeError, match=r"^users"):
        model.partial_fit(mixed, [5, 6])
    with pytest.raises(TypeError, match=r"^items"):
        model.partial_fit([5, 6], mixed)
    assert model.stats()["events"] == 0


def test_an_id_that_cannot_be_encoded_changes_nothing():
    """A lone surrogate isn't UTF-8; ids before it in the batch must not stay behind."""
    model = model_of()
    for users, items in ((["u1", "\ud800"], ["i1", "i2"]), (["u1", "u2"], ["i1", "\ud800"])):
        with pytest.raises((ValueError, TypeError)):
            model.partial_fit(users, items)
    model.partial_fit(["ann"], ["tea"])
    assert (model.n_users, model.n_items) == (1, 1)
    assert model.recommend("bob", k=2)[0].tolist() == ["tea", ""]


def test_strings_that_differ_only_in_a_trailing_nul_are_two():
    model = model_of().partial_fit(["a", "a"], ["x", "x\0"])
    assert model.n_items == 2


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([[1, 2]], [10, 11], r"^users has shape \(1, 2\)"),
        ([1, 2], [[10], [11]], r"^items has shape \(2, 1\)"),
        ([1, 2], [10], r"^items has length 1; users has 2$"),
        (1, [10], r"^users has shape \(\)"),
        ([1], 10, r"^items has shape \(\)"),
    ],
)
def test_wrong_shapes(users, items, message):
    model = fitted()
    before = everything(model)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(users, items)
    assert everything(model) == before


def test_no_events():
    for loss in ("softmax", "bpr", "logistic", "mse"):
        model = model_of(loss)
        assert model.partial_fit([], []) is model
        assert model.stats() == {"users": 0, "items": 0, "new_items": 0, "events": 0, "skipped": 0, "limited": 0}
        ids, scores = model.recommend([5], k=3)
        assert ids.tolist() == [[-1, -1, -1]]
        assert (scores == -np.inf).all()
        assert model.recommend([], k=3)[0].shape == (0, 3)
        model.partial_fit(["ann"], ["tea"], [0.5] if model.uses_labels else None)
        assert model.n_events == 1


# --- labels and times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_labels_are_refused_by_losses_without_them(loss):
    with pytest.raises(ValueError, match=rf"^labels: loss='{loss}'"):
        model_of(loss).partial_fit([1], [2], labels=[1.0])


def test_mse_needs_labels():
    with pytest.raises(ValueError, match=r"^labels: loss='mse' needs them"):
        model_of("mse").partial_fit([1], [2])


@pytest.mark.parametrize("label", [-0.25, 1.5, 5.0])
def test_logistic_labels_are_in_0_1(label):
    with pytest.raises(ValueError, match=rf"^labels\[1\] = {label} must be in \[0, 1\]"):
        model_of("logistic").partial_fit([1, 1], [2, 3], labels=[0.5, label])


@pytest.mark.parametrize("column", ["labels", "timestamps"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nonfinite_columns_change_nothing(column, value):
    model = fitted("mse")
    before = everything(model)
    columns = {"labels": [1.0, 2.0, 3.0], "timestamps": [200.0, 210.0, 220.0]}
    columns[column] = [1.0, value, 1.0]
    with pytest.raises(ValueError, match=rf"^{column}\[1\] = {value} is not finite$"):
        model.partial_fit([1, 7, 8], [20, 21, 22], **columns)
    assert everything(model) == before


def test_a_label_that_overflows_float32_is_refused():
    model = fitted("mse")
    before = everything(model)
    with pytest.raises(ValueError, match=r"^labels\[0\] = 1e\+39"):
        model.partial_fit([1], [10], [1e39])
    assert everything(model) == before


@pytest.mark.parametrize("column", ["labels", "timestamps"])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], ValueError, r" has shape \(1,\)"),
        ([[1.0, 2.0]], ValueError, r" has shape \(1, 2\)"),
        (1.0, ValueError, r" has shape \(\)"),
        (["1", "2"], TypeError, " has dtype <U1"),
        ([None, 1.0], TypeError, " has dtype object"),
        ([1j, 2], TypeError, " has dtype complex128"),
    ],
    ids=str,
)
def test_bad_columns(column, values, error, message):
    model = fitted("mse")
    before = everything(model)
    columns = {"labels": [1.0, 2.0], column: values}
    with pytest.raises(error, match=rf"^{column}{message}"):
        model.partial_fit([1, 2], [10, 11], **columns)
    assert everything(model) == before


def test_label_zero_is_not_history_for_logistic():
    model = model_of("logistic").partial_fit([1, 1, 2], [10, 11, 12], [1.0, 0.0, 1.0])
    assert sorted(model.recommend(1, k=3)[0].tolist()) == [-1, 11, 12]


def test_older_timestamps_are_accepted():
    """Late events are learned as of their own time; the clock for requests doesn't go back."""
    model = fitted()
    np.testing.assert_array_equal(model.user_vectors([1]), model.user_vectors([1], at=150.0))
    model.partial_fit([2], [14], timestamps=[-1e9])
    assert model.n_events == 7
    np.testing.assert_array_equal(model.user_vectors([1]), model.user_vectors([1], at=150.0))


def test_age_counts_from_the_request():
    model = fitted(time_scale=100.0, **PLAIN_RECOMMENDER)
    now, later, before = (model.user_vectors([1], at=at)[0] for at in (150.0, 1e9, -1e9))
    assert np.linalg.norm(later[:-1]) < 1e-3 * np.linalg.norm(now[:-1])
    np.testing.assert_array_equal(before, model.user_vectors([1], at=0.0)[0])  # a negative age is none
    timeless = fitted(time_scale=None, **PLAIN_RECOMMENDER)
    np.testing.assert_array_equal(timeless.user_vectors([1], at=1e9), timeless.user_vectors([1]))


@pytest.mark.parametrize("at", [NAN, INF])
def test_bad_request_times(at):
    model = fitted()
    for ask in (
        lambda: model.recommend(1, at=at),
        lambda: model.predict(1, 10, at=at),
        lambda: model.user_vectors([1], at=at),
    ):
        with pytest.raises(ValueError, match=f"^at = {at} is not finite$"):
            ask()


# --- answers ------------------------------------------------------------------------------------------------


def test_shapes_of_answers():
    model = fitted()
    ids, scores = model.recommend([1, 2, 1], k=2)
    assert ids.shape == scores.shape == (3, 2)
    one_ids, one_scores = model.recommend(1, k=2)
    assert one_ids.tolist() == ids[0].tolist() == ids[2].tolist()
    assert one_scores.tolist() == scores[0].tolist()
    assert isinstance(model.predict(1, 10), np.float32)
    assert model.predict([1], [10]).shape == (1,)
    neighbours, cosines = model.similar_items(10, k=2)
    assert neighbours.shape == cosines.shape == (2,)
    assert 10 not in neighbours


def test_seen_items_are_left_out():
    model = fitted()
    assert sorted(model.recommend(1, k=5)[0].tolist()) == [-1, -1, -1, 13, 14]
    assert sorted(model.recommend(1, k=5, exclude_seen=False)[0].tolist()) == [10, 11, 12, 13, 14]


def test_excluded_items_are_left_out():
    model = fitted()
    ids, _ = model.recommend([1, 2, 99], k=5, exclude_seen=False, exclude=[13, 10, 13, 555])
    assert all(sorted(row) == [-1, -1, 11, 12, 14] for row in ids.tolist())
    assert model.recommend(1, k=2, exclude=13)[0].tolist() == [14, -1]
    assert model.recommend(1, k=2, exclude=[])[0].tolist() != [-1, -1]


def test_more_than_there_are_is_padded():
    model = fitted()
    ids, scores = model.recommend(99, k=8)
    assert ids.tolist()[5:] == [-1, -1, -1]
    assert np.isfinite(scores[:5]).all()
    assert (scores[5:] == -np.inf).all()
    texts = model_of().partial_fit(["ann", "bob"], ["tea", "milk"])
    assert texts.recommend("ann", k=3)[0].tolist() == ["milk", "", ""]
    neighbours, cosines = texts.similar_items(["tea", "water"], k=2)
    assert neighbours.tolist() == [["milk", ""], ["", ""]]
    assert (cosines[1] == -np.inf).all()


@pytest.mark.parametrize("user", ["history", "vector", "both"])
def test_a_new_user_gets_what_is_popular(user):
    rng = np.random.default_rng(0)
    users, items = np.arange(1500), np.minimum(rng.geometric(0.5, 1500), 6)
    model = model_of(user=user).partial_fit(users, items)
    before = model.memory_usage()
    ids, scores = model.recommend(10**9, k=3)
    assert ids.tolist() == [1, 2, 3]
    assert np.isfinite(scores).all()
    assert model.memory_usage() == before
    assert model.n_users == 1500


def test_unknown_items_score_as_nothing():
    model = fitted()
    assert model.predict([1, 99], [777, 777]).tolist() == [0.0, 0.0]
    rated = fitted("mse")
    mean = np.float32((1.0 + 0.5 + 1.0 + 0.25 + 0.75 + 0.5) / 6)
    assert rated.predict([1], [777]).tolist() == [mean]
    assert model.item_codes([10, 777]).tolist() == [0, -1]


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"], ids=repr)
def test_bad_k(k):
    model = fitted()
    for ask in (lambda: model.recommend(1, k=k), lambda: model.similar_items(10, k=k)):
        rule = "be at least 1" if type(k) is int else "be a whole number"
        error = ValueError if type(k) is int else TypeError
        with pytest.raises(error, match=rf"^k = {re.escape(repr(k))} must {rule}$"):
            ask()


def test_predict_lengths():
    with pytest.raises(ValueError, match=r"^items has length 3; users has 2$"):
        fitted().predict([1, 2], [10, 11, 12])


# --- the item table -----------------------------------------------------------------------------------------


def test_the_item_table_is_read_only():
    model = fitted()
    table, before = model.item_table, everything(model)
    row = np.ones((1, 9), np.float32)
    for method, arguments in (("update", ([0], row)), ("load", ([0], row)), ("remove", ([0],))):
        with pytest.raises(TypeError, match=rf"^{method}: this table belongs to a Recommender"):
            getattr(table, method)(*arguments)
    assert everything(model) == before


def test_the_item_table_follows_the_model():
    model = fitted()
    table = model.item_table
    assert (table.dim, len(table)) == (9, 5)
    seen = table.version
    model.partial_fit([1], [15], timestamps=[160])
    changes = table.changes(since=seen)
    assert int(model.item_codes([15])[0]) in changes.updated
    rows = table.lookup(range(6))
    np.testing.assert_array_equal(table.lookup_quantized(range(6)), fi.ops.quantize_rowwise(rows))


# --- history ------------------------------------------------------------------------------------------------


def test_history_size_bounds_what_is_remembered():
    model = model_of(history_size=3, window=3)
    model.partial_fit([1] * 5, [10, 11, 12, 13, 14])
    assert sorted(model.recommend(1, k=5)[0].tolist()) == [-1, -1, -1, 10, 11]
    before = model.memory_usage()["histories"]
    model.partial_fit([1] * 500, [10, 11, 12, 13, 14] * 100)
    assert model.memory_usage()["histories"] == before


def test_only_the_window_counts():
    """The same last items give the same user, whatever came before."""
    model = model_of(window=2, time_scale=None, **PLAIN_RECOMMENDER)
    model.partial_fit([1, 1, 1, 2, 2], [10, 11, 12, 11, 12])
    vectors = model.user_vectors([1, 2])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0].any()


def test_memory_usage_adds_up():
    usage = fitted(user="both").memory_usage()
    assert usage["total"] == sum(usage.values()) - usage["total"]
    assert [name for name, size in usage.items() if size == 0] == ["anchors"]  # there are none


# --- numbers that run away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "bpr", "logistic", "mse"])
@pytest.mark.parametrize("lr", [1e12, 1e30])
def test_a_diverging_model_is_counted_and_never_not_finite(loss, lr):
    rng = np.random.default_rng(0)
    model = model_of(loss, user="both", optimizer=fi.SGD(lr=lr))
    labels = rng.random(300) if model.uses_labels else None
    model.partial_fit(rng.integers(0, 10, 300), rng.integers(0, 20, 300), labels)
    assert model.stats()["skipped"] > 0
    assert model.n_events == 300
    assert np.isfinite(model.item_table.lookup(range(model.n_items))).all()
    assert np.isfinite(model.user_vectors(range(10))).all()


# --- the constructor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(({name: 0}, ValueError) for name in ("dim", "negatives", "window", "history_size")),
        *(({name: 1.5}, TypeError) for name in ("dim", "negatives", "window", "history_size", "seed")),
        *(({name: True}, TypeError) for name in ("dim", "negatives", "window", "history_size", "seed")),
        *(({name: 10**7}, ValueError) for name in ("dim", "negatives", "history_size")),
        ({"window": 1001}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 2**64}, ValueError),
        ({"loss": "hinge"}, ValueError),
        ({"user": "id"}, ValueError),
        *(({"recency_exponent": value}, ValueError) for value in (-0.1, NAN, INF)),
        *(({"time_scale": value}, ValueError) for value in (0.0, -1.0, NAN, INF)),
        *(({"init_std": value}, ValueError) for value in (-0.1, NAN, INF)),
        *(
            ({name: value}, ValueError)
            for name in ("tie_weight", "long_weight", "hidden_lr_scale")
            for value in (-0.1, NAN, INF)
        ),
        *(({name: value}, ValueError) for name in ("long_window", "hidden") for value in (-1, 65537)),
        *(({name: 1.5}, TypeError) for name in ("long_window", "hidden", "situations")),
        *(({name: "x"}, TypeError) for name in ("recency_exponent", "time_scale", "init_std")),
        *(({name: None}, ValueError) for name in ("loss", "user")),
        ({"optimizer": "adagrad"}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, error):
    ((name, value),) = arguments.items()
    with pytest.raises(error, match=rf"\b{name} = .*{re.escape(str(value)[:4])}"):
        fi.Recommender(**arguments)


def test_params_and_repr():
    model = fi.Recommender(8, "bpr", "both", fi.SGD(lr=0.5), negatives=7, time_scale=None)
    twin = fi.Recommender(**model.get_params())
    assert twin.get_params() == model.get_params()
    assert (model.optimizer.lr, model.get_params()["negatives"]) == (0.5, 7)
    assert repr(fitted()).startswith("Recommender(dim=8, loss='softmax', user='history', users=2, items=5, events=6")
