"""DLPack's C functions, which a type may offer beside __dlpack__: used where they are sound, never believed."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

import numpy as np
import pytest
import torch

import fastinc as fi

DIM = 4
has_exchange = pytest.mark.skipif(
    "__dlpack_c_exchange_api__" not in vars(torch.Tensor), reason="this torch has no DLPack C functions"
)


@pytest.fixture
def table():
    table = fi.EmbeddingTable(DIM, fi.SGD(lr=1.0), fi.init.Zeros())
    table.load([1, 2], np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM))
    return table


# --- torch --------------------------------------------------------------------------------------------------


@has_exchange
def test_torch_tensors_need_no_dlpack_method(table, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the slow way")

    monkeypatch.setattr(torch.Tensor, "__dlpack__", fail)
    monkeypatch.setattr(torch.Tensor, "__dlpack_device__", fail)
    ids, out = torch.tensor([2, 7]), torch.empty(2, DIM)
    assert table.lookup(ids, out=out) is out
    assert out.tolist() == [[4, 5, 6, 7], [0] * DIM]
    assert table.update(ids.int(), torch.ones(2, DIM)) == 0
    assert table.lookup(ids).tolist() == [[3, 4, 5, 6], [-1] * DIM]
    weights, state = torch.zeros(3, DIM), torch.zeros(3)
    fi.ops.rowwise_adagrad_update(weights, state, ids[:1], torch.ones(1, DIM), lr=0.5)
    assert weights[2].tolist() == [-0.5] * DIM
    assert state.tolist() == [0, 0, 1]


def test_views_of_torch_tensors(table):
    """A storage offset, and strides of axes with one element or none, which may be anything."""
    ids = torch.arange(10)[2:3]
    assert table.lookup(ids).tolist() == [[4, 5, 6, 7]]
    grads = torch.ones(3, 2 * DIM)[1:2, 1 : 1 + DIM]
    assert grads.stride() == (2 * DIM, 1)
    table.update(ids, grads)
    assert table.lookup(ids).tolist() == [[3, 4, 5, 6]]
    assert table.lookup(torch.arange(8)[3:3]).shape == (0, DIM)
    assert table.update(torch.arange(8)[::2][:0], torch.ones(5, 2 * DIM)[:0, ::2]) == 0


@pytest.mark.parametrize("kind", ["leaf", "result", "parameter"])
@pytest.mark.parametrize("call", ["update", "lookup"])
def test_requires_grad_is_refused(table, kind, call):
    leaf = torch.ones(1, DIM, requires_grad=True)
    tensor = {"leaf": leaf, "result": leaf * 2, "parameter": torch.nn.Parameter(torch.ones(1, DIM))}[kind]
    name = "grads" if call == "update" else "out"
    with pytest.raises(ValueError, match=rf"^{name}: its DLPack export refused: .*grad"):
        table.update([1], tensor) if call == "update" else table.lookup([1], out=tensor)
    assert table.version == 1
    table.update([1], tensor.detach())
    assert table.lookup([1]).tolist() == [(np.arange(DIM) - tensor[0].detach().numpy()).tolist()]


def test_a_frozen_parameter_passes(table):
    table.update([1], torch.nn.Parameter(torch.ones(1, DIM), requires_grad=False))
    assert table.lookup([1]).tolist() == [[-1, 0, 1, 2]]


def test_lazily_negated_tensors_are_refused(table):
    negated = torch._neg_view(torch.ones(1, DIM))
    imaginary = torch.ones(1, DIM, dtype=torch.complex64).conj().imag
    for grads in (negated, torch.nn.Parameter(negated, requires_grad=False), imaginary):
        with pytest.raises(ValueError, match=r"^grads is a lazily negated tensor; pass its resolve_neg\(\)$"):
            table.update([1], grads)
    with pytest.raises(ValueError, match=r"^ids is a lazily negated tensor"):
        table.lookup(torch._neg_view(torch.tensor([1])))
    with pytest.raises(ValueError, match=r"^out is a lazily negated tensor"):
        table.lookup([1], out=torch._neg_view(torch.ones(1, DIM)))
    assert table.version == 1
    table.update([1], negated.resolve_neg())
    assert table.lookup([1]).tolist() == [[1, 2, 3, 4]]


def test_tensors_without_memory_are_refused(table):
    """torch's functions fail with an error set, which must not be there when __dlpack__ is asked."""
    sparse, meta = torch.ones(1, DIM).to_sparse(), torch.ones(1, DIM, device="meta")
    for grads in (sparse, meta, torch.ones(1, DIM, dtype=torch.complex64).conj()):
        with pytest.raises(ValueError, match=r"^grads"):
            table.update([1], grads)
    assert table.version == 1


