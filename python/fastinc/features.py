"""What items are known by beside their events: vectors, such as a text encoder's, and categories."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinc._arguments import as_numeric, as_whole

__all__ = ["Categorical", "Dense"]

_MOST = 2**24
_MOST_NUMBER = 1e6


@dataclasses.dataclass(frozen=True)
class Dense:
    """A vector of numbers for each item, such as a sentence encoder's of its title.

    Vectors about as long as 1 learn best; a missing one is all 0. Numbers beyond a million are refused.

    Parameters
    ----------
    size
        Numbers of a vector, from 1 to 2**24.

    Examples
    --------
    >>> import numpy as np
    >>> import fastinc as fi
    >>> model = fi.Recommender(item_features={"title": fi.features.Dense(3)})
    >>> _ = model.add_items([7], {"title": np.array([[0.6, 0.0, 0.8]])})
    >>> model.n_items
    1
    """

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_whole(self.size, "size", 1, _MOST))


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Any number of categories for each item, such as genres or words, hashed to buckets (Weinberger et al. 2009).

    Categories are strings or int64 numbers, and need not be known beforehand; one that an item repeats counts once. Two
    of them may share a bucket, and are one then: of n categories in b buckets each does so with a probability of about
    n / b.

    Parameters
    ----------
    buckets
        How many, from 1 to 2**24; each takes a row of dim + 1 weights and the optimizer's state.

    Examples
    --------
    >>> import fastinc as fi
    >>> model = fi.Recommender(item_features={"genre": fi.features.Categorical(buckets=256)})
    >>> _ = model.add_items(["Heat", "Sabrina"], {"genre": [["action", "crime"], ["romance"]]})
    >>> model.n_items
    2
    """

    buckets: int = 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", as_whole(self.buckets, "buckets", 1, _MOST))


Feature = Dense | Categorical


def _bucket(value: Any, buckets: int, where: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (str, int, np.integer)):
        raise TypeError(f"{where}: {value!r} is no category: strings and whole numbers are")
    if not isinstance(value, str) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where}: a number doesn't fit int64")
    key = f"s{value}" if isinstance(value, str) else f"i{value}"
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


class ItemFeatures:
    """The features that a model was told of by name, and how they become numbers and buckets.

    Parameters
    ----------
    schema
        What each is, by name; their order is that of the numbers and of the buckets.
    """

    def __init__(self, schema: Mapping[str, Feature] | None) -> None:
        schema = {} if schema is None else schema
        if not isinstance(schema, Mapping):
            raise TypeError(f"item_features = {schema!r} must be a dict of names and features")
        for name, feature in schema.items():
            if not isinstance(name, str) or not isinstance(feature, (Dense, Categorical)):
                raise TypeError(
                    f"item_features[{name!r}] = {feature!r} must be by a name, and a fastinc.features.Dense or "
                    "Categorical"
                )
        self.schema = dict(schema)
        self.numbers = sum(f.size for f in self.schema.values() if isinstance(f, Dense))
        self.buckets = sum(f.buckets for f in self.schema.values() if isinstance(f, Categorical))

    def encode(self, features: Mapping[str, Any], n: int) -> tuple[NDArray[np.float32], Any, Any]:
        """Return numbers, (n, numbers); where each item's categories begin, (n + 1,); and their buckets."""
        if not isinstance(features, Mapping):
            raise TypeError(f"features: a {type(features).__name__} must be a dict by name of feature")
        unknown = [name for name in features if name not in self.schema]
        if unknown:
            raise ValueError(f"features[{unknown[0]!r}] is not among this model's: {', '.join(self.schema) or 'none'}")
        numbers = np.zeros((n, self.numbers), dtype=np.float32)
        buckets: list[list[int]] = [[] for _ in range(n)]
        column = base = 0
        for name, feature in self.schema.items():
            if isinstance(feature, Dense):
                if name in features:
                    numbers[:, column : column + feature.size] = _as_vectors(features[name], name, n, feature.size)
                column += feature.size
            else:
                for i, values in enumerate(_as_lists(features.get(name), name, n)):
                    where = f"features[{name!r}][{i}]"
                    buckets[i] += sorted({base + _bucket(value, feature.buckets, where) for value in values})
                base += feature.buckets
        offsets = np.cumsum([0, *map(len, buckets)], dtype=np.int64)
        return numbers, offsets, np.array([b for some in buckets for b in some], dtype=np.int64)

    def spec(self) -> list[list[Any]]:
        """Return what JSON can hold, for :meth:`from_spec`."""
        return [
            [name, "dense", feature.size] if isinstance(feature, Dense) else [name, "categorical", feature.buckets]
            for name, feature in self.schema.items()
        ]

    @staticmethod
    def from_spec(spec: list[list[Any]]) -> dict[str, Feature]:
        """Return the schema that `spec` tells of."""
        return {name: Dense(size) if kind == "dense" else Categorical(size) for name, kind, size in spec}


def _as_vectors(vectors: Any, name: str, n: int, size: int) -> NDArray[np.float32]:
    name = f"features[{name!r}]"
    array = as_numeric(vectors, name)
    if array.shape != (n, size):
        raise ValueError(f"{name} has shape {array.shape}; it must be ({n}, {size})")
    fits = np.abs(array) <= _MOST_NUMBER  # NaN doesn't
    if not fits.all():
        row, column = np.argwhere(~fits)[0].tolist()
        raise ValueError(f"{name}[{row}, {column}] = {array[row, column]} must be from -1e6 to 1e6")
    return array.astype(np.float32)


def _as_lists(values: Any, name: str, n: int) -> list[Iterable[Any]]:
    if values is None:
        return [()] * n
    if isinstance(values, (str, bytes, Mapping, np.ma.MaskedArray)) or not isinstance(values, Iterable):
        raise TypeError(f"features[{name!r}] must be a list with the categories of each item")
    lists = list(values)
    if len(lists) != n:
        raise ValueError(f"features[{name!r}] has length {len(lists)}; items has {n}")
    out: list[Iterable[Any]] = []
    for i, some in enumerate(lists):
        if isinstance(some, (str, int, np.integer)):
            out.append((some,))
        elif some is None:
            out.append(())
        elif isinstance(some, (bytes, Mapping)) or not isinstance(some, Iterable):
            raise TypeError(f"features[{name!r}][{i}] = {some!r} must be a category, or a list of them")
        else:
            out.append(some)
    return out
