"""Networks whose state moves as they train: batch statistics are those of the measured step."""

from __future__ import annotations

import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lnpjax
from lnpjax import Exact
from lnpjax.adapters import statistics_of_batch
from lnpjax.lens import activation_spectra, gradient_spectra, nnx_hidden_states
from lnpjax.spectra import position_distribution

NUM_STEPS = 60


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.norm(self.first(x)))))


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(2)(jnp.tanh(x))


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def batch(step):
    inputs = 2 + jax.random.normal(jax.random.fold_in(jax.random.key(1), step), (16, 3))
    return inputs, jnp.stack([inputs[:, 0] * inputs[:, 1], inputs[:, 2]], axis=1)


def train_step(model, optimizer, data):
    model.train()
    loss, grads = nnx.value_and_grad(lambda m: loss_fn(m(data[0]), data[1]))(model)
    optimizer.update(model, grads)
    model.eval()
    return loss


def new_model():
    model = Network(nnx.Rngs(0))
    model.eval()
    return model, nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)


def fresh(model, measure_of, data, **options):
    """What an adapter that is made at this very step gives."""
    apply_fn, params = lnpjax.from_nnx(model, with_state=False)
    return jax.jit(measure_of(apply_fn))(params, *data, key=jax.random.key(9), **options)


def lnp_of(apply_fn):
    return lnpjax.lnp(apply_fn, loss_fn, estimator=Exact())


def assert_same(left, right, **tolerances):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def test_an_instrumented_batch_norm_model_is_the_fresh_one_at_every_step_in_one_compilation():
    model, optimizer = new_model()
    apply_fn, _, state = lnpjax.from_nnx(model, with_state=True)
    traces = []

    def counted(params, inputs, state=None):
        traces.append(1)
        return apply_fn(params, inputs, state)

    windows = lnpjax.Windows((0, NUM_STEPS), 1)
    step = nnx.jit(lnpjax.instrument_nnx(train_step, lnp_of(counted), windows))
    for number in range(NUM_STEPS):
        step(model, optimizer, batch(number), batch(1000), jax.random.key(9))
        if number == 0:
            compiled = len(traces)
    assert len(traces) == compiled
    before = nnx.clone(model)
    data = batch(NUM_STEPS), batch(1000)
    _, record = step(model, optimizer, *data, jax.random.key(9))
    assert record.measured
    assert int(record.step) == NUM_STEPS
    expected = fresh(before, lnp_of, data)
    for name in ("chi_loss", "chi_net", "chi_pos", "delta_loss", "loss_b"):
        found = getattr(record.measurement, name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=2e-4, err_msg=name)
    # The control: with the statistics of step 0 the numbers are others.
    later = nnx.state(before, nnx.Param)
    stale = jax.jit(lnp_of(apply_fn))(later, *data, key=jax.random.key(9), state=state)
    assert abs(float(stale.loss_b / expected.loss_b) - 1) > 0.1
    assert abs(float(stale.chi_pos / expected.chi_pos) - 1) > 0.1


def test_training_in_place_is_not_touched():
    plain, measured = new_model(), new_model()
    apply_fn, _, _ = lnpjax.from_nnx(measured[0], with_state=True)
    step = nnx.jit(lnpjax.instrument_nnx(train_step, lnp_of(apply_fn), lnpjax.Windows((0,), 2)))
    alone = nnx.jit(train_step)
    for number in range(3):
        loss, record = step(*measured, batch(number), None, jax.random.key(0))
        np.testing.assert_allclose(alone(*plain, batch(number)), loss, rtol=1e-6)
        assert bool(record.measured) == (number < 2)
    arrays = (nnx.state(model, nnx.Not(nnx.RngKey)) for model, _ in (plain, measured))
    assert_same(*arrays, rtol=1e-5, atol=1e-6)


@functools.cache
def trained():
    model, optimizer = new_model()
    step = nnx.jit(train_step)
    for number in range(5):
        step(model, optimizer, batch(number))
    return model


