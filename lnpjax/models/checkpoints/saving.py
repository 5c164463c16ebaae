"""Folders that `transformers` loads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from flax import nnx

from lnpjax._base.checks import require
from lnpjax._base.files import write_atomically
from lnpjax.models.checkpoints.huggingface import architecture_of
from lnpjax.models.checkpoints.layouts import stored_tensors
from lnpjax.models.checkpoints.loading import CONFIG, TOKENIZER
from lnpjax.models.checkpoints.safetensors import write_safetensors

WEIGHTS = "model.safetensors"


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: Any,
    *,
    tokenizer_file: str | os.PathLike[str] | None = None,
    end_of_text: int | None = None,
) -> None:
    """Write a model as a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json`.

    Parameters keep their dtype. A Llama that rotates interleaved pairs is written with its queries
    and keys in the order that `transformers` rotates, which computes the same.

    Args:
        folder: a new or empty folder.
        model: a `Llama`, `GPT` or `ViT` of `lnpjax.models`.
        tokenizer_file: a `tokenizer.json` to copy, if it has one.
        end_of_text: the id that ends a text, for `config.json`.

    Raises:
        FileExistsError: if the folder has files.
        FileNotFoundError: if there is no such tokenizer.
        ValueError: if `transformers` has no architecture for the model.

    Example:
        >>> import tempfile
        >>> from lnpjax.models import Llama, preset
        >>> folder = tempfile.mkdtemp()
        >>> save_checkpoint(folder, Llama(preset("115K"), rngs=nnx.Rngs(0)))
        >>> sorted(os.listdir(folder))
        ['config.json', 'model.safetensors']
    """
    place = Path(folder)
    config = model.config
    architecture = architecture_of(config)
    description = {
        "architectures": [architecture.layout.architecture],
        "dtype": config.param_dtype,
        "torch_dtype": config.param_dtype,  # what versions before 5 read
        "eos_token_id": end_of_text,
        "bos_token_id": None,
        **architecture.write(config),
    }
    if tokenizer_file is not None:
        file = Path(tokenizer_file)
        there, what = file.is_file(), "a tokenizer.json"
        require(there, "tokenizer_file", expected=what, got=file, error=FileNotFoundError)
    usable = not place.exists() or (place.is_dir() and not any(place.iterdir()))
    expected, got = "a new or empty folder", f"{place}, which has files"
    require(usable, "folder", expected=expected, got=got, error=FileExistsError)
    tensors = stored_tensors(architecture.layout, config, nnx.state(model, nnx.Param))
    place.mkdir(parents=True, exist_ok=True)
    write_safetensors(place / WEIGHTS, dict(tensors))
    if tokenizer_file is not None:
        shutil.copyfile(tokenizer_file, place / TOKENIZER)
    # Last, since a folder without it is not taken for a model.
    write_atomically(place / CONFIG, json.dumps(description, indent=2) + "\n")
