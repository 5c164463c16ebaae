"""Tiny models as `transformers` has them: configurations, and weights by a formula."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 100.0,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 7,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 6,
}
NEOX = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 7,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "rotary_pct": 0.5,
    "rotary_emb_base": 100,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
VIT = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "image_size": 6,
    "patch_size": 3,
    "num_channels": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "id2label": {str(i): f"LABEL_{i}" for i in range(5)},
}
CONFIGS = {
    "llama": LLAMA,
    "llama_tied_linear_rope": LLAMA
    | {"tie_word_embeddings": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama_llama3_rope": LLAMA | {"head_dim": 8, "rope_parameters": LLAMA3},
    "gpt2": GPT2,
    "gpt2_untied": GPT2
    | {"tie_word_embeddings": False, "n_inner": 12, "activation_function": "relu"},
    "neox": NEOX,
    "neox_sequential": NEOX | {"use_parallel_residual": False, "hidden_act": "gelu_new"},
    "vit": VIT,
}
GOLDEN = Path(__file__).parent / "golden" / "checkpoints.json"


def wave(name: str, shape: tuple[int, ...], amplitude: float) -> np.ndarray:
    """Numbers that look random and are the same everywhere."""
    phase = zlib.crc32(name.encode()) % 1000
    angles = 1.7 * np.arange(math.prod(shape), dtype=np.float64) + phase
    return (amplitude * np.sin(angles**1.3)).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a name; gains of norms are around one."""
    is_gain = name.endswith("weight") and len(shape) == 1
    return (wave(name, shape, 0.4) + is_gain).astype(np.float32)


def tokens(config: dict) -> np.ndarray:
    length = min(config.get("n_positions", 9), 9)
    return (np.arange(2 * length).reshape(2, length) ** 2 + 1) % config["vocab_size"]


def images(config: dict) -> np.ndarray:
    size, channels = config["image_size"], config["num_channels"]
    return wave("images", (2, size, size, channels), 1.0).astype(np.float32)


def inputs(config: dict) -> np.ndarray:
    return images(config) if "image_size" in config else tokens(config)


def golden() -> dict:
    """For each configuration, what `transformers` calls its tensors, and its logits."""
    return json.loads(GOLDEN.read_text())


def write_folder(folder: Path, name: str, **changes) -> dict[str, np.ndarray]:
    """Write a model as a Hugging Face folder; return its tensors."""
    from lnpjax.models.checkpoints.safetensors import write_safetensors

    shapes = golden()[name]["shapes"]
    tensors = {key: weight(key, tuple(shape)) for key, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name] | changes))
    write_safetensors(folder / "model.safetensors", tensors)
    return tensors
