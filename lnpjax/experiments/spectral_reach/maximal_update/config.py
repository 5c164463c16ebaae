"""The sizes of the check of muP (Spectral Reach, B.2.4; Yang et al., 2022)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

from lnpjax._base.checks import check_count, require
from lnpjax.experiments.spectral_reach import parametrisations

Model = Literal["mlp", "vit", "llama"]
MODELS: tuple[Model, ...] = ("mlp", "vit", "llama")
NAMES = {"mlp": "MLP", "vit": "ViT", "llama": "Llama"} | parametrisations.NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaximalUpdateConfig:
    """One size of the experiment: three models learn digits, over widths and learning rates.

    Attributes:
        widths: ascending; heads are all of one width.
        base_width: at which both parametrisations are the same.
        rates: learning rates of Adam, ascending, each a factor from the next.
        check_rate: one of them, at which coordinates are checked.
        checked: after how many steps.
        steps: of every run.
        num_seeds: initialisations; all see the same batches.
        batch_size: images of a batch.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    base_width: int = 64
    rates: tuple[float, ...] = tuple(2.0**-k for k in range(13, 4, -1))
    check_rate: float = 2.0**-9
    checked: tuple[int, ...] = (1, 4, 16)
    steps: int = 120
    num_seeds: int = 6
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "base_width"):
            check_count(name, getattr(self, name))
        check_count("num_seeds", self.num_seeds, least=2)
        for name, least in (("widths", 2), ("rates", 3), ("checked", 1)):
            values = getattr(self, name)
            ascending = all(low < high for low, high in itertools.pairwise(values))
            expected = f"{least} or more, positive and ascending"
            fit = len(values) >= least and ascending and values[0] > 0
            require(fit, name, expected=expected, got=values)
        expected = f"one of rates={self.rates}"
        require(self.check_rate in self.rates, "check_rate", expected=expected, got=self.check_rate)
        whole = all(width % HEAD_WIDTH == 0 for width in (*self.widths, self.base_width))
        expected = f"multiples of {HEAD_WIDTH}, the width of a head"
        require(whole, "widths", expected=expected, got=self.widths)


HEAD_WIDTH = 16

PRESETS = {
    "smoke": MaximalUpdateConfig(
        widths=(16, 32),
        base_width=16,
        rates=(1e-3, 4e-3, 1.6e-2),
        check_rate=4e-3,
        checked=(1, 2),
        steps=6,
        num_seeds=2,
        batch_size=4,
    ),
    "cpu": MaximalUpdateConfig(),
    "paper": MaximalUpdateConfig(
        widths=(96, 128, 192, 256, 384), base_width=192, steps=600, batch_size=128
    ),
}
