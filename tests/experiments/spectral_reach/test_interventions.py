"""The experiments on spectral reach at their smallest size, and what freezing does."""

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
from lnpjax.experiments.spectral_reach.mode_freezing import dense
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS, frozen_modes
from lnpjax.experiments.spectral_reach.mode_freezing.config import PRESETS, FreezingConfig

NAMES = (
    "mode-freezing",
    "hutchinson-convergence",
    "explicit-spectrum",
    "spectral-descent",
)


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


def test_all_but_the_tail_and_the_tail_alone_are_all_modes():
    p, order = jnp.array([0.5, 0.3, 0.15, 0.05]), jnp.array([3, 1, 0, 2])
    frozen = {
        arm: np.asarray(frozen_modes(jnp.asarray(number), p, (0.1, 0.2), order))
        for number, arm in enumerate(ARMS)
    }
    assert not frozen["free"].any()
    assert frozen["own"].tolist() == [False, False, False, True]
    assert frozen["common"].tolist() == [False, False, True, True]
    np.testing.assert_array_equal(frozen["tail_only"], ~frozen["common"])
    assert {frozen[arm].sum() for arm in ("common", "top", "random")} == {2}
    assert frozen["top"].tolist() == [True, True, False, False]
    assert frozen["random"].tolist() == [False, True, True, False]


def test_what_is_frozen_does_not_move():
    """With all modes frozen nothing is learned; with none, gradient descent is plain."""
    config = dataclasses.replace(PRESETS["smoke"], num_rounds=3, steps_per_round=1)
    with jax.enable_x64(True):
        problem = dense.make_problem(config, 0)
        graphdef, params = dense.network(config, 4, 0)
        order = np.arange(config.num_samples)

        def run(arm, own):
            number, positions = jnp.asarray(ARMS.index(arm)), (jnp.asarray(own), jnp.asarray(0.0))
            return dense.descend(config, graphdef, params, problem, number, positions, order)

        still, free = run("own", 2.0), run("free", 0.0)
        np.testing.assert_allclose(still.loss, still.loss[0], rtol=1e-9)
        assert still.num_frozen.tolist() == [config.num_samples] * 3
        assert np.all(np.diff(free.loss) < 0)


@pytest.mark.parametrize(
    ("field", "value"), [("widths", (4, 2)), ("step", 2.0), ("num_seeds", 1), ("side", 3)]
)
def test_sizes_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=field):
        FreezingConfig(**{field: value})
