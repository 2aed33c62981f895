"""The file of dead letters: each once, and no other file is ever cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re

import pytest

import fastinc as fi
from _event_files import append
from _logs import FaultyOs
from _streams import Crash, Crashing, letters_of, run, stream_fixture
from fastinc.checkpoint import _lock
from fastinc.stream import _dead_letters

stream = stream_fixture()


@pytest.fixture(scope="module")
def letters(stream, tmp_path_factory):
    """The dead letters of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with fi.stream.open(stream) as source:
        run(folder, source)
    return letters_of(folder / "dead.jsonl")


def test_dead_letters_of_before_stay(stream, letters, tmp_path):
    dead = tmp_path / "dead.jsonl"
    dead.write_text('{"mine": true}\n')
    for limit in (100, 300, None):
        with fi.stream.open(stream) as source:
            run(tmp_path, source, max_events=limit)
    assert [letter.get("raw") for letter in letters_of(dead)] == [None, *(letter["raw"] for letter in letters)]
    with fi.stream.open(stream) as source:
        run(tmp_path, source, dead_letters=tmp_path / "other.jsonl")
    with fi.stream.open(stream) as source, pytest.raises(ValueError, match="dead_letters"):
        run(tmp_path, source, dead_letters=tmp_path / "none" / "dead.jsonl")


@pytest.mark.parametrize("kind", ["/dev/null", "pipe", "open pipe"])
def test_what_is_no_regular_file_is_refused_before_anything_is_read(stream, tmp_path, kind):
    descriptors = os.pipe()
    path = {"pipe": str(tmp_path / "pipe"), "open pipe": f"/dev/fd/{descriptors[1]}"}.get(kind, kind)
    if kind == "pipe":
        os.mkfifo(path)
    try:
        message = f"dead_letters = '{re.escape(path)}' must be a regular file"
        with fi.stream.open(stream) as source, pytest.raises(ValueError, match=message):
            run(tmp_path, source, dead_letters=path)
        assert not (tmp_path / "model").exists()
        assert source._file == ""
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def killed(stream, tmp_path):
    """A folder with a state, and a file of dead letters of which all but the first came after it."""
    a = tmp_path / "a"
    a.mkdir()
    with fi.stream.open(stream) as source:
        run(tmp_path, source, max_events=18, dead_letters=a / "dead.jsonl")
    with fi.stream.open(stream) as source, contextlib.suppress(Crash):
        run(tmp_path, Crashing(source, 3), batch_size=99, dead_letters=a / "dead.jsonl")
    assert len(letters_of(a / "dead.jsonl")) == 3
    return tmp_path


def test_a_file_in_another_folder_is_another_file(stream, letters, killed):
    b = killed / "b"
    b.mkdir()
    mine = b'{"mine": true, "for": "another model"}\n' * 50  # longer than what was saved of the other one
    (b / "dead.jsonl").write_bytes(mine)
    before = (killed / "a" / "dead.jsonl").read_bytes()
    with fi.stream.open(stream) as source:
        run(killed, source, dead_letters=b / "dead.jsonl")
    assert (b / "dead.jsonl").read_bytes().startswith(mine)
    assert letters_of(b / "dead.jsonl")[50:] == letters[1:]
    assert (killed / "a" / "dead.jsonl").read_bytes() == before


def test_a_file_has_one_identity_whatever_it_is_called(stream, letters, killed, monkeypatch):
    monkeypatch.chdir(killed)
    (killed / "link").symlink_to(killed / "a")
    with fi.stream.open(stream) as source:
        run(killed, source, dead_letters="link/dead.jsonl")
    assert letters_of(killed / "a" / "dead.jsonl") == letters


@pytest.mark.parametrize("text", ['{"mine": true}\n', '{"mine": true}\n' * 50])
def test_a_file_that_was_replaced_is_not_cut(stream, letters, killed, text):
    dead = killed / "a" / "dead.jsonl"
    dead.rename(killed / "moved.jsonl")
    dead.write_text(text)
    message = "doesn't begin as it did" if len(text) > 50 else "has 15 bytes, and had"
    message += " .*it is another file.* Put the one that was written back, or move this one away, or give another name"
    with fi.stream.open(stream) as source, pytest.raises(ValueError, match=message):
        run(killed, source, dead_letters=dead)
    assert dead.read_text() == text
    with fi.stream.open(stream) as source:
        run(killed, source, dead_letters=killed / "a" / "new.jsonl")
    assert letters_of(killed / "a" / "new.jsonl") == letters[1:]


