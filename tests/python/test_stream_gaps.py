"""Files that were cut short, replaced, moved or removed: told of, and gone on with where that is asked for."""

from __future__ import annotations

import logging
import os

import pytest

import fastinc as fi
from _event_files import EVENTS, append, json_event, write
from _streams import DEADLINE, events_in, read_all, run, through_json

KINDS = ("csv", "jsonl")
OTHERS = [(100 + n, f"other {n}", float(n % 3), 5000.0 + n) for n in range(40)]


def gaps_in(caplog):
    """Return the gaps that were logged."""
    found = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert all(record.name == "fastinc.stream" for record in found)
    return [record.getMessage() for record in found]


def read_on(source):
    """Read what comes after a gap: a read that finds one may have to wait a moment."""
    return [source.read(1000, timeout=DEADLINE), *read_all(source)]


def cut_short(file):
    write(file, OTHERS[:5])


def replaced(file):
    write(file, OTHERS + OTHERS)


def recreated(file):
    file.unlink()
    write(file, OTHERS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [cut_short, replaced, recreated])
@pytest.mark.parametrize("source_of", ["file", "folder", "pattern"])
def test_a_followed_file_that_is_another_is_read_from_its_beginning(tmp_path, caplog, kind, change, source_of):
    file = write(tmp_path / f"events.{kind}")
    path = {"file": file, "folder": tmp_path, "pattern": str(tmp_path / "ev*")}[source_of]
    with fi.stream.open(path, follow=True, on_gap="skip") as source:
        assert events_in(read_all(source)) == EVENTS
        change(file)
        expected = {cut_short: OTHERS[:5], replaced: OTHERS * 2, recreated: OTHERS}[change]
        batches = read_on(source)
        assert events_in(batches) == expected
        append(file, file.read_bytes().splitlines(keepends=True)[-1])
        assert events_in(read_all(source)) == expected[-1:]  # and it is followed
        assert source.lost == 0
    (gap,) = gaps_in(caplog)
    assert "events" in gap
    assert "how much is lost isn't known" in gap
    with fi.stream.open(path) as source:
        source.seek(through_json(batches[-1].position))
        assert events_in(read_all(source)) == expected[-1:]


def test_a_file_that_is_gone_is_waited_for(tmp_path, caplog):
    """Rotation: what was written before the move is read, though nobody looked in between."""
    file = write(tmp_path / "events.jsonl", EVENTS[:30])
    with fi.stream.open(file, follow=True, on_gap="skip") as source:
        assert events_in(read_all(source)) == EVENTS[:30]
        file.rename(tmp_path / "events.jsonl.1")
        for _ in range(3):
            assert source.read(100, timeout=0.0) is None
        file.touch()
        assert source.read(100, timeout=0.0) is None
        write(file, OTHERS)
        assert events_in(read_all(source)) == OTHERS
        assert not source.ended
    assert len(gaps_in(caplog)) == 1
    assert "events.jsonl was moved or removed" in gaps_in(caplog)[0]


def test_what_came_before_the_move_is_read(tmp_path, monkeypatch):
    file = write(tmp_path / "events.jsonl", EVENTS[:30])
    with fi.stream.open(file, follow=True, on_gap="skip") as source:
        assert events_in(read_all(source)) == EVENTS[:30]
        verify = source._reader.verify

        def write_and_move():
            verify()
            monkeypatch.undo()
            append(file, write(tmp_path / "more.jsonl", EVENTS[30:]).read_bytes())
            file.rename(tmp_path / "events.jsonl.1")
            write(file, OTHERS)

        monkeypatch.setattr(source._reader, "verify", write_and_move)
        assert events_in(read_all(source)) == EVENTS[30:]
        assert events_in(read_on(source)) == OTHERS


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "parquet"])
def test_a_position_in_a_file_that_is_another_begins_at_its_beginning(tmp_path, caplog, kind, follow):
    file = write(tmp_path / f"events.{kind}")
    with fi.stream.open(file) as source:
        position = read_all(source, (40,))[0].position
    write(file, OTHERS)
    with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match=r"\(on_gap='skip' goes on"):
        source.seek(position)
    with fi.stream.open(file, follow=follow, on_gap="skip") as source:
        source.seek(position)
        assert len(gaps_in(caplog)) == 1
        assert events_in(read_all(source)) == OTHERS
        assert source.ended != follow


