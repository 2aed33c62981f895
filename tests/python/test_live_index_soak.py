"""Updates, removals, folds, rebuilds and searches from several threads at once: no answer is wrong.

Every row is its value in all but the last column, where it says whose row it is, so that a torn row, another's row and
one that is older than a finished write are all found out. FASTINC_SOAK_SECONDS sets how long each index is under way.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import numpy as np
import pytest

import fastinc as fi

SECONDS = float(os.environ.get("FASTINC_SOAK_SECONDS", "20"))
DIM = 24
ROWS = 3000
K = 20


class Soak:
    """One table, two writers with ids of their own, two searchers.

    A writer counts a row's write before it begins and after it has ended.
    """

    def __init__(self, factory, metric):
        self.metric = metric
        rng = np.random.default_rng(0)
        #: By id: the value that the last finished write left (0: no row), and how many writes began and ended.
        self.done, self.begun, self.ended = (np.zeros(ROWS, dtype=np.int64) for _ in range(3))
        self.table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), init=fi.init.Zeros())
        self.write(np.arange(ROWS), 1 + rng.permutation(ROWS))
        self.index = fi.LiveIndex(self.table, factory, metric=metric, rebuild_rows=400, rebuild_share=0.1, fold_rows=50)
        self.end = time.monotonic() + SECONDS
        self.counts = Counter()
        self.wrong = []

    def rows(self, ids, values):
        rows = np.repeat(values[:, np.newaxis], DIM, axis=1).astype(np.float32)
        rows[:, -1] = ids
        return rows

    def write(self, ids, values):
        """Values of 0 remove."""
        self.begun[ids] += 1
        gone = values == 0
        if not gone.all():
            self.table.load(ids[~gone], self.rows(ids[~gone], values[~gone]))
        if gone.any():
            self.table.remove(ids[gone])
        self.done[ids] = values
        self.ended[ids] += 1

    def running(self):
        return time.monotonic() < self.end and not self.wrong

    def guarded(self, work, *arguments):
        try:
            while self.running():
                work(*arguments)
        except BaseException as error:
            self.wrong.append(error)
            raise

    def change(self, rng, mine):
        ids = rng.choice(mine, rng.integers(1, 40), replace=False)
        values = 1 + rng.integers(0, 100_000, len(ids))
        values[rng.random(len(ids)) < 0.2] = 0
        self.write(ids, values)
        self.counts["writes"] += len(ids)
        time.sleep(rng.choice([0, 0, 0.001]))

    def search(self, rng):
        query = np.zeros((1, DIM), dtype=np.float32)
        if self.metric == "ip":
            query[0, : DIM - 1] = 1.0  # a row scores 23 times its value
        else:
            query[0, : DIM - 1] = rng.integers(0, 100_000)
        exact = rng.random() < 0.5
        excluded = rng.choice(ROWS, 5)
        ended, values = self.ended.copy(), self.done.copy()
        version = self.table.version
        parameters = {} if self.index.stats()["factory"] != "IVF16,Flat" else {"nprobe": 16}
        scores, ids, reflects = self.index.search(
            query, K, exclude=excluded if exact else None, with_version=True, **parameters
        )
        begun = self.begun.copy()
        self.counts["searches"] += 1
        assert reflects >= version, "an answer of an older version"
        ids, scores = ids[0], scores[0]
        assert (ids >= 0).all()
        assert len(set(ids.tolist())) == K, "an id twice"
        assert not exact or not set(ids.tolist()) & set(excluded.tolist()), "an excluded id"
        # A row of which as many writes had ended before as have begun by now was written by nobody meanwhile.
        still = ended == begun
        sure = still[ids]
        assert (values[ids[sure]] > 0).all(), "a removed row"
        expected = self.scores(query[0], values, ids)
        assert np.allclose(scores[sure], expected[sure], rtol=1e-5, atol=1e-3), "a torn row, or an older one"
        assert (np.diff(scores) * (1 if self.metric == "l2" else -1) >= 0).all(), "out of order"
        self.counts["checked"] += int(sure.sum())
        if self.index.stats()["factory"] == "HNSW16":
            return
        # Whoever has stood still and is clearly better than the last one is in the answer.
        everyone = np.flatnonzero(still & (values > 0))
        if exact:
            everyone = np.setdiff1d(everyone, excluded)
        every_score = self.scores(query[0], values, everyone)
        slack = 1e-4 * max(abs(float(scores[-1])), 1.0)
        better = every_score < scores[-1] - slack if self.metric == "l2" else every_score > scores[-1] + slack
        assert set(everyone[better].tolist()) <= set(ids.tolist()), "a better row is missing"

    def scores(self, query, values, ids):
        rows = np.repeat(values[ids][:, np.newaxis], DIM, axis=1).astype(np.float64)
        rows[:, -1] = ids
        if self.metric == "l2":
            return ((rows - query.astype(np.float64)) ** 2).sum(axis=1)
        return rows @ query.astype(np.float64)

    def disturb(self, rng):
        time.sleep(0.05)
        if rng.random() < 0.3:
            self.index.compact()
        else:
            self.index.fold()

    def run(self):
        halves = np.array_split(np.random.default_rng(1).permutation(ROWS), 2)
        rngs = [np.random.default_rng(2 + i) for i in range(5)]
        works = [
            (self.change, rngs[0], halves[0]),
            (self.change, rngs[1], halves[1]),
            (self.search, rngs[2]),
            (self.search, rngs[3]),
            (self.disturb, rngs[4]),
        ]
        threads = [threading.Thread(target=self.guarded, args=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.wrong:
            raise self.wrong[0]


@pytest.mark.parametrize(
    ("factory", "metric"), [("exact", "ip"), ("exact", "l2"), ("IVF16,Flat", "l2"), ("HNSW16", "ip")]
)
def test_no_answer_is_wrong(factory, metric):
    soak = Soak(factory, metric)
    soak.end = time.monotonic() + SECONDS / 4
    soak.run()
    stats = soak.index.stats()
    assert stats["error"] is None
    assert set(stats["lags"]) == {"0"}
    assert soak.counts["searches"] >= 10
    assert soak.counts["writes"] >= 100
    assert soak.counts["checked"] >= 100
    if factory != "exact":
        assert stats["rebuilds"] >= 2
    # at rest, everything is as it was written
    there = np.flatnonzero(soak.done)
    assert set(soak.table.ids().tolist()) == set(there.tolist())
    assert (soak.table.lookup(there) == soak.rows(there, soak.done[there])).all()