@pytest.mark.parametrize("empty", [False, True])
def test_a_file_that_was_rotated_away_is_begun_again(stream, letters, killed, empty, caplog):
    dead = killed / "a" / "dead.jsonl"
    dead.rename(killed / "moved.jsonl")
    if empty:
        dead.touch()
    for again in (False, True):
        with fi.stream.open(stream) as source:
            run(killed, source, dead_letters=dead)
        assert letters_of(dead) == letters[1:]  # all after the save, of which the file that was moved has two
        assert ("is gone or empty, and had" in caplog.text) is not again
        caplog.clear()


def test_a_file_that_is_emptied_while_it_is_written_to_is_known_again(stream, letters, tmp_path):
    """As logrotate's copytruncate does."""
    dead, sizes = tmp_path / "dead.jsonl", []

    def empty(progress):
        sizes.append(dead.stat().st_size)
        if progress.rejected == 2:
            os.truncate(dead, 0)

    with fi.stream.open(stream) as source:
        run(tmp_path, source, batch_size=50, checkpoint_every=50, max_events=300, on_checkpoint=empty)
    assert max(sizes) > sizes[-1] > 0
    with fi.stream.open(stream) as source:
        run(tmp_path, source)
    assert letters_of(dead) == letters[2:]


def test_a_file_that_was_moved_is_cut_by_hand(stream, letters, killed):
    moved = killed / "moved.jsonl"
    (killed / "a" / "dead.jsonl").rename(moved)
    before = moved.read_bytes()
    saved = before.index(b"\n") + 1
    message = f"{len(before) - saved} bytes behind are to go can't be told.* cut it: truncate -s {saved}"
    with fi.stream.open(stream) as source, pytest.raises(ValueError, match=message):
        run(killed, source, dead_letters=moved)
    assert moved.read_bytes() == before
    moved.write_bytes(before[:saved])
    with fi.stream.open(stream) as source:
        run(killed, source, dead_letters=moved)
    assert letters_of(moved) == letters


def two_files(folder):
    """Two streams with a malformed line each, and one file of dead letters for both."""
    for name in "ab":
        (folder / name).mkdir()
        (folder / f"{name}.jsonl").write_text(f'{{"user": 1, "item": 2}}\noops of {name}\n')
    return folder / "dead.jsonl"


def learn(folder, name, dead, **options):
    with fi.stream.open(folder / f"{name}.jsonl") as source:
        return run(folder / name, source, dead_letters=dead, **options)


def raw_letters(dead):
    return [letter["raw"] for letter in letters_of(dead)]


def test_letters_of_others_are_never_cut(tmp_path):
    dead = two_files(tmp_path)
    for name in "ab":
        learn(tmp_path, name, dead)
    append(dead, b'{"raw": "looked at by hand"}\n')
    expected = ["oops of a", "oops of b", "looked at by hand"]
    for name in "abb":
        learn(tmp_path, name, dead)
        assert raw_letters(dead) == expected
    append(tmp_path / "a.jsonl", b"more of a\n")
    learn(tmp_path, "a", dead)
    assert raw_letters(dead) == [*expected, "more of a"]
    marks = [json.loads(line).get("log") for line in dead.read_text().splitlines()]
    assert marks[0] == marks[3] != marks[1]


@pytest.fixture
def lost(tmp_path):
    """A file of dead letters of which those of the lines "lost" came after the last save."""
    dead = two_files(tmp_path)
    learn(tmp_path, "a", dead)
    append(tmp_path / "a.jsonl", b"lost\n" * 2)
    with fi.stream.open(tmp_path / "a.jsonl") as source, contextlib.suppress(Crash):
        run(tmp_path / "a", Crashing(source, 1), dead_letters=dead)
    assert raw_letters(dead) == ["oops of a", "lost", "lost"]
    return dead


def test_half_a_letter_is_cut(lost, tmp_path):
    lost.write_bytes(lost.read_bytes()[:-9])
    learn(tmp_path, "a", lost)
    assert raw_letters(lost) == ["oops of a", "lost", "lost"]


@pytest.mark.parametrize("torn", [0, 9, 40])
def test_letters_that_come_again_beside_those_of_others_are_refused(lost, tmp_path, torn):
    lost.write_bytes(lost.read_bytes()[: len(lost.read_bytes()) - torn])
    learn(tmp_path, "b", lost)
    before = lost.read_bytes()
    assert json.loads(before.splitlines()[-1])["raw"] == "oops of b"  # a line of its own
    with pytest.raises(ValueError, match=r"lines of others, which must not be cut off\. Move the file away, or"):
        learn(tmp_path, "a", lost)
    assert lost.read_bytes() == before
    lost.rename(tmp_path / "moved.jsonl")
    learn(tmp_path, "a", lost)
    assert raw_letters(lost) == ["lost", "lost"]


