"""Logarithmic spectral shells: where in the spectrum the error lives, and where it goes.

*Spectral shells*, sections 3, 4 and 7. A discrete spectral measure is a pair ``(nodes, weights)``:
eigenvalues ``lambda_k`` of the kernel and the squared components ``g_k^2`` of the error along its
eigenvectors. Both an exact decomposition (``modes.eigenvalues, modes.projections**2``) and the
Gauss quadrature of a Lanczos process supply one, and everything here takes either. (The weights of
`lnpjax.spectral_measure` add up to 1: take ``measure.nodes, measure.weights * measure.total``.)

Two conventions hold throughout. An energy has the factor 1/2 of the paper's section 3.2,
``E = g^2 / 2``, so that all energies add up to the loss ``|e|^2 / 2``; the paper drops it in its
eq. 27 and in its appendix B. And every array over shells has one entry more than there are shells:
entry 0 is the remainder below the lowest edge, with the null space of the kernel in it. The paper's
partition of the positive spectrum leaves that out, though the error of a network with fewer
parameters than outputs lies there and exchanges energy with the shells.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import (
    check_ascending,
    check_count,
    check_floating,
    check_values,
    require,
)
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype


def log_shells(low: float, high: float, *, ratio: float = 2.0) -> Float[Array, " edge"]:
    """Return edges of shells ``[low q^a, low q^(a+1))`` that cover the range `low` to `high`.

    *Spectral shells*, section 3.2. What lies below `low` counts as the remainder, what lies above
    the highest edge belongs to the highest shell. Keep `low` above the rounding of the spectrum
    (``N eps`` times the largest eigenvalue), which is not part of it.

    Args:
        low: the lowest edge, lambda_0 > 0, in units of the nodes.
        high: where the highest shell must reach, > low.
        ratio: q > 1.

    Returns:
        ``num_shells + 1`` edges in ascending order; the last one is `high` or above it by less than
        a factor of q.

    Raises:
        TypeError: if an argument is not a number known outside of `jit`: it decides a shape.
        ValueError: if ``ratio <= 1``, or not ``0 < low < high``, or one is infinite or NaN.

    Example:
        >>> log_shells(0.1, 5.0, ratio=10.0)
        Array([ 0.1,  1. , 10. ], dtype=float32)
    """
    low, high, ratio = (
        _number(name, value) for name, value in (("low", low), ("high", high), ("ratio", ratio))
    )
    smallest = float(jnp.finfo(accumulation_dtype()).tiny)
    require(low > 0 and math.isfinite(low), "low", expected="a number > 0", got=low)
    require(
        low >= smallest,
        "low",
        expected=f"a number >= {smallest:.2g}, the smallest normal one",
        got=low,
    )
    require(
        high > low and math.isfinite(high),
        "high",
        expected=f"a finite number above low={low}",
        got=high,
    )
    require(ratio > 1 and math.isfinite(ratio), "ratio", expected="a finite number > 1", got=ratio)
    # An edge that meets `high` up to rounding is not followed by one more.
    num_shells = max(1, math.ceil(math.log(high / low) / math.log(ratio) - 1e-9))
    return jnp.asarray(low * ratio ** np.arange(num_shells + 1.0), accumulation_dtype())


def shell_centers(edges: Float[Array, " edge"]) -> Float[Array, " shell"]:
    """Return the geometric centre of every shell; the remainder has none.

    *Spectral shells*, appendix B.3.

    Args:
        edges: from `log_shells`.

    Returns:
        One centre for each shell, ascending. They belong to ``energies[1:]``.

    Raises:
        TypeError, ValueError: if `edges` are not positive and ascending numbers.

    Example:
        >>> shell_centers(jnp.array([1.0, 4.0, 16.0]))
        Array([2., 8.], dtype=float32)
    """
    check_edges(edges)
    edges = jnp.asarray(edges, accumulation_dtype())
    return jnp.sqrt(edges[:-1]) * jnp.sqrt(edges[1:])


@entry_point
def function_space_measure(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], *, num_points: int
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Return the same measure with an expectation over data in place of a sum.

    *Spectral shells*, section 2: the paper's inner product is ``<f, g> = E[f g]``. On n points its
    kernel is ``M = J J^T / n``, with the eigenvalues of Theta over n, and its error has the squared
    components ``(e . q_k)^2 / n``. Nothing else in the library divides by n: without this function,
    energies add up to ``sum_i e_i^2 / 2``, and time is that of gradient flow on that sum.

    Args:
        nodes: eigenvalues of ``Theta = J J^T``.
        weights: squared components of the error.
        num_points: n, the number of samples the expectation is over; of tokens, where each is a
            point, as for `lnpjax.jacobian.token_surprisal`.

    Returns:
        ``(nodes / n, weights / n)``.

    Raises:
        TypeError, ValueError: if the measure is invalid, or `num_points` is less than 1.

    Example:
        >>> function_space_measure(jnp.array([4.0]), jnp.array([6.0]), num_points=2)
        (Array([2.], dtype=float32), Array([3.], dtype=float32))
    """
    check_measure(nodes, weights)
    check_count("num_points", num_points)
    dtype = accumulation_dtype()
    return jnp.asarray(nodes, dtype) / num_points, jnp.asarray(weights, dtype) / num_points


def shell_indices(
    nodes: Float[Array, " node"], edges: Float[Array, " edge"]
) -> Int[Array, " node"]:
    """Return the shell of every eigenvalue: 0 for the remainder, a for ``[edges[a-1], edges[a])``.

    *Spectral shells*, section 3.2. The highest shell also takes what lies above it.

    Args:
        nodes: eigenvalues.
        edges: from `log_shells`.

    Returns:
        Integers from 0 to the number of shells.

    Raises:
        TypeError, ValueError: if either is not a vector of real numbers, or `edges` do not ascend.

    Example:
        >>> shell_indices(jnp.array([-1e-9, 1.0, 3.0, 99.0]), jnp.array([1.0, 2.0, 4.0]))
        Array([0, 1, 2, 2], dtype=int32)
    """
    check_edges(edges)
    check_floating("nodes", nodes)
    dtype = accumulation_dtype()
    upper_edges = jnp.searchsorted(
        jnp.asarray(edges, dtype), jnp.asarray(nodes, dtype), side="right"
    )
    return jnp.minimum(upper_edges, len(edges) - 1).astype(jnp.int32)


@entry_point
def shell_energies(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], edges: Float[Array, " edge"]
) -> Float[Array, " bin"]:
    """Sum the energy of the error in every shell, ``E_a = 1/2 sum_(k in a) g_k^2``.

    *Spectral shells*, section 3.2 and appendix B.3 (Algorithm 1, which drops what lies outside of
    the edges and the factor 1/2).

    Args:
        nodes: eigenvalues ``lambda_k``, or nodes of a quadrature, ``(k,)`` in any order.
        weights: ``g_k^2``, squared components of the error; of a quadrature, weights that add up to
            ``|e|^2``.
        edges: from `log_shells`.

    Returns:
        ``(num_shells + 1,)`` in units of the error squared: the remainder, then the shells in
        ascending order. They add up to ``|e|^2 / 2``. NaN in the highest shell where a node is NaN.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree or edges do not ascend; where values are known, if they are
            infinite or NaN, or a weight is negative.

    Cost: a pass over the measure.

    Example:
        >>> nodes, weights = jnp.array([8.0, 2.5, 2.0, 0.0]), jnp.array([4.0, 2.0, 2.0, 6.0])
        >>> shell_energies(nodes, weights, log_shells(1.0, 8.0, ratio=2.0))
        Array([3., 0., 2., 2.], dtype=float32)
    """
    nodes, weights = _checked_measure(nodes, weights)
    return _sum_by_shell(weights / 2, nodes, edges)


@entry_point
def shell_dissipation(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], edges: Float[Array, " edge"]
) -> Float[Array, " bin"]:
    """Return how fast each shell loses energy by itself, ``D_a = sum_(k in a) lambda_k g_k^2``.

    *Spectral shells*, section 4.2. Under gradient flow on ``|e|^2 / 2`` the dissipation of all
    shells together is the rate at which the loss falls, ``e^T Theta e``. The factor 2 of eq. 4 is
    in it: ``D = 2 lambda E`` mode by mode.

    Args:
        nodes: eigenvalues ``lambda_k``, or nodes of a quadrature, ``(k,)`` in any order.
        weights: ``g_k^2``, squared components of the error, ``(k,)``; of a quadrature, weights that
            add up to ``|e|^2``.
        edges: from `log_shells`.

    Returns:
        ``(num_shells + 1,)``, energy per unit of flow time, the remainder first.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree or edges do not ascend; where values are known, if they are
            infinite or NaN, or a weight is negative.

    Cost: a pass over the measure.

    Example:
        >>> shell_dissipation(jnp.array([4.0, 0.5]), jnp.array([1.0, 2.0]), jnp.array([1.0, 8.0]))
        Array([1., 4.], dtype=float32)
    """
    nodes, weights = _checked_measure(nodes, weights)
    return _sum_by_shell(nodes * weights, nodes, edges)


