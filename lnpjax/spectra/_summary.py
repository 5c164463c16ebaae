"""One summary for the spectra of activations, gradients and weights (*Spectral Lens*, appendix C).

How many modes matter (RankMe), how fast head and tail fall (band exponents), and how far apart two
spectra are. The eigenvalues are those of a matrix of second moments: a covariance of activations, a
Gram matrix of gradients.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_count, check_floating, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result
from lnpjax.spectra._eigenvalues import check_eigenvalues, effective_rank, normalized_spectrum
from lnpjax.spectra._power_law import PowerLaw, power_law
from lnpjax.status import Status, flag

Window: TypeAlias = tuple[int, int]
HEAD_WINDOW: Window = (1, 10)
"""Ranks of the head, as in the paper's published scripts."""
PAPER_WINDOWS: tuple[Window, ...] = ((100, 200), (200, 400), (400, 800))
"""The bank of tail windows (*Spectral Lens*, eq. 3), for 12, 36 and 48 layers."""
_TIER_LAYERS = (12, 36, 48)
_TIER_WIDTHS = (768, 1280, 1600)


def tail_window(dimension: int, *, num_layers: int | None = None) -> Window:
    """Return the window of ranks in which the tail exponent of a model is read.

    *Spectral Lens*, section 2.2 (around eq. 3): [100, 200] for 12 layers of width 768,
    [200, 400] for 36 of width 1280, [400, 800] for 48 of width 1600, and on through doubled windows
    for larger models. Between the tiers, the smaller one's window holds.

    Two extensions are ours. The paper does not say where larger models begin: each further doubling
    of depth (or, without `num_layers`, of width) beyond its largest tier takes the next window. And
    a spectrum that does not reach to the end of the tier's window (all the small models) gets the
    window that is to `dimension` as [100, 200] is to 768, of three ranks at the least where there
    are three. Exponents from windows at different shares of the width are not comparable.

    Args:
        dimension: number of eigenvalues: the width of the layer.
        num_layers: depth of the model, which decides the tier; `None` to go by `dimension`.

    Returns:
        ``(first, last)``, counted from 1, both inside; for `lnpjax.power_law`.

    Raises:
        ValueError: if `dimension` or `num_layers` is not an integer >= 1.

    Example:
        >>> tail_window(768), tail_window(1600, num_layers=48), tail_window(96)
        ((100, 200), (400, 800), (12, 25))
    """
    check_count("dimension", dimension)
    check_count("num_layers", num_layers, optional=True)
    size, tiers = (dimension, _TIER_WIDTHS) if num_layers is None else (num_layers, _TIER_LAYERS)
    tier = max(sum(size >= smallest for smallest in tiers) - 1, 0)
    tier += max(int(math.log2(size / tiers[-1])), 0) if size >= tiers[-1] else 0
    first, last = (rank * 2**tier for rank in PAPER_WINDOWS[0])
    if last <= dimension:
        return first, last
    first, last = (round(rank * dimension / _TIER_WIDTHS[0]) for rank in PAPER_WINDOWS[0])
    first = max(first, 1)
    return first, min(max(last, first + 2), dimension)


def spectral_resolution(num_eigenvalues: int, dtype: DTypeLike) -> float:
    """Return the least eigenvalue that is resolved, as a fraction of the largest.

    ``4 sqrt(k) eps``. An eigensolver that is backward stable errs by a few ``eps`` of the LARGEST
    eigenvalue in each of them, so that small ones are noise of either sign, whose logarithms fall
    off in a way of their own. In float32, solvers were found wrong by up to 4 eps (k from 96 to
    768, power laws with exponents 0.5 to 4): the threshold keeps what is known to a few percent.
    The numerical-rank threshold ``k eps`` would, at width 768, cut at seven times as much.

    Args:
        num_eigenvalues: k, the side of the matrix.
        dtype: what the eigenvalues were computed in; less than float32 counts as float32, since
            spectra are never computed in less.

    Returns:
        The fraction: 1.3e-5 for 768 in float32, 2.5e-14 in float64.

    Example:
        >>> print(f"{spectral_resolution(768, 'float32'):.1e}")
        1.3e-05
    """
    eps = float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)
    return 4 * math.sqrt(num_eigenvalues) * eps