def test_a_subclass_of_torch_speaks_for_itself(table):
    class Recorded(torch.Tensor):
        asked = 0

        def __dlpack__(self, **kwargs):
            Recorded.asked += 1
            return (2 * self.as_subclass(torch.Tensor)).__dlpack__(**kwargs)

    table.update([1], torch.ones(1, DIM).as_subclass(Recorded))
    assert Recorded.asked > 0  # twice by a torch that knows no max_version
    assert table.lookup([1]).tolist() == [[-2, -1, 0, 1]]


# --- a producer of the tests' own ---------------------------------------------------------------------------


class Device(ctypes.Structure):
    _fields_ = (("type", c_int32), ("id", c_int32))


class DType(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device", Device),
        ("ndim", c_int32),
        ("dtype", DType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


DELETER = ctypes.PYFUNCTYPE(None, c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", DELETER),
        ("flags", c_uint64),
        ("tensor", Tensor),
    )


EXPORT = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, POINTER(POINTER(Managed)))
VIEW = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, POINTER(Tensor))


class Table(ctypes.Structure):
    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("older", c_void_p),
        ("allocator", c_void_p),
        ("export", EXPORT),
        ("adopt", c_void_p),
        ("view", VIEW),
        ("stream", c_void_p),
    )


capsule_new = ctypes.pythonapi.PyCapsule_New
capsule_new.restype, capsule_new.argtypes = ctypes.py_object, (c_void_p, c_char_p, c_void_p)
NAME = b"dlpack_exchange_api"
IMMORTAL = []  # tables live as long as the process: the protocol says so


