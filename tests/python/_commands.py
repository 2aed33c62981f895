"""Commands of the command line, run in this process."""

from __future__ import annotations

from fastinc.cli import main


def command(capsys, *arguments):
    """Return the exit status, stdout and stderr of a command."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_one_line_error(result, *messages):
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.startswith("fastinc: error: ")
    assert err.count("\n") == 1
    for message in messages:
        assert message in err
