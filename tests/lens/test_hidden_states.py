"""Hidden states by name, captured from NNX and Linen modules, against forward passes by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax.lens import activation_spectra, linen_hidden_states, nnx_hidden_states
from lnpjax.models import Llama, LlamaConfig

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def llama(**options):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_layers=2,
        num_heads=2,
        max_seq_len=16,
        **options,
    )
    return nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)))()


TOKENS = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)


def test_blocks_of_a_llama():
    """The residual stream after each block, and the normalised one that is read out."""
    model = llama()
    hidden_states, params = nnx_hidden_states(model)
    out = jax.jit(hidden_states)(params, TOKENS)
    assert list(out) == ["layers/0", "layers/1", "norm"]
    last = np.asarray(out["layers/1"])
    normalised = last / np.sqrt(np.mean(last**2, axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out["norm"], normalised, rtol=1e-5, atol=1e-6)
    logits = nnx.jit(lambda model, tokens: model(tokens))(model, TOKENS)
    np.testing.assert_allclose(normalised @ model.head.kernel[...], logits, rtol=1e-4, atol=1e-6)


def test_blocks_of_a_tied_llama():
    """The embedding, which reads out as well, is no block."""
    hidden_states, params = nnx_hidden_states(llama(tie_embeddings=True))
    assert hidden_states.names(params, TOKENS) == ("layers/0", "layers/1", "norm")
    assert "embedding/attend" in hidden_states.all_names(params, TOKENS)


def test_layers_by_name_and_in_the_order_of_depth():
    layers = ["norm", "layers/0/attention/query", "embedding"]
    hidden_states, params = nnx_hidden_states(llama(), layers)
    assert hidden_states.names(params, TOKENS) == tuple(layers)
    out = jax.eval_shape(hidden_states, params, TOKENS)
    assert {value.shape for value in out.values()} == {(2, 5, 8)}
    every = hidden_states.all_names(params, TOKENS)
    assert {"__call__", "head", "layers/1/feed_forward/gate"} <= set(every)
    ordered = ("embedding", "layers/0/attention/query", "layers/0", "layers/1", "norm", "head")
    places = [every.index(name) for name in ordered]
    assert places == sorted(places)


def test_unknown_layers_are_refused_with_those_there_are():
    hidden_states, params = nnx_hidden_states(llama(), ["layers/2"])
    with pytest.raises(ValueError, match=r"^layers: .*'layers/0'.*'norm'.* got \['layers/2'\]"):
        hidden_states(params, TOKENS)
    with pytest.raises(ValueError, match=r"^layers: expected a sequence of names, got 'norm'"):
        nnx_hidden_states(llama(), "norm")
    with pytest.raises(TypeError, match=r"^module: expected a flax.nnx.Module .* got Dense"):
        nnx_hidden_states(nn.Dense(3))
    with pytest.raises(TypeError, match=r"^module: expected a flax.linen.Module .* got Llama"):
        linen_hidden_states(llama(), {})
    with pytest.raises(ValueError, match=r"^variables: expected a collection 'params'"):
        linen_hidden_states(nn.Dense(3), {"batch_stats": {}})


def test_what_nobody_asks_for_is_not_computed():
    """The compiled program of the first block is less than half of the model."""

    def flops(layers):
        hidden_states, params = nnx_hidden_states(llama(), layers)
        return jax.jit(hidden_states).lower(params, TOKENS).compile().cost_analysis()["flops"]

    assert flops(["layers/0"]) < 0.5 * flops(["head"])


def test_nnx_hidden_states_do_not_follow_the_module():
    class Network(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.head(self.norm(x))

    module, x = Network(), np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    module.eval()
    hidden_states, params = nnx_hidden_states(module)
    before = hidden_states(params, x)["norm"]
    module.norm.mean[...] = jnp.full(3, 7.0)
    module.norm.scale[...] = jnp.full(3, 2.0)
    np.testing.assert_array_equal(hidden_states(params, x)["norm"], before)
    assert np.max(np.abs(module.norm(x) - before)) > 1  # the control


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


class Shared(nnx.Module):
    """One block twice; what is no array with features; a value that the user sows."""

    def __init__(self, rngs):
        self.block = Block(rngs)
        self.count = Count()
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for _ in range(2):
            x = self.block(x)
        self.sow(nnx.Intermediate, "doubled", 2 * x)
        number, _ = self.count(x)
        return self.head(x * number / number)


class Count(nnx.Module):
    def __call__(self, x):
        return x.shape[0], x


def test_a_layer_used_twice_has_two_outputs():
    model = Shared(nnx.Rngs(0))
    hidden_states, params = nnx_hidden_states(model)
    out = jax.jit(hidden_states)(params, X)
    assert list(out) == ["block/0", "block/1"]
    first = model.block(X)
    np.testing.assert_allclose(out["block/0"], first, rtol=1e-6)
    np.testing.assert_allclose(out["block/1"], model.block(first), rtol=1e-6)
    hidden_states, _ = nnx_hidden_states(model, ["doubled", "__call__"])
    both = hidden_states(params, X)
    np.testing.assert_allclose(both["doubled"], 2 * out["block/1"], rtol=1e-6)
    np.testing.assert_allclose(both["__call__"], model(X), rtol=1e-6)
    assert "count" not in "".join(hidden_states.all_names(params, X))


def test_parameters_are_those_that_are_given():
    model = Shared(nnx.Rngs(0))
    hidden_states, params = nnx_hidden_states(model)
    zero = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(hidden_states(zero, X)["block/1"], X)
    assert np.any(model.block(X) != X)
    assert not hasattr(model, "__captures__")


class Scanned(nnx.Module):
    def __init__(self, rngs):
        create = nnx.vmap(Block, in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=3)(create)(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(scan(x, self.blocks))


@pytest.mark.parametrize("num_samples", [2, 3])
def test_layers_of_a_scan_are_taken_apart(num_samples):
    """Also where there are as many samples as layers."""
    x = X[:num_samples]
    model = Scanned(nnx.Rngs(0))
    hidden_states, params = nnx_hidden_states(model)
    out = jax.jit(hidden_states)(params, x)
    assert list(out) == ["blocks/0", "blocks/1", "blocks/2"]
    for index in range(3):
        kernel, bias = (params["blocks"]["linear"][name][...][index] for name in ("kernel", "bias"))
        x = x + jnp.tanh(x @ kernel + bias)
        np.testing.assert_allclose(out[f"blocks/{index}"], x, rtol=1e-5)


class Positions(nnx.Module):
    """A table with a leading axis of one, and blocks that take batches of even size only."""

    def __init__(self, rngs):
        self.table = Table()
        self.block = Block(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        halves = self.block((x + self.table()).reshape(2, -1, *x.shape[1:]))
        return self.head(halves.reshape(x.shape))


class Table(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((1, 5, 4)))

    def __call__(self):
        return self.kernel[...]


def test_tables_are_no_layers_and_batches_stay_divisible():
    hidden_states, params = nnx_hidden_states(Positions(nnx.Rngs(0)))
    every = hidden_states.all_names(params, jnp.ones((2, 5, 4)))
    assert not [name for name in every if "table" in name]
    assert {"head", "__call__"} <= set(every)


class OneSize(nnx.Module):
    def __init__(self, rngs):
        self.block = Block(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        if len(x) != 3:
            raise RuntimeError("three samples, please")
        return self.head(self.block(x))


def test_a_model_that_takes_one_batch_size_only():
    hidden_states, params = nnx_hidden_states(OneSize(nnx.Rngs(0)))
    out = jax.jit(activation_spectra(hidden_states, head=(1, 2), tail=(1, 2)))(params, (X, None))
    assert list(out) == ["block"]
    assert out["block"].trace > 0


def test_a_module_without_parts_needs_names():
    hidden_states, params = nnx_hidden_states(nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"^layers: expected layers named|^layers: .*'__call__'"):
        hidden_states(params, X)
    hidden_states, params = nnx_hidden_states(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), ["__call__"])
    assert hidden_states(params, X)["__call__"].shape == (3, 2)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(3, (2, 2))(images)
        x = nn.BatchNorm(use_running_average=not train)(x)
        shared = nn.Dense(5, name="shared")
        x = nn.tanh(shared(nn.tanh(nn.Dense(5)(x))))
        return nn.Dense(2)(shared(x).mean((1, 2)))


def test_linen():
    module, images = LinenNet(), jnp.ones((2, 4, 4, 1))
    variables = module.init(jax.random.key(0), images)
    hidden_states, params = linen_hidden_states(module, variables, train=False)
    assert params is variables["params"]
    out = jax.jit(hidden_states)(params, images)
    names = ("Conv_0", "BatchNorm_0", "Dense_0", "shared/0", "shared/1")
    assert hidden_states.names(params, images) == names
    assert set(out) == set(names)
    assert out["Conv_0"].shape == (2, 4, 4, 3)
    read_out = out["shared/1"].mean((1, 2)) @ params["Dense_1"]["kernel"]
    outputs = module.apply(variables, images)
    np.testing.assert_allclose(read_out + params["Dense_1"]["bias"], outputs, rtol=1e-5, atol=1e-6)

    moved = {**variables, "batch_stats": jax.tree.map(lambda v: v + 1, variables["batch_stats"])}
    assert np.any(jax.jit(hidden_states)(moved, images)["BatchNorm_0"] != out["BatchNorm_0"])
    hidden_states, _ = linen_hidden_states(module, variables, ["Dense_7"])
    with pytest.raises(ValueError, match=r"^layers: .*'Conv_0'.* got \['Dense_7'\]"):
        hidden_states(params, images)


def test_linen_embeddings_are_no_blocks():
    module = nn.Sequential([nn.Embed(11, 4), nn.Dense(3), nn.Dense(2)])
    variables = module.init(jax.random.key(0), TOKENS)
    hidden_states, params = linen_hidden_states(module, variables)
    assert hidden_states.names(params, TOKENS) == ("layers_1",)
    assert "layers_0" in hidden_states.all_names(params, TOKENS)


def test_spectra_of_a_llama():
    hidden_states, params = nnx_hidden_states(llama(), ["norm"])
    measure = activation_spectra(hidden_states, head=(1, 5))
    out = jax.jit(measure)(params, (TOKENS, None))
    hidden = jax.jit(hidden_states)(params, TOKENS)["norm"]
    rows = np.asarray(hidden, np.float64).reshape(-1, 8)
    trace = np.trace(np.cov(rows, rowvar=False))
    assert float(out["norm"].trace) == pytest.approx(trace, rel=1e-5)
    assert 1 < out["norm"].rank_me < 8
