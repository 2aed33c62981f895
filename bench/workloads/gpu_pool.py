"""Pooled lookup on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench.core import Case, CaseResult, Role, Settings, workload
from bench.gpu.contest import Copy, OnDevice, available, check_bytes, contest, share_of_copy, to_host
from bench.gpu.device import Device, Tensor, open_device
from bench.gpu.draws import Draw
from bench.inputs import count_name, shape_name
from bench.reference import check_equal

BAG = 20
_CHECKED = 2000  # bags


class Rows:
    """Weights that all contestants read."""

    def __init__(self, device: Device, rows: int, dim: int, settings: Settings) -> None:
        self.weights = device.uniforms((rows, dim), -0.1, 0.1, settings.random(1))


class Pool(OnDevice):
    """One that pools `Rows`."""

    def __init__(self, device: Device, rows: Rows, count: int) -> None:
        super().__init__(device)
        self.rows, self.count = rows, count

    def set_up(self, settings: Settings) -> None:
        self.weights = self.rows.weights
        self.offsets = self.device.torch.arange(0, self.count, BAG, device=self.device.name)
        self.out = self.device.torch.full((len(self.offsets), self.weights.shape[1]), 7.0, device=self.device.name)

    def first_bags(self, ids: Tensor) -> tuple[Any, Any]:
        """Return the rows of the first bags on the host, in the order of their ids, and where each bag starts."""
        bags = min(_CHECKED, len(self.offsets))
        return to_host(self.weights[ids[: bags * BAG]]), to_host(self.offsets[:bags])


class Fastinc(Pool):
    """``fi.ops.pool``."""

    def __init__(self, device: Device, rows: Rows, count: int, check: bool) -> None:
        super().__init__(device, rows, count)
        self.check_arguments = check
        self.role: Role = "variant" if check else "subject"
        self.name = "fastinc, checked" if check else "fastinc"
        self.timed = f'fi.ops.pool(weights, ids, offsets, "mean", out=out, check={check})'

    def set_up(self, settings: Settings) -> None:
        super().set_up(settings)
        with available("fi.ops.pool"):
            self._pool(self.offsets[:1], self.offsets[:1], self.out[:1])

    def _pool(self, ids: Tensor, offsets: Tensor, out: Tensor) -> Tensor:
        return fi.ops.pool(self.weights, ids, offsets, "mean", out=out, check=self.check_arguments)

    def run(self, prepared: Tensor) -> Tensor:
        return self._pool(prepared, self.offsets, self.out)

    def check(self, inputs: Tensor) -> None:
        """The bytes that the CPU's engine gives for the first bags, and the mean in float64."""
        self.run(inputs)
        rows, offsets = self.first_bags(inputs)
        got = to_host(self.out[: len(offsets)])
        check_bytes("means", got, fi.ops.pool(rows, np.arange(len(rows)), offsets, "mean"))
        means = rows.astype(np.float64).reshape(len(offsets), BAG, -1).mean(axis=1)
        check_equal("means", got, means, tolerance=1e-6)


class TorchBag(Pool):
    """torch, which makes the array it returns."""

    name = "torch embedding_bag"
    timed = 'torch.nn.functional.embedding_bag(ids, weights, offsets, mode="mean"); makes the array it returns'

    def run(self, prepared: Tensor) -> Tensor:
        with self.device.torch.no_grad():
            bag = self.device.torch.nn.functional.embedding_bag
            return bag(prepared, self.weights, self.offsets, mode="mean")

    def check(self, inputs: Tensor) -> None:
        rows, offsets = self.first_bags(inputs)
        means = rows.astype(np.float64).reshape(len(offsets), BAG, -1).mean(axis=1)
        check_equal("means", to_host(self.run(inputs)[: len(offsets)]), means, tolerance=1e-6)


@workload(
    "gpu/pool", f"pool(..., mean) of bags of {BAG} ids: bytes of distinct rows, ids and results a second", on_gpu=True
)
def pool(settings: Settings) -> Iterator[CaseResult]:
    """Forward alone."""
    device = open_device(settings)
    shape = settings.pick((10_000_000, 128), (500_000, 128), (2000, 8))
    count = settings.pick(1_000_000, 100_000, 400)
    draw = Draw(device, "uniform", shape[0])

    def ids(rng: np.random.Generator) -> Any:
        return draw(rng, count)

    unique = len(device.torch.unique(ids(settings.random(75))))
    work = unique * 4.0 * shape[1] + count * 8 + (count // BAG) * (8 + 4.0 * shape[1])
    rows = Rows(device, *shape, settings)
    there = [Fastinc(device, rows, count, False), Fastinc(device, rows, count, True), TorchBag(device, rows, count)]
    case = Case(f"{shape_name(*shape)}, {count_name(count)} ids, mean of {BAG}", ids, work, unit="bytes")
    yield from contest(device, [*there, Copy(device, settings)], [(case, [share_of_copy(0.75)])], settings, key=75)
