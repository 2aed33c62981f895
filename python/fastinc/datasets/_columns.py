"""What the columns of an event file mean, whatever the format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Errors = Literal["raise", "skip"]
ROLES = ("user", "item", "label", "timestamp")
# Characters. NumPy gives every string the width of the longest, so one broken row could take all memory.
MAX_ID = 512

# Names as they are after `_plain`: lower case, without the type that RecBole appends and without separators.
_NAMES = {
    "user": {"user", "userid", "uid", "userno", "visitorid", "customerid"},
    "item": {"item", "itemid", "iid", "movie", "movieid", "productid", "asin", "parentasin"},
    "label": {"label", "rating", "score", "stars", "overall"},
    "timestamp": {"timestamp", "time", "ts", "unixtime", "unixreviewtime"},
}


@dataclass(frozen=True)
class Columns:
    """The columns of a file as arrays, and how many rows were left out."""

    users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    labels: npt.NDArray[np.float32] | None
    timestamps: npt.NDArray[np.float64] | None
    skipped: int


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.partition(":")[0]).lower()


def check_roles(columns: Mapping[str, str]) -> None:
    """Refuse names for what no event has."""
    for role in columns:
        if role not in ROLES:
            raise ValueError(f"columns must map some of {', '.join(ROLES)} to names, got {role!r}")


def find_roles(names: Sequence[str], columns: Mapping[str, str] | None, path: Path | str) -> dict[str, int] | None:
    """Return the position of each role in a header; None when nothing in it looks like a header.

    `columns` maps roles to the names in the file and wins over the well-known names.
    """
    columns = columns or {}
    check_roles(columns)
    stripped = [name.strip() for name in names]
    roles: dict[str, int] = {}
    for role in ROLES:
        if role in columns:
            found = [i for i, name in enumerate(stripped) if columns[role] in (name, name.partition(":")[0])]
            if not found:
                raise ValueError(f"{path}: no column {columns[role]!r} for the {role}s among {stripped}")
        else:
            found = [i for i, name in enumerate(stripped) if _plain(name) in _NAMES[role]]
        if len(found) > 1:
            which = " and ".join(repr(stripped[i]) for i in found)
            raise ValueError(f"{path}: {which} could both be the {role}s: say which with columns")
        if found:
            roles[role] = found[0]
    if not roles:
        return None
    for role in ("user", "item"):
        if role not in roles:
            raise ValueError(f"{path}: none of the columns {stripped} is named as {role}s are: use columns")
    return roles


def check_errors(errors: str) -> None:
    """Refuse a value of `errors` that no reader knows."""
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors must be 'raise' or 'skip', got {errors!r}")
