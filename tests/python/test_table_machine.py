"""EmbeddingTable against a Python dict, over random sequences of operations."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import fastinc as fi
from _devices import device_fixture, new_table, usage_of
from _rounding import group_sum

device = device_fixture()

FEW_IDS = st.sampled_from([-(2**63), -(2**63) + 1, -2, -1, 0, 1, 2, 2**31, 2**32, 2**62, 2**63 - 1])
ANY_ID = st.one_of(FEW_IDS, FEW_IDS, st.integers(-(2**63), 2**63 - 1))
ID_LISTS = st.lists(ANY_ID, max_size=8)
SEEDS = st.integers(0, 2**32 - 1)
START = np.float32(0.25)


class Model:
    """What the table promises, in the simplest way: float32 NumPy rows under Adagrad in a dict."""

    def __init__(self, dim, init):
        self.init = new_table(dim, init=init)  # never written to: start values only
        self.rows = {}  # id -> [weights, accumulator, version]
        self.removed = {}  # id -> version
        self.version = self.inserted = self.removals = self.skipped = 0
        self.logged_from = 0  # the version from which removals are known

    def start(self, id):
        return self.init.lookup([id])[0]

    def row(self, id):
        return self.rows[id][0] if id in self.rows else self.start(id)

    def create(self, id):
        if id not in self.rows:
            self.rows[id] = [self.start(id), np.full_like(self.start(id), START), 0]
            self.removed.pop(id, None)
            self.inserted += 1
        self.rows[id][2] = self.version
        return self.rows[id]

    def update(self, ids, grads, lr):
        sums = {id: group_sum(grads[[i for i, other in enumerate(ids) if other == id]]) for id in ids}
        good = {id: g for id, g in sums.items() if np.isfinite(g).all()}
        self.skipped += len(sums) - len(good)
        self.version += bool(good)
        for id, g in good.items():
            row = self.create(id)
            row[1] = row[1] + g * g
            row[0] = row[0] - np.float32(lr) * g / (np.sqrt(row[1]) + np.float32(1e-8))
        return len(sums) - len(good)

    def load(self, ids, vectors):
        self.version += bool(len(ids))
        for id, vector in zip(ids, vectors, strict=True):
            row = self.create(id)
            row[0], row[1] = vector.copy(), np.full_like(vector, START)

    def remove(self, ids):
        gone = [id for id in dict.fromkeys(ids) if id in self.rows]
        self.version += bool(gone)
        for id in gone:
            del self.rows[id]
            self.removed[id] = self.version
        self.removals += len(gone)
        return len(gone)


class TableMachine(RuleBasedStateMachine):
    @initialize(dim=st.sampled_from([1, 2, 5, 33]), seed=st.integers(0, 2**64 - 1))
    def make(self, dim, seed):
        init = fi.init.Normal(0.0, 1.0, seed)
        optimizer = fi.Adagrad(lr=0.5, initial_accumulator_value=float(START))
        self.dim = dim
        self.table = new_table(dim, optimizer, init)
        self.model = Model(dim, init)

    def ids(self, ids, narrow):
        fits = all(-(2**31) <= id < 2**31 for id in ids)
        return np.array(ids, np.int32 if narrow and fits else np.int64)

    def vectors(self, n, seed):
        return np.random.default_rng(seed).standard_normal((n, self.dim)).astype(np.float32)

    @rule(ids=ID_LISTS, seed=SEEDS, narrow=st.booleans())
    def update(self, ids, seed, narrow):
        grads = self.vectors(len(ids), seed)
        assert self.table.update(self.ids(ids, narrow), grads) == 0
        self.model.update(ids, grads, self.table.optimizer.lr)

    @rule(ids=st.lists(ANY_ID, min_size=1, max_size=8), seed=SEEDS, data=st.data())
    def update_with_nonfinite(self, ids, seed, data):
        grads = self.vectors(len(ids), seed)
        at = data.draw(st.integers(0, len(ids) - 1))
        grads[at, 0] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        with pytest.raises(ValueError, match=rf"grads\[.*id {ids[at]}\)"):
            self.table.update(ids, grads)
        self.check_everything()
        expected = self.model.update(ids, grads, self.table.optimizer.lr)
        assert self.table.update(ids, grads, nonfinite="skip") == expected

    @rule(ids=ID_LISTS, seed=SEEDS, narrow=st.booleans())
    def load(self, ids, seed, narrow):
        vectors = self.vectors(len(ids), seed)
        self.table.load(self.ids(ids, narrow), vectors)
        self.model.load(ids, vectors)

    @rule(ids=ID_LISTS, narrow=st.booleans())
    def remove(self, ids, narrow):
        assert self.table.remove(self.ids(ids, narrow)) == self.model.remove(ids)

    @precondition(lambda self: self.model.rows)
    @rule()
    def remove_all(self):
        ids = list(self.model.rows)
        assert self.table.remove(ids) == self.model.remove(ids) == len(ids)

    @rule(lr=st.sampled_from([0.0, 0.125, 1.0]))
    def set_lr(self, lr):
        self.table.optimizer.lr = lr

    @rule(how=st.sampled_from([lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy]))
    def round_trip(self, how):
        twin = how(self.table)
        assert twin.optimizer == self.table.optimizer
        assert twin.init == self.table.init
        self.table = twin
        self.model.inserted = self.model.removals = self.model.skipped = 0  # a copy counts from 0
        self.model.logged_from = self.model.version

    @rule(ids=ID_LISTS, data=st.data(), weigh=st.booleans())
    def pool(self, ids, data, weigh):
        offsets = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
        offsets = [0, *offsets]
        weights = self.vectors(len(ids), 0)[:, 0].copy() if weigh else np.ones(len(ids), np.float32)
        expected = np.zeros((len(offsets), self.dim), np.float32)
        for b, (first, last) in enumerate(zip(offsets, [*offsets[1:], len(ids)], strict=True)):
            for i in range(first, last):
                expected[b] += weights[i] * self.model.row(ids[i])
            if not weigh and last > first:
                expected[b] /= np.float32(last - first)
        mode = "sum" if weigh else "mean"
        pooled = self.table.pool(ids, offsets, mode, weights if weigh else None)
        np.testing.assert_array_equal(pooled, expected)

    @rule(data=st.data())
    def changes(self, data):
        since = data.draw(st.integers(0, self.model.version))
        changes = self.table.changes(since)
        assert changes.version == self.model.version
        assert changes.reset == (since < self.model.logged_from)
        if changes.reset:
            assert sorted(changes.updated.tolist()) == sorted(self.model.rows)
            assert len(changes.removed) == 0
            return
        assert sorted(changes.updated.tolist()) == sorted(i for i, r in self.model.rows.items() if r[2] > since)
        assert changes.removed.tolist() == sorted(i for i, v in self.model.removed.items() if v > since)

    @rule(unknown=ANY_ID)
    def read_unknown(self, unknown):
        """Reading allocates nothing."""
        before = usage_of(self.table)
        self.table.lookup([unknown, unknown])
        self.table.lookup_quantized([unknown])
        self.table.pool([unknown], [0])
        assert (unknown in self.table) == (unknown in self.model.rows)
        assert usage_of(self.table) == before

    def check_everything(self):
        model, table = self.model, self.table
        assert (len(table), table.version) == (len(model.rows), model.version)
        assert sorted(table.ids().tolist()) == sorted(model.rows)
        ids = [*model.rows, *model.removed, -7, 2**40]
        rows = table.lookup(ids)
        np.testing.assert_array_equal(rows, np.stack([model.row(id) for id in ids]))
        np.testing.assert_array_equal(table.lookup_quantized(ids), fi.ops.quantize_rowwise(rows))
        assert [id in table for id in ids] == [id in model.rows for id in ids]

    @invariant()
    def holds(self):
        self.check_everything()

    @invariant()
    def counters_hold(self):
        model, stats = self.model, self.table.stats()
        assert stats["rows"] == len(model.rows) <= stats["slots"]
        assert stats["version"] == model.version
        assert (stats["inserts"], stats["removes"]) == (model.inserted, model.removals)
        assert stats["skipped_nonfinite"] == model.skipped


def test_any_sequence_of_calls(device):
    examples = 150 if device == "cpu" else 50
    run_state_machine_as_test(
        TableMachine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None)
    )
