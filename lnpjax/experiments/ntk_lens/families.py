"""What the NTK Lens figures and claims read off a finished sweep, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lnpjax.experiments._harness.estimates import (
    MeanDraws,
    Uncertain,
    draws_of_log_means,
    standard_error,
)
from lnpjax.experiments._harness.power_laws import BentPowerLaw, bent_power_law, exponent
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.options import TrainingRule
from lnpjax.kernel import adaptation_rate

SET_NAMES = {
    "digits": "Digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "natural_patches": "Natural patches",
}
NUM_REDRAWS = 400
_adaptation_rates = jax.jit(adaptation_rate, static_argnames="window")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The members of one width, or one size of the training set.

    Attributes:
        scale: the width, or size.
        inside: whether the lowest mean test loss fell between the epochs that the rule names.
        best: index of that point among `epochs`.
        expected_trace: of the closed form, over initialisations; NaN in rows of older versions.
        adaptation_path: the adaptation rate of the means, as growth; NaN where no average fits.
        epochs: at which losses and trace were measured.
        points: indices of the epochs with spectra.
        members: columns with one value per member.
        paths: `train_loss`, `test_loss` and `trace`, one row per member and column per epoch.
        spectra: `ranks` (of the first members), `alignments` and `misalignments`, one column per
            point.
    """

    scale: float
    inside: bool
    best: int
    expected_trace: float
    adaptation_path: Float[np.ndarray, " epochs"]
    epochs: Int[np.ndarray, " epochs"]
    points: Int[np.ndarray, " points"]
    members: Mapping[str, Float[np.ndarray, " members"]]
    paths: Mapping[str, Float[np.ndarray, "members epochs"]]
    spectra: Mapping[str, Float[np.ndarray, "members points"]]

    @property
    def points_before(self) -> int:
        """How many spectra were taken up to the minimum."""
        return int(np.sum(self.points <= self.best))

    def mean_path(self, name: str) -> Float[np.ndarray, " epochs"]:
        """The mean over members up to the minimum; of training losses the geometric one."""
        values = self.paths[name][:, : self.best + 1]
        return geometric_mean(values) if name == "train_loss" else values.mean(0)

    def weights(self, seed: int) -> Float[np.ndarray, "draws members"]:
        """How much each member counts where members are drawn with replacement; first, alike."""
        count = len(self.paths["trace"])
        alike = np.full(count, 1 / count)
        drawn = np.random.default_rng(seed).multinomial(count, alike, NUM_REDRAWS) / count
        return np.vstack([alike, drawn])

    def adaptation(self, window: int, seed: int) -> Float[np.ndarray, " draws"]:
        """The adaptation rate at the minimum, of redrawn members; first as measured.

        It is one number per ensemble, since means are what is derived (B.4), and so its error is
        the bootstrap's.

        Args:
            window: measurements that a running average takes.
            seed: of the draws; the same for ensembles whose members are paired.
        """
        weights = self.weights(seed)
        trace, test = (weights @ self.paths[name] for name in ("trace", "test_loss"))
        train = np.exp(weights @ np.log(self.paths["train_loss"]))
        rates = np.asarray(_adaptation_rates(jnp.asarray(trace), jnp.asarray(train), window=window))
        lowest = np.argmin(test, axis=1) - (window - 1) // 2
        nearest = np.clip(lowest, 0, rates.shape[1] - 1)
        values = -rates[np.arange(len(rates)), nearest].astype(float)
        # The spread of redrawn means falls short of that of means by this factor.
        count = weights.shape[1]
        return values[0] + (values - values[0]) * (count / (count - 1)) ** 0.5


