"""The Llama: published sizes, an independent float64 forward pass, and what sampling relies on."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax.models import (
    CIFAR5M_PRESETS,
    SIMPLESTORIES_PRESETS,
    TINY_PRESETS,
    Llama,
    LlamaConfig,
    RopeScaling,
    generate_greedy,
    preset,
    split_llama,
)
from lnpjax.models.rotary import rotary_angles, rotate_pairs

SMALL = LlamaConfig(
    vocab_size=13,
    hidden_size=24,
    intermediate_size=20,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    max_seq_len=16,
)


@functools.cache
def small_model(**changes):
    config = dataclasses.replace(SMALL, **changes)
    model = nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)))()
    # Large weights and uneven gains: at initialisation every block is close to the identity.
    structure, state = nnx.split(model)
    leaves, treedef = jax.tree.flatten(state)

    @jax.jit
    def with_noise(leaves):
        keys = jax.random.split(jax.random.key(1), len(leaves))
        return [
            x + 0.4 * jax.random.normal(k, x.shape, x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]

    return nnx.merge(structure, jax.tree.unflatten(treedef, with_noise(leaves)))


logits = nnx.jit(lambda model, tokens: model(tokens))


def random_tokens(batch=3, time=9, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, time), 0, SMALL.vocab_size)


def count(config):
    abstract = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(abstract)))


def as_printed(number, name):
    """Round to the unit and the number of decimals of a printed count such as 102.6K."""
    digits, unit = name[:-1], name[-1]
    decimals = len(digits.partition(".")[2])
    return f"{number / {'K': 1e3, 'M': 1e6}[unit]:.{decimals}f}{unit}"


# Table 2 must have counted 255 tokens.
AS_COUNTED = {name: {"vocab_size": 255} for name in CIFAR5M_PRESETS}


@pytest.mark.parametrize("name", [*SIMPLESTORIES_PRESETS, *CIFAR5M_PRESETS])
def test_published_count_is_met_to_the_printed_digit(name):
    counted = dataclasses.replace(preset(name), **AS_COUNTED.get(name, {}))
    assert as_printed(counted.num_parameters, name) == name
    assert count(counted) == counted.num_parameters
    assert count(preset(name)) == preset(name).num_parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("229.7K", 229_824),
        ("381.4K", 381_600),
        ("12.5M", 12_545_664),
        ("115K", 115_008),
    ],
)
def test_presets_that_print_does_not_pin_down_have_their_exact_count(name, parameters):
    assert preset(name).num_parameters == parameters


def test_presets_keep_the_papers_context_and_vocabulary():
    assert {(c.vocab_size, c.max_seq_len) for c in SIMPLESTORIES_PRESETS.values()} == {(4096, 512)}
    assert {(c.vocab_size, c.max_seq_len) for c in CIFAR5M_PRESETS.values()} == {(256, 1024)}
    families = [TINY_PRESETS, SIMPLESTORIES_PRESETS, CIFAR5M_PRESETS]
    assert len({name for family in families for name in family}) == sum(map(len, families))


def test_unknown_preset_names_every_known_one():
    with pytest.raises(ValueError, match=r"name: expected one of .*115K.*12\.5M.*134M, got '7B'"):
        preset("7B")


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_kv_heads": None}, {"tie_embeddings": True}, {"head_dim": 6, "num_kv_heads": 3}],
)
def test_closed_form_counts_what_the_module_holds(changes):
    config = dataclasses.replace(SMALL, **changes)
    assert count(config) == config.num_parameters


def numpy_logits(model, tokens):
    """Llama's forward pass from its equations, position by position and head by head."""
    config = model.config
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(model)))
    width, group = config.head_width, config.num_heads // config.kv_heads

    def norm(x, gain):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * gain["scale"]

    def rotate(vector, position):
        turned = np.empty(width)
        for i in range(width // 2):
            a, b = (2 * i, 2 * i + 1) if config.rope_interleaved else (i, i + width // 2)
            angle = position * config.rope_base ** (-2 * i / width)
            turned[a] = vector[a] * np.cos(angle) - vector[b] * np.sin(angle)
            turned[b] = vector[a] * np.sin(angle) + vector[b] * np.cos(angle)
        return turned

    def attention(x, weights):
        query, key, value = (x @ weights[n]["kernel"] for n in ("query", "key", "value"))
        mixed = np.zeros_like(query)
        for head in range(config.num_heads):
            own = slice(head * width, (head + 1) * width)
            shared = slice(head // group * width, (head // group + 1) * width)
            keys = [rotate(k, s) for s, k in enumerate(key[:, shared])]
            for t in range(len(x)):
                scores = np.array(keys[: t + 1]) @ rotate(query[t, own], t) / np.sqrt(width)
                odds = np.exp(scores - scores.max())
                mixed[t, own] = odds / odds.sum() @ value[: t + 1, shared]
        return mixed @ weights["output"]["kernel"]

    def feed_forward(x, weights):
        gate = x @ weights["gate"]["kernel"]
        up = x @ weights["up"]["kernel"]
        return (gate / (1 + np.exp(-gate)) * up) @ weights["down"]["kernel"]

    table = p["embedding"]["embedding"]
    read_out = table.T if config.tie_embeddings else p["head"]["kernel"]
    rows = []
    for row in np.asarray(tokens):
        x = table[row]
        for block in p["layers"].values():
            x = x + attention(norm(x, block["attention_norm"]), block["attention"])
            x = x + feed_forward(norm(x, block["feed_forward_norm"]), block["feed_forward"])
        rows.append(norm(x, p["norm"]) @ read_out)
    return np.array(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_interleaved": True},
        {"tie_embeddings": True, "rope_base": 100.0},
        {"num_kv_heads": 6, "head_dim": 6, "norm_eps": 0.1},
    ],
)
def test_agrees_with_an_independent_float64_forward_pass(changes):
    model, tokens = small_model(**changes), random_tokens()
    expected = numpy_logits(model, tokens)
    assert np.ptp(expected) > 1.0
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits(model, tokens), expected, rtol=1e-5, atol=tolerance)


def test_rotation_depends_on_relative_position_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 8))
    angles = rotary_angles(20, 8, base=10.0, dtype=jnp.float32)
    turned = [rotate_pairs(jnp.tile(x, (20, 1)), angles, interleaved=False) for x in (query, key)]
    products = np.asarray(turned[0] @ turned[1].T)
    for lag in (0, 3, 7):
        np.testing.assert_allclose(np.diag(products, lag), products[0, lag], atol=1e-5)
    assert abs(products[0, 3] - products[0, 0]) > 1e-2


