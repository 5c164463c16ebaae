"""What the figures and the claims on shells of language models read off the finished sweep."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.plotting._shells import smoothed
from lnpjax.shells import Frontier, detect_frontier
from lnpjax.shells._frontier import MIN_SIDE, parabola_top

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.families.config import FamiliesConfig

SMALL = 0.01
"""What part of the largest energy counts as cut off, and what shells below it are not looked at."""
FITTED = 1e-3
"""What part of the largest energy the shells of the low side must have, and of fits."""


@dataclasses.dataclass(frozen=True)
class Family:
    """The shells of all runs of one size.

    Attributes:
        name: of the size.
        steps: of the checkpoints.
        centers: of the shells.
        energies: means over batches, the remainder left out.
        half_energies: the same by half of the products.
        reached: at what share of the batches a shell has a node.
    """

    name: str
    steps: Float[np.ndarray, " checkpoint"]
    centers: Float[np.ndarray, " shell"]
    energies: Float[np.ndarray, "run checkpoint shell"]
    half_energies: Float[np.ndarray, "run checkpoint shell"]
    reached: Float[np.ndarray, "run checkpoint shell"]

    @functools.cached_property
    def log_smoothed(self) -> Float[np.ndarray, "run checkpoint shell"]:
        """Logarithms of the energies, smoothed over three shells.

        Energies are, and not their logarithms, which an empty shell does not have.
        """
        return np.log(np.maximum(np.apply_along_axis(smoothed, -1, self.energies), TINY))

    @property
    def log_peaks(self) -> Float[np.ndarray, "run checkpoint"]:
        """Logarithms of the smoothed profiles' peaks, between shells by a parabola."""
        return np.log(peaks_of(self.centers, np.exp(self.log_smoothed)))

    @functools.cached_property
    def low_side(self) -> Bool[np.ndarray, "run checkpoint shell"]:
        """Shells below the peak with a half of the largest energy at most, and `FITTED` at least.

        By smoothed profiles, so that a shell is not chosen for its noise.
        """
        levels = self.log_smoothed - self.log_smoothed.max(axis=-1, keepdims=True)
        below = np.arange(levels.shape[-1]) < np.argmax(levels, axis=-1)[..., None]
        return below & (levels <= np.log(0.5)) & (levels >= np.log(FITTED)) & (self.energies > 0)

    @property
    def exponents(self) -> Float[np.ndarray, "run checkpoint"]:
        """Slopes of the low sides; NaN where one has too few shells.

        Shells scatter the more over batches the less energy they have, about as its fifth root,
        and are weighted for it.
        """
        levels = self.log_smoothed - self.log_smoothed.max(axis=-1, keepdims=True)
        weights = np.where(self.low_side, np.exp(0.4 * levels), 0)
        logarithms = np.log(np.where(self.low_side, self.energies, 1))
        return weighted_slope(np.log(self.centers), logarithms, weights)

    @property
    def bending(self) -> Float[np.ndarray, " run"]:
        """Slopes of the exponents on ln of the steps, over the checkpoints that have one."""
        known = np.isfinite(self.exponents)
        exponents = np.where(known, self.exponents, 0)
        return weighted_slope(np.log(self.steps), exponents, known.astype(float))

    @property
    def growth(self) -> Float[np.ndarray, " run"]:
        """Mean ``ln`` of what the low side's energies grew by, from the first checkpoint on.

        Over the shells that are on the low side at the first and at the last checkpoint; NaN for a
        run without any.
        """
        both = self.low_side[:, 0] & self.low_side[:, -1]
        first, last = (np.where(both, self.energies[:, place], 1) for place in (0, -1))
        counts = both.sum(axis=-1)
        sums = np.log(last / first).sum(axis=-1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    @functools.cached_property
    def frontiers(self) -> Frontier:
        """The frontier of every checkpoint's mean over runs, by shells with `FITTED` and more."""
        means = self.energies.mean(axis=0)
        large = means >= FITTED * means.max(axis=-1, keepdims=True)
        energies = np.where(large, means, 0)  # without energy they are left out
        return _detect(jnp.asarray(self.centers), jnp.asarray(energies))


TINY = 1e-12


_detect = jax.jit(jax.vmap(detect_frontier, (None, 0)))


def weighted_slope(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, "*s n"], weights: Float[np.ndarray, "*s n"]
) -> Float[np.ndarray, "*s"]:
    """Return slopes by weighted least squares; NaN where fewer than `MIN_SIDE` weights are left.

    Example:
        >>> y = np.array([[0.0, 2.0, 4.0, 99.0], [0.0, 2.0, 4.0, 6.0]])
        >>> weights = np.array([[1.0, 2.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
        >>> weighted_slope(np.arange(4.0), y, weights).round(6)
        array([ 2., nan])
    """
    enough = np.sum(weights > 0, axis=-1) >= MIN_SIDE
    shares = weights / np.where(enough, weights.sum(axis=-1), 1)[..., None]
    offsets = shares * (x - np.sum(shares * x, axis=-1)[..., None])
    squares = np.where(enough, np.sum(offsets * x, axis=-1), 1)
    return np.where(enough, np.sum(offsets * y, axis=-1) / squares, np.nan)


