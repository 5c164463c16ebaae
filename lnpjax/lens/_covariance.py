"""The centred covariance of a stream of samples, as good in float32 as in float64.

In float32, ``E[h h^T] - E[h] E[h]^T`` has no correct digit once a mean is a few thousand standard
deviations, and a plain running sum loses one digit per factor of ten in the number of samples. So:
every chunk of rows is centred on its own mean before it is squared, chunks are merged by the
pairwise formula of Chan, Golub and LeVeque (1983), in which nothing cancels, and what adds up is
kept as an unevaluated sum of two floats, whose rounding errors are carried along exactly.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base.checks import check_count, check_floating, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result
from lnpjax._base.slices import filled, sliced
from lnpjax.spectra import SpectrumSummary, Window, spectral_resolution, summarize_spectrum
from lnpjax.status import Status, describe_status, flag

LEADING_BITS = 8
CHUNK_ROWS = 256
"""Rows squared at once. Sums of ``2^8`` products of 8-bit integers fit into the 24 bits of float32,
so that the leading parts of a chunk's products add up without rounding (see `_scatter`)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoFloat:
    """An array of unevaluated sums ``high + low``: twice the digits of its dtype.

    Attributes:
        high: the sum, rounded.
        low: what the rounding left out.
    """

    high: Float[Array, ...]
    low: Float[Array, ...]

    def plus(self, other: TwoFloat) -> TwoFloat:
        """Add two, to about twice the digits of the dtype."""
        total, error = _exact_sum(self.high, other.high)
        return TwoFloat(*_exact_sum(total, error + (self.low + other.low)))

    def minus(self, other: TwoFloat) -> TwoFloat:
        """Subtract one from the other."""
        return self.plus(TwoFloat(-other.high, -other.low))


