"""What the checks of arguments refuse, and what they let pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax._base.checks import check_ascending, check_count, check_values


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(6)])
def test_whole_numbers_from_the_least_on_are_counts(value):
    check_count("count", value, least=2)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, jnp.ones(())])
def test_everything_else_is_not_a_count(value):
    with pytest.raises(ValueError, match=r"^count: expected an integer >= 1, got "):
        check_count("count", value)


def test_only_an_optional_count_may_be_missing():
    check_count("count", None, optional=True)
    with pytest.raises(ValueError, match=r"^count: expected an integer >= 1, got None"):
        check_count("count", None)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([jnp.nan], {}),
        ([jnp.inf], {}),
        ([-jnp.inf], {}),
        ([-1e-9], {"least": 0.0}),
        ([0.0], {"above": 0.0}),
    ],
)
def test_values_out_of_range_are_shown(values, bounds):
    with pytest.raises(ValueError, match=r"^x: expected good ones, got \["):
        check_values("x", jnp.array([1.0, *values]), expected="good ones", **bounds)


def test_values_at_the_least_pass_and_so_does_what_is_not_known():
    check_values("x", jnp.array([0.0, 1.0]), expected="numbers >= 0", least=0.0)
    check_values("x", 2.0, expected="numbers > 0", above=0.0)

    @jax.jit
    def traced(x):
        check_values("x", x, expected="numbers > 0", above=0.0)
        check_ascending("x", x, of="numbers")
        return x

    traced(jnp.array([0.0, -1.0]))


@pytest.mark.parametrize("values", [[1.0, 1.0], [2.0, 1.0], [1.0, jnp.inf], [1.0, jnp.nan]])
def test_what_does_not_ascend_is_refused(values):
    with pytest.raises(ValueError, match=r"^times: expected finite, strictly ascending numbers"):
        check_ascending("times", jnp.array(values), of="times")


def test_lengths_and_signs_of_ascending_numbers():
    check_ascending("times", jnp.array([-1.0, 0.0]), of="times")
    with pytest.raises(ValueError, match=r"^edges: expected positive, .* got \[-1"):
        check_ascending("edges", jnp.array([-1.0, 1.0]), of="edges", positive=True)
    for wrong in (jnp.ones(1), jnp.ones((2, 2)), jnp.ones(())):
        with pytest.raises(ValueError, match=r"^times: expected a vector of at least 2 times"):
            check_ascending("times", wrong, of="times")
