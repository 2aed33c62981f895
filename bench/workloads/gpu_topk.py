"""The k best of quantised rows, on a GPU."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastinc as fi
from bench import peers
from bench.core import Case, CaseResult, MissingError, Settings, WrongError, workload
from bench.gpu.contest import Copy, OnDevice, available, check_bytes, contest, share_of_copy, times, to_host
from bench.gpu.device import Device, Tensor, open_device
from bench.inputs import shape_name
from bench.reference import check_equal

TORCH, FAISS = "torch bf16 matmul + topk", "faiss.knn_gpu"
_CHUNK = 1 << 20
_CHECKED_QUERIES = 4
_CHECKED_ROWS = 500_000
#: Of the k best in exact arithmetic, how many a contestant that rounds its rows must find.
_LEAST_FOUND = 0.7


class Rows:
    """Quantised rows, and in the types that the peers take, made where first asked for."""

    def __init__(self, device: Device, rows: int, dim: int, settings: Settings) -> None:
        self.device, self.shape = device, (rows, dim)
        self.q = device.torch.empty((rows, dim + 8), dtype=device.torch.uint8, device=device.name)
        with available("fi.ops.quantize_rowwise"):
            for begin in range(0, rows, _CHUNK):
                out = self.q[begin : begin + _CHUNK]
                fi.ops.quantize_rowwise(device.normals((len(out), dim), settings.random(4, begin)), out=out)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the values of the rows, some at a time."""
        for begin in range(0, self.shape[0], _CHUNK):
            yield begin, fi.ops.dequantize_rowwise(self.q[begin : begin + _CHUNK])

    def as_type(self, dtype: Any) -> Tensor:
        """Return all rows in another type."""
        made = self.device.torch.empty(self.shape, dtype=dtype, device=self.device.name)
        for begin, values in self.chunks():
            made[begin : begin + len(values)] = values
        return made

    def best(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return scores (n, k) and rows in float64: what is right."""
        torch, exact = self.device.torch, queries.double()
        scores = torch.empty((len(queries), 0), dtype=torch.float64, device=self.device.name)
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device.name)
        for begin, values in self.chunks():
            some, at = torch.topk(exact @ values.double().T, min(k, len(values)))
            scores, rows = torch.cat([scores, some], dim=1), torch.cat([rows, at + begin], dim=1)
            scores, order = torch.topk(scores, min(k, scores.shape[1]))
            rows = rows.gather(1, order)
        return scores, rows


class Searcher(OnDevice):
    """One that finds the k best rows of queries."""

    def __init__(self, device: Device, rows: Rows, k: int) -> None:
        super().__init__(device)
        self.rows, self.k = rows, k

    def found(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and rows, best first."""
        raise NotImplementedError

    def run(self, prepared: Tensor) -> object:
        return self.found(prepared)

    def check(self, inputs: Tensor) -> None:
        """Nearly all of the k best of the first queries, for one that rounds its rows."""
        queries = inputs[:_CHECKED_QUERIES]
        expected = to_host(self.rows.best(queries, self.k)[1])
        got = to_host(self.found(inputs)[1])[: len(queries)]
        for mine, right in zip(got, expected, strict=True):
            share = len(np.intersect1d(mine, right)) / self.k
            if share < _LEAST_FOUND:
                raise WrongError(f"{share:.0%} of the {self.k} best rows were found")


class Fastinc(Searcher):
    """``fi.ops.topk_int8``."""

    name, role = "fastinc", "subject"

    def set_up(self, settings: Settings) -> None:
        with available("fi.ops.topk_int8"):
            call: Any = fi.ops.topk_int8
            has_option = "check_finite" in inspect.signature(call).parameters
            self.call = functools.partial(call, **({"check_finite": False} if has_option else {}))
            self.timed = f"fi.ops.topk_int8(queries, q, k{', check_finite=False' if has_option else ''})"
            scores, _ = self.call(self.device.normals((1, self.rows.shape[1]), settings.random(5)), self.rows.q[:8], 2)
            if str(getattr(scores, "device", "cpu")).partition(":")[0] != self.device.name:
                raise MissingError("not available: fi.ops.topk_int8 has no results on this device")

    def found(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        scores, rows = self.call(queries, self.rows.q, self.k)
        return scores, rows

    def check(self, inputs: Tensor) -> None:
        """The scores of float64, of the rows that are named; and over a part of the rows, the CPU's bytes."""
        queries = inputs[:_CHECKED_QUERIES]
        exact, _ = self.rows.best(queries, self.k)
        scores, rows = self.found(inputs)
        check_equal("scores", to_host(scores[: len(queries)]), to_host(exact), tolerance=1e-4)
        for query, named in zip(queries, rows, strict=False):
            if len(self.device.torch.unique(named)) != self.k:
                raise WrongError("a row is named twice")
            values = fi.ops.dequantize_rowwise(self.rows.q[named]).double() @ query.double()
            check_equal("scores of the rows", to_host(values), to_host(exact[0]), tolerance=1e-4)
            exact = exact[1:]
        part = self.rows.q[:_CHECKED_ROWS]
        got_scores, got_rows = self.call(queries, part, self.k)
        expected_scores, expected_rows = fi.ops.topk_int8(to_host(queries), to_host(part), self.k)
        check_bytes("scores, beside the CPU's,", got_scores, expected_scores)
        check_equal("rows, beside the CPU's,", to_host(got_rows), expected_rows)


class Torch(Searcher):
    """The product in bfloat16, kept whole, and the k best of it."""

    name = TORCH
    timed = "torch.topk(queries.bfloat16() @ rows.T, k): rows in bfloat16"

    def set_up(self, settings: Settings) -> None:
        self.values = self.rows.as_type(self.device.torch.bfloat16)

    def found(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        scores, rows = self.device.torch.topk(queries.bfloat16() @ self.values.T, self.k)
        return scores, rows


class Faiss(Searcher):
    """FAISS's brute force on the GPU."""

    name = FAISS
    timed = "faiss.knn_gpu(resources, queries, rows, k, metric=INNER_PRODUCT): rows and queries in float16"

    def set_up(self, settings: Settings) -> None:
        faiss = peers.faiss(settings)
        if not self.device.real or not hasattr(faiss, "StandardGpuResources"):  # faiss-cpu has knn_gpu, too
            raise MissingError("the FAISS that is installed has no GPU part, or this is no GPU")
        import faiss.contrib.torch_utils  # lets it take tensors

        self.faiss, self.resources = faiss, faiss.StandardGpuResources()
        self.values = self.rows.as_type(self.device.torch.float16)

    def found(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        metric = self.faiss.METRIC_INNER_PRODUCT
        scores, rows = self.faiss.knn_gpu(self.resources, queries.half(), self.values, self.k, metric=metric)
        return scores, rows


@workload("gpu/topk", "topk_int8, k = 100: the bytes of the rows a second, whatever the number of queries", on_gpu=True)
def topk(settings: Settings) -> Iterator[CaseResult]:
    """One query, which reads all rows; and many, which multiply."""
    device = open_device(settings)
    shape = settings.pick((10_000_000, 128), (300_000, 128), (3000, 16))
    k = settings.pick(100, 100, 10)
    rows = Rows(device, *shape, settings)
    contestants = [kind(device, rows, k) for kind in (Fastinc, Torch, Faiss)]
    cases = []
    for count, targets in (
        (1, [share_of_copy(0.8)]),
        (settings.pick(256, 256, 8), [times(TORCH, 4), times(FAISS, 4, needed=False)]),
    ):

        def draw(rng: np.random.Generator, count: int = count) -> Any:
            return device.normals((count, shape[1]), rng)

        label = f"{shape_name(*shape)}, k = {k}, {count} quer{'y' if count == 1 else 'ies'}"
        cases.append((Case(label, draw, float(rows.q.nbytes), unit="bytes"), targets))
    yield from contest(device, [*contestants, Copy(device, settings)], cases, settings, key=76)
