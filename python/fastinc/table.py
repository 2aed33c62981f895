"""A table that grows: any int64 id to a row of weights, optimizer state and version, with an int8 copy for serving."""

from __future__ import annotations

import copy
import operator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_choice, as_ids, as_whole, made
from fastinc._cuda_table import make_core
from fastinc.bounds import Bounds, Eviction, MinCount
from fastinc.changes import Changes
from fastinc.init import Initializer, Normal, from_spec
from fastinc.optimizers import Optimizer, RowWiseAdagrad

__all__ = ["EmbeddingTable"]

#: A NumPy array, a torch tensor or anything with DLPack, int32 or int64; or a list of ints.
Ids = Any
#: A float32 NumPy array, torch tensor, or anything with DLPack.
Array = Any

# What calls are mostly made with, told by identity: a whole call with one id takes half a microsecond.
_NDARRAY = np.ndarray
_RAISE = "raise"


class EmbeddingTable:
    """A growing map from int64 id to a float32 row, updated in place by its optimizer.

    Any int64 is an id; none is reserved. A row is made at the first :meth:`update` or :meth:`load` of its id and
    starts at a value that depends on (seed, id) alone. Beside every row stand the optimizer's state and the version
    that last wrote it, and, from the first search or :meth:`lookup_quantized` on, an int8 serving copy in step with
    it: a table that is only trained doesn't pay for them. All methods may be called from many threads.
    Readers take no lock: they see every row whole, before or after a batch, and once :meth:`update` has returned,
    every later read sees all of it. Each call over more than a few rows releases the GIL.

    Parameters
    ----------
    dim
        Length of a row, 1 to 2**20.
    optimizer
        Applied by :meth:`update`; default ``RowWiseAdagrad(lr=0.05)``. Setting its parameters later takes effect
        at the next batch, in every table that shares it.
    init
        Start values, default ``fi.init.Normal(std=0.01)``.
    device
        Where the rows are: "cpu", "cuda" (the first GPU) or "cuda:<number>". A table on a GPU has the same rows in the
        same bytes, takes and gives arrays on that GPU, on their library's current stream, and copies NumPy arrays and
        lists there and back. Its calls take turns, updates wait for the device, and `admission` raises.
    max_rows
        Rows the table keeps at most; None: any number. A batch that needs more rows than there is room for evicts
        others, by `eviction`, never those of its own ids; one with more distinct ids than `max_rows` raises, whether
        `admission` would give them rows or not, and changes nothing: split it.
    eviction
        Which rows go: "lru" (the default with `max_rows`) the one longest unwritten, "lfu" the one written in the
        fewest batches since it was made (nothing ages: what was hot keeps its place) and of those the longest
        unwritten, ``fi.TTL(seconds)`` each one unwritten for so long, and the
        longest unwritten where `max_rows` is reached before. Of equal rows the one in the lower slot goes.
        A row is used when it is written, by :meth:`update` or :meth:`load`; lookups never change what stays.
        Evicted ids appear in :meth:`changes` as removed, and an evicted id starts anew.
    admission
        ``fi.MinCount(n)``: an id gets a row at its `n`-th sighting in :meth:`update`, if it comes often enough for the
        sketch's `width`; None: at its first.

    Raises
    ------
    ValueError, TypeError
        An argument is out of range, the device is not available, or `eviction` is "lru" or "lfu" without `max_rows`.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2, optimizer=fi.SGD(lr=1.0), init=fi.init.Zeros())
    >>> ids = np.array([-5, 9, -5])
    >>> table.update(ids, np.ones((3, 2), dtype=np.float32))
    0
    >>> table.lookup(ids).tolist()
    [[-2.0, -2.0], [-1.0, -1.0], [-2.0, -2.0]]
    >>> 9 in table, 10 in table, len(table)
    (True, False, 2)
    >>> small = fi.EmbeddingTable(dim=2, max_rows=2)
    >>> for id in (1, 2, 1, 3):
    ...     _ = small.update([id], np.ones((1, 2), dtype=np.float32))
    >>> sorted(small.ids().tolist()), small.stats()["evictions"]
    ([1, 3], 1)
    """

    def __init__(
        self,
        dim: int,
        optimizer: Optimizer | None = None,
        init: Initializer | None = None,
        device: str = "cpu",
        *,
        max_rows: int | None = None,
        eviction: Eviction | None = None,
        admission: MinCount | None = None,
    ) -> None:
        dim = as_whole(dim, "dim", 1, 2**20)
        self._optimizer = RowWiseAdagrad(lr=0.05) if optimizer is None else optimizer
        self._init = Normal() if init is None else init
        if not isinstance(self._optimizer, Optimizer):
            raise TypeError(f"optimizer = {optimizer!r} must be a fastinc optimizer, such as fastinc.Adagrad()")
        if isinstance(self._init, type) or not hasattr(self._init, "_spec"):
            raise TypeError(f"init = {init!r} must be an initializer, such as fastinc.init.Normal()")
        self._bounds = Bounds(max_rows, eviction, admission)
        parts = (dim, self._optimizer._core, *self._init._spec(), self._bounds._spec())
        self._core, self._device = make_core(device, *parts)
        self._owner: str | None = None

    @classmethod
    def _view(cls, core: _core.Table, optimizer: Optimizer, owner: str) -> EmbeddingTable:
        """Wrap a table that `owner` alone writes to: it can be read, searched and watched."""
        table = cls.__new__(cls)
        table._core, table._optimizer, table._owner = core, optimizer, owner
        table._init, table._bounds = from_spec(core.init_spec), Bounds()
        table._device = "cpu"
        return table

    def _check_writable(self, method: str) -> None:
        if self._owner is not None:
            raise TypeError(f"{method}: this table belongs to a {self._owner}, which alone writes to it")

    @property
    def dim(self) -> int:
        """Length of a row."""
        return self._core.dim

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; set its parameters to change them from the next batch on."""
        return self._optimizer

    @property
    def init(self) -> Initializer:
        """Start values of new rows."""
        return self._init

    @property
    def device(self) -> str:
        """Where the rows are: "cpu", or "cuda:0" and so on."""
        return self._device

    @property
    def max_rows(self) -> int | None:
        """Rows the table keeps at most; None: any number."""
        return self._bounds.max_rows

    @property
    def eviction(self) -> Eviction | None:
        """Which rows go: "lru", "lfu", a :class:`TTL`, or None: none."""
        return self._bounds.eviction

    @property
    def admission(self) -> MinCount | None:
        """Which ids get a row: a :class:`MinCount`, or None: all."""
        return self._bounds.admission

    @property
    def version(self) -> int:
        """Number of the last applied batch that changed something; 0 for a new table."""
        return self._core.version

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, id: object) -> bool:
        if isinstance(id, (bool, np.bool_)):
            return False
        try:
            number = operator.index(id)  # type: ignore[arg-type]
        except TypeError:
            return False
        return -(2**63) <= number < 2**63 and number in self._core

    def __repr__(self) -> str:
        what = f"dim={self.dim}, optimizer={self._optimizer!r}{self._bounds}"
        return f"EmbeddingTable({what}, rows={len(self)}, version={self.version})"

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
            (n, dim) float32: `out`, or a new NumPy array.

        Examples
        --------
        >>> import fastinc as fi
        >>> table = fi.EmbeddingTable(dim=3)
        >>> table.lookup([1, 2]).shape, len(table)
        ((2, 3), 0)
        """
        if type(ids) is not _NDARRAY:
            ids = as_ids(ids)
        return made(ids, "ids", out, self._core.lookup, ids, out)

    def lookup_quantized(self, ids: Ids, *, out: Array | None = None) -> Array:
        """Return the int8 serving copies of `ids`, in the format of :func:`fastinc.ops.quantize_rowwise`.

        The first call for a table, or the first :class:`LiveIndex` over it, makes a copy of every row, while writers
        wait; every update keeps them in step from then on. Call it with no ids where that should be done ahead. (On
        a GPU they are there from the start.)

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        out
            (n, dim + 8) uint8 to write to; made if None.

        Returns
        -------
        array
            (n, dim + 8) uint8.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=4)
        >>> table.load([3], np.array([[0, 1, 2, 3]], dtype=np.float32))
        >>> table.lookup_quantized([3])[0, :4].tolist()
        [0, 85, 170, 255]
        """
        ids = as_ids(ids)
        return made(ids, "ids", out, self._core.lookup_quantized, ids, out)

    def pool(
        self,
        ids: Ids,
        offsets: Ids,
        mode: Literal["sum", "mean"] = "mean",
        weights: Array | None = None,
        *,
        out: Array | None = None,
    ) -> Array:
        """Sum or average rows per bag, as ``torch.nn.EmbeddingBag``.

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        offsets
            (bags,) int32 or int64: where each bag starts in `ids`; the first is 0, none decreases. An empty bag
            is zero.
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
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2, init=fi.init.Constant(1.0))
        >>> table.pool([4, 5, 6], [0, 1], mode="sum").tolist()
        [[1.0, 1.0], [2.0, 2.0]]
        """
        as_choice(mode, "mode", ("sum", "mean"))
        ids, offsets = as_ids(ids), as_ids(offsets, "offsets")
        return made(offsets, "offsets", out, self._core.pool, ids, offsets, mode, weights, out)

    def update(self, ids: Ids, grads: Array, *, nonfinite: Literal["raise", "skip"] = "raise") -> int:
        """Sum gradients of equal ids and take one optimizer step a row; unknown ids get a row first.

        Parameters
        ----------
        ids
            (n,) int32 or int64, repeats allowed.
        grads
            (n, dim) float32.
        nonfinite
            "raise" refuses a batch with a non-finite gradient and changes nothing; "skip" leaves those ids out.

        Returns
        -------
        int
            Ids skipped.

        Raises
        ------
        ValueError, TypeError
            A wrong shape, dtype, layout or non-finite gradient; nothing has changed.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> table.update([1, 1, 2], np.ones((3, 2), dtype=np.float32))
        0
        >>> len(table), table.version
        (2, 1)
        """
        if self._owner is not None:
            self._check_writable("update")
        if nonfinite is not _RAISE:
            as_choice(nonfinite, "nonfinite", ("raise", "skip"))
        if type(ids) is not _NDARRAY:
            ids = as_ids(ids)
        return self._core.update(ids, grads, nonfinite)

    def load(self, ids: Ids, vectors: Array) -> None:
        """Set rows as they are, with fresh optimizer state; of equal ids the last wins.

        Parameters
        ----------
        ids
            (n,) int32 or int64.
        vectors
            (n, dim) float32, finite.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> table.load([7], np.array([[0.25, 0.5]], dtype=np.float32))
        >>> table.lookup([7]).tolist()
        [[0.25, 0.5]]
        """
        self._check_writable("load")
        self._core.load(as_ids(ids), vectors)

    def remove(self, ids: Ids) -> int:
        """Remove rows; their ids appear in :meth:`changes`. A removed id starts anew when it is updated.

        Parameters
        ----------
        ids
            (n,) int32 or int64; ids without a row are ignored.

        Returns
        -------
        int
            Rows removed.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> _ = table.update([1, 2], np.ones((2, 2), dtype=np.float32))
        >>> table.remove([2, 3]), table.changes(since=0).removed.tolist()
        (1, [2])
        """
        self._check_writable("remove")
        return self._core.remove(as_ids(ids))

    def expire(self) -> int:
        """Give up every row whose time is over, in a table with ``eviction=fi.TTL(seconds)``; else nothing.

        Updates and loads do so for some rows at a time. The ids appear in :meth:`changes`.

        Returns
        -------
        int
            Rows given up.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.EmbeddingTable(dim=2, eviction=fi.TTL(3600.0)).expire()
        0
        """
        self._check_writable("expire")
        return self._core.expire()

    def ids(self) -> NDArray[np.int64]:
        """Return the ids that have a row, in no promised order.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> table.load([7], np.zeros((1, 2), dtype=np.float32))
        >>> table.ids().tolist()
        [7]
        """
        return self._core.ids()

    def changes(self, since: int) -> Changes:
        """Return which ids were written, removed or evicted after version `since`.

        The table keeps a log of them, of a limited length: see :class:`Changes` for what to do when
        ``Changes.reset`` says that it doesn't reach back so far.

        Parameters
        ----------
        since
            A version of this table; 0 gives everything.

        Raises
        ------
        ValueError
            `since` is negative or newer than :attr:`version`.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> _ = table.update([1], np.ones((1, 2), dtype=np.float32))
        >>> seen = table.version
        >>> _ = table.update([2], np.ones((1, 2), dtype=np.float32))
        >>> table.changes(since=seen).updated.tolist()
        [2]
        """
        as_whole(since, "since", 0, 2**64 - 1)
        return Changes(*self._core.changes(since))

    def memory_usage(self) -> dict[str, int]:
        """Return bytes in use by part, and their total.

        ``weights``, ``state`` and ``codes`` (int8 copies: 0 until somebody asks for them) are the rows; ``headers`` (an
        id, a version and a lock each), ``index`` (id to row) and ``change_log`` come to at most 32 bytes a row in a
        table of more than a million. ``eviction`` (1 byte a row, and 4 more under "lfu") and ``admission`` (the sketch)
        are 0 in a table without limits.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.EmbeddingTable(dim=2).memory_usage()["weights"]
        0
        """
        return self._core.memory_usage()

    def stats(self) -> dict[str, Any]:
        """Return counters and sizes.

        Returns
        -------
        dict
            ``rows``, ``slots`` (rows there is memory for) and ``version``; ``hits`` and ``misses``: ids looked up, by
            :meth:`lookup`, :meth:`lookup_quantized` and :meth:`pool`, that had a row and that had none; ``inserts``,
            ``removes`` and ``evictions`` of rows; ``refused``: gradients dropped by `admission`;
            ``skipped_nonfinite``: ids left out by ``nonfinite="skip"``; ``load``: how full the index is, 0 to 1; and
            ``bytes``: what :meth:`memory_usage` returns. A copied or restored table counts from 0.

        Examples
        --------
        >>> import fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> _ = table.lookup([1, 2])
        >>> stats = table.stats()
        >>> stats["rows"], stats["hits"], stats["misses"], stats["load"]
        (0, 0, 2, 0.0)
        """
        return {**self._core.stats(), "load": self._core.load_factor, "bytes": self.memory_usage()}

    def to(self, device: str) -> EmbeddingTable:
        """Return a copy of the table on another device, by way of the host's memory.

        Parameters
        ----------
        device
            "cpu", "cuda" or "cuda:<number>".

        Examples
        --------
        >>> import fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> table.to("cpu").device
        'cpu'
        """
        twin = type(self).__new__(type(self))
        twin.__setstate__({**self.__getstate__(), "optimizer": copy.deepcopy(self._optimizer), "device": device})
        return twin

    def _state_floats(self) -> int:
        element, row = self._optimizer.state_floats_per_row
        return element * self.dim + row

    def __getstate__(self) -> dict[str, Any]:
        self._check_writable("pickle")
        state = self._core.export_state(self._state_floats())
        parts = {"dim": self.dim, "optimizer": self._optimizer, "init": self._init, "state": state}
        return {**parts, **vars(self._bounds), "device": self._device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        limits: dict[str, Any] = {name: state.get(name) for name in vars(Bounds())}  # old pickles have none
        device = state.get("device", "cpu")
        EmbeddingTable.__init__(self, state["dim"], state["optimizer"], state["init"], device, **limits)
        self._core.import_state(state["state"])

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingTable:
        twin = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin
