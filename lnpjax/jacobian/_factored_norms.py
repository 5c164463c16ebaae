"""Squared norms of per-sample gradients in weights that are read several times, or by convolutions.

The gradient in such a weight is a sum over its reads r, each the product of inputs and
sensitivities: ``dW = sum_r sum_t x_rt u_rt^T``. So its squared norm has a term for each pair,

    |dW|^2 = sum_{r,s} sum_{t,t'} (x_rt . x_st') (u_rt . u_st')

(the Gram matrices of `_ghost_norms`, between reads as well). A table that is also the read-out has
its rows looked up, which are products with unit vectors; convolutions are products with patches.
The inputs come out of the forward pass, the sensitivities are gradients in taps on the results.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax._base.numerics import accumulation_dtype, accurate_sum
from lnpjax.jacobian._factorings import (
    Arrays,
    Factor,
    Factoring,
    Sizes,
    factors_of,
    fit_together,
    meet,
)
from lnpjax.jacobian._ghost_norms import GRAM_SHARE, GRAM_WORK
from lnpjax.jacobian._reads import reads


def cheap_factorings(jaxpr: Any, leaves: Sequence[int]) -> dict[int, Factoring]:
    """Return, of some inputs of a program, those whose norms cost less than their gradients.

    Args:
        jaxpr: of the program.
        leaves: which inputs are asked for.

    Example:
        >>> def tied(table, ids):
        ...     return jnp.tanh(table[ids]) @ table.T
        >>> program = jax.make_jaxpr(tied)(jnp.ones((100, 8)), jnp.ones((1, 4), int))
        >>> list(cheap_factorings(program.jaxpr, [0]))
        [0]
    """
    found = {}
    for leaf in leaves:
        var = jaxpr.invars[leaf]
        factoring = fit_together(reads(jaxpr, var), None, var.aval.ndim)
        if factoring is not None and _is_cheap(factoring, var.aval.size):
            found[leaf] = factoring
    return found


def _is_cheap(factoring: Factoring, size: int) -> bool:
    """Return whether Gram matrices pay, by the rules of `_ghost_norms`, for a weight so large."""
    size //= factoring.sizes[0].layers
    entries = sum(sizes.positions for sizes in factoring.sizes) ** 2
    made = sum(sizes.positions for sizes in factoring.sizes if not sizes.units) * size
    met = sum(_pair_work(*pair) for pair in itertools.product(factoring.sizes, repeat=2))
    return GRAM_SHARE * entries <= size and (made == 0 or met <= GRAM_WORK * made)


def _pair_work(p: Sizes, q: Sizes) -> int:
    first = 0 if p.units or q.units else p.widths[0]
    return p.positions * q.positions * (first + p.widths[1])


def factored_norm(
    factoring: Factoring, others: Iterator[Array], sensitivities: Iterator[Array]
) -> Float[Array, ""]:
    """Return the squared norm of one sample's gradient in a weight.

    Args:
        factoring: its reads.
        others: what the weight is multiplied with at each, or its indices.
        sensitivities: the gradients in the taps.
    """
    arrays = (Arrays(next(others), next(sensitivities)[None]) for _ in range(len(factoring.reads)))
    pairs = [tuple(factor[0] for factor in pair) for pair in factors_of(factoring, arrays)]
    total = jnp.zeros((), accumulation_dtype())
    for (p, mine), (q, theirs) in itertools.product(enumerate(pairs), repeat=2):
        if p <= q:
            total += (1 if p == q else 2) * _product(mine, theirs)
    return jnp.maximum(total, 0)  # a square, whose terms may cancel


def _product(p: Sequence[Factor], q: Sequence[Factor]) -> Float[Array, ""]:
    """Return the inner product of two reads' gradients, added over layers."""

    def of_layer(p: Sequence[Factor], q: Sequence[Factor]) -> Float[Array, ""]:
        return accurate_sum(meet(p[0], q[0]) * meet(p[1], q[1]))

    with jax.default_matmul_precision("highest"):
        return accurate_sum(jax.vmap(of_layer)(p, q))
