"""The eigenmodes of an explicit kernel, and how the loss gradient lies among them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import lobpcg_standard
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base import numerics
from lnpjax._base.checks import check_floating, check_kernel, check_values, is_integer, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.printing import result
from lnpjax._base.scaling import unit_of
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class Modes:
    """Eigenmodes of ``Theta = sum_k lambda_k q_k q_k^T`` seen from a loss gradient g.

    A pytree, made by `eigenmodes`. Of a kernel whose modes are not all computed it holds the
    largest; `p`, `gamma2` and `chi_pos` are still shares of the whole.

    Attributes:
        eigenvalues: lambda_k, descending, as they came: rounding may leave the smallest of a
            positive semi-definite kernel a little below zero, and they stay so, for then all sums
            over modes are exact. Beyond rounding, `status` says so.
        eigenvectors: q_k as columns, ``(N, mode)``; their signs are arbitrary.
        projections: ``g . q_k``, in units of g.
        p: normalised eigenvalues ``lambda_k / Tr(Theta)``; all of them add up to 1 (*Spectral
            Reach*, eq. 9).
        gamma2: ``(g . q_k)^2 / |g|^2``, the share of the loss gradient along each mode; all of them
            add up to 1 (*Spectral Reach*, eq. 9). NaN where g is zero.
        chi_pos: ``sum_k gamma_k^2 p_k`` over all modes of the kernel, the spectral position.
        trace: ``Tr(Theta) = |J|_F^2``, *Spectral Reach*, eq. 22.
        loss_grad_norm: ``|g|``.
        degenerate: which eigenvalues coincide with a neighbour up to rounding, so that only the sum
            of their `gamma2` means something.
        status: `lnpjax.Status` flags. Degenerate modes set it where their eigenvalue is not itself
            zero up to rounding; `NOT_CONVERGED` says that some of the largest modes are not
            settled.

    Example:
        >>> modes = eigenmodes(jnp.diag(jnp.array([3.0, 1.0])), jnp.array([1.0, 1.0]))
        >>> modes.cumulative_p, modes.cumulative_gamma2.round(3)
        (Array([0.75, 1.  ], dtype=float32), Array([0.5, 1. ], dtype=float32))
    """

    eigenvalues: Float[Array, " mode"]
    eigenvectors: Float[Array, "N mode"]
    projections: Float[Array, " mode"]
    p: Float[Array, " mode"]
    gamma2: Float[Array, " mode"]
    chi_pos: Float[Array, ""]
    trace: Float[Array, ""]
    loss_grad_norm: Float[Array, ""]
    degenerate: Bool[Array, " mode"]
    status: Int[Array, ""]

    @property
    def contributions(self) -> Float[Array, " mode"]:
        """``gamma_k^2 p_k``, what each mode adds to chi_pos (*Spectral Reach*, eq. 9)."""
        return self.gamma2 * self.p

    @property
    def loss_changes(self) -> Float[Array, " mode"]:
        """``lambda_k (g . q_k)^2``, what each mode adds to delta_loss (*Spectral Reach*, eq. 6)."""
        return self.eigenvalues * self.projections**2

    @property
    def cumulative_p(self) -> Float[Array, " mode"]:
        """Share of the trace in the first k modes."""
        return jnp.cumsum(self.p)

    @property
    def cumulative_gamma2(self) -> Float[Array, " mode"]:
        """Share of the squared loss gradient in the first k modes."""
        return jnp.cumsum(self.gamma2)

    @property
    def cumulative_contributions(self) -> Float[Array, " mode"]:
        """Share of chi_pos in the first k modes, which is their share of delta_loss."""
        return jnp.cumsum(self.contributions) / self.chi_pos


@entry_point
def eigenmodes(
    kernel: Float[Array, "N N"], loss_grad: Float[Array, ...], *, num_modes: int | None = None
) -> Modes:
    """Decompose a kernel, and the loss gradient with it.

    *Spectral Reach*, eqs. 5 to 9.

    Args:
        kernel: Theta of a batch with itself, ``(N, N)``, from `lnpjax.entk`.
        loss_grad: g, the gradient of the loss in the same N outputs in the same order; any shape
            with N entries. With chosen outputs: ``select_outputs(g, outputs)``.
        num_modes: how many, from the largest eigenvalue down; None means all. With few of a large
            kernel (a quarter more, and at least 8 more, must be below N / 5) they are iterated by
            LOBPCG, whose cost grows with N^2; else all are computed, and these are kept. That
            eigenvalues are negative is then seen only of those that are computed.

    Returns:
        `Modes`.

    Raises:
        TypeError: if either is not an array of real floating-point numbers.
        ValueError: if shapes disagree, or `num_modes` is not from 1 to N; outside `jit` also if the
            kernel is not symmetric, or either holds a NaN. Inside, `status` says so.

    Cost: an eigendecomposition, about ``9 N^3`` operations; iterated, some ``2 N^2`` for each mode
    and iteration, of which it takes tens.

    Example:
        >>> modes = eigenmodes(jnp.diag(jnp.array([1.0, 3.0])), jnp.array([2.0, 0.0]))
        >>> modes.p, modes.gamma2, float(modes.chi_pos)
        (Array([0.75, 0.25], dtype=float32), Array([0., 1.], dtype=float32), 0.25)
    """
    check_kernel("kernel", kernel)
    check_floating("loss_grad", loss_grad)
    size = len(kernel)
    require(
        np.size(loss_grad) == size,
        "loss_grad",
        expected=f"{size} entries, one for each row of the kernel",
        got=f"shape {jnp.shape(loss_grad)}",
    )
    check_values("loss_grad", loss_grad, expected="finite entries")
    wanted = size if num_modes is None else num_modes
    require(
        is_integer(wanted) and 1 <= wanted <= size,
        "num_modes",
        expected=f"an integer from 1 to {size}, the rows of the kernel",
        got=num_modes,
    )
    dtype = numerics.accumulation_dtype()
    kernel = jnp.asarray(kernel, dtype)
    gradient = jnp.ravel(jnp.asarray(loss_grad, dtype))
    # Shares do not depend on scales, but squares of late gradients would underflow.
    unit, kernel_unit = unit_of(gradient), unit_of(kernel)
    scaled, matrix = gradient / unit, kernel / kernel_unit
    with jax.default_matmul_precision("highest"):
        largest = _largest_modes(matrix, wanted, scaled)
        directions = scaled @ largest.vectors
        relative, squared_norm, trace = largest.values, jnp.sum(scaled**2), jnp.trace(matrix)
        p, gamma2 = relative / trace, directions**2 / squared_norm
        if len(relative) == size:
            chi_pos = jnp.sum(gamma2 * p)
        else:
            chi_pos = scaled @ (matrix @ scaled) / (squared_norm * trace)
    degenerate = jnp.sum(coincide(relative, size), axis=0) > 1
    modes = Modes(
        eigenvalues=relative * kernel_unit,
        eigenvectors=largest.vectors,
        projections=directions * unit,
        p=p,
        gamma2=gamma2,
        chi_pos=chi_pos,
        trace=trace * kernel_unit,
        loss_grad_norm=jnp.sqrt(squared_norm) * unit,
        degenerate=degenerate,
        status=_status(kernel, gradient, relative, degenerate)
        | flag(~jnp.all(largest.settled[:wanted]), Status.NOT_CONVERGED),
    )
    cut = {name: getattr(modes, name)[..., :wanted] for name in _BY_MODE}
    return dataclasses.replace(modes, **cut)


_BY_MODE = ("eigenvalues", "eigenvectors", "projections", "p", "gamma2", "degenerate")


def _status(
    kernel: Float[Array, "N N"],
    gradient: Float[Array, " N"],
    relative: Float[Array, " mode"],
    degenerate: Bool[Array, " mode"],
) -> Int[Array, ""]:
    """Return what is wrong with a kernel, a gradient, or eigenvalues in units of the kernel."""
    rounding = numerics.rounding_floor(jnp.max(jnp.abs(relative)), len(kernel))
    asymmetry = jnp.max(jnp.abs(kernel - kernel.T))
    least = jnp.sqrt(jnp.finfo(kernel.dtype).eps) * jnp.max(jnp.abs(kernel))
    finite = jnp.all(jnp.isfinite(kernel)) & jnp.all(jnp.isfinite(gradient))
    return (
        flag(~jnp.any(gradient), Status.ZERO_LOSS_GRADIENT)
        | flag(~jnp.any(kernel), Status.ZERO_JACOBIAN)
        | flag(~finite, Status.NON_FINITE)
        | flag(relative[-1] < -rounding, Status.NEGATIVE_EIGENVALUES)
        | flag(jnp.any(degenerate & (relative > rounding)), Status.DEGENERATE_SPECTRUM)
        | flag(asymmetry > least, Status.NOT_SYMMETRIC)
    )


class _LargestModes(NamedTuple):
    """Modes of a symmetric matrix, descending; at least as many as were asked for."""

    values: Float[Array, " mode"]
    vectors: Float[Array, "N mode"]
    settled: Bool[Array, " mode"]


_MOST_ITERATIONS = 200


def _largest_modes(
    matrix: Float[Array, "N N"], wanted: int, start: Float[Array, " N"]
) -> _LargestModes:
    """Return the wanted modes and some below them, or all of them where that is no more work.

    A block converges as fast as the gap below it is wide: with spare vectors, the gap counts that
    lies below these, and coinciding eigenvalues at the edge are seen.
    """
    size, block = len(matrix), wanted + max(wanted // 4, 8)
    if _LOBPCG_ROWS * block >= size:
        ascending, vectors = jnp.linalg.eigh(matrix)
        return _LargestModes(ascending[::-1], vectors[:, ::-1], jnp.ones(size, bool))
    guess = jax.random.normal(jax.random.key(0), (size, block), matrix.dtype).at[:, 0].set(start)
    values, vectors, _ = lobpcg_standard(matrix, guess, m=_MOST_ITERATIONS)
    is_zero = ~jnp.any(matrix)  # in which the iteration finds no direction
    values = jnp.where(is_zero, 0, values)
    vectors = jnp.where(is_zero, jnp.linalg.qr(guess)[0], vectors)
    # An eigenvalue lies within the residual's length of each value.
    residuals = jnp.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    rounding = numerics.rounding_floor(jnp.max(jnp.abs(values)), size)
    return _LargestModes(values, vectors, residuals <= jnp.maximum(jnp.abs(values) / 100, rounding))


_LOBPCG_ROWS = 5  # it needs more than so many rows for each vector of its block


def coincide(
    eigenvalues: Float[Array, " mode"], size: int | None = None
) -> Bool[Array, "mode mode"]:
    """Return which eigenvalues are the same up to rounding, each with itself.

    Args:
        eigenvalues: of a symmetric matrix, in any order; the largest among them.
        size: rows of the matrix; by default these are all of its eigenvalues.

    Example:
        >>> coincide(jnp.array([2.0, 1.0, 1.0]))
        Array([[ True, False, False],
               [False,  True,  True],
               [False,  True,  True]], dtype=bool)
    """
    gaps = jnp.abs(eigenvalues[:, None] - eigenvalues)
    return gaps <= numerics.rounding_floor(jnp.max(jnp.abs(eigenvalues)), size or len(eigenvalues))


@entry_point
def mode_pairs(
    kernel_ba: Float[Array, "N_b N_a"], modes_b: Modes, modes_a: Modes
) -> Float[Array, "mode_b mode_a"]:
    """Return what each pair of modes adds to the spectral position across two batches.

    *Spectral Reach*, eq. 25: entry (k, l) tells how a step along mode l of batch A moves the
    loss on batch B along its mode k. Negative pairs harm B. The entries add up to chi_pos^{AB} of
    eq. 24, as `lnpjax.lnp` measures it.

    Args:
        kernel_ba: ``J_B J_A^T``: ``entk(..., inputs_b, inputs2=inputs_a)``.
        modes_b: eigenmodes of batch B's own kernel and loss gradient.
        modes_a: those of batch A.

    Returns:
        One entry for each mode of B and of A, dimensionless. NaN where a loss gradient is zero.
        Entries of modes that were not computed are missing from the sum.

    Raises:
        TypeError, ValueError: if the kernel is not a matrix, or does not fit the modes.

    Cost: two products with ``N x N`` matrices.

    Example:
        >>> kernel, g = jnp.diag(jnp.array([3.0, 1.0])), jnp.array([1.0, 1.0])
        >>> modes = eigenmodes(kernel, g)
        >>> round(float(mode_pairs(kernel, modes, modes).sum()), 3), round(float(modes.chi_pos), 3)
        (0.5, 0.5)
    """
    check_kernel("kernel_ba", kernel_ba, symmetric=False)
    expected = (len(modes_b.eigenvectors), len(modes_a.eigenvectors))
    require(
        kernel_ba.shape == expected,
        "kernel_ba",
        expected=f"shape {expected}: rows of batch B, columns of batch A",
        got=kernel_ba.shape,
    )
    with jax.default_matmul_precision("highest"):
        between_modes = modes_b.eigenvectors.T @ kernel_ba @ modes_a.eigenvectors

    def directions(modes: Modes) -> Float[Array, " mode"]:
        # p_k / lambda_k is one over the trace, which may be too large for a float.
        length = jnp.sqrt(modes.eigenvalues[0]) / jnp.sqrt(modes.p[0])
        return modes.projections / modes.loss_grad_norm / length

    return directions(modes_b)[:, None] * between_modes * directions(modes_a)
