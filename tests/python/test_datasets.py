"""Readers, the synthetic stream, and Events itself."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastinc import datasets
from fastinc._extras import require
from fastinc.datasets import Events, load_events, movielens, synthetic

PARSE_SECONDS = 5.0  # generous: a loaded machine of two cores


def as_tuples(events):
    columns = (events.users, events.items, events.labels, events.timestamps)
    return list(zip(*(column.tolist() for column in columns if column is not None), strict=True))


# --- Events -------------------------------------------------------------------------------------------------


def test_events_keep_integers_as_int64_and_strings_as_strings():
    events = Events(users=np.array([1, 2], np.int32), items=["a", "bc"], labels=[1, 0], timestamps=[5, 6])
    assert events.users.dtype == np.int64
    assert events.items.dtype.kind == "U"
    assert events.labels.dtype == np.float32
    assert events.timestamps.dtype == np.float64
    assert len(Events(users=[], items=[])) == 0
    extremes = [np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max]
    assert Events(users=extremes, items=[1, 2, 3]).users.tolist() == extremes


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"users": [1.0, 2.0]}, TypeError, "users must be integers or strings, got dtype float64"),
        ({"items": [True, False]}, TypeError, "items must be integers or strings, got dtype bool"),
        ({"items": np.array([1, "a"], object)}, TypeError, "items"),
        ({"users": [[1, 2]]}, ValueError, r"users must be 1-D, got shape \(1, 2\)"),
        ({"users": np.array([1, 2**64 - 1], np.uint64)}, ValueError, "users must fit in int64"),
        ({"users": np.array(["a\0", "a"], object)}, ValueError, "NUL"),
        ({"items": [1, 2, 3]}, ValueError, r"items must be as long as users \(2\), got length 3"),
        ({"labels": [1.0]}, ValueError, "labels must be as long"),
        ({"labels": [1.0, np.nan]}, ValueError, "labels must be finite float32, got nan at position 1"),
        ({"labels": [1.0, 1e39]}, ValueError, "labels must be finite float32"),
        (
            {"timestamps": [np.inf, 1.0]},
            ValueError,
            "timestamps must be finite float64, got inf at position 0",
        ),
        ({"timestamps": ["1", "2"]}, TypeError, "timestamps must be real numbers"),
        ({"skipped": -1}, ValueError, "skipped"),
    ],
)
def test_events_refuse_what_they_cannot_hold(change, error, message):
    with pytest.raises(error, match=message):
        Events(**{"users": [1, 2], "items": [3, 4], **change})


def test_events_index_by_slice_mask_and_positions():
    events = Events(users=[1, 2, 3], items=[4, 5, 6], timestamps=[7, 8, 9], name="x", skipped=2)
    assert as_tuples(events[1:]) == [(2, 5, 8), (3, 6, 9)]
    assert as_tuples(events[np.array([True, False, True])]) == [(1, 4, 7), (3, 6, 9)]
    assert as_tuples(events[[2, 0]]) == [(3, 6, 9), (1, 4, 7)]
    assert (events[1:].name, events[1:].skipped) == ("x", 2)
    for wrong in (0, 1.5, [0.5], [[0]]):
        with pytest.raises(TypeError, match="events are indexed by"):
            events[wrong]


def test_sorting_is_stable_or_shuffles_ties_and_only_ties():
    times = np.repeat([3.0, 1.0, 2.0], 50)
    events = Events(users=np.arange(150), items=np.arange(150), timestamps=times)
    by_file = events.sorted()
    assert by_file.users.tolist() == [*range(50, 100), *range(100, 150), *range(50)]
    shuffled = events.sorted(ties="shuffle", seed=1)
    assert (np.diff(shuffled.timestamps) >= 0).all()
    assert shuffled.users.tolist() != by_file.users.tolist()
    assert sorted(shuffled.users[:50].tolist()) == list(range(50, 100))
    assert shuffled.users.tolist() == events.sorted(ties="shuffle", seed=1).users.tolist()
    assert shuffled.users.tolist() != events.sorted(ties="shuffle", seed=2).users.tolist()
    with pytest.raises(ValueError, match="ties must be 'file' or 'shuffle', got 'item'"):
        events.sorted(ties="item")
    with pytest.raises(ValueError, match="timestamps must be present"):
        Events(users=[1], items=[1]).sorted()


def test_filter_by_label():
    events = Events(users=[1, 2, 3], items=[4, 5, 6], labels=[5, 3, 4], name="r")
    assert as_tuples(events.filter(min_label=4)) == [(1, 4, 5.0), (3, 6, 4.0)]
    assert events.filter(min_label=4).name == "r (label >= 4)"
    with pytest.raises(ValueError, match="min_label=4 needs labels"):
        Events(users=[1], items=[1]).filter(min_label=4)
    with pytest.raises(ValueError, match="min_label must be finite"):
        events.filter(min_label=float("nan"))


# --- formats ------------------------------------------------------------------------------------------------

ROWS = [(1, 10, 5.0, 100.0), (2, 11, 3.5, 99.0), (1, 12, 1.0, 100.0)]
TEXTS = {
    "u.data": "1\t10\t5\t100\n2\t11\t3.5\t99\n1\t12\t1\t100\n",
    "ratings.dat": "1::10::5::100\n2::11::3.5::99\n1::12::1::100",
    "ratings.csv": "userId,movieId,rating,timestamp\r\n1,10,5.0,100\r\n2,11,3.5,99\r\n1,12,1.0,100\r\n",
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "1\t10\t5\t100\n2\t11\t3.5\t99\n1\t12\t1\t1e2\n",
    "nameless.csv": "1,10,5,100\n2,11,3.5,99\n1,12,1,100\n\n",
    "quoted.csv": '"user","title","item","label","time"\n1,"a, ""b""",10,5,100\n2,,11,3.5,99\n"1",x,12,1,100\n',
    "bom.tsv": "\ufeffTimestamp\tUser ID\tItem_ID\tStars\n100\t1\t10\t5\n99\t2\t11\t3.5\n100\t1\t12\t1\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_format_gives_the_same_events(tmp_path, name):
    (tmp_path / name).write_bytes(TEXTS[name].encode())
    events = movielens(tmp_path / name)
    assert as_tuples(events) == ROWS
    assert events.users.dtype == events.items.dtype == np.int64
    assert (events.name, events.source, events.skipped) == (
        Path(name).stem,
        str(tmp_path / name),
        0,
    )
    assert as_tuples(load_events(str(tmp_path / name), min_label=3.5)) == ROWS[:2]


