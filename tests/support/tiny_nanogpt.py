"""A nanoGPT that is as small as all its variants allow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lnpjax.models.nanogpt import NanoGPT, NanoGPTSize

TINY = NanoGPTSize(
    num_layers=6,
    num_heads=2,
    hidden_size=8,
    vocab_size=11,
    context=8,
    long_context=16,
    fixed_window=4,
    first_window=2,
    last_window=6,
    block=2,
    chunk=8,
    document_token=3,
)


def built(config):
    """A model with random parameters, made by numpy: no compilation."""
    structure, state = nnx.split(nnx.eval_shape(lambda: NanoGPT(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    state = jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), state)
    return nnx.merge(structure, state)
