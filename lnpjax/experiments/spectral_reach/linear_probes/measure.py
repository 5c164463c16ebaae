"""Train linear probes on pre-trained and on random backbones (Spectral Reach, section 5, B.2).

A probe trains the read-out and nothing else, by the recipe of the whole network. There are three:
on a random backbone with its own read-out, which is random, too; on a pre-trained one with a fresh
read-out, as the paper has it ("train a linear classifier on top"); and on a pre-trained one that
keeps its read-out. The random backbone is that which the pre-trained one started from.

The runs are those of the experiment `scaling-laws`: where a folder next to the sweep's own holds
finished ones with the same config, they and their parameters are taken over, and else computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import units
from lnpjax.experiments.spectral_reach.data import Split, load, tasks_of
from lnpjax.experiments.spectral_reach.linear_probes.config import ProbesConfig
from lnpjax.experiments.spectral_reach.training import language_model, programs_of, train
from lnpjax.parameters import combine, partition

PROBES = (("random", "own"), ("pre-trained", "fresh"), ("pre-trained", "kept"))
"""The backbone and the read-out of each."""
FRESH_SEED = 20_000
"""The first of the seeds of fresh read-outs."""
READOUT = "head"


def measure(config: ProbesConfig, sweep: Sweep, data: Path | None) -> None:
    """Take over or compute what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of data, or None for digits.

    Raises:
        ValueError: if the parameters that a folder holds are those of another size.
    """
    tasks, recipe = config.runs.tasks, config.runs.recipe
    elsewhere = units.take_over_runs(config.runs, sweep, data)
    folders = [place / units.BACKBONES for place in _folders(sweep, elsewhere)]
    for task in tasks_of(tasks, data):
        split = functools.cache(functools.partial(load, task, data))
        for index in range(len(task.sizes)):
            name = units.unit_name(task, index)
            size = functools.partial(units.SizeUnits, task, index, recipe, split)
            rows = sweep.rows(kind="rate", unit=f"{name}-rates")
            sweep.unit(
                f"{name}-probes", functools.partial(_probes, config.steps, size, folders, rows)
            )


def num_units(config: ProbesConfig, data: Path | None = None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.linear_probes.config import PRESETS
        >>> num_units(PRESETS["smoke"])
        9
    """
    return units.num_units(config.runs.tasks, data) * 3 // 2


def _folders(sweep: Sweep, elsewhere: Sequence[Sweep]) -> list[Path]:
    return [sweep.folder, *(other.folder for other in elsewhere)]


def _probes(
    steps: int | None,
    make_size: functools.partial[units.SizeUnits],
    folders: Sequence[Path],
    rates: Sequence[dict[str, float]],
) -> UnitResult:
    """Train and measure all probes of a size, side by side."""
    size, rate = make_size(), units.best_rate(rates)
    saved = size.saved(folders)
    trained = size.train(rate).params if saved is None else saved
    recipe, count = size.recipe, size.recipe.num_seeds
    task = size.data.task
    split = Split(dataclasses.replace(task, steps=steps or task.steps), size.data.dataset)
    params = stacked(size.initial(), trained, size.initial(FRESH_SEED))
    programs = programs_of(language_model(size.model), recipe, wrt=READOUT)
    found = train(programs, params, np.full(3 * count, rate, np.float32), split, recipe)
    rows = [
        {
            "kind": "probe",
            **size.about,
            "backbone": backbone,
            "readout": readout,
            "seed": seed,
            "train_loss": float(found.train_loss[number, -1]),
            "test_loss": float(found.test_loss[number, -1]),
            "lowest_test_loss": float(found.test_loss[number].min()),
            "steps": split.task.steps,
            "status": int(found.status[number]),
        }
        for number, (backbone, readout, seed) in enumerate(
            (*probe, seed) for probe in PROBES for seed in range(count)
        )
    ]
    names = ("chi_net", "chi_pos")
    return UnitResult(rows, {name: found.components[name].astype(np.float32) for name in names})


def stacked(random: PyTree, trained: PyTree, fresh: PyTree) -> PyTree:
    """Return what the probes start from, in the order of `PROBES`; every leaf leads with the run.

    Args:
        random: initial parameters.
        trained: those at the end.
        fresh: other initial ones, of which the read-out is taken.
    """
    readout, _ = partition(fresh, READOUT)
    _, backbone = partition(trained, READOUT)
    groups = (random, combine(readout, backbone), trained)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)
