"""Flax NNX models of the papers, with their published sizes as presets."""

from lnpjax.models.llama import (
    CIFAR5M_PRESETS,
    SIMPLESTORIES_PRESETS,
    TINY_PRESETS,
    Llama,
    LlamaConfig,
    generate_greedy,
    preset,
)

__all__ = [
    "CIFAR5M_PRESETS",
    "SIMPLESTORIES_PRESETS",
    "TINY_PRESETS",
    "Llama",
    "LlamaConfig",
    "generate_greedy",
    "preset",
]