def test_what_somebody_wrote_behind_half_a_letter_is_not_cut(lost, tmp_path):
    half = lost.read_bytes()[:-9].rsplit(b"\n", 2)  # only one of ours, and it is torn
    lost.write_bytes(half[0] + b"\n" + half[2] + b"mine\n")
    with pytest.raises(ValueError, match="lines of others"):
        learn(tmp_path, "a", lost)


def test_a_file_that_is_being_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "_PATIENCE", 0.02)
    dead, refused = two_files(tmp_path), []

    def start_another(batch):
        with pytest.raises(RuntimeError, match=r"dead\.jsonl is being written to by somebody else"):
            learn(tmp_path, "b", dead)
        refused.append(fi.checkpoint.Log(tmp_path / "b" / "model").entries())

    learn(tmp_path, "a", dead, on_batch=start_another)
    assert refused == [[]]
    learn(tmp_path, "b", dead)
    assert raw_letters(dead) == ["oops of a", "oops of b"]


def test_letters_are_on_disk_before_the_position_that_counts_them(stream, letters, tmp_path, monkeypatch):
    for at, saves in ((0, 0), (1, 1)):
        monkeypatch.setattr(_dead_letters, "os", FaultyOs(at))
        with fi.stream.open(stream) as source, pytest.raises(OSError, match="Input/output error"):
            run(tmp_path, source)
        assert len(fi.checkpoint.Log(tmp_path / "model").entries()) == saves
    disk = FaultyOs()
    monkeypatch.setattr(_dead_letters, "os", disk)
    with fi.stream.open(stream) as source:
        _, done = run(tmp_path, source)
    assert disk.calls == ["fsync"] * done.checkpoints
    assert letters_of(tmp_path / "dead.jsonl") == letters


def roll_back(folder, rejected):
    """Have the newest state of a log be its first one again that has so many rejected events."""
    with fi.checkpoint.Log(folder / "model") as log:
        number = next(e.number for e in log.entries() if e.position["source"] and e.position["rejected"] == rejected)
        log.append(*log.restore(number=number))


def go(folder, stream, dead, **more):
    with fi.stream.open(stream) as source:
        run(folder, source, dead_letters=dead, checkpoint_every=50, **more)


def test_letters_have_the_numbers_that_positions_count(letters):
    assert [letter["number"] for letter in letters] == [1, 2, 3, 4]


def test_after_a_rollback_beyond_the_first_dead_letters_they_come_once(stream, letters, tmp_path):
    dead = tmp_path / "dead.jsonl"
    dead.write_text('{"mine": true}\n{"log": "of another", "number": 9, "where": ""}\n')
    mine = dead.read_bytes()
    go(tmp_path, stream, None, max_events=100)
    go(tmp_path, stream, dead)
    whole = dead.read_bytes()
    assert whole.startswith(mine)
    for _ in range(2):
        roll_back(tmp_path, 2)
        go(tmp_path, stream, dead)
        assert dead.read_bytes() == whole
    assert letters_of(dead)[2:] == letters[2:]
    roll_back(tmp_path, 2)
    append(dead, b'{"mine": true}\n')
    with pytest.raises(
        ValueError, match=f"has, behind its first {len(mine)} bytes, letters that come again, and lines"
    ):
        go(tmp_path, stream, dead)
    assert dead.read_bytes() == whole + b'{"mine": true}\n'


@pytest.mark.parametrize("torn", [9, 130])
def test_half_a_letter_in_a_file_that_the_position_doesnt_know_is_cut(stream, letters, tmp_path, torn):
    dead = tmp_path / "dead.jsonl"
    go(tmp_path, stream, None, max_events=100)
    go(tmp_path, stream, dead)
    *_, last = dead.read_bytes().splitlines(keepends=True)
    assert torn < len(last)
    os.truncate(dead, dead.stat().st_size - torn)
    roll_back(tmp_path, 2)
    go(tmp_path, stream, dead)
    assert letters_of(dead) == letters[2:]


def test_after_a_rollback_to_another_file_they_come_once_in_each(stream, letters, tmp_path, caplog):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    go(tmp_path, stream, first, max_events=18)
    go(tmp_path, stream, first, max_events=82)
    go(tmp_path, stream, second)
    assert (letters_of(first), letters_of(second)) == (letters[:2], letters[2:])
    assert "a second time" not in caplog.text
    roll_back(tmp_path, 1)
    go(tmp_path, stream, second)
    assert (letters_of(first), letters_of(second)) == (letters[:2], letters[1:])
    assert f"{first} has got longer" in caplog.text
    caplog.clear()
    go(tmp_path, stream, second)
    assert "a second time" not in caplog.text


