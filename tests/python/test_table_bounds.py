"""Tables with limits: who stays and who goes, against a dict that knows every row's uses."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections import Counter

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
from _devices import Devices, device_fixture, new_table, stats_of

device = device_fixture()

DIM = 3
LONG = 1e6  # seconds: no row's time is over in a test


def make(**bounds):
    """A row's numbers are what was loaded plus how many gradients came since."""
    return new_table(DIM, fi.SGD(lr=1.0), fi.init.Zeros(), **bounds)


def update(table, ids):
    return table.update(ids, np.full((len(ids), DIM), -1, np.float32))


def load(table, ids, value=0.0):
    table.load(ids, np.full((len(ids), DIM), value, np.float32))


def held(table):
    return sorted(table.ids().tolist())


class Model:
    """Rows by id: [writes, version, value]."""

    def __init__(self, max_rows, eviction, min_count):
        self.max_rows, self.eviction, self.min_count = max_rows, eviction, min_count
        self.rows = {}
        self.sightings = Counter()
        self.version = self.refused = self.evicted = 0

    def key(self, id):
        writes, version, _ = self.rows[id]
        return (writes if self.eviction == "lfu" else 0, version)

    def admit(self, ids):
        self.sightings.update(id for id in ids if id not in self.rows)
        kept = [id for id in ids if id in self.rows or self.sightings[id] >= self.min_count]
        self.refused += len(ids) - len(kept)
        return kept

    def write(self, ids, table, value=None):
        """Follow a write of `ids`: the table says who went, and that must be right."""
        changes = table.changes(self.version)
        assert not changes.reset
        own, gone = set(ids), set(changes.removed.tolist())
        new = own - set(self.rows)
        assert len(gone) == max(0, len(self.rows) + len(new) - self.max_rows)
        assert gone <= set(self.rows) - own, "the batch's own rows stay"
        kept = set(self.rows) - own - gone
        if gone and kept:
            assert max(map(self.key, gone)) <= min(map(self.key, kept)), (gone, kept)
        for id in gone:
            del self.rows[id]
        self.evicted += len(gone)
        self.version += bool(own)
        for id in own:
            row = self.rows.setdefault(id, [0, 0, 0.0])
            row[0], row[1] = row[0] + 1, self.version
            row[2] = row[2] + ids.count(id) if value is None else value

    def check(self, table):
        assert held(table) == sorted(self.rows)
        assert table.version == self.version
        expected = [[row[2]] * DIM for row in self.rows.values()]
        np.testing.assert_array_equal(table.lookup(list(self.rows)), np.reshape(expected, (-1, DIM)))
        stats = table.stats()
        assert (stats["refused"], stats["evictions"]) == (self.refused, self.evicted)
        assert stats["slots"] <= self.max_rows


class BoundedMachine(RuleBasedStateMachine):
    @initialize(
        max_rows=st.sampled_from([1, 2, 3, 5, 8]),
        eviction=st.sampled_from([None, "lru", "lfu", fi.TTL(LONG)]),
        min_count=st.sampled_from([None, 1, 2, 3]),
    )
    def make(self, max_rows, eviction, min_count):
        if Devices.current == "cuda":
            min_count = None  # tables on a GPU have no admission
        admission = None if min_count is None else fi.MinCount(min_count)
        self.table = make(max_rows=max_rows, eviction=eviction, admission=admission)
        self.model = Model(max_rows, eviction, min_count or 1)

    IDS = st.lists(st.integers(0, 12), min_size=1, max_size=10)

    def fits(self, ids, write):
        if len(set(ids)) <= self.model.max_rows:
            return True
        message = rf"ids: a batch of {len(set(ids))} distinct ids .* max_rows = {self.model.max_rows}; split it$"
        with pytest.raises(ValueError, match=message):
            write()
        return False

    @rule(ids=IDS)
    def update(self, ids):
        if self.fits(ids, lambda: update(self.table, ids)):
            assert update(self.table, ids) == 0
            self.model.write(self.model.admit(ids), self.table)

    @rule(ids=IDS, value=st.integers(-100, 100))
    def load(self, ids, value):
        if self.fits(ids, lambda: load(self.table, ids)):
            load(self.table, ids, value)
            self.model.write(ids, self.table, value)

    @rule(ids=IDS)
    def remove(self, ids):
        gone = set(ids) & set(self.model.rows)
        assert self.table.remove(ids) == len(gone)
        self.model.version += bool(gone)
        for id in gone:
            del self.model.rows[id]

    @rule(ids=IDS)
    def look(self, ids):
        self.table.lookup(ids)
        self.table.pool(ids, [0])
        self.table.lookup_quantized(ids)

    @rule(how=st.sampled_from([lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy]))
    def round_trip(self, how):
        twin = how(self.table)
        for name in ("max_rows", "eviction", "admission"):
            assert getattr(twin, name) == getattr(self.table, name)
        self.table = twin
        self.model.refused = self.model.evicted = 0

    @precondition(lambda self: self.table.eviction == fi.TTL(LONG))
    @rule()
    def expire(self):
        assert self.table.expire() == 0

    @invariant()
    def holds(self):
        self.model.check(self.table)


