"""`fi.stream.train`: each event in the saved state once, the same bytes however often it is killed."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinc as fi
from _commands import command
from _streams import (
    BAD,
    DEADLINE,
    LONG,
    Crash,
    Crashing,
    Endless,
    Kept,
    letters_of,
    lines,
    new_model,
    run,
    state_of,
    stream_fixture,
)

stream = stream_fixture()
SAVED = {"format": "fastinc-stream", "version": 1, "source": None, "held": None, "events": 0, "rejected": 0}
SAVED |= {"dead_letters": None}


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """The state and the dead letters of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with fi.stream.open(stream) as source:
        model, done = run(folder, source)
    assert (done.events, done.rejected, done.held, done.learned) == (400, len(BAD), 0, 400)
    assert model.n_events == 400
    return state_of(model, folder / "saved"), letters_of(folder / "dead.jsonl")


def test_it_is_what_partial_fit_learns(stream, whole, tmp_path):
    events = [json.loads(text) for text in lines(bad=())]
    columns = [[event[name] for event in events] for name in ("user", "item", "timestamp")]
    model = new_model().partial_fit(columns[0], columns[1], timestamps=columns[2])
    assert state_of(model, tmp_path) == whole[0]
    assert [letter["raw"] for letter in whole[1]] == [f"bad {k}" for k in BAD]
    assert [letter["where"] for letter in whole[1]] == [f"events.jsonl:{k + 1}" for k in BAD]
    assert all("not JSON" in letter["reason"] for letter in whole[1])


@settings(max_examples=100 if LONG else 10)
@given(runs=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60), st.integers(1, 90)), max_size=12))
def test_crashes_between_batches_change_nothing(stream, whole, tmp_path_factory, runs):
    """Whatever the sizes of batches and how often it is saved, and both differ from run to run."""
    folder = tmp_path_factory.mktemp("crashes")
    for calls, batch_size, every in runs:
        with fi.stream.open(stream) as source, contextlib.suppress(Crash):
            run(folder, Crashing(source, calls), batch_size=batch_size, checkpoint_every=every)
    with fi.stream.open(stream) as source:
        model, done = run(folder, source)
    assert (done.events, done.rejected) == (400, len(BAD))
    assert state_of(model, folder / "saved") == whole[0]
    assert letters_of(folder / "dead.jsonl") == whole[1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_a_save_changes_nothing(stream, whole, tmp_path, moment):
    """Before the record is there nothing has happened; after it all has, though the source was not told."""
    for crash_at in (1, 2, 4, 7):
        with fi.stream.open(stream) as source, fi.checkpoint.Log(tmp_path / "model") as log:
            model, position = log.restore() or (new_model(), None)

            class CrashingLog:
                n = 0

                def append(self, obj, position=None, log=log, crash_at=crash_at):
                    self.n += 1
                    if self.n == crash_at and moment == "before":
                        raise Crash
                    log.append(obj, position=position)
                    if self.n == crash_at:
                        raise Crash

            with pytest.raises(Crash):
                fi.stream.train(
                    *(model, source, CrashingLog()),
                    position=position,
                    checkpoint_every=20,
                    batch_size=9,
                    dead_letters=tmp_path / "dead.jsonl",
                )
    with fi.stream.open(stream) as source:
        model, _ = run(tmp_path, source)
    assert state_of(model, tmp_path / "saved") == whole[0]
    assert letters_of(tmp_path / "dead.jsonl") == whole[1]


def test_stops_change_nothing_and_save_all(stream, whole, tmp_path):
    """A stop keeps the events whose group isn't full for the next run."""
    held = set()
    for limit in (3, 1, 50, 7, 100, 5):
        with fi.stream.open(stream) as source:
            model, done = run(tmp_path, source, max_events=limit)
        assert done.events + done.held + done.rejected <= 400
        assert model.n_events == done.events
        held.add(done.held)
    assert max(held) > 0
    with fi.stream.open(stream) as source:
        model, done = run(tmp_path, source)
    assert state_of(model, tmp_path / "saved") == whole[0]
    with fi.stream.open(stream) as source:
        _, done = run(tmp_path, source)  # nothing is left to learn
    assert (done.learned, done.events, done.checkpoints) == (0, 400, 1)


def test_batches_that_are_all_malformed_leave_what_is_held(stream, whole, tmp_path):
    """They have no timestamps, and what is held has: of this run, and of the one before."""
    for limit in (17, None):
        with fi.stream.open(stream) as source:
            model, done = run(tmp_path, source, batch_size=1, max_events=limit)
        assert done.held == (1 if limit else 0)
    assert (done.events, done.rejected) == (400, len(BAD))
    assert state_of(model, tmp_path / "saved") == whole[0]
    assert letters_of(tmp_path / "dead.jsonl") == whole[1]


# --- events that can't be learned ----------------------------------------------------------------------------


def write(file, events):
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return file


def test_what_the_model_refuses_is_rejected_alone(tmp_path):
    labels = [0, 1, 2, 0.5, -1, *[1] * 30, 7]
    file = write(tmp_path / "a.jsonl", [{"user": 1, "item": k, "label": label} for k, label in enumerate(labels)])
    with fi.stream.open(file) as source:
        model, done = run(tmp_path, source, lambda: new_model(loss="logistic"))
    assert (model.n_events, done.rejected) == (len(labels) - 3, 3)
    letters = letters_of(tmp_path / "dead.jsonl")
    assert [letter["where"] for letter in letters] == ["a.jsonl:3", "a.jsonl:5", "a.jsonl:36"]
    assert json.loads(letters[0]["raw"]) == {"user": 1, "item": 2, "label": 2.0}
    assert "the model refuses it: labels[0] = 2.0 must be in [0, 1]" in letters[0]["reason"]


def test_events_of_another_kind_than_the_model_knows_are_rejected(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"user": "u", "item": k} for k in range(20)])
    with fi.stream.open(file) as source:
        model, done = run(tmp_path, source, lambda: new_model().partial_fit(1, 2))
    assert (model.n_events, done.rejected, done.events) == (1, 20, 0)
    assert "users are str ids, but this model has learned int ids" in letters_of(tmp_path / "dead.jsonl")[0]["reason"]


