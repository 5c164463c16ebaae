"""Spectral summaries against closed forms, and power laws against known ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.kernel import normalized_kernel, trace_outputs
from lnpjax.spectra import (
    effective_rank,
    inverse_participation_ratio,
    normalized_spectrum,
    participation_ratio,
    power_law,
    von_neumann_entropy,
)
from lnpjax.status import Status

SUMMARIES = [
    normalized_spectrum,
    von_neumann_entropy,
    effective_rank,
    inverse_participation_ratio,
    participation_ratio,
]
every_summary = pytest.mark.parametrize("summary", SUMMARIES, ids=lambda f: f.__name__)


def random_kernel(n, rank, seed=0):
    factor = np.random.default_rng(seed).normal(size=(n, rank))
    return jnp.asarray(factor @ factor.T)


def geometric(ratio, k):
    """Eigenvalues r^i with their entropy and inverse participation ratio in closed form."""
    total = (1 - ratio**k) / (1 - ratio)
    mean_index = ratio / (1 - ratio) - k * ratio**k / (1 - ratio**k)
    entropy = np.log(total) - mean_index * np.log(ratio)
    concentration = (1 - ratio) / (1 + ratio) * (1 + ratio**k) / (1 - ratio**k)
    return ratio ** np.arange(k), entropy, concentration


@pytest.mark.parametrize(
    ("eigenvalues", "rank"),
    [
        ([1 / 2, 1 / 2], 2),  # NTK Lens (14)
        ([1 / 3, 2 / 3], 3 / 2 ** (2 / 3)),  # NTK Lens (15)
        ([7.0, 0.0, 0.0], 1),
        ([1.0] * 9, 9),
        ([5e-20] * 9, 9),
        ([5e20] * 9, 9),
        ([3.0], 1),
    ],
)
def test_effective_rank_in_closed_form(x64, eigenvalues, rank):
    for order in (eigenvalues, eigenvalues[::-1]):
        np.testing.assert_allclose(effective_rank(jnp.array(order)), rank, rtol=1e-14)


@pytest.mark.parametrize(("ratio", "k"), [(0.5, 6), (0.9, 40), (0.1, 3)])
def test_geometric_spectrum(x64, ratio, k):
    eigenvalues, entropy, concentration = geometric(ratio, k)
    eigenvalues = jnp.asarray(np.random.default_rng(0).permutation(3 * eigenvalues))
    close = {"rtol": 1e-13}
    np.testing.assert_allclose(von_neumann_entropy(eigenvalues), entropy, **close)
    np.testing.assert_allclose(effective_rank(eigenvalues), np.exp(entropy), **close)
    np.testing.assert_allclose(inverse_participation_ratio(eigenvalues), concentration, **close)
    np.testing.assert_allclose(participation_ratio(eigenvalues), 1 / concentration, **close)
    assert participation_ratio(eigenvalues) < effective_rank(eigenvalues) < k


def test_float32_agrees_with_float64():
    eigenvalues, entropy, concentration = geometric(0.9, 40)
    eigenvalues = jnp.asarray(eigenvalues, jnp.float32)
    assert effective_rank(eigenvalues).dtype == jnp.float32
    np.testing.assert_allclose(effective_rank(eigenvalues), np.exp(entropy), rtol=1e-5)
    np.testing.assert_allclose(inverse_participation_ratio(eigenvalues), concentration, rtol=1e-5)


def test_low_precision_accumulates_in_float32():
    """In bfloat16 the sum of 1000 ones stops at 256."""
    assert effective_rank(jnp.ones(1000, jnp.bfloat16)) == pytest.approx(1000, rel=1e-4)
    assert participation_ratio(jnp.ones(1000, jnp.bfloat16)) == pytest.approx(1000, rel=1e-6)


@every_summary
def test_batches_jit_and_vmap(summary):
    batch = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 5)), jnp.float32)
    one_by_one = jnp.stack([jnp.stack([summary(row) for row in rows]) for rows in batch])
    for out in (summary(batch), jax.jit(summary)(batch), jax.vmap(jax.jit(summary))(batch)):
        assert out.shape[:2] == (2, 3)
        np.testing.assert_allclose(out, one_by_one, rtol=2e-6)


@every_summary
def test_rounding_below_zero_counts_as_zero(x64, summary):
    with_rounding = summary(jnp.array([2.0, 1.0, -1e-12]))
    np.testing.assert_array_equal(with_rounding, summary(jnp.array([2.0, 1.0, 0.0])))


@every_summary
def test_no_spectrum(summary):
    """All zero: 0/0. Under jit nothing can be raised, and NaN stays NaN."""
    assert np.all(np.isnan(summary(jnp.zeros(3))))
    assert np.all(np.isnan(jax.jit(summary)(jnp.array([1.0, jnp.nan]))))


@every_summary
@pytest.mark.parametrize(
    ("eigenvalues", "error", "message"),
    [
        (jnp.arange(3), TypeError, "real floating-point numbers, got dtype int32"),
        ([1.0, 2.0], TypeError, "real floating-point numbers, got list"),
        (jnp.ones(3, complex), TypeError, "got dtype complex64"),
        (jnp.ones(()), ValueError, r"at least one eigenvalue .* got shape \(\)"),
        (jnp.ones((3, 0)), ValueError, r"at least one eigenvalue .* got shape \(3, 0\)"),
        (jnp.array([1.0, jnp.nan, jnp.inf]), ValueError, r"finite eigenvalues, got \[nan, inf\]"),
        (jnp.array([[1.0, 0.0], [1.0, -0.01]]), ValueError, "below zero by more than rounding"),
    ],
)
def test_bad_eigenvalues(summary, eigenvalues, error, message):
    with pytest.raises(error, match=f"^eigenvalues: .*{message}"):
        summary(eigenvalues)


def test_normalized_kernel_is_the_kernel_of_normalized_gradients(x64):
    """NTK Lens, B.3: two independent samples are two dimensions, at whatever rates they learn."""
    uneven = jnp.diag(jnp.array([1 / 3, 2 / 3]))
    np.testing.assert_allclose(normalized_kernel(uneven), np.eye(2), rtol=1e-15)
    rank = effective_rank(jnp.linalg.eigvalsh(normalized_kernel(uneven)))
    np.testing.assert_allclose(rank, 2, rtol=1e-14)

    gradients = (
        np.random.default_rng(0).normal(size=(6, 4)) * 10.0 ** np.arange(-12, 12, 4)[:, None]
    )
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    kernel = jnp.asarray(gradients @ gradients.T)
    np.testing.assert_allclose(jax.jit(normalized_kernel)(kernel), unit @ unit.T, atol=1e-14)


def test_normalized_kernel_in_float32():
    """Products of diagonal entries would leave the range of float32; the result is symmetric."""
    kernel = np.asarray(random_kernel(5, 3))
    scales = 10.0 ** np.array([-15, -8, 0, 8, 15])
    scaled = jnp.asarray(kernel * np.outer(scales, scales), jnp.float32)
    lengths = np.sqrt(np.diagonal(kernel))
    out = normalized_kernel(scaled)
    np.testing.assert_allclose(out, kernel / np.outer(lengths, lengths), rtol=1e-5)
    np.testing.assert_array_equal(out, out.T)


def test_a_gradient_of_zero_has_no_direction():
    kernel = jnp.array([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 4.0]])
    expected = [[1, 0, 0.5], [0, 0, 0], [0.5, 0, 1]]
    np.testing.assert_allclose(normalized_kernel(kernel), expected, rtol=1e-6)
    unknown = jax.jit(normalized_kernel)(kernel.at[1, 1].set(jnp.nan))
    assert np.isnan(unknown[1]).all()


def test_trace_outputs(x64):
    jacobians = np.random.default_rng(0).normal(size=(2, 4, 3, 7))  # side, sample, output, weight
    left, right = jacobians[0], jacobians[1, :2]
    kernel = jnp.asarray(left.reshape(12, 7) @ right.reshape(6, 7).T)
    expected = np.einsum("ikp,jkp->ij", left, right)
    np.testing.assert_allclose(trace_outputs(kernel, 3), expected, rtol=1e-13)
    jitted = jax.jit(trace_outputs, static_argnums=1)
    np.testing.assert_allclose(jitted(kernel, 3), expected, rtol=1e-13)

    square = random_kernel(12, 5)
    np.testing.assert_allclose(jnp.trace(trace_outputs(square, 3)), jnp.trace(square), rtol=1e-13)
    np.testing.assert_array_equal(trace_outputs(square, 1), square)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normalized_kernel(jnp.ones((2, 3))), ValueError, r"kernel: .* square .*\(2, 3\)"),
        (lambda: normalized_kernel(jnp.ones(3)), ValueError, "kernel: expected a square matrix"),
        (lambda: normalized_kernel(jnp.eye(3, dtype=int)), TypeError, "kernel: .* int32"),
        (
            lambda: normalized_kernel(jnp.eye(2) * jnp.nan),
            ValueError,
            "kernel: .* finite .* got .nan",
        ),
        (lambda: normalized_kernel(-jnp.eye(2)), ValueError, "kernel: .* negative entry -1"),
        (
            lambda: normalized_kernel(jnp.array([[1.0, 0.1], [0.0, 1.0]])),
            ValueError,
            "kernel: expected a symmetric matrix, got .* 0.1",
        ),
        (lambda: trace_outputs(jnp.ones((4, 6)), 4), ValueError, "num_outputs: .* divisor"),
        (lambda: trace_outputs(jnp.ones((4, 6)), 0), ValueError, "num_outputs: .* >= 1, got 0"),
        (lambda: trace_outputs(jnp.ones(4), 2), ValueError, r"kernel: expected a matrix"),
        (lambda: trace_outputs(jnp.ones((2, 2)) * jnp.inf, 2), ValueError, "kernel: .* finite"),
    ],
)
def test_bad_kernels(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_symmetry_up_to_rounding_is_symmetry():
    kernel = np.asarray(random_kernel(6, 6), np.float32)
    normalized_kernel(jnp.asarray(kernel).at[0, 1].multiply(1 + 1e-5))
    with pytest.raises(ValueError, match="symmetric"):
        normalized_kernel(jnp.asarray(kernel).at[0, 1].add(1e-2 * np.abs(kernel).max()))


def fitted(values, ranks):
    """The power law in one program, not one for every operation."""
    return jax.jit(lambda values: power_law(values, ranks))(values)


def test_power_law_is_found_in_every_window(x64):
    values = 5 * jnp.arange(1.0, 201.0) ** -1.7
    single = fitted(values, (20, 200))
    assert single.exponent.shape == ()
    np.testing.assert_allclose(
        [single.exponent, single.amplitude, single.r_squared], [1.7, 5, 1], rtol=1e-12
    )
    assert (single.num_points, single.num_left_out, single.status) == (181, 0, Status.OK)

    several = jax.jit(lambda v: power_law(v, [(1, 10), (20, 200), (7, 9)]))(values)
    np.testing.assert_allclose(several.exponent, [1.7] * 3, rtol=1e-12)
    np.testing.assert_array_equal(several.num_points, [10, 181, 3])


def test_power_law_sees_only_its_window(x64):
    """A broken power law: each window finds its own exponent, one across the break neither."""
    rank = np.arange(1, 201)
    values = jnp.asarray(np.where(rank <= 50, rank**-0.5, 50**1.5 / rank**2.0))
    fit = fitted(values, [(1, 50), (50, 200), (1, 200)])
    np.testing.assert_allclose(fit.exponent[:2], [0.5, 2], rtol=1e-12)
    assert 0.5 < fit.exponent[2] < 2
    assert fit.r_squared[2] < 0.99


def test_power_law_is_least_squares(x64):
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=40)) * np.arange(1.0, 41.0) ** -1.2
    x, y = np.log(np.arange(5, 31)), np.log(values[4:30])
    (slope, intercept), residual = np.polyfit(x, y, 1), None
    residual = np.sum((y - slope * x - intercept) ** 2)
    fit = fitted(jnp.asarray(values), (5, 30))
    expected = [-slope, np.exp(intercept), 1 - residual / np.sum((y - y.mean()) ** 2)]
    found = [fit.exponent, fit.amplitude, fit.r_squared]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    batch = jnp.stack([jnp.asarray(values), jnp.asarray(values[::-1])])
    vmapped = jax.vmap(lambda v: power_law(v, [(5, 30)]))(batch)
    assert vmapped.exponent.shape == (2, 1)
    np.testing.assert_allclose(vmapped.exponent[0], [-slope], rtol=1e-12)


def test_power_law_in_float32():
    fit = fitted(jnp.arange(1.0, 1001.0) ** -2, (100, 1000))
    assert fit.exponent.dtype == jnp.float32
    np.testing.assert_allclose([fit.exponent, fit.r_squared], [2, 1], rtol=1e-5)


def test_values_without_a_logarithm_are_left_out_and_counted(x64):
    clean = jnp.arange(1.0, 21.0) ** -1.5
    holes = clean.at[jnp.array([2, 5, 9, 12])].set(jnp.array([0.0, -1e-9, jnp.nan, jnp.inf]))
    fit = fitted(holes, [(1, 20), (5, 10)])
    np.testing.assert_allclose(fit.exponent, [1.5, 1.5], rtol=1e-12)
    np.testing.assert_array_equal(fit.num_points, [16, 4])
    np.testing.assert_array_equal(fit.num_left_out, [4, 2])


def test_too_few_points_are_flagged():
    values = jnp.array([4.0, 3.0, 2.0, 0.0, 0.0, 0.0])
    fit = fitted(values, [(1, 3), (2, 5), (4, 6), (6, 6)])
    np.testing.assert_array_equal(
        fit.status, [0, *[Status.TOO_FEW_POINTS | Status.VANISHING_EIGENVALUES] * 3]
    )
    np.testing.assert_array_equal(fit.num_points, [3, 2, 0, 0])
    for numbers in (fit.exponent, fit.amplitude, fit.r_squared):
        np.testing.assert_array_equal(np.isnan(numbers), [False, True, True, True])


def test_equal_values_have_no_variance_to_explain():
    fit = fitted(jnp.full(50, 0.1), (1, 50))
    assert abs(fit.exponent) < 1e-6
    assert fit.amplitude == pytest.approx(0.1, rel=1e-5)
    assert np.isnan(fit.r_squared)
    assert fit.status == Status.OK


@pytest.mark.parametrize(
    ("values", "ranks", "error", "message"),
    [
        (jnp.ones((2, 5)), (1, 3), ValueError, r"^values: expected a vector, got shape \(2, 5\)"),
        (jnp.arange(5), (1, 3), TypeError, "^values: .* int32"),
        (jnp.ones(5), (0, 3), ValueError, r"^ranks: .* 1 <= first <= last <= 5.* got \(0, 3\)"),
        (jnp.ones(5), (1, 6), ValueError, "^ranks: .* <= 5"),
        (jnp.ones(5), [(1, 3), (4, 2)], ValueError, "^ranks: .* first <= last"),
        (jnp.ones(5), (1.0, 3.0), ValueError, "^ranks: .* of integers"),
        (jnp.ones(5), (1, 2, 3), ValueError, "^ranks: .* of integers"),
        (jnp.ones(5), [(1, 2), (3,)], ValueError, "^ranks: .* of integers"),
        (jnp.ones(5), [], ValueError, "^ranks: .* of integers"),
        (jnp.ones(5), 3, ValueError, "^ranks: .* of integers"),
    ],
)
def test_bad_power_laws(values, ranks, error, message):
    with pytest.raises(error, match=message):
        power_law(values, ranks)


def test_traced_ranks_are_refused():
    with pytest.raises(ValueError, match=r"^ranks: .* known outside of jit"):
        jax.jit(power_law)(jnp.ones(5), jnp.array([1, 3]))


def test_shares_of_eigenvalues_whose_sum_overflows():
    values = np.array([3e38, 2e38, 1e38, 0], np.float32)
    np.testing.assert_allclose(
        normalized_spectrum(jnp.asarray(values)), [1 / 2, 1 / 3, 1 / 6, 0], rtol=1e-6
    )
