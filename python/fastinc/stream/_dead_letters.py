"""A file of events that were not learned, and why: each once, whatever is killed when."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from fastinc.checkpoint import _disk
from fastinc.stream._head import head_digest
from fastinc.stream._source import Rejected, log

__all__ = ["DeadLetters"]

#: What a position has: the file's absolute path, its size, and the digest of its beginning.
_POSITION = {"file": str, "bytes": int, "head": str}


class DeadLetters:
    """Appends to a file of JSON lines; what is behind the saved position is cut off at a restart, and comes again.

    Only the file that the position is of is ever cut. Whatever else is in a file that is named stays. One that is gone
    or empty was rotated away: there is nothing to cut, and a warning is logged.

    Parameters
    ----------
    path
        The file, made by `open` if need be.
    saved
        What `sync` returned when the state was saved that is gone on from; None: there was no file.
    """

    def __init__(self, path: str | os.PathLike[str], saved: Any) -> None:
        self._path = Path(os.path.realpath(path))
        if self._path.is_dir() or not self._path.parent.is_dir():
            raise ValueError(f"dead_letters = {os.fspath(path)!r} must be a file in a folder that is there")
        if os.path.exists(path) and not os.path.isfile(path):  # as named: a pipe behind /dev/stdout has no real path
            raise ValueError(
                f"dead_letters = {os.fspath(path)!r} must be a regular file: letters of a run that was killed are cut "
                "off and written again. To have malformed events counted only, leave it out"
            )
        if saved is not None and (
            not isinstance(saved, dict) or {name: type(value) for name, value in saved.items()} != _POSITION
        ):
            raise ValueError(f"position: dead_letters = {saved!r} must have {', '.join(_POSITION)}")
        self._saved = saved
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file and cut it. The writer before must be known to be gone: what it wrote would be cut off."""
        keep = None if self._saved is None else self._bytes_kept(self._saved)
        new = not self._path.exists()
        self._file = open(self._path, "a+b")  # noqa: SIM115  closed by close()
        if new:
            _disk.sync_folder(self._path.parent)
        if keep is not None:
            os.truncate(self._file.fileno(), keep)

    def _bytes_kept(self, saved: dict[str, Any]) -> int | None:
        """Return how much of the file is to be kept; None: all. What can't be told is an error."""
        file, size = saved["file"], saved["bytes"]
        there, begins_so = self._look(size, saved["head"])
        if file == str(self._path):
            if there >= size and begins_so:
                return int(size)
            if not there:
                text = "dead_letters: %s is gone or empty, and had %d bytes when the model was saved: letters written "
                log.warning(text + "after that may come a second time", file, size)
                return None
            what = f"has {there} bytes, and had {size}" if there < size else "doesn't begin as it did"
            raise ValueError(
                f"dead_letters: {file} {what} when the model was saved: it is another file, in which letters that come "
                "again can't be told from others. Put the one that was written back, or move this one away, or give "
                "another name"
            )
        if begins_so and 0 < size < there:
            raise ValueError(
                f"dead_letters: {self._path} begins as {file} did when the model was saved, and whether the "
                f"{there - size} bytes behind are to go can't be told. If it is that file, which was moved, cut it: "
                f"truncate -s {size}. If not, give another name, of a file that isn't there yet"
            )
        return None

    def _look(self, size: int, head: str) -> tuple[int, bool]:
        """Return the file's size, and whether it begins as the one that was saved."""
        if not self._path.exists():
            return 0, size == 0
        with open(self._path, "rb") as file:
            return os.fstat(file.fileno()).st_size, head_digest(file.fileno(), size) == head

    def write(self, rejected: Iterable[Rejected]) -> None:
        """Append letters; `sync` has them on disk."""
        assert self._file is not None
        for letter in rejected:
            line = json.dumps({"where": letter.where, "reason": letter.reason, "raw": letter.raw}) + "\n"
            self._file.write(line.encode("ascii"))
        self._file.flush()  # for whoever watches

    def sync(self) -> dict[str, Any]:
        """Have all letters on disk; return the position behind them, as JSON."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size  # not what was written: it may have been emptied meanwhile
        return {"file": str(self._path), "bytes": size, "head": head_digest(self._file.fileno(), size)}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
