"""Functions run on the ranks of a gloo group, each in a process of its own.

Starting a process costs seconds for torch's sake, so :func:`on_ranks` keeps four of them; a group of fewer ranks is
the first of these. Whatever a rank raises is raised here, with its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import tempfile
import time
import traceback
import warnings
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

__all__ = ["MOST", "on_ranks", "raised", "run_ranks"]

#: How many ranks there are at most.
MOST = 4
#: After so many seconds a rank that waits for another gives up, and a call that has no answer fails.
GROUP_TIMEOUT, CALL_TIMEOUT = 60, 120


class RankError(AssertionError):
    """What the ranks that failed raised."""


def _start(rank, world, path, group_timeout):
    import torch
    import torch.distributed as dist

    import fastinc as fi

    warnings.simplefilter("error")
    fi.set_num_threads(1)
    torch.set_num_threads(1)
    timeout = timedelta(seconds=group_timeout)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world, timeout=timeout)
    return {n: dist.new_group(list(range(n)), timeout=timeout) for n in range(1, world)} | {world: dist.group.WORLD}


def _serve(rank, world, path, group_timeout, pipe):
    """Run functions as they come, until None comes."""
    groups = _start(rank, world, path, group_timeout)
    while (command := pipe.recv()) is not None:
        size, function, arguments = command
        try:
            pipe.send((True, function(groups[size], *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Ranks:
    """Processes that are one group's ranks."""

    def __init__(self, world, group_timeout=GROUP_TIMEOUT):
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "store"
        self.pipes, self.processes = [], []
        for rank in range(world):
            mine, theirs = context.Pipe()
            arguments = (rank, world, str(path), group_timeout, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def run(self, world, function, *arguments, may_die=()):
        """Return what ``function(group, *arguments)`` returns on each of `world` ranks; None where one died."""
        deadline = time.monotonic() + CALL_TIMEOUT
        results, failures = [None] * world, {}
        for pipe in self.pipes[:world]:
            pipe.send((world, function, arguments))
        waiting = dict(zip(self.pipes[:world], range(world), strict=True))
        while waiting and (ready := wait(waiting, max(deadline - time.monotonic(), 0.0))):
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    done, results[rank] = pipe.recv()
                except (EOFError, ConnectionError):
                    done, results[rank] = rank in may_die, None
                if not done:
                    failures[rank] = results[rank] or "its process died"
                    deadline = min(deadline, time.monotonic() + 5)  # the others may wait for it
        failures |= dict.fromkeys(waiting.values(), "it gave no answer in time")
        if failures:
            raise RankError("\n".join(f"rank {rank} of {world}: {why}" for rank, why in sorted(failures.items())))
        return results

    def close(self):
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(0.5)
            process.kill()
            process.join()
            pipe.close()
        self.folder.cleanup()


def run_ranks(world, function, *arguments, group_timeout=GROUP_TIMEOUT, may_die=()):
    """Run ``function(group, *arguments)`` on `world` ranks of their own; return their results."""
    ranks = Ranks(world, group_timeout)
    try:
        return ranks.run(world, function, *arguments, may_die=may_die)
    finally:
        ranks.close()


_kept: list[Ranks] = []


def on_ranks(world, function, *arguments):
    """Run ``function(group, *arguments)`` on the first `world` of ranks that are kept; return their results."""
    if not _kept:
        _kept.append(Ranks(MOST))
    try:
        return _kept[0].run(world, function, *arguments)
    except RankError:
        _stop()  # some may still wait for others
        raise


@atexit.register
def _stop():
    while _kept:
        _kept.pop().close()


def raised(function):
    """Return what a call raises as (type, message), or None."""
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return None
