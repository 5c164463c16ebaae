"""The runs of all sizes, which several experiments read: how they are made, and what they hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from lnpjax._base.checks import require
from lnpjax.experiments._harness.sweep import Sweep, UnitResult, config_to_json
from lnpjax.experiments.spectral_reach.data import Split, load, tasks_of
from lnpjax.experiments.spectral_reach.options import Recipe, Task, short_count
from lnpjax.experiments.spectral_reach.training import (
    COMPONENTS,
    Programs,
    language_model,
    pilot,
    programs_of,
    train,
)
from lnpjax.models import LlamaConfig
from lnpjax.plotting._runs import window_average
from lnpjax.runs import exponential_moving_average

PILOT_SEED = 10_000
"""Of the networks that learning rates are tried on; those that are reported have 0, 1, ..."""
START = 5
"""The components at the start are means over so many steps."""


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
            size = functools.cache(functools.partial(_Size, task, index, recipe, split))
            name = unit_name(task, index)

            def rates_unit(name: str = name, size: Callable[[], _Size] = size) -> UnitResult:
                return finished(f"{name}-rates") or size().try_rates()

            rates = sweep.unit(f"{name}-rates", rates_unit).rows

            def runs_unit(
                name: str = name, size: Callable[[], _Size] = size, rates: Any = rates
            ) -> UnitResult:
                return finished(f"{name}-runs") or size().run(best_rate(rates))

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


def finished_in(sweeps: Sequence[Sweep], name: str) -> UnitResult | None:
    """Return the result of a unit in the first sweep that has it."""
    results = (sweep.finished(name) for sweep in sweeps)
    return next((result for result in results if result is not None), None)


class _Size:
    """The units of one size, which share its programs."""

    def __init__(self, task: Task, index: int, recipe: Recipe, split: Callable[[], Split]) -> None:
        recipe.check_divides("steps", task.steps)
        self.recipe, self.split = recipe, split()
        self.model = model_of(task, index, self.split)
        self.programs: Programs = programs_of(language_model(self.model), recipe)
        self.about = {
            "data": task.source,
            "size": short_count(self.model.num_parameters),
            "num_parameters": self.model.num_parameters,
        }

    def try_rates(self) -> UnitResult:
        """Try all learning rates on one seed, as many at once as there are seeds later on."""
        rates, width = np.array(self.recipe.rates, np.float32), self.recipe.num_seeds
        losses = []
        for start in range(0, len(rates), width):
            # A short last group repeats its last rate, so that nothing is compiled again.
            group = rates[np.minimum(np.arange(start, start + width), len(rates) - 1)]
            keys = jax.vmap(jax.random.key)(np.full(width, PILOT_SEED))
            params = self.programs.initial(keys)
            losses.append(pilot(self.programs, params, group, self.split, self.recipe))
        found = np.concatenate(losses)[: len(rates)]
        pairs = zip(self.recipe.rates, found, strict=True)
        return UnitResult(
            [
                {"kind": "rate", **self.about, "rate": rate, "validation_loss": float(loss)}
                for rate, loss in pairs
            ]
        )

    def run(self, rate: float) -> UnitResult:
        """Train and measure all seeds."""
        recipe, count = self.recipe, self.recipe.num_seeds
        params = self.programs.initial(initial_keys(0, count))
        trained = train(self.programs, params, np.full(count, rate, np.float32), self.split, recipe)
        about = {
            "kind": "run",
            **self.about,
            "rate": rate,
            "at_edge": rate in (recipe.rates[0], recipe.rates[-1]),
            "tokens_per_step": self.split.tokens_per_step,
            "passes": self.split.passes,
        }
        rows = [
            {
                **about,
                "seed": seed,
                "train_loss": float(exponential_moving_average(trained.train_loss[seed])[-1]),
                "test_loss": float(trained.test_loss[seed, -1]),
                "status": int(trained.status[seed]),
            }
            for seed in range(count)
        ]
        arrays = {name: trained.components[name].astype(np.float32) for name in COMPONENTS}
        losses = {"train_loss": trained.train_loss, "test_loss": trained.test_loss}
        return UnitResult(rows, arrays | losses)


def best_rate(rows: Sequence[dict[str, Any]]) -> float:
    """Return the learning rate with the lowest validation loss; a loss that is NaN is not low.

    Raises:
        ValueError: if none was tried, as where a pattern of units leaves the trials out.

    Example:
        >>> tried = {0.1: 2.0, 0.2: 1.0}
        >>> best_rate([{"rate": rate, "validation_loss": tried[rate]} for rate in tried])
        0.2
    """
    require(bool(rows), "only", expected="a pattern with the rates of a run, too", got="none")
    losses = np.nan_to_num([row["validation_loss"] for row in rows], nan=np.inf)
    return float(rows[int(np.argmin(losses))]["rate"])


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of one size.

    Attributes:
        name: such as "26.2K".
        num_parameters: N.
        tokens_per_step: that are predicted.
        rate: learning rate.
        at_edge: whether it is the lowest or the highest that was tried.
        passes: over the training data.
        status: what went wrong in any run.
        warmup_steps: of the learning rate.
        starts: first step of each window of measured steps.
        steps: that were measured.
        windows: the window of each.
        test_steps: after which the test loss was taken.
        train_loss: of every step.
        test_loss: at the test steps.
        components: at the measured steps, by name.
    """

    name: str
    num_parameters: int
    tokens_per_step: int
    rate: float
    at_edge: bool
    passes: float
    status: int
    warmup_steps: int
    starts: Int[np.ndarray, " windows"]
    steps: Int[np.ndarray, " measured"]
    windows: Int[np.ndarray, " measured"]
    test_steps: Int[np.ndarray, " tests"]
    train_loss: Float[np.ndarray, "seeds steps"]
    test_loss: Float[np.ndarray, "seeds tests"]
    components: dict[str, Float[np.ndarray, "seeds measured"]]

    @property
    def num_seeds(self) -> int:
        """How many runs there are."""
        return len(self.train_loss)

    @property
    def finite(self) -> bool:
        """Whether all losses are numbers."""
        return bool(np.all(np.isfinite(self.train_loss)) and np.all(np.isfinite(self.test_loss)))

    def compute(self, steps: Any) -> Any:
        """Return 6 N D in FLOPs after some steps (Fig. 1)."""
        return 6.0 * self.num_parameters * self.tokens_per_step * np.asarray(steps, float)

    @functools.cached_property
    def smoothed_loss(self) -> Float[np.ndarray, "seeds steps"]:
        """Exponential moving average of the training loss (C.1)."""
        return np.stack([exponential_moving_average(losses) for losses in self.train_loss])

    def component(self, name: str) -> Float[np.ndarray, "seeds measured"]:
        """Return a component, "product" (chi_net times chi_pos), or "loss", at measured steps."""
        if name == "product":
            return self.component("chi_net") * self.component("chi_pos")
        if name == "loss":
            return self.train_loss[:, self.steps]
        return self.components[name].astype(float)

    def by_window(
        self, name: str, *, singly: int = 0
    ) -> tuple[Float[np.ndarray, " windows"], Float[np.ndarray, "seeds windows"]]:
        """Return a component's means over windows, and their mean steps.

        Args:
            name: as for `component`.
            singly: how many of the first steps are not averaged.
        """
        means = [
            window_average(self.steps, self.windows, values, singly=singly)
            for values in self.component(name)
        ]
        return means[0][0], np.stack([values for _, values in means])

    def at_start(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Return a component's mean over the first steps."""
        return self.component(name)[:, self.steps < START].mean(axis=1)

    def at_end(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Return a component's mean over the last window."""
        last = self.windows == self.windows.max()
        return self.component(name)[:, last].mean(axis=1)


def runs_of(recipe: Recipe, sweep: Sweep) -> dict[str, list[Runs]]:
    """Return the runs of a finished sweep by data, ascending in the number of parameters.

    Args:
        recipe: how they were trained.
        sweep: as `measure_runs` left it.
    """
    units: dict[str, list[dict[str, Any]]] = {}
    for row in sweep.rows(kind="run"):
        units.setdefault(row["unit"], []).append(row)
    found: dict[str, list[Runs]] = {}
    for unit, rows in units.items():
        found.setdefault(rows[0]["data"], []).append(_runs(recipe, rows, sweep.arrays(unit)))
    return {
        data: sorted(sizes, key=lambda size: size.num_parameters) for data, sizes in found.items()
    }


def _runs(recipe: Recipe, rows: list[dict[str, Any]], arrays: Any) -> Runs:
    first = rows[0]
    num_steps = arrays["train_loss"].shape[1]
    windows = recipe.windows(num_steps)
    return Runs(
        name=first["size"],
        num_parameters=first["num_parameters"],
        tokens_per_step=first["tokens_per_step"],
        rate=first["rate"],
        at_edge=first["at_edge"],
        passes=first["passes"],
        status=int(np.bitwise_or.reduce([row["status"] for row in rows])),
        warmup_steps=recipe.warmup_steps,
        starts=np.array(windows.starts),
        steps=windows.steps,
        windows=np.searchsorted(windows.starts, windows.steps, side="right") - 1,
        test_steps=np.arange(arrays["test_loss"].shape[1]) * recipe.chunk_steps,
        train_loss=arrays["train_loss"].astype(float),
        test_loss=arrays["test_loss"].astype(float),
        components={name: arrays[name] for name in COMPONENTS},
    )