def test_labels_go_to_models_that_use_them(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"user": 1, "item": k, "label": 5} for k in range(20)])
    for loss in ("softmax", "mse"):
        with fi.stream.open(file) as source:
            model, done = run(tmp_path / loss, source, lambda loss=loss: new_model(loss=loss), dead_letters=None)
        assert (done.events, done.rejected) == (20, 0)
        if loss == "mse":
            assert model.predict(1, 3) > 1  # it has seen fives


# --- when it saves, and stops ----------------------------------------------------------------------------------


def test_saves_come_after_so_many_events_and_before_the_source_is_told():
    source = Endless()
    log = Kept(source)
    seen = []
    done = fi.stream.train(
        *(new_model(), source, log),
        checkpoint_every=100,
        batch_size=64,
        max_events=250,
        checkpoint_seconds=None,
        on_batch=lambda batch: seen.append(len(batch)),
        on_checkpoint=lambda progress: seen.append(progress.events + progress.held),
    )
    assert seen == [0, 64, 36, 100, 64, 36, 200, 50, 250]
    expected = [("append", None)]
    for n in (100, 200, 250):
        expected += [("append", n), ("commit", n)]
    assert source.calls == expected
    assert (done.events, done.held, done.checkpoints) == (248, 2, 4)
    assert log.positions[-1]["held"]["users"] == [248, 249]
    source, model = Endless(), new_model().partial_fit(np.arange(248), np.arange(248))
    without = {name: part for name, part in log.positions[-1].items() if name != "model_events"}  # as of earlier ones
    for position, message in ((log.positions[-1], "this one has learned 0: pass"), (without, "the model has 0")):
        with pytest.raises(ValueError, match=f"248 events.*{message}"):
            fi.stream.train(new_model(), source, Kept(source), position=position)
    fi.stream.train(model, source, Kept(source), position=log.positions[-1], max_events=8)
    assert source.calls[0] == ("seek", 250)
    assert source.calls[1] == ("append", 250)


