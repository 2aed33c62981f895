"""What tests of checkpoints and logs share: tables that learn, states that are compared, and a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings

import numpy as np

import fastinc as fi
from fastinc.checkpoint import _disk
from fastinc.checkpoint._tables import export_change, split_change


def new_table(dim=2, **limits):
    return fi.EmbeddingTable(dim, fi.Adagrad(lr=0.1), fi.init.Normal(std=0.1, seed=3), **limits)


def learn(table, ids, seed=0):
    """One update of these ids."""
    ids = np.asarray(ids, dtype=np.int64)
    table.update(ids, np.random.default_rng(seed).normal(size=(len(ids), table.dim)).astype(np.float32))


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


class FaultyOs:
    """`os` for the module that writes; the n-th call of those that change something fails, and those after it if asked.

    Kinds of faults: an errno; or "short", a write of less than was given, then ENOSPC.
    """

    CHANGES = frozenset(
        ["open", "write", "pwrite", "fsync", "fdatasync", "replace", "mkdir", "ftruncate", "unlink", "rmdir", "link"]
    )

    def __init__(self, at, fault=errno.EIO, *, forever=False):
        self.at, self.fault, self.forever = at, fault, forever
        self.calls = []
        self._full = False

    @property
    def failed(self):
        return len(self.calls) > self.at

    @staticmethod
    def changes(name, args):
        """Tell a call that changes something from opening a file to read it."""
        return name != "open" or bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY))

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args, **kwargs):
            if not self.changes(name, args):
                return real(*args, **kwargs)
            self.calls.append(name)
            if len(self.calls) - 1 == self.at or self._full or (self.forever and self.failed):
                if self.fault == "short" and name == "write" and not self._full:
                    self._full = True
                    return real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                self._full = False
                code = errno.ENOSPC if self.fault == "short" else self.fault
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call


@contextlib.contextmanager
def failing(at, fault=errno.EIO, *, forever=False):
    """Have the disk fail at the n-th change."""
    disk = FaultyOs(at, fault, forever=forever)
    _disk.os = disk
    try:
        yield disk
    finally:
        _disk.os = os


def table_arrays(core):
    """Return the arrays that an engine's table is made of, by name."""
    return split_change(export_change(core, None)[0], "")[1]
