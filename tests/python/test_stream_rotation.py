"""Files that are renamed or copied while they are read: no event comes twice, and what isn't read is told of."""

from __future__ import annotations

import os
import shutil
import time

import pytest

import fastinc as fi
from _event_files import EVENTS, append, json_event, write
from _streams import DEADLINE, events_in, read_all, run, through_json
from fastinc.stream import _parquet, _read_before

LINES = [json_event(n % 7, n) + "\n" for n in range(2000)]


def put(file, begin, end):
    append(file, "".join(LINES[begin:end]).encode())


def items_in(batches):
    return [row[1] for row in events_in(batches)]


def rename(file):
    for n in (3, 2, 1):
        if file.with_name(f"{file.name}.{n}").exists():
            file.with_name(f"{file.name}.{n}").rename(file.with_name(f"{file.name}.{n + 1}"))
    file.rename(file.with_name(f"{file.name}.1"))


def copy_and_truncate(file):
    rename(file)
    shutil.copy(file.with_name(f"{file.name}.1"), file.with_name("copy"))
    file.with_name(f"{file.name}.1").rename(file)  # the same inode as before
    file.with_name("copy").rename(file.with_name(f"{file.name}.1"))
    os.truncate(file, 0)


ROTATIONS = pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
SOURCES = pytest.mark.parametrize("of", ["folder", "pattern"])


def url_of(file, of):
    return file.parent if of == "folder" else f"{file}*"


@ROTATIONS
@SOURCES
@pytest.mark.parametrize("again", [1, 1000])
def test_a_rotated_file_is_a_gap_and_is_not_read_again(tmp_path, rotate, of, again):
    """Whether what has its name now is shorter than it was, or longer."""
    file = tmp_path / "clicks.jsonl"
    put(file, 0, 100)
    with fi.stream.open(url_of(file, of), follow=True, format="json") as source:
        batches = read_all(source)
        assert items_in(batches) == list(range(100))
        rotate(file)
        put(file, 2000 - again, 2000)
        message = "renamed to .*clicks.jsonl.1: a file that is rotated" if rotate is rename else "truncated|replaced"
        for _ in range(2):
            with pytest.raises(fi.stream.GapError, match=message):
                source.read(100, timeout=0.0)
    with fi.stream.open(url_of(file, of), follow=True, format="json") as source, pytest.raises(fi.stream.GapError):
        source.seek(through_json(batches[-1].position))


@ROTATIONS
@SOURCES
@pytest.mark.parametrize("restart", [False, True])
def test_with_gaps_skipped_each_event_comes_once_however_often_it_is_rotated(tmp_path, rotate, of, restart, caplog):
    file = tmp_path / "clicks.jsonl"
    options = {"follow": True, "format": "json", "on_gap": "skip"}
    put(file, 0, 50)
    source = fi.stream.open(url_of(file, of), **options)
    found = []
    for turn in range(1, 5):
        batches = [source.read(1000, timeout=DEADLINE), *read_all(source)]
        found += items_in(batches)
        position = through_json(batches[-1].position)
        rotate(file)
        put(file, 100 * turn, 100 * turn + 10 * turn)
        if restart:
            source.close()
            source = fi.stream.open(url_of(file, of), **options)
            source.seek(position)
    batches = [source.read(1000, timeout=DEADLINE), *read_all(source)]
    assert found + items_in(batches) == [*range(50), *(100 * t + n for t in range(1, 5) for n in range(10 * t))]
    assert "clicks.jsonl.1 has what was read before" in caplog.text
    assert len(batches[-1].position["passed"]) == 4
    for n in (2, 3, 4):
        file.with_name(f"clicks.jsonl.{n}").unlink()
    rotate(file)
    put(file, 900, 950)
    batches = [source.read(1000, timeout=DEADLINE), *read_all(source)]
    assert items_in(batches) == list(range(900, 950))
    assert len(batches[-1].position["passed"]) == 2  # what is gone needs no knowing
    put(file.with_name("clicks.jsonl.z"), 950, 960)
    assert items_in(read_all(source)) == list(range(950, 960))
    source.close()


@pytest.mark.parametrize("size", [0, 1, 700, 2389, 2390])
def test_a_copy_that_is_being_made_is_not_the_next_file(tmp_path, size):
    file = tmp_path / "clicks.jsonl"
    put(file, 0, 100)
    whole = file.read_bytes()
    assert len(whole) == 2390
    with fi.stream.open(tmp_path, follow=True) as source:
        assert items_in(read_all(source)) == list(range(100))
        (tmp_path / "clicks.jsonl.1").write_bytes(whole[:size])
        assert read_all(source) == []
        put(file, 100, 105)
        assert items_in(read_all(source)) == list(range(100, 105))
        (tmp_path / "clicks.jsonl.1").write_bytes(file.read_bytes())
        assert read_all(source) == []
        os.truncate(file, 0)
        with pytest.raises(fi.stream.GapError, match="truncated"):
            source.read(100, timeout=0.0)


