"""muP: to the bit the standard network at its base width, and features that grow with no width."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lnpjax
from lnpjax.models import MLP, Llama, LlamaConfig, ViT, ViTConfig, maximal_update

BASE = 16


@functools.cache
def vit(width):
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, num_classes=3, hidden_size=width,
        intermediate_size=2 * width, num_layers=1, num_heads=2,
    )  # fmt: skip
    model = nnx.jit(lambda: ViT(config, rngs=nnx.Rngs(0)))()
    return model, jax.random.normal(jax.random.key(1), (8, 8, 8, 1))


@functools.cache
def llama(width, *, tie_embeddings=False):
    config = LlamaConfig(
        vocab_size=5, hidden_size=width, intermediate_size=2 * width, num_layers=1, num_heads=2,
        max_seq_len=4, tie_embeddings=tie_embeddings,
    )  # fmt: skip
    model = nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)))()
    return model, jnp.arange(32).reshape(8, 4) % 5


def tied_llama(width):
    return llama(width, tie_embeddings=True)


@functools.cache
def mlp(width):
    inputs = jax.random.normal(jax.random.key(1), (8, 6))
    return nnx.jit(lambda: MLP((6, width, width, 3), rngs=nnx.Rngs(0)))(), inputs


OPTIONS = {vit: {}, llama: {}, tied_llama: {"tied": "embedding/embedding"}, mlp: {}}
models = pytest.mark.parametrize("make", OPTIONS, ids=lambda make: make.__name__)


def network_of(make, width):
    (own, inputs), (base, _) = make(width), make(BASE)
    apply_fn, params = lnpjax.from_nnx(own)
    _, base_params = lnpjax.from_nnx(base)
    options = dict(OPTIONS[make])
    if make is not mlp:
        options["head_widths"] = (width // 2, BASE // 2)
    return maximal_update(apply_fn, params, base_params, **options), apply_fn, params, inputs


@models
def test_nothing_changes_at_the_base_width(make):
    network, apply_fn, params, inputs = network_of(make, BASE)
    for leaf, like in zip(jax.tree.leaves(network.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(leaf, like)
    np.testing.assert_array_equal(network.apply_fn(params, inputs), apply_fn(params, inputs))
    ones = jax.tree.map(jnp.ones_like, params)
    for transform in (network.adam(), network.sgd()):
        updates, _ = transform.update(ones, transform.init(params), params)
        assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(updates))


def change_of_outputs(apply_fn, params, transform, inputs, num_steps=4):
    """How far outputs move in a few steps."""
    apply_fn = jax.jit(apply_fn)
    start = apply_fn(params, inputs)
    targets = jnp.linspace(-1, 1, start.size)

    def loss(params):
        outputs = apply_fn(params, inputs)
        return jnp.mean((outputs - targets.reshape(outputs.shape)) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=num_steps)[0])
    params, _ = run((params, transform.init(params)))
    return float(jnp.sqrt(jnp.mean((apply_fn(params, inputs) - start) ** 2)))


@pytest.mark.parametrize("make", [mlp, llama], ids=["mlp", "llama"])
def test_what_is_learned_in_a_few_steps_does_not_grow_with_the_width(make):
    """The coordinate check: ratio of changes of outputs at 16 times the width, Adam."""
    rate, changes = 0.003, {}
    for width in (BASE, 16 * BASE):
        network, apply_fn, params, inputs = network_of(make, width)
        optimizers = {
            "muP": (network.apply_fn, network.params, [optax.scale_by_adam(), network.adam()]),
            "standard": (apply_fn, params, [optax.scale_by_adam()]),
        }
        for name, (function, start, parts) in optimizers.items():
            transform = optax.chain(*parts, optax.scale_by_learning_rate(rate))
            changes[name, width] = change_of_outputs(function, start, transform, inputs)
    grown = {name: changes[name, 16 * BASE] / changes[name, BASE] for name in ("muP", "standard")}
    assert 0.4 < grown["muP"] < 2.5
    assert grown["standard"] > 3  # the control


def test_gradient_descent_moves_features_alike():
    def change(width, *, scaled):
        network, apply_fn, params, inputs = network_of(mlp, width)
        transform = optax.chain(network.sgd() if scaled else optax.identity(), optax.sgd(0.1))
        function, start = (network.apply_fn, network.params) if scaled else (apply_fn, params)
        before = jnp.asarray(start["layers"][1]["kernel"])
        loss = jax.grad(lambda p: jnp.mean((function(p, inputs) - 1.0) ** 2))
        updates, _ = transform.update(loss(start), transform.init(start), start)
        hidden = jnp.ones(before.shape[0]) / jnp.sqrt(before.shape[0])
        return float(jnp.linalg.norm(hidden @ updates["layers"][1]["kernel"]))

    assert 0.3 < change(16 * BASE, scaled=True) / change(BASE, scaled=True) < 3
    growths = network_of(mlp, 2 * BASE)[0].growths
    assert [g.kind for g in growths.values()] == ["vector"] * 3 + ["matrix"] + ["fixed", "readout"]


def test_initial_scales_are_those_of_the_table():
    """Constant scales (Llama) and those by the number of inputs (MLP) end at the same."""
    for make, matrix in ((llama, "layers/0/feed_forward/up/kernel"), (mlp, "layers/1/kernel")):
        sizes = {}
        for width in (BASE, 16 * BASE):
            params = network_of(make, width)[0].params
            leaves = dict(
                zip(lnpjax.parameters.paths(params), jax.tree.leaves(params), strict=True)
            )
            sizes[width] = float(jnp.std(leaves[matrix]))
        assert sizes[16 * BASE] / sizes[BASE] == pytest.approx(0.25, rel=0.15)


def test_what_does_not_fit_is_refused():
    def network(params, inputs):
        return inputs @ params["w"]

    one, cube = {"w": jnp.ones((2, 2))}, {"w": jnp.ones((4, 4, 4))}
    with pytest.raises(ValueError, match="base_params: expected the parameters"):
        maximal_update(network, one, {"v": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="params/w: expected at most two axes"):
        maximal_update(network, cube, {"w": jnp.ones((2, 2, 2))})
    with pytest.raises(ValueError, match=r"base_params/w: expected 2 axes, got shape \(2,\)"):
        maximal_update(network, one, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="params/w: expected initial weights that scale"):
        maximal_update(network, {"w": 1.2 * jnp.ones((4, 4))}, one)
    with pytest.raises(ValueError, match="tied: expected a weight of which the last axis"):
        maximal_update(network, one, one, tied="embedding")
    table, smaller = {"table": jnp.ones((3, 8))}, {"table": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match=r"tied: expected the one of \['table'\] that reads out"):
        maximal_update(network, table, smaller)
    assert maximal_update(network, table, smaller, tied="table").growths["table"].outputs == 2
    with pytest.raises(ValueError, match="queries: expected part of a path"):
        maximal_update(network, one, one, head_widths=(4, 2))
