"""The networks of the golden kernels, in plain jax: they run on the jax of neural-tangents' day.

Each is `apply_fn(params, inputs) -> outputs` with `params` a flat dict of arrays, and a function
that draws parameters and two batches of inputs with numpy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class GoldenModel:
    apply_fn: Callable
    shapes: dict[str, tuple[int, ...]]
    draw_inputs: Callable
    num_samples: tuple[int, int]

    def draw(self, rng):
        """Parameters of unit fan-in variance, and two batches of inputs."""
        params = {
            name: rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
            for name, shape in self.shapes.items()
        }
        return params, *(self.draw_inputs(rng, n) for n in self.num_samples)


def mlp(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def cnn(params, images):
    def convolve(x, kernel, stride):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    h = jax.nn.softplus(convolve(images, params["conv1"], 1) + params["bias1"])
    h = jnp.tanh(convolve(h, params["conv2"], 2))
    return h.mean(axis=(1, 2)) @ params["readout"]


def layer_used_twice(params, x):
    h = jnp.tanh(x @ params["in"])
    for _ in range(2):
        h = jnp.tanh(h @ params["shared"] + params["bias"])
    return h @ params["out"]


def tied_embeddings(params, tokens):
    h = params["table"][tokens]
    h = h + jnp.tanh(jnp.cumsum(h, axis=1) @ params["mix"])
    return h @ params["table"].T


def transformer(params, tokens):
    """One causal block as in Llama: rotary positions, RMSNorm with gains, SwiGLU, untied head."""
    num_heads = 2

    def rms_norm(x, gain):
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * gain

    def rotate(x):
        length, half = x.shape[1], x.shape[-1] // 2
        angles = jnp.arange(length)[:, None] * 100.0 ** (-jnp.arange(half) / half)
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def attend(x):
        shape = (*x.shape[:2], num_heads, -1)
        q, k, v = (jnp.reshape(x @ params[name], shape) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ params["attention_out"]

    h = params["embed"][tokens]
    h = h + attend(rms_norm(h, params["gain1"]))
    x = rms_norm(h, params["gain2"])
    h = h + (jax.nn.silu(x @ params["gate"]) * (x @ params["up"])) @ params["down"]
    return rms_norm(h, params["gain3"]) @ params["head"]


def _normal(*shape):
    return lambda rng, n: rng.normal(size=(n, *shape))


def _tokens(length, vocabulary):
    return lambda rng, n: rng.integers(0, vocabulary, size=(n, length))


MODELS = {
    "mlp": GoldenModel(
        mlp, {"w1": (4, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)}, _normal(4), (5, 7)
    ),
    "cnn": GoldenModel(
        cnn,
        {"conv1": (3, 3, 2, 3), "bias1": (3,), "conv2": (2, 2, 3, 4), "readout": (4, 3)},
        _normal(5, 5, 2),
        (4, 5),
    ),
    "layer_used_twice": GoldenModel(
        layer_used_twice,
        {"in": (4, 5), "shared": (5, 5), "bias": (5,), "out": (5, 2)},
        _normal(4),
        (6, 4),
    ),
    "tied_embeddings": GoldenModel(
        tied_embeddings, {"table": (4, 3), "mix": (3, 3)}, _tokens(3, 4), (2, 3)
    ),
    "transformer": GoldenModel(
        transformer,
        {
            "embed": (4, 8),
            "query": (8, 8),
            "key": (8, 8),
            "value": (8, 8),
            "attention_out": (8, 8),
            "gate": (8, 6),
            "up": (8, 6),
            "down": (6, 8),
            "gain1": (8,),
            "gain2": (8,),
            "gain3": (8,),
            "head": (8, 4),
        },
        _tokens(3, 4),
        (2, 3),
    ),
}
