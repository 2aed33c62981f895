"""DLRM (Naumov et al. 2019) on generated clicks like Criteo's, with the embeddings in tables of three makers.

    pip install 'fastinc[torch]'
    python examples/dlrm.py                                                   # seconds
    python examples/dlrm.py --rows 1000000 --dim 64 --batch 2048 --steps 200  # gigabytes
    python examples/dlrm.py --embeddings torch --optimizer adagrad            # or fbgemm, where it is installed

13 dense features, and 26 categorical ones whose values follow a power law and are hashed to any int64. fastinc takes
them as they are, and has rows for those that came; torch and FBGEMM have `--rows` rows a feature from the start, and
values whose hashes are equal modulo that share one. Each batch is new: its loss is measured before it is learned.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import fastinc as fi

DENSE = 13
#: How many values the categorical features of the Criteo Kaggle set have.
CARDINALITIES = (
    *(1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194),
    *(27, 14_992, 5_461_306, 10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd", "adam")
#: Of embeddings: a row's gradient is small, because the loss is the mean over the batch.
LEARNING_RATES = {"rowwise_adagrad": 0.02, "adagrad": 0.02, "sgd": 10.0, "adam": 0.005}
EPS = 1e-8


@dataclass(frozen=True)
class Batch:
    """Examples with their clicks."""

    dense: torch.Tensor  # (batch, 13) float32: counts, never negative
    ids: torch.Tensor  # (features, batch) int64
    labels: torch.Tensor  # (batch,) float32: 1 for a click, else 0


def generate(
    batches: int, size: int, cardinalities: Sequence[int] = CARDINALITIES, *, hashed: bool = True, seed: int = 0
) -> Iterator[Batch]:
    """Yield batches from a hidden model: each value has an effect on the click, and some features act in pairs.

    Value r of a feature, counted from 0, has probability log(1 + 1 / (r + 1)) / log(cardinality + 1), about 1 / r.
    `hashed` makes ids of any int64 of the values; without, they are the values.
    """
    rng = np.random.default_rng(seed)
    features, many = len(cardinalities), np.array(cardinalities)[:, None]
    effects = rng.normal(0.0, 1.2 / features**0.5, (features, 4096))  # of a value, by 12 bits of its hash
    weights = rng.normal(0.0, 0.25, DENSE)
    for _ in range(batches):
        values = np.floor((many + 1.0) ** rng.random((features, size))).astype(np.int64) - 1
        keys = hash_values(values)
        own = np.take_along_axis(effects, (keys.view(np.uint64) >> np.uint64(52)).astype(np.int64), axis=1)
        counts = np.floor(rng.lognormal(1.0, 1.0, (size, DENSE)))
        half = features // 2
        logits = own.sum(0) + features**0.5 * (own[:half] * own[half : 2 * half]).sum(0) - 1.0
        logits += (np.log1p(counts) - 1.2) @ weights
        labels = rng.random(size) < 1.0 / (1.0 + np.exp(-logits))
        yield Batch(
            torch.from_numpy(counts.astype(np.float32)),
            torch.from_numpy(keys if hashed else values),
            torch.from_numpy(labels.astype(np.float32)),
        )


def hash_values(values: np.ndarray) -> np.ndarray:
    """Return an int64 for each value of each feature, (features, n), one to one within a feature."""
    salts = np.random.default_rng(1).integers(2**63, size=(len(values), 1), dtype=np.uint64)
    mixed = (values.view(np.uint64) + salts) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    return (mixed * np.uint64(0xD6E8FEB86659FD93)).view(np.int64)


class FastincEmbeddings(nn.Module):
    """A table a feature, of whatever ids come; the backward pass takes the optimizer's step."""

    def __init__(self, features: int, rows: int, dim: int, optimizer: str, lr: float) -> None:
        super().__init__()
        kinds = {
            "rowwise_adagrad": lambda: fi.RowWiseAdagrad(lr=lr, eps=EPS),
            "adagrad": lambda: fi.Adagrad(lr=lr, eps=EPS),
            "sgd": lambda: fi.SGD(lr=lr),
            "adam": lambda: fi.Adam(lr=lr, eps=EPS),
        }
        shared = kinds[optimizer]()
        bound = rows**-0.5
        tables = [fi.EmbeddingTable(dim, shared, fi.init.Uniform(-bound, bound, seed=f)) for f in range(features)]
        self.bags = nn.ModuleList(fi.torch.EmbeddingBag(table, mode="sum") for table in tables)

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ids as they are: a table takes any."""
        return ids

    def forward(self, keys: torch.Tensor) -> list[torch.Tensor]:
        """keys: (features, batch); returns (batch, dim) for each feature."""
        return [bag(each.unsqueeze(1)) for bag, each in zip(self.bags, keys, strict=True)]

    def step(self) -> None:
        """Do nothing: the backward pass has."""

    def held(self) -> int:
        """Return how many rows there are."""
        return sum(len(bag.table) for bag in self.bags)


class TorchEmbeddings(nn.Module):
    """``nn.EmbeddingBag(sparse=True)`` for each feature, and torch's optimizer for sparse gradients."""

    def __init__(self, features: int, rows: int, dim: int, optimizer: str, lr: float) -> None:
        super().__init__()
        kinds = {
            "adagrad": lambda weights: torch.optim.Adagrad(weights, lr=lr, eps=EPS),
            "sgd": lambda weights: torch.optim.SGD(weights, lr=lr),
            "adam": lambda weights: torch.optim.SparseAdam(weights, lr=lr, eps=EPS),
        }
        if optimizer not in kinds:
            raise ValueError(f"torch has no {optimizer}; it has {', '.join(kinds)}")
        self.rows, bound = rows, rows**-0.5
        weights = [torch.empty(rows, dim).uniform_(-bound, bound) for _ in range(features)]
        self.bags = nn.ModuleList(nn.EmbeddingBag.from_pretrained(w, False, mode="sum", sparse=True) for w in weights)
        self.optimizer = kinds[optimizer](list(self.bags.parameters()))
        torch.sparse.check_sparse_tensor_invariants.disable()  # the default, and no warning that it is

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        """Return row numbers for ids."""
        return ids % self.rows

    def forward(self, keys: torch.Tensor) -> list[torch.Tensor]:
        """keys: (features, batch); returns (batch, dim) for each feature."""
        return [bag(each.unsqueeze(1)) for bag, each in zip(self.bags, keys, strict=True)]

    def step(self) -> None:
        """Take the step for the gradients of the last backward pass."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def held(self) -> int:
        """Return how many rows there are."""
        return len(self.bags) * self.rows


class FbgemmEmbeddings(nn.Module):
    """All features in one ``SplitTableBatchedEmbeddingBagsCodegen`` on the CPU, whose backward takes the step."""

    def __init__(self, features: int, rows: int, dim: int, optimizer: str, lr: float) -> None:
        super().__init__()
        kinds = {"rowwise_adagrad": "EXACT_ROWWISE_ADAGRAD", "adagrad": "EXACT_ADAGRAD", "sgd": "EXACT_SGD"}
        if optimizer not in kinds:
            raise ValueError(f"FBGEMM has no {optimizer} on the CPU; it has {', '.join(kinds)}")
        try:
            from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
            from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
            from fbgemm_gpu.split_embedding_configs import EmbOptimType
        except ImportError as error:
            raise ImportError(f"FBGEMM can't be imported ({error}): pip install 'fastinc[bench]'") from error
        self.rows, self.dim, bound = rows, dim, rows**-0.5
        self.bags = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, training.EmbeddingLocation.HOST, training.ComputeDevice.CPU)] * features,
            optimizer=getattr(EmbOptimType, kinds[optimizer]),
            learning_rate=lr,
            eps=EPS,
            weight_decay=0.0,
            pooling_mode=common.PoolingMode.SUM,
        )
        self.bags.init_embedding_weights_uniform(-bound, bound)

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        """Return row numbers for ids."""
        return ids % self.rows

    def pool(self, keys: torch.Tensor) -> torch.Tensor:
        """keys: (features, batch); returns (batch, features * dim)."""
        return self.bags(keys.flatten(), torch.arange(keys.numel() + 1))

    def forward(self, keys: torch.Tensor) -> list[torch.Tensor]:
        """keys: (features, batch); returns (batch, dim) for each feature."""
        return list(self.pool(keys).split(self.dim, dim=1))

    def step(self) -> None:
        """Do nothing: the backward pass has."""

    def held(self) -> int:
        """Return how many rows there are."""
        return len(self.bags.embedding_specs) * self.rows


EMBEDDINGS: dict[str, Any] = {"fastinc": FastincEmbeddings, "torch": TorchEmbeddings, "fbgemm": FbgemmEmbeddings}


class Dlrm(nn.Module):
    """Clicks from dense features and embeddings: a bottom MLP, dot products of all pairs, a top MLP."""

    def __init__(self, embeddings: nn.Module, features: int, dim: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.bottom = nn.Sequential(nn.Linear(DENSE, 128), nn.ReLU(), nn.Linear(128, dim), nn.ReLU())
        first, second = torch.triu_indices(features + 1, features + 1, offset=1)
        self.register_buffer("pairs", first * (features + 1) + second)
        crossed = dim + len(self.pairs)
        self.top = nn.Sequential(nn.Linear(crossed, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, dense: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """dense: (batch, 13), keys: (features, batch); returns (batch,) logits."""
        return self.score(dense, self.embeddings(keys))

    def score(self, dense: torch.Tensor, embedded: list[torch.Tensor]) -> torch.Tensor:
        """Do all that isn't the tables'; embedded: (batch, dim) for each feature."""
        bottom = self.bottom(torch.log1p(dense))
        vectors = torch.stack([bottom, *embedded], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([bottom, products.index_select(1, self.pairs)], dim=1)).squeeze(1)

    def dense_parameters(self) -> list[nn.Parameter]:
        """Return those of the MLPs."""
        return [*self.bottom.parameters(), *self.top.parameters()]


def train_step(model: Dlrm, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Learn a batch, whose ids are the embeddings' keys; return its loss from before."""
    loss = nn.functional.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.embeddings.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="DLRM on generated clicks")
    parser.add_argument("--embeddings", choices=tuple(EMBEDDINGS), default="fastinc", help="what holds the rows")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="rowwise_adagrad", help="of the embeddings")
    parser.add_argument("--lr", type=float, help=f"of the embeddings (by optimizer: {LEARNING_RATES})")
    parser.add_argument("--rows", type=int, default=100_000, help="values, and rows, that a feature has at most")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    cardinalities = [min(options.rows, many) for many in CARDINALITIES]
    lr = LEARNING_RATES[options.optimizer] if options.lr is None else options.lr
    try:
        make = EMBEDDINGS[options.embeddings]
        embeddings = make(len(cardinalities), options.rows, options.dim, options.optimizer, lr)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    model = Dlrm(embeddings, len(cardinalities), options.dim)
    optimizer = torch.optim.Adam(model.dense_parameters(), lr=1e-3)

    losses, seconds, shown = [], 0.0, max(1, options.steps // 10)
    for step, batch in enumerate(generate(options.steps, options.batch, cardinalities, seed=options.seed), start=1):
        batch = replace(batch, ids=embeddings.keys(batch.ids))
        start = time.perf_counter()
        losses.append(train_step(model, optimizer, batch))
        seconds += time.perf_counter() - start
        if step % shown == 0:
            rate = step * options.batch / seconds
            print(f"step {step:5}  loss {np.mean(losses[-shown:]):.4f}  {rate:10,.0f} examples/s", flush=True)
    print(f"{options.embeddings}, {options.optimizer}: {embeddings.held():,} rows in {len(cardinalities)} tables")


if __name__ == "__main__":
    main()
