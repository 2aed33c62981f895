"""SHA-256 of what is being written or read, on a thread of its own where a call may have two."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from typing import Any

from fastinc._background import Aside
from fastinc._runtime import get_num_threads

__all__ = ["Hasher"]


class Hasher:
    """Hashes pieces in order, each while the caller does something else; they must stay as they are meanwhile."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        # Two threads at work would take turns with a writer on the second of two cores, for milliseconds each.
        self._aside = Aside(get_num_threads() > 1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Hasher:
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.__exit__()

    def update(self, piece: Any) -> None:
        """Hash the next piece, once the one before is."""
        self._wait()
        self._last = self._aside.submit(self._digest.update, piece)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def hexdigest(self) -> str:
        """Return the digest of all pieces, in hexadecimal."""
        self._wait()
        return self._digest.hexdigest()
