"""Networks under gradient flow with an exact kernel, and the books of their shells.

Spectral Shells, sections 2 to 4. Networks ``f = h_L / gamma`` of tanh layers in the NTK
parametrisation, ``h_(l+1) = W h_l / sqrt(width)``, whose parameters are ``gamma`` times what is
trained: gradient flow on ``|e|^2 / 2n`` then has the kernel ``M = J J^T / n`` of size one at every
width. ``gamma = 1`` is the lazy limit as networks widen, and ``gamma = sqrt(width)`` the
mean-field limit, in which features go on to be learned. All in double precision: the identities of
section 3 hold to rounding, and rounding is to be small.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax.jacobian import linearize, observable, residual
from lnpjax.kernel import Modes, eigenmodes, entk
from lnpjax.shells import mode_couplings
from lnpjax.shells._energies import shell_indices
from lnpjax.shells._fluxes import fluxes_of_kernel

Regime = Literal["lazy", "feature"]
REGIMES: tuple[Regime, ...] = ("lazy", "feature")
REGIME_NAMES = {"lazy": "lazy", "feature": "feature learning"}
Params = list[Float[Array, "below above"]]
Batch = tuple[Float[Array, "n d"], Float[Array, " n"]]


@dataclasses.dataclass(frozen=True)
class Network:
    """A tanh network as a pure function.

    Attributes:
        sizes: of its layers, from the inputs to the one output.
        gamma: 1 for the lazy regime, ``sqrt(width)`` for the mean-field one.
    """

    sizes: tuple[int, ...]
    gamma: float

    def __call__(self, params: Params, inputs: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return the outputs."""
        hidden = inputs
        for index, matrix in enumerate(params):
            hidden = self.gamma * hidden @ matrix / math.sqrt(len(matrix))
            hidden = jnp.tanh(hidden) if index < len(params) - 1 else hidden
        return hidden[:, 0] / self.gamma

    def init(self, key: Array) -> Params:
        """Draw parameters that make standard normal weights."""
        shapes = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        keys = jax.random.split(key, len(shapes))
        return [
            jax.random.normal(k, shape, jnp.float64) / self.gamma
            for k, shape in zip(keys, shapes, strict=True)
        ]

    def error(self, params: Params, batch: Batch) -> Float[Array, " n"]:
        """Return ``f - y`` (`lnpjax.jacobian.residual`)."""
        return observable(self, residual)(params, batch)


def network(regime: Regime, inputs: int, width: int, hidden_layers: int) -> Network:
    """Return the network of a width in one of the two limits.

    Example:
        >>> network("feature", 3, 16, 1)
        Network(sizes=(3, 16, 1), gamma=4.0)
    """
    gamma = math.sqrt(width) if regime == "feature" else 1.0
    return Network((inputs, *(width,) * hidden_layers, 1), gamma)


def teacher_targets(key: Array, inputs: Float[Array, "n d"], width: int) -> Float[Array, " n"]:
    """Return targets of a lazy tanh teacher, scaled to a mean square of one."""
    teacher = network("lazy", inputs.shape[1], width, 1)
    targets = teacher(teacher.init(key), inputs)
    return targets / jnp.sqrt(jnp.mean(targets**2))


