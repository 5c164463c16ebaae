"""What rounding leaves of chi_pos, in whatever precision a network computes.

Norms and inner products add up in float32 (float64 under x64), so the rounding that matters is that
of the network's own passes, and that of the loss. Three cancellations magnify it:

- the loss gradient g is a small difference where the loss is near zero: between outputs and
  targets, or between a probability of nearly one and one;
- a gradient ``G = J^T g`` is shorter than its parts: ``|G|^2 = chi_pos |J|_F^2 |g|^2``;
- ``delta_loss = <G_B, G_A>`` is smaller than ``|G_B| |G_A|`` where the batches disagree.

With u half the spacing of numbers next to one (2^-8 in bfloat16, 2^-24 in float32), s the
sensitivity of the loss gradient to rounding, of the outputs and within the loss itself
(`loss_sensitivity`), and M outputs in the batch, a gradient carries noise of about

    ``|E|^2 = u^2 (1 + s^2) (|G|^2 + |J|_F^2 |g|^2 / M)``.

The last term is what random signs would give: rounding puts noise into every direction of output
space, of which ``|J|_F^2 / M`` is the mean eigenvalue. It is a floor under chi_pos: a batch against
itself shows ``u^2 (1 + s^2) / M`` more than the truth. `relative_error` turns the noise into that
of delta_loss.

`benchmarks/precision.py` repeats the measurement against float64. What came out:

- A batch against itself is safe. With the loss gradient along one eigenvector of the kernel after
  another, bfloat16 is off by 0.1 to 0.8 % while chi_pos falls from 20 / M to ``200 u^2 / M``; by
  10 % at about ``10 u^2 / M`` (1.5e-4 / M; in float32 4e-14 / M), and below ``u^2 / M`` only the
  floor is left. A gradient of random signs has ``1 / M``, so that no usual loss gets there. The
  rule takes the noise to lie along the gradient, and so warns early: from ``450 u^2 / M`` on.
- Two batches lose digits with the cosine of their gradients, and so with ``chi_pos`` against the
  geometric mean of each batch's own. The cosine was off by 0.1 to 0.7 u in bfloat16; the rule
  allows for ``u sqrt(2 (1 + s^2)) / 2`` and warns from ``7 u sqrt(1 + s^2)`` on: 0.03 in bfloat16
  and 4e-7 in float32 for small s, 0.15 in bfloat16 for s = 5.
- Training makes the loss gradient a small difference between outputs and targets that are known to
  u only. On a trained language model bfloat16 put delta_loss off by 3.5 % for a batch against
  itself (the rule, with s = 5.3, says 6 %), chi_loss by 0.7 %; a small one at initialisation, with
  s near 0, by 0.05 % and 0.01 %.
- Float32 sums add rounding of their own: float32 gradients were off by up to 22 u and cosines by
  4 u, where the rule says less. That is 0.3 % at a cosine of 1e-4.

Near zero, the usual losses cancel. Where one example of the softmax cross-entropy is right by a
probability of 1 - d, the entry of g at its label is (1 - d) - 1, known to ``u / d`` of itself; in
float32, with a linear model of logits that lead by 17 (a mean loss of 4e-8), g was off by 4 %, and
chi_pos by up to 20 % more or less from 17 to 20; float64 does the same from 36 to 40. A squared
error at an offset of 1e7, or with residuals of 1e-7 of the outputs, is known no better. All of
these are flagged (`tests/decomposition/test_losses_near_zero.py`), from errors of g of one or two
percent on. The rule runs the loss gradient again with every step rounded at random
(`lnpjax._base.random_rounding`): it says 4 to 6 times the actual error of g, and half of that
enters the noise.

What helps is a formula that does not cancel. The cross-entropy by margins takes the entry at the
label as minus the sum of the others, and was exact to 1e-6 where the usual formula had no digit
left::

    def cross_entropy(logits, labels):
        others = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool) == 0
        margins = logits - jnp.take_along_axis(logits, labels[..., None], axis=-1)
        return jnp.mean(jax.nn.softplus(jax.nn.logsumexp(margins, where=others, axis=-1)))

For two classes that is ``softplus(-margin)``; by hand, use ``log1p(exp(x))`` and ``expm1(x)``,
never ``log(1 + exp(x))`` and ``exp(x) - 1``. For the squared error, subtract offsets from targets
before training rather than add them to outputs: residuals should be formed from numbers of their
own size.

Compute the loss in float32 from bfloat16 outputs (``outputs.astype("float32")`` in the loss): it
costs nothing and spares the loss itself an error of u; gradients barely notice.

A float32 product on an accelerator multiplies in less than float32 unless
`jax.default_matmul_precision` says otherwise; pass its spacing as `eps` then.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base import numerics
from lnpjax._base.checks import require
from lnpjax._base.random_rounding import rounded_at_random
from lnpjax.status import Status, flag

__all__ = [
    "gradient_noise",
    "loss_sensitivity",
    "relative_error",
    "rounding_flag",
]
ALIGNMENT = 0.5
"""The share of one gradient's noise that lies along the other: twice what bfloat16 has shown."""
LARGEST_ERROR = 0.1
"""The relative error of chi_pos from which on `Status.LOST_IN_ROUNDING` is set."""


