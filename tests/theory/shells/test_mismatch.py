"""The mismatch of two samples on a small network, and when a test loss rises again."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax import entk
from lnpjax.theory.shells import mismatch as sm
from lnpjax.theory.shells import self_similar, shell_energies

EQUATIONS = ("conservative", "advective")

kernel_of = jax.jit(lambda params, inputs: entk(network, params, inputs))
kernel_between = jax.jit(lambda params, a, b: entk(network, params, a, inputs2=b))
double_descent = jax.jit(sm.double_descent, static_argnames="equation")


def network(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["readout"]


def target(inputs):
    return jnp.stack([jnp.sin(inputs[:, 0] * inputs[:, 1]), inputs[:, 2] ** 2], axis=1)


@functools.cache
def two_samples(num_train=20, num_test=16, seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "hidden": jnp.asarray(rng.normal(size=(4, 30)) / 2),
        "readout": jnp.asarray(rng.normal(size=(30, 2)) / np.sqrt(30)),
    }
    train, test = (jnp.asarray(rng.normal(size=(n, 4))) for n in (num_train, num_test))
    kernels = kernel_of(params, train), kernel_between(params, test, train)
    errors = tuple(target(x) - network(params, x) for x in (train, test))
    return params, (train, test), kernels, errors


def mean_square(error):
    return float(jnp.sum(error**2)) / (2 * len(error))


def test_modes_are_orthonormal_in_the_training_form(x64):
    _, _, kernels, _ = two_samples()
    mismatch = sm.sample_mismatch(*kernels, num_outputs=2)
    gram = mismatch.train_modes.T @ mismatch.train_modes / 20
    np.testing.assert_allclose(gram, np.eye(40), atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(np.asarray(kernels[0]))[::-1] / 20
    np.testing.assert_allclose(mismatch.eigenvalues, eigenvalues, rtol=1e-8, atol=1e-12)


def test_modes_continue_as_eigenfunctions(x64):
    """On the training sample itself the continuation gives the modes back, and no mismatch."""
    _, _, (kernel, _), (error, _) = two_samples()
    mismatch = sm.sample_mismatch(kernel, kernel, num_outputs=2)
    assert bool(mismatch.resolved.all())
    np.testing.assert_allclose(mismatch.test_modes, mismatch.train_modes, atol=1e-8)
    np.testing.assert_allclose(mismatch.weights, 0, atol=1e-8)
    terms = sm.mismatch_terms(mismatch, error, error)
    for part in (terms.diagonal, terms.off_diagonal, terms.outside):
        assert abs(part) < 1e-8


def test_the_parts_add_up_to_the_difference_of_the_losses(x64):
    _, _, kernels, errors = two_samples()
    mismatch = sm.sample_mismatch(*kernels, num_outputs=2)
    terms = sm.mismatch_terms(mismatch, *errors)
    assert float(terms.energies.sum()) == pytest.approx(mean_square(errors[0]), rel=1e-12)
    parts = terms.diagonal + terms.off_diagonal + terms.outside
    difference = mean_square(errors[1]) - mean_square(errors[0])
    assert float(parts) == pytest.approx(difference, rel=1e-10)
    # The diagonal, all that section 6 keeps, is not all there is.
    assert abs(terms.outside) > 0.1 * abs(terms.diagonal)


def test_modes_that_the_kernel_cannot_resolve(x64):
    """Fewer parameters than outputs: the null space is marked, and the parts still add up."""
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(9, 4)), rng.normal(size=(7, 4))
    mismatch = sm.sample_mismatch(jnp.asarray(train @ train.T), jnp.asarray(test @ train.T))
    np.testing.assert_array_equal(mismatch.resolved, [True] * 4 + [False] * 5)
    np.testing.assert_array_equal(np.isnan(mismatch.weights), ~np.asarray(mismatch.resolved))
    errors = jnp.asarray(rng.normal(size=9)), jnp.asarray(rng.normal(size=7))
    terms = sm.mismatch_terms(mismatch, *errors)
    parts = terms.diagonal + terms.off_diagonal + terms.outside
    assert float(parts) == pytest.approx(mean_square(errors[1]) - mean_square(errors[0]))
    # A linear model's modes are linear functions, so the continuation is a projection.
    covariance = np.linalg.eigh(train.T @ train / 9)
    functions = test @ covariance[1][:, ::-1] / np.sqrt(covariance[0][::-1])
    np.testing.assert_allclose(
        mismatch.weights[:4], (functions**2).mean(0) - 1, rtol=1e-9, atol=1e-12
    )


def test_mismatch_is_at_small_eigenvalues(x64):
    """The claim of section 6.2, over several pairs of samples; and w takes either sign."""
    weights, eigenvalues = [], []
    for seed in range(4):
        _, _, kernels, _ = two_samples(seed=seed)
        mismatch = sm.sample_mismatch(*kernels, num_outputs=2)
        weights.append(mismatch.weights)
        eigenvalues.append(mismatch.eigenvalues)
    weights = np.concatenate(weights)[np.argsort(np.concatenate(eigenvalues))]
    low, high = weights[:40], weights[-40:]
    assert np.abs(low).mean() > 3 * np.abs(high).mean()
    assert weights.min() < 0 < weights.max()


def test_shell_weights_are_means_over_modes(x64):
    _, _, kernels, errors = two_samples()
    mismatch = sm.sample_mismatch(*kernels, num_outputs=2)
    edges = jnp.geomspace(1e-6, 1e3, 10)
    energies = sm.mismatch_terms(mismatch, *errors).energies
    plain = sm.shell_weights(mismatch, edges)
    weighted = sm.shell_weights(mismatch, edges, energies=energies)
    total = 0.0
    for low, high, w, w_energy in zip(edges[:-1], edges[1:], plain, weighted, strict=True):
        inside = np.asarray((mismatch.eigenvalues >= low) & (mismatch.eigenvalues < high))
        if not inside.any():
            assert np.isnan(w)
            continue
        assert float(w) == pytest.approx(float(mismatch.weights[inside].mean()))
        total += float(w_energy) * float(energies[inside].sum())
    diagonal = sm.mismatch_terms(mismatch, *errors).diagonal
    assert total == pytest.approx(float(diagonal), rel=1e-10)


def test_the_shortest_window_with_the_share():
    edges = jnp.geomspace(1.0, 64.0, 7)
    weights = jnp.array([0.1, jnp.nan, -3.0, 4.0, 0.2, 0.1])
    energies = jnp.ones(6)

    def window(share):
        return tuple(
            round(float(e), 3) for e in sm.mismatch_window(weights, energies, edges, share=share)
        )

    assert window(0.5) == (8.0, 16.0)
    assert window(0.9) == (4.0, 16.0)
    assert window(0.96) == (4.0, 32.0)
    assert window(1.0) == (1.0, 64.0)
    assert np.isnan(sm.mismatch_window(0 * weights, energies, edges)[0])


TIMES = np.geomspace(1.0, 200.0, 30)
EDGES = np.geomspace(1e-3, 30.0, 12)
IN_WINDOW = np.where((EDGES[1:] < 0.03) & (EDGES[:-1] > 3e-3), 1.0, 0.0)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_rates_are_derivatives(x64, equation):
    model, weights = self_similar(-0.5, 0.5), 30 * IN_WINDOW
    result = double_descent(model, EDGES, weights, TIMES, equation=equation)
    step = 1e-5
    later, earlier = (
        double_descent(model, EDGES, weights, TIMES + shift, equation=equation)
        for shift in (step, -step)
    )
    for loss, rate in (("train_loss", "train_rate"), ("test_loss", "test_rate")):
        difference = (getattr(later, loss) - getattr(earlier, loss)) / (2 * step)
        np.testing.assert_allclose(getattr(result, rate), difference, rtol=1e-6, atol=1e-9)
    energies = shell_energies(model, EDGES, TIMES, equation=equation)
    np.testing.assert_allclose(result.train_loss, energies.sum(-1), rtol=1e-12)


def test_the_papers_condition_is_not_sufficient(x64):
    """The amplitude grows in the window at all times; only a large mismatch makes the loss rise."""
    model = self_similar(-0.5, 0.5)
    small, large = (double_descent(model, EDGES, w * IN_WINDOW, TIMES) for w in (1.0, 300.0))
    for result in (small, large):
        assert bool(result.amplified.all())
        assert bool(jnp.all(result.train_rate < 0))
    assert not bool(small.non_monotone)
    assert bool(large.non_monotone)
    assert jnp.all(jnp.diff(small.test_loss) < 0)
    assert jnp.any(jnp.diff(large.test_loss) > 0)


@pytest.mark.parametrize("c0", [0.5, 0.0])
def test_no_growth_without_amplification(x64, c0):
    """With ``c0 (p + 1) >= 0`` nothing grows, however large the mismatch."""
    result = double_descent(self_similar(c0, 0.5), EDGES, 1e6 * IN_WINDOW, TIMES)
    assert not bool(result.amplified.any())
    assert not bool(result.rises.any())


def test_runs_under_jit(x64):
    _, _, kernels, errors = two_samples()

    @jax.jit
    def measure(kernels, errors):
        mismatch = sm.sample_mismatch(*kernels, num_outputs=2)
        terms = sm.mismatch_terms(mismatch, *errors)
        weights = sm.shell_weights(mismatch, EDGES, energies=terms.energies)
        window = sm.mismatch_window(weights, jnp.ones_like(weights), EDGES)
        return window, sm.double_descent(self_similar(-0.5, 0.5), EDGES, weights, TIMES)

    window, result = measure(kernels, errors)
    assert window[0] < window[1]
    assert bool(jnp.isfinite(result.test_loss).all())


KERNEL = np.eye(4)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: sm.sample_mismatch(np.ones((4, 3)), KERNEL), "kernel_train"),
        (lambda: sm.sample_mismatch(KERNEL, np.ones((4, 3))), "kernel_test_train"),
        (lambda: sm.sample_mismatch(KERNEL, KERNEL, num_outputs=3), "num_outputs"),
        (lambda: sm.sample_mismatch(KERNEL, KERNEL, num_outputs=0), "num_outputs"),
        (
            lambda: sm.mismatch_terms(sm.sample_mismatch(KERNEL, KERNEL), np.ones(4), np.ones(3)),
            "error_test",
        ),
        (
            lambda: sm.shell_weights(
                sm.sample_mismatch(KERNEL, KERNEL), np.array([1.0, 2.0]), energies=np.ones(3)
            ),
            "energies",
        ),
        (lambda: sm.mismatch_window(np.ones(2), np.ones(1), np.array([1.0, 2.0])), "weights"),
        (lambda: sm.mismatch_window(np.ones(1), -np.ones(1), np.array([1.0, 2.0])), "energies"),
        (
            lambda: sm.mismatch_window(np.ones(1), np.ones(1), np.array([1.0, 2.0]), share=0),
            "share",
        ),
        (
            lambda: sm.double_descent(self_similar(0.5, 0.0), EDGES, np.ones(3), TIMES),
            "weights",
        ),
        (
            lambda: sm.double_descent(self_similar(0.5, 0.0), EDGES, IN_WINDOW, -TIMES),
            "times",
        ),
    ],
)
def test_bad_input(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        call()
