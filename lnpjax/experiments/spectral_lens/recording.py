"""A run of nanoGPT with its losses and spectra, at points of a logarithmic axis and at losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from lnpjax.experiments._harness.sweep import UnitResult
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT, RunConfig
from lnpjax.experiments.spectral_lens.training import ChainTrainer, RunState
from lnpjax.pretraining.lens import LensSpectra, summary_numbers


def measured_run(
    config: RunConfig,
    trainer: ChainTrainer,
    columns: Mapping[str, Any],
    *,
    seed: int,
    factor: float,
) -> UnitResult:
    """Train once, with all measurements.

    Args:
        config: the size of the run.
        trainer: of the variant.
        columns: what all rows of the run say besides.
        seed: of the network and of the batches.
        factor: what all rates are multiplied by.

    Returns:
        Rows of kind "loss" and "spectra", and the spectra of the deepest layer.
    """
    record = _Recorder(config, trainer, columns)
    advance = partial(trainer.advance, seed=seed, factor=factor)
    unmet = list(config.target_losses)
    state, points = trainer.initial_state(seed), set(config.points())
    for step in range(0, config.num_steps + 1, config.steps_per_evaluation):
        before, seconds = state, math.nan
        if step > 0:
            state, seconds = advance(state, steps=config.steps_per_evaluation)
        loss = trainer.validation_loss(state)
        compiled = step > config.steps_per_evaluation
        record.loss(state, loss, seconds if compiled else math.nan)
        if step > 0 and unmet and loss <= unmet[0]:
            unmet = _targets(config, trainer, record, before, advance, unmet)
        if step in points:
            record.spectra(state, loss)
    return record.result()


class _Recorder:
    """The rows and arrays of one run."""

    def __init__(
        self, config: RunConfig, trainer: ChainTrainer, columns: Mapping[str, Any]
    ) -> None:
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


def _targets(
    config: RunConfig,
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
