"""The chain of variants of Spectral Lens, each trained and measured (section 4; Tables 1 and 2).

For every variant the rates are searched first, as the paper does for every family (B.3): candidates
multiply all rates alike, the one with the least validation loss after a part of the run is kept,
and others are tried beyond an edge of theirs at which it lies.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.rates import MOST_EXTENSIONS, rates_beyond
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens_chain.config import MLP_OUTPUT, OUTPUT, ChainConfig
from lnpjax.experiments.spectral_lens_chain.training import ChainData, ChainTrainer, RunState
from lnpjax.pretraining.lens import LensSpectra, summary_numbers

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
        chosen = [row["factor"] for row in found.rows if row["chosen"]]
        for seed in config.seeds_of(variant):
            run = partial(_run, config, trainer, variant, seed, *chosen)
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


class _Recorder:
    """The rows and arrays of one run."""

    def __init__(self, config: ChainConfig, trainer: ChainTrainer, columns: dict[str, Any]) -> None:
        self._config, self._trainer, self._columns = config, trainer, columns
        self.rows: list[dict[str, Any]] = []
        self._spectra: list[LensSpectra] = []

    def loss(self, state: RunState, loss: float, seconds: float) -> None:
        """Note the validation loss after some steps, and the seconds that they took, or NaN."""
        self.rows.append({"kind": "loss", **self._place(state, loss), "seconds": seconds})

    def spectra(self, state: RunState, loss: float, target: float = math.nan) -> None:
        """Take the spectra, at a target loss or, with NaN, between."""
        measured = self._trainer.spectra(state)
        place = self._place(state, loss) | {"target": target, "index": len(self._spectra)}
        self.rows += [
            {"kind": "spectra", **place, "of": of, "name": name, **numbers}
            for of, summaries in measured._asdict().items()
            for name, numbers in summary_numbers(summaries).items()
        ]
        self._spectra.append(measured)

    def result(self) -> UnitResult:
        """All rows, and the spectra of the deepest layer and of its two outputs."""
        deepest = self._config.deepest
        weights = [deepest + part for part in (OUTPUT, MLP_OUTPUT)]
        names = {"activations": [deepest], "gradients": weights[:1], "weights": weights}
        arrays = {
            f"{of}/{name}": np.stack(
                [getattr(measured, of)[name].eigenvalues for measured in self._spectra]
            ).astype(np.float32)
            for of, chosen in names.items()
            for name in chosen
        }
        return UnitResult(self.rows, arrays)

    def _place(self, state: RunState, loss: float) -> dict[str, Any]:
        tokens = state.step * self._config.tokens_per_step
        return {**self._columns, "step": state.step, "tokens": tokens, "loss": loss}


def _run(
    config: ChainConfig, trainer: MakeTrainer, variant: str, seed: int, factor: float
) -> UnitResult:
    """Train once, with all measurements."""
    own = trainer()
    record = _Recorder(config, own, {"variant": variant, "seed": seed, "factor": factor})
    advance = partial(own.advance, seed=seed, factor=factor)
    unmet = list(config.target_losses)
    state, points = own.initial_state(seed), set(config.points())
    for step in range(0, config.num_steps + 1, config.steps_per_evaluation):
        before, seconds = state, math.nan
        if step > 0:
            state, seconds = advance(state, steps=config.steps_per_evaluation)
        loss = own.validation_loss(state)
        compiled = step > config.steps_per_evaluation
        record.loss(state, loss, seconds if compiled else math.nan)
        if step > 0 and unmet and loss <= unmet[0]:
            unmet = _targets(config, own, record, before, advance, unmet)
        if step in points:
            record.spectra(state, loss)
    return record.result()


def _targets(
    config: ChainConfig,
    trainer: ChainTrainer,
    record: _Recorder,
    state: RunState,
    advance: Callable[..., tuple[RunState, float]],
    unmet: list[float],
) -> list[float]:
    """Go through an evaluation once more, and measure at the first steps that meet targets.

    Found by halving, as if losses fell from step to step; what is left of the targets is returned.
    """
    states = []
    for _ in range(config.steps_per_evaluation):
        state, _ = advance(state, steps=1)
        states.append(state)
    losses: dict[int, float] = {}

    def loss_after(step: int) -> float:
        if step not in losses:
            losses[step] = trainer.validation_loss(states[step])
        return losses[step]

    last, above = len(states) - 1, -1
    while unmet and loss_after(last) <= unmet[0]:
        below = last
        while below - above > 1:
            middle = (above + below) // 2
            if loss_after(middle) <= unmet[0]:
                below = middle
            else:
                above = middle
        record.spectra(states[below], loss_after(below), unmet[0])
        unmet = unmet[1:]
    return unmet