def test_ids_are_integers_only_if_spelled_as_such(tmp_path):
    def users(*ids):
        (tmp_path / "e.csv").write_text("user,item\n" + "".join(f"{text},1\n" for text in ids))
        return load_events(tmp_path / "e.csv").users.tolist()

    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert users("0", "-5", str(low), str(high)) == [0, -5, low, high]
    # Each of these would be merged with another id, or changed, as an integer.
    for text in ("007", "+7", "-0", "1_0", "1.0", str(high + 1), "٣", "x", "é"):
        assert users("7", text) == ["7", text]


def test_columns_name_the_roles(tmp_path):
    file = tmp_path / "e.csv"
    file.write_text("member,user,item,time,ts\n1,2,3,4,5\n")
    with pytest.raises(ValueError, match="'time' and 'ts' could both be the timestamps"):
        load_events(file)
    events = load_events(file, columns={"user": "member", "timestamp": "ts"})
    assert as_tuples(events) == [(1, 3, 5.0)]
    with pytest.raises(ValueError, match="no column 'nope' for the users among"):
        load_events(file, columns={"user": "nope"})
    with pytest.raises(ValueError, match="columns must map some of user, item, label, timestamp to names"):
        load_events(file, columns={"who": "member"})
    file.write_text("1,2,3,4\n")
    with pytest.raises(ValueError, match="needs a header line"):
        load_events(file, columns={"user": "member"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", r"u.data:2: expected 4 fields .*, got 3: '1\\t2\\t3'"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\t4\t5\n", "u.data:2: expected 4 fields .*, got 5"),
        ("u.data", "1\t2\t3\t4\n\n1\t2\t3\t4\n", "u.data:2: expected 4 fields .*, got 1"),
        ("u.data", "1\t2\tx\t4\n", "u.data:1: rating 'x' is not a number"),
        ("u.data", "1\t2\t3\tnan\n", "u.data:1: timestamp 'nan' is not finite"),
        ("u.data", "1\t2\t-inf\t4\n", "u.data:1: rating '-inf' is not finite"),
        ("u.data", "1\t2\t1e39\t4\n", "u.data:1: rating '1e39' is out of range"),
        ("u.data", "1\t2\t3\t1e400\n", "u.data:1: timestamp '1e400' is out of range"),
        ("u.data", "1\t2\t1_0\t4\n", "u.data:1: rating '1_0' is not a number"),
        ("u.data", "1\t2\t٣\t4\n", "u.data:1: rating '٣' is not a number"),
        ("u.data", "1\t\t3\t4\n", "u.data:1: item id is empty"),
        ("u.data", "1\t2 \t3\t4\n", "u.data:1: item id '2 ' begins or ends with white space"),
        ("u.data", f"{'x' * 513}\t2\t3\t4\n", "u.data:1: user id has 513 characters, more than 512"),
        ("u.data", "a\0\t2\t3\t4\n", "u.data:1: user id .* has a NUL"),
        ("u.data", b"a\xff\t2\t3\t4\n", "u.data:1: user id .* is not UTF-8"),
        ("r.dat", "1::2::3::4\n1:2:3:4\n", "r.dat:2: expected 4 fields .*, got 1"),
        ("r.csv", "userId,movieId,rating\n1,2,3\n1,2,\n", "r.csv:3: rating '' is not a number"),
        ("r.csv", 'user,item,rating\n"a\nb",2,3\n1,2,x\n', "r.csv:2: user id .* newline"),
        ("r.csv", 'user,item,rating\n"a\nb",2\n', "r.csv:2: expected 3 fields"),
        ("r.csv", 'user,item\n1,2\n"a,2\n', "r.csv:3: unexpected end of data"),
        ("r.csv", "1;2;3;4\n", "r.csv:1: expected fields separated by commas"),
        ("r.txt", "hello\n", "r.txt:1: expected fields separated by tabs, '::' or commas"),
        ("r.csv", "a,b,c,d\n1,2,3,4\n", "r.csv:1: neither data nor a header"),
        ("r.csv", "user,b,c,d\n1,2,3,4\n", "none of the columns .* is named as items are"),
        ("r.csv", "user,item\n", "no events below the header"),
        ("r.csv", "\n", "the file is empty"),
    ],
)
def test_rows_that_cannot_be_parsed_are_reported_with_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_events(tmp_path / name)


