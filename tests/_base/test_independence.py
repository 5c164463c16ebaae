"""What the program of a network shows of its samples."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from lnpjax._base.independence import keeps_samples_apart

X = jax.random.normal(jax.random.key(0), (4, 6, 8))
W = jax.random.normal(jax.random.key(1), (8, 8))
IDS = jax.random.randint(jax.random.key(2), (4, 6), 0, 8)


def linen(module):
    @functools.cache  # not before a test asks for them, in the middle of a trace
    def variables():
        with jax.ensure_compile_time_eval():
            return jax.jit(module.init)(jax.random.key(3), X)

    return lambda w, x: module.apply(variables(), x) * jnp.sum(w)


def loop(body):
    return lambda w, x: jax.lax.scan(body(w), x[:, 0], jnp.swapaxes(x, 0, 1))[0]


APART = {
    "attention": linen(nn.MultiHeadDotProductAttention(2)),
    "recurrence": linen(nn.RNN(nn.LSTMCell(5))),
    "convolution": linen(nn.Conv(5, (3,), strides=2)),
    "transposed convolution": linen(nn.ConvTranspose(5, (3,))),
    "norms": linen(nn.Sequential([nn.LayerNorm(), nn.GroupNorm(2), nn.RMSNorm()])),
    "pooling": lambda w, x: nn.max_pool(x @ w, (2,), (2,)) + nn.avg_pool(x @ w, (2,), (2,)),
    "fused attention": lambda w, x: jax.nn.dot_product_attention(
        (x @ w)[:, :, None], x[:, :, None], x[:, :, None], is_causal=True
    ),
    "joined positions": lambda w, x: jnp.tanh(x.reshape(-1, 8) @ w).reshape(x.shape),
    "positions first": lambda w, x: jnp.swapaxes(jnp.swapaxes(x, 0, 1) @ w, 0, 1),
    "class token": lambda w, x: jnp.concatenate([jnp.tile(w[:1], (len(x), 1, 1)), x], 1)[:, 0],
    "vmap": lambda w, x: jax.vmap(lambda one: (one @ w).sum(0))(x),
    "loop over positions": loop(lambda w: lambda h, x: (jnp.tanh(h @ w + x), None)),
    "fixed number of rounds": lambda w, x: jax.lax.fori_loop(0, 3, lambda i, h: h @ w + i, x),
    "branch": lambda w, x: jax.lax.cond(w[0, 0] > 0, jnp.tanh, lambda x: x, x @ w),
    "lookup": lambda w, x: w[jnp.argmax(x, -1)],
    "chosen entries": lambda w, x: jnp.take_along_axis(x @ w, jnp.argsort(x), axis=-1)[..., -2:],
    "sorted": lambda w, x: jax.lax.top_k(jnp.sort(x @ w, axis=1), 2)[0],
    "shifted": lambda w, x: jnp.pad((x @ w)[:, 1:], ((0, 0), (0, 1), (0, 0)))[:, ::-1],
    "cumulative": lambda w, x: jnp.cumsum(x @ w, axis=1),
    "position table": lambda w, x: x + jnp.arange(6)[:, None] * w[0],
    "one mask for all": lambda w, x: (
        jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, (1, 6, 8)), x, 0) @ w
    ),
    "rematerialised": jax.checkpoint(lambda w, x: jax.nn.gelu(x @ w)),
    "spectrum": lambda w, x: jnp.fft.rfft(x @ w).real,
}

TOGETHER = {
    "mean": lambda w, x: x @ w - x.mean(0),
    "last sample": lambda w, x: x @ w + x[-1:],
    "neighbours": lambda w, x: x @ w + jnp.roll(x, 1, axis=0),
    "order": lambda w, x: jnp.sort(x @ w, axis=0),
    "queue": lambda w, x: jnp.cumsum(x @ w, axis=0),
    "across the batch": lambda w, x: jnp.einsum("btd,ctd->bc", x @ w, x),
    "mask over the batch": lambda w, x: (
        jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0) @ w
    ),
    "place in the batch": lambda w, x: x @ w + jnp.arange(len(x))[:, None, None],
    "table of places": lambda w, x: x @ w + jnp.asarray(np.arange(4.0))[:, None, None],
    "size of the batch": lambda w, x: x @ w / len(x),
    "power of the size": lambda w, x: (x @ w) ** len(x),
    "joined and mixed": lambda w, x: jnp.cumsum((x @ w).reshape(-1, 8), 0).reshape(x.shape),
    "mistaken axes": lambda w, x: (x @ w).reshape(6, 4, 8).swapaxes(0, 1),
    "until all have settled": lambda w, x: jax.lax.while_loop(
        lambda h: jnp.max(h) > 1, lambda h: h / 2, x @ w
    ),
    "branch on the batch": lambda w, x: jax.lax.cond(x.sum() > 0, jnp.tanh, jnp.sin, x @ w),
    "loop over samples": lambda w, x: jax.lax.scan(lambda h, x: (h + x @ w,) * 2, x[0], x)[1],
    "carried over": loop(lambda w: lambda h, x: (h @ w + x.mean(0), None)),
    "own rule": lambda w, x: _own_rule(x @ w),
    "convolution over the batch": lambda w, x: jnp.convolve(x[:, 0, 0], w[0], mode="same"),
}


@jax.custom_vjp
def _own_rule(x):
    return x


_own_rule.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent.mean(0, keepdims=True),))


@pytest.mark.parametrize("name", APART)
def test_samples_that_are_kept_apart_are_seen(name):
    assert keeps_samples_apart(APART[name], W, X)


@pytest.mark.parametrize("name", TOGETHER)
def test_samples_that_meet_are_never_said_to_be_apart(name):
    assert not keeps_samples_apart(TOGETHER[name], W, X)


@pytest.mark.parametrize("name", APART)
def test_what_is_seen_is_true(name):
    """The outputs of a sample have no derivative in the others."""
    sums = lambda x: APART[name](W, x).reshape(len(X), -1).sum(axis=-1)  # noqa: E731
    jacobian = jax.jit(jax.jacrev(sums))(X)
    sizes = np.abs(np.asarray(jacobian)).reshape(4, 4, -1).max(axis=-1)
    assert np.all(sizes[~np.eye(4, dtype=bool)] == 0)


@pytest.mark.parametrize("name", sorted(set(zoo.MODELS) - {"custom_vjp"}))
def test_the_usual_models_are_seen_through(name):
    case = zoo.build(name)
    assert keeps_samples_apart(case.apply_fn, case.params, case.batch_a[0])


def test_each_output_has_its_own_answer():
    both = keeps_samples_apart(lambda w, x: {"a": x @ w, "b": x @ w - x[:1]}, W, X)
    assert both == {"a": True, "b": False}


def test_one_sample_meets_no_other():
    assert keeps_samples_apart(TOGETHER["mean"], W, X[:1])


def test_keys_that_come_with_the_samples():
    def apply_fn(w, inputs):
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (6, 8)))(inputs["key"])
        return jnp.where(keep, inputs["x"], 0) @ w

    inputs = {"x": X, "key": jax.random.split(jax.random.key(5), len(X))}
    assert keeps_samples_apart(apply_fn, W, inputs)
