"""Random features at their smallest size: what is measured, against equation 42 written out."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax._base.configs import decode
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import judged, reproduce
from lnpjax.experiments._harness.sweep import Sweep, config_to_json
from lnpjax.experiments._harness.tables import claims_json
from lnpjax.experiments.random_features import EXPERIMENT
from lnpjax.experiments.random_features.config import PRESETS
from lnpjax.experiments.random_features.measure import (
    feature_moments,
    half_mean_square,
    make_member,
    num_units,
    read_out,
    spectrum_row,
    standardised,
)
from lnpjax.experiments.random_features.results import Averages, averages
from lnpjax.theory.random_features import power_law_variances

SMOKE = PRESETS["smoke"]
BETA, SEED = 2.0, 3


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return reproduce(EXPERIMENT, "smoke", tmp_path_factory.mktemp("random-features"))


@pytest.fixture(scope="module")
def rows(smoke):
    return [json.loads(line) for line in (smoke.folder / "results.jsonl").open()]


@pytest.fixture(scope="module")
def member():
    variances = power_law_variances(SMOKE.dimension, BETA)
    return make_member(SMOKE, SMOKE.normals(BETA, SEED), variances)


def test_rows_of_the_sweep(smoke, rows):
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in
             ("components", "spectrum")}  # fmt: skip
    assert len(kinds["components"]) == len(SMOKE.betas) * SMOKE.num_seeds
    spectra = len(SMOKE.betas) + len(SMOKE.betas_in_dimension) * len(SMOKE.other_dimensions)
    assert len(kinds["spectrum"]) == spectra * SMOKE.num_spectra
    assert {row["dimension"] for row in kinds["spectrum"]} == {8, 12}
    cells = {(row["beta"], row["seed"]) for row in kinds["components"]}
    assert len(cells) == len(kinds["components"])
    assert all(0 < row["chi_pos"] < 1 for row in kinds["components"])
    assert all(0 < row["centred_share"] < 1 for row in kinds["spectrum"])
    assert len({row["unit"] for row in rows}) == num_units(SMOKE) == 10


def test_figures_and_claims(smoke):
    names = {path.name for path in (smoke.folder / "figures").iterdir()}
    assert names == {"figure_3.png", "predictions.png"}
    verdicts = {claim.verdict for claim in smoke.judged if isinstance(claim, Claim)}
    assert verdicts == {"set-up short of the paper"}


def test_a_finished_sweep_is_only_read(smoke):
    sweep = Sweep(smoke.folder, SMOKE)
    EXPERIMENT.measure(SMOKE, sweep, None)
    assert sweep.num_computed == 0
    again = judged(EXPERIMENT, "smoke", SMOKE, sweep)
    assert claims_json(again) == claims_json(smoke.judged)


def test_components_are_those_of_equation_42(rows, member):
    features, labels, _ = (np.asarray(array, np.float64) for array in member)
    kernel, n = features @ features.T, len(labels)
    (row,) = (
        row for row in rows if (row["kind"], row["beta"], row["seed"]) == ("components", BETA, SEED)
    )
    targets = (labels - labels.mean()) / labels.std()
    assert row["chi_loss"] == pytest.approx(targets @ targets / n, rel=1e-5)
    assert row["chi_net"] == pytest.approx(np.trace(kernel) / n, rel=1e-5)
    for name, y in (("chi_pos", targets), ("chi_pos_uncentred", labels)):
        position = y @ kernel @ y / (y @ y * np.trace(kernel))
        assert row[name] == pytest.approx(position, rel=1e-4)


def test_one_program_for_many_members_measures_what_lnp_measures_of_one(rows, member):
    measure = lnpjax.lnp(read_out, half_mean_square, estimator=lnpjax.Exact())
    targets = standardised(member.labels, centred=True)
    batch = (member.features, targets)
    out = jax.jit(measure)(jnp.zeros(SMOKE.num_features), batch)
    (row,) = (
        row for row in rows if (row["kind"], row["beta"], row["seed"]) == ("components", BETA, SEED)
    )
    for name in ("chi_loss", "chi_net", "chi_pos"):
        assert row[name] == pytest.approx(float(getattr(out, name)), rel=1e-5)
    assert int(out.status) == 0


def test_members_are_as_the_paper_describes_them():
    config = dataclasses.replace(SMOKE, num_samples=2000, num_features=200)
    variances = power_law_variances(config.dimension, BETA)
    normals = config.normals(BETA, 0)
    inputs = normals[: config.num_samples * config.dimension].reshape(config.num_samples, -1)
    inputs = np.asarray(inputs * np.sqrt(variances))
    np.testing.assert_allclose(inputs.var(axis=0), variances, rtol=0.15)
    assert inputs.var(axis=0).sum() == pytest.approx(config.dimension, rel=0.05)
    features = np.asarray(make_member(config, normals, variances).features)
    assert features.min() == 0
    assert (features == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (features**2).sum(axis=1).mean() == pytest.approx(1, abs=0.2)
    # Other exponents and seeds have numbers of their own.
    assert not jnp.any(SMOKE.normals(1.0, 0) == SMOKE.normals(2.0, 0))
    assert not jnp.any(SMOKE.normals(1.0, 0) == SMOKE.normals(1.0, 1))


def test_moments_of_features_have_the_spectra_of_the_kernels(rows, member):
    n = SMOKE.num_samples
    features = np.asarray(member.features, np.float64)
    variances = power_law_variances(SMOKE.dimension, BETA)
    about_zero, about_mean = feature_moments(SMOKE, SMOKE.normals(BETA, SEED), variances)
    centring = np.eye(n) - 1 / n
    kernel = features @ features.T
    for moments, matrix in ((about_zero, kernel), (about_mean, centring @ kernel @ centring)):
        expected = np.linalg.eigvalsh(matrix)[::-1][: SMOKE.num_features] / n
        found = np.linalg.eigvalsh(np.asarray(moments))[::-1]
        np.testing.assert_allclose(found, expected, atol=1e-6 * expected[0])


def test_what_spectra_predict_is_the_mean_over_teachers(member):
    features = np.asarray(member.features, np.float64)
    centred = features - features.mean(axis=0)
    teachers = np.random.default_rng(0).normal(size=(SMOKE.num_features, 20_000))
    targets = centred @ teachers
    numerators = ((features.T @ targets) ** 2).sum(axis=0)
    norms = (targets**2).sum(axis=0)
    trace = (features**2).sum()
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred)[::-1].astype(np.float32)
    row = spectrum_row(features.T @ features, eigenvalues, SMOKE.window)
    sampled = numerators / (norms * trace)
    assert row["expected_centred"] == pytest.approx(sampled.mean(), rel=0.02)
    ratio_of_means = numerators.mean() / (norms.mean() * trace)
    assert row["predicted_centred"] == pytest.approx(ratio_of_means, rel=0.03)
    assert row["expected_centred"] < 0.97 * row["predicted_centred"]
    every = np.linalg.eigvalsh(features.T @ features)
    printed = (every**2).sum() / every.sum() ** 2
    assert row["predicted_printed"] == pytest.approx(printed, rel=1e-5)
    assert row["predicted_centred"] < 0.97 * printed
    assert row["centred_share"] == pytest.approx((centred**2).sum() / trace, rel=1e-5)


def test_averages():
    found = averages([[1.0, 3.0], [4.0, 4.0]]).over(Averages(np.array([2.0, 2.0]), np.zeros(2)))
    np.testing.assert_allclose(found.mean, [1, 2])
    np.testing.assert_allclose(found.sem, [0.5, 0])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = PRESETS[preset]
    assert (
        decode(type(config), json.loads(json.dumps(config_to_json(config))), source="test")
        == config
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"betas": (2.0, 1.0)}, "betas: expected at least two exponents, ascending"),
        ({"num_seeds": 5}, "num_seeds: expected at least two, and a multiple of seeds_per_unit=2"),
        ({"num_spectra": 1}, "num_spectra: expected at least two"),
        ({"window": (1, 13)}, "window: expected three or more ranks"),
        ({"other_dimensions": (12,)}, "other_dimensions: expected dimensions from 8 on"),
        ({"betas_in_dimension": (1.5,)}, "betas_in_dimension: expected some of betas"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)


def test_the_paper_preset_has_the_papers_sizes():
    paper = PRESETS["paper"]
    assert (paper.num_samples, paper.dimension, paper.num_features) == (10_000, 128, 5000)
    assert paper.num_seeds == 100
    assert (paper.betas[0], paper.betas[-1]) == (1, 3)
