"""The experiments on spectral shells at their smallest size, and their books on small networks."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax import experiments
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments.spectral_shells.balance.config import PRESETS
from lnpjax.experiments.spectral_shells.balance.measure import width_unit
from lnpjax.experiments.spectral_shells.books import crossed
from lnpjax.experiments.spectral_shells.double_descent.measure import frozen_errors
from lnpjax.experiments.spectral_shells.flows import Moment, flowed, network
from lnpjax.theory.shells import sample_mismatch

NAMES = ("shells-families", "shells-balance", "shells-scale-free", "shells-double-descent")


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run(name, tmp_path):
    experiment = experiments.experiment(name)
    done = reproduce(experiment, "smoke", tmp_path)
    claims = [entry for entry in done.judged if isinstance(entry, Claim)]
    assert {claim.verdict for claim in claims} == {"set-up short of the paper"}
    assert list((tmp_path / "figures").glob("*.png"))
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    units = experiment.num_units(experiment.presets["smoke"], None)
    assert len({row["unit"] for row in rows}) == units


def test_books_close_on_small_networks():
    """Dissipation, fluxes and crossings are all that changes the energy of a shell."""
    config = dataclasses.replace(
        PRESETS["smoke"], step=0.06, num_steps=800, num_times=800, num_checks=5
    )
    for regime in ("lazy", "feature"):
        for row in width_unit(config, regime, 8).rows:
            assert row["unexplained"] < 0.01 * row["dissipated"]
            assert row["first_loss"] - row["last_loss"] == pytest.approx(
                row["dissipated"], rel=0.01
            )
            assert row["log_inside"] < -12
            assert row["log_misfit"] < -6


def test_gradient_flow_of_one_weight_is_an_exponential(x64):
    """Where targets are small tanh is linear, and the outer weight hardly moves."""
    model = network("lazy", 1, 1, 1)
    params = [jnp.zeros((1, 1)), jnp.ones((1, 1))]
    small = 1e-4 * jnp.array([1.0])
    inputs = jnp.ones((1, 1))
    found = flowed(model, params, (inputs, small), jnp.asarray(0.1), jnp.asarray(10))
    expected = 1e-4 * (1 - np.exp(-1.0))
    np.testing.assert_allclose(model(found, inputs)[0], expected, rtol=1e-5)


def test_a_mode_that_crosses_two_edges_and_one_that_stays(x64):
    zeros = np.zeros((2, 4))
    eigenvalues = np.array([[9.0, 1.5], [1.2, 1.1]])
    energies = np.array([[3.0, 5.0], [1.0, 5.0]])
    moments = Moment(zeros, zeros, zeros, np.zeros(2), eigenvalues, energies)
    found = crossed(moments, jnp.array([1.0, 2.0, 4.0, 16.0]))
    assert (found.moved, found.num_modes) == (2.0, 1)
    assert found.gained.tolist() == [0, 2, 0, -2]
    assert found.by_shell.tolist() == [0, 2, 0, 2]


def test_errors_under_a_frozen_kernel(x64):
    """Against the matrix exponential."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((9, 7))
    train, test = features[:5], features[5:]
    mismatch = sample_mismatch(jnp.asarray(train @ train.T), jnp.asarray(test @ train.T))
    e_train, e_test = rng.standard_normal(5), rng.standard_normal(4)
    kernel, time = train @ train.T / 5, 0.3
    decay = np.asarray(jax.scipy.linalg.expm(-kernel * time))
    found = frozen_errors(mismatch, jnp.asarray(e_train), jnp.asarray(e_test), time)
    np.testing.assert_allclose(found[0], decay @ e_train, rtol=1e-9)
    learned = np.linalg.solve(kernel, (np.eye(5) - decay) @ e_train)
    np.testing.assert_allclose(found[1], e_test - test @ train.T / 5 @ learned, rtol=1e-8)
