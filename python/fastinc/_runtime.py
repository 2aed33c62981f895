"""What the engine runs on: versions, instruction set, threads, CUDA."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from fastinc import _core
from fastinc._device import cuda_facts

#: Packages that fastinc couples with, reported by :func:`info`.
_PARTNERS = ("numpy", "torch", "faiss-cpu", "faiss-gpu", "pyarrow", "river", "safetensors")


def get_isa() -> str:
    """Return the instruction set the kernels use: "base", "v3" (AVX2) or "v4" (AVX-512) on x86-64.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.get_isa() in ("base", "v3", "v4")
    True
    """
    return _core.current_isa()


def set_isa(isa: str) -> None:
    """Use another instruction set from the next call on; results are the same bytes.

    Parameters
    ----------
    isa
        One of ``fi.info()["isas"]``. The environment variable ``FASTINC_ISA`` sets it at import.

    Raises
    ------
    ValueError
        This CPU or build doesn't have it.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.set_isa(fi.get_isa())
    """
    _core.set_isa(isa)


def get_num_threads() -> int:
    """Return how many threads one call may use: ``FASTINC_NUM_THREADS``, else the CPUs of this process.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def set_num_threads(num_threads: int) -> None:
    """Set how many threads one call may use, 1 to 1024; results are the same bytes for any number.

    Raises
    ------
    ValueError
        Not from 1 to 1024.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.set_num_threads(fi.get_num_threads())
    """
    _core.set_num_threads(num_threads)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> dict[str, Any]:
    """Describe this installation: versions, instruction sets, threads, and CUDA or why there is none.

    Returns
    -------
    dict
        ``version``, ``python``, ``platform``, ``compiler``, ``isa``, ``isas``, ``num_threads``, ``cuda`` (whether
        it can be used, the reason if not, and how far it is tested) and ``packages`` (name to version, None where
        missing).

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.info()["version"] == fi.__version__
    True
    """
    return {
        "version": _core.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "compiler": _core.compiler(),
        "isa": _core.current_isa(),
        "isas": _core.available_isas(),
        "num_threads": _core.num_threads(),
        "cuda": {**cuda_facts(), "note": "tested under an emulator on the CPU; not run on a GPU yet"},
        "packages": {package: _version_of(package) for package in _PARTNERS},
    }
