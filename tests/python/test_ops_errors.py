"""What fi.ops.*_update refuses: the error's type, that it names argument and value, and that nothing changed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import fastinc as fi
from _reference import BAD_PARAMETERS, ELEMENT, PLAIN_CASES, Case, bytes_of, case_ids

ROWS, DIM = 6, 4


def arguments(case):
    rng = np.random.default_rng(11)
    state = case.make_state(ROWS, DIM)
    return {
        "weights": rng.standard_normal((ROWS, DIM)).astype(np.float32),
        **state,
        "ids": np.array([1, 4, 1]),
        "grads": rng.standard_normal((3, DIM)).astype(np.float32),
    }


def assert_refused(case, error, message, **replaced):
    """Call with some arguments replaced (in the arrays or the parameters) and compare all bytes before and after."""
    arrays = arguments(case)
    untouched = {name: arrays[name] for name in arrays if name not in replaced}
    before = bytes_of(untouched)
    replaced_before = {k: bytes_of(v) for k, v in replaced.items() if isinstance(v, np.ndarray)}
    arrays.update(replaced)
    parts = {"weights", "ids", "grads"}
    state = {name: arrays[name] for name in case.spec.state}
    more = {name: value for name, value in arrays.items() if name not in parts | set(state)}
    with pytest.raises(error, match=message):
        case.update(arrays["weights"], state, arrays["ids"], arrays["grads"], **more)
    assert bytes_of(untouched) == before
    assert {k: bytes_of(replaced[k]) for k in replaced_before} == replaced_before


def float_array_names(case):
    return ["weights", "grads", *case.spec.state]


def written_names(case):
    return ["weights", *case.spec.state]


EACH_FLOAT = [(case, name) for case in PLAIN_CASES for name in float_array_names(case)]
EACH_WRITTEN = [(case, name) for case in PLAIN_CASES for name in written_names(case)]


def each(pairs):
    return {"argnames": ("case", "name"), "argvalues": pairs, "ids": [f"{c.name}-{n}" for c, n in pairs]}


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**each(EACH_FLOAT))
@pytest.mark.parametrize("dtype", ["f8", "f2", "i4", "i8", "u1", "?", "c8", ">f4", "O"])
def test_wrong_float_dtype(case, name, dtype):
    array = arguments(case)[name].astype(dtype)
    shown = re.escape(str(array.dtype))
    assert_refused(case, TypeError, rf"^{name} has dtype {shown}; it must be float32$", **{name: array})


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
@pytest.mark.parametrize("dtype", ["u1", "u4", "u8", "i1", "i2", "f4", "f8", "?", ">i8", ">i4", "U1", "O"])
def test_wrong_id_dtype(case, dtype):
    ids = np.array([1, 4, 1]).astype(dtype)
    shown = re.escape(str(ids.dtype))
    assert_refused(case, TypeError, rf"^ids has dtype {shown}; it must be int64 or int32$", ids=ids)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_wrong_torch_dtype(dtype):
    for name in ("weights", "grads"):
        tensor = torch.from_numpy(arguments(PLAIN_CASES[0])[name]).to(dtype)
        message = rf"^{name} has dtype .*; it must be float32$"
        assert_refused(PLAIN_CASES[0], TypeError, message, **{name: tensor})
    ids = torch.tensor([1, 4, 1]).to(torch.uint8 if dtype == torch.int32 else dtype)
    assert_refused(PLAIN_CASES[0], TypeError, r"^ids has dtype .*; it must be int64 or int32$", ids=ids)


def strided(array):
    """The same numbers in every layout that isn't C order."""
    if array.ndim == 1:
        yield np.repeat(array, 2)[::2]
        yield array[::-1].copy()[::-1]
        return
    yield np.asfortranarray(array)
    yield array.T.copy().T
    yield np.repeat(array, 2, axis=1)[:, ::2]
    yield np.repeat(array, 2, axis=0)[::2]
    yield np.hstack([array, array])[:, : array.shape[1]]
    yield array[::-1].copy()[::-1]
    yield np.broadcast_to(array[:1], array.shape)


