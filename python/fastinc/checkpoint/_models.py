"""Recommenders as parameters and arrays."""

from __future__ import annotations

import numpy as np

from fastinc import _core, features, schedules
from fastinc._ids import IdMap
from fastinc.checkpoint._arrays import Arrays
from fastinc.checkpoint._change import Change, Parameters
from fastinc.checkpoint._described import describe, rebuild_optimizer, set_rate, without_rate
from fastinc.checkpoint._tables import join_change, split_change
from fastinc.recommender import Recommender

__all__ = ["apply", "build", "describe_change", "export", "mark"]

#: What the arrays of a recommender's state are called.
_STATE_ARRAYS = ("history_", "items_known_", "anchors_")


def _id_arrays(ids: IdMap, prefix: str, begin: int, end: int) -> Arrays:
    """Return the ids of codes from `begin` to `end` - 1."""
    if ids.kind != "str":
        return {prefix + "int": np.asarray(ids.decode(np.arange(begin, end, dtype=np.int64)), dtype=np.int64)}
    text, ends = ids._core.export_keys(begin, end)
    return {prefix + "utf8": text, prefix + "ends": ends}


def _add_ids(ids: IdMap, arrays: Arrays, prefix: str) -> None:
    if prefix + "int" in arrays:
        ids.encode(arrays[prefix + "int"], add=True)
        return
    text, ends = arrays[prefix + "utf8"], arrays[prefix + "ends"]
    text.tobytes().decode()  # all of it is UTF-8, and every id of its own
    inner = ends[(ends > 0) & (ends < len(text))]
    if (text[inner] & 0xC0 == 0x80).any():
        raise ValueError(f"{prefix}ends: an id ends within a character")
    ids.add_keys(text, ends)


def _describe_model(model: Recommender) -> Parameters:
    parameters = model.get_params()
    parameters["optimizer"] = describe(model.optimizer)
    parameters["schedule"] = list(model.schedule._spec())
    parameters["item_features"] = model._item_features.spec()
    return parameters


def export(model: Recommender, since: _core.RecommenderMark | None) -> Change:
    """Return all of a recommender, or what changed since a mark, as of one moment between two groups of events."""
    change = model._core.export_change(since)
    whole, end = change.pop("whole"), change.pop("mark")
    users, items = (0, 0) if whole or since is None else (since.user_count, since.item_count)
    versions: dict[str, int] = {}
    arrays: Arrays = {}
    for name, table in change.pop("tables").items():
        numbers, part = split_change(table, f"{name}.")
        versions[name] = numbers["version"]
        arrays.update(part)
    counters = {name: value for name, value in change.items() if not isinstance(value, np.ndarray)}
    arrays.update({name: value for name, value in change.items() if name not in counters})
    arrays.update(_id_arrays(model._user_ids, "user_ids.", users, end.user_count))
    arrays.update(_id_arrays(model._item_ids, "item_ids.", items, end.item_count))
    parameters = {"params": _describe_model(model), "versions": versions, "counters": counters}
    return Change(parameters, arrays, whole, end)


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
        table.import_state(join_change(arrays, {"version": parameters["versions"][name]}, f"{name}."))
    _add_ids(model._user_ids, arrays, "user_ids.")
    _add_ids(model._item_ids, arrays, "item_ids.")
    state = {name: array for name, array in arrays.items() if name.startswith(_STATE_ARRAYS)}
    model._core.import_state({**state, **parameters["counters"]})
    return model


def apply(model: Recommender, parameters: Parameters, arrays: Arrays, keep_versions: bool = True) -> None:
    """Take a change in; without `keep_versions` its rows are a batch of the model's own."""
    tables = {
        name: join_change(arrays, {"version": version}, f"{name}.") for name, version in parameters["versions"].items()
    }
    state = {name: array for name, array in arrays.items() if name.startswith(_STATE_ARRAYS)}
    with model._adding_ids():
        _add_ids(model._user_ids, arrays, "user_ids.")
        _add_ids(model._item_ids, arrays, "item_ids.")
        known = len(model._user_ids), len(model._item_ids)
        counted = parameters["counters"]["user_count"], parameters["counters"]["item_count"]
        if known != counted:
            raise ValueError(f"ids of {known} users and items where {counted} are counted: not of this model")
        model._core.apply_change({**state, **parameters["counters"], "tables": tables}, keep_versions)
    set_rate(model.optimizer, parameters["params"]["optimizer"])


def mark(model: Recommender) -> _core.RecommenderMark:
    """Return the mark of a recommender as it is now."""
    return model._core.mark()


def describe_change(parameters: Parameters) -> Parameters:
    """Return what of an export's parameters no increment changes."""
    return without_rate(parameters["params"])
