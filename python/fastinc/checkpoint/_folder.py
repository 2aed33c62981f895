"""Checkpoints: a folder of a manifest and a file of arrays."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Any

from fastinc.checkpoint import _arrays, _disk, _manifest
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change
from fastinc.checkpoint._kinds import KINDS, kind_of
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["FORMAT", "VERSION", "load", "load_parts", "save", "write_parts"]

FORMAT = "fastinc-checkpoint"
VERSION = 1
_ARRAYS_NAME = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")
_HINTS = {"fastinc-sharded-checkpoint": "; it is of a sharded table: see fastinc.distributed.load"}


def save(obj: EmbeddingTable | Recommender, path: str | os.PathLike[str], position: Any = None) -> None:
    """Save a table or recommender into a folder, replacing the checkpoint that is there.

    Parameters
    ----------
    obj
        An :class:`EmbeddingTable` or :class:`Recommender`. Don't let it learn meanwhile.
    path
        Folder, made if need be. After a crash at any moment it holds the old checkpoint or the new one.
    position
        Where in its stream the model is: anything JSON can hold; :func:`load` returns it.

    Raises
    ------
    TypeError
        `obj` can't be saved, or `position` is not JSON.
    OSError
        Writing failed; the old checkpoint still loads.

    Examples
    --------
    >>> import tempfile, fastinc as fi
    >>> model = fi.Recommender(dim=4).partial_fit([1, 1], [10, 11])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fi.checkpoint.save(model, folder, position=2)
    ...     restored, position = fi.checkpoint.load(folder)
    >>> restored, position
    (Recommender(dim=4, loss='softmax', user='history', users=1, items=2, events=2), 2)
    """
    kind = kind_of(obj)
    position = _manifest.as_json(position)
    folder = Path(path)
    _disk.make_folder(folder)
    write_parts(folder, kind, KINDS[kind].export(obj, None), {"position": position})


def write_parts(folder: Path, kind: str, change: Change, told: dict[str, Any]) -> None:
    """Put what was exported into a folder, in the place of what is there; `told` goes into the manifest."""
    previous = _named_arrays(folder)
    name = f"arrays-{secrets.token_hex(8)}.safetensors"
    try:
        with _disk.staged(folder, "arrays") as path:
            written = _write_arrays(path, change.arrays)
            os.replace(path, folder / name)
        manifest = {
            "kind": kind,
            "parameters": change.parameters,
            "arrays": {"file": name, "bytes": written.bytes, "sha256": written.sha256},
            **told,
        }
        _manifest.write(folder, FORMAT, VERSION, manifest)
    except BaseException:
        if _named_arrays(folder) != folder / name:
            (folder / name).unlink(missing_ok=True)
        raise
    if previous is not None:
        previous.unlink(missing_ok=True)
    named = _named_arrays(folder)
    unnamed = [path for path in folder.glob("arrays-*.safetensors") if path != named]
    _disk.sweep([*folder.glob(_disk.STAGED), *unnamed])


def _write_arrays(path: Path, arrays: Arrays) -> _arrays.Written:
    written: list[_arrays.Written] = []
    _disk.write_file(path, lambda file: written.append(_arrays.write(file, arrays)))
    return written[0]


def _named_arrays(folder: Path) -> Path | None:
    """Return the arrays' file of the checkpoint that is there, if one is."""
    try:
        name = (_manifest.peek(folder) or {})["arrays"]["file"]
        return folder / name if _ARRAYS_NAME.fullmatch(name) else None
    except (KeyError, TypeError):
        return None


def _read_arrays(folder: Path, entry: dict[str, Any]) -> Arrays:
    name, size, digest = entry["file"], entry["bytes"], entry["sha256"]
    if not _ARRAYS_NAME.fullmatch(name):
        raise ValueError(f"{folder / _manifest.NAME} names the file {name!r}, which is not inside the checkpoint")
    file = folder / name
    data = file.read_bytes()
    if len(data) != size:
        raise ValueError(f"{file} has {len(data)} bytes; the manifest says {size}: it is truncated or damaged")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{file} doesn't match its SHA-256 in the manifest: it is damaged")
    return _arrays.parse(data)


def load_parts(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the manifest and the arrays in a folder, verified."""
    manifest = _manifest.read(folder, FORMAT, VERSION, _HINTS)
    try:
        return manifest, _read_arrays(folder, manifest["arrays"])
    except FileNotFoundError:
        manifest = _manifest.read(folder, FORMAT, VERSION, _HINTS)  # a save may have replaced both meanwhile
        return manifest, _read_arrays(folder, manifest["arrays"])


def load(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Load a checkpoint made by :func:`save`.

    Parameters
    ----------
    path
        Folder.

    Returns
    -------
    obj
        The table or recommender, bit for bit: rows, states and versions, a table's limits and what it counted for
        them. Rows of a table with ``fi.TTL`` count as written now.
    position
        What :func:`save` was given.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    ValueError
        A file is damaged, truncated or of a newer format; the message names the file and what is wrong.

    Examples
    --------
    >>> import tempfile, numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2)
    >>> table.load([5], np.ones((1, 2), dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fi.checkpoint.save(table, folder)
    ...     fi.checkpoint.load(folder)[0].lookup([5]).tolist()
    [[1.0, 1.0]]
    """
    folder = Path(path)
    manifest, arrays = load_parts(folder)
    try:
        return KINDS[manifest["kind"]].build(manifest["parameters"], arrays), manifest["position"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / _manifest.NAME} is damaged: {type(error).__name__} {error}") from error
