"""The eigenvalue density against the explicit kernel, within the errors that it states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from lnpjax import effective_rank, entk
from lnpjax.spectra import inverse_participation_ratio, spectral_density


def exact_eigenvalues(case):
    kernel = jax.jit(lambda p: entk(case.apply_fn, p, case.batch_a[0]))(case.params)
    return jnp.linalg.eigvalsh(kernel)[::-1]


def compiled_density(case, num_matvecs=12, num_probes=100):
    @jax.jit
    def density(seed):
        return spectral_density(
            case.apply_fn,
            case.params,
            case.batch_a[0],
            num_matvecs=num_matvecs,
            num_probes=num_probes,
            key=jax.random.key(seed),
        )

    return density


def density_of(case, **options):
    return compiled_density(case, **options)(0)


@pytest.mark.parametrize("name", ["tied_embeddings", "raw_parameters"])
def test_summaries_agree_within_their_errors(x64, name):
    case = zoo.build(name)
    eigenvalues = exact_eigenvalues(case)
    density = density_of(case)
    for exact, (value, error) in (
        (jnp.sum(eigenvalues), density.trace),
        (effective_rank(eigenvalues), density.effective_rank),
        (inverse_participation_ratio(eigenvalues), density.inverse_participation_ratio),
    ):
        assert 0 < error < 0.1 * exact
        assert abs(value - exact) < 4 * error
        assert abs(1.5 * value - exact) > 4 * error, "the check must be able to fail"


def test_errors_are_those_of_repetition(x64):
    """Standard errors against the spread over independent repetitions."""
    case = zoo.build("tied_embeddings")
    density = compiled_density(case, num_probes=6)
    found = [density(seed).trace for seed in range(40)]
    values, errors = np.array(found).T
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), values.std(ddof=1), rtol=0.35)
    spread = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - float(jnp.sum(exact_eigenvalues(case)))) < 4 * spread


def test_counts_per_bin(x64):
    case = zoo.build("mlp")
    eigenvalues = exact_eigenvalues(case)
    density = density_of(case, num_matvecs=12, num_probes=64)
    edges = jnp.array([0.0, 0.05, 1.0, 5.0, 1e3]) * eigenvalues[3]
    counts, errors = density.counts(edges)
    exact, _ = np.histogram(np.maximum(eigenvalues, 0), edges)
    np.testing.assert_allclose(jnp.sum(counts), len(eigenvalues), rtol=1e-6)
    assert np.all(np.abs(counts - exact) <= 4 * errors + 1e-6)
    assert int(density.dimension) == len(eigenvalues)


def test_chosen_outputs(x64):
    case = zoo.build("mlp")

    @jax.jit
    def both(params, key):
        arguments, options = (case.apply_fn, params, case.batch_a[0]), {"outputs": [1]}
        return entk(*arguments, **options), spectral_density(
            *arguments, num_matvecs=4, num_probes=4, key=key, **options
        )

    kernel, density = both(case.params, jax.random.key(0))
    value, error = density.trace
    assert abs(value - jnp.trace(kernel)) <= 4 * error + 1e-9
    assert density.nodes.shape == (4, 4)


def test_a_single_probe_is_refused():
    case = zoo.build("mlp")
    with pytest.raises(ValueError, match="num_probes: expected an integer >= 2, got 1"):
        density_of(case, num_probes=1)
    with pytest.raises(ValueError, match="num_matvecs: expected an integer from 1 to 12"):
        density_of(case, num_matvecs=20)
    with pytest.raises(ValueError, match="num_matvecs: expected an integer >= 2, got 1"):
        density_of(case, num_matvecs=1)
