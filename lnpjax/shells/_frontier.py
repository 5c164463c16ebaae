"""The resolution frontier: where a profile of shell energies peaks, and where it breaks off.

*Spectral shells*, section 7. Above the frontier the error has been learned and its energy falls
exponentially in lambda; below, it follows a power law.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base.checks import check_ascending, check_floating, check_values, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result
from lnpjax.status import Status, flag

MIN_SIDE = 3
"""Shells with energy that the fit asks for on either side of the peak."""
_ZOOMS = 8
"""How often the search for the blend narrows, by `_ZOOM_FACTOR` each time."""
_ZOOM_FACTOR = 3.0
_GRID = 7


@result
@dataclasses.dataclass(frozen=True)
class Frontier:
    """The frontier of a profile of shell energies, from `detect_frontier`. A pytree.

    Attributes:
        peak: eigenvalue at which the energy per shell is largest, between shells by a parabola in
            logarithms; NaN where that is the first or the last shell, and so no peak.
        peak_energy: the energy there, at the top of the parabola.
        cutoff: eigenvalue above which the energy stays below the chosen fraction of its peak; NaN
            where it never does within the shells.
        exponent: slope s of the power law ``E ~ lambda^s`` below, positive where energy rises
            towards the peak: ``p + 1`` in *Spectral shells*, eq. 16.
        rate: kappa of the suppression ``E ~ exp(-kappa lambda)`` above (*Spectral shells*, eqs. 14
            and 28), an inverse eigenvalue. Positive where energy falls.
        low_amplitude: the power law at lambda = 1, in units of energy.
        high_amplitude: the exponential at lambda = 0.
        blend_center: eigenvalue at which both count equally.
        blend_width: how gradually one replaces the other, in units of ln lambda.
        residual: root mean square of ``ln E - ln fit`` over shells with energy.
        lowest: the smallest centre of a shell with energy; NaN where there is none.
        num_points: shells that the fit takes: those with energy, above the peak with enough of it.
        status: `lnpjax.Status` flags: `TOO_FEW_POINTS` where fewer than three shells with energy
            lie on a side of the peak, as in a monotone profile; the fit is then NaN. Also where
            they lie so about `blend_center`: the fit is given, but one of its sides rests on
            fewer shells than it has unknowns to spare. `NON_FINITE` where an energy is infinite
            or NaN.
    """

    peak: Float[Array, ""]
    peak_energy: Float[Array, ""]
    cutoff: Float[Array, ""]
    exponent: Float[Array, ""]
    rate: Float[Array, ""]
    low_amplitude: Float[Array, ""]
    high_amplitude: Float[Array, ""]
    blend_center: Float[Array, ""]
    blend_width: Float[Array, ""]
    residual: Float[Array, ""]
    lowest: Float[Array, ""]
    num_points: Int[Array, ""]
    status: Int[Array, ""]

    def profile(self, eigenvalues: Float[Array, " shell"]) -> Float[Array, " shell"]:
        """Return the fitted energies at any eigenvalues."""
        eigenvalues = jnp.asarray(eigenvalues, accumulation_dtype())
        share = _share_above(jnp.log(eigenvalues), jnp.log(self.blend_center), self.blend_width)
        below = jnp.log(self.low_amplitude) + self.exponent * jnp.log(eigenvalues)
        above = jnp.log(self.high_amplitude) - self.rate * eigenvalues
        return jnp.exp((1 - share) * below + share * above)


@entry_point
def detect_frontier(
    centers: Float[Array, " shell"],
    energies: Float[Array, " shell"],
    *,
    cutoff_fraction: float = 1e-2,
    max_blend_width: float = 0.5,
    floor: float = 1e-6,
) -> Frontier:
    """Find the peak and the cut-off of a profile of shell energies, and fit both of its sides.

    *Spectral shells*, section 7.3 and figure 1(b), which names the pieces of the fit and leaves its
    method open. Here, ``ln E = (1 - w) (a + s ln lambda) + w (b - kappa lambda)`` with
    ``w = sigmoid((ln lambda - ln c) / width)``: for a given blend a linear least-squares problem,
    and the blend is the best of a grid that narrows around its minimum. Shells without energy have
    no logarithm and are left out, and so are those above the peak that have less than `floor` of
    its energy: rounding, or an exponential over decades, whose logarithms outweigh all other
    shells. Every other shell counts the same.

    The pieces are not those of *Spectral shells*, eq. 16, ``E ~ lambda^s exp(-kappa lambda)``,
    whose power law goes on above the peak and whose exponential begins below. Fitted to such a
    profile, the exponent comes out a tenth to a fifth too small and the rate up to two fifths; the
    peak, at ``s / kappa``, does not depend on the fit.

    Args:
        centers: `lnpjax.shells.shell_centers`, ascending.
        energies: one for each centre: ``shell_energies(...)[1:]``, or their mean over batches.
        cutoff_fraction: what part of the peak's energy counts as cut off.
        max_blend_width: bound on the width of the blend, in units of ln lambda. Wider blends fit
            better and mean nothing, for neither side is then anywhere by itself.
        floor: what part of the peak's energy a shell above it must have to be fitted; 0 for all.

    Returns:
        A `Frontier`.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree, there are fewer than three shells, `cutoff_fraction` is
            not between 0 and 1, `max_blend_width` not above 0, or `floor` not in [0, 1); where
            values are known, if centres are not positive and ascending, or an energy is negative,
            infinite or NaN.

    Cost: some hundred least-squares problems of four unknowns.

    Example:
        Energies of *Spectral shells*, eq. 16, with p = 1 and kappa = 2 peak at ``(p + 1) / kappa``:

        >>> centers = jnp.geomspace(0.01, 8.0, 30)
        >>> frontier = detect_frontier(centers, centers**2 * jnp.exp(-2 * centers))
        >>> print(f"{frontier.peak:.1f}")
        1.0
    """
    _check_profile(centers, energies)
    require(
        0 < cutoff_fraction < 1,
        "cutoff_fraction",
        expected="a number between 0 and 1",
        got=cutoff_fraction,
    )
    require(
        0 < max_blend_width < math.inf,
        "max_blend_width",
        expected="a finite number > 0",
        got=max_blend_width,
    )
    require(0 <= floor < 1, "floor", expected="a number in [0, 1)", got=floor)
    dtype = accumulation_dtype()
    centers, energies = jnp.asarray(centers, dtype), jnp.asarray(energies, dtype)
    position = jnp.log(centers)
    usable = jnp.isfinite(energies) & (energies > 0)
    level = jnp.where(usable, jnp.log(jnp.where(usable, energies, 1)), -jnp.inf)

    top = jnp.argmax(level)
    shell = jnp.arange(len(centers))
    usable &= (shell <= top) | (energies >= floor * energies[top])
    interior = jnp.any(usable & (shell < top)) & jnp.any(usable & (shell > top))
    peak, peak_level = parabola_top(position, level, usable, top)
    threshold = level[top] + math.log(cutoff_fraction)
    cutoff = _last_crossing(position, level, threshold)

    too_few = _lacks_a_side(usable, shell < top, shell > top)
    fit = _fit_blend(position, level, usable, position[top], math.log(max_blend_width))

    unsupported = _lacks_a_side(usable, position < fit.center, position > fit.center)

    def where(defined: Bool[Array, ""], value: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(defined, value, jnp.nan)

    return Frontier(
        peak=where(interior, jnp.exp(peak)),
        peak_energy=where(interior, jnp.exp(peak_level)),
        cutoff=jnp.exp(cutoff),
        exponent=where(~too_few, fit.coefficients[1]),
        rate=where(~too_few, fit.coefficients[3]),
        low_amplitude=where(~too_few, jnp.exp(fit.coefficients[0])),
        high_amplitude=where(~too_few, jnp.exp(fit.coefficients[2])),
        blend_center=where(~too_few, jnp.exp(fit.center)),
        blend_width=where(~too_few, fit.width),
        residual=where(~too_few, fit.residual),
        lowest=where(jnp.any(usable), centers[jnp.argmax(usable)]),
        num_points=jnp.sum(usable, dtype=jnp.int32),
        status=flag(too_few | unsupported, Status.TOO_FEW_POINTS)
        | flag(~jnp.all(jnp.isfinite(energies)), Status.NON_FINITE),
    )


@result
@dataclasses.dataclass(frozen=True)
class FrontierDisplacement:
    """How far a frontier moved, from `frontier_displacement`. A pytree.

    Attributes:
        peak: ``ln(peak after / peak before)``; negative where it moved to smaller eigenvalues.
        cutoff: the same of the cut-off.
        rate: the same of the rate kappa of suppression; NaN where one is not positive.
        amplitude: ``ln`` of the ratio of the power laws below: how much the unlearned side was
            reweighted (section 7.4). Taken at the lowest shell that has energy in both: near a
            peak the fitted power law of an eq. 16 profile is wrong most, and above it extrapolated.
        status: the flags of both frontiers.
    """

    peak: Float[Array, ""]
    cutoff: Float[Array, ""]
    rate: Float[Array, ""]
    amplitude: Float[Array, ""]
    status: Int[Array, ""]


@entry_point
def frontier_displacement(before: Frontier, after: Frontier) -> FrontierDisplacement:
    """Return how far the frontier moved between two checkpoints, in units of ln lambda.

    *Spectral shells*, section 7.4. Divide by ``ln(t_after / t_before)`` for an exponent in time.

    Args:
        before: the frontier at the earlier checkpoint.
        after: at the later one, on the same data.

    Returns:
        A `FrontierDisplacement`; NaN for what one of the two lacks.

    Raises:
        TypeError: if an argument is not a `Frontier`.

    Cost: none.

    Example:
        >>> centers = jnp.geomspace(0.01, 8.0, 30)
        >>> early = detect_frontier(centers, centers * jnp.exp(-2 * centers))
        >>> late = detect_frontier(centers, centers * jnp.exp(-4 * centers))
        >>> moved = frontier_displacement(early, late)
        >>> print(f"{jnp.exp(moved.peak):.2f} {jnp.exp(moved.cutoff):.2f}")
        0.50 0.50
    """
    for argument, value in (("before", before), ("after", after)):
        require(
            isinstance(value, Frontier),
            argument,
            expected="a Frontier, from detect_frontier",
            got=type(value).__name__,
            error=TypeError,
        )

    def log_ratio(name: str) -> Float[Array, ""]:
        return jnp.log(getattr(after, name)) - jnp.log(getattr(before, name))

    lowest = jnp.maximum(before.lowest, after.lowest)
    steeper = after.exponent - before.exponent
    return FrontierDisplacement(
        peak=log_ratio("peak"),
        cutoff=log_ratio("cutoff"),
        rate=log_ratio("rate"),
        amplitude=log_ratio("low_amplitude") + steeper * jnp.log(lowest),
        status=before.status | after.status,
    )


def _lacks_a_side(
    usable: Bool[Array, " shell"], below: Bool[Array, " shell"], above: Bool[Array, " shell"]
) -> Bool[Array, ""]:
    return (jnp.sum(usable & below) < MIN_SIDE) | (jnp.sum(usable & above) < MIN_SIDE)


class _Search(NamedTuple):
    center: Float[Array, ""]
    log_width: Float[Array, ""]
    center_span: Float[Array, ""]
    log_width_span: Float[Array, ""]


class _Fit(NamedTuple):
    center: Float[Array, ""]
    width: Float[Array, ""]
    coefficients: Float[Array, " coefficient"]
    residual: Float[Array, ""]


def _fit_blend(
    position: Float[Array, " shell"],
    level: Float[Array, " shell"],
    usable: Bool[Array, " shell"],
    start: Float[Array, ""],
    max_log_width: float,
) -> _Fit:
    """Find the best blend on a grid over centre and width that narrows around the best so far."""
    spacing = (position[-1] - position[0]) / (len(position) - 1)
    offsets = jnp.linspace(-1.0, 1.0, _GRID, dtype=position.dtype)
    solve = jax.vmap(
        jax.vmap(lambda c, w: _solve(position, level, usable, c, jnp.exp(w)), (None, 0)), (0, None)
    )

    def zoom(state: _Search, _: None) -> tuple[_Search, None]:
        centers = state.center + state.center_span * offsets
        centers = jnp.clip(centers, position[0], position[-1])
        log_widths = state.log_width + state.log_width_span * offsets
        log_widths = jnp.minimum(log_widths, max_log_width)
        best = jnp.argmin(solve(centers, log_widths)[1])
        narrower = _Search(
            centers[best // _GRID],
            log_widths[best % _GRID],
            state.center_span / _ZOOM_FACTOR,
            state.log_width_span / _ZOOM_FACTOR,
        )
        return narrower, None

    log_width_span = jnp.asarray(math.log(8.0), position.dtype)
    widest = _Search(start, jnp.log(spacing / 2), 4 * spacing, log_width_span)
    search, _ = jax.lax.scan(zoom, widest, None, length=_ZOOMS)
    width = jnp.exp(search.log_width)
    return _Fit(search.center, width, *_solve(position, level, usable, search.center, width))


def _solve(
    position: Float[Array, " shell"],
    level: Float[Array, " shell"],
    usable: Bool[Array, " shell"],
    center: Float[Array, ""],
    width: Float[Array, ""],
) -> tuple[Float[Array, " coefficient"], Float[Array, ""]]:
    """Return coefficients ``a, s, b, kappa`` of a given blend, and the residual it leaves."""
    share = _share_above(position, center, width)
    columns = jnp.stack(
        [1 - share, (1 - share) * (position - center), share, -share * jnp.exp(position - center)],
        axis=1,
    )
    columns = jnp.where(usable[:, None], columns, 0)
    scales = jnp.linalg.norm(columns, axis=0)
    scales = jnp.where(scales == 0, 1, scales)
    target = jnp.where(usable, level, 0)
    solution = jnp.linalg.lstsq(columns / scales, target)[0] / scales
    squares = (target - columns @ solution) ** 2
    below, slope, above, rate = solution
    coefficients = jnp.stack([below - slope * center, slope, above, rate * jnp.exp(-center)])
    return coefficients, jnp.sqrt(jnp.sum(squares) / jnp.sum(usable))


def _share_above(
    position: Float[Array, " shell"], center: Float[Array, ""], width: Float[Array, ""]
) -> Float[Array, " shell"]:
    return jax.nn.sigmoid((position - center) / width)


def parabola_top(
    position: Float[Array, " shell"],
    level: Float[Array, " shell"],
    usable: Bool[Array, " shell"],
    top: Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the top of the parabola through a highest point and its neighbours."""
    left, right = jnp.maximum(top - 1, 0), jnp.minimum(top + 1, len(position) - 1)
    complete = usable[left] & usable[right] & (left < top) & (top < right)
    x_left, x_right = position[left] - position[top], position[right] - position[top]
    y_left = jnp.where(complete, level[left] - level[top], 0)
    y_right = jnp.where(complete, level[right] - level[top], 0)
    determinant = jnp.where(complete, x_left * x_right * (x_left - x_right), 1)
    curvature = (y_left * x_right - y_right * x_left) / determinant
    slope = (y_right * x_left**2 - y_left * x_right**2) / determinant
    curved = complete & (curvature < 0)
    shift = jnp.where(curved, -slope / jnp.where(curved, 2 * curvature, 1), 0)
    return position[top] + shift, level[top] + shift * slope / 2


