"""Attention scores of a sequence that is moved, with rotary and with absolute positions."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lnpjax.theory.fourier import shift_equivariance

TIME, WIDTH, HEAD, POSITIONS = 5, 7, 4, 20


@pytest.fixture
def attention(x64):
    rng = np.random.default_rng(0)
    inputs, query, key = (
        jnp.asarray(rng.normal(size=shape))
        for shape in ((TIME, WIDTH), (HEAD, WIDTH), (HEAD, WIDTH))
    )
    return inputs, query, key


def rotary(attention, base=100.0):
    scores = functools.partial(shift_equivariance.rotary_scores, *attention, base=base)
    return lambda first: scores(first_position=first)


def absolute(attention, table):
    scores = functools.partial(shift_equivariance.absolute_scores, *attention, table)
    return lambda first: scores(first_position=first)


def test_rotary_scores_are_those_of_a_representation(attention):
    """Equation 108 with ``R_t = exp(t A)``, A a dense antisymmetric matrix."""
    inputs, query, key = (np.asarray(array) for array in attention)
    frequencies = 100.0 ** (-np.arange(0, HEAD, 2) / HEAD)
    generator = scipy.linalg.block_diag(*([[0, -f], [f, 0]] for f in frequencies))
    rotations = [scipy.linalg.expm(t * generator) for t in range(3, 3 + TIME)]
    queries = [r @ query @ x for r, x in zip(rotations, inputs, strict=True)]
    keys = [r @ key @ x for r, x in zip(rotations, inputs, strict=True)]
    scores = rotary(attention)(3)
    np.testing.assert_allclose(scores, np.array(queries) @ np.array(keys).T, atol=1e-12)
    # Positions do matter: without them the scores are others.
    assert np.max(abs(scores - (inputs @ query.T) @ (inputs @ key.T).T)) > 0.1


@pytest.mark.parametrize("shift", [1, 13])
def test_rotary_scores_do_not_see_a_shift(attention, shift):
    """F.13; and F.14, the same check of an absolute table, which fails it."""
    defect = shift_equivariance.shift_defect(rotary(attention), shift)
    np.testing.assert_allclose(defect, 0, atol=1e-12)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(POSITIONS, WIDTH)))
    defect = shift_equivariance.shift_defect(absolute(attention, table), shift)
    assert np.min(abs(defect)) > 1e-3
    change = shift_equivariance.absolute_shift_change(*attention, table, shift)
    np.testing.assert_allclose(change, defect, atol=1e-12)


def table_in(subspace, seed=2):
    """Positions that vary inside the span of some columns, around a mean of their own."""
    rng = np.random.default_rng(seed)
    varying = rng.normal(size=(POSITIONS, subspace.shape[1])) @ subspace.T
    return jnp.asarray(varying + rng.normal(size=WIDTH))


def test_a_table_that_no_projection_sees_breaks_nothing(attention):
    """F.14 in the other direction: constant, if not zero, after both projections is enough."""
    inputs, query, key = attention
    query, key = query[:3], key[:3]
    table = table_in(scipy.linalg.null_space(np.concatenate([query, key])))
    for weight in (query, key):
        survivors = shift_equivariance.surviving_positions(table, weight)
        np.testing.assert_allclose(survivors, 0, atol=1e-12)
        assert np.max(abs(table @ weight.T)) > 0.1
    defect = shift_equivariance.shift_defect(absolute((inputs, query, key), table), 4)
    np.testing.assert_allclose(defect, 0, atol=1e-12)


def test_one_projection_that_sees_the_table_is_enough(attention):
    _, query, key = attention
    table = table_in(scipy.linalg.null_space(query))
    survivors = shift_equivariance.surviving_positions(table, query)
    np.testing.assert_allclose(survivors, 0, atol=1e-12)
    assert np.max(abs(shift_equivariance.surviving_positions(table, key))) > 0.1
    assert np.max(abs(shift_equivariance.shift_defect(absolute(attention, table), 4))) > 0.1


def test_full_row_rank_is_needed(attention):
    """Queries and keys in orthogonal subspaces of the head: positions survive and do no harm."""
    inputs, query, key = attention
    query, key = query.at[2:].set(0), key.at[:2].set(0)
    table = jnp.asarray(np.random.default_rng(3).normal(size=(POSITIONS, WIDTH)))
    assert np.max(abs(shift_equivariance.surviving_positions(table, query))) > 0.1
    defect = shift_equivariance.shift_defect(absolute((inputs, query, key), table), 4)
    np.testing.assert_allclose(defect, 0, atol=1e-12)


ONES = jnp.ones((2, 2))


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (
            ValueError,
            lambda: shift_equivariance.rotary_scores(ONES, ONES, jnp.ones((3, 2))),
            "query",
        ),
        (
            ValueError,
            lambda: shift_equivariance.rotary_scores(ONES, jnp.ones((3, 2)), jnp.ones((3, 2))),
            "even head width",
        ),
        (
            ValueError,
            lambda: shift_equivariance.rotary_scores(ONES, ONES, ONES, first_position=-1),
            "first_position",
        ),
        (
            ValueError,
            lambda: shift_equivariance.absolute_scores(ONES, ONES, ONES, ONES, first_position=1),
            "table: expected at least 3 positions",
        ),
        (TypeError, lambda: shift_equivariance.absolute_scores(ONES, ONES, ONES, 1), "table"),
        (ValueError, lambda: shift_equivariance.shift_defect(lambda _: ONES, -1), "shift: "),
        (
            ValueError,
            lambda: shift_equivariance.surviving_positions(ONES, jnp.ones((2, 3))),
            "weight: expected rows of width 2",
        ),
    ],
)
def test_bad_input(error, call, message):
    with pytest.raises(error, match=message):
        call()
