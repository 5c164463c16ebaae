"""The experiments of NTK Lens at their smallest size: shapes of results, and the parts exactly."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax import entk
from lnpjax._base.configs import decode
from lnpjax.adapters import from_nnx
from lnpjax.data.image_classes import load_image_classes
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import judged, reproduce
from lnpjax.experiments._harness.sweep import Sweep, config_to_json
from lnpjax.experiments._harness.tables import claims_json
from lnpjax.experiments.ntk_lens import data_scaling as ntk_data_scaling
from lnpjax.experiments.ntk_lens import model_scaling as ntk_model_scaling
from lnpjax.experiments.ntk_lens import noise_scaling
from lnpjax.experiments.ntk_lens.data_scaling import config as data_scaling_config
from lnpjax.experiments.ntk_lens.data_scaling.measure import nested_problem
from lnpjax.experiments.ntk_lens.ensembles import train_ensemble
from lnpjax.experiments.ntk_lens.model_scaling import config as model_scaling_config
from lnpjax.experiments.ntk_lens.model_scaling.measure import shared_problem
from lnpjax.experiments.ntk_lens.noise_scaling import config as noise_scaling_config
from lnpjax.experiments.ntk_lens.noise_scaling.measure import noisy_copies, noisy_problem
from lnpjax.experiments.ntk_lens.options import EnsembleOptions, TrainingRule
from lnpjax.experiments.ntk_lens.training import DenseEnsemble, KernelDirections, find_rate
from lnpjax.kernel import (
    dense_kernel,
    dense_sample_kernel,
    dense_trace,
    expected_trace,
    trace_outputs,
)
from lnpjax.models.vision import MLP

MODULES = (ntk_model_scaling, ntk_data_scaling, noise_scaling)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke presets on digits, one after the other: title, config, folder, and claims."""
    pytest.importorskip("sklearn")
    found = {}
    for module in MODULES:
        experiment = module.EXPERIMENT
        folder = tmp_path_factory.mktemp(experiment.name)
        found[experiment.name] = reproduce(experiment, "smoke", folder)
    return found


def rows_of(found):
    return [json.loads(line) for line in (found.folder / "results.jsonl").open()]


@pytest.mark.parametrize("module", MODULES[:2])
def test_rows_of_ensembles(smoke, module):
    rows = rows_of(smoke[module.EXPERIMENT.name])
    config = module.PRESETS["smoke"]
    scales = getattr(config, "widths", None) or config.sizes
    options = config.ensemble
    by_kind = {
        kind: [row for row in rows if row["kind"] == kind]
        for kind in ("ensemble", "member", "curve", "dynamics")
    }
    assert len(by_kind["ensemble"]) == len(scales)
    assert len(by_kind["member"]) == len(scales) * options.members
    assert len(by_kind["curve"]) == len(scales) * len(options.rule.measured_epochs)
    assert len(by_kind["dynamics"]) == len(scales) * len(options.dynamics)
    size = options.num_ntk * 10
    for row in by_kind["member"]:
        assert 1 <= row["rank_at_minimum"] <= size
        assert 0 <= row["alignment_at_minimum"] <= 1
        ratio = row["trace_at_minimum"] / row["trace_start"] - 1
        assert row["trace_ratio"] == pytest.approx(ratio, rel=1e-4, abs=1e-5)
    for row in by_kind["ensemble"]:
        rule = options.rule
        assert row["inside"] == (rule.earliest <= row["best_epoch"] <= rule.latest)


def test_the_same_networks_for_every_training_set(smoke):
    rows = rows_of(smoke["ntk-data-scaling"])
    starts = {(row["member"], row["trace_start"]) for row in rows if row["kind"] == "member"}
    assert len(starts) == data_scaling_config.PRESETS["smoke"].ensemble.members


def test_rows_of_noise(smoke):
    config, rows = noise_scaling_config.PRESETS["smoke"], rows_of(smoke["noise-scaling"])
    per_unit = config.members * len(config.measured_epochs)
    assert len(rows) == 2 * len(config.replaced) * per_unit
    for row in rows:
        assert 0 <= row["test_accuracy"] <= 1
        assert row["train_loss"] > 0
        assert 1 <= row["rank"] <= config.num_ntk * 4


def test_speed_of_the_ensemble_is_reported(smoke):
    (row,) = [row for row in rows_of(smoke["ntk-model-scaling"]) if row["kind"] == "speed"]
    ratio = row["seconds_one_by_one"] / row["seconds_together"]
    assert row["speed_up"] == pytest.approx(ratio)


def test_figures_and_claims(smoke):
    figures = {
        name: {path.name for path in (found.folder / "figures").iterdir()}
        for name, found in smoke.items()
    }
    training = {"dynamics.png", "alignment.png", "scaling.png"}
    assert figures == {
        "ntk-model-scaling": training | {"transition.png"},
        "ntk-data-scaling": training,
        "noise-scaling": {"figure_4_digits.png", "figure_7_digits.png"},
    }
    for found in smoke.values():
        verdicts = {claim.verdict for claim in found.judged if isinstance(claim, Claim)}
        assert verdicts == {"set-up short of the paper"}


@pytest.mark.parametrize("module", MODULES)
def test_a_finished_sweep_is_only_read(smoke, module):
    found = smoke[module.EXPERIMENT.name]
    config = module.PRESETS["smoke"]
    sweep = Sweep(found.folder, config)
    module.EXPERIMENT.measure(config, sweep, None)
    assert sweep.num_computed == 0
    again = judged(module.EXPERIMENT, "smoke", config, sweep)
    assert claims_json(again) == claims_json(found.judged)


