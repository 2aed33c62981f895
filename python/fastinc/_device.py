"""Arrays in CUDA memory: whose they are, the stream their work is on, and the module that works on them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "DeferredCount",
    "as_int64",
    "cuda_engine",
    "cuda_facts",
    "current_stream",
    "device_of",
    "empty_like",
    "is_on_cuda",
    "settle",
]

#: DLPack's numbers of CUDA memory and of managed CUDA memory.
_CUDA_TYPES = (2, 13)
#: DLPack's name of CUDA's default stream.
_DEFAULT_STREAM = 1

Array = Any

_engine: ModuleType | None = None


def cuda_facts() -> dict[str, Any]:
    """Return whether the CUDA engine can be used, and the reason if not."""
    try:
        module = importlib.import_module("fastinc._cuda")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        why = "this build of fastinc has no CUDA engine: there was no CUDA toolkit" if missing else str(error)
        return {"available": False, "reason": why}
    reason = module.why_unusable()
    return {"available": not reason, "reason": reason or None}


def cuda_engine(name: str) -> ModuleType:
    """Return the module for arrays on a GPU; RuntimeError, naming the argument that is on one, where it can't be."""
    global _engine
    if _engine is None:
        facts = cuda_facts()
        if not facts["available"]:
            what = name if "=" in name else f"{name} is on a CUDA device"
            raise RuntimeError(f"{what}: CUDA can't be used: {facts['reason']}")
        _engine = sys.modules["fastinc._cuda"]
    return _engine


def is_on_cuda(x: Array) -> bool:
    """Return whether an array is in CUDA memory; False for what is no array."""
    if type(x) is np.ndarray:
        return False
    on_cuda = getattr(x, "is_cuda", None)  # of torch, quicker than DLPack
    if type(on_cuda) is bool:
        return on_cuda
    device = getattr(x, "__dlpack_device__", None)
    try:
        return device is not None and device()[0] in _CUDA_TYPES
    except Exception:  # a producer that refuses: the call that needs the array says so
        return False


def current_stream(x: Array) -> int:
    """Return the stream that x's library is working on, on x's device, as DLPack numbers streams."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return int(torch.cuda.current_stream(x.device).cuda_stream) or _DEFAULT_STREAM
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        with x.device:
            return int(cupy.cuda.get_current_stream().ptr) or _DEFAULT_STREAM
    return _DEFAULT_STREAM  # __dlpack__(stream=1) makes it wait for whatever the library does


def device_of(x: Array) -> int:
    """Return the number of the GPU that x is on."""
    return int(x.__dlpack_device__()[1])


def settle(x: Array) -> None:
    """Wait for a call over x, unless x's library orders what it does next by the stream that the call was on."""
    known = (getattr(sys.modules.get("torch"), "Tensor", ()), getattr(sys.modules.get("cupy"), "ndarray", ()))
    if not isinstance(x, known):
        cuda_engine("x").synchronize(x, _DEFAULT_STREAM)


def empty_like(x: Array, shape: tuple[int, ...], dtype: str, name: str) -> Array:
    """Return a new array of x's library on x's device; `name` is x's, for the error where there can't be one."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch.empty(shape, dtype=getattr(torch, dtype), device=x.device)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        with x.device:
            return cupy.empty(shape, dtype=dtype)
    if hasattr(x, "__array_namespace__"):
        space = x.__array_namespace__()
        return space.empty(shape, dtype=getattr(space, dtype), device=x.device)
    raise TypeError(
        f"{name} is a {type(x).__name__}: fastinc can make arrays on a device as torch, CuPy, and libraries with "
        "__array_namespace__ do; pass one of theirs"
    )


def as_int64(ids: Array, name: str) -> Array:
    """Return int32 ids on a device as int64, which its table knows alone; anything else as it is."""
    if not is_on_cuda(ids) or str(getattr(ids, "dtype", "")).rpartition(".")[2] != "int32":
        return ids
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(ids, torch.Tensor):
        return ids.to(torch.int64)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(ids, cupy.ndarray):
        with ids.device:
            return ids.astype("int64")
    if hasattr(ids, "astype"):
        return ids.astype("int64")
    raise TypeError(f"{name} has dtype int32; it must be int64 in an array of {type(ids).__name__}")


class DeferredCount:
    """How many rows an update on a device skipped, which it may not know yet: ``int()`` waits for the device.

    Ids out of range were left out; what reads the count raises IndexError for them.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, report: Array, num_rows: int, ids: Array) -> None:
        self._report, self._num_rows, self._ids = report, num_rows, ids
        self._stream = current_stream(report)  # whatever stream is current when it is read
        self._value: int | None = None

    def __int__(self) -> int:
        if self._value is None:
            skipped, bad = cuda_engine("report").read_update_report(self._report, self._stream)
            if bad >= 0:
                raise IndexError(
                    f"ids[{bad}] = {int(self._ids[bad])} is out of range for weights with {self._num_rows} rows"
                )
            self._value = skipped
        return self._value

    __index__ = __int__

    def __bool__(self) -> bool:
        return int(self) != 0

    def __eq__(self, other: object) -> bool:
        return int(self) == other

    def __repr__(self) -> str:
        return f"DeferredCount({'not read yet' if self._value is None else self._value})"