def tensor_of(array):
    code = {"i": 0, "u": 1, "f": 2}[array.dtype.kind]
    lengths, strides = (c_int64 * array.ndim)(*array.shape), (c_int64 * array.ndim)()
    strides[:] = [stride // array.itemsize for stride in array.strides]
    dtype = DType(code, 8 * array.itemsize, 1)
    return Tensor(array.ctypes.data, Device(1, 0), array.ndim, dtype, lengths, strides, 0)


@DELETER
def give_back(address):
    Producer.given_back += 1


@EXPORT
def export(producer, out):
    producer.calls.append("export")
    producer.kept = Managed(*producer.version, None, give_back, producer.flags, producer.tensor())
    out[0] = ctypes.pointer(producer.kept)
    return 0


@VIEW
def view(producer, out):
    producer.calls.append("view")
    producer.kept_tensor = producer.tensor()
    ctypes.memmove(out, byref(producer.kept_tensor), ctypes.sizeof(Tensor))
    return 0


class Plain:
    """A producer with __dlpack__ alone; `spoil` changes what its C functions say, where a subclass has them."""

    given_back = 0

    def __init__(self, array, *, flags=0, version=(1, 0), spoil=None):
        self.array, self.flags, self.version, self.spoil = array, flags, version, spoil
        self.calls = []

    @property
    def shape(self):
        return self.array.shape

    def tensor(self):
        tensor = tensor_of(self.array)
        if self.spoil:
            self.spoil(tensor)
        return tensor

    def __dlpack__(self, **kwargs):
        self.calls.append("__dlpack__")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def capsule_of(*, major=1, older=None, export=export, view=view, name=NAME):
    table = Table(major, 3, ctypes.addressof(older) if older else None, None, export, None, view, None)
    IMMORTAL.append(table)
    return capsule_new(ctypes.addressof(table), name, None)


class Producer(Plain):
    __dlpack_c_exchange_api__ = capsule_of()


def as_ids(**kwargs):
    return Producer(np.array([2]), **kwargs)


def ones(**kwargs):
    return Producer(np.ones((1, DIM), np.float32), **kwargs)


def test_reads_view_and_writes_ask_who_may_write(table):
    """Only the export, which costs an allocation, says what is read-only."""
    ids, out = as_ids(), Producer(np.zeros((1, DIM), np.float32))
    before = Producer.given_back
    assert table.lookup(ids, out=out) is out
    assert (ids.calls, out.calls) == (["view"], ["export"])
    assert Producer.given_back == before + 1
    assert out.array.tolist() == [[4, 5, 6, 7]]
    grads = ones()
    table.update(ids, grads)
    assert grads.calls == ["view"]
    assert table.lookup(ids).tolist() == [[3, 4, 5, 6]]


def test_a_read_only_export_is_refused(table):
    array = np.zeros((1, DIM), np.float32)
    array.flags.writeable = False
    before = Producer.given_back
    out = Producer(array, flags=1)
    with pytest.raises(ValueError, match=r"^out is read-only"):
        table.lookup([1], out=out)
    assert out.calls == ["export", "__dlpack__"]
    assert Producer.given_back == before + 1
    assert not array.any()


def test_what_is_exported_is_held_until_the_call_ends(table):
    """Given back when the call fails too."""
    before = Producer.given_back
    weights, state = Producer(np.zeros((3, DIM), np.float32)), Producer(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"^grads\[0, 0\] = nan"):
        fi.ops.rowwise_adagrad_update(weights, state, as_ids(), ones().array * np.float32("nan"))
    assert Producer.given_back == before + 2
    fi.ops.rowwise_adagrad_update(weights, state, as_ids(), ones(), lr=0.5)
    assert Producer.given_back == before + 4
    assert weights.array[2].tolist() == [-0.5] * DIM


UNSOUND = {
    "on another device": lambda tensor: setattr(tensor.device, "type", 2),
    "without data": lambda tensor: setattr(tensor, "data", None),
    "negative length": lambda tensor: tensor.shape.__setitem__(0, -1),
    "too many axes": lambda tensor: setattr(tensor, "ndim", 65),
    "overflowing shape": lambda tensor: tensor.shape.__setitem__(0, 2**62),
    "without shape": lambda tensor: setattr(tensor, "shape", None),
    "other dtype": lambda tensor: setattr(tensor.dtype, "bits", 16),
    "vectors": lambda tensor: setattr(tensor.dtype, "lanes", 4),
    "other shape": lambda tensor: setattr(tensor, "ndim", 1),
    "strided": lambda tensor: tensor.strides.__setitem__(1, 2),
    "unaligned": lambda tensor: setattr(tensor, "byte_offset", 1),
}


@pytest.mark.parametrize("spoil", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_answer_leaves_the_word_to_dlpack(table, spoil):
    grads, out = ones(spoil=spoil), Producer(np.zeros((1, DIM), np.float32), spoil=spoil)
    table.update([2], grads)
    table.lookup([2], out=out)
    assert out.array.tolist() == [[3, 4, 5, 6]]
    assert (grads.calls, out.calls) == (["view", "__dlpack__"], ["export", "__dlpack__"])


def test_an_export_of_another_version_is_given_back(table):
    out = Producer(np.zeros((1, DIM), np.float32), version=(2, 0))
    before = Producer.given_back
    table.lookup([2], out=out)
    assert (out.calls, Producer.given_back) == (["export", "__dlpack__"], before + 1)
    assert out.array.tolist() == [[4, 5, 6, 7]]


@VIEW
def failing_view(producer, out):
    return -1


@EXPORT
def empty_export(producer, out):
    return 0


BROKEN = {
    "an int": 42,
    "an address": id(Producer),
    "None": None,
    "another's capsule": capsule_of(name=b"arrow_schema"),
    "a nameless capsule": capsule_of(name=None),
    "a later version": capsule_of(major=2),
    "no functions": capsule_of(export=EXPORT(), view=VIEW()),
    "failing functions": capsule_of(export=empty_export, view=failing_view),
}


@pytest.mark.parametrize("attribute", BROKEN.values(), ids=BROKEN)
def test_a_broken_table_leaves_the_word_to_dlpack(table, attribute):
    kind = type("Broken", (Plain,), {"__dlpack_c_exchange_api__": attribute})
    ids, out = kind(np.array([2])), kind(np.zeros((1, DIM), np.float32))
    for _ in range(2):
        assert table.lookup(ids, out=out) is out
    assert out.array.tolist() == [[4, 5, 6, 7]]
    assert ids.calls == out.calls == ["__dlpack__"] * 2
    silent = type("Silent", (), {"__dlpack_c_exchange_api__": attribute})()
    with pytest.raises(TypeError, match=r"^grads must be an array .*, not Silent$"):
        table.update([1], silent)


def test_an_older_table_behind_a_later_one(table):
    older = Table(1, 3, None, None, export, None, view, None)
    IMMORTAL.append(older)
    kind = type("Later", (Plain,), {"__dlpack_c_exchange_api__": capsule_of(major=2, older=older)})
    ids = kind(np.array([2]))
    assert table.lookup(ids).tolist() == [[4, 5, 6, 7]]
    assert ids.calls == ["view"]


def test_views_are_optional(table):
    kind = type("NoView", (Plain,), {"__dlpack_c_exchange_api__": capsule_of(view=VIEW())})
    ids = kind(np.array([2]))
    assert table.lookup(ids).tolist() == [[4, 5, 6, 7]]
    assert ids.calls == ["export"]


def test_a_subclass_does_not_inherit_the_functions(table):
    kind = type("Sub", (Producer,), {})
    ids = kind(np.array([2]))
    assert table.lookup(ids).tolist() == [[4, 5, 6, 7]]
    assert ids.calls == ["__dlpack__"]


def test_types_come_and_go(table):
    """Types whose addresses are used again, and more types with functions than are remembered."""
    for i in range(40):
        attribute = {"__dlpack_c_exchange_api__": capsule_of()} if i % 2 else {}
        ids = type("Passing", (Plain,), attribute)(np.array([2]))
        for _ in range(2):
            assert table.lookup(ids).tolist() == [[4, 5, 6, 7]]
        assert ids.calls == ["view" if i % 2 else "__dlpack__"] * 2
        del ids
        gc.collect()


# --- references ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, Producer, Plain], ids=["numpy", "torch", "c", "dlpack"])
def test_calls_keep_no_references(table, make):
    ids, grads, out = np.array([2]), np.ones((1, DIM), np.float32), np.empty((1, DIM), np.float32)
    arguments = [make(ids), make(grads), make(out)]
    table.lookup(arguments[0], out=arguments[2])
    watched = [*arguments, np.dtype(np.float32), *map(type, arguments)]
    before = [sys.getrefcount(each) for each in watched]
    for _ in range(50):
        table.lookup(arguments[0], out=arguments[2])
        table.update(arguments[0], arguments[1])
        table.lookup(arguments[0])
        with pytest.raises(ValueError, match=r"^grads has shape"):
            table.update(np.arange(2), arguments[1])
    after = [sys.getrefcount(each) for each in watched]
    assert all(abs(a - b) < 20 for a, b in zip(after, before, strict=True))
    gone = weakref.ref(arguments[0])
    del arguments, watched
    gc.collect()
    assert gone() is None or make is np.asarray
