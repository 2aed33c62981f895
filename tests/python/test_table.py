"""EmbeddingTable, one promise at a time; random sequences of them: test_table_machine.py."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import fastinc as fi
from _devices import device_fixture, new_table, stats_of, usage_of
from _reference import CASES, PLAIN_CASES, Case, bytes_of, case_ids

device = device_fixture()

EXTREMES = [-(2**63), -1, 0, 1, 2**63 - 1]


def ones(n, dim):
    return np.ones((n, dim), np.float32)


def make_table(case=PLAIN_CASES[2], dim=5, rows=20):
    """A table with some rows, some removed, and some history."""
    rng = np.random.default_rng(0)
    table = new_table(dim, case.optimizer(), fi.init.Normal(std=1.0, seed=3))
    table.update([*EXTREMES, *range(10, 10 + rows)], rng.standard_normal((rows + 5, dim)).astype(np.float32))
    table.remove([11, 12])
    table.update(range(13, 16), ones(3, dim))
    return table


def everything(table):
    """All a table holds, to compare before and after."""
    state = table.__getstate__()["state"]
    codes = table.lookup_quantized(state["ids"]) if len(table) else np.empty(0, np.uint8)
    return bytes_of(codes, {k: np.asarray(v) for k, v in state.items()}), stats_of(table)


# --- updates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(CASES))
def test_a_table_and_arrays_get_the_same_bytes(case):
    """Ids 0 .. n-1 in a table against row numbers of arrays, with start values and state of their own."""
    rows, dim = 30, 33
    table = new_table(dim, case.optimizer(), fi.init.Normal(std=0.5, seed=1))
    weights, state = table.lookup(range(rows)), case.make_state(rows, dim)
    for step in range(3):
        rng = np.random.default_rng(step)
        ids, grads = rng.integers(0, rows, 50), rng.standard_normal((50, dim)).astype(np.float32)
        table.update(ids, grads)
        case.update(weights, state, ids, grads)
        np.testing.assert_array_equal(table.lookup(range(rows)), weights)


def test_many_rows_over_many_pages():
    table = new_table(3, fi.SGD(lr=1.0), fi.init.Zeros())
    ids = np.random.default_rng(0).permutation(np.arange(-30_000, 30_000)) * 2**40
    values = np.arange(60_000, dtype=np.float32)
    table.update(ids, -np.repeat(values, 3).reshape(-1, 3))
    np.testing.assert_array_equal(table.lookup(ids)[:, 1], values)
    np.testing.assert_array_equal(np.sort(table.ids()), np.sort(ids))
    assert table.remove(ids[::2].copy()) == 30_000
    np.testing.assert_array_equal(np.sort(table.ids()), np.sort(ids[1::2]))
    np.testing.assert_array_equal(table.lookup(ids)[:, 1], np.where(np.arange(60_000) % 2, values, 0))


@pytest.mark.parametrize("dim", [1, 2**20])
def test_the_least_and_greatest_dim(dim):
    table = new_table(dim, fi.SGD(lr=1.0), fi.init.Zeros())
    table.update([5, 5], ones(2, dim))
    assert (table.lookup([5]) == -2).all()


def test_removed_rows_start_anew():
    """With the start value and state of a new row, and not what was in the slot before."""
    for case in PLAIN_CASES:
        table, fresh = make_table(case), make_table(case)
        table.update([50], 7 * ones(1, 5))
        table.remove([50])
        assert 50 not in table
        np.testing.assert_array_equal(table.lookup([50]), fresh.lookup([50]))
        for t in (table, fresh):
            t.update([50], ones(1, 5))
            t.update([50], ones(1, 5))
        np.testing.assert_array_equal(table.lookup([50]), fresh.lookup([50]))


def test_load_makes_the_state_fresh():
    for case in PLAIN_CASES:
        used, new = make_table(case), make_table(case)
        used.update([5], ones(1, 5))
        for table in (used, new):
            table.load([5], 3 * ones(1, 5))
            table.update([5], ones(1, 5))
        np.testing.assert_array_equal(used.lookup([5]), new.lookup([5]))


def test_load_last_of_repeated_ids_wins_in_weights_and_codes(threads):
    table = new_table(64, fi.SGD())
    ids = np.tile(np.arange(100), 40)
    vectors = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    table.load(ids, vectors)
    np.testing.assert_array_equal(table.lookup(range(100)), vectors[-100:])
    np.testing.assert_array_equal(table.lookup_quantized(range(100)), fi.ops.quantize_rowwise(vectors[-100:]))


def test_torch_tensors_go_in_and_out():
    table = new_table(4, fi.SGD(lr=1.0), fi.init.Zeros())
    table.update(torch.tensor([3, 3], dtype=torch.int32), torch.ones(2, 4))
    out = torch.empty(2, 4)
    assert table.lookup(torch.tensor([3, 4]), out=out) is out
    assert out.tolist() == [[-2] * 4, [0] * 4]
    codes = torch.empty(1, 12, dtype=torch.uint8)
    assert table.lookup_quantized(torch.tensor([3]), out=codes) is codes
    np.testing.assert_array_equal(codes.numpy(), table.lookup_quantized([3]))


@pytest.mark.parametrize("ids", [5, np.int32(5), [5], (5,), range(5, 6), np.array([5], np.int32), torch.tensor([5])])
def test_kinds_of_ids(ids):
    table = new_table(2, fi.SGD(lr=1.0), fi.init.Zeros())
    table.update(ids, ones(1, 2))
    assert table.ids().tolist() == [5]
    assert table.lookup(ids).tolist() == [[-1, -1]]


@pytest.mark.parametrize("key", [5.0, "5", None, True, 2**63, -(2**63) - 1, (5,)], ids=repr)
def test_contains_of_what_is_no_id(key):
    table = new_table(2, fi.SGD(lr=1.0))
    table.update([5, 1], ones(2, 2))
    assert 5 in table
    assert np.int16(5) in table
    assert key not in table


# --- nothing allocated, nothing counted ---------------------------------------------------------------------


def test_reading_unknown_ids_allocates_nothing():
    table = make_table()
    before, usage = everything(table), usage_of(table)
    ids = np.arange(10_000) * 7 + 2**50
    table.lookup(ids)
    table.lookup_quantized(ids)
    table.pool(ids, np.arange(0, 10_000, 10))
    assert not any(int(id) in table for id in ids[:10])
    assert everything(table) == before
    assert usage_of(table) == usage


def test_removing_unknown_ids_allocates_nothing():
    table = make_table()
    usage = usage_of(table)
    assert table.remove(np.arange(1000, 100_000)) == 0
    assert usage_of(table) == usage


def test_int8_copies_are_made_when_asked_for_and_kept_from_then_on():
    """Whatever has become of rows and slots before."""
    table, asked = (fi.EmbeddingTable(16, fi.Adagrad(lr=0.1), fi.init.Normal(std=1.0)) for _ in range(2))
    asked.lookup_quantized([])
    random = np.random.default_rng(1)

    def write(count):
        for _ in range(count):
            ids = random.integers(0, 3000, 500)
            grads = random.standard_normal((500, 16), dtype=np.float32)
            for each in (table, asked):
                each.update(ids, grads)
                each.remove(ids[:50])

    write(20)
    assert table.memory_usage()["codes"] == 0 < asked.memory_usage()["codes"]
    ids = np.arange(3000)
    expected = fi.ops.quantize_rowwise(table.lookup(ids))
    assert np.array_equal(table.lookup_quantized(ids), expected)
    assert table.memory_usage() == asked.memory_usage()
    write(20)
    assert np.array_equal(table.lookup_quantized(ids), fi.ops.quantize_rowwise(table.lookup(ids)))
    assert table.memory_usage() == asked.memory_usage()


@pytest.mark.parametrize("factory", ["exact", "IVF4,Flat"])
def test_indices_have_int8_copies_made(factory):
    if factory != "exact":
        pytest.importorskip("faiss")
    table = fi.EmbeddingTable(8)
    table.load(np.arange(500), np.random.default_rng(1).standard_normal((500, 8), dtype=np.float32))
    assert table.memory_usage()["codes"] == 0
    fi.LiveIndex(table, factory)
    assert table.memory_usage()["codes"] == 500 * 16


def test_memory_usage_adds_up_and_grows_with_rows(device):
    beyond = 64 if device == "cpu" else 5 << 20  # a list of free slots; pages of which a part is free
    for case in PLAIN_CASES if device == "cpu" else PLAIN_CASES[-2:]:
        table = new_table(16, case.optimizer())
        assert {part for part, used in usage_of(table).items() if used} <= {"index", "total", "change_log"}
        table.update(range(50_000), np.zeros((50_000, 16), np.float32))
        table.lookup_quantized([])
        usage = table.memory_usage()
        assert usage["total"] == sum(usage.values()) - usage["total"]
        elements, per_row = table.optimizer.state_floats_per_row
        state = elements * 16 + per_row
        for part, row in (("weights", 64), ("state", 4 * state), ("codes", 24), ("headers", 18)):
            padding = 4 * ((per_row + 1) % 2 == 0) if part == "headers" else 0
            assert -4 * 50_000 * (padding > 0) <= usage[part] - 50_000 * (row + padding) < beyond, part
        assert 50_000 * 64 / 12 <= usage["index"] <= 50_000 * (12 if device == "cpu" else 26)
        assert usage["change_log"] > 0 or device == "cuda"  # there it holds what went, and nothing did
        table.remove(range(50_000))
        assert table.memory_usage()["headers"] >= 50_000 * (row + (padding + 4) * (device == "cpu"))  # free slots


# --- versions and changes -----------------------------------------------------------------------------------


def test_version_counts_batches_that_change_something():
    table = new_table(2)
    empty = np.empty((0, 2), np.float32)
    assert table.version == 0
    table.update([], empty)
    table.load([], empty)
    table.remove([])
    table.remove([7])
    table.update([7], np.full((1, 2), np.nan, np.float32), nonfinite="skip")
    assert (table.version, len(table)) == (0, 0)
    table.update([7, 7, 8], ones(3, 2))
    assert table.version == 1
    table.load([7, 9], ones(2, 2))
    assert table.version == 2
    assert table.remove([7, 7, 100]) == 1
    assert table.version == 3


def test_changes_follow_a_consumer():
    """A replica that asks for changes and copies the rows is equal to the table, whenever it asks."""
    rng = np.random.default_rng(1)
    table, replica, seen = new_table(3, fi.SGD(lr=0.5)), {}, 0
    for _ in range(60):
        for _ in range(rng.integers(1, 4)):
            ids = rng.integers(-10, 10, rng.integers(0, 5))
            if rng.random() < 0.4:
                table.remove(ids)
            else:
                table.update(ids, rng.standard_normal((len(ids), 3)).astype(np.float32))
        changes = table.changes(since=seen)
        for id in changes.removed.tolist():
            replica.pop(id, None)
        rows = table.lookup(changes.updated)
        replica.update((int(id), row.tobytes()) for id, row in zip(changes.updated, rows, strict=True))
        seen = changes.version
        assert replica == {int(id): table.lookup([int(id)])[0].tobytes() for id in table.ids()}
        assert not len(table.changes(since=seen).updated)


def test_changes_of_a_row_made_anew():
    table = new_table(2)
    table.update([1, 2], ones(2, 2))
    table.remove([1])
    assert table.changes(since=1).removed.tolist() == [1]
    table.update([1], ones(1, 2))
    changes = table.changes(since=1)
    assert (changes.version, changes.updated.tolist(), changes.removed.tolist()) == (3, [1], [])


@pytest.mark.parametrize("since", [-1, 4, 2**63])
def test_changes_since_a_version_that_never_was(since):
    table = make_table()
    assert table.version == 3
    with pytest.raises(ValueError, match=rf"^since = {since} "):
        table.changes(since=since)


# --- optimizers are shared live -----------------------------------------------------------------------------


def test_a_change_of_lr_takes_effect_in_every_table_that_shares_it():
    optimizer = fi.SGD(lr=1.0)
    tables = [new_table(1, optimizer, fi.init.Zeros()) for _ in range(2)]
    assert all(table.optimizer is optimizer for table in tables)
    for lr in (1.0, 0.25):
        optimizer.lr = lr
        for table in tables:
            table.update([3], ones(1, 1))
    tables[0].optimizer.lr = 4.0
    tables[1].update([3], ones(1, 1))
    assert [float(table.lookup([3])[0, 0]) for table in tables] == [-1.25, -5.25]


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
def test_each_parameter_takes_effect_at_the_next_batch(case):
    """As if the table had been made with it, from the same rows and state."""
    table = make_table(case)
    for name in ("lr", "eps", "weight_decay"):
        if name not in table.optimizer.get_params():
            continue
        twin = copy.deepcopy(table)
        setattr(twin.optimizer, name, 0.75)
        table.update([10], ones(1, 5))
        twin.update([10], ones(1, 5))
        assert not np.array_equal(table.lookup([10]), twin.lookup([10])), name


# --- copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(CASES))
@pytest.mark.parametrize("how", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["copy", "pickle"])
def test_copies_are_equal_and_go_their_own_way(case, how):
    table = make_table(case)
    twin = how(table)
    assert everything(twin)[0] == everything(table)[0]
    for since in range(table.version):  # what was removed before the copy isn't in it
        assert not table.changes(since).reset
        assert twin.changes(since).reset
        assert set(twin.changes(since).updated) == set(table.ids())
    assert not twin.changes(table.version).reset
    before = everything(table)
    twin.optimizer.lr = 0.0625
    twin.update([10, 999], ones(2, 5))
    twin.remove([13])
    assert everything(table) == before
    table.optimizer.lr = 0.0625
    table.update([10, 999], ones(2, 5))
    table.remove([13])
    ids = sorted(table.ids().tolist())
    np.testing.assert_array_equal(table.lookup(ids), twin.lookup(ids))


def test_copies_keep_sharing_an_optimizer():
    tables = [make_table(), make_table()]
    tables[1] = new_table(5, tables[0].optimizer)
    for twins in (copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))):
        assert twins[0].optimizer is twins[1].optimizer
        assert twins[0].optimizer is not tables[0].optimizer


def test_a_row_that_overflowed_can_still_be_copied():
    """Two finite gradients whose squares' sum isn't: whatever the row is then, a copy must not be refused."""
    table = new_table(1, fi.Adagrad(lr=0.1))
    for _ in range(2):
        table.update([1], np.full((1, 1), 1.5e19, np.float32))
    assert everything(copy.deepcopy(table))[0] == everything(table)[0]


def test_weights_that_overflowed_can_still_be_copied():
    table = new_table(1, fi.SGD(lr=1e30))
    table.update([1], np.full((1, 1), 1e18, np.float32))
    assert everything(copy.deepcopy(table))[0] == everything(table)[0]


# --- errors change nothing ----------------------------------------------------------------------------------

#: Arguments in place of good ones, with the error's type and message.
BAD_UPDATES = [
    (([1, 2], ones(1, 5)), ValueError, r"^{grads} has shape \(1, 5\); it must be \(2, 5\)$"),
    (([1, 2], ones(2, 4)), ValueError, r"^{grads} has shape \(2, 4\); it must be \(2, 5\)$"),
    (([1], np.ones((1, 5))), TypeError, r"^{grads} has dtype float64; it must be float32$"),
    (([1, 2], np.asfortranarray(ones(2, 5))), ValueError, "^{grads} is not contiguous"),
    (([1], [[1.0] * 5]), TypeError, "^{grads} must be an array .*, not list$"),
    ((np.array([1.0]), ones(1, 5)), TypeError, "^ids has dtype float64; it must be int64 or int32$"),
    ((np.array([1], "u8"), ones(1, 5)), TypeError, "^ids has dtype uint64; it must be int64 or int32$"),
    ((np.array([1], ">i8"), ones(1, 5)), TypeError, "^ids has dtype >i8; it must be int64 or int32$"),
    ((np.array([[1]]), ones(1, 5)), ValueError, r"^ids has shape \(1, 1\)"),
    ((np.arange(4)[::2], ones(2, 5)), ValueError, "^ids is not contiguous"),
    (("1", ones(1, 5)), TypeError, "^ids must be an array"),
    ((None, ones(1, 5)), TypeError, "^ids must be an array"),
    ((1.5, ones(1, 5)), TypeError, "^ids must be an array"),
    (([1.5], ones(1, 5)), TypeError, "^ids"),
    ((["1"], ones(1, 5)), TypeError, "^ids"),
    (([True], ones(1, 5)), TypeError, "^ids"),
    (([None], ones(1, 5)), TypeError, "^ids"),
    (([2**63], ones(1, 5)), (TypeError, ValueError, OverflowError), "^ids"),
    (([[1], [2, 3]], ones(1, 5)), (TypeError, ValueError), "^ids"),
    (([1, 2], np.float32([[1] * 5, [1, 1, np.nan, 1, 1]])), ValueError, r"^{grads}\[1, 2\] = nan"),
    (([1, 2], np.float32([[1] * 5, [1, 1, 1, 1, -np.inf]])), ValueError, r"^{grads}\[1, 4\] = -inf"),
]


@pytest.mark.parametrize("method", ["update", "load"])
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_UPDATES, ids=range(len(BAD_UPDATES)))
def test_refused_writes_change_nothing(method, arguments, error, message):
    table = make_table()
    before, usage = everything(table), usage_of(table)
    with pytest.raises(error, match=message.replace("{grads}", "grads" if method == "update" else "vectors")):
        getattr(table, method)(*arguments)
    assert everything(table) == before
    assert usage_of(table) == usage


@pytest.mark.parametrize("method", ["lookup", "lookup_quantized", "remove", "pool"])
@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (np.array([1.0]), TypeError),
        (np.array([[1]]), ValueError),
        (np.array(1), ValueError),
        *((ids, TypeError) for ids in (None, "1", 1.5, [1.5], ["1"])),
    ],
    ids=repr,
)
def test_bad_ids_are_named_everywhere(method, ids, error):
    table = make_table()
    before = everything(table)
    with pytest.raises(error, match=r"^ids"):
        getattr(table, method)(ids, *([[0]] if method == "pool" else []))
    assert everything(table) == before


@pytest.mark.parametrize("method", ["lookup", "lookup_quantized"])
@pytest.mark.parametrize("change", ["shape", "dtype", "layout", "read-only"])
def test_bad_out_is_named(method, change):
    table = make_table()
    out = getattr(table, method)([1, 2]).copy()
    out[:] = 3
    bad = {
        "shape": out[:1],
        "dtype": out.astype(np.float64),
        "layout": np.asfortranarray(out),
        "read-only": out.copy(),
    }[change]
    bad.flags.writeable = change != "read-only"
    with pytest.raises((TypeError, ValueError), match=r"^out "):
        getattr(table, method)([1, 2], out=bad)
    assert (bad == 3).all()


@pytest.mark.parametrize("dim", [0, -1, 1.5, True, None, "8", 2**20 + 1, 2**64], ids=repr)
def test_bad_dim(dim):
    error = ValueError if type(dim) is int else TypeError
    with pytest.raises(error, match=rf"^dim = {re.escape(repr(dim))} must be"):
        new_table(dim)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "tpu"}, ValueError, "^device = 'tpu' must be 'cpu', 'cuda' or 'cuda:<number>'"),
        ({"device": "cuda:x"}, ValueError, "^device = 'cuda:x'"),
        ({"device": "cuda:"}, ValueError, "^device = 'cuda:'"),
        ({"device": 0}, TypeError, "^device = 0"),
        ({"optimizer": "adagrad"}, TypeError, "^optimizer = 'adagrad'"),
        ({"optimizer": fi.SGD}, TypeError, "^optimizer = "),
        ({"init": 0.5}, TypeError, "^init = 0.5"),
        ({"init": fi.init.Normal}, TypeError, "^init = "),
    ],
    ids=str,
)
def test_bad_constructor_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        new_table(4, **arguments)


def test_bad_nonfinite_policy():
    table = make_table()
    with pytest.raises(ValueError, match=r"^nonfinite = 'drop' must be 'raise' or 'skip'"):
        table.update([1], ones(1, 5), nonfinite="drop")


@pytest.mark.parametrize("part", ["ids", "row_versions", "weights", "state", "version"])
def test_a_damaged_state_is_refused_and_changes_nothing(part):
    source, table = make_table(), make_table(Case("adagrad", "plain"), rows=3)
    state = source.__getstate__()["state"]
    damaged = {
        "ids": np.r_[state["ids"][:-1], state["ids"][0]],
        "row_versions": state["row_versions"] + np.uint64(1000),
        "weights": state["weights"][:-1],
        "state": state["state"][:, :-1],
        "version": 1,
    }
    before = everything(table)
    with pytest.raises(ValueError, match=r"^table state: "):
        table._core.import_state({**state, part: damaged[part]})
    assert everything(table) == before


def test_repr_and_properties(device):
    init = fi.init.Uniform(-1, 1, seed=4)
    table = new_table(np.int64(3), fi.SGD(lr=0.5), init)
    assert repr(table) == (
        "EmbeddingTable(dim=3, optimizer=SGD(lr=0.5, momentum=0.0, weight_decay=0.0), rows=0, version=0)"
    )
    assert (table.dim, table.init, table.device) == (3, init, {"cpu": "cpu", "cuda": "cuda:0"}[device])
    assert new_table(3).optimizer == fi.RowWiseAdagrad(lr=0.05)
    assert new_table(3).init == fi.init.Normal(std=0.01)
