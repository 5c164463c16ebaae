"""Interleaved timing: every candidate sees the same moments of a noisy machine."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of one compiled function."""

    median: float  # seconds
    spread: float  # interquartile range over the median
    gigaflops: float  # as the compiler counts them
    temporary_bytes: int  # the compiler's own plan for scratch memory


def compile_all(functions, *arguments):
    return {
        name: jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
        for name, (function, donate) in functions.items()
    }


def time_interleaved(compiled, make_arguments, *, rounds=15, warm_up=2):
    """Run the compiled functions in turn, `rounds` times, on new arguments (they are donated)."""
    seconds = {name: [] for name in compiled}
    for index in range(warm_up + rounds):
        for name, function in compiled.items():
            arguments = jax.block_until_ready(make_arguments())
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if index >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: _timing(compiled[name], values) for name, values in seconds.items()}


def _timing(function, seconds):
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    analysis, memory = function.cost_analysis(), function.memory_analysis()
    return Timing(
        median=float(median),
        spread=float((high - low) / median),
        gigaflops=analysis["flops"] / 1e9,
        temporary_bytes=memory.temp_size_in_bytes,
    )
