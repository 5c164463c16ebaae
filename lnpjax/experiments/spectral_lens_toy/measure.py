"""The toy of Spectral Lens: a transformer on modular arithmetic (section 5; F.3; Figs. 4, 11).

Four stages, each keeping the changes of the ones before (Baseline, RoPE, Muon, Untied), are trained
at several batch sizes on the same number of tokens. First a learning rate is searched for each
stage and batch size by successive halving; then the run with that rate is repeated and measured.

What the paper leaves open, and what is done here (the authors' scripts, where they decide it):
the width and initialisation of the network (theirs: 128, embeddings of standard deviation one), the
law that cycles, steps and offsets are drawn from (theirs), queries and keys normalised where they
are rotated (theirs), the modes that H_S counts (ours: those that the task determines, see
`lnpjax.data.modular.teacher_power`), the eight bands (ours: prime cycles), the length of a run
(ours: the same tokens for each batch size; theirs: 5,000 steps or the target), and the checkpoints
of Fig. 11b (theirs: 10, 20 and 30 % of the longest run).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.rates import successive_halving
from lnpjax.experiments.spectral_lens_toy.config import SPECTRUM_SEED, STAGES, ToyConfig
from lnpjax.experiments.spectral_lens_toy.probes import Measured, ToyMeasure, band_name
from lnpjax.experiments.spectral_lens_toy.training import ToyData, ToyTrainer, TrainState


def measure(config: ToyConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: sequences are drawn.
    """
    sequences = ToyData(
        task=config.task, num_train=config.num_train, num_validation=config.num_validation, seed=0
    )
    probes = ToyMeasure(
        config.task,
        config.bands,
        window=config.window,
        num_sequences=config.num_spectrum,
        seed=SPECTRUM_SEED,
    )
    trainers = {stage: ToyTrainer(stage, config.shape, sequences) for stage in STAGES}
    for cell in _cells(config):
        trainer = trainers[cell.stage]
        found = sweep.unit(cell.name("search"), partial(_search, config, trainer, cell))
        rate = found.rows[-1]["learning_rate"]
        run = partial(_run, config, trainer, probes, cell, rate)
        sweep.unit(cell.name("run"), run)
        if cell.stage in STAGES[2:] and cell.batch_size == config.control_batch_size:
            sweep.unit(cell.name("control"), partial(run, control=True))


def num_units(config: ToyConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_lens_toy.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        42
    """
    return len(config.seeds) * (2 * len(STAGES) * len(config.batch_sizes) + len(STAGES[2:]))


class _Cell(NamedTuple):
    stage: str
    batch_size: int
    seed: int

    def name(self, kind: str) -> str:
        return f"{kind}-{self.stage}-b{self.batch_size}-s{self.seed}"


def _cells(config: ToyConfig) -> list[_Cell]:
    return [
        _Cell(stage, batch_size, seed)
        for seed in config.seeds
        for stage in STAGES
        for batch_size in config.batch_sizes
    ]


def _search(config: ToyConfig, trainer: ToyTrainer, cell: _Cell) -> UnitResult:
    """Successive halving over learning rates; the last row is the one that is left."""
    steps = config.steps_per_block(cell.batch_size)

    def advance(state: TrainState, rate: float, blocks: int) -> TrainState:
        for _ in range(blocks):
            state = trainer.advance(state, rate, batch_size=cell.batch_size, steps=steps)
        return state

    trials = successive_halving(
        config.learning_rates(cell.batch_size),
        trainer.initial_state(seed=cell.seed, embedding_std=config.embedding_std),
        config.rungs,
        advance=advance,
        loss_of=lambda state: trainer.validation_loss(state.params),
    )
    return UnitResult(
        [
            {
                "kind": "search",
                **cell._asdict(),
                "rung": trial.rung,
                "learning_rate": trial.rate,
                "loss": trial.loss,
            }
            for trial in trials
        ]
    )


def _run(
    config: ToyConfig,
    trainer: ToyTrainer,
    probes: ToyMeasure,
    cell: _Cell,
    learning_rate: float,
    *,
    control: bool = False,
) -> UnitResult:
    """Train once more at the chosen rate, with all measurements."""
    columns = {**cell._asdict(), "control": control, "learning_rate": learning_rate}
    steps = config.steps_per_block(cell.batch_size)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    spectra, profiles = [], {band_name(band): list[np.ndarray]() for band in config.tracked_bands}
    std = config.control_embedding_std if control else config.embedding_std
    state = trainer.initial_state(seed=cell.seed, embedding_std=std)
    before, hit = math.nan, False
    for block in range(config.num_blocks + 1):
        if block > 0:
            state = trainer.advance(state, learning_rate, batch_size=cell.batch_size, steps=steps)
        tokens = block * config.tokens_per_block
        loss = trainer.validation_loss(state.params)
        here = columns | {"tokens": tokens, "loss": loss}
        rows.append({"kind": "loss", **here})
        if loss <= config.target_loss and not hit:
            hit = True
            measured = probes(trainer, state.params)
            share = (before - config.target_loss) / (before - loss) if block > 0 else 1.0
            crossed = tokens - (1 - share) * config.tokens_per_block
            rows.append({"kind": "target", **here, "tokens_to_target": crossed, **measured.row()})
            arrays["spectrum_at_target"] = measured.spectrum
        before = loss
        if block in config.checkpoints:
            last = block == config.num_blocks
            bands = config.bands if last else config.tracked_bands
            measured = probes(trainer, state.params, bands)
            rows.append({"kind": "spectrum", **here, **measured.row()})
            rows += _probe_rows(here, measured)
            spectra.append(measured.spectrum)
            for name, kept in profiles.items():
                kept.append(measured.profiles[name])
    arrays["spectra"] = np.stack(spectra)
    arrays |= {f"profiles/{name}": np.stack(kept) for name, kept in profiles.items()}
    return UnitResult(rows, arrays)


def _probe_rows(here: dict[str, Any], measured: Measured) -> list[dict[str, Any]]:
    return [
        {"kind": "probe", **here, "band": band, **statistics}
        for band, statistics in measured.probes.items()
    ]
