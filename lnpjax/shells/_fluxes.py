"""Exact fluxes of error energy between spectral shells, for models that have an explicit kernel.

*Spectral shells*, section 3. The eigenvectors of the kernel turn while the network learns, and
carry the error from one eigenvalue to another; that is all of feature learning which the energies
see. The error here is the output of the model itself (`lnpjax.jacobian.observable` makes it one).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, check_floating, check_kernel, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.printing import result
from lnpjax.jacobian import ApplyFn, linearize
from lnpjax.jacobian._contract import check_batch
from lnpjax.kernel import eigenmodes, entk
from lnpjax.kernel._modes import coincide
from lnpjax.shells._balance import boundary_flux
from lnpjax.shells._energies import check_edges, shell_indices
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class ShellFluxes:
    """The energy balance of every shell at one moment, from `shell_fluxes`. A pytree.

    Entry 0 of every axis of bins is the remainder below the lowest edge.

    Attributes:
        energies: E_a, which add up to ``|e|^2 / 2``.
        dissipation: ``-sum_(u in a) g_u <phi_u, de/dt>``, which under gradient flow is
            ``D_a = sum lambda_u g_u^2``.
        fluxes: ``F[b, a]`` is the energy that flows from shell b to shell a, ``F_(b->a)``;
            antisymmetric to the bit.
        eigenvalues: lambda_u, descending.
        eigenvalue_rates: ``d lambda_u / dt = <phi_u, dM/dt phi_u>``, by which modes approach an
            edge; of modes that coincide, only the sum means something.
        status: `lnpjax.Status` flags. `DEGENERATE_SPECTRUM` where modes that coincide, and turn
            into one another, lie on both sides of an edge: the flux between them is undefined and
            left out. Move the edge.
    """

    energies: Float[Array, " bin"]
    dissipation: Float[Array, " bin"]
    fluxes: Float[Array, "bin bin"]
    eigenvalues: Float[Array, " mode"]
    eigenvalue_rates: Float[Array, " mode"]
    status: Int[Array, ""]

    @property
    def net(self) -> Float[Array, " bin"]:
        """What each shell gains from all others, ``sum_b F_(b->a)``; adds up to zero."""
        return jnp.sum(self.fluxes, axis=-2)

    @property
    def boundary(self) -> Float[Array, " bin"]:
        """``J_(<=a)``, the flux down across the upper edge of each shell (definition 4.1)."""
        return boundary_flux(self.net)

    @property
    def energy_rates(self) -> Float[Array, " bin"]:
        """``dE_a/dt = -D_a + sum_b F_(b->a)`` as long as no mode crosses an edge.

        *Spectral shells*, eq. 3.
        """
        return self.net - self.dissipation


@entry_point
def shell_fluxes(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    edges: Float[Array, " edge"],
    *,
    velocity: PyTree | None = None,
    num_points: int = 1,
    wrt: parameters.Subset = None,
) -> ShellFluxes:
    """Compute the energy balance of a network's error, with all fluxes between shells.

    *Spectral shells*, eqs. 1 to 3. The derivative of the kernel along the parameters' velocity
    is exact. It comes from a double transpose, and so asks of custom derivative rules what taking a
    gradient twice does.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> errors (B, ...)``, as
            `lnpjax.jacobian.observable` makes it. Samples may interact.
        params: any pytree.
        inputs: any pytree whose leaves lead with B; of an observable, ``(inputs, targets)``.
        edges: from `lnpjax.shells.log_shells`, in units of ``M = J J^T / num_points``. An energy
            jumps where a mode crosses an edge, so keep edges away from eigenvalues.
        velocity: ``d theta / dt``, in the structure of the trainable parameters: an optimizer's
            update, say. `None` for gradient flow on the error energy, ``-J^T e / num_points``.
        num_points: n of `lnpjax.shells.function_space_measure`, for an expectation over data
            instead of a sum.
        wrt: the trainable subset (`lnpjax.parameters.partition`); everything if `None`.

    Returns:
        `ShellFluxes`, energies in units of the error squared, fluxes per unit of time.

    Raises:
        TypeError, ValueError: for what `lnpjax.entk` refuses; if edges do not ascend, if
            the velocity does not fit the trainable parameters, or `num_points` is less than 1.

    Cost: with N errors, about ``4 N`` gradients of the batch (the kernel alone takes a third of
    them), memory for the activations of all of them, and an eigendecomposition.

    Example:
        A single weight turns nothing:

        >>> balance = shell_fluxes(
        ...     lambda w, x: w * x - 1, jnp.ones(()), jnp.array([2.0, 3.0]), jnp.array([1.0, 20.0])
        ... )
        >>> balance.fluxes
        Array([[0., 0.],
               [0., 0.]], dtype=float32)
    """
    check_edges(edges)
    check_count("num_points", num_points)
    num_samples = check_batch(apply_fn, params, inputs)
    if velocity is not None:
        velocity = parameters.fit("velocity", velocity, parameters.partition(params, wrt)[0])

    def apply_kernel(params: PyTree, inputs: PyTree) -> Float[Array, "batch entries"]:
        kernel = entk(apply_fn, params, inputs, wrt=wrt, method="batch", axis_name=())
        return kernel.reshape(num_samples, -1)

    error = linearize(apply_fn, params, inputs, wrt=wrt)
    if velocity is None:
        velocity = jax.tree.map(lambda leaf: -leaf / num_points, error.vjp(error.outputs))
    error_rate = error.jvp(velocity)
    kernel = linearize(apply_kernel, params, inputs, wrt=wrt)
    square = (error.outputs.size, error.outputs.size)
    return fluxes_of_kernel(
        kernel.outputs.reshape(square) / num_points,
        kernel.jvp(velocity).reshape(square) / num_points,
        error.outputs / num_points**0.5,
        error_rate / num_points**0.5,
        edges,
    )


def fluxes_of_kernel(
    kernel: Float[Array, "N N"],
    kernel_rate: Float[Array, "N N"],
    error: Float[Array, ...],
    error_rate: Float[Array, ...],
    edges: Float[Array, " edge"],
) -> ShellFluxes:
    """Compute `shell_fluxes` of a kernel, an error, and their derivatives in time.

    *Spectral shells*, sections 3.4 and 3.5: ``F_(b->a) = -sum_(u in a, v in b) g_u g_v
    Omega_(v->u)``.

    Args:
        kernel: M.
        kernel_rate: dM/dt.
        error: e, with N entries.
        error_rate: de/dt, in the shape of the error; ``-M e`` under gradient flow.
        edges: from `lnpjax.shells.log_shells`.

    Returns:
        `ShellFluxes`.

    Raises:
        TypeError, ValueError: for what `lnpjax.eigenmodes` refuses; if the rates or edges do not
            fit.

    Cost: an eigendecomposition and two products of ``N x N`` matrices.

    Example:
        >>> kernel, turning = jnp.diag(jnp.array([3.0, 1.0])), jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> error = jnp.array([1.0, 2.0])
        >>> edges = jnp.array([0.5, 2.0, 8.0])
        >>> fluxes_of_kernel(kernel, turning, error, -kernel @ error, edges).fluxes
        Array([[ 0.,  0.,  0.],
               [ 0.,  0.,  1.],
               [ 0., -1.,  0.]], dtype=float32)
    """
    check_edges(edges)
    _check_rate("kernel_rate", kernel_rate, kernel)
    check_kernel("kernel_rate", kernel_rate)
    _check_rate("error_rate", error_rate, error)
    modes = eigenmodes(kernel, error)
    dtype = numerics.accumulation_dtype()
    g = modes.projections
    with jax.default_matmul_precision("highest"):
        g_rate = jnp.ravel(jnp.asarray(error_rate, dtype)) @ modes.eigenvectors
    shells = shell_indices(modes.eigenvalues, edges)

    rotated = _in_eigenbasis(modes.eigenvectors, kernel_rate)
    pairs = -jnp.outer(g, g) * _couplings(modes.eigenvalues, rotated)
    members = jax.nn.one_hot(shells, len(edges), dtype=dtype)
    with jax.default_matmul_precision("highest"):
        fluxes = members.T @ pairs @ members

    negligible = numerics.rounding_floor(jnp.max(jnp.abs(rotated)), len(kernel))
    undefined = (
        coincide(modes.eigenvalues)
        & (shells[:, None] != shells)
        & (jnp.abs(rotated) > negligible)
        & (jnp.outer(g, g) != 0)
    )
    # What else eigenmodes flags concerns chi_pos, or degeneracy that shells do not see.
    status = modes.status & (Status.NON_FINITE | Status.NEGATIVE_EIGENVALUES | Status.NOT_SYMMETRIC)

    def by_shell(values: Float[Array, " mode"]) -> Float[Array, " bin"]:
        return jax.ops.segment_sum(values, shells, len(edges))

    return ShellFluxes(
        energies=by_shell(g**2 / 2),
        dissipation=-by_shell(g * g_rate),
        fluxes=(fluxes - fluxes.T) / 2,  # antisymmetric, except for rounding, before
        eigenvalues=modes.eigenvalues,
        eigenvalue_rates=jnp.diagonal(rotated),
        status=status
        | flag(~jnp.all(jnp.isfinite(rotated)) | ~jnp.all(jnp.isfinite(g_rate)), Status.NON_FINITE)
        | flag(jnp.any(undefined), Status.DEGENERATE_SPECTRUM),
    )


def mode_couplings(
    eigenvalues: Float[Array, " mode"],
    eigenvectors: Float[Array, "N mode"],
    kernel_rate: Float[Array, "N N"],
) -> Float[Array, "mode mode"]:
    """Return how eigenvectors turn into one another, ``Omega_(v->u) = <d phi_v / dt, phi_u>``.

    *Spectral shells*, section 3.1: ``<phi_u, dM/dt phi_v> / (l_v - l_u)``, in radians per unit of
    time.

    Args:
        eigenvalues: l_u of a symmetric kernel, in any order.
        eigenvectors: phi_u as columns.
        kernel_rate: dM/dt.

    Returns:
        ``Omega[v, u]``, antisymmetric to the bit. Zero between eigenvalues that coincide up to
        rounding: the turning of such a pair is a choice of basis, and no energy leaves their shell
        with it (proposition 1).

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree; outside `jit` also if `kernel_rate` is not symmetric.

    Cost: two products of ``N x N`` matrices.

    Example:
        A kernel whose basis turns by two radians per unit of time:

        >>> turning = jnp.array([[0.0, 4.0], [4.0, 0.0]])
        >>> mode_couplings(jnp.array([3.0, 1.0]), jnp.eye(2), turning)
        Array([[ 0.,  2.],
               [-2.,  0.]], dtype=float32)
    """
    check_floating("eigenvalues", eigenvalues)
    check_floating("eigenvectors", eigenvectors)
    check_kernel("kernel_rate", kernel_rate)
    expected = (len(kernel_rate), *eigenvalues.shape)
    require(
        eigenvalues.ndim == 1 and eigenvectors.shape == expected,
        "eigenvectors",
        expected=f"a column of {len(kernel_rate)} for each eigenvalue",
        got=f"shape {eigenvectors.shape} with eigenvalues of shape {eigenvalues.shape}",
    )
    return _couplings(eigenvalues, _in_eigenbasis(eigenvectors, kernel_rate))


def _in_eigenbasis(
    eigenvectors: Float[Array, "N mode"], kernel_rate: Float[Array, "N N"]
) -> Float[Array, "mode mode"]:
    rate = jnp.asarray(kernel_rate, numerics.accumulation_dtype())
    with jax.default_matmul_precision("highest"):
        rotated = eigenvectors.T @ rate @ eigenvectors
    return (rotated + rotated.T) / 2


def _couplings(
    eigenvalues: Float[Array, " mode"], rotated: Float[Array, "mode mode"]
) -> Float[Array, "mode mode"]:
    gaps = eigenvalues[:, None] - eigenvalues
    same = coincide(eigenvalues)
    return jnp.where(same, 0, rotated / jnp.where(same, 1, gaps))


def _check_rate(argument: str, rate: Array, of: Array) -> None:
    require(
        np.shape(rate) == np.shape(of),
        argument,
        expected=f"the shape of what it is the rate of, {np.shape(of)}",
        got=f"shape {np.shape(rate)}",
    )
