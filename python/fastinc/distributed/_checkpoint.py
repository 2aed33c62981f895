"""Save and load sharded tables: whole or not at all, for any number of ranks."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc._arguments import as_path
from fastinc.checkpoint import _directory, _disk, _manifest
from fastinc.checkpoint import save as save_shard
from fastinc.checkpoint._change import OF_ROWS
from fastinc.checkpoint._described import describe_table, rebuild_bounds, rebuild_initializer, rebuild_optimizer
from fastinc.checkpoint._parts import load_parts
from fastinc.distributed._arrays import Place
from fastinc.distributed._exchange import Exchange
from fastinc.distributed._owners import owners_of
from fastinc.distributed.sharded_table import ShardedTable
from fastinc.table import EmbeddingTable

__all__ = ["load", "save"]

Arrays = dict[str, Any]
Int64 = NDArray[np.int64]

_FORMAT = "fastinc-sharded-checkpoint"
_FORMAT_VERSION = 1
_SHARD = re.compile(r"shard-\d+of\d+-[0-9a-f]{16}")


def save(table: ShardedTable, folder: str | os.PathLike[str], position: Any = None) -> None:
    """Save a sharded table into a folder that all ranks see, replacing the checkpoint that is there. Collective.

    Every rank writes its shard by :func:`fastinc.checkpoint.save`; when all have, rank 0 renames a manifest that names
    them into place. A crash before it leaves the old checkpoint whole.

    Parameters
    ----------
    table
        A :class:`ShardedTable`.
    folder
        Made if need be.
    position
        Where in its stream rank 0 is: anything JSON can hold; :func:`load` returns it on every rank.

    Raises
    ------
    TypeError
        `position` is not JSON.
    OSError
        Writing failed on any rank, or ranks don't see one folder (RuntimeError or FileNotFoundError on the others); the
        old checkpoint still loads.

    Examples
    --------
    >>> import tempfile, torch.distributed as dist, fastinc as fi
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> table = fi.distributed.ShardedTable(dim=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fi.distributed.save(table, folder, position=7)
    ...     fi.distributed.load(folder)[1]
    7
    >>> dist.destroy_process_group()
    """
    if not isinstance(table, ShardedTable):
        raise TypeError(f"table must be a ShardedTable, not {type(table).__name__}")
    place, world = as_path(folder, "folder"), table.world_size

    def begin() -> tuple[Any, list[int]]:
        _directory.refuse_log(place)
        place.mkdir(parents=True, exist_ok=True)
        return _manifest.as_json(position), [int(secrets.token_hex(7), 16)]

    position, told = table._agree("save", begin)
    number = int(told[0, 0])  # rank 0's: a crashed save of the same version has another
    names = [f"shard-{rank}of{world}-{number:016x}" for rank in range(world)]

    def write_shard() -> tuple[None, list[int]]:
        save_shard(table.shard, place / names[table.rank])
        return None, []

    def write_manifest() -> tuple[None, list[int]]:
        if table.rank == 0:
            for rank, name in enumerate(names):
                if not (place / name).exists():
                    raise FileNotFoundError(
                        f"rank {rank}'s shard isn't in rank 0's {place}: all ranks must see one folder"
                    )
            _manifest.write(place, _FORMAT, _FORMAT_VERSION, _described(table, names, position))
            _sweep(place, names)
        return None, []

    table._agree("save", write_shard)
    table._agree("save", write_manifest)


def _described(table: ShardedTable, names: list[str], position: Any) -> dict[str, Any]:
    parameters = {**describe_table(table.shard), "wire": table.wire, "presum": table.presum}
    if table.max_rows is not None:
        parameters["max_rows"] = table.max_rows  # of all ranks
    return {
        "world_size": table.world_size,
        "version": table.version,
        "position": position,
        "shards": names,
        "parameters": parameters,
    }


def _sweep(folder: Path, names: list[str]) -> None:
    """Remove the shards of other checkpoints, and what killed saves left behind."""
    for path in folder.iterdir():
        if _SHARD.fullmatch(path.name) and path.name not in names:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)
    _disk.sweep(folder.glob(_disk.STAGED))


def load(folder: str | os.PathLike[str], process_group: Any = None, *, device: str = "cpu") -> tuple[ShardedTable, Any]:
    """Load a checkpoint made by :func:`save` into any number of ranks. Collective.

    Rows go to the ranks that own them now, with their optimizer state, row versions and how often they were written,
    bit for bit.

    Parameters
    ----------
    folder
        One that all ranks see.
    process_group, device
        As for :class:`ShardedTable`.

    Returns
    -------
    table : ShardedTable
        With the optimizer that rank 0 had. Where ids are shared out over another number of ranks, a rank that would
        have more than its part of `max_rows` gives up those it would evict first, and what ``fi.MinCount`` has counted
        for an id is never less than it was.
    position
        What :func:`save` was given on rank 0.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint, or a shard is missing: the message names it.
    ValueError
        A file is damaged, or a shard is not of the manifest's version.

    Examples
    --------
    >>> import tempfile, numpy as np, torch.distributed as dist, fastinc as fi
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> table = fi.distributed.ShardedTable(dim=2)
    >>> table.load([5], np.ones((1, 2), dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fi.distributed.save(table, folder)
    ...     fi.distributed.load(folder)[0].lookup([5]).tolist()
    [[1.0, 1.0]]
    >>> dist.destroy_process_group()
    """
    place = as_path(folder, "folder")
    exchange = Exchange(process_group, Place("cpu"))
    manifest, _ = exchange.agree("load", lambda: (_read_manifest(place), []))
    exchange.agree_same("load", f"the manifest in {place}", manifest["sha256"])
    parameters = manifest["parameters"]
    table = ShardedTable(
        parameters["dim"],
        rebuild_optimizer(parameters["optimizer"]),
        rebuild_initializer(parameters["init"]),
        process_group=process_group,
        wire=parameters["wire"],
        presum=parameters["presum"],
        device=device,
        **rebuild_bounds(parameters),
    )

    def fill() -> tuple[None, list[int]]:
        state = _owned_state(place, manifest, table.rank, table.world_size)
        _drop_excess(state, table.shard)
        table.shard._core.import_state({**state, "version": manifest["version"]})
        return None, []

    exchange.agree("load", fill)
    return table, manifest["position"]


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = _manifest.read(folder, _FORMAT, _FORMAT_VERSION)
    file = folder / _manifest.NAME
    for name in manifest["shards"]:
        if not _SHARD.fullmatch(name):
            raise ValueError(f"{file} names the shard {name!r}, which is not inside the checkpoint")
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} is incomplete: {folder / name} doesn't exist")
    return manifest


def _read_shard(folder: Path, version: int) -> Arrays:
    """Return the state of one shard: arrays and numbers by name."""
    manifest, arrays = load_parts(folder)
    parameters = manifest["parameters"]
    if manifest["kind"] != "EmbeddingTable" or parameters["version"] != version:
        raise ValueError(f"{folder} is of version {parameters.get('version')}; the checkpoint is of version {version}")
    state = {name.removeprefix("table."): array for name, array in arrays.items()}
    if "sightings_counted" in parameters:
        state["sightings_counted"] = parameters["sightings_counted"]
    return state


def _owned_state(folder: Path, manifest: dict[str, Any], rank: int, world: int) -> Arrays:
    """Return what one of `world` ranks has of a checkpoint."""
    before = manifest["world_size"]
    common = math.gcd(before, world)  # ids of rank r of either are of one rank modulo this
    parts = []
    for shard in range(rank % common, before, common):
        state = _read_shard(folder / manifest["shards"][shard], manifest["version"])
        if before != world:
            _keep_rows(state, owners_of(state["ids"], world) == rank)
        parts.append(state)
    if len(parts) == 1:
        return parts[0]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in OF_ROWS if name in parts[0]}
    if "sightings" in parts[0]:  # an id was counted in one of them: the largest counters are never too small
        whole["sightings"] = np.maximum.reduce([part["sightings"] for part in parts])
        whole["sightings_counted"] = max(part["sightings_counted"] for part in parts)
    return whole


def _drop_excess(state: Arrays, shard: EmbeddingTable) -> None:
    """Leave out the rows beyond the shard's limit that it would evict first."""
    limit, count = shard.max_rows, len(state["ids"])
    if limit is None or count <= limit:
        return
    keys = [state["row_versions"], *([state["frequencies"]] if shard.eviction == "lfu" else [])]
    _keep_rows(state, np.sort(np.lexsort(keys)[count - limit :]))


def _keep_rows(state: Arrays, which: NDArray[Any]) -> None:
    """Leave out all rows but these; they are one after another then."""
    state.update({name: state[name][which] for name in OF_ROWS if name in state})
    for name in ("slots", "free_slots"):
        state.pop(name, None)
