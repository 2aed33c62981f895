"""Whoever follows a table through changes() holds what the table holds, however late and whatever went."""

from __future__ import annotations

import numpy as np
import pytest

import fastinc as fi
from test_table_threads import run_threads

DIM = 4


class Follower:
    """A dict kept in step with a table."""

    def __init__(self, table):
        self.table, self.rows, self.version, self.resets = table, {}, 0, 0

    def poll(self):
        changes = self.table.changes(since=self.version)
        assert changes.version >= self.version
        if changes.reset:
            assert len(changes.removed) == 0
            self.rows.clear()
            self.resets += 1
        for id in changes.removed.tolist():
            self.rows.pop(id, None)
        rows = self.table.lookup(changes.updated)
        self.rows.update(zip(changes.updated.tolist(), rows, strict=True))
        self.version = changes.version
        return changes

    def poll_and_check(self):
        """As no other thread writes, no id can be in both."""
        changes = self.poll()
        assert not set(changes.updated.tolist()) & set(changes.removed.tolist())
        assert self.version == self.table.version
        ids = self.table.ids()
        assert sorted(self.rows) == sorted(ids.tolist())
        held = [self.rows[id] for id in ids.tolist()]
        np.testing.assert_array_equal(np.reshape(held, (-1, DIM)), self.table.lookup(ids))


def write(table, rng, ids_up_to):
    """Do one of the things that change a table, to a few ids or many."""
    n = int(rng.choice([1, 5, 50, 400]))
    ids = rng.integers(0, ids_up_to, n)
    kind = rng.integers(6)
    if kind == 0:
        table.remove(ids)
    elif kind == 1:
        table.load(ids, rng.standard_normal((n, DIM)).astype(np.float32))
    elif kind == 2:
        table.expire()
    else:
        table.update(ids, rng.standard_normal((n, DIM)).astype(np.float32))


BOUNDS = [
    {},
    {"max_rows": 500},
    {"max_rows": 500, "eviction": "lfu"},
    {"eviction": fi.TTL(0.01)},
    {"max_rows": 500, "admission": fi.MinCount(2)},
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_followers_that_lag_at_random(bounds, seed):
    rng = np.random.default_rng(seed)
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), **bounds)
    followers = [Follower(table) for _ in range(3)]
    for _ in range(600):
        write(table, rng, 3000)
        for follower, chance in zip(followers, (1.0, 0.2, 0.01), strict=True):
            if rng.random() < chance:
                follower.poll_and_check()
    for follower in followers:
        follower.poll_and_check()
        assert follower.resets == 0, "so few changes are all in the log"


def test_followers_for_whom_the_log_is_too_short():
    """Evictions and removals beyond what the log holds, at one version and over many."""
    rng = np.random.default_rng(5)
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros(), max_rows=20_000)
    late, prompt, next_id = Follower(table), Follower(table), 0
    for k in range(60):
        fresh = np.arange(next_id, next_id + 5000)
        next_id += 5000
        table.update(fresh, rng.standard_normal((5000, DIM)).astype(np.float32))
        if k % 7 == 0:
            table.remove(rng.choice(table.ids(), 3000, replace=False))
        prompt.poll_and_check()
        if rng.random() < 0.15:
            late.poll_and_check()
    late.poll_and_check()
    assert late.resets > 0
    assert prompt.resets == 0


def test_reset_tells_the_whole_truth():
    table = fi.EmbeddingTable(DIM, max_rows=40_000)
    first = np.arange(40_000)
    table.load(first, np.zeros((40_000, DIM), np.float32))
    since = table.version
    table.remove(first[:40_000])
    table.load([5, 6], np.ones((2, DIM), np.float32))
    changes = table.changes(since)
    assert (changes.reset, sorted(changes.updated.tolist()), changes.removed.tolist()) == (True, [5, 6], [])
    assert not table.changes(since + 1).reset, "one version later all is in the log"
    assert sorted(table.changes(since + 1).updated.tolist()) == [5, 6]
    assert not table.changes(table.version).reset
    assert not fi.EmbeddingTable(DIM).changes(0).reset


def test_many_small_versions_are_forgotten_too():
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), max_rows=10)
    follower, row = Follower(table), np.ones((1, DIM), np.float32)
    for k in range(40_000):
        table.update(np.array([k % 4 if k % 2 else k]), row)
        if k == 5:
            follower.poll()
    assert table.changes(6).reset
    follower.poll_and_check()
    assert follower.resets == 1


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_followers_while_others_write(bounds):
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), **bounds)
    followers = [Follower(table) for _ in range(2)]

    def writer(seed):
        def loop(stop):
            rng = np.random.default_rng(seed)
            while not stop.is_set():
                write(table, rng, 3000)

        return loop

    def reader(follower):
        def loop(stop):
            while not stop.is_set():
                follower.poll()

        return loop

    run_threads([writer(1), writer(2), *map(reader, followers)], 0.4)
    for follower in followers:
        follower.poll_and_check()