@pytest.mark.parametrize(**each([*EACH_FLOAT, *((case, "ids") for case in PLAIN_CASES)]))
def test_not_contiguous(case, name):
    for array in strided(arguments(case)[name]):
        assert not array.flags.c_contiguous
        assert_refused(case, ValueError, rf"^{name} is not contiguous", **{name: array})
        if array.base is not None and all(stride > 0 for stride in array.strides):
            assert_refused(case, ValueError, rf"^{name} is not contiguous", **{name: torch.from_numpy(array)})


@pytest.mark.parametrize(**each(EACH_WRITTEN))
def test_read_only(case, name):
    array = arguments(case)[name]
    array.flags.writeable = False
    assert_refused(case, ValueError, rf"^{name} is read-only", **{name: array})


def test_read_only_through_dlpack():
    class Producer:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

    array = arguments(PLAIN_CASES[0])["weights"]
    array.flags.writeable = False
    assert_refused(PLAIN_CASES[0], ValueError, "^weights is read-only", weights=Producer(array))


def test_unaligned():
    buffer = np.zeros(ROWS * DIM * 4 + 1, np.uint8)
    array = buffer[1:].view(np.float32).reshape(ROWS, DIM)
    assert_refused(PLAIN_CASES[0], ValueError, "^weights is not aligned", weights=array)


@pytest.mark.parametrize(**each(EACH_WRITTEN))
def test_requires_grad(case, name):
    tensor = torch.from_numpy(arguments(case)[name]).requires_grad_()
    before = bytes_of(tensor.detach())
    assert_refused(case, ValueError, rf"^{name}: .*grad", **{name: tensor})
    assert bytes_of(tensor.detach()) == before


def test_other_devices():
    tensor = torch.empty((ROWS, DIM), device="meta")
    assert_refused(PLAIN_CASES[0], ValueError, "^weights", weights=tensor)


@pytest.mark.parametrize(**each([*EACH_FLOAT, *((case, "ids") for case in PLAIN_CASES)]))
@pytest.mark.parametrize("value", [None, [1.0], 3, "x", (1, 2)], ids=repr)
def test_not_an_array(case, name, value):
    if value is None and name == "momentum_buffer":
        return  # None means no momentum
    kind = type(value).__name__
    assert_refused(case, TypeError, rf"^{name} must be an array .*, not {kind}$", **{name: value})


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (3, DIM + 1), (2, DIM), (4, DIM), (0, DIM), (3, DIM, 1)])
def test_wrong_shape_of_grads(case, shape):
    message = rf"^grads has shape {re.escape(str(shape))}; it must be \(3, {DIM}\)$"
    assert_refused(case, ValueError, message, grads=np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (ROWS,), (ROWS, DIM, 1)])
def test_wrong_shape_of_weights(shape):
    message = rf"^weights has shape {re.escape(str(shape))}; it must be \(any, any\)$"
    assert_refused(PLAIN_CASES[0], ValueError, message, weights=np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 3)])
def test_wrong_shape_of_ids(shape):
    message = rf"^ids has shape {re.escape(str(shape))}; it must be \(any,\)$"
    assert_refused(PLAIN_CASES[0], ValueError, message, ids=np.zeros(shape, np.int64))


def test_fewer_gradients_than_ids():
    assert_refused(PLAIN_CASES[0], ValueError, r"^grads has shape \(3, 4\); it must be \(2, 4\)", ids=np.arange(2))


