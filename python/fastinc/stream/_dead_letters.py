"""A file of events that were not learned, and why: each once, whatever is killed when."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastinc.checkpoint import _disk
from fastinc.stream._source import Rejected

__all__ = ["DeadLetters"]


class DeadLetters:
    """Appends to a file of JSON lines; what is behind the saved position is cut off at a restart, and comes again.

    Parameters
    ----------
    path
        The file, made if need be. What is in it stays.
    saved
        What `position` was when the state was saved that is gone on from; None: at none, or of another file.
    """

    def __init__(self, path: str | os.PathLike[str], saved: Any) -> None:
        self._path = Path(path)
        if self._path.is_dir() or not self._path.parent.is_dir():
            raise ValueError(f"dead_letters = {os.fspath(path)!r} must be a file in a folder that is there")
        new = not self._path.exists()
        self._file = open(self._path, "ab")  # noqa: SIM115  closed by close()
        try:
            if new:
                _disk.sync_folder(self._path.parent)
            if saved is not None and saved["file"] == self._path.name:
                self._cut(saved["bytes"])
            self._size = os.fstat(self._file.fileno()).st_size
        except BaseException:
            self._file.close()
            raise

    def _cut(self, size: int) -> None:
        there = os.fstat(self._file.fileno()).st_size
        if there < size:
            raise ValueError(
                f"{self._path} has {there} bytes, and had {size} when the model was saved: move a file of dead letters "
                "away only together with giving another name for the next"
            )
        os.truncate(self._file.fileno(), size)

    def write(self, rejected: Iterable[Rejected]) -> None:
        """Append letters; `sync` has them on disk."""
        for letter in rejected:
            line = json.dumps({"where": letter.where, "reason": letter.reason, "raw": letter.raw}) + "\n"
            self._file.write(line.encode("ascii"))
            self._size += len(line)
        self._file.flush()  # for whoever watches

    def sync(self) -> dict[str, Any]:
        """Have all letters on disk; return the position behind them, as JSON."""
        os.fsync(self._file.fileno())
        return {"file": self._path.name, "bytes": self._size}

    def close(self) -> None:
        """Close the file."""
        self._file.close()
