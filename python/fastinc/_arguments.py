"""Scalar arguments: checked here, with errors that name the argument and the value."""

from __future__ import annotations

from typing import Any

import numpy as np

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