def families(config: FamiliesConfig, sweep: Sweep) -> list[Family]:
    """Return the shells of every size."""
    found = []
    for name in config.names:
        arrays = [sweep.arrays(f"{name}-run{run}") for run in range(config.num_runs)]

        def mean(column: str, arrays: list = arrays) -> Float[np.ndarray, "run checkpoint shell"]:
            return np.stack([one[column].mean(axis=1)[:, 1:] for one in arrays])

        reached = np.stack([(one["reached"] > 0).mean(axis=1)[:, 1:] for one in arrays])
        steps = np.array(config.checkpoints, float)
        energies, half = mean("energies"), mean("half_energies")
        found.append(Family(name, steps, config.centers, energies, half, reached))
    return found


def peaks_of(
    centers: Float[np.ndarray, " shell"], energies: Float[np.ndarray, "run checkpoint shell"]
) -> Float[np.ndarray, "run checkpoint"]:
    """Return where profiles peak, between shells by a parabola in logarithms."""
    position, level = jnp.log(jnp.asarray(centers)), jnp.log(jnp.asarray(energies))
    return np.exp(np.asarray(_tops(position, level), float))


@jax.jit
@functools.partial(jnp.vectorize, signature="(n),(n)->()")
def _tops(position: Float[Array, " shell"], level: Float[Array, " shell"]) -> Float[Array, ""]:
    usable = jnp.isfinite(level)
    return parabola_top(position, level, usable, jnp.argmax(level))[0]


def second_maximum(logarithms: Float[np.ndarray, " shell"]) -> float:
    """Return by how much a profile's second maximum stands out of the valley before the first.

    Among shells with at least `SMALL` of the largest energy.

    Args:
        logarithms: of the energies.

    Returns:
        ``ln`` of the second maximum over the deepest point between it and the largest; 0 for a
        profile that has one maximum.

    Example:
        >>> round(second_maximum(np.log([1.0, 4.0, 1.0, 2.0, 1.0])), 3)
        0.693
        >>> second_maximum(np.log([1.0, 2.0, 4.0, 2.0]))
        0.0
    """
    top = int(np.argmax(logarithms))
    chosen = logarithms >= logarithms[top] + np.log(SMALL)
    sides = logarithms[top::-1], logarithms[top:]
    masks = chosen[top::-1], chosen[top:]
    heights = [
        np.where(mask, side - np.minimum.accumulate(side), 0)
        for side, mask in zip(sides, masks, strict=True)
    ]
    return float(max(np.max(height) for height in heights))


def end_of_shells(family: Family) -> Float[np.ndarray, "run checkpoint"]:
    """Return log10 of the energy of the highest shell that most batches reach, over the largest."""
    often = family.reached >= 0.5
    last = often.shape[-1] - 1 - np.argmax(often[..., ::-1], axis=-1)
    end = np.take_along_axis(family.energies, last[..., None], axis=-1)[..., 0]
    return np.log10(np.maximum(end, TINY) / family.energies.max(axis=-1))


class Convergence(NamedTuple):
    """What doubling the products changes, at worst over checkpoints; means over runs.

    Attributes:
        peak: by what part the peak's eigenvalue moves.
        shell: by what part the energy of a shell changes, of those with `FITTED` of the largest:
            all that any claim looks at.
    """

    peak: float
    shell: float


def convergence(family: Family) -> Convergence:
    """Compare the mean profiles of half of the products with those of all."""
    whole, half = (
        energies.mean(axis=0, keepdims=True) for energies in (family.energies, family.half_energies)
    )
    peaks, halves = peaks_of(family.centers, whole), peaks_of(family.centers, half)
    large = whole >= FITTED * whole.max(axis=-1, keepdims=True)
    changes = np.where(large, np.abs(half / np.where(large, whole, 1) - 1), 0)
    return Convergence(float(np.max(np.abs(halves / peaks - 1))), float(changes.max()))
