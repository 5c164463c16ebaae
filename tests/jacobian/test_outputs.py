"""Several heads joined into one vector of outputs, and outputs that are left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax._base.jaxprs import every_program
from lnpjax.jacobian import select_outputs
from lnpjax.jacobian._outputs import restrict


def test_heads_together_are_one_vector_space(x64):
    """The norms of heads add up in |J|^2, and their shared layers make one gradient."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "body": jax.random.normal(keys[0], (4, 6)),
        "policy": jax.random.normal(keys[1], (6, 3)),
        "value": jax.random.normal(keys[2], (6, 1)),
    }
    inputs = jax.random.normal(keys[3], (5, 4))

    def model(params, x):
        hidden = jnp.tanh(x @ params["body"])
        return {"policy": hidden @ params["policy"], "value": (hidden @ params["value"])[:, 0]}

    def loss_fn(outputs, targets):
        return jnp.mean(outputs["policy"] ** 2) + jnp.mean((outputs["value"] - targets) ** 2)

    targets = jnp.arange(5.0)
    apply_fn, joined_loss = lnpjax.jacobian.join_outputs(model, loss_fn, params, inputs)
    assert apply_fn(params, inputs).shape == (5, 4)
    measure = lnpjax.lnp(apply_fn, joined_loss, estimator=lnpjax.Exact())
    out = jax.jit(measure)(params, (inputs, targets))

    jacobian = jax.jit(jax.jacrev(lambda p: apply_fn(p, inputs)))(params)
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(jacobian))
    gradient = jax.jit(jax.grad(lambda p: loss_fn(model(p, inputs), targets)))(params)
    fall = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(out.chi_net, squares / 5, rtol=1e-12)
    np.testing.assert_allclose(out.delta_loss, fall, rtol=1e-12)
    np.testing.assert_allclose(out.loss_a, loss_fn(model(params, inputs), targets), rtol=1e-12)

    @jax.jit
    def norms(params):
        return [
            lnpjax.squared_jacobian_norm(
                lambda p, x, head=head: model(p, x)[head], params, inputs, estimator=lnpjax.Exact()
            ).value
            for head in ("policy", "value")
        ]

    heads = norms(params)
    np.testing.assert_allclose(sum(heads), squares, rtol=1e-12)


def test_heads_that_cannot_be_joined_are_refused():
    with pytest.raises(TypeError, match=r"outputs/count: expected a floating-point array, got"):
        lnpjax.jacobian.join_outputs(
            lambda w, x: {"count": jnp.ones(2, int)}, lambda f, y: 0.0, 1.0, jnp.ones(2)
        )
    with pytest.raises(ValueError, match=r"outputs/1: expected a first axis of 2, .*\(\)"):
        lnpjax.jacobian.join_outputs(
            lambda w, x: (w * x, jnp.sum(x)), lambda f, y: 0.0, 1.0, jnp.ones(2)
        )


@pytest.mark.parametrize(
    "changed", [lambda logits: logits.astype(jnp.float16), jnp.tanh], ids=["rounded", "bent"]
)
def test_outputs_that_are_not_chosen_are_not_computed(changed):
    """Logits come from a product, of whose results no other is made; not what follows otherwise."""
    params = jax.random.normal(jax.random.key(0), (4, 11))
    inputs = jax.random.normal(jax.random.key(1), (2, 5, 4))

    def network(params, inputs):
        return changed(jnp.tanh(inputs) @ params)

    chosen = ([0, 3], [1, 2, 10])
    narrow = restrict(network, chosen)
    expected = select_outputs(network(params, inputs), chosen)
    np.testing.assert_allclose(narrow(params, inputs), expected, rtol=1e-3)
    sizes = [
        result.aval.size
        for program in every_program(jax.make_jaxpr(narrow)(params, inputs))
        for equation in program.jaxpr.eqns
        for result in equation.outvars
    ]
    assert (2 * 5 * 11 in sizes) == (changed is jnp.tanh)