@pytest.mark.parametrize(**each([(case, name) for case in PLAIN_CASES for name in case.spec.state]))
def test_wrong_shape_of_state(case, name):
    right = (ROWS, DIM) if case.spec.state[name] == ELEMENT else (ROWS,)
    for shape in [(), (ROWS + 1,), (ROWS - 1, DIM), (ROWS, DIM + 1), (ROWS, 1), (0,)]:
        message = rf"^{name} has shape {re.escape(str(shape))}; it must be {re.escape(str(right))}$"
        assert_refused(case, ValueError, message, **{name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
def test_rows_without_columns(case):
    state = {k: np.zeros((ROWS, 0) if v == ELEMENT else ROWS, np.float32) for k, v in case.spec.state.items()}
    with pytest.raises(ValueError, match=r"^weights.*\b0\b"):
        case.update(np.zeros((ROWS, 0), np.float32), state, np.array([1]), np.zeros((1, 0), np.float32))


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(**case_ids(PLAIN_CASES))
@pytest.mark.parametrize("id", [-1, ROWS, ROWS + 1, -(2**31), 2**31 - 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("at", [0, 2])
def test_id_out_of_range(case, id, at):
    ids = np.array([1, 4, 1])
    ids[at] = id
    message = rf"^ids\[{at}\] = {id} is out of range for weights with {ROWS} rows$"
    assert_refused(case, IndexError, message, ids=ids)
    if abs(id) < 2**31:
        assert_refused(case, IndexError, message, ids=ids.astype(np.int32))


def test_any_id_is_out_of_range_without_rows():
    with pytest.raises(IndexError, match=r"^ids\[0\] = 0 is out of range for weights with 0 rows$"):
        fi.ops.sgd_update(np.zeros((0, 3), np.float32), np.array([0]), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("policy", ["ignore", "", "RAISE"])
def test_unknown_nonfinite_policy(policy):
    message = rf"^nonfinite = '{policy}' must be 'raise' or 'skip'$"
    assert_refused(PLAIN_CASES[0], ValueError, message, nonfinite=policy)


@pytest.mark.parametrize(("name", "parameter", "value"), BAD_PARAMETERS)
def test_bad_parameter_of_an_update(name, parameter, value):
    shown = re.escape(f"{value:g}")
    assert_refused(Case.plain(name), ValueError, rf"\b{parameter} = {shown}", **{parameter: value})


@pytest.mark.parametrize("value", ["fast", None, [0.1]], ids=repr)
def test_parameter_that_is_no_number_is_named(value):
    assert_refused(PLAIN_CASES[0], (TypeError, ValueError), "lr", lr=value)


def test_momentum_needs_its_buffer():
    with pytest.raises(ValueError, match=r"^momentum_buffer .*momentum = 0\.5"):
        fi.ops.sgd_update(np.zeros((1, 1), np.float32), np.array([0]), np.ones((1, 1), np.float32), momentum=0.5)


def test_prepared_updates_check_what_they_are_brought():
    """What would be read beyond its end or never be set: a mistake in fi.ops itself."""
    with pytest.raises(ValueError, match=r"^'beta' is not a parameter of sgd$"):
        fi._core.DenseUpdate("sgd", ("lr", "beta"), ())
    with pytest.raises(ValueError, match=r"^adagrad has 1 state arrays, not 0$"):
        fi._core.DenseUpdate("adagrad", ("lr",), ())
    step = fi._core.DenseUpdate("adagrad", ("lr",), ("state",))
    weights, state, ids = np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32), np.array([1])
    with pytest.raises(ValueError, match=r"^2 parameters, not 1$"):
        step((0.1, 0.2), weights, (state,), ids, weights[:1].copy(), "raise")
    with pytest.raises(ValueError, match=r"^0 state arrays, not 1$"):
        step((0.1,), weights, (), ids, weights[:1].copy(), "raise")
    with pytest.raises(TypeError):
        step(("fast",), weights, (state,), ids, weights[:1].copy(), "raise")
    with pytest.raises(ValueError, match=r"^nonfinite = 3 must be 'raise' or 'skip'$"):
        step((0.1,), weights, (state,), ids, weights[:1].copy(), 3)
