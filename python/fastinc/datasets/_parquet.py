"""Event files in Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastinc._extras import require
from fastinc.datasets._columns import ROLES, Columns, Errors, find_roles
from fastinc.datasets._text import id_fault
from fastinc.datasets.events import FLOAT32_MAX


def usable_column(path: Path, role: str, name: str, array: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return a column as int64, strings or float64, and the mask of the rows that have no usable value."""
    pa = require("pyarrow", extra="parquet", purpose="reading Parquet files")
    try:
        return _converted(path, role, name, array)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: column {name!r} of type {array.type} can't be read as {role}s: {error}") from error


def _converted(path: Path, role: str, name: str, array: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    pa = require("pyarrow", extra="parquet", purpose="reading Parquet files")
    pc = require("pyarrow.compute", extra="parquet", purpose="reading Parquet files")
    kinds = pa.types
    if kinds.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if kinds.is_string_view(array.type):  # which most functions of pyarrow have no kernel for
        array = array.cast(pa.large_string())
    bad = np.asarray(array.is_null())
    if role in ("user", "item"):
        if kinds.is_uint64(array.type):
            values = np.asarray(pc.fill_null(array, 0))
            large = values > np.iinfo(np.int64).max
            return np.where(large, 0, values).astype(np.int64), bad | large
        if kinds.is_integer(array.type):
            return np.asarray(pc.fill_null(array.cast(pa.int64()), 0)), bad
        if kinds.is_string(array.type) or kinds.is_large_string(array.type):
            texts = pc.fill_null(array, "").to_pylist()
            bad = bad | np.array([id_fault(text) is not None for text in texts], dtype=bool)
            kept = ["" if wrong else text for text, wrong in zip(texts, bad, strict=True)]
            return np.array(kept, dtype=np.str_), bad
        wanted = "integers or strings"
    else:
        if role == "timestamp" and kinds.is_timestamp(array.type):
            array = pc.divide(
                array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6
            )
        if kinds.is_boolean(array.type):
            array = array.cast(pa.int8())
        if kinds.is_integer(array.type) or kinds.is_floating(array.type):
            values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), 0.0))
            limit = FLOAT32_MAX if role == "label" else np.finfo(np.float64).max
            return values, bad | ~(np.abs(values) <= limit)
        wanted = "numbers"
    raise ValueError(f"{path}: column {name!r} must hold {wanted} for the {role}s, got {array.type}")


def read_parquet(path: Path, columns: Mapping[str, str] | None, errors: Errors) -> Columns:
    """Read the columns of a Parquet file; ids keep the type that the file gives them."""
    pa = require("pyarrow", extra="parquet", purpose="reading Parquet files")
    pq = require("pyarrow.parquet", extra="parquet", purpose="reading Parquet files")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            roles = find_roles(names, columns, path)
            if roles is None:
                raise ValueError(f"{path}: none of the columns {names} is named as users are: use columns")
            table = file.read(columns=[names[position] for position in roles.values()])
        arrays: dict[str, npt.NDArray[Any]] = {}
        bad = np.zeros(table.num_rows, dtype=bool)
        for role in (role for role in ROLES if role in roles):
            name = names[roles[role]]
            values, wrong = usable_column(path, role, name, table.column(name).combine_chunks())
            arrays[role] = values
            if errors == "raise" and wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                got = table.column(name)[row].as_py()
                raise ValueError(f"{path}: row {row + 1}: {role} is not usable, got {got!r}")
            bad |= wrong
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error
    if not len(bad) or bad.all():
        raise ValueError(f"{path}: no events in {len(bad)} rows")
    kept = {role: values[~bad] for role, values in arrays.items()}
    labels, timestamps = kept.get("label"), kept.get("timestamp")
    return Columns(
        users=kept["user"],
        items=kept["item"],
        labels=None if labels is None else labels.astype(np.float32),
        timestamps=None if timestamps is None else timestamps.astype(np.float64),
        skipped=int(bad.sum()),
    )