def test_saves_come_by_the_clock_when_there_is_something_to_save():
    source = Endless(silent_after=30)
    log = Kept(source)
    end, saved = time.monotonic() + DEADLINE, []

    def stop():
        if len(log.positions) > 1:
            saved.append(time.monotonic())
        return time.monotonic() > (saved[0] + 0.25 if saved else end)

    fi.stream.train(new_model(), source, log, checkpoint_seconds=0.1, stop=stop)
    assert saved, "nothing was, before the end"
    assert [position["source"] for position in log.positions] == [None, 30]


def test_events_that_wait_for_their_group_may_linger_only_so_long():
    for linger, learned in ((None, 8), (0.05, 13)):
        source = Endless(silent_after=13)
        model = new_model()
        end = time.monotonic() + DEADLINE
        stop = (lambda: model.n_events == 13 or time.monotonic() > end) if linger else (lambda: source.n == 13)  # noqa: B023
        done = fi.stream.train(model, source, Kept(source), linger=linger, stop=stop)
        assert (done.events, done.held) == (learned, 13 - learned)


def test_events_that_lingered_are_saved_though_nothing_was_read_since():
    source, model, end = Endless(silent_after=13), new_model(batch_size=8), time.monotonic() + DEADLINE
    log = Kept(source)
    stop = lambda: model.n_events == 13 or time.monotonic() > end  # noqa: E731
    fi.stream.train(model, source, log, checkpoint_every=13, checkpoint_seconds=None, linger=0.05, stop=stop)
    told = [(p["source"], p["events"], None if p["held"] is None else p["held"]["users"]) for p in log.positions]
    assert told == [(None, 0, None), (13, 8, [8, 9, 10, 11, 12]), (13, 13, None)]


def test_a_source_that_fails_costs_nothing_that_was_read():
    class Failing(Endless):
        def read(self, max_events, timeout):
            if self.n >= 100:
                raise fi.stream.GapError("gone")
            return super().read(max_events, timeout)

    source = Failing()
    log = Kept(source)
    with pytest.raises(fi.stream.GapError, match="gone"):
        fi.stream.train(new_model(), source, log, batch_size=50)
    assert log.positions[-1]["source"] == 100


def test_a_save_that_fails_is_an_error_and_nothing_is_acknowledged(stream, tmp_path):
    source = Endless()
    log = Kept(source)
    append = log.append

    def failing(obj, position=None):
        if len(log.positions) == 2:
            raise OSError(28, "No space left on device")
        append(obj, position)

    log.append = failing
    with pytest.raises(OSError, match="No space left"):
        fi.stream.train(new_model(), source, log, checkpoint_every=10)
    assert source.calls == [("append", None), ("append", 10), ("commit", 10)]


