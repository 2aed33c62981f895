"""From a URL or path to a source."""

from __future__ import annotations

import glob
import os
from typing import Any
from urllib.parse import unquote

from fastinc.stream._files import FileSource
from fastinc.stream._kafka import KafkaSource
from fastinc.stream._redis import RedisSource
from fastinc.stream._source import Source
from fastinc.stream._url import UNSHOWN, scheme_of, split_url

__all__ = ["open"]


def open(url: str | os.PathLike[str], **options: Any) -> Source:
    r"""Open a stream of events.

    Parameters
    ----------
    url
        A file, folder or pattern of files (CSV and its kin, JSON lines, Parquet), also as ``file:///...``;
        ``redis://host:port/db?stream=NAME&group=GROUP&consumer=NAME``, also ``rediss://`` and ``unix://``;
        ``kafka://broker[,broker]/topic?group=GROUP``. In a password ``/ ? # [ ]`` are ``%2F %3F %23 %5B %5D``, and an
        ``@`` behind the host is ``%40``. Errors show no password, nor a URL in which one may be in the wrong place.
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
    if "://" not in text:
        return _open_files(text, **options)
    scheme = scheme_of(text)
    if scheme == "file":
        return _open_files(_path_of(text), **options)
    if scheme in ("redis", "rediss", "unix"):
        return RedisSource(text, **options)
    if scheme == "kafka":
        return KafkaSource(text, **options)
    what = f"{scheme}:// is no stream" if scheme else "it begins with no scheme, but perhaps with a quote or a space"
    raise ValueError(f"url, {UNSHOWN}: {what}; file, redis, rediss, unix and kafka are streams, and paths")


def _open_files(path: str, **options: Any) -> Source:
    """Open files, unless it looks as if it was to be a URL: errors of files show all of a path."""
    folder = os.path.dirname(path)
    waits = options.get("follow") and folder not in ("", "/") and os.path.isdir(folder)
    if "@" in path and not (waits or os.path.exists(path) or glob.glob(path)):
        raise FileNotFoundError(f"url, {UNSHOWN}: there is no such file or folder; a URL has :// behind its scheme")
    return FileSource(path, **options)


def _path_of(url: str) -> str:
    """Return the path in a file:// URL, which must be all there is in it."""
    parts = split_url(url)
    if not parts.path or parts.netloc not in ("", "localhost") or "?" in url or "#" in url:
        shown = f"url, {UNSHOWN}," if "@" in url else f"url = {url!r}"
        raise ValueError(f"{shown} must be file:///path, with %3F for ? and %23 for #")
    return unquote(parts.path)
