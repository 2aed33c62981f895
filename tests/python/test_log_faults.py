"""A disk that fails: every call that changes something, one after another. An error, and the state before is there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import warnings

import pytest

import fastinc as fi
from _logs import FaultyOs, each_call, failing, learn, memory_fixture, new_table, quiet, restored, state_of
from fastinc.checkpoint import _retention

Log = fi.checkpoint.Log
tmp_path = memory_fixture()
FAULTS = [errno.EIO, errno.ENOSPC, "short"]


@pytest.fixture
def template(tmp_path):
    """A log of three appends."""
    table = new_table()
    with Log(tmp_path / "template") as log:
        for i in range(3):
            learn(table, [i, i + 1], seed=i)
            log.append(table, i)
    return tmp_path / "template"


def open_segment(log, table):
    log.append(table, "opens a segment")
    learn(table, [1, 9])
    return table, lambda: log.append(table, "more")


def next_segment(log, table):
    learn(table, [1, 9])
    return table, lambda: log.append(table, "next")


def another_object(log, table):
    twin = table.to("cpu")
    learn(twin, [1, 9])
    return twin, lambda: log.append(twin, "twin")


def compaction(log, table):
    return table, log.compact


ACTIONS = [open_segment, next_segment, another_object, compaction]


def leftovers(path):
    return [name for name in os.listdir(path) if name.endswith(".tmp")]


def each_call_on_a_copy(template, fault=errno.EIO, *, forever=False):
    """Yield a copy of a log and a disk, as `each_call` does."""
    path = template.parent / "log"
    for disk in each_call(fault, forever=forever):
        shutil.copytree(template, path)
        yield path, disk
        shutil.rmtree(path)


def tried(disk, act, *args):
    """Return what a call returns on this disk, or None if it fails."""
    with failing(disk), contextlib.suppress(OSError):
        return act(*args)
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_call_that_fails_is_an_error_and_the_state_before_is_there(template, action, fault):
    failures = 0
    for path, disk in each_call_on_a_copy(template, fault):
        with Log(path, compact=None) as log:
            table, _ = log.restore()
            _, act = action(log, table)
            before = restored(path)
            entry = tried(disk, act)
            failures += entry is None
            after = restored(path)
            if entry is None or action is compaction:
                assert after == before, disk.calls
            else:
                assert after != before
                # What can be missed without harm: putting a lock's holder into words, and tidying up.
                assert disk.failed in (None, "unlink", "rmdir"), disk.calls
            again = act()
            assert again is not None or action is compaction
            now = restored(path)
            assert now == (before if action is compaction else (now[0], again.position))
            if entry is not None or action is compaction:
                assert now[0] == after[0]
            assert not leftovers(path) or disk.failed in ("unlink", "rmdir", "open")
        assert restored(path) == now
        assert fi.checkpoint.Log(path).entries()[-1].number == len(Log(path).entries())
    assert failures >= 2


@pytest.mark.parametrize("action", [open_segment, another_object])
def test_errors_of_the_disk_name_the_file(template, action):
    named = {}
    for path, disk in each_call_on_a_copy(template, errno.ENOSPC):
        with Log(path, compact=None) as log:
            _, act = action(log, log.restore()[0])
            with failing(disk):
                try:
                    act()
                except OSError as error:
                    named.setdefault(disk.failed, []).append(str(error.filename).startswith(str(path)))
    assert {call for call in named if all(named[call])} >= {"write", "fdatasync"}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_disk_that_stays_broken_loses_nothing_either(template, action):
    for path, disk in each_call_on_a_copy(template, forever=True):
        with Log(path, compact=None) as log:
            table, _ = log.restore()
            written, act = action(log, table)
            before = restored(path)
            done = tried(disk, act)
            after = restored(path)
            # Nothing can be taken back on such a disk: a record may be whole whose sync failed.
            assert after in (before, (state_of(written), after[1]))
            if done is not None and action is not compaction:
                assert after[1] == done.position
            again = act()
            learn(table, [77])
            log.append(table, "end")
        del again
        assert restored(path) == (state_of(table), "end")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_first_append_that_fails_leaves_an_empty_log(tmp_path, fault):
    table = new_table()
    learn(table, [1])
    for disk in each_call(fault):
        path = tmp_path / f"log-{disk.at}"
        with Log(path) as log:
            with failing(disk):
                try:
                    log.append(table, 1)
                except OSError:
                    assert restored(path) is None
                else:
                    assert restored(path) == (state_of(table), 1)
            log_entry = log.append(table, 2)
            assert restored(path) == (state_of(table), 2)
            assert log_entry.number == (1 if log_entry.kind == "base" else 2)


def test_an_append_that_fails_is_followed_by_a_base_of_another_object(template):
    """What the failed one may have left has the base's number, and isn't what the base is of."""
    for path, disk in each_call_on_a_copy(template, forever=True):
        with Log(path) as log:
            table, _ = log.restore()
            learn(table, [1, 9])
            failed = tried(disk, log.append, table, "failed?") is None
            twin = new_table()
            learn(twin, [500])
            entry = log.append(twin, "twin")
            assert (entry.number, entry.kind) == (4 if failed else 5, "base")
            assert restored(path) == (state_of(twin), "twin")
            learn(twin, [501])
            assert log.append(twin, "more").kind == "increment"
        assert restored(path) == (state_of(twin), "more")
        assert restored(path, number=entry.number) != restored(path)


def test_a_base_that_fails_is_followed_by_an_increment(template):
    for path, disk in each_call_on_a_copy(template, forever=True):
        with Log(path) as log:
            table, _ = log.restore()
            log.append(table, "mine")
            twin = new_table()
            learn(twin, [500])
            failed = tried(disk, log.append, twin, "failed?") is None
            learn(table, [502])
            entry = log.append(table, "mine again")
            assert entry.kind == ("increment" if failed else "base")
            learn(table, [503])
            log.append(table, "end")
        assert restored(path) == (state_of(table), "end")


def test_an_append_is_synced_before_it_returns(template):
    """What a name shows is on disk before the name is, and that before the call returns; increments take one sync."""
    with Log(template, compact=None) as log:
        table, _ = log.restore()
        with failing(FaultyOs()) as disk:
            log.append(table)
        assert disk.calls[-5:] == ["write", "fdatasync", "replace", "open", "fsync"]
        with failing(FaultyOs()) as disk:
            log.append(table)
        assert disk.calls == ["write", "fdatasync"]
        with failing(FaultyOs()) as disk:
            log.append(new_table())
        made, arrays, manifest = ["fsync"], ["fdatasync", "replace"], ["fdatasync", "fsync", "replace", "fsync"]
        calls = [call for call in disk.calls if call not in ("open", "mkdir", "write")]
        assert calls == [*made, *arrays, *manifest, "replace", "fsync"]


def test_letting_go_that_fails_is_told_at_the_next_append(template, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EIO, "no")

    with Log(template, keep=1) as log:
        table, _ = log.restore()
        log.append(table)
        with monkeypatch.context() as patched:
            patched.setattr(_retention, "let_go", refuses)
            log.compact()
        assert isinstance(log.error, OSError)
        learn(table, [5])
        with pytest.warns(RuntimeWarning, match="was not compacted: OSError"):
            log.append(table)
        log.append(table)
        assert isinstance(log.error, OSError)
        log.compact()
        assert log.error is None


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_saving_on_a_disk_that_fails_leaves_the_checkpoint_before(tmp_path, fault):
    before, after = new_table(), new_table()
    learn(before, [1])
    learn(after, [2])
    failures = 0
    for disk in each_call(fault):
        path = tmp_path / "whole"
        fi.checkpoint.save(before, path, 1)
        with failing(disk):
            try:
                fi.checkpoint.save(after, path, 2)
            except OSError:
                failures += 1
                expected = before, 1
            else:
                expected = after, 2
        found, position = fi.checkpoint.load(path)
        assert (state_of(found), position) == (state_of(expected[0]), expected[1]), disk.calls
        assert len(os.listdir(path)) == 2 or disk.failed == "unlink", disk.calls
        shutil.rmtree(path)
    assert failures >= 8


def test_saving_for_the_first_time_on_a_disk_that_fails_leaves_nothing(tmp_path):
    for disk in each_call():
        path = tmp_path / "first" / "whole"
        with failing(disk):
            try:
                fi.checkpoint.save(new_table(), path, 2)
            except OSError:
                with pytest.raises(FileNotFoundError):
                    fi.checkpoint.load(path)
                assert not path.exists() or len(os.listdir(path)) == 0 or disk.failed == "unlink"
            else:
                assert fi.checkpoint.load(path)[1] == 2
        shutil.rmtree(path.parent, ignore_errors=True)


def test_what_a_killed_writer_left_behind_goes(template):
    stale = template / ".fastinc-base-1-0123456789abcdef.tmp"
    stale.mkdir()
    (stale / "manifest.json").write_text("{}")
    with Log(template) as log, warnings.catch_warnings():
        warnings.simplefilter("error")
        table, _ = log.restore()
        log.append(table)
    assert not stale.exists()
    assert not leftovers(template)
    with quiet():
        assert restored(template)[0] == state_of(table)
