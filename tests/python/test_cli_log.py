"""``fastinc log``, through `main`: what it shows is what is there, and a rollback is as if nothing had come after."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import sys
from datetime import datetime

import pytest

import fastinc as fi
from _commands import assert_one_line_error, command
from _logs import each_call, failing, flip, learn, new_table, quiet, tables_fixture
from _logs import state_of as table_state
from _redis import RedisServer, need_redis
from _streams import letters_of, lines, state_of, stream_fixture
from fastinc.checkpoint import _restoring
from fastinc.checkpoint._records import MAGIC
from fastinc.cli import main

stream = stream_fixture()
tables = tables_fixture()


def train(folder, source, *more):
    arguments = ["train", "--from", source, "--model", folder / "model", "--dead-letters", folder / "dead.jsonl"]
    arguments += ["--dim", 4, "--seed", 3, "--checkpoint-every", 50, *more]
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def trained(stream, tmp_path_factory):
    """A folder that has what a train of all the stream leaves."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, stream)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it; its dead letters are named in positions by their path, so the copy has that name."""
    kept = tmp_path / "kept"
    shutil.copytree(trained, kept)
    yield trained
    shutil.rmtree(trained)
    shutil.copytree(kept, trained)


def entries(path):
    return fi.checkpoint.Log(path).entries()


def files(folder):
    """Return all that a folder has, by name."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restored(path, **which):
    """Return everything the state of a log is, and its position."""
    model, position = fi.checkpoint.Log(path).restore(**which)
    return state_of(model, path.parent / "look"), position


def without_letters(position):
    """Return a position but for its dead letters, whose path and mark are another in each run of a test."""
    return {name: part for name, part in position.items() if name != "dead_letters"}


# --- the list ------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_for_each_record(capsys, trained):
    have = entries(trained / "model")
    assert len(have) > 8
    status, out, err = command(capsys, "log", trained / "model")
    assert (status, err) == (0, "")
    *shown, summary = out.splitlines()
    for entry, line in zip(have, shown, strict=True):
        number, kind, when, size, *rest = line.split()
        assert (int(number), kind, int(size.replace(",", ""))) == (entry.number, entry.kind, entry.bytes)
        assert datetime.fromisoformat(when).timestamp() == int(entry.time)
        where = f"bytes {entry.position['events']} learned, {entry.position['rejected']} rejected"
        assert " ".join(rest) == where
    assert summary == f"{len(have)} records, {sum(entry.bytes for entry in have):,} bytes"
    assert "400 learned, 4 rejected" in shown[-1]


def test_the_newest_alone(capsys, trained):
    have = entries(trained / "model")
    all_lines = command(capsys, "log", trained / "model")[1].splitlines()
    *shown, summary = command(capsys, "log", trained / "model", "--last", 3)[1].splitlines()
    assert shown == all_lines[-4:-1]
    size, whole = (sum(entry.bytes for entry in some) for some in (have[-3:], have))
    assert summary == f"the newest 3 of {len(have)} records, {size:,} of {whole:,} bytes"
    assert command(capsys, "log", trained / "model", "--last", 1000)[1].splitlines() == all_lines


def test_the_list_as_json(capsys, trained):
    have = entries(trained / "model")
    status, out, err = command(capsys, "log", trained / "model", "--json", "--last", 2)
    assert (status, err) == (0, "")
    assert json.loads(out) == [vars(entry) for entry in have[-2:]]
    assert len(json.loads(command(capsys, "log", trained / "model", "--json")[1])) == len(have)


def test_positions_of_others_are_json_cut_short(capsys, tables):
    status, out, _ = command(capsys, "log", tables[0])
    assert status == 0
    for step, line in enumerate(out.splitlines()[:-1]):
        shown = line.partition(" bytes  position ")[2]
        assert shown.startswith(f'["shard", {step}, "xxx')
        assert shown.endswith("...")
        assert len(shown) == 60


@pytest.fixture
def oddly_named(tmp_path, stream):
    """A stream whose name has a byte in it that is no letter of UTF-8's."""
    folder = tmp_path / "st"
    folder.mkdir()
    try:
        shutil.copy(stream, os.fsencode(folder) + b"/caf\xe9.jsonl")
    except OSError:
        pytest.skip("this file system has names of letters alone")
    return folder


