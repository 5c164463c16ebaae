"""The toy transformer: causal, and what each intervention adds and takes away."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax.models.modular import ModularTransformer, ModularTransformerConfig

SHAPE = ModularTransformerConfig(vocab_size=12, hidden_size=16, context_length=6, num_heads=2)
VARIANTS = {
    "plain": SHAPE,
    "rotary": dataclasses.replace(SHAPE, rotary=True),
    "untied": dataclasses.replace(SHAPE, rotary=True, untied=True),
}


@functools.cache
def _model(config):
    return nnx.jit(lambda: ModularTransformer(config, rngs=nnx.Rngs(0)))()


def _trained(config):
    """A model none of whose matrices is zero."""
    graphdef, params = nnx.split(_model(config), nnx.Param)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.jit(lambda p, x: nnx.merge(graphdef, p)(x)), structure.unflatten(noisy)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_no_position_sees_a_later_one(config):
    apply_fn, params = _trained(config)
    tokens = jnp.array([[1, 5, 2, 7, 3, 9]])
    changed = tokens.at[0, 3].set(0)
    before, after = apply_fn(params, tokens), apply_fn(params, changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert jnp.all(jnp.max(jnp.abs(before - after), axis=-1)[:, 3:] > 1e-3)


def test_parameters_of_each_variant():
    states = {}
    for name, config in VARIANTS.items():
        params = nnx.state(_model(config), nnx.Param)
        states[name] = set(params)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert count == config.num_parameters
    assert states["plain"] == {"embedding", "positions", "layers"}
    assert states["rotary"] == {"embedding", "layers"}
    assert states["untied"] == {"embedding", "layers", "head"}
    counts = {name: config.num_parameters for name, config in VARIANTS.items()}
    assert counts["plain"] - counts["rotary"] == 6 * 16
    assert counts["untied"] - counts["rotary"] == 12 * 16


def test_how_the_read_outs_start():
    """Untied: uniform. Tied to embeddings of order one: the current token, by a wide margin."""
    tokens = jnp.array([[1, 5, 2, 7, 3, 9]])
    tied, untied = (
        _model(VARIANTS[name])(tokens) for name in VARIANTS if name in ("rotary", "untied")
    )
    np.testing.assert_array_equal(untied, 0)
    np.testing.assert_array_equal(jnp.argmax(tied, axis=-1), tokens)
    own = jnp.take_along_axis(tied, tokens[..., None], axis=-1)
    embedding = _model(VARIANTS["rotary"]).embedding.embedding
    norms = jnp.linalg.norm(embedding[...][tokens[0]], axis=-1)
    np.testing.assert_allclose(own[0, :, 0], math.sqrt(16) * norms, rtol=1e-4)


def test_last_hidden_is_the_last_of_hidden():
    model = _model(VARIANTS["untied"])
    tokens = jnp.array([[1, 5, 2], [3, 3, 3]])
    np.testing.assert_array_equal(model.last_hidden(tokens), model.hidden(tokens)[:, -1])


def test_bad_input():
    with pytest.raises(ValueError, match="hidden_size: expected a multiple of twice num_heads=2"):
        dataclasses.replace(SHAPE, hidden_size=10)
    with pytest.raises(ValueError, match="num_layers: expected an integer >= 1, got 0"):
        dataclasses.replace(SHAPE, num_layers=0)
    model = _model(SHAPE)
    with pytest.raises(ValueError, match="tokens: expected at most context_length=6 positions"):
        model(jnp.zeros((1, 7), int))
    with pytest.raises(ValueError, match=r"tokens: expected shape \(batch, time\)"):
        model(jnp.zeros(6, int))


@pytest.mark.parametrize("outside", [-1, 12])
def test_what_is_not_a_token_is_refused_or_gives_nan(outside):
    model = _model(SHAPE)
    tokens = jnp.array([[1, outside], [2, 3]])
    with pytest.raises(ValueError, match=r"^tokens: expected ids from 0 to 11, got "):
        model(tokens)
    found = nnx.jit(lambda model, tokens: model(tokens))(model, tokens)
    assert np.isnan(found[0, 1]).all()
    assert np.isfinite(found[1]).all()
