"""Alignment of kernels with vectors, and of eigenvectors with their successors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.kernel import (
    eigenvector_misalignment,
    kernel_target_alignment,
    label_alignment,
    trace_outputs,
)
from lnpjax.spectra import effective_rank, inverse_participation_ratio


def random_kernel(n, rank, seed=0):
    factor = np.random.default_rng(seed).normal(size=(n, rank))
    return jnp.asarray(factor @ factor.T)


def vector(n, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=n))


def orthogonal(n, seed=0):
    return jnp.linalg.qr(jnp.asarray(np.random.default_rng(seed).normal(size=(n, n))))[0]


def rotation(n, i, j, angle):
    matrix = np.eye(n)
    matrix[[i, i, j, j], [i, j, i, j]] = np.array([1, -1, 1, 1]) * np.array(
        [np.cos(angle), np.sin(angle), np.sin(angle), np.cos(angle)]
    )
    return jnp.asarray(matrix)


def cosine(left, right):
    left, right = np.asarray(left), np.asarray(right)
    return np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right)


# Alignment with vectors.


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_kernel_target_alignment_and_spectral_position(x64, rank):
    """Spectral Reach (33), and its exact relation to chi_pos (35) with (36) and (37)."""
    kernel, g = random_kernel(6, rank), vector((3, 2))
    flat = np.asarray(g).reshape(-1)
    alignment = jax.jit(kernel_target_alignment)(kernel, g)
    np.testing.assert_allclose(alignment, cosine(kernel, np.outer(flat, flat)), rtol=1e-13)

    trace = np.trace(kernel)
    chi_pos = flat @ np.asarray(kernel) @ flat / (flat @ flat) / trace
    factor = np.linalg.norm(kernel) / trace
    np.testing.assert_allclose(chi_pos, alignment * factor, rtol=1e-13)
    concentration = inverse_participation_ratio(jnp.linalg.eigvalsh(kernel))
    np.testing.assert_allclose(factor, np.sqrt(concentration), rtol=1e-13)
    assert 1 / np.sqrt(6) <= factor <= 1 + 1e-13
    assert (factor > 1 - 1e-13) == (rank == 1)


def test_known_alignments(x64):
    g = vector(5)
    np.testing.assert_allclose(kernel_target_alignment(jnp.outer(g, g), g), 1, rtol=1e-14)
    np.testing.assert_allclose(kernel_target_alignment(jnp.eye(5), g), 5**-0.5, rtol=1e-14)
    orthogonal_kernel = jnp.diag(jnp.array([0.0, 1.0]))
    assert kernel_target_alignment(orthogonal_kernel, jnp.array([1.0, 0.0])) == 0


def test_small_gradients_in_float32():
    """Late in training the square of a gradient would be zero in float32."""
    kernel, g = jnp.float32(random_kernel(6, 3)), jnp.float32(vector(6))
    out = kernel_target_alignment(1e12 * kernel, 1e-25 * g)
    np.testing.assert_allclose(out, kernel_target_alignment(kernel, g), rtol=1e-5)


def test_nothing_to_align_with():
    kernel, g = jnp.float32(random_kernel(4, 2)), jnp.float32(vector(4))
    assert np.isnan(kernel_target_alignment(kernel, 0 * g))
    assert np.isnan(kernel_target_alignment(0 * kernel, g))
    assert np.isnan(jax.jit(label_alignment)(kernel, g.at[0].set(jnp.nan)))


def test_label_alignment(x64):
    """NTK Lens (16), for a vector, a matrix, and both readings of several outputs."""
    labels = jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3)
    kernel = random_kernel(4, 4)
    target = np.asarray(labels) @ np.asarray(labels).T
    out = jax.jit(label_alignment)(kernel, labels)
    np.testing.assert_allclose(out, cosine(kernel, target), rtol=1e-13)
    np.testing.assert_allclose(label_alignment(jnp.asarray(target), labels), 1, rtol=1e-14)
    signs = jnp.array([1.0, -1.0, 1.0, 1.0])
    expected = cosine(kernel, np.outer(signs, signs))
    np.testing.assert_allclose(label_alignment(kernel, signs), expected, rtol=1e-13)
    np.testing.assert_allclose(kernel_target_alignment(kernel, signs), expected, rtol=1e-13)

    full = random_kernel(12, 7)
    flat = np.asarray(labels).reshape(-1)
    per_output = label_alignment(full, jnp.asarray(flat))
    np.testing.assert_allclose(per_output, cosine(full, np.outer(flat, flat)), rtol=1e-13)
    per_sample = label_alignment(trace_outputs(full, 3), labels)
    blocks = np.asarray(full).reshape(4, 3, 4, 3)
    np.testing.assert_allclose(
        per_sample, cosine(np.einsum("ikjk->ij", blocks), target), rtol=1e-13
    )
    assert abs(per_sample - per_output) > 1e-3


def test_vmapped_alignment(x64):
    kernels = jnp.stack([random_kernel(4, 2, seed) for seed in range(3)])
    out = jax.vmap(kernel_target_alignment, in_axes=(0, None))(kernels, vector(4))
    expected = [kernel_target_alignment(kernel, vector(4)) for kernel in kernels]
    np.testing.assert_allclose(out, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernel_target_alignment(jnp.eye(4), jnp.ones(3)), ValueError, "^loss_grad: .* 4"),
        (lambda: kernel_target_alignment(jnp.ones((4, 3)), jnp.ones(4)), ValueError, "^kernel: "),
        (
            lambda: kernel_target_alignment(jnp.eye(2), jnp.array([1, jnp.nan])),
            ValueError,
            "^loss_grad: .* finite",
        ),
        (
            lambda: label_alignment(jnp.eye(3), jnp.arange(3)),
            TypeError,
            "^labels: .*one_hot.* int32",
        ),
        (lambda: label_alignment(jnp.eye(3), jnp.ones((2, 3))), ValueError, "^labels: .* 3 rows"),
        (lambda: label_alignment(jnp.eye(1), jnp.ones(())), ValueError, "^labels: "),
        (lambda: label_alignment(jnp.triu(jnp.ones((3, 3))), jnp.ones(3)), ValueError, "symmetric"),
    ],
)
def test_bad_alignment_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Eigenvectors and their successors.


def numbers(out):
    return [float(out.misalignment), float(out.subspace_overlap), int(out.num_modes)]


DISTINCT = jnp.array([8.0, 4.0, 2.0, 1.0, 0.5])


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, 2.5])
def test_known_rotations(x64, angle):
    values = DISTINCT.astype(jnp.float64)
    before = orthogonal(5)

    def turned(i, j):
        after = before @ rotation(5, i, j, angle)
        return numbers(eigenvector_misalignment(values, before, values, after, num_modes=3))

    cos = abs(np.cos(angle))
    # Two leading modes turn into each other: they leave their places, but not their space.
    np.testing.assert_allclose(turned(0, 2), [1 - (2 * cos + 1) / 3, 1, 3], atol=1e-14)
    # A leading mode turns out of the space.
    np.testing.assert_allclose(turned(2, 4), [1 - (cos + 2) / 3, (cos**2 + 2) / 3, 3], atol=1e-14)
    # What happens among the others does not matter.
    np.testing.assert_allclose(turned(3, 4), [0, 1, 3], atol=1e-14)


def test_orthogonal_spaces(x64):
    after = jnp.eye(5)[:, jnp.array([3, 4, 2, 0, 1])]
    values = DISTINCT.astype(jnp.float64)
    out = eigenvector_misalignment(values, jnp.eye(5), values, after, num_modes=2)
    assert numbers(out) == [1, 0, 2]


def test_the_printed_formula_where_it_is_defined(x64):
    """Simple eigenvalues, signs chosen to agree: NTK Lens (17) as it stands."""
    values, before, after = DISTINCT.astype(jnp.float64), orthogonal(5), orthogonal(5, seed=1)
    after = after * jnp.sign(jnp.sum(before * after, axis=0))
    top, top_after = np.asarray(before)[:, :3], np.asarray(after)[:, :3]
    out = eigenvector_misalignment(values, before, values, after, num_modes=3)
    np.testing.assert_allclose(out.misalignment, 1 - cosine(top, top_after), rtol=1e-13)
    overlap = np.linalg.norm(top.T @ top_after) ** 2 / 3
    np.testing.assert_allclose(out.subspace_overlap, overlap, rtol=1e-13)
    assert 0.01 < out.misalignment < 0.99


def test_signs_do_not_matter(x64):
    values, before, after = DISTINCT.astype(jnp.float64), orthogonal(5), orthogonal(5, seed=1)
    expected = numbers(eigenvector_misalignment(values, before, values, after, num_modes=3))
    signs = jnp.array([1, -1, -1, 1, -1])
    for left, right in ((signs, 1), (1, -signs), (signs, -1)):
        out = eigenvector_misalignment(values, before * left, values, after * right, num_modes=3)
        np.testing.assert_allclose(numbers(out), expected, rtol=1e-13)


@pytest.mark.parametrize("num_modes", [1, 2, 3, 4])
@pytest.mark.parametrize("degenerate", ["before", "after", "both"])
def test_rotations_of_equal_eigenvalues_do_not_matter(x64, num_modes, degenerate):
    """Modes 1 to 3 share an eigenvalue; the last leading mode may cut them."""
    distinct, equal = jnp.array([8.0, 4.0, 3.0, 2.0, 0.5]), jnp.array([8.0, 4.0, 4.0, 4.0, 0.5])
    values = (
        equal if degenerate != "after" else distinct,
        equal if degenerate != "before" else distinct,
    )
    before, after = orthogonal(5), orthogonal(5, seed=1)

    def measured(turn_before, turn_after):
        return numbers(
            eigenvector_misalignment(
                values[0], before @ turn_before, values[1], after @ turn_after, num_modes=num_modes
            )
        )

    turns = [rotation(5, 1, 3, 0.7) @ rotation(5, 1, 2, -1.2), rotation(5, 2, 3, 2.0)]
    expected = measured(jnp.eye(5), jnp.eye(5))
    assert expected[2] == num_modes
    np.testing.assert_allclose(measured(*turns), expected, rtol=1e-12)
    # The control: a rotation that mixes different eigenvalues is seen.
    outside = rotation(5, 0, 4, 0.7)
    assert abs(measured(outside, jnp.eye(5))[0] - expected[0]) > 1e-3


def test_nothing_turned(x64):
    """A cut cluster of a kernel that did not change is aligned with itself."""
    values = jnp.array([4.0, 1.0, 1.0, 1.0])
    turned = jnp.eye(4) @ rotation(4, 1, 3, 1.0)
    for num_modes in (1, 2, 3, 4):
        out = eigenvector_misalignment(values, jnp.eye(4), values, turned, num_modes=num_modes)
        np.testing.assert_allclose(numbers(out), [0, 1, num_modes], atol=1e-14)


def test_tolerance_decides_what_is_equal(x64):
    values = jnp.array([1.0, 0.5, 0.499, 0.1])
    turned = rotation(4, 1, 2, 0.8)
    fine = eigenvector_misalignment(values, jnp.eye(4), values, turned, num_modes=3)
    coarse = eigenvector_misalignment(
        values, jnp.eye(4), values, turned, num_modes=3, tolerance=1e-2
    )
    np.testing.assert_allclose(fine.misalignment, 2 / 3 * (1 - np.cos(0.8)), rtol=1e-13)
    np.testing.assert_allclose(coarse.misalignment, 0, atol=1e-14)


def test_degenerate_kernel_through_a_float32_solver():
    """The solver's own rounding splits equal eigenvalues; the default tolerance sees through it."""
    basis = np.asarray(orthogonal(8), np.float64)
    kernel = basis @ np.diag([9, 5, 5, 5, 1, 1, 0.1, 0]) @ basis.T

    def modes(order):
        values, vectors = jnp.linalg.eigh(jnp.asarray(kernel[np.ix_(order, order)], jnp.float32))
        return values[::-1], vectors[np.argsort(order), ::-1]

    out = eigenvector_misalignment(*modes(np.arange(8)), *modes(np.arange(8)[::-1]), num_modes=4)
    assert abs(out.misalignment) < 1e-5
    assert abs(out.subspace_overlap - 1) < 1e-5


