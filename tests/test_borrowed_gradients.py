"""A gradient that is handed over is found out where it is not the measured loss's own.

The control is the measurement itself: what such a gradient does to chi_pos.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Exact, Status, every

KEYS = jax.random.split(jax.random.key(0), 6)
PARAMS = {
    "first": jax.random.normal(KEYS[0], (6, 8)),
    "second": jax.random.normal(KEYS[1], (8, 3)),
}
BATCH_A, BATCH_B = (
    (jax.random.normal(k, (16, 6)), jax.random.normal(jax.random.fold_in(k, 1), (16, 3)))
    for k in KEYS[2:4]
)


def apply_fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def gradient_of(params, batch, network=apply_fn):
    return jax.grad(lambda p: loss_fn(network(p, batch[0]), batch[1]))(params)


def with_dropout(params, x):
    keep = jax.random.bernoulli(KEYS[4], 0.8, (16, 8))
    return (jnp.tanh(x @ params["first"]) * keep / 0.8) @ params["second"]


OWN = gradient_of(PARAMS, BATCH_A)
BORROWED = {
    "clipped": jax.tree.map(lambda g: 0.3 * g, OWN),
    "scaled by 1.1": jax.tree.map(lambda g: 1.1 * g, OWN),
    "of another batch": gradient_of(PARAMS, BATCH_B),
    "with dropout": gradient_of(PARAMS, BATCH_A, with_dropout),
    "with weight decay": jax.tree.map(lambda g, p: g + 0.1 * p, OWN, PARAMS),
    "of one layer": OWN | {"second": jnp.zeros((8, 3))},
    "of other parameters": gradient_of(jax.tree.map(lambda p: 1.2 * p, PARAMS), BATCH_A),
}


_measure = jax.jit(lnpjax.lnp(apply_fn, loss_fn, estimator=Exact()))


def measured(gradient, batch_b=BATCH_B, dtype=jnp.float32, **options):
    params, batch_a, batch_b = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (PARAMS, BATCH_A, batch_b)
    )
    return _measure(params, batch_a, batch_b, gradient_a=gradient, **options)


@pytest.mark.parametrize("name", BORROWED)
@pytest.mark.parametrize("batch_b", [BATCH_B, None], ids=["cross", "own"])
def test_a_gradient_of_something_else_is_flagged(name, batch_b):
    result = measured(BORROWED[name], batch_b)
    assert int(result.status) & Status.GRADIENT_MISFIT
    unchecked = measured(BORROWED[name], batch_b, check_gradient_a=False)
    assert not int(unchecked.status) & Status.GRADIENT_MISFIT
    if batch_b is None:  # it is worth a flag
        assert abs(float(unchecked.chi_pos / measured(OWN, None).chi_pos) - 1) > 0.05


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_its_own_gradient_is_not_flagged(dtype):
    """Whatever it was rounded to."""
    rounded = jax.tree.map(lambda g: g.astype(jnp.bfloat16).astype(dtype), OWN)
    assert not int(measured(rounded, dtype=dtype).status) & Status.GRADIENT_MISFIT
    result = measured(jax.tree.map(lambda g: 1.5 * g, rounded), dtype=dtype)
    assert int(result.status) & Status.GRADIENT_MISFIT


def test_an_instrumented_step_checks_in_some_windows():
    def train_step(params, batch):
        gradient = gradient_of(params[0], batch)
        step = params[1]
        return (params[0], step + 1), {"gradient": jax.tree.map(lambda g: 0.3 * g, gradient)}

    step = lnpjax.instrument(
        train_step,
        lnpjax.lnp(apply_fn, loss_fn, estimator=Exact()),
        every(2),
        params_of=lambda state: state[0],
        step_of=lambda state: state[1],
        take_gradient=lambda metrics: (metrics["gradient"], {}),
        real_update=False,
    )

    def one(state, _):
        state, _, record = step(state, BATCH_A, BATCH_B, KEYS[5])
        return state, record.measurement.status

    _, statuses = jax.jit(lambda s: jax.lax.scan(one, s, None, length=20))((PARAMS, jnp.int32(0)))
    found = np.flatnonzero(np.asarray(statuses) & Status.GRADIENT_MISFIT)
    assert found.tolist() == [0, 2, 4, 8, 16]  # windows 0, 1, 2, 4, 8


@pytest.mark.parametrize("cross", [False, True])
def test_the_gradient_that_a_measurement_makes_is_the_losses_own(x64, cross):
    keys = jax.random.split(jax.random.key(3), 3)
    params = {"w": jax.random.normal(keys[0], (3, 2)), "b": jnp.zeros(2)}
    batches = [(jax.random.normal(key, (4, 3)), jnp.ones((4, 2))) for key in keys[1:]]

    def apply_fn(params, x):
        return jnp.tanh(x @ params["w"] + params["b"])

    def loss_fn(outputs, targets):
        return 1e-6 * jnp.mean((outputs - targets) ** 2)

    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact())
    given = batches if cross else batches[:1]
    out, gradient = jax.jit(measure.value_and_gradient)(params, *given)
    expected = jax.grad(lambda p: loss_fn(apply_fn(p, batches[0][0]), batches[0][1]))(params)
    for leaf, like in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, like, rtol=1e-10)
    for leaf, like in zip(
        jax.tree.leaves(out), jax.tree.leaves(jax.jit(measure)(params, *given)), strict=True
    ):
        np.testing.assert_allclose(leaf, like, rtol=1e-12)


def test_padding_has_no_part_in_that_gradient(x64):
    params, (inputs, targets) = jax.tree.map(lambda leaf: leaf.astype(float), (PARAMS, BATCH_A))
    mask = jnp.arange(16) < 11
    padded = (jnp.where(mask[:, None], inputs, jnp.nan), targets)
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=Exact(), wrt="second")
    out, gradient = jax.jit(measure.value_and_gradient)(params, padded, mask_a=mask)
    (leaf,) = jax.tree.leaves(gradient)  # of what is trained, and nothing else
    valid = (inputs[:11], targets[:11])
    np.testing.assert_allclose(leaf, gradient_of(params, valid)["second"], rtol=1e-10)
    np.testing.assert_allclose(out.loss_a, loss_fn(apply_fn(params, valid[0]), valid[1]))


def test_rounding_across_a_power_of_two_is_no_misfit():
    """The check computes the loss gradient again, whose largest entry may round to another unit."""
    calls = itertools.count()

    def rounding():
        return np.float32(1 + 1e-6 * (1 if next(calls) % 2 else -1))

    def linear(weights, x):
        return x @ weights

    def loss(outputs, _):
        factor = jax.pure_callback(rounding, jax.ShapeDtypeStruct((), jnp.float32))
        return 2.0**60 * factor * 8 * jnp.mean(outputs[:, 0])

    weights, inputs = jnp.ones((3, 1)), jax.random.normal(jax.random.key(0), (8, 3))
    own = jax.grad(lambda weights: 2.0**60 * 8 * jnp.mean(linear(weights, inputs)))(weights)
    measure = lnpjax.lnp(linear, loss, estimator=lnpjax.GlobalHutchinson(4))

    @jax.jit
    def status(gradient, check):
        return measure(
            weights,
            (inputs, jnp.zeros(8)),
            key=jax.random.key(0),
            gradient_a=gradient,
            check_gradient_a=check,
        ).status

    assert not int(status(own, True)) & Status.GRADIENT_MISFIT
    assert int(status(1.2 * own, True)) & Status.GRADIENT_MISFIT
