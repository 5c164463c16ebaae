"""What the NTK Lens figures and claims read off a finished sweep."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.fits import (
    BentPowerLaw,
    Interval,
    bent_power_law,
    straight_power_law,
)

SET_NAMES = {
    "digits": "Digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """The ensembles of one set and depth, ascending in what is scaled.

    Attributes:
        sweep: where they are.
        images: name of the set.
        depth: layers of the networks.
        scale: "width" or "size".
    """

    sweep: Sweep
    images: str
    depth: int
    scale: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{SET_NAMES[self.images]}, {self.depth} layers"

    @property
    def scales(self) -> Float[np.ndarray, " scales"]:
        """The widths, or sizes of the training set."""
        return np.array(self.ensembles(self.scale), float)

    def rows(self, kind: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of a kind."""
        return self.sweep.rows(kind=kind, set=self.images, depth=self.depth, **where)

    def ensembles(self, column: str) -> list[Any]:
        """One value per ensemble."""
        return [row[column] for row in self.rows("ensemble")]

    def members(self, column: str) -> list[Float[np.ndarray, " members"]]:
        """The values of all members of each ensemble."""
        return [self.along("member", column, scale) for scale in self.ensembles(self.scale)]

    def means(self, column: str) -> Float[np.ndarray, " scales"]:
        """The mean over the members of each ensemble."""
        return np.array([values.mean() for values in self.members(column)])

    def errors(self, column: str) -> Float[np.ndarray, " scales"]:
        """Standard errors of `means`."""
        return np.array(
            [values.std(ddof=1) / len(values) ** 0.5 for values in self.members(column)]
        )

    def along(self, kind: str, column: str, scale: Any) -> Float[np.ndarray, " points"]:
        """A column of one ensemble: over its members, or over training."""
        return np.array([row[column] for row in self.rows(kind, **{self.scale: scale})], float)

    def until_minimum(self, kind: str, column: str, scale: Any) -> Float[np.ndarray, " points"]:
        """`along` training, up to the epoch of the lowest mean test loss."""
        (row,) = self.rows("ensemble", **{self.scale: scale})
        epochs = self.along(kind, "epoch", scale)
        return self.along(kind, column, scale)[epochs <= row["best_epoch"]]

    def straight(self, column: str) -> Interval:
        """The power law of a column of the members."""
        return straight_power_law(self.scales, self.members(column))

    def bent(self, column: str) -> BentPowerLaw:
        """A power law of a column of the members, with a bend."""
        return bent_power_law(self.scales, self.members(column))

    def adaptation_exponent(self) -> float:
        """Of the size of the adaptation rate at the minimum; one number per ensemble has no error.

        The rate itself is negative where the trace grows while the loss falls.
        """
        sizes = np.abs(self.ensembles("adaptation_at_minimum"))
        known = np.isfinite(sizes) & (sizes > 0)
        return straight_power_law(self.scales[known], [sizes[known][i : i + 1] for i in
                                                       range(int(known.sum()))]).value  # fmt: skip


def families(sweep: Sweep, scale: str) -> list[Family]:
    """All sets and depths of a sweep, in the order in which they came."""
    found = {(row["set"], row["depth"]) for row in sweep.rows(kind="ensemble")}
    order = {name: place for place, name in enumerate(SET_NAMES)}
    return [
        Family(sweep, images, depth, scale)
        for images, depth in sorted(found, key=lambda pair: (pair[1], order[pair[0]]))
    ]
