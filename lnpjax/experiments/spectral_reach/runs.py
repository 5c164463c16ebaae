"""The runs of all sizes, as the figures and the claims of several experiments read them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.options import Recipe
from lnpjax.experiments.spectral_reach.training import COMPONENTS
from lnpjax.plotting._runs import window_average
from lnpjax.runs import exponential_moving_average

START = 5
"""The components at the start are means over so many steps."""


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

    @property
    def void(self) -> float:
        """The share of measurements that were flagged, without a number; means leave them out."""
        return float(np.mean(~np.isfinite(self.components["chi_pos"])))

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
        return np.nanmean(self.component(name)[:, self.steps < START], axis=1)

    def at_end(self, name: str) -> Float[np.ndarray, " seeds"]:
        """Return a component's mean over the last window."""
        last = self.windows == self.windows.max()
        return np.nanmean(self.component(name)[:, last], axis=1)


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