def test_skip_leaves_bad_rows_out_and_counts_them(tmp_path):
    file = tmp_path / "u.data"
    file.write_text("1\t10\t5\t100\nx\n2\t11\tnan\t99\n2\t11\t3.5\t99\n\t1\t1\t1\n1\t12\t1\t100\n")
    events = load_events(file, errors="skip")
    assert as_tuples(events) == ROWS
    assert events.users.dtype == np.int64
    assert events.skipped == 3
    assert "3 rows skipped" in repr(events)
    file.write_text("1\tx\n2\ty\n")
    with pytest.raises(ValueError, match="none of the 2 rows could be parsed"):
        load_events(file, errors="skip")
    with pytest.raises(ValueError, match="errors must be 'raise' or 'skip', got 'ignore'"):
        load_events(file, errors="ignore")


FIELD = st.one_of(
    st.sampled_from(["1", "22", "-3", "0", "4.5", "1e3", "nan", "", " 1", "1_0", "ab", "é", "9" * 30]),
    st.text(st.characters(exclude_characters="\t\n\r\ufeff", codec="utf-8"), max_size=4),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(FIELD, min_size=3, max_size=5), min_size=1, max_size=6))
def test_whole_columns_and_single_rows_agree(tmp_path, rows):
    """What is read at once is what is read when a bad row sends the reader through the rows one by one."""
    file, good = tmp_path / "e.data", "1\t2\t3\t4\n"
    body = good + "".join("\t".join(row) + "\n" for row in rows) + good
    file.write_bytes(body.encode())
    skipping = load_events(file, errors="skip")
    file.write_bytes((good + "bad\n" + body.removeprefix(good)).encode())
    slow = load_events(file, errors="skip")
    assert as_tuples(slow) == as_tuples(skipping)
    assert slow.skipped == skipping.skipped + 1
    assert len(skipping) + skipping.skipped == len(rows) + 2
    file.write_bytes(body.encode())
    if skipping.skipped:
        with pytest.raises(ValueError, match=r"e\.data:[0-9]+: "):
            load_events(file)
    else:
        assert as_tuples(load_events(file)) == as_tuples(skipping)


