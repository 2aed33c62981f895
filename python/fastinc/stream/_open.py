"""From a URL or path to a source."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from fastinc.stream._files import FileSource
from fastinc.stream._kafka import KafkaSource
from fastinc.stream._redis import RedisSource
from fastinc.stream._source import Source

__all__ = ["open"]


def open(url: str | os.PathLike[str], **options: Any) -> Source:
    r"""Open a stream of events.

    Parameters
    ----------
    url
        A file, folder or pattern of files (CSV and its kin, JSON lines, Parquet), also as ``file:///...``;
        ``redis://host:port/db?stream=NAME&group=GROUP&consumer=NAME``, also ``rediss://`` and ``unix://``;
        ``kafka://broker[,broker]/topic?group=GROUP``.
    **options
        Those of the source, each also part of a redis or kafka URL: see `fastinc.stream.FileSource`,
        `fastinc.stream.RedisSource` and `fastinc.stream.KafkaSource`.

    Returns
    -------
    Source
        To be read from, closed in the end.

    Raises
    ------
    ValueError, TypeError
        An option that the source doesn't have, or a scheme that isn't one of these, or no path.
    OSError
        There is no such file.
    ImportError
        The client is missing; the message names the extra that brings it.

    Examples
    --------
    >>> import pathlib, tempfile, fastinc as fi
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "clicks.csv"
    >>> _ = file.write_text("user,sku\nann,4\nbob,5\n")
    >>> with fi.stream.open(file, columns={"item": "sku"}) as source:
    ...     batch = source.read(1, timeout=0.0)
    ...     batch.users.tolist(), source.read(10, timeout=0.0).items.tolist()
    ...     source.seek(batch.position)
    ...     source.read(10, timeout=0.0).items.tolist()
    (['ann'], [5])
    [5]
    """
    text = os.fspath(url)
    scheme, mark, _ = text.partition("://")
    if not mark:
        return FileSource(text, **options)
    if scheme == "file":
        return FileSource(_path_of(text), **options)
    if scheme in ("redis", "rediss", "unix"):
        return RedisSource(text, **options)
    if scheme == "kafka":
        return KafkaSource(text, **options)
    raise ValueError(f"url = {text!r}: {scheme}:// is no stream; file, redis, rediss, unix and kafka are, and paths")


def _path_of(url: str) -> str:
    """Return the path in a file:// URL, which must be all there is in it."""
    parts = urlsplit(url)
    if not parts.path or parts.netloc not in ("", "localhost") or "?" in url or "#" in url:
        raise ValueError(f"url = {url!r} must be file:///path, with %3F for ? and %23 for #")
    return unquote(parts.path)
