"""Gradients summed by several ranks are one table's sums, bit for bit; no process group is needed to see it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import fastinc as fi
from fastinc.distributed import _owners, _sums
from fastinc.distributed._arrays import Place

PLACE = Place("cpu")
G = _sums.GROUP
DIM = 3


def table_sums(ids, grads):
    """Return what a table sums, by id: SGD on zeros steps by -1 times it."""
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros())
    table.update(ids, grads)
    return {id: -table.lookup([id])[0] for id in np.unique(ids).tolist()}


def rank_sums(batches):
    """Do what the ranks and one owner of all ids do; return the ids and gradients for the shard."""
    grouped = [_owners.grouped(ids, 1) for ids, _ in batches]
    counts = [np.array([len(batch.ids)]) for batch in grouped]
    plan = _sums.merge(
        np.concatenate([batch.ids for batch in grouped]),
        np.concatenate([batch.counts for batch in grouped]).astype(np.int32),
    )
    at, vectors = 0, []
    for (_, grads), batch, count in zip(batches, grouped, counts, strict=True):
        begun = plan.begun[at : at + count[0]].astype(np.int64)
        sums = _sums.tree_sums(PLACE, grads, batch.order, batch.counts)
        vectors.append(_sums.sum_pieces(PLACE, grads, batch, sums, begun))
        assert len(vectors[-1]) == plan.vectors[at : at + count[0]].sum()
        at += count[0]
    return plan.ids, _sums.sum_runs(PLACE, np.concatenate(vectors), plan.positions, plan.starts)


def noise(rng, n):
    return (rng.standard_normal((n, DIM)) * 10.0 ** rng.integers(-3, 4, (n, DIM))).astype(np.float32)


def assert_same(batches):
    ids, grads = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    expected = table_sums(ids, grads)
    found = table_sums(*rank_sums(batches))
    assert expected.keys() == found.keys()
    for id, row in expected.items():
        assert row.tobytes() == found[id].tobytes(), (id, [int((part == id).sum()) for part, _ in batches])


def test_the_engine_sums_in_groups_of_this_length():
    """An engine that groups otherwise must tell: 2**24 + 1 is 2**24, and 1 + 1 is 2."""
    grads = np.ones((G + 2, 1), dtype=np.float32)
    grads[0] = 2.0**24
    for n, expected in ((G + 1, 2.0**24), (G + 2, 2.0**24 + 2)):
        table = fi.EmbeddingTable(1, fi.SGD(lr=1.0), fi.init.Zeros())
        table.update(np.zeros(n, dtype=np.int64), grads[:n])
        assert table.lookup([0])[0, 0] == -expected


@pytest.mark.parametrize("n", [1, 2, G - 1, G, G + 1, 2 * G, 1023, 1024, 1025, G * G - 1, G * G, G * G + 1, 5000])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_an_id_with_n_occurrences(n, world):
    rng = np.random.default_rng([n, world])
    for cuts in (np.sort(rng.integers(0, n + 1, world - 1)), np.sort(rng.integers(0, n // G + 1, world - 1)) * G):
        grads = noise(rng, n)
        parts = np.split(grads, cuts)
        assert_same([(np.full(len(part), 7, dtype=np.int64), part) for part in parts])


@pytest.mark.parametrize("seed", range(20))
def test_random_batches(seed):
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(rng.integers(1, 6)):
        n = int(rng.choice([0, 1, 50, 700, 3000]))
        batches.append((np.minimum(rng.zipf(1.3, n), 400).astype(np.int64), noise(rng, n)))
    if sum(len(ids) for ids, _ in batches):
        assert_same(batches)


@pytest.mark.parametrize("counts", [(1,), (1, 1), (2, 1), (0, 3), (G, G), (G + 3, 2), (3, G, 2 * G + 1)])
def test_signs_of_zeros(counts):
    """A table starts a sum from the first row: -0.0 and -0.0 are -0.0."""
    grads = [np.full((n, DIM), -0.0, dtype=np.float32) for n in counts]
    grads[0][:1, 1] = 0.0
    grads[-1][-1:, 2] = 1.0
    batches = [(np.full(n, 5, dtype=np.int64), part) for n, part in zip(counts, grads, strict=True)]
    _, sums = rank_sums(batches)
    assert not np.signbit(sums[:, 1:]).all()
    assert np.signbit(sums[:, 0]).all()
    assert (sums[:, 0] == 0).all()
    assert_same(batches)


def test_owners_are_spread_and_fixed():
    ids = np.concatenate([np.arange(-50_000, 50_000), np.arange(1000) << 40]).astype(np.int64)
    for world in (2, 3, 7, 64):
        counts = np.bincount(_owners.owners_of(ids, world), minlength=world)
        assert len(counts) == world
        assert counts.min() > 0.85 * len(ids) / world
    known = np.array([0, 1, -1, 2**63 - 1], dtype=np.int64)
    assert _owners.owners_of(known, 1000).tolist() == [0, 604, 289, 930]  # checkpoints depend on it


def test_grouped():
    ids = np.array([5, 3, 5, -1, 3, 5], dtype=np.int64)
    batch = _owners.grouped(ids, 3)
    assert (batch.ids[batch.inverse()] == ids).all()
    assert sorted(zip(batch.ids.tolist(), batch.counts.tolist(), strict=True)) == [(-1, 1), (3, 2), (5, 3)]
    assert dict(zip(batch.ids.tolist(), batch.last().tolist(), strict=True)) == {5: 5, 3: 4, -1: 3}
    assert batch.sent.sum() == 3
    owners = _owners.owners_of(batch.ids, 3)
    assert (np.diff(owners) >= 0).all()
    empty = _owners.grouped(np.empty(0, dtype=np.int64), 2)
    assert empty.sent.tolist() == [0, 0]
    assert len(empty.inverse()) == len(empty.last()) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 5000])
@pytest.mark.parametrize("most", [1, 40, 2**62])
def test_ids_in_order(n, most):
    ids = np.random.default_rng(n).integers(-most, most, n)
    assert np.array_equal(_owners.order_of(ids), np.argsort(ids, kind="stable"))
