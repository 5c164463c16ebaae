"""The sizes of the experiment on vision transformers (Spectral Reach, B.2.3, B.2.4, D.3)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import check_count, require
from lnpjax.experiments.spectral_reach.options import Recipe
from lnpjax.models import ViTConfig

HEAD_WIDTH = 32
"""Of all sizes, as in Table 4, so that muP asks nothing of attention."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """One size of the experiment.

    Attributes:
        images: a set of `lnpjax.data.image_classes`; without a folder of data, digits are learned.
        widths: of the residual stream, ascending; the feed-forward is four times as wide.
        base_width: one of them, at which muP's learning rate is chosen for all, and both
            parametrisations are the same.
        num_layers: of all sizes.
        patch_size: pixels along the edge of a patch; of digits half of it.
        batch_size: images of a batch.
        steps: of training.
        num_validation: images that batches B are drawn from and learning rates chosen by.
        num_test: images of the test loss, of which the first batch shows what features do.
        recipe: how all are trained and measured.
    """

    images: str = "fashion_mnist"
    widths: tuple[int, ...] = (32, 64, 128)
    base_width: int = 64
    num_layers: int = 4
    patch_size: int = 4
    batch_size: int = 32
    steps: int = 800
    num_validation: int = 640
    num_test: int = 960
    recipe: Recipe = dataclasses.field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for name in ("num_layers", "patch_size", "batch_size", "steps"):
            check_count(name, getattr(self, name))
        for name in ("num_validation", "num_test"):
            count = getattr(self, name)
            expected = f"a multiple of batch_size={self.batch_size}"
            require(count % self.batch_size == 0, name, expected=expected, got=count)
        ascending = list(self.widths) == sorted(set(self.widths)) and len(self.widths) >= 2
        whole = ascending and all(width % HEAD_WIDTH == 0 for width in self.widths)
        expected = f"two or more multiples of {HEAD_WIDTH}, ascending"
        require(whole, "widths", expected=expected, got=self.widths)
        expected = f"one of widths={self.widths}"
        require(
            self.base_width in self.widths, "base_width", expected=expected, got=self.base_width
        )
        self.recipe.check_divides("steps", self.steps)

    def model(self, width: int, *, image_size: int, num_channels: int) -> ViTConfig:
        """Return the configuration of a width for some images."""
        patch_size = self.patch_size if image_size % self.patch_size == 0 and image_size > 8 else 2
        return ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            num_channels=num_channels,
            num_classes=10,
            num_layers=self.num_layers,
            hidden_size=width,
            intermediate_size=4 * width,
            num_heads=width // HEAD_WIDTH,
        )


RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
PRESETS = {
    "smoke": VisionConfig(
        images="digits",
        widths=(32, 64),
        base_width=32,
        num_layers=1,
        batch_size=4,
        steps=20,
        num_validation=8,
        num_test=8,
        recipe=Recipe(
            rates=(1e-3, 4e-3, 1.6e-2),
            pilot_steps=10,
            num_seeds=2,
            warmup_steps=3,
            weight_decay=0.05,
            second_moment=0.999,
            chunk_steps=10,
            windows_per_decade=4,
            window_width=2,
        ),
    ),
    "cpu": VisionConfig(
        batch_size=16,
        num_test=320,
        recipe=Recipe(
            rates=RATES[1:-1],
            pilot_steps=150,
            num_seeds=3,
            weight_decay=0.05,
            second_moment=0.999,
            windows_per_decade=4,
            window_width=6,
            window_growth=0.03,
        ),
    ),
    "long": VisionConfig(
        widths=(32, 64, 128, 192),
        batch_size=64,
        steps=3000,
        num_test=2560,
        recipe=Recipe(
            rates=RATES,
            pilot_steps=400,
            num_seeds=4,
            weight_decay=0.05,
            second_moment=0.999,
            windows_per_decade=8,
            window_width=16,
        ),
    ),
    "paper": VisionConfig(
        images="cifar5m",
        widths=(96, 128, 192, 256, 384),
        base_width=192,
        batch_size=128,
        steps=211_000,
        num_validation=4096,
        num_test=4096,
        recipe=Recipe(
            rates=(3.93e-5, 7.85e-5, 1.57e-4, 3.14e-4, 6.28e-4),
            pilot_steps=5000,
            num_seeds=3,
            warmup_steps=100,
            weight_decay=0.05,
            second_moment=0.999,
            chunk_steps=100,
            windows_per_decade=10,
            window_width=50,
            window_growth=0.0,
        ),
    ),
}