@entry_point
def cumulative_variance(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Return the share of the trace that the leading 1, 2, ... modes hold.

    Args:
        eigenvalues: of a positive semi-definite matrix, in any order; negative ones of the size of
            rounding count as zero.

    Returns:
        Shares that rise to 1; NaN where all eigenvalues are zero.

    Raises:
        TypeError: if the eigenvalues are not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        >>> cumulative_variance(jnp.array([1.0, 5.0, 2.0]))
        Array([0.625, 0.875, 1.   ], dtype=float32)
    """
    return jnp.cumsum(_descending(normalized_spectrum(eigenvalues)), axis=-1)


@entry_point
def effective_dimension(
    eigenvalues: Float[Array, "*batch k"], fraction: float = 0.9
) -> Int[Array, "*batch"]:
    """Return the least number of leading modes that hold `fraction` of the trace.

    Args:
        eigenvalues: of a positive semi-definite matrix, in any order.
        fraction: the share to be held, in (0, 1]; reached when it is reached to rounding.

    Returns:
        Between 1 and k; 0 where all eigenvalues are zero, or one is not finite.

    Raises:
        TypeError: if the eigenvalues are not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.
        ValueError: if `fraction` is not in (0, 1].

    Example:
        >>> effective_dimension(jnp.array([1.0, 5.0, 2.0]), 0.75)
        Array(2, dtype=int32)
    """
    require(0 < fraction <= 1, "fraction", expected="a share in (0, 1]", got=fraction)
    shares = cumulative_variance(eigenvalues)
    rounding = shares.shape[-1] * float(jnp.finfo(shares.dtype).eps)
    missing = jnp.sum(shares < fraction * (1 - rounding), axis=-1, dtype=jnp.int32)
    return jnp.where(jnp.isnan(shares[..., -1]), 0, missing + 1)


@entry_point
def jensen_shannon_divergence(
    p_eigs: Float[Array, "*batch k"], q_eigs: Float[Array, "*batch k"]
) -> Float[Array, "*batch"]:
    """Measure how far apart two trace-normalised spectra are, rank by rank.

    *Spectral Lens*, appendix B.3: ``H((p + q) / 2) - (H(p) + H(q)) / 2`` with the entropy H of
    shares sorted by size. Computed as a sum of terms that are not negative, so that spectra which
    nearly agree keep their digits.

    Args:
        p_eigs: eigenvalues of one positive semi-definite matrix, in any order.
        q_eigs: as many of the other.

    Returns:
        Between 0 (the same shape) and ``ln 2``, in nats; NaN where all eigenvalues of one are zero.

    Raises:
        TypeError: if the eigenvalues are not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.
        ValueError: if there are not as many of one as of the other.

    Example:
        >>> spectrum = jnp.array([4.0, 2.0, 1.0])
        >>> float(jensen_shannon_divergence(spectrum, 3 * spectrum))
        0.0
    """
    check_eigenvalues("p_eigs", p_eigs)
    check_eigenvalues("q_eigs", q_eigs)
    require(
        p_eigs.shape[-1] == q_eigs.shape[-1],
        "q_eigs",
        expected=f"as many eigenvalues as p_eigs has, {p_eigs.shape[-1]}",
        got=q_eigs.shape[-1],
    )
    p, q = (_descending(normalized_spectrum(eigenvalues)) for eigenvalues in (p_eigs, q_eigs))
    # With m = (p + q) / 2 and d = (p - q) / (p + q), a term is
    # m ((1 + d) ln(1 + d) + (1 - d) ln(1 - d)) / 2 = m (d artanh(d) + ln(1 - d^2) / 2).
    total = p + q
    d = jnp.where(total == 0, 0, (p - q) / jnp.where(total == 0, 1, total))
    alone = jnp.abs(d) == 1
    within = jnp.where(alone, 0, d)
    distance = within * jnp.arctanh(within) + jnp.log1p(-(within**2)) / 2
    return jnp.sum(total / 2 * jnp.where(alone, math.log(2), distance), axis=-1)


@result
@dataclasses.dataclass(frozen=True)
class SpectrumSummary:
    """What one spectrum says; made by `summarize_spectrum`. A pytree of arrays.

    Attributes:
        eigenvalues: in descending order, not normalised.
        trace: their sum, those below zero counted as zero: the total variance of a covariance.
        rank_me: RankMe, the entropy effective rank (*Spectral Lens*, eq. 10).
        effective_dimension: the least number of modes that hold 90 % of the trace.
        head: the power law over the leading ranks.
        tail: the power law over the tail window.
        status: `lnpjax.Status` flags of the spectrum, its head and its tail together; `head.status`
            and `tail.status` say which.
    """

    eigenvalues: Float[Array, " k"]
    trace: Float[Array, ""]
    rank_me: Float[Array, ""]
    effective_dimension: Int[Array, ""]
    head: PowerLaw
    tail: PowerLaw
    status: Int[Array, ""]


@entry_point
def summarize_spectrum(
    eigenvalues: Float[Array, " k"],
    *,
    head: Window | None = None,
    tail: Window | None = None,
    resolution: float | Float[Array, ""] | None = None,
    status: Int[Array, ""] | int = 0,
) -> SpectrumSummary:
    """Summarise the spectrum of a covariance or Gram matrix (*Spectral Lens*, appendix C).

    RankMe (*Spectral Lens*, eq. 10), band exponents over head and tail (eq. 2), and what the
    eigenvalues add up to. Pure: works under `jit`, `scan` and `vmap`.

    Args:
        eigenvalues: of a positive semi-definite matrix, in any order.
        head: window ``(first, last)`` of ranks; `None` for `HEAD_WINDOW`, cut to the spectrum.
        tail: window of ranks; `None` for `tail_window` of the number of eigenvalues.
        resolution: eigenvalues below this fraction of the largest are left out of the fits, and
            flagged; `None` for `spectral_resolution` in the dtype of `eigenvalues`. Give 0 to
            leave out only those that are not positive. May be traced.
        status: flags of whatever made the eigenvalues, to be carried on. With
            `Status.TOO_FEW_POINTS` or `Status.NON_FINITE` it is the reason why there are none:
            eigenvalues that are not finite are then neither refused nor flagged again.

    Returns:
        A `SpectrumSummary`. Where an eigenvalue is infinite or NaN, all numbers are NaN;
        `Status.NON_FINITE` also where only the trace overflows.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if it is not a vector, if a window reaches beyond it, or, where its values are
            known, if one is infinite, NaN, or below zero by more than rounding.

    Example:
        >>> summary = summarize_spectrum(jnp.arange(1.0, 769.0) ** -1.5)
        >>> print(f"{summary.head.exponent:.3f} {summary.tail.exponent:.3f}")
        1.500 1.500
        >>> print(f"{summary.rank_me:.2f} {summary.effective_dimension}")
        17.92 38
    """
    check_floating("eigenvalues", eigenvalues)
    require(
        eigenvalues.ndim == 1, "eigenvalues", expected="a vector", got=f"shape {eigenvalues.shape}"
    )
    finite = jnp.all(jnp.isfinite(eigenvalues))
    safe = jnp.where(finite, eigenvalues, 1)
    missing = jnp.asarray(status, jnp.int32) & (Status.NON_FINITE | Status.TOO_FEW_POINTS)
    check_eigenvalues("eigenvalues", safe if concrete(missing) else eigenvalues)
    k = len(eigenvalues)
    if resolution is None:
        resolution = spectral_resolution(k, eigenvalues.dtype)
    head = (HEAD_WINDOW[0], min(HEAD_WINDOW[1], k)) if head is None else head
    tail = tail_window(k) if tail is None else tail
    check_windows(k, of="eigenvalues", head=head, tail=tail)

    safe = _descending(jnp.asarray(safe, accumulation_dtype()))
    values = jnp.where(finite, safe, jnp.nan)
    trace = jnp.sum(jnp.maximum(values, 0))
    undefined = (~finite & (missing == 0)) | (finite & ~jnp.isfinite(trace))
    negative = values[-1] < -(float(jnp.finfo(eigenvalues.dtype).eps) ** 0.5) * values[0]
    fits = [power_law(values, window, resolution=resolution) for window in (head, tail)]
    return SpectrumSummary(
        eigenvalues=values,
        trace=trace,
        rank_me=jnp.where(finite, effective_rank(safe), jnp.nan),
        effective_dimension=jnp.where(finite, effective_dimension(safe), 0),
        head=fits[0],
        tail=fits[1],
        status=jnp.asarray(status, jnp.int32)
        | fits[0].status
        | fits[1].status
        | flag(undefined, Status.NON_FINITE)
        | flag(negative, Status.NEGATIVE_EIGENVALUES),
    )


def check_windows(
    rank: int, *, of: str, head: Window | None = None, tail: Window | None = None
) -> None:
    """Refuse windows of ranks that are not within a spectrum.

    Args:
        rank: the last rank there can be.
        of: what has that many ranks, for the message.
        head: ``(first, last)``, counted from 1; `None` is not checked.
        tail: the window of the tail, in the same form.

    Raises:
        ValueError: naming the window and the rank.

    Example:
        >>> check_windows(96, of="eigenvalues", tail=(100, 200))
        Traceback (most recent call last):
            ...
        ValueError: tail: expected a window (first, last) of ranks with 1 <= first <= last <= 96,
        the number of eigenvalues, got (100, 200)
    """
    for argument, window in (("head", head), ("tail", tail)):
        if window is None:
            continue
        whole = (
            isinstance(window, tuple | list)
            and len(window) == 2
            and all(isinstance(end, int | np.integer) for end in window)
        )
        require(
            whole and 1 <= window[0] <= window[1] <= rank,
            argument,
            expected=f"a window (first, last) of ranks with 1 <= first <= last <= {rank}, the "
            f"number of {of}",
            got=window,
        )


def _descending(values: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    return jnp.sort(values, axis=-1, descending=True)
