"""The layers' terms against a dense Jacobian of each layer alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from lnpjax.theory.conjugate_kernels import apply, layer_kernels


def perceptron(widths, readout_shape, seed=0):
    rng = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths, strict=False))
    return {
        "hidden": tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes),
        "readout": jnp.asarray(rng.normal(size=(*readout_shape, widths[-1]))),
    }


def samples(n, features, seed=9):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, features)))


CASES = pytest.mark.parametrize(
    ("widths", "readout_shape", "activation"),
    [
        ((3, 5), (), jnp.tanh),
        ((3, 5, 4, 6), (), jax.nn.gelu),
        ((3, 5, 4, 6), (2,), jnp.tanh),
        ((4, 3, 7), (1,), jax.nn.relu),
        ((2, 6, 5), (3,), jnp.sin),
    ],
)


@CASES
def test_every_term_is_the_kernel_of_its_layer_alone(x64, widths, readout_shape, activation):
    params, inputs = perceptron(widths, readout_shape), samples(4, widths[0])
    parts = layer_kernels(activation, params, inputs)
    blocks = oracles.dense_jacobian(functools.partial(apply, activation), params, inputs)
    assert list(parts.terms) == [f"hidden/{i}" for i in range(len(widths) - 1)] + ["readout"]
    for block, (name, term) in zip(blocks, parts.terms.items(), strict=True):
        np.testing.assert_allclose(term, block @ block.T, rtol=1e-11, atol=1e-13, err_msg=name)
    whole = np.concatenate(blocks, axis=1)
    np.testing.assert_allclose(parts.kernel, whole @ whole.T, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("readout_shape", [(), (2,)])
def test_the_network_of_the_paper(x64, readout_shape):
    """Equations 8 and 9, written out for three layers, and the conjugate kernels (10)."""
    params, inputs = perceptron((3, 5, 4, 6), readout_shape), samples(4, 3)
    one, two, three = (np.asarray(w) for w in params["hidden"])
    x1 = np.tanh(one @ np.asarray(inputs).T) / np.sqrt(5)
    x2 = np.tanh(two @ x1) / np.sqrt(4)
    x3 = np.tanh(three @ x2) / np.sqrt(6)
    outputs = apply(jnp.tanh, params, inputs)
    assert outputs.shape == (4, *readout_shape)
    np.testing.assert_allclose(outputs, (np.asarray(params["readout"]) @ x3).T, rtol=1e-12)

    parts = jax.jit(layer_kernels, static_argnums=0)(jnp.tanh, params, inputs)
    layers = [np.asarray(inputs).T, x1, x2, x3]
    for conjugate_kernel, x in zip(parts.conjugate_kernels, layers, strict=True):
        np.testing.assert_allclose(conjugate_kernel, x.T @ x, rtol=1e-12, atol=1e-14)


def test_the_sensitivities_are_gradients_by_the_preactivations(x64):
    """S_l^T S_l of equation 13, by differentiating in a shift of the pre-activations."""
    params, inputs = perceptron((3, 5, 4), (2,)), samples(4, 3)
    parts = layer_kernels(jnp.tanh, params, inputs)

    def shifted(shift_one, shift_two):
        x1 = jnp.tanh(inputs @ params["hidden"][0].T + shift_one) / jnp.sqrt(5.0)
        x2 = jnp.tanh(x1 @ params["hidden"][1].T + shift_two) / jnp.sqrt(4.0)
        return (x2 @ params["readout"].T).reshape(-1)

    slopes = jax.jacrev(shifted, argnums=(0, 1))(jnp.zeros((4, 5)), jnp.zeros((4, 4)))
    for sensitivity, slope in zip(parts.sensitivities, slopes, strict=True):
        # Each output depends on the pre-activations of its own sample only.
        s = np.sum(np.asarray(slope), axis=1)
        np.testing.assert_allclose(sensitivity, s @ s.T, rtol=1e-12, atol=1e-14)


def test_linear_network_in_closed_form(x64):
    """sigma = 1: the kernel of f = w^T W x / sqrt(w_1), by hand."""
    params, inputs = perceptron((3, 5), ()), samples(4, 3)
    weight, readout, x = (np.asarray(a) for a in (params["hidden"][0], params["readout"], inputs))
    terms = layer_kernels(lambda h: h, params, inputs).terms
    np.testing.assert_allclose(terms["hidden/0"], readout @ readout / 5 * (x @ x.T), rtol=1e-12)
    np.testing.assert_allclose(terms["readout"], x @ weight.T @ weight @ x.T / 5, rtol=1e-12)


def test_float32_agrees_with_float64():
    params, inputs = perceptron((3, 5, 4), (2,)), samples(4, 3)
    kernel = layer_kernels(jnp.tanh, params, inputs).kernel
    assert kernel.dtype == jnp.float32
    block = oracles.dense_jacobian(functools.partial(apply, jnp.tanh), params, inputs)
    whole = np.concatenate(block, axis=1)
    np.testing.assert_allclose(kernel, whole @ whole.T, rtol=1e-5, atol=1e-5)


def good():
    return {"hidden": (jnp.ones((4, 3)), jnp.ones((5, 4))), "readout": jnp.ones((2, 5))}


@pytest.mark.parametrize("call", [apply, layer_kernels])
@pytest.mark.parametrize(
    ("changed", "inputs", "error", "message"),
    [
        ({"hidden": ()}, jnp.ones((2, 3)), ValueError, "^params: .* at least one hidden layer"),
        ({"extra": 1.0}, jnp.ones((2, 3)), ValueError, "^params: "),
        ({}, jnp.ones((2, 4)), ValueError, r"^params\['hidden'\]\[0\]: .* 4 columns"),
        (
            {"hidden": (jnp.ones((4, 3)), jnp.ones((5, 3)))},
            jnp.ones((2, 3)),
            ValueError,
            r"^params\['hidden'\]\[1\]: .* 4 columns.* got shape \(5, 3\)",
        ),
        ({"readout": jnp.ones(4)}, jnp.ones((2, 3)), ValueError, r"^params\['readout'\]: .*\(5,\)"),
        ({}, jnp.ones(3), ValueError, r"^inputs: expected \(B, features\)"),
        ({}, jnp.ones((2, 3), int), TypeError, "^inputs: .* int32"),
    ],
)
def test_bad_input(call, changed, inputs, error, message):
    call(jnp.tanh, good(), jnp.ones((2, 3)))
    with pytest.raises(error, match=message):
        call(jnp.tanh, good() | changed, inputs)