def test_any_sequence_of_calls(device):
    examples = 120 if device == "cpu" else 40
    run_state_machine_as_test(
        BoundedMachine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None)
    )


@pytest.mark.parametrize("eviction", ["lru", "lfu", fi.TTL(LONG)])
@pytest.mark.parametrize("max_rows", [50, 2000])
def test_long_random_sequences(eviction, max_rows):
    rng = np.random.default_rng(max_rows)
    table, model = make(max_rows=max_rows, eviction=eviction), Model(max_rows, eviction, 1)
    for k in range(400):
        popular = rng.zipf(1.3, 40) % max_rows
        ids = np.where(rng.random(40) < 0.5, popular, rng.integers(0, 4 * max_rows, 40)).tolist()
        if k % 10 == 9:
            load(table, ids, k)
            model.write(ids, table, k)
        else:
            update(table, ids)
            model.write(ids, table)
        if k % 40 == 39:
            model.check(table)


def test_examples_of_who_goes():
    table = make(max_rows=2, eviction="lfu")
    for ids in ([1], [1], [2, 2, 2], [3]):
        update(table, ids)
    assert held(table) == [1, 3], "2 was written in one batch, 1 in two"
    table = make(max_rows=2)
    for ids in ([1], [2], [1], [3]):
        update(table, ids)
    assert (table.eviction, held(table)) == ("lru", [1, 3])
    assert table.changes(3).removed.tolist() == [2]
    update(table, [2])
    assert table.lookup([2]).tolist() == [[1.0] * DIM], "it started anew"


def test_a_batch_that_does_not_fit_changes_nothing():
    table = make(max_rows=3, eviction="lfu", admission=fi.MinCount(2, width=64))
    load(table, [1, 2], 5)
    update(table, [7])
    before, stats = pickle.dumps(table.__getstate__()["state"]), stats_of(table)
    for write in (update, load):
        with pytest.raises(ValueError, match=r"ids: a batch of 4 distinct ids has no room .* max_rows = 3"):
            write(table, [1, 1, 5, 6, 7])
    assert pickle.dumps(table.__getstate__()["state"]) == before
    assert stats_of(table) == stats
    load(table, [1, 5, 6, 6, 5], 1)
    assert held(table) == [1, 5, 6]


# --- time ---------------------------------------------------------------------------------------------------


def test_rows_go_in_time():
    """Between the times around each call: never early, and at most 1/1024 late."""
    ttl, rng, written = 0.15, np.random.default_rng(3), {}
    table = make(eviction=fi.TTL(ttl))
    start, by_hand, alone = time.monotonic(), 0, 0
    while (passed := time.monotonic() - start) < 1.2 or (passed < 60.0 and (by_hand + alone <= 10 or alone == 0)):
        ids = rng.integers(0, 60, 3).tolist()
        before = time.monotonic()
        update(table, ids)
        written.update(dict.fromkeys(ids, (before, time.monotonic())))
        alone = table.stats()["evictions"] - by_hand
        begin = time.monotonic()
        by_hand += table.expire()
        seen, over = set(held(table)), time.monotonic()
        for id, (first, last) in written.items():
            assert id in seen or over - first >= ttl, "too early"
            assert id not in seen or begin - last < ttl * (1 + 1 / 1024) + 1e-4, "too late"
        time.sleep(float(rng.random()) * 0.02)
    assert by_hand + alone > 10
    assert alone > 0, "updates take rows along"


