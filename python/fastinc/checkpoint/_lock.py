"""One writer to a folder, or to a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path

from fastinc.checkpoint import _disk
from fastinc.checkpoint._directory import LOCK

__all__ = ["DirectoryLock", "FileLock", "LockedError", "is_held"]

#: Seconds to ask for: somebody who looks whether the lock is held has it for a moment.
_PATIENCE = 0.25

_held: set[int] = set()
_forking = threading.Lock()


def _close_in_child() -> None:
    """A child that lives on must not hold what its dead parent held."""
    for descriptor in list(_held):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()
    _forking.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_close_in_child)


class LockedError(RuntimeError):
    """Another log writes to the folder, or the one that did has lost it: nothing was written.

    Examples
    --------
    >>> import tempfile, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2)
    >>> with tempfile.TemporaryDirectory() as folder, fi.checkpoint.Log(folder) as log:
    ...     _ = log.append(table)
    ...     try:
    ...         fi.checkpoint.Log(folder).append(table)
    ...     except fi.checkpoint.LockedError as error:
    ...         print("has a writer already" in str(error))
    True
    """


class FileLock:
    """The right to write to a file: until it is released, the process ends, or its machine does.

    Parameters
    ----------
    path
        The file, made if need be.

    Raises
    ------
    LockedError
        Somebody else has it.
    """

    def __init__(self, path: Path) -> None:
        with _forking:
            descriptor = _disk.open_lock(path)
            _held.add(descriptor)
        self._descriptor, self._process = descriptor, os.getpid()
        try:
            if not _try_lock(descriptor):
                raise LockedError(self._refusal(path))
        except BaseException:
            self.release()
            raise

    def _refusal(self, path: Path) -> str:
        return f"{path} is being written to by somebody else: one at a time may"

    def release(self) -> None:
        """Give the right back."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0 and self._process == os.getpid():
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a child forked just now, too
            _held.discard(descriptor)
            with contextlib.suppress(OSError):
                os.close(descriptor)


class DirectoryLock(FileLock):
    """The right to write to a folder; the message to others names the folder and this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOCK)
        try:
            _disk.tell_holder(self._descriptor, f"pid {os.getpid()}\n".encode())
        except BaseException:
            self.release()
            raise

    def _refusal(self, path: Path) -> str:
        holder = os.pread(self._descriptor, 64, 0).decode(errors="replace").strip() or "of another process"
        return f"{path.parent} has a writer already: {holder}; a log has one at a time"

    def check(self, folder: Path) -> None:
        """Raise where the folder is not the one any more that the lock is in: somebody else may write there."""
        try:
            there = os.path.samestat(os.fstat(self._descriptor), (folder / LOCK).lstat())
        except OSError:
            there = False
        if not there:
            raise LockedError(f"{folder} was removed or replaced under the log that writes to it: make another Log")


def _try_lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not _is_granted(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_granted(descriptor: int, which: int) -> bool:
    try:
        fcntl.flock(descriptor, which | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(folder: Path) -> bool:
    """Tell whether anybody writes to a folder now."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _is_granted(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
