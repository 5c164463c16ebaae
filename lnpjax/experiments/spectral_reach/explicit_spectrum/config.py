"""The sizes of the experiment on explicit spectra (Spectral Reach, D.5, Fig. 12)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_reach.language import Text, check_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplicitConfig:
    """One size of the experiment.

    Attributes:
        model: the name of the Llama's shape (`lnpjax.models.preset`).
        text: what it learns, "stdlib", "bytes" or "stories" (`language.load_corpus`).
        max_bytes: of the text.
        context_length: S, the positions of a sequence, all of which are outputs.
        num_vocabulary: K, the entries of the vocabulary that are.
        num_models: trained models, with starts and orders of batches of their own.
        num_samples: sequences, with a kernel each, for every model.
        pairs: whether the pairs of modes of two sequences are looked at as well, which takes
            three kernels in place of one.
        train_steps: of a model.
        train_batch: sequences of a step.
        rate: of these.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    model: str = "115K"
    text: Text = "stdlib"
    max_bytes: int = 2_000_000
    context_length: int = 32
    num_vocabulary: int = 20
    num_models: int = 6
    num_samples: int = 4
    pairs: bool = True
    train_steps: int = 2000
    train_batch: int = 32
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_text(self.text)
        for name in ("num_vocabulary", "num_models", "num_samples", "train_steps"):
            count = getattr(self, name)
            require(count >= 1, name, expected="at least one", got=count)


PRESETS = {
    "smoke": ExplicitConfig(
        max_bytes=30_000,
        context_length=6,
        num_vocabulary=4,
        num_models=2,
        num_samples=2,
        train_steps=3,
        train_batch=2,
    ),
    "cpu": ExplicitConfig(),
    "paper": ExplicitConfig(
        model="3.8M",
        text="stories",
        context_length=256,
        num_vocabulary=40,
        num_models=1,
        num_samples=1,
        pairs=False,
        train_steps=1000,
        train_batch=16,
        rate=1e-3,
    ),
}
