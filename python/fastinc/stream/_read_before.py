"""Files that were read under another name: rotation must not make them come twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from fastinc.stream._head import FilePrint, open_regular
from fastinc.stream._left import Left, LeftFiles, is_telling
from fastinc.stream._reader import FileReader
from fastinc.stream._source import log

__all__ = ["ReadBefore"]

#: Seconds without a change after which what may be a copy that is being made counts as a file of its own.
PATIENCE = 2.0
#: A file's device and inode, its size, and when it was written: while these stay, so does what is in it.
_State = tuple[int, int, int, int]


class ReadBefore:
    """Knows files that are still to be read by their names, and were read by what is in them.

    That is the file that is open, under another name or as a copy, those that were left for a gap, and the last of
    those that were left for the next.

    Parameters
    ----------
    name
        What the stream is called in messages.
    growing
        Whether files grow, and are copied while they do. Else equal files are just that, while both are there.
    left
        The files that were left for the next.
    """

    def __init__(self, name: str, growing: bool, left: LeftFiles) -> None:
        self._name, self._growing, self._left = name, growing, left
        self._prints: list[FilePrint] = []
        self._looked: dict[str, tuple[_State, bool]] = {}
        self._since: dict[str, tuple[_State, float]] = {}  # when what may be a copy was seen so first
        self._reader: FileReader | None = None  # what they were compared with
        self._told: set[str] = set()

    def add(self, left: FilePrint | None, paths: Iterable[Path]) -> None:
        """Take over what was read of a file that is left; those that are gone by now are forgotten."""
        if left is None:
            return
        there = list(paths)
        kept = [known for known in self._prints if known != left and any(_begins(path, known) for path in there)]
        self._prints = [*kept, left]
        self._looked.clear()

    def to_json(self) -> dict[str, Any]:
        """Return what a position has of it: what was left for a gap, and, with their names, the files left last."""
        passed = [*(known.to_json() for known in self._prints), *self._left.to_json()]
        return {"passed": passed} if passed else {}

    @staticmethod
    def known_in(position: dict[str, Any]) -> tuple[list[FilePrint], list[Left]]:
        """Return those that are in a position."""
        told = position.get("passed", [])
        if not isinstance(told, list):
            raise ValueError(f"position: passed = {told!r} must be a list")
        name = "position: passed"
        named = [known for known in told if isinstance(known, dict) and "file" in known]
        prints = [FilePrint.from_json(known, name) for known in told if known not in named]
        return prints, [Left.from_json(known, name) for known in named]

    def load(self, prints: list[FilePrint], left: list[Left]) -> None:
        """Go on with what was known at a position."""
        self._prints = prints
        self._left.load(left)
        self._looked.clear()

    def keep(self, names: list[str]) -> None:
        """Forget the verdicts on files that are gone."""
        for known in (self._looked, self._since):
            for name in known.keys() - names:
                del known[name]
        self._told.intersection_update(names)

    def has(
        self, name: str, path: Path, reader: FileReader | None, again: bool = False
    ) -> Literal["yes", "maybe", "no"]:
        """Whether a file was read before ("maybe": a copy of what is read may be in the making; look again).

        One that is to be read `again`, after a gap, may be what was left for that.
        """
        if reader is not self._reader:
            self._looked.clear()
            self._since.clear()
            self._reader = reader
        try:
            told = os.stat(path)
            state = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)
            looked, was_read = self._looked.get(name, (None, False))
            if looked != state:
                verdict = self._look(name, path, reader, [] if again else self._prints)
                if verdict == "maybe":
                    seen, since = self._since.get(name, (None, 0.0))
                    if seen != state:
                        since = time.monotonic()
                        self._since[name] = (state, since)
                    return "maybe" if time.monotonic() - since < PATIENCE else "no"
                was_read = verdict == "yes"
                self._looked[name] = (state, was_read)
        except OSError:  # gone by now; whoever opens it tells
            return "no"
        return "yes" if was_read else "no"

    def _look(
        self, name: str, path: Path, reader: FileReader | None, prints: list[FilePrint]
    ) -> Literal["yes", "maybe", "no"]:
        if reader is None and not prints and not len(self._left):
            return "no"
        with open_regular(path) as file:
            descriptor = file.fileno()
            found = any(known.begins(descriptor) for known in prints) or self._left.has(descriptor)
            if reader is not None and not found:
                copied = reader.copied_to(descriptor) if self._growing else "no"
                if copied == "no" and not (self._growing and reader.bytes_read is not None):
                    copied = _moved_to(reader, descriptor)
                if copied == "maybe" and not reader.is_at(descriptor):
                    return "maybe"
                found = copied == "yes" or reader.is_at(descriptor)
            rows = os.fstat(descriptor).st_size > (0 if reader is None else reader.rows_begin)
        if found and rows and name not in self._told:
            self._told.add(name)
            text = "%s: %s has what was read before, under another name or before it was copied: it is not read again"
            log.warning(text, self._name, path.name)
        return "yes" if found else "no"


def _moved_to(reader: FileReader, descriptor: int) -> Literal["yes", "no"]:
    """Whether an open file is a whole copy of what was read of one that is gone."""
    seen = reader.seen()
    if seen is None or not is_telling(seen) or os.fstat(descriptor).st_size != seen.bytes:
        return "no"
    return "yes" if not os.path.exists(reader.path) and seen.begins(descriptor) else "no"


def _begins(path: Path, known: FilePrint) -> bool:
    try:
        with open_regular(path) as file:
            return known.begins(file.fileno())
    except (OSError, ValueError):
        return False
