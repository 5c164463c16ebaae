"""The chain of variants of Spectral Lens, each trained and measured (section 4; Tables 1 and 2).

For every variant the rates are searched first, as the paper does for every family (B.3): candidates
multiply all rates alike, the one with the least validation loss after a part of the run is kept,
and others are tried beyond an edge of theirs at which it lies. A run that diverges later with the
best candidate is repeated with the next one.
Then the variant is trained from each of its seeds. Spectra are taken at steps that are evenly
spread on a logarithmic axis, and at the first step whose validation loss meets each of several
targets: the steps since the last evaluation are gone through once more. What is compared is at the
lowest target that all runs meet, so that it lies at one loss for all.

What the paper leaves open, and what is done here: the warm-ups of a shorter run (the same part of
it); the rate's schedule (laid out for longer than the run, as the authors'); which window is
evaluated with (the present one, theirs); what a block's output is (normalised, theirs). The text is
bytes instead of tokens, and the same for all variants: up to U-Net it is cut into shorter pieces.
One sample of the gradients is one sequence, so it is shorter for these variants, as in the paper.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.rates import MOST_EXTENSIONS, rates_beyond
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.recording import measured_run
from lnpjax.experiments.spectral_lens.training import ChainData, ChainTrainer
from lnpjax.experiments.spectral_lens_chain.config import ChainConfig

MakeTrainer = Callable[[], ChainTrainer]


def measure(config: ChainConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: the text is Python's own sources.
    """
    text = ChainData(config)
    made = functools.lru_cache(maxsize=1)(lambda variant: ChainTrainer(variant, config, text))
    for variant in config.variants:
        trainer = partial(made, variant)  # compiled only where a unit is missing
        found = sweep.unit(f"search-{variant}", partial(_search, config, trainer, variant))
        factors = [row["factor"] for row in sorted(found.rows, key=_loss_of)]
        for seed in config.seeds_of(variant):
            run = partial(_run, config, trainer, variant, seed, factors)
            sweep.unit(f"run-{variant}-s{seed}", run)


def num_units(config: ChainConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_lens_chain.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        39
    """
    return sum(1 + len(config.seeds_of(variant)) for variant in config.variants)


def _search(config: ChainConfig, trainer: MakeTrainer, variant: str) -> UnitResult:
    """The validation loss of every candidate, and which is chosen."""

    def loss_with(factor: float) -> float:
        start = trainer().initial_state(config.seeds[0])
        state, _ = trainer().advance(
            start, seed=config.seeds[0], steps=config.search_steps, factor=factor
        )
        return trainer().validation_loss(state)

    losses = {factor: loss_with(factor) for factor in config.rate_factors}
    for _ in range(MOST_EXTENSIONS):
        losses |= {factor: loss_with(factor) for factor in rates_beyond(losses, 1)}
    # A run that diverged has no loss to be ranked by: it comes last.
    best = list(losses)[lowest_point(list(losses.values()))]
    return UnitResult(
        [
            {
                "kind": "search",
                "variant": variant,
                "factor": factor,
                "loss": loss,
                "chosen": factor == best,
            }
            for factor, loss in losses.items()
        ]
    )


def _loss_of(row: Mapping[str, Any]) -> float:
    """Return what candidates are ranked by; one that diverged comes last."""
    loss = row["loss"]
    return math.inf if loss is None or math.isnan(loss) else loss


def _run(
    config: ChainConfig, trainer: MakeTrainer, variant: str, seed: int, factors: Sequence[float]
) -> UnitResult:
    """Train with all measurements, at the best candidate with which a run does not diverge."""
    result = UnitResult([])
    for factor in factors:
        columns = {"variant": variant, "seed": seed, "factor": factor}
        result = measured_run(config, trainer(), columns, seed=seed, factor=factor)
        last = [row["loss"] for row in result.rows if row["kind"] == "loss"][-1]
        if math.isfinite(last):
            break
    return result
