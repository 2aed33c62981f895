"""quantize_rowwise and dequantize_rowwise against torch's operators, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _devices import device_fixture, ops

device = device_fixture()

FLOAT_MAX = float(np.finfo(np.float32).max)


def torch_pack(x):
    return torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(x)).numpy()


def torch_unpack(q):
    return torch.ops.quantized.embedding_bag_byte_unpack(torch.from_numpy(q)).numpy()


def split(q):
    """Codes, scale, bias."""
    tail = np.ascontiguousarray(q[:, -8:]).view(np.float32)
    return q[:, :-8], tail[:, 0], tail[:, 1]


def assert_as_torch(x):
    """Bit-exact; of a row whose least values are 0.0 and -0.0, torch's choice of bias depends on their places."""
    ours, theirs = ops.quantize_rowwise(x), torch_pack(x)
    np.testing.assert_array_equal(ops.dequantize_rowwise(theirs).view(np.uint32), torch_unpack(theirs).view("u4"))
    np.testing.assert_array_equal(ops.dequantize_rowwise(ours).view(np.uint32), torch_unpack(ours).view("u4"))
    lowest = x.min(1, keepdims=True) == 0
    both_zeros = (lowest & (x == 0) & np.signbit(x)).any(1) & (lowest & (x == 0) & ~np.signbit(x)).any(1)
    np.testing.assert_array_equal(ours[~both_zeros], theirs[~both_zeros])
    for mine, other in zip(split(ours[both_zeros]), split(theirs[both_zeros]), strict=True):
        np.testing.assert_array_equal(mine, other)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
narrow = st.floats(-1, 1, width=32)
tiny = st.floats(-(2.0**-122), 2.0**-122, width=32)
grid = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 255.0, 127.5, FLOAT_MAX, -FLOAT_MAX, 1e-45, -1e-45])
shapes = st.tuples(st.integers(0, 4), st.one_of(st.integers(1, 130), st.sampled_from([1, 8, 16, 32, 64])))


@given(st.one_of([hnp.arrays(np.float32, shapes, elements=e) for e in (finite, narrow, tiny, grid)]))
def test_any_rows(x):
    with np.errstate(over="ignore"):
        assert_as_torch(x)


@pytest.mark.parametrize("scale", [1e-39, 1e-9, 1.0, 1e37])
def test_normal_rows_of_every_dim(scale, isa):
    rng = np.random.default_rng(0)
    for dim in range(1, 131):
        assert_as_torch((rng.standard_normal((5, dim)) * scale + rng.standard_normal() * scale).astype(np.float32))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 1e-45, 1e38, FLOAT_MAX, -FLOAT_MAX])
@pytest.mark.parametrize("dim", [1, 2, 15, 16, 33, 64])
def test_constant_rows(value, dim):
    x = np.full((3, dim), value, np.float32)
    assert_as_torch(x)
    q = ops.quantize_rowwise(x)
    assert not split(q)[0].any()
    np.testing.assert_array_equal(ops.dequantize_rowwise(q), x)


def test_the_format():
    """Codes, then scale, then bias, with ties to even."""
    x = np.array([[0, 0.5, 1.5, 2.5, 255]], np.float32)
    codes, scale, bias = split(ops.quantize_rowwise(x))
    assert codes.tolist() == [[0, 0, 2, 2, 255]]
    assert (scale.tolist(), bias.tolist()) == ([1.0], [0.0])


@pytest.mark.parametrize("low", [-FLOAT_MAX, -3e38])
def test_a_range_that_overflows_gives_the_same_bytes_everywhere(low, isa, threads):
    """The format has no finite scale for such a row; torch and we agree on what comes out."""
    x = np.array([[low, 0.0, FLOAT_MAX] * 11, [1.0, 2.0, 3.0] * 11], np.float32)
    np.testing.assert_array_equal(ops.quantize_rowwise(x), torch_pack(x))


