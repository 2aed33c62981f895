"""The approximate part of a LiveIndex: a FAISS index over a table's rows, never changed once built."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc import _core, _extras
from fastinc._gpu_base import MOST_FOUND, GpuIndex, check_gpu

#: More than this explores nearly everything; FAISS allocates in proportion.
LARGEST_EF = 2**20

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

#: FAISS warns when k-means gets fewer training points than this for each centroid.
POINTS_PER_CENTROID = 39
#: Beyond these norms, FAISS's float32 sums may overflow or lose their digits: such rows are scored by fastinc.
LARGEST_NORM, SMALLEST_NORM = 1e15, 1e-15


@dataclass(frozen=True, slots=True)
class Parameters:
    """FAISS's search parameters, of an index and of the IVF index in it (None: its own).

    Attributes
    ----------
    nprobe
        How many of its lists are looked at.
    """

    index: Any = None
    ivf: Any = None
    nprobe: int = 0


def row_norms(rows: Float32) -> NDArray[np.float64]:
    """Return the length of every row of (n, dim), in float64: never inf or 0 unless the row itself is."""
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms


def reason(error: RuntimeError) -> str:
    """Return what FAISS has to say, without the place in its sources."""
    return str(error).rsplit(": ", 1)[-1].strip()


def _vector(values: Any) -> list[int]:
    """Return a FAISS std::vector of integers as a list."""
    return [int(values.at(i)) for i in range(values.size())]


class Factory:
    """What a FAISS factory string makes for one dim and metric.

    Parameters
    ----------
    dim
        Length of a row.
    factory
        FAISS's description of an index: ``"IVF1024,SQ8"``.
    metric
        "ip", "cosine" or "l2".
    device
        "cpu" or "cuda".

    Raises
    ------
    ImportError
        FAISS is not installed.
    ValueError
        FAISS doesn't know the string, or can't make it for this dim, metric and device.
    """

    def __init__(self, dim: int, factory: str, metric: str, device: str = "cpu") -> None:
        self._faiss: Any = _extras.require("faiss", extra="faiss", purpose=f"LiveIndex(table, {factory!r})")
        self.dim, self.factory, self.metric, self.device = dim, factory, metric, device
        self._prototype = self._make()  # never filled: it tells what to train and which parameters there are
        self._ivf = self._lists_of(self._prototype)
        if device == "cuda":
            coarse = [] if self._ivf is None else [self._faiss.downcast_index(self._ivf.quantizer)]
            check_gpu(self._faiss, factory, [*self._parts(self._prototype), *coarse])
        self._parameters: dict[tuple[tuple[str, int], ...], Parameters] = {}  # making one takes FAISS a while
        self._default = Parameters(nprobe=0 if self._ivf is None else self._ivf.nprobe)
        self.rows_needed = max([1, *self._training_rows(self._prototype)])

    def use_one_thread(self) -> None:
        """Let FAISS use one thread of its own for what the calling thread does."""
        self._faiss.omp_set_num_threads(1)

    def _make(self) -> Any:
        faiss = self._faiss
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        refused = (
            f"factory = {self.factory!r} is neither 'exact' nor an index FAISS can make for "
            f"dim = {self.dim} and metric = {self.metric!r}: "
        )
        if re.search(r"(?<!\d)0+(?!\d)", self.factory):  # some of its indexes end the process over it
            raise ValueError(refused + "0 is not a size")
        if re.search(r"(HNSW0*1|NSG0*[1-4])(?!\d)", self.factory):  # FAISS crashes or never ends
            raise ValueError(refused + "a graph needs at least 2 neighbours a node, with NSG 5")
        try:
            index = faiss.index_factory(self.dim, self.factory, metric)
        except RuntimeError as error:
            raise ValueError(refused + reason(error)) from error
        if index.metric_type != metric:  # some of its indexes know L2 alone, and don't say so
            raise ValueError(f"factory = {self.factory!r}: FAISS has no such index for metric {self.metric!r}")
        return index

    def _parts(self, index: Any) -> Iterator[Any]:
        """Yield an index and those it is made of that are trained and searched with it, outermost first."""
        faiss = self._faiss
        index = faiss.downcast_index(index)
        yield index
        if isinstance(index, (faiss.IndexPreTransform, faiss.IndexIDMap)):
            yield from self._parts(index.index)
        elif isinstance(index, faiss.IndexRefine):
            yield from self._parts(index.base_index)
        elif isinstance(index, faiss.IndexHNSW):
            yield from self._parts(index.storage)

    def _lists_of(self, index: Any) -> Any:
        """Return the IVF index in an index, if there is one whose lists are what the whole looks at."""
        ivf = [part for part in self._parts(index) if isinstance(part, self._faiss.IndexIVF)]
        return ivf[0] if ivf else None

    def _training_rows(self, index: Any) -> Iterator[int]:
        """Yield how many rows it takes to train each part well."""
        faiss = self._faiss
        for part in self._parts(index):
            if part.is_trained:
                continue
            if isinstance(part, faiss.IndexIVF):
                yield POINTS_PER_CENTROID * part.nlist
            if isinstance(part, faiss.IndexPreTransform):
                for i in range(part.chain.size()):
                    transform = faiss.downcast_VectorTransform(part.chain.at(i))
                    is_opq = isinstance(transform, faiss.OPQMatrix)
                    yield POINTS_PER_CENTROID * 256 if is_opq else transform.d_in
            for name in ("pq", "aq", "rq", "lsq", "prq", "plsq"):
                if hasattr(part, name):
                    bits = getattr(part, name).nbits
                    yield POINTS_PER_CENTROID << (bits if isinstance(bits, int) else max(_vector(bits)))

    def search_parameters(self, wanted: dict[str, int]) -> Parameters:
        """Return search parameters by name.

        Raises
        ------
        ValueError
            This kind of index has no such parameter.
        """
        if not wanted:
            return self._default
        key = tuple(wanted.items())
        if key not in self._parameters:
            self._parameters[key] = self._make_parameters(wanted)
        return self._parameters[key]

    def _make_parameters(self, wanted: dict[str, int]) -> Parameters:
        left = dict(wanted)
        parameters = self._parameters_of(list(self._parts(self._prototype)), left)
        if left:
            name, value = next(iter(left.items()))
            raise ValueError(f"{name} = {value}: an index {self.factory!r} has no such search parameter")
        if self._ivf is None:
            return Parameters(parameters)
        ivf = self._parameters_of([self._ivf], dict(wanted))
        return Parameters(parameters, ivf, ivf.nprobe)

    def _parameters_of(self, parts: list[Any], left: dict[str, int]) -> Any:
        """Take from `left` what these parts, outermost first, understand."""
        faiss, part = self._faiss, parts[0]
        if isinstance(part, faiss.IndexIVF):
            coarse = faiss.downcast_index(part.quantizer)
            is_graph = isinstance(coarse, faiss.IndexHNSW) and "efSearch" in left
            quantizer = self._parameters_of([coarse], left) if is_graph else None
            return faiss.SearchParametersIVF(
                nprobe=min(left.pop("nprobe", part.nprobe), part.nlist),
                max_codes=part.max_codes,
                quantizer_params=quantizer,
            )
        if isinstance(part, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=min(left.pop("efSearch", part.hnsw.efSearch), LARGEST_EF))
        if len(parts) == 1:
            return None
        inner = self._parameters_of(parts[1:], left)
        if isinstance(part, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=inner)
        if isinstance(part, faiss.IndexRefine):
            return faiss.IndexRefineSearchParameters(k_factor=part.k_factor, base_index_params=inner)
        return inner

    def build(self, table: Any, ids: Int64, rows: Float32, version: int, epoch: int) -> FaissBase:
        """Build an index over a table's rows.

        Parameters
        ----------
        table
            The engine's table.
        ids
            (n,), ascending.
        rows
            (n, dim), finite or not.
        version, epoch
            Of the table: each row is as of it, or newer.

        Raises
        ------
        RuntimeError
            FAISS refused: most often there is too little to train on.
        """
        rows, regular = self.prepare(rows)
        if not regular.all():
            ids, rows = np.concatenate([ids[regular], ids[~regular]]), rows[regular]
        if len(rows) < self.rows_needed:
            raise RuntimeError(f"{len(rows)} rows; training takes {self.rows_needed}")
        index = self._make()
        if not index.is_trained:
            index.train(rows)
        if isinstance(self._faiss.downcast_index(index), self._faiss.IndexIDMap):
            index.add_with_ids(rows, np.arange(len(rows)))
        else:
            index.add(rows)
        parts = list(self._parts(index))
        exhaustive = all(isinstance(part, (self._faiss.IndexFlat, self._faiss.IndexIDMap)) for part in parts)
        ivf = self._lists_of(index)
        lists = None
        if ivf is not None:
            lists = InvertedLists(self._faiss, index, parts, ivf, rows)
        most = len(rows)
        if self.device == "cuda":
            searched, most = GpuIndex(self._faiss, index), min(most, MOST_FOUND)
            if lists is not None:
                lists.leave_search_to(searched)
            index.reset()  # its rows are on the GPU now
            index = searched
        core = _core.LiveBase(table, ids, len(rows), version, epoch, 0 if ivf is None else ivf.nlist)
        return FaissBase(index, core, len(ids), len(rows), most, version, exhaustive, lists)

    def prepare(self, rows: Float32) -> tuple[Float32, NDArray[np.bool_]]:
        """Return rows as the index takes them, and for which of them that is possible."""
        norms = row_norms(rows)
        regular = norms < LARGEST_NORM
        if self.metric == "cosine":
            regular &= (norms > SMALLEST_NORM) | (norms == 0.0)
            safe = np.where(regular & (norms > 0.0), norms, 1.0).astype(np.float32)
            rows = rows / safe[:, np.newaxis]
        return rows, regular


class InvertedLists:
    """The lists of an IVF index: where rows belong, and which ones a query looks at.

    Parameters
    ----------
    faiss
        The module.
    index
        The index.
    parts
        What it is made of, outermost first.
    ivf
        The IVF index among them.
    rows
        (n, dim) what it was trained on.
    """

    #: Of the rows an index is built from, this share is farther from their centroid than `far`.
    FAR_SHARE = 0.05
    _SAMPLE = 20_000

    def __init__(self, faiss: Any, index: Any, parts: list[Any], ivf: Any, rows: Float32) -> None:
        self._owner = index  # of what the others are parts of
        self._index, self._ivf, self._quantizer = index, ivf, faiss.downcast_index(ivf.quantizer)
        self._swig_ptr = faiss.swig_ptr
        ivf.parallel_mode = 3  # share queries out to FAISS's threads, also where the lists are given
        before = [part for part in parts if isinstance(part, faiss.IndexPreTransform)]
        self._is_whole = len(parts) == len(before) + 1
        self._transforms = [
            faiss.downcast_VectorTransform(part.chain.at(i)) for part in before for i in range(part.chain.size())
        ]
        self._centroids: Float32 | None = None
        with contextlib.suppress(RuntimeError):  # a quantizer that can't: rows then never are far from theirs
            self._centroids = self._quantizer.reconstruct_n(0, ivf.nlist)
        sample = rows[:: len(rows) // self._SAMPLE + 1]
        self.far = float(np.quantile(self.assign(sample)[1], 1.0 - self.FAR_SHARE))

    def leave_search_to(self, index: Any) -> None:
        """Search in a copy of the index that is elsewhere; say here which lists it looks at."""
        self._index, self._is_whole = index, False

    @property
    def count(self) -> int:
        """How many lists there are."""
        return int(self._ivf.nlist)

    def _transformed(self, rows: Float32) -> Float32:
        for transform in self._transforms:
            rows = transform.apply(rows)
        return rows

    def assign(self, rows: Float32) -> tuple[Int64, Float32]:
        """Return the list of every row (n,), and the squared distance to its centroid (n,)."""
        rows = self._transformed(rows)
        lists = self._quantizer.search(rows, 1)[1][:, 0]
        if self._centroids is None:
            return lists, np.zeros(len(rows), dtype=np.float32)
        rest = rows - self._centroids[np.maximum(lists, 0)]
        return lists, np.einsum("ij,ij->i", rest, rest)

    def search(self, queries: Float32, ask: int, parameters: Parameters) -> tuple[Float32, Int64, Int64]:
        """Return scores and positions (n, ask), and the lists that were looked at (n, nprobe)."""
        graph = None if parameters.ivf is None else parameters.ivf.quantizer_params
        transformed = self._transformed(queries)
        distances, lists = self._quantizer.search(transformed, parameters.nprobe, params=graph)
        if not self._is_whole:
            return *self._index.search(queries, ask, params=parameters.index), lists
        scores = np.empty((len(queries), ask), dtype=np.float32)
        positions = np.empty((len(queries), ask), dtype=np.int64)
        pointers = map(self._swig_ptr, (lists, distances, scores, positions))
        self._ivf.search_preassigned_c(
            len(queries), self._swig_ptr(transformed), ask, *pointers, False, parameters.ivf
        )  # the wrapper takes no parameters
        return scores, positions, lists


@dataclass(frozen=True)
class FaissBase:
    """A FAISS index over a state of a table, and what became of its rows since.

    Attributes
    ----------
    index
        FAISS's index.
    core
        Whose rows its positions are, and which rows were written since.
    rows, count
        How many rows it was built from, and how many of them are in the index.
    most
        How many it can be asked for.
    version
        The table's version it was built from.
    exhaustive
        Whether it compares a query with every row, so that the answer is the exact one.
    lists
        Its inverted lists, if it has any.
    """

    index: Any
    core: _core.LiveBase
    rows: int
    count: int
    most: int
    version: int
    exhaustive: bool
    lists: InvertedLists | None

    @property
    def may_miss(self) -> bool:
        """Whether it may return fewer rows than it is asked for and has: no edge of a graph leads to some."""
        return self.lists is None and not self.exhaustive

    def candidates(
        self, queries: Float32, ask: int, parameters: Parameters, *, name_lists: bool
    ) -> tuple[Float32, Int64, Int64 | None]:
        """Return the `ask` best of each query, as FAISS sees it.

        Returns
        -------
        scores, positions
            (n, ask), -1 for none.
        lists
            Where there are any, and if `name_lists`: those that were looked at, (n, nprobe).
        """
        if self.lists is not None and name_lists:
            return self.lists.search(queries, ask, parameters)
        scores, positions = self.index.search(queries, ask, params=parameters.index)
        return scores, positions, None

    def fold(self, factory: Factory) -> tuple[int, int]:
        """Put rows written since the last time into lists; return how many, and how many are far from theirs."""
        slots, rows, version = self.core.unfolded()
        everywhere = 0 if self.lists is None else self.lists.count
        lists = np.full(len(slots), everywhere, dtype=np.int64)
        far = 0
        if self.lists is not None and len(slots) > 0:
            rows, regular = factory.prepare(rows)
            if regular.any():
                assigned, distances = self.lists.assign(np.ascontiguousarray(rows[regular]))
                lists[regular] = np.where(assigned >= 0, assigned, everywhere)
                far = int((distances > self.lists.far).sum())
        self.core.fold(slots, lists, version)
        return len(slots), far


def may_tie(metric: str, worst: Float32, last: Float32) -> NDArray[np.bool_]:
    """Whether rows that a base kept back, beyond its last, may score as well as the worst one found."""
    lead = last.astype(np.float64) - worst if metric != "l2" else worst.astype(np.float64) - last
    ahead: NDArray[np.bool_] = lead >= -1e-5 * np.maximum(np.abs(worst), np.abs(last))  # rounding included
    return ahead