def shell_minimum_energies(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], edges: Float[Array, " edge"]
) -> Float[Array, " bin"]:
    """Return the smallest energy of a single mode in every shell, ``min_(k in a) g_k^2 / 2``.

    *Spectral shells*, section 7.3 and figure 1: it collapses beyond the cut-off. Of a Lanczos
    quadrature, a weight stands for all modes around its node, and the minimum is one over nodes.

    Args:
        nodes: eigenvalues ``lambda_k``, or nodes of a quadrature, ``(k,)`` in any order.
        weights: ``g_k^2``, squared components of the error, ``(k,)``; of a quadrature, weights that
            add up to ``|e|^2``.
        edges: from `log_shells`.

    Returns:
        ``(num_shells + 1,)`` in units of the error squared, the remainder first. NaN for a shell
        without modes.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree or edges do not ascend; where values are known, if they are
            infinite or NaN, or a weight is negative.

    Cost: a pass over the measure.

    Example:
        >>> nodes, weights = jnp.array([2.5, 2.0, 0.0]), jnp.array([2.0, 8.0, 6.0])
        >>> shell_minimum_energies(nodes, weights, jnp.array([1.0, 2.0, 4.0]))
        Array([ 3., nan,  1.], dtype=float32)
    """
    nodes, weights = _checked_measure(nodes, weights)
    smallest = jax.ops.segment_min(weights / 2, shell_indices(nodes, edges), len(edges))
    return jnp.where(smallest == jnp.inf, jnp.nan, smallest)


def check_measure(nodes: Any, weights: Any) -> None:
    """Refuse anything but a discrete measure.

    Args:
        nodes: ``(k,)`` with k >= 1, traced or not.
        weights: one for each node, traced or not.

    Raises:
        TypeError: if either is not an array of real floating-point numbers.
        ValueError: if they are not vectors of equal length; where values are known, if one is
            infinite or NaN, or a weight negative.

    Example:
        >>> check_measure(jnp.ones(2), jnp.array([1.0, -1.0]))
        Traceback (most recent call last):
            ...
        ValueError: weights: expected finite numbers >= 0, got [-1.0]
    """
    check_floating("nodes", nodes)
    check_floating("weights", weights)
    require(
        nodes.ndim == 1 and nodes.size >= 1,
        "nodes",
        expected="a vector of at least one (use vmap for several measures)",
        got=f"shape {nodes.shape}",
    )
    require(
        weights.shape == nodes.shape,
        "weights",
        expected=f"one for each node, shape {nodes.shape}",
        got=f"shape {weights.shape}",
    )
    check_values("nodes", nodes, expected="finite numbers")
    check_values("weights", weights, expected="finite numbers >= 0", least=0.0)


def check_edges(edges: Any) -> None:
    """Refuse anything but the edges of shells.

    Args:
        edges: ``(num_shells + 1,)``, traced or not.

    Raises:
        TypeError: if it is not an array of real floating-point numbers.
        ValueError: if there is no shell; where values are known, if they are not positive, finite
            and strictly ascending.

    Example:
        >>> check_edges(jnp.array([2.0, 1.0]))
        Traceback (most recent call last):
            ...
        ValueError: edges: expected positive, finite, strictly ascending numbers, got [2. 1.]
    """
    check_floating("edges", edges)
    check_ascending("edges", edges, of="shell edges", positive=True)


def _checked_measure(
    nodes: Float[Array, " node"], weights: Float[Array, " node"]
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    check_measure(nodes, weights)
    nodes, weights = (jnp.asarray(array, accumulation_dtype()) for array in (nodes, weights))
    return nodes, jnp.where(jnp.isnan(nodes), jnp.nan, weights)


def _sum_by_shell(
    values: Float[Array, " node"], nodes: Float[Array, " node"], edges: Float[Array, " edge"]
) -> Float[Array, " bin"]:
    return jax.ops.segment_sum(values, shell_indices(nodes, edges), len(edges))


def _number(argument: str, value: Any) -> float:
    number = None if isinstance(value, jax.core.Tracer) else np.asarray(value)
    require(
        number is not None and number.ndim == 0 and number.dtype.kind in "iuf",
        argument,
        expected="a number known outside of jit (it decides how many shells there are)",
        got=value,
        error=TypeError,
    )
    return float(value)
