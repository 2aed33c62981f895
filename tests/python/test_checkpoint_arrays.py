"""Arrays in safetensors' format: what the format's own library reads and writes, and nothing else."""

import json

import numpy as np
import pytest

from fastinc.checkpoint import _arrays

safetensors = pytest.importorskip("safetensors.numpy")

DTYPES = ["f4", "f8", "i4", "i8", "u1", "u4", "u8"]


def some(shape=(3, 2)):
    rng = np.random.default_rng(0)
    return {f"{code} ü": np.asarray(100 * rng.normal(size=shape)).astype(np.int8).astype(code) for code in DTYPES}


def written(arrays):
    return b"".join(bytes(piece) for piece in _arrays.pieces(arrays))


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(3, 2), (), (0,), (0, 5), (1, 1, 2)])
def test_each_reads_what_the_other_writes(shape):
    arrays = some(shape)
    assert_same(safetensors.load(written(arrays)), arrays)
    assert_same(_arrays.parse(written(arrays)), arrays)
    assert_same(_arrays.parse(safetensors.save(arrays, {"made": "by the library"})), arrays)
    assert _arrays.parse(written({})) == {}


def test_arrays_lie_in_the_bytes_unless_they_are_at_odd_places():
    data = np.frombuffer(bytearray(written(some())), dtype=np.uint8)
    for array in _arrays.parse(data.data).values():
        assert np.shares_memory(array, data)
    moved = np.empty(len(data) + 1, dtype=np.uint8)
    moved[1:] = data
    found = _arrays.parse(moved[1:].data)
    assert_same(found, some())
    assert all(array.flags.aligned for array in found.values())


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        [],
        5,
        {"a": 5},
        {"a": {}},
        {"a": entry(dtype="F16")},
        {"a": entry(dtype=5)},
        {"a": entry(dtype=["F32"])},
        {"a": entry(shape=(3,))},
        {"a": entry(shape=(-1, -2))},
        {"a": entry(shape=(2.0,))},
        {"a": entry(shape=(True, 2))},
        {"a": entry(shape=2)},
        {"a": entry(shape=(1,) * 99 + (2,))},
        {"a": entry(shape=(2**40, 2**40))},
        {"a": entry(shape=(0, 2**70), offsets=(0, 0)), "b": entry()},
        {"a": entry(offsets=(0, 4))},
        {"a": entry(offsets=(1, 9))},
        {"a": entry(offsets=(-8, 0))},
        {"a": entry(offsets=(8, 0))},
        {"a": entry(offsets=(0, 8, 8))},
        {"a": entry(offsets=("0", "8"))},
        {"a": entry(offsets=(0, 8.0))},
        {"a": entry(), "b": entry()},
        {"a": entry(shape=(1,), offsets=(0, 4))},
        {},
    ],
)
def test_what_is_not_the_format_is_refused(header):
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match="not safetensors"):
        _arrays.parse(len(text).to_bytes(8, "little") + text + bytes(8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        bytes(8),
        bytes(16),
        b"\xff" * 16,
        (2).to_bytes(8, "little") + b"{",
        (2).to_bytes(8, "little") + b"\xff{",
    ],
)
def test_headers_that_are_none_are_refused(data):
    with pytest.raises(ValueError, match="not safetensors"):
        _arrays.parse(data)


def test_deep_headers_are_refused():
    text = b"[" * 100_000
    with pytest.raises(ValueError, match="not safetensors"):
        _arrays.parse(len(text).to_bytes(8, "little") + text)
