"""The kinds of objects that are saved: how each becomes parameters and arrays, and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastinc.checkpoint import _indices, _models, _tables
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.live_index import LiveIndex
from fastinc.recommender import Recommender
from fastinc.table import EmbeddingTable

__all__ = ["KINDS", "Kind", "describe", "kind_of", "kind_to_restore"]


@dataclass(frozen=True)
class Kind:
    """What is done with objects of a type.

    Parameters
    ----------
    type
        Their class.
    export
        Returns what an object is made of at one moment, while others write to it, or what has changed of it since the
        mark of another export.
    build
        Returns a new object of what a whole export gave.
    apply
        Takes a change that isn't whole in: the object then is what it was exported from, bit for bit. With
        ``keep_versions=False`` the rows are a batch of the object's own, so that what follows it is in step at once.
    mark
        Returns the mark of an object as it is now, or None: the next export is whole.
    describe
        Returns what of an export's parameters no increment changes: where it isn't what it was, all is written.
    """

    type: type
    export: Callable[[Any, Any], Change]
    build: Callable[[Parameters, Arrays], Any]
    apply: Callable[..., None]
    mark: Callable[[Any], Any]
    describe: Callable[[Parameters], Parameters]


KINDS: dict[str, Kind] = {
    "EmbeddingTable": Kind(
        EmbeddingTable, _tables.export, _tables.build, _tables.apply, _tables.mark, _tables.describe_change
    ),
    "LiveIndex": Kind(
        LiveIndex, _indices.export, _indices.build, _indices.apply, _indices.mark, _indices.describe_change
    ),
    "Recommender": Kind(
        Recommender, _models.export, _models.build, _models.apply, _models.mark, _models.describe_change
    ),
}


def describe(kind: str, parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes, as it comes back from disk."""
    described: Parameters = json.loads(json.dumps(KINDS[kind].describe(parameters)))
    return described


def kind_of(obj: Any) -> str:
    """Return the name of the kind that an object is of."""
    for name, kind in KINDS.items():
        if isinstance(obj, kind.type):
            return name
    raise TypeError(f"obj = {obj!r} is not an EmbeddingTable, a LiveIndex or a Recommender")


def kind_to_restore(obj: Any) -> str:
    """Return the name of the kind that an object comes back as; one of a class derived from it would be another."""
    kind = kind_of(obj)
    parts = [(obj, KINDS[kind].type)]
    if isinstance(obj, LiveIndex):
        parts.append((obj.table, EmbeddingTable))
    for part, base in parts:
        if type(part) is not base:
            name = f"{type(part).__module__}.{type(part).__qualname__}"
            raise TypeError(
                f"obj = {part!r} is of the class {name} and would come back as {base.__name__}, without what {name} "
                f"adds: save {base.__name__}s themselves, for example as attributes of your class"
            )
    return kind
