"""One reader for files of events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fastinc.datasets._columns import Errors, check_errors
from fastinc.datasets._parquet import read_parquet
from fastinc.datasets._text import read_text
from fastinc.datasets._titles import read_titles, titles_file
from fastinc.datasets.events import Events


def load_events(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    min_label: float | None = None,
    errors: Errors = "raise",
    name: str | None = None,
    source: str | None = None,
) -> Events:
    r"""Read a file of events.

    Text with tabs, ``::`` or commas between fields, RecBole's ``.inter`` files, and Parquet (by content,
    whatever the file is called; needs the extra ``parquet``). The first line of a text file may name the
    columns: user, item and, if there are any, rating and timestamp, under the usual names (``user``,
    ``userId``, ``movieId``, ``item_id:token``, ``label``, ...) and among others that are not read. Without
    a header the fields are user, item, rating and timestamp, as in MovieLens.

    In text, the ids of a column are int64 when every one is an integer as `str` would write it (``"007"`` is
    not), else strings. In Parquet they are what the file says. Timestamps are seconds; Parquet's own
    timestamps become seconds since 1970. Where titles lie next to a MovieLens file (``u.item`` by
    ``u.data``, ``movies.dat``, ``movies.csv``, RecBole's ``.item``) they are read too.

    Parameters
    ----------
    path
        The file.
    columns
        The names of columns that have unusual ones: ``{"user": "member", "item": "sku"}``.
    min_label
        Keep only the events whose label is at least this.
    errors
        What to do about rows with a wrong number of fields, an empty id, or a rating or timestamp that is
        not a finite number: ``"raise"`` a ValueError with file and line, or ``"skip"`` and count them in
        the ``skipped`` of the result.
    name, source
        What the result is to be called and said to come from; the file's stem and path by default.

    Returns
    -------
    Events
        The events in the order of the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "clicks.csv"
    >>> _ = file.write_text("user,sku,timestamp\nann,4,10\nbob,4,11\n")
    >>> events = load_events(file, columns={"item": "sku"})
    >>> events.users.tolist(), events.items.tolist()
    (['ann', 'bob'], [4, 4])
    """
    check_errors(errors)
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{file}: a file of events is needed, not a directory")
    with file.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
        stream.seek(0)
        data = b"" if parquet else stream.read()
    table = read_parquet(file, columns, errors) if parquet else read_text(file, data, columns, errors)
    titles = titles_file(file)
    events = Events(
        users=table.users,
        items=table.items,
        labels=table.labels,
        timestamps=table.timestamps,
        item_titles=read_titles(titles, table.items, errors) if titles else None,
        name=file.stem if name is None else name,
        source=str(file) if source is None else source,
        skipped=table.skipped,
    )
    return events if min_label is None else events.filter(min_label=min_label)
