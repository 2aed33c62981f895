"""SHA-256 of what is being written or read, on a thread of its own where a call may have two."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fastinc._runtime import get_num_threads

__all__ = ["Hasher"]


class Hasher:
    """Hashes pieces in order, each while the caller does something else; they must stay as they are meanwhile."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        # Two threads at work would take turns with a writer on the second of two cores, for milliseconds each.
        self._pool = ThreadPoolExecutor(1) if get_num_threads() > 1 else None
        self._last: Future[None] | None = None

    def __enter__(self) -> Hasher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def update(self, piece: Any) -> None:
        """Hash the next piece, once the one before is."""
        if self._pool is None:
            self._digest.update(piece)
            return
        self._wait()
        self._last = self._pool.submit(self._digest.update, piece)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def hexdigest(self) -> str:
        """Return the digest of all pieces, in hexadecimal."""
        self._wait()
        return self._digest.hexdigest()
