"""Run the benchmarks: ``python -m benchmarks [FILTER] [--rounds N] [--out FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import platform

import jax

import lnpjax
from benchmarks import measured_step

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


def table(rows):
    lines = [f"{rows[0]['model']} parameters, batch {rows[0]['batch']}"]
    lines.append(f"{'':34}{'ms':>8}{'spread':>8}{'cost':>8}{'flops':>8}{'paper':>8}{'memory':>8}")
    for row in rows:
        lines.append(
            f"{row['variant']:34}{row['milliseconds']:8.1f}{row['spread']:8.0%}"
            f"{row['cost_in_plain_steps']:8.2f}{row['flops_in_plain_steps']:8.2f}"
            f"{row['overhead_at_paper_schedule']:8.2%}{row['scratch_memory_in_plain_steps']:8.2f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Cost of one cross-batch LNP measurement, in plain training steps: measured "
        "(cost), as the compiler counts operations (flops), what it adds to a run at the paper's "
        "schedule (paper), and scratch memory against a plain step's (memory).",
    )
    parser.add_argument("filter", nargs="?", default="", help="only workloads such as '1.2M-64'")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; medians are taken")
    parser.add_argument("--out", help="also write the rows as JSON to this file")
    arguments = parser.parse_args()
    results = {"environment": environment(), "rows": []}
    for name, batch_size, length in WORKLOADS:
        if arguments.filter in f"{name}-{length}":
            rows = measured_step.run(name, batch_size, length, rounds=arguments.rounds)
            print(table(rows) + "\n", flush=True)
            results["rows"] += rows
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
