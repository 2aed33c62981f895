"""Readers without locks against writers that never rest: no row is torn, none is another id's.

Every row has the same number in all columns. Rows written by update() count its batches; rows written by load() hold
64 * id + k, so that a row read from a slot that has gone to another id is found out, and so is a mix of two writes.
FASTINC_STRESS_SECONDS sets how long each table is under stress.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import fastinc as fi
from test_table_threads import run_threads

SECONDS = float(os.environ.get("FASTINC_STRESS_SECONDS", "1.0"))
DIM = 257
COUNTED = np.arange(1000) - 500  # negative ids and small ones
NAMED = np.arange(3000, 9000)  # 64 times the largest is exact in float32
ALL = np.r_[COUNTED, NAMED]


def check(ids, values):
    """Numbers of rows, one each: what could be in the row of this id?"""
    named = ids >= NAMED[0]
    own = values[named] // 64
    assert ((own == ids[named]) | (values[named] == 0)).all(), "a row of another id"
    counts = values[~named]
    assert ((counts >= 0) & (counts == np.round(counts))).all(), "no number of batches"


def check_rows(ids, rows):
    assert (rows == rows[:, :1]).all(), "a torn row"
    check(ids, rows[:, 0])


def some(rng, n=200):
    return np.concatenate([rng.choice(COUNTED, n // 4), rng.choice(NAMED, n)])


# --- readers: each call is one read --------------------------------------------------------------------------


def by_lookup(table, rng):
    ids = some(rng)
    check_rows(ids, table.lookup(ids))


def by_lookup_of_one(table, rng):
    for id in some(rng, 20):
        ids = np.array([id])
        check_rows(ids, table.lookup(ids))


def by_pool(table, rng):
    ids = some(rng)
    check_rows(ids, table.pool(ids, np.arange(len(ids)), "sum"))
    bags = table.pool(ids, np.arange(0, len(ids), 10), "sum")
    assert (bags == bags[:, :1]).all(), "a bag with a torn row"


def by_codes(table, rng):
    ids = some(rng)
    codes = table.lookup_quantized(ids)
    assert not codes[:, :DIM].any(), "a torn code"
    tail = np.ascontiguousarray(codes[:, DIM:]).view(np.float32)
    assert (tail[:, 0] == tail[0, 0]).all(), "a scale that no row with equal numbers has"
    check(ids, tail[:, 1])


def by_search(table, rng):
    """A query whose numbers sum to 0 scores any whole row 0; one with a single 1 tells the row's number."""
    index = fi.LiveIndex(table, "exact", metric="ip")
    zero = np.zeros((2, DIM), np.float32)
    zero[0, : DIM - 1 : 2], zero[0, 1 : DIM - 1 : 2] = 1, -1
    zero[1] = -zero[0]
    scores, ids = index.search(zero, 5)
    assert (scores[ids >= 0] == 0).all(), "a torn row"
    one = np.zeros((1, DIM), np.float32)
    one[0, rng.integers(DIM)] = 1
    scores, ids = index.search(one, 50)
    there = ids[0] != -1
    check(ids[0][there], scores[0][there])


def by_approximate_search(table, rng):
    index = table_index(table)
    one = np.zeros((1, DIM), np.float32)
    one[0, rng.integers(DIM)] = 1
    scores, ids = index.search(one, 20)
    there = ids[0] != -1
    check(ids[0][there], scores[0][there])


def by_changes(table, rng):
    since = max(0, table.version - int(rng.integers(1, 200)))
    changes = table.changes(since)
    assert changes.version >= since
    for ids in (changes.updated, changes.removed):
        assert np.isin(ids, ALL).all(), "an id nobody wrote"
    check_rows(changes.updated, table.lookup(changes.updated))


def by_ids(table, rng):
    assert np.isin(table.ids(), ALL).all(), "an id nobody wrote"
    assert int(rng.choice(NAMED)) - 2**40 not in table


def by_state(table, rng):
    state = table.__getstate__()["state"]
    check_rows(state["ids"], state["weights"])
    assert len(set(state["ids"].tolist())) == len(state["ids"])


INDEXES = {}


def table_index(table):
    return INDEXES.setdefault(id(table), fi.LiveIndex(table, "Flat", rebuild_rows=2000))


READERS = [
    by_lookup,
    by_lookup_of_one,
    by_pool,
    by_codes,
    by_search,
    by_approximate_search,
    by_changes,
    by_ids,
    by_state,
]

BOUNDS = [
    {},
    {"max_rows": 2500},
    {"max_rows": 2500, "eviction": "lfu"},
    {"max_rows": 2500, "eviction": fi.TTL(0.005)},
]


@pytest.fixture
def eager_threads():
    """Threads of Python take turns after 10 microseconds: writers don't wait long for readers to let them in."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_no_row_is_torn(bounds):
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros(), **bounds)
    table.load(NAMED[:2000], np.repeat(64.0 * NAMED[:2000, None], DIM, axis=1).astype(np.float32))
    steps = np.full((len(COUNTED), DIM), -1, np.float32)
    reads = dict.fromkeys(READERS, 0)

    def count(stop):
        while not stop.is_set():
            table.update(COUNTED, steps)

    def name(stop):
        rng, k = np.random.default_rng(1), 0
        while not stop.is_set():
            ids = rng.choice(NAMED, int(rng.choice([1, 20, 300])))
            table.load(ids, np.repeat(64.0 * ids[:, None] + k % 64, DIM, axis=1).astype(np.float32))
            table.remove(rng.choice(NAMED, len(ids)))
            k += 1

    def reader(read):
        def loop(stop):
            rng = np.random.default_rng(2)
            while not stop.is_set():
                read(table, rng)
                reads[read] += 1

        return loop

    run_threads([count, name, *map(reader, READERS)], SECONDS)
    INDEXES.clear()
    assert min(reads.values()) > 0, reads
    assert table.version > 20
    by_lookup(table, np.random.default_rng(3))
