"""The sizes of the experiment on frozen modes (Spectral Reach, sections 4 and 6)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezingConfig:
    """One size of the experiment.

    Attributes:
        widths: of the hidden layers of the dense networks, ascending.
        hidden_layers: of them.
        num_seeds: networks of a width, with samples of their own; shared by all widths.
        side: of the digits in pixels, a divisor of 8: with few pixels the smallest networks lack
            the parameters to learn all images.
        num_samples: n, the images that are learned, and the size of the exact kernel.
        num_test: images of which the test loss is taken.
        num_rounds: how often the modes are renewed.
        steps_per_round: steps of gradient descent in between.
        step: of gradient descent, in units of the inverse of the kernel's largest eigenvalue, as it
            is when modes are renewed; stable below 2.
        hidden_sizes: of the transformers, which have no exact kernel, ascending.
        num_layers: of them.
        num_ritz_seeds: transformers of a size.
        num_sequences: of pixels, that they learn.
        context_length: of these.
        num_matvecs: products with the kernel that make the Ritz vectors of a renewal.
        ritz_rounds: how often these are renewed.
        ritz_steps_per_round: steps in between.
        ritz_step: as `step`, of the mean cross-entropy per token, whose curvature is at most a half
            of that of the squared error; stable below 4.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    widths: tuple[int, ...] = (1, 4, 16)
    hidden_layers: int = 1
    num_seeds: int = 6
    side: int = 4
    num_samples: int = 64
    num_test: int = 300
    num_rounds: int = 5000
    steps_per_round: int = 1
    step: float = 1.0
    hidden_sizes: tuple[int, ...] = (2, 8)
    num_layers: int = 2
    num_ritz_seeds: int = 6
    num_sequences: int = 16
    context_length: int = 32
    num_matvecs: int = 10
    ritz_rounds: int = 200
    ritz_steps_per_round: int = 5
    ritz_step: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("widths", "hidden_sizes"):
            sizes = getattr(self, name)
            require(
                len(sizes) >= 2 and bool(np.all(np.diff(sizes) > 0)),
                name,
                expected="at least two, ascending",
                got=sizes,
            )
        for name in ("num_seeds", "num_ritz_seeds"):
            count = getattr(self, name)
            require(count >= 2, name, expected="at least two", got=count)
        require(8 % self.side == 0, "side", expected="a divisor of 8", got=self.side)
        require(0 < self.step < 2, "step", expected="between 0 and 2", got=self.step)
        ritz_step = self.ritz_step
        require(0 < ritz_step < 4, "ritz_step", expected="between 0 and 4", got=ritz_step)


PRESETS = {
    "smoke": FreezingConfig(
        widths=(1, 4),
        num_seeds=2,
        num_samples=24,
        num_test=16,
        num_rounds=6,
        steps_per_round=3,
        hidden_sizes=(8, 16),
        num_layers=1,
        num_ritz_seeds=2,
        num_sequences=4,
        context_length=8,
        num_matvecs=6,
        ritz_rounds=3,
        ritz_steps_per_round=2,
    ),
    "cpu": FreezingConfig(),
    "long": FreezingConfig(widths=(1, 2, 4, 8, 16, 32), hidden_sizes=(2, 8, 32)),
    "paper": FreezingConfig(
        widths=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        num_seeds=10,
        side=8,
        num_samples=512,
        num_rounds=20_000,
        hidden_sizes=(2, 4, 8, 16, 32, 64, 128, 256),
        num_layers=4,
        num_ritz_seeds=10,
        num_sequences=64,
        context_length=64,
        num_matvecs=48,
        ritz_rounds=1000,
    ),
}
