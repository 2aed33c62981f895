"""fastinc: recommenders that learn from the event stream while they serve.

An event arrives, a few embedding rows change, and the very next request is answered from the changed rows.
``import fastinc as fi`` needs NumPy alone; torch, FAISS, pyarrow and the rest are imported where first used.

>>> import numpy as np
>>> import fastinc as fi
>>> table = fi.EmbeddingTable(dim=4, optimizer=fi.SGD(lr=0.5))
>>> _ = table.update(np.array([7, 7]), np.ones((2, 4), dtype=np.float32))
>>> len(table), table.version
(1, 1)
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastinc import baselines, checkpoint, datasets, drift, evaluate, features, init, ops, replica, schedules, stream
from fastinc._core import __version__
from fastinc._runtime import get_isa, get_num_threads, info, set_isa, set_num_threads
from fastinc.bounds import TTL, MinCount
from fastinc.changes import Changes
from fastinc.explanation import Explanation
from fastinc.guard import Guard
from fastinc.live_index import LiveIndex
from fastinc.optimizers import FTRL, SGD, Adagrad, Adam, Optimizer, RowWiseAdagrad
from fastinc.recommender import Recommender
from fastinc.snapshot import Snapshot
from fastinc.table import EmbeddingTable

if TYPE_CHECKING:
    from fastinc import distributed, torch

__all__ = [
    "FTRL",
    "SGD",
    "TTL",
    "Adagrad",
    "Adam",
    "Changes",
    "EmbeddingTable",
    "Explanation",
    "Guard",
    "LiveIndex",
    "MinCount",
    "Optimizer",
    "Recommender",
    "RowWiseAdagrad",
    "Snapshot",
    "__version__",
    "baselines",
    "checkpoint",
    "datasets",
    "distributed",
    "drift",
    "evaluate",
    "features",
    "get_isa",
    "get_num_threads",
    "info",
    "init",
    "ops",
    "replica",
    "schedules",
    "set_isa",
    "set_num_threads",
    "stream",
    "torch",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch where it is first used."""
    if name in ("distributed", "torch"):
        return importlib.import_module(f"fastinc.{name}")
    raise AttributeError(f"module 'fastinc' has no attribute '{name}'")
