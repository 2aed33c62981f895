"""Gradients of rows between the moment autograd has them and the moment a table takes its step.

A backward pass may reach a table several times: users and items may share one, or a forward use it twice. What comes is
kept until the pass ends and taken in one update, so that equal ids are summed over all uses, and nothing in the pass
sees rows that have moved already. Within :func:`accumulate` it is kept longer.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from fastinc.distributed import ShardedTable
from fastinc.table import EmbeddingTable

__all__ = [
    "TABLES",
    "AnyTable",
    "Pass",
    "Piece",
    "accumulate",
    "collect",
    "current_pass",
    "discard",
    "shard_of",
    "step",
]

Tensor = Any
AnyTable = EmbeddingTable | ShardedTable
TABLES = (EmbeddingTable, ShardedTable)


#: Passes in a row that overflow at one scale before somebody is told: a scaler that saw them would have lowered it.
_MOST_SKIPPED = 20


class Piece(NamedTuple):
    """Gradients of one use of a table."""

    ids: Tensor  # (n,)
    grads: Tensor  # (n, dim) float32
    nonfinite: Literal["raise", "skip"]
    scale: float | None = None  # that the loss was scaled by
    overflows: Tensor | None = None  # (): whether a gradient isn't finite, and the table is to take no step


class Pass:
    """What one backward pass has brought so far. The engine holds it: one that fails takes its gradients along."""

    def __init__(self) -> None:
        self.pieces: dict[AnyTable, list[Piece]] = {}
        self.last = self.ended = False
        self.queue()

    def queue(self) -> None:
        """Have autograd call this when the pass that the thread is in has ended."""
        torch.autograd.Variable._execution_engine.queue_callback(self)

    def __call__(self) -> None:
        """Take the step, after others have done what they do at the end, as DistributedDataParallel: it may raise."""
        if not self.last:
            self.last = True
            self.queue()
            return
        with _lock:
            self.ended = True
            brought, self.pieces = self.pieces, {}
            waits = _accumulating.count > 0
            for table, pieces in brought.items():
                # Autograd goes through a forward backwards: back into the order of the uses.
                _waiting.setdefault(table, []).extend(reversed(pieces))
            taken = {} if waits else {table: _waiting.pop(table) for table in brought}
        _apply(taken)


class _Accumulating:
    count = 0


_lock = threading.Lock()
_accumulating = _Accumulating()
_passes: weakref.WeakValueDictionary[int, Pass] = weakref.WeakValueDictionary()
_waiting: dict[AnyTable, list[Piece]] = {}
_skipped: weakref.WeakKeyDictionary[AnyTable, tuple[float | None, int]] = weakref.WeakKeyDictionary()


def shard_of(table: AnyTable) -> EmbeddingTable:
    """Return this rank's rows."""
    return table.shard if isinstance(table, ShardedTable) else table


def current_pass() -> Pass | None:
    """Return the backward pass that this thread is in."""
    number = torch._C._current_graph_task_id()
    if number < 0:
        return None
    compiled = sys.modules.get("torch._dynamo.compiled_autograd")
    if getattr(compiled, "in_compiled_autograd_region", False):
        raise RuntimeError("fastinc.torch: compiled autograd doesn't tell when a backward ends; compile the forward")
    with _lock:
        current = _passes.get(number)
        if current is None:
            current = _passes[number] = Pass()
        return current


def collect(table: AnyTable, piece: Piece, recomputed_in: Pass | None = None) -> None:
    """Keep gradients until the pass ends in which the forward was computed again, or else that which calls this."""
    current = current_pass()
    if current is None:
        raise RuntimeError("fastinc.torch: gradients of rows come in a backward pass; this is none")
    with _lock:
        if recomputed_in is not None and not recomputed_in.ended:
            current = recomputed_in
        current.pieces.setdefault(table, []).append(piece)


@contextmanager
def accumulate() -> Iterator[None]:
    """Within this, backward passes leave tables as they are; a table's gradients wait for its next pass outside.

    Gradients of equal ids are summed over all these passes, and a row takes one step, as with ``.grad`` of torch. A
    table that no pass outside uses waits for :func:`step`. What counts is where a pass ends, in whatever thread;
    contexts nest.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    >>> embedding = fi.torch.Embedding(table)
    >>> with fi.torch.accumulate():
    ...     embedding(torch.tensor([1])).sum().backward()
    >>> table.version
    0
    >>> embedding(torch.tensor([1])).sum().backward()
    >>> table.version, table.lookup([1]).tolist()
    (1, [[-2.0, -2.0]])
    """
    with _lock:
        _accumulating.count += 1
    try:
        yield
    finally:
        with _lock:
            _accumulating.count -= 1


def step() -> None:
    """Apply the gradients that passes within :func:`accumulate` have left, of all tables.

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        A table refused its gradients, which are given up; the other tables have taken their steps.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2)
    >>> with fi.torch.accumulate():
    ...     fi.torch.Embedding(table)(torch.tensor([1])).sum().backward()
    >>> fi.torch.step()
    >>> table.version
    1
    """
    _apply(_take())


def _apply(taken: dict[AnyTable, list[Piece]]) -> None:
    """Step the tables. Sharded ones come in one order on all ranks, whatever autograd's has been."""
    errors = []
    for table in sorted(taken, key=lambda table: table.number if isinstance(table, ShardedTable) else 0):
        try:
            _update(table, taken[table])
        except Exception as error:  # noqa: PERF203
            errors.append(error)
            if isinstance(table, ShardedTable) and isinstance(error, RuntimeError):
                break  # ranks are out of step: nobody may answer the next call
    if errors:
        raise errors[0]


def discard() -> int:
    """Give up the gradients that passes within :func:`accumulate` have left, of all tables.

    Returns
    -------
    int
        How many gradients of rows there were.

    Examples
    --------
    >>> import torch, fastinc as fi
    >>> with fi.torch.accumulate():
    ...     fi.torch.Embedding(fi.EmbeddingTable(dim=2))(torch.tensor([1, 1])).sum().backward()
    >>> fi.torch.discard(), fi.torch.discard()
    (2, 0)
    """
    return sum(len(piece.ids) for pieces in _take().values() for piece in pieces)


def _take() -> dict[AnyTable, list[Piece]]:
    with _lock:
        taken = dict(_waiting)
        _waiting.clear()
    return taken


def _note_skipped(table: AnyTable, scale: float | None) -> None:
    before, count = _skipped.get(table, (scale, 0))
    count = count + 1 if scale == before else 1
    _skipped[table] = scale, count
    if count == _MOST_SKIPPED:
        warnings.warn(
            f"gradients of rows overflowed in {count} backward passes at the scale of {scale}, and the table took no "
            "step: module.grad_anchor must be among the parameters of the optimizer that the GradScaler steps",
            RuntimeWarning,
            stacklevel=2,
        )


def _update(table: AnyTable, pieces: list[Piece]) -> None:
    if any(piece.overflows is not None and bool(piece.overflows) for piece in pieces):
        _note_skipped(table, pieces[0].scale)
        return
    _skipped.pop(table, None)
    ids, grads = pieces[0].ids, pieces[0].grads
    if len(pieces) > 1:
        ids = torch.cat([piece.ids.to(torch.int64) for piece in pieces])
        grads = torch.cat([piece.grads for piece in pieces])
    if len(ids) or isinstance(table, ShardedTable):  # all ranks take a step, or none
        table.update(ids, grads, nonfinite="skip" if {piece.nonfinite for piece in pieces} == {"skip"} else "raise")
