"""What `FileSource` needs of a format of files."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

from fastinc.stream._events import BatchBuilder, EventParser
from fastinc.stream._source import GapError

__all__ = ["FileReader", "GrownError"]


class GrownError(GapError):
    """What was taken as a whole last line has gone on since; the reader is behind the line."""


class FileReader(abc.ABC):
    """The events of one file, with positions by which the file is known again.

    Parameters
    ----------
    path
        The file.
    name
        What positions call it.
    parser
        What events are.
    """

    def __init__(self, path: Path, name: str, parser: EventParser) -> None:
        self._path, self._name, self._parser = path, name, parser

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abc.abstractmethod
    def position(self) -> dict[str, Any]:
        """Return where the reader is, as JSON."""

    @abc.abstractmethod
    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position, once the file has been found to be the one it is of."""

    @abc.abstractmethod
    def read(self, builder: BatchBuilder, most: int, final: bool) -> None:
        """Read rows; fewer than there may be where the end (so far) was met.

        Parameters
        ----------
        builder
            Takes the rows.
        most
            Rows it may have at most.
        final
            Whether nothing is going to be appended to the file: what looks like half a row is one, too.
        """

    def verify(self) -> None:  # noqa: B027  formats that nobody appends to need nothing
        """Raise GapError where the file no longer is what was read."""

    def replaced(self) -> bool:
        """Whether the path names another file by now, or none; of formats that are appended to."""
        return False
