"""Train language models of several sizes and measure them (Spectral Reach, sections 4, B.2).

What differs from the paper in the presets `cpu` and `long`: the sizes; fewer and smaller batches;
TinyStories, the first 2 MiB, in sequences of 64 tokens; in place of CIFAR-5M Fashion-MNIST, of
which four pixels are averaged into one. `cpu` has networks that eight tokens for each parameter can
be afforded for, and they learn the stories as bytes: with the 4096 tokens of `long`, the tokenizer
of SimpleStories, the embedding and the read-out alone have 65,536 parameters at a width of 8.
The learning rate of a size is the one of a grid whose short run has the lowest
validation loss. Batches B are drawn from validation samples and test losses taken on others. One
probe for each sequence stands for the paper's ten for the whole batch. The last window ends with
the run; late ones are longer.
"""

from __future__ import annotations

from pathlib import Path

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach import units
from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig


def measure(config: ScalingConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of data, or None for digits.
    """
    units.measure_runs(config.tasks, config.recipe, sweep, data)


def num_units(config: ScalingConfig, data: Path | None = None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS
        >>> num_units(PRESETS["smoke"])
        6
    """
    return units.num_units(config.tasks, data)
