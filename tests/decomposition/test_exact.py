"""`Exact` on a vision transformer with ten classes, against the dense Jacobian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from oracles import dense_jacobian, output_gradient

import lnpjax
from lnpjax.models import ViT, ViTConfig

CONFIG = ViTConfig(
    image_size=6, patch_size=2, num_channels=1, num_classes=10, num_layers=1, hidden_size=12,
    intermediate_size=24, num_heads=2, param_dtype="float64", dtype="float64",
)  # fmt: skip


def cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@pytest.mark.usefixtures("x64")
def test_a_vision_transformer_is_measured_as_by_its_dense_jacobian():
    apply_fn, params = lnpjax.from_nnx(nnx.jit(lambda: ViT(CONFIG, rngs=nnx.Rngs(0)))())
    keys = jax.random.split(jax.random.key(1), 4)
    rng = np.random.default_rng(0)  # no bias is zero, no gain one
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    images = jax.random.normal(keys[1], (3, 6, 6, 1))
    labels = jax.random.randint(keys[2], (3,), 0, 10)
    blocks = dense_jacobian(apply_fn, params, images)
    norms = np.array([np.sum(block**2) for block in blocks])
    measure = lnpjax.lnp(
        apply_fn, cross_entropy, estimator=lnpjax.Exact(), groups=lambda path: path
    )
    out = jax.jit(measure)(params, (images, labels))
    scales = norms / len(images)  # of equation 24, with the same batch twice
    by_path = dict(zip(lnpjax.parameters.paths(params), scales, strict=True))
    assert out.groups.keys() == by_path.keys()
    for path, group in out.groups.items():
        rounding = 1e-14 * scales.sum()  # of a key's bias, which changes no output
        np.testing.assert_allclose(
            group.chi_net, by_path[path], rtol=1e-10, atol=rounding, err_msg=path
        )
    np.testing.assert_allclose(out.chi_net, scales.sum(), rtol=1e-10)
    signals = output_gradient(apply_fn, cross_entropy, params, images, labels)
    delta = sum(np.sum((np.asarray(signals) @ block) ** 2) for block in blocks)
    expected = delta / (norms.sum() * np.sum(np.asarray(signals) ** 2))
    np.testing.assert_allclose(out.chi_pos, expected, rtol=1e-9)
    assert 0 <= float(out.chi_pos) <= 1
    assert float(out.chi_pos_sem) == 0
