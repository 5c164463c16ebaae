"""From Flax modules to ``(apply_fn, params)``."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lnpjax
from lnpjax import Exact, parameters


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def features(self, x):
        return self.norm(self.first(x))

    def __call__(self, x, *, scale=1.0):
        return scale * self.head(self.dropout(jnp.tanh(self.features(x))))


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x)))


INPUTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def network():
    module = Network(nnx.Rngs(0))
    module.eval()
    return module


@pytest.fixture(scope="module")
def linen():
    module = LinenNetwork()
    return module, jax.jit(module.init)(jax.random.key(0), INPUTS)


def test_nnx_gives_the_same_outputs(network):
    apply_fn, params = lnpjax.from_nnx(network)
    # Of outputs of about one, some of which nearly cancel.
    outputs = jax.jit(apply_fn)(params, INPUTS)
    np.testing.assert_allclose(outputs, network(INPUTS), rtol=1e-6, atol=1e-6)


def test_nnx_params_are_the_params_alone(network):
    _, params = lnpjax.from_nnx(network)
    assert {path.split("/")[0] for path in parameters.paths(params)} == {"first", "norm", "head"}
    assert len(parameters.paths(params)) == 6  # two each; no statistics, no random streams


def test_nnx_function_depends_on_the_params_it_is_given(network):
    apply_fn, params = lnpjax.from_nnx(network)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    assert np.any(apply_fn(doubled, INPUTS) != apply_fn(params, INPUTS))
    before = np.asarray(network.first.kernel[...])
    apply_fn(doubled, INPUTS)
    np.testing.assert_array_equal(network.first.kernel[...], before)  # the module is left alone


def test_nnx_statistics_do_not_leak_out_of_jit():
    """In training mode batch normalisation updates its statistics; the original keeps its own."""
    module = Network(nnx.Rngs(0))
    apply_fn, params = lnpjax.from_nnx(module)
    before = np.asarray(module.norm.mean[...])
    jax.jit(apply_fn)(params, INPUTS)
    np.testing.assert_array_equal(module.norm.mean[...], before)


def train_on(module):
    """What a step of training changes: statistics, parameters, random streams."""
    module.train()
    module(INPUTS + 5)
    module.head.kernel[...] = 2 * module.head.kernel[...]
    module.eval()


@pytest.mark.parametrize("jit", [lambda function: function, nnx.jit], ids=["eager", "nnx.jit"])
def test_nnx_neither_statistics_nor_params_follow_the_module(jit):
    module = Network(nnx.Rngs(0))
    module.eval()
    expected = np.asarray(module(INPUTS))

    @jit
    def outputs_before_and_after(module):
        apply_fn, params = lnpjax.from_nnx(module)
        before = apply_fn(params, INPUTS)
        train_on(module)
        return before, apply_fn(params, INPUTS), module(INPUTS)

    before, after, live = outputs_before_and_after(module)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(before, expected, rtol=1e-5)
    assert np.max(np.abs(live - after)) > 0.1  # the control: training does change the outputs


def test_nnx_what_is_frozen_survives_donation():
    """A compiled training step may give the buffers of statistics away."""
    module = Network(nnx.Rngs(0))
    module.eval()
    apply_fn, params = lnpjax.from_nnx(module)
    expected, kept = apply_fn(params, INPUTS), jax.tree.map(jnp.copy, params)
    for leaf in jax.tree.leaves(nnx.state(module)):
        leaf.delete()
    np.testing.assert_array_equal(apply_fn(kept, INPUTS), expected)


def test_nnx_numpy_arrays_are_copied():
    class Shifted(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(np.ones(3, np.float32))
            self.shift = nnx.data(np.zeros(3, np.float32))

        def __call__(self, x):
            return self.scale[...] * x + self.shift

    module = Shifted()
    apply_fn, params = lnpjax.from_nnx(module)
    module.scale[...] += 1
    module.shift += 1
    np.testing.assert_array_equal(apply_fn(params, INPUTS), INPUTS)


def test_linen_what_is_frozen_stays(linen):
    module, variables = linen
    variables = jax.tree.map(jnp.copy, variables)
    apply_fn, params = lnpjax.from_linen(module, variables)
    expected = apply_fn(params, INPUTS)
    statistics = variables["batch_stats"]["BatchNorm_0"]
    statistics["mean"].delete()
    statistics["mean"] = jnp.full(4, 5.0)
    np.testing.assert_array_equal(apply_fn(params, INPUTS), expected)


def test_nnx_method_and_keywords(network):
    features, params = lnpjax.from_nnx(network, method="features")
    np.testing.assert_allclose(features(params, INPUTS), network.features(INPUTS), rtol=1e-6)
    scaled, params = lnpjax.from_nnx(network, scale=3.0)
    np.testing.assert_allclose(scaled(params, INPUTS), 3 * network(INPUTS), rtol=1e-6)


def test_linen_gives_the_same_outputs(linen):
    module, variables = linen
    apply_fn, params = lnpjax.from_linen(module, variables, train=False)
    assert params is variables["params"]
    expected = module.apply(variables, INPUTS)
    np.testing.assert_allclose(jax.jit(apply_fn)(params, INPUTS), expected, rtol=1e-6)


def test_linen_method(linen):
    class Encoder(nn.Module):
        def setup(self):
            self.dense = nn.Dense(2)

        def __call__(self, x):
            return self.dense(x)

        def squared(self, x):
            return self.dense(x) ** 2

    module = Encoder()
    variables = module.init(jax.random.key(0), INPUTS)
    apply_fn, params = lnpjax.from_linen(module, variables, method="squared")
    np.testing.assert_allclose(apply_fn(params, INPUTS), module.apply(variables, INPUTS) ** 2)


def test_both_give_one_measurement(linen):
    """The same network in the two libraries, parameters carried over by name."""
    module, variables = linen
    linen_fn, linen_params = lnpjax.from_linen(module, variables)
    twin = Network(nnx.Rngs(1))
    twin.eval()
    names = {"first": "Dense_0", "norm": "BatchNorm_0", "head": "Dense_1"}
    for name, other in names.items():
        for leaf, value in linen_params[other].items():
            getattr(getattr(twin, name), leaf)[...] = value
    nnx_fn, nnx_params = lnpjax.from_nnx(twin)
    left, right = (
        jax.jit(lambda p, fn=fn: lnpjax.squared_jacobian_norm(fn, p, INPUTS, estimator=Exact()))(
            params
        )
        for fn, params in ((linen_fn, linen_params), (nnx_fn, nnx_params))
    )
    np.testing.assert_allclose(left.value, right.value, rtol=1e-5)
    for name, other in names.items():
        np.testing.assert_allclose(left.groups[other], right.groups[name], rtol=1e-5)


def test_nnx_leaves_go_by_name_not_by_order():
    """Flax would give the leaves of another module to this one, in their order."""

    class Two(nnx.Module):
        def __init__(self, *names):
            for index, name in enumerate(names):
                setattr(self, name, nnx.Linear(3, 2, rngs=nnx.Rngs(index)))

        def __call__(self, x):
            return self.a(x) - 2 * self.b(x)

    apply_fn, params = lnpjax.from_nnx(Two("a", "b"))
    pure = {name: {k: v[...] for k, v in params[name].items()} for name in ("b", "a")}
    np.testing.assert_array_equal(apply_fn(pure, INPUTS), apply_fn(params, INPUTS))
    _, others = lnpjax.from_nnx(Two("b", "c"))
    message = r"^params: expected .* module's parameters .*, without 'a/bias', .* with 'c/bias'"
    with pytest.raises(ValueError, match=message):
        apply_fn(others, INPUTS)


def test_wrong_kinds_are_refused(network, linen):
    module, variables = linen
    with pytest.raises(TypeError, match=r"module: expected a flax\.nnx\.Module .*from_linen"):
        lnpjax.from_nnx(module)
    with pytest.raises(TypeError, match=r"module: expected a flax\.linen\.Module .*from_nnx"):
        lnpjax.from_linen(network, variables)
    with pytest.raises(ValueError, match=r"variables: expected a collection 'params'.*Dense_0"):
        lnpjax.from_linen(module, variables["params"])