def test_default_number_of_modes_is_the_effective_rank(x64):
    values, before, after = DISTINCT.astype(jnp.float64), orthogonal(5), orthogonal(5, seed=1)
    rank = round(float(effective_rank(values)))
    out = jax.jit(eigenvector_misalignment)(values, before, values, after)
    assert out.num_modes == rank == 3
    expected = eigenvector_misalignment(values, before, values, after, num_modes=rank)
    np.testing.assert_allclose(numbers(out), numbers(expected), rtol=1e-13)
    traced = jax.jit(lambda n: eigenvector_misalignment(values, before, values, after, num_modes=n))
    for num_modes in (1, rank):
        expected = eigenvector_misalignment(values, before, values, after, num_modes=num_modes)
        np.testing.assert_allclose(numbers(traced(num_modes)), numbers(expected), rtol=1e-13)


def test_effective_rank_of_the_kernel_before():
    flat, peaked = jnp.ones(4), jnp.array([1.0, 0.0, 0.0, 0.0])
    eye = jnp.eye(4)
    assert eigenvector_misalignment(flat, eye, peaked, eye).num_modes == 4
    assert eigenvector_misalignment(peaked, eye, flat, eye).num_modes == 1
    assert eigenvector_misalignment(jnp.zeros(4), eye, flat, eye).num_modes == 0


