"""``fastinc log``: look at what ``fastinc train --from`` saved, check it, take a state out, go back to one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from fastinc._arguments import as_path, as_whole
from fastinc.checkpoint import Entry, _directory, _entries, _manifest, _restoring
from fastinc.cli._console import tell
from fastinc.cli._options import print_json
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.stream._saved import check_position

#: Of a position that isn't of `train`, characters shown in a line.
_SHOWN = 60
_MOST = 2**63 - 1


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("log", help="list, check, export or roll back what train --from saved")
    parser.add_argument("log", metavar="DIR", help="the --model of `fastinc train --from`, or another log")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", action="store_true", help="read the newest state, every byte of it, and say what it is"
    )
    action.add_argument(
        "--export", metavar="PATH", help="save the newest state, or --number's, as a model in a new or empty folder"
    )
    action.add_argument(
        "--roll-back-to",
        type=int,
        metavar="N",
        help="have the next train go on from number N; nothing is removed, so that it can be rolled forward again",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--number", type=int, metavar="N", help="with --export: the state of this number")
    which.add_argument("--at", type=float, metavar="UNIXTIME", help="with --export: the state at this time")
    parser.add_argument("--last", type=int, metavar="N", help="list the newest N alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do one of these; a folder that is no log, or has nothing to read, is an error."""
    _check_options(args)
    folder = _log_folder(args.log)
    if args.check:
        _check(folder, args.json)
    elif args.export is not None:
        _export(folder, args)
    elif args.roll_back_to is not None:
        _roll_back(folder, args.roll_back_to, args.json)
    else:
        _list(folder, args.last, args.json)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would have no effect."""
    for name in ("number", "at"):
        if getattr(args, name) is not None and args.export is None:
            raise ValueError(f"--{name} is for --export: it says which state")
    if args.last is not None:
        as_whole(args.last, "--last", 1)
        if args.check or args.export is not None or args.roll_back_to is not None:
            raise ValueError("--last is for the list: --check, --export and --roll-back-to are of one state")


def _log_folder(name: str) -> Path:
    folder = as_path(name, "DIR")
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no log")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; a log is a folder")
    if (folder / _manifest.NAME).exists():
        raise ValueError(f"{folder} holds a checkpoint, which is one state: a log is what train --from makes")
    if not _directory.is_log(folder):
        raise ValueError(f"{folder} holds no log, or one that nothing was saved to yet")
    return folder.absolute()


def _kept(folder: Path) -> list[Entry]:
    """Return the records of a log, one at least."""
    kept = _entries.entries(folder)
    if not kept:
        raise ValueError(f"{folder} has no base that can be read: --check says what is wrong with it")
    return kept


# --- list ------------------------------------------------------------------------------------------------------


def _list(folder: Path, last: int | None, as_json: bool) -> None:
    kept = _kept(folder)
    shown = kept if last is None else kept[-last:]
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in shown])
        return
    for entry in shown:
        what = f"{entry.number:>8}  {entry.kind:<9}  {_moment(entry.time)}  {entry.bytes:>15,} bytes"
        print(f"{what}  {_where(entry.position)}")
    size = sum(entry.bytes for entry in shown)
    if len(shown) == len(kept):
        print(f"{len(kept):,} records, {size:,} bytes")
    else:
        whole = sum(entry.bytes for entry in kept)
        print(f"the newest {len(shown):,} of {len(kept):,} records, {size:,} of {whole:,} bytes")


def _moment(seconds: float) -> str:
    """Return a Unix time as local time."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _of_train(position: Any) -> dict[str, Any] | None:
    """Return a position if `train` saved it."""
    try:
        return check_position(position)
    except (ValueError, TypeError):
        return None


def _where(position: Any) -> str:
    """Return what a position says to people: `train` counts; others are JSON, cut short."""
    saved = _of_train(position)
    if saved is not None:
        return f"{saved['events']:,} learned, {saved['rejected']:,} rejected"
    text = json.dumps(position)
    return f"position {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}"


# --- one state -------------------------------------------------------------------------------------------------


def _restore(folder: Path, number: int | None = None) -> _restoring.State:
    state = _restoring.restore(folder, number)
    if state is None:  # it was a log a moment ago
        raise ValueError(f"{folder} holds no log any more")
    return state


def _tell_damage(messages: list[str]) -> None:
    for message in messages:
        tell(f"fastinc: warning: {message}")


def _facts(state: _restoring.State) -> dict[str, Any]:
    """Return what a state is."""
    obj = state.obj
    if isinstance(obj, Recommender):
        sizes = {"users": obj.n_users, "items": obj.n_items, "events": obj.n_events}
    else:
        table = obj.table if isinstance(obj, LiveIndex) else obj
        sizes = {"rows": len(table), "dim": table.dim}
    return {"number": state.number, "time": state.time, "kind": state.kind, **sizes, "position": state.position}


