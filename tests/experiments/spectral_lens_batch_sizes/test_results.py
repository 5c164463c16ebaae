"""From rows to claims and figures, on runs whose course is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT
from lnpjax.experiments.spectral_lens_batch_sizes.claims import judge
from lnpjax.experiments.spectral_lens_batch_sizes.config import PRESETS
from lnpjax.experiments.spectral_lens_batch_sizes.figures import MATRICES, draw
from lnpjax.experiments.spectral_lens_batch_sizes.results import (
    family_of,
    inefficiency,
    runs_of,
    spectrum_at,
    target_of,
)

CPU = PRESETS["cpu"]
MET = 2.8  # by all runs
RANKS = np.arange(1, CPU.size.hidden_size + 1)


def cost(size):
    """Tokens to `MET`: the reference is the best."""
    return 2e5 * (1 + 0.3 * abs(math.log2(size / CPU.reference_batch_size)) + 0.05 * (size < 4))


def loss(tokens, size):
    """A power law that meets the target at the cost."""
    return MET * (max(tokens, 1000) / cost(size)) ** -0.1


def exponent(tokens, size, seed):
    """Larger where the run will cost more."""
    return cost(size) / 2e5 + 0.001 * seed + 0.05 * math.log(max(tokens, 1000) / 1e5)


def spectra_rows(columns, target, index, layers):
    size, seed, tokens = columns["batch_size"], columns["seed"], columns["tokens"]
    alpha = exponent(tokens, size, seed)
    numbers = {"alpha_tail": alpha, "alpha_head": 0.5 * alpha, "rank_me": 10.0 / alpha}
    place = {"kind": "spectra", **columns, "target": target, "index": index}
    names = {
        "activations": [f"layers/{layer}" for layer in range(layers)],
        "gradients": [CPU.deepest + part for part in MATRICES.values()],
        "weights": [CPU.deepest + part for part in (OUTPUT, MLP_OUTPUT)],
    }
    # The first layers order runs the other way round.
    return [
        {**place, "of": of, "name": name, **numbers}
        | ({"alpha_tail": -alpha} if name in ("layers/0", "layers/1") else {})
        for of, chosen in names.items()
        for name in chosen
    ], RANKS**-alpha


def run_unit(config, variant, size, seed):
    run = config.run(size)
    columns = {"variant": variant, "batch_size": size, "seed": seed, "factor": 1.0}
    rows, arrays = [], []
    unmet = list(run.target_losses)
    for step in range(0, run.num_steps + 1, run.steps_per_evaluation):
        tokens = step * run.tokens_per_step
        here = {**columns, "step": step, "tokens": tokens, "loss": loss(tokens, size)}
        rows.append({"kind": "loss", **here, "seconds": 1.0})
        at = [target for target in unmet if here["loss"] <= target]
        unmet = [target for target in unmet if here["loss"] > target]
        for target in (*at, *((math.nan,) if step in run.points() else ())):
            found, spectrum = spectra_rows(here, target, len(arrays), config.size.num_layers)
            rows += found
            arrays.append(spectrum)
    stacked = np.stack(arrays).astype(np.float32)
    names = (f"activations/{CPU.deepest}", f"gradients/{CPU.deepest}{OUTPUT}")
    return UnitResult(rows, dict.fromkeys(names, stacked))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    made = Sweep(tmp_path_factory.mktemp("sweep"), CPU)
    for variant in CPU.variants:
        for size in CPU.batch_sizes:
            row = {"kind": "search", "variant": variant, "batch_size": size, "factor": 1.0}
            made.unit(f"search-{variant}-b{size}", lambda row=row: UnitResult([row]))
            for seed in CPU.seeds:
                made.unit(
                    f"run-{variant}-b{size}-s{seed}",
                    lambda cell=(variant, size, seed): run_unit(CPU, *cell),
                )
    return made


def test_what_is_read_is_what_was_put_in(sweep):
    target = target_of(CPU, sweep, ["LSWA"])
    assert target is not None
    assert target <= MET
    family = family_of(CPU, sweep, "LSWA", MET)
    np.testing.assert_allclose(family.tokens[:, 0], list(map(cost, CPU.batch_sizes)), rtol=1e-3)
    best = CPU.batch_sizes.index(CPU.reference_batch_size)
    np.testing.assert_allclose(inefficiency(family)[best], 1.0)
    early = [exponent(0.2 * 2e5, size, 1) for size in CPU.batch_sizes]
    np.testing.assert_allclose(family.early[:, 1], early, rtol=1e-5)
    np.testing.assert_allclose(family.late_advantage, 2.0)  # rho of 1 against two of -1
    run = runs_of(CPU, sweep, "LSWA", 0)[0]
    assert spectrum_at(run, MET, "gradients").sum() == pytest.approx(1)


def test_claims_of_known_runs(sweep):
    entries = judge(CPU, sweep)
    verdicts = {entry.source: entry.verdict for entry in entries if isinstance(entry, Claim)}
    assert verdicts["section 3 (1); Fig. 1a"] == "holds"
    assert verdicts["section 3 (2); Fig. 2a"] == "holds"
    assert verdicts["E.3; Fig. 10"] == "holds"
    assert verdicts["D; Fig. 7"] != "holds"  # Muon and Adam are alike
    assert verdicts["G.1; Fig. 12"] == "holds"


def test_all_figures_are_drawn(sweep, tmp_path):
    draw(CPU, sweep, tmp_path)
    numbers = {f"figure_{number}.png" for number in (2, 6, 8, 9, 10, 18)}
    assert {path.name for path in tmp_path.iterdir()} == {"losses.png", "spectra.png", *numbers}