def test_reading_is_quick(tmp_path):
    rng = np.random.default_rng(0)
    columns = [rng.integers(1, high, 100_000) for high in (944, 1683, 6, 10**9)]
    np.savetxt(tmp_path / "u.data", np.column_stack(columns), fmt="%d", delimiter="\t")
    begin = time.monotonic()
    events = load_events(tmp_path / "u.data")
    assert time.monotonic() - begin < PARSE_SECONDS
    assert (events.users == columns[0]).all()
    assert (events.timestamps == columns[3]).all()


# --- Parquet ------------------------------------------------------------------------------------------------


@pytest.fixture
def write_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        table = pa.table(
            {name: column if hasattr(column, "type") else pa.array(column) for name, column in columns.items()}
        )
        pq.write_table(table, tmp_path / "events.parquet")
        return tmp_path / "events.parquet"

    return write


def test_parquet_keeps_the_types_of_ids(write_parquet):
    pa = pytest.importorskip("pyarrow")
    file = write_parquet(
        user_id=["7", "007", "7"],
        item=pa.array([5, 6, 5], pa.int32()),
        other=[None, None, None],
        rating=[1, 2, 3],
        time=pa.array([1500, 2500, 3500], pa.timestamp("ms")),
    )
    events = load_events(file)
    assert as_tuples(events) == [("7", 5, 1.0, 1.5), ("007", 6, 2.0, 2.5), ("7", 5, 3.0, 3.5)]
    assert events.items.dtype == np.int64
    assert as_tuples(movielens(file, min_label=3)) == [("7", 5, 3.0, 3.5)]
    renamed = write_parquet(who=pa.array(["a", "b"]).dictionary_encode(), item=[1, 2], rating=[True, False])
    assert as_tuples(load_events(renamed, columns={"user": "who"})) == [("a", 1, 1.0), ("b", 2, 0.0)]


def test_parquet_rows_without_values_are_reported_or_skipped(write_parquet):
    file = write_parquet(
        user=[1, None, 3, 4], item=["a", "b", "", "d"], rating=[1.0, 2.0, 3.0, None], time=[1, 2, 3, 4]
    )
    with pytest.raises(ValueError, match=r"events.parquet: row 2: user is not usable, got None"):
        load_events(file)
    events = load_events(file, errors="skip")
    assert as_tuples(events) == [(1, "a", 1.0, 1.0)]
    assert events.skipped == 3
    assert load_events(write_parquet(user=[1, 2], item=[1, 2], label=[np.nan, 1.0]), errors="skip").skipped == 1
    with pytest.raises(ValueError, match="no events in 1 rows"):
        load_events(write_parquet(user=[1], item=[""]), errors="skip")


def test_parquet_refuses_what_are_no_ids(write_parquet):
    with pytest.raises(ValueError, match=r"column 'user' must hold integers or strings for the users, got double"):
        load_events(write_parquet(user=[1.0], item=[1]))
    with pytest.raises(ValueError, match="column 'rating' must hold numbers for the labels, got string"):
        load_events(write_parquet(user=[1], item=[1], rating=["5"]))
    with pytest.raises(ValueError, match=r"none of the columns \['a'\] is named as users are"):
        load_events(write_parquet(a=[1]))
    with pytest.raises(ValueError, match=r"events.parquet: "):
        load_events(write_parquet(user=np.array([2**63], np.uint64), item=[1]))
    file = write_parquet(user=[1], item=[1])
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"events.parquet: "):
        load_events(file)


