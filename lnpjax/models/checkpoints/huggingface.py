"""The architectures of Hugging Face folders: Llama, GPT-2, GPT-NeoX and ViT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lnpjax._base.checks import require
from lnpjax.models.checkpoints.fields import Fields
from lnpjax.models.checkpoints.layouts import (
    SAME,
    TRANSPOSED,
    Entry,
    Form,
    Layout,
    fused,
    half_split,
    leading_ones,
    patches,
)
from lnpjax.models.gpt import GPT, GPTConfig
from lnpjax.models.llama import Llama, LlamaConfig
from lnpjax.models.rotary import LINEAR, LLAMA3, RopeScaling
from lnpjax.models.vit import ViT, ViTConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""The names of `transformers` for activations, and those of `lnpjax.models.gpt.ACTIVATIONS`."""
WRITTEN_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}
"""The other way round."""
QKV = ("query", "key", "value")


def _layer(name: str, path: str, *, form: Form = TRANSPOSED) -> list[Entry]:
    """A linear layer with biases."""
    bias = Entry(f"{name}.bias", (f"{path}/bias",))
    return [Entry(f"{name}.weight", (f"{path}/kernel",), form), bias]


def _norm(name: str, path: str) -> list[Entry]:
    """A LayerNorm."""
    bias = Entry(f"{name}.bias", (f"{path}/bias",))
    return [Entry(f"{name}.weight", (f"{path}/scale",)), bias]


# Llama


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    """Read how rotary frequencies are scaled, as any version of `transformers` writes it."""
    kinds = {name: name for name in ("default", LINEAR, LLAMA3)}
    rope = fields.inner("rope_scaling", "rope_parameters")
    kind = rope.choice("rope_type", "type", of=kinds, default="default")
    if kind == "default":
        return None
    if kind == LINEAR:
        return RopeScaling(kind=kind, factor=rope.number("factor"))
    positions = fields.get("max_position_embeddings")
    return RopeScaling(
        kind=kind,
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position=rope.count("original_max_position_embeddings", default=positions),
    )


def _rope_base(fields: Fields, *names: str) -> float:
    older = fields.get(*names, default=10000.0)
    return fields.inner("rope_parameters").number("rope_theta", default=older)


def _read_llama(fields: Fields) -> LlamaConfig:
    fields.only("hidden_act", "silu")
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.inner("rope_parameters").only("partial_rotary_factor", 1.0)
    heads = fields.count("num_attention_heads")
    head_dim = fields.get("head_dim")
    return LlamaConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.count("num_key_value_heads", default=heads),
        head_dim=None if head_dim is None else fields.count("head_dim"),
        max_seq_len=fields.count("max_position_embeddings", default=2048),
        rope_base=_rope_base(fields, "rope_theta"),
        rope_scaling=_rope_scaling(fields),
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
    )


