"""Which of a log's files are let go."""

from __future__ import annotations

from pathlib import Path

from fastinc.checkpoint import _directory, _disk
from fastinc.checkpoint._entries import entries

__all__ = ["let_go"]


def let_go(folder: Path, keep: int, keep_seconds: float | None, now: float) -> None:
    """Remove the bases and segments without which every record that is to be kept can be restored.

    Kept are the newest `keep` records and those of the last `keep_seconds`; the newest base that can be read, and what
    follows it, always. Bases go first: a segment without a base is no entry.
    """
    have = entries(folder)
    bases = [entry.number for entry in have if entry.kind == "base"]
    if not bases:
        return
    kept = {entry.number for entry in have[-keep:]}
    if keep_seconds is not None:
        kept |= {entry.number for entry in have if entry.time >= now - keep_seconds}
    oldest = max(base for base in bases if base <= min(*kept, bases[-1]))
    there = _directory.listing(folder)
    for number in there.bases:
        if number < oldest:
            with _disk.staged(folder, "gone") as gone:  # a base is there whole or not at all
                _disk.rename(_directory.base_path(folder, number), gone)
    for first, limit in there.segment_limits():
        if limit is not None and limit <= oldest + 1:
            _disk.remove(_directory.segment_path(folder, first))
