"""What a log has, without reading it all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastinc.checkpoint import _directory
from fastinc.checkpoint._directory import Listing
from fastinc.checkpoint._parts import MALFORMED, size_of
from fastinc.checkpoint._records import heads
from fastinc.checkpoint._restoring import GoneError, look, read_manifest

__all__ = ["Entry", "entries", "number_at"]


@dataclass(frozen=True)
class Entry:
    """One append to a :class:`Log`.

    Attributes
    ----------
    number
        1 for a log's first append, one more for each after it.
    kind
        "base": all of the object is there; "increment": what changed since the append before.
    bytes
        On disk.
    time
        When it was appended, in Unix seconds.
    position
        What :meth:`Log.append` was given.

    Examples
    --------
    >>> import tempfile, fastinc as fi
    >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
    ...     entry = log.append(fi.EmbeddingTable(dim=2), position={"offset": 10})
    >>> entry.number, entry.kind, entry.position
    (1, 'base', {'offset': 10})
    """

    number: int
    kind: Literal["base", "increment"]
    bytes: int
    time: float
    position: Any


def entries(folder: Path) -> list[Entry]:
    """Return what a log has, oldest first, as far as its files tell: they aren't verified whole."""
    return look(folder, lambda there: _entries(folder, there))


def _entries(folder: Path, there: Listing) -> list[Entry]:
    """Return what is there of what was listed; GoneError where that isn't what the folder has any more."""
    found: dict[int, Entry] = {}
    for first, limit in there.segment_limits():
        try:
            with _directory.open_segment(folder, first) as file:
                for head in heads(file, file.size):
                    if limit is not None and head.number >= limit:
                        break
                    found[head.number] = _of_record(head.number, head.end - head.offset, head.meta)
        except (FileNotFoundError, *MALFORMED):
            continue  # let go of meanwhile; a record that isn't one is the restore's to report
    bases = []
    for number in there.bases:
        try:
            manifest = read_manifest(folder, number, there)
            size = size_of(_directory.base_path(folder, number))
        except (GoneError, FileNotFoundError, ValueError):
            continue
        if manifest is not None:
            bases.append(number)
            found[number] = Entry(number, "base", size, manifest["time"], manifest["position"])
    # All have gone since, or neither was listed of two that took each other's place just then.
    if not bases and there != _directory.listing(folder):
        raise GoneError
    return [found[number] for number in sorted(found) if bases and number >= bases[0]]


def number_at(folder: Path, at: float) -> int:
    """Return the number of a log's last append until a Unix time; ValueError where there is none."""
    have = entries(folder)
    until = [entry.number for entry in have if entry.time <= at]
    if not until:
        kept = f"the oldest kept record is of {have[0].time}" if have else "it has no records"
        raise ValueError(f"at = {at} is before all that {folder} has: {kept}")
    return until[-1]


def _of_record(number: int, size: int, meta: dict[str, Any]) -> Entry:
    return Entry(number, "increment", size, float(meta["time"]), meta["position"])
