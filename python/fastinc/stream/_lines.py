"""Events in lines of text: CSV and its kin, and JSON lines."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastinc.datasets._text import Layout, layout_of, width_fault
from fastinc.stream._events import BatchBuilder, Event, EventParser, MalformedError, text_of
from fastinc.stream._head import HEAD_BYTES, head_digest
from fastinc.stream._reader import FileReader, GrownError
from fastinc.stream._source import GapError

__all__ = ["MOST_BYTES", "LineReader"]

#: Bytes of a line beyond which it is rejected: one row must not take all memory.
MOST_BYTES = 1 << 20
#: Bytes beyond which a quote that was opened counts as a mistake, and the next line as a row of its own.
_MOST_RECORD = 1 << 16
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _Line:
    raw: bytes
    number: int
    #: Bytes that it has where they are too many, and `raw` is only the first of them.
    too_long: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.raw.removeprefix(_BOM) if self.number == 1 else self.raw).strip()


class _Lines:
    """The lines of a file from an offset on. At most one line and a chunk are held."""

    def __init__(self, path: Path, offset: int = 0, number: int = 0) -> None:
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by close()
        self.rewind(offset, number)

    def rewind(self, offset: int, number: int) -> None:
        """Go to the beginning of a line."""
        self._file.seek(offset)
        self.offset, self.number = offset, number  # of what was taken
        self._held = b""
        self._begin = self._looked = 0  # in what is held: where the next line begins, and how far there is no newline
        self._dropped = 0  # bytes of a line that is too long

    def close(self) -> None:
        self._file.close()

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def take(self, final: bool) -> _Line | None:
        """Return the next line without its newline; one that has none yet only if the file is `final`."""
        while True:
            end = self._held.find(b"\n", self._looked)
            if end >= 0:
                return self._cut(end, 1)
            self._held, self._begin = self._held[self._begin :], 0
            if len(self._held) > MOST_BYTES:
                self._dropped += len(self._held) - MOST_BYTES
                self._held = self._held[:MOST_BYTES]
            self._looked = len(self._held)
            chunk = self._file.read(_CHUNK)
            if not chunk:
                return self._cut(len(self._held), 0) if final and self._held else None
            self._held += chunk

    def _cut(self, end: int, newline: int) -> _Line:
        raw, size = self._held[self._begin : end], self._dropped + end - self._begin
        self._begin = self._looked = end + newline
        self._dropped = 0
        self.offset += size + newline
        self.number += 1
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
        self._head = (0, self._digest(0))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def position(self) -> dict[str, Any]:
        """Return where the reader is, as JSON; a file that was written anew meanwhile is an error."""
        self.verify()
        size = min(HEAD_BYTES, self._lines.offset)
        if size > self._head[0]:
            self._head = (size, self._digest(size))
        return {"offset": self._lines.offset, "line": self._lines.number, "head": self._head[1]}

    def _digest(self, size: int) -> str:
        return head_digest(self._lines.descriptor, size)

    def verify(self) -> None:
        """Raise GapError where the file was truncated or replaced; see `FileReader.verify`."""
        size = os.fstat(self._lines.descriptor).st_size
        if size < self._lines.offset:
            raise GapError(f"{self._path} has {size} bytes, and {self._lines.offset} were read: it was truncated")
        if self._digest(self._head[0]) != self._head[1]:
            raise GapError(f"{self._path} doesn't begin with what was read from it: it was replaced")

    def replaced(self) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        own = os.fstat(self._lines.descriptor)
        return (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev)

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position; see `FileReader.seek`."""
        offset, number, head = (position.get(name) for name in ("offset", "line", "head"))
        for name, value in (("offset", offset), ("line", number)):
            if type(value) is not int or value < 0:
                raise ValueError(f"position: {name} = {value!r} must be a whole number")
        assert isinstance(offset, int)
        assert isinstance(number, int)
        if not isinstance(head, str):
            raise ValueError(f"position: head = {head!r} must be a SHA-256")
        self._lines.rewind(offset, number)
        self._head = (min(HEAD_BYTES, offset), head)
        self.verify()
        if offset and not self._json:
            self._find_layout(final=True)
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
            self._lines.rewind(self._lines.offset, number)
            raise GrownError(f"{self._path}:{number}: the line that was the last has grown since it was read")
        ending = 1 if after[:1] == b"\n" else 2
        self._lines.rewind(offset + ending, self._lines.number)

    def read(self, builder: BatchBuilder, most: int, final: bool) -> None:
        """Read rows; see `FileReader.read`. A last line without a newline is one if `final`."""
        if not self._json and self._layout is None and not self._find_layout(final):
            return
        while len(builder) < most:
            line = self._lines.take(final)
            if line is None or not (line.is_empty or self._row(builder, line, final)):
                return

    def _find_layout(self, final: bool) -> bool:
        """Read the first line that isn't empty, which says what all others are; False where it isn't there yet."""
        self._lines.rewind(0, 0)
        line = self._lines.take(final)
        while line is not None and line.is_empty:
            line = self._lines.take(final)
        if line is None:
            return False
        text = text_of(line.raw).removeprefix("\ufeff").removesuffix("\r")
        self._layout = layout_of(self._path, text, self._parser.columns, line.number)
        if self._layout.first_line == line.number:
            self._lines.rewind(0, 0)
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
        while True:
            try:
                return next(csv.reader([text], strict=True))
            except csv.Error as error:
                if "unexpected end of data" not in str(error):
                    raise MalformedError(f"not CSV: {error}") from None
            more = self._until_quote(len(text), final)
            if more is None:
                return None
            text += more

    def _until_quote(self, size: int, final: bool) -> str | None:
        """Return the lines that end with the next one with a quote in it. None where these aren't there yet."""
        lines = [""]
        while '"' not in lines[-1]:
            line = self._lines.take(final)
            if line is None and not final:
                return None
            if line is None or size + len(line.raw) > _MOST_RECORD:
                raise _UnclosedError("not CSV: a quote is opened and not closed")
            lines.append(text_of(line.raw.removesuffix(b"\r")))
            size += len(line.raw) + 1
        return "\n".join(lines)

    def _event(self, fields: list[str]) -> Event:
        assert self._layout is not None
        fault = width_fault(fields, self._layout)
        if fault:
            raise MalformedError(fault)
        return self._parser.event(self._layout.roles, fields, text=True)


class _UnclosedError(MalformedError):
    """A quote that is open at the end of all that may belong to the row."""
