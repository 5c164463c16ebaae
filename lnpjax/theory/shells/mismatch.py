"""What a second sample sees of the spectrum of the first, and when its loss rises again.

Section 6 of *Spectral shells*. Two samples of one distribution induce the quadratic forms P_tr and
P_te; the difference ``Delta = P_te - P_tr`` is the whole difference of their losses,
``L_te - L_tr = 1/2 <e, Delta e>``. In the modes of the training kernel its diagonal is the weight
``w = <phi, Delta phi>``. With energies that carry the half (`lnpjax.theory.shells`),

    ``1/2 <e, Delta e> = integral w eps dlambda`` + what is off the diagonal.

The paper's formula for ``w(lambda)`` sums the diagonal over the modes near lambda, per eigenvalue;
times a density of energy that would count modes twice. What its integral needs, and what is
computed here, is the MEAN of the diagonal over those modes, weighted by their energies. And w is
not ``>= 0``: Delta is a difference of two unbiased estimates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lnpjax._base.checks import check_count, check_floating, check_kernel, require
from lnpjax._base.numerics import accumulation_dtype, rounding_floor
from lnpjax.kernel import eigenmodes
from lnpjax.theory.shells.scale_free import ScaleFree, shell_energies
from lnpjax.theory.shells.transport import Equation, amplitude_growth, check_edges, check_positive


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleMismatch:
    """The modes of a training sample, continued to another one; made by `sample_mismatch`.

    Attributes:
        eigenvalues: of ``M = J J^T P_tr``, descending: those of the training kernel divided by the
            number of training samples; 1 / time.
        train_modes: phi on the training outputs, one per column, with ``<phi, P_tr phi> = 1``.
        test_modes: the same functions on the test outputs; zero where not `resolved`.
        weights: ``w = <phi, P_te phi> - 1`` of every mode; NaN where not `resolved`.
        resolved: which eigenvalues stand out from rounding. The others' eigenvectors are not
            functions that the kernel could continue.
    """

    eigenvalues: Float[Array, " mode"]
    train_modes: Float[Array, "train mode"]
    test_modes: Float[Array, "test mode"]
    weights: Float[Array, " mode"]
    resolved: Bool[Array, " mode"]


def sample_mismatch(
    kernel_train: Float[Array, "train train"],
    kernel_test_train: Float[Array, "test train"],
    *,
    num_outputs: int = 1,
) -> SampleMismatch:
    """Measure the diagonal of the mismatch operator in the modes of the training kernel.

    On the training outputs the modes are the eigenvectors q of ``Theta_tr``. As functions they are
    eigenfunctions of the empirical operator, ``phi(x) = sum_i k(x, x_i) q_i / (lambda sqrt(n))``
    (Nystroem's formula, with ``n lambda`` the eigenvalue of ``Theta_tr``), which gives them values
    on the test outputs too.

    Args:
        kernel_train: ``J_tr J_tr^T``: ``entk(apply_fn, params, inputs_train)``.
        kernel_test_train: ``J_te J_tr^T``: ``entk(apply_fn, params, inputs_test,
            inputs2=inputs_train)``.
        num_outputs: m, the outputs of one sample, which are added up in the loss.

    Returns:
        The `SampleMismatch`.

    Raises:
        TypeError: if either is not an array of real floating-point numbers.
        ValueError: if shapes disagree; and, where values are known, if a kernel is not finite or
            the training kernel not symmetric.

    Cost: an eigendecomposition of the training kernel and a product with the other one.

    Example:
        A test sample that is the training sample twice over has no mismatch:

        >>> kernel = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> jnp.abs(sample_mismatch(kernel, jnp.tile(kernel, (2, 1))).weights).round(3)
        Array([0., 0.], dtype=float32)
    """
    check_kernel("kernel_train", kernel_train)
    check_kernel("kernel_test_train", kernel_test_train, symmetric=False)
    require(
        kernel_test_train.shape[1] == len(kernel_train),
        "kernel_test_train",
        expected=f"{len(kernel_train)} columns, one for each row of kernel_train",
        got=f"shape {kernel_test_train.shape}",
    )
    num_train = _num_samples("kernel_train", len(kernel_train), num_outputs)
    num_test = _num_samples("kernel_test_train", len(kernel_test_train), num_outputs)
    dtype = accumulation_dtype()
    parts = eigenmodes(kernel_train, jnp.ones(len(kernel_train), dtype))
    raw, vectors = parts.eigenvalues, parts.eigenvectors
    resolved = raw > rounding_floor(raw[0], len(raw))
    with jax.default_matmul_precision("highest"):
        continued = jnp.asarray(kernel_test_train, dtype) @ vectors
    length = jnp.sqrt(jnp.asarray(num_train, dtype))
    test_modes = length * jnp.where(resolved, continued / jnp.where(resolved, raw, 1), 0)
    seen = jnp.sum(test_modes**2, axis=0) / num_test
    return SampleMismatch(
        eigenvalues=raw / num_train,
        train_modes=length * vectors,
        test_modes=test_modes,
        weights=jnp.where(resolved, seen - 1, jnp.nan),
        resolved=resolved,
    )


def _num_samples(argument: str, rows: int, num_outputs: Any) -> int:
    check_count("num_outputs", num_outputs)
    require(
        rows >= 1 and rows % num_outputs == 0,
        "num_outputs",
        expected=f"a divisor of the {rows} rows of {argument}",
        got=num_outputs,
    )
    return rows // num_outputs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MismatchTerms:
    """The parts of ``L_te - L_tr = 1/2 <e, Delta e>``; made by `mismatch_terms`. They add up to it.

    Attributes:
        energies: ``1/2 g^2`` of every training mode; they add up to the training loss.
        diagonal: ``sum w 1/2 g^2``, the part that section 6 keeps.
        off_diagonal: what pairs of different modes add on the test sample, where they are not
            orthogonal.
        outside: what the test error has outside of all resolved training modes, and its product
            with the part inside: under a frozen kernel never learned, but by no means negligible.
    """

    energies: Float[Array, " mode"]
    diagonal: Float[Array, ""]
    off_diagonal: Float[Array, ""]
    outside: Float[Array, ""]


def mismatch_terms(
    mismatch: SampleMismatch, error_train: Float[Array, ...], error_test: Float[Array, ...]
) -> MismatchTerms:
    """Split the difference of two losses into what the weights w explain and what they do not.

    Args:
        mismatch: of the two samples.
        error_train: e on the training outputs, in the order of the kernel; any shape.
        error_test: e on the test outputs, in the order of the kernel; any shape.

    Returns:
        The `MismatchTerms`, in units of a loss ``1/2 mean |e|^2`` over samples.

    Raises:
        TypeError: if an error is not an array of real floating-point numbers.
        ValueError: if it does not fit the modes.

    Example:
        >>> mismatch = sample_mismatch(jnp.eye(2), jnp.eye(2)[:1])
        >>> terms = mismatch_terms(mismatch, jnp.ones(2), jnp.array([2.0]))  # losses 1/2 and 2
        >>> print(f"{terms.diagonal + terms.off_diagonal + terms.outside:.3f}")
        1.500
    """
    for name, error, rows in (
        ("error_train", error_train, len(mismatch.train_modes)),
        ("error_test", error_test, len(mismatch.test_modes)),
    ):
        check_floating(name, error)
        require(
            error.size == rows,
            name,
            expected=f"{rows} entries, one for each output of the sample",
            got=f"shape {error.shape}",
        )
    dtype = accumulation_dtype()
    e_train, e_test = (jnp.ravel(jnp.asarray(e, dtype)) for e in (error_train, error_test))
    # Columns of train_modes have the squared length n, the number of samples.
    num_train = jnp.sum(mismatch.train_modes[:, 0] ** 2)
    num_test = num_train * len(e_test) / len(e_train)
    with jax.default_matmul_precision("highest"):
        g = e_train @ mismatch.train_modes / num_train
        inside = mismatch.test_modes @ g
    energies = g**2 / 2
    # A mode that is not resolved has no part in the test loss: its w is -1.
    diagonal = jnp.sum(jnp.where(mismatch.resolved, mismatch.weights, -1) * energies)
    inside_loss = jnp.sum(inside**2) / (2 * num_test)
    return MismatchTerms(
        energies=energies,
        diagonal=diagonal,
        off_diagonal=inside_loss - jnp.sum(energies) - diagonal,
        outside=jnp.sum(e_test**2) / (2 * num_test) - inside_loss,
    )


def shell_weights(
    mismatch: SampleMismatch,
    edges: Float[Array, " edge"],
    *,
    energies: Float[Array, " mode"] | None = None,
) -> Float[Array, " shell"]:
    """Return the mean of w over the modes of every shell, the ``w(lambda)`` of section 6.4.

    Args:
        mismatch: of the two samples.
        edges: K + 1 increasing positive eigenvalues of M; a shell has its lower edge.
        energies: the weight of every mode in the mean, such as those of `mismatch_terms`; with it,
            ``sum w E`` over shells is the diagonal part exactly, as far as shells cover the modes.
            `None` for the plain mean, which belongs to the two samples alone.

    Returns:
        w of every shell, dimensionless; NaN for a shell without resolved modes or energy.

    Raises:
        TypeError: if `energies` is not an array of real floating-point numbers.
        ValueError: if edges do not increase, or `energies` does not fit.

    Example:
        >>> kernels = jnp.diag(jnp.array([8.0, 2.0])), jnp.diag(jnp.array([4.0, 4.0]))
        >>> shells = shell_weights(sample_mismatch(*kernels), jnp.array([0.5, 2.0, 8.0, 32.0]))
        >>> print(*(f"{w:.2f}" for w in shells))
        3.00 -0.75 nan
    """
    edges = check_edges(edges)
    shares = jnp.ones_like(mismatch.eigenvalues)
    if energies is not None:
        check_floating("energies", energies)
        require(
            energies.shape == mismatch.eigenvalues.shape,
            "energies",
            expected=f"shape {mismatch.eigenvalues.shape}, one for each mode",
            got=energies.shape,
        )
        shares = jnp.asarray(energies, shares.dtype)
    shell = jnp.searchsorted(edges, mismatch.eigenvalues, side="right") - 1
    member = shell == jnp.arange(len(edges) - 1)[:, None]
    shares = jnp.where(member & mismatch.resolved, shares, 0)
    return jnp.sum(shares * jnp.nan_to_num(mismatch.weights), -1) / jnp.sum(shares, -1)


def mismatch_window(
    weights: Float[Array, " shell"],
    energies: Float[Array, " shell"],
    edges: Float[Array, " edge"],
    *,
    share: float = 0.9,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the window ``[lambda_-, lambda_+]`` where most of the mismatch is (section 6.4).

    The paper asks for "the dominant contribution"; here it is the shortest run of shells that has
    the given share of ``sum |w| E``, and of several the one with the most.

    Args:
        weights: w of every shell, from `shell_weights`; NaN counts as zero.
        energies: E of every shell, >= 0.
        edges: K + 1 increasing positive shell boundaries.
        share: in (0, 1].

    Returns:
        Both ends, edges of shells; NaN where there is no mismatch.

    Raises:
        ValueError: if shapes disagree, or values are known to be out of range.

    Example:
        >>> edges = jnp.array([1.0, 2.0, 4.0, 8.0])
        >>> low, high = mismatch_window(jnp.array([0.0, 1.0, -2.0]), jnp.ones(3), edges)
        >>> float(low), float(high)
        (2.0, 8.0)
    """
    edges = check_edges(edges)
    weights = _per_shell(weights, "weights", edges)
    energies = check_positive("energies", _per_shell(energies, "energies", edges), zero=True)
    require(0 < share <= 1, "share", expected="a number in (0, 1]", got=share)
    sizes = jnp.abs(jnp.nan_to_num(weights)) * energies
    total = jnp.concatenate([jnp.zeros(1, sizes.dtype), jnp.cumsum(sizes)])
    inside = total[None, :] - total[:, None]  # from edge i to edge j
    index = jnp.arange(len(edges))
    length = index[None, :] - index[:, None]
    rounding = 10 * jnp.finfo(sizes.dtype).eps
    enough = (length > 0) & (inside >= (share - rounding) * total[-1])
    # Shortest first; the contents, less than one shell in size, decide between equals.
    order = length - inside / (2 * jnp.where(total[-1] > 0, total[-1], 1))
    best = jnp.argmin(jnp.where(enough, order, jnp.inf))
    low, high = jnp.unravel_index(best, inside.shape)
    some = total[-1] > 0
    return jnp.where(some, edges[low], jnp.nan), jnp.where(some, edges[high], jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DoubleDescent:
    """Training and test loss of a scale-free spectrum; made by `double_descent`.

    Attributes:
        train_loss: ``sum E`` over shells, per time.
        test_loss: ``sum (1 + w) E``.
        train_rate: ``d L_tr / dt``; not above zero, except where energy drifts in across the ends.
        test_rate: ``d L_te / dt``.
        amplified: the paper's condition: whether transport raises the amplitude, ``d_t A > 0``, in
            the middle of a shell with w > 0, per time.
        rises: whether the test loss rises, per time.
        non_monotone: whether it rises at some of the times and falls at others.
    """

    train_loss: Float[Array, " time"]
    test_loss: Float[Array, " time"]
    train_rate: Float[Array, " time"]
    test_rate: Float[Array, " time"]
    amplified: Bool[Array, " time"]
    rises: Bool[Array, " time"]
    non_monotone: Bool[Array, ""]


def double_descent(
    model: ScaleFree,
    edges: Float[Array, " edge"],
    weights: Float[Array, " shell"],
    times: Float[Array, " time"],
    *,
    equation: Equation = "conservative",
) -> DoubleDescent:
    """Tell whether a mismatch makes the test loss of a scale-free spectrum rise (section 6.4).

    The paper calls ``d_t A > 0`` in the mismatch window sufficient. It is necessary (for w >= 0
    and energy that does not come from outside), but the test loss rises only where
    ``sum (1 + w) dE/dt > 0``: where the growth of A outweighs the dissipation of the same shells,
    and the mismatch the falling training loss. Both conditions are here.

    Args:
        model: the initial spectrum and its drift.
        edges: K + 1 increasing positive shell boundaries.
        weights: w of every shell, from `shell_weights`; NaN counts as zero.
        times: positive times.
        equation: "conservative", or "advective" for the paper's solution.

    Returns:
        The `DoubleDescent`, at all times.

    Raises:
        ValueError: if shapes disagree, for an unknown equation, or values known to be out of range.

    Example:
        >>> from lnpjax.theory.shells import self_similar
        >>> downwards = self_similar(-0.5, 0.5)
        >>> times, edges = jnp.array([1.0, 10.0, 100.0]), jnp.array([1e-3, 0.01, 0.1, 10.0])
        >>> for mismatch in (100.0, 1.0):
        ...     weights = mismatch * jnp.array([0.0, 1.0, 0.0])
        ...     result = double_descent(downwards, edges, weights, times)
        ...     print(result.amplified, result.rises)
        [ True  True  True] [ True False False]
        [ True  True  True] [False False False]
    """
    edges, times = check_edges(edges), check_positive("times", times)
    require(times.ndim == 1, "times", expected="a vector", got=f"shape {times.shape}")
    weights = jnp.nan_to_num(_per_shell(weights, "weights", edges))

    def losses(time: Array) -> tuple[Array, Array]:
        energies = shell_energies(model, edges, time, equation=equation)
        return jnp.sum(energies, -1), jnp.sum((1 + weights) * energies, -1)

    (train, test), (train_rate, test_rate) = jax.jvp(losses, (times,), (jnp.ones_like(times),))
    centres = jnp.sqrt(edges[1:] * edges[:-1])
    growth = amplitude_growth(
        model.initial_density,
        centres,
        times[:, None],
        c0=model.c0,
        t0=model.t0,
        equation=equation,
    )
    rises = test_rate > 0
    return DoubleDescent(
        train_loss=train,
        test_loss=test,
        train_rate=train_rate,
        test_rate=test_rate,
        amplified=jnp.any((weights > 0) & (growth > 0), axis=-1),
        rises=rises,
        non_monotone=jnp.any(rises) & jnp.any(test_rate < 0),
    )


def _per_shell(values: Any, argument: str, edges: Array) -> Float[Array, " shell"]:
    check_floating(argument, values)
    require(
        values.shape == (len(edges) - 1,),
        argument,
        expected=f"shape {(len(edges) - 1,)}, one for each shell",
        got=values.shape,
    )
    return jnp.asarray(values, accumulation_dtype())
