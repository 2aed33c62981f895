"""EmbeddingTable.pool against torch's embedding_bag, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _devices import device_fixture, new_table

device = device_fixture()


def make_table():
    rng = np.random.default_rng(0)
    table = new_table(5, fi.SGD(), fi.init.Normal(std=1.0))
    table.update([1, 3], rng.standard_normal((2, 5)).astype(np.float32))
    return table


@given(
    dim=st.sampled_from([1, 3, 32, 65]),
    sizes=st.lists(st.integers(0, 70), max_size=12),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["sum", "mean", "weighted"]),
    offset_dtype=st.sampled_from([np.int32, np.int64]),
)
def test_pool_matches_torch(dim, sizes, seed, mode, offset_dtype):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    table = new_table(dim, fi.SGD(), fi.init.Normal(std=1.0))
    table.update(range(0, 40, 2), rng.standard_normal((20, dim)).astype(np.float32))
    ids = rng.integers(0, 40, n)
    offsets = (np.cumsum([0, *sizes])[:-1] if sizes else np.empty(0)).astype(offset_dtype)
    weights = rng.standard_normal(n).astype(np.float32) if mode == "weighted" else None
    if not sizes:
        assert table.pool(ids, offsets).shape == (0, dim)
        return
    bags = table.pool(ids, offsets, "mean" if mode == "mean" else "sum", weights)
    rows = torch.from_numpy(table.lookup(range(40))).double()
    expected = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids),
        rows,
        torch.from_numpy(offsets.astype(np.int64)),
        mode="mean" if mode == "mean" else "sum",
        per_sample_weights=None if weights is None else torch.from_numpy(weights).double(),
    )
    sizes_column = np.array(sizes)[:, None]
    tolerance = (sizes_column + 1) * 2.0**-23 * max(1.0, float(rows.abs().max())) * np.maximum(sizes_column, 1)
    tolerance *= 1.0 if weights is None else max(1.0, np.abs(weights).max(initial=0))
    if mode == "mean":
        tolerance = tolerance / np.maximum(sizes_column, 1)
    assert (np.abs(bags - expected.numpy()) <= tolerance).all()
    assert not bags[np.array(sizes) == 0].any()


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1], r"^offsets\[0\] = 1 must be 0"),
        ([-1], r"^offsets\[0\] = -1 must be 0"),
        ([0, 2, 1], r"^offsets\[2\] = 1 must be between .*\(2\).*\(3\)"),
        ([0, -1], r"^offsets\[1\] = -1 must be"),
        ([0, 4], r"^offsets\[1\] = 4 must be"),
        ([0, 2**62], rf"^offsets\[1\] = {2**62} must be"),
        ([0, -(2**63)], r"^offsets\[1\] = -9223372036854775808 must be"),
        ([], r"^offsets is empty but there are 3 ids"),
        (np.array([[0]]), r"^offsets has shape \(1, 1\)"),
    ],
    ids=str,
)
def test_pool_refuses_bad_offsets(offsets, message):
    with pytest.raises(ValueError, match=message):
        make_table().pool([1, 2, 3], offsets)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "max"}, ValueError, "^mode = 'max' must be 'sum' or 'mean'"),
        ({"mode": "mean", "weights": np.ones(3, "f4")}, ValueError, "^weights .*mode='mean'"),
        ({"mode": "sum", "weights": np.ones(2, "f4")}, ValueError, r"^weights has shape \(2,\)"),
        ({"mode": "sum", "weights": np.ones(3)}, TypeError, "^weights has dtype float64"),
        ({"mode": "sum", "weights": np.array([1, np.nan, 1], "f4")}, ValueError, r"^weights\[1\] = nan"),
        ({"out": np.ones((1, 5), "f4")}, ValueError, r"^out has shape \(1, 5\); it must be \(2, 5\)"),
        ({"out": np.ones((2, 5))}, TypeError, "^out has dtype float64"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value,
)
def test_pool_errors(arguments, error, message):
    out = arguments.get("out")
    before = None if out is None else out.copy()
    with pytest.raises(error, match=message):
        make_table().pool([1, 2, 3], [0, 1], **arguments)
    assert out is None or (out == before).all()