def test_a_name_that_is_no_text_fails_nothing_that_is_done(capsys, tmp_path, oddly_named, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastinc.stream"), "disabled", True)  # pytest-xdist fails at such a name
    (source,) = oddly_named.iterdir()
    train(tmp_path, source)
    assert "caf\\udce9.jsonl" in capsys.readouterr().out
    log = tmp_path / "model"
    have = entries(log)
    status, out, err = command(capsys, "log", log, "--roll-back-to", 2, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"rolled_back_to": 2, **vars(entries(log)[-1])}
    assert len(entries(log)) == len(have) + 1
    for action in (["--last", 1], ["--check"], ["--export", tmp_path / "out"]):
        status, out, err = command(capsys, "log", log, "--json", *action)
        assert (status, err) == (0, "")
        found = json.loads(out)
        position = (found[-1] if isinstance(found, list) else found)["position"]
        assert position == have[1].position
    assert sys.stdout.errors == "strict"  # as it was


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "\u8336"), ("ascii", "\\u8336"), ("latin-1", "\\u8336")])
def test_letters_are_themselves_where_the_encoding_has_them(monkeypatch, tmp_path, encoding, shown):
    with fi.checkpoint.Log(tmp_path / "log") as log:
        log.append(new_table(), position="\u8336")
    for errors in ("strict", "surrogateescape"):
        for action in ([], ["--check"]):
            stdout = io.TextIOWrapper(io.BytesIO(), encoding, errors)
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main(["log", str(tmp_path / "log"), "--json", *action]) == 0
            text = stdout.buffer.getvalue().decode(encoding)
            found = json.loads(text)
            assert (found[0] if action == [] else found)["position"] == "\u8336"
            assert f'"position": "{shown}"' in text


# --- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [[], ["--check"], ["--export", "{tmp}/out"], ["--roll-back-to", "1"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "there is no log"),
        ("file", "is a file"),
        ("empty", "holds no log"),
        ("checkpoint", "holds a checkpoint"),
        ("locked", "one that nothing was saved to yet"),
        ("", "is empty; the current folder is '.'"),
    ],
)
def test_what_is_no_log_is_an_error(capsys, tmp_path, name, message, action):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    fi.checkpoint.save(new_table(), tmp_path / "checkpoint")
    with fi.checkpoint.Log(tmp_path / "locked") as log:
        log.lock()
    before = files(tmp_path)
    action = [part.replace("{tmp}", str(tmp_path)) for part in action]
    assert_one_line_error(command(capsys, "log", name and tmp_path / name, *action), name, message)
    assert files(tmp_path) == before
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number", "2"], "--number is for --export"),
        (["--at", "2.5"], "--at is for --export"),
        (["--check", "--number", "2"], "--number is for --export"),
        (["--roll-back-to", "2", "--at", "0"], "--at is for --export"),
        (["--last", "0"], "--last = 0 must be at least 1"),
        (["--last", "2", "--check"], "--last is for the list"),
        (["--last", "2", "--export", "{tmp}/out"], "--last is for the list"),
        (["--last", "2", "--roll-back-to", "0"], "--last is for the list"),
        (["--check", "--roll-back-to", "2"], "not allowed with argument"),
        (["--check", "--export", "{tmp}/out"], "not allowed with argument"),
        (["--export", "{tmp}/out", "--number", "2", "--at", "1"], "not allowed with argument"),
        (["--export", "{tmp}/out", "--number", "0"], "--number = 0 must be from 1"),
        (["--export", "{tmp}/out", "--number", "6"], "number 5 can be restored"),
        (["--export", "{tmp}/out", "--at", "3"], "at = 3.0 is before all"),
        (["--export", "{tmp}/tables"], "is there already"),
        (["--export", "{tmp}/dangling"], "is there already"),
        (["--export", "{tmp}/tables/base-0000000000000009"], "is within the log"),
        (["--export", ""], "--export = '' is empty"),
        (["--roll-back-to", "0"], "--roll-back-to = 0 must be from 1"),
        (["--roll-back-to", "6"], "--roll-back-to 6 is not kept"),
        (["--roll-back-to", "5"], "--roll-back-to 5 is the newest already"),
    ],
)
def test_mistakes_change_nothing(capsys, tables, tmp_path, arguments, message):
    (tmp_path / "dangling").symlink_to("nowhere")
    before = files(tmp_path)
    assert_one_line_error(
        command(capsys, "log", tables[0], *(part.replace("{tmp}", str(tmp_path)) for part in arguments)), message
    )
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


# --- check ---------------------------------------------------------------------------------------------------


def test_check_says_what_the_newest_state_is(capsys, trained):
    before = files(trained)
    model, position = fi.checkpoint.Log(trained / "model").restore()
    newest = entries(trained / "model")[-1]
    status, out, err = command(capsys, "log", trained / "model", "--check")
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert out.startswith(f"number {newest.number} of ")
    held = f"Recommender, {model.n_users} users, {model.n_items} items, 400 events; 400 learned, 4 rejected"
    assert out.endswith(f" is whole: {held}\n")
    status, out, _ = command(capsys, "log", trained / "model", "--check", "--json")
    facts = {"number": newest.number, "time": newest.time, "kind": "Recommender"}
    facts |= {"users": model.n_users, "items": model.n_items, "events": 400, "position": position}
    assert (status, json.loads(out)) == (0, facts)
    assert files(trained) == before


