"""Run the benchmarks: ``python -m benchmarks [FILTER] [--rounds N] [--out FILE]``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any, NamedTuple

FAMILIES = {
    "memory": "peak memory of one training step in a process of its own, measured and as the "
    "compiler plans it, with a measurement and without",
    "simulated": "programs of a 7B model for 256 devices, compiled and not run: what each device "
    "computes, in plain steps on as many samples (in plain) and in an equal share of what is "
    "needed (work); what collectives leave on it, in copies of the parameters (of P); its memory",
    "step": "one cross-batch LNP measurement, in plain training steps: as timed (cost), as "
    "operations are counted (flops), what it adds to a run at the paper's schedule (paper); the "
    "rate of matrix products (TF/s), scratch memory against a plain step's (memory)",
    "kernel": "the explicit eNTK by this library and by neural-tangents: seconds, gradients on the "
    "batch (cost), scratch memory, the operations that the method needs at least, and how far it "
    "is from the first row",
    "lanczos": "spectral measures from 32 products with the eNTK, each in gradients (cost)",
    "lens": "spectra of activations and of per-sample gradients over 512 sequences, in plain steps "
    "(cost) and in steps on as many sequences (pool)",
    "compile": "tracing and compiling a step that measures, in CPU seconds, and in a plain step's "
    "(cost)",
    "precision": "bfloat16 compute against float32, by quantity",
    "rival": "the same measurement by perspic (PyTorch, Opacus): agreement, error, time, memory",
}
EXACT = ("plain step", "measured", "measured, exact", "one batch, exact")
"""Of a network with ten classes, whose norms are computed without probes."""
ON_ACCELERATORS = (
    "plain step",
    "measured",
    "measured, closed forms",
    "measured, 8 samples probed",
    "stand-alone",
)


class Benchmark(NamedTuple):
    """Modules have ``run(*arguments, rounds=..., **options) -> rows`` and ``table(rows)``.

    They are imported when their turn comes: some need packages that not everyone has.
    """

    module: str
    arguments: tuple = ()
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    needs: str | None = None  # "accelerator", "perspic"
    apart: bool = False  # starts processes that use the device, so that this one must not yet


def registry():
    """Every benchmark by name, in the order in which they run.

    Those that measure in processes of their own come first: an accelerator's memory goes to the
    first process that uses the device.
    """
    memory = {
        f"memory-{model}-128": Benchmark("memory", (model, 32, 128), apart=True)
        for model in ("1.2M", "31.5M")
    }
    simulated = {
        f"simulated-7B{name}": Benchmark("simulated", ("7B", *arguments), apart=True)
        for name, arguments in {
            "": ("data=256", 1024, 4096, "loop"),
            "-unrolled": ("data=256", 1024, 4096, "unrolled"),
            "-64x4": ("data=64,model=4", 1024, 4096, "loop"),
            "-1024": ("data=256", 4096, 1024, "loop"),
        }.items()
    }
    steps = {
        f"step-{model}-{length}": Benchmark("measured_step", (model, 32, length))
        for model in ("115K", "1.2M")
        for length in (64, 128)
    }
    steps["step-vit-64"] = Benchmark("measured_step", ("vit-64", 32, 28), {"names": EXACT})
    large = {"dtypes": ("float32", "bfloat16"), "names": ON_ACCELERATORS}
    large_steps = {
        f"step-{model}-512": Benchmark("measured_step", (model, 32, 512), large, "accelerator")
        for model in ("31.5M", "134M")
    }
    kernels = {
        f"kernel-{name}": Benchmark("kernel_cost", (name,)) for name in ("mlp", "cnn", "llama")
    }
    # What would take minutes a round is left out.
    ours = {"ours": ("structured", "products"), "theirs": ()}
    fast = {"ours": ("structured",), "theirs": ()}
    kernels |= {
        "kernel-mlp-512": Benchmark("kernel_cost", ("mlp-512",), fast),
        "kernel-mlp-1024": Benchmark("kernel_cost", ("mlp-1024",), fast),
        "kernel-llama-256": Benchmark("kernel_cost", ("llama-256",), ours, "accelerator"),
    }
    lanczos = {
        f"lanczos-{model}": Benchmark("lanczos_cost", (model,)) for model in ("1.2M", "115K")
    }
    rivals = {
        f"rival-{model}-64": Benchmark("rival", (model, 32, 64), needs="perspic")
        for model in ("115K", "1.2M", "3.8M")
    }
    others = {
        "lens-1.2M": Benchmark("lens_cost"),
        "compile-6": Benchmark("compile_cost", (6,)),
        "precision": Benchmark("precision"),
    }
    return memory | simulated | steps | large_steps | kernels | lanczos | others | rivals


def reason_to_skip(benchmark, *, perspic, named):
    """Why a benchmark cannot run here, and what to do about it; None if it can.

    Args:
        benchmark: an entry of the registry.
        perspic: the folder of perspic, or None.
        named: whether the user gave this benchmark's full name.
    """
    if importlib.util.find_spec(f"benchmarks.{benchmark.module}") is None:
        return f"benchmarks/{benchmark.module}.py is not there"
    if benchmark.needs == "perspic" and perspic is None:
        return "give --perspic PATH, a checkout of github.com/zincware/perspic"
    if benchmark.needs == "accelerator" and not named:
        import jax

        if jax.default_backend() == "cpu":
            return (
                "sized for an accelerator, and there is none (its full name runs it all the same)"
            )
    return None


def listing(chosen):
    lines = []
    for family, about in FAMILIES.items():
        members = {name: b for name, b in chosen.items() if name.split("-")[0] == family}
        if members:
            lines += textwrap.wrap(f"{family}: {about}.", width=100)
        for name, benchmark in members.items():
            lines.append(f"  {name}" + (f"  (needs {benchmark.needs})" if benchmark.needs else ""))
    return "\n".join(lines)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Cost and memory, as ratios to one plain training step; what became slower or "
        "larger than in the committed results for such a machine is shown at the end.",
        epilog="--list says what there is and what the columns mean.",
    )
    parser.add_argument("filter", nargs="?", default="", help="only names with this in them")
    parser.add_argument("--list", action="store_true", help="show the names, run nothing")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; medians are taken")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write environment and rows here")
    baseline = parser.add_mutually_exclusive_group()
    baseline.add_argument(
        "--baseline", type=Path, metavar="FILE", help="compare with these results"
    )
    baseline.add_argument("--no-baseline", action="store_true", help="compare with none")
    parser.add_argument(
        "--fail-on-regression", action="store_true", help="exit with 1 if something became worse"
    )
    parser.add_argument("--perspic", type=Path, metavar="PATH", help="a checkout of perspic")
    options = parser.parse_args(arguments)
    options.chosen = {
        name: benchmark for name, benchmark in registry().items() if options.filter in name
    }
    if not options.chosen:
        parser.error(f"no benchmark has {options.filter!r} in its name; --list shows them")
    if options.rounds < 1:
        parser.error(f"--rounds: expected a number >= 1, got {options.rounds}")
    if options.out and not options.out.absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    if options.baseline and not options.baseline.is_file():
        parser.error(f"--baseline: there is no file {options.baseline}")
    if options.perspic and not options.perspic.is_dir():
        parser.error(f"--perspic: there is no folder {options.perspic}")
    return options


def run(name, benchmark, options):
    """The rows of one benchmark, ready for JSON, and printed."""
    module = importlib.import_module(f"benchmarks.{benchmark.module}")
    extra = {"perspic": options.perspic} if benchmark.needs == "perspic" else {}
    rows = module.run(*benchmark.arguments, rounds=options.rounds, **benchmark.options, **extra)
    rows = [{"benchmark": name} | {key: null_for_nan(v) for key, v in row.items()} for row in rows]
    print(module.table(rows) + "\n", flush=True)
    return rows


def null_for_nan(value):
    """JSON has no nan."""
    return None if isinstance(value, float) and value != value else value


def main(arguments=None):
    options = parse(arguments)
    if options.list:
        print(listing(options.chosen))
        return 0
    # By default jax leaves a quarter of an accelerator's memory alone.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    from benchmarks import baseline  # imports jax, which --list does without
    from lnpjax._base.allocation import keep_freed_memory

    keep_freed_memory()  # page faults would be most of what differs between programs

    load_before = os.getloadavg()[0]
    rows, failed = [], []

    def results():
        environment = baseline.environment(load_before)
        return {"environment": environment, "failed": failed, "rows": rows}

    def save():
        if options.out:
            options.out.write_text(json.dumps(results(), indent=1) + "\n")

    for name, benchmark in options.chosen.items():
        reason = reason_to_skip(benchmark, perspic=options.perspic, named=name == options.filter)
        if reason:
            print(f"{name}: skipped: {reason}\n", flush=True)
            continue
        try:
            rows += run(name, benchmark, options)
        except Exception:  # the other benchmarks' results are worth having
            traceback.print_exc()
            failed.append(name)
        if not benchmark.apart:  # else the device must stay untouched, environment and all
            save()
    save()
    worse = False
    if rows and not options.no_baseline:
        text, worse = baseline.report(results(), options.baseline)
        print(text)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed or (worse and options.fail_on_regression) else 0


if __name__ == "__main__":
    sys.exit(main())
