"""Options and inputs that several commands share."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc import datasets, optimizers
from fastinc.checkpoint import _disk
from fastinc.stream._files import format_by_content

if TYPE_CHECKING:
    import fastinc as fi

#: Names on the command line to classes: "rowwiseadagrad" is fastinc.RowWiseAdagrad.
OPTIMIZERS = {name.lower(): name for name in optimizers.__all__ if name != "Optimizer"}


def add_events(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options that say which events to read, and how."""
    group = parser.add_argument_group("events")
    group.add_argument(
        "--events",
        required=required,
        metavar="FILE",
        help="csv, tsv, .inter, .dat or Parquet file; a MovieLens directory; 'ml-100k'; or 'synthetic'",
    )
    group.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="name of a column: user=..., item=..., label=... or timestamp=...; may be repeated",
    )
    group.add_argument("--min-label", type=float, metavar="X", help="keep only events with a label of at least X")
    group.add_argument(
        "--errors",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a row that cannot be parsed, or skip such rows and count them (default: raise)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model; each left out means the model's own default."""
    group = parser.add_argument_group("model", "what is not given is as Recommender() has it")
    group.add_argument("--preset", choices=("quality", "fast"), help="what the rest is if not given")
    group.add_argument("--dim", type=int, help="length of the vectors")
    group.add_argument("--loss", choices=("softmax", "bpr", "logistic", "mse"))
    group.add_argument("--user-model", choices=("history", "vector", "both"), help="what a user is to the model")
    group.add_argument("--optimizer", choices=tuple(OPTIMIZERS))
    group.add_argument("--lr", type=float, help="learning rate of that optimizer (or the default one)")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")


def column_roles(columns: Sequence[str]) -> dict[str, str]:
    """Return the names of columns by role, as --columns gives them."""
    roles = {}
    for option in columns:
        role, equals, column = option.partition("=")
        if not equals or not column:
            raise ValueError(f"--columns must be ROLE=NAME, got {option!r}")
        roles[role] = column
    return roles


def open_events(
    name: str, columns: Sequence[str] = (), min_label: float | None = None, errors: Any = "raise"
) -> datasets.Events:
    """Return the events that --events and its companions ask for."""
    roles = column_roles(columns)
    if name == "synthetic":
        events = datasets.synthetic(labels=min_label is not None)
        events = events if min_label is None else events.filter(min_label=min_label)
    elif name != "ml-100k" and Path(name).is_file():
        if format_by_content(Path(name)) == "json":
            raise ValueError(f"--events {name}: these are JSON lines, which 'fastinc train --from' reads")
        return datasets.load_events(name, columns=roles, min_label=min_label, errors=errors)
    else:
        events = datasets.movielens(name, min_label=min_label, errors=errors)
    if roles:
        raise ValueError(f"--columns is for a file of events, and {name!r} has columns that are known")
    return events


def make_model(args: argparse.Namespace) -> fi.Recommender:
    """Return a new Recommender with the options that were given."""
    import fastinc as fi

    given: dict[str, Any] = {"dim": args.dim, "loss": args.loss, "user": args.user_model}
    given |= {"preset": args.preset, "seed": args.seed}
    if args.optimizer is not None or args.lr is not None:
        given["optimizer"] = (
            fi.Recommender(preset=args.preset or "quality").optimizer
            if args.optimizer is None
            else getattr(fi, OPTIMIZERS[args.optimizer])()
        )
        if args.lr is not None:
            given["optimizer"].lr = args.lr
    return fi.Recommender(**{name: value for name, value in given.items() if value is not None})


def writable(path: str | None, option: str, *, replaced: bool = False) -> Path | None:
    """Return the path of a file to write, having found out that its directory exists.

    One that is to be `replaced`, as `write_json` does, is no link, pipe or device.
    """
    if path is None:
        return None
    if not Path(path).parent.is_dir():  # said now, not after minutes of work
        raise ValueError(f"{option}: the directory {Path(path).parent} does not exist")
    if Path(path).is_dir():
        raise ValueError(f"{option} must be a file, and {path} is a directory")
    if replaced:
        try:
            _disk.as_file(path)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
    return Path(path)


def to_json(value: Any, encoding: str = "utf-8") -> str:
    """Return JSON that every parser takes, and that has an encoding: numbers that are not finite become null.

    Letters are themselves where the encoding has them all, else escaped: a file's name may have bytes in it that are
    no letters.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        if hasattr(value, "tolist"):
            return plain(value.tolist())
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(plain(value), indent=2, allow_nan=False)
    return text


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print(to_json(value, getattr(sys.stdout, "encoding", None) or "utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON; the file is the old one or the whole new one."""
    text = to_json(value) + "\n"
    _disk.replace_file(_disk.as_file(path), lambda file: file.write(text.encode()))