def test_a_position_in_a_file_that_was_emptied_waits_for_it(tmp_path, caplog):
    write(tmp_path / "events.jsonl").rename(tmp_path / "events.log")
    with fi.stream.open(tmp_path / "events.log") as source:
        position = read_all(source)[0].position
    (tmp_path / "events.log").write_bytes(b"")
    with fi.stream.open(tmp_path / "events.log", follow=True, on_gap="skip") as source:
        source.seek(position)
        assert read_all(source) == []
        append(tmp_path / "events.log", (json_event(1, "a", label=1, timestamp=2) + "\n").encode())
        assert events_in(read_all(source)) == [(1, "a", 1.0, 2.0)]
    assert "is empty, and was not" in gaps_in(caplog)[0]


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("pattern", [False, True])
def test_the_next_name_comes_after_a_file_that_is_gone(tmp_path, caplog, follow, pattern):
    path = str(tmp_path / "*.jsonl") if pattern else tmp_path
    for n in range(3):
        write(tmp_path / f"{n}.jsonl", EVENTS[20 * n : 20 * n + 20])
    with fi.stream.open(path) as source:
        batches = read_all(source, (10,))
    (tmp_path / "0.jsonl").unlink()  # nobody misses what comes before the one that is being read
    with fi.stream.open(path, follow=follow) as source:
        source.seek(batches[2].position)
        assert events_in(read_all(source)) == EVENTS[30:]
    (tmp_path / "1.jsonl").unlink()
    with fi.stream.open(path, follow=follow) as source, pytest.raises(fi.stream.GapError, match="on_gap='skip'"):
        source.seek(batches[2].position)
    with fi.stream.open(path, follow=follow, on_gap="skip") as source:
        source.seek(batches[2].position)
        assert events_in(read_all(source)) == EVENTS[40:]
        assert source.ended != follow
        source.seek(batches[5].position)
        (tmp_path / "2.jsonl").unlink()
        assert read_all(source) == []
        if follow:
            assert source.read(1, timeout=0.0) is None
            write(tmp_path / "3.jsonl", OTHERS)
            assert events_in(read_all(source)) == OTHERS
    assert len(gaps_in(caplog)) == 1 + follow


def test_a_stream_whose_last_file_is_gone_ends(tmp_path):
    write(tmp_path / "1.jsonl")
    with fi.stream.open(tmp_path) as source:
        position = read_all(source)[0].position
    (tmp_path / "1.jsonl").rename(tmp_path / "0.jsonl")
    with fi.stream.open(tmp_path, on_gap="skip") as source:
        source.seek(position)
        assert read_all(source) == []
        assert source.ended


def test_a_last_line_that_has_grown_is_passed_by(tmp_path, caplog):
    file = tmp_path / "events.csv"
    file.write_text("user,item\n1,2")
    with fi.stream.open(file) as source:
        position = read_all(source)[0].position
    file.write_text("user,item\n1,23\n4,5\n")
    with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match=r"has grown since .*on_gap='skip'"):
        source.seek(position)
    with fi.stream.open(file, on_gap="skip") as source:
        source.seek(position)
        batches = read_all(source)
    assert events_in(batches) == [(4, 5, None, None)]
    assert batches[0].wheres == ["events.csv:3"]
    assert len(gaps_in(caplog)) == 1


def test_another_file_is_refused_with_the_names_of_both(tmp_path):
    """Going on with it would learn events twice, or none: that is no gap."""
    write(tmp_path / "e.jsonl")
    write(tmp_path / "x.jsonl", OTHERS)
    with fi.stream.open(tmp_path / "e.jsonl") as source:
        position = read_all(source)[0].position
    for path in (tmp_path / "x.jsonl", str(tmp_path / "x*")):
        for on_gap in ("raise", "skip"):
            message = r"the saved position is in e\.jsonl, and the source is .*/x"
            with fi.stream.open(path, on_gap=on_gap) as source, pytest.raises(ValueError, match=message):
                source.seek(position)
    with fi.stream.open(tmp_path) as source:
        source.seek(position)
        assert events_in(read_all(source)) == OTHERS
        with pytest.raises(ValueError, match=r"the saved position is in a/e\.jsonl"):
            source.seek({**position, "file": "a/e.jsonl"})


def test_files_that_came_late_are_told_of_at_a_restart(tmp_path, caplog):
    for name in ("b", "d"):
        write(tmp_path / f"{name}.jsonl", EVENTS[:20])
    with fi.stream.open(tmp_path) as source:
        batches = read_all(source, (15,))
    assert [batch.position["earlier"] for batch in batches] == [0, 0, 1, 1]
    for told in (False, True):
        with fi.stream.open(tmp_path) as source:
            source.seek(batches[2].position)
            assert ("2 files with names before d.jsonl came" in caplog.text) is told
            assert len(read_all(source)) == 1
        write(tmp_path / "a.jsonl")
        write(tmp_path / "c.jsonl")
    with fi.stream.open(tmp_path) as source:
        caplog.clear()
        source.seek({name: value for name, value in batches[2].position.items() if name != "earlier"})
        assert not caplog.records  # of before there was a count
        with pytest.raises(ValueError, match="position: earlier = -1"):
            source.seek({**batches[2].position, "earlier": -1})


def test_late_files_that_were_told_of_are_not_told_again(tmp_path, caplog):
    write(tmp_path / "b.jsonl", EVENTS[:20])
    with fi.stream.open(tmp_path, follow=True) as source:
        read_all(source)
        write(tmp_path / "a.jsonl")
        assert read_all(source) == []
        assert "a.jsonl came after b.jsonl was begun" in caplog.text
        append(tmp_path / "b.jsonl", (json_event(1, "a", label=1, timestamp=2) + "\n").encode())
        (batch,) = read_all(source)
    caplog.clear()
    with fi.stream.open(tmp_path) as source:
        source.seek(batch.position)
    assert not caplog.records


