"""``fastinc log --roll-back-to``: as if nothing had come after."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import fastinc as fi
from _commands import assert_one_line_error, command
from _logs import flip, new_table, quiet, tables_fixture
from _logs import state_of as table_state
from _redis import RedisServer, need_redis
from _streams import letters_of, lines, stream_fixture
from _trained import entries, files, folder_fixture, restored, train, trained_fixture, without_letters
from fastinc.checkpoint import _restoring
from fastinc.checkpoint._records import MAGIC

stream = stream_fixture()
tables = tables_fixture()
trained = trained_fixture()
folder = folder_fixture()


@pytest.mark.parametrize("number", [1, 2, 6])
def test_after_a_rollback_a_train_is_as_if_nothing_had_come_after(capsys, folder, stream, number, tmp_path):
    """Bytes, position and dead letters are those of a run that never went beyond, also on another stream."""
    log = folder / "model"
    have = entries(log)
    then = [restored(log, number=entry.number) for entry in have]
    before = letters_of(folder / "dead.jsonl")
    status, out, err = command(capsys, "log", log, "--roll-back-to", number)
    assert status == 0, err
    assert (err == "") == (number > 1)  # that is before the stream's first event
    newest = entries(log)[-1]
    assert (newest.number, newest.kind, newest.position) == (len(have) + 1, "base", have[number - 1].position)
    assert f"number {newest.number}, which is number {number} again" in out
    assert [restored(log, number=entry.number) for entry in have] == then  # nothing went
    assert restored(log) == then[number - 1]
    assert letters_of(folder / "dead.jsonl") == before  # they are the next train's to cut

    train(folder, stream)
    state, position = restored(log)
    assert state == then[-1][0]
    assert without_letters(position) == without_letters(then[-1][1])
    assert letters_of(folder / "dead.jsonl") == before


def test_a_rollback_from_a_stream_that_went_wrong(capsys, tmp_path):
    """What the stream has after the position is another by now: nothing of what it was is left."""
    good, bad = lines(400, bad=(17, 18, 250)), lines(400, bad=(17, 18, 230, 231, 260, 261))
    bad[203:] = [text.replace('"item": ', '"item": 7') for text in bad[203:]]
    assert good[:200] == bad[:200]
    for name, limit in (("never", ["--max-events", 200]), ("back", [])):
        (tmp_path / name).mkdir()
        source = tmp_path / name / "events.jsonl"
        source.write_text("\n".join(good if limit else bad) + "\n")
        train(tmp_path / name, source, *limit)
    log = tmp_path / "back" / "model"
    learned = [entry.position["events"] for entry in entries(tmp_path / "never" / "model")][-1]
    number = next(entry.number for entry in entries(log) if entry.position["events"] == learned)
    assert command(capsys, "log", log, "--roll-back-to", number)[0] == 0
    (tmp_path / "back" / "events.jsonl").write_text("\n".join(good) + "\n")
    for name in ("never", "back"):
        train(tmp_path / name, tmp_path / name / "events.jsonl")
    (state, position), (expected, _) = restored(log), restored(tmp_path / "never" / "model")
    assert state == expected
    assert (position["events"], position["rejected"]) == (400, 3)
    letters = letters_of(tmp_path / "back" / "dead.jsonl")
    assert letters == letters_of(tmp_path / "never" / "dead.jsonl")
    assert len(letters) == 3


def test_what_was_rolled_back_can_be_rolled_forward(capsys, folder, stream):
    log = folder / "model"
    last = entries(log)[-1].number
    then = restored(log)
    assert command(capsys, "log", log, "--roll-back-to", 3)[0] == 0
    status, out, _ = command(capsys, "log", log, "--roll-back-to", last, "--json")
    newest = entries(log)[-1]
    assert (status, json.loads(out)) == (0, {"rolled_back_to": last, **vars(newest)})
    assert newest.number == last + 2
    assert restored(log) == then
    train(folder, stream)  # there is nothing to be learned
    assert restored(log)[0] == then[0]
    assert len(letters_of(folder / "dead.jsonl")) == 4


@pytest.mark.parametrize("what", ["increment", "base", "unlisted"])
def test_the_newest_that_is_damaged_is_not_what_a_train_goes_on_from(capsys, tables, what):
    folder, _ = tables
    newest, whole = 5, 4
    if what == "base":
        newest, whole = 6, 5
        with fi.checkpoint.Log(folder) as log:
            log.append(new_table(), position="another")
        flip(next((folder / "base-0000000000000006").glob("arrays-*")), -1)
    else:
        (segment,) = folder.glob("increments-*")
        flip(segment, -1 if what == "increment" else segment.read_bytes().rindex(MAGIC) + 20)
    before = files(folder)
    if what == "unlisted":
        found = command(capsys, "log", folder, "--roll-back-to", 4)
        assert_one_line_error(found, "4 is the newest already", "without what is damaged", "at record 5")
    else:
        found = command(capsys, "log", folder, "--roll-back-to", newest)
        assert_one_line_error(found, "damaged", f"number {whole} is what can be restored")
        assert "already" not in found[2]
    assert files(folder) == before


def test_rolled_forward_over_a_train_that_cut_off_dead_letters(capsys, folder, stream, tmp_path):
    """They are in no file any more, which the next train doesn't pass over; a copy of it is what they were kept in."""
    log, dead = folder / "model", folder / "dead.jsonl"
    last, then = entries(log)[-1].number, restored(log)
    shutil.copy(dead, tmp_path / "copy")
    assert command(capsys, "log", log, "--roll-back-to", 2)[0] == 0
    train(folder, stream, "--max-events", 50)
    assert len(letters_of(dead)) == 2
    assert command(capsys, "log", log, "--roll-back-to", last)[0] == 0
    arguments = ["--from", stream, "--model", log, "--dead-letters", dead]
    status, out, err = command(capsys, "train", *arguments)
    assert (status, out) == (2, "")
    assert "when the model was saved: it is another file" in err
    assert len(letters_of(dead)) == 2
    shutil.copy(tmp_path / "copy", dead)
    train(folder, stream)
    assert restored(log)[0] == then[0]
    assert len(letters_of(dead)) == 4


