"""What checkpoints and logs do to the disk: nothing else in fastinc writes them.

A name shows a whole file or none: files are written under another name, synced, and renamed. A name is there after a
power cut once its folder is synced, too. What can't be finished is taken back, so that an error means the state before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fastinc._arguments import as_path

__all__ = [
    "STAGED",
    "File",
    "Reader",
    "as_file",
    "create",
    "make_folder",
    "open_lock",
    "publish",
    "read_file",
    "remove",
    "rename",
    "replace_file",
    "staged",
    "sweep",
    "sync_folder",
    "tell_holder",
    "truncate",
    "write_file",
]

#: What names for files that are about to be renamed look like.
STAGED = ".fastinc-*.tmp"
#: Seconds after which nobody can still be about to name a file.
_STALE = 3600.0
#: Where a file system has no hard links, what is replaced can't be kept at hand.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


class File:
    """A file that is written: without a buffer, so that every error is the error of the call that met it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path

    def write(self, data: Any) -> int:
        """Write all of these bytes."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            with self._named():
                count = os.write(self._descriptor, view[done:])
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            done += count
        return done

    def sync(self) -> None:
        """Have what was written on disk, and how long the file is."""
        with self._named():
            os.fdatasync(self._descriptor)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Have errors name the file: calls by descriptor don't."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise

    def truncate(self, size: int) -> None:
        """Cut the file off."""
        os.ftruncate(self._descriptor, size)

    def is_named(self) -> bool:
        """Tell whether the file still has a name."""
        return os.fstat(self._descriptor).st_nlink > 0

    def close(self) -> None:
        """Close the file; what is to be on disk was synced before."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Reader:
    """A regular file that is read at any place; symbolic links are refused, or followed."""

    def __init__(self, path: Path, follow_links: bool = False) -> None:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
        try:
            self._descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise ValueError(f"{path} is a symbolic link, which is not followed") from None
            raise
        self.path = path
        told = os.fstat(self._descriptor)
        if not stat.S_ISREG(told.st_mode):
            self.close()
            raise ValueError(f"{path} is not a regular file")
        self.size = told.st_size

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset on: fewer where the file ends."""
        pieces = []
        while count > 0:
            piece = os.pread(self._descriptor, min(count, 1 << 30), offset)
            if not piece:
                break
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, buffer: Any, offset: int) -> int:
        """Read bytes from an offset on into a buffer; return how many, 0 at the end of the file."""
        return os.preadv(self._descriptor, [buffer], offset)

    def is_at(self, path: Path) -> bool:
        """Tell whether this is the file that has a name now."""
        return os.path.samestat(os.fstat(self._descriptor), path.lstat())

    def refresh(self) -> int:
        """Look again how long the file is, which may be growing."""
        self.size = os.fstat(self._descriptor).st_size
        return self.size

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def read_file(path: Path) -> bytes:
    """Return a regular file's bytes; symbolic links are refused."""
    with Reader(path) as file:
        return file(0, file.size)


def create(path: Path) -> File:
    """Make a file that isn't there yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return File(os.open(path, flags, 0o666), path)


def open_lock(path: Path) -> int:
    """Open a lock's file, made if need be, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def tell_holder(descriptor: int, text: bytes) -> None:
    """Write into a lock's file who has it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and have their names on disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder of files, if it is there; a symbolic link goes itself."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        for name in os.listdir(path):
            os.unlink(path / name)
        os.rmdir(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


@contextlib.contextmanager
def staged(folder: Path, what: str) -> Iterator[Path]:
    """Lend a name for a file or folder that is about to be renamed; whatever is left there goes."""
    path = folder / f".fastinc-{what}-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # left behind: `sweep` is for that
            remove(path)


def write_file(path: Path, write: Callable[[File], object]) -> None:
    """Write a new file and have it on disk."""
    file = create(path)
    try:
        write(file)
        file.sync()
    finally:
        file.close()


def as_file(path: Any) -> Path:
    """Return the absolute path of a file that may be written or replaced; refuse devices, pipes, links and folders."""
    file = as_path(path).absolute()
    if not file.parent.is_dir():
        raise FileNotFoundError(f"path = {os.fspath(path)!r}: {file.parent} is not a folder")
    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError(f"path = {os.fspath(path)!r} is not a regular file: it is not replaced")
    return file


def replace_file(path: Path, write: Callable[[File], object]) -> int:
    """Write a file, in the place of the one that is there, and return its bytes."""
    with staged(path.parent, "file") as new:
        write_file(new, write)
        size = new.stat().st_size
        publish(new, path)
    return size


def truncate(path: Path, size: int) -> None:
    """Cut off what is in a file beyond a size, and have that on disk."""
    file = File(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), path)
    try:
        file.truncate(size)
        file.sync()
    finally:
        file.close()


def rename(path: Path, name: Path) -> None:
    """Rename a file that is on disk."""
    os.replace(path, name)


def publish(path: Path, name: Path) -> None:
    """Rename what is on disk, and have the new name on disk; where that fails, the name shows what it did before.

    A file may take the place of another, a folder may not.
    """
    with staged(name.parent, "previous") as previous:
        had = _link(name, previous)
        os.replace(path, name)
        try:
            sync_folder(name.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                if had:
                    os.replace(previous, name)
                else:
                    os.replace(name, path)
            raise


def _link(name: Path, other: Path) -> bool:
    """Give a file another name; tell whether it now has it."""
    try:
        if not stat.S_ISREG(os.lstat(name).st_mode):
            return False
        os.link(name, other, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def sweep(paths: Iterable[Path], older: float = _STALE) -> None:
    """Remove those of these files and folders that a killed process left behind, an hour ago or more."""
    for leftover in paths:
        with contextlib.suppress(OSError):
            if time.time() - os.lstat(leftover).st_mtime >= older:
                remove(leftover)
