"""fi.ops.*_update: the formulas, the order of sums, non-finite gradients, and memory. Errors: test_ops_errors.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from _devices import device_fixture, ops
from _reference import CASES, PLAIN_CASES, Reference, bytes_of, case_ids
from _rounding import group_sum, lane_sum

device = device_fixture()

DIMS = (1, 2, 3, 7, 31, 32, 33, 64, 65, 130)


def make_problem(case, seed, rows, n, dim, id_dtype=np.int64):
    """Weights, state, ids (duplicates likely) and gradients of mixed magnitude."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rows, dim)).astype(np.float32)
    ids = rng.integers(0, rows, n).astype(id_dtype)
    grads = (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-3, 3, (n, 1))).astype(np.float32)
    return weights, case.make_state(rows, dim), ids, grads


# --- the formulas -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(CASES))
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 12),
    dim=st.one_of(st.sampled_from(DIMS), st.integers(1, 130)),
    batches=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    id_dtype=st.sampled_from([np.int32, np.int64]),
)
def test_matches_the_float64_reference(case, seed, rows, dim, batches, id_dtype):
    weights, state, _, _ = make_problem(case, seed, rows, 0, dim)
    reference = Reference(case, weights, state)
    for step, n in enumerate(batches):
        _, _, ids, grads = make_problem(case, seed + step + 1, rows, n, dim, id_dtype)
        assert case.update(weights, state, ids, grads) == 0
        reference.update(ids, grads)
        reference.assert_holds(weights, state)


@pytest.mark.parametrize(**case_ids(CASES))
def test_every_dim_to_130(case, isa):
    for dim in range(1, 131):
        weights, state, ids, grads = make_problem(case, dim, 5, 9, dim)
        reference = Reference(case, weights, state)
        case.update(weights, state, ids, grads)
        reference.update(ids, grads)
        reference.assert_holds(weights, state)


@pytest.mark.parametrize(**case_ids([case for case in CASES if case.spec.torch(case.params)]))
@pytest.mark.parametrize("dim", [1, 3, 32, 65])
def test_matches_torch(case, dim):
    """torch's optimizer, in float64 on a dense embedding of which every row is in every batch."""
    make = case.spec.torch(case.params)
    rows = 6
    weights, state, _, _ = make_problem(case, dim, rows, 0, dim)
    reference = Reference(case, weights, state)  # for its bounds
    embedding = torch.nn.Embedding(rows, dim, dtype=torch.float64)
    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(weights))
    optimizer = make(list(embedding.parameters()))
    for step in range(5):
        _, _, ids, grads = make_problem(case, 100 + step, rows, 3 * rows, dim)
        ids[:rows] = np.arange(rows)
        grads = np.round(grads * 64) / 64  # sums are exact, so torch's order of them doesn't matter
        case.update(weights, state, ids, grads)
        reference.update(ids, grads)
        optimizer.zero_grad()
        embedding(torch.from_numpy(ids)).backward(torch.from_numpy(grads).double())
        optimizer.step()
        reference.weights.value = embedding.weight.detach().numpy().copy()
        reference.weights.assert_holds(weights, f"step {step}: weights")


def test_matches_torch_sparse_sgd():
    """SGD doesn't move rows outside the batch, so a sparse embedding agrees; exactly, on numbers with few bits."""
    rng = np.random.default_rng(3)
    weights = (rng.integers(-256, 256, (50, 8)) / 256).astype(np.float32)
    embedding = torch.nn.Embedding(50, 8, sparse=True, _weight=torch.from_numpy(weights.copy()))
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.25)
    for _ in range(4):
        ids = rng.integers(0, 50, 30)
        grads = (rng.integers(-64, 64, (30, 8)) / 64).astype(np.float32)
        optimizer.zero_grad()
        embedding(torch.from_numpy(ids)).backward(torch.from_numpy(grads))
        optimizer.step()
        ops.sgd_update(weights, ids, grads, lr=0.25)
    np.testing.assert_array_equal(weights, embedding.weight.detach().numpy())


