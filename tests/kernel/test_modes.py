"""Eigenmodes against the cheap measurement and closed forms, and what they flag."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Status, eigenmodes, entk
from lnpjax.kernel import mode_pairs

AWKWARD = [
    name for name in zoo.MODELS if name not in ("mlp", "llama", "rematerialised_scan", "one_sample")
]


def kernel_of(case, inputs, inputs2=None, outputs=None):
    @jax.jit
    def kernel(params, inputs, inputs2):
        return entk(case.apply_fn, params, inputs, inputs2=inputs2, outputs=outputs, wrt=case.wrt)

    return kernel(case.params, inputs, inputs2)


def loss_grad_of(case, batch):
    inputs, targets = batch
    return jax.grad(case.loss_fn)(case.apply_fn(case.params, inputs), targets)


def modes_of(case, batch):
    @jax.jit
    def modes(params, batch):
        inputs, targets = batch
        gradient = jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets)
        return eigenmodes(entk(case.apply_fn, params, inputs, wrt=case.wrt), gradient)

    return modes(case.params, batch)


def measured(case, batch_b=None, **options):
    measure = lnpjax.lnp(
        case.apply_fn,
        case.loss_fn,
        estimator=lnpjax.Exact(),
        normalization=None,
        wrt=case.wrt,
        **options,
    )
    return jax.jit(measure)(case.params, case.batch_a, batch_b)


@pytest.mark.parametrize("name", AWKWARD)
def test_cheap_components_are_sums_over_modes(x64, name):
    """Equations 6, 7, 9, 21 and 22."""
    case = zoo.build(name)
    modes, cheap = modes_of(case, case.batch_a), measured(case)
    np.testing.assert_allclose(cheap.chi_pos, modes.chi_pos, rtol=1e-9)
    np.testing.assert_allclose(cheap.chi_net, modes.trace, rtol=1e-9)
    np.testing.assert_allclose(cheap.delta_loss, jnp.sum(modes.loss_changes), rtol=1e-9)
    np.testing.assert_allclose(cheap.chi_loss, jnp.sum(modes.projections**2), rtol=1e-9)
    np.testing.assert_allclose(jnp.sum(modes.gamma2), 1, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(modes.p), 1, rtol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "tied_embeddings", "one_output"])
def test_mode_pairs_add_up_to_the_cross_batch_position(x64, name):
    """Equations 24 and 25."""
    case = zoo.build(name)
    kernel_ba = kernel_of(case, case.batch_b[0], inputs2=case.batch_a[0])
    modes_a, modes_b = modes_of(case, case.batch_a), modes_of(case, case.batch_b)
    pairs = mode_pairs(kernel_ba, modes_b, modes_a)
    cheap = measured(case, case.batch_b)
    assert pairs.shape == (len(modes_b.p), len(modes_a.p))
    np.testing.assert_allclose(jnp.sum(pairs), cheap.chi_pos, rtol=1e-9)
    swapped = mode_pairs(kernel_ba.T, modes_a, modes_b)
    np.testing.assert_allclose(swapped, pairs.T, rtol=1e-9, atol=1e-14)


def test_pairs_of_a_batch_with_itself_are_its_contributions(x64):
    case = zoo.build("mlp")
    kernel, modes = kernel_of(case, case.batch_a[0]), modes_of(case, case.batch_a)
    pairs = mode_pairs(kernel, modes, modes)
    np.testing.assert_allclose(pairs, jnp.diag(modes.contributions), atol=1e-14)


def test_modes_decompose_the_kernel(x64):
    case = zoo.build("mlp")
    kernel, modes = kernel_of(case, case.batch_a[0]), modes_of(case, case.batch_a)
    vectors = modes.eigenvectors
    np.testing.assert_allclose((vectors * modes.eigenvalues) @ vectors.T, kernel, atol=1e-12)
    assert np.all(np.diff(modes.eigenvalues) <= 0)
    np.testing.assert_allclose(modes.cumulative_p[-1], 1, rtol=1e-12)
    np.testing.assert_allclose(modes.cumulative_gamma2[-1], 1, rtol=1e-12)
    np.testing.assert_allclose(modes.cumulative_contributions[-1], 1, rtol=1e-12)
    part = jnp.sum(modes.loss_changes[:3]) / jnp.sum(modes.loss_changes)
    np.testing.assert_allclose(modes.cumulative_contributions[2], part, rtol=1e-12)


def test_chosen_outputs_have_modes_of_their_own(x64):
    """The network of those outputs alone, measured with a loss of the same gradient."""
    case, subset = zoo.build("llama"), ([0, 2], [1, 4, 7])
    gradient = lnpjax.jacobian.select_outputs(loss_grad_of(case, case.batch_a), subset)
    modes = eigenmodes(kernel_of(case, case.batch_a[0], outputs=subset), gradient)
    measure = lnpjax.lnp(
        lnpjax.jacobian._outputs.restrict(case.apply_fn, subset),
        lambda outputs, cotangents: jnp.mean(jnp.sum(outputs * cotangents, axis=1)),
        estimator=lnpjax.Exact(),
        normalization=None,
    )
    cheap = jax.jit(measure)(case.params, (case.batch_a[0], gradient))
    np.testing.assert_allclose(cheap.chi_pos, modes.chi_pos, rtol=1e-9)
    np.testing.assert_allclose(cheap.chi_net, modes.trace, rtol=1e-9)


def test_eigenvalues_that_rounding_makes_negative_stay_in_the_sums(x64):
    """More outputs than parameters: the kernel has a null space."""
    case = zoo.mlp(sizes=(2, 3), batch_sizes=(8, 6))
    modes, cheap = modes_of(case, case.batch_a), measured(case)
    rank = sum(leaf.size for leaf in jax.tree.leaves(case.params))
    assert np.all(np.abs(modes.eigenvalues[rank:]) < 1e-13 * modes.eigenvalues[0])
    assert np.any(modes.eigenvalues < 0)
    np.testing.assert_allclose(modes.chi_pos, cheap.chi_pos, rtol=1e-9)
    assert not int(modes.status) & Status.NEGATIVE_EIGENVALUES


def rotated(eigenvalues):
    """A kernel with these eigenvalues, and a loss gradient."""
    size = len(eigenvalues)
    vectors = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size)))[0]
    kernel = (vectors * eigenvalues) @ vectors.T
    return (kernel + kernel.T) / 2, jax.random.normal(jax.random.key(1), (size,))


first_modes = jax.jit(eigenmodes, static_argnames="num_modes")
RANKS = jnp.arange(1.0, 73.0)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        RANKS**-1.2,
        1e-25 * RANKS**-1.2,
        10.0**-RANKS,
        jnp.where(RANKS < 5, 1 / RANKS, 0),
        jnp.repeat(jnp.arange(24.0, 0.0, -1.0), 3),
        jnp.zeros(72),
    ],
    ids=["power law", "tiny", "steep", "low rank", "threefold", "zero"],
)
def test_the_largest_modes_are_those_of_all(x64, eigenvalues):
    kernel, gradient = rotated(eigenvalues.astype(float))
    every, largest = first_modes(kernel, gradient), first_modes(kernel, gradient, num_modes=6)
    assert largest.eigenvectors.shape == (72, 6)
    np.testing.assert_array_equal(largest.degenerate, every.degenerate[:6])
    assert int(largest.status) == int(every.status)
    scale = every.eigenvalues[0]
    np.testing.assert_allclose(largest.eigenvalues, every.eigenvalues[:6], atol=1e-13 * scale)
    np.testing.assert_allclose(largest.chi_pos, every.chi_pos, rtol=1e-12)
    np.testing.assert_allclose(largest.trace, every.trace, rtol=1e-12)
    single = ~np.asarray(every.degenerate[:6])
    for name in ("p", "gamma2", "contributions", "loss_changes"):
        mine, expected = getattr(largest, name)[single], getattr(every, name)[:6][single]
        np.testing.assert_allclose(mine, expected, atol=1e-9 * np.max(expected, initial=0))
    gram = largest.eigenvectors.T @ largest.eigenvectors
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-10)


def test_what_is_left_of_few_rows_are_the_first_of_all_modes(x64):
    kernel, gradient = rotated(jnp.arange(8.0, 0.0, -1.0))
    every, first = eigenmodes(kernel, gradient), eigenmodes(kernel, gradient, num_modes=3)
    np.testing.assert_array_equal(first.eigenvectors, every.eigenvectors[:, :3])
    np.testing.assert_array_equal(first.cumulative_p, every.cumulative_p[:3])
    assert first.chi_pos == every.chi_pos
    pairs = mode_pairs(kernel, first, first)
    np.testing.assert_allclose(pairs, mode_pairs(kernel, every, every)[:3, :3], atol=1e-15)


def test_an_iteration_that_ends_early_is_flagged(monkeypatch):
    monkeypatch.setattr("lnpjax.kernel._modes._MOST_ITERATIONS", 1)
    kernel, gradient = rotated(1 / RANKS)
    assert Status(int(eigenmodes(kernel, gradient, num_modes=5).status)) == Status.NOT_CONVERGED


@pytest.mark.parametrize("num_modes", [0, 3, 1.0, True])
def test_a_bad_number_of_modes_is_refused(num_modes):
    with pytest.raises((TypeError, ValueError), match="num_modes: expected an integer from 1 to 2"):
        eigenmodes(jnp.eye(2), jnp.ones(2), num_modes=num_modes)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize(
    ("kernel", "gradient", "status"),
    [
        (jnp.diag(jnp.array([3.0, 2.0, 1.0])), jnp.ones(3), Status.OK),
        (jnp.diag(jnp.array([3.0, 2.0, 1.0])), jnp.zeros(3), Status.ZERO_LOSS_GRADIENT),
        (jnp.diag(jnp.array([3.0, 2.0, -1.0])), jnp.ones(3), Status.NEGATIVE_EIGENVALUES),
        (jnp.diag(jnp.array([3.0, 2.0, 2.0])), jnp.ones(3), Status.DEGENERATE_SPECTRUM),
        (jnp.diag(jnp.array([3.0, 0.0, 0.0])), jnp.ones(3), Status.OK),
        (jnp.zeros((3, 3)), jnp.ones(3), Status.ZERO_JACOBIAN),
    ],
    ids=["fine", "no gradient", "negative", "degenerate", "low rank", "no Jacobian"],
)
def test_trouble_is_flagged(kernel, gradient, status, jitted):
    modes = (jax.jit(eigenmodes) if jitted else eigenmodes)(kernel, gradient)
    assert Status(int(modes.status)) == status
    if status == Status.ZERO_LOSS_GRADIENT:
        assert np.all(np.isnan(modes.gamma2))
    if status == Status.DEGENERATE_SPECTRUM:
        assert modes.degenerate.tolist() == [False, True, True]


def test_what_jit_cannot_refuse_is_flagged():
    lopsided = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    assert int(jax.jit(eigenmodes)(lopsided, jnp.ones(2)).status) & Status.NOT_SYMMETRIC
    broken = jax.jit(eigenmodes)(jnp.eye(2), jnp.array([1.0, jnp.nan]))
    assert int(broken.status) & Status.NON_FINITE


@pytest.mark.parametrize(
    ("kernel", "gradient", "message"),
    [
        (jnp.ones((2, 3)), jnp.ones(2), "kernel: expected a square matrix"),
        (jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.ones(2), "kernel: expected a symmetric"),
        (jnp.array([[1.0, jnp.nan], [jnp.nan, 1.0]]), jnp.ones(2), "kernel: expected finite"),
        (jnp.eye(2), jnp.ones(3), r"loss_grad: expected 2 entries.*got shape \(3,\)"),
        (jnp.eye(2), jnp.array([1.0, jnp.inf]), "loss_grad: expected finite"),
        (jnp.eye(2), jnp.array([1, 2]), "loss_grad: expected an array of real floating"),
    ],
)
def test_bad_input_is_named(kernel, gradient, message):
    with pytest.raises((ValueError, TypeError), match=message):
        eigenmodes(kernel, gradient)


def test_kernel_between_batches_must_fit_the_modes():
    two, three = eigenmodes(jnp.eye(2), jnp.ones(2)), eigenmodes(jnp.eye(3), jnp.ones(3))
    with pytest.raises(ValueError, match=r"kernel_ba: expected shape \(2, 3\).*got \(3, 2\)"):
        mode_pairs(jnp.ones((3, 2)), two, three)


def test_vmapped_modes_equal_a_loop(x64):
    kernels = jnp.stack([jnp.diag(jnp.array([1.0, 2.0])), jnp.array([[2.0, 1.0], [1.0, 3.0]])])
    gradients = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    together = jax.vmap(eigenmodes)(kernels, gradients)
    for i in range(2):
        alone = eigenmodes(kernels[i], gradients[i])
        np.testing.assert_allclose(together.gamma2[i], alone.gamma2, atol=1e-14)
        np.testing.assert_allclose(together.chi_pos[i], alone.chi_pos, rtol=1e-14)