def _last_crossing(
    position: Float[Array, " shell"], level: Float[Array, " shell"], threshold: Float[Array, ""]
) -> Float[Array, ""]:
    """Return where a profile falls below a threshold for good; NaN if it does not at its end.

    On the straight line between two shells, and half-way where the second one is empty.
    """
    shell = jnp.arange(len(position))
    last = jnp.max(jnp.where(level >= threshold, shell, 0))
    following = jnp.minimum(last + 1, len(position) - 1)
    drop = level[last] - level[following]
    empty = jnp.isneginf(level[following])
    part = jnp.where(
        empty, 0.5, (level[last] - threshold) / jnp.where(empty | (drop == 0), 1, drop)
    )
    crossing = position[last] + part * (position[following] - position[last])
    return jnp.where((last < following) & jnp.isfinite(threshold), crossing, jnp.nan)


def _check_profile(centers: Array, energies: Array) -> None:
    check_floating("centers", centers)
    check_floating("energies", energies)
    check_ascending("centers", centers, of="shells", count=MIN_SIDE, positive=True)
    require(
        energies.shape == centers.shape,
        "energies",
        expected=f"one for each centre, shape {centers.shape} (the remainder has no centre: "
        "energies[1:])",
        got=f"shape {energies.shape}",
    )
    check_values("energies", energies, expected="finite numbers >= 0", least=0.0)
