"""The eigenmodes of an explicit kernel, and how the loss gradient lies among them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base import numerics
from lnpjax._base.checks import check_floating, check_kernel, check_values, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.printing import result
from lnpjax._base.scaling import unit_of
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class Modes:
    """Eigenmodes of ``Theta = sum_k lambda_k q_k q_k^T`` seen from a loss gradient g.

    A pytree, made by `eigenmodes`.

    Attributes:
        eigenvalues: lambda_k, descending, as they came: rounding may leave the smallest of a
            positive semi-definite kernel a little below zero, and they stay so, for then all sums
            over modes are exact. Beyond rounding, `status` says so.
        eigenvectors: q_k as columns, ``(N, N)``; their signs are arbitrary.
        projections: ``g . q_k``, in units of g.
        p: normalised eigenvalues ``lambda_k / Tr(Theta)``; they add up to 1 (*Spectral Reach*,
            eq. 9).
        gamma2: ``(g . q_k)^2 / |g|^2``, the share of the loss gradient along each mode; they add up
            to 1 (*Spectral Reach*, eq. 9). NaN where g is zero.
        chi_pos: ``sum_k gamma_k^2 p_k``, the spectral position.
        degenerate: which eigenvalues coincide with a neighbour up to rounding, so that only the sum
            of their `gamma2` means something.
        status: `lnpjax.Status` flags. Degenerate modes set it where their eigenvalue is not itself
            zero up to rounding.

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
    degenerate: Bool[Array, " mode"]
    status: Int[Array, ""]

    @property
    def trace(self) -> Float[Array, ""]:
        """``Tr(Theta) = |J|_F^2``, *Spectral Reach*, eq. 22."""
        return jnp.sum(self.eigenvalues)

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
def eigenmodes(kernel: Float[Array, "N N"], loss_grad: Float[Array, ...]) -> Modes:
    """Decompose a kernel, and the loss gradient with it.

    *Spectral Reach*, eqs. 5 to 9.

    Args:
        kernel: Theta of a batch with itself, ``(N, N)``, from `lnpjax.entk`.
        loss_grad: g, the gradient of the loss in the same N outputs in the same order; any shape
            with N entries. With chosen outputs: ``select_outputs(g, outputs)``.

    Returns:
        `Modes`.

    Raises:
        TypeError: if either is not an array of real floating-point numbers.
        ValueError: if shapes disagree; outside `jit` also if the kernel is not symmetric, or either
            holds a NaN. Inside, `status` says so.

    Cost: an eigendecomposition, about ``9 N^3`` operations.

    Example:
        >>> modes = eigenmodes(jnp.diag(jnp.array([1.0, 3.0])), jnp.array([2.0, 0.0]))
        >>> modes.p, modes.gamma2, float(modes.chi_pos)
        (Array([0.75, 0.25], dtype=float32), Array([0., 1.], dtype=float32), 0.25)
    """
    check_kernel("kernel", kernel)
    check_floating("loss_grad", loss_grad)
    require(
        np.size(loss_grad) == len(kernel),
        "loss_grad",
        expected=f"{len(kernel)} entries, one for each row of the kernel",
        got=f"shape {jnp.shape(loss_grad)}",
    )
    check_values("loss_grad", loss_grad, expected="finite entries")
    dtype = numerics.accumulation_dtype()
    kernel = jnp.asarray(kernel, dtype)
    gradient = jnp.ravel(jnp.asarray(loss_grad, dtype))
    # Shares do not depend on scales, but squares of late gradients would underflow.
    unit, kernel_unit = unit_of(gradient), unit_of(kernel)
    scaled = gradient / unit
    ascending, vectors = jnp.linalg.eigh(kernel / kernel_unit)
    relative, vectors = ascending[::-1], vectors[:, ::-1]
    eigenvalues = relative * kernel_unit
    with jax.default_matmul_precision("highest"):
        directions = scaled @ vectors
    p = relative / jnp.sum(relative)
    gamma2 = directions**2 / jnp.sum(scaled**2)
    rounding = numerics.rounding_floor(jnp.max(jnp.abs(relative)), len(kernel))
    degenerate = jnp.sum(coincide(relative), axis=0) > 1
    asymmetry = jnp.max(jnp.abs(kernel - kernel.T))
    return Modes(
        eigenvalues=eigenvalues,
        eigenvectors=vectors,
        projections=directions * unit,
        p=p,
        gamma2=gamma2,
        chi_pos=jnp.sum(gamma2 * p),
        degenerate=degenerate,
        status=flag(~jnp.any(gradient), Status.ZERO_LOSS_GRADIENT)
        | flag(~jnp.any(kernel), Status.ZERO_JACOBIAN)
        | flag(
            ~(jnp.all(jnp.isfinite(kernel)) & jnp.all(jnp.isfinite(gradient))), Status.NON_FINITE
        )
        | flag(relative[-1] < -rounding, Status.NEGATIVE_EIGENVALUES)
        | flag(jnp.any(degenerate & (relative > rounding)), Status.DEGENERATE_SPECTRUM)
        | flag(
            asymmetry > jnp.sqrt(jnp.finfo(dtype).eps) * jnp.max(jnp.abs(kernel)),
            Status.NOT_SYMMETRIC,
        ),
    )


def coincide(eigenvalues: Float[Array, " mode"]) -> Bool[Array, "mode mode"]:
    """Return which eigenvalues are the same up to rounding, each with itself.

    Args:
        eigenvalues: all of a symmetric matrix, in any order.

    Example:
        >>> coincide(jnp.array([2.0, 1.0, 1.0]))
        Array([[ True, False, False],
               [False,  True,  True],
               [False,  True,  True]], dtype=bool)
    """
    gaps = jnp.abs(eigenvalues[:, None] - eigenvalues)
    return gaps <= numerics.rounding_floor(jnp.max(jnp.abs(eigenvalues)), len(eigenvalues))


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
        ``(N_b, N_a)``, dimensionless. NaN where a loss gradient is zero.

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
        projections = modes.projections / unit_of(modes.projections)
        unit = unit_of(modes.eigenvalues)
        scale = jnp.sqrt(jnp.sum(modes.eigenvalues / unit)) * jnp.sqrt(unit)
        return projections / (jnp.linalg.norm(projections) * scale)

    return directions(modes_b)[:, None] * between_modes * directions(modes_a)
