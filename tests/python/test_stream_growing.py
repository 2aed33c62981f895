"""Files that are followed as they grow, and folders that get more of them."""

from __future__ import annotations

import os

import pytest

import fastinc as fi
from _event_files import EVENTS, append, json_event, write
from _streams import events_in, read_all, rejected_in
from fastinc.stream import _files


@pytest.mark.parametrize("kind", ["csv", "jsonl", "dat"])
def test_a_growing_file_gives_whole_lines(tmp_path, kind):
    """Whatever pieces a file grows by, a row comes when its newline is there."""
    data, file = write(tmp_path / f"whole.{kind}").read_bytes(), tmp_path / f"events.{kind}"
    file.touch()
    found = []
    with fi.stream.open(file, follow=True) as source:
        for begin in range(0, len(data), 37):
            append(file, data[begin : begin + 37])
            found += events_in(read_all(source, (3,)))
            whole = data[: begin + 37].count(b"\n") - (kind == "csv")
            assert len(found) == max(whole, 0)
            assert not source.ended
    assert found == EVENTS


def test_a_half_line_at_the_end(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text(json_event(1, 2) + "\n" + json_event(3, 4))
    with fi.stream.open(file, follow=True) as source:
        (batch,) = read_all(source)
        assert len(batch) == 1
        append(file, b"\n")
        assert events_in(read_all(source)) == [(3, 4, None, None)]
    with fi.stream.open(file, follow=True) as source:
        source.seek(batch.position)
        assert events_in(read_all(source)) == [(3, 4, None, None)]


def test_a_last_line_without_newline_must_not_have_grown(tmp_path):
    file = tmp_path / "events.csv"
    file.write_text("user,item\n1,2")
    with fi.stream.open(file) as source:
        (batch,) = read_all(source)
    assert events_in([batch]) == [(1, 2, None, None)]
    append(file, b"\n3,4\n")
    with fi.stream.open(file) as source:
        source.seek(batch.position)
        (rest,) = read_all(source)
    assert events_in([rest]) == [(3, 4, None, None)]
    assert rest.wheres == ["events.csv:3"]
    file.write_text("user,item\n1,23\n")
    with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match="has grown since"):
        source.seek(batch.position)


def test_an_open_quote_waits_for_its_end(tmp_path):
    file = tmp_path / "events.csv"
    file.write_text('user,item,text\n1,2,"begins\n')
    with fi.stream.open(file, follow=True) as source:
        assert read_all(source) == []
        append(file, b'and ends"\n3,4,"x"\n')
        assert [row[:2] for row in events_in(read_all(source))] == [(1, 2), (3, 4)]
        append(file, b'5,6,"never ends\n' + b"7,8,y\n" * 20_000)
        batches = read_all(source)
    assert [letter.where for letter in rejected_in(batches)] == ["events.csv:5"]
    assert events_in(batches) == [(7, 8, None, None)] * 20_000


def test_a_line_that_was_taken_as_the_last_is_the_last(tmp_path, caplog):
    """The file counted as complete: what its writer still adds to that line is no line of its own."""
    (tmp_path / "a.csv").write_text("user,item\n1,2\n8")
    (tmp_path / "b.csv").write_text("user,item\n5,6\n")
    with fi.stream.open(tmp_path, follow=True) as source:
        assert source.read(10, timeout=0.0).users.tolist() == [1]
        assert [letter.raw for letter in source.read(10, timeout=0.0).rejected] == ["8"]
        append(tmp_path / "a.csv", b"3,4\n")
        (tmp_path / "c.csv").write_text("user,item\n7,8\n")
        assert [row[0] for row in events_in(read_all(source))] == [5, 7]
    assert "a.csv has got 4 bytes after the next file was begun" in caplog.text


@pytest.mark.parametrize("on_gap", ["raise", "skip"])
def test_a_file_goes_on_whose_successor_went_again(tmp_path, caplog, on_gap):
    """A line without a newline was taken as its last by then: a file that an editor made for a moment is enough."""
    file = tmp_path / "a.jsonl"
    file.write_text(json_event(1, 1) + "\n" + json_event(2, 2))

    def begin_another(source):
        (tmp_path / "b.jsonl").write_text("something else")
        batch = source.read(10, timeout=0.0)
        (tmp_path / "b.jsonl").unlink()
        return events_in([batch])

    with fi.stream.open(tmp_path, follow=True, on_gap=on_gap) as source:
        found = events_in(read_all(source)) + begin_another(source)
        assert read_all(source) == []
        append(file, b"\n" + json_event(3, 3).encode() + b"\n" + json_event(4, 4)[:9].encode())
        found += events_in(read_all(source))
        append(file, json_event(4, 4)[9:].encode())
        found += begin_another(source)
        assert found == [(n, n, None, None) for n in range(1, 5)]
        append(file, b" and more\n" + json_event(5, 5).encode() + b"\n")
        if on_gap == "raise":
            with pytest.raises(fi.stream.GapError, match=r"a\.jsonl:4: the line that was the last has grown"):
                source.read(10, timeout=0.0)
        else:
            assert source.read(10, timeout=0.0) is None  # it is told
        assert events_in(read_all(source)) == [(5, 5, None, None)]
    assert ("the line that was the last has grown" in caplog.text) == (on_gap == "skip")


