"""Updates that are made of several batches: `optax.MultiSteps`, measured as what they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lnpjax
from lnpjax import Exact, Status, accumulated, every

MICRO_STEPS, MICRO_BATCH = 4, 3
KEYS = jax.random.split(jax.random.key(0), 4)
INPUTS = jax.random.normal(KEYS[0], (MICRO_STEPS * MICRO_BATCH, 5))
BATCH_A = (INPUTS, jax.random.normal(KEYS[1], (len(INPUTS), 2)))
BATCH_B = (INPUTS[::-1] + 0.3, BATCH_A[1])
OPTIMIZER = optax.MultiSteps(optax.sgd(0.05), MICRO_STEPS)
START = {"w": jax.random.normal(KEYS[2], (5, 2))}


def apply_fn(params, x):
    return jnp.sin(x @ params["w"])


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def micro_step(state, batch):
    params, optimizer, count = state
    loss, gradient = jax.value_and_grad(lambda p: loss_fn(apply_fn(p, batch[0]), batch[1]))(params)
    updates, optimizer = OPTIMIZER.update(gradient, optimizer, params)
    return (optax.apply_updates(params, updates), optimizer, count + 1), {"loss": loss}


def start(params=START):
    return params, OPTIMIZER.init(params), jnp.int32(0)


def instrumented(train_step, step_of):
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=Exact())
    return jax.jit(
        lnpjax.instrument(train_step, measure, every(1), params_of=lambda s: s[0], step_of=step_of)
    )


def test_a_micro_step_that_makes_no_update_is_flagged():
    step, state = instrumented(micro_step, lambda state: state[2]), start()
    flagged = []
    for i in range(2 * MICRO_STEPS):
        state, _, record = step(state, BATCH_A, BATCH_B, jax.random.key(i))
        flagged.append(bool(int(record.measurement.status) & Status.NO_UPDATE))
    assert flagged == ([True] * (MICRO_STEPS - 1) + [False]) * 2


def test_an_accumulated_step_is_measured_on_all_that_its_update_is_made_of(x64):
    params, batch_a, batch_b = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), (START, BATCH_A, BATCH_B)
    )
    whole = accumulated(micro_step, MICRO_STEPS)
    step = instrumented(whole, lambda state: state[2] // MICRO_STEPS)
    state, metrics, record = step(start(params), batch_a, batch_b, jax.random.key(0))
    measurement = record.measurement
    assert (int(record.step), int(measurement.status)) == (0, 0)

    # One step of plain gradient descent on the whole batch; optax averages in float32.
    gradient = jax.grad(lambda p: loss_fn(apply_fn(p, batch_a[0]), batch_a[1]))(params)
    after = params["w"] - 0.05 * gradient["w"]
    np.testing.assert_allclose(state[0]["w"], after, rtol=1e-6)
    change = loss_fn(apply_fn(state[0], batch_b[0]), batch_b[1]) - measurement.loss_b
    predicted = -0.05 * float(measurement.delta_loss)
    assert float(measurement.loss_change) == pytest.approx(float(change), rel=1e-9)
    assert float(measurement.linear_change) == pytest.approx(predicted, rel=1e-6)
    assert float(measurement.nu) == pytest.approx(float(change) - predicted, rel=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(measurement.loss_a), rel=1e-12)


def test_batches_that_do_not_divide_are_refused():
    odd = jax.tree.map(lambda leaf: leaf[:-1], BATCH_A)
    with pytest.raises(ValueError, match=r"batch: expected a multiple of 4 samples, .* got 11"):
        accumulated(micro_step, MICRO_STEPS)(start(), odd)
    with pytest.raises(ValueError, match="num_micro_steps: expected an integer >= 1, got 0"):
        accumulated(micro_step, 0)