def test_later_tokens_do_not_change_earlier_logits():
    model, tokens = small_model(), random_tokens()
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % SMALL.vocab_size)
    before, after = logits(model, tokens), logits(model, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.abs(before - after)[:, 5:].max(axis=-1) > 1e-3)


def test_tied_embeddings_are_one_parameter():
    tied, untied = (nnx.state(small_model(tie_embeddings=t)) for t in (True, False))
    assert set(tied) == {"embedding", "layers", "norm"}
    assert set(untied) == {"embedding", "layers", "norm", "head"}
    assert all(isinstance(leaf, nnx.Param) for leaf in jax.tree.leaves(untied, is_leaf=is_variable))


def is_variable(x):
    return isinstance(x, nnx.Variable)


def test_logits_are_the_head_of_hidden():
    model, tokens = small_model(), random_tokens()
    hidden = model.hidden(tokens)
    assert hidden.shape == (3, 9, SMALL.hidden_size)
    np.testing.assert_array_equal(model.head(hidden), model(tokens))


def functional(model):
    structure, state = nnx.split(model)
    return (lambda params, tokens: nnx.merge(structure, params)(tokens)), state


def test_split_and_merge_round_trip():
    model, tokens = small_model(), random_tokens()
    apply, params = functional(model)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), params)
    np.testing.assert_array_equal(jax.jit(apply)(params, tokens), logits(model, tokens))


