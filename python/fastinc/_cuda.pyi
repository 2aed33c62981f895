from typing import Any

from fastinc._core import DenseUpdate

REPORT_BYTES: int

def why_unusable() -> str: ...
def update_scratch_bytes(n: int, num_rows: int, dim: int) -> int: ...
def update(
    update: DenseUpdate,
    values: tuple[float, ...],
    weights: Any,
    state: tuple[Any, ...],
    ids: Any,
    grads: Any,
    check: bool,
    scratch: Any,
    report: Any,
    stream: int,
) -> None: ...
def read_update_report(report: Any, stream: int) -> tuple[int, int]: ...
def quantize_rowwise(x: Any, out: Any, report: Any, check: bool, stream: int) -> None: ...
def dequantize_rowwise(q: Any, out: Any, stream: int) -> None: ...
def pool(
    weights: Any,
    ids: Any,
    offsets: Any,
    mode: str,
    per_sample_weights: Any,
    out: Any,
    report: Any,
    check: bool,
    stream: int,
) -> None: ...
def pool_backward(
    grads: Any, offsets: Any, mode: str, per_sample_weights: Any, out: Any, report: Any, check: bool, stream: int
) -> None: ...
