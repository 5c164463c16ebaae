"""Peak memory of a training step with and without a measurement, each in a process of its own.

A fresh process builds the workload, compiles one variant of the step and runs it a few times on
what it is given back. Two numbers come out:

- The peak while it ran, with everything that was alive: parameters, optimizer state and batches as
  well as what the step made. Compiling takes more memory than many a step does, and building the
  model some, so neither may count:

  - An accelerator's allocator keeps one peak since the start of the process, which cannot be set
    back. It is read before and after the first execution; if it did not rise, the step's own peak
    is hidden below it and stays unknown.
  - On a CPU, the step runs once, memory that is free is given back to the system (`malloc_trim`),
    Linux is told to forget the peak of the resident set (5 written to ``/proc/self/clear_refs``),
    and the step runs again. Its peak is the new high-water mark's rise over what was resident,
    plus the bytes of the arrays that the step starts from. Where the system refuses to forget, the
    old mark has to be passed, as on an accelerator; without ``/proc`` the peak is unknown. Pages
    that a step reserves and never touches are not in the resident set: a peak can be below the
    plan.

- The compiler's plan: scratch memory, arguments and results, less those that share their place. It
  leaves out arguments that a function does not use: optimizer state, in a stand-alone measurement.

An accelerator's memory must be free for this: the process that starts these must not yet have used
the device, or must not have reserved its memory (``XLA_PYTHON_CLIENT_PREALLOCATE=false``).

One variant, here and now: ``python -m benchmarks.memory 115K 32 64 measured``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import math
from pathlib import Path

import jax

from benchmarks import measured_step, tables, timing
from benchmarks.processes import found_by

VARIANTS = ("plain step", "measured", "measured, closed forms", "stand-alone")
MOST_RUNS = 3  # the peak is the same in every run but for the allocator's moods


def run(model_name, batch_size, length, *, rounds):
    """One process after the other; ratios to the plain step's."""
    found = {
        name: in_own_process(model_name, batch_size, length, name, runs=min(rounds, MOST_RUNS))
        for name in VARIANTS
    }
    plain = found["plain step"]
    return [
        {
            "workload": f"{model_name}, {batch_size} x {length}",
            "variant": name,
            **memory,
            "peak_in_plain_steps": memory["peak_megabytes"] / plain["peak_megabytes"],
            "planned_in_plain_steps": memory["planned_megabytes"] / plain["planned_megabytes"],
        }
        for name, memory in found.items()
    ]


def table(rows):
    """peak: most memory while the step ran, by `source`; planned: the compiler's plan."""
    return tables.render(
        rows,
        title=f"memory, {rows[0]['workload']}",
        label=lambda row: row["variant"],
        columns={
            "peak MB": ("peak_megabytes", ".0f"),
            "in plain": ("peak_in_plain_steps", ".2f"),
            "planned MB": ("planned_megabytes", ".0f"),
            "in plain ": ("planned_in_plain_steps", ".2f"),
            "source": ("source", ""),
        },
    )


def in_own_process(model_name, batch_size, length, variant, *, runs):
    """What `measure` finds in a fresh Python; unknown peaks where the device's memory ran out."""
    arguments = (model_name, batch_size, length, variant, "--runs", runs)
    try:
        return found_by("memory", *arguments, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    return {"peak_megabytes": math.nan, "planned_megabytes": math.nan, "source": "allocator"}


def measure(model_name, batch_size, length, variant, *, runs):
    """Peak and plan of one variant, in this process."""
    work = measured_step.workload(model_name, batch_size, length)
    function, donated = measured_step.variants(work)[variant]
    state, *rest = work.state, work.batch_a, work.batch_b, jax.random.key(3)
    work = work._replace(state=None)  # the step may take the state's place
    compiled = jax.jit(function, donate_argnums=donated).lower(state, *rest).compile()
    start_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((state, work.batch_a, work.batch_b)))

    def execute(times):
        nonlocal state
        for _ in range(times):
            results = jax.block_until_ready(compiled(state, *rest))
            if donated:
                state = results[0]
            del results

    gc.collect()
    if "peak_bytes_in_use" in (jax.local_devices()[0].memory_stats() or {}):
        peak, source = allocator_peak(lambda: execute(runs)), "allocator"
    else:
        execute(1)
        peak, source = start_bytes + resident_growth(lambda: execute(runs)), "resident set"
    planned = timing.planned_bytes(compiled, "temp", "argument", "output")
    shared = timing.planned_bytes(compiled, "alias")
    return {
        "peak_megabytes": peak / 1e6,
        "planned_megabytes": (planned - shared) / 1e6,
        "source": source,
    }


def allocator_peak(execute):
    """Most bytes in use on the first device, or nan where an earlier peak hides it."""

    def peak():
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]

    before = peak()
    execute()
    return peak() if peak() > before else math.nan


def resident_growth(execute):
    """Most bytes by which the resident set grew, or nan where an earlier peak hides it."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    try:
        start, hidden_below = resident_bytes()
    except OSError:  # no /proc
        return math.nan
    execute()
    _, peak = resident_bytes()
    return peak - start if peak > hidden_below else math.nan


def resident_bytes():
    """What is resident now, and the most that was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("model")
    parser.add_argument("batch_size", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("variant", help="a name in benchmarks.measured_step.variants")
    parser.add_argument("--runs", type=int, default=MOST_RUNS)
    given = parser.parse_args()
    found = measure(given.model, given.batch_size, given.length, given.variant, runs=given.runs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
