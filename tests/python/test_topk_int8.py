"""Top-k over int8 rows, from Python; tests/cpp/search compares it with a sort in depth."""

from __future__ import annotations

import numpy as np
import pytest

import fastinc as fi
from _devices import device_fixture, ops
from fastinc import _core

device = device_fixture()

LOWEST = np.float32(-3.4028235e38)


def rows_and_queries(n: int = 500, dim: int = 20, queries: int = 4):
    rng = np.random.default_rng(5)
    q = ops.quantize_rowwise(rng.normal(size=(n, dim)).astype(np.float32))
    return q, rng.normal(size=(queries, dim)).astype(np.float32)


def test_the_best_are_those_of_a_full_sort():
    q, queries = rows_and_queries()
    scores, rows = ops.topk_int8(queries, q, 10)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    assert scores.shape == rows.shape == (4, 10)
    full = queries.astype(np.float64) @ ops.dequantize_rowwise(q).astype(np.float64).T
    np.testing.assert_array_equal(rows, np.argsort(-full, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(scores, -np.sort(-full, axis=1)[:, :10], rtol=1e-5)


def test_one_query_and_padding():
    q, queries = rows_and_queries(n=3)
    scores, rows = ops.topk_int8(queries[0], q, 5)
    assert scores.shape == rows.shape == (5,)
    assert sorted(rows[:3]) == [0, 1, 2]
    assert (rows[3:] == -1).all()
    assert (scores[3:] == LOWEST).all()
    scores, rows = ops.topk_int8(queries, q[:0], 2)
    assert (rows == -1).all()
    assert (scores == LOWEST).all()
    scores, rows = ops.topk_int8(queries[:0], q, 2)
    assert scores.shape == rows.shape == (0, 2)


def test_equal_scores_by_smaller_row():
    q = ops.quantize_rowwise(np.ones((5000, 4), dtype=np.float32))
    scores, rows = ops.topk_int8(np.ones(4, dtype=np.float32), q, 3)
    assert rows.tolist() == [0, 1, 2]
    assert scores.tolist() == [4.0, 4.0, 4.0]


def test_torch_gives_torch():
    torch = pytest.importorskip("torch")
    q, queries = rows_and_queries()
    scores, rows = ops.topk_int8(torch.from_numpy(queries), torch.from_numpy(q), 3)
    assert scores.dtype == torch.float32
    assert rows.dtype == torch.int64
    expected_scores, expected_rows = ops.topk_int8(queries, q, 3)
    np.testing.assert_array_equal(scores.numpy(), expected_scores)
    np.testing.assert_array_equal(rows.numpy(), expected_rows)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"k": 0}, ValueError, "k = 0"),
        ({"k": 2.5}, TypeError, "k"),
        ({"queries": np.ones((2, 7), np.float32)}, ValueError, "queries has shape (2, 7)"),
        ({"queries": np.ones((2, 20), np.float64)}, TypeError, "queries has dtype float64"),
        ({"queries": np.ones((2, 2, 20), np.float32)}, ValueError, "queries has shape (2, 2, 20)"),
        ({"queries": [1.0] * 20}, ValueError, "queries"),
        ({"queries": np.full((1, 20), np.nan, np.float32)}, ValueError, "queries[0, 0] = nan"),
        ({"q": np.ones((3, 8), np.uint8)}, ValueError, "q has 8 columns"),
        ({"q": np.ones((3, 28), np.int8)}, TypeError, "q has dtype"),
        ({"q": np.ones((3, 56), np.uint8)[:, ::2]}, ValueError, "q is not contiguous"),
    ],
)
def test_bad_input_is_named(change, error, words):
    q, queries = rows_and_queries()
    arguments = {"queries": queries, "q": q, "k": 3} | change
    with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
        ops.topk_int8(**arguments)


def test_same_bytes_for_any_instruction_set_and_threads(device):
    if device == "cuda":
        pytest.skip("the CPU's threads and instruction sets")
    q, queries = rows_and_queries(n=5000)
    answers = set()
    before = fi.get_isa(), fi.get_num_threads()
    try:
        for isa in _core.available_isas():
            for threads in (1, 3):
                fi.set_isa(isa)
                fi.set_num_threads(threads)
                scores, rows = ops.topk_int8(queries, q, 20)
                answers.add(scores.tobytes() + rows.tobytes())
    finally:
        fi.set_isa(before[0])
        fi.set_num_threads(before[1])
    assert len(answers) == 1
