"""The checkpoints of nanoGPT and its relatives: a `.pt` with `model` and `model_args`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lnpjax.models.checkpoints.fields import Fields
from lnpjax.models.checkpoints.huggingface import gpt2_entries
from lnpjax.models.checkpoints.layouts import Layout
from lnpjax.models.checkpoints.pickles import tensors_of
from lnpjax.models.checkpoints.tensors import StoredTensors
from lnpjax.models.gpt import GPT, GPTConfig

FIRST_UP = "transformer.h.0.mlp.c_fc.weight"
WRAPPERS = ("_orig_mod.", "module.")
"""What `torch.compile` and data-parallel training put before the names of tensors."""


def is_nanogpt(content: Mapping[Any, Any]) -> bool:
    """Return whether a pickle holds what nanoGPT saves.

    Args:
        content: see `read_pickle`.

    Example:
        >>> is_nanogpt({"model": {}, "model_args": {}, "iter_num": 0})
        True
    """
    return isinstance(content.get("model"), dict) and isinstance(content.get("model_args"), dict)


def nanogpt_tensors(content: Mapping[Any, Any], file: Path) -> StoredTensors:
    """Return the tensors of a nanoGPT by the names that nanoGPT has for them.

    Args:
        content: see `read_pickle`.
        file: where it is from, for messages.

    Raises:
        ValueError: if it holds anything but tensors.

    Example:
        >>> nanogpt_tensors({"model": {}}, Path("ckpt.pt"))
        {}
    """
    return {
        _usual_name(name): tensor for name, tensor in tensors_of(content["model"], file).items()
    }


def _usual_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return re.sub(r"\.(gamma|beta)$", lambda m: {"gamma": ".weight", "beta": ".bias"}[m[1]], name)


def read_nanogpt(fields: Fields, tensors: StoredTensors) -> GPTConfig:
    """Read the configuration of a nanoGPT: its `model_args`, and what only tensors tell.

    The GELU is the exact one, as in nanoGPT since February 2023: files do not say.

    Args:
        fields: its `model_args`.
        tensors: by their usual names.

    Returns:
        The configuration. The read-out is tied if the file has no other numbers for it.

    Raises:
        ValueError: if a field is missing or invalid.

    Example:
        >>> sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4, "vocab_size": 3}
        >>> read_nanogpt(Fields(sizes, "ckpt.pt"), {}).intermediate_size
        32
    """
    width = fields.count("n_embd", "dim_embedding")
    up = tensors.get(FIRST_UP)
    inner = up.shape[0] if up is not None and len(up.shape) == 2 else 4 * width
    return GPTConfig(
        vocab_size=fields.count("vocab_size", default=50304),
        hidden_size=width,
        intermediate_size=inner,
        num_layers=fields.count("n_layer", "num_layers"),
        num_heads=fields.count("n_head", "num_heads"),
        max_seq_len=fields.count("block_size", "seq_length"),
        use_bias=fields.flag("bias", "use_bias", default=True),
        activation="gelu",
        tie_embeddings=True,
    )


NANOGPT = Layout(
    architecture="nanoGPT",
    module=GPT,
    entries=partial(gpt2_entries, transposed=True),
    embedding="transformer.wte.weight",
    head="lm_head.weight",
    prefix="transformer.",
    buffers=r".*\.attn\.bias",
)
"""What nanoGPT's files look like."""
