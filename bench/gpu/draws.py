"""Random ids and gradients, made on the device: never zeros, and new for every round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.gpu.device import Device, Tensor
from bench.inputs import ZIPF_EXPONENT

#: The multiplier of `bench.inputs.scattered`, as int64.
_SCATTER = 0x9E3779B97F4A7C15 - 2**64


@dataclass(frozen=True)
class Batch:
    """What one update takes: (n,) int64 ids and (n, dim) gradients."""

    ids: Tensor
    grads: Tensor


class Draw:
    """How ids of `rows` rows are drawn: "uniform" or "zipf", as `bench.inputs.Draw` does."""

    def __init__(self, device: Device, kind: str, rows: int) -> None:
        self.device, self.kind, self.rows = device, kind, rows
        if kind == "zipf":
            torch, where = device.torch, device.name
            ranks = torch.arange(1, rows + 1, dtype=torch.float64, device=where)
            self._cumulative = torch.cumsum(ranks**-ZIPF_EXPONENT, 0)
            generator = device.generator(np.random.default_rng(rows))
            self._row_of_rank = torch.randperm(rows, generator=generator, device=where)

    def __call__(self, rng: np.random.Generator, count: int) -> Tensor:
        """Return (count,) int64 ids."""
        torch, where, generator = self.device.torch, self.device.name, self.device.generator(rng)
        if self.kind == "uniform":
            return torch.randint(self.rows, (count,), generator=generator, device=where)
        drawn = torch.rand(count, generator=generator, device=where, dtype=torch.float64) * self._cumulative[-1]
        ranks = torch.searchsorted(self._cumulative, drawn, right=True).clamp_(max=self.rows - 1)
        return self._row_of_rank[ranks]


def batches(draw: Draw, size: int, dim: int, calls: int = 1) -> Callable[[np.random.Generator], list[Batch]]:
    """Return a function that draws `calls` batches of `size` ids with their gradients."""

    def make(rng: np.random.Generator) -> list[Batch]:
        return [Batch(draw(rng, size), draw.device.normals((size, dim), rng)) for _ in range(calls)]

    return make


def scattered(rows: Tensor) -> Tensor:
    """Return int64 keys for row numbers, spread over all of int64; products wrap around, as they do in C."""
    return rows * _SCATTER