def test_a_kernel_without_modes_has_no_alignment():
    zero, flat, eye = jnp.zeros(4), jnp.ones(4), jnp.eye(4)
    unknown = flat.at[2].set(jnp.nan)
    measure = jax.jit(eigenvector_misalignment, static_argnames="num_modes")
    for before, after in ((zero, flat), (flat, zero), (unknown, flat), (flat, unknown)):
        for num_modes in (None, 2):
            out = measure(before, eye, after, eye, num_modes=num_modes)
            assert np.isnan(out.misalignment)
            assert np.isnan(out.subspace_overlap)


def test_leading_columns_are_enough(x64):
    values, before, after = DISTINCT.astype(jnp.float64), orthogonal(5), orthogonal(5, seed=1)
    whole = eigenvector_misalignment(values, before, values, after, num_modes=3)
    part = eigenvector_misalignment(
        values[:4], before[:, :4], values[:4], after[:, :4], num_modes=3
    )
    np.testing.assert_allclose(numbers(part), numbers(whole), rtol=1e-13)


def test_vmapped_misalignment(x64):
    values = DISTINCT.astype(jnp.float64)
    afters = jnp.stack([orthogonal(5, seed) for seed in (1, 2)])
    out = jax.vmap(eigenvector_misalignment, in_axes=(None, None, None, 0))(
        values, orthogonal(5), values, afters
    )
    for index, after in enumerate(afters):
        single = eigenvector_misalignment(values, orthogonal(5), values, after)
        np.testing.assert_allclose(out.misalignment[index], single.misalignment, rtol=1e-12)


