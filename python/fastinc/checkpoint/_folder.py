"""Save and load whole tables and recommenders."""

from __future__ import annotations

import os
from typing import Any

from fastinc._arguments import as_path
from fastinc.checkpoint import _directory, _disk, _manifest, _restoring
from fastinc.checkpoint._compression import as_compression
from fastinc.checkpoint._kinds import KINDS, kind_to_restore
from fastinc.checkpoint._parts import MALFORMED, load_parts, malformed, write_parts
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["load", "save"]


def save(
    obj: EmbeddingTable | LiveIndex | Recommender,
    path: str | os.PathLike[str],
    position: Any = None,
    *,
    compression: str | None = None,
) -> None:
    """Save a table, index or recommender into a folder, replacing the checkpoint that is there.

    Parameters
    ----------
    obj
        An :class:`EmbeddingTable`, :class:`LiveIndex` (its table, and how it was made) or :class:`Recommender`. Others
        may write to it meanwhile: what is saved is all of it at one moment, for which they wait a few ms.
    path
        Folder, made if need be. After a crash at any moment it holds the old checkpoint or the new one.
    position
        Where in its stream the model is: anything JSON can hold; :func:`load` returns it.
    compression
        "zstd": the arrays are compressed, by the package of the extra ``zstd``; None: they are not.

    Raises
    ------
    TypeError
        `obj` can't be saved, as one of a class derived from these can't, or `position` is not JSON.
    ValueError
        The folder is a :class:`Log`'s, or there is no such compression.
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
    kind = kind_to_restore(obj)
    position = _manifest.as_json(position)
    compression = as_compression(compression)
    folder = as_path(path)
    _directory.refuse_log(folder)
    _disk.make_folder(folder)
    write_parts(folder, kind, KINDS[kind].export(obj, None), {"position": position}, compression)


def load(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Load a checkpoint made by :func:`save`, or the newest state in a :class:`Log`'s folder.

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
        What :func:`save` or :meth:`Log.append` was given.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    ValueError
        A file is damaged, truncated or of a newer format; the message names the file and what is wrong.

    Warns
    -----
    DamageWarning
        As :meth:`Log.restore`.

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
    folder = as_path(path)
    if _directory.is_log(folder) and (state := _restoring.restore(folder)) is not None:
        state.warn()
        return state.obj, state.position
    manifest, arrays = load_parts(folder)
    try:
        return KINDS[manifest["kind"]].build(manifest["parameters"], arrays), manifest["position"]
    except MALFORMED as error:
        raise malformed(folder, error) from error
