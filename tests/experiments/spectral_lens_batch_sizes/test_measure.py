"""Batch sizes at their smallest size: shapes of results, not their values."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments.spectral_lens.rates import successive_halving
from lnpjax.experiments.spectral_lens_batch_sizes import EXPERIMENT
from lnpjax.experiments.spectral_lens_batch_sizes.config import PRESETS
from lnpjax.experiments.spectral_lens_batch_sizes.measure import num_units

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce(EXPERIMENT, "smoke", tmp_path_factory.mktemp("batch_sizes"))


def test_rows_of_the_sweep(smoke):
    rows = [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]
    assert len({row["unit"] for row in rows}) == num_units(SMOKE) == 3 * 2
    for size in SMOKE.batch_sizes:
        own = [row for row in rows if row["batch_size"] == size]
        run = SMOKE.run(size)
        losses = [row for row in own if row["kind"] == "loss"]
        assert [row["tokens"] for row in losses] == [256 * index for index in range(5)]
        at_points = [row for row in own if row["kind"] == "spectra" and row["target"] is None]
        assert len({row["step"] for row in at_points}) == len(run.points())


def test_figures_and_claims_are_written(smoke):
    names = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert {"losses.png", "figure_6.png", "figure_18.png"} <= names
    verdicts = {claim.verdict for claim in smoke.judged if isinstance(claim, Claim)}
    assert verdicts == {"set-up short of the paper"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("LSWA", "Baseline")}, "variants: expected distinct ones of Baseline"),
        ({"batch_sizes": (2, 1)}, "batch_sizes: expected two or more, ascending"),
        ({"tokens": 2**15, "rungs": (2**14,)}, "at least 8 steps of batch size 16, 65536"),
        ({"batch_sizes": (1, 3, 4)}, "steps that divide the 16384 tokens between evaluations"),
        ({"reference_batch_size": 3}, "one of batch_sizes that divides tokens_per_step=2048"),
        (
            {"tokens_per_step": 1024, "reference_batch_size": 16},
            "whole sequences of 128 positions, got batch size 1: 64 tokens",
        ),
        ({"rungs": (2**17, 2**15)}, "rungs: expected ascending multiples"),
        ({"rungs": (1000,)}, "rungs: expected ascending multiples"),
        ({"seeds": (1, 1)}, "seeds: expected distinct seeds"),
        ({"multipliers": (1.0, 2.0)}, "multipliers: expected three numbers > 0"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["cpu"], **changes)


@pytest.mark.parametrize("config", PRESETS.values(), ids=list(PRESETS))
def test_all_batch_sizes_see_equal_tokens(config):
    runs = [config.run(size) for size in config.batch_sizes]
    assert {run.tokens for run in runs} == {config.tokens}
    between = config.tokens_per_step * config.steps_per_evaluation
    assert {run.tokens_per_step * run.steps_per_evaluation for run in runs} == {between}
    tokens = [[step * run.tokens_per_step for step in run.points()] for run in runs]
    assert all(points == tokens[0] for points in tokens)


@pytest.mark.parametrize(
    ("extensions", "best", "tried"),
    [
        (0, 16.0, [1.0, 2.0, 4.0]),
        (1, 16.0, [1.0, 2.0, 4.0, 8.0]),
        (2, 16.0, [1.0, 2.0, 4.0, 8.0, 16.0]),
        (2, 2.0, [1.0, 2.0, 4.0]),
        (2, 0.5, [0.25, 0.5, 1.0, 2.0, 4.0]),
    ],
)
def test_rates_are_tried_beyond_the_edge_at_which_the_best_lies(extensions, best, tried):
    """Training adds steps at a rate; the loss is how far this is from the best one's sum."""
    trials = successive_halving(
        [1.0, 2.0, 4.0],
        0.0,
        [8, 16],
        advance=lambda state, rate, steps: state + rate * steps,
        loss_of=lambda state: min(abs(state - best * steps) for steps in (8, 16)),
        extensions=extensions,
    )
    assert sorted(trial.rate for trial in trials if trial.rung == 8) == tried
