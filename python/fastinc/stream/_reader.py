"""What `FileSource` needs of a format of files."""

from __future__ import annotations

import abc
import os
from pathlib import Path
from typing import Any, Literal

from fastinc.stream._events import BatchBuilder, EventParser
from fastinc.stream._head import FilePrint
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

    #: Whether the last `read` met no end: it looked at many bytes, and more are to be looked at in another.
    paused: bool = False
    #: How many bytes are before the first row.
    rows_begin: int = 0

    def __init__(self, path: Path, name: str, parser: EventParser) -> None:
        self._path, self._name, self._parser = path, name, parser

    @property
    def path(self) -> Path:
        """The file's path when it was opened."""
        return self._path

    @property
    def bytes_read(self) -> int | None:
        """How many bytes were read; None for formats that nobody appends to."""
        return None

    @property
    @abc.abstractmethod
    def status(self) -> os.stat_result:
        """The status of the open file."""

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
        """Read rows; fewer than there may be where the end (so far) was met, or it `paused`.

        Parameters
        ----------
        builder
            Takes the rows.
        most
            Rows it may have at most.
        final
            Whether nothing is going to be appended to the file: what looks like half a row is one, too.
        """

    def go_on(self) -> bool:
        """Find out whether a file that was read as `final` has more, as there is no later one any more.

        Raises GrownError where it isn't more of them but the rest of a row.
        """
        return False

    def verify(self) -> None:  # noqa: B027  formats that nobody appends to need nothing
        """Raise GapError where the file no longer is what was read."""

    def seen(self) -> FilePrint | None:
        """Return what was read up to the last position; None where there were no rows in that."""
        return None

    def is_at(self, descriptor: int) -> bool:
        """Whether an open file is this one, whatever its name."""
        return os.path.samestat(os.fstat(descriptor), self.status)

    def copied_to(self, descriptor: int) -> Literal["yes", "maybe", "no"]:
        """Whether an open file is a copy of this one ("maybe": so far it may become one); of formats that grow."""
        return "no"

    def named(self) -> str:
        """Return what the path names by now: "own", "other" (another file) or "gone"."""
        try:
            return "own" if os.path.samestat(os.stat(self._path), self.status) else "other"
        except FileNotFoundError:
            return "gone"
