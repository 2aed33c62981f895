"""The end of a log as it grows: the records that come after a state, or word that they can't be had."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fastinc.checkpoint import _directory
from fastinc.checkpoint._disk import Reader
from fastinc.checkpoint._records import Head, Record, Tail, heads, read_record, records
from fastinc.checkpoint._restoring import GoneError, State, read_manifest

__all__ = ["LogTail", "LostError"]

#: Seconds that what was read but isn't a record may still be a record that is being written.
PATIENCE = 2.0
_DIGEST = 32


class LostError(Exception):
    """The next record isn't to be had, or the last one isn't what it was: only a base leads on."""


class LogTail:
    """Reads the records after a state, each once, while another process appends them.

    Parameters
    ----------
    folder
        The log's.
    state
        What was restored from it. Records are to be applied to it as they come.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder = folder
        self._state = state
        self._first: int | None = None  # of the segment that is open
        self._reader: Reader | None = None
        self._offset = 0  # behind the last record that was read
        self._end = b""  # that one's digest
        self._stuck: tuple[int, int, float] | None = None  # where, in a file of what size, since when

    @property
    def is_stuck(self) -> bool:
        """Whether there are bytes that are no record, or not yet."""
        return self._stuck is not None

    def close(self) -> None:
        """Close the file at hand."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def records(self) -> Iterator[Record]:
        """Yield the records that are there by now; apply each before asking for the next.

        Raises
        ------
        LostError
            Another way has to be found.
        """
        while self._turn():
            assert self._reader is not None
            size = self._reader.refresh()
            self._check_end(size)
            while self._offset < size:
                try:
                    record = read_record(self._reader, self._offset, size)
                except ValueError:
                    self._wait(size)
                    break
                self._offset, self._end, self._stuck = record.end, record.digest, None
                if record.number <= self._state.number:
                    continue
                if not self._state.follows(record):
                    raise LostError(f"record {record.number} is not of this log's past")
                yield record
            if not self._has_successor():
                return

    def waiting(self) -> list[Head]:
        """Return what the records say of themselves that are there and not read yet, in order."""
        found: list[Head] = []
        try:
            for first, limit in _directory.listing(self._folder).segment_limits():
                if limit is not None and limit <= self._state.number + 1:
                    continue
                with _directory.open_segment(self._folder, first) as reader:
                    told = heads(reader, reader.size)
                    found += [
                        head for head in told if head.number > self._state.number and head.number < (limit or 2**63)
                    ]
        except FileNotFoundError:  # it went meanwhile
            pass
        return found

    def _turn(self) -> bool:
        """Have the segment open that the next record is, or will be, in; False: there is none yet."""
        there = _directory.listing(self._folder)
        following = self._state.number + 1
        try:
            if there.bases and there.bases[-1] >= following and self._digest_of(there, following) is None:
                raise LostError(f"record {following} is gone: base {there.bases[-1]} is what there is")
            first = max((first for first in there.segments if first <= following), default=None)
            if first is None or self._first in (None, following):
                self._check_past(there)
            if first is None:
                return False
            if self._reader is not None and first == self._first:
                if self._reader.is_at(_directory.segment_path(self._folder, first)):
                    return True
                if first < following:
                    raise LostError(f"the segment of record {first} was replaced")
            elif self._first is not None and first < following:
                raise LostError(f"record {first} was replaced")  # what was applied came from another file
            self.close()
            self._reader = _directory.open_segment(self._folder, first)
        except FileNotFoundError:
            return False  # it went after it was listed: the next look tells more
        self._first, self._offset, self._stuck = first, 0, None
        return True

    def _check_past(self, there: _directory.Listing) -> None:
        """Find out whether the state is one of this log's: a folder may be removed, and another take its place."""
        if self._chain_at(there, self._state.number) != self._state.chain:
            raise LostError(f"number {self._state.number} is gone, or not what it was")

    def _chain_at(self, there: _directory.Listing, number: int) -> bytes | None:
        """Return what the record after a number must name, or None where that number isn't there."""
        if number in there.bases:
            try:
                manifest = read_manifest(self._folder, number, there)
            except GoneError:
                return None
            except ValueError:  # damaged since: what is served was whole
                return self._state.chain
            if manifest is not None:
                chain: bytes = manifest["chain"]
                return chain
        return self._digest_of(there, number)

    def _digest_of(self, there: _directory.Listing, number: int) -> bytes | None:
        """Return the digest that a record in the segments has, not verified, or None where it isn't in any."""
        for first, limit in there.segment_limits():
            if first <= number and (limit is None or number < limit):
                with _directory.open_segment(self._folder, first) as reader:
                    ends = (head.end for head in heads(reader, reader.size) if head.number == number)
                    return next((reader(end - _DIGEST, _DIGEST) for end in ends), None)
        return None

    def _check_end(self, size: int) -> None:
        """Find out whether the last record that was read is still what it was; a base may have come after it."""
        assert self._reader is not None
        if self._offset and (size < self._offset or self._reader(self._offset - _DIGEST, _DIGEST) != self._end):
            raise LostError(f"{self._reader.path}: the record before byte {self._offset} is not what it was")

    def _has_successor(self) -> bool:
        """Tell whether a segment begins with the next record, so that this one is done with."""
        following = self._state.number + 1
        return self._first != following and following in _directory.listing(self._folder).segments

    def _wait(self, size: int) -> None:
        """Give who writes the record time to finish; after that it is damage, and where records follow it stays."""
        now = time.monotonic()
        if self._stuck is None or self._stuck[:2] != (self._offset, size):
            self._stuck = (self._offset, size, now)
        elif now - self._stuck[2] > PATIENCE:
            self._stuck = (self._offset, size, float("inf"))  # the same bytes need no second look
            assert self._reader is not None
            tail = Tail()
            for _ in records(self._reader, size, tail, self._offset):
                pass
            if tail.resumes is not None:
                raise LostError(f"{self._reader.path} is damaged at offset {tail.offset}: {tail.reason}")
