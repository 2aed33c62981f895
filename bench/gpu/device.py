"""torch on a device, and the clock of work there: CUDA events, or perf_counter where the same code runs on the CPU."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastinc as fi
from bench import peers
from bench.core import MissingError, Settings

Call = Callable[[], object]
#: A torch tensor.
Tensor = Any
_EVICTED_AT_LEAST = 1 << 30
_SMI = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")


class Device:
    """The CPU: everything runs, at sizes where times say nothing of speed."""

    name = "cpu"
    rule = "on the CPU, caches as they come: that it runs, not how fast it is"
    #: Whether figures are of a GPU, and goals apply.
    real = False

    def __init__(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)

    def generator(self, rng: np.random.Generator) -> Any:
        """Return torch's generator here, in a state that depends on `rng`'s alone."""
        return self.torch.Generator(self.name).manual_seed(int(rng.integers(2**62)))

    def uniforms(self, shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Tensor:
        """Return float32 numbers in [low, high)."""
        made = self.torch.empty(shape, device=self.name)
        return made.uniform_(low, high, generator=self.generator(rng))

    def normals(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Return standard normal numbers."""
        return self.torch.empty(shape, device=self.name).normal_(generator=self.generator(rng))

    def synchronize(self) -> None:
        """Wait until all work here is done."""

    def seconds(self, call: Call, long: bool = False) -> float:
        """Return the seconds that the work of a call takes here, from when all work before it is done.

        `long` says that launching it takes the caller up to milliseconds.
        """
        return self.wall(call)

    def wall(self, call: Call) -> float:
        """Return the seconds from a call to the end of its work, as the caller's clock has them."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def graph(self, call: Call) -> Call:
        """Return what does the work of a call once more, by a CUDA graph where there is one; may do it once now."""
        return call

    def release(self) -> None:
        """Give freed memory back."""

    def clocks(self) -> dict[str, str]:
        """Return clocks, power and temperature as they are now."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what the device is."""
        return {"name": "cpu"}


class CudaDevice(Device):
    """The current GPU, on torch's current stream."""

    name = "cuda"
    real = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if not self.torch.cuda.is_available():
            raise MissingError("torch finds no GPU; --device cpu runs the same code on the CPU")
        facts = fi.info()["cuda"]
        if not facts["available"]:
            raise MissingError(f"fastinc can't use CUDA: {facts['reason']}")
        self.properties = self.torch.cuda.get_device_properties(0)
        self.cache = int(getattr(self.properties, "L2_cache_size", 0)) or 64 << 20
        # Read, not written: what is dirty would go back to memory on somebody's clock. So long a read that the call
        # is wholly launched before the device comes to it: launching then takes none of the time between the events.
        self._evictor = self.torch.randint(2**62, (max(16 * self.cache, _EVICTED_AT_LEAST) // 8,), device=self.name)
        self.rule = (
            f"all cold: before each measurement the GPU reads {self._evictor.nbytes >> 20} MiB, "
            f"with {self.cache >> 20} MiB of L2; inputs are drawn anew for each round; CUDA events after that read, "
            "unless it says wall"
        )

    def _evict(self) -> None:
        self._evictor.sum()

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()

    def seconds(self, call: Call, long: bool = False) -> float:
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(20 if long else 1):
            self._evict()
        begin.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return float(begin.elapsed_time(end)) * 1e-3

    def wall(self, call: Call) -> float:
        self._evict()
        self.synchronize()
        start = time.perf_counter()
        result = call()
        self.synchronize()
        seconds = time.perf_counter() - start
        del result
        return seconds

    def graph(self, call: Call) -> Call:
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # kernels are loaded at their first launch, which can't be captured
            call()
        cuda.current_stream().wait_stream(side)
        self.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            call()

        def replay() -> None:
            graph.replay()

        return replay

    def release(self) -> None:
        self.synchronize()
        self.torch.cuda.empty_cache()

    def clocks(self) -> dict[str, str]:
        query = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader", "-i", "0"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        values = [value.strip() for value in done.stdout.splitlines()[0].split(",")]
        return dict(zip(_SMI, values, strict=False))

    def facts(self) -> dict[str, Any]:
        of = self.properties
        return {
            "name": of.name,
            "capability": f"{of.major}.{of.minor}",
            "multiprocessors": of.multi_processor_count,
            "memory_gib": round(of.total_memory / 2**30, 1),
            "l2_mib": self.cache >> 20,
            "driver": self.clocks().get("driver_version"),
            "torch": self.torch.__version__,
            "torch_cuda": self.torch.version.cuda,
        }


def open_device(settings: Settings) -> Device:
    """Return the device of the settings; MissingError, and why, where there is none."""
    return CudaDevice(settings) if settings.device == "cuda" else Device(settings)
