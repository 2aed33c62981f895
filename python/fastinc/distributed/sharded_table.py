"""A table whose rows are on several ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastinc import ops
from fastinc._arguments import as_choice
from fastinc._device import is_on_cuda
from fastinc.changes import Changes
from fastinc.distributed._arrays import as_host, as_host_ids
from fastinc.distributed._gradients import SKIP, send_gradients, send_ids, send_rows
from fastinc.distributed._member import Member
from fastinc.distributed._owners import Batch
from fastinc.distributed._prefetch import Prefetch

__all__ = ["ShardedTable"]

Array = Any
Ids = Any
Int64 = NDArray[np.int64]
T = TypeVar("T")


class ShardedTable(Member):
    """A growing map from int64 id to a float32 row, its rows shared out by id over the ranks of a process group.

    Every rank makes the same calls in the same order, each with a batch of its own, which may be empty: all methods
    are collective but where said. The result is that of one :class:`fastinc.EmbeddingTable` which is given the ranks'
    batches one after another, rank 0's first, as one batch: with ``wire="float32"`` and ``presum="exact"`` bit for bit,
    weights, optimizer state and row versions, whatever the number of ranks. Arguments refused on one rank raise on
    all, and nothing has changed anywhere. One thread of a rank makes the calls.

    Parameters
    ----------
    dim, optimizer, init, device
        As for :class:`fastinc.EmbeddingTable`, the same on every rank (of `device` each rank has its own). Set
        optimizer parameters on all ranks alike.
    process_group
        A torch.distributed group, "gloo" or "nccl"; None: the default one. With "nccl" call
        ``torch.cuda.set_device()`` first, and arrays travel from GPU to GPU.
    wire
        How rows and gradients travel: "float32", or "int8": in the fused 8-bit format of
        :func:`fastinc.ops.quantize_rowwise`. Each value that arrives is then off by up to 1/510 of the range of its
        row's values (its largest less its smallest), and a gradient by that for each vector it was sent in.
        Rows given to :meth:`load` travel as float32.
    presum
        "exact" sends of an id that several ranks have what it takes to sum in the order of one table; "all" sends one
        sum per rank and id: the fewest bytes, and sums that may differ from one table's in the last bits.
    max_rows, eviction, admission
        As for :class:`fastinc.EmbeddingTable`. Each rank keeps at most ``max_rows // world size`` rows and gives up its
        own, so which rows stay depends on the number of ranks, and a batch with more distinct ids of one rank than that
        is refused.

    Attributes
    ----------
    shard : EmbeddingTable
        This rank's rows. Read it, ``len(shard)`` included, as you like; writing to it puts the ranks out of step.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range, or differs between ranks.
    RuntimeError
        torch.distributed isn't started, or, from any method, a rank is gone or takes longer than the group's timeout.

    Notes
    -----
    An update changes shards only when all that it needs has arrived and no rank refuses; then each applies its part
    at once. When a rank goes, the others raise; start again from :func:`fastinc.distributed.load`.

    Examples
    --------
    >>> import numpy as np, torch.distributed as dist, fastinc as fi
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun: init_process_group()
    >>> table = fi.distributed.ShardedTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    >>> table.update([7, 9, 7], np.ones((3, 2), dtype=np.float32))
    0
    >>> table.lookup([7, 8]).tolist(), table.rows(), table.version
    ([[-2.0, -2.0], [0.0, 0.0]], 2, 1)
    >>> dist.destroy_process_group()
    """

    # --- reading ------------------------------------------------------------------------------------------------

    def prefetch(self, ids: Ids) -> Prefetch:
        """Ask for rows and return while they travel: ``prefetch(ids).rows()`` is ``lookup(ids)``.

        Parameters
        ----------
        ids
            (n,) int32 or int64.

        Returns
        -------
        Prefetch
            Its ``rows()`` waits for them; they are as of this call.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> coming = fi.distributed.ShardedTable(dim=2, init=fi.init.Zeros()).prefetch([3])
        >>> coming.rows().tolist()
        [[0.0, 0.0]]
        >>> dist.destroy_process_group()
        """
        return self._ask("prefetch", ids, lambda _: None)[0]

    def _ask(self, call: str, ids: Ids, check: Callable[[Int64], T]) -> tuple[Prefetch, T]:
        """Have rows sent, once `check`, given the ids, refuses on no rank; return also what it returns."""

        def prepare() -> tuple[tuple[Batch, T], Int64]:
            given = as_host_ids(ids)
            checked = check(given)
            batch = self._grouped(given)
            return (batch, checked), batch.sent[:, None]

        (batch, checked), told = self._agree(call, prepare)
        received = told[:, 0]
        self._count("looked_up", batch)
        wanted = self._place.index(send_ids(self._exchange, batch, received))
        if self._wire == "int8":
            found = self.shard.lookup_quantized(wanted, out=self._place.empty((len(wanted), self.dim + 8), "uint8"))
        else:
            found = self.shard.lookup(wanted, out=self._place.empty((len(wanted), self.dim)))
        arrival = self._exchange.swap(found, received, batch.sent, "rows", on_host=False)
        return Prefetch(self, arrival, batch.inverse(), is_on_cuda(ids)), checked

    def lookup(self, ids: Ids, *, out: Array | None = None) -> Array:
        """Return the rows of `ids`; an id never seen gets the row it would start with, and allocates nothing.

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        out
            (n, dim) float32 to write to; made if None.

        Returns
        -------
        array
            (n, dim) float32: `out`, or a new array as :meth:`fastinc.EmbeddingTable.lookup` makes it.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=3).lookup([1, 2]).shape
        (2, 3)
        >>> dist.destroy_process_group()
        """

        def check(given: Int64) -> None:
            if out is not None:
                self._place.matrix(out, "out", (len(given), self.dim), written=True)

        rows = self._ask("lookup", ids, check)[0].rows(out=out)
        return rows if out is None else out

    def pool(
        self,
        ids: Ids,
        offsets: Ids,
        mode: Literal["sum", "mean"] = "mean",
        weights: Array | None = None,
        *,
        out: Array | None = None,
    ) -> Array:
        """Sum or average rows per bag, as :meth:`fastinc.EmbeddingTable.pool`; each distinct id travels once.

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        offsets
            (bags,) int32 or int64: where each bag starts in `ids`; the first is 0, none decreases.
        mode
            "sum" or "mean".
        weights
            (n,) float32, one per id, for mode "sum".
        out
            (bags, dim) float32 to write to; made if None.

        Returns
        -------
        array
            (bags, dim) float32.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = fi.distributed.ShardedTable(dim=2, init=fi.init.Constant(1.0))
        >>> table.pool([4, 5, 6], [0, 1], mode="sum").tolist()
        [[1.0, 1.0], [2.0, 2.0]]
        >>> dist.destroy_process_group()
        """

        def check(given: Int64) -> tuple[Int64, Array]:
            as_choice(mode, "mode", ("sum", "mean"))
            starts = as_host_ids(offsets, "offsets")
            scale = None if weights is None else as_host(weights, "weights")
            # One column of zeros: the engine refuses what it would refuse of the rows.
            one, first = np.zeros((1, 1), dtype=np.float32), np.zeros(len(given), dtype=np.int64)
            try:
                ops.pool(one, first, starts, mode, scale)
            except (ValueError, TypeError) as error:
                raise type(error)(str(error).replace("per_sample_weights", "weights")) from None
            if out is not None:
                self._place.matrix(out, "out", (len(starts), self.dim), written=True)
            return starts, scale

        coming, (starts, scale) = self._ask("pool", ids, check)
        place, there = self._place, is_on_cuda(ids if out is None else out)
        inverse, begin = place.index(coming.inverse), place.index(starts)
        by = None if scale is None else place.index(scale)
        pooled = ops.pool(coming.distinct(), inverse, begin, mode, by, out=out if place.on_cpu or there else None)
        if place.on_cpu or there:
            return pooled
        if out is None:
            return pooled.cpu().numpy()
        as_host(out, "out")[...] = pooled.cpu().numpy()
        return out

    def rows(self) -> int:
        """Return how many rows all ranks have; ``len(table.shard)`` is how many this one has.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=2).rows()
        0
        >>> dist.destroy_process_group()
        """
        return int(self._agree("rows", lambda: (None, [len(self.shard)]))[1].sum())

    def ids(self) -> Int64:
        """Return the ids that have a row on any rank, ascending: (rows,) int64, on every rank.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=2).ids().tolist()
        []
        >>> dist.destroy_process_group()
        """
        mine = self.shard.ids()
        return self._gathered(mine, self._agree("ids", lambda: (None, [len(mine)]))[1][:, 0])

    def _gathered(self, ids: Int64, counts: Int64) -> Int64:
        return np.sort(np.concatenate(self._exchange.gather(ids, counts, "changes")))

    def changes(self, since: int) -> Changes:
        """Return which ids were written, removed or evicted after version `since`, on all ranks to all ranks.

        Parameters
        ----------
        since
            A version of this table, the same on every rank; 0 gives everything.

        Returns
        -------
        Changes
            Its ids are ascending. ``reset`` where any rank's log doesn't reach back so far.

        Raises
        ------
        ValueError
            `since` is negative or newer than :attr:`version`.

        Examples
        --------
        >>> import numpy as np, torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = fi.distributed.ShardedTable(dim=2)
        >>> _ = table.update([5, 3], np.ones((2, 2), dtype=np.float32))
        >>> table.changes(since=0).updated.tolist()
        [3, 5]
        >>> dist.destroy_process_group()
        """

        def look() -> tuple[Changes, list[int]]:
            found = self.shard.changes(since)
            return found, [len(found.updated), len(found.removed), found.reset]

        mine, told = self._agree(f"changes(since={since})", look)
        reset = bool(told[:, 2].any())
        updated, removed, counts = mine.updated, mine.removed, told
        if reset:  # then all that there is, of all ranks
            updated, removed = self.shard.ids(), removed[:0]
            _, counts = self._agree("changes", lambda: (None, [len(updated), 0]))
        return Changes(
            self.version, self._gathered(updated, counts[:, 0]), self._gathered(removed, counts[:, 1]), reset
        )

    # --- writing ------------------------------------------------------------------------------------------------

    def update(self, ids: Ids, grads: Array, *, nonfinite: Literal["raise", "skip"] = "raise") -> int:
        """Sum gradients of equal ids over all ranks and take one optimizer step a row; unknown ids get a row first.

        Parameters
        ----------
        ids
            (n,) int32 or int64, repeats allowed.
        grads
            (n, dim) float32.
        nonfinite
            "raise" refuses the ranks' batches where any has a non-finite gradient, and changes nothing anywhere;
            "skip" leaves those ids out, with what other ranks have for them. The same on every rank.

        Returns
        -------
        int
            Ids skipped, of all ranks.

        Raises
        ------
        ValueError, TypeError
            A wrong shape, dtype, layout or non-finite gradient, on any rank; nothing has changed.

        Examples
        --------
        >>> import numpy as np, torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = fi.distributed.ShardedTable(dim=2)
        >>> table.update([1, 1, 2], np.ones((3, 2), dtype=np.float32))
        0
        >>> dist.destroy_process_group()
        """
        call, place = f"update(nonfinite={nonfinite!r})", self._place

        def prepare() -> tuple[tuple[Batch, Array], Int64]:
            as_choice(nonfinite, "nonfinite", ("raise", "skip"))
            given = as_host_ids(ids)
            matrix = place.matrix(grads, "grads", (len(given), self.dim))
            if nonfinite == "raise":
                place.check_finite(matrix, "grads", SKIP)
            batch = self._grouped(given)
            return (batch, matrix), batch.sent[:, None]

        (batch, matrix), told = self._agree(call, prepare)
        self._count("updated", batch)
        exact, int8 = self._presum == "exact", self._wire == "int8"
        counted = self.shard.admission is not None
        owned = send_gradients(self._exchange, place, batch, matrix, told[:, 0], exact, int8, counted)
        if nonfinite == "raise" or self._max_rows is not None:
            check = (lambda: owned.check_sums(place)) if nonfinite == "raise" else None
            self._may_write(call, owned.ids, check)

        def apply() -> int:
            mine = owned.with_sightings(place, self.shard) if counted else owned
            return self.shard.update(place.index(mine.ids), mine.rows, nonfinite=nonfinite)

        return self._write(call, apply)

    def load(self, ids: Ids, vectors: Array) -> None:
        """Set rows as they are, with fresh optimizer state; of equal ids the last of the highest rank wins.

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        vectors
            (n, dim) float32, finite.

        Examples
        --------
        >>> import numpy as np, torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = fi.distributed.ShardedTable(dim=2)
        >>> table.load([7], np.array([[0.25, 0.5]], dtype=np.float32))
        >>> table.lookup([7]).tolist()
        [[0.25, 0.5]]
        >>> dist.destroy_process_group()
        """
        place = self._place

        def prepare() -> tuple[tuple[Batch, Array], Int64]:
            given = as_host_ids(ids)
            matrix = place.matrix(vectors, "vectors", (len(given), self.dim))
            place.check_finite(matrix, "vectors")
            batch = self._grouped(given)
            return (batch, matrix[place.index(batch.last())]), batch.sent[:, None]

        (batch, rows), told = self._agree("load", prepare)
        owned = send_ids(self._exchange, batch, told[:, 0])
        rows = send_rows(self._exchange, place, rows, batch.sent, told[:, 0], "loads", int8=False)
        if self._max_rows is not None:
            self._may_write("load", owned)

        def apply() -> int:
            self.shard.load(place.index(owned), rows)
            return 0

        self._write("load", apply)

    def remove(self, ids: Ids) -> int:
        """Remove rows; their ids appear in :meth:`changes`. A removed id starts anew when it is updated.

        Parameters
        ----------
        ids
            (n,) int32 or int64; ids without a row are ignored.

        Returns
        -------
        int
            Rows removed, of all ranks.

        Examples
        --------
        >>> import numpy as np, torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> table = fi.distributed.ShardedTable(dim=2)
        >>> _ = table.update([1, 2], np.ones((2, 2), dtype=np.float32))
        >>> table.remove([2, 3]), table.rows()
        (1, 1)
        >>> dist.destroy_process_group()
        """

        def prepare() -> tuple[Batch, Int64]:
            batch = self._grouped(as_host_ids(ids))
            return batch, batch.sent[:, None]

        batch, told = self._agree("remove", prepare)
        owned = self._place.index(send_ids(self._exchange, batch, told[:, 0]))
        return self._write("remove", lambda: self.shard.remove(owned))

    def expire(self) -> int:
        """Give up every row whose time is over, in a table with ``eviction=fi.TTL(seconds)``; return how many.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=2, eviction=fi.TTL(3600.0)).expire()
        0
        >>> dist.destroy_process_group()
        """
        self._agree("expire", lambda: (None, []))
        return self._write("expire", self.shard.expire)
