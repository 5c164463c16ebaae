"""Hugging Face folders: logits of `transformers`, shards, names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoints
from tiny_checkpoints import CONFIGS, GPT2, LLAMA, NEOX, golden, inputs, write_folder

import lnpjax
from lnpjax.models import load_checkpoint, save_checkpoint
from lnpjax.models.checkpoints.huggingface import ARCHITECTURES
from lnpjax.models.checkpoints.safetensors import describe_safetensors, write_safetensors

CHECKPOINTS = ("glassllm-en", "gpt-nano-sort", "llama-rope-scaled-random", "neox-random")


def logits(model, x):
    return np.asarray(jax.jit(model.apply_fn)(model.params, jnp.asarray(x)))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(tmp_path, name):
    write_folder(tmp_path, name)
    model = load_checkpoint(tmp_path)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == model.config.num_parameters
    expected = np.array(golden()[name]["logits"])
    np.testing.assert_allclose(logits(model, inputs(CONFIGS[name])), expected, atol=1e-5)


def test_another_activation_would_be_seen(tmp_path):
    write_folder(tmp_path, "gpt2", activation_function="gelu")
    found = logits(load_checkpoint(tmp_path), inputs(GPT2))
    assert np.abs(found - np.array(golden()["gpt2"]["logits"])).max() > 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_itself_computes_the_same(tmp_path, name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from golden.make_golden_checkpoints import logits_of_folder

    write_folder(tmp_path / "theirs", name)
    model = load_checkpoint(tmp_path / "theirs")
    save_checkpoint(tmp_path / "ours", model.module)
    x = inputs(CONFIGS[name])
    for folder in ("theirs", "ours"):
        np.testing.assert_allclose(
            logits(model, x), logits_of_folder(tmp_path / folder, x), atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama_llama3_rope", "gpt2", "neox", "vit"])
def test_a_saved_model_is_read_back(tmp_path, name):
    tensors = write_folder(tmp_path / "theirs", name)
    model = load_checkpoint(tmp_path / "theirs")
    save_checkpoint(tmp_path / "ours", model.module)
    again = load_checkpoint(tmp_path / "ours")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    stored = describe_safetensors(tmp_path / "ours" / "model.safetensors")
    assert set(stored) == set(tensors)
    for key, array in tensors.items():
        np.testing.assert_array_equal(stored[key].read(), array)


def shard(folder: Path, count: int = 3) -> None:
    """Spread the tensors of a folder over several files with an index."""
    whole = folder / "model.safetensors"
    tensors = {name: np.array(t.read()) for name, t in describe_safetensors(whole).items()}
    whole.unlink()
    places = {}
    for i in range(count):
        names = list(tensors)[i::count]
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in names})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def same_parameters(model, other):
    jax.tree.map(np.testing.assert_array_equal, model.params, other.params)


def test_shards_are_one_model(tmp_path):
    write_folder(tmp_path, "neox")
    model = load_checkpoint(tmp_path)
    shard(tmp_path)
    same_parameters(load_checkpoint(tmp_path), model)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003.*: expected a shard"):
        load_checkpoint(tmp_path)


def rewrite(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = {name: np.array(t.read()) for name, t in describe_safetensors(file).items()}
    write_safetensors(file, change(tensors))


def test_names_without_prefix_buffers_and_tied_heads_are_understood(tmp_path):
    """The first GPT-2 on the hub has no prefix, and masks among its tensors."""
    write_folder(tmp_path, "gpt2")
    model = load_checkpoint(tmp_path)

    def change(tensors):
        bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
        masks = {"h.0.attn.bias": np.ones((1, 1, 6, 6)), "h.1.attn.masked_bias": np.ones(())}
        return bare | masks | {"lm_head.weight": bare["wte.weight"]}

    rewrite(tmp_path, change)
    same_parameters(load_checkpoint(tmp_path), model)
    rewrite(tmp_path, lambda t: t | {"lm_head.weight": t["lm_head.weight"] + 1})
    with pytest.raises(ValueError, match=r"lm_head.weight: expected the embedding, to which"):
        load_checkpoint(tmp_path)


def test_older_spellings_of_a_configuration(tmp_path):
    write_folder(tmp_path, "llama_llama3_rope")
    model = load_checkpoint(tmp_path)
    rope = dict(tiny_checkpoints.LLAMA3)
    older = LLAMA | {"head_dim": 8, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    del older["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert load_checkpoint(tmp_path).config == model.config
    write_folder(tmp_path / "neox", "neox")
    (tmp_path / "neox" / "config.json").write_text(
        json.dumps(
            {k: v for k, v in NEOX.items() if not k.startswith("rotary")}
            | {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 100.0}}
        )
    )
    config = load_checkpoint(tmp_path / "neox").config
    assert (config.rotary_width, config.rope_base) == (4, 100.0)


def test_numbers_of_other_precisions_become_the_dtype_that_is_asked_for(tmp_path):
    write_folder(tmp_path, "gpt2")
    rewrite(tmp_path, lambda t: {name: x.astype(jnp.bfloat16) for name, x in t.items()})
    wide, narrow = load_checkpoint(tmp_path), load_checkpoint(tmp_path, dtype="bfloat16")
    for model, dtype in ((wide, "float32"), (narrow, "bfloat16")):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)} == {dtype}
    jax.tree.map(np.testing.assert_array_equal, narrow.params, wide.params)
    assert narrow.config.dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"^dtype: expected a floating dtype"):
        load_checkpoint(tmp_path, dtype="int8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, "architectures: expected one of LlamaFor.*got .'BertM"),
        ({"architectures": 3}, "architectures: expected one of LlamaFor.*got 3"),
        ({"hidden_size": "16"}, "hidden_size: expected an integer >= 1, got '16'"),
        ({"vocab_size": None}, "vocab_size: expected an integer >= 1, got None"),
        ({"num_attention_heads": 5}, "num_heads: expected a divisor"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number > 0, got nan"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', since the model"),
        ({"attention_bias": True}, "attention_bias: expected False"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, got 'no'"),
        ({"rope_scaling": {"type": "dynamic"}}, "type: expected one of 'default', 'linear', 'lla"),
        ({"rope_scaling": 3}, "rope_scaling: expected an object, got 3"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor: expected a number > 0, got None"),
    ],
)
def test_configurations_that_cannot_be_are_refused(tmp_path, changes, message):
    write_folder(tmp_path, "llama", **changes)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**30},
        {"num_hidden_layers": 10**12},
        {"intermediate_size": 2**62},
        {"head_dim": 10**20},
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path, changes):
    write_folder(tmp_path, "llama", **changes)
    with pytest.raises(ValueError, match=r"expected at least the [\d,]+ numbers .* got 2,992"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"x.weight": np.ones(2)},
            "expected the tensors of Llama.*got also x.weight",
        ),
        (
            lambda t: {n: x for n, x in t.items() if n != "model.norm.weight"} | {"y": np.ones(16)},
            "expected the tensor model.norm.weight among 21, got .* .1 of LlamaFor.* are missing",
        ),
        (
            lambda t: t | {"lm_head.weight": t["lm_head.weight"].T},
            r"lm_head.weight: expected shape \(7, 16\), as the conf.*, got shape \(16, 7\)",
        ),
    ],
)
def test_other_tensors_than_the_configuration_says_are_refused(tmp_path, change, message):
    write_folder(tmp_path, "llama")
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_folders_without_a_model_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^source: expected a folder with config.json .*"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"which has none of config.json, model.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(FileNotFoundError, match=r"expected the weights, model.safetensors or pyt"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config.json: expected a JSON object"):
        load_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match=r"^source: expected a folder .*got .*notes.txt"):
        load_checkpoint(tmp_path / "notes.txt")


def test_shards_stay_in_the_folder(tmp_path):
    write_folder(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": "../../etc/passwd"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"expected names of files next to it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["gpt2_untied", "neox", "vit"])
def test_blocks_and_groups_have_the_names_of_our_own(tmp_path, name):
    write_folder(tmp_path, name)
    model, x = load_checkpoint(tmp_path), inputs(CONFIGS[name])
    hidden_states, params = lnpjax.lens.nnx_hidden_states(model.module)
    blocks = hidden_states.names(params, x)
    assert [block for block in blocks if block != "patches"] == ["layers/0", "layers/1", "norm"]
    groups = {lnpjax.by_depth(1)(path) for path in lnpjax.parameters.paths(model.params)}
    outer = {
        "gpt2_untied": {"embedding", "positions", "head"},
        "neox": {"embedding", "head"},
        "vit": {"patches", "class_token", "positions", "head"},
    }
    assert groups == outer[name] | {"layers", "norm"}
    assert isinstance(model.apply_fn, lnpjax.SplitModel) == (name != "vit")


@pytest.mark.parametrize("name", ["gpt2", "gpt2_untied", "neox", "vit"])
def test_loaded_models_are_measured_like_our_own(tmp_path, name):
    """Closed forms and per-sample norms agree with the dense Jacobian."""
    write_folder(tmp_path, name)
    model, x = load_checkpoint(tmp_path), jnp.asarray(inputs(CONFIGS[name]))
    x = x if name == "vit" else x[:, :2]
    apply_fn, params = lnpjax.from_nnx(model.module)
    jacobian = jax.jit(jax.jacrev(apply_fn))(params, x)
    squares = jax.tree.map(lambda leaf: float(jnp.sum(jnp.square(leaf))), jacobian)
    estimate = jax.jit(
        lambda params: lnpjax.squared_jacobian_norm(
            model.apply_fn,
            params,
            x,
            estimator=lnpjax.Hutchinson(num_probes=16),
            groups=lnpjax.by_depth(1),
            key=jax.random.key(0),
        )
    )(model.params)
    assert int(estimate.status) == 0
    for group, value in estimate.groups.items():
        expected = sum(jax.tree.leaves(squares[group]))
        tolerance = 1e-4 * expected + 5 * float(estimate.groups_sem[group])
        assert float(value) == pytest.approx(expected, abs=tolerance)
    if isinstance(model.apply_fn, lnpjax.SplitModel):
        assert float(estimate.groups_sem["head"]) == 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_models_give_their_reference(real_data, name):
    folder = real_data / "checkpoints" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    model, reference = load_checkpoint(folder), np.load(folder / "reference.npz")
    scale = np.abs(reference["logits"]).max()
    found = logits(model, reference["ids"])
    np.testing.assert_allclose(found, reference["logits"], atol=1e-5 * max(scale, 1))


def test_a_published_vision_transformer_gives_its_reference(real_data):
    folder = real_data / "checkpoints" / "vit-random"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    reference = np.load(folder / "reference.npz")
    found = logits(load_checkpoint(folder), reference["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(found, reference["logits"], atol=1e-5)


def test_the_trained_llama_has_its_loss(real_data):
    folder = real_data / "checkpoints" / "glassllm-en"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    model = load_checkpoint(folder)
    ids = np.fromfile(folder / "tinystories_120.bin", "<u2")[: 64 * 128].reshape(64, 128)
    odds = jax.nn.log_softmax(logits(model, ids[:, :-1].astype(np.int32)))
    picked = jnp.take_along_axis(odds, ids[:, 1:, None].astype(np.int32), axis=-1)
    assert model.config.num_parameters == 852_608
    assert float(-jnp.mean(picked)) == pytest.approx(4.733363, abs=2e-5)


def test_the_trained_sorter_sorts(real_data):
    folder = real_data / "checkpoints" / "gpt-nano-sort"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    model = load_checkpoint(folder)
    digits = jax.random.randint(jax.random.key(0), (20, 6), 0, 3)
    sequences = jnp.concatenate([digits, jnp.sort(digits)], axis=1)[:, :-1]
    chosen = jnp.argmax(logits(model, sequences), axis=-1)[:, 5:]
    np.testing.assert_array_equal(chosen, jnp.sort(digits))


def test_every_architecture_is_among_the_golden_ones():
    assert {config["architectures"][0] for config in CONFIGS.values()} == set(ARCHITECTURES)