@pytest.mark.parametrize(**case_ids(CASES))
def test_rows_outside_the_batch_keep_their_bytes(case):
    weights, state, _, _ = make_problem(case, 1, 40, 0, 33)
    before = [a.copy() for a in (weights, *state.values())]
    grads = np.ones((3, 33), np.float32)
    case.update(weights, state, np.array([7, 0, 7]), grads)
    others = [i for i in range(40) if i not in (0, 7)]
    for now, then in zip((weights, *state.values()), before, strict=True):
        assert bytes_of(now[others]) == bytes_of(then[others])
        assert bytes_of(now[7]) != bytes_of(then[7])


def test_lr_zero_moves_state_only():
    for case in PLAIN_CASES:
        if 0.0 in case.spec.bad["lr"]:
            continue  # its formula divides by lr
        weights, state, ids, grads = make_problem(case, 2, 4, 8, 5)
        before = weights.copy()
        case.update(weights, state, ids, grads, lr=0.0)
        np.testing.assert_array_equal(weights, before)


# --- duplicates: the order of sums --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 128, 129, 4095, 4096, 4097, 4160, 4161, 8193, 10_000])
@pytest.mark.parametrize("dim", [1, 33])
def test_a_long_segment_is_summed_in_groups_of_64(n, dim):
    """SGD with lr 1 on a zero row leaves minus the sum: compare it bit for bit."""
    rng = np.random.default_rng(n)
    grads = (rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-4, 5, (n, 1))).astype(np.float32)
    weights = np.zeros((3, dim), np.float32)
    ops.sgd_update(weights, np.full(n, 1), grads, lr=1.0)
    np.testing.assert_array_equal(weights[1], -group_sum(grads))
    assert not weights[[0, 2]].any()