@given(hnp.arrays(np.float32, shapes, elements=narrow))
def test_round_trip_is_within_half_a_step(x):
    q = ops.quantize_rowwise(x)
    back = ops.dequantize_rowwise(q)
    if x.size:
        step = np.ptp(x.astype(np.float64), axis=1, keepdims=True) / 255
        assert (np.abs(back - x.astype(np.float64)) <= 0.5 * step * (1 + 1e-4) + 2e-7).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(0, 4), st.integers(9, 80))))
def test_any_bytes_dequantize_as_torch(q):
    """Also bytes that no row would give: a checkpoint from elsewhere."""
    ours, theirs = ops.dequantize_rowwise(q), torch_unpack(q)
    np.testing.assert_array_equal(ours, theirs)  # NaNs equal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dim", [1, 33])
def test_nonfinite_is_refused_and_named(value, dim, isa):
    for column in range(dim):
        x = np.ones((4, dim), np.float32)
        x[2, column] = value
        with pytest.raises(ValueError, match=rf"^x\[2, {column}\] = -?{abs(value)} is not finite$"):
            ops.quantize_rowwise(x)


def test_results_are_of_the_kind_of_the_input():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    q = ops.quantize_rowwise(torch.from_numpy(x))
    back = ops.dequantize_rowwise(q)
    assert isinstance(q, torch.Tensor)
    assert isinstance(back, torch.Tensor)
    assert isinstance(ops.quantize_rowwise(x), np.ndarray)
    np.testing.assert_array_equal(q.numpy(), ops.quantize_rowwise(x))


def test_out_is_written_and_returned():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    q, back = np.zeros((2, 11), np.uint8), np.zeros((2, 3), np.float32)
    assert ops.quantize_rowwise(x, out=q) is q
    assert ops.dequantize_rowwise(q, out=back) is back
    np.testing.assert_array_equal(back, torch_unpack(q))


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (np.zeros((2, 3)), None, TypeError, "^x has dtype float64"),
        (np.zeros((2, 3), "i8"), None, TypeError, "^x has dtype int64"),
        (np.zeros((2, 3), ">f4"), None, TypeError, "^x has dtype >f4"),
        (np.zeros(3, "f4"), None, ValueError, r"^x has shape \(3,\)"),
        (np.zeros((2, 3, 1), "f4"), None, ValueError, r"^x has shape \(2, 3, 1\)"),
        (np.zeros((2, 0), "f4"), None, ValueError, "^x.*0"),
        (np.zeros((3, 2), "f4").T, None, ValueError, "^x is not contiguous"),
        (np.zeros((2, 3), "f4"), np.zeros((2, 3), "u1"), ValueError, r"^out has shape \(2, 3\); .*\(2, 11\)"),
        (np.zeros((2, 3), "f4"), np.zeros((2, 11), "i1"), TypeError, "^out has dtype int8"),
        (np.zeros((2, 3), "f4"), np.zeros((2, 22), "u1")[:, ::2], ValueError, "^out is not contiguous"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value,
)
def test_quantize_errors(x, out, error, message):
    with pytest.raises(error, match=message):
        ops.quantize_rowwise(x, out=out)


@pytest.mark.parametrize(
    ("q", "out", "error", "message"),
    [
        (np.zeros((2, 8), "u1"), None, ValueError, r"^q .*\b8\b.*9"),
        (np.zeros((2, 0), "u1"), None, ValueError, r"^q .*\b0\b.*9"),
        (np.zeros((2, 11), "i1"), None, TypeError, "^q has dtype int8"),
        (np.zeros(11, "u1"), None, ValueError, r"^q has shape \(11,\)"),
        (np.zeros((2, 22), "u1")[:, ::2], None, ValueError, "^q is not contiguous"),
        (np.zeros((2, 11), "u1"), np.zeros((2, 4), "f4"), ValueError, r"^out has shape \(2, 4\); .*\(2, 3\)"),
        (np.zeros((2, 8), "u1"), np.zeros((2, 0), "f4"), ValueError, "^q.*9 bytes"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value,
)
def test_dequantize_errors(q, out, error, message):
    with pytest.raises(error, match=message):
        ops.dequantize_rowwise(q, out=out)
