"""Weights of least-squares slopes, and what rounding leaves of a decomposition."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from lnpjax._base.numerics import rounding_floor, slope_weights


def test_slope_weights_fit_as_numpy_does():
    rng = np.random.default_rng(0)
    positions, values = np.log(np.arange(3.0, 20.0)), rng.normal(size=17)
    expected = np.polyfit(positions, values, 1)[0]
    np.testing.assert_allclose(values @ slope_weights(positions), expected, rtol=1e-12)


def test_an_eigensolver_errs_by_less_than_the_floor():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    spectrum = np.concatenate([np.geomspace(1e3, 1.0, 20), np.zeros(20)])
    matrix = jnp.asarray((basis * spectrum) @ basis.T, jnp.float32)
    eigenvalues = jnp.linalg.eigvalsh(matrix)
    floor = rounding_floor(eigenvalues[-1], len(matrix))
    assert jnp.sum(eigenvalues > floor) == 20
    assert jnp.all(jnp.abs(eigenvalues[:20]) < floor)