def test_runs_without_dead_letters_after_a_rollback_have_none_come_twice(stream, letters, tmp_path):
    """Nor are those lost whose events such a run passed over."""
    dead = tmp_path / "dead.jsonl"
    go(tmp_path, stream, dead)
    roll_back(tmp_path, 2)
    os.truncate(dead, dead.stat().st_size - 9)
    go(tmp_path, stream, None, max_events=200)
    go(tmp_path, stream, None, max_events=1)
    with fi.checkpoint.Log(tmp_path / "model") as log:
        assert log.entries()[-1].position["rejected"] == 3
    go(tmp_path, stream, dead)
    assert letters_of(dead) == letters


def test_letters_without_a_number_in_a_file_that_the_position_doesnt_know_stay(stream, letters, tmp_path, caplog):
    """As they were written before there were numbers: whether they come again can't be told, which is."""
    dead = tmp_path / "dead.jsonl"
    go(tmp_path, stream, None, max_events=100)
    with fi.checkpoint.Log(tmp_path / "model") as log:
        (mark,) = log.entries()[-1].position["dead_letters"].values()
    dead.write_text(json.dumps({"log": mark, "where": "", "reason": "", "raw": ""}) + "\n")
    go(tmp_path, stream, dead)
    assert letters_of(dead)[1:] == letters[2:]
    assert "has 1 letters of this log without a number: they may come a second time" in caplog.text


def test_letters_of_before_there_were_marks_are_cut_as_they_were(stream, letters, killed):
    dead = killed / "a" / "dead.jsonl"
    before = [{name: letter[name] for name in ("where", "reason", "raw")} for letter in letters_of(dead)]
    dead.write_text("".join(json.dumps(letter) + "\n" for letter in before))
    with fi.checkpoint.Log(killed / "model") as log, fi.stream.open(stream) as source:
        model, position = log.restore()
        told = position["dead_letters"]
        del told["log"], told["tail"]
        told["bytes"] = dead.read_bytes().index(b"\n") + 1
        told["head"] = hashlib.sha256(dead.read_bytes()[: told["bytes"]]).hexdigest()
        fi.stream.train(model, source, log, position=position, dead_letters=dead)
    assert letters_of(dead) == [before[0], *letters[1:]]


@pytest.mark.parametrize("what", ["folder", "pattern", "file", "link", "later name"])
def test_a_file_that_the_source_reads_gets_no_letters(tmp_path, what, monkeypatch):
    """They would be events, and so letters."""
    folder = tmp_path / "events"
    folder.mkdir()
    file = folder / "clicks.jsonl"
    file.write_text("oops\n")
    monkeypatch.chdir(folder)
    url = {"pattern": str(folder / "*.jsonl"), "file": file, "link": "clicks.jsonl", "folder": "."}.get(what, folder)
    dead = file if what == "file" else folder / "dead.jsonl"
    if what == "link":
        dead = tmp_path / "link.jsonl"
        dead.symlink_to(file)
    if what == "later name":
        (tmp_path / "other").symlink_to(folder)
        dead = tmp_path / "other" / "z"
    with fi.stream.open(url, follow=True) as source:
        with pytest.raises(ValueError, match=r"dead_letters = .* is a file that .* reads"):
            run(tmp_path, source, dead_letters=dead)
        assert (file.read_text(), sorted(os.listdir(folder))) == ("oops\n", ["clicks.jsonl"])
        assert not (tmp_path / "model").exists()
        for fine in (tmp_path / "dead.jsonl", folder / ".dead.jsonl"):
            run(tmp_path, source, dead_letters=fine, stop=lambda: True)
    with fi.stream.open(str(tmp_path / "ev*" / "cl*"), follow=True) as source:
        assert source.reads(folder / "clothes")
        assert not source.reads(folder / "dead.jsonl")
        assert not source.reads(tmp_path / "clothes")


def test_a_second_trainer_is_refused_and_changes_nothing(stream, letters, tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "_PATIENCE", 0.02)
    dead, refused = tmp_path / "dead.jsonl", []

    def start_another(batch):
        before = dead.read_bytes()
        if before and len(refused) < 2:  # letters that aren't in a saved state yet
            with fi.stream.open(stream) as source, pytest.raises(RuntimeError, match="has a writer already"):
                run(tmp_path, source)
            refused.append(dead.read_bytes() == before)

    with fi.stream.open(stream) as source:
        run(tmp_path, source, batch_size=100, on_batch=start_another)
    assert refused == [True, True]
    assert letters_of(dead) == letters
