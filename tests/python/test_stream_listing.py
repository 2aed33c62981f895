"""Which files a stream has, and how often its folder is looked at for that."""

from __future__ import annotations

import glob
import os
import time

import pytest

import fastinc as fi
from _event_files import json_event
from _streams import events_in, read_all
from fastinc.stream import _listing
from fastinc.stream._listing import Listing

SOURCES = pytest.mark.parametrize("of", ["folder", "pattern"])


def put(folder, *numbers):
    for n in numbers:
        (folder / f"{n:04}.jsonl").write_text(json_event(n, n) + "\n")


def users_in(batches):
    return [row[0] for row in events_in(batches)]


def url_of(folder, of):
    return folder if of == "folder" else folder / "*.jsonl"


def aged(folder):
    """Let a folder be as it has been for long."""
    then = time.time_ns() - 3600 * 10**9 + 1
    os.utime(folder, ns=(then, then))


@pytest.fixture
def scans(monkeypatch):
    found, scan = [], Listing._scan
    monkeypatch.setattr(Listing, "_scan", lambda listing: found.append(1) or scan(listing))
    return found


@SOURCES
@pytest.mark.parametrize("follow", [False, True])
def test_many_small_files_are_not_as_many_scans(tmp_path, scans, of, follow):
    put(tmp_path, *range(300))
    aged(tmp_path)
    with fi.stream.open(url_of(tmp_path, of), follow=follow) as source:
        assert users_in(read_all(source)) == list(range(300))
        assert len(scans) <= 5
        if follow:
            put(tmp_path, 500, 501)
            aged(tmp_path)  # as where a change doesn't show in time
            assert users_in(read_all(source)) == [500, 501]


@SOURCES
def test_a_folder_that_changes_is_scanned_again(tmp_path, of, caplog):
    put(tmp_path, 0, 1, 3, 4)
    aged(tmp_path)
    with fi.stream.open(url_of(tmp_path, of)) as source:
        assert source.read(1, timeout=0.0).users.tolist() == [0]
        assert source.read(1, timeout=0.0).users.tolist() == [1]
        put(tmp_path, 2)
        (tmp_path / "0003.jsonl").unlink()
        assert source.read(1, timeout=0.0).users.tolist() == [2]
        put(tmp_path, 1000)
        (tmp_path / "0001a.jsonl").touch()
        assert users_in(read_all(source)) == [4, 1000]
    assert "0001a.jsonl came after" in caplog.text


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("age", [0.0, 1.0, 3600.0])
@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_is_remembered_where_a_change_would_show(tmp_path, monkeypatch, link, age, whole):
    """Not one whose time may stay as it is for another moment, nor one with links: what these point to is elsewhere."""
    put(tmp_path, 0)
    if link:
        (tmp_path / "1.jsonl").symlink_to(tmp_path.parent / "nothing")
    now = 1_800_000_000 * 10**9 + 7
    monkeypatch.setattr(_listing.time, "time_ns", lambda: now)
    then = now - int(age * 10**9) - (7 if whole else 0)
    os.utime(tmp_path, ns=(then, then))
    listing = Listing(tmp_path)
    assert listing.names() == listing.names(fresh=False) == ["0000.jsonl"]
    assert listing.remembered == (not link and (age > 3 or (age > 0 and not whole)))


@pytest.mark.parametrize(
    "pattern", ["*", "a*", ".*", "[ab]?", "in/*", "in/.h*", "*/a1", "none/*", "**", "in/", "./a[!2]"]
)
def test_patterns_find_what_the_glob_module_finds(tmp_path, pattern):
    for folder in (tmp_path, tmp_path / "in"):
        folder.mkdir(exist_ok=True)
        for name in ("a1", "a2", "b1", ".hidden", "_c", "A1"):
            (folder / name).touch()
    os.symlink("a1", tmp_path / "a9")
    os.symlink("gone", tmp_path / "a8")
    os.mkfifo(tmp_path / "a7")
    for text, root in ((pattern, str(tmp_path)), (f"{tmp_path}/{pattern}", None)):
        found = [name for name in glob.glob(text, root_dir=root) if (tmp_path / name).is_file()]
        assert Listing(None, text, root).names() == sorted(found)


@pytest.mark.parametrize("pattern", ["", "*.jsonl"])
@pytest.mark.parametrize("follow", [False, True])
def test_a_link_that_leads_nowhere_hides_no_file(tmp_path, pattern, follow):
    put(tmp_path, 1)
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with fi.stream.open(tmp_path / pattern, follow=follow) as source:
        batches = read_all(source)
        if follow:
            put(tmp_path, 2)
            batches += read_all(source)
    assert users_in(batches) == ([1, 2] if follow else [1])
