"""The CUDA module as it is installed, where there is no GPU: it loads, says why it can't be used, and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinc as fi
from _devices import CUDA, DeviceArray
from fastinc import _cuda_ops, _device

needs_module = pytest.mark.skipif(
    not any(Path(fi.__file__).parent.glob("_cuda*.so")) and "FASTINC_REQUIRE_CUDA_MODULE" not in os.environ,
    reason="fastinc was built without a CUDA toolkit",
)


def run_python(code):
    """In a process that has the installed module, not the emulated one."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_module
@pytest.mark.skipif(CUDA == "gpu", reason="there is a GPU")
def test_it_loads_without_a_driver_and_says_why_it_cannot_be_used():
    reason = run_python("import fastinc._cuda as m; print(m.why_unusable())")
    assert "CUDA" in reason
    facts = run_python("import fastinc as fi; c = fi.info()['cuda']; print(c['available'], c['reason'])")
    assert facts == f"False {reason}"
    assert "not run on a GPU yet" in fi.info()["cuda"]["note"]


@needs_module
@pytest.mark.skipif(CUDA == "gpu", reason="there is a GPU")
def test_arrays_on_a_gpu_are_refused_with_the_reason():
    code = (
        "import fastinc as fi, numpy as np\n"
        "class Array:\n"
        "    def __dlpack_device__(self): return 2, 0\n"
        "try: fi.ops.sgd_update(Array(), Array(), Array())\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert run_python(code).startswith("weights is on a CUDA device: CUDA can't be used: ")


def test_a_build_without_the_engine_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastinc._cuda", None)
    monkeypatch.setattr(_device, "_engine", None)
    facts = fi.info()["cuda"]
    assert not facts["available"]
    assert "no CUDA toolkit" in facts["reason"]
    with pytest.raises(RuntimeError, match=r"^x is on a CUDA device: CUDA can't be used: .* toolkit"):
        fi.ops.quantize_rowwise(DeviceArray(np.ones((1, 4), np.float32)))


emulated = pytest.mark.skipif(CUDA != "emulated", reason="needs the emulator")


def on_device(*arrays):
    return [DeviceArray(array) for array in arrays]


def batch():
    return on_device(np.zeros((3, 2), np.float32), np.array([1, 1]), np.ones((2, 2), np.float32))


@emulated
def test_results_are_made_by_the_library_of_the_argument():
    x = DeviceArray(np.arange(8, dtype=np.float32).reshape(2, 4))
    q = fi.ops.quantize_rowwise(x)
    assert isinstance(q, DeviceArray)
    assert q.host.tobytes() == fi.ops.quantize_rowwise(x.host).tobytes()
    assert isinstance(fi.ops.dequantize_rowwise(q), DeviceArray)


@emulated
@pytest.mark.parametrize("at", [1, 2])
def test_every_array_must_be_on_the_device_of_the_first(at):
    arrays = batch()
    arrays[at] = arrays[at].host
    name = ("weights", "ids", "grads")[at]
    with pytest.raises(ValueError, match=rf"^{name} is a NumPy array; this call needs it on CUDA device 0$"):
        fi.ops.sgd_update(*arrays)
    assert not arrays[0].host.any()


@emulated
def test_another_gpu_is_another_device():
    class Elsewhere(DeviceArray):
        def __dlpack_device__(self):
            return 2, 1

    weights, ids, grads = batch()
    with pytest.raises(ValueError, match=r"^grads is on CUDA device 1; this call needs it on CUDA device 0$"):
        fi.ops.sgd_update(weights, ids, Elsewhere(grads.host))


@emulated
def test_a_cpu_call_refuses_device_arrays():
    weights, ids, grads = batch()
    with pytest.raises(ValueError, match=r"^grads is on CUDA device 0; this call needs it on the CPU$"):
        fi.ops.sgd_update(weights.host, ids.host, grads)


@emulated
def test_a_deferred_count_is_read_when_it_is_asked_for():
    weights, ids, grads = batch()
    grads.host[1] = np.nan
    skipped = fi.ops.sgd_update(weights, ids, grads, nonfinite="skip")
    assert isinstance(skipped, fi.ops.DeferredCount)
    assert repr(skipped) == "DeferredCount(not read yet)"
    assert (int(skipped), bool(skipped), skipped == 1, skipped != 2) == (1, True, True, True)
    assert repr(skipped) == "DeferredCount(1)"
    assert [10, 20][skipped] == 20


@emulated
def test_ids_out_of_range_are_told_when_the_count_is_read():
    weights, ids, grads = batch()
    ids.host[1] = 7
    skipped = fi.ops.sgd_update(weights, ids, grads, lr=1.0, nonfinite="skip")
    assert weights.host.tolist() == [[0, 0], [-1, -1], [0, 0]]
    with pytest.raises(IndexError, match=r"^ids\[1\] = 7 is out of range for weights with 3 rows$"):
        int(skipped)
    with pytest.raises(IndexError, match=r"^ids\[1\] = 7 is out of range for weights with 3 rows$"):
        fi.ops.sgd_update(weights, ids, grads)


@emulated
def test_rows_with_values_that_are_not_finite_may_pass_unchecked():
    x = DeviceArray(np.array([[1, 2], [np.inf, 0]], np.float32))
    q = fi.ops.quantize_rowwise(x, check_finite=False)
    assert fi.ops.dequantize_rowwise(q).host[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"^x\[1, 0\] = inf is not finite$"):
        fi.ops.quantize_rowwise(x)


@emulated
def test_an_array_of_no_known_library_needs_out():
    class Bare(DeviceArray):
        __array_namespace__ = property()

    x = Bare(np.ones((1, 4), np.float32))
    with pytest.raises(TypeError, match=r"^x is a Bare: fastinc can make arrays on a device as torch, CuPy"):
        fi.ops.quantize_rowwise(x)


@emulated
def test_the_engine_checks_what_it_is_given_to_write_to():
    """A mistake in fastinc itself: too little scratch."""
    weights, ids, grads = batch()
    none, report = on_device(np.empty(0, np.uint8), np.empty(16, np.uint8))
    engine = _device.cuda_engine("weights")
    step = fi._core.DenseUpdate("sgd", ("lr",), ())
    with pytest.raises(ValueError, match=r"^scratch has 0 bytes; it needs \d+$"):
        engine.update(step, (0.1,), weights, (), ids, grads, True, none, report, 1)
    with pytest.raises(ValueError, match=r"^report has 0 bytes; it needs \d+$"):
        engine.quantize_rowwise(grads, DeviceArray(np.empty((2, 10), np.uint8)), none, True, 1)


def test_what_is_no_array_is_not_on_cuda():
    assert not any(map(_device.is_on_cuda, (None, 3, [1], "x", np.ones(2))))

    class Refusing:
        def __dlpack_device__(self):
            raise BufferError("no")

    assert not _device.is_on_cuda(Refusing())
    assert _cuda_ops._lengths(None, 2) == (0, 0)


# --- tables -------------------------------------------------------------------------------------------------


def tables():
    """A table on the CPU and one on the device, after the same calls."""
    rng = np.random.default_rng(0)
    both = [fi.EmbeddingTable(4, fi.Adagrad(lr=0.5), device=device) for device in ("cpu", "cuda")]
    ids, grads = rng.integers(0, 50, 80), rng.standard_normal((80, 4)).astype(np.float32)
    both[0].update(ids, grads)
    assert both[1].update(*on_device(ids, grads)) == 0
    return both


@emulated
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_a_table_gives_arrays_where_the_ids_are(dtype):
    cpu, cuda = tables()
    ids = np.arange(60, dtype=dtype)
    offsets = np.arange(0, 60, 7, dtype=dtype)
    calls = [
        lambda t, i, o: t.lookup(i),
        lambda t, i, o: t.lookup_quantized(i),
        lambda t, i, o: t.pool(i, o, "mean"),
    ]
    for call in calls:
        expected = call(cpu, ids, offsets)
        there = call(cuda, *on_device(ids, offsets))
        assert isinstance(there, DeviceArray)
        assert there.host.tobytes() == expected.tobytes()
        here = call(cuda, ids, offsets)
        assert isinstance(here, np.ndarray)
        assert here.tobytes() == expected.tobytes()
    out = DeviceArray(np.empty((60, 4), np.float32))
    assert cuda.lookup(DeviceArray(ids), out=out) is out
    assert out.host.tobytes() == cpu.lookup(ids).tobytes()
    assert cuda.remove(DeviceArray(ids[:10])) == cpu.remove(ids[:10])
    assert 3 not in cuda
    assert (np.int64(30) in cuda) == (30 in cpu)


@emulated
def test_an_index_over_a_table_on_the_device():
    cpu, cuda = tables()
    queries = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    expected = fi.LiveIndex(cpu).search(queries, 7, exclude=[1, 2], with_version=True)
    index = fi.LiveIndex(cuda)
    assert index.device == "cuda"
    there = index.search(DeviceArray(queries), 7, exclude=[1, 2], with_version=True)
    here = index.search(queries, 7, exclude=[1, 2], with_version=True)
    for mine, device, host in zip(expected[:2], there[:2], here[:2], strict=True):
        assert isinstance(device, DeviceArray)
        assert device.host.tobytes() == mine.tobytes() == host.tobytes()
    assert there[2] == here[2] == expected[2] == 1
    assert index.search(DeviceArray(queries[0]), 2)[1].shape == (2,)
    with pytest.raises(ValueError, match=r"^queries has shape \(3, 2\); it must be"):
        index.search(DeviceArray(queries[:, :2]), 2)
    with pytest.raises(ValueError, match=r"^queries\[1, 0\] = nan is not finite$"):
        index.search(DeviceArray(np.where(np.arange(3)[:, None] == 1, np.float32(np.nan), queries)), 2)


@emulated
def test_a_table_on_another_device_is_a_copy():
    cpu, cuda = tables()
    here, there = cuda.to("cpu"), cpu.to("cuda")
    assert (here.device, there.device) == ("cpu", "cuda:0")
    ids, grads = np.arange(20), np.ones((20, 4), np.float32)
    for table in (cpu, cuda, here, there):
        table.update(ids, grads)
    rows = {table.lookup(range(60)).tobytes() for table in (cpu, cuda, here, there)}
    assert len(rows) == 1
    assert here.optimizer is not cuda.optimizer


@emulated
def test_what_a_table_on_the_device_refuses():
    _, cuda = tables()
    ids, grads = np.arange(2), np.ones((2, 4), np.float32)
    before = cuda.version
    with pytest.raises(ValueError, match=r"^grads is a NumPy array; this call needs it on CUDA device 0$"):
        cuda.update(DeviceArray(ids), grads)
    with pytest.raises(ValueError, match=r"^grads is on CUDA device 0; this call needs it on the CPU$"):
        cuda.update(ids, DeviceArray(grads))
    with pytest.raises(ValueError, match=r"^grads has shape \(2, 3\)"):
        cuda.update(*on_device(ids, grads[:, :3].copy()))
    assert cuda.version == before
    with pytest.raises(ValueError, match=r"^min_count = 2 is not supported on CUDA"):
        fi.EmbeddingTable(4, device="cuda", admission=fi.MinCount(2))
    with pytest.raises(ValueError, match=r"^factory = 'Flat' needs its table on the CPU, not 'cuda:0'"):
        fi.LiveIndex(cuda, "Flat")
    with pytest.raises(ValueError, match=r"^device = 'cpu': an index 'exact' is where its table is, on 'cuda:0'$"):
        fi.LiveIndex(cuda, "exact", device="cpu")
    with pytest.raises(RuntimeError, match="cudaSetDevice"):
        fi.EmbeddingTable(4, device="cuda:7")