def test_samples_do_not_see_each_other():
    apply, params = functional(small_model())
    tokens = random_tokens()
    alone = jax.jit(jax.vmap(lambda row: apply(params, row[None])[0]))(tokens)
    np.testing.assert_allclose(alone, jax.jit(apply)(params, tokens), atol=1e-5)


def test_per_sample_pullbacks_add_up_to_the_batch_pullback():
    apply, params = functional(small_model(num_layers=1))
    tokens = random_tokens()
    cotangents = jax.random.normal(jax.random.key(2), (3, 9, SMALL.vocab_size))

    @jax.jit
    def pullback(tokens, cotangents):
        _, vjp = jax.vjp(lambda p: apply(p, tokens), params)
        return vjp(cotangents)[0]

    per_sample = jax.vmap(pullback)(tokens[:, None], cotangents[:, None])
    jax.tree.map(
        lambda rows, whole: np.testing.assert_allclose(rows.sum(0), whole, rtol=1e-4, atol=1e-4),
        per_sample,
        pullback(tokens, cotangents),
    )


def test_runs_inside_scan():
    apply, params = functional(small_model())
    tokens = random_tokens()
    _, scanned = jax.lax.scan(lambda p, row: (p, apply(p, row[None])[0]), params, tokens)
    np.testing.assert_allclose(scanned, jax.jit(apply)(params, tokens), atol=1e-5)


def test_initial_scales():
    config = dataclasses.replace(preset("115K"), num_layers=8)
    block = nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)).layers[3])()
    for matrix, std in [
        (block.attention.query, 0.02),
        (block.feed_forward.up, 0.02),
        (block.attention.output, 0.005),
        (block.feed_forward.down, 0.005),
    ]:
        assert float(jnp.std(matrix.kernel[...])) == pytest.approx(std, rel=0.1)
    np.testing.assert_array_equal(block.attention_norm.scale[...], 1.0)


def test_compute_and_parameter_dtypes_are_honoured():
    model = small_model(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    rounded, exact = logits(model, random_tokens()), logits(small_model(), random_tokens())
    assert rounded.dtype == jnp.bfloat16
    error = jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 0.05
    config = dataclasses.replace(SMALL, param_dtype="bfloat16")
    stored = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(stored))} == {jnp.dtype("bfloat16")}


def test_float64_reaches_the_oracle():
    with jax.enable_x64(True):
        model = small_model(dtype="float64", param_dtype="float64")
        tokens = random_tokens()
        expected = numpy_logits(model, tokens)
        np.testing.assert_allclose(logits(model, tokens), expected, rtol=1e-10)


def test_config_is_json_however_the_dtype_is_spelled():
    spelled = [dataclasses.replace(SMALL, dtype=d) for d in ("bfloat16", jnp.bfloat16)]
    assert spelled[0] == spelled[1]
    assert hash(spelled[0]) == hash(spelled[1])
    assert LlamaConfig(**json.loads(json.dumps(dataclasses.asdict(spelled[1])))) == spelled[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: expected an integer >= 1, got 0"),
        ({"num_layers": 2.0}, "num_layers: expected an integer >= 1, got 2.0"),
        ({"max_seq_len": True}, "max_seq_len: expected an integer >= 1, got True"),
        ({"num_kv_heads": 0}, "num_kv_heads: expected an integer >= 1, got 0"),
        ({"num_heads": 5, "num_kv_heads": 5}, "num_heads: expected a divisor of hidden_size=24"),
        ({"num_kv_heads": 4}, "num_kv_heads: expected a divisor of num_heads=6, got 4"),
        ({"num_heads": 8, "num_kv_heads": 8}, "head_dim: expected an even width of a head"),
        ({"rope_base": 0.0}, "rope_base: expected a number > 0"),
        ({"norm_eps": -1e-5}, "norm_eps: expected a number > 0"),
        ({"dtype": "int32"}, "^dtype: expected a floating dtype"),
        ({"param_dtype": "float31"}, "param_dtype: expected a floating dtype .* got 'float31'"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(4, int), r"tokens: expected shape \(batch, time\).*got shape \(4,\)"),
        (np.zeros((1, 4)), "tokens: expected integer ids, got float"),
        (np.zeros((1, 17), int), "tokens: expected at most max_seq_len=16 positions, got 17"),
    ],
)
def test_tokens_of_the_wrong_kind_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        small_model()(tokens)


