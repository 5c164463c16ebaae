"""What language models of several sizes learn, and how: what a config says of it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import numpy as np

from lnpjax._base.checks import check_count, require
from lnpjax.models import LlamaConfig
from lnpjax.pretraining import ModelOptions
from lnpjax.training import Windows, log_windows

Source = Literal["stories", "bytes", "fashion", "digits", "simplestories", "cifar5m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned, by which sizes of Llama.

    Attributes:
        source: "stories" (TinyStories under the tokenizer of SimpleStories), "bytes" (of the same
            text, for networks that are too small for 4096 tokens), "fashion" (the next pixel of
            Fashion-MNIST), "digits" (of scikit-learn's), or, as in the paper, "simplestories" and
            "cifar5m".
        sizes: layers, width, width of the feed-forward and heads of each, by number of parameters.
        context_length: tokens of a sequence; None for whole images, of which else the first rows
            are learned.
        pooled: pixels along an edge that are averaged into one; 1 for none.
        batch_size: sequences of a batch.
        steps: of training.
        num_validation: sequences that batches B are drawn from and learning rates chosen by.
        num_test: sequences of the test loss.
    """

    source: Source
    sizes: tuple[tuple[int, int, int, int], ...]
    context_length: int | None = None
    pooled: int = 1
    batch_size: int
    steps: int
    num_validation: int
    num_test: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "num_validation", "num_test", "pooled"):
            check_count(name, getattr(self, name))
        for name in ("num_validation", "num_test"):
            count = getattr(self, name)
            expected = f"a multiple of batch_size={self.batch_size}"
            require(count % self.batch_size == 0, name, expected=expected, got=count)
        require(len(self.sizes) >= 2, "sizes", expected="two or more", got=self.sizes)

    def model(self, index: int, *, vocab_size: int, context_length: int) -> LlamaConfig:
        """Return the configuration of a size for some data."""
        layers, width, inner, heads = self.sizes[index]
        options = ModelOptions(
            num_layers=layers, hidden_size=width, intermediate_size=inner, num_heads=heads
        )
        return options.resolve(vocab_size=vocab_size, context_length=context_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How all sizes are trained and measured: AdamW on the mean cross-entropy (B.2).

    The learning rate is constant after the warm-up, so that the first part of a run is a run with
    less data.

    Attributes:
        rates: learning rates that are tried for each size, ascending; where the lowest or the
            highest is the best, others beyond it are tried, too.
        pilot_steps: of each trial; the lowest validation loss decides.
        num_seeds: initialisations; all see the same batches in the same order.
        warmup_steps: over which the learning rate rises linearly.
        weight_decay: decoupled, on all parameters.
        second_moment: by which Adam's mean of squares decays each step (beta_2).
        chunk_steps: that run as one program, and from one test loss to the next.
        windows_per_decade: windows of measured steps per factor of ten in steps.
        window_width: measured steps of a window.
        window_growth: late windows are longer: this many times their first step.
    """

    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
    pilot_steps: int = 250
    num_seeds: int = 4
    warmup_steps: int = 50
    weight_decay: float = 0.01
    second_moment: float = 0.95
    chunk_steps: int = 50
    windows_per_decade: int = 6
    window_width: int = 25
    window_growth: float = 0.1

    def __post_init__(self) -> None:
        check_count("num_seeds", self.num_seeds, least=2)
        for name in ("pilot_steps", "warmup_steps", "chunk_steps"):
            check_count(name, getattr(self, name))
        ascending = len(self.rates) >= 3 and self.rates[0] > 0
        ascending &= all(low < high for low, high in itertools.pairwise(self.rates))
        expected = "three or more, positive and ascending, so that one has neighbours"
        require(ascending, "rates", expected=expected, got=self.rates)
        self.check_divides("pilot_steps", self.pilot_steps)

    def check_divides(self, name: str, steps: int) -> None:
        """Refuse a number of steps that is not a whole number of chunks.

        Args:
            name: of the argument.
            steps: its value.

        Raises:
            ValueError: if it is not.
        """
        expected = f"a multiple of chunk_steps={self.chunk_steps}"
        require(steps % self.chunk_steps == 0, name, expected=expected, got=steps)

    def windows(self, steps: int) -> Windows:
        """Return the measured steps: log-spaced windows (B.2), and one that ends with the run.

        Example:
            >>> Recipe(windows_per_decade=1, window_width=2, window_growth=0.1).windows(1_000)
            Windows(starts=(0, 1, 10, 100, 900), width=(2, 2, 2, 10, 100))
        """
        spaced = log_windows(
            steps,
            per_decade=self.windows_per_decade,
            width=self.window_width,
            growth=self.window_growth,
        )
        last = max(self.window_width, round(self.window_growth * steps))
        starts = np.array(spaced.starts)
        kept = starts < steps - last
        widths = [width for width, keep in zip(spaced.widths, kept, strict=True) if keep]
        return Windows((*starts[kept].tolist(), steps - last), (*widths, last))


def short_count(number: int) -> str:
    """Return a number of parameters in three digits.

    Example:
        >>> short_count(26_208), short_count(1_229_664)
        ('26.2K', '1.23M')
    """
    return f"{number / 1e6:.3g}M" if number >= 999_500 else f"{number / 1e3:.3g}K"
