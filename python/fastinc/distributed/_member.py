"""What a rank of a sharded table is and has, and how it agrees with the others on what is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastinc._arguments import as_choice, as_whole
from fastinc.bounds import Eviction, MinCount
from fastinc.distributed._arrays import Place
from fastinc.distributed._exchange import Exchange
from fastinc.distributed._owners import Batch, grouped
from fastinc.init import Initializer
from fastinc.optimizers import Optimizer
from fastinc.table import EmbeddingTable

__all__ = ["Member"]

Int64 = NDArray[np.int64]
T = TypeVar("T")

#: Proposals for a table's number.
_numbers = itertools.count(1)


class Member:
    """See :class:`fastinc.distributed.ShardedTable`. Nothing here is collective but the construction."""

    def __init__(
        self,
        dim: int,
        optimizer: Optimizer | None = None,
        init: Initializer | None = None,
        *,
        process_group: Any = None,
        wire: Literal["float32", "int8"] = "float32",
        presum: Literal["exact", "all"] = "exact",
        device: str = "cpu",
        max_rows: int | None = None,
        eviction: Eviction | None = None,
        admission: MinCount | None = None,
    ) -> None:
        place = Place(device if isinstance(device, str) else "cpu")
        self._exchange = Exchange(process_group, place)
        self._asked = {"looked_up": 0, "updated": 0}
        self._latest: tuple[Int64, Batch] | None = None

        def make() -> tuple[EmbeddingTable, list[int]]:
            as_choice(wire, "wire", ("float32", "int8"))
            as_choice(presum, "presum", ("exact", "all"))
            limit = None if max_rows is None else as_whole(max_rows, "max_rows", self.world_size) // self.world_size
            limits: Any = {"max_rows": limit, "eviction": eviction, "admission": admission}
            shard = EmbeddingTable(dim, optimizer, init, device, **limits)
            if wire == "int8" and device == "cpu":
                shard.lookup_quantized([])  # its copies are there before there are rows: none are made amid a call
            return shard, [next(_numbers)]

        self.shard, told = self._exchange.agree("ShardedTable", make)
        number = int(told[:, 0].max())
        while next(_numbers) < number:  # no table after this one has its number, on any rank
            pass
        self._exchange.table_number = number
        self._place, self._wire, self._presum, self._max_rows = place, wire, presum, max_rows
        self._exchange.agree_same("ShardedTable", "what it is made of", repr(self))

    # --- what it is: not collective -----------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of a row."""
        return self.shard.dim

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of this rank's rows: set its parameters on all ranks alike."""
        return self.shard.optimizer

    @property
    def init(self) -> Initializer:
        """Start values of new rows."""
        return self.shard.init

    @property
    def device(self) -> str:
        """Where this rank's rows are."""
        return self.shard.device

    @property
    def max_rows(self) -> int | None:
        """Rows that all ranks keep at most; None: any number."""
        return self._max_rows

    @property
    def wire(self) -> str:
        """How rows and gradients travel: "float32" or "int8"."""
        return self._wire

    @property
    def presum(self) -> str:
        """How gradients of an id that several ranks have are summed: "exact" or "all"."""
        return self._presum

    @property
    def version(self) -> int:
        """Number of the last applied batch that changed something on any rank; the same on all."""
        return self.shard.version

    @property
    def number(self) -> int:
        """Which of the tables that ranks have made this is: the same on all, and ascending."""
        return self._exchange.table_number

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return self._exchange.rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self._exchange.world

    def __repr__(self) -> str:
        shard = self.shard
        what = f"dim={shard.dim}, optimizer={shard.optimizer!r}, init={shard.init._spec()}{shard._bounds}"
        return f"ShardedTable({what}, wire={self._wire!r}, presum={self._presum!r}, max_rows={self._max_rows})"

    def _check_writable(self, method: str) -> None:
        self.shard._check_writable(method)

    def memory_usage(self) -> dict[str, int]:
        """Return bytes in use by this rank's rows: see :meth:`fastinc.EmbeddingTable.memory_usage`; not collective."""
        return self.shard.memory_usage()

    def stats(self) -> dict[str, Any]:
        """Return this rank's counters and sizes; not collective.

        Returns
        -------
        dict
            What :meth:`fastinc.EmbeddingTable.stats` has of the shard, and ``wire``: bytes ``sent`` to and ``received``
            from other ranks, by what they were ("headers", "ids", "counts", "replies", "rows", "gradients", ...);
            ``looked_up`` and ``updated``: distinct ids that this rank asked other ranks for, and sent gradients of.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=2).stats()["looked_up"]
        0
        >>> dist.destroy_process_group()
        """
        wire = {kind: {"sent": sent, "received": received} for kind, (sent, received) in self._exchange.wire.items()}
        return {**self.shard.stats(), **self._asked, "wire": wire}

    # --- what all calls do --------------------------------------------------------------------------------------

    def _agree(self, call: str, prepare: Callable[[], tuple[T, Any]]) -> tuple[T, Int64]:
        return self._exchange.agree(call, prepare, self.version)

    def _refuse(self, error: Exception) -> NoReturn:
        """Raise what this rank refuses on all of them."""

        def refused() -> NoReturn:
            raise error

        self._agree("arguments of a module", refused)
        raise error

    def _write(self, call: str, apply: Callable[[], int]) -> int:
        """Change this rank's rows; where any rank's changed that is a version of all. Return the sum over ranks."""
        before = self.version

        def applied() -> tuple[None, list[int]]:
            count = apply()
            return None, [self.version != before, count]

        _, told = self._exchange.agree(call, applied)
        if told[:, 0].any() and self.version == before:
            self.shard._core.advance()
        return int(told[:, 1].sum())

    def _may_write(self, call: str, ids: Int64, check: Callable[[], None] | None = None) -> None:
        """Raise on all ranks where the ids and what `check` looks at would be refused by any shard."""

        def look() -> tuple[None, list[int]]:
            limit = self.shard.max_rows
            if limit is not None and (distinct := len(np.unique(ids))) > limit:
                raise ValueError(
                    f"ids: {distinct} of the batch's distinct ids are of rank {self.rank}, which keeps {limit} rows "
                    f"of max_rows = {self._max_rows}; split the batch"
                )
            if check is not None:
                check()
            return None, []

        self._agree(call, look)

    def _grouped(self, ids: Int64) -> Batch:
        """Return a batch's ids by owner. A training step looks up and then updates the same ones."""
        if self._latest is None or not np.array_equal(self._latest[0], ids):
            self._latest = ids.copy(), grouped(ids, self.world_size)
        return self._latest[1]

    def _count(self, what: str, batch: Batch) -> None:
        self._asked[what] += len(batch.ids) - int(batch.sent[self.rank])
