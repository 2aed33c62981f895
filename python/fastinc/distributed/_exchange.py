"""What ranks tell each other: whether a call is in order everywhere, then arrays of sizes that both sides know."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from fastinc.distributed._arrays import Place

__all__ = ["Arrival", "Exchange"]

Array = Any
Tensor = Any
Int64 = NDArray[np.int64]
T = TypeVar("T")

#: A rank's message to another: which call, whether it is in order, the table's version, and up to so many numbers.
_NUMBERS = 3
_CALL, _REFUSED, _VERSION, _FIRST = range(4)
#: What a refused argument raises on the other ranks, too; anything else is a RuntimeError there.
_SAME = {error.__name__: error for error in (TypeError, ValueError, IndexError, FileNotFoundError)}


class Arrival:
    """An array on its way from all ranks."""

    def __init__(self, received: Tensor, work: Any, place: Place, kept: Tensor) -> None:
        self._received, self._work, self._place = received, work, place
        self._kept = kept  # what is being sent must stay

    def wait(self) -> Array:
        """Return the array, rank 0's part first, when all of it is here."""
        if self._work is not None:
            self._work.wait()
            self._work = self._kept = None
        return self._place.array(self._received)


class Exchange:
    """A rank's side of a process group.

    Every rank makes the same calls in the same order. `wire` counts the bytes sent to and received from other ranks,
    by what they are.
    """

    def __init__(self, group: Any, place: Place) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError("torch.distributed isn't started: call init_process_group() first, as torchrun expects")
        self.group = dist.group.WORLD if group is None else group
        self.rank: int = dist.get_rank(self.group)
        self.world: int = dist.get_world_size(self.group)
        if self.rank < 0:
            raise ValueError("process_group: this process is not in it")
        self._place = place
        on_gpu = dist.get_backend(self.group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._host = Place("cpu")
        #: Of the table whose calls these are, the same on all ranks: calls of different tables must not meet.
        self.table_number = 0
        self.wire: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    # --- agreement --------------------------------------------------------------------------------------------------

    def agree(
        self, call: str, prepare: Callable[[], tuple[T, Sequence[int] | Int64]], version: int = 0
    ) -> tuple[T, Int64]:
        """Return what `prepare` does, and the numbers that all ranks have for this one: (world, 3).

        `prepare` returns also numbers, the same for all ranks (up to 3) or one for each, (world, up to 3). Where it
        raises on any rank, or ranks make different calls or are of different versions, every rank raises.
        """
        value: T | None = None
        error: Exception | None = None
        message = np.zeros((self.world, _FIRST + _NUMBERS), dtype=np.int64)
        message[:, _CALL], message[:, _VERSION] = zlib.crc32(self._named(call).encode()), version
        try:
            value, numbers = prepare()
            given = np.asarray(numbers, dtype=np.int64)
            message[:, _FIRST : _FIRST + given.shape[-1]] = given
        except Exception as refused:
            error = refused
            message[:, _REFUSED] = 1
        one_each = np.ones(self.world, dtype=np.int64)
        told = self.swap(message, one_each, one_each, "headers").wait()
        if told[:, _REFUSED].any() or (told[:, _CALL] != told[0, _CALL]).any():
            self._refuse(call, error)
        if (told[:, _VERSION] != told[0, _VERSION]).any():
            raise RuntimeError(
                f"{call}: the shards are of versions {told[:, _VERSION].tolist()}, rank 0's first: one was written "
                "to by itself, or a call failed on some ranks; load a checkpoint"
            )
        return value, told[:, _FIRST:]  # type: ignore[return-value]

    def agree_same(self, call: str, what: str, value: str) -> None:
        """Raise on all ranks where `value` isn't the same on all."""
        values = self.gather_objects(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(f"{call}: {what} differs: rank 0 has {values[0]}, rank {rank} has {other}")

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value, which can be pickled."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def _named(self, call: str) -> str:
        return f"{call} of table {self.table_number}" if self.table_number else call

    def _refuse(self, call: str, error: Exception | None) -> None:
        """Raise this rank's own error, or say which rank refused and why."""
        mine = None if error is None else (type(error).__name__, str(error))
        told = self.gather_objects((call, mine, self._named(call)))
        if error is not None:
            raise error
        for rank, (their_call, refused, _) in enumerate(told):
            if refused is not None:
                raise _SAME.get(refused[0], RuntimeError)(f"{their_call}: rank {rank} refused: {refused[1]}")
        calls = ", ".join(f"rank {rank} called {named}" for rank, (_, _, named) in enumerate(told))
        raise RuntimeError(f"all ranks must make the same calls in the same order: {calls}")

    # --- arrays -----------------------------------------------------------------------------------------------------

    def swap(self, x: Array, sent: Int64, received: Int64, kind: str, *, on_host: bool = True) -> Arrival:
        """Send each rank its rows of an array, those of rank 0 first; they travel until the arrival is waited for.

        x: (sum of sent, ...) on the host, or where the rows are; sent, received: (world,) rows to and from each rank
        """
        place = self._host if on_host else self._place
        out = place.tensor(x).to(self._device)
        into = torch.empty((int(received.sum()), *out.shape[1:]), dtype=out.dtype, device=self._device)
        work = dist.all_to_all_single(into, out, received.tolist(), sent.tolist(), group=self.group, async_op=True)
        a_row = out.element_size() * math.prod(out.shape[1:])
        counter = self.wire[kind]
        counter[0] += a_row * int(sent.sum() - sent[self.rank])
        counter[1] += a_row * int(received.sum() - received[self.rank])
        return Arrival(into, work, place, out)

    def gather(self, x: np.ndarray[Any, Any], counts: Int64, kind: str) -> list[np.ndarray[Any, Any]]:
        """Return every rank's array. x: (n, ...) on the host, the same but for n everywhere; counts: (world,) of n."""
        most = int(counts.max())
        padded = np.zeros((most, *x.shape[1:]), dtype=x.dtype)
        padded[: len(x)] = x
        mine = torch.from_numpy(padded).to(self._device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.world)]
        if most:
            dist.all_gather(all_of_them, mine, group=self.group)
        counter = self.wire[kind]
        counter[0] += padded.nbytes * (self.world - 1)
        counter[1] += padded.nbytes * (self.world - 1)
        return [theirs.cpu().numpy()[:n] for theirs, n in zip(all_of_them, counts.tolist(), strict=True)]
