"""How a kernel points: towards the loss gradient, towards the labels, away from where it pointed.

Functions of a kernel, or of its eigenvectors, and of vectors in the space of outputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_floating, check_kernel, check_values, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result
from lnpjax.spectra import effective_rank
from lnpjax.spectra._eigenvalues import check_eigenvalues


@entry_point
def kernel_target_alignment(
    kernel: Float[Array, "n n"], loss_grad: Float[Array, "batch ..."]
) -> Float[Array, ""]:
    """Return the cosine between the kernel and ``g g^T``: ``g^T Theta g / (|g|^2 |Theta|_F)``.

    *Spectral Reach*, eq. 33, with the loss gradient g as the target (eq. 30). Spectral
    position divides by the trace instead of the Frobenius norm, so that ``chi_pos = alignment *
    |Theta|_F / Tr(Theta)`` (eq. 35), where the last factor is the square root of
    `lnpjax.spectra.inverse_participation_ratio` (eq. 37).

    Args:
        kernel: a symmetric positive semi-definite kernel, ``(B m, B m)``, sample-major.
        loss_grad: gradient of the loss with respect to the outputs, of any shape with B m entries,
            such as that of the outputs.

    Returns:
        The alignment, between 0 and 1; NaN where kernel or gradient is zero.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if `kernel` is not a square matrix or `loss_grad` has another number of entries
            than it has rows; and, where values are known, if they are not finite or `kernel` is not
            symmetric.

    Example:
        >>> kernel = jnp.diag(jnp.array([4.0, 3.0]))
        >>> print(f"{kernel_target_alignment(kernel, jnp.array([1.0, 0.0])):.3f}")
        0.800
    """
    check_kernel("kernel", kernel)
    _check_finite("loss_grad", loss_grad)
    require(
        loss_grad.size == kernel.shape[0],
        "loss_grad",
        expected=f"{kernel.shape[0]} entries, one per row of the kernel",
        got=f"shape {loss_grad.shape}",
    )
    return _alignment(kernel, loss_grad.reshape(-1, 1))


@entry_point
def label_alignment(kernel: Float[Array, "n n"], labels: Float[Array, "n ..."]) -> Float[Array, ""]:
    """Return the cosine between the kernel and that of the labels, ``Y Y^T``.

    *NTK Lens*, eq. 16: ``<Theta, Y Y^T>_F / (|Theta|_F |Y Y^T|_F)``. For the kernel of several
    outputs, ``(B m, B m)``, there are two readings: the one-hot labels flattened to a vector of
    B m entries, which asks every output for its own label; or the label matrix ``(B, m)`` with the
    kernel between samples, ``trace_outputs(kernel, m)``, which asks whether samples of one class
    learn together.

    Args:
        kernel: a symmetric positive semi-definite kernel.
        labels: one row per row of the kernel: a vector, or a matrix such as one-hot labels. Indices
            of classes are not labels in this sense, and integers are refused for that reason.

    Returns:
        The alignment, between 0 and 1; NaN where kernel or labels are zero.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if `kernel` is not a square matrix or `labels` has another number of rows; and,
            where values are known, if they are not finite or `kernel` is not symmetric.

    Example:
        >>> labels = jax.nn.one_hot(jnp.array([0, 0, 1]), 2)
        >>> print(f"{label_alignment(labels @ labels.T, labels):.3f}")
        1.000
        >>> print(f"{label_alignment(jnp.eye(3), labels):.3f}")
        0.775
    """
    check_kernel("kernel", kernel)
    require(
        not jnp.issubdtype(jnp.result_type(labels), jnp.integer),
        "labels",
        expected="real floating-point numbers, such as the one-hot labels "
        "jax.nn.one_hot(classes, num_classes)",
        got=f"integers of dtype {jnp.result_type(labels)}",
        error=TypeError,
    )
    _check_finite("labels", labels)
    require(
        labels.ndim in (1, 2) and labels.shape[0] == kernel.shape[0],
        "labels",
        expected=f"a vector or matrix with {kernel.shape[0]} rows, one per row of the kernel",
        got=f"shape {labels.shape}",
    )
    return _alignment(kernel, labels.reshape(len(labels), -1))


def _check_finite(argument: str, array: Any) -> None:
    check_floating(argument, array)
    check_values(argument, array, expected="finite entries")


def _alignment(kernel: Float[Array, "n n"], factor: Float[Array, "n c"]) -> Float[Array, ""]:
    """Return the cosine of `kernel` and ``factor factor^T``, which is never formed."""

    def in_units_of_the_largest(array: Array) -> Array:
        # Squares of late loss gradients would fall below the smallest float32.
        array = jnp.asarray(array, accumulation_dtype())
        return array / jnp.max(jnp.abs(array))

    kernel, factor = in_units_of_the_largest(kernel), in_units_of_the_largest(factor)
    with jax.default_matmul_precision("highest"):
        overlap = jnp.sum(factor * (kernel @ factor))
        target_norm = jnp.linalg.norm(factor.T @ factor)
    return overlap / (target_norm * jnp.linalg.norm(kernel))


@result
@dataclasses.dataclass(frozen=True)
class Misalignment:
    """How far the leading eigenvectors turned; made by `eigenvector_misalignment`.

    Attributes:
        misalignment: 1 minus the mean overlap of the leading modes, each with its own successor
            (*NTK Lens*, eq. 17): 0 where none turned, 1 where each left its place entirely, be
            it for that of another leading mode.
        subspace_overlap: squared overlap of the spaces the leading modes span: 1 where they span
            the same space, even if they turned within it; 0 where the spaces are orthogonal.
        num_modes: how many modes count as leading; 0 where the earlier kernel has none.
    """

    misalignment: Float[Array, ""]
    subspace_overlap: Float[Array, ""]
    num_modes: Int[Array, ""]


@entry_point
def eigenvector_misalignment(
    eigenvalues_before: Float[Array, " k"],
    eigenvectors_before: Float[Array, "n k"],
    eigenvalues_after: Float[Array, " k"],
    eigenvectors_after: Float[Array, "n k"],
    *,
    num_modes: int | Int[Array, ""] | None = None,
    tolerance: float | None = None,
) -> Misalignment:
    """Measure how far the leading eigenvectors of a kernel turned between two steps.

    *NTK Lens*, eq. 17: 1 minus the mean over the leading modes of ``<q_i, q'_i>``. As it stands
    that depends on what the eigensolver happens to return: the sign of each eigenvector, and any
    rotation of those that share an eigenvalue. Here it does not. With ``O = Q^T Q'``,

    - modes i and i + 1 belong to one cluster if the eigenvalues of either kernel are closer than
      `tolerance`;
    - the overlap of a cluster is the nuclear norm of its block of O, the largest that rotations
      within the cluster can make ``sum_i <q_i, q'_i>``; for a mode of its own, ``|<q_i, q'_i>|``;
    - a cluster that the last leading mode cuts, t of its s modes inside, counts with the weight
      t/s. Which t modes are inside would be arbitrary; their share is not.

    The subspace overlap is ``|Q_lead^T Q'_lead|_F^2 / num_modes``; where a cluster is cut, the
    cosine of the projectors in which its modes have that weight.

    Args:
        eigenvalues_before: of the earlier kernel, in descending order.
        eigenvectors_before: its orthonormal eigenvectors, as columns in that order. The columns may
            be only the first k of n; the leading modes must be among them.
        eigenvalues_after: of the later kernel, in descending order.
        eigenvectors_after: its eigenvectors.
        num_modes: how many modes count as leading, from 1 to k; may be traced. By default the
            effective rank of the earlier kernel, rounded, as in the paper.
        tolerance: the gap below which eigenvalues count as equal, in units of the largest of their
            kernel. By default ``k eps``, which is what rounding in a solver leaves uncertain.

    Returns:
        The `Misalignment`, with NaN where either kernel is zero, and under `jit`, where they cannot
        be refused, for eigenvectors that are not orthonormal. Costs one singular value
        decomposition of a k x k matrix.

    Raises:
        TypeError: if an array does not hold real floating-point numbers, or `num_modes` is not an
            integer.
        ValueError: if shapes disagree; and, where values are known, if they are not finite,
            eigenvalues are negative beyond rounding or not in descending order, eigenvectors are
            not orthonormal to within ``sqrt(eps)``, or `num_modes` or `tolerance` is out of
            range.

    Example:
        The second mode leaves for a direction that was not among the leading two:

        >>> values, before = jnp.array([3.0, 2.0, 0.1]), jnp.eye(3)
        >>> after = -before[:, jnp.array([0, 2, 1])]
        >>> out = eigenvector_misalignment(values, before, values, after, num_modes=2)
        >>> print(f"{out.misalignment:.2f} {out.subspace_overlap:.2f}")
        0.50 0.50
    """
    _check_modes("before", eigenvalues_before, eigenvectors_before)
    _check_modes("after", eigenvalues_after, eigenvectors_after)
    require(
        eigenvectors_after.shape == eigenvectors_before.shape,
        "eigenvectors_after",
        expected=f"the shape {eigenvectors_before.shape} of eigenvectors_before",
        got=f"shape {eigenvectors_after.shape}",
    )
    k = len(eigenvalues_before)
    precision = jnp.promote_types(eigenvalues_before.dtype, eigenvalues_after.dtype)
    if tolerance is None:
        tolerance = k * float(jnp.finfo(precision).eps)
    require(tolerance >= 0, "tolerance", expected="a number >= 0", got=tolerance)
    if num_modes is None:
        rank = jnp.round(effective_rank(eigenvalues_before))
        num_modes = jnp.where(jnp.isfinite(rank), jnp.clip(rank, 1, k), 0).astype(jnp.int32)
    else:
        _check_num_modes(num_modes, k)

    dtype = accumulation_dtype()
    separate, defined = jnp.ones(k - 1, bool), jnp.bool_(True)
    for eigenvalues in (eigenvalues_before, eigenvalues_after):
        gaps = -jnp.diff(jnp.asarray(eigenvalues, dtype))
        separate &= gaps > tolerance * eigenvalues[0]
        defined &= (eigenvalues[0] > 0) & jnp.all(jnp.isfinite(eigenvalues))
    for eigenvectors in (eigenvectors_before, eigenvectors_after):
        defined &= _orthonormality_error(eigenvectors) <= _orthonormality(eigenvectors.dtype)
    cluster = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(separate, dtype=jnp.int32)])
    same_cluster = cluster[:, None] == cluster[None, :]
    leading = jnp.arange(k) < num_modes
    weights = jnp.sum(same_cluster & leading, axis=1) / jnp.sum(same_cluster, axis=1)

    with jax.default_matmul_precision("highest"):
        overlaps = jnp.asarray(eigenvectors_before, dtype).T @ jnp.asarray(
            eigenvectors_after, dtype
        )
    within_clusters = jnp.where(same_cluster, overlaps, 0) * weights[:, None]
    nuclear_norm = jnp.sum(jnp.linalg.svd(within_clusters, compute_uv=False))
    projectors = jnp.sum(overlaps**2 * weights[:, None] * weights[None, :])
    return Misalignment(
        misalignment=jnp.where(defined, 1 - nuclear_norm / jnp.sum(weights), jnp.nan),
        subspace_overlap=jnp.where(defined, projectors / jnp.sum(weights**2), jnp.nan),
        num_modes=jnp.asarray(num_modes, jnp.int32),
    )


def _check_modes(when: str, eigenvalues: Any, eigenvectors: Any) -> None:
    check_eigenvalues(f"eigenvalues_{when}", eigenvalues)
    require(
        eigenvalues.ndim == 1,
        f"eigenvalues_{when}",
        expected="a vector",
        got=f"shape {eigenvalues.shape}",
    )
    values = concrete(eigenvalues)
    require(
        values is None or bool(np.all(np.diff(values) <= 0)),
        f"eigenvalues_{when}",
        expected="descending order",
        got="eigenvalues that rise",
    )
    _check_finite(f"eigenvectors_{when}", eigenvectors)
    require(
        eigenvectors.ndim == 2
        and eigenvectors.shape[1] == len(eigenvalues)
        and eigenvectors.shape[0] >= len(eigenvalues),
        f"eigenvectors_{when}",
        expected=f"a matrix with one column for each of {len(eigenvalues)} eigenvalues, and no "
        "fewer rows",
        got=f"shape {eigenvectors.shape}",
    )
    error = concrete(_orthonormality_error(eigenvectors))
    require(
        error is None or bool(error <= _orthonormality(eigenvectors.dtype)),
        f"eigenvectors_{when}",
        expected="orthonormal columns",
        got=f"columns whose Gram matrix differs from the identity by up to {error}",
    )


def _orthonormality_error(eigenvectors: Float[Array, "n k"]) -> Float[Array, ""]:
    vectors = jnp.asarray(eigenvectors, accumulation_dtype())
    with jax.default_matmul_precision("highest"):
        gram = vectors.T @ vectors
    return jnp.max(jnp.abs(gram - jnp.eye(len(gram), dtype=gram.dtype)))


def _orthonormality(dtype: Any) -> float:
    """Return how far the Gram matrix of eigenvectors in a dtype may be from the identity."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def _check_num_modes(num_modes: Any, k: int) -> None:
    require(
        jnp.ndim(num_modes) == 0 and jnp.issubdtype(jnp.result_type(num_modes), jnp.integer),
        "num_modes",
        expected="an integer",
        got=num_modes,
        error=TypeError,
    )
    value = concrete(num_modes)
    require(
        value is None or 1 <= int(value) <= k,
        "num_modes",
        expected=f"from 1 to {k}, the number of eigenvectors",
        got=num_modes,
    )
