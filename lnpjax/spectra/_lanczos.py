"""Spectra of the empirical NTK that is never formed: Lanczos, and Gauss quadrature from it.

A vector v has a spectral measure under Theta, ``mu_v = sum_k (q_k . v)^2 delta(lambda_k)``. Lanczos
from v finds the measure with few points that has the same first moments (Golub and Meurant, 2010).
At the loss gradient, its normalised first moment is ``chi_pos * chi_net`` of *Spectral Reach*
(eqs. 6 to 9), and the measure itself says how learning is spread over the spectrum. At an
error vector, its parts are the shell energies of *Spectral shells* (appendix B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_floating, concrete, is_integer, require
from lnpjax._base.entry_points import entry_point, vary_alike
from lnpjax._base.printing import result
from lnpjax._base.scaling import unit_of
from lnpjax.jacobian import ApplyFn, OutputSubset, linearize
from lnpjax.jacobian._outputs import restrict
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class SpectralMeasure:
    """Gauss quadrature of a vector's spectral measure.

    A pytree, made by `spectral_measure`; unpacks as ``nodes, weights``. Where Lanczos stopped
    early, the nodes that do not exist are zero, and so are their weights. It stops at an invariant
    subspace, up to rounding: what it leaves out is exact for an operator that differs by at most
    ``10 k eps`` of the largest eigenvalue, with k the number of products. The spectrum below that
    is not resolved, whatever k.

    Attributes:
        nodes: stand for eigenvalues lambda_k, descending.
        weights: stand for ``(q_k . v)^2 / |v|^2``; they add up to 1.
        total: ``|v|^2``.
        error_bounds: each node lies within this distance of an eigenvalue.
        converged: which nodes do so within a hundredth of themselves, or within rounding.
        num_nodes: how many nodes there are: fewer than asked for if Lanczos stopped early.
        orthogonality_loss: largest deviation of the Lanczos vectors' Gram matrix from the identity.
        status: `lnpjax.Status` flags.
    """

    nodes: Float[Array, " node"]
    weights: Float[Array, " node"]
    total: Float[Array, ""]
    error_bounds: Float[Array, " node"]
    converged: Bool[Array, " node"]
    num_nodes: Int[Array, ""]
    orthogonality_loss: Float[Array, ""]
    status: Int[Array, ""]

    def __iter__(self) -> Iterator[Float[Array, " node"]]:
        """Yield ``nodes, weights``."""
        yield self.nodes
        yield self.weights

    @property
    def num_converged(self) -> Int[Array, ""]:
        """How many nodes are eigenvalues to within a hundredth."""
        return jnp.sum(self.converged)

    @property
    def mean(self) -> Float[Array, ""]:
        """The first moment, ``v^T Theta v / |v|^2``: exact at any number of products."""
        return jnp.sum(self.nodes * self.weights)


@entry_point
def spectral_measure(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    vector: Float[Array, "batch ..."],
    *,
    num_matvecs: int,
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
) -> SpectralMeasure:
    """Compute the spectral measure of the empirical NTK at a vector, without the kernel.

    Lanczos with full re-orthogonalisation. A product with Theta is a pullback and its
    transpose, so networks without a forward derivative serve as well.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        params: any pytree.
        inputs: any pytree whose leaves lead with the B samples.
        vector: where to start: the loss gradient in the outputs, an error, random signs. In the
            shape of the outputs (of the chosen ones, with `outputs`).
        num_matvecs: k, the number of products with Theta. The first 2k - 1 moments are exact, and
            so is everything once k reaches the number of eigenvalues that `vector` sees.
        outputs: which outputs of each sample to keep (`lnpjax.jacobian.select_outputs`).
        wrt: the trainable subset.
        preconditioner: optional diagonal P >= 0, for J P J^T.

    Returns:
        A `SpectralMeasure` with k nodes. `Status.ZERO_LOSS_GRADIENT` where the vector is zero, and
        NaN with it.

    Raises:
        TypeError, ValueError: for bad networks or batches; if the vector's shape differs from the
            outputs', if it is zero or not finite (outside `jit`), or if `num_matvecs` is less than
            1 or more than the outputs.

    Cost: a forward pass, 4/3 gradients for each product, and memory for ``k + 2`` vectors of all
    outputs.

    Example:
        >>> scale = lambda w, x: w * x
        >>> nodes, weights = spectral_measure(
        ...     scale, jnp.ones(3), jnp.array([[1.0, 2.0, 3.0]]), jnp.ones((1, 3)), num_matvecs=3
        ... )
        >>> nodes.round(3), weights.round(3)
        (Array([9., 4., 1.], dtype=float32), Array([0.333, 0.333, 0.333], dtype=float32))
    """
    network = apply_fn if outputs is None else restrict(apply_fn, outputs)
    with jax.default_matmul_precision("highest"):
        linearization = linearize(network, params, inputs, wrt=wrt, preconditioner=preconditioner)
    check_floating("vector", vector)
    shape = linearization.outputs.shape
    require(
        jnp.shape(vector) == shape,
        "vector",
        expected=f"the shape of the outputs, {shape}",
        got=jnp.shape(vector),
    )
    entries = concrete(vector)
    require(
        entries is None or bool(np.all(np.isfinite(entries)) and np.any(entries)),
        "vector",
        expected="finite entries, not all of them zero",
        got="zeros" if entries is not None and not np.any(entries) else "NaN or infinity",
    )
    measure = measure_at(linearization.ntk_vp, vector, num_matvecs=num_matvecs)
    _, negative = fit_preconditioner(preconditioner, parameters.partition(params, wrt)[0])
    return dataclasses.replace(measure, status=measure.status | negative)


@entry_point
def measure_at(
    matvec: Callable[[Array], Array], vector: Float[Array, ...], *, num_matvecs: int
) -> SpectralMeasure:
    """Compute the spectral measure of any symmetric operator at a vector.

    Args:
        matvec: the operator, on arrays in the shape of `vector`.
        vector: the start.
        num_matvecs: how many products.

    Returns:
        A `SpectralMeasure`.

    Raises:
        ValueError: if `num_matvecs` is less than 1 or more than the entries of `vector`.

    Example:
        >>> measure = measure_at(lambda v: jnp.array([2.0, 1.0]) * v, jnp.ones(2), num_matvecs=2)
        >>> [round(float(value), 3) for value in (*measure.nodes, measure.mean)]
        [2.0, 1.0, 1.5]
    """
    _check_num_matvecs(num_matvecs, vector)
    start, flat_matvec, unit = _flattened(matvec, vector)
    with jax.default_matmul_precision("highest"):
        vectors, diagonal, links = _krylov_basis(flat_matvec, start, num_matvecs)
    measure = _quadrature(vectors, diagonal, links, jnp.sum(start**2))
    total = measure.total * unit * unit
    return dataclasses.replace(
        measure,
        total=total,
        status=measure.status | flag(~jnp.isfinite(total), Status.NON_FINITE),
    )


class RitzModes(NamedTuple):
    """Approximate eigenmodes of the kernel, as seen from a vector; made by `ritz_modes`.

    Attributes:
        values: stand for eigenvalues lambda_k, descending; zero for modes that do not exist.
        vectors: q_k, orthonormal, each in the shape of the outputs; zero for modes that do not
            exist.
    """

    values: Float[Array, " mode"]
    vectors: Float[Array, "mode batch ..."]

    def part(
        self, vector: Float[Array, "batch ..."], chosen: Bool[Array, " mode"]
    ) -> Float[Array, "batch ..."]:
        """Return the part of a vector along chosen modes: booleans, or weights of these parts."""
        along = jnp.tensordot(self.vectors, vector, vector.ndim)
        return jnp.tensordot(chosen * along, self.vectors, 1).astype(vector.dtype)


@entry_point
def ritz_modes(
    matvec: Callable[[Array], Array], vector: Float[Array, ...], *, num_matvecs: int
) -> RitzModes:
    """Compute the Ritz vectors of a symmetric operator in the Krylov space of a vector.

    Those whose values converge, which are the outermost, are eigenvectors; the others stand for
    many each. The vector itself is a sum of them, so that at the loss gradient they say how all of
    a step is spread over the spectrum, as `lnpjax.eigenmodes` does where there is a kernel.

    Args:
        matvec: the operator, on arrays in the shape of `vector`, such as
            ``linearize(...).ntk_vp``.
        vector: the start, such as the loss gradient in the outputs.
        num_matvecs: k, how many products.

    Returns:
        The `RitzModes`, k of them.

    Raises:
        ValueError: if `num_matvecs` is less than 1 or more than the entries of `vector`.

    Cost: 4/3 gradients for each product, and memory for ``2 k`` vectors.

    Example:
        >>> modes = ritz_modes(lambda v: jnp.array([2.0, 1.0]) * v, jnp.ones(2), num_matvecs=2)
        >>> modes.values.round(3), modes.part(jnp.ones(2), jnp.array([True, False])).round(3)
        (Array([2., 1.], dtype=float32), Array([1., 0.], dtype=float32))
    """
    _check_num_matvecs(num_matvecs, vector)
    start, flat_matvec, _ = _flattened(matvec, vector)
    with jax.default_matmul_precision("highest"):
        basis, diagonal, links = _krylov_basis(flat_matvec, start, num_matvecs)
        ritz = _ritz_pairs(diagonal, links)
        vectors = ritz.vectors.T @ jnp.where(ritz.alive[:, None], basis, 0)
    values = jnp.where(ritz.exists, ritz.values, 0)
    vectors = jnp.where(ritz.exists[:, None], vectors, 0)
    return RitzModes(values, vectors.reshape(num_matvecs, *jnp.shape(vector)))


def _check_num_matvecs(num_matvecs: int, vector: Float[Array, ...]) -> None:
    size = int(np.prod(jnp.shape(vector)))
    require(
        is_integer(num_matvecs) and 1 <= num_matvecs <= size,
        "num_matvecs",
        expected=f"an integer from 1 to {size}, the number of outputs",
        got=num_matvecs,
    )


def _flattened(
    matvec: Callable[[Array], Array], vector: Float[Array, ...]
) -> tuple[Float[Array, " N"], Callable[[Array], Array], Float[Array, ""]]:
    """Return the start in a unit of its own, the operator on flat vectors, and that unit."""
    dtype = numerics.accumulation_dtype()

    def flat_matvec(flat: Float[Array, " N"]) -> Float[Array, " N"]:
        return jnp.ravel(matvec(flat.reshape(jnp.shape(vector)))).astype(dtype)

    start = jnp.ravel(vector).astype(dtype)
    # Nodes and weights do not depend on the length of the start, but its square may overflow.
    unit = unit_of(start)
    return start / unit, flat_matvec, unit


def _krylov_basis(
    matvec: Callable[[Float[Array, " N"]], Float[Array, " N"]],
    start: Float[Array, " N"],
    num_matvecs: int,
) -> tuple[Float[Array, "k N"], Float[Array, " k"], Float[Array, " k"]]:
    """Return orthonormal vectors, the diagonal of the matrix in them, and the links below it.

    Arnoldi's iteration, each vector made orthogonal to all before it twice (Golub and Van Loan,
    Matrix Computations, algorithm 10.5.1). The links are the lengths before normalisation.
    """

    def extend(
        index: Int[Array, ""], carry: tuple[Array, Array, Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        vectors, diagonal, links, vector = carry
        length = jnp.sqrt(jnp.vdot(vector, vector))
        vectors = vectors.at[index].set(vector / length)
        vector = matvec(vectors[index])
        overlaps = vectors @ vector
        vector = vector - overlaps @ vectors
        vector = vector - (vectors @ vector) @ vectors
        link = jnp.sqrt(jnp.vdot(vector, vector))
        return vectors, diagonal.at[index].set(overlaps[index]), links.at[index].set(link), vector

    zeros = jnp.zeros(num_matvecs, start.dtype)
    vectors = jnp.zeros((num_matvecs, len(start)), start.dtype)
    carry = vary_alike((vectors, zeros, zeros, start))
    return jax.lax.fori_loop(0, num_matvecs, extend, carry)[:3]


class _Ritz(NamedTuple):
    """Eigenpairs of the tridiagonal matrix up to where the Krylov space ends, descending."""

    values: Float[Array, " k"]
    vectors: Float[Array, "k k"]
    exists: Bool[Array, " k"]
    alive: Bool[Array, " k"]
    scale: Float[Array, ""]


def _ritz_pairs(diagonal: Float[Array, " k"], links: Float[Array, " k"]) -> _Ritz:
    """Diagonalise the tridiagonal matrix.

    Links are the lengths by which the iteration has divided. Behind one that is zero up to rounding
    come noise or NaN: that part is cut off, which is exact.
    """
    num_matvecs, eps = len(diagonal), jnp.finfo(diagonal.dtype).eps
    scale = jnp.max(jnp.where(jnp.isfinite(diagonal), jnp.abs(diagonal), 0))
    strong = links > 10 * num_matvecs * eps * scale  # false for NaN
    alive = jnp.cumprod(jnp.append(True, strong[:-1])).astype(bool)

    inner = jnp.where(alive[1:], links[:-1], 0)
    matrix = jnp.diag(jnp.where(alive, diagonal, 0)) + jnp.diag(inner, 1) + jnp.diag(inner, -1)
    ascending, ritz = jnp.linalg.eigh(matrix)
    # The cut-off part keeps eigenvalues of zero: they sort last, and have no weight.
    order = jnp.argsort(jnp.where(ritz[0] ** 2 > 0, -ascending, jnp.inf))
    exists = jnp.arange(num_matvecs) < jnp.sum(alive)
    return _Ritz(ascending[order], ritz[:, order], exists, alive, scale)


def _quadrature(
    vectors: Float[Array, "k N"],
    diagonal: Float[Array, " k"],
    links: Float[Array, " k"],
    total: Float[Array, ""],
) -> SpectralMeasure:
    """Return nodes and weights of the tridiagonal matrix, up to where the Krylov space ends."""
    nodes, ritz, exists, alive, scale = _ritz_pairs(diagonal, links)
    num_nodes = jnp.sum(alive, dtype=jnp.int32)
    rounding = jnp.finfo(diagonal.dtype).eps * scale
    weights = jnp.where(exists, ritz[0] ** 2, 0)
    last_link = jnp.nan_to_num(links[num_nodes - 1])
    bounds = jnp.where(exists, jnp.abs(last_link * ritz[num_nodes - 1]), 0)

    kept = jnp.where(alive[:, None], vectors, 0)
    gram = kept @ kept.T
    undefined = jnp.where(total > 0, 1.0, jnp.nan)
    return SpectralMeasure(
        nodes=jnp.where(exists, nodes, 0) * undefined,
        weights=weights * undefined,
        total=total,
        error_bounds=bounds,
        converged=exists & (bounds <= jnp.maximum(jnp.abs(nodes) / 100, rounding)),
        num_nodes=num_nodes,
        orthogonality_loss=jnp.max(jnp.abs(gram - jnp.diag(alive.astype(gram.dtype)))),
        status=flag(total == 0, Status.ZERO_LOSS_GRADIENT)
        | flag((total > 0) & ~jnp.isfinite(total + diagonal[0]), Status.NON_FINITE)
        | flag((total > 0) & (diagonal[0] == 0), Status.ZERO_JACOBIAN),
    )


@entry_point
def cumulative(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], at: Float[Array, "*points"]
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]]:
    """Bound how much of a measure lies at or below some values.

    At or below its j-th node, a measure has at least the weight of the j - 1 nodes before, and at
    most that of j (the inequalities of Chebyshev, Markov and Stieltjes); between nodes, what both
    neighbours allow. Where Lanczos has ended by itself the measure is its quadrature, and the
    bounds are wider than need be.

    Args:
        nodes: of a Gauss quadrature.
        weights: of these nodes.
        at: the values.

    Returns:
        ``(lower, upper)``, each in the shape of `at`, as shares of the whole.

    Example:
        >>> low, high = cumulative(jnp.array([3.0, 1.0]), jnp.array([0.25, 0.75]), jnp.array(2.0))
        >>> float(low), float(high)
        (0.0, 1.0)
    """
    order = jnp.argsort(nodes)
    ascending, share = nodes[order], weights[order] / jnp.sum(weights)
    sums = jnp.concatenate([jnp.zeros(1, share.dtype), jnp.cumsum(share)])
    below = jnp.searchsorted(ascending, at, side="left")
    up_to = jnp.searchsorted(ascending, at, side="right")
    lower = sums[jnp.maximum(up_to - 1, 0)]
    upper = sums[jnp.minimum(below + 1, len(nodes))]
    return lower, upper


@entry_point
def quantiles(
    nodes: Float[Array, " node"], weights: Float[Array, " node"], levels: Float[Array, "*levels"]
) -> Float[Array, "*levels"]:
    """Return quantiles of a measure from its quadrature.

    Half of a node's weight counts as below it; in between, logarithms are interpolated. With few
    nodes that is a summary: a quantile lies between the nodes before and after the one in whose
    weight its level falls (see `cumulative`).

    Args:
        nodes: of a Gauss quadrature. Those that are not positive beyond rounding are taken as zero,
            and so are the quantiles at levels within their weight.
        weights: of these nodes.
        levels: shares between 0 and 1.

    Returns:
        In the units of the nodes and the shape of `levels`.

    Raises:
        ValueError: if a level is outside [0, 1] (outside `jit`).

    Example:
        >>> nodes, weights = jnp.array([100.0, 10.0, 1.0]), jnp.array([0.25, 0.5, 0.25])
        >>> quantiles(nodes, weights, jnp.array([0.5]))
        Array([10.], dtype=float32)
    """
    known_levels = concrete(levels)
    require(
        known_levels is None or bool(np.all((known_levels >= 0) & (known_levels <= 1))),
        "levels",
        expected="shares between 0 and 1",
        got=known_levels,
    )
    order = jnp.argsort(nodes)
    ascending, share = nodes[order], weights[order] / jnp.sum(weights)
    middle = jnp.cumsum(share) - share / 2
    rounding = jnp.finfo(share.dtype).eps * jnp.max(ascending)
    positive = ascending > rounding
    at_zero = jnp.sum(jnp.where(positive, 0, share))
    smallest = jnp.min(jnp.where(positive, ascending, jnp.inf))
    first = jnp.min(jnp.where(positive, middle, jnp.inf))
    places = jnp.where(positive, middle, first)  # zeros take no part in the interpolation
    logarithms = jnp.log(jnp.where(positive, ascending, smallest))
    interpolated = jnp.exp(jnp.interp(jnp.asarray(levels), places, logarithms))
    at_or_below = jnp.where(at_zero > 0, 0, interpolated)
    return jnp.where(jnp.asarray(levels) <= at_zero, at_or_below, interpolated)
