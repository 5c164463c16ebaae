"""What does not depend on a scale, at scales whose squares are beyond the range of float32."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Exact, Status, eigenmodes
from lnpjax._base.scaling import unit_of
from lnpjax.kernel import mode_pairs, step_along_gradient
from lnpjax.spectra import SpectralDensity, position_distribution
from lnpjax.spectra._lanczos import measure_at

SCALES = [1e-30, 1e-20, 1e-18, 1e18, 1e20, 1e30]
KERNEL = jnp.diag(jnp.array([4.0, 2.0, 1.0]))
GRADIENT = jnp.array([1.0, -2.0, 3.0])
SHARES = np.array([1, 4, 9]) / 14
WEIGHTS = jnp.array([[1.0], [-0.5]])
INPUTS = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])


def linear(weights, inputs):
    return inputs @ weights


def scaled_loss(scale):
    """With the gradient scale / 3 for every output."""
    return lambda outputs, targets: jnp.mean(scale * outputs) + 0 * jnp.sum(targets)


@pytest.mark.parametrize("exponent", [-120, -60, -43, 43, 60, 120])
def test_the_unit_is_a_power_of_two_next_to_the_largest(exponent):
    array = jnp.array([0.3, -1.7]) * 2.0**exponent
    assert unit_of(array) == 2.0**exponent
    assert unit_of(jnp.array([1.7 * 2.0 ** (exponent // 3)])) == 1


def test_there_is_a_unit_for_everything():
    for array in ([0.0], [jnp.nan, 1e-30], [jnp.inf], [-jnp.inf, jnp.nan]):
        assert unit_of(jnp.array(array)) == 1
    extremes = jnp.array([jnp.finfo(jnp.float32).max, jnp.finfo(jnp.float32).tiny])
    for extreme in extremes:
        assert 0.25 < extreme / unit_of(extreme) < 8


@pytest.mark.parametrize("scale", SCALES)
def test_modes_at_any_scale_of_the_gradient(scale):
    modes = eigenmodes(KERNEL, scale * GRADIENT)
    assert modes.status == Status.OK
    np.testing.assert_allclose(modes.gamma2, SHARES, rtol=1e-6)
    np.testing.assert_allclose(modes.chi_pos, SHARES @ [4, 2, 1] / 7, rtol=1e-6)
    np.testing.assert_allclose(jnp.abs(modes.projections), scale * jnp.array([1, 2, 3]), rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(mode_pairs(KERNEL, modes, modes)), modes.chi_pos, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 7e37])
def test_modes_at_any_scale_of_the_kernel(scale):
    modes = eigenmodes(scale * KERNEL, GRADIENT)
    assert modes.status == Status.OK
    np.testing.assert_allclose(modes.p, np.array([4, 2, 1]) / 7, rtol=1e-6)
    pairs = mode_pairs(scale * KERNEL, modes, modes)
    np.testing.assert_allclose(jnp.sum(pairs), modes.chi_pos, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_quadrature_at_any_scale_of_the_start(scale):
    measure = measure_at(lambda v: KERNEL @ v, scale * GRADIENT, num_matvecs=3)
    np.testing.assert_allclose(measure.weights, SHARES, rtol=1e-5)
    lost = not 1e-38 < scale**2 < 1e38
    if lost and scale > 1:
        assert measure.status == Status.NON_FINITE  # |v|^2 overflows
    else:
        assert measure.status == Status.OK
        np.testing.assert_allclose(measure.total, 0 if lost else 14 * scale**2, rtol=1e-5)


@functools.cache
def components(foreign):
    """A function of the scale of the loss: one program for all of them."""

    def run(scale):
        measure = lnpjax.lnp(linear, scaled_loss(scale), estimator=Exact())
        own = INPUTS.T @ jnp.full((3, 1), scale / 3)
        batch = (INPUTS, jnp.zeros((3, 1)))
        gradient = own if foreign else None
        return measure(WEIGHTS, batch, gradient_a=gradient, params_after=0.5 * WEIGHTS)

    return jax.jit(run)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("foreign", [False, True])
def test_components_at_any_scale_of_the_loss(scale, foreign):
    """chi_pos and chi_net are right; what scales with the square is right or flagged."""
    out = components(foreign)(scale)
    gradient = np.asarray(INPUTS).sum(0) / 3
    position = np.sum(gradient**2) / (7 / 3)
    np.testing.assert_allclose(out.chi_net, 7 / 3, rtol=1e-6)
    np.testing.assert_allclose(out.chi_pos, position, rtol=1e-6)
    np.testing.assert_allclose(out.groups[""].chi_pos, position, rtol=1e-6)
    linear_change = scale * gradient @ np.asarray(-0.5 * WEIGHTS)[:, 0]
    np.testing.assert_allclose(out.linear_change, linear_change, rtol=1e-5)
    if 1e-37 < scale**2 < 1e37:
        assert out.status == Status.OK
        np.testing.assert_allclose(out.delta_loss, scale**2 * np.sum(gradient**2), rtol=1e-5)
        np.testing.assert_allclose(out.chi_loss, scale**2, rtol=1e-5)
    else:
        flagged = Status.ZERO_LOSS_GRADIENT if scale < 1 else Status.NON_FINITE
        assert out.status == flagged
        assert out.chi_loss == (0 if scale < 1 else np.inf)


def test_an_ordinary_scale_changes_no_bit():
    batch = (INPUTS, jnp.ones((3, 1)))
    measure = lnpjax.lnp(linear, lambda f, y: jnp.mean((f - y) ** 2), estimator=Exact())
    out = jax.jit(measure)(WEIGHTS, batch)
    residual = INPUTS @ WEIGHTS - 1
    gradient = INPUTS.T @ (2 * residual / 3)
    np.testing.assert_allclose(out.delta_loss, jnp.sum(gradient**2), rtol=2e-7)


@jax.jit
def distribution(scale):
    measure = position_distribution(linear, scaled_loss(scale), num_matvecs=2, estimator=Exact())
    return measure(WEIGHTS, (INPUTS, jnp.zeros((3, 1))))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_distribution_at_any_scale_of_the_loss(scale):
    out, expected = distribution(scale), distribution(1.0)
    for name in ("p", "weights", "chi_pos", "median"):
        np.testing.assert_allclose(getattr(out, name), getattr(expected, name), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_densities_at_any_scale_of_the_kernel(scale):
    density = SpectralDensity(
        nodes=jnp.array([[3.0, 1.0], [3.5, 0.5]]),
        weights=jnp.ones((2, 2)),
        dimension=jnp.int32(2),
        status=jnp.int32(0),
    )
    scaled = dataclasses.replace(density, nodes=scale * density.nodes)
    for name in ("effective_rank", "inverse_participation_ratio"):
        for got, expected in zip(getattr(scaled, name), getattr(density, name), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_disagreement_at_any_scale_of_the_gradient():
    def disagreement(scale):
        loss_grad = jnp.full((3, 1), scale / 3)
        modes = eigenmodes(INPUTS @ INPUTS.T, loss_grad)
        batch = (INPUTS, jnp.zeros((3, 1)))
        return step_along_gradient(
            linear, scaled_loss(scale), jnp.zeros((2, 1)), batch, modes, learning_rates=0.1
        ).disagreement

    assert disagreement(1e-22) < 1e-5
    assert disagreement(1.0) < 1e-5
