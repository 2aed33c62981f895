"""Streams of which nothing can be learned, and sources that give what is no batch."""

from __future__ import annotations

import contextlib
import json
import logging

import numpy as np
import pytest

import fastinc as fi
from _commands import command
from _streams import Crash, Crashing, letters_of, new_model, run


@pytest.fixture
def stream(tmp_path):
    """A file of 60 events, whose 8th is malformed."""
    texts = [json.dumps({"user": n % 7, "item": n % 11}) for n in range(60)]
    texts[7] = "oops"
    file = tmp_path / "e.jsonl"
    file.write_text("\n".join(texts) + "\n")
    return file


def wrong(stream):
    """Open it with an option by which there is no event in it."""
    return fi.stream.open(stream, columns={"user": "u"})


def test_a_run_that_rejects_everything_saves_no_position(stream, tmp_path):
    """The right option then reads all of it; dead letters of before are cut, and those of before that stay."""
    dead = tmp_path / "dead.jsonl"
    dead.write_text('{"mine": true}\n')
    for crash in (None, 2):
        with wrong(stream) as source, contextlib.suppress(Crash):
            source = source if crash is None else Crashing(source, crash)
            _, done = run(tmp_path, source, batch_size=10, checkpoint_every=20, checkpoint_seconds=0.0)
            assert (done.events, done.held, done.rejected, done.checkpoints) == (0, 0, 60, 1)
            assert done.first_rejected.where == "e.jsonl:1"
            assert "no column 'u' for the users" in done.first_rejected.reason
            assert len(letters_of(dead)) == 61
            saved = fi.checkpoint.Log(tmp_path / "model").restore()[1]
            assert (saved["source"], saved["rejected"]) == (None, 0)
    with fi.stream.open(stream) as source:
        model, done = run(tmp_path, source)
    assert (done.events, done.rejected, model.n_events) == (59, 1, 59)
    assert done.first_rejected.where == "e.jsonl:8"
    assert [letter.get("where") for letter in letters_of(dead)] == [None, "e.jsonl:8"]
    with wrong(stream) as source:
        _, done = run(tmp_path, source)
    assert done.first_rejected is None


def test_positions_are_saved_once_something_was_learned_or_is_held(stream, tmp_path):
    for limit, events, held in ((1, 0, 1), (20, 16, 4)):
        with fi.stream.open(stream) as source:
            _, done = run(tmp_path, source, max_events=limit)
        assert (done.events, done.held) == (events, held)
        saved = fi.checkpoint.Log(tmp_path / "model").restore()[1]
        assert saved["source"]["line"] == (1 if limit == 1 else 21)


def test_the_first_rejected_event_of_a_run_is_told(stream, tmp_path, caplog):
    with fi.stream.open(stream) as source:
        run(tmp_path, source, dead_letters=None)
    (record,) = [record for record in caplog.records if "rejected" in record.getMessage()]
    assert (record.name, record.levelno) == ("fastinc.stream", logging.WARNING)
    assert record.getMessage().startswith(f"{stream}: the first event that is rejected: e.jsonl:8: not JSON: Expecting")
    caplog.clear()
    with wrong(stream) as source:
        run(tmp_path / "other", source, dead_letters=None)
    assert len([record for record in caplog.records if "rejected" in record.getMessage()]) == 1


# --- batches of one's own sources -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["items", "labels", "timestamps", "wheres"])
def test_batches_are_of_one_length(name):
    columns = {"users": [1, 2], "items": [1, 2], "labels": [1.0, 2.0], "timestamps": [1.0, 2.0], "wheres": ["a", "b"]}
    columns = {key: value if key == "wheres" else np.array(value) for key, value in columns.items()}
    assert len(fi.stream.Batch(**columns, position=1)) == 2
    with pytest.raises(ValueError, match=f"{name} has 1 entries, and users has 2"):
        fi.stream.Batch(**{**columns, name: columns[name][:1]}, position=1)


class Giving(fi.stream.Source):
    """Gives what it was told to."""

    name = "mine"

    def __init__(self, *given):
        self.given = list(given)

    def read(self, max_events, timeout):
        return self.given.pop(0)

    def seek(self, position):
        raise AssertionError


def batch_at(position, n=8):
    ids = np.arange(n)
    return fi.stream.Batch(ids, ids, None, None, [""] * n, position)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([1], [2]), "source mine: read\\(\\) gave a tuple, not a Batch or None"),
        (batch_at({1, 2}), r"source mine, Batch: position = \{1, 2\} is not JSON: Object of type set"),
        (batch_at(float("nan")), "source mine, Batch: position = nan is not JSON"),
        (batch_at({1: 2}), "source mine, Batch: .* JSON's keys are strings"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_what_came_before_is_saved(tmp_path, given, message):
    with pytest.raises(TypeError, match=message):
        run(tmp_path, Giving(batch_at(1), None, given))
    model, position = fi.checkpoint.load(tmp_path / "model")
    assert (model.n_events, position["source"], position["events"]) == (8, 1, 8)


# --- messages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"user": 1, "item": null, "timestamp": 5}',
            "fields: none of the columns ['user', 'timestamp'] is named as items are: use columns; "
            "null counts as missing, and so are ['item']",
        ),
        ('{"user": null}', "no field is named as users are: []; null counts as missing, and so are ['user']"),
        ('{"user": 1, "timestamp": 5}', "none of the columns ['user', 'timestamp'] is named as items are: use columns"),
    ],
)
def test_null_counts_as_missing_and_says_so(tmp_path, text, reason):
    (tmp_path / "e.jsonl").write_text(text + "\n")
    with fi.stream.open(tmp_path / "e.jsonl") as source:
        (letter,) = source.read(1, timeout=0.0).rejected
    assert letter.reason.endswith(reason)


