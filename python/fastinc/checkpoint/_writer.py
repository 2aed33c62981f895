"""The one who writes to a log's folder: where it ends, and what is put after that."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastinc.checkpoint import _arrays, _directory, _disk
from fastinc.checkpoint._change import Change
from fastinc.checkpoint._compression import shrink
from fastinc.checkpoint._entries import Entry, entries
from fastinc.checkpoint._lock import DirectoryLock
from fastinc.checkpoint._parts import size_of, write_parts
from fastinc.checkpoint._records import Tail, encode, records
from fastinc.checkpoint._restoring import ChangingError, GoneError, read_manifest

__all__ = ["SEGMENT_BYTES", "Told", "Writer"]

#: A segment that would be longer isn't gone on with.
SEGMENT_BYTES = 64 << 20
#: A record of fewer bytes is written by one call.
_SMALL = 1 << 20


@dataclass(frozen=True)
class Told:
    """What an append tells beside what it writes."""

    kind: str
    position: Any
    time: float


class Writer:
    """Puts bases and increments into a folder, one after another, under a lock.

    What fails leaves the end where it was: a record that may be half there is cut off, and whatever comes next goes
    into another file, which supersedes what that one may still show.

    Parameters
    ----------
    folder
        Made if need be.
    compression
        Of the arrays: "zstd" or None.

    Attributes
    ----------
    number, chain
        Of the end; 0 where there is nothing. The chain is None where the end can't be read: a base must come next.
    cut
        What was cut off, in words, or None.
    increments_bytes, base_bytes
        Of the segments since the newest base, and of that base.
    """

    def __init__(self, folder: Path, compression: str | None) -> None:
        self.folder, self._compression = folder, compression
        self._segment: _disk.File | None = None
        self._segment_bytes = 0
        self.cut: str | None = None
        _disk.make_folder(folder)
        self._lock = DirectoryLock(folder)
        try:
            _disk.sweep(folder.glob(_disk.STAGED), 0.0)  # nobody else is at work here
            self.number, self.chain = self._find_end()
            self._measure()
        except BaseException:
            self._lock.release()
            raise

    def check(self) -> None:
        """Raise where this isn't the folder's writer any more."""
        self._lock.check(self.folder)

    def close(self) -> None:
        """Let others write."""
        self.rotate()
        self._lock.release()

    def rotate(self) -> None:
        """Have the next increment begin a segment."""
        if self._segment is not None:
            self._segment.close()
        self._segment = None

    def _find_end(self) -> tuple[int, bytes | None]:
        there = _directory.listing(self.folder)
        number, chain = 0, None
        for first, limit in reversed(there.segment_limits()):
            found = self._last_record(first, limit)
            if found is not None:
                number, chain = found
                break
        for base in there.bases:
            try:
                manifest = read_manifest(self.folder, base, there)
            except (ValueError, GoneError):
                if base > number:
                    number, chain = base, None
                continue
            if manifest is not None and base >= number:
                number, chain = base, manifest["chain"]
        return number, chain

    def _last_record(self, first: int, limit: int | None) -> tuple[int, bytes] | None:
        """Return number and digest of the last record in a segment; what is torn at the end of the log is cut off."""
        path, tail, last, start = _directory.segment_path(self.folder, first), Tail(), None, 0
        with _directory.open_segment(self.folder, first) as file:
            while True:
                for record in records(file, file.size, tail, start):
                    if limit is None or record.number < limit:
                        last = record.number, record.digest
                if tail.resumes is None:
                    break
                start = tail.resumes  # damage in the middle is the restore's to report; numbers go on after all
        if limit is None and tail.reason is not None:
            self.cut = f"{path} was damaged at offset {tail.offset}, its end: {tail.reason}; it was cut off there"
            if tail.offset > 0:
                _disk.truncate(path, tail.offset)
            else:
                _disk.remove(path)
        return last

    def _measure(self) -> None:
        self.base_bytes = self.increments_bytes = 0
        for entry in entries(self.folder):
            if entry.kind == "base":
                self.base_bytes, self.increments_bytes = entry.bytes, 0
            else:
                self.increments_bytes += entry.bytes

    def add_increment(self, change: Change, told: Told) -> Entry:
        """Put what changed after the end."""
        assert self.chain is not None
        number = self.number + 1
        plain = list(_arrays.pieces(change.arrays))
        parts = list(shrink(plain, self._compression))
        meta = {**vars(told), "parameters": change.parameters}
        if self._compression is not None:
            meta |= {"compression": self._compression, "plain_bytes": sum(map(len, plain))}
        pieces, digest = encode(number, self.chain, meta, parts)
        size = sum(map(len, pieces))
        if size <= _SMALL:
            pieces = [b"".join(pieces)]
        if self._segment is None or self._segment_bytes + size > SEGMENT_BYTES:
            self._begin_segment(number, pieces)
            self._segment_bytes = 0
        else:
            self._extend_segment(self._segment, pieces)
        self._segment_bytes += size
        self.increments_bytes += size
        self.number, self.chain = number, digest
        return Entry(number, "increment", size, told.time, told.position)

    def _begin_segment(self, number: int, pieces: list[Any]) -> None:
        """A segment has its name once its first record is on disk."""
        self.rotate()
        with _disk.staged(self.folder, "increments") as path:
            file = _disk.create(path)
            try:
                for piece in pieces:
                    file.write(piece)
                file.sync()
                _disk.publish(path, _directory.segment_path(self.folder, number))
            except BaseException:
                file.close()
                raise
        self._segment = file

    def _extend_segment(self, file: _disk.File, pieces: list[Any]) -> None:
        try:
            if not file.is_named():
                self.chain = None  # nothing may lead there now: all of it is written next
                raise FileNotFoundError(f"somebody else removed the segment that {self.folder} ended with")
            for piece in pieces:
                file.write(piece)
            file.sync()
        except BaseException:
            with contextlib.suppress(OSError):  # if it stays, the next segment supersedes it
                file.truncate(self._segment_bytes)
            self.rotate()
            raise

    def add_base(self, change: Change, told: Told) -> Entry:
        """Put all of an object after the end."""
        number, chain = self.number + 1, secrets.token_bytes(32)
        self.rotate()  # should this fail and leave a base behind, a segment that begins with its number supersedes it
        _disk.remove(_directory.segment_path(self.folder, number))  # of an append that failed
        with self.base(number, chain, change, told, appended=True) as put:
            size = put()
        self.number, self.chain = number, chain
        return Entry(number, "base", size, told.time, told.position)

    @contextlib.contextmanager
    def base(self, number: int, chain: bytes, change: Change, told: Told, *, appended: bool = False) -> Iterator[Any]:
        """Write a base; what is lent gives it its name when called, and returns its bytes."""
        with _disk.staged(self.folder, "base") as path:
            _disk.make_folder(path)
            numbers = {"number": number, "chain": chain.hex(), "appended": appended}
            numbers |= {"position": told.position, "time": told.time}
            write_parts(path, told.kind, change, numbers, self._compression)
            size = size_of(path)

            def put() -> int:
                name = _directory.base_path(self.folder, number)
                with _disk.staged(self.folder, "replaced") as replaced:
                    if os.path.lexists(name):  # damaged, or of an append that failed
                        _disk.rename(name, replaced)
                    _disk.publish(path, name)
                self.rotate()
                self.base_bytes, self.increments_bytes = size, 0
                # The base is there, whatever this says.
                with contextlib.suppress(OSError, ValueError, GoneError, ChangingError):
                    self._measure()
                return size

            yield put