def test_a_faster_source_fills_no_memory():
    """Nothing is asked for before the last batch was learned; what a long run holds is what a short one does."""

    def peak(batches):
        source = Endless()
        model = new_model().partial_fit(np.arange(1000), np.arange(1000) // 2)
        tracemalloc.start()
        try:
            options = {"batch_size": 256, "max_events": 256 * batches, "checkpoint_every": 2**30}
            fi.stream.train(model, source, Kept(source), **options)
            return tracemalloc.get_traced_memory()[1], len(source.asked)
        finally:
            tracemalloc.stop()

    short, calls = peak(20)
    long, more_calls = peak(200)
    assert (calls, more_calls) == (20, 200)
    assert long < short + 100_000  # 180 batches more would be 180 * 256 * 16 = 737,280 bytes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every = 0"),
        ({"checkpoint_seconds": -1}, ValueError, "checkpoint_seconds = -1"),
        ({"batch_size": 0}, ValueError, "batch_size = 0"),
        ({"max_events": 0}, ValueError, "max_events = 0"),
        ({"linger": -1}, ValueError, "linger = -1"),
        ({"position": 7}, ValueError, "position = 7 was not saved by .*new folder and position=None"),
        ({"position": {"format": "fastinc-stream", "version": 2}}, ValueError, "version = 2"),
        ({"position": {**SAVED, "dead_letters": {"bytes": 7}}}, ValueError, "position: dead_letters = {'bytes': 7} m"),
        ({"position": {"format": "fastinc-stream", "version": 1}}, ValueError, "position: source, held, events, rej"),
        ({"position": {**SAVED, "events": "x"}}, TypeError, "position: events = 'x' must be a whole number"),
        ({"position": {**SAVED, "rejected": -1}}, ValueError, "position: rejected = -1 must be"),
        ({"position": {**SAVED, "held": 5}}, ValueError, "position: held = 5 must have users, items"),
        ({"position": {**SAVED, "held": {"users": [1, "a"]}}}, ValueError, "no list of ids of one kind"),
        ({"position": {**SAVED, "held": {"users": [1], "items": [1, 2]}}}, ValueError, "must be of one length"),
        ({"position": {**SAVED, "events": 5}}, ValueError, "5 events were learned, and the model has 0"),
        ({"dead_letters": ""}, ValueError, "dead_letters = '' is empty"),
        ({"dead_letters": 5}, TypeError, "dead_letters = 5 must be a str or a path"),
        ({"on_batch": 5}, TypeError, "on_batch = 5 must be a function"),
        ({"on_checkpoint": "x"}, TypeError, "on_checkpoint = 'x' must be a function"),
        ({"stop": True}, TypeError, "stop = True must be a function"),
    ],
)
def test_wrong_arguments(options, error, message):
    source = Endless()
    log = Kept(source)
    with pytest.raises(error, match=message):
        fi.stream.train(new_model(), source, log, **options)
    assert (source.n, source.calls, log.positions) == (0, [], [])


def test_what_is_no_model_or_log_is_refused_before_anything_is_done(tmp_path):
    source = Endless()
    log = fi.checkpoint.Log(tmp_path / "model")
    for model in (fi.EmbeddingTable(dim=2), None):
        with pytest.raises(TypeError, match=r"model = .* must be a fastinc\.Recommender"):
            fi.stream.train(model, source, log)
    for wrong in (None, str(tmp_path)):
        with pytest.raises(TypeError, match=r"log = .* must have a method append"):
            fi.stream.train(new_model(), source, wrong)
    assert (source.calls, list(tmp_path.iterdir())) == ([], [])


