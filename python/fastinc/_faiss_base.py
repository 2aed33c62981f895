"""The approximate part of a LiveIndex: a FAISS index over one state of a table, never changed once built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc import _extras

#: More than this explores nearly everything; FAISS allocates in proportion.
LARGEST_EF = 2**20

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

#: FAISS warns when k-means gets fewer training points than this for each centroid.
POINTS_PER_CENTROID = 39
#: Beyond these norms, FAISS's float32 sums may overflow or lose their digits: such rows are scored by fastinc.
LARGEST_NORM, SMALLEST_NORM = 1e15, 1e-15


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

    Raises
    ------
    ImportError
        FAISS is not installed.
    ValueError
        FAISS doesn't know the string, or can't make it for this dim and metric.
    """

    def __init__(self, dim: int, factory: str, metric: str) -> None:
        self._faiss: Any = _extras.require("faiss", extra="faiss", purpose=f"LiveIndex(table, {factory!r})")
        self.dim, self.factory, self.metric = dim, factory, metric
        self._prototype = self._make()  # never filled: it tells what to train and which parameters there are
        self.rows_needed = max([1, *self._training_rows(self._prototype)])

    def _make(self) -> Any:
        faiss = self._faiss
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        refused = (
            f"factory = {self.factory!r} is neither 'exact' nor an index FAISS can make for "
            f"dim = {self.dim} and metric = {self.metric!r}: "
        )
        if re.search(r"(?<!\d)0+(?!\d)", self.factory):  # some of its indexes end the process over it
            raise ValueError(refused + "0 is not a size")
        if re.search(r"(HNSW|NSG)0*1(?!\d)", self.factory):  # FAISS crashes or never ends
            raise ValueError(refused + "a graph needs at least 2 neighbours a node")
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

    def search_parameters(self, wanted: dict[str, int]) -> Any:
        """Return FAISS's object for search parameters by name, None where there are none.

        Raises
        ------
        ValueError
            This kind of index has no such parameter.
        """
        left = dict(wanted)
        parameters = self._parameters_of(list(self._parts(self._prototype)), left)
        if left:
            name, value = next(iter(left.items()))
            raise ValueError(f"{name} = {value}: an index {self.factory!r} has no such search parameter")
        return parameters if wanted else None

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

    def build(self, ids: Int64, rows: Float32, version: int) -> FaissBase:
        """Build an index over one state of a table.

        Parameters
        ----------
        ids
            (n,), ascending.
        rows
            (n, dim), finite.
        version
            The version they are of.

        Raises
        ------
        RuntimeError
            FAISS refused: most often there is too little to train on.
        """
        norms = row_norms(rows)
        regular = norms < LARGEST_NORM
        if self.metric == "cosine":
            regular &= (norms > SMALLEST_NORM) | (norms == 0.0)
        apart = np.empty(0, dtype=np.int64)
        if not regular.all():
            apart = ids[~regular]
            ids, rows, norms = ids[regular], rows[regular], norms[regular]
        if len(ids) < self.rows_needed:
            raise RuntimeError(f"{len(ids)} rows; training takes {self.rows_needed}")
        if self.metric == "cosine":
            rows = rows / np.where(norms > 0.0, norms, 1.0).astype(np.float32)[:, np.newaxis]
        index = self._make()
        if not index.is_trained:
            index.train(rows)
        if isinstance(self._faiss.downcast_index(index), self._faiss.IndexIDMap):
            index.add_with_ids(rows, np.arange(len(rows)))
        else:
            index.add(rows)
        exhaustive = all(
            isinstance(part, (self._faiss.IndexFlat, self._faiss.IndexIDMap)) for part in self._parts(index)
        )
        return FaissBase(index, np.concatenate([ids, apart]), len(ids), version, exhaustive)


@dataclass(frozen=True)
class FaissBase:
    """A FAISS index and whose rows are in it.

    Attributes
    ----------
    index
        FAISS's index. Position i in it is the row of ``ids[i]``.
    ids
        The ids in the index, ascending, then those that were left out of it and are candidates of every query.
    count
        How many are in the index.
    version
        The table's version it was built from.
    exhaustive
        Whether it compares a query with every row, so that the answer is the exact one.
    """

    index: Any
    ids: Int64
    count: int
    version: int
    exhaustive: bool

    def candidates(
        self, queries: Float32, ask: int, parameters: Any
    ) -> tuple[Int64, Int64, Float32, NDArray[np.bool_]]:
        """Return the `ask` best ids of each query, as FAISS sees it.

        Returns
        -------
        ids, offsets
            The ids of query i are ``ids[offsets[i]:offsets[i + 1]]``.
        last
            (n,) the worst score returned.
        more
            (n,) whether the index may have more to give.
        """
        scores, positions = self.index.search(queries, ask, params=parameters)
        there = positions >= 0
        apart = len(self.ids) - self.count
        if apart > 0:
            tail = np.arange(self.count, len(self.ids))
            positions = np.concatenate([positions, np.tile(tail, (len(queries), 1))], axis=1)
            there = positions >= 0
        offsets = np.zeros(len(queries) + 1, dtype=np.int64)
        np.cumsum(there.sum(axis=1), out=offsets[1:])
        return self.ids[positions[there]], offsets, scores[:, -1], positions[:, ask - 1] >= 0
