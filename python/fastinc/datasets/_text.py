"""Event files that are text: tab, comma or ``::`` between fields, with or without a header.

A file is split and converted a whole column at a time. Only when that fails are its rows looked at one by
one, to find the one to report or the ones to leave out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.datasets._columns import MAX_ID, Columns, Errors, find_roles
from fastinc.datasets.events import FLOAT32_MAX

# Only the canonical spelling is an integer: "007" and "7" may be two users, and stay strings.
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
# float() also takes "1_0", "nan" and the digits of every script: a file that has those is not what it seems.
_NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
_NAMELESS = {"user": 0, "item": 1, "label": 2, "timestamp": 3}
_SHOWN = {"label": "rating", "timestamp": "timestamp", "user": "user id", "item": "item id"}


class _BadColumnError(Exception):
    """A column could not be converted as a whole."""


@dataclass(frozen=True)
class Layout:
    """What the first line of a file says of all others."""

    path: Path
    separator: str
    quoted: bool
    width: int
    roles: dict[str, int]
    fields: str  # for messages
    first_line: int  # of the data


def ids_from_text(column: Sequence[str]) -> npt.NDArray[Any]:
    """Return int64 when every id is an integer in its canonical spelling, else strings."""
    if all(map(INTEGER.fullmatch, column)):
        try:
            return np.array(list(map(int, column)), dtype=np.int64)
        except OverflowError:
            pass
    return np.array(column, dtype=np.str_)


def id_fault(text: str) -> str | None:
    """Say what is wrong with an id, or None."""
    if text.isalnum() and len(text) <= MAX_ID:  # nearly all of them, and much cheaper than what follows
        return None
    if not text:
        return "is empty"
    if len(text) > MAX_ID:
        return f"has {len(text)} characters, more than {MAX_ID}"
    if text != text.strip():
        return f"{text!r} begins or ends with white space"
    if "\0" in text or "\n" in text:
        return f"{text!r} has a NUL or a newline in it"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{text!r} is not UTF-8"
    return None


def number_fault(text: str, role: str) -> str | None:
    """Say what is wrong with a label or timestamp, or None."""
    if not _NUMBER.fullmatch(text):
        finite = text.strip().lower().lstrip("+-") not in ("nan", "inf", "infinity")
        return f"{text[:40]!r} is not {'a number' if finite else 'finite'}"
    if abs(float(text)) > (FLOAT32_MAX if role == "label" else np.finfo(np.float64).max):
        return f"{text[:40]!r} is out of range"
    return None


def width_fault(fields: Sequence[str], layout: Layout) -> str | None:
    """Say that a row has too many fields or too few, or None."""
    if len(fields) == layout.width:
        return None
    row = layout.separator.join(fields)
    text = row if len(row) <= 60 else row[:60] + "..."
    return f"expected {layout.width} fields ({layout.fields}), got {len(fields)}: {text!r}"


def _row_fault(fields: Sequence[str], layout: Layout) -> str | None:
    """Say what is wrong with a row, or None."""
    fault = width_fault(fields, layout)
    if fault:
        return fault
    for role, position in layout.roles.items():
        text = fields[position]
        fault = id_fault(text) if role in ("user", "item") else number_fault(text, role)
        if fault:
            return f"{_SHOWN[role]} {fault}"
    return None


def _ids(column: Sequence[str]) -> npt.NDArray[Any]:
    if max(map(len, column)) > MAX_ID:
        raise _BadColumnError
    ids = ids_from_text(column)
    if ids.dtype.kind == "U" and any(map(id_fault, column)):
        raise _BadColumnError
    return ids


def _reals(column: Sequence[str], role: str) -> npt.NDArray[np.float64]:
    if not all(map(_NUMBER.fullmatch, column)):
        raise _BadColumnError
    values = np.array(list(map(float, column)))
    if not (np.abs(values) <= (FLOAT32_MAX if role == "label" else np.finfo(np.float64).max)).all():
        raise _BadColumnError
    return values


def _convert(columns: Sequence[Sequence[str]], layout: Layout, skipped: int) -> Columns:
    """Convert whole columns, or raise _BadColumnError."""
    roles = layout.roles
    users, items = _ids(columns[roles["user"]]), _ids(columns[roles["item"]])
    labels = timestamps = None
    if "label" in roles:
        labels = _reals(columns[roles["label"]], "label").astype(np.float32)
    if "timestamp" in roles:
        timestamps = _reals(columns[roles["timestamp"]], "timestamp")
    return Columns(users, items, labels, timestamps, skipped)


def _rows(body: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with the line each begins on."""
    if not layout.quoted:
        for number, line in enumerate(body.split("\n"), layout.first_line):
            yield number, line.split(layout.separator)
        return
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=layout.separator, strict=True)
    read = 0  # lines; a row begins on the next
    try:
        for row in reader:
            yield layout.first_line + read, row
            read = reader.line_num
    except csv.Error as error:  # where the next row begins is anyone's guess, so "skip" cannot help
        raise ValueError(f"{layout.path}:{layout.first_line + read}: {error}") from error


