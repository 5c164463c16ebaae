"""The sizes of the comparison of Muon's updates with Adam's (Spectral Lens, appendix D)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import check_count, require
from lnpjax.experiments.spectral_lens.run_config import SMOKE_SIZE, TrainingConfig
from lnpjax.models import LSWA_ADAM, NANOGPT_SIZES

TRAINED_BY = {"Muon": "LSWA", "Adam": LSWA_ADAM}
"""The variant that each optimizer trains."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonAdamConfig(TrainingConfig):
    """One size of the experiment; the population of gradients is `num_pool` sequences.

    Attributes:
        seeds: of networks, batches and populations.
        rate_factor: what all rates of the paper are multiplied by.
        states: steps of training after which updates are measured, ascending.
        batch_sizes: of these updates, in sequences, ascending.
        num_draws: batches of each size.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rate_factor: float = 1.0
    states: tuple[int, ...] = (16, 96)
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
    num_draws: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_draws", self.num_draws, least=3)
        fine = len(set(self.seeds)) == len(self.seeds) > 0
        require(fine, "seeds", expected="distinct seeds, at least one", got=self.seeds)
        for name, least in (("states", 1), ("batch_sizes", 2)):
            values = getattr(self, name)
            fine = list(values) == sorted(set(values)) and len(values) >= least and values[0] >= 1
            expected = f"{least} or more ascending numbers from 1 on"
            require(fine, name, expected=expected, got=values)
        inside = self.states[-1] <= self.num_steps
        expected = f"steps of a run of {self.num_steps}"
        require(inside, "states", expected=expected, got=self.states)
        positive = self.rate_factor > 0
        require(positive, "rate_factor", expected="a number > 0", got=self.rate_factor)


PRESETS = {
    "smoke": MuonAdamConfig(
        size=SMOKE_SIZE,
        max_bytes=60_000,
        num_validation=32,
        tokens=1024,
        tokens_per_step=128,
        num_pool=16,
        seeds=(0, 1),
        states=(4, 8),
        batch_sizes=(1, 4),
        num_draws=4,
    ),
    "cpu": MuonAdamConfig(
        size=dataclasses.replace(
            NANOGPT_SIZES["d6"],
            num_layers=4,
            context=16,
            long_context=128,
            fixed_window=16,
            last_window=28,
            block=4,
            chunk=32,
        ),
        num_validation=768,
        tokens=3 * 2**16,
        tokens_per_step=2048,
        num_pool=512,
    ),
    "paper": MuonAdamConfig(
        size=NANOGPT_SIZES["d12"],
        max_bytes=12 * 2**30,
        num_validation=2048,
        tokens=1000 * 2**19,
        tokens_per_step=2**19,
        reference_steps=10_000,
        layout=5.0,
        num_pool=512,
        states=(100, 1000),
        batch_sizes=(1, 2, 4, 8, 16, 32),
    ),
}
