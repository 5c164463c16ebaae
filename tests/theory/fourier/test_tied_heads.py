"""Tied and untied maps against least squares over their parameters."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.theory.fourier import tied_heads

WIDTH, VOCABULARY = 3, 8


@pytest.fixture
def embedding(x64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(WIDTH, VOCABULARY)))


def nearest(left, right, target):
    """``left A right`` nearest to the target, by least squares over all entries of A."""
    design = np.kron(left, right.T)
    entries = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    return (design @ entries).reshape(target.shape)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def cases(embedding):
    table = np.asarray(embedding)
    return {
        "any": normal(VOCABULARY, VOCABULARY, seed=1),
        "tied": table.T @ normal(WIDTH, WIDTH, seed=2) @ table,
        "untied": normal(VOCABULARY, WIDTH, seed=3) @ table,
        "shift": np.roll(np.eye(VOCABULARY), 3, axis=1),
    }


@pytest.mark.parametrize("name", ["any", "tied", "untied", "shift"])
def test_the_nearest_maps_are_those_of_least_squares(embedding, name):
    """F.15(1) and the exact version of F.16."""
    target, table = cases(embedding)[name], np.asarray(embedding)
    tied = nearest(table.T, table, target)
    untied = nearest(np.eye(VOCABULARY), table, target)
    np.testing.assert_allclose(tied_heads.best_tied_map(embedding, target), tied, atol=1e-12)
    np.testing.assert_allclose(tied_heads.best_untied_map(embedding, target), untied, atol=1e-12)
    tied_error = tied_heads.tied_error(embedding, target)
    untied_error = tied_heads.untied_error(embedding, target)
    np.testing.assert_allclose(tied_error, np.linalg.norm(tied - target), atol=1e-12)
    np.testing.assert_allclose(untied_error, np.linalg.norm(untied - target), atol=1e-12)

    bound = tied_heads.tied_error_bound(embedding, target)
    # F.15: inclusions, strict; F.16: a bound, sharp where the target comes through the embedding.
    assert (tied_error < 1e-12) == (name == "tied")
    assert (untied_error < 1e-12) == (name in ("tied", "untied"))
    assert tied_error >= bound - 1e-12
    assert (abs(tied_error - bound) < 1e-12) == (name in ("tied", "untied"))

    projector = np.asarray(tied_heads.output_projector(embedding))
    outside = np.eye(VOCABULARY) - projector
    missed_inputs = np.linalg.norm(projector @ target @ outside)
    np.testing.assert_allclose(tied_error**2, bound**2 + missed_inputs**2, atol=1e-12)
    cost = np.linalg.norm(outside @ target @ projector)
    np.testing.assert_allclose(tied_error**2 - untied_error**2, cost**2, atol=1e-12)


def test_kernels_and_images(embedding):
    """F.15 (3) and (4): both forget the null space of E; only tied maps stay in its row space."""
    projector = np.asarray(tied_heads.output_projector(embedding))
    np.testing.assert_allclose(projector @ np.asarray(embedding).T, embedding.T, atol=1e-13)
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-13)
    outside = np.eye(VOCABULARY) - projector
    target = normal(VOCABULARY, VOCABULARY, seed=4)
    tied = np.asarray(tied_heads.best_tied_map(embedding, target))
    untied = np.asarray(tied_heads.best_untied_map(embedding, target))
    np.testing.assert_allclose(tied @ outside, 0, atol=1e-13)
    np.testing.assert_allclose(untied @ outside, 0, atol=1e-13)
    np.testing.assert_allclose(outside @ tied, 0, atol=1e-13)
    assert np.linalg.norm(outside @ untied) > 0.1
    # Any output subspace of dimension <= d occurs: that of these columns, here.
    columns = normal(VOCABULARY, 2, seed=5)
    through = columns @ normal(2, WIDTH, seed=6) @ np.asarray(embedding)
    assert tied_heads.untied_error(embedding, through) < 1e-12
    assert np.linalg.matrix_rank(np.concatenate([columns, through], axis=1)) == 2


def test_tying_costs_nothing_on_the_cyclic_task_in_fourier_modes(x64):
    """The bound of F.16 is then as large as the error of an untied head."""
    phases = np.arange(VOCABULARY)
    angles = 2 * np.pi * phases / VOCABULARY
    embedding = jnp.asarray(np.stack([np.cos(angles), np.sin(angles), np.ones(VOCABULARY)]))
    target = np.roll(np.eye(VOCABULARY), 3, axis=1)
    errors = [
        error(embedding, target)
        for error in (tied_heads.tied_error, tied_heads.untied_error, tied_heads.tied_error_bound)
    ]
    np.testing.assert_allclose(errors, np.sqrt(VOCABULARY - 3), rtol=1e-12)


def test_width_that_an_embedding_of_ones_choice_needs(x64):
    """Where the embedding is free too, by constructing it, and by search where it is too narrow."""
    left, right = normal(2, VOCABULARY, 2, seed=7)
    target = jnp.asarray(left @ right.T)
    widths = [int(tied_heads.embedding_width(target, tied=tied)) for tied in (False, True)]
    assert widths == [2, 4]
    both = jnp.asarray(np.concatenate([left, right], axis=1).T)
    assert tied_heads.tied_error(both, target) < 1e-12
    assert tied_heads.untied_error(jnp.asarray(right.T), target) < 1e-12

    flip = np.array([[0.0, 1.0], [0.0, 0.0]])
    assert int(tied_heads.embedding_width(jnp.asarray(flip), tied=True)) == 2
    angles = np.linspace(0, np.pi, 1000)
    narrow = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None, :]
    misses = [np.linalg.norm(flip - e.T @ (e @ flip @ e.T) @ e) for e in narrow]
    np.testing.assert_allclose(min(misses) ** 2, 3 / 4, rtol=1e-5)

    shift = jnp.roll(jnp.eye(VOCABULARY), 3, axis=1)
    normal_map = shift + shift.T
    for task in (shift, normal_map):
        assert tied_heads.embedding_width(task, tied=True) == tied_heads.embedding_width(
            task, tied=False
        )
    assert tied_heads.embedding_width(normal_map, tied=True) == 6


WIDE = jnp.array([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: tied_heads.output_projector(jnp.ones((2, 3))), "full row rank 2"),
        (ValueError, lambda: tied_heads.output_projector(jnp.eye(3)[:, :2]), "full row rank 3"),
        (ValueError, lambda: tied_heads.output_projector(jnp.ones(3)), "embedding: .* matrix"),
        (TypeError, lambda: tied_heads.tied_error(WIDE.astype(int), jnp.eye(3)), "embedding: "),
        (ValueError, lambda: tied_heads.tied_error(WIDE, jnp.eye(2)), r"target: .*\(3, 3\)"),
        (ValueError, lambda: tied_heads.untied_error(WIDE, jnp.ones((3, 2))), "target: "),
        (ValueError, lambda: tied_heads.embedding_width(WIDE, tied=True), "target: "),
    ],
)
def test_bad_input(error, call, message):
    with pytest.raises(error, match=message):
        call()