def test_dense_kernels_are_those_of_entk():
    apply_fn, params = from_nnx(MLP((6, 5, 4, 3), rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases that are not zero
    inputs = jax.random.normal(jax.random.key(1), (7, 2, 3))
    exact = jax.jit(lambda *batch: entk(apply_fn, *batch))(params, inputs)
    np.testing.assert_allclose(dense_kernel(params, inputs), exact, rtol=1e-5, atol=1e-5)
    between = trace_outputs(exact, 3)
    np.testing.assert_allclose(dense_sample_kernel(params, inputs), between, rtol=1e-5, atol=1e-5)
    assert dense_trace(params, inputs) == pytest.approx(float(jnp.trace(exact)), rel=1e-5)


def test_the_expected_trace_is_the_mean_over_initialisations():
    sizes, inputs = (5, 16, 12, 3), jax.random.uniform(jax.random.key(0), (4, 5))

    def trace(key):
        return dense_trace(nnx.state(MLP(sizes, rngs=nnx.Rngs(key)), nnx.Param), inputs)

    traces = jax.jit(jax.vmap(trace))(jax.random.split(jax.random.key(1), 4000))
    error = float(jnp.std(traces)) / len(traces) ** 0.5
    expected = expected_trace(sizes, inputs)
    assert error < 0.01 * expected
    assert float(jnp.mean(traces)) == pytest.approx(float(expected), abs=3 * error)


@pytest.fixture(scope="module")
def trained():
    options = dataclasses.replace(model_scaling_config.PRESETS["smoke"].ensemble, num_test=16)
    images = load_image_classes("digits")
    ensemble = DenseEnsemble(
        (64, 4, 10), num_ntk=options.num_ntk, every=options.rule.every,
        directions=KernelDirections(),
    )  # fmt: skip
    return options, ensemble, shared_problem(images, 20, options)


def test_members_alone_and_together(trained):
    options, ensemble, problem = trained
    keys = jax.random.split(jax.random.key(3), options.members)
    together = train_ensemble(ensemble, problem, keys, 0.02, options)
    few = dataclasses.replace(options, parameters_together=ensemble.num_params)
    one_by_one = train_ensemble(ensemble, problem, keys, 0.02, few)
    for whole, part in zip(jax.tree.leaves(together), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_allclose(whole, part, rtol=2e-3, atol=1e-4)
    again = train_ensemble(ensemble, problem, keys, 0.02, options)
    jax.tree.map(np.testing.assert_array_equal, together, again)
    assert together.ranks.shape == (options.dynamics_members, len(options.dynamics))
    assert np.all(together.record.train_loss[:, -1] < together.record.train_loss[:, 0])


def test_the_rate_is_found_by_the_rule(trained):
    options, ensemble, problem = trained
    keys = jax.random.split(jax.random.key(3), options.members)
    rule = dataclasses.replace(options.rule, attempts=3, first_rate=1e-5)
    rate, attempts = find_rate(ensemble, problem, keys, 4, rule)
    # Far too slow: the minimum is at the end, and the rate grows by the same factor every time.
    factor = rule.epochs / (rule.earliest * rule.latest) ** 0.5
    assert attempts == 3
    assert rate == pytest.approx(rule.trial_rate(4) * factor**2)


def test_next_rates_are_bounded():
    rule = TrainingRule(epochs=100, every=4, earliest=10, latest=40)
    assert rule.next_rate(1.0, 0) == 1 / 8
    assert rule.next_rate(1.0, 40) == pytest.approx(2.0)


def test_training_sets_are_nested(trained):
    options, *_ = trained
    images = load_image_classes("digits")
    small, large = (nested_problem(images, size, options) for size in (5, 9))
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:, :5])
    assert not np.array_equal(small.train_inputs[0], small.train_inputs[1])


def test_copies_stay_in_their_class_and_are_even():
    labels = np.repeat(np.arange(4), 50)
    shown = noisy_copies(labels, 0.9, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[shown], labels)
    counts = np.bincount(shown, minlength=200)
    assert sorted(set(counts.tolist())) == [0, 10]
    assert np.all(shown[counts > 0] == np.flatnonzero(counts > 0))


def test_copies_are_noisy_and_the_rest_is_not():
    config = dataclasses.replace(noise_scaling_config.PRESETS["smoke"], num_train=80)
    images = load_image_classes("digits")
    whole, half = (noisy_problem(images, share, config) for share in (0.0, 0.5))
    np.testing.assert_array_equal(whole.train_images[0], whole.train_images[1])
    for member in range(config.members):
        changed = np.any(half.train_images[member] != whole.train_images[member], axis=(1, 2, 3))
        assert changed.sum() == 40
    assert np.bincount(whole.train_labels).tolist() == [20, 20, 20, 20]


@pytest.mark.parametrize("module", MODULES)
def test_presets_survive_json(module):
    for config in module.PRESETS.values():
        values = json.loads(json.dumps(config_to_json(config)))
        assert decode(type(config), values, source="test") == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingRule(latest=2000), "latest: expected an epoch between earliest=400"),
        (lambda: TrainingRule(every=7), "every: expected a divisor of epochs=1200"),
        (lambda: EnsembleOptions(members=2), "members: expected no fewer than dynamics_members"),
        (
            lambda: model_scaling_config.ModelScalingConfig(widths=(8, 4)),
            "widths: expected at least",
        ),
        (lambda: data_scaling_config.DataScalingConfig(sizes=(8,)), "sizes: expected at least two"),
        (lambda: noise_scaling_config.NoiseConfig(replaced=(0.5,)), "replaced: expected shares in"),
    ],
)
def test_bad_configs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
