"""Start values of rows.

A start value is a function of ``(seed, id, column)`` alone: the same on every machine, thread count and
instruction set, so a table can tell what a row it doesn't hold would start as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastinc._arguments import as_number, as_seed

__all__ = ["Constant", "Initializer", "Normal", "Uniform", "Zeros"]


class Initializer(Protocol):
    """Anything with the kind, two numbers and a seed that the engine understands."""

    def _spec(self) -> tuple[str, float, float, int]: ...


def _set(frozen: object, **fields: float) -> None:
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)


def from_spec(spec: tuple[str, float, float, int]) -> Initializer:
    """Return the initializer that has this specification."""
    kind, a, b, seed = spec
    if kind == "normal":
        return Normal(a, b, seed)
    return Uniform(a, b, seed) if kind == "uniform" else Constant(a)


@dataclass(frozen=True)
class Normal:
    """Normal start values, by inversion of the normal distribution (Giles 2012).

    Parameters
    ----------
    mean, std
        Mean and standard deviation, std >= 0.
    seed
        From 0 to 2**64 - 1.

    Examples
    --------
    >>> import fastinc as fi
    >>> table = fi.EmbeddingTable(dim=8, init=fi.init.Normal(std=0.01, seed=7))
    >>> bool((abs(table.lookup([3])) < 0.06).all())
    True
    """

    mean: float = 0.0
    std: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        _set(self, mean=as_number(self.mean, "mean"), std=as_number(self.std, "std"), seed=as_seed(self.seed))

    def _spec(self) -> tuple[str, float, float, int]:
        return "normal", self.mean, self.std, self.seed


@dataclass(frozen=True)
class Uniform:
    """Uniform start values in [low, high].

    Parameters
    ----------
    low, high
        Ends, low <= high.
    seed
        From 0 to 2**64 - 1.

    Examples
    --------
    >>> import fastinc as fi
    >>> row = fi.EmbeddingTable(dim=8, init=fi.init.Uniform(-1, 1)).lookup([3])
    >>> bool((abs(row) <= 1).all())
    True
    """

    low: float = -0.01
    high: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        _set(self, low=as_number(self.low, "low"), high=as_number(self.high, "high"), seed=as_seed(self.seed))

    def _spec(self) -> tuple[str, float, float, int]:
        return "uniform", self.low, self.high, self.seed


@dataclass(frozen=True)
class Constant:
    """The same start value everywhere.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.EmbeddingTable(dim=2, init=fi.init.Constant(0.5)).lookup([3]).tolist()
    [[0.5, 0.5]]
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        _set(self, value=as_number(self.value, "value"))

    def _spec(self) -> tuple[str, float, float, int]:
        return "constant", self.value, 0.0, 0


@dataclass(frozen=True)
class Zeros:
    """Rows start at zero.

    Examples
    --------
    >>> import fastinc as fi
    >>> fi.EmbeddingTable(dim=2, init=fi.init.Zeros()).lookup([3]).tolist()
    [[0.0, 0.0]]
    """

    def _spec(self) -> tuple[str, float, float, int]:
        return "constant", 0.0, 0.0, 0
