"""Events in Parquet files, which are whole: a stream of them grows by files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastinc._extras import require
from fastinc.datasets._columns import ROLES, find_roles
from fastinc.datasets._parquet import usable_column
from fastinc.stream._events import BatchBuilder, EventParser, MalformedError
from fastinc.stream._head import FilePrint, open_regular
from fastinc.stream._reader import FileReader
from fastinc.stream._source import GapError

__all__ = ["ParquetReader"]

#: Rows converted at a time.
_ROWS = 4096


class ParquetReader(FileReader):
    """Events in the rows of a file, a row group at a time: what is held is at most one of its compressed columns.

    Parameters
    ----------
    path, name, parser
        As for `FileReader`.
    """

    def __init__(self, path: Path, name: str, parser: EventParser) -> None:
        pa = require("pyarrow", extra="parquet", purpose="reading Parquet files")
        pq = require("pyarrow.parquet", extra="parquet", purpose="reading Parquet files")
        super().__init__(path, name, parser)
        self._arrow = pa
        self._raw = io.BufferedReader(open_regular(path))
        try:
            self._status = os.fstat(self._raw.fileno())
            self._print = FilePrint.of(self._raw.fileno(), self._status.st_size)
            self._file = pq.ParquetFile(self._raw)
            self._columns = self._find_columns()
        except BaseException as error:
            self._raw.close()
            # Arrow's own OSErrors, as of a damaged footer, have no number; others are of opening and reading.
            if isinstance(error, pa.ArrowException) or (isinstance(error, OSError) and error.errno is None):
                raise ValueError(
                    f"{path}: {error} (a Parquet file must be whole: write it under a name that begins with a dot, "
                    "and rename it)"
                ) from error
            raise
        self._rows = int(self._file.metadata.num_rows)
        self._row = 0
        self._pending: Iterator[Any] | None = None

    def _find_columns(self) -> dict[str, str]:
        names = self._file.schema_arrow.names
        roles = find_roles(names, self._parser.columns, self._path)
        if roles is None:
            raise ValueError(f"{self._path}: none of the columns {names} is named as users are: use columns")
        return {role: names[roles[role]] for role in ROLES if role in roles and not self._parser.ignores(role)}

    def close(self) -> None:
        """Close the file."""
        self._pending = None
        self._file.close()
        self._raw.close()

    def position(self) -> dict[str, Any]:
        """Return where the reader is, as JSON; a file that was written anew meanwhile is an error."""
        self.verify()
        return {"row": self._row, "rows": self._rows, **self._print.to_json()}

    @property
    def status(self) -> os.stat_result:
        """The status of the open file."""
        return self._status

    def verify(self) -> None:
        """Raise GapError where the file was written to since it was opened: its rows may be of two files."""
        now, opened = os.fstat(self._raw.fileno()), self._status
        if (now.st_size, now.st_mtime_ns) != (opened.st_size, opened.st_mtime_ns):
            raise GapError(f"{self._path} was written to while it was read: it was replaced")

    def seen(self) -> FilePrint | None:
        """Return what the file is, as soon as rows were read."""
        return self._print if self._row else None

    def named(self) -> str:
        """Return what the path names by now; nothing more would come of a file that is gone."""
        named = super().named()
        return "own" if named == "gone" else named

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position; see `FileReader.seek`, which also finds a new file of the same name."""
        row, tail = position.get("row"), position.get("tail", self._print.tail)
        if type(row) is not int or row < 0:
            raise ValueError(f"position: row = {row!r} must be a whole number")
        if (position.get("rows"), position.get("head"), tail) != (self._rows, self._print.head, self._print.tail):
            raise GapError(f"{self._path} is not the file that was read: it was replaced")
        if row > self._rows:
            raise ValueError(f"position: row = {row}, and {self._path} has {self._rows} rows")
        self._row, self._pending = row, None

    def read(self, builder: BatchBuilder, most: int, final: bool) -> None:
        """Read rows; see `FileReader.read`. A Parquet file always is final."""
        begin = self._row
        try:
            self._read(builder, most)
        except BaseException as error:
            self._row, self._pending = begin, None  # what the builder has goes with it
            if isinstance(error, (OSError, self._arrow.ArrowException)):
                self.verify()
                raise ValueError(f"{self._path}: the rows after row {begin} can't be read: {error}") from error
            raise

    def _read(self, builder: BatchBuilder, most: int) -> None:
        if self._pending is None:
            self._pending = self._from(self._row)
        while len(builder) < most:
            row = next(self._pending, None)
            if row is None:
                return
            self._row += 1
            where = f"{self._name}:{self._row}"
            fault, roles, values = row
            try:
                if fault:
                    raise MalformedError(fault)
                builder.add(self._parser.event(roles, values, text=False), where)
            except MalformedError as error:
                raw = json.dumps(dict(zip(roles, values, strict=True)), default=str)
                builder.reject(raw, str(error), where)

    def _from(self, first: int) -> Iterator[tuple[str | None, dict[str, int], tuple[Any, ...]]]:
        """Yield rows from one on: what is wrong with it, the places of roles, and the values."""
        groups: list[int] = []
        begin = 0
        for group in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if groups or begin + rows > first:
                groups.append(group)
            else:
                begin += rows
        for batch in self._file.iter_batches(_ROWS, row_groups=groups, columns=list(self._columns.values())):
            skip = min(max(first - begin, 0), batch.num_rows)
            begin += batch.num_rows
            if skip < batch.num_rows:
                yield from self._converted(batch.slice(skip))

    def _converted(self, batch: Any) -> Iterator[tuple[str | None, dict[str, int], tuple[Any, ...]]]:
        roles: dict[str, int] = {}
        columns: list[list[Any]] = []
        faults: list[str | None] = [None] * batch.num_rows
        for role, name in self._columns.items():
            array = batch.column(batch.schema.get_field_index(name))
            values, wrong = usable_column(self._path, role, name, array)
            listed = values.tolist()
            for row in wrong.nonzero()[0].tolist():
                listed[row] = array[row].as_py()
                faults[row] = f"{role} {listed[row]!r} is not usable"[:500]
            roles[role] = len(columns)
            columns.append(listed)
        for fault, row in zip(faults, zip(*columns, strict=True), strict=True):
            yield fault, roles, row
