"""What checkpoints and logs do to the disk: nothing else in fastinc writes them.

A name shows a whole file or none: files are written under another name, synced, and renamed. A name is there after a
power cut once its folder is synced, too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

__all__ = ["STAGED", "make_folder", "publish", "staged", "sweep", "sync_folder", "write_file"]

#: What names for files that are about to be renamed look like.
STAGED = ".fastinc-*.tmp"
#: Seconds after which nobody can still be about to name a file.
_STALE = 3600.0


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and have their names on disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextlib.contextmanager
def staged(folder: Path, what: str) -> Iterator[Path]:
    """Lend a name for a file or folder that is about to be renamed; whatever is left there goes."""
    path = folder / f".fastinc-{what}-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a new file and have it on disk."""
    with open(path, "xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def publish(path: Path, name: Path) -> None:
    """Rename a file that is on disk, and have the new name on disk."""
    os.replace(path, name)
    sync_folder(name.parent)


def sweep(paths: Iterable[Path]) -> None:
    """Remove those of these files that a killed process left behind an hour ago or more."""
    for leftover in paths:
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                leftover.unlink()
