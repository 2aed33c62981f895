"""What tests of checkpoints and logs share: tables that learn, states that are compared, and a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi
from fastinc.checkpoint import _disk
from fastinc.checkpoint._tables import export_change, split_change

#: Where what is written is there for every process, and a sync costs nothing; None: there is no such place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: A call that no disk is asked for.
NEVER = 1 << 30


def new_table(dim=2, **limits):
    return fi.EmbeddingTable(dim, fi.Adagrad(lr=0.1), fi.init.Normal(std=0.1, seed=3), **limits)


def learn(table, ids, seed=0):
    """One update of these ids."""
    ids = np.asarray(ids, dtype=np.int64)
    table.update(ids, np.random.default_rng(seed).normal(size=(len(ids), table.dim)).astype(np.float32))


def take_steps(table, steps, mark):
    """Change a table by steps (what, ids); return for each "mark" among them a copy of it and what `mark` gave then."""
    marks = []
    for step, (what, ids) in enumerate(steps):
        if what == "update":
            learn(table, ids, step)
        elif what == "remove":
            table.remove(ids)
        elif what == "load":
            load(table, ids, step)
        else:
            marks.append((table.to("cpu"), mark(table)))
    return marks


def load(table, ids, value):
    """Set the rows of these ids to a value."""
    ids = sorted(set(ids))
    table.load(ids, np.full((len(ids), table.dim), value, dtype=np.float32))


def state_of(table):
    """Everything that a table is, in an order of its own: comparable by ==."""
    state = table.__getstate__()["state"]
    order = np.argsort(state["ids"])
    rows = len(state["ids"])
    found = {"optimizer": repr(table.optimizer), "dim": table.dim, "limits": repr(table._bounds)}
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            found[name] = value
        elif name not in ("free_slots", "sightings") and len(value) == rows:
            found[name] = value[order].tobytes()
        else:
            found[name] = value.tobytes()
    return found


def restored(path, **which):
    """Return the state and position of a log as a fresh reader sees it, or None; damage is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fi.checkpoint.Log(path).restore(**which)
    return None if found is None else (state_of(found[0]), found[1])


@contextlib.contextmanager
def quiet():
    """DamageWarnings are to be expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fi.checkpoint.DamageWarning)
        yield


def memory_fixture():
    """A fixture: a folder in memory, where there is one; `tmp_path = memory_fixture()` in the module."""

    @pytest.fixture
    def tmp_path():
        with tempfile.TemporaryDirectory(dir=MEMORY) as path:
            yield Path(path)

    return tmp_path


def tables_fixture():
    """A fixture: a log of a table, and what the table was at each append; `tables = tables_fixture()` in the module."""

    @pytest.fixture
    def tables(tmp_path):
        """A log of a table: a base and four increments; and what the table was at each."""
        table, states = new_table(), []
        with fi.checkpoint.Log(tmp_path / "tables") as log:
            for step in range(5):
                learn(table, [step, 9], step)
                log.append(table, position=["shard", step, "x" * 100])
                states.append(state_of(table))
        return tmp_path / "tables", states

    return tables


def flip(path, at):
    """Damage a byte of a file, or mend it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


class FaultyOs:
    """`os` for the module that writes; the n-th call of those that change something fails, and those after it if asked.

    Kinds of faults: an errno; or "short", a write of less than was given, then ENOSPC.
    """

    CHANGES = frozenset(
        ["open", "write", "pwrite", "fsync", "fdatasync", "replace", "mkdir", "ftruncate", "unlink", "rmdir", "link"]
    )

    def __init__(self, at=NEVER, fault=errno.EIO, *, forever=False):
        self.at, self.fault, self.forever = at, fault, forever
        self.calls = []
        self._full = False

    @property
    def failed(self):
        """The name of the call that failed first; None while none has."""
        return self.calls[self.at] if len(self.calls) > self.at else None

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args, **kwargs):
            # Opening a file to read it changes nothing.
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
                return real(*args, **kwargs)
            self.calls.append(name)
            return self.changes(name, real, args, kwargs)

        return call

    def changes(self, name, real, args, kwargs):
        """Make a call that changes something, or fail."""
        due = len(self.calls) - 1 == self.at or (self.forever and self.failed is not None)
        if not (due or self._full):
            return real(*args, **kwargs)
        if self.fault == "short" and name == "write" and not self._full:
            self._full = True
            return half_written(real, args)
        self._full = False
        code = errno.ENOSPC if self.fault == "short" else self.fault
        raise OSError(code, os.strerror(code))


def half_written(write, args):
    """Write the first half of what was given."""
    return write(args[0], memoryview(args[1])[: len(args[1]) // 2])


@contextlib.contextmanager
def failing(disk):
    """Have the disk be this one."""
    _disk.os = disk
    try:
        yield disk
    finally:
        _disk.os = os


def each_call(fault=errno.EIO, *, forever=False):
    """Yield disks of which the n-th fails at its n-th call that changes something, until one isn't asked so often."""
    for at in range(200):
        disk = FaultyOs(at, fault, forever=forever)
        yield disk
        if disk.failed is None:
            return
    raise AssertionError("the disk never stopped failing")


def table_arrays(core):
    """Return the arrays that an engine's table is made of, by name."""
    return split_change(export_change(core, None)[0], "")[1]
