"""What the library measures of a nanoGPT, against dense Jacobians and numpy."""

import dataclasses
import functools

import jax
import numpy as np
import oracles
import pytest
from tiny_nanogpt import TINY, built

import lnpjax
from lnpjax._base.independence import keeps_samples_apart
from lnpjax.lens import (
    activation_spectra,
    attention_probes,
    gradient_spectra,
    nnx_hidden_states,
    normalized_states,
)
from lnpjax.models import WindowedTokens, nanogpt_variant
from lnpjax.pretraining.loss import cross_entropy

SMALL = dataclasses.replace(
    TINY,
    num_layers=4,
    hidden_size=8,
    vocab_size=5,
    context=4,
    long_context=8,
    last_window=4,
    chunk=4,
)


@functools.cache
def case(name):
    """Model, function, parameters, and two batches whose samples have windows of their own."""
    changes = {"dtype": "float64", "param_dtype": "float64", "fp8_gradient_scale": None}
    config = nanogpt_variant(name, SMALL, **changes)
    model = built(config)
    rng = np.random.default_rng(0)

    def batch(size):
        tokens = rng.integers(0, config.vocab_size, (size, config.max_seq_len + 1))
        window = 2 * rng.integers(1, 3, size)
        inputs = tokens[:, :-1]
        inputs = inputs if config.window is None else WindowedTokens(inputs, window)
        return inputs, tokens[:, 1:]

    apply_fn, params = lnpjax.from_nnx(model)
    return model, apply_fn, params, batch(3), batch(2)


@pytest.mark.parametrize("name", ["ValueMix", "AttnScale"])
def test_components_equal_the_dense_jacobian(x64, name):
    _, apply_fn, params, batch_a, batch_b = case(name)
    measure = lnpjax.lnp(apply_fn, cross_entropy, estimator=lnpjax.Exact())
    found = jax.jit(measure)(params, batch_a, batch_b, key=jax.random.key(0))
    expected = oracles.dense_lnp(apply_fn, cross_entropy, params, batch_a, batch_b)
    for component in ("delta_loss", "chi_loss", "chi_net", "chi_pos"):
        np.testing.assert_allclose(
            getattr(found, component), getattr(expected, component), rtol=1e-9, err_msg=component
        )
    # Eight bits round more than the loss gradient can do with, and are said to.
    is_rounded = name == "AttnScale"
    assert found.status == (lnpjax.Status.LOST_IN_ROUNDING if is_rounded else lnpjax.Status.OK)


@pytest.mark.parametrize("name", ["Untied", "FixedWin", "VTE", "LSWA", "AttnScale"])
def test_programs_show_that_samples_are_kept_apart(x64, name):
    """Else every measurement would have to compare gradients of the batch with those of samples."""
    _, apply_fn, params, (inputs, _), _ = case(name)
    assert keeps_samples_apart(apply_fn, params, inputs)


def test_spectra_equal_those_of_numpy(x64):
    model, apply_fn, params, batch, _ = case("AttnScale")
    hidden_states, _ = nnx_hidden_states(model)
    names = hidden_states.names(params, batch[0])
    layers = tuple(f"layers/{number}" for number in range(4))
    assert names == ("embedding_norm", "value_tables/0", *layers, "norm")
    states = normalized_states(hidden_states)
    found = jax.jit(activation_spectra(states, layers=["layers/3"]))(params, batch)["layers/3"]
    rows = np.asarray(jax.jit(states)(params, batch[0])["layers/3"]).reshape(-1, SMALL.hidden_size)
    expected = np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-9)

    probe = attention_probes(params)["output"]
    assert probe == "layers/3/attention/output/kernel"
    spectra = jax.jit(gradient_spectra(apply_fn, cross_entropy, weights=probe))(params, batch)

    def loss(params, inputs, targets):
        return cross_entropy(apply_fn(params, inputs), targets)

    gradient = jax.jit(jax.grad(loss))
    gradients = np.stack(
        [
            np.ravel(
                gradient(params, *jax.tree.map(lambda leaf, m=m: leaf[m : m + 1], batch))["layers"][
                    3
                ]["attention"]["output"]["kernel"][...]
            )
            for m in range(3)
        ]
    )
    expected = np.linalg.svd(gradients, compute_uv=False) ** 2
    np.testing.assert_allclose(spectra[probe].eigenvalues, expected, rtol=1e-8)
