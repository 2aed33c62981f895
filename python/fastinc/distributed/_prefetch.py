"""Rows that other ranks send while this one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastinc._device import is_on_cuda

if TYPE_CHECKING:
    from fastinc.distributed._exchange import Arrival
    from fastinc.distributed.sharded_table import ShardedTable

__all__ = ["Prefetch"]

Array = Any
Int64 = NDArray[np.int64]


class Prefetch:
    """Rows on their way, as :meth:`ShardedTable.prefetch` returns them."""

    def __init__(self, table: ShardedTable, arrival: Arrival, inverse: Int64, on_gpu: bool) -> None:
        self._table, self._arrival, self._on_gpu = table, arrival, on_gpu
        #: Which distinct id is at each position: (n,).
        self.inverse = inverse
        self._distinct: Array = None

    def distinct(self) -> Array:
        """Wait for the rows and return one for each distinct id: (m, dim) float32."""
        if self._distinct is None:
            rows = self._arrival.wait()
            self._distinct = self._table._place.dequantized(rows) if self._table.wire == "int8" else rows
        return self._distinct

    def rows(self, *, out: Array | None = None) -> Array:
        """Wait for the rows and return them; no other rank is waited for but those that send them.

        Parameters
        ----------
        out
            (n, dim) float32 to write to; made if None.

        Returns
        -------
        array
            (n, dim) float32: the rows as they were when they were asked for.

        Examples
        --------
        >>> import torch.distributed as dist, fastinc as fi
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> fi.distributed.ShardedTable(dim=2).prefetch([1, 2, 1]).rows().shape
        (3, 2)
        >>> dist.destroy_process_group()
        """
        place, rows = self._table._place, self.distinct()
        if out is not None:
            out = place.matrix(out, "out", (len(self.inverse), self._table.dim), written=True)
        if place.on_cpu:
            return np.take(rows, self.inverse, axis=0, out=out, mode="clip")  # "raise" would copy
        taken = rows[place.index(self.inverse)]
        if out is None:
            return taken if self._on_gpu else taken.cpu().numpy()
        out[...] = taken if is_on_cuda(out) else taken.cpu().numpy()
        return out
