"""Top-k retrieval over a table, whose answers never lag behind the table."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_whole
from fastinc._faiss_base import LARGEST_NORM, Factory, FaissBase, reason, row_norms
from fastinc.table import EmbeddingTable

__all__ = ["LiveIndex"]

#: A NumPy array, a torch CPU tensor, or anything with DLPack.
Array = Any
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Result = tuple[Float32, Int64]
VersionedResult = tuple[Float32, Int64, int]

METRICS = ("ip", "cosine", "l2")
#: A base this small is asked again for as many rows as it has; a larger one for a quarter of them, and then
#: scanning the table costs less.
SMALL_BASE = 1024


class LiveIndex:
    """The k best rows of a table for a query. A write to the table is in every answer that begins after it.

    Parameters
    ----------
    table
        Any number of threads may write to it while others search.
    factory
        "exact" scans the table's float32 rows in place. Any FAISS factory string, such as ``"IVF1024,SQ8"`` or
        ``"HNSW32"``, makes a base index from a snapshot of the table; rows written since the snapshot are scored
        exactly, rows removed since are left out, and what the base returns is rescored in float32 from the table.
        So every score is exact and current, and the choice among unchanged rows has the base index's recall.
        While there are too few rows to train the base on, the index is exact.
    metric
        "ip" (inner product), "cosine" (0 for a zero row or query) or "l2" (squared distance).
    device
        "cpu".
    rebuild_share, rebuild_rows
        The base is built anew, by the search that finds it so, when more rows than both `rebuild_rows` and
        `rebuild_share` of the base were written or removed since. Other searches go on with the old base.

    Raises
    ------
    ImportError
        FAISS is needed and not installed.
    ValueError
        An argument is out of range; FAISS doesn't know `factory`; `device` is not available.

    Examples
    --------
    >>> import numpy as np, fastinc as fi
    >>> table = fi.EmbeddingTable(dim=2)
    >>> table.load([7, 8, 9], np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32))
    >>> index = fi.LiveIndex(table, "exact", metric="ip")
    >>> query = np.array([2, 1], dtype=np.float32)
    >>> scores, ids = index.search(query, k=2)
    >>> scores.tolist(), ids.tolist()
    ([3.0, 2.0], [9, 7])
    >>> table.load([8], np.array([[5, 5]], dtype=np.float32))
    >>> index.search(query, k=2)[1].tolist()
    [8, 9]
    """

    def __init__(
        self,
        table: EmbeddingTable,
        factory: str = "exact",
        *,
        metric: Literal["ip", "cosine", "l2"] = "ip",
        device: str = "cpu",
        rebuild_share: float = 0.2,
        rebuild_rows: int = 1000,
    ) -> None:
        if not isinstance(table, EmbeddingTable):
            raise TypeError(f"table must be an EmbeddingTable, not {type(table).__name__}")
        if not isinstance(factory, str):
            raise TypeError(f"factory must be 'exact' or a FAISS factory string, not {type(factory).__name__}")
        if metric not in METRICS:
            raise ValueError(f"metric = {metric!r} must be 'ip', 'cosine' or 'l2'")
        if device == "cuda":
            raise ValueError("device = 'cuda': this version of fastinc has no CUDA backend; use device='cpu'")
        if device != "cpu":
            raise ValueError(f"device = {device!r} must be 'cpu'")
        if not 0.0 <= rebuild_share < float("inf"):
            raise ValueError(f"rebuild_share = {rebuild_share} must be a number, 0 or more")
        self._rebuild_share = float(rebuild_share)
        self._rebuild_rows = as_whole(rebuild_rows, "rebuild_rows", 0)
        self._table, self._name, self._metric, self._device = table, factory, metric, device
        self._factory = None if factory == "exact" else Factory(table.dim, factory, metric)
        self._base: FaissBase | None = None
        self._rebuilding = threading.Lock()
        self._rebuilds = 0
        self._rebuild_seconds: float | None = None
        self._exact_because: str | None = None
        self._try_at = 0  # rows it takes before building a base is tried
        self._masked = 0  # as of the last search: a first guess at how many to ask the base for
        self.compact()

    @property
    def table(self) -> EmbeddingTable:
        """The table that is searched."""
        return self._table

    @property
    def metric(self) -> str:
        """What the scores are: "ip", "cosine" or "l2"."""
        return self._metric

    @property
    def device(self) -> str:
        """Where the search runs: "cpu"."""
        return self._device

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"LiveIndex({self._table!r}, {self._name!r}, metric={self._metric!r})"

    @overload
    def search(
        self,
        queries: Array,
        k: int = ...,
        *,
        exclude: Any = ...,
        nprobe: int | None = ...,
        efSearch: int | None = ...,  # noqa: N803
        with_version: Literal[False] = ...,
    ) -> Result: ...
    @overload
    def search(
        self,
        queries: Array,
        k: int = ...,
        *,
        exclude: Any = ...,
        nprobe: int | None = ...,
        efSearch: int | None = ...,  # noqa: N803
        with_version: Literal[True],
    ) -> VersionedResult: ...
    def search(
        self,
        queries: Array,
        k: int = 10,
        *,
        exclude: Any = None,
        nprobe: int | None = None,
        efSearch: int | None = None,  # noqa: N803
        with_version: bool = False,
    ) -> Result | VersionedResult:
        """Return the k best rows of each query, each row as it was when this call began, or newer.

        Parameters
        ----------
        queries
            (n, dim) or (dim,) float32, contiguous and finite.
        k
            At least 1; more than there are rows is padded.
        exclude
            Ids that must not be returned: one list for all queries, or a list of n lists (or an (n, m) array), one
            for each. Ids without a row are allowed.
        nprobe, efSearch
            FAISS's search parameters, for the indexes that have them (IVF, HNSW).
        with_version
            Also return the table's version that the answer reflects; rows written meanwhile may be newer.

        Returns
        -------
        scores, ids
            (n, k) float32 and int64, or (k,) for one (dim,) query. Best first: descending, "l2" ascending; equal
            scores by smaller id. Where there are fewer than k, id -1 and score -3.4028235e38 ("l2": +3.4028235e38).
            As with FAISS alone, an IVF index has no more than the lists it probes hold.
        version
            Only if `with_version`.

        Raises
        ------
        ValueError, TypeError
            A wrong shape, dtype, layout or non-finite query, or a search parameter this index doesn't have.

        Examples
        --------
        >>> import numpy as np, fastinc as fi
        >>> table = fi.EmbeddingTable(dim=2)
        >>> table.load([7, 8], np.array([[1, 0], [0, 1]], dtype=np.float32))
        >>> index = fi.LiveIndex(table, metric="l2")
        >>> scores, ids, version = index.search(
        ...     np.zeros((2, 2), dtype=np.float32), k=1, exclude=[[7], []], with_version=True
        ... )
        >>> ids.tolist(), scores.tolist(), version
        ([[8], [7]], [[1.0], [1.0]], 1)
        """
        matrix, single = _query_matrix(queries, self._table.dim)
        k = as_whole(k, "k", 1)
        exclude_ids, offsets, longest = _id_lists(exclude, len(matrix))
        given = {"nprobe": nprobe, "efSearch": efSearch}
        wanted = {name: as_whole(value, name, 1) for name, value in given.items() if value is not None}
        if self._factory is None:
            if wanted:
                name, value = next(iter(wanted.items()))
                raise ValueError(f"{name} = {value}: an index 'exact' has no such search parameter")
            answer = self._search_exact(matrix, k, (exclude_ids, offsets))
        else:
            parameters = self._factory.search_parameters(wanted)
            answer = self._search_live(matrix, k, (exclude_ids, offsets), longest, parameters)
        scores, ids, version = answer
        if single:
            scores, ids = scores[0], ids[0]
        return (scores, ids, version) if with_version else (scores, ids)

    def _search_exact(self, queries: Float32, k: int, exclude: tuple[Any, Any]) -> VersionedResult:
        return _core.exact_search(self._table._core, queries, k, self._metric, *exclude)

    def _search_live(
        self, queries: Float32, k: int, exclude: tuple[Any, Any], longest: int, parameters: Any
    ) -> VersionedResult:
        """Merge what the base has with what is fresh; scan the table where there is no base to rely on."""
        if self._base is None and len(self._table) >= self._try_at:
            self._rebuild(None, wait=False)
        base = self._base
        if base is None or len(queries) == 0:
            return self._search_exact(queries, k, exclude)
        norms = row_norms(queries)
        if self._metric == "cosine":
            base_queries = (queries / np.where(norms > 0.0, norms, 1.0)[:, np.newaxis]).astype(np.float32)
            usable = bool(np.isfinite(norms).all())
        else:
            base_queries = queries
            usable = bool((norms < LARGEST_NORM).all())
        if not usable:  # the engine says which value is not finite; FAISS couldn't score the others
            return self._search_exact(queries, k, exclude)
        ask = k + k // 8 + 16 + longest + 3 * k * self._masked // (2 * base.count)
        limit = base.count if base.count <= SMALL_BASE else base.count // 4
        while True:
            ask = min(ask, base.count)
            if ask > limit:
                return self._search_exact(queries, k, exclude)
            ids, offsets, last, more = base.candidates(base_queries, ask, parameters)
            scores, found_ids, version, rows, fresh, found = _core.merged_search(
                self._table._core, queries, k, self._metric, *exclude, ids, offsets, base.version
            )
            if version < base.version:  # the table was set to an older state: the base knows nothing of it
                self._rebuild(base, wait=True)
                return self._search_exact(queries, k, exclude)
            short = found - (len(base.ids) - base.count) < k
            if base.exhaustive:
                short |= self._may_tie(scores[:, -1], last)
            if ask == base.count or not (short & more).any():
                break
            ask *= 4
        self._masked = len(base.ids) - (rows - fresh)
        if max(fresh, self._masked) > max(self._rebuild_rows, self._rebuild_share * len(base.ids)):
            self._rebuild(base, wait=False)
        return scores, found_ids, version

    def _may_tie(self, worst: Float32, last: Float32) -> NDArray[np.bool_]:
        """Whether rows that the base kept back may score as well as the k-th, rounding included."""
        lead = last.astype(np.float64) - worst if self._metric != "l2" else worst.astype(np.float64) - last
        ahead: NDArray[np.bool_] = lead >= -1e-5 * np.maximum(np.abs(worst), np.abs(last))
        return ahead

    def _rebuild(self, stale: FaissBase | None, *, wait: bool) -> None:
        """Replace the base `stale`, unless another thread has, or (not `wait`) is at it."""
        if self._factory is None or not self._rebuilding.acquire(blocking=wait):
            return
        try:
            if self._base is not stale:
                return
            start = time.perf_counter()
            ids, rows, version = _core.rows_at_version(self._table._core)
            try:
                base = self._factory.build(ids, rows, version)
            except RuntimeError as error:
                self._base, self._exact_because = None, f"{self._name!r}: {reason(error)}"
                self._try_at = max(self._factory.rows_needed, 2 * len(ids))
                if len(ids) < self._factory.rows_needed:
                    self._try_at = self._factory.rows_needed
                return
            self._base, self._masked, self._exact_because = base, 0, None
            self._rebuilds += 1
            self._rebuild_seconds = time.perf_counter() - start
        finally:
            self._rebuilding.release()

    def compact(self) -> None:
        """Build the base anew from the table as it is now. Does nothing for "exact".

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.LiveIndex(fi.EmbeddingTable(dim=2)).compact()
        """
        self._rebuild(self._base, wait=True)

    def stats(self) -> dict[str, Any]:
        """Return what the index is made of right now.

        Returns
        -------
        dict
            ``factory``, ``metric``, ``device``; ``version`` and ``rows`` of the table; ``base_version`` (None without
            a base) and ``base_rows``; ``fresh_rows`` written and ``masked_rows`` changed or removed since the base
            was built; ``rebuilds`` and ``last_rebuild_seconds``; ``exact_because``: why a FAISS index has no base
            yet, else None.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.LiveIndex(fi.EmbeddingTable(dim=2)).stats()["rows"]
        0
        """
        base = self._base
        none = np.empty((0, self._table.dim), dtype=np.float32)
        version, rows, fresh, masked = self._table.version, len(self._table), 0, 0
        if base is not None:
            _, _, version, rows, fresh, _ = _core.merged_search(
                self._table._core, none, 1, self._metric, None, None, None, None, base.version
            )
            masked = len(base.ids) - (rows - fresh)
        return {
            "factory": self._name,
            "metric": self._metric,
            "device": self._device,
            "version": version,
            "rows": rows,
            "base_version": None if base is None else base.version,
            "base_rows": 0 if base is None else len(base.ids),
            "fresh_rows": fresh,
            "masked_rows": masked,
            "rebuilds": self._rebuilds,
            "last_rebuild_seconds": self._rebuild_seconds,
            "exact_because": self._exact_because,
        }


def _query_matrix(queries: Array, dim: int) -> tuple[Float32, bool]:
    """Return queries as a (n, dim) view, and whether there was one (dim,) query."""
    if not isinstance(queries, np.ndarray):
        if not hasattr(queries, "__dlpack__"):
            raise TypeError(
                f"queries must be an array (NumPy, torch, or anything with DLPack), not {type(queries).__name__}"
            )
        try:
            if getattr(queries, "is_neg", lambda: False)():
                raise BufferError("it is lazily negated; pass its resolve_neg()")
            queries = np.from_dlpack(queries)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ValueError(f"queries can't be read in place by the CPU: {error}") from error
    if queries.dtype != np.float32:
        raise TypeError(f"queries has dtype {queries.dtype}; it must be float32")
    if queries.ndim not in (1, 2) or queries.shape[-1] != dim:
        raise ValueError(f"queries has shape {queries.shape}; it must be (any, {dim}) or ({dim},)")
    if not queries.flags.c_contiguous:
        raise ValueError("queries is not contiguous (C order); pass a contiguous copy")
    return queries.reshape(-1, dim), queries.ndim == 1


def _id_array(ids: Any, name: str) -> Int64:
    """Return a list, set or array of integers as (n,) int64."""
    array = np.asarray(list(ids) if isinstance(ids, (set, frozenset, range)) else ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be 1-D")
    if array.dtype == np.object_ or array.dtype.kind not in "iu" or int(array.max()) >= 2**63:
        raise TypeError(f"{name} has dtype {array.dtype}; ids are integers that fit int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def _id_lists(exclude: Any, n: int) -> tuple[Int64 | None, Int64 | None, int]:
    """Return ids, offsets (None: one list for all queries) and the length of the longest list."""
    if exclude is None:
        return None, None, 0
    if isinstance(exclude, (int, np.integer, str, bytes, dict)):
        raise TypeError(f"exclude must be ids or a list of ids for each query, not {type(exclude).__name__}")
    if not isinstance(exclude, (list, tuple, set, frozenset, range, np.ndarray)):
        exclude = np.asarray(exclude)
    nested = exclude.ndim == 2 if isinstance(exclude, np.ndarray) else _has_lists(exclude)
    if not nested:
        ids = _id_array(exclude, "exclude")
        return ids, None, len(ids)
    if len(exclude) != n:
        raise ValueError(f"exclude has {len(exclude)} lists, but there are {n} queries")
    lists = [_id_array(ids, f"exclude[{i}]") for i, ids in enumerate(exclude)]
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    return np.concatenate([np.empty(0, dtype=np.int64), *lists]), offsets, max(map(len, lists), default=0)


def _has_lists(ids: Any) -> bool:
    return any(not isinstance(item, (int, np.integer, float, str, bytes)) for item in ids)
