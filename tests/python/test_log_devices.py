"""Logs of tables on every device; and what a table on a GPU tells of itself, asked of tables anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _devices import device_fixture
from _logs import learn, new_table, restored, state_of, take_steps
from fastinc.checkpoint import _kinds, _table_changes, _tables

device = device_fixture()
LIMITS = [{}, {"max_rows": 6}, {"max_rows": 6, "eviction": "lfu"}]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_table_of_any_device_comes_back_at_every_number(tmp_path, device, limits):
    table, states = new_table(device=device, **limits), {}
    with fi.checkpoint.Log(tmp_path) as log:
        for i in range(6):
            learn(table, [i, i + 1, 50 + i], seed=i)
            table.remove([i - 2])
            entry = log.append(table, i)
            assert entry.kind == ("increment" if i else "base")
            states[entry.number] = state_of(table), i
    for number, (state, position) in states.items():
        found, told = restored(tmp_path, number=number)
        if device == "cuda":  # a GPU's table doesn't tell where its rows are
            found = {name: value for name, value in found.items() if name in state}
        assert (found, told) == (state, position)


STEPS = st.tuples(
    st.sampled_from(["update", "remove", "load", "mark"]), st.lists(st.integers(0, 9), min_size=1, max_size=4)
)


@settings(max_examples=60)
@given(st.sampled_from(LIMITS), st.lists(STEPS, min_size=1, max_size=30))
def test_all_of_a_state_tells_what_changed_of_it(limits, steps):
    """What tables on a GPU do, who have no log of their own that tells."""
    table = new_table(**limits)
    marks = take_steps(table, steps, _table_changes.mark)
    for twin, mark in marks:
        change, told, whole = _table_changes.export(table, mark)
        assert told == _table_changes.mark(table)
        assert not whole
        numbers, arrays = _tables.split_change(change, "table.")
        parameters = {**_kinds.KINDS["EmbeddingTable"].export(table, None).parameters, **numbers}
        _kinds.KINDS["EmbeddingTable"].apply(twin, parameters, arrays)
        assert state_of(twin) == state_of(table)


def test_a_mark_of_another_state_is_told_whole():
    table = new_table()
    learn(table, [1, 2])
    mark = _table_changes.mark(table)
    twin = new_table()
    learn(twin, [3])
    table.__setstate__(twin.__getstate__())
    learn(table, [4])
    learn(table, [5])
    assert _table_changes.export(table, mark)[2]
    assert _table_changes.export(table, None)[2]