@pytest.mark.parametrize("kind", ["EmbeddingTable", "LiveIndex"])
def test_check_of_rows(capsys, tmp_path, kind):
    table = new_table()
    learn(table, [1, 2, 3])
    with fi.checkpoint.Log(tmp_path / "log") as log:
        log.append(table if kind == "EmbeddingTable" else fi.LiveIndex(table, "exact"), position=7)
    status, out, _ = command(capsys, "log", tmp_path / "log", "--check")
    assert (status, out.partition(" is whole: ")[2]) == (0, f"{kind}, 3 rows; position 7\n")
    facts = json.loads(command(capsys, "log", tmp_path / "log", "--check", "--json")[1])
    assert (facts["kind"], facts["rows"], facts["dim"], facts["position"]) == (kind, 3, 2, 7)


def test_check_finds_any_byte_that_is_damaged(capsys, tables):
    """In the base, in the middle of the increments, at their end: each is told, and costs the exit status."""
    folder, _ = tables
    assert command(capsys, "log", folder, "--check")[0] == 0
    (segment,) = folder.glob("increments-*")
    (arrays,) = folder.glob("base-*/arrays-*")
    for path, at in ((segment, -1), (segment, segment.stat().st_size // 2), (arrays, -1)):
        flip(path, at)
        before = files(folder)
        assert_one_line_error(command(capsys, "log", folder, "--check"), path.name.partition("-")[0])
        assert files(folder) == before
        flip(path, at)
    assert command(capsys, "log", folder, "--check")[0] == 0


def test_check_tells_of_an_older_state_in_place_of_a_damaged_one(capsys, tables):
    folder, _ = tables
    with fi.checkpoint.Log(folder) as log:
        log.append(new_table(), position="another")
    flip(next((folder / "base-0000000000000006").glob("arrays-*")), -1)
    assert_one_line_error(
        command(capsys, "log", folder, "--check"), "base-0000000000000006", "number 5 is what can be restored"
    )


def test_a_log_without_a_base_that_can_be_read_isnt_listed_as_empty(capsys, tables):
    folder, _ = tables
    (folder / "base-0000000000000001" / "manifest.json").write_text("{}")
    assert_one_line_error(command(capsys, "log", folder), "has no base that can be read: --check says")
    assert_one_line_error(command(capsys, "log", folder, "--check"), "no base in", "can be read")


# --- export --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["newest", "number", "at"])
def test_a_state_is_exported_with_its_position(capsys, tables, tmp_path, which):
    folder, states = tables
    have = entries(folder)
    assert have[2].time < have[3].time
    options = {"newest": [], "number": ["--number", 3], "at": ["--at", repr((have[2].time + have[3].time) / 2)]}[which]
    number = 5 if which == "newest" else 3
    before = files(folder)
    status, out, err = command(capsys, "log", folder, "--export", tmp_path / "new" / "out", *options)
    assert (status, err) == (0, "")
    assert out.startswith(f"number {number} of ")
    table, position = fi.checkpoint.load(tmp_path / "new" / "out")
    assert table_state(table) == states[number - 1]
    assert position == have[number - 1].position
    assert files(folder) == before
    out = command(capsys, "log", folder, "--export", tmp_path / "json", *options, "--json")[1]
    assert json.loads(out)["path"] == str(tmp_path / "json")
    assert json.loads(out)["number"] == number


def test_what_is_exported_of_a_damaged_log_is_told(capsys, tables, tmp_path):
    folder, states = tables
    flip(next(folder.glob("increments-*")), -1)
    status, _, err = command(capsys, "log", folder, "--export", tmp_path / "out")
    assert status == 0
    assert err.startswith("fastinc: warning: ")
    assert err.endswith("number 4 is exported\n")
    assert table_state(fi.checkpoint.load(tmp_path / "out")[0]) == states[3]


def test_an_export_that_failed_can_be_done_again(capsys, tables, tmp_path):
    folder, states = tables
    for disk in each_call(errno.ENOSPC):
        out = tmp_path / f"out{disk.at}"
        with failing(disk):
            status, _, err = command(capsys, "log", folder, "--export", out)
        if disk.failed is not None and status:
            assert os.strerror(errno.ENOSPC) in err
            assert command(capsys, "log", folder, "--export", out)[0] == 0
        assert table_state(fi.checkpoint.load(out)[0]) == states[-1]
    assert disk.at > 5


def test_a_model_that_is_exported_answers(capsys, trained, tmp_path):
    assert command(capsys, "log", trained / "model", "--export", tmp_path / "out")[0] == 0
    answers = [
        command(capsys, "recommend", "--model", m, "--user", "u1") for m in (trained / "model", tmp_path / "out")
    ]
    assert answers[0][0] == 0
    assert answers[0] == answers[1]


# --- rollback ------------------------------------------------------------------------------------------------


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
