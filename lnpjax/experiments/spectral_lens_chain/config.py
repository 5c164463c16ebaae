"""The sizes of the chain of variants of Spectral Lens (Tables 1 and 2; section 4)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_lens.run_config import SMOKE_SIZE, RunConfig
from lnpjax.models import LSWA_ADAM, NANOGPT_SIZES, NANOGPT_VARIANTS

CHAIN = tuple(NANOGPT_VARIANTS)
REPEATED = ("Baseline", "Muon", "U-Net", "VTE", "LSWA")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainConfig(RunConfig):
    """One size of the experiment.

    Attributes:
        variants: that are trained, in the order of the chain; what is compared is neighbours.
        seeds: of networks and batches, of every variant.
        repeated: variants that have more seeds, from which their scatter is known.
        more_seeds: which.
        rate_factors: candidates, three or more, which multiply all rates of a variant.
        search_share: part of a run after which the candidate with the least loss is chosen.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    variants: tuple[str, ...] = (*CHAIN, LSWA_ADAM)
    seeds: tuple[int, ...] = (0,)
    repeated: tuple[str, ...] = REPEATED
    more_seeds: tuple[int, ...] = (1,)
    tokens: int = 2**20
    tokens_per_step: int = 2048
    rate_factors: tuple[float, ...] = (0.25, 1.0, 4.0)
    search_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*CHAIN, LSWA_ADAM)
        for name in ("variants", "repeated"):
            chosen = getattr(self, name)
            expected = f"distinct ones of {', '.join(known)}, in this order"
            fine = list(chosen) == [variant for variant in known if variant in chosen]
            require(fine, name, expected=expected, got=chosen)
        enough = len(set(self.rate_factors)) >= 3
        require(enough, "rate_factors", expected="at least three", got=self.rate_factors)

    @property
    def search_steps(self) -> int:
        """Steps after which the candidates for the rate are compared."""
        return max(round(self.search_share * self.num_steps), 1)

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """The seeds of a variant.

        Example:
            >>> ChainConfig().seeds_of("Muon"), ChainConfig().seeds_of("RoPE")
            ((0, 1), (0,))
        """
        return (*self.seeds, *self.more_seeds) if variant in self.repeated else self.seeds


PRESETS = {
    "smoke": ChainConfig(
        size=SMOKE_SIZE,
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
