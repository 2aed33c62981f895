"""``fastinc log``, through `main`: what it shows, checks and takes out is what is there."""

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
from _logs import each_call, failing, flip, learn, new_table, tables_fixture
from _logs import state_of as table_state
from _streams import stream_fixture
from _trained import entries, files, train, trained_fixture
from fastinc.cli import main

stream = stream_fixture()
tables = tables_fixture()
trained = trained_fixture()


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
