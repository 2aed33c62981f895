"""A stream of files: one, those of a folder, or those that a pattern finds; followed as they grow, or read once."""

from __future__ import annotations

import fnmatch
import glob
import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fastinc._arguments import as_choice, as_flag, as_path, as_whole
from fastinc.stream._events import BatchBuilder, EventParser
from fastinc.stream._head import FilePrint, open_regular
from fastinc.stream._left import LeftFiles
from fastinc.stream._lines import LineReader
from fastinc.stream._listing import Listing, is_of_stream
from fastinc.stream._parquet import ParquetReader
from fastinc.stream._read_before import ReadBefore
from fastinc.stream._reader import FileReader, GrownError
from fastinc.stream._source import Batch, GapError, Source, check_read, log

__all__ = ["FileSource", "format_by_content"]

Format = Literal["csv", "json", "parquet"]
_FORMATS = {"csv": "csv", "tsv": "csv", "inter": "csv", "dat": "csv", "data": "csv", "txt": "csv"}
_FORMATS |= {"json": "json", "jsonl": "json", "ndjson": "json", "parquet": "parquet", "pq": "parquet"}
#: Seconds between two looks at a file that is followed.
_LOOK = 0.05


class FileSource(Source):
    r"""Events in files; see `fastinc.stream.open`, which makes one of a path.

    A position is a file's name, how far it was read, the SHA-256 of its first and of its last (up to 1,024) bytes, and
    how many files have earlier names: those that come later are not read, and a warning is logged. Files before the one
    that is being read may be removed. Held are a line, 64 KiB, and for Parquet a row group's columns.

    The file that is being read, and the last 16 that were, are not read again under a later name, as rotation (to
    ``clicks.log.1``) gives them or copies that take their place: that is logged, and what has the old name of the one
    that is being read is a gap. Copies of less than 1,024 bytes are files of their own. Older files may be removed, but
    not given later names: finished ones don't stay in the folder under such. Where names are rotated, follow that one
    file with ``on_gap="skip"``. Of files that are followed, one that has nothing but what the one before began
    with may be a copy that is being made: it is read when it hasn't changed for two seconds, and the one before is what
    it was.

    Parameters
    ----------
    path
        A regular file, a folder, or a pattern with ``*``, ``?`` or ``[``, relative to what is the current folder now.
        The files of a folder (none whose name begins with a dot or an underscore or ends in ``.tmp``) or of a pattern
        are read one after the other in the order of their names; what isn't a regular file is none of them.
    follow
        Wait for more at the end. A line is read when its newline is there. A file counts as complete once one with a
        later name is there; that is then the next, and what the other one still gets is not read, which is logged for
        the last 16 files of a run. Parquet files must appear whole.
    format
        "csv" (all that `fastinc.datasets.load_events` reads as text, commas or not), "json" (an object a line) or
        "parquet"; None: as the file is called, or else begins. Empty lines are no events, also before a header.
    columns
        Names of columns or fields by role, where they aren't the usual ones: ``{"item": "sku"}``.
    ids
        "int" or "str"; None: each of users and items as in the first good event, for as long as the stream lasts.
    labels, timestamps
        Whether events have them (False: what is there isn't looked at); None: all, if the first good event has one.
    on_gap
        Where the file that is being read was cut short, replaced, moved or removed: "raise" GapError, or "skip": log an
        error (how much is lost isn't known) and go on with what is there. A file that is shorter than it was, or begins
        differently, is read from its beginning. A single file that is gone is waited for, if it is followed, and read
        from its beginning; in a folder or pattern the next name comes, or that name if it is there again before.

    Examples
    --------
    >>> import pathlib, tempfile, fastinc as fi
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "monday.jsonl").write_text('{"user": 7, "item": "tea"}\n')
    >>> source = fi.stream.open(folder, follow=True)
    >>> source.read(100, timeout=1.0).items.tolist(), source.read(100, timeout=0.0)
    (['tea'], None)
    >>> _ = (folder / "tuesday.jsonl").write_text('{"user": 7, "item": "jam"}\n{"user"')
    >>> batch = source.read(100, timeout=1.0)
    >>> batch.items.tolist(), batch.position["file"], source.read(100, timeout=0.0)
    (['jam'], 'tuesday.jsonl', None)
    >>> source.close()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        follow: bool = False,
        format: Format | None = None,
        columns: Mapping[str, str] | None = None,
        ids: Literal["int", "str"] | None = None,
        labels: bool | None = None,
        timestamps: bool | None = None,
        on_gap: Literal["raise", "skip"] = "raise",
    ) -> None:
        self._path = as_path(path).absolute()  # the current folder may be another by the time of a read
        self.name = os.fspath(path)
        self._root = None if os.path.isabs(self.name) else os.getcwd()
        self._follow = as_flag(follow, "follow")
        self._format = None if format is None else as_choice(format, "format", ("csv", "json", "parquet"))
        self._parser = EventParser(columns, ids, labels, timestamps)
        self._skip_gaps = as_choice(on_gap, "on_gap", ("raise", "skip")) == "skip"
        self._pattern = any(letter in self.name for letter in "*?[") and not self._path.exists()
        if not self._pattern and not self._path.exists():
            raise FileNotFoundError(f"{self.name}: there is no such file or folder")
        self._single = not self._pattern and not self._path.is_dir()
        if self._single and not self._path.is_file():
            raise ValueError(
                f"path = {self.name!r} is not a regular file: a pipe or device has no positions to go on from. Write "
                "it to a file, and follow that"
            )
        self._reader: FileReader | None = None
        self._file = ""  # the name of the one that is open, or was last
        self._again = False  # that one is to be read from its beginning, if it is there
        self._listing = Listing(None if self._pattern else self._path, self.name if self._pattern else "", self._root)
        self._known: list[str] = []  # the names there were, sorted
        self._earlier = 0  # how many of these have names before the file's
        self._left = LeftFiles(self.name, self._path_of)
        self._read_before = ReadBefore(self.name, self._follow, self._left)
        self._ended = False
        if not self._files():
            hint = "; streams of servers begin with redis:// or kafka://" if {"?", "="} <= set(self.name) else ""
            if not self._follow:
                raise FileNotFoundError(f"{self.name}: there are no files{hint}")
            log.warning("%s: there are no files yet: they are waited for%s", self.name, hint)

    # --- the files -----------------------------------------------------------------------------------------

    def _files(self, fresh: bool = True) -> list[str]:
        """Return the names of the files there are, sorted; see `Listing.names`."""
        return [self._path.name] if self._single else self._listing.names(fresh)

    def _path_of(self, name: str) -> Path:
        if self._single:
            return self._path
        return Path(self._root or "", name) if self._pattern else self._path / name

    def _paths(self) -> Iterator[Path]:
        return map(self._path_of, self._files())

    def reads(self, path: Path) -> bool:
        """Whether a file is one of the stream's, or would be; see `Source.reads`."""
        if any(_is_same(path, own) for own in self._paths()):
            return True
        if not self._pattern:
            return not self._single and _is_same(path.parent, self._path) and is_of_stream(path.name)
        folders, name = os.path.split(self.name)
        if not fnmatch.fnmatchcase(path.name, name) or (path.name.startswith(".") and not name.startswith(".")):
            return False
        found = glob.glob(folders, root_dir=self._root) if folders else [""]
        return any(_is_same(path.parent, self._path_of(folder)) for folder in found)

    def _next_file(self) -> str | None:
        """Return the file after the one that is open, or was last."""
        self._left.look()
        name = self._next_of(self._files(fresh=False))
        if name is None and self._listing.remembered:  # a folder's time may lag behind
            name = self._next_of(self._files())
        return name

    def _next_of(self, files: list[str]) -> str | None:
        first = bisect_left(files, self._file)
        if files is not self._known:
            late = sorted(set(files[:first]).difference(self._known))
            if late:
                log.warning("%s: %s came after %s was begun and is not read", self.name, ", ".join(late), self._file)
            self._look_at(files, self._file)
            self._read_before.keep(files)
        for place in range(first, len(files)):
            name = files[place]
            again = self._again and name == self._file
            if name == self._file and not again:
                continue
            was_read = self._read_before.has(name, self._path_of(name), self._reader, again)
            if was_read != "yes":
                return name if was_read == "no" else None
        return None

    def _look_at(self, known: list[str], file: str) -> None:
        """Note which files there are, and which one is read."""
        self._known, self._file = known, file
        self._earlier = bisect_left(known, file)

    def _open_file(self, name: str) -> bool:
        """Open a file; False where nothing says yet what is going to be in it, or a gap is skipped and it is gone.

        The one before is closed after that: until then it is what others are compared with.
        """
        path, reader = self._path_of(name), None
        try:
            reader = self._reader_of(name, path)
            if reader is None and any(later > name for later in self._files()):
                reader = self._reader_of(name, path, complete=True)  # what came since the first look is in it
        except FileNotFoundError:
            if not (self._follow and self._skip_gaps):
                raise
        if reader is None:
            return False
        if self._reader is not None:
            self._left.add(self._file, self._reader)
            self._reader.close()
        self._reader = reader
        self._look_at(self._known, name)
        self._again = False
        return True

    def _reader_of(self, name: str, path: Path, complete: bool = False) -> FileReader | None:
        """Return a file's reader; None where it is empty, and has no format, and may get one."""
        kind = self._format or _FORMATS.get(path.suffix[1:].lower()) or format_by_content(path)
        if kind is None and self._follow and not complete:
            return None
        if kind == "parquet":
            return ParquetReader(path, name, self._parser)
        return LineReader(path, name, self._parser, json=kind == "json")

    def close(self) -> None:
        """Close the file."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # --- the stream ----------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether all files were read to their ends, and none is followed."""
        return self._ended

    def seek(self, position: Any) -> None:
        """Go on after a batch; see `Source.seek`."""
        self._check_open()
        if not isinstance(position, dict) or not isinstance(position.get("file"), str):
            raise ValueError(f"position = {position!r} is not one of files")
        name, earlier = position["file"], position.get("earlier")
        if earlier is not None:
            earlier = as_whole(earlier, "position: earlier")
        if not self._may_have(name):
            raise ValueError(
                f"the saved position is in {name}, and the source is {self.name}: go on with that file, or put it and "
                "those to be read after it into a folder"
            )
        passed = ReadBefore.known_in(position)
        files = self._files()
        reader = self._reader_at(name, self._path_of(name) if name in files else None, position)
        try:
            left = None if reader is not None else _print_in(position)
            self._parser.restore(position.get("kinds"))
        except BaseException:
            if reader is not None:
                reader.close()
            raise
        if self._reader is not None:
            self._reader.close()
        self._reader, self._again, self._ended = reader, reader is None, False
        self._look_at(files, name)
        self._read_before.load(*passed)
        if left is not None:
            self._read_before.add(left, map(self._path_of, files))
        if earlier is not None and self._earlier > earlier:
            late = self._earlier - earlier
            log.warning("%s: %d files with names before %s came after it was begun: not read", self.name, late, name)

    def _may_have(self, name: str) -> bool:
        """Whether a file of that name would be one of this stream's."""
        if self._single:
            return name == self._path.name
        return fnmatch.fnmatchcase(name, self.name) if self._pattern else "/" not in name and is_of_stream(name)

    def _reader_at(self, name: str, path: Path | None, position: dict[str, Any]) -> FileReader | None:
        """Return a file's reader at a position; None where it is not the file that was read, and gaps are skipped."""
        reader = None
        try:
            if path is None:
                raise GapError(f"{self.name}: {name}, which was being read, is not there")
            reader = self._reader_of(name, path)
            if reader is None:
                raise GapError(f"{path} is empty, and was not when it was read")
            reader.seek(position)
        except (GapError, FileNotFoundError) as error:
            goes_on = isinstance(error, GrownError) and self._skip_gaps  # the reader is behind what has grown
            if reader is not None and not goes_on:
                reader.close()
            self._tell_gap(error)
            return reader if goes_on else None
        except BaseException:
            if reader is not None:
                reader.close()
            raise
        return reader

    def _tell_gap(self, error: Exception) -> None:
        if not self._skip_gaps:
            raise GapError(f"{error} (on_gap='skip' goes on with what is there)") from error
        log.error("%s: %s; how much is lost isn't known: going on with what is there", self.name, error)

    def read(self, max_events: int, timeout: float) -> Batch | None:
        """Return the next events; see `Source.read`."""
        most, seconds = check_read(max_events, timeout)
        self._check_open()
        deadline = time.monotonic() + seconds
        kinds = self._parser.state
        while not self._ended:
            try:
                batch = self._read_some(most)
            except GapError as error:
                self._tell_gap(error)
                self._parser.restore(kinds)  # what was read last may be halves of two files: it is lost, too
                if not isinstance(error, GrownError):  # else the reader is behind what has grown
                    self._leave()
                batch = None
            if batch is not None:
                return batch
            left = deadline - time.monotonic()
            if not self._ended:
                if left <= 0:
                    break
                if self._reader is None or not self._reader.paused:
                    time.sleep(min(_LOOK, left))
        return None

    def _leave(self) -> None:
        """Close a file in which there is a gap; what has its name now is to be read from its beginning."""
        if self._reader is not None:
            if not self._single:
                self._read_before.add(self._reader.seen(), self._paths())
            self._reader.close()
        self._reader, self._again = None, True

    def _read_some(self, most: int) -> Batch | None:
        """Read what is there; None where that is nothing. A folder is only looked at where a file ends."""
        builder = BatchBuilder()
        following: str | None = None  # once it is there, the file that is open is complete
        while True:
            if self._reader is None or following is not None:
                name = following or (self._path.name if self._single else self._next_file())
                if name is None or not self._open_file(name):
                    self._ended = name is None and not self._follow
                    return None
                following = None
            reader = self._reader
            assert reader is not None
            reader.read(builder, most, final=not self._follow)
            if not len(builder) and not reader.paused and not self._single:
                following = self._next_file()
                if following is not None:
                    reader.read(builder, most, final=True)
                elif reader.go_on():
                    reader.read(builder, most, final=not self._follow)
            if len(builder):
                return self._batch(builder)
            if reader.paused:
                return None
            reader.verify()
            if following is None:
                break
            if self._follow and reader.named() == "other":  # what has the name now would never be read
                raise GapError(self._moved())
        if not self._follow:
            self._ended = True
        elif reader.named() != "own":
            reader.read(builder, most, final=False)  # what came between the last look and the move
            if len(builder):
                return self._batch(builder)
            raise GapError(self._moved())
        return None

    def _moved(self) -> str:
        """Tell where the file is that was read."""
        if self._single:
            return f"{self.name}: {self._file} was moved or removed; files of later names, in a folder, are followed on"
        assert self._reader is not None
        names = [name for name in self._files() if _is_open(self._path_of(name), self._reader)]
        if not names:
            return (
                f"{self.name}: {self._file} was moved or removed, which only files before the one that is read may be"
            )
        return (
            f"{self.name}: {self._file} was renamed to {names[0]}: a file that is rotated is followed by its own path, "
            "not in a folder or pattern"
        )

    def _batch(self, builder: BatchBuilder) -> Batch:
        assert self._reader is not None
        try:
            position = {"file": self._file, **self._reader.position(), "kinds": self._parser.state}
        except GapError as error:
            raise GapError(f"{error}; {len(builder)} rows that were read last are left out with it") from error
        if not self._single:
            position |= {"earlier": self._earlier, **self._read_before.to_json()}
        return builder.batch(position)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.realpath(path) == os.path.realpath(other) or os.path.samefile(path, other)
    except OSError:
        return False


def _is_open(path: Path, reader: FileReader) -> bool:
    try:
        return os.path.samestat(os.stat(path), reader.status)
    except OSError:
        return False


def _print_in(position: dict[str, Any]) -> FilePrint | None:
    """Return what was read of a file up to a position; None where it is of before there were tails."""
    size = position.get("offset", position.get("bytes"))
    parts = {"bytes": size, "head": position.get("head"), "tail": position.get("tail")}
    return None if size is None or parts["tail"] is None else FilePrint.from_json(parts, "position")


def format_by_content(path: Path) -> str | None:
    """Return the format of a file whose name says nothing; None where the file is empty."""
    begin = b""
    with open_regular(path) as file:
        while not begin and (chunk := file.read(1024)):
            begin = chunk.lstrip(b"\xef\xbb\xbf \t\r\n")
    if begin.startswith(b"PAR1"):
        return "parquet"
    if not begin:
        return None
    return "json" if begin.startswith(b"{") else "csv"
