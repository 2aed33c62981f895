"""What a recommender is made of where its caller doesn't say: measured in docs/quality.md."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, Literal

from fastinc._arguments import as_choice, as_flag, as_number, as_probability, as_seed, as_whole
from fastinc.optimizers import Adagrad, Optimizer

Preset = Literal["quality", "fast"]


class FromPreset(enum.Enum):
    """The default of arguments whose value is the preset's."""

    PRESET = "preset"

    def __repr__(self) -> str:
        return "<the preset's>"


PRESET: Final = FromPreset.PRESET

PRESETS: dict[str, dict[str, Any]] = {
    "quality": {
        "negatives": 400,
        "hard_negatives": 0.67,
        "window": 20,
        "recency_exponent": 0.7,
        "time_scale": 120.0,
        "context_lr_scale": 0.5,
        "tie_weight": 1.0,
        "long_window": 100,
        "long_weight": 0.5,
        "situations": True,
        "hidden": 64,
        "batch_size": 8,
    },
    "fast": {
        "negatives": 100,
        "hard_negatives": 0.67,
        "window": 20,
        "recency_exponent": 0.7,
        "time_scale": 120.0,
        "context_lr_scale": 0.0,
        "tie_weight": 1.0,
        "long_window": 30,
        "long_weight": 0.5,
        "situations": True,
        "hidden": 0,
        "batch_size": 16,
    },
}

Check = Callable[[Any, str], Any]


def _whole(least: int, *most: int) -> Check:
    return lambda value, name: as_whole(value, name, least, *most)


def _choice(*choices: str) -> Check:
    return lambda value, name: as_choice(value, name, choices)


def _or_none(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _as_scale(value: Any, name: str) -> float:
    if not 0 < as_number(value, name) < float("inf"):
        raise ValueError(f"{name} = {value} must be finite and > 0, or None")
    return float(value)


#: What each argument has to be; ranges of numbers are the engine's to check.
CHECKS: dict[str, Check] = {
    "dim": _whole(1, 65536),
    "loss": _choice("softmax", "bpr", "logistic", "mse"),
    "user": _choice("history", "vector", "both"),
    "negatives": _whole(1, 65536),
    "popular_negatives": as_probability,
    "hard_negatives": _or_none(as_number),
    "window": _whole(1),
    "history_size": _whole(1, 1_000_000),
    "recency_exponent": as_number,
    "time_scale": _or_none(_as_scale),
    "context_lr_scale": as_number,
    "tie_weight": as_number,
    "long_window": _whole(0),
    "long_weight": as_number,
    "situations": as_flag,
    "hidden": _whole(0, 65536),
    "hidden_lr_scale": as_number,
    "init_std": as_number,
    "max_influence": _or_none(_whole(1)),
    "influence_window": as_number,
    "trusted_after": _whole(0),
    "max_grad_norm": _or_none(_as_scale),
    "anchor": as_number,
    "feature_lr_scale": as_number,
    "explore": as_probability,
    "explore_below": _whole(0),
    "batch_size": _whole(1, 256),
    "seed": lambda value, _: as_seed(value),
}
#: Parts of a history: what is longer than histories are can only be what the preset says.
_WINDOWS = ("window", "long_window")


def configure(preset: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return every argument of `CHECKS`, checked, with the preset's values for those that are `PRESET`."""
    defaults = PRESETS[as_choice(preset, "preset", tuple(PRESETS))]
    history_size = CHECKS["history_size"](given["history_size"], "history_size")
    config = {}
    for name, check in CHECKS.items():
        value = given[name]
        if value is PRESET:
            value = min(defaults[name], history_size) if name in _WINDOWS else defaults[name]
        config[name] = check(value, name)
    return config


def default_optimizer() -> Optimizer:
    """Return a new optimizer as both presets have it."""
    return Adagrad(lr=0.12, initial_accumulator_value=0.1)
