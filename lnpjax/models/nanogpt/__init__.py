"""nanoGPT with the sixteen changes of *Spectral Lens* as flags."""

from lnpjax.models.nanogpt.config import AttentionWindow, NanoGPTConfig
from lnpjax.models.nanogpt.head import fp8_matmul
from lnpjax.models.nanogpt.model import NanoGPT, WindowedTokens
from lnpjax.models.nanogpt.recipes import (
    NanoGPTRecipe,
    Rates,
    nanogpt_groups,
    nanogpt_optimizer,
    nanogpt_recipe,
)
from lnpjax.models.nanogpt.variants import (
    LSWA_ADAM,
    NANOGPT_SIZES,
    NANOGPT_VARIANTS,
    NanoGPTSize,
    nanogpt_variant,
)

__all__ = [
    "NanoGPT",
    "NanoGPTConfig",
    "AttentionWindow",
    "WindowedTokens",
    "fp8_matmul",
    # the chain
    "nanogpt_variant",
    "NANOGPT_VARIANTS",
    "LSWA_ADAM",
    "NanoGPTSize",
    "NANOGPT_SIZES",
    # and how it is trained
    "nanogpt_recipe",
    "NanoGPTRecipe",
    "Rates",
    "nanogpt_groups",
    "nanogpt_optimizer",
]