def _exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``a + b`` rounded, and the rounding error, itself a float (Knuth's two-sum)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _single(array: Array) -> TwoFloat:
    return TwoFloat(array, jnp.zeros_like(array))


@result
@dataclasses.dataclass(frozen=True)
class CovarianceState:
    """Samples seen so far, as their covariance needs them. A pytree whose structure never changes.

    Made by `covariance_init`, and grown by `covariance_update` and `covariance_merge`.

    Attributes:
        mean: mean of the samples.
        scatter: sum over samples of the outer products of their deviations from the mean.
        count: number of samples, at most 2^31 - 1.
        rounding: the machine epsilon of the coarsest dtype that samples came in; 0 without any.
        status: `Status.NON_FINITE` once a sample was; `Status.VANISHING_EIGENVALUES` once squares
            of deviations underflowed.
    """

    mean: TwoFloat
    scatter: TwoFloat
    count: Int[Array, ""]
    rounding: Float[Array, ""]
    status: Int[Array, ""]


@result
@dataclasses.dataclass(frozen=True)
class Covariance:
    """The centred covariance of hidden states, from `covariance_finalize`. A pytree.

    Attributes:
        matrix: over ``N - 1``, as in *Spectral Lens*, eq. 1 (the paper's appendix C divides by N;
            no spectrum that is divided by its trace can tell). NaN where there are fewer than two
            samples.
        mean: mean of the samples.
        count: N, the number of samples.
        status: `Status.NON_FINITE` if a sample is infinite or NaN, or a square overflows;
            `Status.TOO_FEW_POINTS` for fewer than two samples; `Status.VANISHING_EIGENVALUES` if
            the samples differ, but their squares underflow (in float32, deviations below 3e-16).
    """

    matrix: Float[Array, "d d"]
    mean: Float[Array, " d"]
    count: Int[Array, ""]
    status: Int[Array, ""]


def covariance_init(dimension: int, *, dtype: DTypeLike | None = None) -> CovarianceState:
    """Return the state before any sample.

    Args:
        dimension: d, the width of the hidden states.
        dtype: float32 or float64, what the state is kept in; `None` for the widest that is
            enabled. Hidden states may be narrower: they are widened exactly.

    Returns:
        A `CovarianceState`: ``4 d^2`` numbers in all, in the leading order ``2 d^2``.

    Raises:
        ValueError: if `dimension` is not an integer >= 1, or `dtype` neither float32 nor (where x64
            is enabled) float64.

    Example:
        >>> state = covariance_init(3)
        >>> state = covariance_update(state, jnp.array([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]))
        >>> covariance_finalize(state).matrix
        Array([[ 2.,  0., -2.],
               [ 0.,  0.,  0.],
               [-2.,  0.,  2.]], dtype=float32)
    """
    check_count("dimension", dimension)
    kept = accumulation_dtype() if dtype is None else jnp.dtype(dtype)
    require(
        kept in (jnp.dtype("float32"), accumulation_dtype()),
        "dtype",
        expected="float32, or float64 where jax_enable_x64 is set",
        got=kept,
    )
    return CovarianceState(
        mean=_single(jnp.zeros(dimension, kept)),
        scatter=_single(jnp.zeros((dimension, dimension), kept)),
        count=jnp.int32(0),
        rounding=jnp.zeros((), kept),
        status=jnp.int32(0),
    )


@entry_point
def covariance_update(
    state: CovarianceState,
    hidden: Float[Array, "*batch d"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    argument: str = "hidden",
) -> CovarianceState:
    """Take samples into account.

    Float32 hidden states give what two passes in float64 give, to a few 1e-7 of
    ``sqrt(c_ii c_jj)`` in every entry, whatever their mean and however they are split into calls,
    and whatever the scale of a feature, as long as squares of its deviations neither overflow nor
    underflow (in float32: deviations between 3e-16 and 1e18). Where all features are beyond, the
    status says so. Pure, and for use in `jit` and `scan`; rows may be sharded over devices.

    Args:
        state: the state so far.
        hidden: hidden states; all axes but the last are samples. Half precision is widened.
        mask: False for samples that only pad; of the shape of `hidden` without its last axis, or of
            its leading axes.
        argument: what the hidden states are called in messages.

    Returns:
        The state with these samples.

    Raises:
        TypeError: if `hidden` is not an array of real floating-point numbers, or is wider than the
            state, or `mask` is not boolean.
        ValueError: if the widths differ, there is no sample, or the mask does not fit; and, where
            its values are known, if a sample that counts is infinite or NaN. Within `jit`,
            `status` says so.

    Cost: ``2 d^2`` operations per sample and about ``0.3 d^2`` for the compensation; N d numbers of
    memory in addition to the state.

    Example:
        >>> far = 1000 + jnp.array([[0.0], [0.125], [0.25]])
        >>> state = covariance_update(covariance_init(1), far)
        >>> float(covariance_finalize(state).matrix[0, 0])
        0.015625
    """
    rows, valid = _check_samples(state, hidden, mask, argument)
    rounding = max(float(jnp.finfo(dtype).eps) for dtype in (hidden.dtype, rows.dtype))
    num_rows = len(rows)
    size = min(CHUNK_ROWS, num_rows)
    num_chunks = -(-num_rows // size)
    chunks = sliced(rows, num_chunks, size)
    valid = sliced(valid, num_chunks, size) & filled(num_rows, num_chunks, size)
    if num_chunks == 1:
        return covariance_merge(state, _statistics(chunks[0], valid[0], rounding))

    def add(state: CovarianceState, chunk: tuple[Array, Array]) -> tuple[CovarianceState, None]:
        return covariance_merge(state, _statistics(*chunk, rounding)), None

    return jax.lax.scan(add, state, (chunks, valid))[0]


def _check_samples(
    state: CovarianceState, hidden: Array, mask: Array | None, argument: str
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    """Return the samples as rows in the dtype of the state, and which of them count."""
    check_floating(argument, hidden)
    dimension, dtype = state.mean.high.shape[-1], state.mean.high.dtype
    require(
        hidden.ndim >= 1 and hidden.shape[-1] == dimension,
        argument,
        expected=f"a last axis of {dimension} features, as the state has",
        got=f"shape {hidden.shape}",
    )
    require(
        jnp.promote_types(hidden.dtype, dtype) == dtype,
        argument,
        expected=f"at most {dtype}, the dtype of the state (see dtype= of covariance_init)",
        got=hidden.dtype,
        error=TypeError,
    )
    samples = hidden.shape[:-1]
    require(0 not in samples, argument, expected="at least one sample", got=f"shape {hidden.shape}")
    if mask is None:
        valid = jnp.ones(samples, bool)
    else:
        require(
            getattr(mask, "dtype", None) == np.dtype(bool),
            "mask",
            expected="a boolean array",
            got=getattr(mask, "dtype", type(mask).__name__),
            error=TypeError,
        )
        require(
            mask.shape == samples[: mask.ndim],
            "mask",
            expected=f"shape {samples} or that of its leading axes",
            got=mask.shape,
        )
        valid = jnp.broadcast_to(
            jnp.reshape(mask, mask.shape + (1,) * (len(samples) - mask.ndim)), samples
        )
    values, counts = concrete(hidden), concrete(valid)
    if values is not None and counts is not None:
        bad = np.sum(~np.isfinite(values[counts].astype(np.float64)))
        require(bad == 0, argument, expected="finite samples", got=f"{bad} infinite or NaN entries")
    return jnp.asarray(hidden, dtype).reshape(-1, dimension), valid.reshape(-1)


def _statistics(
    rows: Float[Array, "n d"], valid: Bool[Array, " n"], rounding: float
) -> CovarianceState:
    """Return the state of one chunk, by two passes over it."""
    dtype = rows.dtype
    keep = valid[:, None]
    count = jnp.sum(valid, dtype=jnp.int32)
    divisor = jnp.maximum(count, 1).astype(dtype)
    bad = jnp.any(keep & ~jnp.isfinite(rows))

    def mean_from(origin: Array) -> tuple[Array, Array]:
        # The difference of floats within a factor of two of each other is exact (Sterbenz), so that
        # a mean far from zero costs no digits; the others are rounded relative to themselves.
        deviations = jnp.where(keep, rows - origin, 0)
        return deviations, jnp.sum(deviations, axis=0) / divisor

    # Picked by a sum: an index would gather the rows of all devices.
    chosen = keep & (jnp.arange(len(rows)) == jnp.argmax(valid))[:, None]
    first = jnp.sum(jnp.where(chosen, rows, 0), axis=0)
    centre = first + mean_from(first)[1]
    deviations, offset = mean_from(centre)  # what rounding left of the mean
    about_centre = _scatter(deviations)
    return CovarianceState(
        mean=TwoFloat(*_exact_sum(centre, offset)),
        scatter=about_centre.minus(_single(jnp.outer(divisor * offset, offset))),
        count=count,
        rounding=jnp.where(count > 0, rounding, jnp.zeros((), dtype)),
        status=flag(bad, Status.NON_FINITE) | _underflow(deviations),
    )


def _underflow(deviations: Float[Array, ...]) -> Int[Array, ""]:
    """Flag deviations that are not all zero, but whose squares have lost digits or are zero."""
    largest = jnp.max(jnp.abs(deviations))
    lost = largest**2 < _least_square(deviations.dtype)
    return flag((largest > 0) & lost, Status.VANISHING_EIGENVALUES)


def _least_square(dtype: DTypeLike) -> float:
    """Return the least square with all its digits: no part of its products is subnormal."""
    return float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps)


def _scatter(deviations: Float[Array, "n d"]) -> TwoFloat:
    """Return ``X^T X`` without the rounding errors of its sums, which are not random.

    Squares of numbers on a grid (as all floats far from zero are) leave residues of one sign, and
    so do small squares added to that of an outlier: plain sums were found wrong by 2e-6. With
    ``X = H + L``, H a few leading bits of each column, ``H^T H`` is exact and the rest,
    ``C + C^T`` with ``C = (H + L / 2)^T L``, a few thousandths of it.
    """
    largest = jnp.max(jnp.abs(deviations), axis=0)
    unit = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - LEADING_BITS)
    unit = jnp.maximum(unit, jnp.finfo(deviations.dtype).tiny)
    leading = jnp.round(deviations / unit) * unit
    rest = deviations - leading

    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(left.T, right, precision=jax.lax.Precision.HIGHEST)

    cross = product(leading + rest / 2, rest)
    return TwoFloat(*_exact_sum(product(leading, leading), cross + cross.T))


@entry_point
def covariance_merge(a: CovarianceState, b: CovarianceState) -> CovarianceState:
    """Join the states of two sets of samples, such as partial results of devices or runs.

    Chan, Golub and LeVeque (1983): with ``delta`` from the mean of a to that of b, the scatters add
    up with ``delta delta^T n_a n_b / (n_a + n_b)``. In any order and any tree, to rounding.

    Args:
        a: a state.
        b: a state of the same width and dtype; either may be empty.

    Returns:
        The state of all samples together.

    Raises:
        ValueError: if widths or dtypes differ.

    Example:
        >>> left = covariance_update(covariance_init(1), jnp.array([[1.0], [2.0]]))
        >>> right = covariance_update(covariance_init(1), jnp.array([[6.0]]))
        >>> out = covariance_finalize(covariance_merge(left, right))
        >>> float(out.mean[0]), float(out.matrix[0, 0]), int(out.count)
        (3.0, 7.0, 3)
    """
    kinds = [(state.mean.high.shape, state.mean.high.dtype) for state in (a, b)]
    require(kinds[0] == kinds[1], "b", expected=f"a state of {kinds[0]}, as a is", got=kinds[1])
    dtype = kinds[0][1]
    count = a.count + b.count
    share = b.count.astype(dtype) / jnp.maximum(count, 1).astype(dtype)
    delta = b.mean.minus(a.mean)
    step = TwoFloat(share * delta.high, share * delta.low)
    weighted = a.count.astype(dtype) * step.high
    both = (a.count > 0) & (b.count > 0)
    return CovarianceState(
        mean=a.mean.plus(step),
        scatter=a.scatter.plus(b.scatter).plus(_single(jnp.outer(weighted, delta.high))),
        count=count,
        rounding=jnp.maximum(a.rounding, b.rounding),
        status=a.status | b.status | _underflow(jnp.where(both, delta.high, 0)),
    )


@entry_point
def covariance_finalize(state: CovarianceState) -> Covariance:
    """Return the covariance of the samples seen; the state can go on (*Spectral Lens*, eq. 1).

    Args:
        state: the state.

    Returns:
        A `Covariance` in the dtype of the state, exactly symmetric; for more digits than that has,
        `covariance_float64`.

    Example:
        >>> int(covariance_finalize(covariance_init(2)).status)  # TOO_FEW_POINTS: no samples
        32
    """
    dtype = state.mean.high.dtype
    scatter = state.scatter.high + state.scatter.low
    matrix = (scatter + scatter.T) / (2 * (state.count - 1).astype(dtype))
    enough = state.count >= 2
    # What underflowed in one part does not matter where the whole is larger.
    regular = jnp.max(jnp.diagonal(scatter)) >= _least_square(dtype)
    status = state.status & ~flag(regular, Status.VANISHING_EIGENVALUES)
    overflow = enough & ~jnp.all(jnp.isfinite(matrix))
    return Covariance(
        matrix=jnp.where(enough & ((status & Status.NON_FINITE) == 0), matrix, jnp.nan),
        mean=jnp.where(state.count > 0, state.mean.high + state.mean.low, jnp.nan),
        count=state.count,
        status=status | flag(overflow, Status.NON_FINITE) | flag(~enough, Status.TOO_FEW_POINTS),
    )


def covariance_float64(state: CovarianceState) -> Covariance:
    """Return the covariance in float64 on the host, with all digits of a float32 state.

    Args:
        state: a state that can be looked at, outside of `jit`.

    Returns:
        A `Covariance` of numpy arrays in float64, whatever JAX has enabled. Its eigenvalues,
        ``np.linalg.eigvalsh(out.matrix)``, resolve what those of a float32 matrix cannot.

    Raises:
        ValueError: if the state is traced, if there are fewer than two samples, if one was
            infinite or NaN, or if their squares overflow or underflow.

    Example:
        >>> state = covariance_update(covariance_init(1), jnp.array([[1.0], [1.0], [2.0]]))
        >>> covariance_float64(state).matrix
        array([[0.33333333]])
    """
    host = jax.tree.map(concrete, state)
    require(
        all(leaf is not None for leaf in jax.tree.leaves(host, is_leaf=lambda x: x is None)),
        "state",
        expected="values known outside of jit",
        got="a traced state",
    )
    require(host.count >= 2, "state", expected="at least two samples", got=f"{int(host.count)}")
    scatter, mean = (
        pair.high.astype(np.float64) + pair.low.astype(np.float64)
        for pair in (host.scatter, host.mean)
    )
    status = int(covariance_finalize(state).status)
    require(
        status == 0,
        "state",
        expected="finite samples whose squares neither overflow nor underflow",
        got=describe_status(status),
    )
    return Covariance(
        matrix=(scatter + scatter.T) / (2.0 * (host.count - 1)),
        mean=mean,
        count=host.count,
        status=host.status,
    )


@entry_point
def covariance_spectrum(
    state: CovarianceState,
    *,
    head: Window | None = None,
    tail: Window | None = None,
    resolution: float | Float[Array, ""] | None = None,
) -> SpectrumSummary:
    """Summarise the spectrum of the covariance (*Spectral Lens*, appendix C). Pure.

    Rounding of the hidden states themselves adds a floor to the spectrum, which matters in half
    precision, or where means are large. A float of size h is rounded by up to half of its spacing,
    at most ``eps h / 2``: an error of variance up to ``eps^2 h^2 / 12``, nearly independent between
    features. To the covariance it adds at most ``eps^2 / 12`` times the largest mean square of a
    feature. Eigenvalues below twelve times that, the square of the spacing, are left out of fits
    and flagged: what is left is known to a tenth.

    Args:
        state: the state.
        head: window ``(first, last)`` of ranks; `None` for `HEAD_WINDOW`, cut to the spectrum.
        tail: window of ranks; `None` for `tail_window` of the number of eigenvalues.
        resolution: eigenvalues below this fraction of the largest are left out of the fits, and
            flagged; `None` for `lnpjax.spectra.spectral_resolution` or, where that is larger, what
            the dtype of the hidden states resolves.

    Returns:
        A `SpectrumSummary` with the status of the covariance; NaN where it is undefined.

    Raises:
        ValueError: if a window reaches beyond the width.

    Cost: an eigendecomposition without vectors, about ``4/3 d^3``.

    Example:
        >>> from lnpjax.lens import covariance_init, covariance_update
        >>> state = covariance_update(covariance_init(2), jnp.array([[0.0, 0.0], [2.0, 4.0]]))
        >>> float(covariance_spectrum(state, tail=(1, 2)).trace)
        10.0
    """
    covariance = covariance_finalize(state)
    defined = jnp.all(jnp.isfinite(covariance.matrix))
    # Solvers need not survive NaN.
    eigenvalues = jnp.linalg.eigvalsh(jnp.where(defined, covariance.matrix, 0))
    if resolution is None:
        resolution = jnp.maximum(
            spectral_resolution(len(eigenvalues), eigenvalues.dtype),
            _input_resolution(covariance, state.rounding, eigenvalues[-1]),
        )
    return summarize_spectrum(
        jnp.where(defined, eigenvalues, jnp.nan),
        head=head,
        tail=tail,
        resolution=resolution,
        status=covariance.status,
    )


def _input_resolution(
    covariance: Covariance, rounding: Float[Array, ""], largest: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the squared spacing of floats as large as the hidden states, over the largest."""
    usable = jnp.isfinite(largest) & (largest > 0) & jnp.all(jnp.isfinite(covariance.mean))
    largest = jnp.where(usable, largest, 1)
    # Squares of large means overflow.
    mean = jnp.where(usable, covariance.mean, 0) * (rounding / jnp.sqrt(largest))
    variance = jnp.where(usable, jnp.diagonal(covariance.matrix), 0) / largest
    resolution = jnp.max(mean**2 + rounding**2 * variance)
    return jnp.minimum(resolution, 1 - float(jnp.finfo(resolution.dtype).eps))