def test_rolled_forward_over_a_train_that_wrote_other_dead_letters(capsys, tmp_path):
    """The file begins as it did, and is longer: its end tells that these are the letters of another train."""
    stream, dead = tmp_path / "events.jsonl", tmp_path / "dead.jsonl"
    common = range(0, 200, 10)  # letters of more than 1,024 bytes
    stream.write_text("\n".join(lines(400, bad=(*common, 250, 260, 270))) + "\n")
    train(tmp_path, stream)
    log = tmp_path / "model"
    last = entries(log)[-1].number
    number = next(e.number for e in entries(log) if e.position["rejected"] == len(common))
    shutil.copy(dead, tmp_path / "copy")
    assert command(capsys, "log", log, "--roll-back-to", number)[0] == 0
    shutil.copy(stream, tmp_path / "was")
    stream.write_text("\n".join(lines(400, bad=(*common, 255, 265, 275, 285))) + "\n")
    train(tmp_path, stream)
    assert len(letters_of(dead)) == len(common) + 4
    shutil.copy(tmp_path / "was", stream)
    assert command(capsys, "log", log, "--roll-back-to", last)[0] == 0
    before = files(tmp_path)
    status, out, err = command(capsys, "train", "--from", stream, "--model", log, "--dead-letters", dead)
    assert (status, out) == (2, "")
    assert "has other letters than it had when the model was saved: it is another file" in err
    assert dead.read_bytes() == before[dead.relative_to(tmp_path)]
    shutil.copy(tmp_path / "copy", dead)
    train(tmp_path, stream)
    assert len(letters_of(dead)) == restored(log)[1]["rejected"] == len(common) + 3


def test_a_log_that_is_written_to_is_not_rolled_back(capsys, tables, monkeypatch):
    folder, _ = tables
    monkeypatch.setattr(_restoring, "restore", lambda *_: pytest.fail("that is minutes of work"))
    with fi.checkpoint.Log(folder) as log:
        log.lock()
        before = files(folder)
        assert_one_line_error(
            command(capsys, "log", folder, "--roll-back-to", 2), f"has a writer already: pid {os.getpid()}"
        )
        assert files(folder) == before


def test_a_rollback_removes_nothing(capsys, tmp_path):
    """Not even what no state can be restored from: it may be mended from a backup."""
    with fi.checkpoint.Log(tmp_path / "log") as log:
        for position in range(4):
            log.append(new_table(), position=position)
    (tmp_path / "log" / "base-0000000000000001" / "manifest.json").write_text("{}")
    before = files(tmp_path / "log")
    assert command(capsys, "log", tmp_path / "log", "--roll-back-to", 2)[0] == 0
    after = files(tmp_path / "log")
    assert before.keys() <= after.keys()
    assert [entry.position for entry in entries(tmp_path / "log")] == [1, 2, 3, 1]


@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_damaged_log_goes_on_from_a_state_that_is_whole(capsys, tables, where):
    folder, states = tables
    (segment,) = folder.glob("increments-*")
    flip(segment, -1 if where == "end" else segment.stat().st_size // 2)
    assert command(capsys, "log", folder, "--check")[0] == 2
    good = 4 if where == "end" else 2
    status, _, err = command(capsys, "log", folder, "--roll-back-to", good)
    assert status == 0
    assert err.startswith("fastinc: warning: ") if where == "end" else err == ""
    assert err.count("\n") == (where == "end")
    with quiet():
        table, position = fi.checkpoint.Log(folder).restore()
    assert table_state(table) == states[good - 1]
    assert position[:2] == ["shard", good - 1]
    assert command(capsys, "log", folder, "--check")[0] == 0


@pytest.mark.parametrize("others", [0, 1])
def test_a_redis_stream_is_read_again_from_there(capsys, tmp_path, others):
    """Its group goes back by itself; where it doesn't it is to be put back, which is told."""
    need_redis()
    server = RedisServer(tmp_path).start()
    try:
        with server.client() as client:
            for n in range(400):
                client.xadd("s", {"user": f"u{n * n % 31}", "item": n % 23, "timestamp": 60 * n})
            url = f"{server.url}&stream=s&group=g"
            train(tmp_path, url, "--max-events", 400)
            then = restored(tmp_path / "model")
            if others:
                client.xgroup_createconsumer("s", "g", "idle")
            for number in (4, 1):
                status, _, err = command(capsys, "log", tmp_path / "model", "--roll-back-to", number)
                assert status == 0
                position = restored(tmp_path / "model")[1]
                place = "0" if number == 1 else position["source"]["id"]
                name = "STREAM" if number == 1 else "s"
                assert err.endswith(f"it is put back by XGROUP SETID {name} GROUP {place}\n")
                assert ("where it has one consumer" in err) == (number == 4)
                if number == 1 or others:
                    client.xgroup_setid("s", "g", place)
                held = len((position["held"] or {"users": []})["users"])
                train(tmp_path, url, "--max-events", 400 - position["events"] - held)
                assert restored(tmp_path / "model")[0] == then[0]
    finally:
        server.kill()
