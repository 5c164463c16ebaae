"""The toy of Spectral Lens: a transformer on modular arithmetic (section 5; F.3; Figs. 4, 11).

Four stages, each keeping the changes of the ones before (Baseline, RoPE, Muon, Untied), are trained
at several batch sizes on the same number of tokens: Muon and Untied, whose sweeps the paper shows,
at all of them, the others at those where stages are compared. First a learning rate is searched
for each stage and batch size by successive halving, with the first seed; then a run with that rate
is measured from each seed. Runs of different batch sizes start from different networks, so that all
runs of a stage are independent. On disk every unit begins with its stage: two processes share the
work evenly with ``--only "[ru]*"`` (rope, untied) and ``--only "[bm]*"`` (the bands, and the rest).

What the paper leaves open, and what is done here (the authors' scripts, where they decide it):
the width and initialisation of the network (theirs: 128, embeddings of standard deviation one), the
law that cycles, steps and offsets are drawn from (theirs), queries and keys normalised where they
are rotated (theirs), the modes that H_S counts (ours: those that the task determines, see
`lnpjax.data.modular.teacher_power`), the eight bands (ours: those of prime cycles that occur most
often in training, see `bands.frequent_bands`; theirs, in the preset `paper`, hardly ever occur),
the length of a run (ours: the same tokens for each batch size; theirs: 5,000 steps or the target),
and the checkpoints of Fig. 11b (theirs: 10, 20 and 30 % of the longest run).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.rates import successive_halving
from lnpjax.experiments.spectral_lens.seeds import run_seed
from lnpjax.experiments.spectral_lens_toy.bands import (
    band_name,
    chance_of_first_component,
    chance_of_task_modes,
    task_modes,
    training_counts,
)
from lnpjax.experiments.spectral_lens_toy.config import (
    SPECTRUM_SEED,
    STAGES,
    SWEPT_STAGES,
    ToyConfig,
)
from lnpjax.experiments.spectral_lens_toy.probes import Measured, ToyMeasure
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
    sweep.unit("bands", partial(_bands, config))
    trainers = {stage: ToyTrainer(stage, config.shape, sequences) for stage in STAGES}
    for stage, batch_size in _regimes(config):
        trainer = trainers[stage]
        search = partial(_search, config, trainer, _Cell(stage, batch_size, config.seeds[0]))
        found = sweep.unit(f"{stage}-b{batch_size}-search", search)
        for seed in config.seeds:
            cell = _Cell(stage, batch_size, seed)
            run = partial(_run, config, trainer, probes, cell, found)
            sweep.unit(cell.name, run)
            if _has_control(config, cell):
                sweep.unit(f"{cell.name}-control", partial(run, control=True))


def num_units(config: ToyConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_lens_toy.config import PRESETS
        >>> num_units(PRESETS["smoke"])
        19
    """
    return 1 + len(_regimes(config)) * (1 + len(config.seeds)) + len(SWEPT_STAGES)


class _Cell(NamedTuple):
    stage: str
    batch_size: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.stage}-b{self.batch_size}-s{self.seed}"

    @property
    def run_seed(self) -> int:
        """The seed of the network and of its batches, another one for each batch size."""
        return run_seed(self.seed, self.batch_size)


def _regimes(config: ToyConfig) -> list[tuple[str, int]]:
    return [(stage, size) for stage in STAGES for size in config.batch_sizes_of(stage)]


def _has_control(config: ToyConfig, cell: _Cell) -> bool:
    return cell.stage in SWEPT_STAGES and cell[1:] == (config.control_batch_size, config.seeds[0])


def _bands(config: ToyConfig) -> UnitResult:
    """What the reader of a band's numbers should know: its occurrences, and what chance gives."""
    rows = []
    for band, count in training_counts(config).items():
        modes = task_modes(config.task, band[0])
        rows.append(
            {
                "kind": "band",
                "band": band_name(band),
                "occurrences": count,
                "modes": len(modes),
                "task_modes": int(modes.sum()),
                "chance_H_S": chance_of_task_modes(modes, band[0]),
                "chance_pc1_peak_mass": chance_of_first_component(band[0], config.hidden_size),
            }
        )
    return UnitResult(rows)


def _search(config: ToyConfig, trainer: ToyTrainer, cell: _Cell) -> UnitResult:
    """Successive halving over learning rates; the last row is the one that is left."""
    steps = config.steps_per_block(cell.batch_size)

    def advance(state: TrainState, rate: float, blocks: int) -> TrainState:
        for _ in range(blocks):
            state = trainer.advance(state, rate, batch_size=cell.batch_size, steps=steps)
        return state

    trials = successive_halving(
        config.learning_rates(cell.batch_size),
        trainer.initial_state(seed=cell.run_seed, embedding_std=config.embedding_std),
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
    search: UnitResult,
    *,
    control: bool = False,
) -> UnitResult:
    """Train once more at the chosen rate, with all measurements."""
    expected = f"a pattern that includes {cell.stage}-b{cell.batch_size}-search, or --merge of it"
    require(len(search.rows) > 0, "only", expected=expected, got=f"no rate for {cell.name}")
    learning_rate = search.rows[-1]["learning_rate"]
    columns = {**cell._asdict(), "control": control, "learning_rate": learning_rate}
    steps = config.steps_per_block(cell.batch_size)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    profiles = {band_name(band): list[np.ndarray]() for band in config.tracked_bands}
    std = config.control_embedding_std if control else config.embedding_std
    state = trainer.initial_state(seed=cell.run_seed, embedding_std=std)
    before, ahead = math.nan, list(config.targets)
    for block in range(config.num_blocks + 1):
        if block > 0:
            state = trainer.advance(state, learning_rate, batch_size=cell.batch_size, steps=steps)
        tokens = block * config.tokens_per_block
        loss = trainer.validation_loss(state.params)
        here = columns | {"tokens": tokens, "loss": loss}
        rows.append({"kind": "loss", **here})
        for target in [target for target in ahead if loss <= target]:
            ahead.remove(target)
            measured = probes(trainer, state.params)
            share = (before - target) / (before - loss) if block > 0 else 1.0
            crossed = tokens - (1 - share) * config.tokens_per_block
            place = {"target": target, "tokens_to_target": crossed}
            rows.append({"kind": "target", **here, **place, **measured.row()})
            arrays[f"spectrum_at_target/{target:g}"] = measured.spectrum
        before = loss
        if block in config.checkpoints:
            last = block == config.num_blocks
            bands = config.bands if last else config.tracked_bands
            measured = probes(trainer, state.params, bands)
            rows.append({"kind": "spectrum", **here, **measured.row()})
            rows += _probe_rows(here, measured)
            if block == 0 or last:
                for name, kept in profiles.items():
                    kept.append(measured.profiles[name])
    arrays |= {f"profiles/{name}": np.stack(kept) for name, kept in profiles.items()}
    return UnitResult(rows, arrays)


def _probe_rows(here: dict[str, Any], measured: Measured) -> list[dict[str, Any]]:
    return [
        {"kind": "probe", **here, "band": band, **statistics}
        for band, statistics in measured.probes.items()
    ]
