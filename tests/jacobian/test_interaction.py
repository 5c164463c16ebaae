"""Models whose samples interact are refused or flagged; healthy ones are not."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status, describe_status
from lnpjax._base.jaxprs import every_program, subprograms
from lnpjax.jacobian._interaction import samples_interact

REMEDY = "apply_fn: .*inference mode.*dropout off.*capacity limits.*GlobalHutchinson"

INTERACTING = {
    "batch_norm": zoo.batch_norm_training,
    "dropout": zoo.live_dropout,
    "routing": lambda: zoo.routed_experts(capacity_factor=1.0, num_experts=2),
    "zero_head": zoo.zero_head,
    "zero_adapter": zoo.zero_adapter,
    "zero_branch": zoo.zero_branch,
    "masked_logit": zoo.masked_logit,
    "large_bias": zoo.large_bias,
    "fixed_capacity": zoo.fixed_capacity,
    "size_of_batch": zoo.size_of_batch,
}
COUNTERPARTS = {
    "batch_norm": zoo.batch_norm_inference,
    "dropout": lambda: zoo.live_dropout(train=False),
    "routing": lambda: zoo.routed_experts(num_experts=2),
    "capacity": lambda: zoo.fixed_capacity(capacity=32),
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
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, wrt=case.wrt)
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
    assert int(out.status) in (Status.OK, Status.ZERO_JACOBIAN)
    assert np.isfinite(out.delta_loss)


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
        return samples_interact(case.apply_fn, params, inputs)

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
        return samples_interact(
            lambda p, x: case.apply_fn(p, x).astype(jnp.float32), params, inputs
        )

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

    estimate = jax.jit(
        lambda inputs, key: lnpjax.squared_jacobian_norm(
            apply_fn,
            jnp.ones((4, 2)),
            inputs,
            estimator=Hutchinson(2, microbatch_size=2),
            key=key,
        )
    )(inputs, jax.random.key(2))
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
    together = jax.jit(case.apply_fn)(case.params, case.batch_a[0])
    one_by_one = jax.vmap(lambda x: case.apply_fn(case.params, x[None])[0])
    alone = jax.jit(one_by_one)(case.batch_a[0])
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


def test_what_two_samples_do_not_fill_is_detected_in_either_batch():
    """Batch B alone overflows, and is the smaller one."""
    case = zoo.fixed_capacity(capacity=3)
    inputs, targets = case.batch_a
    apart = inputs.at[:, 0].set(jnp.where(jnp.arange(32) % 2, 1.0, -1.0))[:6]
    crowded = jnp.abs(inputs[6:11])
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact()))
    assert measure(case.params, (apart, targets[:6])).status == Status.OK
    out = measure(case.params, (apart, targets[:6]), (crowded, targets[6:11]))
    assert int(out.status) & Status.SAMPLES_INTERACT


@pytest.mark.parametrize("name", ["zero_head", "zero_branch", "large_bias"])
def test_kernels_of_interacting_samples_are_those_of_the_batch(name):
    case = INTERACTING[name]()
    kernel = lnpjax.entk(case.apply_fn, case.params, case.batch_a[0])
    jacobian = jax.jit(jax.jacrev(case.apply_fn))(case.params, case.batch_a[0])
    rows = [np.reshape(leaf, (kernel.shape[0], -1)) for leaf in jax.tree.leaves(jacobian)]
    assert np.allclose(kernel, sum(row @ row.T for row in rows), rtol=1e-4, atol=1e-4)


def test_gradients_of_interacting_samples_are_refused_or_void():
    case = zoo.zero_branch()

    def gradients(params, batch):
        options = {"weights": "scale"}
        return (
            lnpjax.lens.per_sample_gradients(case.apply_fn, case.loss_fn, params, batch, **options),
            lnpjax.lens.gradient_gram(case.apply_fn, case.loss_fn, params, batch, **options),
        )

    with pytest.raises(ValueError, match="apply_fn: a sample's output depends"):
        gradients(case.params, case.batch_a)
    for numbers in jax.tree.leaves(jax.jit(gradients)(case.params, case.batch_a)):
        assert np.all(np.isnan(numbers))


def test_a_leaf_that_only_holds_rounding_is_not_interaction():
    """The gradient in a key projection's bias is zero in exact arithmetic."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        name: jax.random.normal(key, (8, 8)) for name, key in zip("qkvo", keys, strict=False)
    } | {"bias": jax.random.normal(keys[4], (8,))}

    @jax.custom_vjp
    def opaque(x):  # so that the program does not tell, and numbers are compared
        return x

    opaque.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent,))

    def apply_fn(p, x):
        scores = jnp.einsum("btd,bsd->bts", x @ p["q"], opaque(x @ p["k"] + p["bias"]))
        return jax.nn.softmax(scores) @ (x @ p["v"]) @ p["o"]

    inputs = jax.random.normal(jax.random.key(1), (6, 7, 8))
    assert not jax.jit(samples_interact, static_argnums=0)(apply_fn, params, inputs)