def loss_sensitivity(
    loss_gradient: Callable[[Array], Array],
    outputs: Float[Array, "batch ..."],
    gradient: Float[Array, "batch ..."],
    *,
    gradient_norm: Float[ArrayLike, ""] | None = None,
    eps: float,
) -> Float[Array, ""]:
    """Return how much more the loss gradient loses to rounding than outputs are rounded.

    The gradient is computed once more, with the outputs and every step within the loss rounded at
    random (`lnpjax._base.random_rounding`), and compared: ``|g' - g| / (eps |g|)``. It so sees
    outputs close to their targets, and terms within the loss that cancel.

    Args:
        loss_gradient: ``loss_gradient(outputs) -> g``, the gradient of the loss in the outputs.
        outputs: the outputs ``(B, ...)``.
        gradient: ``loss_gradient(outputs)``, as measured.
        gradient_norm: what the change is compared with; ``|g|`` if `None`.
        eps: the spacing of the outputs next to one, from `compute_precision`.

    Returns:
        A number >= 0. 1 says that the gradient is known as well as the outputs are; ``1/eps`` that
        it is nothing but rounding. For the squared error about ``|f| / |f - y|``. NaN where g is
        zero.

    Cost: one gradient of the loss in the outputs, without the network.

    Example:
        >>> outputs, targets = jnp.array([8.0, 8.0]), jnp.array([7.0, 7.0])
        >>> gradient = lambda f: f - targets
        >>> loss_sensitivity(gradient, outputs, gradient(outputs), eps=2.0**-7).round(2)
        Array(8., dtype=float32)
    """
    dtype = numerics.accumulation_dtype()
    moved = rounded_at_random(loss_gradient, outputs, eps=eps).astype(dtype)
    gradient = gradient.astype(dtype)
    # Where another rounding gives nothing finite, the first one says what is known.
    change = jnp.where(jnp.isfinite(moved), moved - gradient, gradient)
    norm = jnp.linalg.norm(gradient) if gradient_norm is None else gradient_norm
    return jnp.linalg.norm(change) / (eps * norm)


def gradient_noise(
    gradient_norm: Float[ArrayLike, ""],
    loss_scale: Float[ArrayLike, ""],
    squared_jacobian_norm: Float[ArrayLike, ""],
    num_outputs: Float[ArrayLike, ""],
    *,
    eps: float,
    sensitivity: Float[ArrayLike, ""] = 0.0,
) -> Float[Array, ""]:
    """Return the norm of the rounding error in a loss gradient ``J^T g``, to order of magnitude.

    ``u sqrt(1 + s^2) sqrt(|J^T g|^2 + |J|_F^2 |g|^2 / M)``, with ``u = eps / 2``.

    Args:
        gradient_norm: ``|J^T g|``.
        loss_scale: ``|g|``.
        squared_jacobian_norm: ``|J|_F^2`` over the batch, without normalisation.
        num_outputs: M, the outputs of the whole batch; those of masked samples do not count.
        eps: from `compute_precision`.
        sensitivity: s, from `loss_sensitivity`.

    Returns:
        The norm, in the units of `gradient_norm`.

    Raises:
        ValueError: if `eps` is negative.

    Example:
        >>> gradient_noise(3.0, 2.0, 400.0, 100, eps=0.5)
        Array(1.25, dtype=float32, weak_type=True)
    """
    require(eps >= 0, "eps", expected="a number >= 0", got=eps)
    floor = jnp.asarray(loss_scale) ** 2 * squared_jacobian_norm / num_outputs
    relative = eps / 2 * jnp.sqrt(1 + jnp.asarray(sensitivity) ** 2)
    return relative * jnp.sqrt(jnp.asarray(gradient_norm) ** 2 + floor)


def relative_error(
    delta_loss: Float[ArrayLike, ""],
    norm_a: Float[ArrayLike, ""],
    norm_b: Float[ArrayLike, ""],
    noise_a: Float[ArrayLike, ""],
    noise_b: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    """Return the rounding error of delta_loss, and so of chi_pos, relative to what was measured.

    With the relative noise ``r = sqrt(noise_a^2 / |G_A|^2 + noise_b^2 / |G_B|^2)`` it is
    ``(r (|delta_loss| + |G_A| |G_B| / 2) + noise_a noise_b) / |delta_loss|``: noise along a
    gradient scales the inner product, and `ALIGNMENT` of the rest is taken to lie along the other.

    Args:
        delta_loss: ``<G_B, G_A>``, as measured.
        norm_a: ``|G_A|``, the norm of the gradient.
        norm_b: ``|G_B|``.
        noise_a: the norm of the error of ``G_A``, from `gradient_noise`.
        noise_b: of ``G_B``.

    Returns:
        The error; zero where delta_loss is, since only gradients without common entries leave
        exactly nothing.

    Example:
        >>> relative_error(0.5, 1.0, 1.0, 0.03, 0.04).round(4)
        Array(0.1024, dtype=float32, weak_type=True)
    """
    delta = jnp.abs(delta_loss)
    norm_a, norm_b = jnp.asarray(norm_a), jnp.asarray(norm_b)
    product = norm_a * norm_b
    # Dividing r by the norms last keeps gradients of zero free of 0/0.
    scaled = jnp.hypot(noise_a * norm_b, noise_b * norm_a)
    cosine = delta / jnp.where(product == 0, 1, product)
    error = scaled * (cosine + ALIGNMENT) + noise_a * jnp.asarray(noise_b)
    return jnp.where(delta == 0, 0.0, error / jnp.where(delta == 0, 1, delta))


def rounding_flag(error: Float[ArrayLike, ""]) -> Int[Array, ""]:
    """Return `Status.LOST_IN_ROUNDING` where chi_pos has an error above `LARGEST_ERROR`.

    Args:
        error: from `relative_error`. NaN is not flagged: whatever made it has a flag of its own.

    Example:
        >>> int(rounding_flag(0.2)), int(rounding_flag(0.05))
        (1024, 0)
    """
    lost: Bool[Array, ""] = jnp.asarray(error) > LARGEST_ERROR
    return flag(lost, Status.LOST_IN_ROUNDING)
