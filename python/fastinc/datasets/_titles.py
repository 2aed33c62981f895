"""The files that lie next to MovieLens ratings and name the items."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc.datasets._columns import Errors

_COMPANIONS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}


def titles_file(ratings: Path) -> Path | None:
    """Return the file that names the items of a ratings file, if it is there."""
    if ratings.suffix == ".inter":
        companion = ratings.with_suffix(".item")
    elif ratings.name in _COMPANIONS:
        companion = ratings.with_name(_COMPANIONS[ratings.name])
    else:
        return None
    return companion if companion.is_file() else None


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding=encoding).split("\n"), 1):
        if line:
            yield number, line


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number, and the id, title and perhaps the year of each item; fewer in a short row."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            next(reader, None)
            for row in reader:
                yield reader.line_num, row[:2]
    elif path.name in _COMPANIONS.values():
        # GroupLens wrote these in Latin-1, where every byte is a letter, so decoding cannot fail.
        separator = "::" if path.suffix == ".dat" else "|"
        for number, line in _lines(path, "latin-1"):
            yield number, line.split(separator)[:2]
    else:
        lines = _lines(path, "utf-8")
        header = [name.partition(":")[0] for name in next(lines, (0, ""))[1].split("\t")]
        wanted = [name for name in ("item_id", "movie_title", "title", "release_year") if name in header]
        if len(wanted) < 2 or wanted[0] != "item_id" or wanted[1] == "release_year":
            raise ValueError(f"{path}:1: expected the columns item_id and movie_title or title, got {header}")
        positions = [header.index(name) for name in wanted]
        for number, line in lines:
            fields = line.split("\t")
            yield number, [fields[i] for i in positions] if len(fields) == len(header) else []


def read_titles(path: Path, items: npt.NDArray[Any], errors: Errors) -> dict[Any, str]:
    """Return the titles by item id, the ids being of the type that `items` has.

    A title goes with its year, as MovieLens writes it: "Toy Story (1995)". A row without an id and a title
    is an error, or with ``errors="skip"`` leaves its item without a title.
    """
    numeric = items.dtype.kind == "i"
    titles: dict[Any, str] = {}
    try:
        for number, row in _rows(path):
            year = row[2] if len(row) > 2 and re.fullmatch("[0-9]{4}", row[2]) else ""
            if len(row) >= 2 and row[1] and (re.fullmatch("[0-9]{1,18}", row[0]) or (row[0] and not numeric)):
                title = row[1] if not year or row[1].endswith(f"({year})") else f"{row[1]} ({year})"
                titles[np.int64(row[0]).item() if numeric else row[0]] = title
            elif errors == "raise":
                raise ValueError(f"{path}:{number}: expected an item id and a title, got {row}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    return titles