def test_greedy_generation_picks_the_most_probable_token_every_time():
    model = small_model()
    prompt = random_tokens(batch=2, time=3)
    continued = generate_greedy(model, prompt, 5)
    np.testing.assert_array_equal(continued[:, :3], prompt)
    chosen = jnp.argmax(logits(model, continued), axis=-1)
    np.testing.assert_array_equal(continued[:, 3:], chosen[:, 2:-1])
    np.testing.assert_array_equal(generate_greedy(model, prompt, 0), prompt)


def test_greedy_generation_refuses_what_cannot_be():
    model = small_model()
    with pytest.raises(ValueError, match=r"num_tokens: expected 0 to 13 .* got 14"):
        generate_greedy(model, random_tokens(time=3), 14)
    with pytest.raises(ValueError, match="prompt: expected shape"):
        generate_greedy(model, jnp.zeros((1, 0), int), 1)


@pytest.mark.parametrize("outside", [-1, -100, SMALL.vocab_size])
def test_what_is_not_a_token_is_refused_or_gives_nan(outside):
    """JAX would take -1 for the last token of the vocabulary."""
    model, tokens = small_model(), random_tokens()
    bad = tokens.at[1, 0].set(outside)
    with pytest.raises(ValueError, match=r"^tokens: expected ids from 0 to 12, got "):
        model(bad)
    with pytest.raises(ValueError, match=r"^prompt: expected ids from 0 to 12, got "):
        generate_greedy(model, bad, 1)
    split, params = split_llama(model)
    with pytest.raises(ValueError, match=r"^inputs: expected ids from 0 to 12, got "):
        split(params, bad)
    assert np.all(np.isnan(jax.jit(split)(params, bad)[1]))
    found = np.asarray(logits(model, bad))
    assert np.all(np.isnan(found[1]))
    np.testing.assert_allclose(found[[0, 2]], logits(model, tokens)[np.array([0, 2])], rtol=1e-5)


def test_a_scaled_rope_is_kept_in_json():
    scaling = RopeScaling(
        kind="llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position=16,
    )
    config = dataclasses.replace(SMALL, rope_scaling=scaling)
    assert LlamaConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_llama3_scaling_keeps_fast_rotations_and_slows_slow_ones():
    scaling = RopeScaling(
        kind="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=3.0,
        original_max_position=100,
    )
    turns = np.array([5.0, 3.0, 2.0, 1.0, 0.5])  # in 100 positions
    frequencies = jnp.array(turns * 2 * np.pi / 100)
    kept = scaling(frequencies) / frequencies
    np.testing.assert_allclose(kept, [1, 1, (1 + 1 / 8) / 2, 1 / 8, 1 / 8], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "yarn"}, "kind: expected one of 'linear', 'llama3', got 'yarn'"),
        ({"factor": 0}, "factor: expected a number > 0, got 0"),
        ({"low_freq_factor": None}, "low_freq_factor: expected a number > 0, got None"),
        ({"high_freq_factor": 1.0}, "high_freq_factor: expected a number > low_freq_factor=1.0"),
        ({"original_max_position": 0.5}, "original_max_position: expected an integer >= 1"),
    ],
)
def test_scalings_that_cannot_be_are_refused(changes, message):
    good = {"kind": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    with pytest.raises(ValueError, match=f"^rope_scaling: {message}"):
        RopeScaling(**(good | {"original_max_position": 8} | changes))
