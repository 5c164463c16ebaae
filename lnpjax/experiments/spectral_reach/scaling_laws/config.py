"""The sizes of the experiment on scaling laws (Spectral Reach, sections 4 and B.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_reach.options import Recipe, Task
from lnpjax.models import LlamaConfig
from lnpjax.models.presets import CIFAR5M_PRESETS, SIMPLESTORIES_PRESETS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """One size of the experiment.

    Attributes:
        tasks: what is learned, by which sizes. Without a folder of data, the last one's sizes learn
            digits.
        recipe: how they are trained and measured.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    tasks: tuple[Task, ...]
    recipe: Recipe = dataclasses.field(default_factory=Recipe)

    def __post_init__(self) -> None:
        require(len(self.tasks) >= 1, "tasks", expected="one or more", got=self.tasks)
        for task in self.tasks:
            self.recipe.check_divides("steps", task.steps)


SMALL = ((2, 16, 32, 2), (2, 24, 64, 2), (2, 36, 108, 2), (2, 56, 160, 2), (3, 72, 192, 2))
"""13.4K, 26.2K, 52.3K, 108K and 224K parameters with 256 bytes or levels: those that two cores let
learn from eight tokens a parameter."""
STORIES = ((2, 8, 32, 2), (2, 16, 64, 2), (3, 32, 96, 2), (3, 64, 192, 2), (4, 96, 256, 2))
"""67.6K, 139K, 302K, 684K and 1.23M parameters with 4096 tokens; the last is in Table 1."""
PIXELS = ((2, 24, 64, 2), (2, 40, 128, 2), (2, 64, 192, 2), (3, 96, 256, 2), (4, 128, 512, 2))
"""26.2K, 64.2K, 140K, 382K and 1.12M parameters with 256 levels; the last two are in Table 2."""


def published(presets: Mapping[str, LlamaConfig]) -> tuple[tuple[int, int, int, int], ...]:
    """Return the sizes of a table of the paper; a width is that of the heads together.

    Example:
        >>> published(CIFAR5M_PRESETS)[-1]
        (7, 380, 1024, 5)
    """
    return tuple(
        (size.num_layers, size.num_heads * size.head_width, size.intermediate_size, size.num_heads)
        for size in presets.values()
    )


PRESETS = {
    "smoke": ScalingConfig(
        tasks=(
            Task(
                source="digits",
                sizes=((1, 4, 8, 2), (1, 8, 16, 2), (1, 16, 32, 2)),
                batch_size=4,
                steps=40,
                num_validation=8,
                num_test=8,
            ),
        ),
        recipe=Recipe(
            rates=(2e-3, 8e-3, 3.2e-2),
            pilot_steps=10,
            num_seeds=2,
            warmup_steps=3,
            chunk_steps=10,
            windows_per_decade=5,
            window_width=3,
        ),
    ),
    "cpu": ScalingConfig(
        tasks=(
            Task(
                source="bytes",
                sizes=SMALL,
                context_length=64,
                batch_size=16,
                steps=1800,
                num_validation=160,
                num_test=160,
            ),
            Task(
                source="fashion",
                sizes=SMALL,
                pooled=2,
                batch_size=8,
                steps=1200,
                num_validation=160,
                num_test=80,
            ),
        ),
        recipe=Recipe(
            rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2),
            pilot_steps=300,
            num_seeds=3,
            window_width=20,
            window_growth=0.05,
        ),
    ),
    "long": ScalingConfig(
        tasks=(
            Task(
                source="stories",
                sizes=(*STORIES, (5, 128, 512, 2)),
                context_length=64,
                batch_size=16,
                steps=1900,
                num_validation=320,
                num_test=160,
            ),
            Task(
                source="fashion",
                sizes=(*PIXELS, (5, 192, 512, 3)),
                pooled=2,
                batch_size=32,
                steps=2300,
                num_validation=640,
                num_test=320,
            ),
        ),
        recipe=Recipe(
            rates=(7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2, 9.6e-2),
            pilot_steps=300,
            num_seeds=4,
        ),
    ),
    "paper": ScalingConfig(
        tasks=(
            Task(
                source="simplestories",
                sizes=published(SIMPLESTORIES_PRESETS),
                context_length=512,
                batch_size=32,
                steps=66_100,
                num_validation=160,
                num_test=640,
            ),
            Task(
                source="cifar5m",
                sizes=published(CIFAR5M_PRESETS),
                batch_size=128,
                steps=42_200,
                num_validation=4096,
                num_test=4096,
            ),
        ),
        recipe=Recipe(
            rates=(7.5e-5, 1.5e-4, 3e-4, 6e-4, 1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2),
            pilot_steps=2000,
            num_seeds=3,
            warmup_steps=100,
            chunk_steps=100,
            windows_per_decade=5,
            window_width=50,
            window_growth=0.0,
        ),
    ),
}
