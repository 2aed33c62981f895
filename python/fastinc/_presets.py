"""What a recommender is made of where its caller doesn't say: measured in docs/quality.md."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, Literal

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

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "quality": lambda: Adagrad(lr=0.12, initial_accumulator_value=0.1),
    "fast": lambda: Adagrad(lr=0.12, initial_accumulator_value=0.1),
}
