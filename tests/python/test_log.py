"""A log: what its appends write, what is restored, rollback, and what it refuses."""

from __future__ import annotations

import os

import numpy as np
import pytest

import fastinc as fi
from _logs import learn, new_table, restored, state_of
from fastinc.checkpoint import _log, _writer

Log = fi.checkpoint.Log


def names(path):
    return sorted(name for name in os.listdir(path) if name != "lock")


def fill(path, appends=4, table=None, **options):
    """Append a learning table a few times; return what it was at each number."""
    table = new_table() if table is None else table
    states = {}
    with Log(path, **options) as log:
        for i in range(appends):
            learn(table, [i, i + 1, 100 + i], seed=i)
            if i % 3 == 2:
                table.remove([i])
            entry = log.append(table, position={"offset": i})
            states[entry.number] = state_of(table), {"offset": i}
    return states


def test_an_empty_log_has_nothing(tmp_path):
    log = Log(tmp_path / "log")
    assert log.restore() is None
    assert log.entries() == []
    assert not (tmp_path / "log").exists()
    with pytest.raises(ValueError, match="number = 1 is not in"):
        log.restore(number=1)
    with pytest.raises(ValueError, match=r"at = 1\.0 is before"):
        log.restore(at=1)


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_rows": 5}, {"max_rows": 5, "eviction": "lfu"}, {"admission": fi.MinCount(2, width=64)}],
    ids=["free", "lru", "lfu", "admission"],
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_every_number_comes_back_bit_for_bit(tmp_path, limits, compression):
    states = fill(tmp_path, 7, new_table(**limits), compression=compression)
    for number, state in states.items():
        assert restored(tmp_path, number=number) == state
    assert restored(tmp_path) == states[7]
    found, position = fi.checkpoint.load(tmp_path)
    assert (state_of(found), position) == states[7]


def test_the_first_append_is_a_base_and_later_ones_are_increments(tmp_path):
    fill(tmp_path, 3)
    kinds = [(entry.number, entry.kind, entry.position) for entry in Log(tmp_path).entries()]
    assert kinds == [(1, "base", {"offset": 0}), (2, "increment", {"offset": 1}), (3, "increment", {"offset": 2})]
    assert names(tmp_path) == ["base-0000000000000001", "increments-0000000000000002.log"]


def test_an_increment_costs_what_changed(tmp_path):
    table = new_table(dim=16)
    table.load(range(20_000), np.ones((20_000, 16), dtype=np.float32))
    with Log(tmp_path) as log:
        base = log.append(table)
        learn(table, [5])
        assert log.append(table).bytes < 2000 < base.bytes / 100
        before = log.append(table).bytes
        table.remove(range(1000, 2000))
        assert log.append(table).bytes - before < 8 * 1000 + 100


def test_a_restored_object_goes_on_with_increments(tmp_path):
    fill(tmp_path, 3)
    log = Log(tmp_path)
    table, _ = log.restore()
    learn(table, [1, 7])
    assert log.append(table, 9).kind == "increment"
    assert log.entries()[-1].number == 4
    log.close()
    assert restored(tmp_path) == (state_of(table), 9)


def test_looking_at_an_old_state_doesnt_cost_a_base(tmp_path):
    table = new_table()
    with Log(tmp_path) as log:
        for i in range(3):
            learn(table, [i])
            log.append(table)
        log.restore(number=2)
        log.restore()
        assert log.append(table).kind == "increment"


def test_after_a_rollback_all_is_written_with_the_next_number(tmp_path):
    states = fill(tmp_path, 4)
    with Log(tmp_path) as log:
        table, position = log.restore(number=2)
        assert (state_of(table), position) == states[2]
        learn(table, [50])
        entry = log.append(table, "rolled back")
        assert (entry.number, entry.kind) == (5, "base")
        assert log.append(table, "again").kind == "increment"
    assert restored(tmp_path) == (state_of(table), "again")
    assert restored(tmp_path, number=4) == states[4]


