"""Recommenders as parameters and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastinc import features, schedules
from fastinc._ids import IdMap
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._described import describe, rebuild_optimizer, without_rate
from fastinc.checkpoint._tables import export_core, fill_core
from fastinc.recommender import Recommender

__all__ = ["apply", "build", "describe_change", "export", "mark"]

#: What the arrays of a recommender's state are called.
_STATE_ARRAYS = ("history_", "items_known_", "anchors_")


def _id_arrays(ids: IdMap, prefix: str) -> Arrays:
    if ids.kind != "str":
        return {prefix + "int": np.asarray(ids.ids(), dtype=np.int64)}
    encoded = [text.encode() for text in ids.ids()]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {prefix + "utf8": np.frombuffer(b"".join(encoded), dtype=np.uint8), prefix + "ends": ends}


def _fill_ids(ids: IdMap, arrays: Arrays, prefix: str) -> None:
    if prefix + "int" in arrays:
        ids.encode(arrays[prefix + "int"], add=True)
        return
    text, ends = arrays[prefix + "utf8"].tobytes(), arrays[prefix + "ends"].tolist()
    starts = [0, *ends[:-1]]
    ids.encode([text[a:b].decode() for a, b in zip(starts, ends, strict=True)], add=True)


def _describe_model(model: Recommender) -> Parameters:
    parameters = model.get_params()
    parameters["optimizer"] = describe(model.optimizer)
    parameters["schedule"] = list(model.schedule._spec())
    parameters["item_features"] = model._item_features.spec()
    return parameters


def export(model: Recommender, mark: Any) -> Change:
    """Return all of a recommender."""
    arrays: Arrays = {}
    versions: dict[str, int] = {}
    for name, table in model._core.tables.items():
        numbers, part = export_core(table, model.optimizer, f"{name}.")
        versions[name] = numbers["version"]
        arrays.update(part)
    counters: dict[str, Any] = {}
    for name, value in model._core.export_state().items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            counters[name] = value
    arrays.update(_id_arrays(model._user_ids, "user_ids."))
    arrays.update(_id_arrays(model._item_ids, "item_ids."))
    parameters = {"params": _describe_model(model), "versions": versions, "counters": counters}
    return Change(parameters, arrays, True, None)


def build(parameters: Parameters, arrays: Arrays) -> Recommender:
    """Return the recommender that was exported."""
    params = dict(parameters["params"])
    if "preset" not in params:  # of before there were presets: what a model was then
        params |= {"hard_negatives": None, "context_lr_scale": 1.0, "batch_size": 1}
    params["optimizer"] = rebuild_optimizer(params["optimizer"])
    if "schedule" in params:  # checkpoints of before there were schedules have none
        params["schedule"] = schedules.from_spec(params["schedule"])
    if "item_features" in params:
        params["item_features"] = features.ItemFeatures.from_spec(params["item_features"])
    model = Recommender(**params)
    for name, table in model._core.tables.items():
        if name not in parameters["versions"]:  # a table that models didn't have then
            continue
        numbers = {"version": parameters["versions"][name]}
        fill_core(table, arrays, numbers, f"{name}.")
    _fill_ids(model._user_ids, arrays, "user_ids.")
    _fill_ids(model._item_ids, arrays, "item_ids.")
    state = {name: array for name, array in arrays.items() if name.startswith(_STATE_ARRAYS)}
    model._core.import_state({**state, **parameters["counters"]})
    return model


def apply(model: Recommender, parameters: Parameters, arrays: Arrays) -> None:
    """Take a change in: there are none, an export is of all of a model."""
    raise ValueError("a recommender's changes are always whole")


def mark(model: Recommender) -> None:
    """Return what a later export starts from: nothing, it is of all of a model."""


def describe_change(parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes."""
    return without_rate(parameters["params"])
