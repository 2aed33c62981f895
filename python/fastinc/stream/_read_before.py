"""Files that were read under another name: rotation must not make them come twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from fastinc.stream._head import FilePrint, open_regular
from fastinc.stream._reader import FileReader
from fastinc.stream._source import log

__all__ = ["ReadBefore"]

#: Seconds without a change after which what may be a copy that is being made counts as a file of its own.
PATIENCE = 2.0
#: A file's device and inode, its size, and when it was written: while these stay, so does what is in it.
_Key = tuple[int, int, int, int]


class ReadBefore:
    """Knows files that are still to be read by their names, and were read by what is in them.

    That is the file that is open, under another name or as a copy, and those that were left for a gap.

    Parameters
    ----------
    name
        What the stream is called in messages.
    growing
        Whether files grow, and are copied while they do. Else equal files are just that.
    """

    def __init__(self, name: str, growing: bool) -> None:
        self._name, self._growing = name, growing
        self._prints: list[FilePrint] = []
        self._looked: dict[_Key, bool] = {}
        self._since: dict[_Key, float] = {}  # when what may be a copy was seen so first
        self._reader: FileReader | None = None  # what they were compared with
        self._told: set[Path] = set()

    def add(self, left: FilePrint | None, paths: Iterable[Path]) -> None:
        """Take over what was read of a file that is left; those that are gone by now are forgotten."""
        if left is None:
            return
        there = list(paths)
        kept = [known for known in self._prints if known != left and any(_begins(path, known) for path in there)]
        self._prints = [*kept, left]
        self._looked.clear()

    def to_json(self) -> dict[str, Any]:
        """Return what a position has of it."""
        return {"passed": [known.to_json() for known in self._prints]} if self._prints else {}

    @staticmethod
    def prints_in(position: dict[str, Any]) -> list[FilePrint]:
        """Return those that are in a position."""
        told = position.get("passed", [])
        if not isinstance(told, list):
            raise ValueError(f"position: passed = {told!r} must be a list")
        return [FilePrint.from_json(known, "position: passed") for known in told]

    def load(self, prints: list[FilePrint]) -> None:
        """Go on with what was known at a position."""
        self._prints = prints
        self._looked.clear()

    def has(self, path: Path, reader: FileReader | None) -> Literal["yes", "maybe", "no"]:
        """Whether a file was read before ("maybe": a copy of what is read may be in the making; look again)."""
        if reader is not self._reader:
            self._looked.clear()
            self._since.clear()
            self._reader = reader
        try:
            told = os.stat(path)
            key = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)
            if key not in self._looked:
                verdict = self._look(path, reader)
                if verdict == "maybe":
                    since = self._since.setdefault(key, time.monotonic())
                    return "maybe" if time.monotonic() - since < PATIENCE else "no"
                self._looked[key] = verdict == "yes"
        except OSError:  # gone by now; whoever opens it tells
            return "no"
        return "yes" if self._looked[key] else "no"

    def _look(self, path: Path, reader: FileReader | None) -> Literal["yes", "maybe", "no"]:
        if reader is None and not self._prints:
            return "no"
        with open_regular(path) as file:
            descriptor = file.fileno()
            found = any(known.begins(descriptor) for known in self._prints)
            if reader is not None and not found:
                copied = reader.copied_to(descriptor) if self._growing else "no"
                if copied == "maybe" and not reader.is_at(descriptor):
                    return "maybe"
                found = copied == "yes" or reader.is_at(descriptor)
            rows = os.fstat(descriptor).st_size > (0 if reader is None else reader.rows_begin)
        if found and rows and path not in self._told:
            self._told.add(path)
            text = "%s: %s has what was read before, under another name or before it was copied: it is not read again"
            log.warning(text, self._name, path.name)
        return "yes" if found else "no"


def _begins(path: Path, known: FilePrint) -> bool:
    try:
        with open_regular(path) as file:
            return known.begins(file.fileno())
    except (OSError, ValueError):
        return False
