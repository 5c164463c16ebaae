"""Spectra of nanoGPT in batches of several sizes (section 3; B.3; D; E; G; Figs. 1, 2, 6-10, 18).

For every variant and batch size the rates are searched first by successive halving, around the
paper's two centres (B.3) and beyond an edge at which the best one lies. The run with the rate that
is left is then repeated from every seed, on the same number of tokens at each batch size. Networks
and orders of sequences are other ones at each batch size, so that runs are independent; variants
share them. Spectra are taken at tokens that are evenly spread on a logarithmic axis and the same
for all batch sizes, and at the first step whose validation loss meets each of several targets. What
is compared at equal loss is at the lowest target that all runs of the comparison meet.

What the paper leaves open, and what is done here: the length of a run (equal tokens for all); the
warm-ups of windows and momentum (the same part of the run at each batch size); the momentum (left
as it is); the early point of predictions (after 20 % of the fewest tokens to the target in a
family, equal for all its runs, see `docs/papers/spectral-lens.md`). The text is bytes instead of
tokens. Fig. 5, two samples of the authors' text, has no counterpart here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lnpjax.experiments._harness.rates import MOST_EXTENSIONS
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.rates import successive_halving
from lnpjax.experiments.spectral_lens.recording import measured_run
from lnpjax.experiments.spectral_lens.seeds import run_seed
from lnpjax.experiments.spectral_lens.training import ChainData, ChainTrainer, RunState
from lnpjax.experiments.spectral_lens_batch_sizes.config import BatchSizeConfig

MakeTrainer = Callable[[], ChainTrainer]


def measure(config: BatchSizeConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: the text is Python's own sources.
    """
    text = ChainData(config)
    of_variant = functools.lru_cache(maxsize=1)(lambda name: ChainTrainer(name, config, text))
    made = functools.lru_cache(maxsize=1)(
        lambda name, size: of_variant(name).with_batches(config.run(size))
    )
    for variant in config.variants:
        for size in config.batch_sizes:
            trainer = partial(made, variant, size)  # compiled only where a unit is missing
            search = partial(_search, config, trainer, variant, size)
            found = sweep.unit(f"search-{variant}-b{size}", search)
            chosen = [row["factor"] for row in found.rows[-1:]]
            for seed in config.seeds:
                run = partial(_run, config, trainer, variant, size, seed, *chosen)
                sweep.unit(f"run-{variant}-b{size}-s{seed}", run)


def num_units(config: BatchSizeConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_lens_batch_sizes.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        45
    """
    return len(config.variants) * len(config.batch_sizes) * (1 + len(config.seeds))


def _search(
    config: BatchSizeConfig, trainer: MakeTrainer, variant: str, batch_size: int
) -> UnitResult:
    """Successive halving over what rates are multiplied by; the last row is the one left."""
    own, seed = trainer(), run_seed(config.seeds[0], batch_size)

    def advance(state: RunState, factor: float, tokens: int) -> RunState:
        steps = tokens // config.step_tokens(batch_size)
        return own.advance(state, seed=seed, steps=steps, factor=factor)[0]

    trials = successive_halving(
        config.rate_factors(batch_size),
        own.initial_state(seed),
        config.rungs,
        advance=advance,
        loss_of=own.validation_loss,
        extensions=MOST_EXTENSIONS,
    )
    columns = {"kind": "search", "variant": variant, "batch_size": batch_size}
    return UnitResult(
        [
            {**columns, "rung": trial.rung, "factor": trial.rate, "loss": trial.loss}
            for trial in trials
        ]
    )


def _run(
    config: BatchSizeConfig,
    trainer: MakeTrainer,
    variant: str,
    batch_size: int,
    seed: int,
    factor: float,
) -> UnitResult:
    """Train once, with all measurements."""
    columns = {"variant": variant, "batch_size": batch_size, "seed": seed, "factor": factor}
    own = run_seed(seed, batch_size)
    return measured_run(config.run(batch_size), trainer(), columns, seed=own, factor=factor)
