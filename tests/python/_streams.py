"""What the tests of streams share: events, reading all there is, training, and what ends it."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

import fastinc as fi
from _logs import quiet

DEADLINE = 60.0  # seconds; generous: a loaded machine of two cores
LONG = bool(os.environ.get("FASTINC_TORTURE"))


def wait_for(condition, what="it"):
    """Return the first true value of `condition()`."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {DEADLINE} s for {what}")


def rows(batch):
    """Return a batch as tuples (user, item, label, timestamp)."""
    n = len(batch)
    columns = (batch.users, batch.items, batch.labels, batch.timestamps)
    assert all(column is None or len(column) == n for column in columns)
    assert len(batch.wheres) == n
    return list(zip(*([None] * n if column is None else column.tolist() for column in columns), strict=True))


def read_all(source, sizes=(100,), timeout=0.0):
    """Read until nothing comes; return batches."""
    batches = []
    while (batch := source.read(sizes[len(batches) % len(sizes)], timeout=timeout)) is not None:
        assert 0 < len(batch) + len(batch.rejected) <= sizes[len(batches) % len(sizes)]
        batches.append(batch)
    return batches


def read_n(source, n, sizes=(100,)):
    """Read until there have been n events, rejected ones included; return batches."""
    batches = []
    end = time.monotonic() + DEADLINE
    while n > 0:
        assert time.monotonic() < end
        most = min(n, sizes[len(batches) % len(sizes)])
        batch = source.read(most, timeout=1.0)
        if batch is not None:
            assert 0 < len(batch) + len(batch.rejected) <= most
            batches.append(batch)
            n -= len(batch) + len(batch.rejected)
    return batches


def events_in(batches):
    return [row for batch in batches for row in rows(batch)]


def rejected_in(batches):
    return [letter for batch in batches for letter in batch.rejected]


def through_json(position):
    """Return a position as it comes back from a log."""
    return json.loads(json.dumps(position, allow_nan=False))


def state_of(model, folder):
    """Return everything a checkpoint of a model holds, as bytes and JSON."""
    fi.checkpoint.save(model, folder)
    (arrays,) = folder.glob("arrays-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    return arrays.read_bytes(), manifest["parameters"]


def newest_entry(folder):
    """Return the newest entry of a log; None while there is none."""
    with quiet():  # of a trainer that was killed
        entries = fi.checkpoint.Log(folder).entries()
    return entries[-1] if entries else None


def saved_events(folder):
    """Return how many events are in the newest state of a log; 0 while there is none."""
    entry = newest_entry(folder)
    return 0 if entry is None else entry.position["events"]


def letters_of(path):
    """Return the dead letters in a file, without the mark of their log, which is another in each run of a test."""
    letters = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in letter.items() if name != "log"} for letter in letters]


#: Malformed lines; the last line is one.
BAD = (17, 18, 250, 403)


def lines(n=400, bad=BAD, **more):
    """Return events as JSON lines, with malformed ones between them."""
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 30, n), rng.zipf(1.6, n) % 50
    pairs = enumerate(zip(users, items, strict=True))
    events = [{"user": f"u{u}", "item": int(i), "timestamp": 60.0 * k, **more} for k, (u, i) in pairs]
    texts = [json.dumps(event) for event in events]
    for k in bad:
        texts.insert(k, f"bad {k}")
    return texts


def stream_fixture():
    """A fixture: a file of 400 events and 4 malformed lines; `stream = stream_fixture()` in the module."""

    @pytest.fixture(scope="module")
    def stream(tmp_path_factory):
        file = tmp_path_factory.mktemp("stream") / "events.jsonl"
        file.write_text("\n".join(lines()) + "\n")
        return file

    return stream


# --- training, and what ends it

SMALL = {"dim": 4, "hidden": 4, "negatives": 5, "seed": 3}


def new_model(**more):
    return fi.Recommender(**{**SMALL, **more})


def run(folder, source, make=new_model, **options):
    """Begin or go on, with what is in a folder; return the model and the progress."""
    with fi.checkpoint.Log(folder / "model") as log:
        model, position = log.restore() or (make(), None)
        options = {"dead_letters": folder / "dead.jsonl", **options}
        return model, fi.stream.train(model, source, log, position=position, **options)


class Crash(BaseException):
    """What no code of ours handles: as good as a kill, and quicker."""


class Crashing(fi.stream.Source):
    """Passes a source's batches on until there have been so many; then nothing is cleaned up."""

    def __init__(self, source, calls):
        self.source, self.calls, self.committed = source, calls, []

    def read(self, max_events, timeout):
        self.calls -= 1
        if self.calls < 0:
            raise Crash
        return self.source.read(max_events, timeout)

    def seek(self, position):
        self.source.seek(position)

    def commit(self, position):
        self.committed.append(position)

    @property
    def ended(self):
        return self.source.ended


class Endless(fi.stream.Source):
    """Events without end, or without any from some point on; as fast as they are asked for."""

    name = "endless"

    def __init__(self, silent_after=2**60):
        self.n, self.silent_after = 0, silent_after
        self.asked, self.calls = [], []

    def read(self, max_events, timeout):
        self.asked.append(max_events)
        n = min(max_events, self.silent_after - self.n)
        if n == 0:
            time.sleep(min(timeout, 0.01))
            return None
        ids = np.arange(self.n, self.n + n) % 1000
        self.n += n
        return fi.stream.Batch(ids, ids // 2, None, None, [""] * n, self.n)

    def seek(self, position):
        self.n = position
        self.calls.append(("seek", position))

    def commit(self, position):
        self.calls.append(("commit", position))


class Kept:
    """A log in memory that tells when it was appended to."""

    def __init__(self, source):
        self.source = source
        self.positions = []

    def append(self, obj, position=None):
        self.source.calls.append(("append", position["source"]))
        self.positions.append(json.loads(json.dumps(position, allow_nan=False)))
