"""What is undefined is flagged, and explained."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status, describe_status
from lnpjax.status import flag

every_estimator = pytest.mark.parametrize(
    "estimator", [Exact(), Hutchinson(1), GlobalHutchinson(2)], ids=repr
)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.ZERO_LOSS_GRADIENT, "loss gradient .* is zero"),
        (Status.ZERO_JACOBIAN, "no trainable parameter changes any output"),
        (Status.NON_FINITE, "infinite or NaN"),
        (Status.SAMPLES_INTERACT, "batch normalisation into inference mode"),
        (Status.NOT_MEASURED, "not scheduled"),
        (Status.TOO_FEW_POINTS, "fewer than three usable points"),
    ],
)
def test_every_status_is_explained(status, words):
    for value in (status, int(status), jnp.int32(status), np.int64(status)):
        assert re.search(words, describe_status(value))
    assert describe_status(Status.OK) == "ok"


def test_there_is_an_explanation_for_every_flag():
    descriptions = [describe_status(status) for status in Status if status]
    assert "ok" not in descriptions
    assert len(set(descriptions)) == len(descriptions)
    everything = describe_status(sum(Status))
    assert all(text in everything for text in descriptions)


def test_flag_under_jit():
    flags = jax.jit(lambda x: flag(x > 0, Status.NON_FINITE) | flag(x > 1, Status.ZERO_JACOBIAN))
    assert [int(flags(x)) for x in (0.0, 1.0, 2.0)] == [0, 4, 6]
    assert flags(0.0).dtype == jnp.int32


@functools.cache
def compiled(apply_fn, loss_fn, estimator):
    return jax.jit(lnpjax.lnp(apply_fn, loss_fn, estimator=estimator))


def measure(case, batch_a, batch_b=None, *, loss_fn=None, estimator=Hutchinson(1), **options):
    measured = compiled(case.apply_fn, loss_fn or case.loss_fn, estimator)
    return measured(case.params, batch_a, batch_b, key=jax.random.key(0), **options)


def constant(outputs, targets):
    return 0 * jnp.sum(outputs)


@every_estimator
@pytest.mark.parametrize("cross", [False, True])
def test_zero_loss_gradient(estimator, cross):
    """The components that exist are given, the position is not."""
    case = zoo.build("mlp")
    out = measure(
        case, case.batch_a, case.batch_b if cross else None, loss_fn=constant, estimator=estimator
    )
    assert out.status == Status.ZERO_LOSS_GRADIENT
    assert out.chi_loss == 0
    assert out.delta_loss == 0
    assert out.chi_net > 0
    assert np.isnan(out.chi_pos)
    assert all(np.isnan(group.chi_pos) for group in out.groups.values())
    assert "loss gradient" in describe_status(out.status)


@every_estimator
def test_zero_jacobian(estimator):
    """Dead units: no parameter moves any output."""
    params = {"w": -jnp.ones((3, 2))}
    inputs, targets = jnp.ones((4, 3)), jnp.ones((4, 2))
    measured = lnpjax.lnp(
        lambda p, x: jax.nn.relu(x @ p["w"]), zoo.mean_squared_error, estimator=estimator
    )
    out = jax.jit(measured)(params, (inputs, targets), key=jax.random.key(0))
    assert int(out.status) & Status.ZERO_JACOBIAN
    assert out.chi_net == 0
    assert np.isnan(out.chi_pos)


def test_a_dead_group_alone_is_not_a_failure():
    case = zoo.build("mlp")
    params = {**case.params, "unused": jnp.ones(3)}
    measured = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact())
    out = jax.jit(measured)(params, case.batch_a, case.batch_b)
    assert out.status == Status.OK
    assert np.isfinite(out.chi_pos)
    assert np.isnan(out.groups["unused"].chi_pos)
    assert out.groups["unused"].chi_net == out.groups["unused"].delta_loss == 0


@every_estimator
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_non_finite_inputs(estimator, side, bad):
    case = zoo.build("mlp")
    batches = {"a": case.batch_a, "b": case.batch_b}
    inputs, targets = batches[side]
    batches[side] = (inputs.at[0, 0].set(bad), targets)
    out = measure(case, batches["a"], batches["b"], estimator=estimator)
    assert int(out.status) & Status.NON_FINITE
    assert np.isnan(out.chi_pos)
    assert "infinite or NaN" in describe_status(out.status)


def test_non_finite_targets():
    case = zoo.build("mlp")
    inputs, targets = case.batch_a
    out = measure(case, (inputs, targets.at[0, 0].set(jnp.nan)))
    assert int(out.status) & Status.NON_FINITE


@every_estimator
def test_masking_everything(estimator):
    case = zoo.build("mlp")
    out = measure(case, case.batch_a, estimator=estimator, mask_a=jnp.zeros(4, bool))
    assert out.status != Status.OK
    assert np.isnan(out.chi_pos)


@pytest.mark.parametrize("jitted", [False, True])
def test_a_negative_preconditioner(jitted):
    """It gave a network a scale of -16, without a word."""
    case = zoo.build("mlp")
    preconditioner = jax.tree.map(jnp.ones_like, case.params)
    leaves, structure = jax.tree.flatten(preconditioner)
    preconditioner = structure.unflatten([leaves[0].at[(0,) * leaves[0].ndim].set(-1), *leaves[1:]])
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact())
    calls = (
        lambda p: measure(case.params, case.batch_a, preconditioner=p).status,
        lambda p: (
            lnpjax.squared_jacobian_norm(
                case.apply_fn, case.params, case.batch_a[0], estimator=Exact(), preconditioner=p
            ).status
        ),
        lambda p: (
            lnpjax.spectral_measure(
                case.apply_fn,
                case.params,
                case.batch_a[0],
                jnp.ones_like(case.apply_fn(case.params, case.batch_a[0])),
                num_matvecs=2,
                preconditioner=p,
            ).status
        ),
    )
    for call in calls:
        if jitted:
            assert int(jax.jit(call)(preconditioner)) & Status.NEGATIVE_PRECONDITIONER
            continue
        with pytest.raises(
            ValueError, match=r"preconditioner/.*: expected entries >= 0, got .* -1"
        ):
            call(preconditioner)


def linear(weights, inputs):
    return inputs @ weights


def squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


LINEAR = jnp.array([[1.0], [0.0]]), (jnp.eye(2), jnp.array([[2.0], [0.0]]))


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("estimator", [Exact(), Hutchinson(2)])
def test_a_foreign_gradient_that_is_impossible(estimator, cross):
    """On one batch chi_pos is at most 1: |J^T g|^2 <= |J|^2 |g|^2, here 1 <= 2.

    Found where nothing is compared; what is compared is found from 5 % on.
    """
    weights, batch = LINEAR
    measure = jax.jit(
        lnpjax.lnp(linear, squared_error, estimator=estimator), static_argnames="check_gradient_a"
    )
    own = jax.grad(lambda w: squared_error(linear(w, batch[0]), batch[1]))(weights)
    other = (batch[0], -batch[1]) if cross else None
    for scale, expected in ((1.0, Status.OK), (1.4, Status.OK), (1.5, Status.IMPOSSIBLE_POSITION)):
        given = {"key": jax.random.key(0), "gradient_a": scale * own}
        out = measure(weights, batch, other, check_gradient_a=False, **given)
        assert out.status == expected
        compared = measure(weights, batch, other, **given)
        assert bool(compared.status & Status.GRADIENT_MISFIT) == (scale != 1.0)
        if not cross:
            np.testing.assert_allclose(out.chi_pos, scale**2 / 2, rtol=1e-5)


def test_a_group_that_is_impossible():
    """The whole stays within its bound, but one group moves no output at all."""
    weights = {"used": LINEAR[0], "unused": jnp.zeros(3)}
    measure = lnpjax.lnp(lambda w, x: linear(w["used"], x), squared_error, estimator=Exact())
    unchecked = jax.jit(functools.partial(measure, check_gradient_a=False))
    gradient = {"used": jnp.array([[-1.0], [0.0]]), "unused": jnp.zeros(3)}
    assert jax.jit(measure)(weights, LINEAR[1], gradient_a=gradient).status == Status.OK
    assert unchecked(weights, LINEAR[1], gradient_a=gradient).status == Status.OK
    gradient["unused"] = jnp.full(3, 0.1)
    out = unchecked(weights, LINEAR[1], gradient_a=gradient)
    assert out.status == Status.IMPOSSIBLE_POSITION


@pytest.mark.parametrize("estimator", [Hutchinson(2), Hutchinson(1), GlobalHutchinson(32)])
def test_a_position_of_one_is_possible_whatever_the_draws(estimator):
    """The control: one direction in parameter space, so that chi_pos scatters about 1."""
    rng = np.random.default_rng(0)
    inputs = jnp.ones((16, 1))
    tilt = jnp.asarray(rng.normal(size=(1, 6)), jnp.float32)
    measure = lnpjax.lnp(lambda w, x: x * w * tilt, squared_error, estimator=estimator)
    targets = -inputs * tilt

    def measured(key):
        return measure(jnp.ones(()), (inputs, targets), key=key)

    out = jax.jit(jax.vmap(measured))(jax.random.split(jax.random.key(1), 64))
    assert np.any(out.chi_pos > 1.01)
    assert not np.any(out.status & Status.IMPOSSIBLE_POSITION)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_after_a_step_that_diverged(bad):
    weights, batch = LINEAR
    measure = jax.jit(lnpjax.lnp(linear, squared_error, estimator=Exact()))
    assert measure(weights, batch, params_after=0.5 * weights).status == Status.OK
    out = measure(weights, batch, params_after=bad * jnp.ones_like(weights))
    assert out.status == Status.NON_FINITE
    assert not np.isfinite(out.loss_change)
