"""What `train` saves beside a model: where in the stream it is, and what of it is not in the model yet."""

from __future__ import annotations

from typing import Any

from fastinc._arguments import as_whole
from fastinc.stream._dead_letters import check_saved

__all__ = ["WAY_OUT", "check_model", "check_position", "to_position"]

#: What saved positions begin with.
_FORMAT = "fastinc-stream"
_VERSION = 1
#: Positions of before this was there have it not.
_LATER = ("model_events",)
_NAMES = ("source", "held", "events", "rejected", "dead_letters")
_MOST = 2**63 - 1
WAY_OUT = "A model from elsewhere begins with a log in a new folder and position=None"


def to_position(**parts: Any) -> dict[str, Any]:
    """Return a position of these parts."""
    return {"format": _FORMAT, "version": _VERSION, **parts}


def check_position(position: Any) -> dict[str, Any]:
    """Return a position that `train` saved; the source looks at its own part."""
    if not isinstance(position, dict) or position.get("format") != _FORMAT:
        raise ValueError(f"position = {position!r} was not saved by fastinc.stream.train. {WAY_OUT}")
    if position.get("version") != _VERSION:
        raise ValueError(f"position: version = {position.get('version')!r}; this fastinc reads {_VERSION}")
    missing = [name for name in _NAMES if name not in position]
    if missing:
        raise ValueError(f"position: {', '.join(missing)} is missing: pass it as log.restore() returns it")
    for name in ("events", "rejected", *(name for name in _LATER if name in position)):
        as_whole(position[name], f"position: {name}", 0, _MOST)
    if position["dead_letters"] is not None:
        check_saved(position["dead_letters"])
    return position


def check_model(n_events: int, saved: dict[str, Any]) -> None:
    """Raise where a model is not the one that a position was saved with."""
    learned, from_stream = saved.get("model_events"), saved["events"]
    if learned is not None and n_events != learned:
        raise ValueError(
            f"position: the model that was saved with it had learned {learned} events, and this one has learned "
            f"{n_events}: pass the model that log.restore() returns, also after a failed save"
        )
    if n_events < from_stream:
        raise ValueError(
            f"position: {from_stream} events were learned, and the model has {n_events}: "
            "pass the model that was saved with it"
        )
