"""Record what the library computes, and compare two records to the bit.

    python tests/support/compare_numbers.py record before.json
    python tests/support/compare_numbers.py compare before.json after.json

`record` uses public names only, wherever they stand, so that it runs before and after a change of
layout. Numbers are stored as hexadecimal floats or as a hash of an array's bytes. `--only` keeps
the parts whose name contains a word: models, measures, run, experiments.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import zoo

import lnpjax

jax.config.update("jax_platforms", "cpu")

NAMESPACES = (
    "decomposition", "jacobian", "kernel", "spectra", "shells", "lens", "training", "parameters",
)  # fmt: skip
TIMES = re.compile(r"second|speed|time|throughput|per_second|run_id|version|eta|memory|cpu|git")
EXPERIMENTS = (
    "random-features",
    "ntk-model-scaling",
    "ntk-data-scaling",
    "noise-scaling",
    "spectral-lens-toy",
)


def public(name: str) -> Any:
    """A public name, at top level or in one of the namespaces."""
    for place in (lnpjax, *(_namespace(space) for space in NAMESPACES)):
        if place is not None and hasattr(place, name):
            return getattr(place, name)
    raise AttributeError(name)


def _namespace(name: str) -> Any:
    try:
        return importlib.import_module(f"lnpjax.{name}")
    except ImportError:
        return None


def leaves(name: str, tree: Any) -> dict[str, str]:
    """The leaves of a result by path, each as text that differs where a bit does."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {name + jax.tree_util.keystr(path): exact(leaf) for path, leaf in flat}


def exact(leaf: Any) -> str:
    array = np.asarray(leaf)
    shown = " ".join(f"{value:.9g}" for value in array.reshape(-1)[:3].tolist())
    return f"{array.dtype}{array.shape} {shown} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def attempt(name: str, function: Callable[[], Any]) -> dict[str, str]:
    """The leaves of what a function returns, or the name of what it raises."""
    try:
        return leaves(name, function())
    except Exception as error:  # what is refused must be refused after the change too
        return {
            name: f"{type(error).__name__}: {re.sub(r'lnpjax[.][.a-z_]+', 'lnpjax', str(error))}"
        }


def models() -> Iterator[dict[str, str]]:
    """The decomposition, the kernel, its modes and its spectral measure for every model."""
    estimators = {
        "exact": lnpjax.Exact(),
        "hutchinson": lnpjax.Hutchinson(2),
        "global": lnpjax.GlobalHutchinson(2),
    }
    for model in zoo.MODELS:
        case = zoo.build(model)
        inputs, targets = case.batch_a
        for name, estimator in estimators.items():
            measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=estimator, wrt=case.wrt)
            yield attempt(
                f"{model}/lnp/{name}",
                lambda m=measure, c=case: m(c.params, c.batch_a, c.batch_b, key=jax.random.key(1)),
            )
        outputs = case.apply_fn(case.params, inputs)
        gradient = jax.grad(case.loss_fn)(outputs, targets)
        kernel = jax.jit(lambda p, c=case: lnpjax.entk(c.apply_fn, p, c.batch_a[0], wrt=c.wrt))
        try:
            theta = kernel(case.params)
        except Exception as error:
            yield {f"{model}/entk": type(error).__name__}
            continue
        yield leaves(f"{model}/entk", theta)
        yield attempt(f"{model}/modes", lambda t=theta, g=gradient: lnpjax.eigenmodes(t, g))
        yield attempt(
            f"{model}/lanczos",
            lambda c=case, g=gradient: lnpjax.spectral_measure(
                c.apply_fn, c.params, c.batch_a[0], g, num_matvecs=5, wrt=c.wrt
            ),
        )
        yield from _of_spectra(model, theta)


def _of_spectra(model: str, theta: Any) -> Iterator[dict[str, str]]:
    eigenvalues = jnp.linalg.eigvalsh(theta)[::-1]
    for name in (
        "effective_rank",
        "participation_ratio",
        "inverse_participation_ratio",
        "von_neumann_entropy",
        "cumulative_variance",
    ):
        yield attempt(f"{model}/{name}", lambda n=name: public(n)(jnp.abs(eigenvalues)))
    yield attempt(f"{model}/power_law", lambda: lnpjax.power_law(jnp.abs(eigenvalues), (1, 4)))
    yield attempt(f"{model}/normalized_kernel", lambda: public("normalized_kernel")(theta))


