"""Optimizer objects: parameters, their ranges, copies. What they compute: test_ops.py."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

import fastinc as fi
from _reference import BAD_PARAMETERS, CASES, ELEMENT, Case, case_ids


@pytest.mark.parametrize(("name", "parameter", "value"), BAD_PARAMETERS)
def test_bad_parameter_of_a_constructor(name, parameter, value):
    case = Case.plain(name)
    with pytest.raises(ValueError, match=rf"\b{parameter} = {re.escape(f'{value:g}')}"):
        case.spec.make(**{**case.params, parameter: value})


@pytest.mark.parametrize(("name", "parameter", "value"), BAD_PARAMETERS)
def test_bad_parameter_of_an_attribute(name, parameter, value):
    optimizer = Case.plain(name).optimizer()
    before = optimizer.get_params()
    with pytest.raises(ValueError, match=rf"\b{parameter} = {re.escape(f'{value:g}')}"):
        setattr(optimizer, parameter, value)
    assert optimizer.get_params() == before


@pytest.mark.parametrize("value", ["fast", None, [0.1]], ids=repr)
def test_parameter_that_is_no_number_is_named(value):
    with pytest.raises((TypeError, ValueError), match="lr"):
        fi.Adagrad(lr=value)


@pytest.mark.parametrize(**case_ids(CASES))
def test_optimizer_objects(case):
    optimizer = case.optimizer()
    assert {k: optimizer.get_params()[k] for k in case.params} == case.params
    assert all(f"{name}={value!r}" in repr(optimizer) for name, value in optimizer.get_params().items())
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer), copy.copy(optimizer)):
        assert twin == optimizer
        twin.lr = 0.0625
        assert twin != optimizer
    elements = sum(shape == ELEMENT for shape in case.spec.state.values())
    assert optimizer.state_floats_per_row == (elements, len(case.spec.state) - elements)


def test_the_base_class_is_not_an_optimizer():
    with pytest.raises(TypeError, match="base class"):
        fi.Optimizer()


def test_sgd_made_without_momentum_has_no_buffer_to_turn_it_on():
    optimizer = fi.SGD(lr=0.1)
    with pytest.raises(ValueError, match=r"^momentum = 0\.9"):
        optimizer.momentum = 0.9
    optimizer.momentum = 0.0
    assert optimizer.momentum == 0.0
    assert fi.SGD(momentum=0.9) != fi.SGD()