def test_a_missing_extra_is_named(monkeypatch, write_parquet):
    file = write_parquet(user=[1], item=[1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"reading Parquet files needs pyarrow.*pip install 'fastinc\[parquet\]'"):
        load_events(file)


def test_require_does_not_hide_what_is_broken_inside(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        require("broken_part", extra="x", purpose="y")
    with pytest.raises(ImportError, match=r"y needs nowhere_to_be_found, .*'fastinc\[x\]'"):
        require("nowhere_to_be_found.deep", extra="x", purpose="y")
    assert require("os.path", extra="x", purpose="y").sep


# --- synthetic ----------------------------------------------------------------------------------------------


def test_synthetic_gives_the_same_bytes_for_the_same_seed():
    one, two = (synthetic(3000, 100, 200, drift="gradual", seed=5, labels=True) for _ in range(2))
    other = synthetic(3000, 100, 200, drift="gradual", seed=6, labels=True)
    for column in ("users", "items", "labels", "timestamps"):
        assert getattr(one, column).tobytes() == getattr(two, column).tobytes()
        assert getattr(one, column).tobytes() != getattr(other, column).tobytes()
    unlabelled = synthetic(3000, 100, 200, drift="gradual", seed=5)
    assert unlabelled.labels is None
    assert unlabelled.items.tobytes() == one.items.tobytes()


def test_synthetic_is_what_its_description_says():
    events = synthetic(20_000, 400, 500, seed=3, labels=True)
    assert len(events) == 20_000
    assert (np.diff(events.timestamps) >= 0).all()
    assert (events.timestamps == np.floor(events.timestamps)).all()
    assert 0 <= events.users.min() < events.users.max() < 400
    assert 0 <= events.items.min() < events.items.max() < 500
    assert set(np.unique(events.labels)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    pairs = set(zip(events.users.tolist(), events.items.tolist(), strict=True))
    assert len(pairs) == len(events)  # nobody takes an item twice
    # Newcomers: the last tenth has users and items that the first half has not.
    for column in (events.users, events.items):
        assert len(np.setdiff1d(column[-2000:], column[:10_000])) > 10
    # Popularity is skewed.
    counts = np.sort(np.bincount(events.items, minlength=500))[::-1]
    assert counts[:50].sum() > 0.2 * len(events)
    # Recency: two events of a user that follow each other resemble each other more than distant ones,
    # which shows in how often pairs of items come together.
    order = np.argsort(events.users, kind="stable")
    users, items, times = events.users[order], events.items[order], events.timestamps[order]
    together = np.zeros((500, 500))
    near = (users[1:] == users[:-1]) & (np.diff(times) < 600)
    np.add.at(together, (items[:-1][near], items[1:][near]), 1)
    far = np.zeros((500, 500))
    distant = (users[20:] == users[:-20]) & (times[20:] - times[:-20] > 86_400)
    np.add.at(far, (items[:-20][distant], items[20:][distant]), 1)

    def collisions(pairs):
        """How probable it is that two pairs, drawn without replacement, are the same pair of items."""
        return (pairs * (pairs - 1)).sum() / (pairs.sum() * (pairs.sum() - 1))

    assert collisions(together) > 1.3 * collisions(far)


def test_drift_begins_where_it_is_said_to():
    streams = {
        drift: synthetic(20_000, 200, 500, drift=drift, drift_at=0.4, seed=9) for drift in ("none", "gradual", "abrupt")
    }
    start = 1_600_000_000
    moment = start + 0.4 * 90 * 86_400
    still = streams["none"]
    for name in ("gradual", "abrupt"):
        moved = streams[name]
        before = int(np.searchsorted(still.timestamps, moment))
        assert (moved.timestamps == still.timestamps).all()
        assert (moved.users == still.users).all()
        assert (moved.items[:before] == still.items[:before]).all()
        assert (moved.items[before + 2000 :] != still.items[before + 2000 :]).mean() > 0.3
        assert name in moved.name
    # Just after the moment a gradual drift has hardly begun, an abrupt one is complete.
    soon = slice(before, before + 1000)
    changed = {name: (streams[name].items[soon] != still.items[soon]).mean() for name in ("gradual", "abrupt")}
    assert changed["abrupt"] > changed["gradual"] + 0.1


def test_small_synthetic_streams_work_to_the_limit():
    events = synthetic(4, 1, 16, dim=1, seed=0)
    assert len(events) == 4
    crowded = synthetic(100, 4, 100)
    assert len(crowded) == 100


def test_synthetic_is_quick():
    begin = time.monotonic()
    assert len(synthetic()) == 100_000
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_events": 0}, ValueError, "n_events must be at least 1, got 0"),
        ({"n_items": 7}, ValueError, "n_items must be at least 8, got 7"),
        ({"n_users": 1.5}, TypeError, "n_users must be an int, got 1.5"),
        ({"dim": True}, TypeError, "dim must be an int"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"n_users": 10, "n_items": 10}, ValueError, "n_events must be at most n_users"),
        ({"drift": "sudden"}, ValueError, "drift must be 'none', 'gradual' or 'abrupt', got 'sudden'"),
        ({"drift_at": 1.0}, ValueError, "drift_at must be between 0 and 1, got 1.0"),
        ({"drift_at": float("nan")}, ValueError, "drift_at"),
    ],
)
def test_synthetic_refuses_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        datasets.synthetic(**{"n_events": 100, **arguments})
