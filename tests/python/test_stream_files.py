"""Files as streams: all events once, from any position, growing, malformed, truncated, replaced."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastinc as fi
from _event_files import EVENTS, append, json_event, lines_of, write
from _streams import events_in, read_all, rejected_in, rows, through_json
from fastinc.stream._files import FileSource
from fastinc.stream._lines import MOST_BYTES
from fastinc.stream._listing import Listing

KINDS = ("csv", "tsv", "dat", "jsonl", "parquet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {kind: write(folder / f"events.{kind}") for kind in KINDS}


# --- all events once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), cut=st.integers(0, 70))
def test_every_event_comes_once_from_any_position(files, kind, sizes, cut):
    with fi.stream.open(files[kind]) as source:
        batches = read_all(source, sizes)
        assert source.ended
        assert source.read(1, timeout=0.0) is None
    assert events_in(batches) == EVENTS
    head = batches[: min(cut, len(batches))]
    with fi.stream.open(files[kind]) as source:
        if head:
            source.seek(through_json(head[-1].position))
        assert events_in(head) + events_in(read_all(source, sizes[::-1])) == EVENTS


def test_columns_have_types(files):
    with fi.stream.open(files["csv"]) as source:
        batch = source.read(10, timeout=0.0)
    assert [column.dtype for column in (batch.users, batch.labels, batch.timestamps)] == [
        np.int64,
        np.float32,
        np.float64,
    ]
    assert batch.items.dtype == object
    assert batch.wheres[:2] == ["events.csv:2", "events.csv:3"]


def test_seeking_back_and_forth(files):
    with fi.stream.open(files["jsonl"]) as source:
        first, second = source.read(10, timeout=0.0), source.read(10, timeout=0.0)
        read_all(source)
        source.seek(first.position)
        assert not source.ended
        assert rows(source.read(10, timeout=0.0)) == rows(second)


def test_a_folder_and_a_pattern_are_read_in_the_order_of_names(tmp_path):
    write(tmp_path / "b.csv", EVENTS[20:40])
    write(tmp_path / "a.jsonl", EVENTS[:20])
    write(tmp_path / "c.parquet", EVENTS[40:])
    for hidden in (".d.csv", "_d.csv", "d.csv.tmp"):
        (tmp_path / hidden).write_text("nonsense")
    for path in (tmp_path, str(tmp_path / "[abc].*")):
        with fi.stream.open(path) as source:
            batches = read_all(source, (7,))
        assert events_in(batches) == EVENTS
        for cut, batch in enumerate(batches):
            with fi.stream.open(path) as source:
                source.seek(batch.position)
                assert events_in(batches[: cut + 1]) + events_in(read_all(source)) == EVENTS


@pytest.mark.parametrize("follow", [False, True])
def test_a_folder_is_looked_at_where_files_end(tmp_path, monkeypatch, follow):
    for n in range(3):
        write(tmp_path / f"{n}.jsonl", EVENTS[20 * n : 20 * n + 20])
    looks = []
    names = Listing.names
    monkeypatch.setattr(Listing, "names", lambda *arguments, **options: looks.append(1) or names(*arguments, **options))
    with fi.stream.open(tmp_path, follow=follow) as source:
        assert events_in(read_all(source, (1,))) == EVENTS
        assert len(looks) <= 8
        assert source.ended != follow


def test_a_file_that_comes_late_is_told_of_after_a_restart_too(tmp_path, caplog):
    write(tmp_path / "b.jsonl", EVENTS[:20])
    with fi.stream.open(tmp_path) as source:
        batch = source.read(10, timeout=0.0)
    with fi.stream.open(tmp_path) as source:
        source.seek(batch.position)
        write(tmp_path / "a.jsonl", EVENTS[20:])
        assert events_in(read_all(source)) == EVENTS[10:20]
    assert "a.jsonl came after b.jsonl was begun and is not read" in caplog.text


# --- what is malformed --------------------------------------------------------------------------------------

BAD_JSON = [
    (b"nonsense", "not JSON"),
    (b"[1, 2]", "not a JSON object"),
    (b'{"user": 1}', "none of the columns"),
    (b'{"price": 1}', "no field is named as users are"),
    (b'{"user": 1, "item": null}', "none of the columns"),
    (b'{"user": "x", "item": "a"}', "user id 'x' is not an integer: the users of this stream are"),
    (b'{"user": 1, "item": 2}', "item id '2' is not a string"),
    (b'{"user": true, "item": "a"}', "user id 'True' is not an integer"),
    (b'{"user": 1.0, "item": "a"}', "user id '1.0' is not an integer"),
    (b'{"user": 9223372036854775808, "item": "a"}', "doesn't fit int64"),
    (b'{"user": 1, "item": ""}', "item id is empty"),
    (b'{"user": 1, "item": "%s"}' % (b"x" * 513), "item id has 513 characters"),
    (b'{"user": 1, "item": "\\ud800"}', "is not UTF-8"),
    (b'{"user": 1, "item": "a\\u0000"}', "has a NUL"),
    (b'{"user": 1, "item": "a\xff"}', "is not UTF-8 at byte"),
    (b'{"user": 1, "item": "a", "timestamp": NaN}', "not finite"),
    (b'{"user": 1, "item": "a", "timestamp": 1e999}', "not finite"),
    (b'{"user": 1, "item": "a", "timestamp": "7"}', "timestamp '7' is not a number"),
    (b'{"user": 1, "item": "a", "label": 1e39}', "label 1e+39 is out of range"),
    (b'{"user": 1, "item": "a", "label": true}', "label 'True' is not a number"),
    (b'{"user": 1, "user": 2, "item": "a"}', "a name comes twice"),
    (b'{"user": 1, "item": "a", "n": ' + b"9" * 5000 + b"}", "not JSON"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"user": 1, "item": "a"', "not JSON"),
    (b'\xef\xbb\xbf{"user": 1, "item": "a"}', "unexpected UTF-8 BOM"),
    (b'{"user": 1, "uid": 2, "item": "a"}', "could both be"),
    (b"x" * (MOST_BYTES + 70_000), f"has {MOST_BYTES + 70_000} bytes, more than {MOST_BYTES}"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_JSON)
def test_a_malformed_json_line_is_rejected_alone(tmp_path, line, reason):
    good = b'{"user": 1, "item": "a", "label": 1, "timestamp": 5}'
    if b"label" not in line and b"timestamp" not in line:
        good = b'{"user": 1, "item": "a"}'
    elif b"label" not in line:
        good = b'{"user": 1, "item": "a", "timestamp": 5}'
    elif b"timestamp" not in line:
        good = b'{"user": 1, "item": "a", "label": 1}'
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join([good, line, good]) + b"\n")
    with fi.stream.open(file) as source:
        batches = read_all(source)
    assert [row[:2] for row in events_in(batches)] == [(1, "a")] * 2
    (letter,) = rejected_in(batches)
    assert reason in letter.reason
    assert letter.where == "events.jsonl:2"
    assert letter.raw.encode("utf-8", "surrogateescape") == line[:MOST_BYTES]
    assert batches[-1].position["line"] == 3


BAD_CSV = [
    (b"1,a,1", "expected 4 fields (user, item, label, timestamp), got 3"),
    (b"1,a,1,5,6", "got 5"),
    (b",a,1,5", "user id '' is not an integer"),
    (b"01,a,1,5", "user id '01' is not an integer: the users of this stream are"),
    (b"x,a,1,5", "user id 'x' is not an integer"),
    (b"9223372036854775808,a,1,5", "is not an integer"),
    (b"1,a ,1,5", "begins or ends with white space"),
    (b"1,a\0,1,5", "has a NUL"),
    (b"1,a,,5", "label '' is not a number"),
    (b"1,a,nan,5", "label 'nan' is not finite"),
    (b"1,a,1_0,5", "label '1_0' is not a number"),
    (b"1,a,1e39,5", "out of range"),
    (b"1,a,1,1e999", "timestamp '1e999' is out of range"),
    (b"1,\xff,1,5", "is not UTF-8 at byte 2"),
    (b'1,"a"b,1,5', "not CSV"),
    (b'1,"a,1,5', "a quote is opened and not closed"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_malformed_row_is_rejected_alone(tmp_path, line, reason, newline):
    good = b"1,a,1,5"
    file = tmp_path / "events.csv"
    file.write_bytes(b"\xef\xbb\xbf" + newline.join([b"user,item,label,timestamp", good, line, b"", good]) + newline)
    with fi.stream.open(file) as source:
        batches = read_all(source)
    assert events_in(batches) == [(1, "a", 1.0, 5.0)] * 2
    (letter,) = rejected_in(batches)
    assert reason in letter.reason
    assert letter.where == "events.csv:3"
    assert letter.raw.encode("utf-8", "surrogateescape").rstrip(b"\r") == line


@pytest.mark.parametrize("empty", ["\n", "\r\n", " \n\n", "\ufeff\n", "\n" * 2000])
@pytest.mark.parametrize("header", ["user,item,label,timestamp\n", ""])
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("name", ["events.csv", "events.log"])
def test_empty_lines_before_the_first_are_no_events(tmp_path, empty, header, follow, name):
    file = tmp_path / name
    file.write_text(empty + header + "1,2,3,4\n\nx,5\n6,7,8,9\n", encoding="utf-8", newline="")
    first = empty.count("\n") + bool(header) + 1
    with fi.stream.open(file, follow=follow) as source:
        batches = read_all(source, (1,))
        assert events_in(batches) == [(1, 2, 3.0, 4.0), (6, 7, 8.0, 9.0)]
        assert [letter.where for letter in rejected_in(batches)] == [f"{name}:{first + 2}"]
        assert [batch.position["line"] for batch in batches] == [first, first + 2, first + 3]
        for batch in batches[:2]:
            source.seek(through_json(batch.position))
            assert events_in(read_all(source)) == [(6, 7, 8.0, 9.0)]


def test_an_empty_first_line_of_json_is_no_event(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n\n" + json_event(1, 2).encode() + b"\n")
    with fi.stream.open(tmp_path / "a.jsonl") as source:
        batches = read_all(source)
    assert events_in(batches) == [(1, 2, None, None)]
    assert rejected_in(batches) == []


def test_a_file_of_empty_lines_has_no_events(tmp_path):
    (tmp_path / "a.csv").write_text("\n\n")
    with fi.stream.open(tmp_path / "a.csv") as source:
        assert read_all(source) == []
        assert source.ended
    with fi.stream.open(tmp_path / "a.csv", follow=True) as source:
        assert read_all(source) == []
        append(tmp_path / "a.csv", b"user,item\n1,2\n")
        assert events_in(read_all(source)) == [(1, 2, None, None)]


def test_a_faulty_header_is_told_of_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text("\n\nprice,colour\n")
    message = r"a\.csv:3: neither data nor a header"
    with pytest.raises(ValueError, match=message), fi.stream.open(tmp_path / "a.csv") as source:
        source.read(1, timeout=0.0)


def test_parquet_rows_are_rejected_alone(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    users = pa.array([1, None, 2**63, 3, 4, 5], pa.uint64())
    items = pa.array(["a", "b", "c", "", "e", "f"])
    times = pa.array([1.0, 2.0, 3.0, 4.0, float("nan"), 6.0])
    pq.write_table(pa.table({"user": users, "item": items, "time": times}), tmp_path / "events.parquet")
    with fi.stream.open(tmp_path / "events.parquet") as source:
        batches = read_all(source, (2,))
    assert events_in(batches) == [(1, "a", None, 1.0), (5, "f", None, 6.0)]
    assert [letter.where for letter in rejected_in(batches)] == [f"events.parquet:{n}" for n in (2, 3, 4, 5)]
    assert [letter.reason.split()[0] for letter in rejected_in(batches)] == ["user", "user", "item", "timestamp"]


def test_a_parquet_column_of_an_unusual_type_is_read_or_named(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "events.parquet"
    items = pa.array(["a", None, "c"], pa.string_view())
    for column in (items, items.cast(pa.string()).dictionary_encode(), items.cast(pa.large_string())):
        pq.write_table(pa.table({"user": [1, 2, 3], "item": column}), file)
        with fi.stream.open(file) as source:
            assert [row[:2] for row in events_in(read_all(source))] == [(1, "a"), (3, "c")]
        assert fi.datasets.load_events(file, errors="skip").items.tolist() == ["a", "c"]

    def has_no_kernel(*arguments):
        raise pa.ArrowNotImplementedError("no kernel")

    monkeypatch.setattr(pytest.importorskip("pyarrow.compute"), "fill_null", has_no_kernel)
    message = r"events\.parquet: column 'user' of type int64 can't be read .*no kernel"
    with fi.stream.open(file) as source, pytest.raises(ValueError, match=message):
        source.read(1, timeout=0.0)


def test_a_quoted_field_may_hold_separators_and_lines(tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text('user,item,text\n1,2,"so, so\nand ""more""\n"\n3,4,plain\n')
    with fi.stream.open(file) as source:
        batches = read_all(source, (1,))
    assert events_in(batches) == [(1, 2, None, None), (3, 4, None, None)]
    assert [batch.position["line"] for batch in batches] == [4, 5]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "price,colour\n", "names users and items"),
        ("a.csv", "user,price\n", "none of the columns"),
        ("a.csv", "1;2;3;4\n", "commas"),
        ("a.parquet", "user,item\n", "must be whole"),
    ],
)
def test_a_file_that_is_none_of_events_raises(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message), fi.stream.open(tmp_path / name) as source:
        source.read(1, timeout=0.0)


# --- one kind of events for good ----------------------------------------------------------------------------


def read_text(tmp_path, text, **options):
    file = tmp_path / "events.jsonl"
    file.write_text(text)
    with fi.stream.open(file, **options) as source:
        return read_all(source, (1,))


def test_the_first_good_event_decides_and_the_position_keeps_it(tmp_path):
    text = lines_of("oops", json_event("7", 1), json_event(7, 1), json_event("8", 1, label=1))
    batches = read_text(tmp_path, text)
    assert events_in(batches) == [("7", 1, None, None)]
    assert len(rejected_in(batches)) == 3
    assert batches[0].position["kinds"] == dict.fromkeys(("user", "item", "label", "timestamp"))
    assert batches[1].position["kinds"] == {"user": "str", "item": "int", "label": False, "timestamp": False}
    with fi.stream.open(tmp_path / "events.jsonl") as source:
        source.seek(through_json(batches[1].position))
        assert events_in(read_all(source)) == []
        source.seek(through_json(batches[0].position))
    with fi.stream.open(tmp_path / "events.jsonl", ids="int") as source:
        with pytest.raises(ValueError, match="ids = 'int', but the stream's users were 'str'"):
            source.seek(batches[1].position)
        assert len(read_all(source)[0].rejected) == 3  # a refused seek has changed nothing


def test_options_decide_before(tmp_path):
    text = lines_of(json_event("7", "1"), json_event(7, 1, label=2.0), json_event(7, 1, timestamp=3))
    assert events_in(read_text(tmp_path, text, ids="int")) == [(7, 1, 2.0, None)]
    assert events_in(read_text(tmp_path, text, ids="int", labels=False)) == [(7, 1, None, None)]
    assert events_in(read_text(tmp_path, text, ids="int", labels=False, timestamps=True)) == [(7, 1, None, 3.0)]
    assert events_in(read_text(tmp_path, text, ids="str")) == [("7", "1", None, None)]


def test_text_ids_are_integers_only_in_their_usual_spelling(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\n007,1\n7,01\n7,2\n")
    with fi.stream.open(tmp_path / "a.csv") as source:
        batches = read_all(source)
    assert events_in(batches) == [("007", 1, None, None), ("7", 2, None, None)]
    with fi.stream.open(tmp_path / "a.csv", ids="str") as source:
        assert [row[1] for row in events_in(read_all(source))] == ["1", "01", "2"]


def test_unusual_names(tmp_path):
    (tmp_path / "a.csv").write_text("member,sku,stars\n7,1,5\n")
    with fi.stream.open(tmp_path / "a.csv", columns={"user": "member", "item": "sku"}) as source:
        assert events_in(read_all(source)) == [(7, 1, 5.0, None)]
    with pytest.raises(ValueError, match="columns must map some of"):
        fi.stream.open(tmp_path / "a.csv", columns={"who": "member"})


# --- files that change --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_truncated_or_replaced_while_it_is_followed_raises(tmp_path, files, kind):
    data, file = files[kind].read_bytes(), tmp_path / f"events.{kind}"
    for change, message in (
        (lambda: os.truncate(file, 100), "truncated"),
        (lambda: file.write_bytes(data.replace(b"item 1", b"item 9") * 2), "replaced"),
        (lambda: (file.unlink(), file.write_bytes(data * 2)), "moved or removed"),
        (file.unlink, "moved or removed"),
    ):
        file.write_bytes(data)
        with fi.stream.open(file, follow=True) as source:
            batches = read_all(source)
            change()
            with pytest.raises(fi.stream.GapError, match=message):
                read_all(source)
        if file.exists() and message != "moved or removed":
            with fi.stream.open(file) as source, pytest.raises(fi.stream.GapError, match=message):
                source.seek(batches[-1].position)


def test_positions_notice_another_file(tmp_path, files):
    with fi.stream.open(files["parquet"]) as source:
        batch = source.read(5, timeout=0.0)
    write(tmp_path / "events.parquet", EVENTS[1:])
    with fi.stream.open(tmp_path / "events.parquet") as source, pytest.raises(fi.stream.GapError, match="replaced"):
        source.seek(batch.position)
    with fi.stream.open(tmp_path) as source, pytest.raises(fi.stream.GapError, match=r"gone\.csv.* is not there"):
        source.seek({**batch.position, "file": "gone.csv"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": -1}, "offset = -1"),
        ({"offset": True}, "offset = True"),
        ({"line": "3"}, "line = '3'"),
        ({"head": 3}, "head = 3"),
        ({"kinds": None}, "kinds = None"),
        ({"kinds": {"user": "float", "item": None, "label": None, "timestamp": None}}, "'float'"),
        ({"file": 3}, "is not one of files"),
    ],
)
def test_what_is_no_position_is_refused(files, change, message):
    with fi.stream.open(files["csv"]) as source:
        batch = source.read(5, timeout=0.0)
        with pytest.raises(ValueError, match=message):
            source.seek({**batch.position, **change})
        assert events_in([batch]) + events_in(read_all(source)) == EVENTS  # as if nothing had been


def test_wrong_arguments(tmp_path, files):
    for url, error, message in (
        ("ftp://host/file", ValueError, "ftp:// is no stream"),
        (tmp_path / "none.csv", FileNotFoundError, "there is no such file"),
        (tmp_path, FileNotFoundError, "there are no files"),
        ("redis://localhost/0", ValueError, "stream is needed"),
        ("kafka://localhost", ValueError, "kafka://broker"),
        ("kafka://localhost/t?grup=x", ValueError, "grup is no option"),
        ("redis://localhost/0?stream=s&labels=1", ValueError, "must be true or false"),
        ("redis://localhost/0?stream=s&protocol=3", ValueError, "protocol in the URL is not yours to set"),
        ("redis://localhost/0?stream=s&consumr=1", ValueError, "consumr is no option of a redis:// URL"),
        ("redis://localhost/0?stream=s&ssl_ca_certs=a", ValueError, "ssl_ca_certs is no option of a redis:// URL"),
        ("unix:///a?stream=s&socket_keepalive=yes", ValueError, "socket_keepalive is no option of a unix:// URL"),
        ("redis://localhost/x?stream=s", ValueError, "'x' must be the number of a database"),
        ("rediss://localhost/1/2?stream=s", ValueError, "'1/2' must be the number of a database"),
        ("redis://localhost/1?stream=s&db=2", ValueError, "db is given twice"),
        ("redis://:a@localhost?stream=s&password=b", ValueError, "'redis://localhost': password is given twice"),
        ("unix://host/a?stream=s", ValueError, "must be unix:///path"),
        ("unix://?stream=s", ValueError, "must be unix:///path"),
        ("redis://localhost?stream=s#2", ValueError, "what comes after # would be left out"),
        ("", ValueError, "path = '' is empty"),
        ("file://", ValueError, "'file://' must be file:///path"),
        (f"file://host{files['csv']}", ValueError, "must be file:///path"),
        (f"file://{files['csv']}?follow=true", ValueError, "must be file:///path"),
        (f"file://{files['csv']}#1", ValueError, "must be file:///path"),
    ):
        with pytest.raises(error, match=message):
            fi.stream.open(url)
    with pytest.raises(ValueError, match="given twice"):
        fi.stream.open("redis://localhost/0?stream=s", stream="t")
    with pytest.raises(ValueError, match="path = '' is empty"):
        FileSource("")
    for options, message in (({"ids": "float"}, "ids = 'float'"), ({"format": "xml"}, "format = 'xml'")):
        with pytest.raises(ValueError, match=message):
            fi.stream.open(files["csv"], **options)
    with pytest.raises(TypeError):
        fi.stream.open(files["csv"], batch=3)
    with fi.stream.open(f"file://{files['csv']}") as source:
        with pytest.raises(ValueError, match="max_events = 0"):
            source.read(0, timeout=0.0)
        with pytest.raises(ValueError, match="timeout = -1"):
            source.read(1, timeout=-1)
        assert len(source.read(1, timeout=0)) == 1
    for call in (lambda: source.read(1, timeout=0.0), lambda: source.seek({"file": "events.csv"})):
        with pytest.raises(ValueError, match="is closed"):
            call()


def test_a_large_file_is_not_held(tmp_path):
    """What a source holds is a chunk and a line, neither the bytes of a file nor 8 for each of its events."""
    short, long = 30_000, 600
    file = tmp_path / "events.csv"
    file.write_text("user,item,text\n" + "123456,654321,\n" * short + f"7,8,{'x' * 4000}\n" * long)
    limit = 8 * short - 20_000
    assert limit < file.stat().st_size / 10
    with fi.stream.open(file) as source:
        tracemalloc.start()
        try:
            assert sum(len(batch) for batch in iter(lambda: source.read(100, timeout=0.0), None)) == short + long
            assert tracemalloc.get_traced_memory()[1] < limit
        finally:
            tracemalloc.stop()