def seed_key(seed: int, member: int, stream: int) -> Array:
    """Return the key of a member of an experiment; one stream for each thing that is drawn."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), member), stream)


def measured_steps(num_steps: int, num_times: int) -> Int[np.ndarray, " time"]:
    """Return numbers of steps that are evenly spaced in the logarithm, as far as integers are.

    Example:
        >>> measured_steps(100, 5).tolist()
        [0, 1, 3, 10, 32, 100]
    """
    return np.unique([0, *np.geomspace(1, num_steps, num_times).round().astype(int)])


def velocity(model: Network, params: Params, batch: Batch) -> Params:
    """Return that of gradient flow on ``|e|^2 / 2n``, which is ``-J^T e / n`` (section 2.2)."""
    error = linearize(model.error, params, batch)
    return jax.tree.map(lambda leaf: -leaf / len(batch[1]), error.vjp(error.outputs))


@functools.partial(jax.jit, static_argnums=0)
def flowed(model: Network, params: Params, batch: Batch, step: Array, num_steps: Array) -> Params:
    """Follow gradient flow by the method of Runge and Kutta of fourth order.

    Args:
        model: the network.
        params: where it starts.
        batch: inputs and targets.
        step: length of a step in time; half of the inverse of the largest eigenvalue is stable by
            far.
        num_steps: how many.

    Returns:
        The parameters after ``step * num_steps``.
    """

    def ahead(params: Params, slope: Params, by: Array) -> Params:
        return jax.tree.map(lambda leaf, rate: leaf + by * rate, params, slope)

    def advance(_: Array, params: Params) -> Params:
        first = velocity(model, params, batch)
        second = velocity(model, ahead(params, first, step / 2), batch)
        third = velocity(model, ahead(params, second, step / 2), batch)
        fourth = velocity(model, ahead(params, third, step), batch)
        return jax.tree.map(
            lambda leaf, a, b, c, d: leaf + step / 6 * (a + 2 * b + 2 * c + d),
            params,
            first,
            second,
            third,
            fourth,
        )

    return jax.lax.fori_loop(0, num_steps, advance, params)


class Moment(NamedTuple):
    """The balance of all shells at one moment; the remainder below them comes first.

    Attributes:
        energies: E of every shell.
        dissipation: D of every shell (section 4.2).
        net: what every shell gains by fluxes (eq. 3).
        inside: what couplings inside of shells change of their energies, the largest of all
            shells, as a share of the sum of absolute terms (proposition 1).
        eigenvalues: of ``M = J J^T / n``, descending.
        mode_energies: ``g^2 / 2`` of every mode.
    """

    energies: Float[Array, "*time bin"]
    dissipation: Float[Array, "*time bin"]
    net: Float[Array, "*time bin"]
    inside: Float[Array, "*time"]
    eigenvalues: Float[Array, "*time mode"]
    mode_energies: Float[Array, "*time mode"]


@functools.partial(jax.jit, static_argnums=0)
def moment(model: Network, params: Params, batch: Batch, edges: Array) -> Moment:
    """Return the exact balance of all shells (eqs. 1 to 3), and the modes behind it."""
    num_points = len(batch[1])
    rate = velocity(model, params, batch)

    def kernel_of(params: Params, batch: Batch) -> Float[Array, "n n"]:
        return entk(model.error, params, batch, method="batch") / num_points

    kernel = linearize(kernel_of, params, batch)
    error = linearize(model.error, params, batch)
    scale = num_points**0.5
    kernel_rate = kernel.jvp(rate)
    parts = fluxes_of_kernel(
        kernel.outputs, kernel_rate, error.outputs / scale, error.jvp(rate) / scale, edges
    )
    modes = eigenmodes(kernel.outputs, error.outputs / scale)
    return Moment(
        energies=parts.energies,
        dissipation=parts.dissipation,
        net=parts.net,
        inside=_inside(modes, kernel_rate, edges),
        eigenvalues=modes.eigenvalues,
        mode_energies=modes.projections**2 / 2,
    )


def stacked(moments: Sequence[Moment]) -> Moment:
    """Return several moments as one, with times first."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *moments)


def _inside(modes: Modes, kernel_rate: Float[Array, "n n"], edges: Array) -> Float[Array, ""]:
    """Return what pairs of modes of one shell add to its energy (proposition 1); 0 without any."""
    couplings = mode_couplings(modes.eigenvalues, modes.eigenvectors, kernel_rate)
    shells = shell_indices(modes.eigenvalues, edges)
    pairs = jnp.outer(modes.projections, modes.projections) * couplings
    pairs = jnp.where(shells[:, None] == shells, pairs, 0)
    by_shell = jax.ops.segment_sum(jnp.sum(pairs, axis=1), shells, len(edges))
    total = jnp.sum(jnp.abs(pairs))
    return jnp.where(total > 0, jnp.max(jnp.abs(by_shell)) / total, 0)