def products_outside_of_branches(program):
    """How many matrix products a program computes whatever the conditions say."""
    return sum(
        1
        if equation.primitive.name == "dot_general"
        else sum(
            products_outside_of_branches(part.jaxpr)
            for part in subprograms(equation)
            if equation.primitive.name != "cond"
        )
        for equation in program.eqns
    )


def test_what_the_program_shows_is_confirmed_where_that_is_asked_for():
    def program_of(apply_fn, confirm):
        def check(w, x, confirm):
            return samples_interact(apply_fn, w, x, confirm=confirm)

        known = isinstance(confirm, bool)
        function = functools.partial(check, confirm=confirm) if known else check
        arguments = (jnp.ones((3, 2)), jnp.ones((4, 3)), *(() if known else (confirm,)))
        return jax.make_jaxpr(function)(*arguments).jaxpr

    def clear(w, x):
        return jnp.tanh(x @ w)

    def doubtful(w, x):
        return jnp.flip(jnp.flip(x @ w, 0), 0)

    def products(apply_fn, confirm):
        return products_outside_of_branches(program_of(apply_fn, confirm))

    assert products(clear, True) == 2  # together, and alone
    assert products(clear, False) == products(clear, jnp.array(True)) == 0
    assert products(doubtful, False) == products(doubtful, True) > 2


@pytest.mark.parametrize("confirm", [False, True])
def test_a_network_that_its_program_does_not_clear_is_compared_in_any_case(confirm):
    case = zoo.live_dropout()
    gradient = jax.tree.map(jnp.zeros_like, case.params)
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn))
    out = measure(
        case.params,
        case.batch_a,
        case.batch_b,
        key=jax.random.key(0),
        gradient_a=gradient,
        check_gradient_a=confirm,
    )
    assert int(out.status) & Status.SAMPLES_INTERACT


@pytest.mark.parametrize("gated", [False, True], ids=["values", "jacobians"])
def test_samples_are_compared_with_whole_products(gated):
    """Accelerators multiply in fewer bits by default, and differently for every batch size."""

    def apply_fn(params, x):
        hidden = jnp.tanh(x @ params) @ params.T
        if not gated:
            return hidden
        # Nothing that the program would show to keep samples apart.
        return hidden + 0.0 * jax.lax.stop_gradient(jnp.flip(jnp.flip(hidden, 0), 0))

    program = jax.make_jaxpr(lambda p, x: samples_interact(apply_fn, p, x))(
        jnp.ones((3, 2)), jnp.ones((4, 3))
    )
    products = [
        equation.params["precision"]
        for part in every_program(program)
        for equation in part.jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) >= (6 if gated else 4)
    highest = jax.lax.Precision.HIGHEST
    assert set(products) == {(highest, highest)}
