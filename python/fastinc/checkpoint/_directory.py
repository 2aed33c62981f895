"""What the files of a log are called, and which are there."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from fastinc.checkpoint import _disk, _manifest

__all__ = [
    "LOCK",
    "Listing",
    "base_path",
    "check_base",
    "is_log",
    "listing",
    "open_segment",
    "refuse_checkpoint",
    "refuse_log",
    "segment_path",
]

LOCK = "lock"
_BASE = re.compile(r"base-([0-9]{16})")
_SEGMENT = re.compile(r"increments-([0-9]{16})\.log")


@dataclass(frozen=True)
class Listing:
    """The numbers of the bases that a log's folder has, and those that its segments begin with, ascending."""

    bases: tuple[int, ...]
    segments: tuple[int, ...]

    def segment_limits(self) -> list[tuple[int, int | None]]:
        """Return of each segment the first number and the one from which on the next segment counts, if there is one.

        What a segment has of that number and later ones was never told to be there: a later segment supersedes it.
        """
        limits: list[int | None] = [*self.segments[1:], None]
        return list(zip(self.segments, limits[: len(self.segments)], strict=True))


def base_path(folder: Path, number: int) -> Path:
    """Return where the base of a number is."""
    return folder / f"base-{number:016d}"


def segment_path(folder: Path, number: int) -> Path:
    """Return where the segment that begins with a number is."""
    return folder / f"increments-{number:016d}.log"


def listing(folder: Path) -> Listing:
    """Return what is there; names that aren't exactly a log's own are nobody's business here."""
    bases, segments = [], []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        names = []
    for name in names:
        if found := _BASE.fullmatch(name):
            bases.append(int(found[1]))
        elif found := _SEGMENT.fullmatch(name):
            segments.append(int(found[1]))
    return Listing(tuple(sorted(bases)), tuple(sorted(segments)))


def open_segment(folder: Path, number: int) -> _disk.Reader:
    """Open the segment that begins with a number."""
    return _disk.Reader(segment_path(folder, number))


def check_base(folder: Path) -> None:
    """Refuse a base that is not a folder of regular files: nothing outside is read."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ValueError(f"{folder} is not a folder but a link or a file")
    for path in folder.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError(f"{path} is not a regular file")


def is_log(folder: Path) -> bool:
    """Tell whether a folder is a log's."""
    if not folder.is_dir() or (folder / _manifest.NAME).exists():
        return False
    there = listing(folder)
    return bool(there.bases or there.segments)


def refuse_log(folder: Path) -> None:
    """Raise where a whole checkpoint would go into a log's folder."""
    if is_log(folder):
        raise ValueError(f"path = {str(folder)!r} holds a log, which fastinc.checkpoint.Log appends to; save elsewhere")


def refuse_checkpoint(folder: Path) -> None:
    """Raise where a log would go into a checkpoint's folder."""
    if (folder / _manifest.NAME).exists():
        raise ValueError(f"path = {str(folder)!r} holds a checkpoint, of fastinc.checkpoint.save; log elsewhere")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path = {str(folder)!r} is not a folder")