def geometric_mean(
    values: Float[np.ndarray, "*batch"], axis: int = 0
) -> Float[np.ndarray, "*batch"]:
    """The mean of logarithms, as a loss."""
    return np.exp(np.mean(np.log(values), axis=axis))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """The ensembles of one set and depth, ascending in what is scaled.

    Attributes:
        images: name of the set.
        depth: layers of the networks.
        scaled: what is.
        window: measurements that the averages of the adaptation rate take.
        ensembles: by scale.
    """

    images: str
    depth: int
    scaled: Literal["width", "size"]
    window: int
    ensembles: Sequence[Ensemble]

    @property
    def name(self) -> str:
        """For people."""
        return f"{SET_NAMES[self.images]}, {self.depth} layers"

    @property
    def paired(self) -> bool:
        """Whether a member is the same network, on nested training sets, at every scale."""
        return self.scaled == "size"

    @property
    def inside(self) -> Self:
        """The ensembles whose minimum fell inside the training, which claims about it rest on."""
        return self.where(lambda ensemble: ensemble.inside)

    def where(self, keep: Any) -> Self:
        """The ensembles for which `keep` is true."""
        kept = [ensemble for ensemble in self.ensembles if keep(ensemble)]
        return dataclasses.replace(self, ensembles=kept)

    @property
    def scales(self) -> Float[np.ndarray, " scales"]:
        """The widths, or sizes of the training set."""
        return np.array([ensemble.scale for ensemble in self.ensembles], float)

    def members(self, column: str) -> list[Float[np.ndarray, " members"]]:
        """The values of all members of each ensemble."""
        return [ensemble.members[column] for ensemble in self.ensembles]

    def means(self, column: str) -> Float[np.ndarray, " scales"]:
        """The mean over the members of each ensemble."""
        return np.array([values.mean() for values in self.members(column)])

    def errors(self, column: str) -> Float[np.ndarray, " scales"]:
        """Standard errors of `means`."""
        return np.array([standard_error(values) for values in self.members(column)])

    def log_means(self, column: str, seed: int = 0) -> MeanDraws:
        """The logarithms of `means`, with draws of where they may lie."""
        return draws_of_log_means(self.members(column), seed=seed)

    def exponent(self, column: str) -> Uncertain:
        """The power law of the means of a column."""
        return exponent(self.scales, self.log_means(column))

    def bent(self, column: str, seed: int = 0) -> BentPowerLaw:
        """A power law of the means of a column, with a bend."""
        return bent_power_law(self.scales, self.log_means(column, seed))

    def log_adaptation(self) -> MeanDraws:
        """The logarithm of the adaptation rate at the minimum; NaN where the trace falls."""
        draws = [
            ensemble.adaptation(self.window, seed=0 if self.paired else seed)
            for seed, ensemble in enumerate(self.ensembles)
        ]
        with np.errstate(invalid="ignore"):
            logarithms = np.log(np.stack(draws, axis=1))
        return MeanDraws(logarithms, logarithms.std(axis=0))


def families(sweep: Sweep, scaled: Literal["width", "size"], rule: TrainingRule) -> list[Family]:
    """Return all sets and depths of a sweep, by depth and set.

    Args:
        sweep: finished.
        scaled: what its ensembles differ in.
        rule: of their training.
    """
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in sweep.rows():
        rows.setdefault(row["unit"], {}).setdefault(row["kind"], []).append(row)
    gathered: dict[tuple[int, str], list[Ensemble]] = {}
    for unit, kinds in rows.items():
        for row in kinds.get("ensemble", ()):
            ensemble = _ensemble(row[scaled], kinds, sweep.arrays(unit))
            gathered.setdefault((row["depth"], row["set"]), []).append(ensemble)
    order = list(SET_NAMES)
    return [
        Family(
            images=images,
            depth=depth,
            scaled=scaled,
            window=rule.window // rule.every,
            ensembles=sorted(gathered[depth, images], key=lambda ensemble: ensemble.scale),
        )
        for depth, images in sorted(gathered, key=lambda pair: (pair[0], order.index(pair[1])))
    ]


def _ensemble(
    scale: float, kinds: Mapping[str, list[dict[str, Any]]], arrays: Mapping[str, np.ndarray]
) -> Ensemble:
    (row,) = kinds["ensemble"]
    epochs = np.array([point["epoch"] for point in kinds["curve"]])
    columns = set(kinds["member"][0]) - {"unit", "kind", "set", "depth", "width", "size"}
    return Ensemble(
        scale=scale,
        inside=row["inside"],
        best=int(np.searchsorted(epochs, row["best_epoch"])),
        expected_trace=row.get("trace_expected", np.nan),
        adaptation_path=-np.array([point["adaptation"] for point in kinds["curve"]], float),
        epochs=epochs,
        points=np.searchsorted(epochs, [point["epoch"] for point in kinds["dynamics"]]),
        members={
            name: np.array([member[name] for member in kinds["member"]], float) for name in columns
        },
        paths={name: arrays[name] for name in ("train_loss", "test_loss", "trace")},
        spectra={name: arrays[name] for name in ("ranks", "alignments", "misalignments")},
    )
