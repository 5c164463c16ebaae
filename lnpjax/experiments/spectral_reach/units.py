"""The units that train and measure all sizes, which several experiments share."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax._base.files import load_arrays, write_atomically
from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.rates import MOST_EXTENSIONS, rates_beyond
from lnpjax.experiments._harness.sweep import Sweep, UnitResult, config_to_json
from lnpjax.experiments.spectral_reach.data import DataSource, Split, load, tasks_of
from lnpjax.experiments.spectral_reach.options import Recipe, Task, short_count
from lnpjax.experiments.spectral_reach.training import (
    COMPONENTS,
    Programs,
    Subject,
    Trained,
    language_model,
    pilot,
    programs_of,
    train,
)
from lnpjax.models import LlamaConfig
from lnpjax.runs import exponential_moving_average

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig

PILOT_SEED = 10_000
"""Of the networks that learning rates are tried on; those that are reported have 0, 1, ..."""
BACKBONES = "backbones"
"""The folder, in that of a sweep, with the parameters at the end of runs; the units do without."""


def measure_runs(
    tasks: Sequence[Task],
    recipe: Recipe,
    sweep: Sweep,
    data: Path | None,
    finished: Callable[[str], UnitResult | None] = lambda name: None,  # noqa: ARG005
) -> None:
    """Find learning rates, and train and measure all sizes: two units for each.

    Args:
        tasks: what is learned.
        recipe: how.
        sweep: where results are kept.
        data: the folder of data, or None.
        finished: returns the result of a unit that was computed elsewhere.
    """
    for task in tasks_of(tuple(tasks), data):
        split = functools.cache(functools.partial(load, task, data))
        for index in range(len(task.sizes)):
            size = functools.cache(functools.partial(SizeUnits, task, index, recipe, split))
            name = unit_name(task, index)

            def rates_unit(name: str = name, size: Callable[[], SizeUnits] = size) -> UnitResult:
                return finished(f"{name}-rates") or size().try_rates()

            rates = sweep.unit(f"{name}-rates", rates_unit).rows

            def runs_unit(
                name: str = name, size: Callable[[], SizeUnits] = size, rates: Any = rates
            ) -> UnitResult:
                done = finished(f"{name}-runs")
                return done or size().run(rates, sweep.folder / BACKBONES)

            sweep.unit(f"{name}-runs", runs_unit)


def num_units(tasks: Sequence[Task], data: Path | None) -> int:
    """Return how many units `measure_runs` asks for."""
    return sum(2 * len(task.sizes) for task in tasks_of(tuple(tasks), data))


def unit_name(task: Task, index: int) -> str:
    """Return what the units of a size begin with."""
    return f"{task.source}-{index}"


def model_of(task: Task, index: int, split: Split) -> LlamaConfig:
    """Return the model of a size for the data at hand."""
    dataset = split.dataset
    return task.model(
        index, vocab_size=dataset.vocab_size, context_length=dataset.context_length or 1
    )


def initial_keys(first: int, count: int) -> Any:
    """Return the keys of the initial parameters of some seeds."""
    return jax.vmap(jax.random.key)(np.arange(first, first + count))


def neighbours(folder: Path, config: Any) -> list[Sweep]:
    """Return the sweeps next to a folder that have this config, finished or not.

    Args:
        folder: of a sweep, itself left out.
        config: a dataclass.
    """
    wanted = config_to_json(config)
    files = sorted(folder.resolve().parent.glob("*/config.json"))
    return [
        Sweep(file.parent, config)
        for file in files
        if file.parent != folder.resolve() and json.loads(file.read_text()) == wanted
    ]


def take_over_runs(config: ScalingConfig, sweep: Sweep, data: Path | None) -> list[Sweep]:
    """Take the runs of all sizes over from the folders next to a sweep's own, or compute them.

    Args:
        config: of the runs.
        sweep: where they are kept as well.
        data: the folder of data, or None.

    Returns:
        The sweeps in these folders.
    """
    elsewhere = neighbours(sweep.folder, config)
    finished = functools.partial(finished_in, elsewhere)
    measure_runs(config.tasks, config.recipe, sweep, data, finished)
    return elsewhere


def finished_in(sweeps: Sequence[Sweep], name: str) -> UnitResult | None:
    """Return the result of a unit in the first sweep that has it."""
    results = (sweep.finished(name) for sweep in sweeps)
    return next((result for result in results if result is not None), None)


Rates: TypeAlias = Sequence[Mapping[str, Any]]
"""Rows of learning rates that were tried."""


class Trainee:
    """A network of one size, and the programs that train it.

    Args:
        subject: the network.
        about: what rows say of it: "data", "size" and "num_parameters".
        recipe: how it is trained.
        split: the data.
        tokens_per_step: that are predicted, or looked at.
        passes: over the training data in a run.
    """

    def __init__(
        self,
        subject: Subject,
        about: Mapping[str, Any],
        recipe: Recipe,
        split: DataSource,
        *,
        tokens_per_step: int,
        passes: float,
    ) -> None:
        recipe.check_divides("steps", split.num_steps)
        self.about, self.recipe, self.split = about, recipe, split
        self.programs: Programs = programs_of(subject, recipe)
        self._seen = {"tokens_per_step": tokens_per_step, "passes": passes}

    def initial(self, first: int = 0) -> PyTree:
        """Return the initial parameters of all seeds, which are counted from a first one."""
        return self.programs.initial(initial_keys(first, self.recipe.num_seeds))

    def try_rates(self) -> UnitResult:
        """Try all learning rates on one seed, and others beyond an edge where the best lies."""
        tried = self._losses_at(self.recipe.rates)
        for _ in range(MOST_EXTENSIONS):
            tried |= self._losses_at(rates_beyond(tried, self.recipe.num_seeds))
        return UnitResult(
            [
                {"kind": "rate", **self.about, "rate": rate, "validation_loss": loss}
                for rate, loss in sorted(tried.items())
            ]
        )

    def _losses_at(self, rates: Sequence[float]) -> dict[float, float]:
        """Return validation losses by rate, of as many rates at once as there are seeds later."""
        width, losses = self.recipe.num_seeds, []
        for start in range(0, len(rates), width):
            # A short last group repeats its last rate, so that nothing is compiled again.
            rows = np.minimum(np.arange(start, start + width), len(rates) - 1)
            keys = jax.vmap(jax.random.key)(np.full(width, PILOT_SEED))
            group = np.array(rates, np.float32)[rows]
            params = self.programs.initial(keys)
            losses += pilot(self.programs, params, group, self.split, self.recipe).tolist()
        return dict(zip(rates, losses, strict=False))

    def train(self, rate: float, *, observe: Callable[[PyTree], Any] | None = None) -> Trained:
        """Train and measure all seeds; see `lnpjax.experiments.spectral_reach.training.train`."""
        rates = np.full(self.recipe.num_seeds, rate, np.float32)
        return train(self.programs, self.initial(), rates, self.split, self.recipe, observe=observe)

    def result(self, trained: Trained, rates: Rates) -> UnitResult:
        """Return what a sweep keeps of the runs of all seeds, at the best of some rates."""
        rate, tried = best_rate(rates), [row["rate"] for row in rates]
        about = {
            "kind": "run",
            **self.about,
            "rate": rate,
            "at_edge": rate in (min(tried), max(tried)),
            **self._seen,
        }
        rows = [
            {
                **about,
                "seed": seed,
                "train_loss": float(exponential_moving_average(losses)[-1]),
                "test_loss": float(trained.test_loss[seed, -1]),
                "status": int(trained.status[seed]),
            }
            for seed, losses in enumerate(trained.train_loss)
        ]
        arrays = {name: trained.components[name].astype(np.float32) for name in COMPONENTS}
        losses = {"train_loss": trained.train_loss, "test_loss": trained.test_loss}
        return UnitResult(rows, arrays | losses)


class SizeUnits(Trainee):
    """The units of one size of Llama, which share its programs.

    Args:
        task: what is learned.
        index: which of its sizes.
        recipe: how.
        split: returns the data.
    """

    def __init__(self, task: Task, index: int, recipe: Recipe, split: Callable[[], Split]) -> None:
        self.data = data = split()
        self.name = unit_name(task, index)
        self.model = model_of(task, index, data)
        about = {
            "data": task.source,
            "size": short_count(self.model.num_parameters),
            "num_parameters": self.model.num_parameters,
        }
        super().__init__(
            language_model(self.model),
            about,
            recipe,
            data,
            tokens_per_step=data.tokens_per_step,
            passes=data.passes,
        )

    def run(self, rates: Rates, folder: Path) -> UnitResult:
        """Return the runs of all seeds at the best of some rates, and write their parameters."""
        trained = self.train(best_rate(rates))
        self.save(trained.params, folder)
        return self.result(trained, rates)

    def save(self, params: PyTree, folder: Path) -> None:
        """Write the parameters of all seeds to a folder."""
        folder.mkdir(exist_ok=True)
        leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(params))}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **jax.device_get(leaves))
        write_atomically(folder / f"{self.name}.npz", buffer.getvalue())

    def saved(self, folders: Sequence[Path]) -> PyTree | None:
        """Return the parameters that one of some folders holds, or None.

        Raises:
            ValueError: if they are those of another size.
        """
        files = (folder / f"{self.name}.npz" for folder in folders)
        file = next((file for file in files if file.exists()), None)
        if file is None:
            return None
        arrays = load_arrays(file)
        leaves = [arrays[str(number)] for number in range(len(arrays))]
        wanted, structure = jax.tree.flatten(jax.eval_shape(self.initial))
        shapes = [leaf.shape for leaf in wanted]
        require(
            [leaf.shape for leaf in leaves] == shapes,
            str(file),
            expected=f"parameters of {self.about['size']} and {self.recipe.num_seeds} seeds",
            got=f"arrays of shapes {[leaf.shape for leaf in leaves]}",
        )
        return jax.tree.unflatten(structure, leaves)


def best_rate(rows: Rates) -> float:
    """Return the learning rate with the lowest validation loss; a loss that is NaN is not low.

    Raises:
        ValueError: if none was tried, as where a pattern of units leaves the trials out.

    Example:
        >>> tried = {0.1: 2.0, 0.2: 1.0}
        >>> best_rate([{"rate": rate, "validation_loss": tried[rate]} for rate in tried])
        0.2
    """
    require(bool(rows), "only", expected="a pattern with the rates of a run, too", got="none")
    return float(rows[lowest_point([row["validation_loss"] for row in rows])]["rate"])