def test_files_that_begin_alike_are_read(tmp_path, caplog):
    """With a header alone, or the same first events: a copy of what is still there is never longer."""
    texts = ["user,item\n", "user,item\n1,2\n", "user,item\n1,2\n3,4\n", "user,item\n1,2\n3,4\n"]
    with fi.stream.open(tmp_path, follow=True) as source:
        for n, text in enumerate(texts):
            (tmp_path / f"{n}.csv").write_text(text)
            found = [row[:2] for row in events_in(read_all(source))]
            assert found == [[], [(1, 2)], [(1, 2), (3, 4)], []][n]
        append(tmp_path / "3.csv", b"5,6\n")
        assert [row[:2] for row in events_in(read_all(source))] == [(1, 2), (3, 4), (5, 6)]  # it was none
    shutil.copy(tmp_path / "3.csv", tmp_path / "4.csv")
    with fi.stream.open(tmp_path) as source:  # nothing is copied while nothing grows
        assert len(events_in(read_all(source))) == 1 + 2 + 3 + 3
    assert "has what was read before" not in caplog.text


def test_files_that_are_alike_are_all_read_in_the_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_read_before, "PATIENCE", 0.1)
    for n in range(6):
        (tmp_path / f"{n}.csv").write_text("user,item\n1,2\n")
    with fi.stream.open(tmp_path, follow=True) as source:
        found = []
        until = time.monotonic() + DEADLINE
        while len(found) < 6 and time.monotonic() < until:
            found += events_in(read_all(source))
        assert [row[:2] for row in found] == [(1, 2)] * 6
    assert "has what was read before" not in caplog.text


def test_a_file_that_turns_out_to_be_another_is_read(tmp_path):
    """What the open file had when it was compared says nothing: half a line was there."""
    (tmp_path / "a.csv").write_text("user,item\n1,2\n3,")
    (tmp_path / "b.csv").write_text("user,item\n1,2\n9,9")
    with fi.stream.open(tmp_path, follow=True) as source:
        found = events_in(read_all(source))
        append(tmp_path / "a.csv", b"4\n")
        append(tmp_path / "b.csv", b"\n")
        found += events_in(read_all(source))
        rows = [row[:2] for row in found]
        assert (9, 9) in rows
        assert rows[0] == (1, 2)


def test_a_file_without_rows_has_no_copies(tmp_path):
    (tmp_path / "0.jsonl").write_text("\n" * 100)
    with fi.stream.open(tmp_path, follow=True) as source:
        assert read_all(source) == []
        put(tmp_path / "1.jsonl", 0, 1)
        assert items_in(read_all(source)) == [0]