def test_a_following_source_goes_on_to_the_next_file(tmp_path, caplog):
    with fi.stream.open(tmp_path, follow=True) as source:
        assert read_all(source) == []
        (tmp_path / "b.jsonl").write_text(json_event(1, 1) + "\n" + json_event(2, 2))
        assert events_in(read_all(source)) == [(1, 1, None, None)]
        (tmp_path / "c.jsonl").write_text(json_event(3, 3) + "\n")
        batches = read_all(source, (1,))
        assert events_in(batches) == [(2, 2, None, None), (3, 3, None, None)]  # b is complete: c is there
        assert [batch.position["file"] for batch in batches] == ["b.jsonl", "c.jsonl"]
        (tmp_path / "a.jsonl").write_text(json_event(4, 4) + "\n")
        assert read_all(source) == []
        assert "a.jsonl came after c.jsonl was begun" in caplog.text


def test_what_comes_late_in_a_file_that_counted_as_complete_is_told(tmp_path, caplog):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    with fi.stream.open(tmp_path, follow=True) as source:
        assert read_all(source) == []
        for name, n in (("a.jsonl", 1), ("b.jsonl", 2)):  # a is complete: b is there
            append(tmp_path / name, json_event(n, n).encode() + b"\n")
        assert events_in(read_all(source)) == [(2, 2, None, None)]
        size = (tmp_path / "a.jsonl").stat().st_size
        assert caplog.text.count(f"a.jsonl has got {size} bytes after the next file was begun") == 1
        (tmp_path / "c.jsonl").write_text(json_event(3, 3) + "\n")
        assert events_in(read_all(source)) == [(3, 3, None, None)]
        append(tmp_path / "b.jsonl", b"{")
        (tmp_path / "a.jsonl").unlink()
        assert read_all(source) == []
        assert read_all(source) == []
        assert caplog.text.count("b.jsonl has got 1 bytes after") == 1
        os.replace(tmp_path / "b.jsonl", tmp_path / "0.jsonl")  # another one by that name isn't the one that was read
        (tmp_path / "b.jsonl").write_text(json_event(4, 4) * 9)
        assert read_all(source) == []
        assert caplog.text.count(" has got ") == 2


def test_the_format_of_a_growing_file_is_seen_when_it_begins(tmp_path):
    file = tmp_path / "events.log"
    file.touch()
    with fi.stream.open(file, follow=True) as source:
        assert read_all(source) == []
        append(file, json_event(1, 2).encode() + b"\n")
        assert len(events_in(read_all(source))) == 1


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_without_a_format_is_passed_by_once_a_later_one_is_there(tmp_path, text):
    (tmp_path / "1.log").write_text(text)
    with fi.stream.open(tmp_path, follow=True) as source:
        assert read_all(source) == []
        (tmp_path / "2.log").touch()
        assert read_all(source) == []
        (tmp_path / "3.log").write_text("user,item\n3,4\n")
        assert events_in(read_all(source)) == [(3, 4, None, None)]
        (tmp_path / "4.log").write_text(json_event(5, 6) + "\n")
        assert events_in(read_all(source)) == [(5, 6, None, None)]


def test_what_an_empty_file_got_before_the_later_one_came_is_read(tmp_path, monkeypatch):
    """The file is looked at, then filled, and then is complete."""
    (tmp_path / "1.log").touch()
    by_content = _files.format_by_content

    def fill_after_the_first_look(path):
        found = by_content(path)
        monkeypatch.undo()
        (tmp_path / "1.log").write_text(json_event(1, 2) + "\n")
        (tmp_path / "2.log").write_text(json_event(3, 4) + "\n")
        return found

    monkeypatch.setattr(_files, "format_by_content", fill_after_the_first_look)
    with fi.stream.open(tmp_path, follow=True) as source:
        assert events_in(read_all(source)) == [(1, 2, None, None), (3, 4, None, None)]


def test_a_file_that_was_emptied_is_a_gap_though_a_later_one_is_there(tmp_path):
    pytest.importorskip("pyarrow")
    write(tmp_path / "1.parquet").rename(tmp_path / "1.log")
    with fi.stream.open(tmp_path, follow=True) as source:
        position = source.read(5, timeout=0.0).position
    (tmp_path / "1.log").write_bytes(b"")
    (tmp_path / "2.log").write_text(json_event(3, 4) + "\n")
    with fi.stream.open(tmp_path, follow=True) as source, pytest.raises(fi.stream.GapError, match="is empty, and was"):
        source.seek(position)
