"""The devices that tests run on: the CPU, and CUDA, by a GPU or by the emulator that stands in for one.

`ops` is fi.ops for tests that know only NumPy: on CUDA it moves arrays there and back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastinc as fi

#: A folder with the module _cuda as it is built over tests/cuda_emulator.
EMULATED_MODULE = os.environ.get("FASTINC_EMULATED_CUDA", "")

#: How many tests ran how; conftest prints it.
counts = {"gpu": 0, "emulated": 0, "skipped": 0}


def _load_emulated() -> bool:
    """Put the emulated module in the place of fastinc._cuda."""
    found = sorted(Path(EMULATED_MODULE).glob("_cuda*.so")) if EMULATED_MODULE else []
    if not found:
        return False
    spec = importlib.util.spec_from_file_location("fastinc._cuda", found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastinc._cuda"] = module
    spec.loader.exec_module(module)
    fi._cuda = module
    return True


def _find_cuda() -> str:
    if torch.cuda.is_available() and fi.info()["cuda"]["available"]:
        return "gpu"
    return "emulated" if _load_emulated() else ""


#: "gpu", "emulated", or "": there is none.
CUDA = _find_cuda()
NO_CUDA = "no GPU, and FASTINC_EMULATED_CUDA names no folder with an emulated module (make test-python builds one)"


# --- arrays on a device that the emulator stands in for -----------------------------------------------------

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_VERSIONED, _PLAIN = b"dltensor_versioned", b"dltensor"
# Where a capsule's struct says on which device type its array is.
_DEVICE_TYPE = {_VERSIONED: 2 * 4 + 8 + 8 + 8 + 8, _PLAIN: 8}
_KDL_CUDA = 2


class Namespace:
    """What of the array API a maker of results needs."""

    float32, uint8, int32, int64 = np.float32, np.uint8, np.int32, np.int64

    @staticmethod
    def empty(shape, dtype, device):
        assert device == "cuda:0"
        return DeviceArray(np.full(shape, 77, dtype))


class DeviceArray:
    """An array of the emulated device: a NumPy array's memory, which only says that it is the device's."""

    device = "cuda:0"

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    @property
    def shape(self):
        return self.host.shape

    @property
    def dtype(self):
        return self.host.dtype

    def astype(self, dtype):
        return DeviceArray(self.host.astype(dtype))

    def __len__(self):
        return len(self.host)

    def __getitem__(self, at):
        part = self.host[at]
        return DeviceArray(part) if isinstance(part, np.ndarray) else part

    def reshape(self, *shape):
        return DeviceArray(self.host.reshape(*shape))

    def __array_namespace__(self):
        return Namespace

    def __dlpack_device__(self):
        return _KDL_CUDA, 0

    def __dlpack__(self, *, stream=None, max_version=None):
        assert stream == 1, "the consumer's stream"
        capsule = self.host.__dlpack__(max_version=max_version)
        for name, offset in _DEVICE_TYPE.items():
            if f'"{name.decode()}"' in repr(capsule):
                ctypes.c_int32.from_address(_capsule_pointer(capsule, name) + offset).value = _KDL_CUDA
        return capsule


# --- moving ---------------------------------------------------------------------------------------------------


class Devices:
    """Which device the tests of a module are at."""

    current = "cpu"


def to_device(x: Any) -> Any:
    """A NumPy array on the current device; anything else, and what no device has, as it is."""
    if Devices.current == "cpu" or not isinstance(x, np.ndarray) or not x.dtype.isnative:
        return x
    return DeviceArray(x) if CUDA == "emulated" else torch.from_numpy(x).cuda()


def to_host(x: Any) -> Any:
    """What came from a device as NumPy arrays."""
    if isinstance(x, tuple):
        return tuple(map(to_host, x))
    if isinstance(x, DeviceArray):
        return x.host
    return x.cpu().numpy() if isinstance(x, torch.Tensor) and x.is_cuda else x


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its NumPy arrays on the current device, and what it wrote to them copied back."""

    def call(*args, **kwargs):
        if Devices.current == "cpu":
            return function(*args, **kwargs)
        moved = [to_device(x) for x in args]
        named = {name: to_device(x) for name, x in kwargs.items()}
        result = function(*moved, **named)
        pairs = [*zip(args, moved, strict=True), *((kwargs[name], named[name]) for name in kwargs)]
        for host, device in pairs:
            if isinstance(host, np.ndarray) and host.flags.writeable and isinstance(device, torch.Tensor):
                host[...] = device.cpu().numpy()
            if result is device and isinstance(host, np.ndarray):
                return host
        return to_host(result)

    return call


class Ops:
    """fi.ops on the current device."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return on_device(getattr(fi.ops, name))


ops = Ops()


def new_table(*args: Any, **kwargs: Any) -> fi.EmbeddingTable:
    """A table on the current device."""
    if Devices.current == "cuda" and kwargs.get("admission") is not None:
        pytest.skip("tables on a GPU have no admission, and say so")
    return fi.EmbeddingTable(*args, **{"device": Devices.current, **kwargs})


def new_index(table: fi.EmbeddingTable, factory: str = "exact", **kwargs: Any) -> fi.LiveIndex:
    """An index over a table of the current device."""
    if Devices.current == "cuda" and factory != "exact":
        pytest.skip("FAISS indexes are over tables on the CPU, and say so")
    return fi.LiveIndex(table, factory, **kwargs)


def fewer(queries: np.ndarray) -> np.ndarray:
    """Some of the queries where an emulator has to answer them, which takes it a thousand times as long."""
    return queries[:5] if Devices.current == "cuda" and CUDA == "emulated" else queries


def usage_of(table: fi.EmbeddingTable) -> dict[str, int]:
    """memory_usage() without what a device keeps from call to call."""
    usage = table.memory_usage()
    usage["total"] -= usage.pop("scratch", 0)
    return usage


def stats_of(table: fi.EmbeddingTable) -> dict[str, Any]:
    """stats() without what reading, and on a device a refused batch, may change."""
    stats = {**table.stats(), "bytes": usage_of(table)}
    passing = ("hits", "misses") if table.device == "cpu" else ("hits", "misses", "load")
    return {name: count for name, count in stats.items() if name not in passing}


def device_fixture() -> Any:
    """A fixture that runs a module's tests on every device: `device = device_fixture()` in the module."""

    @pytest.fixture(params=["cpu", "cuda"], scope="module", autouse=True)
    def device(request):
        if request.param == "cuda" and not CUDA:
            pytest.skip(NO_CUDA)
        Devices.current = request.param
        yield request.param
        Devices.current = "cpu"

    return device
