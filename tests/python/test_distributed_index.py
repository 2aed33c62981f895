"""A search over the ranks of a group finds what one index over all rows does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch.distributed as dist

import fastinc as fi
from _ranks import MOST, on_ranks

DIM = 6
F32 = np.float32


def tables(group, rows):
    rng = np.random.default_rng(1)
    sharded = fi.distributed.ShardedTable(DIM, process_group=group)
    one = fi.EmbeddingTable(DIM)
    ids = rng.permutation(np.arange(-rows // 2, rows - rows // 2)).astype(np.int64)
    vectors = rng.integers(-3, 4, (rows, DIM)).astype(F32)  # many scores are equal
    vectors[: rows // 2] += rng.standard_normal((rows // 2, DIM)).astype(F32)
    mine = slice(sharded.rank, None, sharded.world_size)
    sharded.load(ids[mine].copy(), vectors[mine].copy())
    one.load(ids, vectors)
    return sharded, one


def search_as_one(group, rows, metric):
    sharded, one = tables(group, rows)
    index = fi.distributed.ShardedIndex(sharded, "exact", metric)
    expected = fi.LiveIndex(one, "exact", metric=metric)
    rng = np.random.default_rng(100 + sharded.rank)
    rank = sharded.rank
    for n, k in ((3 + rank, 7), (0 if rank == 1 else 2, 1 + 5 * rank), (5, rows + 3)):
        queries = rng.integers(-2, 3, (n, DIM)).astype(F32)
        lists = [rng.integers(-rows, rows, rng.integers(0, 20)).tolist() for _ in range(n)]
        for given in (
            {},
            {"exclude": list(range(-10, 10))},
            {"allow": np.arange(-30, 30)},
            {"exclude": lists} if n else {},
            {"allow": lists, "exclude": [1, 2]} if n and rank != 1 else {"exclude": []},
        ):
            scores, ids = index.search(queries, k, **given)
            expected_scores, expected_ids = expected.search(queries, k, **given)
            assert scores.tobytes() == expected_scores.tobytes()
            assert ids.tobytes() == expected_ids.tobytes()
    one_query = rng.standard_normal(DIM).astype(F32)
    assert index.search(one_query, 3)[1].tolist() == expected.search(one_query, 3)[1].tolist()
    sharded.update([5], np.full((1, DIM), -900.0 if metric != "l2" else 0.0, dtype=F32))
    one.update([5], np.full((1, DIM), -900.0 * sharded.world_size if metric != "l2" else 0.0, dtype=F32))
    assert index.search(one_query, 3)[1].shape == (3,)  # the next search sees it
    return (index.metric, repr(index))


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("world", range(1, MOST + 1))
def test_exact_search(world, metric):
    for found, text in on_ranks(world, search_as_one, 300, metric):
        assert found == metric
        assert "ShardedTable" in text
        assert "LiveIndex" in text


def test_search_of_few_rows():
    on_ranks(4, search_as_one, 2, "ip")


def find_what_overflows(group):
    """A row whose score is as low as can be comes before padding."""
    sharded, one = fi.distributed.ShardedTable(2, process_group=group), fi.EmbeddingTable(2)
    vectors = np.array([[-3e38, -3e38], [1, 1], [0, 0]], dtype=F32)
    sharded.load(np.arange(3) if sharded.rank == 0 else [], vectors if sharded.rank == 0 else vectors[:0])
    one.load(np.arange(3), vectors)
    for metric, query in (("ip", [3e38, 3e38]), ("l2", [3e38, 3e38])):
        query = np.array([query], dtype=F32)
        expected = fi.LiveIndex(one, metric=metric).search(query, k=4)
        found = fi.distributed.ShardedIndex(sharded, metric=metric).search(query, k=4)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), (metric, found, expected)


def test_scores_that_overflow():
    on_ranks(2, find_what_overflows)


def search_anew(group):
    """Rows written by any rank are found by the next search of every rank."""
    sharded = fi.distributed.ShardedTable(2, process_group=group)
    index = fi.distributed.ShardedIndex(sharded)
    for step in range(5):
        id = 1000 * step + sharded.rank
        sharded.load([id], np.array([[step + 1, sharded.rank]], dtype=F32))
        _, ids = index.search(np.array([1, 0.1], dtype=F32), 1)
        assert ids.tolist() == [1000 * step + sharded.world_size - 1]


def test_fresh():
    on_ranks(3, search_anew)


def refuse(group):
    sharded = fi.distributed.ShardedTable(DIM, process_group=group)
    index = fi.distributed.ShardedIndex(sharded)
    ok = np.ones((2, DIM), dtype=F32)
    bad = ok.copy()
    bad[1, 2] = np.nan
    calls = [
        lambda: index.search(bad if dist.get_rank(group) else ok),
        lambda: index.search(ok, -1 if dist.get_rank(group) else 1),
        lambda: index.search(ok, nprobe=3),
        lambda: index.search(ok, exclude="x" if dist.get_rank(group) else None),
        lambda: fi.distributed.ShardedIndex(sharded, metric="dot" if dist.get_rank(group) else "ip"),
    ]
    answers = []
    for call in calls:
        with pytest.raises((ValueError, TypeError, RuntimeError)) as error:
            call()
        answers.append(str(error.value))
    with pytest.raises(TypeError, match="must be a ShardedTable"):
        fi.distributed.ShardedIndex(sharded.shard)
    return answers


def test_refused_searches():
    for answers in on_ranks(2, refuse):
        expected = ("queries[1, 2] = nan", "k = -1", "nprobe = 3", "exclude must be", "metric = 'dot'")
        assert all(part in answer for part, answer in zip(expected, answers, strict=True)), answers


def search_by_faiss(group):
    rng = np.random.default_rng(2)
    sharded = fi.distributed.ShardedTable(16, process_group=group)
    rows = rng.standard_normal((4000, 16)).astype(F32)
    mine = np.arange(sharded.rank, 4000, sharded.world_size)
    sharded.load(mine, rows[mine])
    index = fi.distributed.ShardedIndex(sharded, "IVF8,Flat", background=False)
    index.shard_index.compact()
    queries = rng.standard_normal((20, 16)).astype(F32)
    scores, ids = index.search(queries, 10, nprobe=8)  # all lists: exact
    best = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    assert (ids == best).mean() > 0.99
    assert (np.diff(scores, axis=1) <= 0).all()
    return index.shard_index.stats()["base_rows"]


def test_faiss():
    pytest.importorskip("faiss")
    assert sum(on_ranks(2, search_by_faiss)) == 4000
