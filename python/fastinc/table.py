"""A table that grows: any int64 id to a row of weights, optimizer state, int8 copy and version."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_choice, as_whole
from fastinc.init import Initializer, Normal, from_spec
from fastinc.optimizers import Optimizer, RowWiseAdagrad

__all__ = ["Changes", "EmbeddingTable"]

#: A NumPy array, a torch CPU tensor or anything with DLPack, int32 or int64; or a list of ints.
Ids = Any
#: A float32 NumPy array, torch CPU tensor, or anything with DLPack.
Array = Any

#: What may be ids beside arrays.
_NOT_ARRAYS = (list, tuple, range, int, np.integer)
# What calls are mostly made with, told by identity: a whole call with one id takes half a microsecond.
_NDARRAY = np.ndarray
_RAISE = "raise"


def _as_ids(ids: Ids, name: str = "ids") -> Any:
    """Turn a list, range or int into an int64 array; arrays pass as they are and are checked by the engine."""
    kind = type(ids)  # asking for the class by isinstance() takes torch tensors a while
    if kind is _NDARRAY or kind is bool or not issubclass(kind, _NOT_ARRAYS):
        return ids
    values = [ids] if isinstance(ids, (int, np.integer)) else ids
    for i, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}[{i}] = {value!r} must be an integer")
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name}[{i}] = {value} doesn't fit int64")
    return np.array(values, dtype=np.int64)


def _check_countable(ids: Any, name: str = "ids") -> None:
    """Raise where a result can't be made for want of a number of ids; of several faults this is named first."""
    shape = getattr(ids, "shape", None)
    if shape is None:
        raise TypeError(f"{name} must be an array or a list of ints, not {type(ids).__name__}") from None
    if len(shape) != 1:
        raise ValueError(f"{name} has shape {tuple(shape)}; it must be (any,)") from None


@dataclass(frozen=True)
class Changes:
    """What changed in a table after a version.

    Attributes
    ----------
    version
        The table's version this is as of: pass it as `since` next time.
    updated
        Ids written since and still there, int64.
    removed
        Ids removed since and not there now, int64, sorted.
    reset
        True when the log of removals no longer reaches back to `since`: `updated` is then every row there is, and
        whatever else you hold is gone; `removed` is empty.
    """

    version: int
    updated: NDArray[np.int64]
    removed: NDArray[np.int64]
    reset: bool = False


class EmbeddingTable:
    """A growing map from int64 id to a float32 row, updated in place by its optimizer.

    Any int64 is an id; none is reserved. A row is made at the first :meth:`update` or :meth:`load` of its id and
    starts at a value that depends on (seed, id) alone. Beside every row stand the optimizer's state, an int8
    serving copy in step with it, and the version that last wrote it. All methods may be called from many
    threads; a reader sees whole batches only, and each call over more than a few rows releases the GIL.

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
        "cpu".

    Raises
    ------
    ValueError
        An argument is out of range or the device is not available.

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
    """

    def __init__(
        self,
        dim: int,
        optimizer: Optimizer | None = None,
        init: Initializer | None = None,
        device: str = "cpu",
    ) -> None:
        if device != "cpu":
            raise ValueError(f"device = {device!r}: this version of fastinc has the CPU engine only ('cpu')")
        dim = as_whole(dim, "dim", 1, 2**20)
        self._optimizer = RowWiseAdagrad(lr=0.05) if optimizer is None else optimizer
        self._init = Normal() if init is None else init
        if not isinstance(self._optimizer, Optimizer):
            raise TypeError(f"optimizer = {optimizer!r} must be a fastinc optimizer, such as fastinc.Adagrad()")
        if isinstance(self._init, type) or not hasattr(self._init, "_spec"):
            raise TypeError(f"init = {init!r} must be an initializer, such as fastinc.init.Normal()")
        self._core = _core.Table(dim, self._optimizer._core, *self._init._spec())
        self._owner: str | None = None

    @classmethod
    def _view(cls, core: _core.Table, optimizer: Optimizer, owner: str) -> EmbeddingTable:
        """Wrap a table that `owner` alone writes to: it can be read, searched and watched."""
        table = cls.__new__(cls)
        table._core, table._optimizer, table._owner = core, optimizer, owner
        table._init = from_spec(core.init_spec)
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
        """Where the rows are: "cpu"."""
        return "cpu"

    @property
    def version(self) -> int:
        """Number of the last applied batch that changed something; 0 for a new table."""
        return self._core.version

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, id: object) -> bool:
        if isinstance(id, bool) or not isinstance(id, (int, np.integer)) or not -(2**63) <= int(id) < 2**63:
            return False
        return int(id) in self._core

    def __repr__(self) -> str:
        return (
            f"EmbeddingTable(dim={self.dim}, optimizer={self._optimizer!r}, rows={len(self)}, version={self.version})"
        )

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
            ids = _as_ids(ids)
        try:
            return self._core.lookup(ids, out)
        except (TypeError, ValueError):
            if out is None:
                _check_countable(ids)
            raise

    def lookup_quantized(self, ids: Ids, *, out: Array | None = None) -> Array:
        """Return the int8 serving copies of `ids`, in the format of :func:`fastinc.ops.quantize_rowwise`.

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
        ids = _as_ids(ids)
        try:
            return self._core.lookup_quantized(ids, out)
        except (TypeError, ValueError):
            if out is None:
                _check_countable(ids)
            raise

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
        ids, offsets = _as_ids(ids), _as_ids(offsets, "offsets")
        try:
            return self._core.pool(ids, offsets, mode, weights, out)
        except (TypeError, ValueError):
            if out is None:
                _check_countable(offsets, "offsets")
            raise

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
            ids = _as_ids(ids)
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
        self._core.load(_as_ids(ids), vectors)

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
        return self._core.remove(_as_ids(ids))

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
        """Return which ids were written or removed after version `since`.

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

        ``weights``, ``state`` and ``codes`` are the rows; ``headers`` (an id, a version and a lock each), ``index``
        (id to row) and ``change_log`` come to at most 32 bytes a row in a table of more than a million.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.EmbeddingTable(dim=2).memory_usage()["weights"]
        0
        """
        return self._core.memory_usage()

    def stats(self) -> dict[str, int]:
        """Return counters: rows, slots, version; hits and misses of lookups; inserts, removes, skipped_nonfinite.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.EmbeddingTable(dim=2).stats()["rows"]
        0
        """
        return self._core.stats()

    def _state_floats(self) -> int:
        element, row = self._optimizer.state_floats_per_row
        return element * self.dim + row

    def __getstate__(self) -> dict[str, Any]:
        self._check_writable("pickle")
        state = self._core.export_state(self._state_floats())
        return {"dim": self.dim, "optimizer": self._optimizer, "init": self._init, "state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        EmbeddingTable.__init__(self, state["dim"], state["optimizer"], state["init"])
        self._core.import_state(state["state"])

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingTable:
        twin = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin
