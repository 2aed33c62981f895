"""Another attempt after an error: nothing is left out, and nothing is learned twice."""

from __future__ import annotations

import time

import pytest

import fastinc as fi
from _streams import BAD, Endless, Kept, new_model, run, state_of, stream_fixture

stream = stream_fixture()


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """The state of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with fi.stream.open(stream) as source:
        model, _ = run(folder, source)
    return state_of(model, folder / "saved")


class Full:
    """A log whose disk is full at one of its appends."""

    def __init__(self, log, at):
        self.log, self.at = log, at

    def append(self, obj, position=None):
        self.at -= 1
        if self.at == 0:
            raise OSError(28, "No space left on device")
        return self.log.append(obj, position=position)


def test_another_attempt_with_the_source_that_was_read_loses_nothing(stream, whole, tmp_path):
    """The first position says nothing of the source, and what it gave after that is in no state: it is opened again."""
    with fi.checkpoint.Log(tmp_path / "model") as log:
        options = {"checkpoint_every": 50, "batch_size": 50}
        with fi.stream.open(stream) as source:
            with pytest.raises(OSError, match="No space left"):
                fi.stream.train(new_model(), source, Full(log, 2), **options)
            model, position = log.restore()
            with pytest.raises(ValueError, match=r"source .*events\.jsonl was read from before.* Open it again"):
                fi.stream.train(model, source, log, position=position, **options)
        with fi.stream.open(stream) as source:
            with pytest.raises(OSError, match="No space left"):
                fi.stream.train(model, source, Full(log, 4), position=position, **options)
            model, position = log.restore()  # of this one a source knows where it is
            done = fi.stream.train(model, source, log, position=position, **options)
    assert (done.events, done.rejected) == (400, len(BAD))
    assert state_of(model, tmp_path / "saved") == whole


def test_a_source_that_gave_nothing_yet_is_taken_again():
    source = Endless(silent_after=0)
    log = Kept(source)
    for _ in range(2):
        end = time.monotonic() + 0.05
        fi.stream.train(new_model(), source, log, stop=lambda end=end: time.monotonic() > end)
    source.silent_after = 8
    assert fi.stream.train(new_model(), source, log, max_events=8).events == 8
    with pytest.raises(ValueError, match="source endless was read from before"):
        fi.stream.train(new_model(), source, log, max_events=8)


def test_a_source_whose_read_failed_may_have_left_something_out():
    class Failing(Endless):
        __hash__ = None  # nothing asks for it

        def read(self, max_events, timeout):
            raise ConnectionError

    source = Failing()
    for error in (ConnectionError, ValueError):
        with pytest.raises(error):
            fi.stream.train(new_model(), source, Kept(source))


def test_a_model_that_is_ahead_of_its_position_is_refused(stream, whole, tmp_path):
    with fi.checkpoint.Log(tmp_path / "model") as log:
        model = new_model()
        with fi.stream.open(stream) as source, pytest.raises(OSError, match="No space left"):
            fi.stream.train(model, source, Full(log, 3), checkpoint_every=50)
        restored, position = log.restore()
        assert model.n_events > restored.n_events == position["model_events"] > 0
        message = f"had learned {restored.n_events} events, .* {model.n_events}: pass the model that log.restore"
        with fi.stream.open(stream) as source, pytest.raises(ValueError, match=message):
            fi.stream.train(model, source, log, position=position)
        with fi.stream.open(stream) as source:
            fi.stream.train(restored, source, log, position=position)
    assert state_of(restored, tmp_path / "saved") == whole