def measures() -> Iterator[dict[str, str]]:
    """Every other measure, on one model."""
    case = zoo.mlp(sizes=(5, 16, 3), batch_sizes=(8, 6))
    inputs, targets = case.batch_a
    key = jax.random.key(2)
    gradient = jax.grad(case.loss_fn)(case.apply_fn(case.params, inputs), targets)
    theta = lnpjax.entk(case.apply_fn, case.params, inputs)
    modes = lnpjax.eigenmodes(theta, gradient)
    edges = public("log_shells")(1e-4, 1e3)

    def states(params: Any, x: Any) -> dict[str, Any]:
        return {"first": jnp.tanh(x @ params["layer0"]["kernel"])}

    chosen = jnp.arange(len(modes.eigenvalues)) < 3
    window = {"head": (1, 4), "tail": (2, 5)}
    cases: dict[str, Callable[[], Any]] = {
        "norm": lambda: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, inputs, estimator=lnpjax.Hutchinson(2), key=key
        ),
        "position": lambda: public("position_distribution")(
            case.apply_fn, case.loss_fn, num_matvecs=4
        )(case.params, case.batch_a, case.batch_b, key=key),
        "density": lambda: public("spectral_density")(
            case.apply_fn, case.params, inputs, num_matvecs=5, num_probes=3, key=key
        ),
        "activations": lambda: public("activation_spectra")(states, **window)(
            case.params, case.batch_a, case.batch_b, key=key
        ),
        "gradients": lambda: public("gradient_spectra")(
            case.apply_fn, case.loss_fn, weights="layer0/kernel"
        )(case.params, case.batch_a, case.batch_b, key=key),
        "weights": lambda: public("weight_spectra")(case.params, "layer0/kernel", **window),
        "gram": lambda: public("gradient_gram")(
            case.apply_fn, case.loss_fn, case.params, case.batch_a, weights="layer0/kernel"
        ),
        "edges": lambda: edges,
        "energies": lambda: public("shell_energies")(modes.eigenvalues, modes.gamma2, edges),
        "dissipation": lambda: public("shell_dissipation")(modes.eigenvalues, modes.gamma2, edges),
        "fluxes": lambda: public("shell_fluxes")(case.apply_fn, case.params, inputs, edges),
        "alignment": lambda: public("kernel_target_alignment")(theta, gradient),
        "label_alignment": lambda: public("label_alignment")(
            public("trace_outputs")(theta, 3), targets
        ),
        "groups": lambda: public("entk_groups")(case.apply_fn, case.params, inputs),
        "trace_outputs": lambda: public("trace_outputs")(theta, 3),
        "summary": lambda: public("summarize_spectrum")(modes.eigenvalues, **window),
        "step": lambda: public("step_along_gradient")(
            case.apply_fn,
            case.loss_fn,
            case.params,
            case.batch_a,
            modes,
            learning_rates=jnp.array([0.1]),
        ),
        "project": lambda: public("project_update")(
            case.apply_fn,
            case.params,
            inputs,
            jax.tree.map(jnp.ones_like, case.params),
            modes,
            chosen,
        ),
    }
    for name, function in cases.items():
        yield attempt(f"measures/{name}", function)
        yield attempt(f"measures/jit/{name}", jax.jit(function))


def run() -> Iterator[dict[str, str]]:
    """The rows and the spectra of one short run."""
    from lnpjax import cli

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "counting.txt"
        text.write_text(" ".join(str(number) for number in range(2000)))
        options = (
            "--hidden-size 8 --intermediate-size 8 --num-layers 1 --num-heads 2 --context-length 8 "
            "--batch-size 4 --steps 12 --num-validation 6 --window-width 2 --distribution 5"
        )
        out = folder / "run"
        assert cli.main(["train", "--data", str(text), "--out", str(out), *options.split()]) == 0
        yield from folder_numbers("run", out)


def experiments() -> Iterator[dict[str, str]]:
    """The rows of every experiment at its smallest preset."""
    from lnpjax import cli

    for experiment in EXPERIMENTS:
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "out"
            assert cli.main(["reproduce", experiment, "--preset", "smoke", "--out", str(out)]) == 0
            yield from folder_numbers(experiment, out)


def folder_numbers(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Rows without the times in them, and arrays by their bytes."""
    for file in sorted(folder.rglob("*")):
        place = f"{name}/{file.relative_to(folder)}"
        if file.suffix == ".jsonl":
            for number, line in enumerate(file.read_text().splitlines()):
                row = without_times(json.loads(line))
                yield {f"{place}:{number}": json.dumps(row, sort_keys=True)}
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                yield {f"{place}:{key}": exact(arrays[key]) for key in sorted(arrays)}
        elif file.name == "claims.md":
            yield {place: file.read_text()}


def without_times(row: Any) -> Any:
    """What does not depend on the machine's clock."""
    if isinstance(row, dict):
        return {k: without_times(v) for k, v in row.items() if not TIMES.search(k)}
    return row


PARTS = {"models": models, "measures": measures, "run": run, "experiments": experiments}


def record(path: Path, only: str) -> None:
    """Write all numbers to a file."""
    numbers: dict[str, str] = {}
    for name, part in PARTS.items():
        if only in name:
            for some in part():
                numbers |= some
    path.write_text(json.dumps(numbers, indent=0, sort_keys=True))
    failed = [f"{key}: {value}" for key, value in numbers.items() if "Error: " in value[:40]]
    print(f"{len(numbers)} numbers; refused: {len(failed)}", *failed, sep="\n  ")


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of differences is the exit status (at most 1)."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    for key in differing:
        print(f"{key}\n  before {old.get(key)}\n  after  {new.get(key)}")
    print(f"{len(old)} numbers before, {len(new)} after, {len(differing)} differ")
    return int(bool(differing))


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--only", default="")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.file, given.only)
        return 0
    return compare(given.before, given.after)


if __name__ == "__main__":
    raise SystemExit(main())