def _split(body: str, layout: Layout) -> list[Sequence[str]]:
    """Return the columns, or raise _BadColumnError where a row has another number of fields."""
    width = layout.width
    if layout.quoted:
        rows = [row for _, row in _rows(body, layout)]
        if any(len(row) != width for row in rows):
            raise _BadColumnError
        return list(zip(*rows, strict=True))
    separator = layout.separator
    if any(line.count(separator) != width - 1 for line in body.split("\n")):
        raise _BadColumnError
    flat = body.replace(separator, "\n").split("\n")
    return [flat[i::width] for i in range(width)]


def _first_rows(path: Path, text: str, number: int) -> tuple[str, list[str]]:
    """Return the separator and the fields of the first line."""
    line = text.partition("\n")[0]
    by_suffix = {".csv": ",", ".tsv": "\t", ".inter": "\t"}.get(path.suffix.lower())
    separator = by_suffix or next((s for s in ("\t", "::", ",") if s in line), "")
    if not separator or separator not in line:
        expected = {",": "commas", "\t": "tabs"}.get(separator, "tabs, '::' or commas")
        raise ValueError(f"{path}:{number}: expected fields separated by {expected}, got {line[:60]!r}")
    if separator == "," and '"' in line:
        return separator, next(csv.reader([line]))
    return separator, line.split(separator)


def layout_of(path: Path, text: str, columns: Mapping[str, str] | None, number: int = 1) -> Layout:
    """Return the layout of a file that begins with `text`, its line of that number, or more."""
    separator, first = _first_rows(path, text, number)
    # A number in it makes the first line data, not names.
    named = None if any(map(_NUMBER.fullmatch, first)) else find_roles(first, columns, path)
    quoted = separator == "," and '"' in text
    if named:
        return Layout(path, separator, quoted, len(first), named, ", ".join(map(str.strip, first)), number + 1)
    if columns:
        raise ValueError(f"{path}:{number}: columns={dict(columns)} needs a header line, got {first}")
    if not any(map(_NUMBER.fullmatch, first)):
        raise ValueError(f"{path}:{number}: neither data nor a header that names users and items: {first}")
    fields = "user, item, rating, timestamp; other columns need a header line"
    return Layout(path, separator, quoted, 4, dict(_NAMELESS), fields, number)


def read_text(path: Path, data: bytes, columns: Mapping[str, str] | None, errors: Errors) -> Columns:
    """Read the columns of a text file whose bytes are `data`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "surrogateescape")  # the rows that are wrong are found below
    text = text.replace("\r\n", "\n").rstrip("\n")
    if not text:
        raise ValueError(f"{path}: the file is empty")
    layout = layout_of(path, text, columns)
    body = text if layout.first_line == 1 else text.partition("\n")[2]
    if not body:
        raise ValueError(f"{path}: no events below the header")
    try:
        if "\0" in text:  # NumPy drops it from the end of a string, so that "a\0" would pass for "a"
            raise _BadColumnError
        return _convert(_split(body, layout), layout, 0)
    except _BadColumnError:
        good, skipped = _good_rows(body, layout, errors)
        return _convert(list(zip(*good, strict=True)), layout, skipped)


def _good_rows(body: str, layout: Layout, errors: Errors) -> tuple[list[list[str]], int]:
    """Return the rows that can be parsed and the number of the others; or raise at the first of those."""
    good, skipped = [], 0
    for number, fields in _rows(body, layout):
        fault = _row_fault(fields, layout)
        if fault is None:
            good.append(fields)
        elif errors == "raise":
            raise ValueError(f"{layout.path}:{number}: {fault}")
        else:
            skipped += 1
    if not good:
        raise ValueError(f"{layout.path}: none of the {skipped} rows could be parsed")
    return good, skipped
