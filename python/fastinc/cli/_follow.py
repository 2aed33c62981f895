"""``fastinc train --from``: learn a stream until it ends or somebody says stop, and go on from there the next time."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc.cli._options import column_roles, make_model

if TYPE_CHECKING:
    import fastinc as fi
    from fastinc.stream import Progress

#: Options that --events has no use for, as attributes.
STREAM_OPTIONS = ("follow", "checkpoint_every", "checkpoint_seconds", "dead_letters", "max_events", "ids", "linger")
#: Options of the model, as attributes, and what `get_params` calls them.
_MODEL_OPTIONS = {"preset": "preset", "dim": "dim", "loss": "loss", "user_model": "user", "seed": "seed"}


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Add the options of a stream."""
    group = parser.add_argument_group("stream", "learned for ever, resumed after a crash with every event applied once")
    group.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="redis://HOST/DB?stream=NAME&group=GROUP, kafka://BROKER/TOPIC?group=GROUP, or files: csv, JSON lines, "
        "Parquet, a folder or pattern of them",
    )
    group.add_argument("--follow", action="store_true", help="wait for more at the end of files")
    group.add_argument("--checkpoint-every", type=int, metavar="N", help="save after N events (default: 10000)")
    group.add_argument(
        "--checkpoint-seconds", type=float, metavar="S", help="and when there is something to after S (default: 60)"
    )
    group.add_argument("--dead-letters", metavar="FILE", help="gets malformed events as JSON lines, with the reason")
    group.add_argument("--max-events", type=int, metavar="N", help="stop after N events")
    group.add_argument(
        "--ids", choices=("int", "str"), help="what users and items are (default: as in the first event)"
    )
    group.add_argument(
        "--linger", type=float, metavar="S", help="learn a group that isn't full after S without events (default: wait)"
    )


def train_from(args: argparse.Namespace, target: Path) -> None:
    """Learn a stream, from where the model in a folder is."""
    import fastinc as fi

    for name, given in (("--min-label", args.min_label is not None), ("--errors", args.errors != "raise")):
        if given:
            raise ValueError(f"{name} is for --events; a stream's malformed events are counted, and see --dead-letters")
    with fi.checkpoint.Log(target) as log, _stopped() as stop:
        restored = log.restore()
        model, position = (make_model(args), None) if restored is None else restored
        if restored is not None:
            _check_same(args, model, target)
            _tell(f"{target}: going on after {model.n_events:,} events")
        with _open(args, model) as source:
            done = fi.stream.train(
                model,
                source,
                log,
                position=position,
                checkpoint_every=10_000 if args.checkpoint_every is None else args.checkpoint_every,
                checkpoint_seconds=60.0 if args.checkpoint_seconds is None else args.checkpoint_seconds,
                max_events=args.max_events,
                linger=args.linger,
                dead_letters=args.dead_letters,
                on_checkpoint=_show,
                stop=stop,
            )
    lost = f", {source.lost:,} lost in gaps" if source.lost else ""
    print(f"learned {done.learned:,} events of {source.name} ({_counts(done)}{lost}); the model is in {target}")


def _open(args: argparse.Namespace, model: fi.Recommender) -> fi.stream.Source:
    import fastinc as fi

    options: dict[str, Any] = {"columns": column_roles(args.columns), "ids": args.ids}
    if not model.uses_labels:
        options["labels"] = False
    if args.follow:
        if "://" in args.source and not args.source.startswith("file://"):
            raise ValueError(f"--follow is for files; {args.source.partition('://')[0]}:// never ends")
        options["follow"] = True
    return fi.stream.open(args.source, **options)


def _check_same(args: argparse.Namespace, model: Any, target: Path) -> None:
    """Refuse options that contradict the model that is gone on with."""
    import fastinc as fi

    if not isinstance(model, fi.Recommender):
        raise ValueError(f"{target} holds a {type(model).__name__}; --from goes on with a Recommender")
    have = model.get_params()
    for option, name in _MODEL_OPTIONS.items():
        given = getattr(args, option)
        if given is not None and given != have[name]:
            raise ValueError(f"--{option.replace('_', '-')} {given}: the model in {target} has {have[name]}")
    optimizer: Any = model.optimizer
    if args.optimizer is not None and args.optimizer != type(optimizer).__name__.lower():
        raise ValueError(f"--optimizer {args.optimizer}: the model in {target} has {type(optimizer).__name__}")
    if args.lr is not None and args.lr != optimizer.lr:
        raise ValueError(f"--lr {args.lr}: the model in {target} has {optimizer.lr}")


def _counts(done: Progress) -> str:
    held = f", {done.held} waiting for their group" if done.held else ""
    return f"{done.events:,} in all{held}, {done.rejected:,} rejected"


def _show(done: Progress) -> None:
    if done.learned or done.checkpoints > 1:  # nothing has been read before the first one
        rate = done.learned / max(done.seconds, 1e-9)
        _tell(f"checkpoint {done.checkpoints}: {_counts(done)}, {rate:,.0f} events/s")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _stopped() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGTERM or SIGINT has come; a second SIGINT interrupts at once."""
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