def test_a_forgotten_scheme_is_pointed_out(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "localhost:7391/0?stream=clicks"
    with pytest.raises(FileNotFoundError, match=r"there are no files; .* begin with redis:// or kafka://"):
        fi.stream.open(url)
    with pytest.raises(FileNotFoundError, match=r"\?\.csv: there are no files$"):
        fi.stream.open("?.csv")
    with fi.stream.open(url, follow=True) as source:
        assert source.read(1, timeout=0.0) is None
    assert "there are no files yet: they are waited for; streams of servers begin with redis://" in caplog.text


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_fails_where_everything_was_rejected(capsys, stream, tmp_path):
    train = ["--from", stream, "--model", tmp_path / "m", "--dim", 4]
    for limit in ([], ["--max-events", 9]):
        status, out, err = command(capsys, "train", *train, "--columns", "user=u", *limit)
        assert (status, out) == (2, "")
        last = err.splitlines()[-1]
        assert f"nothing of {stream} was learned: all {limit[1] if limit else 60} events were rejected" in last
        assert "the next run reads them again. The first, e.jsonl:1: fields: no column 'u' for the users" in last
    status, out, err = command(capsys, "train", *train)
    assert (status, err.splitlines()[0]) == (0, f"reading {stream} from the start: there is no saved position")
    assert "(59 in all, 1 rejected)" in out
    assert command(capsys, "train", *train, "--columns", "user=u")[0] == 0  # nothing was read
    (tmp_path / "empty.jsonl").touch()
    assert command(capsys, "train", "--from", tmp_path / "empty.jsonl", "--model", tmp_path / "n")[0] == 0


def test_the_command_goes_on_after_a_gap(capsys, stream, tmp_path):
    train = ["--from", stream, "--model", tmp_path / "m", "--dim", 4]
    assert command(capsys, "train", *train)[0] == 0
    stream.write_text('{"user": 1, "item": 2}\n')
    status, _, err = command(capsys, "train", *train, "--on-gap", "raise")
    assert (status, "on_gap='skip'" in err) == (2, True)
    status, out, err = command(capsys, "train", *train, "--on-gap", "skip")
    assert (status, "learned 1 events" in out) == (0, True)
    status, _, err = command(
        capsys,
        "train",
        "--from",
        "redis://localhost?stream=s&on_gap=skip",
        "--model",
        tmp_path / "n",
        "--on-gap",
        "raise",
    )
    assert (status, "on_gap = 'skip' in the URL is given twice" in err) == (2, True)


@pytest.mark.parametrize("kind", ["checkpoint", "log"])
def test_the_command_begins_with_a_saved_model(capsys, stream, tmp_path, kind):
    model = new_model().partial_fit(np.arange(20), np.arange(20))
    if kind == "checkpoint":
        fi.checkpoint.save(model, tmp_path / "first")
    else:
        with fi.checkpoint.Log(tmp_path / "first") as log:
            log.append(model)
    train = ["--from", stream, "--model", tmp_path / "m", "--start-with", tmp_path / "first"]
    status, _, err = command(capsys, "train", *train, "--dim", 8)
    assert (status, f"--dim 8: the model in {tmp_path}/first has 4" in err) == (2, True)
    status, out, err = command(capsys, "train", *train, "--max-events", 30)
    assert "from the start: there is no saved position, with a model of 20 events" in err
    assert (status, "28 in all" in out) == (0, True)
    status, out, err = command(capsys, "train", *train)
    assert (status, "59 in all" in out) == (0, True)
    assert f"--start-with {tmp_path}/first is left out: {tmp_path}/m has a model" in err
    with fi.stream.open(stream) as source, fi.checkpoint.Log(tmp_path / "n") as log:
        fi.stream.train(model, source, log)
    learned = fi.checkpoint.load(tmp_path / "m")[0]
    assert learned.n_events == model.n_events == 79
    assert learned.recommend(3)[0].tolist() == model.recommend(3)[0].tolist()


def test_the_command_keeps_as_much_of_the_log_as_it_is_told(capsys, stream, tmp_path, monkeypatch):
    pytest.importorskip("zstandard")
    log_of, told = fi.checkpoint.Log, []
    monkeypatch.setattr(fi.checkpoint, "Log", lambda path, **options: told.append(options) or log_of(path, **options))
    train = ["--from", stream, "--model", tmp_path / "m", "--dim", 4]
    assert command(capsys, "train", *train, "--keep", 2, "--keep-seconds", 60, "--compression", "zstd")[0] == 0
    assert told == [{"keep": 2, "keep_seconds": 60.0, "compression": "zstd"}]
    assert [path.suffix for path in (tmp_path / "m").glob("base-*/arrays-*")] == [".zst"]
    assert command(capsys, "train", *train)[0] == 0
    assert told[1] == {"keep_seconds": None, "compression": None}


def test_a_log_is_no_place_for_a_checkpoint_and_json_lines_none_for_events(capsys, stream, tmp_path):
    assert command(capsys, "train", "--from", stream, "--model", tmp_path / "m", "--dim", 4)[0] == 0
    (tmp_path / "e.csv").write_text("user,item\nx\n")  # malformed: it isn't even looked at
    status, out, err = command(capsys, "train", "--events", tmp_path / "e.csv", "--model", tmp_path / "m")
    assert (status, out) == (2, "")
    assert f"--model {tmp_path}/m holds a log, as train --from makes it: --events needs a folder of its own" in err
    status, out, err = command(capsys, "train", "--events", stream, "--model", tmp_path / "n")
    assert (status, out) == (2, "")
    assert f"--events {stream}: these are JSON lines, which 'fastinc train --from' reads" in err
