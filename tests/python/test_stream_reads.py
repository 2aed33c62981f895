"""What a source of files opens, how long a read takes, and rows whose quotes go wrong."""

from __future__ import annotations

import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _event_files import EVENTS, write
from _streams import DEADLINE, events_in, read_all, rejected_in
from fastinc.datasets._text import INTEGER
from fastinc.stream import _files, _lines
from fastinc.stream._files import FileSource


def test_a_relative_path_is_of_the_folder_it_was_given_in(tmp_path, monkeypatch):
    for folder, events in (("a", EVENTS[:20]), ("b", EVENTS[20:])):
        (tmp_path / folder / "in").mkdir(parents=True)
        write(tmp_path / folder / "in" / "e.jsonl", events)
    for path, name in (("in/e.jsonl", "e.jsonl"), ("in", "e.jsonl"), ("in/*", "in/e.jsonl")):
        monkeypatch.chdir(tmp_path / "a")
        with fi.stream.open(path, follow=True) as source:
            monkeypatch.chdir(tmp_path / "b")
            batches = read_all(source)
            assert events_in(batches) == EVENTS[:20]
            assert (source.name, batches[0].position["file"]) == (path, name)
            assert source.reads(tmp_path / "a" / "in" / "e.jsonl")
            assert not source.reads(tmp_path / "b" / "in" / "e.jsonl")


@pytest.mark.parametrize("kind", ["pipe", "device", "open pipe"])
def test_what_is_no_regular_file_is_refused(tmp_path, kind):
    descriptors = os.pipe()
    path = {"pipe": tmp_path / "pipe", "device": "/dev/null", "open pipe": f"/dev/fd/{descriptors[0]}"}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    try:
        for follow in (False, True):
            with pytest.raises(ValueError, match=rf"path = '{path}' is not a regular file: a pipe or device has no"):
                fi.stream.open(path, follow=follow)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "log"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, kind, monkeypatch):
    """It came between the look at the folder and the opening; a folder's pipes are none of the stream otherwise."""
    file = tmp_path / f"e.{kind}"
    write(tmp_path / "z.jsonl").rename(file) if kind == "log" else write(file)
    os.mkfifo(tmp_path / f"a.{kind}")
    with fi.stream.open(tmp_path) as source:
        (batch,) = read_all(source)
        assert events_in([batch]) == EVENTS
        files = source._files()
        monkeypatch.setattr(FileSource, "_files", lambda source, fresh=True: files)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ValueError, match=rf"e\.{kind} is not a regular file"):
            source.seek(batch.position)


def test_a_parquet_file_is_opened_once(tmp_path, monkeypatch):
    """What is renamed over it meanwhile isn't what its position tells of."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file = write(tmp_path / "e.parquet")
    other = write(tmp_path / "other.parquet", EVENTS[1:])
    reader = parquet.ParquetFile

    def replace_before(*args, **options):
        monkeypatch.undo()
        os.replace(other, file)
        return reader(*args, **options)

    monkeypatch.setattr(parquet, "ParquetFile", replace_before)
    with fi.stream.open(file) as source:
        batch = source.read(5, timeout=0.0)
        assert events_in([batch, *read_all(source)]) == EVENTS
    with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match="replaced"):
        source.seek(batch.position)


def test_parquet_files_are_closed(tmp_path):
    """Also those that are refused."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "good.parquet")
    (tmp_path / "half.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-9])
    parquet.write_table(pa.table({"number": [1]}), tmp_path / "other.parquet")

    def read_each():
        for name, message in (("good", ""), ("half", "must be whole"), ("other", "is named as users are")):
            with fi.stream.open(tmp_path / f"{name}.parquet") as source:
                if not message:
                    assert events_in(read_all(source, (7,))) == EVENTS
                    continue
                with pytest.raises(ValueError, match=message):
                    source.read(5, timeout=0.0)

    read_each()  # what pyarrow opens for itself
    before = len(os.listdir("/dev/fd"))
    read_each()
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("user,item\n1,2\n" + "\n" * 3000 + "3,4\n", 3000 * 512 >> 17),
        ("\n" * 3000 + "user,item\n1,2\n3,4\n", 3000 * 512 >> 17),
        ("user,item\n1,2\n" + "," * 3_000_000 + "\n3,4\n", 3_000_000 >> 17),
    ],
    ids=["empty lines", "empty lines before the header", "a long line"],
)
def test_a_read_without_time_comes_back_where_there_are_no_rows(tmp_path, monkeypatch, text, steps):
    """And the next one goes on from there; with time it does so by itself."""
    monkeypatch.setattr(_lines, "_STEP", 1 << 17)
    monkeypatch.setattr(_files.time, "sleep", lambda seconds: pytest.fail("there is something to read"))
    file = tmp_path / "events.csv"
    file.write_text(text)
    for timeout, least, most in ((0.0, steps, 4 * steps), (DEADLINE, 1, 4)):
        found, reads = [], 0
        with fi.stream.open(file, follow=True) as source:
            while not found or found[-1] != (3, 4, None, None):
                batch = source.read(1000, timeout=timeout)
                found += [] if batch is None else events_in([batch])
                reads += 1
                assert reads <= most
        assert found == [(1, 2, None, None), (3, 4, None, None)]
        assert reads >= least


