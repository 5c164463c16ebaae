"""`--recipe`: what the settings of a paper mean together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from lnpjax.models.presets import CIFAR5M_PRESETS, SIMPLESTORIES_PRESETS

RecipeName: TypeAlias = Literal["stories", "pixels"]
"""The recipes."""
_TRAINING = {"warmup_steps": 100, "weight_decay": 0.01, "fill_last_batch": True}
_MEASUREMENT = {"windows_per_decade": 5, "window_width": 50, "open_end": True}
RECIPES: Mapping[RecipeName, Mapping[str, Mapping[str, Any]]] = {
    "stories": {
        "model": {"preset": "1.2M"},
        "data": {
            "data": "simplestories",
            "sequences": "documents",
            "context_length": 512,
            "num_validation": 160,
        },
        "training": {**_TRAINING, "steps": 66_116, "batch_size": 32},
        "measurement": _MEASUREMENT,
    },
    "pixels": {
        "model": {"preset": "102.6K"},
        "data": {"data": "cifar5m", "num_validation": 4096, "held_out": 0.1},
        "training": {**_TRAINING, "steps": 42_207, "batch_size": 128},
        "measurement": _MEASUREMENT,
    },
}
"""*Spectral Reach*, B.2.1 and B.2.2: options by section, where they are not the usual ones."""
_PRESETS: Mapping[RecipeName, Mapping[str, Any]] = {
    "stories": SIMPLESTORIES_PRESETS,
    "pixels": CIFAR5M_PRESETS,
}


def recipe_of(preset: str) -> RecipeName | None:
    """Return the recipe that the learning rate of a preset belongs to; None for one of ours.

    Example:
        >>> recipe_of("7.2M"), recipe_of("102.6K"), recipe_of("115K")
        ('stories', 'pixels', None)
    """
    return next((name for name in get_args(RecipeName) if preset in _PRESETS[name]), None)
