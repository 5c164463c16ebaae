"""Flax NNX models of the papers, with their published sizes as presets, and those of others."""

from lnpjax.models.checkpoints import LoadedModel, load_checkpoint, save_checkpoint
from lnpjax.models.generation import generate_greedy
from lnpjax.models.gpt import GPT, GPTConfig
from lnpjax.models.language import split_language_model
from lnpjax.models.llama import Llama, LlamaConfig, split_llama
from lnpjax.models.maximal_update import MaximalUpdate, maximal_update
from lnpjax.models.nanogpt import (
    LSWA_ADAM,
    NANOGPT_SIZES,
    NANOGPT_VARIANTS,
    AttentionWindow,
    NanoGPT,
    NanoGPTConfig,
    NanoGPTRecipe,
    NanoGPTSize,
    Rates,
    WindowedTokens,
    fp8_matmul,
    nanogpt_groups,
    nanogpt_optimizer,
    nanogpt_recipe,
    nanogpt_variant,
)
from lnpjax.models.presets import (
    CIFAR5M_PRESETS,
    MUP_VIT_PRESETS,
    SIMPLESTORIES_PRESETS,
    TINY_PRESETS,
    VIT_PRESETS,
    preset,
)
from lnpjax.models.rotary import RopeScaling
from lnpjax.models.vision import MLP, ConvNet
from lnpjax.models.vit import ViT, ViTConfig

__all__ = [
    # language models
    "Llama",
    "LlamaConfig",
    "RopeScaling",
    "GPT",
    "GPTConfig",
    "generate_greedy",
    "split_language_model",
    "split_llama",
    # nanoGPT and its records
    "NanoGPT",
    "NanoGPTConfig",
    "AttentionWindow",
    "WindowedTokens",
    "fp8_matmul",
    "nanogpt_variant",
    "NANOGPT_VARIANTS",
    "LSWA_ADAM",
    "NanoGPTSize",
    "NANOGPT_SIZES",
    "nanogpt_recipe",
    "NanoGPTRecipe",
    "Rates",
    "nanogpt_groups",
    "nanogpt_optimizer",
    # the published sizes
    "preset",
    "TINY_PRESETS",
    "SIMPLESTORIES_PRESETS",
    "CIFAR5M_PRESETS",
    "VIT_PRESETS",
    "MUP_VIT_PRESETS",
    # networks for images
    "MLP",
    "ConvNet",
    "ViT",
    "ViTConfig",
    # parametrisation
    "maximal_update",
    "MaximalUpdate",
    # trained ones
    "load_checkpoint",
    "LoadedModel",
    "save_checkpoint",
]
