"""``fastinc train --from``: learn a stream until it ends or somebody says stop, and go on from there the next time."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastinc.checkpoint import _manifest
from fastinc.cli._console import tell
from fastinc.cli._options import column_roles, make_model

if TYPE_CHECKING:
    import fastinc as fi
    from fastinc.stream import Progress

#: Options that --events has no use for, as attributes.
STREAM_OPTIONS = (
    *("follow", "checkpoint_every", "checkpoint_seconds", "dead_letters", "max_events", "ids", "linger", "on_gap"),
    *("start_with", "keep", "keep_seconds", "compression"),
)
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
    group.add_argument(
        "--from-env",
        dest="source_variable",
        metavar="NAME",
        help="the environment variable that holds what --from would: passwords are not for a command line",
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
    group.add_argument(
        "--on-gap",
        choices=("raise", "skip"),
        help="where the stream has lost events: stop, or tell it and go on (default: raise)",
    )
    group.add_argument("--start-with", metavar="DIR", help="a saved model to begin with, where --model has none yet")
    group.add_argument("--keep", type=int, metavar="N", help="saves that can be gone back to at least (default: 1000)")
    group.add_argument("--keep-seconds", type=float, metavar="S", help="and those of the last S")
    group.add_argument("--compression", choices=("zstd",), help="of what is saved (default: none)")


def source_of(args: argparse.Namespace) -> str | None:
    """Return what the options say is to be read; None: nothing."""
    name: str | None = args.source_variable
    if name is None:
        source: str | None = args.source
        return source
    if args.source is not None:
        raise ValueError("just one of --from and --from-env may be given")
    if not os.environ.get(name):
        raise ValueError(f"--from-env {name}: the environment has no such variable, or it is empty")
    return os.environ[name]


def train_from(args: argparse.Namespace, target: Path) -> None:
    """Learn a stream, from where the model in a folder is."""
    import fastinc as fi

    for name, given in (("--min-label", args.min_label is not None), ("--errors", args.errors != "raise")):
        if given:
            raise ValueError(f"{name} is for --events; a stream's malformed events are counted, and see --dead-letters")
    with _open_log(args, target) as log, _stopped() as stop:
        restored = log.restore()
        model, position = (_first_model(args), None) if restored is None else restored
        if restored is not None:
            _check_same(args, model, target)
            if args.start_with is not None:
                tell(f"--start-with {args.start_with} is left out: {target} has a model, which is gone on with")
        with _open(args, model) as source:
            tell(f"reading {source.name} {_begin(model, position)}")
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
        if not done.events + done.held and done.rejected and not stop():
            raise ValueError(_nothing_learned(source.name, done))
    lost = f", {source.lost:,} lost in gaps" if source.lost else ""
    print(f"learned {done.learned:,} events of {source.name} ({_counts(done)}{lost}); the model is in {target}")


def _open_log(args: argparse.Namespace, target: Path) -> fi.checkpoint.Log:
    import fastinc as fi

    if (target / _manifest.NAME).exists():
        raise ValueError(
            f"--model {target} holds a checkpoint, as train --events makes it: --from needs a folder of its own. "
            f"To begin with that model, give another one and --start-with {target}"
        )
    keep = {} if args.keep is None else {"keep": args.keep}
    return fi.checkpoint.Log(target, keep_seconds=args.keep_seconds, compression=args.compression, **keep)


def _first_model(args: argparse.Namespace) -> fi.Recommender:
    """Return the model that a stream begins with."""
    import fastinc as fi

    if args.start_with is None:
        return make_model(args)
    model: fi.Recommender = fi.checkpoint.load(args.start_with)[0]
    _check_same(args, model, Path(args.start_with))
    return model


def _begin(model: fi.Recommender, position: Any) -> str:
    """Tell where reading begins."""
    if isinstance(position, dict) and position.get("source") is not None:
        return f"from the saved position on: going on after {model.n_events:,} events"
    known = f", with a model of {model.n_events:,} events" if model.n_events else ""
    return f"from the start: there is no saved position{known}"


def _nothing_learned(name: str, done: Progress) -> str:
    first = done.first_rejected
    why = "" if first is None else f" The first, {first.where}: {first.reason}"
    return (
        f"nothing of {name} was learned: all {done.rejected:,} events were rejected, and no position is saved, so that "
        f"the next run reads them again.{why}"
    )


def _open(args: argparse.Namespace, model: fi.Recommender) -> fi.stream.Source:
    import fastinc as fi
    from fastinc.stream._url import scheme_of

    options: dict[str, Any] = {"columns": column_roles(args.columns), "ids": args.ids}
    if not model.uses_labels:
        options["labels"] = False
    if args.on_gap is not None:
        options["on_gap"] = args.on_gap
    if args.follow:
        scheme = scheme_of(args.source)
        if scheme not in ("", "file"):
            raise ValueError(f"--follow is for files; {scheme}:// never ends")
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
        tell(f"checkpoint {done.checkpoints}: {_counts(done)}, {rate:,.0f} events/s")


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
