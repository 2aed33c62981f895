"""Arguments checked here, scalars and ids, with errors that name the argument and the value."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: What may be ids beside arrays.
_NOT_ARRAYS = (list, tuple, range, int, np.integer)
#: Counts have no other limit of their own.
_MOST = 2**31 - 1


def as_number(value: Any, name: str) -> float:
    """Return a real number as a float; ranges are the engine's to check."""
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} = {value!r} must be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} = {value!r} doesn't fit a float") from None


def as_share(value: Any, name: str) -> float:
    """Return a finite number, 0 or more."""
    share = as_number(value, name)
    if not 0.0 <= share < float("inf"):
        raise ValueError(f"{name} = {value} must be a number, 0 or more")
    return share


def as_probability(value: Any, name: str) -> float:
    """Return a number from 0 to 1."""
    probability = as_number(value, name)
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{name} = {value} must be from 0 to 1")
    return probability


def as_flag(value: Any, name: str) -> bool:
    """Return True or False."""
    if value is False or value is True:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} = {value!r} must be True or False")
    return bool(value)


def as_whole(value: Any, name: str, least: int = 0, most: int = _MOST) -> int:
    """Return a whole number in [least, most]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} = {value!r} must be a whole number")
    if value < least and most == _MOST:
        raise ValueError(f"{name} = {value} must be at least {least}")
    if not least <= value <= most:
        raise ValueError(f"{name} = {value} must be from {least} to {most}")
    return int(value)


def as_seed(seed: Any) -> int:
    """Return a seed: 64 bits."""
    return as_whole(seed, "seed", 0, 2**64 - 1)


def as_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} = {value!r} must be {' or '.join(map(repr, choices))}")
    return value


def as_call(value: Any, name: str) -> Callable[..., Any]:
    """Return what can be called."""
    if not callable(value):
        raise TypeError(f"{name} = {value!r} must be a function")
    call: Callable[..., Any] = value
    return call


def as_path(value: Any, name: str = "path") -> Path:
    """Return a path that isn't empty: that would be the current folder."""
    if isinstance(value, bytes) or not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} = {value!r} must be a str or a path")
    if not os.fspath(value):
        raise ValueError(f"{name} = {value!r} is empty; the current folder is '.'")
    return Path(value)


def as_numeric(values: Any, name: str) -> np.ndarray[Any, Any]:
    """Return an array of numbers of any shape."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass its filled()")
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{name} is no array: {error}") from None
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} has dtype {array.dtype}; it must be numeric")
    return array


def as_ids(ids: Any, name: str = "ids") -> Any:
    """Turn a list, range or int into an int64 array; arrays pass as they are and are checked by the engine."""
    kind = type(ids)  # asking for the class by isinstance() takes torch tensors a while
    if kind is np.ndarray or kind is bool or not issubclass(kind, _NOT_ARRAYS):
        return ids
    values = [ids] if isinstance(ids, (int, np.integer)) else ids
    for i, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}[{i}] = {value!r} must be an integer")
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name}[{i}] = {value} doesn't fit int64")
    return np.array(values, dtype=np.int64)


def check_countable(ids: Any, name: str = "ids") -> None:
    """Raise where a result can't be made for want of a number of ids; of several faults this is named first."""
    shape = getattr(ids, "shape", None)
    if shape is None:
        raise TypeError(f"{name} must be an array or a list of ints, not {type(ids).__name__}") from None
    if len(shape) != 1:
        raise ValueError(f"{name} has shape {tuple(shape)}; it must be (any,)") from None


def made(counted: Any, name: str, out: Any, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the engine makes, or refuses: of several faults, that nothing can be counted is named first."""
    try:
        return make(*arguments)
    except (TypeError, ValueError):
        if out is None:
            check_countable(counted, name)
        raise
