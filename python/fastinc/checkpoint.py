"""Save and load tables and recommenders: whole or not at all.

A checkpoint is a folder: ``manifest.json`` (format version, what it is, parameters, stream position, and the size
and SHA-256 of the arrays' file) and one safetensors file. The arrays are written first, under a new name; renaming
the new manifest into place is the moment the checkpoint changes. A crash before it leaves the old one whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastinc import _core, features, optimizers, schedules
from fastinc import init as initializers
from fastinc._cuda_table import AnyTable
from fastinc._extras import require
from fastinc._ids import IdMap
from fastinc.bounds import TTL, MinCount
from fastinc.optimizers import Optimizer
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["load", "save"]

_FORMAT = "fastinc-checkpoint"
_FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_ARRAYS_NAME = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")

Arrays = dict[str, Any]


def _safetensors() -> Any:
    return require("safetensors.numpy", extra="checkpoint", purpose="fi.checkpoint")


# --- what a checkpoint holds: each kind to (parameters, arrays) and back ---


def _describe(obj: Optimizer | initializers.Initializer) -> dict[str, Any]:
    module = optimizers if isinstance(obj, Optimizer) else initializers
    kind = type(obj).__name__
    if getattr(module, kind, None) is not type(obj):
        raise TypeError(f"{kind} is not one of fastinc's own classes: it could not be loaded again")
    parameters = obj.get_params() if isinstance(obj, Optimizer) else vars(obj)
    return {"kind": kind, **parameters}


def _as_json(position: Any) -> Any:
    """Return what JSON makes of `position`; refuse what would not come back as it is."""

    def lists(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [lists(item) for item in value]
        return {key: lists(item) for key, item in value.items()} if isinstance(value, dict) else value

    try:
        back = json.loads(json.dumps(position, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"position = {position!r} is not JSON: {error}") from None
    if back != lists(position):
        raise TypeError(f"position = {position!r} would come back as {back!r}: JSON's keys are strings")
    return back


def _rebuild(module: Any, description: dict[str, Any]) -> Any:
    parameters = dict(description)
    kind = parameters.pop("kind")
    if kind not in module.__all__:
        raise ValueError(f"manifest names {kind!r}, which this version of fastinc doesn't have")
    return getattr(module, kind)(**parameters)


def _core_table_parts(core: AnyTable, optimizer: Optimizer, prefix: str) -> tuple[dict[str, int], Arrays]:
    """Return a table's numbers by name, and its arrays by prefixed name."""
    element, row = optimizer.state_floats_per_row
    state = core.export_state(element * core.dim + row)
    numbers = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    return numbers, {prefix + name: array for name, array in state.items() if name not in numbers}


def _fill_core_table(core: AnyTable, arrays: Arrays, numbers: dict[str, int], prefix: str) -> None:
    state = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    core.import_state({**state, **numbers})


def _describe_bounds(table: EmbeddingTable) -> dict[str, Any]:
    """Return the limits that a table has."""
    eviction, admission = table.eviction, table.admission
    described = {
        "max_rows": table.max_rows,
        "eviction": {"ttl": eviction.seconds} if isinstance(eviction, TTL) else eviction,
        "admission": None if admission is None else {"min_count": admission.n, "width": admission.width},
    }
    return {name: value for name, value in described.items() if value is not None}


