from __future__ import annotations

import math

import numpy as np
import pytest

from lnpjax.runs import exponential_moving_average


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0])
def test_exponential_moving_average_of_a_step_is_a_geometric_series(factor):
    """From 0 to 1 at t = 3: y_t = (1 - q^(t-2)) / (1 - q^(t+1)), q = 1 - factor."""
    t = np.arange(10)
    q = 1 - factor
    expected = np.where(t < 3, 0, (1 - q ** np.maximum(t - 2, 0)) / (1 - q ** (t + 1.0)))
    averages = exponential_moving_average((t >= 3).astype(float), factor)
    np.testing.assert_allclose(averages, expected, rtol=1e-12)


def test_exponential_moving_average_gives_no_weight_to_what_is_unknown():
    known = exponential_moving_average(np.array([4.0, math.nan, 4.0]), 0.3)
    np.testing.assert_allclose(known, 4.0)
    assert np.isnan(exponential_moving_average(np.array([math.nan, 1.0]), 0.3)[0])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="factor: expected"):
        exponential_moving_average(np.ones(2), 0.0)
    with pytest.raises(ValueError, match="values: expected one dimension"):
        exponential_moving_average(np.ones((2, 2)))