def test_an_open_quote_before_a_very_long_line_takes_no_longer_than_others(tmp_path):
    """What may belong to the row are 64 KiB, whether or not a newline is there at last."""
    file = tmp_path / "e.csv"
    file.write_text('user,item\n1,2\n3,"abc\n')
    os.truncate(file, 1 << 28)
    with fi.stream.open(file, follow=True) as source:
        (batch,) = [source.read(10, timeout=0.0)]
        assert (batch.users.tolist(), [letter.raw for letter in batch.rejected]) == ([1], ['3,"abc'])
        assert source._reader._lines._file.tell() <= _lines._STEP + (1 << 18)


def test_an_open_quote_is_given_up_wherever_the_file_ends_so_far(tmp_path):
    """Bytes are counted, not letters: what is rejected doesn't depend on how much was there at a read."""
    line = "\u00e4" * (_lines._MOST_RECORD // 2 - 100)
    for size in (0, 70, 120):
        found = []
        for cut in (0, 3000):
            file = tmp_path / f"{size}-{cut}.csv"
            text = f'user,item\n1,2\n3,"abc\n{line}{"x" * 2 * size}"\n5,6\n'.encode()
            file.write_bytes(text[: len(text) - cut])
            with fi.stream.open(file, follow=True) as source:
                batches = read_all(source)
                with file.open("ab") as out:
                    out.write(text[len(text) - cut :] if cut else b"")
                batches += read_all(source)
            found.append([letter.reason for letter in rejected_in(batches)])
        assert found[0] == found[1]
        assert ("not CSV: a quote is opened and not closed" in found[0]) == (size > 100)


def test_rows_with_open_quotes_are_looked_at_once(tmp_path, monkeypatch):
    """Inches: every line opens a quote anew, and what comes up to 64 KiB after it may be its row's."""
    file = tmp_path / "inches.csv"
    file.write_text("user,item,a,b\n" + '1,27","5","9\n' * 6000)
    calls = []
    reader = csv.reader
    monkeypatch.setattr(_lines.csv, "reader", lambda *args, **options: calls.append(1) or reader(*args, **options))
    with fi.stream.open(file) as source:
        batch = source.read(5, timeout=0.0)
    assert [letter.reason for letter in batch.rejected] == ["not CSV: a quote is opened and not closed"] * 5
    assert [letter.where for letter in batch.rejected] == [f"inches.csv:{n}" for n in range(2, 7)]
    assert len(calls) <= 6  # a row each, and the header


def parse(lines):
    """Return the fields of a row, and how many lines it has: one where it is malformed, unless it says so itself."""
    for n in range(1, len(lines) + 1):
        try:
            return next(csv.reader(["\n".join(lines[:n])], strict=True)), n
        except csv.Error as error:  # noqa: PERF203
            if "unexpected end" not in str(error):
                return [], n
    return [], 1


@given(texts=st.lists(st.sampled_from(['"', '""', '"x', 'x"', ",", '","', "1,2", "1,2,", "\n", "\r", "é", "x" * 9])))
def test_quoted_rows_are_those_of_the_csv_module(tmp_path_factory, texts):
    """As a parser of the whole row has them, to which lines are added as long as a quote is open."""
    file = tmp_path_factory.mktemp("quotes") / "events.csv"
    body = "".join(texts)
    file.write_bytes(f"user,item,text\n1,2,3\n{body}\n4,5,6\n".encode())
    with fi.stream.open(file) as source:
        batches = read_all(source)
    expected = [(1, 2)]
    left = [line.removesuffix("\r") for line in f"{body}\n4,5,6".split("\n")]
    while left:
        fields, n = parse(left) if '"' in left[0] else (left[0].split(","), 1)
        if len(fields) == 3 and all(INTEGER.fullmatch(field) for field in fields[:2]):
            expected.append((int(fields[0]), int(fields[1])))
        left = left[n:]
    assert [row[:2] for row in events_in(batches)] == expected
