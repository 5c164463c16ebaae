"""Averages over batches of data, with their spread."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base.checks import check_floating, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.intervals import Interval, scale_interval
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result


@result
@dataclasses.dataclass(frozen=True)
class BatchAverage:
    """Shell energies averaged over batches, from `average_over_batches`. A pytree.

    Attributes:
        mean: mean energy of every shell.
        std: standard deviation between batches.
        sem: standard error of the mean, ``std / sqrt(num_batches)``.
        log_sem: standard error of ``log(mean)`` to first order, ``sem / mean``.
        num_batches: how many batches; one number for each shell where some have been left out.
    """

    mean: Float[Array, ...]
    std: Float[Array, ...]
    sem: Float[Array, ...]
    log_sem: Float[Array, ...]
    num_batches: Int[Array, ...]

    def interval(self, coverage: float = 0.95) -> Interval:
        """Return an interval that holds the mean over all batches with this probability.

        By Student's t with ``num_batches - 1`` degrees of freedom, symmetric in the logarithm
        (`lnpjax._base.intervals.scale_interval`), for batches drawn independently. NaN from one
        batch.

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.
        """
        df = jnp.maximum(self.num_batches - 1, 1).astype(self.mean.dtype)
        return scale_interval(self.mean, self.sem, jnp.full_like(self.mean, df), coverage)


@entry_point
def average_over_batches(
    energies: Float[Array, "b ..."], *, where: Bool[Array, "b ..."] | None = None
) -> BatchAverage:
    """Average shell energies over batches of data, and say how much they spread.

    *Spectral shells*, section 7.2 and appendix B.4: energies are averaged, and the logarithm of
    their mean is what gets plotted. The mean of logarithms would be another curve, which shells
    that are empty in a single batch pull to minus infinity.

    Args:
        energies: ``(b, ...)``, one row of `lnpjax.shells.shell_energies` (or of anything else) for
            each independent batch, all with the same edges.
        where: ``(b, ...)``, which entries count; None: all of them. For what a batch may lack, as
            the smallest weight in a shell without nodes.

    Returns:
        A `BatchAverage`. From a single batch nothing is known about the spread, which is NaN; so is
        `log_sem` where the mean is zero, and everything where no batch counts.

    Raises:
        TypeError: if `energies` is not an array of real floating-point numbers.
        ValueError: if there is no batch, or `where` has another shape.

    Example:
        >>> average = average_over_batches(jnp.array([[1.0, 2.0], [3.0, 2.0]]))
        >>> average.mean, average.log_sem.round(3)
        (Array([2., 2.], dtype=float32), Array([0.5, 0. ], dtype=float32))
    """
    check_floating("energies", energies)
    require(
        energies.ndim >= 1 and len(energies) >= 1,
        "energies",
        expected="a row for at least one batch",
        got=f"shape {energies.shape}",
    )
    energies = jnp.asarray(energies, accumulation_dtype())
    num_batches: Int[Array, ...] = jnp.int32(len(energies))
    if where is None:
        mean = jnp.mean(energies, axis=0)
        undefined = jnp.full_like(mean, jnp.nan)
        std = jnp.std(energies, axis=0, ddof=1) if len(energies) > 1 else undefined
        sem = std / math.sqrt(len(energies))
    else:
        require(
            where.shape == energies.shape,
            "where",
            expected=f"the shape of the energies, {energies.shape}",
            got=f"shape {where.shape}",
        )
        num_batches = jnp.sum(where, axis=0, dtype=jnp.int32)
        mean = jnp.sum(jnp.where(where, energies, 0), axis=0) / num_batches
        squares = jnp.sum(jnp.where(where, energies - mean, 0) ** 2, axis=0)
        several = num_batches > 1
        std = jnp.where(
            several, jnp.sqrt(squares / jnp.where(several, num_batches - 1, 1)), jnp.nan
        )
        sem = std / jnp.sqrt(num_batches)
    return BatchAverage(
        mean=mean,
        std=std,
        sem=sem,
        log_sem=jnp.where(mean == 0, jnp.nan, sem / mean),
        num_batches=num_batches,
    )
