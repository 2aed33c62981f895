"""The makers of tables in `examples/dlrm.py`, all starting from the same rows, which can be read again."""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import peers
from bench.core import MissingError, Settings
from bench.inputs import Float32, Ids, fill, scattered
from bench.pages import make_huge
from bench.reference import LR, Rows
from bench.workloads._updaters import state_bytes

#: What accumulators start from. A step is then no longer than the gradient: sums that cancel keep their small errors.
ACCUMULATED = LR**2
_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dlrm.py"
_CHUNK = 65_536


class Shape(NamedTuple):
    """How large a model is."""

    features: int
    rows: int
    dim: int
    batch: int


@functools.lru_cache(maxsize=1)
def _load() -> Any:
    spec = importlib.util.spec_from_file_location("fastinc_example_dlrm", _EXAMPLE)
    if spec is None or spec.loader is None:
        raise MissingError(f"{_EXAMPLE} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def example(settings: Settings) -> Any:
    """Return `examples/dlrm.py`, with torch's threads set."""
    peers.torch(settings)
    return _load()


class Tables:
    """One maker's tables of all features; `keys` are what its `forward` takes for row numbers."""

    name = ""
    kind = ""
    #: How its optimizer's step is taken.
    steps = ""

    def __init__(self, optimizer: str, shape: Shape) -> None:
        self.optimizer, self.shape = optimizer, shape

    def make(self, settings: Settings) -> None:
        """Make the example's embeddings, in `module`, with their rows and accumulators set."""
        features, rows, dim, _ = self.shape
        self.torch = peers.torch(settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FBGEMM warns of itself
            self.module = example(settings).EMBEDDINGS[self.kind](features, rows, dim, self.optimizer, LR)
        self.fill()

    def fill(self) -> None:
        """Set rows and accumulators."""
        for feature, (weights, state) in enumerate(zip(self.weights, self.states, strict=True)):
            fill(make_huge(weights), -0.1, 0.1, seed=feature)
            make_huge(state)[:] = ACCUMULATED

    @property
    def weights(self) -> list[Float32]:
        """Return the (rows, dim) arrays, as views."""
        raise NotImplementedError

    @property
    def states(self) -> list[Float32]:
        """Return the accumulators, as views."""
        raise NotImplementedError

    def keys(self, rows: Ids) -> Ids:
        """Return what these row numbers are called."""
        return rows

    def renew(self, feature: int, rows: Ids) -> Rows:
        """Set some rows' accumulators to what they start from; return copies of the rows."""
        self.states[feature][rows] = ACCUMULATED
        return Rows(self.read(feature, rows), {"state": self.states[feature][rows]})

    def read(self, feature: int, rows: Ids) -> Float32:
        """Return copies of some rows."""
        copies: Float32 = self.weights[feature][rows]
        return copies

    def state(self, feature: int, rows: Ids) -> Float32 | None:
        """Return copies of some accumulators; None where they can't be seen."""
        copies: Float32 = self.states[feature][rows]
        return copies

    def part(self, keys: Any, grads: Any) -> None:
        """Look rows up, and update them by given gradients of what comes out, (batch, dim) for each feature."""
        self.torch.autograd.backward(self.module(keys), list(grads))
        self.module.step()

    def grads(self, grads: Float32) -> Any:
        """Return what `part` takes for gradients (features, batch, dim)."""
        return [self.torch.from_numpy(make_huge(each.copy())) for each in grads]


class FastincTables(Tables):
    """Tables whose keys are spread over int64."""

    kind = "fastinc"
    steps = "fi.torch.EmbeddingBag, whose backward updates its table: hashed int64 ids, version written, no int8 copies"

    def __init__(self, optimizer: str, shape: Shape, name: str = "fastinc") -> None:
        super().__init__(optimizer, shape)
        self.name = name

    def fill(self) -> None:
        self.tables = [bag.table for bag in self.module.bags]
        self.tables[0].optimizer.initial_accumulator_value = ACCUMULATED  # all share it
        for feature, table in enumerate(self.tables):
            vectors = fill(np.empty((self.shape.rows, self.shape.dim), np.float32), -0.1, 0.1, seed=feature)
            for begin in range(0, self.shape.rows, _CHUNK):
                piece = vectors[begin : begin + _CHUNK]
                table.load(scattered(np.arange(begin, begin + len(piece))), piece)

    def keys(self, rows: Ids) -> Ids:
        return scattered(rows)

    def renew(self, feature: int, rows: Ids) -> Rows:
        keys, before = scattered(rows), self.read(feature, rows)
        self.tables[feature].load(keys, before)  # accumulators begin anew
        state = np.full((len(rows), *self._state_shape()), ACCUMULATED, np.float32)
        return Rows(before, {"state": state})

    def _state_shape(self) -> tuple[int, ...]:
        return () if self.optimizer == "rowwise_adagrad" else (self.shape.dim,)

    def read(self, feature: int, rows: Ids) -> Float32:
        copies: Float32 = self.tables[feature].lookup(scattered(rows))
        return copies

    def state(self, feature: int, rows: Ids) -> None:
        return None


class TorchTables(Tables):
    """``nn.EmbeddingBag(sparse=True)`` and a sparse optimizer."""

    name = "torch sparse Adagrad"
    kind = "torch"
    steps = "nn.EmbeddingBag(sparse=True), then torch.optim.Adagrad on the sparse gradients of all features"

    def make(self, settings: Settings) -> None:
        if self.optimizer != "adagrad":
            raise MissingError(f"torch has no {self.optimizer}")
        super().make(settings)

    @property
    def weights(self) -> list[Float32]:
        return [bag.weight.detach().numpy() for bag in self.module.bags]

    @property
    def states(self) -> list[Float32]:
        return [self.module.optimizer.state[bag.weight]["sum"].numpy() for bag in self.module.bags]


class TbeTables(Tables):
    """FBGEMM: one operator for all features."""

    name = peers.TBE
    kind = "fbgemm"
    steps = "SplitTableBatchedEmbeddingBagsCodegen over all features, whose backward updates them"

    def make(self, settings: Settings) -> None:
        peers.fbgemm(settings)
        super().make(settings)

    @property
    def weights(self) -> list[Float32]:
        return [weights.detach().numpy() for weights in self.module.bags.split_embedding_weights()]

    @property
    def states(self) -> list[Float32]:
        return [state.detach().numpy() for (state,) in self.module.bags.split_optimizer_states()]

    def part(self, keys: Any, grads: Any) -> None:
        self.module.pool(keys).backward(grads)

    def grads(self, grads: Float32) -> Any:
        """Return (batch, features * dim): one array, as it gives its output."""
        side_by_side = np.ascontiguousarray(grads.transpose(1, 0, 2)).reshape(grads.shape[1], -1)
        return self.torch.from_numpy(make_huge(side_by_side))


def row_bytes(maker: type[Tables], optimizer: str, dim: int) -> int:
    """Return the bytes that a row takes with this maker."""
    beside = 32 if maker is FastincTables else 0  # headers, index and change log
    return 4 * dim + state_bytes(optimizer, dim) + beside
