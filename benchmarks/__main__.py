"""Run the benchmarks: ``python -m benchmarks [FILTER] [--rounds N] [--out FILE]``."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform

import jax

import lnpjax
from benchmarks import kernel_cost, lanczos_cost, lens_cost, measured_step

WORKLOADS = [("115K", 32, 64), ("115K", 32, 128), ("1.2M", 32, 64), ("1.2M", 32, 128)]


def environment():
    return {
        "lnpjax": lnpjax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def step_table(rows):
    lines = [f"{rows[0]['model']} parameters, batch {rows[0]['batch']}"]
    lines.append(f"{'':34}{'ms':>8}{'spread':>8}{'cost':>8}{'flops':>8}{'paper':>8}{'memory':>8}")
    for row in rows:
        lines.append(
            f"{row['variant']:34}{row['milliseconds']:8.1f}{row['spread']:8.0%}"
            f"{row['cost_in_plain_steps']:8.2f}{row['flops_in_plain_steps']:8.2f}"
            f"{row['overhead_at_paper_schedule']:8.2%}{row['scratch_memory_in_plain_steps']:8.2f}"
        )
    return "\n".join(lines)


def kernel_table(rows):
    lines = [f"{rows[0]['workload']}: {rows[0]['rows']} rows, {rows[0]['parameters']:,} parameters"]
    lines.append(f"{'':32}{'s':>8}{'spread':>8}{'MB':>8}{'floor GF':>10}{'GF/s':>8}{'differs':>10}")
    for row in rows:
        name = f"{row['backend']}, {row['method']}{' (chosen)' if row['chosen'] else ''}"
        lines.append(
            f"{name:32}{row['seconds']:8.2f}{row['spread']:8.0%}{row['scratch_megabytes']:8.0f}"
            f"{row['floor_gigaflop']:10.0f}{row['gigaflop_per_second']:8.0f}{row['difference']:10.0e}"
        )
    return "\n".join(lines)


def lanczos_table(rows):
    return "\n".join(
        f"lanczos {row['workload']}: 32 products {row['seconds_for_32_products']:.2f} s, "
        f"{row['gradients_per_product']:.2f} gradients each; scratch "
        f"{row['scratch_megabytes']:.0f} MB (Krylov basis {row['basis_megabytes']:.0f}, "
        f"a gradient's {row['gradient_megabytes']:.0f})"
        for row in rows
    )


def lens_table(rows):
    lines = [f"{rows[0]['workload']}: G has {rows[0]['stacked_gradients_megabytes']:.0f} MB"]
    lines.append(f"{'':34}{'s':>8}{'spread':>8}{'cost':>8}{'pool':>8}{'MB':>8}")
    for row in rows:
        lines.append(
            f"{row['variant']:34}{row['seconds']:8.2f}{row['spread']:8.0%}"
            f"{row['cost_in_plain_steps']:8.2f}{row['cost_in_steps_on_the_pool']:8.2f}"
            f"{row['scratch_megabytes']:8.0f}"
        )
    return "\n".join(lines)


def benchmarks():
    """Every benchmark by name: (a function of the number of rounds, how to show its rows)."""
    steps = {
        f"step-{model}-{length}": (
            functools.partial(measured_step.run, model, batch_size, length),
            step_table,
        )
        for model, batch_size, length in WORKLOADS
    }
    kernels = {
        f"kernel-{name}": (functools.partial(kernel_cost.run, name), kernel_table)
        for name in kernel_cost.WORKLOADS
    }
    lanczos = {
        f"lanczos-{name}": (functools.partial(lanczos_cost.run, name), lanczos_table)
        for name in lanczos_cost.WORKLOADS
    }
    lens = {f"lens-{lens_cost.MODEL}": (lens_cost.run, lens_table)}
    return steps | kernels | lanczos | lens


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="step-*: cost of one cross-batch LNP measurement, in plain training steps: "
        "measured (cost), as the compiler counts operations (flops), what it adds to a run at the "
        "paper's schedule (paper), and scratch memory against a plain step's (memory). kernel-*: "
        "the explicit eNTK by this library and by neural-tangents: seconds, scratch memory, the "
        "operations that the method needs at least, and how far it is from the first row. "
        "lanczos-*: spectral measures from 32 products with the eNTK. lens-*: spectra of "
        "activations and of per-sample gradients over 512 sequences, in plain steps (cost) and in "
        "steps on as many sequences (pool), and scratch memory.",
    )
    parser.add_argument("filter", nargs="?", default="", help="only names with this in them")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; medians are taken")
    parser.add_argument("--out", help="also write the rows as JSON to this file")
    arguments = parser.parse_args()
    results = {"environment": environment(), "rows": []}
    for name, (run, table) in benchmarks().items():
        if arguments.filter in name:
            rows = run(rounds=arguments.rounds)
            print(table(rows) + "\n", flush=True)
            results["rows"] += rows
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
