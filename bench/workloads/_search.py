"""What the search workloads share: a trained table, queries, and what a right answer is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import fastinc as fi
from bench.core import Contestant, Settings, WrongError
from bench.inputs import Float32, Ids, normals

K = 100
_TASTES = 2000
_BATCH = 65_536


@dataclass(frozen=True)
class Trained:
    """A table whose rows were learned, and queries of the kind it was learned with: row i is id i."""

    table: fi.EmbeddingTable
    tastes: Float32

    @property
    def rows(self) -> Float32:
        """(rows, dim), a copy."""
        rows: Float32 = self.table.lookup(np.arange(len(self.table)))
        return rows

    def queries(self, rng: np.random.Generator, count: int) -> Float32:
        """Return (count, dim): users near one of the tastes."""
        dim = self.tastes.shape[1]
        queries: Float32 = self.tastes[rng.integers(0, len(self.tastes), count)]
        queries += np.float32(0.3) * normals(rng, count, dim)
        return queries


def train(rows: int, dim: int, settings: Settings) -> Trained:
    """Learn items from clicks: logistic matrix factorisation against users of some tastes, popular items more often.

    So rows are in clusters, directions matter unequally, and norms are of all sizes: an item seen often has a long row.
    """
    rng = settings.random(60)
    scale = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    tastes = normals(rng, _TASTES, dim) * scale * np.float32(np.sqrt(dim) / np.linalg.norm(scale))
    of_item = rng.integers(0, _TASTES, rows)
    table = fi.EmbeddingTable(dim, fi.Adagrad(lr=0.3), init=fi.init.Normal(std=0.05, seed=1))
    table.update(np.arange(rows), np.full((rows, dim), np.float32(1e-6)))
    size = min(_BATCH, rows)
    for _ in range(settings.pick(60, 20, 3)):
        items = (rng.random(size) ** 2 * rows).astype(np.int64)
        clicked = rng.random(size) < 0.5
        taste = np.where(clicked, of_item[items], rng.integers(0, _TASTES, size))
        users = tastes[taste] + np.float32(0.3) * normals(rng, size, dim)
        scores = np.einsum("ij,ij->i", users, table.lookup(items))
        errors = (1.0 / (1.0 + np.exp(-scores)) - clicked).astype(np.float32)
        table.update(items, errors[:, np.newaxis] * users)
    return Trained(table, tastes.astype(np.float32))


def query_lists(trained: Trained, size: int, calls: int) -> Callable[[np.random.Generator], list[Float32]]:
    """Return a function that draws `calls` batches of `size` queries."""

    def make(rng: np.random.Generator) -> list[Float32]:
        return [trained.queries(rng, size) for _ in range(calls)]

    return make


def best(rows: Float32, queries: Float32, k: int = K) -> Ids:
    """Return the k best by inner product in float64."""
    found = []
    for query in queries.astype(np.float64):
        scores = np.concatenate(
            [rows[begin : begin + _BATCH].astype(np.float64) @ query for begin in range(0, len(rows), _BATCH)]
        )
        candidates = np.argpartition(-scores, min(2 * k, len(scores) - 1))[: 2 * k]
        order = np.lexsort((candidates, -scores[candidates]))
        found.append(candidates[order][:k])
    return np.array(found)


def recall(found: Ids, truth: Ids) -> float:
    """Return the mean share of the true ones that were found."""
    hits = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(hits))


class Searcher(Contestant):
    """One way to find the K rows of the largest inner product."""

    #: What an answer must have of the true ones, by float64.
    least_recall = 0.999

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.recall = float("nan")

    def check(self, inputs: list[Float32]) -> None:
        queries = np.concatenate(inputs)[:64]
        self.recall = recall(self.find(queries), best(self.trained.rows, queries))
        if not self.recall >= self.least_recall:
            raise WrongError(f"recall@{K} is {self.recall:.4f}, less than {self.least_recall}")

    @abstractmethod
    def find(self, queries: Float32) -> Ids:
        """Return (n, K) row numbers."""

    def prepare(self, inputs: list[Float32]) -> list[Float32]:
        return [queries.copy() for queries in inputs]

    def run(self, prepared: list[Float32]) -> object:
        for queries in prepared:
            found = self.find(queries)
        return found

    def close(self) -> None:
        trained, found = self.trained, self.recall
        super().close()
        self.trained, self.recall = trained, found