def test_three_levels_of_groups():
    n = 64**3 + 64**2 + 65
    grads = np.random.default_rng(0).standard_normal((n, 1)).astype(np.float32)
    weights = np.zeros((1, 1), np.float32)
    ops.sgd_update(weights, np.zeros(n, np.int32), grads, lr=1.0)
    assert weights[0, 0] == -group_sum(grads)[0]


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([5, 64, 300, 2047, 2048, 2049, 5000]),
    rows=st.sampled_from([1, 2, 3, 100, 4096, 4097, 70_000]),
)
@example(seed=0, n=5000, rows=2**24 + 1)  # three passes of the sort
def test_batch_order_within_each_row(seed, n, rows):
    """Whatever sort runs, a row's gradients are added in batch order."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(min(1.0, 20 / rows), n) - 1, rows - 1)
    ids[rng.random(n) < 0.05] = rows - 1
    grads = (rng.standard_normal((n, 2)) * 10.0 ** rng.integers(-4, 5, (n, 1))).astype(np.float32)
    weights = np.zeros((rows, 2), np.float32)
    ops.sgd_update(weights, ids, grads, lr=1.0)
    for row in np.unique(ids):
        np.testing.assert_array_equal(weights[row], -group_sum(grads[ids == row]))
    untouched = np.ones(rows, bool)
    untouched[ids] = False
    assert not weights[untouched].any()


@pytest.mark.parametrize("dim", [1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 130, 1000])
def test_sums_over_a_row_use_32_lanes(dim, isa):
    """A new accumulator is the mean square: compare it bit for bit, over 50 rows."""
    grads = np.random.default_rng(dim).standard_normal((50, dim)).astype(np.float32)
    state = np.zeros(50, np.float32)
    ops.rowwise_adagrad_update(np.zeros((50, dim), np.float32), state, np.arange(50), grads)
    expected = [lane_sum(g * g) / np.float32(dim) for g in grads]
    np.testing.assert_array_equal(state, np.array(expected, np.float32))


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
def test_int32_and_int64_ids_give_the_same_bytes(case):
    results = []
    for dtype in (np.int32, np.int64):
        weights, state, ids, grads = make_problem(case, 5, 9, 4000, 8, dtype)
        case.update(weights, state, ids, grads)
        results.append(bytes_of(weights, state))
    assert results[0] == results[1]


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_an_empty_batch_changes_nothing(case, rows):
    weights, state, ids, grads = make_problem(case, 1, rows, 0, 4) if rows else make_problem(case, 1, 1, 0, 4)
    weights, state = weights[:rows], {name: array[:rows] for name, array in state.items()}
    before = bytes_of(weights, state)
    assert case.update(weights, state, ids, grads) == 0
    assert case.update(weights, state, ids.astype(np.int32), grads, nonfinite="skip") == 0
    assert bytes_of(weights, state) == before


# --- gradients that aren't finite ---------------------------------------------------------------------------

BIG = np.float32(3e38)
#: What row 2 gets, as gradients (k, dim 3), and what the message must say.
NONFINITE = {
    "nan": ([[1, np.nan, 1]], r"grads\[\d+, 1\] = -?nan \(id 2\)"),
    "inf": ([[1, 1, 1], [np.inf, 0, 0]], r"grads\[\d+, 0\] = inf \(id 2\)"),
    "-inf": ([[1, 1, -np.inf]], r"grads\[\d+, 2\] = -inf \(id 2\)"),
    "inf - inf": ([[np.inf, 0, 0], [-np.inf, 0, 0]], r"grads\[\d+, 0\] = inf \(id 2\)"),
    "sum overflows": ([[BIG, 0, 0], [BIG, 0, 0]], r"grads: .* id 2 .*overflow"),
    "sum overflows and comes back": ([[BIG, 0, 0], [BIG, 0, 0], [-BIG, 0, 0]], r"grads: .* id 2 .*overflow"),
    "square overflows": ([[2e19, 0, 0]], r"grads: .* id 2 .*overflow"),
    "squares overflow together": ([[1.5e19, 1.5e19, 0]], r"grads: .* id 2 .*overflow"),
    "squares of the sum overflow": ([[1e19, 0, 0], [1e19, 0, 0]], r"grads: .* id 2 .*overflow"),
}


def with_row_two(case, bad, n_good=6):
    """A batch over rows 0, 1, 3 and, among them, the bad gradients on row 2."""
    rng = np.random.default_rng(0)
    weights, state, _, _ = make_problem(case, 4, 5, 0, 3)
    ids = rng.choice([0, 1, 3], n_good)
    grads = rng.standard_normal((n_good, 3)).astype(np.float32)
    at = np.sort(rng.integers(0, n_good + 1, len(bad)))
    return weights, state, np.insert(ids, at, 2), np.insert(grads, at, np.array(bad, np.float32), axis=0)


@pytest.mark.parametrize(**case_ids(CASES))
@pytest.mark.parametrize("kind", NONFINITE)
def test_nonfinite_raise_names_it_and_changes_nothing(case, kind):
    bad, message = NONFINITE[kind]
    weights, state, ids, grads = with_row_two(case, bad)
    before = bytes_of(weights, state, ids, grads)
    with pytest.raises(ValueError, match=message):
        case.update(weights, state, ids, grads)
    assert bytes_of(weights, state, ids, grads) == before


@pytest.mark.parametrize(**case_ids(CASES))
@pytest.mark.parametrize("kind", NONFINITE)
def test_nonfinite_skip_leaves_out_exactly_those_rows(case, kind):
    bad, _ = NONFINITE[kind]
    weights, state, ids, grads = with_row_two(case, bad)
    inputs = bytes_of(ids, grads)
    expected_weights, expected_state = weights.copy(), {k: v.copy() for k, v in state.items()}
    case.update(expected_weights, expected_state, ids[ids != 2], grads[ids != 2])
    assert case.update(weights, state, ids, grads, nonfinite="skip") == 1
    assert bytes_of(weights, state) == bytes_of(expected_weights, expected_state)
    assert bytes_of(ids, grads) == inputs


def test_skip_counts_rows_not_gradients():
    weights = np.zeros((4, 2), np.float32)
    grads = np.full((6, 2), np.nan, np.float32)
    assert ops.sgd_update(weights, np.array([0, 0, 1, 3, 3, 3]), grads, nonfinite="skip") == 3
    assert not weights.any()


def test_nonfinite_is_found_at_every_column(isa):
    for dim in (1, 16, 33, 65):
        for column in range(dim):
            for value in (np.nan, -np.inf):
                grads = np.ones((3, dim), np.float32)
                grads[1, column] = value
                weights = np.zeros((3, dim), np.float32)
                with pytest.raises(ValueError, match=rf"grads\[1, {column}\]"):
                    ops.sgd_update(weights, np.arange(3), grads)
                assert not weights.any()


@pytest.mark.parametrize(**case_ids(CASES))
def test_large_but_finite_is_stepped_as_any(case):
    """A batch that needs the careful check because of its size in numbers, and passes it."""
    weights, state, ids, _ = make_problem(case, 9, 40, 60, 3)
    grads = np.full((60, 3), 1e18, np.float32)
    reference = Reference(case, weights, state)
    assert case.update(weights, state, ids, grads) == 0
    reference.update(ids, grads)
    reference.assert_holds(weights, state)


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
def test_in_place_on_torch_tensors(case):
    weights, state, ids, grads = make_problem(case, 6, 7, 20, 5)
    tensors = torch.from_numpy(weights.copy())
    torch_state = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
    pointers = [t.data_ptr() for t in (tensors, *torch_state.values())]
    case.update(tensors, torch_state, torch.from_numpy(ids), torch.from_numpy(grads))
    case.update(weights, state, ids, grads)
    assert [t.data_ptr() for t in (tensors, *torch_state.values())] == pointers
    assert bytes_of(tensors, torch_state) == bytes_of(weights, state)


def test_in_place_on_numpy_views():
    """A contiguous slice of a larger array is written where it is, and nothing around it."""
    whole = np.zeros((10, 4), np.float32)
    ops.sgd_update(whole[3:6], np.array([0, 2]), np.ones((2, 4), np.float32), lr=1.0)
    assert whole.sum(1).tolist() == [0, 0, 0, -4, 0, -4, 0, 0, 0, 0]


class Producer:
    """An array library of its own: DLPack and nothing else."""

    def __init__(self, array, versioned=True):
        self._array, self._versioned = array, versioned

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **versioned):
        if versioned and not self._versioned:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return self._array.__dlpack__(**versioned)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_any_dlpack_producer(versioned, library):
    weights = np.zeros((3, 2), np.float32)
    ids, grads = np.array([1, 1]), np.ones((2, 2), np.float32)
    wrapped = [Producer(library(array), versioned) for array in (weights, ids, grads)]
    assert ops.sgd_update(*wrapped, lr=1.0) == 0
    assert weights.tolist() == [[0, 0], [-2, -2], [0, 0]]


def test_read_only_ids_and_gradients_are_fine():
    ids, grads = np.array([1]), np.ones((1, 2), np.float32)
    ids.flags.writeable = grads.flags.writeable = False
    weights = np.zeros((2, 2), np.float32)
    ops.sgd_update(weights, ids, grads, lr=1.0)
    assert weights[1].tolist() == [-1, -1]


def test_strides_of_axes_of_length_one_do_not_matter():
    weights = np.zeros((4, 6), np.float32)[::4]  # (1, 6), strided along the axis of one
    grads = np.ones((1, 12), np.float32)[:, :6]
    ops.sgd_update(weights, np.arange(6)[:1], grads, lr=1.0)
    ops.sgd_update(torch.from_numpy(weights), torch.arange(6)[:1], torch.from_numpy(grads), lr=1.0)
    assert weights.tolist() == [[-2] * 6]
