"""Finished files that get later names, or are copied to such and removed: their events come once."""

from __future__ import annotations

import os
import shutil

import pytest

import fastinc as fi
from _event_files import EVENTS, json_event, write
from _streams import events_in, read_all, through_json
from fastinc.stream import _left, _read_before

TOLD = "has what was read before, under another name"


def put(file, begin, end, width=150):
    """Append events, ten of which are enough to tell a file from others."""
    with file.open("a") as out:
        out.write("".join(json_event(n % 7, n).ljust(width) + "\n" for n in range(begin, end)))
    return file


def items_in(batches):
    return [row[1] for row in events_in(batches)]


def copied_and_removed(file, later):
    shutil.copy(file, file.with_name(".copy"))
    file.with_name(".copy").rename(later)
    file.unlink()


def copied_and_cut(file, later):
    shutil.copy(file, later)
    os.truncate(file, 0)


CHANGES = pytest.mark.parametrize("change", [os.rename, copied_and_removed, copied_and_cut])
FOLLOW = pytest.mark.parametrize("follow", [False, True])


@CHANGES
@FOLLOW
@pytest.mark.parametrize("restart", [False, True])
def test_a_finished_file_is_not_read_again_under_a_later_name(tmp_path, caplog, change, follow, restart):
    for n, name in enumerate("abc"):
        put(tmp_path / f"{name}.jsonl", 10 * n, 10 * n + 10)
    source = fi.stream.open(tmp_path, follow=follow)
    batches = [source.read(10, timeout=0.0) for _ in range(2)]  # all of a, and of b
    change(tmp_path / "a.jsonl", tmp_path / "x.jsonl")
    put(tmp_path / "y.jsonl", 30, 40)
    if restart:
        source.close()
        source = fi.stream.open(tmp_path, follow=follow)
        source.seek(through_json(batches[-1].position))
    assert items_in(batches + read_all(source)) == list(range(40))
    assert source.ended != follow
    assert f"x.jsonl {TOLD}" in caplog.text
    (tmp_path / "x.jsonl").rename(tmp_path / "z.jsonl")
    if follow:
        assert read_all(source) == []
        assert f"z.jsonl {TOLD}" in caplog.text
    source.close()


@FOLLOW
@pytest.mark.parametrize("restart", [False, True])
def test_a_short_file_that_was_renamed_is_known_by_its_inode_and_time(tmp_path, follow, restart):
    for n, name in enumerate("ab"):
        put(tmp_path / f"{name}.jsonl", n, n + 1, width=0)
    source = fi.stream.open(tmp_path, follow=follow)
    batches = [source.read(1, timeout=0.0) for _ in range(2)]
    (tmp_path / "a.jsonl").rename(tmp_path / "x.jsonl")
    if restart:
        source.close()
        source = fi.stream.open(tmp_path, follow=follow)
        source.seek(through_json(batches[-1].position))
    assert items_in(batches + read_all(source)) == [0, 1]
    source.close()


@FOLLOW
@pytest.mark.parametrize("same_inode", [False, True])
def test_a_short_file_that_begins_like_one_that_was_removed_is_another(tmp_path, monkeypatch, follow, same_inode):
    """Events without times may well come again, one a file; and an inode is given away at once."""
    monkeypatch.setattr(_read_before, "PATIENCE", 0.0)
    for n, name in enumerate("ab"):
        put(tmp_path / f"{name}.jsonl", n, n + 1, width=0)
    with fi.stream.open(tmp_path, follow=follow) as source:
        batches = [source.read(1, timeout=0.0) for _ in range(2)]
        if same_inode:
            (tmp_path / "a.jsonl").rename(tmp_path / "c.jsonl")
            os.utime(tmp_path / "c.jsonl", ns=(1, 1))
        else:
            shutil.copy(tmp_path / "a.jsonl", tmp_path / "c.jsonl")
            (tmp_path / "a.jsonl").unlink()
        assert items_in(batches + read_all(source)) == [0, 1, 0]


@FOLLOW
def test_a_parquet_file_that_is_copied_and_removed_while_it_is_read_is_not_read_again(tmp_path, follow):
    file = write(tmp_path / "a.parquet")
    assert file.stat().st_size >= 1024
    with fi.stream.open(tmp_path, follow=follow) as source:
        batches = [source.read(5, timeout=0.0)]
        copied_and_removed(file, tmp_path / "b.parquet")
        assert events_in(batches + read_all(source)) == EVENTS


