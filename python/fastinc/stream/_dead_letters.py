"""A file of events that were not learned, and why: each once, whatever is killed when."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from fastinc._arguments import as_path
from fastinc.checkpoint import _disk
from fastinc.checkpoint._lock import FileLock
from fastinc.stream._head import FilePrint
from fastinc.stream._source import Rejected, log

__all__ = ["DeadLetters", "check_saved", "no_file"]

#: What a position has: the file's absolute path, its size, the digest of its beginning; what the log's letters are
#: marked with, and the digest of the file's end, which earlier positions have not. The mark alone: no file so far.
_POSITION = {"file": str, "bytes": int, "head": str}
_MARKED = {**_POSITION, "log": str}
_TAILED = {**_MARKED, "tail": str}
_NO_FILE = {"log": str}
#: What is behind the mark of a letter; earlier ones have no number.
_NUMBER = re.compile(rb'"number": (\d+), ')


def check_saved(saved: Any) -> dict[str, Any]:
    """Return what `no_file` or `DeadLetters.sync` gave; raise where it is something else."""
    kinds = {name: type(value) for name, value in saved.items()} if isinstance(saved, dict) else {}
    if kinds not in (_NO_FILE, _POSITION, _MARKED, _TAILED) or saved.get("bytes", 0) < 0:
        raise ValueError(f"position: dead_letters = {saved!r} must have {', '.join(_POSITION)}")
    return dict(saved)


def no_file() -> dict[str, Any]:
    """Return what a log's positions have until it has dead letters: its mark, by which those are known from the first.

    A run without dead letters saves what the run before did, so that a rollback beyond it finds the mark, and the file.
    """
    return {"log": secrets.token_hex(6)}


class DeadLetters:
    """Appends to a file of JSON lines; what comes again is cut off at a restart.

    Those are letters with the log's mark and a number above those that were counted when the model was saved, at the
    file's end. Whatever else is in it stays. A file that the position is of and that is gone or empty was rotated away:
    there is nothing to cut, and a warning is logged. While it is open, nobody else gets it.

    Parameters
    ----------
    path
        The file, made by `open` if need be.
    saved
        What `sync` or `no_file` returned when the state was saved that is gone on from; None: the log begins.
    rejected
        How many events had been rejected by then.
    """

    def __init__(self, path: str | os.PathLike[str], saved: dict[str, Any] | None, rejected: int) -> None:
        self.path = Path(os.path.realpath(as_path(path, "dead_letters")))
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ValueError(f"dead_letters = {os.fspath(path)!r} must be a file in a folder that is there")
        if os.path.exists(path) and not os.path.isfile(path):  # as named: a pipe behind /dev/stdout has no real path
            raise ValueError(
                f"dead_letters = {os.fspath(path)!r} must be a regular file: letters of a run that was killed are cut "
                "off and written again. To have malformed events counted only, leave it out"
            )
        self._saved, self._rejected = saved, rejected
        self._mark: str = (saved or no_file()).get("log") or no_file()["log"]
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
        if "file" not in saved:
            return self._check_behind(0, saved.get("log"), known=False)
        file, size = saved["file"], saved["bytes"]
        there, begins_so, same = self._look(saved)
        if file == str(self.path):
            if same:
                return self._check_behind(size, saved.get("log"), known=True)
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
        keep = self._check_behind(0, saved.get("log"), known=False)
        if os.path.isfile(file) and os.path.getsize(file) > size:
            text = (
                "dead_letters: %s has got longer than its %d bytes when the model was saved: letters behind them may "
            )
            log.warning(text + "come a second time, in %s", file, size, self.path)
        return keep

    def _look(self, saved: dict[str, Any]) -> tuple[int, bool, bool]:
        """Return the file's size; whether it begins as the one that was saved; whether it is that, grown or not."""
        with open(self.path, "rb") as file:
            there, found = os.fstat(file.fileno()).st_size, FilePrint.of(file.fileno(), saved["bytes"])
        begins_so = found.head == saved["head"]
        return there, begins_so, begins_so and there >= saved["bytes"] and found.tail == saved.get("tail", found.tail)

    def _check_behind(self, size: int, mark: str | None, *, known: bool) -> int | None:
        """Return where letters begin that come again, to be cut off there; None: there are none behind `size`.

        In a file that the position knows, those without a number, as half letters and those of before, come again.
        """
        begin, keep, others, untold = _begin(mark), None, False, 0
        with open(self.path, "rb") as file:
            at = file.seek(size)
            for line in file:
                number = _number(line, begin)
                comes = known or keep is not None if number == 0 else number is not None and number > self._rejected
                untold += number == 0 and not comes
                if comes and keep is None:
                    keep = at
                if keep is not None:
                    others = others or not comes or _is_written_into(line)
                at += len(line)
        if others:
            raise ValueError(
                f"dead_letters: {self.path} has, behind its first {keep} bytes, letters that come again, and lines of "
                "others, which must not be cut off. Move the file away, or give another name: no letter is lost, and "
                "those behind come twice, in either file once. A file of its own for each log avoids that"
            )
        if untold:
            text = "dead_letters: %s has %d letters of this log without a number: they may come a second time"
            log.warning(text, self.path, untold)
        return keep

    def write(self, rejected: Iterable[Rejected]) -> None:
        """Append letters; `sync` has them on disk."""
        assert self._file is not None
        for letter in rejected:
            self._rejected += 1
            fields = {"log": self._mark, "number": self._rejected}
            fields |= {"where": letter.where, "reason": letter.reason, "raw": letter.raw}
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


def _number(line: bytes, begin: bytes) -> int | None:
    """Return the number of a letter of ours, 0 where it can't be told; None: the line is of others."""
    if line.startswith(begin):
        found = _NUMBER.match(line, len(begin))
        return 0 if found is None else int(found[1])
    return 0 if begin.startswith(line) else None  # not a whole line: the process was killed, or the disk was full


def _is_written_into(line: bytes) -> bool:
    """Whether somebody wrote behind half a letter of ours."""
    try:
        json.loads(line)
    except ValueError:
        return line.endswith(b"\n")
    return False