def _rebuild_bounds(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a table with the limits in these parameters."""
    eviction, admission = parameters.get("eviction"), parameters.get("admission")
    return {
        "max_rows": parameters.get("max_rows"),
        "eviction": TTL(eviction["ttl"]) if isinstance(eviction, dict) else eviction,
        "admission": None if admission is None else MinCount(admission["min_count"], admission["width"]),
    }


def _table_parts(table: EmbeddingTable) -> tuple[dict[str, Any], Arrays]:
    numbers, arrays = _core_table_parts(table._core, table.optimizer, "table.")
    parameters = {
        "dim": table.dim,
        "optimizer": _describe(table.optimizer),
        "init": _describe(table.init),
        **_describe_bounds(table),
        **numbers,
    }
    return parameters, arrays


def _build_table(parameters: dict[str, Any], arrays: Arrays) -> EmbeddingTable:
    table = EmbeddingTable(
        parameters["dim"],
        _rebuild(optimizers, parameters["optimizer"]),
        _rebuild(initializers, parameters["init"]),
        **_rebuild_bounds(parameters),
    )
    numbers: dict[str, int] = {
        name: parameters[name] for name in ("version", "sightings_counted") if name in parameters
    }
    _fill_core_table(table._core, arrays, numbers, "table.")
    return table


def _id_arrays(ids: IdMap, prefix: str) -> Arrays:
    if ids.kind != "str":
        return {prefix + "int": np.asarray(ids.ids(), dtype=np.int64)}
    encoded = [text.encode() for text in ids.ids()]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {prefix + "utf8": np.frombuffer(b"".join(encoded), dtype=np.uint8), prefix + "ends": ends}


def _fill_ids(ids: IdMap, arrays: Arrays, prefix: str) -> None:
    if prefix + "int" in arrays:
        ids.encode(arrays[prefix + "int"], add=True)
        return
    text, ends = arrays[prefix + "utf8"].tobytes(), arrays[prefix + "ends"].tolist()
    starts = [0, *ends[:-1]]
    ids.encode([text[a:b].decode() for a, b in zip(starts, ends, strict=True)], add=True)


def _recommender_parts(model: Recommender) -> tuple[dict[str, Any], Arrays]:
    parameters = model.get_params()
    parameters["optimizer"] = _describe(model.optimizer)
    parameters["schedule"] = list(model.schedule._spec())
    parameters["item_features"] = model._item_features.spec()
    arrays: Arrays = {}
    versions: dict[str, int] = {}
    for name, table in model._core.tables.items():
        numbers, part = _core_table_parts(table, model.optimizer, f"{name}.")
        versions[name] = numbers["version"]
        arrays.update(part)
    counters: dict[str, Any] = {}
    for name, value in model._core.export_state().items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            counters[name] = value
    arrays.update(_id_arrays(model._user_ids, "user_ids."))
    arrays.update(_id_arrays(model._item_ids, "item_ids."))
    return {"params": parameters, "versions": versions, "counters": counters}, arrays


#: What the arrays of a recommender's state are called.
_STATE_ARRAYS = ("history_", "items_known_", "anchors_")


def _build_recommender(parameters: dict[str, Any], arrays: Arrays) -> Recommender:
    params = dict(parameters["params"])
    if "preset" not in params:  # of before there were presets: what a model was then
        params |= {"hard_negatives": None, "context_lr_scale": 1.0, "batch_size": 1}
    params["optimizer"] = _rebuild(optimizers, params["optimizer"])
    if "schedule" in params:  # checkpoints of before there were schedules have none
        params["schedule"] = schedules.from_spec(params["schedule"])
    if "item_features" in params:
        params["item_features"] = features.ItemFeatures.from_spec(params["item_features"])
    model = Recommender(**params)
    for name, table in model._core.tables.items():
        if name not in parameters["versions"]:  # a table that models didn't have then
            continue
        numbers = {"version": parameters["versions"][name]}
        _fill_core_table(table, arrays, numbers, f"{name}.")
    _fill_ids(model._user_ids, arrays, "user_ids.")
    _fill_ids(model._item_ids, arrays, "item_ids.")
    state = {name: array for name, array in arrays.items() if name.startswith(_STATE_ARRAYS)}
    model._core.import_state({**state, **parameters["counters"]})
    return model


_Build = Callable[[dict[str, Any], Arrays], Any]
_KINDS: dict[str, tuple[type, Callable[[Any], tuple[dict[str, Any], Arrays]], _Build]] = {
    "EmbeddingTable": (EmbeddingTable, _table_parts, _build_table),
    "Recommender": (Recommender, _recommender_parts, _build_recommender),
}


# --- the folder ---


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest_digest(manifest: dict[str, Any]) -> str:
    text = json.dumps({key: manifest[key] for key in manifest if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
    kind = next((name for name, (type_, _, _) in _KINDS.items() if isinstance(obj, type_)), None)
    if kind is None:
        raise TypeError(f"obj = {obj!r} is not an EmbeddingTable or a Recommender")
    position = _as_json(position)
    safetensors = _safetensors()
    parameters, arrays = _KINDS[kind][1](obj)
    data: bytes = safetensors.save(arrays)
    digest = hashlib.sha256(data).hexdigest()
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fastinc": _core.__version__,
        "kind": kind,
        "position": position,
        "parameters": parameters,
        "arrays": {"file": f"arrays-{digest[:16]}.safetensors", "bytes": len(data), "sha256": digest},
    }
    manifest["sha256"] = _manifest_digest(manifest)
    text = json.dumps(manifest, indent=1, allow_nan=False)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    arrays_path = folder / manifest["arrays"]["file"]
    previous = _named_arrays(folder)
    unique = f"{os.getpid()}-{secrets.token_hex(8)}.tmp"
    staged = [folder / f".fastinc-arrays-{unique}", folder / f".fastinc-manifest-{unique}"]
    try:
        _write_durably(staged[0], data)
        os.replace(staged[0], arrays_path)
        _write_durably(staged[1], text.encode())
        _sync_folder(folder)
        os.replace(staged[1], folder / _MANIFEST)
        _sync_folder(folder)
    finally:
        for leftover in staged:
            leftover.unlink(missing_ok=True)
    if previous is not None and previous != arrays_path:
        previous.unlink(missing_ok=True)
    _sweep(folder)


def _named_arrays(folder: Path) -> Path | None:
    """Return the arrays' file of the checkpoint that is there, if one is."""
    try:
        name = json.loads((folder / _MANIFEST).read_bytes())["arrays"]["file"]
        return folder / name if _ARRAYS_NAME.fullmatch(name) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sweep(folder: Path) -> None:
    """Remove what a killed save left behind an hour ago or more."""
    for leftover in folder.glob(".fastinc-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no checkpoint: {file} doesn't exist") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        sharded = isinstance(manifest, dict) and manifest.get("format") == "fastinc-sharded-checkpoint"
        how = "; it is of a sharded table: see fastinc.distributed.load" if sharded else ""
        raise ValueError(f"{file} is not a {_FORMAT} manifest{how}")
    version = manifest.get("format_version")
    if version != _FORMAT_VERSION or isinstance(version, bool):
        raise ValueError(
            f"{file} has format_version {manifest.get('format_version')!r}; this fastinc "
            f"({_core.__version__}) reads {_FORMAT_VERSION}"
        )
    if manifest.get("sha256") != _manifest_digest(manifest):
        raise ValueError(f"{file} doesn't match its own SHA-256: it is damaged")
    return manifest


def _read_arrays(folder: Path, entry: dict[str, Any]) -> Arrays:
    name, size, digest = entry["file"], entry["bytes"], entry["sha256"]
    if not _ARRAYS_NAME.fullmatch(name):
        raise ValueError(f"{folder / _MANIFEST} names the file {name!r}, which is not inside the checkpoint")
    file = folder / name
    data = file.read_bytes()
    if len(data) != size:
        raise ValueError(f"{file} has {len(data)} bytes; the manifest says {size}: it is truncated or damaged")
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{file} doesn't match its SHA-256 in the manifest: it is damaged")
    arrays: Arrays = _safetensors().load(data)
    return arrays


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
    manifest = _read_manifest(folder)
    try:
        arrays = _read_arrays(folder, manifest["arrays"])
    except FileNotFoundError:
        manifest = _read_manifest(folder)  # a save may have replaced both meanwhile
        arrays = _read_arrays(folder, manifest["arrays"])
    try:
        build = _KINDS[manifest["kind"]][2]
        return build(manifest["parameters"], arrays), manifest["position"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / _MANIFEST} is damaged: {type(error).__name__} {error}") from error
