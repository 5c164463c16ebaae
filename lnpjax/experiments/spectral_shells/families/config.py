"""The sizes of the experiment on shells of language models (Spectral Shells, section 7)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.pretraining import ModelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamiliesConfig:
    """One size of the experiment.

    Attributes:
        text: a folder of texts in the folder of data; without data, the interpreter's own sources.
        max_bytes: how much of it is read; None for all.
        context_length: tokens (bytes) of a sequence.
        sizes: of the Llamas, ascending: layers, width, width of the feed-forward, heads.
        learning_rates: of AdamW, one for each size.
        checkpoints: steps after which shells are measured, ascending.
        batch_size: sequences of a training step.
        warmup_steps: of the learning rate.
        num_runs: seeds for each size: initialisation, order of the data, and measured batches.
        num_batches: held-out batches whose energies are averaged.
        measured_sequences: of each of them.
        num_matvecs: products with the kernel; half of them are the comparison.
        lowest: lower edge of the shells, an eigenvalue of ``J J^T / tokens``.
        highest: where the shells must reach.
        ratio: q, of the edges.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    text: str = "tinystories"
    max_bytes: int | None = None
    context_length: int = 128
    sizes: tuple[tuple[int, int, int, int], ...] = (
        (2, 64, 128, 4),
        (4, 128, 512, 4),
        (6, 256, 768, 4),
    )
    learning_rates: tuple[float, ...] = (5e-3, 2e-3, 1e-3)
    checkpoints: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    batch_size: int = 32
    warmup_steps: int = 100
    num_runs: int = 5
    num_batches: int = 50
    measured_sequences: int = 4
    num_matvecs: int = 512
    lowest: float = 2.0**-12
    highest: float = 2.0**8
    ratio: float = 2.0

    def __post_init__(self) -> None:
        require(
            len(self.sizes) == len(self.learning_rates) >= 1,
            "learning_rates",
            expected=f"one for each of the {len(self.sizes)} sizes",
            got=self.learning_rates,
        )
        require(
            len(self.checkpoints) >= 2 and bool(np.all(np.diff(self.checkpoints) > 0)),
            "checkpoints",
            expected="at least two, ascending",
            got=self.checkpoints,
        )
        require(self.num_runs >= 2, "num_runs", expected="at least two", got=self.num_runs)
        tokens = self.measured_sequences * self.context_length
        require(
            2 <= self.num_matvecs <= tokens,
            "num_matvecs",
            expected=f"at least two and at most the {tokens} tokens of a measured batch",
            got=self.num_matvecs,
        )

    @property
    def num_held_out(self) -> int:
        """Sequences that the measured batches of all runs take, each of them once."""
        return self.num_runs * self.num_batches * self.measured_sequences

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes by their number of parameters, such as "115K"."""
        return tuple(short_count(self._num_parameters(index)) for index in range(len(self.sizes)))

    def _num_parameters(self, index: int) -> int:
        length = self.context_length
        options = self.model_options(index)
        return options.resolve(vocab_size=256, context_length=length).num_parameters

    def model_options(self, index: int) -> ModelOptions:
        """The model of a size."""
        layers, hidden, intermediate, heads = self.sizes[index]
        return ModelOptions(
            num_layers=layers,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_heads=heads,
        )

    @property
    def centers(self) -> Float[np.ndarray, " shell"]:
        """Geometric centres of the shells."""
        count = math.ceil(math.log(self.highest / self.lowest) / math.log(self.ratio) - 1e-9)
        return self.lowest * self.ratio ** (np.arange(count) + 0.5)


def short_count(number: int) -> str:
    """Return a number of parameters in three digits.

    Example:
        >>> short_count(115_008), short_count(1_229_664)
        ('115K', '1.23M')
    """
    thousands = number >= 1_000_000
    return f"{number / 1e6:.3g}M" if thousands else f"{number / 1e3:.3g}K"


PRESETS = {
    "smoke": FamiliesConfig(
        max_bytes=40_000,
        context_length=8,
        sizes=((1, 8, 16, 2), (1, 16, 32, 2)),
        learning_rates=(1e-2, 1e-2),
        checkpoints=(2, 4),
        batch_size=4,
        warmup_steps=2,
        num_runs=2,
        num_batches=2,
        measured_sequences=2,
        num_matvecs=8,
    ),
    "cpu": FamiliesConfig(
        context_length=64,
        sizes=((2, 32, 64, 2), (2, 96, 192, 4)),
        learning_rates=(8e-3, 3e-3),
        checkpoints=(32, 64, 128, 256, 512, 1024),
        batch_size=16,
        num_batches=6,
        measured_sequences=3,
        num_matvecs=192,
    ),
    "paper": FamiliesConfig(),
}
