"""fi.ops.pool and its backward: against torch, a table's pool, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _devices import device_fixture, ops

device = device_fixture()

MODES = ["sum", "mean", "weighted"]


def make_bags(seed, dim, sizes, mode, id_dtype=np.int64):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    weights = rng.standard_normal((30, dim)).astype(np.float32)
    ids = rng.integers(0, 30, n).astype(id_dtype)
    offsets = np.cumsum([0, *sizes])[:-1] if sizes else np.empty(0, np.int64)
    each = rng.standard_normal(n).astype(np.float32) if mode == "weighted" else None
    return weights, ids, offsets, "mean" if mode == "mean" else "sum", each


@given(
    dim=st.sampled_from([1, 3, 32, 33, 64, 65, 128, 300]),
    sizes=st.lists(st.integers(0, 70), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(MODES),
    id_dtype=st.sampled_from([np.int32, np.int64]),
)
def test_sums_are_in_the_order_of_the_ids(dim, sizes, seed, mode, id_dtype):
    weights, ids, offsets, kind, each = make_bags(seed, dim, sizes, mode, id_dtype)
    bags = ops.pool(weights, ids, offsets, kind, each)
    expected = np.zeros((len(sizes), dim), np.float32)
    for b, (begin, size) in enumerate(zip(offsets, sizes, strict=True)):
        for i in range(begin, begin + size):
            expected[b] += weights[ids[i]] * (np.float32(1) if each is None else each[i])
        if kind == "mean" and size:
            expected[b] /= np.float32(size)
    assert bags.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dim", [1, 40, 130])
def test_backward_is_the_gradient_that_torch_finds(mode, dim):
    sizes = [3, 0, 1, 7, 40, 0]
    weights, ids, offsets, kind, each = make_bags(1, dim, sizes, mode)
    grads = np.random.default_rng(2).standard_normal((len(sizes), dim)).astype(np.float32)
    rows = torch.from_numpy(weights[ids]).double().requires_grad_()
    bags = torch.nn.functional.embedding_bag(
        torch.arange(len(ids)),
        rows,
        torch.from_numpy(offsets),
        mode=kind,
        per_sample_weights=None if each is None else torch.from_numpy(each).double(),
    )
    bags.backward(torch.from_numpy(grads).double())
    got = ops.pool_backward(grads, offsets, len(ids), kind, each)
    np.testing.assert_allclose(got, rows.grad.numpy(), rtol=1e-6)


def test_backward_and_an_update_train_as_torch_does():
    weights, ids, offsets, kind, _ = make_bags(3, 16, [5, 2, 9], "mean")
    layer = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(weights.copy()), freeze=False, mode=kind)
    layer(torch.from_numpy(ids), torch.from_numpy(offsets)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    grads = 2 * ops.pool(weights, ids, offsets, kind)
    ops.sgd_update(weights, ids, ops.pool_backward(grads, offsets, len(ids), kind), lr=0.1)
    np.testing.assert_allclose(weights, layer.weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_table_pools_alike():
    weights, ids, offsets, kind, each = make_bags(4, 12, [4, 0, 31], "weighted")
    table = fi.EmbeddingTable(12)
    table.load(range(30), weights)
    assert ops.pool(weights, ids, offsets, kind, each).tobytes() == table.pool(ids, offsets, kind, each).tobytes()


def test_out_is_written_and_returned():
    weights, ids, offsets, kind, _ = make_bags(5, 6, [2, 3], "mean")
    out, spread = np.full((2, 6), 9, np.float32), np.full((5, 6), 9, np.float32)
    assert ops.pool(weights, ids, offsets, kind, out=out) is out
    assert out.tobytes() == ops.pool(weights, ids, offsets, kind).tobytes()
    assert ops.pool_backward(out, offsets, 5, kind, out=spread) is spread
    assert spread.tobytes() == ops.pool_backward(out, offsets, 5, kind).tobytes()


def test_nothing_to_pool():
    weights = np.ones((3, 2), np.float32)
    none = np.empty(0, np.int64)
    assert ops.pool(weights, none, none).shape == (0, 2)
    assert ops.pool(weights, none, np.zeros(3, np.int64)).tolist() == [[0, 0]] * 3
    assert ops.pool_backward(np.ones((3, 2), np.float32), np.zeros(3, np.int64), 0).shape == (0, 2)


def test_without_checks_a_gpu_reads_nothing_outside(device):
    if device == "cpu":
        pytest.skip("the CPU always checks")
    weights = np.ones((3, 2), np.float32)
    ids, offsets = np.array([0, 9, -1, 2]), np.array([0, 2])
    assert ops.pool(weights, ids, offsets, "sum", check=False).tolist() == [[1, 1], [1, 1]]
    assert ops.pool(weights, ids, np.array([-5, 3, 99]), "sum", check=False).tolist() == [[1, 1], [1, 1], [0, 0]]
    assert ops.pool(weights, ids, np.array([3, 1]), "sum", check=False).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"ids": np.array([0, 3, 1, 2])}, IndexError, r"^ids\[1\] = 3 is out of range for weights with 3 rows"),
        ({"ids": np.array([0, 0, -1, 2])}, IndexError, r"^ids\[2\] = -1"),
        ({"ids": np.ones(4, np.float32)}, TypeError, "^ids has dtype float32"),
        ({"offsets": np.array([1, 2])}, ValueError, r"^offsets\[0\] = 1 must be 0"),
        ({"offsets": np.array([0, 3, 2])}, ValueError, r"^offsets\[2\] = 2 must be between"),
        ({"offsets": np.array([0, 5])}, ValueError, r"^offsets\[1\] = 5 must be between"),
        ({"offsets": np.empty(0, np.int64)}, ValueError, "^offsets is empty but there are 4 ids"),
        ({"mode": "max"}, ValueError, "^mode = 'max' must be"),
        ({"per_sample_weights": np.ones(4, np.float32)}, ValueError, "^per_sample_weights are for mode='sum'"),
        (
            {"mode": "sum", "per_sample_weights": np.array([1, np.nan, 1, 1], np.float32)},
            ValueError,
            r"^per_sample_weights\[1\] = -?nan is not finite",
        ),
        ({"mode": "sum", "per_sample_weights": np.ones(3, np.float32)}, ValueError, r"^per_sample_weights has shape"),
        ({"weights": np.ones((3, 2))}, TypeError, "^weights has dtype float64"),
        ({"out": np.ones((3, 2), np.float32)}, ValueError, "^out has shape"),
        ({"check": 3}, TypeError, "^check"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    good = {"weights": np.ones((3, 2), np.float32), "ids": np.array([0, 1, 2, 0]), "offsets": np.array([0, 2])}
    with pytest.raises(error, match=words):
        ops.pool(**good | change)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n": -1}, ValueError, "^n = -1"),
        ({"n": 1}, ValueError, r"^offsets\[1\] = 2 must be between"),
        ({"offsets": np.array([0])}, ValueError, "^grads has 2 rows; offsets has 1 bags"),
        ({"out": np.ones((3, 2), np.float32)}, ValueError, "^out has shape"),
        ({"grads": np.ones(2, np.float32)}, ValueError, "^grads has shape"),
        ({"per_sample_weights": np.ones(4, np.float32)}, ValueError, "^per_sample_weights are for"),
    ],
)
def test_bad_arguments_of_backward_are_named(change, error, words):
    good = {"grads": np.ones((2, 2), np.float32), "offsets": np.array([0, 2]), "n": 4}
    with pytest.raises(error, match=words):
        ops.pool_backward(**good | change)


def test_out_that_shares_memory_is_refused():
    weights = np.ones((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"^weights shares memory with out"):
        fi.ops.pool(weights, np.array([0, 1]), np.array([0]), out=weights[:1])
