"""``fastinc train``: learn a file of events, or a stream of them for ever, and save the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastinc._arguments import as_path
from fastinc.checkpoint import _directory
from fastinc.cli._console import progress
from fastinc.cli._follow import STREAM_OPTIONS, add_stream, source_of, train_from
from fastinc.cli._options import add_events, add_model, add_seed, make_model, open_events

_BATCH = 5000  # events between two steps of the progress bar


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("train", help="learn a file of events, or a stream for ever, and save the model")
    add_events(parser, required=False)
    add_stream(parser)
    parser.add_argument("--model", required=True, metavar="DIR", help="where to save the model")
    add_model(parser)
    add_seed(parser)
    parser.set_defaults(run=run, seed=None)


def run(args: argparse.Namespace) -> None:
    """Learn the events in the order of time (of the file, where they have no time) and save the model."""
    args.source = source_of(args)
    if args.events is None and args.source is None:
        raise ValueError("one of --events and --from is needed: which events to learn")
    if args.events is not None and args.source is not None:
        raise ValueError("just one of --events and --from may be given: which events to learn")
    target = as_path(args.model, "--model")
    if target.exists() and not target.is_dir():
        raise ValueError(f"--model must be a directory, and {target} is a file")
    if args.source is not None:
        train_from(args, target)
        return
    for name in STREAM_OPTIONS:
        given = getattr(args, name)
        if given is not None and given is not False:
            raise ValueError(f"--{name.replace('_', '-')} is for --from")
    if _directory.is_log(target):  # said now, not after minutes of work
        raise ValueError(f"--model {target} holds a log, as train --from makes it: --events needs a folder of its own")
    _train_once(args, target)


def _train_once(args: argparse.Namespace, target: Path) -> None:
    import fastinc as fi

    model = make_model(args)
    events = open_events(args.events, args.columns, args.min_label, args.errors)
    if events.timestamps is not None:
        events = events.sorted()
    with progress() as advance:
        for begin in range(0, len(events), _BATCH):
            part = events[begin : begin + _BATCH]
            model.partial_fit_events(part)
            advance("learning", begin + len(part), len(events))
    fi.checkpoint.save(model, target, position=len(events))
    skipped = f" ({events.skipped} rows skipped)" if events.skipped else ""
    print(f"learned {len(events):,} events of {events.name}{skipped}; the model is in {target}")
