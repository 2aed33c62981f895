"""What a train leaves, for tests of `fastinc log`."""

from __future__ import annotations

import shutil

import pytest

import fastinc as fi
from _streams import state_of
from fastinc.cli import main


def train(folder, source, *more):
    arguments = ["train", "--from", source, "--model", folder / "model", "--dead-letters", folder / "dead.jsonl"]
    arguments += ["--dim", 4, "--seed", 3, "--checkpoint-every", 50, *more]
    assert main([str(argument) for argument in arguments]) == 0


def trained_fixture():
    """A fixture, of `stream`; `trained = trained_fixture()` in the module."""

    @pytest.fixture(scope="module")
    def trained(stream, tmp_path_factory):
        """A folder that has what a train of all the stream leaves."""
        folder = tmp_path_factory.mktemp("trained")
        train(folder, stream)
        return folder

    return trained


def folder_fixture():
    """A fixture, of `trained`; `folder = folder_fixture()` in the module."""

    @pytest.fixture
    def folder(trained, tmp_path):
        """A copy of it; its dead letters are named in positions by their path, so the copy has that name."""
        kept = tmp_path / "kept"
        shutil.copytree(trained, kept)
        yield trained
        shutil.rmtree(trained)
        shutil.copytree(kept, trained)

    return folder


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
