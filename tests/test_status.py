"""What is undefined is flagged, and explained."""

from __future__ import annotations

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


def measure(case, batch_a, batch_b=None, *, loss_fn=None, estimator=Hutchinson(1), **options):
    measured = lnpjax.lnp(case.apply_fn, loss_fn or case.loss_fn, estimator=estimator)
    return jax.jit(lambda params, key: measured(params, batch_a, batch_b, key=key, **options))(
        case.params, jax.random.key(0)
    )


@every_estimator
@pytest.mark.parametrize("cross", [False, True])
def test_zero_loss_gradient(estimator, cross):
    """The components that exist are given, the position is not."""
    case = zoo.build("mlp")
    constant = lambda outputs, targets: 0 * jnp.sum(outputs)  # noqa: E731
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
