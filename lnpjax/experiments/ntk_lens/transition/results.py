"""What the figures and the claims of the transition read off the finished sweep."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from lnpjax.experiments._harness.estimates import (
    MeanDraws,
    Uncertain,
    draws_of_log_means,
    draws_of_log_ratios,
)
from lnpjax.experiments._harness.power_laws import Crossover, crossover, moving_bend
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES, Ensemble, Family
from lnpjax.experiments.ntk_lens.training import Parametrization

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.transition.config import TransitionConfig

_NONE = np.empty(0)
NARROWEST = 16
"""The trace of networks of eight units was seen to change less, and to scatter by half."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve(Family):
    """The ensembles of one set at one resolution, in one depth and parametrisation.

    Attributes:
        pixels: of an image.
        parametrization: of the networks.
    """

    pixels: int
    parametrization: Parametrization

    @property
    def name(self) -> str:
        """For people."""
        kind = ", NTK" if self.parametrization == "ntk" else ""
        return f"{SET_NAMES[self.images]} at {self.pixels} pixels, {self.depth} layers{kind}"

    @property
    def turn(self) -> float:
        """The width where the trace before training has doubled, if biases are left out."""
        return expected_turn(self.pixels, self.depth)

    @functools.cached_property
    def crossover(self) -> Crossover:
        """Where beta turns, of the widths whose minimum fell inside the training."""
        inside = self.inside
        return crossover(inside.scales, inside.log_betas)

    @functools.cached_property
    def log_betas(self) -> MeanDraws:
        """The logarithms of mean changes of the trace over mean traces before training."""
        return draws_of_log_ratios(self.changes(), self.members("trace_start"), seed=self.pixels)

    def changes(self) -> list[np.ndarray]:
        """By how much the trace of each member grows up to its minimum."""
        starts, ends = self.members("trace_start"), self.members("trace_at_minimum")
        return [end - start for start, end in zip(starts, ends, strict=True)]

    def relative_changes(self) -> MeanDraws:
        """The logarithms of mean changes over their geometric mean over all but narrow networks."""
        means = draws_of_log_means(self.changes(), seed=self.pixels)
        level = means.rows[:, self.scales >= NARROWEST].mean(axis=1, keepdims=True)
        return MeanDraws(means.rows - level, means.errors)


def curves(config: TransitionConfig, sweep: Sweep) -> list[Curve]:
    """Return the curves of a sweep, by parametrisation, depth, set and pixels.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    members: dict[str, list[dict[str, Any]]] = {}
    gathered: dict[tuple[Any, ...], list[Ensemble]] = {}
    for row in sweep.rows(kind="member"):
        members.setdefault(row["unit"], []).append(row)
    for row in sweep.rows(kind="ensemble"):
        key = (row["parametrization"], row["depth"], row["set"], row["pixels"])
        gathered.setdefault(key, []).append(_ensemble(row, members[row["unit"]]))
    order = [inputs.images for inputs in config.inputs]
    keys = sorted(gathered, key=lambda key: (key[0] == "ntk", key[1], order.index(key[2]), key[3]))
    return [
        Curve(
            parametrization=parametrization,
            depth=depth,
            images=images,
            pixels=pixels,
            scaled="width",
            window=1,
            ensembles=sorted(
                gathered[parametrization, depth, images, pixels], key=lambda one: one.scale
            ),
        )
        for parametrization, depth, images, pixels in keys
    ]


def _ensemble(row: dict[str, Any], members: list[dict[str, Any]]) -> Ensemble:
    names = ("test_loss", "trace_start", "trace_at_minimum", "trace_ratio", "rank_at_minimum")
    return Ensemble(
        scale=row["width"],
        inside=row["inside"],
        best=0,
        expected_trace=row["trace_expected"],
        adaptation_path=_NONE,
        epochs=np.array([row["best_epoch"]]),
        points=np.empty(0, int),
        members={
            name: np.array([member[name] for member in members if name in member], float)
            for name in names
        },
        paths={},
        spectra={},
    )


def expected_turn(pixels: float, depth: int) -> float:
    """Return the width at which the trace before training has doubled, for inputs of large norm.

    For m outputs `lnpjax.kernel.expected_trace` is the sum over samples of
    ``m |x|^2 / 2^(L-1) * (1 + (L-1) width / pixels) + m (2 - 2^(1-L))``: the first layer, the
    others, and the biases. It has doubled where ``width = (1 + (2^L - 1) / |x|^2) pixels / (L-1)``;
    the share of the biases is left out here. Beta, a change over this trace, has then halved if
    the change does not depend on the width.

    Args:
        pixels: number of inputs.
        depth: layers with weights, L.

    Example:
        >>> import jax.numpy as jnp
        >>> from lnpjax.kernel import expected_trace
        >>> inputs, turn = jnp.full((1, 64), 100.0), int(expected_turn(64, 3))
        >>> traces = [expected_trace((64, width, width, 10), inputs) for width in (0, turn)]
        >>> print(f"{traces[1] / traces[0]:.3f}")
        2.000
    """
    return pixels / (depth - 1)


def rank_moves(group: list[Curve]) -> Uncertain:
    """Return by what the rank's bend is multiplied from the fewest to the most pixels.

    Args:
        group: curves of one set and depth at all resolutions.
    """
    widths = set.intersection(*(set(curve.inside.scales) for curve in group))
    common = [curve.where(lambda one: one.scale in widths) for curve in group]
    pixels = np.array([curve.pixels for curve in group], float)
    logarithms = [curve.log_means("rank_at_minimum", seed) for seed, curve in enumerate(common)]
    move = moving_bend(common[0].scales, logarithms, pixels)
    range_of_pixels = pixels.max() / pixels.min()
    draws = None if move.draws is None else range_of_pixels**move.draws
    return Uncertain(float(range_of_pixels**move.value), draws=draws)


def by_resolution(chosen: list[Curve]) -> list[list[Curve]]:
    """Return curves of the same set and depth together, those of more than one resolution."""
    groups: dict[tuple[int, str], list[Curve]] = {}
    for curve in chosen:
        groups.setdefault((curve.depth, curve.images), []).append(curve)
    return [group for group in groups.values() if len(group) > 1]