def _write_llama(config: LlamaConfig) -> dict[str, Any]:
    scaling, rope = config.rope_scaling, None
    if scaling is not None:
        rope = {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
        rope = {name: value for name, value in rope.items() if value is not None}
    return {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_base,
        "rope_scaling": rope,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def _llama_entries(config: LlamaConfig) -> list[Entry]:
    heads = {"query": config.num_heads, "key": config.kv_heads}
    entries = [Entry("model.embed_tokens.weight", ("embedding/embedding",))]
    for i in range(config.num_layers):
        name, path = f"model.layers.{i}", f"layers/{i}"
        entries.append(Entry(f"{name}.input_layernorm.weight", (f"{path}/attention_norm/scale",)))
        for short, part in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output")):
            turned = config.rope_interleaved and part in heads
            form = half_split(heads[part]) if turned else TRANSPOSED
            kernel = f"{path}/attention/{part}/kernel"
            entries.append(Entry(f"{name}.self_attn.{short}_proj.weight", (kernel,), form))
        norm = f"{name}.post_attention_layernorm.weight"
        entries.append(Entry(norm, (f"{path}/feed_forward_norm/scale",)))
        for part in ("gate", "up", "down"):
            kernel = f"{path}/feed_forward/{part}/kernel"
            entries.append(Entry(f"{name}.mlp.{part}_proj.weight", (kernel,), TRANSPOSED))
    entries.append(Entry("model.norm.weight", ("norm/scale",)))
    return entries + _head("lm_head.weight", tied=config.tie_embeddings)


def _head(name: str, *, tied: bool) -> list[Entry]:
    return [] if tied else [Entry(name, ("head/kernel",), TRANSPOSED)]


# GPT-2


def _read_gpt2(fields: Fields) -> GPTConfig:
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    width = fields.count("n_embd", "hidden_size")
    return GPTConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_size=width,
        intermediate_size=fields.count("n_inner", default=4 * width),
        num_layers=fields.count("n_layer", "num_hidden_layers"),
        num_heads=fields.count("n_head", "num_attention_heads"),
        max_seq_len=fields.count("n_positions", "max_position_embeddings", "n_ctx"),
        activation=fields.choice("activation_function", of=ACTIVATIONS, default="gelu_new"),
        norm_eps=fields.number("layer_norm_epsilon", default=1e-5),
        tie_embeddings=fields.flag("tie_word_embeddings", default=True),
    )


def _write_gpt2(config: GPTConfig) -> dict[str, Any]:
    _check_biases(config)
    expected, got = "sub-layers one after the other, with learned positions", "parallel ones"
    require(not config.parallel_residual, "model", expected=expected, got=got)
    return {
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_seq_len,
        "activation_function": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _check_biases(config: GPTConfig) -> None:
    expected = "a model with biases, which the layout has"
    require(config.use_bias, "model", expected=expected, got="one without")


def gpt2_entries(config: GPTConfig, *, transposed: bool = False) -> list[Entry]:
    """List the tensors of a GPT-2 but for its read-out, and those of a nanoGPT.

    Args:
        config: its shape.
        transposed: whether layers are stored (out, in), as nanoGPT's; GPT-2's are (in, out).

    Example:
        >>> config = GPTConfig(vocab_size=4, hidden_size=4, intermediate_size=4, num_layers=1,
        ...                    num_heads=1, max_seq_len=4, use_bias=False)
        >>> [entry.name for entry in gpt2_entries(config)][:3]
        ['transformer.wte.weight', 'transformer.wpe.weight', 'transformer.h.0.ln_1.weight']
    """
    entries = [
        Entry("transformer.wte.weight", ("embedding/embedding",)),
        Entry("transformer.wpe.weight", ("positions/embedding",)),
    ]
    layer = partial(_layer, form=TRANSPOSED if transposed else SAME)
    qkv_form = fused(3, transposed=transposed)
    for i in range(config.num_layers):
        name, path = f"transformer.h.{i}", f"layers/{i}"
        entries += _norm(f"{name}.ln_1", f"{path}/attention_norm")
        for stored, own in (("weight", "kernel"), ("bias", "bias")):
            qkv = tuple(f"{path}/attention/{part}/{own}" for part in QKV)
            entries.append(Entry(f"{name}.attn.c_attn.{stored}", qkv, qkv_form))
        entries += layer(f"{name}.attn.c_proj", f"{path}/attention/output")
        entries += _norm(f"{name}.ln_2", f"{path}/feed_forward_norm")
        entries += layer(f"{name}.mlp.c_fc", f"{path}/feed_forward/up")
        entries += layer(f"{name}.mlp.c_proj", f"{path}/feed_forward/down")
    entries += _norm("transformer.ln_f", "norm")
    return [entry for entry in entries if config.use_bias or not entry.name.endswith(".bias")]


def _gpt2_and_head(config: GPTConfig) -> list[Entry]:
    return gpt2_entries(config) + _head("lm_head.weight", tied=config.tie_embeddings)


# GPT-NeoX


def _read_neox(fields: Fields) -> GPTConfig:
    fields.only("attention_bias", True)
    require(
        _rope_scaling(fields) is None,
        f"{fields.where}: rope_scaling",
        expected="none, since the model is not written for others",
        got=fields.get("rope_scaling", "rope_parameters"),
    )
    rope, older = fields.inner("rope_parameters"), fields.get("rotary_pct", default=0.25)
    return GPTConfig(
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        max_seq_len=fields.count("max_position_embeddings"),
        rotary_fraction=rope.number("partial_rotary_factor", default=older),
        rope_base=_rope_base(fields, "rotary_emb_base", "rope_theta"),
        parallel_residual=fields.flag("use_parallel_residual", default=True),
        activation=fields.choice("hidden_act", of=ACTIVATIONS, default="gelu"),
        norm_eps=fields.number("layer_norm_eps", default=1e-5),
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
    )


def _write_neox(config: GPTConfig) -> dict[str, Any]:
    _check_biases(config)
    return {
        "model_type": "gpt_neox",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_seq_len,
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rope_base,
        "use_parallel_residual": config.parallel_residual,
        "hidden_act": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": True,
    }


def _neox_entries(config: GPTConfig) -> list[Entry]:
    entries = [Entry("gpt_neox.embed_in.weight", ("embedding/embedding",))]
    form = fused(3, groups=config.num_heads, transposed=True)
    for i in range(config.num_layers):
        name, path = f"gpt_neox.layers.{i}", f"layers/{i}"
        entries += _norm(f"{name}.input_layernorm", f"{path}/attention_norm")
        for stored, own in (("weight", "kernel"), ("bias", "bias")):
            qkv = tuple(f"{path}/attention/{part}/{own}" for part in QKV)
            entries.append(Entry(f"{name}.attention.query_key_value.{stored}", qkv, form))
        entries += _layer(f"{name}.attention.dense", f"{path}/attention/output")
        entries += _norm(f"{name}.post_attention_layernorm", f"{path}/feed_forward_norm")
        entries += _layer(f"{name}.mlp.dense_h_to_4h", f"{path}/feed_forward/up")
        entries += _layer(f"{name}.mlp.dense_4h_to_h", f"{path}/feed_forward/down")
    entries += _norm("gpt_neox.final_layer_norm", "norm")
    return entries + _head("embed_out.weight", tied=config.tie_embeddings)


# ViT


def _read_vit(fields: Fields) -> ViTConfig:
    fields.only("qkv_bias", True)
    labels = fields.inner("id2label").values
    return ViTConfig(
        image_size=fields.count("image_size", default=224),
        patch_size=fields.count("patch_size", default=16),
        num_channels=fields.count("num_channels", default=3),
        num_classes=len(labels) or fields.count("num_labels", default=2),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        activation=fields.choice("hidden_act", of=ACTIVATIONS, default="gelu"),
        norm_eps=fields.number("layer_norm_eps", default=1e-12),
    )


def _write_vit(config: ViTConfig) -> dict[str, Any]:
    labels = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {
        "model_type": "vit",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
    }


def _vit_entries(config: ViTConfig) -> list[Entry]:
    form = patches(config.patch_size, config.num_channels)
    entries = [
        Entry("vit.embeddings.cls_token", ("class_token",), leading_ones(2)),
        Entry("vit.embeddings.position_embeddings", ("positions",), leading_ones(1)),
        *_layer("vit.embeddings.patch_embeddings.projection", "patches", form=form),
    ]
    for i in range(config.num_layers):
        name, path = f"vit.encoder.layer.{i}", f"layers/{i}"
        entries += _norm(f"{name}.layernorm_before", f"{path}/attention_norm")
        for part in QKV:
            entries += _layer(f"{name}.attention.attention.{part}", f"{path}/attention/{part}")
        entries += _layer(f"{name}.attention.output.dense", f"{path}/attention/output")
        entries += _norm(f"{name}.layernorm_after", f"{path}/feed_forward_norm")
        entries += _layer(f"{name}.intermediate.dense", f"{path}/feed_forward/up")
        entries += _layer(f"{name}.output.dense", f"{path}/feed_forward/down")
    return [*entries, *_norm("vit.layernorm", "norm"), *_layer("classifier", "head")]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture that `transformers` reads and writes.

    Attributes:
        layout: its tensors.
        read: reads its configuration.
        write: writes it.

    Example:
        >>> ARCHITECTURES["GPT2LMHeadModel"].layout.head
        'lm_head.weight'
    """

    layout: Layout
    read: Callable[[Fields], Any]
    write: Callable[[Any], dict[str, Any]]


_ALL = (
    Architecture(
        Layout(
            architecture="LlamaForCausalLM",
            module=Llama,
            entries=_llama_entries,
            embedding="model.embed_tokens.weight",
            head="lm_head.weight",
            prefix="model.",
            buffers=r".*rotary_emb\.inv_freq",
        ),
        _read_llama,
        _write_llama,
    ),
    Architecture(
        Layout(
            architecture="GPT2LMHeadModel",
            module=GPT,
            entries=_gpt2_and_head,
            embedding="transformer.wte.weight",
            head="lm_head.weight",
            prefix="transformer.",
            buffers=r".*\.attn\.(masked_)?bias",
        ),
        _read_gpt2,
        _write_gpt2,
    ),
    Architecture(
        Layout(
            architecture="GPTNeoXForCausalLM",
            module=GPT,
            entries=_neox_entries,
            embedding="gpt_neox.embed_in.weight",
            head="embed_out.weight",
            prefix="gpt_neox.",
            buffers=r".*\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
        ),
        _read_neox,
        _write_neox,
    ),
    Architecture(
        Layout(
            architecture="ViTForImageClassification",
            module=ViT,
            entries=_vit_entries,
            prefix="vit.",
            buffers=r"(vit\.)?pooler\.dense\.(weight|bias)",
        ),
        _read_vit,
        _write_vit,
    ),
)
ARCHITECTURES: Mapping[str, Architecture] = {known.layout.architecture: known for known in _ALL}
"""By the name that `config.json` has for the architecture."""
OLDER_NAMES = {"llama": 0, "gpt2": 1, "gpt_neox": 2}
"""Architectures by the `model_type` of files that do not name one."""


def architecture_in(fields: Fields) -> Architecture:
    """Return the architecture that a description names.

    Args:
        fields: the description.

    Raises:
        ValueError: if it is not known; the message lists those that are.

    Example:
        >>> architecture_in(Fields({"architectures": ["BertModel"]}, "config.json"))
        Traceback (most recent call last):
            ...
        ValueError: config.json: architectures: expected one of LlamaForCausalLM, GPT2LMHeadModel,
        GPTNeoXForCausalLM, ViTForImageClassification, got ['BertModel']
    """
    names = fields.get("architectures")
    if names is None and fields.get("model_type") in OLDER_NAMES:
        return _ALL[OLDER_NAMES[fields.get("model_type")]]
    listed = isinstance(names, list) and bool(names) and isinstance(names[0], str)
    known = listed and names[0] in ARCHITECTURES
    where, expected = f"{fields.where}: architectures", f"one of {', '.join(ARCHITECTURES)}"
    require(known, where, expected=expected, got=names if known or names else "none")
    return ARCHITECTURES[names[0]]


def architecture_of(config: Any) -> Architecture:
    """Return the architecture that models of a configuration are written as.

    Args:
        config: the configuration of a model.

    Raises:
        ValueError: if there is none; the message lists what can be written.

    Example:
        >>> from lnpjax.models import preset
        >>> architecture_of(preset("115K")).layout.architecture
        'LlamaForCausalLM'
    """
    names = {LlamaConfig: "LlamaForCausalLM", ViTConfig: "ViTForImageClassification"}
    if isinstance(config, GPTConfig):
        learned = config.rotary_fraction is None
        return ARCHITECTURES["GPT2LMHeadModel" if learned else "GPTNeoXForCausalLM"]
    expected, got = f"a model of {', '.join(ARCHITECTURES)}", type(config).__name__
    require(type(config) in names, "model", expected=expected, got=got)
    return ARCHITECTURES[names[type(config)]]