def _in_words(state: _restoring.State) -> str:
    facts = _facts(state)
    sizes = (f"{facts[name]:,} {name}" for name in ("users", "items", "events", "rows") if name in facts)
    return f"{state.kind}, {', '.join(sizes)}; {_where(state.position)}"


def _newest(folder: Path) -> tuple[_restoring.State, str]:
    """Return the newest state that can be restored, and what is wrong with a newer one: "" where nothing is.

    What is in the writing is no damage, so what a writer may have been at is looked at twice.
    """
    state = _restore(folder)
    if state.unread is not None:
        state = _restore(folder)
    damage = state.damage if state.unread is None else [*state.damage, state.unread]
    return state, "; ".join(damage)


def _check(folder: Path, as_json: bool) -> None:
    state, damage = _newest(folder)
    if damage:
        raise ValueError(f"{damage}; number {state.number} is what can be restored")
    if as_json:
        print_json(_facts(state))
    else:
        print(f"number {state.number} of {_moment(state.time)} is whole: {_in_words(state)}")


def _export(folder: Path, args: argparse.Namespace) -> None:
    import fastinc as fi

    target = as_path(args.export, "--export")
    if os.path.lexists(target) and not _is_empty(target):  # said before minutes of work
        raise ValueError(f"--export {target} is there already: give a folder that isn't, or an empty one")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--export {target} is within the log: give a folder elsewhere")
    number = None if args.number is None else as_whole(args.number, "--number", 1, _MOST)
    state = _restore(folder, number if args.at is None else _entries.number_at(folder, args.at))
    damage = state.damage if state.unread is None else [*state.damage, state.unread]
    _tell_damage([f"{message}; number {state.number} is exported" for message in damage])
    fi.checkpoint.save(state.obj, target, position=state.position)
    if args.json:
        print_json({"path": str(target), **_facts(state)})
    else:
        print(f"number {state.number} of {_moment(state.time)} is in {target}: {_in_words(state)}")


def _is_empty(path: Path) -> bool:
    """Tell whether a path is a folder with nothing in it, as a save that failed leaves one."""
    return path.is_dir() and not os.listdir(path)


def _roll_back(folder: Path, number: int, as_json: bool) -> None:
    """Append an earlier state, as nobody's increment: a base, with the position that it had."""
    import fastinc as fi

    as_whole(number, "--roll-back-to", 1, _MOST)
    numbers = [entry.number for entry in _kept(folder)]
    if number not in numbers:
        raise ValueError(f"--roll-back-to {number} is not kept in {folder}, which has {numbers[0]} to {numbers[-1]}")
    if number == numbers[-1]:
        _refuse_newest(folder, number)
    with fi.checkpoint.Log(folder, keep=None) as log:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log.lock()  # before minutes of work
        _tell_damage([str(warning.message) for warning in caught])
        state = _restore(folder, number)
        _tell_damage([f"{message}; number {number} is whole" for message in state.damage])
        entry = log.append(state.obj, position=state.position)
    if as_json:
        print_json({"rolled_back_to": number, **dataclasses.asdict(entry)})
    else:
        print(f"the newest is number {entry.number}, which is number {number} again: {_in_words(state)}")
        print(f"the next train goes on from there; {entry.number - 1} and those before it stay")
    saved = _of_train(state.position)
    if saved is not None:
        _tell_of_groups(saved["source"])


def _tell_of_groups(source: Any) -> None:
    """Tell where a Redis group may not be where the next train goes on."""
    if source is None:
        tell(
            "fastinc: warning: that is before the stream's first event, which the next train begins as a new model "
            "does: a Redis group goes on after what it has read, unless it is put back by XGROUP SETID STREAM GROUP 0"
        )
    elif isinstance(source, dict) and {"stream", "id"} <= source.keys():
        tell(
            "fastinc: warning: a Redis group goes back by itself where it has one consumer: with others, also idle "
            "ones, it goes on after what it has read, unless it is put back by XGROUP SETID "
            f"{source['stream']} GROUP {source['id']}"
        )


def _refuse_newest(folder: Path, number: int) -> None:
    """Raise where the newest that is listed is what a train goes on from, or can't be read."""
    state, damage = _newest(folder)
    if state.number < number:
        raise ValueError(f"--roll-back-to {number}: {damage}; number {state.number} is what can be restored")
    if state.number == number:
        after = f", without what is damaged after it: {damage}" if damage else ""
        raise ValueError(f"--roll-back-to {number} is the newest already: the next train goes on from it{after}")
