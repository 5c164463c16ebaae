"""Interleaved timing: every candidate sees the same moments of a noisy machine."""

from __future__ import annotations

import dataclasses
import math
import time

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of one compiled function; nan stands for what this device does not tell."""

    median: float  # seconds; nan where the device's memory did not suffice
    spread: float  # interquartile range over the median
    gigaflops: float  # as the compiler counts them
    temporary_bytes: float  # the compiler's own plan for scratch memory


def compile_all(functions, *arguments):
    return {
        name: jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
        for name, (function, donate) in functions.items()
    }


def time_interleaved(compiled, make_arguments, *, rounds=15, warm_up=2):
    """Run the compiled functions in turn, `rounds` times, on new arguments (they are donated).

    A function for which the device's memory does not suffice is left out from then on.
    """
    seconds = {name: [] for name in compiled}
    running = dict(compiled)
    for index in range(warm_up + rounds):
        for name, function in list(running.items()):
            arguments = jax.block_until_ready(make_arguments())
            start = time.perf_counter()
            try:
                jax.block_until_ready(function(*arguments))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                del running[name]
                seconds[name].clear()
            else:
                if index >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
            del arguments  # else they would be alive beside the next function's
    return {name: _timing(compiled[name], values) for name, values in seconds.items()}


def compiler_flops(compiled):
    """The compiler's count of operations; nan where it gives none."""
    analysis = _told(compiled.cost_analysis)
    if isinstance(analysis, list | tuple):  # one per computation, in some versions of jax
        analysis = analysis[0] if analysis else None
    flops = (analysis or {}).get("flops", -1)
    return math.nan if flops < 0 else flops  # -1 stands for unknown


def planned_bytes(compiled, *kinds):
    """The compiler's plan for these kinds of memory, such as ``temp``; nan where it gives none."""
    analysis = _told(compiled.memory_analysis)
    return sum(getattr(analysis, f"{kind}_size_in_bytes", math.nan) for kind in kinds)


def _told(analyse):
    try:
        return analyse()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _timing(compiled, seconds):
    low, median, high = np.quantile(seconds or [math.nan], [0.25, 0.5, 0.75]).tolist()
    return Timing(
        median=median,
        spread=(high - low) / median,
        gigaflops=compiler_flops(compiled) / 1e9,
        temporary_bytes=planned_bytes(compiled, "temp"),
    )
