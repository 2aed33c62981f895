"""A FAISS index on a GPU, searched as one on the CPU is."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_FOUND", "GpuIndex", "check_gpu"]

#: FAISS's kernels select no more than this.
MOST_FOUND = 2048
_TEMPORARY_BYTES = 256 << 20
_KINDS = ("IndexPreTransform", "IndexFlat", "IndexIVFFlat", "IndexIVFPQ", "IndexIVFScalarQuantizer")


def check_gpu(faiss: Any, factory: str, parts: list[Any]) -> None:
    """Raise ValueError where an index made of these parts can't be put on a GPU here, and say why."""
    if not hasattr(faiss, "StandardGpuResources"):
        raise ValueError(
            "device = 'cuda': the FAISS that is installed has no GPU part; install faiss-gpu in the place of faiss-cpu"
        )
    if faiss.get_num_gpus() < 1:
        raise ValueError("device = 'cuda': FAISS finds no GPU, or no driver for it")
    for part in parts:
        if not isinstance(part, tuple(getattr(faiss, kind) for kind in _KINDS)):
            raise ValueError(f"factory = {factory!r}: FAISS has no {type(part).__name__} on a GPU; use device='cpu'")


class GpuIndex:
    """A copy of an index on the first GPU.

    FAISS's GPU indexes are not safe for two threads at a time, even if they only search: one waits for the other.

    Parameters
    ----------
    faiss
        The module.
    index
        A trained index on the CPU, with its rows.
    """

    def __init__(self, faiss: Any, index: Any) -> None:
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(_TEMPORARY_BYTES)
        self._index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        self._lock = threading.Lock()

    def search(
        self, queries: NDArray[np.float32], k: int, *, params: Any = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and positions (n, k); k is at most `MOST_FOUND`."""
        with self._lock:
            scores, positions = self._index.search(queries, k, params=params)
        return scores, positions
