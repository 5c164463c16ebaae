"""Shell energies and the distribution of learning at the states of a network.

*Spectral shells*, section 7: the error is each token's surprisal, and energies are averaged over
batches of data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import check_count, check_key, require
from lnpjax._base.intervals import jackknife_error
from lnpjax.jacobian import ApplyFn, Batch, LossFn, observable, token_surprisal
from lnpjax.shells._average import BatchAverage, average_over_batches
from lnpjax.shells._energies import (
    log_shells,
    shell_centers,
    shell_dissipation,
    shell_energies,
    shell_minimum_energies,
)
from lnpjax.shells._frontier import MIN_SIDE, Frontier, detect_frontier
from lnpjax.spectra import (
    PositionDistribution,
    SpectralMeasure,
    position_distribution,
    spectral_measure,
)
from lnpjax.spectra._lanczos import measure_at


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """How spectra are measured.

    Attributes:
        num_matvecs: products with the kernel for each batch.
        ratio: q, of the shells' edges.
        decades: how far below the largest eigenvalue shells reach; beyond 4, single precision does
            not tell eigenvalues from rounding.
        per_token: divide eigenvalues and energies by the number of tokens of a batch
            (`lnpjax.shells.function_space_measure`), so that batches of other sizes and context
            lengths can be compared. Without, energies add up to half the sum of squared surprisals.

    Example:
        >>> ProfileOptions(ratio=0.5).check()
        Traceback (most recent call last):
            ...
        ValueError: ratio: expected a number > 1, got 0.5
    """

    num_matvecs: int = 32
    ratio: float = 2.0
    decades: float = 4.0
    per_token: bool = False

    def check(self) -> None:
        """Refuse invalid options.

        Raises:
            ValueError: naming the option.
        """
        check_count("num_matvecs", self.num_matvecs)
        require(self.ratio > 1, "ratio", expected="a number > 1", got=self.ratio)
        require(self.decades > 0, "decades", expected="a number > 0", got=self.decades)


class StateSpectra(NamedTuple):
    """What one state shows, over all batches (their axis comes first); `measure_states` makes it.

    Attributes:
        error: the spectral measure of the tokens' surprisals.
        position: the distribution of the loss gradient; None where it was not asked for.
        num_tokens: of each batch.
    """

    error: SpectralMeasure
    position: PositionDistribution | None
    num_tokens: Int[Array, ...]


class Convergence(NamedTuple):
    """How far the quadrature of the error has converged, as a share of 1 each.

    Attributes:
        unresolved: the share of the energy at nodes that have not converged to eigenvalues.
        peak_change: by what part of itself the peak moves between half the products and all; NaN
            where one of the profiles has no peak.
        shell_change: the largest change of a shell's energy between half the products and all, as
            a part of it, among shells that hold at least a hundredth of the largest energy.
    """

    unresolved: float
    peak_change: float
    shell_change: float


class Profile(NamedTuple):
    """The shells of one state; made by `profiles_of`.

    Attributes:
        label: which state.
        centers: of the shells, eigenvalues.
        energies: of each shell, averaged over batches; the remainder below all shells left out.
        minima: the smallest weight of a node in each shell, averaged over the batches that have
            a node there; NaN where none has.
        dissipation: of each shell, averaged.
        remainder: the energy below all shells.
        frontier: of the mean profile.
        position: the distribution of the loss gradient, of each batch; None where it was not
            measured.
        leave_one_out: the frontiers of the means without one batch each, for
            `jackknife_sem`; None from a single batch.
        convergence: how far the error's quadrature has converged; None where that is not known.
    """

    label: str
    centers: Float[Array, " shell"]
    energies: BatchAverage
    minima: BatchAverage
    dissipation: BatchAverage
    remainder: Float[Array, ""]
    frontier: Frontier
    position: PositionDistribution | None
    leave_one_out: Frontier | None = None
    convergence: Convergence | None = None

    def sem(self, name: str) -> float:
        """Return the standard error over batches of a field of `frontier`; NaN if unknown."""
        if self.leave_one_out is None:
            return math.nan
        return float(jackknife_sem(getattr(self.leave_one_out, name)))

    @property
    def median(self) -> float:
        """The median spectral position, averaged over batches in logarithms; NaN if unknown."""
        if self.position is None:
            return math.nan
        return float(jnp.exp(jnp.mean(jnp.log(self.position.median))))


def measure_states(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    states: dict[str, Callable[[], PyTree]],
    batches: Sequence[Batch],
    options: ProfileOptions,
    *,
    key: Array,
    report: Callable[[str], object],
    learning: bool = True,
) -> Iterator[tuple[str, StateSpectra]]:
    """Measure every state on every batch; one compiled program for all.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> logits (B, T, V)``, pure.
        loss_fn: whose gradient the distribution of learning belongs to.
        states: functions that give the parameters, by label.
        batches: ``(inputs, targets)``, of equal shapes.
        options: how.
        key: of the random probes.
        report: called with a line of text before each state is measured.
        learning: whether the distribution of the loss gradient is measured, too.

    Yields:
        ``(label, measured)``, state by state.

    Raises:
        TypeError, ValueError: for bad keys or batches, and more products than
            `lnpjax.spectra.position_distribution` accepts.

    Cost: for each state and batch, ``num_matvecs`` products with the kernel, and as many again for
    the distribution of the loss gradient.

    Example:
        >>> def apply_fn(table, tokens):
        ...     return table[tokens]
        >>> def loss_fn(logits, targets):
        ...     rows = jax.nn.log_softmax(logits)
        ...     return -jnp.mean(jnp.take_along_axis(rows, targets[..., None], -1))
        >>> states, batch = {"start": lambda: jnp.eye(3)}, (jnp.arange(3)[None],) * 2
        >>> options = ProfileOptions(num_matvecs=2)
        >>> for label, spectra in measure_states(
        ...     apply_fn, loss_fn, states, [batch], options, key=jax.random.key(0), report=print
        ... ):
        ...     print(label, spectra.error.nodes.shape)
        start: 2 products on each of 1 batches
        start (1, 2)
    """
    check_key("key", key, drawn_by="measure_states")
    surprisal = observable(apply_fn, token_surprisal)
    position = position_distribution(apply_fn, loss_fn, num_matvecs=options.num_matvecs)

    @jax.jit
    def measure(params: PyTree, batch: Batch, key: Array) -> StateSpectra:
        error = surprisal(params, batch)
        products = min(options.num_matvecs, error.size)
        measured = spectral_measure(surprisal, params, batch, error, num_matvecs=products)
        learned = position(params, batch, key=key) if learning else None
        return StateSpectra(measured, learned, jnp.int32(error.size))

    for label, params_of in states.items():
        report(f"{label}: {options.num_matvecs} products on each of {len(batches)} batches")
        params = params_of()
        by_batch = [
            measure(params, batch, jax.random.fold_in(key, index))
            for index, batch in enumerate(batches)
        ]
        yield label, jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_batch)


def profiles_of(measured: dict[str, StateSpectra], options: ProfileOptions) -> list[Profile]:
    """Sort what was measured into shells that are common to all states.

    Args:
        measured: by label.
        options: the shells.

    Returns:
        A profile for each state, in order.

    Raises:
        ValueError: if a state has outputs that are not finite.

    Cost: negligible.

    Example:
        >>> def apply_fn(table, tokens):
        ...     return table[tokens]
        >>> def loss_fn(logits, targets):
        ...     rows = jax.nn.log_softmax(logits)
        ...     return -jnp.mean(jnp.take_along_axis(rows, targets[..., None], -1))
        >>> states, batch = {"start": lambda: jnp.eye(3)}, (jnp.arange(3)[None],) * 2
        >>> options, key = ProfileOptions(num_matvecs=2, ratio=10.0), jax.random.key(0)
        >>> measured = measure_states(
        ...     apply_fn, loss_fn, states, [batch], options, key=key, report=lambda text: None
        ... )
        >>> (profile,) = profiles_of(dict(measured), options)
        >>> profile.label, profile.energies.mean.shape
        ('start', (5,))
    """
    if options.per_token:
        measured = {label: _per_token(spectra) for label, spectra in measured.items()}
    tops = np.array([float(jnp.max(spectra.error.nodes)) for spectra in measured.values()])
    require(
        bool(np.all(np.isfinite(tops))),
        "params",
        expected="states whose outputs are finite",
        got=f"NaN in {[name for name, t in zip(measured, tops, strict=True) if t != t]}",
    )
    top = float(tops.max())
    edges = log_shells(top * 10**-options.decades, 1.001 * top, ratio=options.ratio)
    return [_profile(label, spectra, edges) for label, spectra in measured.items()]


class _Sorted(NamedTuple):
    """What `Profile` holds, shells that have no lower edge included."""

    centers: Float[Array, " shell"]
    energies: BatchAverage
    minima: BatchAverage
    dissipation: BatchAverage
    frontier: Frontier
    leave_one_out: Frontier | None


def _profile(label: str, measured: StateSpectra, edges: Float[Array, " edge"]) -> Profile:
    found = _sorted_into_shells(measured.error, edges)

    def above(average: BatchAverage) -> BatchAverage:
        return jax.tree.map(lambda values: values[1:] if values.ndim else values, average)

    energies = found.energies.mean
    return Profile(
        label=label,
        centers=found.centers,
        energies=above(found.energies),
        minima=above(found.minima),
        dissipation=above(found.dissipation),
        remainder=energies[0],
        frontier=found.frontier,
        position=measured.position,
        leave_one_out=found.leave_one_out,
        convergence=_convergence(measured.error, energies[1:], found.frontier, edges),
    )


@jax.jit  # the search for the blend is hundreds of operations, each of which would be compiled
def _sorted_into_shells(error: SpectralMeasure, edges: Float[Array, " edge"]) -> _Sorted:
    nodes, weights = error.nodes, _squared_components(error)

    def by_shell(function: Callable[..., Array]) -> Float[Array, "b shell"]:
        return jax.vmap(lambda n, w: function(n, w, edges))(nodes, weights)

    by_batch = by_shell(shell_energies)
    energies, centers = average_over_batches(by_batch), shell_centers(edges)
    leave_one_out = None
    if len(by_batch) > 1:
        without = (jnp.sum(by_batch, axis=0) - by_batch) / (len(by_batch) - 1)
        # A difference of sums may miss zero by their rounding.
        leave_one_out = _detect_each(centers, jnp.maximum(without, 0)[:, 1:])
    smallest = by_shell(shell_minimum_energies)
    return _Sorted(
        centers=centers,
        energies=energies,
        minima=average_over_batches(smallest, where=~jnp.isnan(smallest)),
        dissipation=average_over_batches(by_shell(shell_dissipation)),
        frontier=detect_frontier(centers, energies.mean[1:]),
        leave_one_out=leave_one_out,
    )


def jackknife_sem(leave_one_out: Float[Array, "b ..."]) -> Float[Array, ...]:
    """Return the standard error of a statistic from its values without one batch each.

    The jackknife (`lnpjax._base.intervals.jackknife_error`). Of several states on the same batches,
    take it of their differences: what they share then cancels.

    Args:
        leave_one_out: ``(b, ...)``, the statistic of all batches except one.

    Returns:
        ``(...)``; NaN where a value is.

    Example:
        The mean of 1, 2 and 6, whose standard error is ``std / sqrt(3)``:

        >>> without = jnp.array([(2 + 6) / 2, (1 + 6) / 2, (1 + 2) / 2])
        >>> sem = jnp.std(jnp.array([1.0, 2.0, 6.0]), ddof=1) / 3**0.5
        >>> print(f"{jackknife_sem(without):.4f} {sem:.4f}")
        1.5275 1.5275
    """
    return jackknife_error(leave_one_out)


def profile_arrays(profile: Profile) -> dict[str, Any]:
    """Return what is saved of a profile, by the names that it has in files."""
    arrays: dict[str, Any] = {
        "centers": profile.centers,
        "energies": profile.energies.mean,
        "energies_sem": profile.energies.sem,
        "minima": profile.minima.mean,
        "minima_sem": profile.minima.sem,
        "minima_batches": profile.minima.num_batches,
        "dissipation": profile.dissipation.mean,
        "remainder": profile.remainder,
    }
    if profile.position is not None:
        arrays |= {"p": profile.position.p, "gamma2": profile.position.weights}
    for field in dataclasses.fields(Frontier):
        arrays[field.name] = getattr(profile.frontier, field.name)
        if field.name not in ("num_points", "status"):
            arrays[f"{field.name}_sem"] = profile.sem(field.name)
    if profile.convergence is not None:
        arrays |= profile.convergence._asdict()
    return arrays


DOUBTS = (
    "fewer than three shells on a side, shells that miss the fit by more than a factor of 2 (rms), "
    "or a slope that is not above twice its error"
)
"""When a slope is in doubt: what `slope_in_doubt` asks, in words."""


def slope_in_doubt(profile: Profile) -> bool:
    """Return whether the slope below the peak is not to be read as that of a power law.

    See `DOUBTS`. A slope whose error is not known is in doubt only for the other reasons.
    """
    frontier, sem = profile.frontier, profile.sem("exponent")
    unclear = float(frontier.exponent) <= (0 if math.isnan(sem) else 2 * sem)
    return bool(frontier.status != 0) or float(frontier.residual) > math.log(2) or unclear


def falls_above(profile: Profile) -> bool:
    """Return whether energy falls above the peak, as an exponential does: by twice its error."""
    sem = profile.sem("rate")
    return float(profile.frontier.rate) > (0 if math.isnan(sem) else 2 * sem)


def with_error(value: Float[Array, ""], sem: float, *, missing: str = "-") -> str:
    """Return a number with its standard error, where there is one.

    Example:
        >>> with_error(jnp.array(1.234), 0.056), with_error(jnp.array(jnp.nan), 1.0)
        ('1.23 +- 0.056', '-')
    """
    if not math.isfinite(float(value)):
        return missing
    return f"{float(value):.3g}" + (f" +- {sem:.2g}" if math.isfinite(sem) else "")


def describe_collapse(profile: Profile, *, fraction: float = 0.01) -> str:
    """Say whether the least energy per shell collapses above the peak, judged with its errors.

    *Spectral shells*, section 7.3: beyond the cut-off, it "collapses sharply to a numerical floor".
    Here: in the highest shell that several batches reach, it is below `fraction` of its largest.
    Both numbers count with their intervals over batches.

    Args:
        profile: the state.
        fraction: of the largest, what counts as collapsed.

    Returns:
        A line that says that it collapses, that it does not, or that these batches cannot tell.
    """
    mean = np.asarray(profile.minima.mean)
    low, high = (np.asarray(end) for end in profile.minima.interval())
    # A shell in which a single batch has nodes has no error to be judged with.
    shells = np.flatnonzero(np.isfinite(mean) & np.isfinite(low) & np.isfinite(high) & (mean > 0))
    if len(shells) < MIN_SIDE:
        return "too few shells in several batches to tell whether it collapses"
    top = shells[np.argmax(mean[shells])]
    last = shells[-1]
    place = float(profile.centers[last])
    ratio = f"{mean[last] / mean[top]:.1g} of its largest at {place:.2g}"
    if high[last] < fraction * low[top]:
        return f"it collapses: {ratio}"
    if low[last] > fraction * high[top]:
        return f"it does not collapse: {ratio}"
    return f"{ratio}: whether it collapses, these batches do not tell"


def _squared_components(error: SpectralMeasure) -> Float[Array, "b node"]:
    return error.weights * error.total[:, None]


def _per_token(measured: StateSpectra) -> StateSpectra:
    tokens = measured.num_tokens
    error = dataclasses.replace(
        measured.error,
        nodes=measured.error.nodes / tokens[:, None],
        total=measured.error.total / tokens,
    )
    return measured._replace(error=error)


# Compiled once for all states.
_detect_each = jax.jit(jax.vmap(detect_frontier, (None, 0)))


@jax.jit
def _with_half_the_products(
    error: SpectralMeasure, edges: Float[Array, " edge"]
) -> Float[Array, "b shell"]:
    products = max(1, error.nodes.shape[1] // 2)

    def halved(
        nodes: Float[Array, " node"], weights: Float[Array, " node"], total: Float[Array, ""]
    ) -> Float[Array, " shell"]:
        half = measure_at(lambda v: nodes * v, jnp.sqrt(weights), num_matvecs=products)
        return shell_energies(half.nodes, half.weights * total, edges)[1:]

    return jax.vmap(halved)(error.nodes, error.weights, error.total)


def _convergence(
    error: SpectralMeasure,
    energies: Float[Array, " shell"],
    frontier: Frontier,
    edges: Float[Array, " edge"],
) -> Convergence:
    """Compare with half the products, whose quadrature follows from the whole one.

    Lanczos on the k nodes, from the square roots of their weights, repeats the first k steps.
    """
    half = jnp.mean(_with_half_the_products(error, edges), axis=0)
    peak = _detect_each(shell_centers(edges), half[None]).peak[0]
    moved = jnp.abs(peak / frontier.peak - 1)
    holds = energies >= jnp.max(energies) / 100
    changes = jnp.where(holds, jnp.abs(half - energies) / jnp.where(holds, energies, 1), 0)
    weights = _squared_components(error)
    unresolved = jnp.sum(jnp.where(error.converged, 0, weights)) / jnp.sum(weights)
    return Convergence(float(unresolved), float(moved), float(jnp.max(changes)))
