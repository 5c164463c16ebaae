"""Recipes of the nanoGPT chain: groups, schedules, and Muon against the record runs' own sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax.models.nanogpt import (
    LSWA_ADAM,
    NANOGPT_VARIANTS,
    NanoGPT,
    NanoGPTRecipe,
    NanoGPTSize,
    Rates,
    nanogpt_groups,
    nanogpt_optimizer,
    nanogpt_recipe,
    nanogpt_variant,
)

SIZE = NanoGPTSize(num_layers=4, num_heads=1, hidden_size=4, vocab_size=5, document_token=None)


def test_every_parameter_has_its_group():
    abstract = nnx.eval_shape(lambda: NanoGPT(nanogpt_variant("LSWA", SIZE), rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    groups = nanogpt_groups(params)
    assert groups["embedding"]["embedding"] == "embedding"
    assert set(jax.tree.leaves(groups["value_tables"])) == {"embedding"}
    assert groups["head"]["kernel"] == "head"
    assert groups["skip_weights"] == "scalars"
    first = groups["layers"][0]
    assert first.pop("shortcut") == "scalars"
    assert first["attention"].pop("value_mix") == "scalars"
    assert set(jax.tree.leaves(first)) == {"matrices"}


def test_rates_are_those_of_the_paper():
    expected = {
        "Baseline": Rates(6e-4, 6e-4, 6e-4, 6e-4),
        "Untied": Rates(0.3, 0.002, 0.02, 0.02),
        "ValueMix": Rates(0.3, 0.002, 0.02, 0.02),
        "U-Net": Rates(0.6, 0.008, 0.04, 0.04),
        "AttnScale": Rates(0.6, 0.008, 0.04, 0.04),
        LSWA_ADAM: Rates(0.6, 0.008, 0.004, 0.04),
    }
    assert {name: nanogpt_recipe(name).rates for name in expected} == expected
    assert nanogpt_recipe("Muon").rates.matrices == 3.6e-4
    trained_by_muon = {name for name in NANOGPT_VARIANTS if nanogpt_recipe(name).muon}
    assert trained_by_muon == {*NANOGPT_VARIANTS} - {"Baseline", "RoPE"}
    assert not nanogpt_recipe(LSWA_ADAM).muon


def test_scaling_and_shortening_move_nothing_else():
    recipe = nanogpt_recipe("SparseV")
    assert recipe.scaled(2.0) == nanogpt_recipe("SparseV", rates=Rates(1.2, 0.016, 0.08, 0.08))
    short = nanogpt_recipe("SparseV", momentum_steps=50, window_steps=300)
    assert recipe.shortened(0.1) == short


def test_rates_follow_the_schedule():
    cosine = [float(NanoGPTRecipe().rate_factor(step, 4)) for step in range(4)]
    np.testing.assert_allclose(cosine, (1 + np.cos(np.pi * np.arange(4) / 4)) / 2, rtol=1e-6)
    plateau = nanogpt_recipe("U-Net")
    factors = [float(plateau.rate_factor(step, 20)) for step in (0, 17, 18, 19)]
    np.testing.assert_allclose(factors, [1, 1, 1, 0.5], rtol=1e-5)


def test_momentum_and_window_warm_up():
    recipe = nanogpt_recipe("SparseV")
    momenta = [float(recipe.momentum_at(step)) for step in (0, 250, 500, 9000)]
    np.testing.assert_allclose(momenta, [0.85, 0.9, 0.95, 0.95], rtol=1e-6)
    at = {
        name: [int(nanogpt_recipe(name).window_at(step, SIZE)) for step in (0, 100, 1500, 9000)]
        for name in ("FlexWin", "SparseV", "LSWA")
    }
    assert at == {
        "FlexWin": [64, 128, 1344, 1792],
        "SparseV": [128, 128, 896, 1792],
        "LSWA": [128, 128, 1152, 1792],
    }
    assert nanogpt_recipe("FixedWin").window_at(7, SIZE) is None


def newton_schulz(matrix, steps=5):
    """As the record runs have it: for rows no longer than columns."""
    matrix = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    return matrix


def test_muon_sums_gradients_while_momentum_warms_up():
    recipe = nanogpt_recipe(
        "U-Net", clip_norm=None, momentum=(0.5, 0.9), momentum_steps=2, warmdown=0.0
    )
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, 3, 6)) * np.array([1.0, 10.0, 0.1])[:, None, None]
    params = {"layers": {"kernel": jnp.zeros((3, 6))}}
    optimizer = nanogpt_optimizer(recipe, 3)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    buffer = np.zeros((3, 6))
    for step, gradient in enumerate(gradients):
        momentum = 0.5 + 0.2 * step
        buffer = momentum * buffer + gradient
        wide = newton_schulz(gradient + momentum * buffer) * np.sqrt(6 / 3)  # kernels are (in, out)
        updates, state = update({"layers": {"kernel": jnp.asarray(gradient)}}, state, params)
        np.testing.assert_allclose(updates["layers"]["kernel"], -0.04 * wide, rtol=0, atol=2e-5)


def test_groups_take_their_own_rates():
    params = {
        "embedding": {"embedding": jnp.zeros((2, 2))},
        "head": {"kernel": jnp.zeros((2, 2))},
        "skip_weights": jnp.zeros(2),
        "layers": {"kernel": jnp.zeros((2, 2))},
    }
    recipe = nanogpt_recipe(LSWA_ADAM)
    optimizer = nanogpt_optimizer(recipe, 10, factor=0.5)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    first = {name: -float(jax.tree.leaves(part)[0].ravel()[0]) for name, part in updates.items()}
    expected = {"embedding": 0.3, "head": 0.004, "skip_weights": 0.02, "layers": 0.002}
    assert first == pytest.approx(expected, rel=1e-5)  # Adam's first step is the rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": Rates(-1, 0, 0, 0)}, "rates: expected finite numbers >= 0"),
        ({"momentum": (0.5, 1.0)}, r"momentum: expected two numbers in \[0, 1\)"),
        ({"warmdown": 1.5}, "warmdown: expected a share of the run, got 1.5"),
        ({"clip_norm": 0.0}, "clip_norm: expected a number > 0, got 0.0"),
        ({"schedule": "wsd"}, "schedule: expected one of 'cosine', 'plateau', got 'wsd'"),
        ({"window_steps": -1}, "window_steps: expected an integer >= 0, got -1"),
    ],
)
def test_bad_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        nanogpt_recipe("RoPE", **changes)


def test_unknown_names_and_lengths_are_refused():
    with pytest.raises(ValueError, match=r"name: expected one of Baseline, .*, got 'Lion'"):
        nanogpt_recipe("Lion")
    with pytest.raises(ValueError, match="num_steps: expected an integer >= 1, got 0"):
        nanogpt_optimizer(nanogpt_recipe("RoPE"), 0)
