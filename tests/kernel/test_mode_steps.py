"""Steps mode by mode: first-order predictions, and updates confined to modes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import eigenmodes, entk, linearize
from lnpjax.kernel import project_update, step_along_gradient


def modes_and_gradient(case, outputs=None):
    inputs, targets = case.batch_a

    @jax.jit
    def both(params):
        kernel = entk(case.apply_fn, params, inputs, wrt=case.wrt, outputs=outputs)
        cotangents = jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets)
        modes = eigenmodes(kernel, lnpjax.jacobian.select_outputs(cotangents, outputs))
        return modes, linearize(case.apply_fn, params, inputs, wrt=case.wrt).vjp(cotangents)

    return both(case.params)


def steps_of(case, modes, rates, **options):
    @jax.jit
    def steps(params, rates):
        return step_along_gradient(
            case.apply_fn,
            case.loss_fn,
            params,
            case.batch_a,
            modes,
            learning_rates=rates,
            wrt=case.wrt,
            **options,
        )

    return steps(case.params, rates)


@pytest.mark.parametrize("name", ["mlp", "layer_used_twice"])
def test_predictions_become_exact_as_the_step_shrinks(x64, name):
    """What is left is of second order: a tenth of the rate, a tenth of the disagreement."""
    case = zoo.build(name)
    modes, _ = modes_and_gradient(case)
    steps = steps_of(case, modes, jnp.array([1e-4, 1e-5]))
    large, small = np.asarray(steps.disagreement)
    assert 0 < small < 1e-2
    np.testing.assert_allclose(large / small, 10, rtol=0.1)
    np.testing.assert_allclose(
        jnp.sum(steps.predicted_loss_change, axis=1),
        -steps.learning_rate * jnp.sum(modes.loss_changes),
        rtol=1e-9,
    )
    change = steps.loss_change[1]
    np.testing.assert_allclose(jnp.sum(steps.actual_loss_change[1]), change, rtol=1e-2)


def test_a_linear_model_is_predicted_at_any_step(x64):
    case = zoo.mlp(sizes=(4, 3))
    modes, _ = modes_and_gradient(case)
    step = steps_of(case, modes, 0.5)
    np.testing.assert_allclose(step.actual_change, step.predicted_change, atol=1e-12)
    assert step.loss_change.shape == ()


def test_a_wrong_kernel_predicts_wrongly(x64):
    """The check can fail: eigenvalues of another batch do not predict this one's step."""
    case = zoo.build("mlp")
    inputs, targets = case.batch_a

    @jax.jit
    def wrong_modes(params):
        wrong = entk(case.apply_fn, params, inputs[::-1])
        return eigenmodes(wrong, jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets))

    step = steps_of(case, wrong_modes(case.params), 1e-6)
    assert step.disagreement > 0.1


def test_prediction_on_chosen_outputs(x64):
    case, subset = zoo.build("llama"), ([0, 2], [1, 4, 7])
    modes, _ = modes_and_gradient(case, subset)
    step = steps_of(case, modes, 1e-5, outputs=subset)
    assert step.disagreement < 1e-3
    assert step.loss_change < 0


@pytest.mark.parametrize("name", ["mlp", "frozen_subset"])
def test_all_modes_hold_the_whole_gradient(x64, name):
    case = zoo.build(name)
    modes, gradient = modes_and_gradient(case)
    everything = jnp.ones(len(modes.p), bool)
    projected = jax.jit(
        lambda params, gradient: project_update(
            case.apply_fn, params, case.batch_a[0], gradient, modes, everything, wrt=case.wrt
        )
    )(case.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), projected, gradient)


def test_a_projected_update_moves_its_modes_only_and_freezing_stops_them(x64):
    case = zoo.build("mlp")
    modes, _ = modes_and_gradient(case)
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(case.params)))
    noise = jax.tree.unflatten(
        jax.tree.structure(case.params),
        [
            jax.random.normal(key, leaf.shape)
            for key, leaf in zip(keys, jax.tree.leaves(case.params), strict=True)
        ],
    )
    chosen = jnp.arange(len(modes.p)) < 3

    @jax.jit
    def along_modes(update):
        J = linearize(case.apply_fn, case.params, case.batch_a[0])
        return J.jvp(update).reshape(-1) @ modes.eigenvectors

    @jax.jit
    def project(update):
        return project_update(case.apply_fn, case.params, case.batch_a[0], update, modes, chosen)

    part = project(noise)
    rest = jax.tree.map(jnp.subtract, noise, part)
    whole = along_modes(noise)
    np.testing.assert_allclose(along_modes(part), jnp.where(chosen, whole, 0), atol=1e-10)
    np.testing.assert_allclose(along_modes(rest), jnp.where(chosen, 0, whole), atol=1e-10)
    again = project(part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), again, part)

    kernel, gradient = entk(case.apply_fn, case.params, case.batch_a[0]), jnp.ones(len(modes.p))
    first = eigenmodes(kernel, gradient, num_modes=3)
    same = project_update(
        case.apply_fn, case.params, case.batch_a[0], noise, first, jnp.ones(3, bool)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), same, part)


def test_training_step_with_frozen_modes_under_jit(x64):
    """The loss falls by what the modes that are not frozen predict."""
    case = zoo.build("mlp")
    modes, gradient = modes_and_gradient(case)
    inputs, targets = case.batch_a
    frozen = jnp.arange(len(modes.p)) >= 4

    @jax.jit
    def step(params, gradient):
        held = project_update(case.apply_fn, params, inputs, gradient, modes, frozen)
        return jax.tree.map(lambda p, g, h: p - 1e-5 * (g - h), params, gradient, held)

    def loss(params):
        return case.loss_fn(case.apply_fn(params, inputs), targets)

    change = loss(step(case.params, gradient)) - loss(case.params)
    expected = -1e-5 * jnp.sum(modes.loss_changes[:4])
    np.testing.assert_allclose(change, expected, rtol=1e-3)


def test_bad_input_is_named():
    case = zoo.build("mlp")
    modes = eigenmodes(jnp.eye(5), jnp.ones(5))
    with pytest.raises(ValueError, match="modes: expected modes of 12 outputs"):
        steps_of(case, modes, 0.1)
    modes = eigenmodes(jnp.eye(12), jnp.ones(12))
    arguments = (case.apply_fn, case.params, case.batch_a[0])
    with pytest.raises(ValueError, match=r"chosen: expected shape \(12,\).*got \(3,\)"):
        project_update(*arguments, case.params, modes, jnp.ones(3))
    with pytest.raises(ValueError, match="update: expected the structure"):
        project_update(*arguments, jnp.ones(3), modes, jnp.ones(12))