def test_parquet_files_are_not_read_again_under_later_names(tmp_path):
    write(tmp_path / "a.parquet", EVENTS[:30])
    write(tmp_path / "b.parquet", EVENTS[30:])
    with fi.stream.open(tmp_path) as source:
        batches = [source.read(30, timeout=0.0) for _ in range(2)]
        (tmp_path / "a.parquet").rename(tmp_path / "c.parquet")
        assert events_in(batches + read_all(source)) == EVENTS


@FOLLOW
def test_a_file_of_the_same_events_is_read_while_both_are_there(tmp_path, monkeypatch, caplog, follow):
    monkeypatch.setattr(_read_before, "PATIENCE", 0.0)
    for name in ("a", "b", "c", "d"):
        put(tmp_path / f"{name}.jsonl", 0, 10 + (name == "b"))
    with fi.stream.open(tmp_path, follow=follow) as source:
        assert items_in(read_all(source)) == [*range(10), *range(11), *range(10), *range(10)]
        if follow:
            new = put(tmp_path / ".e", 0, 11)
            (tmp_path / "a.jsonl").unlink()
            new.rename(tmp_path / "e.jsonl")  # it begins like what is gone, and is another
            assert items_in(read_all(source)) == list(range(11))
    assert TOLD not in caplog.text


def test_the_last_files_that_were_left_are_known(tmp_path, caplog):
    count = _left._KEPT + 4
    for n in range(count):
        put(tmp_path / f"{n:02}.jsonl", 10 * n, 10 * n + 10)
    with fi.stream.open(tmp_path) as source:
        batches = read_all(source)
        passed = through_json(batches[-1].position)["passed"]
        assert [one["file"] for one in passed] == [f"{n:02}.jsonl" for n in range(3, count - 1)]
    for n in (2, 4, 18):
        (tmp_path / f"{n:02}.jsonl").rename(tmp_path / f"x{n:02}.jsonl")
    with fi.stream.open(tmp_path) as source:
        source.seek(batches[-1].position)
        assert items_in(read_all(source)) == list(range(20, 30))  # that one was left too long ago
        for change in ({"device": None}, {"inode": "1"}, {"written": 0.5}, {"file": 3}, {"bytes": -1}):
            with pytest.raises(ValueError, match=r"position: passed = .* must have"):
                source.seek({**batches[-1].position, "passed": [{**passed[0], **change}]})


def test_what_is_known_of_files_does_not_grow(tmp_path):
    file = put(tmp_path / "a.jsonl", 0, 10)
    with fi.stream.open(tmp_path, follow=True, on_gap="skip") as source:
        read_all(source)
        file.rename(tmp_path / "b.jsonl")
        for n in range(20):
            read_all(source)
            put(tmp_path / "b.jsonl", n, n + 1)  # its writer goes on
            put(tmp_path / f"c{n}.jsonl", 0, 3)
            read_all(source)
            (tmp_path / f"c{n}.jsonl").unlink()
        known = source._read_before
        assert len(known._looked) + len(known._since) + len(known._told) <= 6


def test_a_finished_file_that_gets_the_name_of_the_one_that_is_read_is_not_read_again(tmp_path, caplog):
    """As rotation does to two names of a pattern."""
    file, older = put(tmp_path / "c.log", 0, 10), put(tmp_path / "c.log.1", 10, 20)
    with fi.stream.open(f"{file}*", follow=True, format="json", on_gap="skip") as source:
        assert items_in(read_all(source)) == list(range(20))
        older.rename(tmp_path / "c.log.2")
        file.rename(older)
        assert [source.read(100, timeout=0.1) for _ in range(2)] == [None, None]
    assert f"c.log.1 {TOLD}" in caplog.text


@FOLLOW
def test_a_finished_file_whose_writer_goes_on_under_a_later_name_is_not_read_again(tmp_path, caplog, follow):
    for n, name in enumerate("ab"):
        put(tmp_path / f"{name}.jsonl", 10 * n, 10 * n + 10)
    with fi.stream.open(tmp_path, follow=follow) as source:
        batches = [source.read(10, timeout=0.0) for _ in range(2)]
        (tmp_path / "a.jsonl").rename(tmp_path / "x.jsonl")
        put(tmp_path / "x.jsonl", 20, 30)
        assert items_in(batches + read_all(source)) == list(range(20))
    assert f"x.jsonl {TOLD}" in caplog.text
