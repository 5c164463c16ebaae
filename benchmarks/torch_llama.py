"""The Llama of `lnpjax.models` in PyTorch, for measuring the same network with other packages.

Every parameter belongs to a plain layer (`nn.Embedding`, `nn.Linear`, `nn.RMSNorm`), which is what
packages that hook layers need.
"""

from __future__ import annotations

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lnpjax.parameters import paths


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads, self.width = (
            config.num_heads,
            config.kv_heads,
            config.head_width,
        )
        self.query = nn.Linear(config.hidden_size, self.heads * self.width, bias=False)
        self.key = nn.Linear(config.hidden_size, self.kv_heads * self.width, bias=False)
        self.value = nn.Linear(config.hidden_size, self.kv_heads * self.width, bias=False)
        self.output = nn.Linear(self.heads * self.width, config.hidden_size, bias=False)

    def forward(self, x, angles):
        def split(projected, heads):
            return projected.unflatten(-1, (heads, self.width)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            rotate_halves(split(self.query(x), self.heads), angles),
            rotate_halves(split(self.key(x), self.kv_heads), angles),
            split(self.value(x), self.kv_heads),
            is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x, angles):
        x = x + self.attention(self.attention_norm(x), angles)
        return x + self.feed_forward(self.feed_forward_norm(x))


class TorchLlama(nn.Module):
    """An untied `lnpjax.models.Llama` of the same config; `load` fills it with the same weights."""

    def __init__(self, config):
        if config.tie_embeddings or config.rope_interleaved:
            raise ValueError(
                "config: expected tie_embeddings=False and rope_interleaved=False, got "
                f"{config.tie_embeddings} and {config.rope_interleaved}"
            )
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        steps = torch.arange(0, config.head_width, 2) / config.head_width
        positions = torch.arange(config.max_seq_len, dtype=torch.float32)
        # A plain attribute: a buffer would be one more thing for hooks to stumble over.
        self.angles = torch.outer(positions, config.rope_base**-steps)

    def forward(self, tokens):
        x, angles = self.embedding(tokens), self.angles[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, angles)
        return self.head(self.norm(x))


def rotate_halves(x, angles):
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def load(config, params):
    """A `TorchLlama` with the weights of `params` (as `lnpjax.from_nnx` gives them)."""
    model = TorchLlama(config)
    state = {}
    for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True):
        *owner, kind = path.split("/")
        array = np.asarray(leaf)
        state[".".join([*owner, "weight"])] = torch.tensor(array.T if kind == "kernel" else array)
    model.load_state_dict(state)
    return model


def cross_entropy(logits, targets):
    """The mean over all tokens."""
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