EYE, VALUES = np.eye(3, dtype=np.float32), np.array([3.0, 2.0, 1.0], np.float32)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"eigenvalues_before": VALUES[::-1]}, ValueError, "^eigenvalues_before: .* descending"),
        ({"eigenvalues_after": VALUES[:2]}, ValueError, "^eigenvectors_after: .* 2 eigenvalues"),
        ({"eigenvalues_after": EYE}, ValueError, "^eigenvalues_after: expected a vector"),
        ({"eigenvalues_after": -VALUES[::-1]}, ValueError, "^eigenvalues_after: .* below zero"),
        ({"eigenvectors_before": EYE * np.nan}, ValueError, "^eigenvectors_before: .* finite"),
        ({"eigenvectors_before": EYE[:2]}, ValueError, "^eigenvectors_before: .* fewer rows"),
        ({"eigenvectors_after": np.eye(4, 3)}, ValueError, "^eigenvectors_after: .* the shape"),
        ({"num_modes": 0}, ValueError, "^num_modes: expected from 1 to 3.* got 0"),
        ({"num_modes": 4}, ValueError, "^num_modes: expected from 1 to 3.* got 4"),
        ({"num_modes": 2.0}, TypeError, "^num_modes: expected an integer"),
        ({"tolerance": -1.0}, ValueError, "^tolerance: .* >= 0"),
    ],
)
def test_bad_modes(changed, error, message):
    good = {
        "eigenvalues_before": VALUES,
        "eigenvectors_before": EYE,
        "eigenvalues_after": VALUES,
        "eigenvectors_after": EYE,
    }
    assert eigenvector_misalignment(**good).misalignment == 0
    with pytest.raises(error, match=message):
        eigenvector_misalignment(**good | changed)


@pytest.mark.parametrize("side", ["before", "after"])
def test_eigenvectors_that_are_not_orthonormal(side):
    values, vectors = jnp.array([2.0, 1.0]), jnp.eye(3)[:, :2]
    for bad in (2 * vectors, vectors + 0.1, vectors[:, :1] + jnp.zeros((3, 2))):
        pair = (bad, vectors) if side == "before" else (vectors, bad)
        with pytest.raises(ValueError, match=f"eigenvectors_{side}: expected orthonormal columns"):
            eigenvector_misalignment(values, pair[0], values, pair[1])
        out = jax.jit(eigenvector_misalignment)(values, pair[0], values, pair[1])
        assert np.isnan(out.misalignment)
        assert np.isnan(out.subspace_overlap)