def test_a_write_takes_some_rows_along():
    table = make(eviction=fi.TTL(0.02))
    load(table, np.arange(5000))
    seen = table.version
    time.sleep(0.05)
    assert len(table) == 5000, "readable until then"
    update(table, [-1])
    assert table.stats()["evictions"] == 1024 + 4
    load(table, [-2, -3])
    assert table.stats()["evictions"] == 2 * 1024 + 12
    changes = table.changes(seen)
    assert len(changes.removed) == 2 * 1024 + 12
    assert set(changes.updated.tolist()) == {-1, -2, -3}
    time.sleep(0.05)
    version = table.version
    assert table.expire() == 5003 - 2 * 1024 - 12
    assert (len(table), table.version, table.expire()) == (0, version + 1, 0)
    assert len(table.changes(version).removed) == 5003 - 2 * 1024 - 12
    assert table.version == version + 1, "nothing to give up is no batch"


def test_a_full_table_gives_up_the_longest_unwritten_before_its_time():
    table = make(max_rows=2, eviction=fi.TTL(LONG))
    for ids in ([1], [2], [1], [3]):
        update(table, ids)
    assert held(table) == [1, 3]


def test_a_copy_counts_time_from_its_making():
    table = make(eviction=fi.TTL(0.3))
    load(table, [1])
    time.sleep(0.2)
    begin = time.monotonic()
    twin = pickle.loads(pickle.dumps(table))
    made = time.monotonic()
    time.sleep(0.2)
    assert table.expire() == 1
    assert twin.expire() == 0 or time.monotonic() - begin >= 0.3
    time.sleep(max(0.0, made + 0.31 - time.monotonic()))
    twin.expire()
    assert len(twin) == 0


def test_expire_without_a_time_does_nothing():
    for table in (make(), make(max_rows=2)):
        load(table, [1, 2])
        assert (table.expire(), table.version) == (0, 1)


# --- admission ----------------------------------------------------------------------------------------------


def test_rare_ids_get_no_row():
    table = make(admission=fi.MinCount(3))
    update(table, [1, 2, 2])
    assert (len(table), table.version, table.stats()["refused"]) == (0, 0, 3)
    update(table, [1, 2])
    assert held(table) == [2]
    assert table.lookup([2])[0, 0] == 1, "what was refused is gone"
    update(table, [1, 1])
    assert table.lookup([1])[0, 0] == 2, "all of the batch that let it in"
    load(table, [77], 5)
    assert held(table) == [1, 2, 77]
    assert table.stats()["refused"] == 4
    assert table.stats()["bytes"]["admission"] == 2**22


def test_refused_gradients_are_checked_all_the_same():
    table = make(admission=fi.MinCount(2))
    with pytest.raises(ValueError, match=r"grads\[0, 1\]"):
        table.update([4], np.array([[0, np.nan, 0]], np.float32))
    assert table.stats()["refused"] == 0
    update(table, [4])
    assert len(table) == 0, "a batch that was refused as a whole is no sighting"


@pytest.mark.parametrize(("n", "most"), [(2, 0.1), (3, 0.001)])
def test_ids_seen_once_rarely_get_a_row(n, most):
    table, seen = make(admission=fi.MinCount(n, width=2**14)), 60 * 1024
    for start in range(0, seen, 256):
        update(table, np.arange(start, start + 256))
    assert len(table) <= most * seen
    assert table.stats()["refused"] == seen - len(table)


def test_ids_that_come_back_get_a_row_however_many_others_pass():
    table = make(admission=fi.MinCount(3, width=2**14))
    regular = np.arange(20)
    for k in range(200):  # 20 come back every 120 sightings, far below width / 4
        update(table, np.r_[regular, 1000 + 100 * k + np.arange(100)])
    assert set(regular.tolist()) <= set(held(table))
    assert (table.lookup(regular)[:, 0] >= 195).all()


# --- arguments ----------------------------------------------------------------------------------------------

BAD_BOUNDS = [
    ({"eviction": "lru"}, ValueError, r"eviction = 'lru' needs max_rows: .*max_rows = None"),
    ({"eviction": "lfu"}, ValueError, r"eviction = 'lfu' needs max_rows: .*max_rows = None"),
    ({"eviction": "fifo", "max_rows": 3}, ValueError, r"eviction = 'fifo' must be 'lru', 'lfu' or fastinc.TTL"),
    ({"eviction": 60.0}, ValueError, r"eviction = 60.0 must be"),
    ({"eviction": ["lru"], "max_rows": 3}, ValueError, r"eviction = \['lru'\] must be"),
    ({"eviction": fi.TTL}, ValueError, r"eviction = .*TTL.* must be"),
    ({"max_rows": 0}, ValueError, r"max_rows = 0 must be from 1 to"),
    ({"max_rows": -1}, ValueError, r"max_rows = -1 must"),
    ({"max_rows": 2**32}, ValueError, r"max_rows = 4294967296 must"),
    ({"max_rows": 2.0}, TypeError, r"max_rows = 2.0 must be a whole number"),
    ({"max_rows": True}, TypeError, r"max_rows = True must"),
    ({"admission": 2}, TypeError, r"admission = 2 must be fastinc.MinCount"),
    ({"admission": fi.MinCount}, TypeError, r"admission = .*MinCount.* must"),
]


