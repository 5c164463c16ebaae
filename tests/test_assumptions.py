"""Models whose samples interact are refused or flagged; healthy ones are not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status, describe_status
from lnpjax.assumptions import samples_interact
from lnpjax.jacobian import linearize_samples

REMEDY = "apply_fn: .*inference mode.*dropout off.*capacity limits.*GlobalHutchinson"

INTERACTING = {
    "batch_norm": zoo.batch_norm_training,
    "dropout": zoo.live_dropout,
    "routing": lambda: zoo.routed_experts(capacity_factor=1.0, num_experts=2),
}
COUNTERPARTS = {
    "batch_norm": zoo.batch_norm_inference,
    "dropout": lambda: zoo.live_dropout(train=False),
    "routing": lambda: zoo.routed_experts(num_experts=2),
}


def with_ends(case, first, last):
    """The batch A in an order that puts two given samples at its ends."""
    inputs, targets = case.batch_a
    middle = [i for i in range(len(inputs)) if i not in (first, last)]
    order = jnp.array([first, *middle, last])
    return dataclasses.replace(case, batch_a=(inputs[order], targets[order]))


def interacting(name):
    """A case whose routing sends its first and last sample to one expert, which drops one."""
    case = INTERACTING[name]()
    if name != "routing":
        return case
    chosen = np.argmax(case.batch_a[0] @ case.params["router"], axis=-1)
    first, last = np.flatnonzero(chosen == chosen[0])[:2]
    return with_ends(case, first, last)


def norm(case, estimator=Hutchinson(1)):
    return lnpjax.squared_jacobian_norm(
        case.apply_fn,
        case.params,
        case.batch_a[0],
        estimator=estimator,
        key=jax.random.key(0),
        wrt=case.wrt,
    )


def floats(result):
    return [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]


@pytest.mark.parametrize("name", INTERACTING)
def test_interacting_samples_are_refused(name):
    case = interacting(name)
    with pytest.raises(ValueError, match=REMEDY):
        norm(case)


def test_interacting_samples_are_refused_by_lnp():
    case = interacting("routing")
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn)
    with pytest.raises(ValueError, match=REMEDY):
        measure(case.params, case.batch_a, key=jax.random.key(0))


@pytest.mark.parametrize("name", INTERACTING)
def test_interacting_samples_are_flagged_under_jit(name):
    case = interacting(name)
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn)
    estimate, out = jax.jit(
        lambda key: (
            norm(case, Exact()),
            measure(case.params, case.batch_a, case.batch_b, key=key),
        )
    )(jax.random.key(0))
    for result in (estimate, out):
        assert int(result.status) & Status.SAMPLES_INTERACT
        assert all(np.all(np.isnan(leaf)) for leaf in floats(result))
        assert "GlobalHutchinson" in describe_status(result.status)


@pytest.mark.parametrize("name", INTERACTING)
def test_one_probe_for_the_batch_serves_interacting_samples(name):
    case = interacting(name)
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=GlobalHutchinson(2))
    out = jax.jit(lambda key: measure(case.params, case.batch_a, case.batch_b, key=key))(
        jax.random.key(0)
    )
    assert out.status == Status.OK
    assert np.isfinite(out.chi_pos)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_their_counterparts_in_inference_mode_pass(name):
    case = COUNTERPARTS[name]()
    estimate = jax.jit(lambda: norm(case))()
    assert estimate.status == Status.OK
    assert np.isfinite(estimate.value)


def test_one_batch_of_two_is_enough_to_be_flagged():
    """It may be batch B alone that interacts."""
    case = zoo.live_dropout()
    single = jax.tree.map(lambda leaf: leaf[:1], case.batch_a)
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn)
    out = jax.jit(lambda key: measure(case.params, single, case.batch_b, key=key))(
        jax.random.key(0)
    )
    assert int(out.status) & Status.SAMPLES_INTERACT


@pytest.mark.parametrize("name", zoo.MODELS)
def test_healthy_models_are_not_flagged(name):
    case = zoo.build(name)

    @jax.jit
    def check(params, inputs):
        alone = linearize_samples(case.apply_fn, params, inputs).outputs
        return samples_interact(case.apply_fn, params, inputs, alone)

    assert not check(case.params, case.batch_a[0])
    assert not check(case.params, case.batch_b[0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
def test_rounding_is_not_interaction(dtype, param_dtype):
    """Half precision rounds differently with the batch size; outputs in float32 can hide that."""
    case = zoo.llama(
        hidden_size=32, intermediate_size=64, num_layers=1, dtype=dtype, param_dtype=param_dtype
    )

    @jax.jit
    def check(params, inputs):
        apply_fn = lambda p, x: case.apply_fn(p, x).astype(jnp.float32)  # noqa: E731
        alone = jax.vmap(lambda x: apply_fn(params, x[None])[0])(inputs)
        return samples_interact(apply_fn, params, inputs, alone)

    assert not check(case.params, case.batch_a[0])
    assert not check(case.params, case.batch_b[0])


def test_dropout_with_a_key_for_every_sample_is_healthy():
    """Masks that belong to the sample are part of its inputs."""
    inputs = {
        "x": jax.random.normal(jax.random.key(0), (5, 4)),
        "key": jax.random.split(jax.random.key(1), 5),
    }

    def apply_fn(weights, inputs):
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (4,)))(inputs["key"])
        return jnp.where(keep, inputs["x"], 0) @ weights

    estimate = lnpjax.squared_jacobian_norm(
        apply_fn,
        jnp.ones((4, 2)),
        inputs,
        estimator=Hutchinson(2, microbatch_size=2),
        key=jax.random.key(2),
    )
    assert estimate.status == Status.OK


# Where a look at two samples is not enough.


def test_batch_norm_is_detected_where_the_ends_of_the_batch_are_alike():
    inputs = jax.random.normal(jax.random.key(0), (5, 3))

    def normalised(weights, x):
        return (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-3) @ weights + x @ weights

    with pytest.raises(ValueError, match=REMEDY):
        lnpjax.squared_jacobian_norm(
            normalised, jnp.ones((3, 2)), inputs.at[-1].set(inputs[0]), key=jax.random.key(0)
        )


def test_routing_is_detected_where_the_ends_of_the_batch_go_to_different_experts():
    case = zoo.routed_experts(capacity_factor=1.0)
    chosen = np.argmax(case.batch_a[0] @ case.params["router"], axis=-1)
    last = np.flatnonzero(chosen != chosen[0])[0]
    case = with_ends(case, 0, last)
    together = case.apply_fn(case.params, case.batch_a[0])
    alone = jax.vmap(lambda x: case.apply_fn(case.params, x[None])[0])(case.batch_a[0])
    assert np.max(np.abs(together - alone)) > 0.1  # samples in the middle are dropped
    with pytest.raises(ValueError, match=REMEDY):
        norm(case)


def test_interaction_is_detected_where_the_padding_is_not_a_number():
    inputs = jax.random.normal(jax.random.key(0), (4, 3)).at[-1].set(jnp.nan)

    def centred(weights, x):
        return (x - jnp.mean(x, axis=0, where=~jnp.isnan(x))) @ weights + x @ weights

    with pytest.raises(ValueError, match=REMEDY):
        lnpjax.squared_jacobian_norm(
            centred, jnp.ones((3, 2)), inputs, key=jax.random.key(0), mask=jnp.arange(4) < 3
        )
