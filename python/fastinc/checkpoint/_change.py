"""What is exported of an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastinc.checkpoint._arrays import Arrays

__all__ = ["OF_ROWS", "Change", "Parameters"]

Parameters = dict[str, Any]

#: Arrays of a table's state with an entry a row, wherever rows are; the others are of all rows together.
OF_ROWS = ("ids", "row_versions", "weights", "state", "frequencies")


@dataclass(frozen=True)
class Change:
    """What an object is made of, or what has changed of it since a mark.

    Parameters
    ----------
    parameters
        JSON: what makes an object like it, and its numbers.
    arrays
        Arrays by name.
    whole
        True: this is all of the object, whatever mark was given.
    mark
        For the next export of the same object: it then tells what has changed since this one.
    """

    parameters: Parameters
    arrays: Arrays
    whole: bool
    mark: Any
