"""Top-k retrieval over a table, whose answers never lag behind the table."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fastinc import _core
from fastinc._arguments import as_flag, as_share, as_whole
from fastinc._background import Background
from fastinc._cuda_table import CudaTable
from fastinc._faiss_base import LARGEST_NORM, Factory, FaissBase, Parameters, may_tie, reason, row_norms
from fastinc._places import check_place, host_core
from fastinc._queries import IdLists, as_id_lists, as_query_matrix
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
#: A search goes through all writes since the last fold: no more than so many for each of `fold_rows`.
WRITES_A_ROW = 2
#: Above this share of the table, scanning all of it costs less than looking at fresh rows one by one.
FRESH_SHARE = 1 / 16
#: What a search finds of the share of named rows that are as they were counts for this much.
NEWS_SHARE = 0.1
#: While all is scanned, nothing tells how much has changed: the background thread looks, this often.
LOOK_SECONDS = 0.05
#: After a build that failed.
RETRY_SECONDS = 5.0

_all: weakref.WeakSet[LiveIndex] = weakref.WeakSet()


class LiveIndex:
    """The k best rows of a table for a query, as the table is when the search begins.

    Parameters
    ----------
    table
        Any number of threads may write to it while others search.
    factory
        "exact" scans the table's int8 rows in place and scores in float32 what may be among the best: the answer is
        the exact one. Any FAISS factory string, such as ``"IVF1024,SQ8"`` or ``"HNSW32"``, makes a base index from a
        snapshot of the table; rows written since the snapshot are candidates of every query (those that were folded,
        of the queries that look at their list), rows removed since are left out, and what the base returns is
        scored in float32 from the table. So every score is exact and current, no answer holds a removed row or an
        old one, and the choice among unchanged and folded rows has the base index's recall. While there are too few
        rows to train the base on, the index is exact.
    metric
        "ip" (inner product), "cosine" (0 for a zero query and for a row shorter than 1e-40) or "l2" (squared
        distance).
    device
        "exact" searches where its table is: on a GPU, it takes and gives arrays there, or NumPy arrays. Where the base
        of a factory is: "cpu" (None), or "cuda" for FAISS's first GPU (Flat, IVF with Flat, SQ or PQ, OPQ and PCA
        before them); the table is on the CPU, and so are fresh rows and the scores. Threads take turns at a GPU.
    rebuild_share, rebuild_rows
        The base is built anew when more rows than both `rebuild_rows` and `rebuild_share` of the base were written
        or removed since.
    fold_rows
        When more rows than this were written (or fewer, many times), those of an IVF base are put into its lists:
        from then on a query finds them, as it does the base's rows, in the lists that it looks at.
    drift_share
        An IVF base is built anew, with new centroids, when of at least `rebuild_rows` rows put into its lists more
        than this share are farther from their centroid than 95 % of those it was built from.
    background
        Whether a thread of the index's own folds and builds, when a search finds that it is due; searches never wait
        for it. Without, only :meth:`compact` builds, and only :meth:`fold` folds: searches take longer the more was
        written since.

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
        device: str | None = None,
        rebuild_share: float = 0.2,
        rebuild_rows: int = 1000,
        fold_rows: int = 512,
        drift_share: float = 0.3,
        background: bool = True,
    ) -> None:
        if not isinstance(table, EmbeddingTable):
            raise TypeError(f"table must be an EmbeddingTable, not {type(table).__name__}")
        if not isinstance(factory, str):
            raise TypeError(f"factory must be 'exact' or a FAISS factory string, not {type(factory).__name__}")
        if metric not in METRICS:
            raise ValueError(f"metric = {metric!r} must be 'ip', 'cosine' or 'l2'")
        device = check_place(table, factory, device)
        self._rebuild_share = as_share(rebuild_share, "rebuild_share")
        self._drift_share = as_share(drift_share, "drift_share")
        self._rebuild_rows = as_whole(rebuild_rows, "rebuild_rows", 0)
        self._fold_rows = as_whole(fold_rows, "fold_rows", 0)
        self._table, self._name, self._metric, self._device = table, factory, metric, device
        self._factory = None if factory == "exact" else Factory(table.dim, factory, metric, device)
        self._base: FaissBase | None = None
        self._renew()
        self._lags: dict[int, int] = {0: 0}  # by bit length: how many searches
        self._rebuilds = self._folds = 0
        self._assigned = self._far = 0  # rows folded into lists since the base was built
        self._rebuild_seconds: float | None = None
        self._exact_because: str | None = None
        self._error: str | None = None
        self._try_at = 0  # rows it takes before building a base is tried
        # As of the last searches: how many to ask the base for, and whether it is worth asking.
        self._masked = self._everywhere = 0
        self._kept = 1.0
        self._look_at = 0.0
        self._largest = LARGEST_NORM / table.dim**0.5  # of a query's values
        self._not_before = 0.0  # when building may be tried again after it failed
        self._background: Background | None = None
        if table.device == "cpu":
            host_core(table).keep_codes()  # now, and not in the first search
        _all.add(self)
        self.compact()
        if as_flag(background, "background") and self._factory is not None:
            self._background = Background(self, LiveIndex._maintain)

    def _renew(self) -> None:
        """Make locks: also in a forked child, where they may be of threads that are gone."""
        self._building = threading.Lock()  # of who folds or builds
        self._counting = threading.Lock()
        if getattr(self, "_background", None) is not None:
            self._background.renew()  # type: ignore[union-attr]

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
        """Where the base, or the table that is scanned, is: "cpu" or "cuda"."""
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
        allow: Any = ...,
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
        allow: Any = ...,
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
        allow: Any = None,
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
            for each. Ids without a row count for nothing.
        allow
            Ids that alone may be returned, in the same forms: what is in stock, say. None: all.
        nprobe, efSearch
            FAISS's search parameters, for the indexes that have them (IVF, HNSW); by default FAISS's own: one list
            (nprobe 1) is seldom enough.
        with_version
            Also return the table's version that the answer reflects; rows written meanwhile may be newer.

        Returns
        -------
        scores, ids
            (n, k) float32 and int64, or (k,) for one (dim,) query. Best first: descending, "l2" ascending; equal
            scores by smaller id. Where there are fewer than k, id -1 and score -3.4028235e38 ("l2": +3.4028235e38).
            As with FAISS alone, an IVF index has no more than the lists it probes hold. Where the edges of a graph
            (HNSW) lead to fewer, the table is scanned.
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
        matrix, single = as_query_matrix(queries, self._table.dim, on_gpu=self._table.device != "cpu")
        k = as_whole(k, "k", 1)
        lists = as_id_lists(exclude, len(matrix), "exclude"), as_id_lists(allow, len(matrix), "allow")
        given = {"nprobe": nprobe, "efSearch": efSearch}
        wanted = {name: as_whole(value, name, 1) for name, value in given.items() if value is not None}
        current = self._table.version
        if self._factory is None:
            if wanted:
                name, value = next(iter(wanted.items()))
                raise ValueError(f"{name} = {value}: an index 'exact' has no such search parameter")
            answer = self._search_exact(matrix, k, *lists)
        else:
            answer = self._search_live(matrix, k, *lists, self._factory.search_parameters(wanted))
        scores, ids, version = answer
        lag = max(current - version, 0).bit_length()
        with self._counting:
            self._lags[lag] = self._lags.get(lag, 0) + 1
        if single:
            scores, ids = scores[0], ids[0]
        return (scores, ids, version) if with_version else (scores, ids)

    def _search_exact(self, queries: Float32, k: int, exclude: IdLists, allow: IdLists) -> VersionedResult:
        lists = (exclude.ids, exclude.offsets, allow.ids, allow.offsets)
        core = self._table._core
        if isinstance(core, CudaTable):
            return core.exact_search(queries, k, self._metric, *lists)
        return _core.exact_search(core, queries, k, self._metric, *lists)

    def _search_live(
        self, queries: Float32, k: int, exclude: IdLists, allow: IdLists, parameters: Parameters
    ) -> VersionedResult:
        """Merge what the base has with what is fresh; scan the table where there is no base to rely on."""
        base = self._base
        if base is None and len(self._table) >= self._try_at and time.monotonic() >= self._not_before:
            self._wake()
        base_queries = None if base is None or len(queries) == 0 else self._base_queries(queries)
        if base is None or base_queries is None:
            return self._search_exact(queries, k, exclude, allow)
        if self._everywhere > FRESH_SHARE * len(self._table):
            if time.monotonic() > self._look_at:
                self._look_at = time.monotonic() + LOOK_SECONDS
                self._everywhere = base.core.count_everywhere()
                self._wake()
            return self._search_exact(queries, k, exclude, allow)
        kept = max(self._kept, 0.01)  # of so many rows named, k are left with hardly an exception
        ask = int((k + 2.0 * (k * (1.0 - kept)) ** 0.5) / kept) + k // 16 + 8 + exclude.longest
        if allow.ids is not None:
            ask *= max(1, 5 * base.count // (4 * max(allow.longest, 1)))
        limit = min(base.most, base.count if base.count <= SMALL_BASE else base.count // 4)
        while True:
            ask = min(ask, base.count)
            if ask > limit:
                return self._search_exact(queries, k, exclude, allow)
            found_scores, positions, lists = base.candidates(base_queries, ask, parameters, name_lists=self._folds > 0)
            scores, ids, version, changed, unfolded, logged, self._everywhere, lacking, kept, outdated = (
                base.core.search(
                    queries, k, self._metric, positions, lists, exclude.ids, exclude.offsets, allow.ids, allow.offsets
                )
            )
            self._kept += NEWS_SHARE * (kept - self._kept)
            if outdated:  # the table was set to another state: the base knows nothing of it
                if self._building.acquire(blocking=False):  # else another base is on its way
                    if self._base is base:
                        self._base, self._try_at = None, 0
                    self._building.release()
                return self._search_exact(queries, k, exclude, allow)
            if base.exhaustive and not lacking:
                tied = may_tie(self._metric, scores[:, -1], found_scores[:, -1]) & (positions[:, -1] >= 0)
                lacking = int(tied.sum())
            if ask == base.count or not lacking:
                break
            ask *= 4
        self._masked = changed
        if self._is_long(unfolded, logged) or self._is_stale(base, changed):
            self._wake()
        if base.may_miss and (ids[:, -1] < 0).any():
            return self._search_exact(queries, k, exclude, allow)
        return scores, ids, version

    def _base_queries(self, queries: Float32) -> Float32 | None:
        """Return queries as FAISS takes them; None where it couldn't score them."""
        if self._metric != "cosine":
            return queries if _core.largest_magnitude(queries) < self._largest else None
        norms = row_norms(queries)
        if not np.isfinite(norms).all():  # the engine says which value it is
            return None
        return (queries / np.where(norms > 0.0, norms, 1.0)[:, np.newaxis]).astype(np.float32)

    # --- what keeps the base in step ---------------------------------------------------------------------------

    def _is_long(self, unfolded: int, logged: int) -> bool:
        """Whether it is time to fold: also where few rows are written often, or come and go."""
        return unfolded > self._fold_rows or logged > WRITES_A_ROW * max(self._fold_rows, SMALL_BASE)

    def _is_stale(self, base: FaissBase, changed: int) -> bool:
        """Whether it is time for another base."""
        if changed > max(self._rebuild_rows, self._rebuild_share * base.rows):
            return True
        return self._assigned > self._rebuild_rows and self._far > self._drift_share * self._assigned

    def _changed(self, base: FaissBase) -> int:
        """How many rows were written or removed since the base was built: at least, and by the last search."""
        everywhere = base.core.count_everywhere()  # counting all would mean a look at every row
        return max(self._masked, everywhere, base.rows - (len(self._table) - everywhere))

    def _wake(self) -> None:
        if self._background is not None:
            self._background.wake()

    def _maintain(self) -> None:
        """Fold and build as is due, in the background."""
        try:
            if self._factory is not None:
                self._factory.use_one_thread()  # and leave the other CPUs to who serves
            base = self._base
            if base is not None:
                if self._is_long(base.core.count_unfolded(), base.core.count_logged()):
                    self.fold()
                if not base.core.outdated and not self._is_stale(base, self._changed(base)):
                    return
            elif len(self._table) < self._try_at:
                return
            if time.monotonic() >= self._not_before:
                self._build(0 if base is None else base.version + 1)
        except Exception as error:  # stats() tells; the index goes on as it is
            self._error = f"{type(error).__name__}: {error}"
            self._not_before = time.monotonic() + RETRY_SECONDS

    def _build(self, least: int) -> None:
        """Replace the base, unless another thread has by one of this version or a newer one."""
        with self._building:
            base = self._base
            if self._factory is None or (base is not None and base.version >= least and not base.core.outdated):
                return
            start = time.perf_counter()
            ids, rows, version, epoch = _core.rows_at_version(host_core(self._table))
            try:
                built = self._factory.build(host_core(self._table), ids, rows, version, epoch)
            except RuntimeError as error:
                self._base, self._exact_because = None, f"{self._name!r}: {reason(error)}"
                self._try_at = max(self._factory.rows_needed, 2 * len(ids))
                if len(ids) < self._factory.rows_needed:
                    self._try_at = self._factory.rows_needed
                return
            self._base, self._exact_because, self._error = built, None, None
            self._masked = self._everywhere = 0
            self._kept = 1.0
            self._assigned = self._far = 0
            self._rebuilds += 1
            self._rebuild_seconds = time.perf_counter() - start

    def fold(self) -> int:
        """Put rows written since the last time into the base's lists; see `fold_rows`.

        Returns
        -------
        int
            How many there were. 0 without a base.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.LiveIndex(fi.EmbeddingTable(dim=2)).fold()
        0
        """
        with self._building:
            base = self._base
            if base is None or self._factory is None:
                return 0
            rows, far = base.fold(self._factory)
            self._assigned, self._far = self._assigned + rows, self._far + far
            self._folds += rows > 0
            self._everywhere = 0
            return rows

    def compact(self) -> None:
        """Build the base anew from the table as it is now. Does nothing for "exact".

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.LiveIndex(fi.EmbeddingTable(dim=2)).compact()
        """
        self._build(self._table.version)

    def stats(self) -> dict[str, Any]:
        """Return what the index is made of right now.

        Returns
        -------
        dict
            ``factory``, ``metric``, ``device``; ``version`` and ``rows`` of the table; ``base_version`` (None without
            a base) and ``base_rows``; ``fresh_rows`` written and ``masked_rows`` changed or removed since the base
            was built; ``folds`` and ``rebuilds``, ``last_rebuild_seconds``; ``far_share`` of the rows folded into
            lists; ``bytes`` that the merging takes beside FAISS's index; ``lags``: how many searches answered from a
            table this many versions older than the one when they were called, by promise all 0 (setting a table to
            an older state during a search counts, too); ``exact_because``: why a FAISS index has no base yet, else
            None; ``error``: what last went wrong in the background.

        Examples
        --------
        >>> import fastinc as fi
        >>> fi.LiveIndex(fi.EmbeddingTable(dim=2)).stats()["rows"]
        0
        """
        base = self._base
        version, rows, fresh, masked = self._table.version, len(self._table), 0, 0
        if base is not None:
            fresh = base.core.count_fresh()
            masked = max(base.rows - (rows - fresh), 0)
        with self._counting:
            lags = dict(sorted(self._lags.items()))
        return {
            "factory": self._name,
            "metric": self._metric,
            "device": self._device,
            "version": version,
            "rows": rows,
            "base_version": None if base is None else base.version,
            "base_rows": 0 if base is None else base.rows,
            "fresh_rows": fresh,
            "masked_rows": masked,
            "folds": self._folds,
            "rebuilds": self._rebuilds,
            "last_rebuild_seconds": self._rebuild_seconds,
            "far_share": self._far / self._assigned if self._assigned > 0 else 0.0,
            "bytes": 0 if base is None else base.core.bytes,
            "lags": {"0" if n == 0 else f"{1 << (n - 1)}-{(1 << n) - 1}": count for n, count in lags.items()},
            "exact_because": self._exact_because,
            "error": self._error,
        }


def _renew_all() -> None:
    for index in list(_all):
        index._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
