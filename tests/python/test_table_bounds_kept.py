"""Limits in pickles and checkpoints, under indexes, and over time: memory, counters."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi
from _brute_force import assert_index, eventually
from _devices import device_fixture, new_index, new_table
from test_table_bounds import LONG, held, load, make, update

device = device_fixture()

BOUNDS = [
    {"max_rows": 20},
    {"max_rows": 20, "eviction": "lfu"},
    {"eviction": fi.TTL(LONG)},
    {"max_rows": 20, "eviction": fi.TTL(LONG)},
    {"admission": fi.MinCount(3, width=1000)},
    {"max_rows": 20, "eviction": "lfu", "admission": fi.MinCount(2, width=4096)},
]


def by_checkpoint(table, tmp_path):
    fi.checkpoint.save(table, tmp_path)
    return fi.checkpoint.load(tmp_path)[0]


WAYS = {
    "pickle": lambda table, _: pickle.loads(pickle.dumps(table)),
    "deepcopy": lambda table, _: copy.deepcopy(table),
    "copy": lambda table, _: copy.copy(table),
    "checkpoint": by_checkpoint,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_a_copy_goes_on_as_the_table_does(way, bounds, tmp_path):
    """One id a batch, so that no two rows tie: frequencies, versions and sightings decide everything."""
    rng = np.random.default_rng(8)
    table = make(**bounds)
    for id in rng.zipf(1.2, 300) % 60:
        update(table, [int(id)])
    twin = WAYS[way](table, tmp_path)
    for name in ("max_rows", "eviction", "admission"):
        assert getattr(twin, name) == getattr(table, name)
    for id in rng.zipf(1.2, 300) % 90:
        for each in (table, twin):
            update(each, [int(id)])
        assert len(twin) == len(table)
    assert held(twin) == held(table)
    np.testing.assert_array_equal(twin.lookup(held(table)), table.lookup(held(table)))
    old, new = table.__getstate__()["state"], twin.__getstate__()["state"]
    assert set(old) == set(new)
    for name in ("sightings", "sightings_counted", "version"):
        assert np.array_equal(old.get(name), new.get(name)), name


def test_what_was_pickled_before_there_were_limits_still_loads():
    table = make()
    update(table, [1, 2])
    state = {
        name: value for name, value in table.__getstate__().items() if name in ("dim", "optimizer", "init", "state")
    }
    assert set(state["state"]) == {"ids", "row_versions", "weights", "state", "version"}
    old = fi.EmbeddingTable.__new__(fi.EmbeddingTable)
    old.__setstate__(state)
    assert held(old) == [1, 2]
    assert (old.max_rows, old.eviction, old.admission) == (None, None, None)


def test_a_checkpoint_without_limits_names_none(tmp_path: Path):
    fi.checkpoint.save(make(), tmp_path)
    parameters = json.loads((tmp_path / "manifest.json").read_text())["parameters"]
    assert set(parameters) == {"dim", "optimizer", "init", "version"}


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_rows": 3, "eviction": "lfu"}, r"5 rows are more than max_rows = 3"),
        ({"max_rows": 9}, "frequencies are for eviction='lfu' alone"),
        ({"max_rows": 9, "eviction": "lfu", "admission": fi.MinCount(2)}, "sightings don't fit"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(bounds, message):
    table = make(max_rows=5, eviction="lfu")
    load(table, range(5))
    other = make(**bounds)
    load(other, [7, 8], 3)
    with pytest.raises(ValueError, match=message):
        other._core.import_state(table.__getstate__()["state"])
    assert held(other) == [7, 8]


# --- indexes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{"max_rows": 1500}, {"max_rows": 1500, "eviction": "lfu"}], ids=str)
@pytest.mark.parametrize(("factory", "rebuild_rows"), [("exact", 0), ("Flat", 100), ("Flat", 10**6)])
def test_an_index_drops_evicted_ids(bounds, factory, rebuild_rows):
    rng = np.random.default_rng(2)
    table = new_table(4, fi.SGD(lr=1.0), fi.init.Zeros(), **bounds)
    table.load(np.arange(1500), rng.standard_normal((1500, 4)).astype(np.float32))
    index = new_index(table, factory, rebuild_rows=rebuild_rows)
    for k in range(12):
        seen = table.version
        ids = np.r_[rng.integers(0, 100, 20), 10_000 + 150 * k + np.arange(150)]
        table.update(ids, 3 * rng.standard_normal((170, 4)).astype(np.float32))
        gone = table.changes(seen).removed
        assert len(gone) >= 150
        queries = rng.standard_normal((3, 4)).astype(np.float32)
        assert_index(index, queries, 20)
        assert not np.isin(index.search(queries, 1500)[1], gone).any()
    if rebuild_rows == 100:
        eventually(lambda: index.search(queries, 1) and index.stats()["rebuilds"] > 1)
        assert_index(index, queries, 20)
    else:
        assert index.stats()["rebuilds"] == (factory == "Flat")


# --- over time ----------------------------------------------------------------------------------------------

LONG_SOAK = os.environ.get("FASTINC_SOAK") == "1"


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_memory_stays_flat_at_the_limit(eviction):
    """A stream of ids that never come back, and a few that do."""
    max_rows, inserts = (1_000_000, 50_000_000) if LONG_SOAK else (5_000, 300_000)
    batch, regular = max_rows // 100, np.arange(20)
    table = new_table(8, fi.RowWiseAdagrad(), max_rows=max_rows, eviction=eviction, admission=fi.MinCount(1))
    grads = np.random.default_rng(0).standard_normal((batch + 20, 8)).astype(np.float32)
    used, resident = [], []
    for k in range(inserts // batch):
        table.update(np.r_[regular, 10**6 * np.arange(k * batch, (k + 1) * batch) + 7919], grads)
        if k % (inserts // batch // 20) == 0:
            used.append(table.memory_usage()["total"])
            resident.append(resident_bytes())
    at_first, later = len(used) // 4, slice(len(used) // 4 + 1, None)
    assert max(used[later]) <= 1.01 * used[at_first]
    assert max(resident[later]) <= resident[at_first] + max(0.05 * used[at_first], 2**23)
    stats = table.stats()
    assert stats["rows"] == stats["slots"] == max_rows
    assert stats["inserts"] - stats["evictions"] == max_rows
    assert stats["inserts"] >= inserts
    assert set(regular.tolist()) <= set(held(table))
    assert 0.3 < stats["load"] <= 1.0
    assert stats["bytes"] == table.memory_usage()


def test_hits_and_misses_are_counted():
    table = make(max_rows=3)
    load(table, [1, 2, 3])
    load(table, [4])
    expected = {"hits": 0, "misses": 0}
    for read in (
        lambda ids: table.lookup(ids),
        lambda ids: table.lookup_quantized(ids),
        lambda ids: table.pool(ids, [0, 2], "sum"),
    ):
        read([1, 2, 2, 4, 99])  # 1 was evicted
        expected = {"hits": expected["hits"] + 3, "misses": expected["misses"] + 2}
        assert {name: table.stats()[name] for name in expected} == expected
    table.lookup(np.arange(2, 5).repeat(20_000))
    assert table.stats()["hits"] == expected["hits"] + 60_000
    assert (table.stats()["inserts"], table.stats()["evictions"], table.stats()["removes"]) == (4, 1, 0)
    copied = copy.copy(table).stats()
    assert {copied[name] for name in ("hits", "misses", "inserts", "evictions", "refused")} == {0}
