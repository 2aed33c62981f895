"""Files that were read to their ends, and left for the next: what comes in them after that is told."""

from __future__ import annotations

import os
from pathlib import Path

from fastinc.stream._reader import FileReader
from fastinc.stream._source import log

__all__ = ["LeftFiles"]

#: Files that are looked at: whoever writes late does so in one of the last.
_KEPT = 16


class LeftFiles:
    """Tells of lines that somebody still wrote to a file that counted as complete: they are not read.

    Parameters
    ----------
    name
        What the stream is called in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._left: dict[Path, tuple[os.stat_result, int]] = {}

    def add(self, reader: FileReader) -> None:
        """Note how much was read of a file that is left."""
        if reader.bytes_read is None:
            return
        self._left[reader.path] = reader.status, reader.bytes_read
        if len(self._left) > _KEPT:
            del self._left[next(iter(self._left))]

    def look(self) -> None:
        """Warn of those that have grown, once of each; what has another's name by now is none."""
        for path, (status, size) in list(self._left.items()):
            try:
                now = os.stat(path)
            except OSError:
                now = None
            grown = now is not None and os.path.samestat(now, status) and now.st_size - size
            if grown and grown > 0:
                text = "%s: %s has got %d bytes after the next file was begun: they are not read"
                log.warning(text, self._name, path.name, grown)
            if now is None or grown:
                del self._left[path]
