"""The sizes of the chain of variants of Spectral Lens (Tables 1 and 2; section 4)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import check_count, require
from lnpjax.models import LSWA_ADAM, NANOGPT_SIZES, NANOGPT_VARIANTS, NanoGPTSize

CHAIN = tuple(NANOGPT_VARIANTS)
OUTPUT, MLP_OUTPUT = "/attention/output/kernel", "/feed_forward/down/kernel"
"""What the names of the weights that are compared end in."""
REPEATED = ("Baseline", "Muon", "U-Net", "VTE", "LSWA")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """One size of the experiment.

    Attributes:
        size: of the networks.
        variants: that are trained, in the order of the chain; what is compared is neighbours.
        seeds: of networks and batches, of every variant.
        repeated: variants that have more seeds, from which their scatter is known.
        more_seeds: which.
        max_bytes: of text.
        num_validation: held-out sequences of `size.long_context` positions; the same text is cut
            into shorter ones for the variants up to U-Net.
        tokens: of a run.
        tokens_per_step: of a batch.
        steps_per_evaluation: between two evaluations of the validation loss.
        reference_steps: how many steps of the paper the run stands for: warm-ups take as large a
            part of it as of these.
        layout: the schedule of the rate is laid out for so many times the run, since the paper's
            runs end long before theirs does.
        rate_factors: candidates, three or more, which multiply all rates of a variant.
        search_share: part of a run after which the candidate with the least loss is chosen.
        target_losses: in nats, descending; spectra are taken at the first step that meets each.
        num_points: further steps, evenly spread on a logarithmic axis, at which they are.
        num_pool: held-out sequences that spectra are taken over.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    size: NanoGPTSize = NANOGPT_SIZES["d6"]
    variants: tuple[str, ...] = (*CHAIN, LSWA_ADAM)
    seeds: tuple[int, ...] = (0,)
    repeated: tuple[str, ...] = REPEATED
    more_seeds: tuple[int, ...] = (1,)
    max_bytes: int = 4 * 2**20
    num_validation: int = 64
    tokens: int = 2**20
    tokens_per_step: int = 2048
    steps_per_evaluation: int = 8
    reference_steps: int = 5000
    layout: float = 2.0
    rate_factors: tuple[float, ...] = (0.25, 1.0, 4.0)
    search_share: float = 0.1
    target_losses: tuple[float, ...] = (3.0, 2.8, 2.6, 2.4, 2.3, 2.2, 2.1, 2.0, 1.8)
    num_points: int = 8
    num_pool: int = 64

    def __post_init__(self) -> None:
        known = (*CHAIN, LSWA_ADAM)
        for name in ("variants", "repeated"):
            chosen = getattr(self, name)
            expected = f"distinct ones of {', '.join(known)}, in this order"
            fine = list(chosen) == [variant for variant in known if variant in chosen]
            require(fine, name, expected=expected, got=chosen)
        for length in (self.size.long_context, self.size.context):
            require(
                self.tokens_per_step % length == 0 and self.size.long_context % length == 0,
                "tokens_per_step",
                expected=f"a multiple of the {length} positions of a sequence",
                got=self.tokens_per_step,
            )
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
        enough = len(set(self.rate_factors)) >= 3
        require(enough, "rate_factors", expected="at least three", got=self.rate_factors)
        inside = 2 <= self.num_pool <= self.num_validation
        expected = f"2 to num_validation={self.num_validation}"
        require(inside, "num_pool", expected=expected, got=self.num_pool)

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return self.tokens // self.tokens_per_step

    @property
    def search_steps(self) -> int:
        """Steps after which the candidates for the rate are compared."""
        return max(round(self.search_share * self.num_steps), 1)

    @property
    def deepest(self) -> str:
        """The name of the deepest layer."""
        return f"layers/{self.size.num_layers - 1}"

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """The seeds of a variant.

        Example:
            >>> ChainConfig().seeds_of("Muon"), ChainConfig().seeds_of("RoPE")
            ((0, 1), (0,))
        """
        return (*self.seeds, *self.more_seeds) if variant in self.repeated else self.seeds

    def points(self) -> list[int]:
        """The evaluations at which spectra are taken besides the targets, as numbers of steps.

        Example:
            >>> PRESETS["cpu"].points()
            [0, 8, 16, 32, 64, 128, 256, 512]
        """
        every, most = self.steps_per_evaluation, self.num_steps // self.steps_per_evaluation
        powers = [most ** (index / (self.num_points - 2)) for index in range(self.num_points - 1)]
        return [0, *dict.fromkeys(every * round(power) for power in powers)]


PRESETS = {
    "smoke": ChainConfig(
        size=NanoGPTSize(
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
        ),
        variants=("Untied", "FlexWin", "AttnScale"),
        repeated=("Untied",),
        max_bytes=60_000,
        num_validation=8,
        tokens=2048,
        tokens_per_step=128,
        steps_per_evaluation=4,
        rate_factors=(0.1, 1.0, 10.0),
        target_losses=(5.0, 4.5),
        num_points=3,
        num_pool=8,
    ),
    "cpu": ChainConfig(),
    "long": ChainConfig(
        more_seeds=(),
        seeds=(0, 1, 2),
        tokens=8 * 2**20,
        tokens_per_step=4096,
        max_bytes=16 * 2**20,
    ),
    "paper": ChainConfig(
        size=NANOGPT_SIZES["d12"],
        max_bytes=12 * 2**30,
        num_validation=512,
        tokens=10_000 * 2**19,
        tokens_per_step=2**19,
        reference_steps=10_000,
        layout=5.0,
        rate_factors=(0.5, 0.7071, 1.0, 1.4142, 2.0),
        target_losses=(4.0, 3.6, 3.4, 3.2),
        num_pool=512,
    ),
}
