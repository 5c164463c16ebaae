"""Functions of outputs and targets as the space in which a kernel acts.

The shells paper measures the kernel ``M = J J^*`` of the error itself, which for a language model
is not its logits but one number per token. Composed with such a function, a network is a network
of its own, and `lnpjax.entk`, `lnpjax.linearize` and `lnpjax.spectral_measure` take it as it is.

An observable o is its own error: gradient flow on ``|o|^2 / 2`` has ``do/dt = -M o``. The paper's
``e = f* - f`` differs from `residual` in sign alone, which leaves M and all energies as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import check_floating, check_functions, checked_ids, require
from lnpjax.jacobian._contract import ApplyFn

Observable: TypeAlias = Callable[[Array, PyTree], Array]


def observable(apply_fn: ApplyFn, function: Observable) -> ApplyFn:
    """Make a function of outputs and targets a network whose inputs are ``(inputs, targets)``.

    *Spectral shells*, sections 2.1 and 7.1. Its Jacobian is that of the observable by the chain
    rule, ``J_o = (do/df) J``, so that every measure of the library acts in the observable's space.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        function: ``function(outputs, targets) -> (B, ...)``, a row per sample that depends on that
            sample alone: `residual`, `token_surprisal`, or one of your own.

    Returns:
        ``apply(params, (inputs, targets)) -> (B, ...)``.

    Raises:
        TypeError: if an argument cannot be called.

    Cost: none of its own.

    Example:
        >>> from lnpjax import linearize
        >>> error = observable(lambda w, x: x @ w, residual)
        >>> batch = (jnp.eye(2), jnp.array([[1.0], [5.0]]))
        >>> linearize(error, jnp.array([[3.0], [4.0]]), batch).outputs.ravel()
        Array([ 2., -1.], dtype=float32)
    """
    check_functions(apply_fn=apply_fn, function=function)

    def apply_observable(params: PyTree, batch: tuple[PyTree, PyTree]) -> Float[Array, "batch ..."]:
        inputs, targets = batch
        return function(apply_fn(params, inputs), targets)

    return apply_observable


def residual(
    outputs: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """Return the error of a regression, ``f - y``.

    Minus the error ``e = f* - f`` of *Spectral shells*, section 2.1.

    Args:
        outputs: f, ``(B, ...)``.
        targets: y, of the same shape.

    Returns:
        ``(B, ...)``, in units of the outputs.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if the shapes differ.

    Example:
        >>> residual(jnp.array([[3.0]]), jnp.array([[1.0]]))
        Array([[2.]], dtype=float32)
    """
    check_floating("outputs", outputs)
    check_floating("targets", targets)
    require(
        targets.shape == outputs.shape,
        "targets",
        expected=f"the shape of the outputs, {outputs.shape}",
        got=targets.shape,
    )
    return jnp.asarray(outputs) - targets


def token_surprisal(
    outputs: Float[Array, "batch ... vocabulary"], targets: Int[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """Return the surprisal of each target, ``e = -log q(y* | x)``, in nats.

    *Spectral shells*, eq. 24: the observable of its section 7, whose energy density is ``e^2``.

    What the square stands for. With one-hot targets the divergence KL(p || q) of a token IS e
    (eq. 25; the constant is zero), and the training loss is its mean. Equation 26 and appendix
    A put ``e^2 / 2`` in its place near ``q = 1``; but there ``1 - q = e + O(e^2)``, the divergence
    is linear in e, and no expansion turns e into its square. Read ``e^2 / 2`` as a second loss that
    vanishes at the same predictions. Two things follow. Its shell energies are exact as energies of
    e. Its dissipation is that of gradient flow on ``e^2 / 2``; training on the mean of e moves e by
    ``de/dt = -M 1``, not by ``-M e``, which the parameters' true velocity takes into account
    (`lnpjax.shells`).

    Args:
        outputs: logits, ``(B, ..., vocabulary)``.
        targets: tokens, ``(B, ...)``.

    Returns:
        ``(B, ...)``, >= 0. In float32 at least. NaN where, under `jit`, a target is not a token.

    Raises:
        TypeError: if logits are not real floating-point, or targets not integer.
        ValueError: if shapes disagree; where values are known, if a target is not a token (a mask
            of -100, say: leave such tokens out of the observable instead).

    Example:
        >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.75, 0.25]]]))
        >>> jnp.exp(-token_surprisal(logits, jnp.array([[0, 1]])))
        Array([[0.5 , 0.25]], dtype=float32)
    """
    check_floating("outputs", outputs)
    require(
        outputs.ndim >= 2 and jnp.shape(targets) == outputs.shape[:-1],
        "targets",
        expected=f"one token for each row of logits, shape {outputs.shape[:-1]}",
        got=jnp.shape(targets),
    )
    ids = checked_ids("targets", targets, outputs.shape[-1])
    logits = jnp.asarray(outputs, jnp.promote_types(outputs.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(
        log_probabilities, ids[..., None], axis=-1, mode="fill", fill_value=jnp.nan
    )[..., 0]
