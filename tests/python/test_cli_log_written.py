"""``fastinc log`` while somebody writes: what goes is looked at again, damage told from what is in the writing."""

from __future__ import annotations

import dataclasses
import warnings

import pytest

import fastinc as fi
from _commands import assert_one_line_error, command
from _logs import flip, new_table, tables_fixture
from fastinc.checkpoint import _directory, _entries, _lock, _restoring
from fastinc.checkpoint._records import MAGIC

tables = tables_fixture()


def test_a_log_that_is_written_to_is_read(capsys, tables, tmp_path):
    folder, _ = tables
    with fi.checkpoint.Log(folder) as log:
        log.lock()
        for action in ([], ["--check"], ["--export", tmp_path / "out"]):
            assert command(capsys, "log", folder, *action)[0] == 0


@pytest.fixture
def moving(tmp_path, monkeypatch):
    """A log that keeps one state, and a function of how often another takes its place right after it was listed."""
    read, writing, left = _entries.read_manifest, [], []
    log = fi.checkpoint.Log(tmp_path / "moving", keep=1)
    log.append(new_table(), position=0)

    def moves(folder, number, there):
        if left and not writing:
            writing.append(True)  # an append looks at the entries, too
            log.append(new_table(), position=len(left))
            writing.clear()
            left.pop()
        return read(folder, number, there)

    monkeypatch.setattr(_entries, "read_manifest", moves)
    with log:
        yield log, lambda times: left.extend([True] * times)


def test_what_went_while_it_was_listed_is_looked_at_again(capsys, moving):
    log, move = moving
    move(3)
    assert [(entry.number, entry.position) for entry in log.entries()] == [(4, 1)]
    move(1)
    status, out, err = command(capsys, "log", log.path)
    assert (status, err, out.split()[:2]) == (0, "", ["5", "base"])
    move(1000)
    assert_one_line_error(command(capsys, "log", log.path), "is changed all the time")
    with pytest.raises(RuntimeError, match="changed all the time"):
        log.entries()


def test_a_segment_that_went_while_it_was_listed_is_looked_at_again(tables, monkeypatch):
    folder, _ = tables
    with fi.checkpoint.Log(folder, keep=1) as log:
        real, calls = _directory.open_segment, []

        def compacted(*arguments):
            if not calls:
                calls.append(True)
                another = new_table()
                for position in ("base", "increment"):
                    log.append(another, position=position)
                log.append(new_table(), position="newest")
                assert not arguments[0].joinpath("increments-0000000000000002.log").exists()
            return real(*arguments)

        log.lock()
        monkeypatch.setattr(_directory, "open_segment", compacted)
        assert [entry.position for entry in log.entries()] == ["newest"]


def test_a_listing_that_has_neither_of_two_bases_is_made_again(capsys, tables, monkeypatch):
    """A folder that is listed while one takes the other's place may show that."""
    folder, _ = tables
    real, calls = _directory.listing, []

    def without_bases(path):
        calls.append(path)
        there = real(path)
        return dataclasses.replace(there, bases=()) if len(calls) == 2 else there

    monkeypatch.setattr(_directory, "listing", without_bases)
    status, out, _ = command(capsys, "log", folder)
    assert (status, len(calls), out.count("\n")) == (0, 4, 6)


@pytest.mark.parametrize("where", ["payload", "header"])
def test_check_finds_damage_while_the_log_is_written_to(capsys, tables, tmp_path, where):
    """What has its full length isn't in the writing."""
    folder, _ = tables
    (segment,) = folder.glob("increments-*")
    last = segment.read_bytes().rindex(MAGIC)
    with fi.checkpoint.Log(folder) as log:
        log.lock()
        assert command(capsys, "log", folder, "--check")[0] == 0
        flip(segment, -40 if where == "payload" else last + 20)
        assert_one_line_error(
            command(capsys, "log", folder, "--check"), segment.name, "record 5", "number 4 is what can be restored"
        )
        assert command(capsys, "log", folder, "--export", tmp_path / "out")[2].endswith("number 4 is exported\n")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fi.checkpoint.Log(folder).restore()  # who serves it has no use for such news


def test_check_takes_what_is_in_the_writing_for_no_damage(capsys, tables):
    folder, _ = tables
    (segment,) = folder.glob("increments-*")
    whole = segment.read_bytes()
    last = whole.rindex(MAGIC)
    with fi.checkpoint.Log(folder) as log:
        log.lock()
        for size in (last + 1, last + 71, last + 72, last + 200, len(whole) - 1):
            segment.write_bytes(whole[:size])
            status, out, _ = command(capsys, "log", folder, "--check")
            assert (status, out.split()[:2]) == (0, ["number", "4"])


def test_check_looks_again_at_what_a_writer_has_finished_since(capsys, tables, monkeypatch):
    """It is no damage that was seen of one record while the writer was at it."""
    folder, _ = tables
    (segment,) = folder.glob("increments-*")
    flip(segment, -1)
    restore = _restoring.restore

    def finished_since(*arguments):
        state = restore(*arguments)
        if state.number == 4:
            flip(segment, -1)
        return state

    monkeypatch.setattr(_restoring, "restore", finished_since)
    monkeypatch.setattr(_lock, "is_held", lambda _: True)
    status, out, _ = command(capsys, "log", folder, "--check")
    assert (status, out.split()[:2]) == (0, ["number", "5"])
