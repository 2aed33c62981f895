"""Rows to 8 bits, against the bandwidth of a copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench import peers
from bench.core import Case, CaseResult, Contestant, Settings, workload
from bench.inputs import Float32, fill, shape_name
from bench.limit import copy
from bench.pages import make_huge
from bench.race import race
from bench.reference import check_equal

COPY = "copy"


def by_formula(x: Float32) -> Any:
    """Return rows in the fused 8-bit rowwise format: codes, float32 scale, float32 bias."""
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    span = high - low
    scale, inverse = span / np.float32(255), np.float32(255) / (span + np.float32(1e-8))
    codes = np.rint((x - low) * inverse).astype(np.uint8)
    return np.concatenate([codes, scale.view(np.uint8), low.view(np.uint8)], axis=1)


class Quantizer(Contestant):
    """All read the same array, which is far larger than any cache."""

    def __init__(self, rows: int, dim: int) -> None:
        self.shape = (rows, dim)

    def make_out(self) -> None:
        """Make an array to write to whose pages are there."""
        self.out = make_huge(np.full((self.shape[0], self.shape[1] + 8), np.uint8(1)))

    def given(self, prepared: Any) -> Any:
        """Nothing is warm: the array is the rows."""
        return ()

    def check(self, inputs: Float32) -> None:
        """Bit for bit, on rows from all over."""
        rows = np.linspace(0, self.shape[0] - 1, 2000).astype(np.int64)
        result = np.asarray(self.run(self.prepare(inputs)))
        check_equal("codes", result[rows], by_formula(inputs[rows]))


class Fastinc(Quantizer):
    """fastinc."""

    name, role = "fastinc", "subject"
    timed = "fi.ops.quantize_rowwise(x, out=out); here as below, x is the rows: it and out are cold"

    def set_up(self, settings: Settings) -> None:
        self.make_out()

    def run(self, prepared: Any) -> object:
        return fi.ops.quantize_rowwise(prepared, out=self.out)


class FbgemmOut(Quantizer):
    """FBGEMM, told where to write."""

    name = "FBGEMM quantise"
    timed = "torch.ops.fbgemm.FloatToFused8BitRowwiseQuantizedOut(out, x)"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)
        peers.fbgemm(settings)
        self.call = self.torch.ops.fbgemm.FloatToFused8BitRowwiseQuantizedOut
        self.make_out()

    def prepare(self, inputs: Float32) -> Any:
        return self.torch.from_numpy(self.out), self.torch.from_numpy(inputs)

    def run(self, prepared: Any) -> object:
        return self.call(*prepared)


class Prepack(Quantizer):
    """torch, which can't be told where to write."""

    name = "torch prepack"
    timed = "torch.ops.quantized.embedding_bag_byte_prepack(x); makes the array it returns"

    def set_up(self, settings: Settings) -> None:
        self.torch = peers.torch(settings)

    def prepare(self, inputs: Float32) -> Any:
        return self.torch.from_numpy(inputs)

    def run(self, prepared: Any) -> object:
        return self.torch.ops.quantized.embedding_bag_byte_prepack(prepared)


class Formula(Quantizer):
    """NumPy."""

    name = "NumPy"
    timed = "the formula in NumPy, in pieces that stay in the cache"

    def set_up(self, settings: Settings) -> None:
        self.make_out()

    def run(self, prepared: Any) -> object:
        for begin in range(0, len(prepared), 2048):
            self.out[begin : begin + 2048] = by_formula(prepared[begin : begin + 2048])
        return self.out


class Copy(Contestant):
    """What the memory can do."""

    name, role = COPY, "limit"

    def __init__(self, size: int) -> None:
        self.size = size
        self.timed = f"memcpy of {size / 1e9:.3g} GB, all threads, bytes read and written both counted"

    def set_up(self, settings: Settings) -> None:
        self.source = fill(make_huge(np.empty(self.size // 4, np.float32)), -1, 1, seed=3)
        self.target = make_huge(np.full_like(self.source, 0.5))
        self.call = copy(self.target, self.source, settings)

    def check(self, inputs: Any) -> None:
        self.call()
        check_equal("copy", self.target[::997], self.source[::997])

    def prepare(self, inputs: Any) -> Any:
        self.source[:: 1 << 16] += np.float32(1)  # never the same bytes again
        return None

    def run(self, prepared: Any) -> None:
        self.call()

    def work(self) -> float:
        return 2.0 * self.source.nbytes


@workload("quantize", "quantize_rowwise: bytes read and written a second, against a copy's", judged=True)
def quantize(settings: Settings) -> Iterator[CaseResult]:
    """An array drawn anew for every round, and never copied: it is larger than the caches."""
    rows, dim = settings.pick((1_000_000, 128), (100_000, 128), (500, 16))

    def draw(rng: np.random.Generator) -> Float32:
        return fill(make_huge(np.empty((rows, dim), np.float32)), -1, 1, seed=int(rng.integers(2**62)))

    kinds = (Fastinc, FbgemmOut, Prepack, Formula)
    contestants: list[Contestant] = [kind(rows, dim) for kind in kinds]
    contestants.append(Copy(settings.pick(10**9, 10**8, 10**5)))
    case = Case(shape_name(rows, dim), draw, rows * (5.0 * dim + 8), unit="bytes", goals={COPY: 0.8})
    yield from race(contestants, [case], settings, key=30, needs=rows * dim * 12 + 3e9)
