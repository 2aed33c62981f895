"""From a log's files back to an object: a base, and the increments after it in order."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastinc.checkpoint import _arrays, _directory, _lock, _manifest
from fastinc.checkpoint._change import Parameters
from fastinc.checkpoint._compression import unshrink
from fastinc.checkpoint._directory import Listing
from fastinc.checkpoint._kinds import KINDS, describe
from fastinc.checkpoint._parts import FORMAT, MALFORMED, VERSION, load_parts, malformed
from fastinc.checkpoint._records import Record, Tail, read_head, records

__all__ = [
    "ChangingError",
    "DamageWarning",
    "GoneError",
    "State",
    "chain_of",
    "load_base",
    "look",
    "read_manifest",
    "restore",
]

#: How often a folder is looked at again whose files are replaced while they are read.
_ATTEMPTS = 16
_NO_LIMIT = 1 << 63
_Found = TypeVar("_Found")


class DamageWarning(UserWarning):
    """A file of a log is damaged or cut short, and what could be restored without it was.

    Examples
    --------
    >>> import fastinc as fi
    >>> issubclass(fi.checkpoint.DamageWarning, UserWarning)
    True
    """


class GoneError(Exception):
    """What was listed is no longer there."""


class ChangingError(RuntimeError):
    """A folder's files go faster than they are read."""


@dataclass
class State:
    """An object as it was at a number, and what the record after it must say.

    Parameters
    ----------
    obj
        The table or recommender; :meth:`apply` changes it.
    kind
        What it is.
    number, position, time
        Of the append that it is the state of.
    appended
        The base that it began with was appended, and isn't of a compaction.
    chain
        What the next record must name as the one before it: 32 bytes.
    described
        What of its parameters no increment changes.
    damage
        What was found damaged on the way, in words.
    unread
        What is there in full length after the number, can't be read, and isn't among the damage because the log has a
        writer, in words; None: nothing.
    """

    obj: Any
    kind: str
    number: int
    position: Any
    time: float
    chain: bytes
    appended: bool
    described: Parameters
    damage: list[str] = field(default_factory=list)
    unread: str | None = None

    def warn(self, stacklevel: int = 3) -> None:
        """Tell the caller's caller of damage."""
        for message in self.damage:
            warnings.warn(f"{message}; number {self.number} is restored", DamageWarning, stacklevel=stacklevel)

    def follows(self, record: Record) -> bool:
        """Tell whether a record is the next."""
        return record.number == self.number + 1 and record.previous == self.chain

    def apply(self, record: Record, keep_versions: bool = True) -> None:
        """Take the next record in; ValueError where it isn't the next, or can't be of this object.

        Without `keep_versions` its rows are a batch of the object's own, which is in use.
        """
        if not self.follows(record):
            raise ValueError(f"record {record.number} doesn't follow on the state at number {self.number}")
        meta = record.meta
        try:
            if meta["kind"] != self.kind:
                raise ValueError(f"it is of a {meta['kind']!r}, not of a {self.kind!r}")
            arrays = _arrays.parse(unshrink(record.payload, meta.get("compression"), meta.get("plain_bytes")))
            time = float(meta["time"])
            position = meta["position"]
            KINDS[self.kind].apply(self.obj, meta["parameters"], arrays, keep_versions)
        except MALFORMED as error:
            raise ValueError(f"record {record.number} is malformed: {type(error).__name__} {error}") from error
        except ValueError as error:
            raise ValueError(f"record {record.number} is malformed: {error}") from error
        self.number, self.chain, self.position, self.time = record.number, record.digest, position, time


def read_manifest(folder: Path, number: int, there: Listing) -> dict[str, Any] | None:
    """Return the manifest of a base, or None where a later append took its number."""
    path = _directory.base_path(folder, number)
    try:
        _directory.check_base(path)
        manifest = _manifest.read(path, FORMAT, VERSION)
    except FileNotFoundError as error:
        if not path.exists():
            raise GoneError from None
        raise ValueError(str(error)) from None
    try:
        chain, time = bytes.fromhex(manifest["chain"]), float(manifest["time"])
        is_whole = manifest["number"] == number and len(chain) == 32 and "position" in manifest and "kind" in manifest
        appended = manifest["appended"]
    except (*MALFORMED, ValueError) as error:
        raise ValueError(f"{path} is not a log's base: {type(error).__name__} {error}") from None
    if not is_whole or not isinstance(appended, bool):
        raise ValueError(f"{path} is not the base of number {number}")
    if appended and number in there.segments:
        return None
    return {**manifest, "chain": chain, "time": time}


def chain_of(folder: Path, number: int) -> bytes | None:
    """Return the chain of the base of a number, or None where there is none that is whole."""
    try:
        told = read_manifest(folder, number, _directory.listing(folder))
        if told is not None:
            load_parts(_directory.base_path(folder, number))
    except (GoneError, FileNotFoundError, ValueError):
        return None
    return None if told is None else told["chain"]


def load_base(folder: Path, number: int, there: Listing) -> State | None:
    """Return the state that a base is of, or None where a later append took its number."""
    told = read_manifest(folder, number, there)
    if told is None:
        return None
    path = _directory.base_path(folder, number)
    try:
        manifest, arrays = load_parts(path)
        obj = KINDS[manifest["kind"]].build(manifest["parameters"], arrays)
        described = describe(manifest["kind"], manifest["parameters"])
    except FileNotFoundError as error:
        if not path.exists():
            raise GoneError from None
        raise ValueError(f"{path} is damaged: {error}") from None
    except MALFORMED as error:
        raise malformed(path, error) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    numbers = {name: told[name] for name in ("position", "time", "chain", "appended")}
    return State(obj, manifest["kind"], number, **numbers, described=described)


