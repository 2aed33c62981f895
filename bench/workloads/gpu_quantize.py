"""Rows to 8 bits and back, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench.core import Case, CaseResult, Role, Settings, WrongError, workload
from bench.gpu.contest import Copy, OnDevice, available, check_bytes, contest, share_of_copy, to_host
from bench.gpu.device import Device, Tensor, open_device
from bench.inputs import shape_name
from bench.reference import check_equal

_CHECKED = 20_000
TORCH_PACK, TORCH_UNPACK = "torch prepack", "torch unpack"


class Rowwise(OnDevice):
    """What turns rows into others; a sample of them must have the bytes that the CPU's engine gives."""

    def __init__(self, device: Device, rows: int, dim: int) -> None:
        super().__init__(device)
        self.shape = (rows, dim)

    def sample(self) -> Tensor:
        """Return rows from all over."""
        torch = self.device.torch
        places = torch.linspace(0, self.shape[0] - 1, _CHECKED, dtype=torch.float64, device=self.device.name)
        return places.long()

    def make_out(self, columns: int, dtype: str) -> Tensor:
        """Return an array to write to, that isn't zeros."""
        kind = getattr(self.device.torch, dtype)
        return self.device.torch.full((self.shape[0], columns), 7, dtype=kind, device=self.device.name)


class Quantize(Rowwise):
    """``fi.ops.quantize_rowwise``."""

    def __init__(self, device: Device, rows: int, dim: int, check_finite: bool) -> None:
        super().__init__(device, rows, dim)
        self.check_finite = check_finite
        self.role: Role = "variant" if check_finite else "subject"
        self.name = "fastinc quantise, checked" if check_finite else "fastinc quantise"
        self.timed = f"fi.ops.quantize_rowwise(x, out=out, check_finite={check_finite})"

    def set_up(self, settings: Settings) -> None:
        self.out = self.make_out(self.shape[1] + 8, "uint8")
        with available("fi.ops.quantize_rowwise"):
            self.quantize(self.device.normals((1, self.shape[1]), settings.random(3)), self.out[:1])

    def quantize(self, x: Tensor, out: Tensor) -> Tensor:
        """Quantise x."""
        return fi.ops.quantize_rowwise(x, out=out, check_finite=self.check_finite)

    def run(self, prepared: Tensor) -> Tensor:
        return self.quantize(prepared, self.out)

    def check(self, inputs: Tensor) -> None:
        rows = self.sample()
        self.run(inputs)
        check_equal("codes", to_host(self.out[rows]), fi.ops.quantize_rowwise(to_host(inputs[rows])))


class TorchPack(Rowwise):
    """torch, which makes the array it returns."""

    name = TORCH_PACK
    timed = "torch.ops.quantized.embedding_bag_byte_prepack(x); makes the array it returns"

    def set_up(self, settings: Settings) -> None:
        self.call = self.device.torch.ops.quantized.embedding_bag_byte_prepack
        with available("torch has no such operator for this device"):
            self.call(self.device.normals((1, self.shape[1]), settings.random(3)))

    def run(self, prepared: Tensor) -> Tensor:
        return self.call(prepared)

    def check(self, inputs: Tensor) -> None:
        """One code apart, for its rounding on a GPU is its own."""
        rows, dim = self.sample(), self.shape[1]
        got = to_host(self.run(inputs)[rows])
        expected = fi.ops.quantize_rowwise(to_host(inputs[rows]))
        apart = np.abs(got[:, :dim].astype(np.int32) - expected[:, :dim])
        if apart.max() > 1:
            raise WrongError(f"codes are {apart.max()} apart")


class Dequantize(Rowwise):
    """``fi.ops.dequantize_rowwise``."""

    name, role = "fastinc dequantise", "subject"
    timed = "fi.ops.dequantize_rowwise(q, out=out)"

    def set_up(self, settings: Settings) -> None:
        self.out = self.make_out(self.shape[1], "float32")
        with available("fi.ops.dequantize_rowwise"):
            codes = self.device.torch.ones((1, self.shape[1] + 8), dtype=self.device.torch.uint8)
            fi.ops.dequantize_rowwise(codes.to(self.device.name), out=self.out[:1])

    def run(self, prepared: Tensor) -> Tensor:
        return fi.ops.dequantize_rowwise(prepared, out=self.out)

    def check(self, inputs: Tensor) -> None:
        rows = self.sample()
        self.run(inputs)
        check_bytes("values", self.out[rows], fi.ops.dequantize_rowwise(to_host(inputs[rows])))


class TorchUnpack(Rowwise):
    """torch, which makes the array it returns."""

    name = TORCH_UNPACK
    timed = "torch.ops.quantized.embedding_bag_byte_unpack(q); makes the array it returns"

    def set_up(self, settings: Settings) -> None:
        self.call = self.device.torch.ops.quantized.embedding_bag_byte_unpack
        with available("torch has no such operator for this device"):
            codes = self.device.torch.ones((1, self.shape[1] + 8), dtype=self.device.torch.uint8)
            self.call(codes.to(self.device.name))

    def run(self, prepared: Tensor) -> Tensor:
        return self.call(prepared)

    def check(self, inputs: Tensor) -> None:
        rows = self.sample()
        got, expected = to_host(self.run(inputs)[rows]), fi.ops.dequantize_rowwise(to_host(inputs[rows]))
        check_equal("values", got, expected, tolerance=1e-5)


def random_codes(device: Device, rows: int, dim: int, rng: np.random.Generator) -> Tensor:
    """Return rows of any codes, with scales and biases such as rows of standard normal numbers have."""
    torch = device.torch
    q = torch.randint(256, (rows, dim + 8), dtype=torch.uint8, device=device.name, generator=device.generator(rng))
    ends = torch.cat([device.uniforms((rows, 1), 0.02, 0.03, rng), device.uniforms((rows, 1), -3.0, -2.0, rng)], dim=1)
    q[:, dim:] = ends.view(torch.uint8)
    return q


@workload("gpu/quantize", "quantize_rowwise and dequantize_rowwise: bytes read and written a second", on_gpu=True)
def quantize(settings: Settings) -> Iterator[CaseResult]:
    """Rows drawn anew for each round."""
    device = open_device(settings)
    rows, dim = settings.pick((4_000_000, 128), (400_000, 128), (500, 16))
    work = rows * (5.0 * dim + 8)

    def draw(rng: np.random.Generator) -> Any:
        return device.normals((rows, dim), rng)

    case = Case(f"quantise {shape_name(rows, dim)}", draw, work, unit="bytes")
    there: list[OnDevice] = [Quantize(device, rows, dim, False), Quantize(device, rows, dim, True)]
    there += [TorchPack(device, rows, dim), Copy(device, settings)]
    yield from contest(device, there, [(case, [share_of_copy(0.85)])], settings, key=73)

    def draw_codes(rng: np.random.Generator) -> Any:
        return random_codes(device, rows, dim, rng)

    case = Case(f"dequantise {shape_name(rows, dim)}", draw_codes, work, unit="bytes")
    back: list[OnDevice] = [Dequantize(device, rows, dim), TorchUnpack(device, rows, dim), Copy(device, settings)]
    yield from contest(device, back, [(case, [share_of_copy(0.85)])], settings, key=74)
