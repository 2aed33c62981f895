"""The command line: ``fastinc demo | train | log | evaluate | recommend | bench | info``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastinc.checkpoint import LockedError
from fastinc.checkpoint._restoring import ChangingError
from fastinc.cli import bench, demo, evaluate, info, log, recommend, train
from fastinc.cli._console import printable

_COMMANDS = (demo, train, log, evaluate, recommend, bench, info)
# What a user can cause: a wrong value, a missing file, a missing extra, a model too large, a log in use. Anything else
# is a mistake of ours, and deserves its traceback.
_USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, LockedError, ChangingError)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the commands do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastinc: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Looks the version up when asked for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import fastinc

        print(f"fastinc {fastinc.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Returns
    -------
    argparse.ArgumentParser
        The parser; the chosen command's function is the ``run`` of what it returns.

    Examples
    --------
    >>> build_parser().parse_args(["info", "--json"]).json
    True
    """
    parser = _Parser(prog="fastinc", description="Recommenders that learn from the event stream while they serve.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        The arguments, by default those of the process.

    Returns
    -------
    int
        The exit status: 0, or 2 after an error that the user can mend, which is one line on stderr.

    Examples
    --------
    >>> main(["evaluate", "--events", "no-such-file.csv"])
    2
    """
    with printable():
        return _run(build_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    try:
        args.run(args)
        if sys.stdout is not None:  # closed by whoever started the process
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone. Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _USER_ERRORS as error:
        if args.traceback:
            raise
        print(f"fastinc: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return text or type(error).__name__