def test_another_object_is_a_base(tmp_path):
    one, other = new_table(), new_table()
    with Log(tmp_path) as log:
        log.append(one)
        learn(other, [3])
        assert log.append(other).kind == "base"
        assert log.append(one).kind == "base"
        model = fi.Recommender(dim=4).partial_fit([1, 2], [3, 4])
        log.append(model, "model")
    found, position = Log(tmp_path).restore()
    assert (type(found), position) == (fi.Recommender, "model")
    assert found.recommend([1], k=2)[0].tolist() == model.recommend([1], k=2)[0].tolist()


def test_another_logs_append_in_between_is_noticed(tmp_path):
    one = new_table()
    first = Log(tmp_path)
    first.append(one)
    table, _ = Log(tmp_path).restore()
    first.close()
    learn(one, [1])
    second = Log(tmp_path)
    mine, _ = second.restore()
    with Log(tmp_path) as third:
        third.append(table)
    assert second.append(mine).kind == "base"
    second.close()
    assert restored(tmp_path)[0] == state_of(mine)


def test_a_recommender_comes_back_at_every_number(tmp_path):
    model, states = fi.Recommender(dim=4), {}
    with Log(tmp_path) as log:
        for i in range(4):
            model.partial_fit([f"u{i}", "u0"], [f"i{i}", f"i{i + 1}"])
            states[log.append(model, i).number] = model.recommend(["u0"], k=3), i
    for number, ((ids, scores), position) in states.items():
        found, told = Log(tmp_path).restore(number=number)
        again = found.recommend(["u0"], k=3)
        assert again[0].tolist() == ids.tolist()
        assert again[1].tobytes() == scores.tobytes()
        assert told == position


def test_a_restored_recommender_goes_on_with_increments(tmp_path):
    model = fi.Recommender(dim=4).partial_fit(["u1", "u2"], ["i1", "i2"])
    with Log(tmp_path) as log:
        log.append(model)
        assert log.append(model.partial_fit(["u1"], ["i2"])).kind == "increment"
    with Log(tmp_path) as log:
        model, _ = log.restore()
        assert log.append(model.partial_fit(["u3"], ["i1"]), 4).kind == "increment"
    found, position = Log(tmp_path).restore()
    assert position == 4
    assert [ids.tolist() for ids in found.recommend(["u3", "u1"], k=2)] == [
        ids.tolist() for ids in model.recommend(["u3", "u1"], k=2)
    ]


def test_a_learning_rate_changes_in_increments_and_other_parameters_in_a_base(tmp_path):
    table = new_table()
    with Log(tmp_path) as log:
        log.append(table)
        table.optimizer.lr = 0.025
        learn(table, [1])
        assert log.append(table).kind == "increment"
        assert Log(tmp_path).restore()[0].optimizer.lr == 0.025
        table.optimizer.eps = 1e-3
        assert log.append(table).kind == "base"
        assert Log(tmp_path).restore()[0].optimizer.eps == 1e-3
        assert log.append(table).kind == "increment"


def test_a_table_that_forgot_what_it_removed_is_written_whole(tmp_path):
    table = new_table()
    with Log(tmp_path) as log:
        learn(table, [1, 2, 3])
        log.append(table)
        twin = new_table()
        learn(twin, [9])
        table.__setstate__(twin.__getstate__())
        learn(table, [4])
        learn(table, [5])
        log.append(table)
    assert restored(tmp_path)[0] == state_of(table)


def test_a_time_is_the_last_append_until_then(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_log.time, "time", lambda: now[0])
    table = new_table()
    with Log(tmp_path) as log:
        for i in range(3):
            learn(table, [i])
            log.append(table, i)
            now[0] += 10
        assert [log.restore(at=at)[1] for at in (1000, 1009.9, 1010, 5000)] == [0, 0, 1, 2]
        with pytest.raises(ValueError, match=r"at = 999\.0 is before .*the oldest kept record is of 1000\.0"):
            log.restore(at=999)


