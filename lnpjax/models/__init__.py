"""Flax NNX models of the papers, with their published sizes as presets."""

from lnpjax.models.generation import generate_greedy
from lnpjax.models.llama import Llama, LlamaConfig, split_llama
from lnpjax.models.presets import CIFAR5M_PRESETS, SIMPLESTORIES_PRESETS, TINY_PRESETS, preset
from lnpjax.models.vision import MLP, ConvNet

__all__ = [
    "CIFAR5M_PRESETS",
    "MLP",
    "SIMPLESTORIES_PRESETS",
    "TINY_PRESETS",
    "ConvNet",
    "Llama",
    "LlamaConfig",
    "generate_greedy",
    "preset",
    "split_llama",
]
