"""Numbers with a bound on the error that float32 arithmetic may have made.

A formula written once in plain arithmetic gives, over `Bounded` arrays, both its float64 value and how far a
float32 evaluation may be from it: the tolerance of a test is derived, not chosen.
"""

from __future__ import annotations

import numpy as np

#: Half a unit in the last place of float32, and its smallest number above 0.
UNIT = 2.0**-24
TINY = 2.0**-149


class Bounded:
    """A float64 array and the absolute error of its float32 counterpart, to be propagated."""

    __array_ufunc__ = None  # so that ndarray + Bounded comes here

    def __init__(self, value, error=0.0):
        self.value = np.asarray(value, dtype=np.float64)
        self.error = np.broadcast_to(np.asarray(error, dtype=np.float64), self.value.shape)

    @classmethod
    def constant(cls, value):
        """A hyper-parameter: float64, rounded to float32 where it is used."""
        return cls(value, abs(value) * UNIT)

    @staticmethod
    def _of(other):
        return other if isinstance(other, Bounded) else Bounded(other)

    @staticmethod
    def _rounded(value, error):
        return Bounded(value, error + UNIT * (np.abs(value) + error) + TINY)

    def __add__(self, other):
        other = self._of(other)
        return self._rounded(self.value + other.value, self.error + other.error)

    def __neg__(self):
        return Bounded(-self.value, self.error)

    def __sub__(self, other):
        return self + -self._of(other)

    def __rsub__(self, other):
        return self._of(other) - self

    def __mul__(self, other):
        other = self._of(other)
        error = np.abs(self.value) * other.error + np.abs(other.value) * self.error + self.error * other.error
        return self._rounded(self.value * other.value, error)

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, other):
        other = self._of(other)
        least = np.maximum(np.abs(other.value) - other.error, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.value / other.value
            error = (np.abs(self.value) + self.error) / least - np.abs(value)
        return self._rounded(value, error)

    def __rtruediv__(self, other):
        return self._of(other) / self

    def sqrt(self):
        value = np.sqrt(self.value)
        return self._rounded(value, value - np.sqrt(np.maximum(self.value - self.error, 0.0)))

    def shrink(self, threshold):
        """Soft threshold: 0 within +-threshold, else nearer to 0 by it. It moves no further than its inputs do."""
        value = np.sign(self.value) * np.maximum(np.abs(self.value) - threshold.value, 0.0)
        return self._rounded(value, self.error + threshold.error)

    def mean_of_rows(self):
        """Mean over the last axis, kept, of terms >= 0: a few roundings a lane and the tree's five."""
        n = self.value.shape[-1]
        value = self.value.mean(-1, keepdims=True)
        roundings = n / 32 + 7
        return Bounded(value, self.error.mean(-1, keepdims=True) + roundings * UNIT * value + TINY)

    def __getitem__(self, index):
        return Bounded(self.value[index], self.error[index])

    def __setitem__(self, index, other):
        self.error = np.array(self.error)
        self.value[index], self.error[index] = other.value, other.error

    def assert_holds(self, actual, what, slack=2.0):
        """Fail unless `actual` is within the bound; slack allows for another order of the same operations."""
        actual = np.asarray(actual, dtype=np.float64)
        outside = ~(np.abs(actual - self.value) <= slack * self.error + TINY)
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            raise AssertionError(
                f"{what}{list(at)} = {actual[at]!r}, reference {self.value[at]!r} +- {self.error[at]:.2e}; "
                f"{int(outside.sum())} of {outside.size} outside"
            )


def lane_sum(terms):
    """The engine's float32 sum along a row: 32 lanes, then a halving tree, the order of a warp."""
    terms = np.asarray(terms, dtype=np.float32)
    lanes = np.zeros(32, np.float32)
    for first in range(0, len(terms), 32):
        block = terms[first : first + 32]
        lanes[: len(block)] += block
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def group_sum(terms):
    """The engine's float32 sum over axis 0: in groups of 64, then those sums in groups of 64, and so on."""
    terms = np.asarray(terms, dtype=np.float32)
    while len(terms) > 1:
        groups = []
        for first in range(0, len(terms), 64):
            total = terms[first].copy()
            for term in terms[first + 1 : first + 64]:
                total += term
            groups.append(total)
        terms = np.stack(groups)
    return terms[0]
