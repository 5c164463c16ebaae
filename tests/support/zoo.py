"""Small models of every kind that a measurement must get right, exact in float64."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import lnpjax


@dataclasses.dataclass
class Case:
    apply_fn: Callable
    loss_fn: Callable
    params: Any
    batch_a: tuple
    batch_b: tuple
    wrt: Any = None
    selected: list[bool] | None = None


def mean_squared_error(outputs, targets):
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=tuple(range(1, outputs.ndim))))


def cross_entropy(outputs, targets):
    log_probabilities = jax.nn.log_softmax(outputs)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1))


def _keys(seed, n):
    return jax.random.split(jax.random.key(seed), n)


# In jit, since each random number of a new shape would be a program of its own.


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _vectors(seed, num_samples, d_in, d_out):
    k1, k2 = _keys(seed, 2)
    return jax.random.normal(k1, (num_samples, d_in)), jax.random.normal(k2, (num_samples, d_out))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _tokens(seed, num_samples, length, vocab):
    ids = jax.random.randint(jax.random.key(seed), (num_samples, length + 1), 0, vocab)
    return ids[:, :-1], ids[:, 1:]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _dense(key, d_in, d_out):
    k1, k2 = jax.random.split(key)
    return {
        "kernel": jax.random.normal(k1, (d_in, d_out)) / jnp.sqrt(d_in),
        "bias": 0.1 * jax.random.normal(k2, (d_out,)),
    }


def _affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def mlp(sizes=(5, 7, 3), batch_sizes=(4, 6)):
    keys = _keys(0, len(sizes))
    params = {
        f"layer{i}": _dense(keys[i], a, b) for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }

    def apply_fn(params, x):
        for i in range(len(sizes) - 1):
            x = _affine(params[f"layer{i}"], x)
            x = jnp.tanh(x) if i < len(sizes) - 2 else x
        return x

    batches = [_vectors(i + 1, n, sizes[0], sizes[-1]) for i, n in enumerate(batch_sizes)]
    return Case(apply_fn, mean_squared_error, params, *batches)


def one_sample():
    return mlp(batch_sizes=(1, 1))


def one_output():
    """Outputs of shape (B,): one number per sample."""
    case = mlp(sizes=(5, 6, 1))

    def loss_fn(outputs, targets):
        return jnp.mean((outputs - targets[:, 0]) ** 2)

    return dataclasses.replace(
        case, apply_fn=lambda p, x: case.apply_fn(p, x)[:, 0], loss_fn=loss_fn
    )


def frozen_subset():
    case = mlp()
    return dataclasses.replace(case, wrt="layer1", selected=[False, False, True, True])


def frozen_by_mask():
    case = mlp()
    wrt = {"layer0": {"kernel": True, "bias": False}, "layer1": False}
    return dataclasses.replace(case, wrt=wrt, selected=[False, True, False, False])


def layer_used_twice():
    keys = _keys(3, 3)
    params = {
        "in": _dense(keys[0], 4, 6),
        "shared": _dense(keys[1], 6, 6),
        "out": _dense(keys[2], 6, 2),
    }

    def apply_fn(params, x):
        x = jnp.tanh(_affine(params["in"], x))
        x = jnp.tanh(_affine(params["shared"], x))
        x = jnp.tanh(_affine(params["shared"], x))
        return _affine(params["out"], x)

    return Case(apply_fn, mean_squared_error, params, _vectors(4, 4, 4, 2), _vectors(5, 3, 4, 2))


def raw_parameters():
    """Bare arrays that no layer owns: a gain, an additive position table, a temperature."""
    keys = _keys(6, 3)
    params = (
        jax.random.normal(keys[0], (5, 3)),
        jax.random.normal(keys[1], (4, 3)),
        jnp.asarray(0.7),
    )

    def apply_fn(params, x):
        weights, positions, temperature = params
        return jnp.tanh(x @ weights + positions) / temperature

    k1, k2 = _keys(7, 2)
    batches = [
        (jax.random.normal(k, (n, 4, 5)), jax.random.normal(k, (n, 4, 3)))
        for k, n in ((k1, 3), (k2, 5))
    ]
    return Case(apply_fn, mean_squared_error, params, *batches)


def tied_embeddings():
    """One table embeds the tokens and reads them out."""
    keys = _keys(8, 2)
    params = {"table": jax.random.normal(keys[0], (11, 4)), "mix": _dense(keys[1], 4, 4)}

    def apply_fn(params, tokens):
        h = params["table"][tokens]
        h = h + jnp.tanh(_affine(params["mix"], jnp.cumsum(h, axis=1)))
        return h @ params["table"].T

    return Case(apply_fn, cross_entropy, params, _tokens(9, 4, 5, 11), _tokens(10, 3, 5, 11))


def scan_over_layers():
    keys = _keys(11, 3)
    stacked = jax.vmap(lambda k: _dense(k, 5, 5))(jax.random.split(keys[0], 3))
    params = {"layers": stacked, "out": _dense(keys[1], 5, 2)}

    def apply_fn(params, x):
        x, _ = jax.lax.scan(
            lambda h, layer: (h + jnp.tanh(_affine(layer, h)), None), x, params["layers"]
        )
        return _affine(params["out"], x)

    return Case(apply_fn, mean_squared_error, params, _vectors(12, 4, 5, 2), _vectors(13, 6, 5, 2))


def rematerialised_scan():
    case = scan_over_layers()

    def apply_fn(params, x):
        @jax.checkpoint
        def block(h, layer):
            return h + jnp.tanh(_affine(layer, h)), None

        x, _ = jax.lax.scan(block, x, params["layers"])
        return _affine(params["out"], x)

    return dataclasses.replace(case, apply_fn=apply_fn)


class _ConvNet(nn.Module):
    train: bool = False
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), param_dtype=x.dtype)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not self.train, param_dtype=x.dtype)(x)
        else:
            x = nn.GroupNorm(2, param_dtype=x.dtype)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = nn.Conv(3, (2, 2), param_dtype=x.dtype)(x).mean(axis=(1, 2))
        return nn.Dense(3, param_dtype=x.dtype)(nn.LayerNorm(param_dtype=x.dtype)(jnp.tanh(x)))


@functools.partial(jax.jit, static_argnums=1)
def _images(seed, n):
    k1, k2 = _keys(seed, 2)
    return jax.random.normal(k1, (n, 6, 6, 2)), jax.random.randint(k2, (n,), 0, 3)


def _convnet(**options):
    module = _ConvNet(**options)
    batch_a, batch_b = _images(14, 4), _images(15, 3)
    variables = jax.jit(module.init)(jax.random.key(16), batch_a[0])
    apply_fn, params = lnpjax.from_linen(module, variables)
    return Case(apply_fn, cross_entropy, params, batch_a, batch_b)


def convolution_and_norm():
    return _convnet()


def batch_norm_inference():
    return _convnet(batch_norm=True)


def batch_norm_training():
    """Samples interact: not part of MODELS."""
    module = _ConvNet(batch_norm=True, train=True)
    case = _convnet(batch_norm=True)
    variables = jax.jit(module.init)(jax.random.key(16), case.batch_a[0])

    def apply_fn(params, x):
        variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
        return module.apply(variables_now, x, mutable=["batch_stats"])[0]

    return dataclasses.replace(case, apply_fn=apply_fn)


def llama(**changes):
    from flax import nnx

    from lnpjax.models.llama import Llama, LlamaConfig

    dtype = jnp.zeros(()).dtype
    options = {
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
        "max_seq_len": 8,
        "dtype": dtype,
        "param_dtype": dtype,
    } | changes
    module = nnx.jit(lambda: Llama(LlamaConfig(**options), rngs=nnx.Rngs(17)))()
    apply_fn, params = lnpjax.from_nnx(module)
    params = jax.tree.map(lambda p: 5 * p if p.ndim == 2 else p, params)  # away from f = 0
    return Case(apply_fn, cross_entropy, params, _tokens(18, 3, 5, 11), _tokens(19, 4, 5, 11))


def llama_tied():
    return llama(tie_embeddings=True)


def inputs_pytree():
    """Inputs that are a dict of arrays, one of them of integers."""
    keys = _keys(20, 2)
    params = {"table": jax.random.normal(keys[0], (5, 3)), "w": jax.random.normal(keys[1], (4, 3))}

    def apply_fn(params, inputs):
        return jnp.tanh(params["table"][inputs["kind"]] + inputs["x"] @ params["w"])

    def batch(seed, n):
        x, y = _vectors(seed, n, 4, 3)
        return {"x": x, "kind": jax.random.randint(jax.random.key(seed), (n,), 0, 5)}, y

    return Case(apply_fn, mean_squared_error, params, batch(21, 4), batch(22, 2))


def custom_vjp():
    """A fused operation with a reverse rule and no forward rule."""

    @jax.custom_vjp
    def fused(x, w):
        return jnp.tanh(x @ w)

    def forward(x, w):
        y = fused(x, w)
        return y, (x, w, y)

    def backward(residuals, dy):
        x, w, y = residuals
        dz = dy * (1 - y**2)
        return dz @ w.T, x.T @ dz

    fused.defvjp(forward, backward)
    keys = _keys(23, 2)
    params = {"w": jax.random.normal(keys[0], (4, 5)), "out": _dense(keys[1], 5, 2)}

    def apply_fn(params, x):
        return _affine(params["out"], fused(x, params["w"]))

    return Case(apply_fn, mean_squared_error, params, _vectors(24, 3, 4, 2), _vectors(25, 4, 4, 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Adapted:
    """A model that is its own parameters and can be called, as Equinox has them."""

    base: Any
    down: Any
    up: Any

    def __call__(self, x):
        return jnp.tanh(x @ (self.base + self.down @ self.up))


def adapters_on_integers():
    """Low-rank adapters on a frozen int8 base; what is trained is said by a callable pytree."""
    keys = _keys(33, 3)
    params = Adapted(
        jax.random.randint(keys[0], (5, 3), -2, 3, jnp.int8),
        jax.random.normal(keys[1], (5, 2)),
        jax.random.normal(keys[2], (2, 3)),
    )
    return Case(
        lambda model, x: model(x),
        mean_squared_error,
        params,
        _vectors(34, 4, 5, 3),
        _vectors(35, 3, 5, 3),
        wrt=Adapted(base=False, down=True, up=True),
        selected=[False, True, True],
    )


def python_numbers():
    """Parameters that are not arrays yet."""
    case = mlp()
    params = {"layer": case.params["layer0"], "scale": 0.7, "shift": 0.1}

    def apply_fn(params, x):
        return params["scale"] * jnp.tanh(_affine(params["layer"], x)) + params["shift"]

    batches = [_vectors(36 + i, n, 5, 7) for i, n in enumerate((4, 6))]
    return Case(apply_fn, mean_squared_error, params, *batches)


def live_dropout(*, train=True):
    """Samples interact: a mask drawn over the batch. Not part of MODELS."""
    from flax import nnx

    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 16, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x):
            return self.second(self.dropout(jnp.tanh(self.first(x))))

    module = Dropped(nnx.Rngs(26))
    if not train:
        module.eval()
    apply_fn, params = lnpjax.from_nnx(module)
    batches = [_vectors(27 + i, n, 5, 3) for i, n in enumerate((6, 4))]
    return Case(apply_fn, mean_squared_error, params, *batches)


def _dropped(x):
    """Half of the entries, by a mask that is drawn over the batch."""
    return jnp.where(jax.random.bernoulli(jax.random.key(40), 0.5, x.shape), 2 * x, 0)


def zero_head():
    """Samples interact, but every output is zero. Not part of MODELS."""
    params = {"body": jax.random.normal(jax.random.key(41), (5, 8)), "head": jnp.zeros((8, 3))}

    def apply_fn(params, x):
        return _dropped(jnp.tanh(x @ params["body"])) @ params["head"]

    return Case(apply_fn, mean_squared_error, params, _vectors(42, 6, 5, 3), _vectors(43, 4, 5, 3))


def zero_adapter():
    """Samples interact behind an adapter that adds zero to a frozen base. Not part of MODELS."""
    keys = _keys(44, 2)
    params = {
        "base": jax.random.normal(keys[0], (5, 3)),
        "down": jax.random.normal(keys[1], (5, 2)),
        "up": jnp.zeros((2, 3)),
    }

    def apply_fn(params, x):
        return x @ params["base"] + _dropped(x) @ params["down"] @ params["up"]

    batches = _vectors(45, 6, 5, 3), _vectors(46, 4, 5, 3)
    return Case(apply_fn, mean_squared_error, params, *batches, wrt=("down", "up"))


def zero_branch():
    """Samples interact in a residual branch whose scale is zero. Not part of MODELS."""
    keys = _keys(47, 2)
    params = {
        "skip": jax.random.normal(keys[0], (5, 3)),
        "branch": jax.random.normal(keys[1], (5, 3)),
        "scale": jnp.zeros(3),
    }

    def apply_fn(params, x):
        h = x @ params["branch"]
        h = (h - jnp.mean(h, axis=0)) / jnp.sqrt(jnp.var(h, axis=0) + 1e-5)
        return x @ params["skip"] + h * params["scale"]

    return Case(apply_fn, mean_squared_error, params, _vectors(48, 6, 5, 3), _vectors(49, 4, 5, 3))


def masked_logit():
    """Samples interact in the shadow of one huge output. Not part of MODELS."""
    case = zero_head()
    params = case.params | {"head": jax.random.normal(jax.random.key(50), (8, 3))}

    def apply_fn(params, x):
        return jnp.where(jnp.array([True, True, False]), case.apply_fn(params, x), -1e9)

    batches = [(x, (x[:, 0] > 0).astype(int)) for x, _ in (case.batch_a, case.batch_b)]
    return Case(apply_fn, cross_entropy, params, *batches)


def large_bias():
    """Samples interact by less than is lost in the rounding of a bias. Not part of MODELS."""
    case = zero_head()
    params = case.params | {"head": 1e-2 * jnp.ones((8, 3)), "bias": jnp.full(3, 273.0)}

    def apply_fn(params, x):
        return case.apply_fn(params, x) + params["bias"]

    return dataclasses.replace(case, apply_fn=apply_fn, params=params)


def fixed_capacity(capacity=8):
    """Samples interact only in a batch that fills an expert. Not part of MODELS."""
    params = {"experts": jax.random.normal(jax.random.key(51), (2, 5, 3))}

    def apply_fn(params, x):
        route = jax.nn.one_hot((x[:, 0] > 0).astype(int), 2, dtype=x.dtype)
        route = jnp.where(jnp.cumsum(route, axis=0) <= capacity, route, 0)
        return jnp.einsum("be,bi,eio->bo", route, x, params["experts"])

    return Case(apply_fn, mean_squared_error, params, _vectors(52, 32, 5, 3), _vectors(53, 4, 5, 3))


def size_of_batch():
    """Outputs are scaled by the size of the batch, behind a head of zeros. Not part of MODELS."""
    case = zero_head()

    def apply_fn(params, x):
        return len(x) * jnp.tanh(x @ params["body"]) @ params["head"]

    return dataclasses.replace(case, apply_fn=apply_fn)


def ignores_inputs():
    """Every sample has the same outputs."""
    keys = _keys(56, 2)
    params = {"mix": jax.random.normal(keys[0], (3, 3)), "bias": jax.random.normal(keys[1], (3,))}

    def apply_fn(params, x):
        return jnp.broadcast_to(jnp.tanh(params["bias"] @ params["mix"]), (len(x), 3))

    return Case(apply_fn, mean_squared_error, params, _vectors(54, 4, 5, 3), _vectors(55, 3, 5, 3))


def routed_experts(*, capacity_factor=None, num_samples=16, num_experts=4):
    """Top-1 routing of single tokens; a full expert drops what comes late. Not part of MODELS.

    The capacity of an expert is ``ceil(capacity_factor * batch / num_experts)``, as usual; `None`
    lifts it.
    """
    keys = _keys(29, 3)
    params = {
        "router": jax.random.normal(keys[0], (5, num_experts)),
        "experts": jax.random.normal(keys[1], (num_experts, 5, 3)),
    }

    def apply_fn(params, x):
        gates = jax.nn.softmax(x @ params["router"])
        chosen = jax.nn.one_hot(jnp.argmax(gates, axis=-1), num_experts, dtype=x.dtype)
        if capacity_factor is not None:
            capacity = math.ceil(capacity_factor * len(x) / num_experts)
            chosen = jnp.where(jnp.cumsum(chosen, axis=0) <= capacity, chosen, 0)
        return jnp.einsum("be,bi,eio->bo", gates * chosen, x, params["experts"])

    batches = [_vectors(30 + i, n, 5, 3) for i, n in enumerate((num_samples, 4))]
    return Case(apply_fn, mean_squared_error, params, *batches)


MODELS = {
    builder.__name__: builder
    for builder in (
        mlp,
        one_sample,
        one_output,
        frozen_subset,
        frozen_by_mask,
        layer_used_twice,
        raw_parameters,
        tied_embeddings,
        scan_over_layers,
        rematerialised_scan,
        convolution_and_norm,
        batch_norm_inference,
        inputs_pytree,
        ignores_inputs,
        custom_vjp,
        adapters_on_integers,
        python_numbers,
        llama,
        llama_tied,
    )
}


def build(name):
    """A model of MODELS, made once for each precision."""
    return _build(name, jax.config.jax_enable_x64)


@functools.cache
def _build(name, x64):
    return MODELS[name]()