@pytest.mark.parametrize("follow", [False, True])
def test_another_name_of_a_file_is_no_other_file(tmp_path, follow, caplog):
    file = write(tmp_path / "a.jsonl")
    os.link(file, tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to(file)
    with fi.stream.open(tmp_path, follow=follow) as source:
        assert events_in(read_all(source)) == EVENTS
        write(tmp_path / "d.jsonl", EVENTS[7:])
        assert source.ended != follow
    assert "b.jsonl has what was read before" in caplog.text


@pytest.mark.parametrize("change", [rename, copy_and_truncate])
def test_a_later_file_hides_no_gap(tmp_path, change):
    file = tmp_path / "clicks.jsonl"
    put(file, 0, 100)
    with fi.stream.open(tmp_path, follow=True, format="json") as source:
        read_all(source)
        change(file)
        put(file, 100, 110)
        put(tmp_path / "later.jsonl", 110, 120)
        with pytest.raises(fi.stream.GapError):
            source.read(1000, timeout=0.0)
    with fi.stream.open(tmp_path, follow=True, format="json", on_gap="skip") as source:
        assert items_in(read_all(source))[:10] == list(range(100, 110))


def test_a_file_that_was_read_and_removed_is_no_gap_where_a_later_one_is(tmp_path):
    put(tmp_path / "1.jsonl", 0, 10)
    with fi.stream.open(tmp_path, follow=True) as source:
        read_all(source)
        put(tmp_path / "1.jsonl", 10, 20)
        (tmp_path / "1.jsonl").rename(tmp_path / ".gone")
        put(tmp_path / "2.jsonl", 20, 30)
        assert items_in(read_all(source)) == list(range(10, 30))
        (tmp_path / "2.jsonl").unlink()
        with pytest.raises(fi.stream.GapError, match=r"2\.jsonl was moved or removed, which only files before"):
            source.read(1, timeout=0.0)


def test_what_was_written_anew_behind_the_same_beginning_is_noticed(tmp_path):
    file = tmp_path / "a.jsonl"
    put(file, 100, 200)
    with fi.stream.open(file) as source:
        position = read_all(source)[-1].position
    file.write_text("".join(LINES[100:160] + LINES[300:700]))
    with fi.stream.open(file) as source:
        with pytest.raises(fi.stream.GapError, match=r"doesn't have what was read last before byte .*replaced"):
            source.seek(position)
        source.seek({name: part for name, part in position.items() if name != "tail"})  # of before there were tails
    for change in ({"tail": 3}, {"passed": 3}, {"passed": [3]}, {"passed": [{"bytes": -1, "head": "", "tail": ""}]}):
        with fi.stream.open(file) as source, pytest.raises(ValueError, match=f"position: {next(iter(change))} = "):
            source.seek({**position, **change})


def test_a_position_that_is_refused_changes_nothing(tmp_path):
    for n in range(3):
        put(tmp_path / f"{n}.jsonl", 10 * n, 10 * n + 10)
    with fi.stream.open(tmp_path, on_gap="skip") as source:
        batch = source.read(5, timeout=0.0)
        with pytest.raises(ValueError, match=r"position = .* must have bytes, head and tail"):
            source.seek({**batch.position, "file": "1.jsonl.gone", "head": 3})
        assert items_in([batch, *read_all(source)]) == list(range(30))


def test_a_long_line_that_begins_with_blanks_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(" " * (3 << 20) + LINES[0] + LINES[1])
    with fi.stream.open(tmp_path / "a.jsonl") as source:
        batches = read_all(source)
    assert items_in(batches) == [1]
    assert [letter.where for batch in batches for letter in batch.rejected] == ["a.jsonl:1"]


def test_a_damaged_parquet_file_has_no_end_there(tmp_path):
    file = write(tmp_path / "a.parquet", [(n, n, None, None) for n in range(20_000)])
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = bytes(2000)
    file.write_bytes(data)
    with fi.stream.open(file) as source:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"a\.parquet: "):
                read_all(source)
            assert not source.ended


def test_a_parquet_file_whose_footer_is_damaged_is_named(tmp_path, monkeypatch):
    """Arrow tells of some damages with plain OSErrors."""
    file = write(tmp_path / "a.parquet")
    whole = file.read_bytes()
    said = []
    for place in range(len(whole) - 900, len(whole) - 8, 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x0E]) + whole[place + 1 :])
        with fi.stream.open(file) as source:
            try:
                read_all(source)
            except ValueError as error:  # some damages are found by nobody
                said.append(str(error))
    assert len(said) > 10
    assert all("a.parquet: " in text for text in said)
    open_regular = _parquet.open_regular
    monkeypatch.setattr(_parquet, "open_regular", lambda path: open_regular(path.with_name("gone")))
    with fi.stream.open(file) as source, pytest.raises(FileNotFoundError, match="gone"):
        read_all(source)


def test_parquet_files_that_were_renamed_are_not_read_again(tmp_path):
    file = write(tmp_path / "a.parquet")
    with fi.stream.open(tmp_path, follow=True) as source:
        batches = read_all(source, (40,))
        file.rename(tmp_path / "b.parquet")
        assert read_all(source) == []
        write(file, EVENTS[9:])
        with pytest.raises(fi.stream.GapError, match=r"a\.parquet was renamed to b\.parquet"):
            source.read(1, timeout=0.0)
    file.unlink()
    write(tmp_path / "c.parquet", EVENTS[:5])
    with fi.stream.open(tmp_path, on_gap="skip") as source:
        source.seek(through_json(batches[-1].position))
        assert events_in(read_all(source)) == EVENTS[:5]


def test_a_trainer_learns_each_event_once_though_the_file_is_rotated_while_it_is_down(tmp_path):
    file = tmp_path / "events" / "clicks.log"
    file.parent.mkdir()
    for turn in range(4):
        if turn:
            (rename, copy_and_truncate)[turn % 2](file)
        put(file, 100 * turn, 100 * turn + 40)
        with fi.stream.open(f"{file}*", follow=True, on_gap="skip") as source:
            end = []
            model, done = run(
                tmp_path, source, max_events=40, stop=lambda end=end: end.append(1) or len(end) > 200, linger=0.0
            )
        assert (model.n_events, done.learned) == (40 * turn + 40, 40)
