"""Files that were read to their ends, and left for the next: known under later names, and watched for late lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastinc.stream._head import HEAD_BYTES, FilePrint, open_regular
from fastinc.stream._reader import FileReader
from fastinc.stream._source import log

__all__ = ["Left", "LeftFiles", "is_telling"]

#: Files that are known, and looked at: whoever renames one or writes to it late does so with one of the last.
_KEPT = 16


@dataclass(frozen=True)
class Left:
    """A file that was read to its end: its name in the stream, which file it was, and what was read of it."""

    name: str
    device: int
    inode: int
    #: When it was written to last, in nanoseconds.
    written: int
    #: None where there were no rows.
    seen: FilePrint | None
    #: How many bytes were read; None where nobody appends, it was told that somebody did, or a run before read it.
    size: int | None = None

    @classmethod
    def from_json(cls, told: Any, name: str) -> Left:
        """Return what `to_json` was called on."""
        parts = dict(told)
        kinds = {"file": str, "device": int, "inode": int, "written": int}
        file = {part: parts.pop(part, None) for part in kinds}
        if {part: type(value) for part, value in file.items()} != kinds:
            raise ValueError(f"{name} = {told!r} must have {', '.join(kinds)}")
        return cls(file["file"], file["device"], file["inode"], file["written"], FilePrint.from_json(parts, name))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON; it must have rows."""
        assert self.seen is not None
        status = {"device": self.device, "inode": self.inode, "written": self.written}
        return {"file": self.name, **status, **self.seen.to_json()}

    def is_at(self, status: os.stat_result) -> bool:
        """Whether a status is of this file, whatever its name."""
        return (status.st_dev, status.st_ino) == (self.device, self.inode)


class LeftFiles:
    """Knows the files that were left last, under whatever names, and tells of lines that still came in them.

    Parameters
    ----------
    name
        What the stream is called in messages.
    path_of
        Gives the path of a name.
    """

    def __init__(self, name: str, path_of: Callable[[str], Path]) -> None:
        self._name, self._path_of = name, path_of
        self._left: dict[str, Left] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, name: str, reader: FileReader) -> None:
        """Note a file that is left, and how much was read of it."""
        status = reader.status
        self._left.pop(name, None)
        file = (status.st_dev, status.st_ino, status.st_mtime_ns)
        self._left[name] = Left(name, *file, reader.seen(), reader.bytes_read)
        if len(self._left) > _KEPT:
            del self._left[next(iter(self._left))]

    def load(self, left: Iterable[Left]) -> None:
        """Go on with those known at a position."""
        self._left = {one.name: one for one in left}

    def to_json(self) -> list[dict[str, Any]]:
        """Return what a position has of them: those with rows."""
        return [one.to_json() for one in self._left.values() if one.seen is not None]

    def has(self, descriptor: int) -> bool:
        """Whether an open file is one of these, or a copy of one that isn't there any more.

        While that is there, files that are alike are just that. A file's inode may be another's once it is removed.
        """
        status = os.fstat(descriptor)
        for one in self._left.values():
            if one.seen is None or not one.seen.begins(descriptor):
                continue
            if one.is_at(status) and (status.st_mtime_ns == one.written or is_telling(one.seen)):
                return True
            if is_telling(one.seen) and self._was_moved(one, one.seen, status.st_size):
                return True
        return False

    def _was_moved(self, one: Left, seen: FilePrint, size: int) -> bool:
        """Whether a file that has as many bytes, and begins like it, is instead of it.

        One that was cut short may have got more before it was copied; one that is gone may have been removed, and
        another that begins alike is no copy.
        """
        try:
            with open_regular(self._path_of(one.name)) as file:
                return not seen.begins(file.fileno())
        except (FileNotFoundError, ValueError):
            return size == seen.bytes

    def look(self) -> None:
        """Warn of those that have grown, once of each; what has another's name by now is none."""
        for one in list(self._left.values()):
            if one.size is None:
                continue
            try:
                now = os.stat(self._path_of(one.name))
            except OSError:
                now = None
            grown = now is not None and one.is_at(now) and now.st_size - one.size
            if grown and grown > 0:
                text = "%s: %s has got %d bytes after the next file was begun: they are not read"
                log.warning(text, self._name, one.name, grown)
            if now is None or grown:
                self._left[one.name] = replace(one, size=None, written=one.written if now is None else now.st_mtime_ns)


def is_telling(seen: FilePrint) -> bool:
    """Whether another file hardly begins so by chance: a click a file may well come twice."""
    return seen.bytes >= HEAD_BYTES