def test_a_log_with_a_model_needs_its_position(stream, tmp_path):
    with fi.stream.open(stream) as source:
        run(tmp_path, source, max_events=10)
    with fi.stream.open(stream) as source, fi.checkpoint.Log(tmp_path / "model") as log:
        with pytest.raises(ValueError, match=r"has a model: pass what its restore.*new folder and position=None"):
            fi.stream.train(new_model(), source, log)
        with pytest.raises(TypeError, match=r"must be a fastinc\.stream\.Source"):
            fi.stream.train(new_model(), stream, log)


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command_goes_on_where_it_was(capsys, stream, tmp_path):
    train = ["train", "--from", stream, "--model", tmp_path / "m", "--dim", 4]
    status, out, err = command(capsys, *train, "--max-events", 100, "--checkpoint-every", 40)
    assert status == 0
    assert "learned 96 events of" in out
    assert "(96 in all, 2 waiting for their group, 2 rejected)" in out
    told = [line.split(":")[0] for line in err.splitlines()]
    assert told == [f"reading {stream} from the start", "checkpoint 2", "checkpoint 3", "checkpoint 4"]
    status, out, err = command(capsys, *train)
    assert status == 0
    assert f"reading {stream} from the saved position on: going on after 96 events\n" in err
    assert "learned 304 events of" in out
    assert "(400 in all, 4 rejected)" in out
    status, out, _ = command(capsys, "recommend", "--model", tmp_path / "m", "--user", "u3")
    assert (status, out.splitlines()[0]) == (0, "user u3")
    options = [("--dim", 8), ("--loss", "mse"), ("--seed", 5), ("--preset", "fast"), ("--lr", 7.5)]
    for option in [*options, ("--optimizer", "sgd")]:
        status, out, err = command(capsys, *train[:5], *option)
        assert (status, out) == (2, "")
        assert f"{option[0]} {option[1]}: the model in" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --events and --from is needed"),
        (["--events", "synthetic", "--from", "x.csv"], "just one of --events and --from may be given"),
        (["--events", "synthetic", "--follow"], "--follow is for --from"),
        (["--events", "synthetic", "--checkpoint-every", "0"], "--checkpoint-every is for --from"),
        (["--events", "synthetic", "--on-gap", "skip"], "--on-gap is for --from"),
        (["--events", "synthetic", "--start-with", "x"], "--start-with is for --from"),
        (["--events", "synthetic", "--keep", "0"], "--keep is for --from"),
        (["--events", "synthetic", "--keep-seconds", "0"], "--keep-seconds is for --from"),
        (["--events", "synthetic", "--compression", "zstd"], "--compression is for --from"),
        (["--from", "x.csv", "--keep", "0"], "keep = 0"),
        (["--from", "none.csv"], "there is no such file"),
        (["--from", "x.csv", "--from-env", "X"], "just one of --from and --from-env may be given"),
        (["--from-env", "FASTINC_NONE"], "--from-env FASTINC_NONE: the environment has no such variable, or it"),
        (["--from", "x.csv", "--min-label", "4"], "--min-label is for --events"),
        (["--from", "x.csv", "--errors", "skip"], "--errors is for --events"),
        (["--from", "redis://localhost/0?stream=s", "--follow"], "--follow is for files"),
        (["--from", "x.csv", "--columns", "user"], "--columns must be ROLE=NAME"),
    ],
)
def test_wrong_options(capsys, tmp_path, arguments, message):
    status, out, err = command(capsys, "train", *arguments, "--model", tmp_path / "m")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_what_to_read_may_be_in_the_environment(capsys, stream, tmp_path, monkeypatch):
    monkeypatch.setenv("CLICKS", str(stream))
    status, out, _ = command(capsys, "train", "--from-env", "CLICKS", "--model", tmp_path / "m", "--dim", 4)
    assert status == 0
    assert f"learned 400 events of {stream}" in out
    monkeypatch.setenv("CLICKS", "redis://ann:secret@127.0.0.1:1/?stream=s&retry_seconds=0")
    status, out, err = command(capsys, "train", "--from-env", "CLICKS", "--model", tmp_path / "n", "--dim", 4)
    assert (status, out) == (2, "")
    assert "127.0.0.1:1" in err
    assert "secret" not in err


def test_a_folder_with_a_plain_checkpoint_is_refused(capsys, stream, tmp_path):
    fi.checkpoint.save(new_model().partial_fit([1], [2]), tmp_path / "m")
    before = sorted(path.name for path in (tmp_path / "m").iterdir())
    status, out, err = command(capsys, "train", "--from", stream, "--model", tmp_path / "m")
    assert (status, out) == (2, "")
    assert "--from needs a folder of its own. To begin with that model, give another one and --start-with /" in err
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == before


def test_handlers_of_signals_are_put_back(capsys, stream, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert command(capsys, "train", "--from", stream, "--model", tmp_path / "m", "--max-events", 5)[0] == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
