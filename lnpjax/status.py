"""What can be wrong with a number, as bit flags that travel through jit."""

from __future__ import annotations

import enum
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Status(enum.IntFlag):
    """Why a component of a result is undefined; several can hold at once.

    Results carry the flags as an int32 array, because exceptions cannot leave compiled code.

    Example:
        >>> Status(5)
        <Status.ZERO_LOSS_GRADIENT|NON_FINITE: 5>
    """

    OK = 0
    ZERO_LOSS_GRADIENT = 1
    ZERO_JACOBIAN = 2
    NON_FINITE = 4
    SAMPLES_INTERACT = 8
    NOT_MEASURED = 16
    TOO_FEW_POINTS = 32
    NEGATIVE_EIGENVALUES = 64
    DEGENERATE_SPECTRUM = 128
    NOT_SYMMETRIC = 256
    VANISHING_EIGENVALUES = 512
    LOST_IN_ROUNDING = 1024
    LOSS_NOT_A_MEAN = 2048
    IMPOSSIBLE_POSITION = 4096
    NEGATIVE_PRECONDITIONER = 8192
    GRADIENT_MISFIT = 16384
    NO_UPDATE = 32768
    NOT_CONVERGED = 65536


_EXPLANATIONS = {
    Status.ZERO_LOSS_GRADIENT: (
        "the loss gradient with respect to the outputs is zero, and chi_pos 0/0, or so small that "
        "its square is zero (is the loss saturated, or the batch fully masked?)"
    ),
    Status.ZERO_JACOBIAN: (
        "no trainable parameter changes any output: chi_pos is 0/0 (dead units, or a `wrt` that "
        "selects unused parameters?)"
    ),
    Status.NON_FINITE: "an output, loss or gradient is infinite or NaN",
    Status.SAMPLES_INTERACT: (
        "a sample's output depends on the rest of the batch, so nothing can be said of samples one "
        "by one: put batch normalisation into inference mode, switch dropout off, lift capacity "
        "limits, or (for lnp) use estimator=GlobalHutchinson(...), which needs no per-sample norms"
    ),
    Status.NOT_MEASURED: "this step was not scheduled to be measured",
    Status.TOO_FEW_POINTS: (
        "fewer than three usable points to fit: values that are zero, negative, lost in "
        "rounding, infinite or NaN are left out (is the window of ranks too narrow, or beyond the "
        "rank of the kernel?)"
    ),
    Status.NEGATIVE_EIGENVALUES: (
        "an eigenvalue is negative beyond rounding: this is not a kernel J J^T"
    ),
    Status.DEGENERATE_SPECTRUM: (
        "eigenvalues coincide up to rounding: only sums over such modes are determined, not the "
        "share of each"
    ),
    Status.NOT_SYMMETRIC: "the kernel is not symmetric, so that it has no orthogonal eigenmodes",
    Status.VANISHING_EIGENVALUES: (
        "eigenvalues of the window are zero or lost in rounding, and were left out of the fit: an "
        "exponent from the rest describes only part of the window (move it to lower ranks, or take "
        "more samples or float64)"
    ),
    Status.LOST_IN_ROUNDING: (
        "gradients, or terms within the loss, cancel so far that rounding may be a tenth of "
        "chi_pos or more (measure in float32 or float64, or on a larger batch, or write the loss "
        "so that it does not cancel; see lnpjax.precision)"
    ),
    Status.IMPOSSIBLE_POSITION: (
        "a gradient is longer than this loss and network allow, beyond the error of chi_net: "
        "|chi_pos| above 1, of the whole or of a group, is impossible (is gradient_a of this very "
        "batch, loss and parameters, and of the mean rather than the sum? are there too few "
        "probes?)"
    ),
    Status.NEGATIVE_PRECONDITIONER: (
        "the preconditioner has negative entries, so that J P J^T is not a kernel and its trace "
        "not a scale"
    ),
    Status.GRADIENT_MISFIT: (
        "gradient_a is not the gradient of this loss on batch A at these parameters, so that "
        "delta_loss and chi_pos are not what they should be (was it clipped, scaled, decayed or "
        "averaged with others, or drawn with dropout or other statistics? hand over what jax.grad "
        "gives of the loss that is measured, or leave it out)"
    ),
    Status.NO_UPDATE: (
        "the update changed no parameter, so that nu compares nothing with nothing: is this a "
        "micro-step that only accumulates its gradient (see lnpjax.accumulated), or a learning "
        "rate of zero?"
    ),
    Status.NOT_CONVERGED: (
        "the iteration for the largest modes ended before all of them were settled to a hundredth "
        "of their eigenvalue: ask for fewer, or for all"
    ),
    Status.LOSS_NOT_A_MEAN: (
        "the loss of the batch is not the mean of the losses of its samples: do targets broadcast "
        "against outputs of another shape, or is it a sum? delta_loss and chi_pos are those of the "
        "loss as it is; the normalisation of chi_loss and chi_net by the number of samples is not "
        "(where samples differ in how many tokens count, weight each sample's own mean instead)"
    ),
}


def flag(condition: Bool[Array, ""], status: Status) -> Int[Array, ""]:
    """Return `status` where `condition` holds, else `Status.OK`, as an int32 array.

    Args:
        condition: a boolean, traced or not.
        status: the flags.

    Example:
        >>> int(flag(jnp.array(1.0) < 0, Status.NON_FINITE) | flag(True, Status.ZERO_JACOBIAN))
        2
    """
    return jnp.where(condition, jnp.int32(status), jnp.int32(0))


def describe_status(status: Any) -> str:
    """Say in words what a status means and what to do about it.

    Args:
        status: the `status` field of a result, as a concrete integer or array of shape ().

    Returns:
        One sentence per flag, or ``"ok"``.

    Example:
        >>> describe_status(0)
        'ok'
        >>> describe_status(16)
        'this step was not scheduled to be measured'
    """
    value = Status(int(status))
    return "; ".join(text for bit, text in _EXPLANATIONS.items() if bit in value) or "ok"
