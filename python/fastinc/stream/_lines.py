"""Events in lines of text: CSV and its kin, and JSON lines."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastinc.datasets._text import Layout, layout_of, width_fault
from fastinc.stream._events import BatchBuilder, Event, EventParser, MalformedError, text_of
from fastinc.stream._head import HEAD_BYTES, FilePrint, open_regular
from fastinc.stream._reader import FileReader, GrownError
from fastinc.stream._source import GapError

__all__ = ["MOST_BYTES", "LineReader"]

#: Bytes of a line beyond which it is rejected: one row must not take all memory.
MOST_BYTES = 1 << 20
#: Bytes beyond which a quote that was opened counts as a mistake, and the next line as a row of its own.
_MOST_RECORD = 1 << 16
_CHUNK = 1 << 16
#: What a read may look at before it stops for a while, about a tenth of a second: bytes, and what a line costs of them.
_STEP = 1 << 24
_LINE_COST = 512
_BOM = b"\xef\xbb\xbf"
_UNCLOSED = "not CSV: a quote is opened and not closed"


class _Line(NamedTuple):
    raw: bytes
    number: int
    #: Bytes that it has where they are too many, and `raw` is only the first of them.
    too_long: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.too_long and not (self.raw.removeprefix(_BOM) if self.number == 1 else self.raw).strip()


class _Lines:
    """The lines of a file from an offset on. At most one line and a chunk are held."""

    def __init__(self, path: Path, offset: int = 0, number: int = 0) -> None:
        self.path = path
        self._file = open_regular(path)
        self.looked_at = 0  # in bytes, and what lines cost
        self.rewind(offset, number)

    def rewind(self, offset: int, number: int) -> None:
        """Go to the beginning of a line."""
        self._file.seek(offset)
        self.offset, self.number = offset, number  # of what was taken
        self._held = b""
        self._begin = self._looked = 0  # in what is held: where the next line begins, and how far there is no newline
        self._dropped = 0  # bytes of a line that is too long
        self.ended = False  # a line without a newline was taken as the last: what comes after it is half a line

    def close(self) -> None:
        self._file.close()

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def take(self, final: bool, whole: bool = False, most: int | None = None) -> _Line | None:
        """Return the next line without its newline; one that has none yet only if the file is `final`.

        None where it isn't there yet, or, unless it must be had `whole`, where `is_enough`: the next call goes on. So
        it does after _UnclosedError, where it has more than `most` bytes.
        """
        while not self.ended:
            end = self._held.find(b"\n", self._looked)
            if end >= 0:
                return self._cut(end, 1)
            self._held, self._begin = self._held[self._begin :], 0
            if most is not None and len(self._held) + self._dropped > most:
                self._looked = len(self._held)
                raise _UnclosedError(_UNCLOSED)
            if len(self._held) > MOST_BYTES:
                self._dropped += len(self._held) - MOST_BYTES
                self._held = self._held[:MOST_BYTES]
            self._looked = len(self._held)
            if self.is_enough and not whole:
                return None
            chunk = self._file.read(_CHUNK)
            if not chunk:
                return self._cut(len(self._held), 0) if final and self._held else None
            if self._held and not self._is_held():
                self._file.seek(-len(chunk), os.SEEK_CUR)  # the next call finds it again
                raise GapError(f"{self.path} doesn't have what was read of its line {self.number + 1}: it was replaced")
            self.looked_at += len(chunk)
            self._held += chunk
        return None

    @property
    def is_enough(self) -> bool:
        """Whether so much was looked at that a read is to stop for a while."""
        return self.looked_at >= _STEP

    def _is_held(self) -> bool:
        """Whether the file still has the part of a line that is held, or its beginning: else halves would be joined."""
        begin = self._held[:HEAD_BYTES]
        return os.pread(self.descriptor, len(begin), self.offset) == begin

    def _cut(self, end: int, newline: int) -> _Line:
        raw, size = self._held[self._begin : end], self._dropped + end - self._begin
        self._begin = self._looked = end + newline
        self._dropped = 0
        self.ended = not newline
        self.offset += size + newline
        self.number += 1
        self.looked_at += _LINE_COST
        return _Line(raw[:MOST_BYTES], self.number, size if size > MOST_BYTES else 0)


class LineReader(FileReader):
    """Events in the lines of a file, with positions that notice when the file is another one.

    Parameters
    ----------
    path, name, parser
        As for `FileReader`.
    json
        Whether lines are JSON objects; else fields as in `fastinc.datasets.load_events`.
    """

    def __init__(self, path: Path, name: str, parser: EventParser, *, json: bool) -> None:
        super().__init__(path, name, parser)
        self._lines, self._json = _Lines(path), json
        self._layout: Layout | None = None
        self._print = FilePrint.of(self._lines.descriptor, 0)
        self._has_tail = True  # positions of before there were tails have none

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def position(self) -> dict[str, Any]:
        """Return where the reader is, as JSON; a file that was written anew meanwhile is an error."""
        self.verify()
        self._print, self._has_tail = FilePrint.of(self._lines.descriptor, self._lines.offset), True
        digests = {"head": self._print.head, "tail": self._print.tail}
        return {"offset": self._lines.offset, "line": self._lines.number, **digests}

    @property
    def bytes_read(self) -> int:
        """How many bytes were read."""
        return self._lines.offset

    @property
    def status(self) -> os.stat_result:
        """The status of the open file."""
        return os.fstat(self._lines.descriptor)

    def verify(self) -> None:
        """Raise GapError where the file was truncated or replaced; see `FileReader.verify`."""
        size, read = self.status.st_size, self._print
        if size < self._lines.offset:
            raise GapError(f"{self._path} has {size} bytes, and {self._lines.offset} were read: it was truncated")
        now = FilePrint.of(self._lines.descriptor, read.bytes)
        if now.head != read.head:
            raise GapError(f"{self._path} doesn't begin with what was read from it: it was replaced")
        if self._has_tail and now.tail != read.tail:
            raise GapError(f"{self._path} doesn't have what was read last before byte {read.bytes}: it was replaced")

    def seen(self) -> FilePrint | None:
        """Return what was read up to the last position; None where there were no rows in that."""
        return self._print if self._has_tail and self._print.bytes > self.rows_begin else None

    def copied_to(self, descriptor: int) -> Literal["yes", "maybe", "no"]:
        """Whether an open file is a copy of this one: once this one was cut short; until then it may be another."""
        seen = self.seen()
        if seen is None:
            return "no"
        there, own = os.fstat(descriptor).st_size, self.status.st_size  # in this order: the copy is never longer
        if own < seen.bytes:
            return "yes" if seen.begins(descriptor) else "no"
        is_like = there <= own and FilePrint.of(descriptor, there) == FilePrint.of(self._lines.descriptor, there)
        return "maybe" if is_like else "no"

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position; see `FileReader.seek`."""
        offset, number, head, tail = (position.get(name) for name in ("offset", "line", "head", "tail"))
        for name, value in (("offset", offset), ("line", number)):
            if type(value) is not int or value < 0:
                raise ValueError(f"position: {name} = {value!r} must be a whole number")
        assert isinstance(offset, int)
        assert isinstance(number, int)
        if not isinstance(head, str):
            raise ValueError(f"position: head = {head!r} must be a SHA-256")
        if tail is not None and not isinstance(tail, str):
            raise ValueError(f"position: tail = {tail!r} must be a SHA-256")
        self._lines.rewind(offset, number)
        self.paused = False
        self._print, self._has_tail = FilePrint(offset, head, tail or ""), tail is not None
        self.verify()
        if offset and not self._json:
            self._lines.rewind(0, 0)
            self._find_layout(final=True, whole=True)
            self._lines.rewind(offset, number)
        self._check_boundary(offset)

    def _check_boundary(self, offset: int) -> None:
        """A last line without a newline was taken as whole; it must not have gone on since."""
        if offset == 0:
            return
        before, after = os.pread(self._lines.descriptor, 1, offset - 1), os.pread(self._lines.descriptor, 2, offset)
        if before == b"\n" or not after:
            return
        if after[:1] != b"\n" and after != b"\r\n":
            number = self._lines.number
            self._lines.take(final=True)
            self._lines.number = number
            raise GrownError(f"{self._path}:{number}: the line that was the last has grown since it was read")
        ending = 1 if after[:1] == b"\n" else 2
        self._lines.rewind(offset + ending, self._lines.number)

    def go_on(self) -> bool:
        """Find out whether more has come behind what was taken as the last line; see `FileReader.go_on`."""
        if not self._lines.ended or self.status.st_size <= self._lines.offset:
            return False
        self._lines.rewind(self._lines.offset, self._lines.number)
        self._check_boundary(self._lines.offset)
        return True

    def read(self, builder: BatchBuilder, most: int, final: bool) -> None:
        """Read rows; see `FileReader.read`. A last line without a newline is one if `final`."""
        self._lines.looked_at = 0
        if self._json or self._layout is not None or self._find_layout(final):
            while len(builder) < most and not self._lines.is_enough:
                line = self._lines.take(final)
                if line is None or not (line.is_empty or self._row(builder, line, final)):
                    break
        self.paused = self._lines.is_enough and len(builder) < most

    def _find_layout(self, final: bool, whole: bool = False) -> bool:
        """Read the first line that isn't empty, which says what all others are; False where it isn't there yet."""
        if not (whole or self.paused):
            self._lines.rewind(0, 0)
        line: _Line | None = None
        while line is None or line.is_empty:
            begin = (self._lines.offset, self._lines.number)
            line = self._lines.take(final, whole) if whole or not self._lines.is_enough else None
            if line is None:
                return False
        text = text_of(line.raw).removeprefix("\ufeff").removesuffix("\r")
        self._layout = layout_of(self._path, text, self._parser.columns, line.number)
        if self._layout.first_line == line.number:
            self._lines.rewind(*begin)
        self.rows_begin = self._lines.offset
        return True

    def _row(self, builder: BatchBuilder, line: _Line, final: bool) -> bool:
        """Take a row; False where it goes on in lines that aren't there yet."""
        raw, where = line.raw, f"{self._name}:{line.number}"
        begin, number = self._lines.offset, self._lines.number
        if line.number == 1:
            raw = raw.removeprefix(_BOM)
        try:
            if line.too_long:
                raise MalformedError(f"has {line.too_long} bytes, more than {MOST_BYTES}")
            if self._json:
                event = self._parser.json(raw)
            else:
                fields = self._fields(raw.removesuffix(b"\r"), final)
                if fields is None:
                    self._lines.rewind(begin - len(line.raw) - 1, number - 1)
                    return False
                event = self._event(fields)
        except MalformedError as error:
            if self._lines.offset != begin and isinstance(error, _UnclosedError):
                self._lines.rewind(begin, number)  # its other lines are rows of their own, as far as one can tell
            builder.reject(text_of(raw), str(error), where)
        else:
            builder.add(event, where)
        return True

    def _fields(self, raw: bytes, final: bool) -> list[str] | None:
        """Split a row; one with an open quote goes on in the next lines. None where these aren't there yet."""
        assert self._layout is not None
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"is not UTF-8 at byte {error.start}") from None
        if self._layout.separator != "," or '"' not in text:
            return text.split(self._layout.separator)
        try:
            return next(csv.reader(self._record(text, len(raw), final), strict=True))
        except csv.Error as error:
            raise MalformedError(f"not CSV: {error}") from None
        except _UnfinishedError:
            return None

    def _record(self, text: str, size: int, final: bool) -> Iterator[str]:
        """Yield a row's lines, as many as the CSV reader asks for: it does as long as a quote is open.

        How many bytes belong to it doesn't depend on how many of them are there at which read.
        """
        yield text + "\n"
        while True:
            line = self._lines.take(final, whole=True, most=max(_MOST_RECORD - size, 0))
            if line is None and not final:
                raise _UnfinishedError
            if line is None or line.too_long or size + len(line.raw) > _MOST_RECORD:
                raise _UnclosedError(_UNCLOSED)
            size += len(line.raw) + 1
            yield text_of(line.raw.removesuffix(b"\r")) + "\n"

    def _event(self, fields: list[str]) -> Event:
        assert self._layout is not None
        fault = width_fault(fields, self._layout)
        if fault:
            raise MalformedError(fault)
        return self._parser.event(self._layout.roles, fields, text=True)


class _UnclosedError(MalformedError):
    """A quote that is open at the end of all that may belong to the row."""


class _UnfinishedError(Exception):
    """The row goes on in lines that aren't there yet."""