def test_a_trainer_goes_on_after_a_gap(tmp_path, caplog):
    file = write(tmp_path / "events.jsonl")
    with fi.stream.open(file) as source:
        run(tmp_path, source)
    write(file, OTHERS)
    with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match="on_gap='skip'"):
        run(tmp_path, source)
    for learned in (40, 0):
        with fi.stream.open(file, on_gap="skip") as source:
            model, done = run(tmp_path, source)
        assert (done.learned, model.n_events) == (learned, 100)
    assert len(gaps_in(caplog)) == 1


def test_what_is_read_of_two_files_at_once_is_lost(tmp_path, monkeypatch, caplog):
    """The file is written anew between the read and the look that finds that out."""
    file = write(tmp_path / "events.jsonl", EVENTS[:30])
    with fi.stream.open(file, on_gap="skip") as source:
        assert len(source.read(20, timeout=0.0)) == 20
        read = source._reader.read

        def read_and_replace(*arguments, **options):
            read(*arguments, **options)
            write(file, OTHERS)

        monkeypatch.setattr(source._reader, "read", read_and_replace)
        assert events_in(read_on(source)) == OTHERS
    assert len(gaps_in(caplog)) == 1


def test_kinds_of_ids_that_were_lost_with_a_gap_are_not_those_of_the_stream(tmp_path, monkeypatch):
    file = write(tmp_path / "events.jsonl", EVENTS[:5])
    others = [(f"user {n}", 10 + n, 1.0, 2.0) for n in range(5)]
    with fi.stream.open(file, follow=True, on_gap="skip") as source:
        open_file = source._open_file

        def open_and_replace(*arguments):
            open_file(*arguments)
            monkeypatch.undo()
            read = source._reader.read

            def read_and_replace(*arguments, **options):
                read(*arguments, **options)
                write(file, others[:1])

            source._reader.read = read_and_replace
            return True

        monkeypatch.setattr(source, "_open_file", open_and_replace)
        (batch,) = read_on(source)[:1]
        assert events_in([batch]) == others[:1]
        assert not batch.rejected


@pytest.mark.parametrize("on_gap", ["raise", "skip"])
def test_a_parquet_file_that_is_written_over_while_it_is_read_is_a_gap(tmp_path, caplog, on_gap):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file, other = tmp_path / "a.parquet", tmp_path / ".b.parquet"
    for begin, path in ((0, file), (10**6, other)):
        table = pa.table({"user": list(range(begin, begin + 60_000)), "item": [1] * 60_000})
        pq.write_table(table, path, row_group_size=10_000, compression=None, use_dictionary=False)
    assert file.stat().st_size == other.stat().st_size
    with fi.stream.open(tmp_path, on_gap=on_gap) as source:
        assert source.read(1000, timeout=0.0).users.tolist() == list(range(1000))
        with file.open("r+b") as out:
            out.write(other.read_bytes())
        os.utime(file, ns=(1, 1))  # another time than it had, however coarse the clock is
        if on_gap == "raise":
            with pytest.raises(fi.stream.GapError, match=r"a\.parquet was written to while it was read: it was repl"):
                source.read(1000, timeout=0.0)
        else:
            users = [user for batch in read_on(source) for user in batch.users.tolist()]
            assert users == list(range(10**6, 10**6 + 60_000))
            assert len(gaps_in(caplog)) == 1


@pytest.mark.parametrize("on_gap", ["raise", "skip"])
def test_halves_of_two_lines_are_not_one(tmp_path, on_gap):
    """What was taken is there as it was, and half a line that was read is another's."""
    file = tmp_path / "events.csv"
    file.write_text("user,item\n1,2\n3")
    with fi.stream.open(file, follow=True, on_gap=on_gap) as source:
        assert [row[:2] for row in events_in(read_all(source))] == [(1, 2)]
        file.write_text("user,item\n1,2\n7,8\n9,9\n")
        if on_gap == "raise":
            for _ in range(2):
                with pytest.raises(fi.stream.GapError, match=r"doesn't have what was read of its line 3: it was repl"):
                    source.read(10, timeout=0.0)
        else:
            assert [row[:2] for row in events_in(read_on(source))] == [(1, 2), (7, 8), (9, 9)]


def test_wrong_arguments(tmp_path):
    file = write(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="on_gap = 'jump' must be 'raise' or 'skip'"):
        fi.stream.open(file, on_gap="jump")
    assert os.listdir(tmp_path) == ["events.jsonl"]
    with fi.stream.open("redis://localhost?stream=s&on_gap=skip", on_gap="skip") as source:  # both say the same
        assert source._skip_gaps
    with pytest.raises(ValueError, match="on_gap = 'skip' in the URL is given twice, beside it as 'raise'"):
        fi.stream.open("redis://localhost?stream=s&on_gap=skip", on_gap="raise")
    with pytest.raises(ValueError, match="password is given twice in the URL"):
        fi.stream.open("redis://localhost?stream=s&password=a&password=a")
