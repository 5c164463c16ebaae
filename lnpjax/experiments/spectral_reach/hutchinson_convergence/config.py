"""The sizes of the experiment on Hutchinson's estimator (Spectral Reach, B.1, Fig. 6)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_reach.language import Text, check_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class HutchinsonConfig:
    """One size of the experiment.

    Attributes:
        model: the name of the Llama's shape (`lnpjax.models.preset`).
        text: what it learns, "stdlib", "bytes" or "stories" (`language.load_corpus`).
        max_bytes: of the text.
        context_length: positions of a sequence.
        num_samples: sequences that the squared norm is taken on.
        train_steps: of the model, before anything is measured.
        train_batch: sequences of a step.
        rate: of these.
        probes: the numbers M of probes, ascending.
        num_repeats: independent estimates at each M.
        num_reference: probes of the reference.
        probes_per_unit: draws that one program makes.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    model: str = "115K"
    text: Text = "stdlib"
    max_bytes: int = 1_000_000
    context_length: int = 32
    num_samples: int = 32
    train_steps: int = 300
    train_batch: int = 16
    rate: float = 3e-3
    probes: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    num_repeats: int = 100
    num_reference: int = 2000
    probes_per_unit: int = 1800
    seed: int = 0

    def __post_init__(self) -> None:
        check_text(self.text)
        require(
            len(self.probes) >= 2 and bool(np.all(np.diff(self.probes) > 0)),
            "probes",
            expected="at least two, ascending",
            got=self.probes,
        )
        require(self.num_repeats >= 2, "num_repeats", expected="at least two", got=self.num_repeats)

    @property
    def num_draws(self) -> int:
        """Probes in all: those of every estimate, and of the reference."""
        return self.num_repeats * sum(self.probes) + self.num_reference


PRESETS = {
    "smoke": HutchinsonConfig(
        max_bytes=30_000,
        context_length=8,
        num_samples=4,
        train_steps=3,
        train_batch=2,
        probes=(1, 2, 4),
        num_repeats=4,
        num_reference=8,
        probes_per_unit=20,
    ),
    "cpu": HutchinsonConfig(),
    "paper": HutchinsonConfig(
        model="7.2M",
        text="stories",
        max_bytes=2_000_000,
        context_length=512,
        train_steps=4000,
        train_batch=32,
        rate=1e-3,
        probes=(1, 2, 5, 10, 20, 50, 100, 200, 500),
        num_repeats=50,
        probes_per_unit=1000,
    ),
}
