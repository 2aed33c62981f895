"""Top-k the slow way, in float64, and what an index may answer given it."""

from __future__ import annotations

import time

import numpy as np

import fastinc as fi
from _devices import new_table

METRICS = ["ip", "cosine", "l2"]


def with_metrics(factories):
    """(factory, metric) of all; one metric where a factory's training takes ten seconds."""
    return [(f, m) for f in factories for m in (METRICS[:1] if "OPQ" in f else METRICS)]


PAD = np.float32(3.4028235e38)
LOW, HIGH = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def make_table(ids, rows):
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    table = new_table(dim=rows.shape[1], optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    if len(rows):
        table.load(np.asarray(ids, dtype=np.int64), rows)
    return table


def contents(table):
    ids = table.ids()
    return dict(zip(ids.tolist(), table.lookup(ids), strict=True))


def true_scores(query, rows, metric):
    """Score rows (n, dim) in float64."""
    q, x = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return ((q - x) ** 2).sum(axis=1)
    lengths = np.linalg.norm(x, axis=1)
    lengths[lengths < 1e-40] = 0.0  # which count as zero rows
    norms = np.linalg.norm(q) * lengths if metric == "cosine" else np.ones(len(x))
    return np.where(norms > 0, x @ q / np.where(norms > 0, norms, 1.0), 0.0)


def tolerances(query, rows, metric):
    """How far float32 sums may be from the true scores."""
    q, x = query.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        return np.full(len(x), 1e-5)
    if metric == "l2":
        return 1e-5 * ((q - x) ** 2).sum(axis=1) + 1e-37
    return 1e-5 * (np.abs(x) @ np.abs(q)) + 1e-37


def assert_answer(scores, ids, content, query, k, metric, excluded=(), tied=False):
    """Check one query's answer; `tied`: arithmetic is exact here, so ties and order must be exact as well."""
    left = {i: row for i, row in content.items() if i not in set(excluded)}
    names = np.array(sorted(left), dtype=np.int64)
    rows = np.array([left[i] for i in names.tolist()], dtype=np.float32).reshape(len(names), len(query))
    truth, slack = true_scores(query, rows, metric), tolerances(query, rows, metric)
    sign = -1.0 if metric == "l2" else 1.0
    n = min(k, len(names))
    assert scores.shape == ids.shape == (k,)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert (ids[n:] == -1).all()
    assert (scores[n:] == -sign * PAD).all()
    if n == 0:
        return
    got = ids[:n]
    assert len(set(got.tolist())) == n
    at = np.searchsorted(names, got)
    assert (names[np.minimum(at, len(names) - 1)] == got).all(), "an id that must not be returned"
    assert (np.abs(scores[:n] - np.clip(truth[at], -float(PAD), float(PAD))) <= slack[at]).all()
    order = np.lexsort((got, -sign * scores[:n].astype(np.float64)))
    assert (order == np.arange(n)).all(), "best first, ties by id"
    missed = np.setdiff1d(np.arange(len(names)), at)
    assert (sign * truth[missed] - slack[missed] <= sign * truth[at[-1]] + slack[at[-1]]).all()
    if tied:
        assert got.tolist() == names[np.lexsort((names, -sign * truth))[:n]].tolist()


def assert_index(index, queries, k, excluded=None, tied=False, **parameters):
    """Check index.search(queries) against the table's content."""
    scores, ids = index.search(queries, k, exclude=excluded, **parameters)
    nested = excluded is not None and len(excluded) > 0 and not isinstance(excluded[0], (int, np.integer))
    for i, query in enumerate(queries):
        mine = () if excluded is None else (excluded[i] if nested else excluded)
        assert_answer(scores[i], ids[i], contents(index.table), query, k, index.metric, mine, tied)


def whole_rows(rng, n, dim):
    """Rows whose scores are exact in float32 (and often equal)."""
    return rng.integers(-3, 4, size=(n, dim)).astype(np.float32)


def eventually(holds, seconds=30.0):
    """Wait for what a background thread does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