def restore(folder: Path, target: int | None = None) -> State | None:
    """Return the state at a number, or the newest; None where nothing was ever appended.

    Raises
    ------
    ValueError
        The number isn't kept, or something before it is damaged; the message tells what can be restored.
    """
    return look(folder, lambda there: _restore(folder, there, target))


def look(folder: Path, at: Callable[[Listing], _Found]) -> _Found:
    """Return what is found in a folder whose files a writer may replace meanwhile: then it is looked at again."""
    for _ in range(_ATTEMPTS):
        there = _directory.listing(folder)
        try:
            return at(there)
        except (GoneError, FileNotFoundError):
            continue
        except ValueError:
            if there == _directory.listing(folder):  # else what was missing may be there by now
                raise
    raise ChangingError(f"{folder} is changed all the time: its files go before they are read")


def _restore(folder: Path, there: Listing, target: int | None) -> State | None:
    if not there.bases and not there.segments:
        if target is not None:
            raise ValueError(f"number = {target} is not in {folder}, which has no records")
        return None
    damaged: dict[int, str] = {}
    state = _newest_base(folder, there, target, damaged)
    if state is None:
        if damaged:
            raise ValueError(f"no base in {folder} can be read: {'; '.join(damaged.values())}")
        if target is None:
            raise ValueError(f"{folder} has no base, without which its increments are of nothing")
        oldest = f"oldest base is of number {there.bases[0]}" if there.bases else "bases are all gone"
        raise ValueError(f"number = {target} is not kept in {folder}, whose {oldest}")
    torn = _follow(folder, there, state, target, set(damaged))
    if target is not None and state.number != target:
        reason = f": {'; '.join(damaged.values())}" if damaged else ""
        raise ValueError(f"number = {target} is not in {folder}; number {state.number} can be restored{reason}")
    state.damage = [*damaged.values(), *([] if torn is None else [torn])]
    return state


def _newest_base(folder: Path, there: Listing, target: int | None, damaged: dict[int, str]) -> State | None:
    """Return the state of the newest base that is whole; what is wrong with newer ones goes into `damaged`."""
    for number in reversed(there.bases):
        if target is not None and number > target:
            continue
        try:
            state = load_base(folder, number, there)
        except ValueError as error:
            damaged[number] = str(error)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            damaged[number] = f"{_directory.base_path(folder, number)} can't be read: {error}"
        else:
            if state is not None:
                return state
    return None


def _follow(folder: Path, there: Listing, state: State, target: int | None, damaged: set[int]) -> str | None:
    """Take all increments after a base in, up to a number; return what is wrong with the end, if anything is.

    Where a damaged base was, the state may end: nothing else leads to what was appended as a base.
    """
    base = state.number
    for first, limit in there.segment_limits():
        if (limit is not None and limit <= state.number + 1) or (state.appended and first <= base):
            continue  # nothing after the state: a segment begins after each base that is appended
        if state.number == target:
            return None
        path = _directory.segment_path(folder, first)
        if first > state.number + 1:
            if state.number + 1 in damaged:
                return None
            raise ValueError(f"record {state.number + 1} is missing before {path}; {_ways_out(state)}")
        tail = _apply_segment(folder, first, state, min(limit or _NO_LIMIT, (target or _NO_LIMIT) + 1))
        if state.number == target:
            return None
        if limit is None:
            return _end(folder, path, tail, state)
        if state.number + 1 < limit:
            if state.number + 1 in damaged:
                return None
            reason = tail.reason or "it ends there"
            raise ValueError(
                f"{path} is damaged at record {state.number + 1}, offset {tail.offset}: {reason}; {_ways_out(state)}"
            )
    return None


def _apply_segment(folder: Path, first: int, state: State, limit: int) -> Tail:
    """Take a segment's increments after the state in, up to a limit; return how it ended.

    Damage to those that the state has already is nobody's business.
    """
    path, tail, start = _directory.segment_path(folder, first), Tail(), 0
    with _directory.open_segment(folder, first) as file:
        while True:
            for record in records(file, file.size, tail, start):
                if record.offset == 0 and record.number != first:
                    raise ValueError(f"{path} begins with record {record.number}; {_ways_out(state)}")
                if record.number >= limit:
                    return tail
                if record.number > state.number:
                    _apply(state, record, path)
            if tail.resumes is None or read_head(file, tail.resumes, file.size).number > state.number + 1:
                return tail
            start = tail.resumes


def _apply(state: State, record: Record, path: Path) -> None:
    number = state.number
    try:
        state.apply(record)
    except ValueError as error:
        where = f"{path} is damaged at record {record.number}, offset {record.offset}"
        raise ValueError(f"{where}: {error}; number {number} can be restored: restore(number={number})") from error


def _end(folder: Path, path: Path, tail: Tail, state: State) -> str | None:
    if tail.reason is None:
        return None
    where = f"{path} is damaged at record {state.number + 1}, offset {tail.offset}: {tail.reason}"
    if tail.resumes is not None:
        raise ValueError(f"{where}, and whole records follow from offset {tail.resumes} on; {_ways_out(state)}")
    left_out = f"{where}; what is after that offset is left out"
    if _lock.is_held(folder):  # somebody may be writing it just now; who opens the log to write cuts it off
        state.unread = None if tail.is_short else left_out
        return None
    return left_out


def _ways_out(state: State) -> str:
    return f"number {state.number} can be restored: restore(number={state.number})"
