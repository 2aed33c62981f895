"""Top-k retrieval over a table whose rows are on several ranks."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastinc._arguments import as_whole
from fastinc._queries import IdLists, as_id_lists, as_query_matrix
from fastinc.distributed._arrays import Place, as_host
from fastinc.distributed.sharded_table import ShardedTable
from fastinc.live_index import LiveIndex

__all__ = ["ShardedIndex"]

Array = Any
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class ShardedIndex:
    """The k best rows of a sharded table for a query: each rank searches its shard, and who asked merges.

    All calls are collective, as those of :class:`ShardedTable`.

    Parameters
    ----------
    table
        A :class:`ShardedTable`.
    factory, metric, **options
        As for :class:`fastinc.LiveIndex`, of which each rank has one over its shard. "exact" returns what one
        LiveIndex over all rows would, bit for bit. A FAISS index is trained on each shard by itself: scores are exact,
        recall is its own.

    Attributes
    ----------
    shard_index : LiveIndex
        This rank's.

    Raises
    ------
    ImportError, ValueError, TypeError
        As :class:`fastinc.LiveIndex`, on all ranks.

    Examples
    --------
    >>> import numpy as np, torch.distributed as dist, fastinc as fi
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> table = fi.distributed.ShardedTable(dim=2)
    >>> table.load([7, 8, 9], np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32))
    >>> index = fi.distributed.ShardedIndex(table)
    >>> scores, ids = index.search(np.array([2, 1], dtype=np.float32), k=2)
    >>> scores.tolist(), ids.tolist()
    ([3.0, 2.0], [9, 7])
    >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        table: ShardedTable,
        factory: str = "exact",
        metric: Literal["ip", "cosine", "l2"] = "ip",
        **options: Any,
    ) -> None:
        if not isinstance(table, ShardedTable):
            raise TypeError(f"table must be a ShardedTable, not {type(table).__name__}")
        self._table = table
        call = self._made_by = f"ShardedIndex(factory={factory!r}, metric={metric!r})"
        self.shard_index, _ = table._agree(
            call, lambda: (LiveIndex(table.shard, factory, metric=metric, **options), [])
        )

    @property
    def table(self) -> ShardedTable:
        """The table, as it was given."""
        return self._table

    @property
    def metric(self) -> str:
        """What the scores are: "ip", "cosine" or "l2"."""
        return self.shard_index.metric

    def __repr__(self) -> str:
        return f"ShardedIndex({self._table!r}, {self.shard_index!r})"

    def search(
        self, queries: Array, k: int = 10, *, exclude: Any = None, allow: Any = None, **parameters: Any
    ) -> tuple[Float32, Int64]:
        """Return the k best rows of each of this rank's queries, over all ranks' rows.

        Parameters
        ----------
        queries
            (n, dim) or (dim,) float32, contiguous and finite; each rank its own, any number.
        k
            At least 1; each rank its own.
        exclude, allow
            Ids that must not be returned, or that alone may be: see :meth:`fastinc.LiveIndex.search`.
        **parameters
            `nprobe`, `efSearch`: the same on every rank.

        Returns
        -------
        scores, ids
            (n, k) float32 and int64, or (k,) for one (dim,) query: best first, equal scores by smaller id, padded
            as by :meth:`fastinc.LiveIndex.search`.

        Raises
        ------
        ValueError, TypeError
            An argument is refused on any rank.

        Examples
        --------
        >>> import numpy as np, torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> index = fi.distributed.ShardedIndex(fi.distributed.ShardedTable(dim=2))
        >>> index.search(np.ones((1, 2), dtype=np.float32), k=2)[1].tolist()
        [[-1, -1]]
        >>> dist.destroy_process_group()
        """
        table, dim = self._table, self._table.dim

        def prepare() -> tuple[tuple[Float32, bool, Int64], list[int]]:
            matrix, single = as_query_matrix(as_host(queries, "queries"), dim)
            as_whole(k, "k", 1)
            lists = [as_id_lists(x, len(matrix), name) for x, name in ((exclude, "exclude"), (allow, "allow"))]
            Place("cpu").check_finite(matrix, "queries")
            self.shard_index.search(matrix[:0], 1, **parameters)  # refuses parameters that it doesn't have
            packed = np.concatenate([_packed(one) for one in lists])
            return (matrix, single, packed), [len(matrix), k, len(packed)]

        call = (
            f"search({', '.join(f'{name}={value!r}' for name, value in sorted(parameters.items()))}) of {self._made_by}"
        )
        (matrix, single, packed), told = table._agree(call, prepare)
        asked = table._exchange.gather(matrix, told[:, 0], "queries")
        lists = table._exchange.gather(packed, told[:, 2], "queries")
        found = [
            self._search_shard(theirs, int(told[rank, 1]), lists[rank], parameters) for rank, theirs in enumerate(asked)
        ]
        scores, ids = self._returned(found, told, len(matrix), k)
        return (scores[0], ids[0]) if single else (scores, ids)

    def _search_shard(self, queries: Float32, k: int, packed: Int64, parameters: Any) -> tuple[Float32, Int64]:
        exclude, rest = _unpacked(packed)
        allow, _ = _unpacked(rest)
        return self.shard_index.search(np.ascontiguousarray(queries), k, exclude=exclude, allow=allow, **parameters)

    def _returned(self, found: list[tuple[Float32, Int64]], told: Int64, n: int, k: int) -> tuple[Float32, Int64]:
        """Send every rank what was found for it; return the best of what all have found for this one."""
        exchange = self._table._exchange
        sent = told[:, 0] * told[:, 1]
        received = np.full(exchange.world, n * k)
        scores_coming = exchange.swap(np.concatenate([s.ravel() for s, _ in found]), sent, received, "scores")
        ids_coming = exchange.swap(np.concatenate([i.ravel() for _, i in found]), sent, received, "scores")
        scores = scores_coming.wait().reshape(exchange.world, n, k).transpose(1, 0, 2).reshape(n, exchange.world * k)
        ids = ids_coming.wait().reshape(exchange.world, n, k).transpose(1, 0, 2).reshape(n, exchange.world * k)
        losses = scores if self.metric == "l2" else -scores
        padding = (ids == -1) & (losses == np.finfo(np.float32).max)  # after rows of such scores
        best = np.lexsort((ids, padding, losses), axis=1)[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)


def _packed(lists: IdLists) -> Int64:
    """Return lists of ids as one array: how many offsets there are (-1: nothing given) and ids, then both."""
    if lists.ids is None:
        return np.array([-1, 0], dtype=np.int64)
    offsets = np.empty(0, dtype=np.int64) if lists.offsets is None else lists.offsets
    return np.concatenate([np.array([len(offsets), len(lists.ids)], dtype=np.int64), offsets, lists.ids])


def _unpacked(packed: Int64) -> tuple[Any, Int64]:
    """Return what a search takes as a list of ids, and the rest of the array."""
    offset_count, id_count = packed[:2].tolist()
    if offset_count < 0:
        return None, packed[2:]
    end = 2 + offset_count
    offsets, ids = packed[2:end], packed[end : end + id_count]
    rest = packed[end + id_count :]
    if offset_count == 0:
        return ids, rest
    return [ids[begin:end] for begin, end in itertools.pairwise(offsets.tolist())], rest
