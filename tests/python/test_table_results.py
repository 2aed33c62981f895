"""The arrays that an EmbeddingTable makes for its results."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import fastinc as fi
from _devices import device_fixture, new_table

device = device_fixture()


def make_table():
    table = new_table(5, init=fi.init.Normal(std=1.0, seed=3))
    table.update(np.arange(20), np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32))
    return table


@pytest.mark.parametrize("n", [0, 1, 3, 1000])
def test_new_results_are_arrays_of_their_own(n):
    table = make_table()
    ids = np.arange(n)
    calls = [
        (lambda: table.lookup(ids), 5, np.float32),
        (lambda: table.lookup_quantized(ids), 5 + 8, np.uint8),
        (lambda: table.pool(ids, np.arange(n)), 5, np.float32),
    ]
    for call, columns, dtype in calls:
        first, second = call(), call()
        for result in (first, second):
            assert type(result) is np.ndarray
            assert (result.shape, result.dtype) == ((n, columns), dtype)
            assert result.flags.c_contiguous
            assert result.flags.writeable
            assert result.flags.owndata
        assert not np.shares_memory(first, second)
        np.testing.assert_array_equal(first, second)


def test_a_result_outlives_its_table():
    table = make_table()
    rows, again = table.lookup([13, 14]), table.lookup([13, 14]).copy()
    del table
    np.testing.assert_array_equal(rows, again)


def test_ids_that_a_result_cannot_be_made_for():
    """Faults of what would give the result its shape are named before all others."""
    table = make_table()
    for call, name in [
        (table.lookup, "ids"),
        (table.lookup_quantized, "ids"),
        (lambda offsets: table.pool(None, offsets), "offsets"),
    ]:
        for bad in (None, "1", 1.5, {1}, True):
            with pytest.raises(
                TypeError, match=rf"^{name} must be an array or a list of ints, not {type(bad).__name__}$"
            ):
                call(bad)
        for bad in (np.zeros((2, 2)), torch.zeros(2, 2)[:, ::2], np.array(3)):
            with pytest.raises(ValueError, match=rf"^{name} has shape {re.escape(str(tuple(bad.shape)))}; it must be"):
                call(bad)


def test_results_need_not_know_an_array_librarys_shape():
    class Producer:
        def __dlpack__(self, **kwargs):
            return np.array([13]).__dlpack__(**kwargs)

    table = make_table()
    np.testing.assert_array_equal(table.lookup(Producer()), table.lookup([13]))
