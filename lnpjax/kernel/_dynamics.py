"""How the scale of the kernel moves over a training run: adaptation rate and trace ratio."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_floating, check_values, is_integer, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype


def running_mean(
    values: Float[Array, "*batch epoch"], *, window: int = 20
) -> Float[Array, "*batch position"]:
    """Average `window` consecutive values, at every place where a window fits.

    The running average of *NTK Lens*, appendix B.4. The mean at index i is over the values i to
    ``i + window - 1``: nothing is padded or extrapolated at the ends.

    Args:
        values: one per epoch along the last axis.
        window: how many values a mean takes; the paper's 20 epochs.

    Returns:
        ``n - window + 1`` means of n values, in their units.

    Raises:
        TypeError: if `values` is not an array of real floating-point numbers.
        ValueError: if `window` is not an integer from 1 to n.

    Example:
        >>> running_mean(jnp.array([1.0, 2.0, 6.0, 7.0]), window=2)
        Array([1.5, 4. , 6.5], dtype=float32)
    """
    check_floating("values", values)
    require(values.ndim >= 1, "values", expected="at least one axis", got="a scalar")
    _check_window(window, values.shape[-1])
    starts = np.arange(values.shape[-1] - window + 1)
    windows = jnp.asarray(values, accumulation_dtype())[..., np.add.outer(starts, range(window))]
    return jnp.mean(windows, axis=-1)


@entry_point
def adaptation_rate(
    traces: Float[Array, "*batch epoch"],
    losses: Float[Array, "*batch epoch"],
    *,
    window: int = 20,
) -> Float[Array, "*batch position"]:
    """Return how much trace a falling loss comes with, ``d Tr(Theta) / d log(loss)``.

    *NTK Lens*, eq. 4, computed as in its appendix B.4: the trace and the logarithm of the
    training loss are averaged over `window` consecutive epochs, and one average is derived by the
    other. The derivative is the ratio of their differences between the next and the previous
    position, to second order in the distance of epochs; at the two ends, of those to the only
    neighbour, to first order. It is exact where the trace is linear in the log loss, however
    unevenly the loss falls.

    Args:
        traces: the trace of the kernel, once per epoch; for an ensemble, its mean.
        losses: the training loss at the same epochs.
        window: how many epochs an average takes.

    Returns:
        The rate at the ``n - window + 1`` positions of the running averages, in units of the trace;
        negative where the trace grows while the loss falls. The log losses that belong to it are
        ``running_mean(jnp.log(losses), window=window)``. NaN where the averaged log loss does not
        change by more than rounding.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if the shapes differ, or there are not at least two positions; and, where values
            are known, if they are not finite or a loss is not positive.

    Example:
        >>> losses = jnp.exp(-jnp.linspace(0.0, 3.0, 7) ** 2)
        >>> adaptation_rate(10 - 2 * jnp.log(losses), losses, window=3).round(4)
        Array([-2., -2., -2., -2., -2.], dtype=float32)
    """
    check_floating("traces", traces)
    check_floating("losses", losses)
    require(
        traces.ndim >= 1 and losses.shape == traces.shape,
        "losses",
        expected=f"one loss for each of the traces, of shape {traces.shape} with an axis of epochs",
        got=f"shape {losses.shape}",
    )
    _check_window(window, traces.shape[-1] - 1)
    check_values("traces", traces, expected="finite traces")
    check_values(
        "losses", losses, expected="finite losses above zero, which have a logarithm", above=0.0
    )
    trace = running_mean(traces, window=window)
    log_loss = running_mean(jnp.log(jnp.asarray(losses, accumulation_dtype())), window=window)

    def differences(values: Array) -> Array:
        padded = jnp.concatenate([values[..., :1], values, values[..., -1:]], axis=-1)
        return padded[..., 2:] - padded[..., :-2]

    change = differences(log_loss)
    # A loss known to eps has a logarithm known to eps, too, where that is below one.
    rounding = 4 * jnp.finfo(change.dtype).eps * jnp.maximum(jnp.abs(log_loss), 1)
    return jnp.where(jnp.abs(change) > rounding, differences(trace) / change, jnp.nan)


def trace_ratio(
    trace_at_minimum: float | Float[Array, "*batch"], trace_at_start: float | Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Return how much the trace grew during training, relative to where it began.

    *NTK Lens*, eq. 5: ``beta = (Tr(Theta_min) - Tr(Theta_0)) / Tr(Theta_0)``, which tends to
    zero as a network becomes wide and its kernel stays as it was.

    Args:
        trace_at_minimum: trace of the kernel where the test loss is lowest.
        trace_at_start: trace of the kernel at initialisation.

    Returns:
        The ratio, a number >= -1 without units.

    Raises:
        ValueError: where values are known, if a trace is negative, infinite or NaN, or the initial
            one is zero.

    Example:
        >>> trace_ratio(3.0, 2.0)
        Array(0.5, dtype=float32)
    """
    check_values("trace_at_minimum", trace_at_minimum, expected="finite traces >= 0", least=0.0)
    check_values("trace_at_start", trace_at_start, expected="finite traces > 0", above=0.0)
    dtype = accumulation_dtype()
    start = jnp.asarray(trace_at_start, dtype)
    return (jnp.asarray(trace_at_minimum, dtype) - start) / start


def _check_window(window: Any, most: int) -> None:
    require(
        is_integer(window) and 1 <= window <= most,
        "window",
        expected=f"an integer from 1 to {most}, so that there are enough epochs for it",
        got=window,
    )