MEASURES = {
    "lnp": lnp_of,
    "position": lambda apply_fn: position_distribution(apply_fn, loss_fn, num_matvecs=4),
    "gradients": lambda apply_fn: gradient_spectra(
        apply_fn, loss_fn, weights="first/kernel", head=(1, 4), tail=(2, 8)
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_takes_the_state(name):
    apply_fn, _, stale = lnpjax.from_nnx(new_model()[0], with_state=True)
    model = trained()
    params, state = nnx.state(model, nnx.Param), nnx.state(model, nnx.Not(nnx.Param))
    measure, data = MEASURES[name](apply_fn), (batch(7),)
    expected = fresh(model, MEASURES[name], data)
    run = jax.jit(measure)
    result = run(params, *data, key=jax.random.key(9), state=state)
    assert_same(result, expected, rtol=2e-3, atol=1e-5)
    other = run(params, *data, key=jax.random.key(9), state=stale)
    pairs = zip(jax.tree.leaves(other), jax.tree.leaves(expected), strict=True)
    assert any(np.any(np.abs(a - b) > 0.01 * np.abs(b)) for a, b in pairs)


def test_hidden_states_take_the_state():
    hidden, _ = nnx_hidden_states(new_model()[0], ["norm"])
    model = trained()
    params, state = nnx.state(model, nnx.Param), nnx.state(model, nnx.Not(nnx.Param))
    measure = jax.jit(activation_spectra(hidden, head=(1, 4), tail=(2, 8)))
    result = measure(params, batch(7), state=state)
    own, _ = nnx_hidden_states(model, ["norm"])
    expected = jax.jit(activation_spectra(own, head=(1, 4), tail=(2, 8)))(params, batch(7))
    assert_same(result, expected, rtol=1e-3, atol=1e-5)
    stale = measure(params, batch(7))["norm"].trace
    assert abs(float(stale / expected["norm"].trace) - 1) > 0.05


def test_linen_state_within_a_train_state():
    module = LinenNetwork()
    variables = module.init(jax.random.key(0), batch(0)[0])
    apply_fn, params, statistics = lnpjax.from_linen(module, variables, with_state=True)
    assert set(statistics) == {"batch_stats"}
    optimizer = optax.adam(0.02)

    def step_fn(state, data):
        def loss_of(params):
            collections = {"params": params, **state["rest"]}
            outputs, rest = module.apply(collections, data[0], train=True, mutable=["batch_stats"])
            return loss_fn(outputs, data[1]), rest

        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        updates, memory = optimizer.update(grads, state["memory"])
        new = {"params": optax.apply_updates(state["params"], updates), "rest": rest}
        return state | new | {"memory": memory, "step": state["step"] + 1}, loss

    step = jax.jit(
        lnpjax.instrument(
            step_fn,
            lnp_of(apply_fn),
            lnpjax.Windows((20,), 1),
            params_of=lambda state: state["params"],
            step_of=lambda state: state["step"],
            state_of=lambda state: state["rest"],
        )
    )
    state = {"params": params, "rest": statistics, "memory": optimizer.init(params)}
    state["step"] = jnp.int32(0)
    for number in range(20):
        state, _, _ = step(state, batch(number), batch(1000), jax.random.key(9))
    _, _, record = step(state, batch(20), batch(1000), jax.random.key(9))
    now = {"params": state["params"], **state["rest"]}
    own, params = lnpjax.from_linen(module, now, with_state=False)
    expected = jax.jit(lnp_of(own))(params, batch(20), batch(1000))
    np.testing.assert_allclose(record.measurement.chi_pos, expected.chi_pos, rtol=1e-4)
    stale = jax.jit(lnp_of(apply_fn))(params, batch(20), batch(1000))
    assert abs(float(stale.chi_pos / expected.chi_pos) - 1) > 0.05


def test_frozen_statistics_are_said_unless_the_caller_decides():
    model, variables = new_model()[0], LinenNetwork().init(jax.random.key(0), batch(0)[0])
    with pytest.warns(UserWarning, match=r"module: norm/mean, norm/var keep their present values"):
        lnpjax.from_nnx(model)
    with pytest.warns(UserWarning, match=r"batch_stats/BatchNorm_0/mean, .* with_state=True"):
        lnpjax.from_linen(LinenNetwork(), variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for with_state in (True, False):
            lnpjax.from_nnx(model, with_state=with_state)
            lnpjax.from_linen(LinenNetwork(), variables, with_state=with_state)
        lnpjax.from_nnx(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_a_state_that_does_not_fit_is_refused():
    apply_fn, params, state = lnpjax.from_nnx(new_model()[0], with_state=True)
    with pytest.raises(ValueError, match=r"state: expected .*norm/mean.*, got "):
        lnp_of(apply_fn)(params, batch(0), state={"mean": jnp.ones(3)})
    small = jax.tree.map(lambda leaf: leaf, state)
    small["norm"]["mean"] = nnx.BatchStat(jnp.ones(1))
    with pytest.raises(ValueError, match=r"state/norm/mean: expected shape \(8,\), got shape \(1,"):
        lnp_of(apply_fn)(params, batch(0), state=small)
    with pytest.raises(ValueError, match="state_of: expected None, since the measure has no"):
        lnpjax.instrument(
            train_step,
            lambda params, a, b, *, key: 0,
            lnpjax.Windows((0,), 1),
            params_of=lambda s: s,
            state_of=lambda s: s,
        )


def test_a_measure_that_would_read_the_statistics_of_the_start_is_refused():
    model, optimizer = new_model()
    apply_fn, *_ = lnpjax.from_nnx(model, with_state=True)

    def without_state(params, batch_a, batch_b=None, *, key):
        return lnp_of(apply_fn)(params, batch_a, batch_b, key=key)

    step = lnpjax.instrument_nnx(train_step, without_state, lnpjax.Windows((0,), 1))
    with pytest.raises(ValueError, match="measure: expected a function with a parameter `state`"):
        step(model, optimizer, batch(0), None, jax.random.key(0))


def test_normalisation_over_the_measured_batch_is_refused_with_what_to_do():
    model = Network(nnx.Rngs(0))  # in training mode
    apply_fn, params = lnpjax.from_nnx(model, with_state=False)
    with pytest.raises(ValueError, match="samples"):
        lnp_of(apply_fn)(params, batch(0))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_statistics_of_a_batch_give_what_training_mode_computes(momentum):
    module = nn.BatchNorm(momentum=momentum)
    inputs, _ = batch(0)
    variables = module.init(jax.random.key(0), inputs, use_running_average=False)
    state = {"batch_stats": jax.tree.map(lambda s: 5 + s, variables["batch_stats"])}
    apply_fn, params = lnpjax.from_linen(
        module, variables, with_state=False, use_running_average=True
    )

    def update(state):
        return module.apply(
            {"params": params, **state}, inputs, use_running_average=False, mutable=["batch_stats"]
        )[1]

    expected = module.apply(variables, inputs, use_running_average=False, mutable=["batch_stats"])
    fixed = jax.jit(lambda state: statistics_of_batch(update, state))(state)
    np.testing.assert_allclose(apply_fn(params, inputs, fixed), expected[0], atol=2e-4)
    assert np.max(np.abs(apply_fn(params, inputs, state) - expected[0])) > 0.1


def test_statistics_of_a_batch_of_an_nnx_model():
    model, _ = new_model()
    inputs, _ = batch(0)
    graphdef, params, state = nnx.split(model, nnx.Param, ...)

    def update(state):
        own = nnx.merge(graphdef, params, state, copy=True)
        own.train()
        own(inputs)
        return nnx.state(own, nnx.Not(nnx.Param))

    fixed = statistics_of_batch(update, state)
    hidden = model.first(inputs)
    np.testing.assert_allclose(fixed["norm"]["mean"], jnp.mean(hidden, axis=0), rtol=1e-5)
    np.testing.assert_allclose(fixed["norm"]["var"], jnp.var(hidden, axis=0), rtol=1e-4)


def test_statistics_that_do_not_move_towards_the_batch_are_refused():
    state = {"mean": jnp.zeros(2)}
    message = "update: expected a pass in training mode, .* got statistics that do not move so"
    with pytest.raises(ValueError, match=message):
        statistics_of_batch(lambda state: state, state)
    with pytest.raises(ValueError, match=message):
        statistics_of_batch(lambda state: {"mean": state["mean"] ** 3 + 2}, state)
