"""Shell energies and the distribution of learning at the states of a network.

*Spectral shells*, section 7: the error is each token's surprisal, and energies are averaged over
batches of data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lnpjax._base.checks import check_count, check_key, require
from lnpjax.jacobian import ApplyFn, Batch, LossFn, observable, token_surprisal
from lnpjax.shells._average import BatchAverage, average_over_batches
from lnpjax.shells._energies import (
    log_shells,
    shell_centers,
    shell_dissipation,
    shell_energies,
    shell_minimum_energies,
)
from lnpjax.shells._frontier import Frontier, detect_frontier
from lnpjax.spectra import (
    PositionDistribution,
    SpectralMeasure,
    position_distribution,
    spectral_measure,
)


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """How spectra are measured.

    Attributes:
        num_matvecs: products with the kernel for each batch.
        ratio: q, of the shells' edges.
        decades: how far below the largest eigenvalue shells reach; beyond 4, single precision does
            not tell eigenvalues from rounding.

    Example:
        >>> ProfileOptions(ratio=0.5).check()
        Traceback (most recent call last):
            ...
        ValueError: ratio: expected a number > 1, got 0.5
    """

    num_matvecs: int = 32
    ratio: float = 2.0
    decades: float = 4.0

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
        position: the distribution of the loss gradient.
    """

    error: SpectralMeasure
    position: PositionDistribution


class Profile(NamedTuple):
    """The shells of one state; made by `profiles_of`.

    Attributes:
        label: which state.
        centers: of the shells, eigenvalues.
        energies: of each shell, averaged over batches; the remainder below all shells left out.
        minima: the smallest weight of a node in each shell, averaged.
        dissipation: of each shell, averaged.
        remainder: the energy below all shells.
        frontier: of the mean profile.
        position: the distribution of the loss gradient, of each batch.
    """

    label: str
    centers: Float[Array, " shell"]
    energies: BatchAverage
    minima: BatchAverage
    dissipation: BatchAverage
    remainder: Float[Array, ""]
    frontier: Frontier
    position: PositionDistribution

    @property
    def median(self) -> float:
        """The median spectral position, averaged over batches in logarithms."""
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

    Yields:
        ``(label, measured)``, state by state.

    Raises:
        TypeError, ValueError: for bad keys or batches, and more products than
            `lnpjax.spectra.position_distribution` accepts.

    Cost: for each state and batch, twice ``num_matvecs`` products with the kernel.

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
        return StateSpectra(measured, position(params, batch, key=key))

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


def _profile(label: str, measured: StateSpectra, edges: Float[Array, " edge"]) -> Profile:
    nodes = measured.error.nodes
    weights = measured.error.weights * measured.error.total[:, None]

    def by_shell(function: Callable[..., Array]) -> BatchAverage:
        return average_over_batches(jax.vmap(lambda n, w: function(n, w, edges))(nodes, weights))

    def above(average: BatchAverage) -> BatchAverage:
        names = ("mean", "std", "sem", "log_sem")
        return dataclasses.replace(average, **{n: getattr(average, n)[1:] for n in names})

    energies, centers = by_shell(shell_energies), shell_centers(edges)
    return Profile(
        label=label,
        centers=centers,
        energies=above(energies),
        minima=above(by_shell(shell_minimum_energies)),
        dissipation=above(by_shell(shell_dissipation)),
        remainder=energies.mean[0],
        frontier=detect_frontier(centers, energies.mean[1:]),
        position=measured.position,
    )
