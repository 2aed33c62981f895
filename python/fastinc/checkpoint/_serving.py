"""Models for serving alone: int8 rows in a file that NumPy reads."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc import ops
from fastinc.checkpoint import _disk
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._kinds import KINDS, kind_of
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["export_int8"]


def export_int8(obj: EmbeddingTable | LiveIndex | Recommender, path: str | os.PathLike[str]) -> int:
    """Write the rows of a model as int8, without optimizer state, into one file that ``numpy.load`` reads.

    A row is `dim` bytes and, behind them, a float32 scale and bias: value i is ``byte[i] * scale + bias``. These are
    the rows of ``table.lookup_quantized()``, and of FBGEMM's and torch's fused 8-bit rowwise format:
    ``torch.ops.quantized.embedding_bag_byte_rowwise_offsets`` takes them as they are. It is for serving
    elsewhere: to go on learning, :func:`save`.

    Parameters
    ----------
    obj
        An :class:`EmbeddingTable`, :class:`LiveIndex` or :class:`Recommender`; others may write to it meanwhile.
    path
        File to write, such as ``items.npz``; the one that is there is replaced as a whole.

    Returns
    -------
    int
        Bytes of the file. Of a table it has ``ids``, (n,) int32 or int64, and ``codes``, (n, dim + 8) uint8. Of a
        recommender it has ``items.codes`` (vector and bias: dim + 9 wide), ``contexts.codes`` and so on for each of
        its tables that has rows, in order of codes; ``user_ids`` and ``item_ids`` by code, integers, or strings as
        ``item_ids.utf8`` and where each ends in ``item_ids.ends``; and ``params``, its parameters as JSON text. Users'
        histories, from which ``user="history"`` makes their vectors, aren't in it: queries are the server's to send.

    Raises
    ------
    TypeError
        `obj` is something else.
    OSError
        Writing failed; what was there before still is.

    Examples
    --------
    >>> import os, tempfile, numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2)
    >>> table.load([7], np.array([[0.0, 2.55]], dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = fi.checkpoint.export_int8(table, os.path.join(folder, "rows.npz"))
    ...     with np.load(os.path.join(folder, "rows.npz")) as file:
    ...         ids, codes = file["ids"], file["codes"]
    >>> scale, bias = codes[:, -8:].view(np.float32).T[..., None]
    >>> ids.tolist(), (codes[:, :-8] * scale + bias).astype("float64").round(2).tolist()
    ([7], [[0.0, 2.55]])
    """
    kind, target = kind_of(obj), _disk.as_file(path)
    change = KINDS[kind].export(obj, None)
    arrays = _of_model(change.parameters, change.arrays) if kind == "Recommender" else _of_table(change.arrays)
    return _disk.replace_file(target, lambda file: _write_npz(file, arrays))


def _codes(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    codes: NDArray[np.uint8] = ops.quantize_rowwise(weights)
    return codes


def _ids(ids: NDArray[np.int64]) -> NDArray[Any]:
    """Return ids in as few bytes as all of them need."""
    fits = len(ids) == 0 or (ids.min() >= -(2**31) and ids.max() < 2**31)
    return ids.astype(np.int32) if fits else ids


def _of_table(arrays: Arrays) -> Arrays:
    return {"ids": _ids(arrays["table.ids"]), "codes": _codes(arrays["table.weights"])}


def _of_model(parameters: dict[str, Any], arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for name in parameters["versions"]:
        if len(arrays[f"{name}.weights"]) > 0:
            found[f"{name}.codes"] = _codes(arrays[f"{name}.weights"])
    for name in ("user_ids", "item_ids"):
        if f"{name}.int" in arrays:
            found[name] = _ids(arrays[f"{name}.int"])
        else:
            found |= {part: arrays[part] for part in (f"{name}.utf8", f"{name}.ends")}
    found["params"] = np.array(json.dumps(parameters["params"]))
    return found


def _write_npz(file: Any, arrays: Arrays) -> None:
    """Write what ``numpy.savez`` would, without going back in the file."""
    with zipfile.ZipFile(_Forward(file), "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


class _Forward:
    """A file that is only appended to, so that what is written is what was written once."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Append bytes."""
        count: int = self._file.write(data)
        return count

    def flush(self) -> None:
        """Do nothing: there is no buffer."""
