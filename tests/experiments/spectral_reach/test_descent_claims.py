"""Every rule on optimizers that move into the tail on synthetic truth, and what these do."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_truth import World

from lnpjax import eigenmodes, entk
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.spectral_descent import claims
from lnpjax.experiments.spectral_reach.spectral_descent.config import PRESETS
from lnpjax.experiments.spectral_reach.spectral_descent.measure import network_of
from lnpjax.experiments.spectral_reach.spectral_descent.results import Tuned
from lnpjax.experiments.spectral_reach.spectral_descent.transforms import (
    _without,
    clamped_weights,
    damp_top_modes,
)
from lnpjax.models import preset

CPU = PRESETS["cpu"]


def runs(
    rng, *, depth=0.0, loss=0.0, muon_depth=0.0, muon_loss=0.0, inside=True, void=0.0, text="bytes"
):
    """AdamW, Muon, and interventions that change depth and loss by stated amounts.

    Chi_pos falls all the time, and a share of its measurements is void, of AdamW's late ones only:
    what is left of these alone would seem less deep.
    """
    shape = (CPU.num_seeds, CPU.num_times)
    fall = -0.5 * np.arange(CPU.num_times)
    shared = 0.03 * rng.standard_normal(CPU.num_seeds)

    def one(depth, loss, text="bytes"):
        chi_pos = 1e-3 * np.exp(fall + depth + 0.1 * rng.standard_normal(shape))
        losses = 2.0 + loss + shared + 0.01 * rng.standard_normal(CPU.num_seeds)
        return Tuned(1e-2, inside, losses, losses[:, None], chi_pos, np.ones(len(CPU.rates)), text)

    usual = {"adamw": one(0, 0, text), "muon": one(muon_depth, muon_loss)}
    usual["adamw"].chi_pos[:, -max(round(void * CPU.num_times), 1) :] *= np.nan if void else 1
    others = [arm for arm in CPU.arms if arm not in claims.USUAL]
    steps = np.linspace(1, 2, len(others))
    return usual | {arm: one(k * depth, k * loss) for arm, k in zip(others, steps, strict=True)}


def judged(rng, rule, arguments=(), **world):
    return rule(runs(rng, **world), *arguments)


def world(rule, verdict, *arguments, **settings):
    claim = functools.partial(judged, rule=rule, arguments=arguments, **settings)
    return World(claim, verdict)


TAIL, HELPS = claims.moves_into_the_tail, claims.helps
SHORT = "set-up short of the paper"
WORLDS = {
    "a few are void": world(TAIL, "holds", "mup", depth=-0.3, void=1 / 12),
    "a few are void, not deeper": world(TAIL, "not holds", "mup", void=1 / 12),
    "many are void": world(TAIL, SHORT, "mup", depth=-0.3, void=0.5),
    "not one text": world(HELPS, SHORT, "mup", "adamw", loss=-0.05, text="stdlib"),
    "in tandem": world(claims.in_tandem, "holds", depth=-0.5, loss=-0.1),
    "not in tandem": world(claims.in_tandem, "not holds"),
    "the other way": world(claims.in_tandem, "does not hold", depth=-0.5, loss=0.1),
    "deeper": world(TAIL, "holds", "damped", depth=-0.3),
    "not deeper": world(TAIL, "not holds", "damped"),
    "less deep": world(TAIL, "does not hold", "damped", depth=0.3),
    "helps": world(HELPS, "holds", "clamped", "adamw", loss=-0.05),
    "does nothing": world(HELPS, "not holds", "clamped", "adamw"),
    "hurts": world(HELPS, "does not hold", "clamped", "muon", loss=0.05),
    "not tuned": world(HELPS, SHORT, "damped", "adamw", inside=False),
    "deeper is better": world(claims.deeper_is_better, "holds", muon_depth=-0.4, muon_loss=-0.1),
    "deeper is worse": world(
        claims.deeper_is_better, "does not hold", muon_depth=0.4, muon_loss=-0.1
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


def test_damped_modes_are_those_of_the_exact_kernel(x64):
    """As many Ritz vectors as modes: the gradient keeps what it has along the others."""
    inputs = jax.random.normal(jax.random.key(0), (4, 3)) * jnp.array([3.0, 1.0, 0.3])
    targets = jax.random.normal(jax.random.key(1), (4, 1))
    params = jnp.ones((3, 1))

    def apply_fn(weights, x):
        return x @ weights

    def loss_fn(outputs, targets):
        return jnp.mean((outputs - targets) ** 2) / 2

    outputs = apply_fn(params, inputs)
    cotangent = jax.grad(loss_fn)(outputs, targets)
    gradient = inputs.T @ cotangent
    modes = eigenmodes(entk(apply_fn, params, inputs), cotangent)
    transform = damp_top_modes(apply_fn, loss_fn, num_modes=1, left=0.25, num_matvecs=3, every=2)
    state = transform.init(params)
    update = jax.jit(transform.update)
    changed, state = update(gradient, state, params, batch=(inputs, targets))
    motion = (inputs @ changed).ravel() @ modes.eigenvectors[:, :3]
    plain = (inputs @ gradient).ravel() @ modes.eigenvectors[:, :3]
    np.testing.assert_allclose(motion / plain, [0.25, 1.0, 1.0], rtol=1e-3)
    # The next step uses the same directions, whatever the batch.
    again, state = update(gradient, state, params, batch=(-inputs, 0 * targets + 1))
    np.testing.assert_allclose(again, changed, rtol=1e-6)
    assert state.step == 2


def test_a_gradient_loses_stated_shares_of_its_parts():
    directions = {"a": jnp.array([[1.0, 0.0], [0.0, 0.6]]), "b": jnp.array([[0.0], [0.8]])}
    gradient = {"a": jnp.array([2.0, 0.6]), "b": jnp.array([0.8])}
    changed = _without(gradient, directions, jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(changed["a"], [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(changed["b"], [0.0], atol=1e-6)


def test_a_clamp_meets_its_ceiling_or_does_nothing():
    p, gamma2 = jnp.array([0.6, 0.2, 0.01]), jnp.array([0.3, 0.3, 0.4])

    def position(weights):
        return float(jnp.sum(weights**2 * gamma2 * p) / jnp.sum(weights**2 * gamma2))

    np.testing.assert_allclose(position(clamped_weights(p, gamma2, ceiling=0.1)), 0.1, rtol=1e-5)
    assert clamped_weights(p, gamma2, ceiling=0.3).tolist() == [1, 1, 1]
    assert clamped_weights(p, gamma2, ceiling=0.7).tolist() == [1, 1, 1]


def test_other_starts_have_other_scales_and_rates():
    """Matrices as in a network of a quarter of the width: same initial scale, a quarter's rate."""
    config = dataclasses.replace(CPU, narrower=4)
    shape = language.fitted(preset(config.model), vocab_size=9, context_length=4)
    drawn = language.start(shape, 1)
    usual, small, scaled = (network_of(config, arm, shape) for arm in ("adamw", "small", "mup"))
    assert usual.initial(drawn) is drawn
    ratios = jax.tree.map(
        lambda new, old: float(jnp.linalg.norm(new) / jnp.linalg.norm(old)),
        small.initial(drawn),
        drawn,
    )
    assert {round(ratio, 4) for ratio in jax.tree.leaves(ratios)} == {1.0, config.initial_scale}
    ones = jax.tree.map(jnp.ones_like, drawn)
    updates, _ = scaled.scale.update(ones, scaled.scale.init(drawn))
    rates = {float(leaf.max()) for leaf in jax.tree.leaves(updates)}
    assert rates == {1.0, 1 / config.narrower}


@pytest.mark.parametrize(
    ("field", "value"), [("arms", ("adamw", "mup")), ("narrower", 3), ("initial_scale", 0.0)]
)
def test_sizes_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CPU, **{field: value})
