"""The chain at its smallest size: shapes of results, not their values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments._harness.sweep import SweepProgress, UnitResult
from lnpjax.experiments.spectral_lens_chain import EXPERIMENT, measure
from lnpjax.experiments.spectral_lens_chain.config import PRESETS
from lnpjax.experiments.spectral_lens_chain.measure import num_units

SMOKE = PRESETS["smoke"]


class Computed(SweepProgress):
    count = 0

    def done(self, name, *, seconds=None):
        self.count += seconds is not None


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    progress = Computed()
    found = reproduce(EXPERIMENT, "smoke", tmp_path_factory.mktemp("chain"), progress=progress)
    assert progress.count == num_units(SMOKE) == 3 + 4
    return found


def test_rows_of_the_sweep(smoke):
    rows = [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]
    search, losses, spectra = (
        [row for row in rows if row["kind"] == kind] for kind in ("search", "loss", "spectra")
    )
    assert len(search) >= 3 * len(SMOKE.rate_factors)
    assert sum(row["chosen"] for row in search) == 3
    assert len(losses) == 4 * (SMOKE.num_steps // SMOKE.steps_per_evaluation + 1)
    at_points = [row for row in spectra if row["target"] is None]
    measured = SMOKE.size.num_layers + 2 * 4  # layers, and gradients and weights of four probes
    assert len(at_points) == 4 * len(SMOKE.points()) * measured
    for row in spectra:
        if row["target"] is not None:
            assert row["loss"] <= row["target"]


def test_figures_and_claims_are_written(smoke):
    names = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert {"losses.png", "figure_13.png", "figure_14.png", "figure_15.png"} <= names
    assert {claim.verdict for claim in smoke.judged} == {"set-up short of the paper"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_factors": (1.0, 2.0)}, "rate_factors: expected at least three"),
        ({"variants": ("RoPE", "Baseline")}, "variants: expected distinct ones of Baseline"),
        ({"tokens_per_step": 100}, "tokens_per_step: expected a multiple of the 512 positions"),
        ({"tokens": 4096}, "tokens: expected a multiple of 8 steps of 2048"),
        ({"target_losses": (1.0, 2.0)}, "target_losses: expected descending losses"),
        ({"num_points": 1}, "num_points: expected an integer >= 2"),
        ({"num_pool": 65}, "num_pool: expected 2 to num_validation=64"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["cpu"], **changes)


def test_points_are_evaluations():
    for config in PRESETS.values():
        points = np.array(config.points())
        assert (points % config.steps_per_evaluation == 0).all()
        assert points[-1] == config.num_steps


@pytest.mark.parametrize(("diverge", "used"), [((), 4.0), ((4.0,), 1.0), ((4.0, 1.0), 16.0)])
def test_a_run_that_diverges_is_repeated_with_the_next_best_rate(monkeypatch, diverge, used):
    def made(config, trainer, columns, *, seed, factor):
        del config, trainer, seed
        last = np.nan if factor in diverge else 2.0
        rows = [{"kind": "loss", "loss": loss, **columns} for loss in (5.0, last)]
        return UnitResult([*rows, {"kind": "spectra", "loss": 5.0, **columns}])

    monkeypatch.setattr(measure, "measured_run", made)
    searched = [
        {"factor": 1.0, "loss": 3.0},
        {"factor": 4.0, "loss": 2.5},
        {"factor": 16.0, "loss": None},  # has diverged in the search
    ]
    factors = [row["factor"] for row in sorted(searched, key=measure._loss_of)]
    result = measure._run(SMOKE, lambda: None, "Untied", 0, factors)
    assert {row["factor"] for row in result.rows} == {used}
