"""A file of events that were not learned, and why: each once, whatever is killed when."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from fastinc._arguments import as_path
from fastinc.checkpoint import _disk
from fastinc.checkpoint._lock import FileLock
from fastinc.stream._head import FilePrint
from fastinc.stream._source import Rejected, log

__all__ = ["DeadLetters", "check_saved"]

#: What a position has: the file's absolute path, its size, the digest of its beginning; what its letters are marked
#: with, and the digest of its end, which earlier positions have not.
_POSITION = {"file": str, "bytes": int, "head": str}
_MARKED = {**_POSITION, "log": str}
_TAILED = {**_MARKED, "tail": str}


def check_saved(saved: Any) -> dict[str, Any]:
    """Return what `DeadLetters.sync` gave; raise where it is something else."""
    kinds = {name: type(value) for name, value in saved.items()} if isinstance(saved, dict) else {}
    if kinds not in (_POSITION, _MARKED, _TAILED) or saved["bytes"] < 0:
        raise ValueError(f"position: dead_letters = {saved!r} must have {', '.join(_POSITION)}")
    return dict(saved)


class DeadLetters:
    """Appends to a file of JSON lines; what is behind the saved position is cut off at a restart, and comes again.

    Only the file that the position is of is ever cut, and only where all of that is this log's: each letter has the
    log's mark. Whatever else is in a file that is named stays. One that is gone or empty was rotated away: there is
    nothing to cut, and a warning is logged. While it is open, nobody else gets it.

    Parameters
    ----------
    path
        The file, made by `open` if need be.
    saved
        What `sync` returned when the state was saved that is gone on from; None: there was no file.
    """

    def __init__(self, path: str | os.PathLike[str], saved: Any) -> None:
        self.path = Path(os.path.realpath(as_path(path, "dead_letters")))
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ValueError(f"dead_letters = {os.fspath(path)!r} must be a file in a folder that is there")
        if os.path.exists(path) and not os.path.isfile(path):  # as named: a pipe behind /dev/stdout has no real path
            raise ValueError(
                f"dead_letters = {os.fspath(path)!r} must be a regular file: letters of a run that was killed are cut "
                "off and written again. To have malformed events counted only, leave it out"
            )
        self._saved = None if saved is None else check_saved(saved)
        self._mark: str = (self._saved or {}).get("log") or secrets.token_hex(6)
        self._lock: FileLock | None = None
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file and cut it. The writer before must be known to be gone: what it wrote would be cut off."""
        new = not self.path.exists()
        self._lock = FileLock(self.path)
        keep = None if self._saved is None else self._bytes_kept(self._saved)
        self._file = open(self.path, "a+b")  # noqa: SIM115  closed by close()
        if new:
            _disk.sync_folder(self.path.parent)
        if keep is not None:
            os.truncate(self._file.fileno(), keep)
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")  # half a line that somebody left: ours begin lines of their own

    def _bytes_kept(self, saved: dict[str, Any]) -> int | None:
        """Return how much of the file is to be kept; None: all. What can't be told is an error."""
        file, size = saved["file"], saved["bytes"]
        there, begins_so, same = self._look(saved)
        if file == str(self.path):
            if same:
                return self._check_behind(size, saved.get("log"))
            if not there:
                text = "dead_letters: %s is gone or empty, and had %d bytes when the model was saved: letters written "
                log.warning(text + "after that may come a second time", file, size)
                return None
            what = "doesn't begin as it did" if not begins_so else "has other letters than it had"
            if there < size:
                what = f"has {there} bytes, and had {size}"
            raise ValueError(
                f"dead_letters: {file} {what} when the model was saved: it is another file, in which letters that come "
                "again can't be told from others. Put the one that was written back, or move this one away, or give "
                "another name"
            )
        if begins_so and 0 < size < there:
            raise ValueError(
                f"dead_letters: {self.path} begins as {file} did when the model was saved, and whether the "
                f"{there - size} bytes behind are to go can't be told. If it is that file, which was moved, cut it: "
                f"truncate -s {size}. If not, give another name, of a file that isn't there yet"
            )
        return None

    def _look(self, saved: dict[str, Any]) -> tuple[int, bool, bool]:
        """Return the file's size; whether it begins as the one that was saved; whether it is that, grown or not."""
        with open(self.path, "rb") as file:
            there, found = os.fstat(file.fileno()).st_size, FilePrint.of(file.fileno(), saved["bytes"])
        begins_so = found.head == saved["head"]
        return there, begins_so, begins_so and there >= saved["bytes"] and found.tail == saved.get("tail", found.tail)

    def _check_behind(self, size: int, mark: str | None) -> int | None:
        """Return the size, to be cut at, where all behind it is ours; None where nothing is."""
        ours = others = False
        with open(self.path, "rb") as file:
            file.seek(size)
            for line in file:
                is_ours, is_others = _whose(line, _begin(mark))
                ours, others = ours or is_ours, others or is_others
        if ours and others:
            raise ValueError(
                f"dead_letters: {self.path} had {size} bytes when the model was saved, and behind them are letters "
                "that come again, and lines of others, which must not be cut off. Move the file away, or give another "
                "name: no letter is lost, and those behind come twice, in either file once. A file of its own for each "
                "log avoids that"
            )
        return None if others else size

    def write(self, rejected: Iterable[Rejected]) -> None:
        """Append letters; `sync` has them on disk."""
        assert self._file is not None
        for letter in rejected:
            fields = {"log": self._mark, "where": letter.where, "reason": letter.reason, "raw": letter.raw}
            self._file.write((json.dumps(fields) + "\n").encode("ascii"))
        self._file.flush()  # for whoever watches

    def sync(self) -> dict[str, Any]:
        """Have all letters on disk; return the position behind them, as JSON."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size  # not what was written: it may have been emptied meanwhile
        return {"file": str(self.path), **FilePrint.of(self._file.fileno(), size).to_json(), "log": self._mark}

    def close(self) -> None:
        """Close the file, and let others have it."""
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def _begin(mark: str | None) -> bytes:
    """Return what letters of a log begin with; None: those that have no mark."""
    return b'{"where": ' if mark is None else f'{{"log": {json.dumps(mark)}, '.encode("ascii")


def _whose(line: bytes, begin: bytes) -> tuple[bool, bool]:
    """Tell whether a line is ours, and whether it is of others: both where somebody wrote behind half a letter."""
    if not line.endswith(b"\n"):  # the process was killed, or the disk was full
        ours = line.startswith(begin) or begin.startswith(line)
        return ours, not ours
    if not line.startswith(begin):
        return False, True
    try:
        json.loads(line)
    except ValueError:
        return True, True
    return True, False
