"""The published sizes of the vision transformer, counted."""

from __future__ import annotations

import math

import jax
import pytest
from flax import nnx

from lnpjax.models import MUP_VIT_PRESETS, VIT_PRESETS, ViT

# Spectral Reach, Tables 3 and 4; 459.7K is printed for what has 459,562.
COUNTS = {"546.2K": 546_186, "1.8M": 1_803_850, "9.4M": 9_405_010}
MUP_COUNTS = {
    "459.7K": 459_562,
    "809.4K": 809_354,
    "1.8M": 1_803_850,
    "3.2M": 3_191_562,
    "7.1M": 7_146_634,
}


@pytest.mark.parametrize(
    ("presets", "counts"), [(VIT_PRESETS, COUNTS), (MUP_VIT_PRESETS, MUP_COUNTS)]
)
def test_published_sizes(presets, counts):
    assert {name: config.num_parameters for name, config in presets.items()} == counts
    for config in presets.values():
        model = nnx.eval_shape(lambda config=config: ViT(config, rngs=nnx.Rngs(0)))
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert sum(math.prod(leaf.shape) for leaf in leaves) == config.num_parameters


def test_heads_of_the_mup_sizes_are_all_of_one_width():
    assert {c.hidden_size // c.num_heads for c in MUP_VIT_PRESETS.values()} == {32}
