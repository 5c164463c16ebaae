"""`instrument`: training is untouched, and the records are what a measurement alone would find."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from flax import linen, nnx
from flax.training import train_state

import lnpjax
from lnpjax import Exact, Status, Windows
from lnpjax.models.llama import Llama, LlamaConfig

WINDOWS = Windows((0, 2, 5), 2)  # measured: 0 1 2 3 5 6
NUM_STEPS = 8


class Setting(NamedTuple):
    """A training step in one of the styles that people write."""

    train_step: object
    state: object
    params_of: object
    step_of: object
    measure: object
    batches: object  # a stack of batches A
    batch_b: tuple


def _gradient_step(apply_fn, loss_fn, optimizer):
    def gradient(params, batch):
        return jax.value_and_grad(lambda p: loss_fn(apply_fn(p, batch[0]), batch[1]))(params)

    def update(params, optimizer_state, grads):
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    return gradient, update


def optax_tuple():
    case = zoo.tied_embeddings()
    optimizer = optax.adamw(1e-2)
    gradient, update = _gradient_step(case.apply_fn, case.loss_fn, optimizer)

    def train_step(state, batch):
        params, optimizer_state, step = state
        loss, grads = gradient(params, batch)
        params, optimizer_state = update(params, optimizer_state, grads)
        return (params, optimizer_state, step + 1), {"loss": loss, "gradient": grads}

    state = (case.params, optimizer.init(case.params), jnp.int32(0))
    tokens = jax.random.randint(jax.random.key(0), (NUM_STEPS, 4, 6), 0, 11)
    return Setting(
        train_step,
        state,
        lambda s: s[0],
        lambda s: s[2],
        lnpjax.lnp(case.apply_fn, case.loss_fn),
        (tokens[:, :, :-1], tokens[:, :, 1:]),
        case.batch_b,
    )


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.LayerNorm()(jnp.tanh(linen.Dense(6)(x)))
        return linen.Dense(3)(x)


def linen_train_state():
    keys = jax.random.split(jax.random.key(1), 3)
    inputs = jax.random.normal(keys[0], (NUM_STEPS, 4, 5))
    labels = jax.random.randint(keys[1], (NUM_STEPS, 4), 0, 3)
    apply_fn, params = lnpjax.from_linen(Net(), Net().init(keys[2], inputs[0]))
    state = train_state.TrainState.create(
        apply_fn=None, params=params, tx=optax.sgd(1e-2, momentum=0.9)
    ).replace(step=jnp.int32(0))

    def train_step(state, batch):
        loss, grads = jax.value_and_grad(
            lambda p: zoo.cross_entropy(apply_fn(p, batch[0]), batch[1])
        )(state.params)
        return state.apply_gradients(grads=grads), {"loss": loss, "gradient": grads}

    return Setting(
        train_step,
        state,
        lambda s: s.params,
        lambda s: s.step,
        lnpjax.lnp(apply_fn, zoo.cross_entropy),
        (inputs, labels),
        (inputs[0], labels[1]),
    )


def nnx_state():
    """A Flax NNX model and optimizer, merged inside the step in the usual way."""
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_layers=1,
        num_heads=2,
        max_seq_len=8,
    )
    model = nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)))()
    apply_fn, _ = lnpjax.from_nnx(model)
    graphdef, state = nnx.split((model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)))

    def train_step(state, batch):
        model, optimizer = nnx.merge(graphdef, state)

        def loss_fn(model):
            return zoo.cross_entropy(model(batch[0]), batch[1])

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), {"loss": loss, "gradient": grads}

    tokens = jax.random.randint(jax.random.key(3), (NUM_STEPS, 3, 6), 0, 11)

    def params_of(state):
        return nnx.state(nnx.merge(graphdef, state)[0], nnx.Param)

    def step_of(state):
        return nnx.merge(graphdef, state)[1].step[...].astype(jnp.int32)

    return Setting(
        train_step,
        state,
        params_of,
        step_of,
        lnpjax.lnp(apply_fn, zoo.cross_entropy),
        (tokens[:, :, :-1], tokens[:, :, 1:]),
        (tokens[0, :, :-1], tokens[0, :, 1:]),
    )


SETTINGS = {f.__name__: functools.cache(f) for f in (optax_tuple, linen_train_state, nnx_state)}
every_setting = pytest.mark.parametrize("name", SETTINGS)


def take_gradient(metrics):
    return metrics["gradient"], {"loss": metrics["loss"]}


def instrumented(setting, **options):
    options = {"take_gradient": take_gradient} | options
    return lnpjax.instrument(
        setting.train_step,
        setting.measure,
        WINDOWS,
        params_of=setting.params_of,
        step_of=setting.step_of,
        **options,
    )


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def batch_at(setting, index):
    return jax.tree.map(lambda leaf: leaf[index], setting.batches)


@functools.cache
def train_plainly(name):
    setting = SETTINGS[name]()
    state, losses = copied(setting.state), []
    step = jax.jit(setting.train_step, donate_argnums=0)
    for index in range(NUM_STEPS):
        state, metrics = step(state, batch_at(setting, index))
        losses.append(metrics["loss"])
    return state, np.array(losses)


@functools.cache
def train_instrumented(name, **options):
    setting = SETTINGS[name]()
    state, losses, records = copied(setting.state), [], []
    step = jax.jit(instrumented(setting, **options), donate_argnums=0)
    for index in range(NUM_STEPS):
        key = jax.random.key(index)
        state, metrics, record = step(state, batch_at(setting, index), setting.batch_b, key)
        losses.append(metrics["loss"])
        records.append(record)
    return state, np.array(losses), records


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.compiled_as_by_users
@every_setting
@pytest.mark.parametrize(
    "options",
    [{}, {"take_gradient": None}, {"real_update": False}],
    ids=["gradient handed over", "gradient not handed over", "without the real update"],
)
def test_training_is_bit_identical(name, options):
    state, losses = train_plainly(name)
    measured_state, measured_losses, records = train_instrumented(name, **options)
    np.testing.assert_array_equal(losses, measured_losses)
    assert_identical(state, measured_state)
    assert [bool(r.measured) for r in records] == [
        i in (0, 1, 2, 3, 5, 6) for i in range(NUM_STEPS)
    ]


@pytest.mark.parametrize("name", ["optax_tuple", "nnx_state"])
def test_scan_gives_the_same_records(name):
    setting = SETTINGS[name]()
    state, losses, records = train_instrumented(name)
    step = instrumented(setting)

    def body(state, xs):
        state, metrics, record = step(state, xs[0], setting.batch_b, xs[1])
        return state, (metrics["loss"], record)

    keys = jax.vmap(jax.random.key)(jnp.arange(NUM_STEPS))
    run = jax.jit(lambda state: jax.lax.scan(body, state, (setting.batches, keys)))
    scanned_state, (scanned_losses, scanned) = run(copied(setting.state))
    np.testing.assert_allclose(scanned_losses, losses, rtol=1e-5)
    np.testing.assert_array_equal(scanned.step, np.arange(NUM_STEPS))
    np.testing.assert_array_equal(scanned.window, [0, 0, 1, 1, -1, 2, 2, -1])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *records)
    np.testing.assert_allclose(scanned.measurement.chi_pos, stacked.measurement.chi_pos, rtol=1e-3)
    assert jax.tree.structure(scanned_state) == jax.tree.structure(state)


@every_setting
def test_records_are_those_of_a_measurement_alone(name):
    """Also: the measurement is taken before the update, on the given B, with the given key."""
    setting = SETTINGS[name]()
    _, _, records = train_instrumented(name)
    state = copied(setting.state)

    @jax.jit
    def by_hand(state, batch, key):
        params = setting.params_of(copied(state))
        new_state, _ = setting.train_step(state, batch)
        after = setting.params_of(new_state)
        alone = setting.measure(params, batch, setting.batch_b, key=key, params_after=after)
        return new_state, alone

    for index in range(3):
        new_state, alone = by_hand(state, batch_at(setting, index), jax.random.key(index))
        for field in ("loss_a", "loss_b", "delta_loss", "chi_loss", "chi_net", "chi_pos"):
            np.testing.assert_allclose(
                getattr(records[index].measurement, field), getattr(alone, field), rtol=2e-5
            )
        np.testing.assert_allclose(
            records[index].measurement.linear_change, alone.linear_change, rtol=2e-4
        )
        np.testing.assert_allclose(records[index].measurement.nu, alone.nu, atol=2e-6)
        state = new_state


@every_setting
def test_unmeasured_records_are_marked_and_keep_their_structure(name):
    _, _, records = train_instrumented(name)
    blank, full = records[4], records[0]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), r) for r in (blank, full)]
    assert shapes[0] == shapes[1]
    assert blank.measurement.status == Status.NOT_MEASURED
    assert full.measurement.status == Status.OK
    numbers = jax.tree.leaves(dataclasses.replace(blank.measurement, status=None))
    assert all(np.isnan(leaf) for leaf in numbers)
    assert blank.window == -1


def test_a_concrete_step_is_decided_in_python():
    """Not measured: the compiled code contains no measurement, hence costs and keeps nothing."""
    setting = SETTINGS["optax_tuple"]()
    step = instrumented(setting)
    arguments = (batch_at(setting, 0), setting.batch_b, jax.random.key(0))

    def at(index):
        state = (*setting.state[:2], index)
        return jax.jit(lambda state, *rest: step((*state, index), *rest)).lower(
            state[:2], *arguments
        )

    plain = jax.jit(setting.train_step).lower(setting.state, arguments[0])
    flops = {index: at(index).compile().cost_analysis()["flops"] for index in (0, 4)}
    base = plain.compile().cost_analysis()["flops"]
    assert flops[4] <= base
    assert flops[0] > 2 * base


def test_methods_leave_the_decision_to_the_caller():
    setting = SETTINGS["optax_tuple"]()
    step = instrumented(setting)
    arguments = (setting.state, batch_at(setting, 0), setting.batch_b, jax.random.key(0))
    _, _, plain = jax.jit(step.plain)(*arguments)
    _, _, measured = jax.jit(step.measured)(*arguments)
    assert not plain.measured
    assert np.isnan(plain.measurement.chi_pos)
    assert measured.measured
    assert np.isfinite(measured.measurement.chi_pos)


def test_nothing_is_compiled_anew_once_each_kind_of_step_was_made():
    setting = SETTINGS["optax_tuple"]()
    step = instrumented(setting)
    decided = {True: jax.jit(step.measured, donate_argnums=0), False: jax.jit(step.plain)}
    traced = jax.jit(step)
    compilations = []

    def count(event, seconds, **_):
        del seconds
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    def train(indices, state, other):
        for index in indices:
            key = jax.random.key(index)
            batches = batch_at(setting, index), setting.batch_b
            state, _, record = decided[bool(WINDOWS.active(index))](state, *batches, key)
            other, _, _ = traced(other, *batches, key)
            assert bool(record.measured) == WINDOWS.active(index)
        return state, other

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        states = train(range(5), copied(setting.state), setting.state)  # measured: all but 4
        assert len(compilations) >= 3
        compilations.clear()
        train(range(4, NUM_STEPS), *states)
        assert not compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_handing_the_gradient_over_saves_a_backward_pass():
    """Counted by the compiler, inside the conditional, where it cannot merge identical work."""
    setting = SETTINGS["optax_tuple"]()
    arguments = (setting.state, batch_at(setting, 0), setting.batch_b, jax.random.key(0))

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    def unchecked(params, batch_a, batch_b, *, key, gradient_a=None):
        return setting.measure(
            params, batch_a, batch_b, key=key, gradient_a=gradient_a, check_gradient_a=False
        )

    handed = instrumented(setting._replace(measure=unchecked), real_update=False)
    own = instrumented(setting, take_gradient=None, real_update=False)
    gradient = flops(lambda s, b: setting.train_step(s, b)[1]["gradient"], *arguments[:2])
    forward = flops(lambda s, b: setting.train_step(s, b)[1]["loss"], *arguments[:2])
    saved = flops(own, *arguments) - flops(handed, *arguments)
    # Four samples besides, which are compared where the gradient is.
    four = jax.tree.map(lambda leaf: leaf[:4], arguments[1])
    compared = flops(lambda s, b: setting.train_step(s, b)[1]["loss"], arguments[0], four)
    assert saved > 0.8 * (gradient - forward) + compared


def test_full_batch(x64):
    """Without B, the loss change is read on A."""
    setting = SETTINGS["optax_tuple"]()
    step = jax.jit(
        lnpjax.instrument(
            setting.train_step,
            dataclasses.replace(setting.measure, estimator=Exact()),
            WINDOWS,
            params_of=setting.params_of,
            step_of=setting.step_of,
        )
    )
    _, _, record = step(setting.state, batch_at(setting, 0), None, jax.random.key(0))
    assert record.measurement.loss_a == record.measurement.loss_b
    assert 0 <= record.measurement.chi_pos <= 1


def test_any_measure_serves():
    """A measure is any function of parameters and batches; it need not take the extras."""
    setting = SETTINGS["optax_tuple"]()

    def parameter_norm(params, batch_a, batch_b, *, key):
        del batch_a, batch_b, key
        return {"norm": optax.tree.norm(params), "count": jnp.int32(3)}

    step = lnpjax.instrument(
        setting.train_step,
        parameter_norm,
        WINDOWS,
        params_of=setting.params_of,
        step_of=setting.step_of,
    )
    state = setting.state
    _, _, measured = jax.jit(step)(state, batch_at(setting, 0), None, jax.random.key(0))
    state = (*state[:2], jnp.int32(4))
    _, _, blank = jax.jit(step)(state, batch_at(setting, 0), None, jax.random.key(0))
    np.testing.assert_allclose(
        measured.measurement["norm"], optax.tree.norm(setting.state[0]), rtol=1e-6
    )
    assert measured.measurement["count"] == 3
    assert np.isnan(blank.measurement["norm"])
    assert blank.measurement["count"] == 0


def test_a_state_without_a_step_is_refused():
    setting = SETTINGS["optax_tuple"]()
    step = lnpjax.instrument(
        setting.train_step, setting.measure, WINDOWS, params_of=setting.params_of
    )
    with pytest.raises(
        TypeError, match=r"step_of: expected a function .* got None for a state of type tuple"
    ):
        step(setting.state, batch_at(setting, 0), None, jax.random.key(0))


@pytest.mark.parametrize("jit", [lambda step: step, nnx.jit], ids=["eager", "nnx.jit"])
def test_nnx_optimizer_as_the_state(jit):
    """Its step is a variable, which the update has moved on by the time the record is written."""
    x, y = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.zeros((4, 2), np.float32)

    def loss_fn(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    state = nnx.ModelAndOptimizer(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1))
    apply_fn, params = lnpjax.from_nnx(state.model)
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=Exact())

    def train_step(state, batch):
        loss, gradient = nnx.value_and_grad(lambda model: loss_fn(model(batch[0]), batch[1]))(
            state.model
        )
        state.update(gradient)
        return state, {"loss": loss, "gradient": gradient}

    step = lnpjax.instrument(
        train_step,
        measure,
        Windows([1], 1),
        params_of=lambda state: nnx.state(state.model, nnx.Param),
        take_gradient=lambda metrics: (metrics.pop("gradient"), metrics),
    )
    run = jit(lambda state, key: step(state, (x, y), None, key)[1:])
    first, second = (run(state, jax.random.key(seed)) for seed in range(2))
    assert [bool(record.measured) for _, record in (first, second)] == [False, True]
    assert [int(record.step) for _, record in (first, second)] == [0, 1]
    assert [int(record.window) for _, record in (first, second)] == [-1, 0]

    # By hand: the parameters after one step of plain gradient descent.
    gradient = jax.grad(lambda p: loss_fn(apply_fn(p, x), y))(params)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    expected = jax.jit(measure)(moved, (x, y))
    found = second[1].measurement
    np.testing.assert_allclose(found.delta_loss, expected.delta_loss, rtol=1e-5)
    np.testing.assert_allclose(found.chi_pos, expected.chi_pos, rtol=1e-5)
    # Quadratic loss: what linearisation misses is half the squared change of the outputs.
    change = apply_fn(nnx.state(state.model, nnx.Param), x) - apply_fn(moved, x)
    np.testing.assert_allclose(found.nu, np.mean(np.square(change)), rtol=1e-3)