def test_numbers_that_arent_there_say_what_is(tmp_path):
    fill(tmp_path, 3)
    log = Log(tmp_path)
    with pytest.raises(ValueError, match=r"number = 4 is not in .*; number 3 can be restored"):
        log.restore(number=4)
    with pytest.raises(ValueError, match="number = 0"):
        log.restore(number=0)
    with pytest.raises(TypeError, match="give one of them"):
        log.restore(number=1, at=2.0)


def test_segments_rotate(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 2000)
    states = fill(tmp_path, 9)
    assert len(names(tmp_path)) > 3
    for number, state in states.items():
        assert restored(tmp_path, number=number) == state


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": 0}, ValueError, "keep = 0 must be at least 1"),
        ({"keep_seconds": 0}, ValueError, "keep_seconds = 0 must be a number above 0"),
        ({"compact": -1.0}, ValueError, r"compact = -1\.0 must be a number above 0"),
        ({"compact": "often"}, TypeError, "compact = 'often' must be a number"),
        ({"compression": "gzip"}, ValueError, "compression = 'gzip' must be 'zstd'"),
    ],
)
def test_options_are_checked(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        Log(tmp_path, **options)


def test_what_cant_be_appended_changes_nothing(tmp_path):
    states = fill(tmp_path, 2)
    before = names(tmp_path)
    with Log(tmp_path) as log:
        for obj, position in ((5, None), (new_table(), {1: 2}), (new_table(), float("nan"))):
            with pytest.raises(TypeError):
                log.append(obj, position)
    assert names(tmp_path) == before
    assert restored(tmp_path) == states[2]


def test_a_folder_is_a_checkpoints_or_a_logs(tmp_path):
    fill(tmp_path / "log", 2)
    with pytest.raises(ValueError, match="holds a log"):
        fi.checkpoint.save(new_table(), tmp_path / "log")
    fi.checkpoint.save(new_table(), tmp_path / "whole", 5)
    with pytest.raises(ValueError, match="holds a checkpoint"):
        Log(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds a checkpoint"):
        Log(tmp_path / "log" / "base-0000000000000001")
    late = Log(tmp_path / "later")
    fi.checkpoint.save(new_table(), tmp_path / "later", 6)
    with pytest.raises(ValueError, match="holds a checkpoint"):
        late.append(new_table())
    assert fi.checkpoint.load(tmp_path / "whole")[1] == 5
    assert fi.checkpoint.load(tmp_path / "later")[1] == 6
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is not a folder"):
        Log(tmp_path / "file")


def test_other_files_are_left_alone(tmp_path):
    mine = ["notes.txt", "base-1", "increments-0000000000000099.log.bak", "base-0000000000000007.tmp"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    states = fill(tmp_path, 6, keep=1, compact=None)
    with Log(tmp_path, keep=1) as log:
        log.compact()
    assert restored(tmp_path) == states[6]
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


def test_a_closed_log_restores_and_refuses_to_write(tmp_path):
    states = fill(tmp_path, 2)
    log = Log(tmp_path)
    log.close()
    log.close()
    for call in (lambda: log.append(new_table()), log.compact):
        with pytest.raises(ValueError, match="is closed"):
            call()
    table, position = log.restore()
    assert (state_of(table), position) == states[2]
    assert repr(log) == f"Log({str(tmp_path)!r})"


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Log("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log.append(new_table())
    log.close()
    assert names(tmp_path / "here") == ["base-0000000000000001"]


def test_a_segment_that_somebody_removed_is_an_error_and_not_lost(tmp_path):
    table = new_table()
    with Log(tmp_path) as log:
        for i in range(3):
            learn(table, [i])
            log.append(table, i)
        (tmp_path / "increments-0000000000000002.log").unlink()
        with pytest.raises(FileNotFoundError, match="somebody else removed"):
            log.append(table, 3)
        assert log.append(table, 3).kind == "base"
    assert restored(tmp_path) == (state_of(table), 3)
