"""The sizes of the comparison of batch sizes (Spectral Lens, section 3; B.3)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_lens.rates import rate_candidates
from lnpjax.experiments.spectral_lens.run_config import SMOKE_SIZE, RunConfig
from lnpjax.models import LSWA_ADAM, NANOGPT_SIZES, NANOGPT_VARIANTS

LEAST_STEPS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSizeConfig(RunConfig):
    """One size of the experiment; `tokens_per_step` is that of the reference batch size.

    Attributes:
        variants: the families, in the order of the chain.
        batch_sizes: effective ones, ascending, in the paper's units.
        reference_batch_size: the one that the paper's rates are for.
        seeds: of networks and batches; with the batch size, which has its own.
        multipliers: of the two centres of the rate, relative to the paper's rates. These are for
            networks of width 768 and half a million tokens a step: narrow networks and small
            batches want larger ones, by factors of 4 to 16 at width 64.
        rungs: tokens after which the better half of the candidates is kept, ascending.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    variants: tuple[str, ...] = ("Baseline", "Untied", "FlexWin", "LSWA", LSWA_ADAM)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    reference_batch_size: int = 8
    seeds: tuple[int, ...] = (0, 1)
    multipliers: tuple[float, ...] = (0.5, 0.7071, 1.0, 1.4142, 2.0)
    rungs: tuple[int, ...] = (2**16, 2**18)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*NANOGPT_VARIANTS, LSWA_ADAM)
        fine = list(self.variants) == [name for name in known if name in self.variants]
        expected = f"distinct ones of {', '.join(known)}, in this order"
        require(fine and self.variants != (), "variants", expected=expected, got=self.variants)
        sizes = self.batch_sizes
        ascending = list(sizes) == sorted(set(sizes)) and len(sizes) >= 2
        require(ascending, "batch_sizes", expected="two or more, ascending", got=sizes)
        require(
            self.reference_batch_size in sizes
            and self.tokens_per_step % self.reference_batch_size == 0,
            "reference_batch_size",
            expected=f"one of batch_sizes that divides tokens_per_step={self.tokens_per_step}",
            got=self.reference_batch_size,
        )
        distinct = len(set(self.seeds)) == len(self.seeds) > 0
        require(distinct, "seeds", expected="distinct seeds, at least one", got=self.seeds)
        fine = len(set(self.multipliers)) >= 3 and min(self.multipliers) > 0
        require(fine, "multipliers", expected="three numbers > 0 or more", got=self.multipliers)
        for size in sizes:
            self._check_steps(size)

    def _check_steps(self, batch_size: int) -> None:
        """Check that runs of a batch size are made of whole sequences, steps and evaluations."""
        step, length = self.step_tokens(batch_size), self.size.long_context
        where = f"batch size {batch_size}: {step} tokens"
        expected = f"steps of whole sequences of {length} positions"
        require(step % length == 0, "batch_sizes", expected=expected, got=where)
        between = self.tokens_per_step * self.steps_per_evaluation
        expected = f"steps that divide the {between} tokens between evaluations"
        require(between % step == 0, "batch_sizes", expected=expected, got=where)
        expected = f"at least {LEAST_STEPS} steps of batch size {batch_size}, {LEAST_STEPS * step}"
        require(self.tokens >= LEAST_STEPS * step, "tokens", expected=expected, got=self.tokens)
        ascending = list(self.rungs) == sorted(set(self.rungs)) and len(self.rungs) > 0
        whole = all(0 < rung <= self.tokens and rung % step == 0 for rung in self.rungs)
        expected = f"ascending multiples of {where}, up to tokens={self.tokens}"
        require(ascending and whole, "rungs", expected=expected, got=self.rungs)

    def step_tokens(self, batch_size: int) -> int:
        """Tokens of a step.

        Example:
            >>> BatchSizeConfig().step_tokens(1)
            512
        """
        return self.tokens_per_step // self.reference_batch_size * batch_size

    def run(self, batch_size: int) -> RunConfig:
        """The size of the runs at a batch size: the same tokens, and between evaluations.

        Example:
            >>> BatchSizeConfig().run(32).steps_per_evaluation
            2
        """
        step = self.step_tokens(batch_size)
        between = self.tokens_per_step * self.steps_per_evaluation
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(RunConfig)}
        return RunConfig(
            **shared | {"tokens_per_step": step, "steps_per_evaluation": between // step}
        )

    def rate_factors(self, batch_size: int) -> list[float]:
        """Candidates for what the paper's rates are multiplied by (B.3).

        Example:
            >>> BatchSizeConfig(multipliers=(0.5, 1.0, 2.0)).rate_factors(32)
            [1.0, 2.0, 4.0, 8.0]
        """
        return rate_candidates(batch_size / self.reference_batch_size, self.multipliers)


PRESETS = {
    "smoke": BatchSizeConfig(
        size=SMOKE_SIZE,
        variants=("Untied",),
        batch_sizes=(1, 2, 4),
        reference_batch_size=2,
        seeds=(0,),
        multipliers=(0.25, 0.5, 1.0),
        rungs=(256,),
        max_bytes=60_000,
        num_validation=8,
        tokens=1024,
        tokens_per_step=64,
        steps_per_evaluation=4,
        target_losses=(5.0, 4.5),
        num_points=3,
        num_pool=8,
    ),
    "cpu": BatchSizeConfig(
        size=dataclasses.replace(
            NANOGPT_SIZES["d6"],
            num_layers=4,
            long_context=128,
            last_window=56,
            fixed_window=32,
            chunk=64,
        ),
        variants=("Baseline", "LSWA", LSWA_ADAM),
        batch_sizes=(1, 2, 4, 8, 16),
        reference_batch_size=4,
        multipliers=(1.0, 3.0, 9.0, 27.0),
        rungs=(2**15, 2**16),
        tokens=2**20,
        tokens_per_step=2048,
        target_losses=(3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.2, 2.0, 1.8, 1.7, 1.6, 1.5),
    ),
    "long": BatchSizeConfig(
        seeds=(0, 1, 2),
        multipliers=(1.0, 2.0, 4.0, 8.0, 16.0),
        tokens=4 * 2**20,
        max_bytes=16 * 2**20,
        num_validation=64,
        rungs=(2**17, 2**19),
    ),
    "paper": BatchSizeConfig(
        size=NANOGPT_SIZES["d12"],
        max_bytes=12 * 2**30,
        num_validation=512,
        tokens=10_000 * 2**19,
        tokens_per_step=2**19,
        reference_steps=10_000,
        layout=5.0,
        rungs=(96 * 2**19, 288 * 2**19, 960 * 2**19),
        target_losses=(4.0, 3.6, 3.4, 3.2),
        num_pool=512,
    ),
}
