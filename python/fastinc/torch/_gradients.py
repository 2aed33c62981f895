"""Gradients of rows between the moment autograd has them and the moment a table takes its step.

A backward pass may reach a table several times: users and items may share one, or a forward use it twice. What comes is
kept until the pass ends and taken in one update, so that equal ids are summed over all uses, and nothing in the pass
sees rows that have moved already. Within :func:`accumulate` it is kept longer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from fastinc.distributed import ShardedTable
from fastinc.table import EmbeddingTable

__all__ = ["TABLES", "AnyTable", "Piece", "accumulate", "collect", "discard", "shard_of", "step"]

Tensor = Any
AnyTable = EmbeddingTable | ShardedTable
TABLES = (EmbeddingTable, ShardedTable)


class Piece(NamedTuple):
    """Gradients of one use of a table. nonfinite "drop": where one isn't finite, the table takes no step."""

    ids: Tensor  # (n,)
    grads: Tensor  # (n, dim) float32
    nonfinite: Literal["raise", "skip", "drop"]

    def copy(self) -> Piece:
        """Return what stays while the caller writes the next batch into the same tensors."""
        return Piece(self.ids.clone(), self.grads.clone(), self.nonfinite)


class _Pass:
    """What one backward pass has brought so far."""

    def __init__(self) -> None:
        self.pieces: dict[AnyTable, list[Piece]] = {}

    def __call__(self) -> None:
        """Autograd calls this when the pass has ended."""
        for pieces in self.pieces.values():
            pieces.reverse()  # autograd goes through a forward backwards: back into the order of the uses
        with _lock:
            waits = _accumulating.count > 0
            for table, pieces in self.pieces.items():
                _waiting.setdefault(table, []).extend(piece.copy() if waits else piece for piece in pieces)
        if not waits:
            step()


class _Accumulating:
    count = 0


_lock = threading.Lock()
_accumulating = _Accumulating()
_passes: weakref.WeakValueDictionary[int, _Pass] = weakref.WeakValueDictionary()
_waiting: dict[AnyTable, list[Piece]] = {}


def shard_of(table: AnyTable) -> EmbeddingTable:
    """Return this rank's rows."""
    return table.shard if isinstance(table, ShardedTable) else table


def collect(table: AnyTable, piece: Piece) -> None:
    """Keep gradients until the backward pass that calls this ends."""
    number = torch._C._current_graph_task_id()
    with _lock:
        current = _passes.get(number)
        if current is None:
            current = _passes[number] = _Pass()
            # The engine alone holds the pass: one that fails takes its gradients along.
            torch.autograd.Variable._execution_engine.queue_callback(current)
        current.pieces.setdefault(table, []).append(piece)


@contextmanager
def accumulate() -> Iterator[None]:
    """Within this, backward passes leave all tables as they are; their gradients wait for the next pass outside.

    Gradients of equal ids are summed over all these passes, and a row takes one step, as with ``.grad`` of torch. What
    counts is where a pass ends, in whatever thread; contexts nest.

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
    errors = []
    for table, pieces in _take().items():
        try:
            _update(table, pieces)
        except Exception as error:  # noqa: PERF203
            errors.append(error)
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


def _update(table: AnyTable, pieces: list[Piece]) -> None:
    ids, grads = pieces[0].ids, pieces[0].grads
    if len(pieces) > 1:
        ids = torch.cat([piece.ids.to(torch.int64) for piece in pieces])
        grads = torch.cat([piece.grads for piece in pieces])
    policies = {piece.nonfinite for piece in pieces}
    if "drop" in policies and not bool(torch.isfinite(grads).all()):
        return
    table.update(ids, grads, nonfinite="skip" if policies == {"skip"} else "raise")
