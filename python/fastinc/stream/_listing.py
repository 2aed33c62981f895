"""The names of a stream's files: those of a folder, or those that a pattern finds."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Listing", "is_of_stream"]

#: Nanoseconds after which a change of a folder shows in its time: a few ticks of a file system's clock, or, where
#: times are whole seconds, of such a clock.
_TICKS, _SECONDS = 50_000_000, 3_000_000_000


class Listing:
    """Names in their order, remembered while a folder stays as it is: many small files must not be as many scans.

    Parameters
    ----------
    folder
        The folder; None for a pattern.
    pattern
        The pattern, relative to `root`.
    root
        The folder that a relative pattern is of.
    """

    def __init__(self, folder: Path | None, pattern: str = "", root: str | None = None) -> None:
        self._pattern, self._root = pattern, root
        self._is_pattern = folder is None
        self._prefix, last = os.path.split(pattern)
        self._is_wanted: Callable[[str], object] = is_of_stream
        self._folder: str | None = None  # the one that is scanned; None where there are several
        if folder is not None:
            self._folder = os.fspath(folder)
        elif glob.has_magic(last) and not glob.has_magic(self._prefix):
            self._folder = os.path.join(root or "", self._prefix)
            matches = re.compile(fnmatch.translate(last)).match
            self._is_wanted = lambda name: (last.startswith(".") or not name.startswith(".")) and matches(name)
        self._names: list[str] = []
        self._state: tuple[int, int, int] | None = None  # of the folder; None where it may change without a sign
        self.remembered = False  # whether that is where the last names came from

    def names(self, fresh: bool = True) -> list[str]:
        """Return the names of the regular files there are, sorted; the same list as before if they are the same.

        Not `fresh`, a folder that hasn't changed by its time isn't scanned again.
        """
        self.remembered = not fresh and self._state is not None and self._state == _state_of(self._folder)
        if not self.remembered:
            found = self._scan() if self._folder is not None else self._glob()
            found.sort()
            if found != self._names:
                self._names = found
        return self._names

    def _glob(self) -> list[str]:
        names = glob.glob(self._pattern, root_dir=self._root)
        return [name for name in names if os.path.isfile(os.path.join(self._root or "", name))]

    def _scan(self) -> list[str]:
        assert self._folder is not None
        self._state = None
        now, state, found, links = time.time_ns(), _state_of(self._folder), [], False
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if self._is_wanted(entry.name):
                        links = links or entry.is_symlink()  # what it points to comes and goes elsewhere
                        if _is_file(entry):
                            found.append(os.path.join(self._prefix, entry.name))
        except OSError:
            if not self._is_pattern:
                raise
            return []
        if state is not None and not links:
            written = state[2]
            if now - written > (_SECONDS if written % 1_000_000_000 == 0 else _TICKS):
                self._state = state
        return found


def is_of_stream(name: str) -> bool:
    """Whether a folder's file is one of its stream, by its name."""
    return not name.startswith((".", "_")) and not name.endswith(".tmp")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle, or to where nobody may look
        return False


def _state_of(folder: str | None) -> tuple[int, int, int] | None:
    try:
        told = os.stat(folder or "")
    except OSError:
        return None
    return told.st_dev, told.st_ino, told.st_mtime_ns
