"""The sizes of runs of nanoGPT: of their training, and of what is measured on the way."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import check_count, require
from lnpjax.models import NANOGPT_SIZES, NanoGPTSize

SMOKE_SIZE = NanoGPTSize(
    num_layers=4,
    num_heads=2,
    hidden_size=16,
    vocab_size=256,
    context=8,
    long_context=32,
    fixed_window=8,
    first_window=2,
    last_window=14,
    block=2,
    chunk=16,
    document_token=0,
)
"""Of networks that show that an experiment works."""
OUTPUT, MLP_OUTPUT = "/attention/output/kernel", "/feed_forward/down/kernel"
"""What the names of the weights that are compared end in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The size of runs, and of the text that they learn.

    Attributes:
        size: of the networks.
        max_bytes: of text.
        num_validation: held-out sequences of `size.long_context` positions; the same text is cut
            into shorter ones for the variants up to U-Net.
        tokens: of a run.
        tokens_per_step: of a batch.
        reference_steps: how many steps of the paper the run stands for: warm-ups take as large a
            part of it as of these.
        layout: the schedule of the rate is laid out for so many times the run, since the paper's
            runs end long before theirs does.
        num_pool: held-out sequences that spectra are taken over.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    size: NanoGPTSize = NANOGPT_SIZES["d6"]
    max_bytes: int = 4 * 2**20
    num_validation: int = 64
    tokens: int = 2 * 2**20
    tokens_per_step: int = 4096
    reference_steps: int = 5000
    layout: float = 2.0
    num_pool: int = 64

    def __post_init__(self) -> None:
        for length in (self.size.long_context, self.size.context):
            require(
                self.tokens_per_step % length == 0 and self.size.long_context % length == 0,
                "tokens_per_step",
                expected=f"a multiple of the {length} positions of a sequence",
                got=self.tokens_per_step,
            )
        require(
            self.tokens >= self.tokens_per_step and self.tokens % self.tokens_per_step == 0,
            "tokens",
            expected=f"a multiple of tokens_per_step={self.tokens_per_step}",
            got=self.tokens,
        )
        inside = 2 <= self.num_pool <= self.num_validation
        expected = f"2 to num_validation={self.num_validation}"
        require(inside, "num_pool", expected=expected, got=self.num_pool)

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return self.tokens // self.tokens_per_step

    @property
    def deepest(self) -> str:
        """The name of the deepest layer."""
        return f"layers/{self.size.num_layers - 1}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """The size of runs whose spectra are taken on the way.

    Attributes:
        steps_per_evaluation: between two evaluations of the validation loss.
        target_losses: in nats, descending; spectra are taken at the first step that meets each.
        num_points: further steps, evenly spread on a logarithmic axis, at which they are.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    steps_per_evaluation: int = 8
    target_losses: tuple[float, ...] = (3.0, 2.8, 2.6, 2.4, 2.3, 2.2, 2.1, 2.0, 1.8)
    num_points: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.tokens % (self.tokens_per_step * self.steps_per_evaluation) == 0,
            "tokens",
            expected=f"a multiple of {self.steps_per_evaluation} steps of {self.tokens_per_step}",
            got=self.tokens,
        )
        descending = list(self.target_losses) == sorted(set(self.target_losses), reverse=True)
        expected = "descending losses"
        require(descending, "target_losses", expected=expected, got=self.target_losses)
        check_count("num_points", self.num_points, least=2)

    def points(self) -> list[int]:
        """The evaluations at which spectra are taken besides the targets, as numbers of steps.

        Example:
            >>> RunConfig().points()
            [0, 8, 16, 32, 64, 128, 256, 512]
        """
        every, most = self.steps_per_evaluation, self.num_steps // self.steps_per_evaluation
        powers = [most ** (index / (self.num_points - 2)) for index in range(self.num_points - 1)]
        return [0, *dict.fromkeys(every * round(power) for power in powers)]
