"""torch and FBGEMM, imported where first used, or why they can't be."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from bench.core import MissingError, Settings

TBE = "FBGEMM TBE"
_TBE_MODULE = "fbgemm_gpu.split_table_batched_embeddings_ops_training"


def _load(module: str, package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FBGEMM's wheel warns of its own missing parts
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingError(f"{missing} is not installed: pip install 'fastinc[bench]'") from error
    except (ImportError, OSError) as error:  # "undefined symbol": a wheel for another torch
        raise MissingError(f"{package} can't be imported: {' '.join(str(error).split())[:200]}") from error


def torch(settings: Settings) -> Any:
    """Return torch with the threads of the settings."""
    # torch's large arrays on huge pages, as NumPy's are (1.5 times the rate on scattered rows). Read once, by torch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    module = _load("torch", "torch")
    module.set_num_threads(settings.threads)
    module.sparse.check_sparse_tensor_invariants.disable()  # the default, and no warning that it is
    return module


def fbgemm(settings: Settings) -> Any:
    """Return FBGEMM's package; its operators are then in ``torch.ops.fbgemm``."""
    torch(settings)
    return _load("fbgemm_gpu", "fbgemm-gpu-cpu")


def tbe(settings: Settings, rows: int, dim: int, optimizer: str, lr: float, eps: float) -> Any:
    """Return FBGEMM's table on the CPU: SUM pooling, no weight decay (which it would ignore)."""
    fbgemm(settings)
    training = _load(_TBE_MODULE, "fbgemm-gpu-cpu")
    names = {"rowwise_adagrad": "EXACT_ROWWISE_ADAGRAD", "adagrad": "EXACT_ADAGRAD", "sgd": "EXACT_SGD"}
    if optimizer not in names:
        raise MissingError(f"it has no {optimizer} on the CPU")
    types = _load("fbgemm_gpu.split_embedding_configs", "fbgemm-gpu-cpu")
    common = _load("fbgemm_gpu.split_table_batched_embeddings_ops_common", "fbgemm-gpu-cpu")
    spec = (rows, dim, training.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return training.SplitTableBatchedEmbeddingBagsCodegen(
            [spec],
            optimizer=getattr(types.EmbOptimType, names[optimizer]),
            learning_rate=lr,
            eps=eps,
            weight_decay=0.0,
            pooling_mode=common.PoolingMode.SUM,
        )


def faiss(settings: Settings) -> Any:
    """Return FAISS with the threads of the settings."""
    module = _load("faiss", "faiss-cpu")
    module.omp_set_num_threads(settings.threads)
    return module


def usearch() -> Any:
    """Return usearch's functions over arrays."""
    return _load("usearch.index", "usearch")