@pytest.mark.parametrize(("bounds", "error", "message"), BAD_BOUNDS)
def test_bad_bounds_are_named(bounds, error, message):
    with pytest.raises(error, match=message):
        make(**bounds)


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)],
)
def test_bad_seconds_are_named(value, error):
    with pytest.raises(error, match=f"^seconds = {value!r} must"):
        fi.TTL(value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n = 0 must be from 1 to 255"),
        ({"n": 256}, ValueError, "n = 256 must"),
        ({"n": 1.5}, TypeError, "n = 1.5 must"),
        ({"n": 2, "width": 63}, ValueError, "width = 63 must be from 64 to"),
        ({"n": 2, "width": 2**41}, ValueError, "width = 2199023255552 must"),
        ({"n": 2, "width": None}, TypeError, "width = None must"),
    ],
)
def test_bad_counts_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        fi.MinCount(**arguments)


def test_properties_and_repr():
    table = make()
    assert (table.max_rows, table.eviction, table.admission) == (None, None, None)
    assert "max_rows" not in repr(table)
    table = make(max_rows=np.int64(5), eviction=fi.TTL(np.float32(2)), admission=fi.MinCount(3))
    assert (table.max_rows, table.eviction, table.admission) == (5, fi.TTL(2.0), fi.MinCount(3, 2**22))
    expected = "max_rows=5, eviction=TTL(seconds=2.0), admission=MinCount(n=3, width=4194304), rows=0, version=0)"
    assert repr(table).endswith(expected)
    assert make(max_rows=5).eviction == "lru"
    for name, value in (("max_rows", 6), ("eviction", "lru"), ("admission", None)):
        with pytest.raises(AttributeError):
            setattr(table, name, value)
    with pytest.raises(TypeError):
        new_table(2, None, None, "cpu", 5)


def test_a_view_has_no_limits_of_its_own():
    table = fi.Recommender(dim=4).item_table
    assert (table.max_rows, table.eviction, table.admission) == (None, None, None)
    with pytest.raises(TypeError, match=r"expire: this table belongs to a Recommender"):
        table.expire()


def test_a_row_whose_time_is_over_stays_if_the_batch_writes_it():
    table = make(eviction=fi.TTL(0.02))
    load(table, [1, 2, 3], 5)
    time.sleep(0.04)
    update(table, [2])
    assert held(table) == [2]
    assert table.lookup([2])[0, 0] == 6, "as it was, and one step"
    assert sorted(table.changes(1).removed.tolist()) == [1, 3]
    time.sleep(0.04)
    load(table, [2, 4], 7)
    assert held(table) == [2, 4]


def test_readers_never_miss_a_row_that_every_batch_writes():
    table = make(eviction=fi.TTL(1e-4))
    ids = np.arange(2000)
    load(table, ids, 1)
    missed, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            rows = table.lookup([17, 999, 1999])
            found = table.ids()
            if (rows == 0).any() or 17 not in table or len(found) != len(np.unique(found)):
                missed.append(rows)

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.0005)
        update(table, np.random.default_rng(0).permutation(ids))
    stop.set()
    reader.join()
    assert not missed


def test_a_refused_batch_counts_nothing():
    table = make(max_rows=3)
    grads = np.ones((5, table.dim), np.float32)
    grads[4] = np.nan
    before = stats_of(table)
    with pytest.raises(ValueError, match="split it"):
        table.update([1, 2, 3, 4, 5], grads, nonfinite="skip")
    assert stats_of(table) == before


def test_sketches_too_narrow_to_count_so_far_are_refused():
    with pytest.raises(ValueError, match=r"width = 64 must be at least 8 n = 320"):
        fi.MinCount(40, 64)
    fi.MinCount(1, 64)
    fi.MinCount(8, 64)


@pytest.mark.parametrize("one", [1, np.int8(1), np.array(1), np.uint64(1)])
def test_any_integer_may_be_asked_for(one):
    table = make()
    load(table, [1], 1)
    assert one in table
    for other in (1.0, "1", None, True, [1], 2**64, -(2**63) - 1):
        assert other not in table
