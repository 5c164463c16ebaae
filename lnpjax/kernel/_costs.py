"""What a computation costs, before it is run: operations counted on its jaxpr, and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.interpreters import partial_eval
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax._base.jaxprs import subprograms


def matmul_flops(function: Callable[..., PyTree], *arguments: PyTree) -> float:
    """Count the floating-point operations of a function's matrix products and convolutions.

    A multiplication and an addition count as two. Loops with a known length are counted that often,
    a branch as its most expensive case; everything else (element-wise work) counts nothing, and so
    does what no result depends on.

    Args:
        function: traced, never run.
        *arguments: arrays or `jax.ShapeDtypeStruct`.

    Example:
        >>> import jax.numpy as jnp
        >>> matmul_flops(jnp.matmul, jnp.ones((3, 4)), jnp.ones((4, 5)))
        120.0
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(needed)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [part.jaxpr for part in subprograms(equation)]
        if name == "dot_general":
            total += _dot_general_flops(equation)
        elif name == "conv_general_dilated":
            total += _convolution_flops(equation)
        elif name == "cond":
            total += max(_flops(branch) for branch in inner)
        else:
            total += equation.params.get("length", 1) * sum(_flops(body) for body in inner)
    return total


def largest_intermediate(function: Callable[..., PyTree], *arguments: PyTree) -> int:
    """Return the bytes of the largest array that a function makes on its way.

    Args:
        function: traced, never run.
        *arguments: arrays or `jax.ShapeDtypeStruct`.

    Example:
        >>> import jax.numpy as jnp
        >>> largest_intermediate(lambda x: jnp.sum(jnp.outer(x, x)), jnp.ones(10))
        400
    """
    return _largest(jax.make_jaxpr(function)(*arguments).jaxpr)


def _largest(jaxpr: Any) -> int:
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [_largest(part.jaxpr) for part in subprograms(equation)]
        for variable in equation.outvars:
            if hasattr(variable.aval, "dtype"):
                sizes.append(variable.aval.size * variable.aval.dtype.itemsize)
    return max(sizes)


def _dot_general_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution_flops(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    out_axis = equation.params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(kernel) / kernel[out_axis]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps


def free_memory() -> int | None:
    """Return the bytes that the first device of this process can give, or `None` if unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _free_host_memory()
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


def _free_host_memory() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min([1024 * int(line.split()[1]), *_free_in_container()])
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_container() -> Iterator[int]:
    """Yield what a container's own limit leaves, if there is one (version 2 of control groups)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            yield max(0, int(limit) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return


def check_fits(argument: str, num_bytes: int, max_bytes: int | None, *, advice: str) -> None:
    """Refuse what would not fit into memory, before anything is allocated.

    Args:
        argument: what would be allocated, for the message.
        num_bytes: how much of it.
        max_bytes: how much there may be; `None` for what is free (`free_memory`).
        advice: how to need less.

    Raises:
        ValueError: if it does not fit.

    Example:
        >>> check_fits("kernel", 8_000, 1_000, advice="fewer samples")
        Traceback (most recent call last):
            ...
        ValueError: kernel: expected at most 1,000 bytes (fewer samples), got 8,000 bytes
    """
    limit = free_memory() if max_bytes is None else max_bytes
    require(
        limit is None or num_bytes <= limit,
        argument,
        expected=f"at most {limit:,} bytes ({advice})" if limit is not None else "",
        got=f"{num_bytes:,} bytes",
    )
