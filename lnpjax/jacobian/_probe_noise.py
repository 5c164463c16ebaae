"""What random draws of ``|J|_F^2`` say about their own error, and how well they know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lnpjax._base import numerics
from lnpjax._base.printing import result


@result
@dataclasses.dataclass(frozen=True)
class ProbeNoise:
    """The deviations that errors are made of. A pytree.

    A row is a sample, or the batch where it was probed as one.

    Attributes:
        deviations: of every draw from what it is compared with: the mean of its row's probes or,
            with one probe per row, the mean of the rows. Scaled such that `covariance` is the sum
            of their products over rows and probes. NaN where there is nothing to compare with.
        sizes: the mean draw of each row, without what is known exactly.
        limit: the most degrees of freedom that so many draws have.
    """

    deviations: Float[Array, "row probe part"]
    sizes: Float[Array, "row part"]
    limit: Float[Array, ""]

    @property
    def covariance(self) -> Float[Array, "part part"]:
        """Of the estimate's parts with each other."""
        return jnp.einsum("rpg,rph->gh", self.deviations, self.deviations, precision="highest")

    @property
    def per_row(self) -> int:
        """The degrees of freedom of each row."""
        return max(self.deviations.shape[1] - 1, 1)


def probe_noise(
    draws: Float[Array, "row probe leaf"],
    members: dict[str, tuple[int, ...]],
    mask: Bool[Array, " row"],
    exact: Sequence[int],
) -> ProbeNoise:
    """Return what the draws of an estimate say about its error, part by part.

    Args:
        draws: as an estimator draws them; zero in rows that are masked.
        members: the leaves of each part.
        mask: False for rows that count for nothing.
        exact: the leaves that are known without error.

    Cost: a few sums over the draws.

    Example:
        >>> draws = jnp.array([[[1.0], [3.0]], [[2.0], [2.0]]])  # two samples, two probes each
        >>> probe_noise(draws, {"all": (0,)}, jnp.ones(2, bool), exact=()).covariance.round(5)
        Array([[1.]], dtype=float32)
    """
    is_exact = np.isin(np.arange(draws.shape[2]), list(exact))
    without_error = np.array([is_exact[list(leaves)].all() for leaves in members.values()])
    parts = numerics.sum_groups(jnp.where(is_exact, 0, draws), members)
    num_rows, num_probes = jnp.sum(mask).astype(draws.dtype), draws.shape[1]
    sizes = jnp.mean(parts, axis=1)
    if num_probes > 1:
        centred = parts - sizes[:, None]
        deviations = centred / np.sqrt(num_probes * (num_probes - 1))
        return ProbeNoise(deviations, sizes, num_rows * (num_probes - 1))
    mean = jnp.sum(parts, axis=0) / jnp.maximum(num_rows, 1)
    centred = jnp.where(mask[:, None, None], parts - mean, 0)
    scale = jnp.where(num_rows > 1, num_rows / jnp.maximum(num_rows - 1, 1), jnp.nan)
    deviations = jnp.where(without_error, 0, centred * jnp.sqrt(scale))
    return ProbeNoise(deviations, sizes, num_rows - 1)


def degrees_of_freedom(
    noises: Sequence[ProbeNoise], slopes: Sequence[Float[Array, "number part"]]
) -> Float[Array, " number"]:
    """Return the effective degrees of freedom of the variance of functions of several estimates.

    The lower of two numbers. One is Satterthwaite's (Biometrics Bulletin 2, 1946, equation 17),
    ``V^2 / sum_i V_i^2 / f_i`` for a variance ``V = sum_i V_i`` whose terms have f_i degrees of
    freedom, with the unbiased ``V_i^2 / (f_i + 2)`` for ``V_i^2 / f_i`` (whence -2). It takes the
    V_i as they came out, and so misses a row that dominates but whose draws agreed by chance. The
    other, ``(sum_i s_i^2)^2 / sum_i s_i^4 / f_i``, expects the standard error of each row to be in
    proportion to its size s_i.

    Args:
        noises: of each estimate, all drawn with as many probes.
        slopes: of each number in the parts of each estimate.

    Returns:
        One for each number; inf where there is no error, NaN where it is unknown.

    Example:
        >>> draws = jnp.array([[[1.0], [3.0]], [[2.0], [4.0]]])
        >>> noise = probe_noise(draws, {"all": (0,)}, jnp.ones(2, bool), exact=())
        >>> degrees_of_freedom([noise], [jnp.ones((1, 1))]).round(2)
        Array([1.74], dtype=float32)
    """
    pairs = list(zip(noises, slopes, strict=True))
    deviations = [
        jnp.einsum("rpg,qg->rpq", noise.deviations, slope, precision="highest")
        for noise, slope in pairs
    ]
    variances = [jnp.sum(jnp.square(deviation), axis=1) for deviation in deviations]
    sizes = [
        jnp.matmul(noise.sizes, jnp.abs(slope).T, precision="highest") for noise, slope in pairs
    ]
    expected = [jnp.square(size) for size in _shares(sizes)]
    per_row = noises[0].per_row
    from_spread = (per_row + 2) * _effective_number(variances) - 2
    from_sizes = per_row * _effective_number(expected)
    limit = sum(noise.limit for noise in noises)
    lower = jnp.minimum(from_spread, from_sizes)
    df = jnp.minimum(jnp.maximum(lower, per_row), limit)
    return jnp.where(sum(jnp.sum(row, axis=0) for row in variances) == 0, jnp.inf, df)


def _shares(weights: Sequence[Float[Array, "row number"]]) -> list[Float[Array, "row number"]]:
    """Return the weights over their total, whose squares cannot overflow."""
    total = sum(jnp.sum(weight, axis=0) for weight in weights)
    return [weight / jnp.where(total == 0, 1, total) for weight in weights]


def _effective_number(weights: Sequence[Float[Array, "row number"]]) -> Float[Array, " number"]:
    """Return ``(sum_i w_i)^2 / sum_i w_i^2``: n for n equal weights, 1 where one is all."""
    squares = sum(jnp.sum(jnp.square(share), axis=0) for share in _shares(weights))
    return 1 / jnp.where(squares == 0, 1, squares)
