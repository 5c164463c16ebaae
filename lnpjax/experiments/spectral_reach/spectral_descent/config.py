"""The sizes of the experiment on optimizers that move into the tail (Spectral Reach, section 7)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_reach.language import Text, check_text
from lnpjax.models import preset

ARMS = ("adamw", "muon", "damped", "clamped", "mup", "small")
"""AdamW; Muon; AdamW with damped top modes, with a ceiling of chi_pos, in muP, from small weights.

The last two start elsewhere, and the two before follow other gradients."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescentConfig:
    """One size of the experiment.

    Attributes:
        model: the name of the Llama's shape (`lnpjax.models.preset`).
        text: what it learns, "stdlib", "bytes" or "stories" (`language.load_corpus`).
        arms: the optimizers that are compared, of `ARMS`; AdamW and Muon among them.
        max_bytes: of the text.
        context_length: positions of a sequence.
        batch_size: sequences of a step.
        num_test: sequences of which the test loss and chi_pos are taken.
        budget: of every run, in gradients of a batch, with what renewals of modes cost.
        rates: learning rates that every optimizer is tried with, ascending.
        num_tuning: seeds that choose the rate.
        num_seeds: seeds that are compared at it.
        num_matvecs: products with the kernel for each renewal of modes.
        every: steps from one renewal to the next.
        num_modes: that are damped.
        left: what is left of these.
        ceiling: of chi_pos, where it is clamped.
        narrower: how many times narrower the base network of muP is.
        initial_scale: of matrices at the start, relative to the usual one, where it is small.
        num_times: about how many times of measurement, of which the first is the start.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    model: str = "115K"
    text: Text = "bytes"
    arms: tuple[str, ...] = ARMS
    max_bytes: int = 2_000_000
    context_length: int = 48
    batch_size: int = 8
    num_test: int = 64
    budget: int = 1000
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    num_tuning: int = 2
    num_seeds: int = 6
    num_matvecs: int = 8
    every: int = 50
    num_modes: int = 4
    left: float = 0.1
    ceiling: float = 1e-5
    narrower: int = 4
    initial_scale: float = 0.3
    num_times: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        check_text(self.text)
        require(
            {"adamw", "muon"} <= set(self.arms) <= set(ARMS),
            "arms",
            expected=f"some of {', '.join(ARMS)}, adamw and muon among them",
            got=self.arms,
        )
        require(self.initial_scale > 0, "initial_scale", expected="above 0", got=self.initial_scale)
        widths = preset(self.model)
        divisors = math.gcd(widths.num_heads, widths.intermediate_size)
        fits = self.narrower >= 1 and divisors % self.narrower == 0
        expected = f"a divisor of {divisors}, as heads and feed-forward have it"
        require(fits, "narrower", expected=expected, got=self.narrower)
        require(
            len(self.rates) >= 3 and bool(np.all(np.diff(self.rates) > 0)),
            "rates",
            expected="at least three, ascending, so that the best can lie inside",
            got=self.rates,
        )
        for name, least in (("num_tuning", 1), ("num_seeds", 2), ("num_times", 2)):
            count = getattr(self, name)
            require(count >= least, name, expected=f"at least {least}", got=count)


PRESETS = {
    "smoke": DescentConfig(
        text="stdlib",
        arms=("adamw", "muon", "damped", "mup"),
        max_bytes=30_000,
        context_length=6,
        batch_size=2,
        num_test=4,
        budget=24,
        rates=(1e-3, 3e-3, 1e-2),
        num_tuning=1,
        num_seeds=2,
        num_matvecs=2,
        every=6,
        num_modes=1,
        num_times=2,
    ),
    "cpu": DescentConfig(),
    "paper": DescentConfig(
        model="1.2M",
        narrower=2,
        text="stories",
        context_length=128,
        batch_size=32,
        num_test=128,
        budget=8000,
        num_seeds=6,
        num_matvecs=16,
        num_modes=8,
    ),
}
