"""One door for trained models, whoever trained them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import PyTree

from lnpjax._base.checks import require
from lnpjax.adapters import from_nnx
from lnpjax.data.tokenizers import JsonTokenizer
from lnpjax.jacobian import ApplyFn
from lnpjax.models.checkpoints.fields import Fields
from lnpjax.models.checkpoints.hub import PREFIX, download_model
from lnpjax.models.checkpoints.huggingface import architecture_in
from lnpjax.models.checkpoints.layouts import Layout, build_module, with_dtype
from lnpjax.models.checkpoints.nanogpt import NANOGPT, is_nanogpt, nanogpt_tensors, read_nanogpt
from lnpjax.models.checkpoints.pickles import read_pickle, tensors_of
from lnpjax.models.checkpoints.safetensors import describe_safetensors
from lnpjax.models.checkpoints.tensorflowjs import (
    TENSORFLOWJS,
    describe_tensorflowjs,
    read_sequence,
)
from lnpjax.models.checkpoints.tensors import StoredTensor, StoredTensors, read_json_object
from lnpjax.models.language import floating_dtype_name, split_language_model
from lnpjax.models.llama2c import read_checkpoint

CONFIG, TOKENIZER, SEQUENCE, NANOGPT_FILE = (
    "config.json",
    "tokenizer.json",
    "model.json",
    "ckpt.pt",
)
WEIGHTS: dict[str, Callable[[Path], StoredTensors]] = {
    "model.safetensors": describe_safetensors,
    "pytorch_model.bin": lambda file: tensors_of(read_pickle(file), file),
}
"""The files that hold the weights of a folder, or the first part of the name of its shards' index,
in the order in which they are looked for."""
INDEX = ".index.json"
READ = (
    f"a folder with {CONFIG} and {' or '.join(WEIGHTS)} (or their shards), a nanoGPT's .pt, "
    f"TensorFlow.js's {SEQUENCE}, or llama2.c's .bin"
)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained model from somebody's files, made by `load_checkpoint`.

    Attributes:
        apply_fn: ``apply_fn(params, inputs) -> outputs``, which the measures take: tokens
            ``(batch, time)`` to logits, or images ``(batch, height, width, channels)`` to logits.
        params: the parameters.
        module: the Flax NNX module, for `lnpjax.lens.nnx_hidden_states`.
        config: its configuration.
        architecture: what the files call it.
        source: where they are.
        tokenizer_file: its tokenizer, if it has one.
    """

    apply_fn: ApplyFn
    params: PyTree
    module: nnx.Module
    config: Any
    architecture: str
    source: Path
    tokenizer_file: Path | None = None

    @cached_property
    def tokenizer(self) -> JsonTokenizer | None:
        """Its tokenizer, read when it is first asked for; None if there is none."""
        if self.tokenizer_file is None:
            return None
        return JsonTokenizer.from_file(self.tokenizer_file)


def load_checkpoint(source: str | os.PathLike[str], *, dtype: DTypeLike = "float32") -> LoadedModel:
    """Load a trained model, ready to be measured.

    Files are only read: nothing that they name is called, and sizes are checked before anything is
    allocated. Architectures are Llama, GPT-2, GPT-NeoX (Pythia) and ViT in Hugging Face folders,
    nanoGPT, llama2.c's Llamas, and sequences of layers of TensorFlow.js. The numbers of a
    language model are those of `transformers` up to rounding, without dropout.

    Args:
        source: a folder with `config.json`, weights (`model.safetensors` or `pytorch_model.bin`,
            whole or in shards) and maybe `tokenizer.json`; a nanoGPT's `ckpt.pt`; TensorFlow.js's
            `model.json`; a `.bin` of llama2.c; or ``hf:owner/name`` or ``hf:owner/name@revision``
            on the Hugging Face hub.
        dtype: what the parameters become and the model computes in, whatever they are stored in.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such file or folder, or a part of it is missing.
        ValueError: if a file is damaged, promises more than it holds, or is of an unknown
            architecture; the message names the file, and lists what is known.
        ConnectionError: if a model of the hub is neither cached nor reachable.

    Cost: the memory of the parameters, once more that of the largest tensor, and no gradient.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from lnpjax.models import Llama, preset, save_checkpoint
        >>> folder = tempfile.mkdtemp()
        >>> save_checkpoint(folder, Llama(preset("115K"), rngs=nnx.Rngs(0)))
        >>> model = load_checkpoint(folder)
        >>> model.architecture, model.config.num_layers, model.tokenizer
        ('LlamaForCausalLM', 2, None)
        >>> model.apply_fn(model.params, jnp.zeros((2, 8), dtype="int32")).shape
        (2, 8, 256)
    """
    floating_dtype_name("dtype", dtype)
    named = os.fspath(source)
    path = download_model(named) if named.startswith(PREFIX) else Path(named)
    require(
        path.exists(), "source", expected=READ, got=f"nothing at {path}", error=FileNotFoundError
    )
    if path.is_dir():
        return _from_folder(path, dtype)
    if path.name == SEQUENCE:
        return _from_tensorflowjs(path, dtype)
    require(path.is_file(), "source", expected=READ, got=path)
    if _is_pickle(path):
        return _from_nanogpt(path, dtype)
    known = path.suffix == ".bin"
    require(known, "source", expected=READ, got=path)
    config, llama = read_checkpoint(path)
    return _loaded(llama, with_dtype(config, dtype), "llama2.c", path)


def _is_pickle(file: Path) -> bool:
    """Tell what `torch.save` writes, a zip archive or a pickle, from llama2.c's format."""
    with file.open("rb") as stream:
        beginning = stream.read(4)
    return beginning.startswith(b"PK\x03\x04") or beginning[:1] == b"\x80"


def _from_folder(folder: Path, dtype: DTypeLike) -> LoadedModel:
    if (folder / CONFIG).exists():
        return _from_huggingface(folder, dtype)
    others = ((SEQUENCE, _from_tensorflowjs), (NANOGPT_FILE, _from_nanogpt))
    for name, read in others:
        if (folder / name).exists():
            return read(folder / name, dtype)
    got = f"{folder}, which has none of {CONFIG}, {SEQUENCE} and {NANOGPT_FILE}"
    require(False, "source", expected=READ, got=got, error=FileNotFoundError)
    raise AssertionError


def _from_huggingface(folder: Path, dtype: DTypeLike) -> LoadedModel:
    fields = Fields(read_json_object(folder / CONFIG), str(folder / CONFIG))
    architecture = architecture_in(fields)
    config = with_dtype(_read(architecture.read, fields), dtype)
    tensors = _weights(folder)
    tokenizer = folder / TOKENIZER
    return _built(
        architecture.layout, config, tensors, folder, tokenizer if tokenizer.is_file() else None
    )


def _read(read: Callable[[Fields], Any], fields: Fields) -> Any:
    """Read a configuration; what its own checks refuse is put down to the file, too."""
    try:
        return read(fields)
    except ValueError as error:
        if str(error).startswith(fields.where):
            raise
        raise ValueError(f"{fields.where}: {error}") from error


def _weights(folder: Path) -> StoredTensors:
    """Describe the tensors of a folder, in one file or in those of an index."""
    for name, describe in WEIGHTS.items():
        if (folder / name).exists():
            return describe(folder / name)
        index = folder / f"{name}{INDEX}"
        if index.exists():
            return _shards(index, describe)
    names = " or ".join(WEIGHTS)
    expected = f"the weights, {names}, or an index of their shards"
    require(False, str(folder), expected=expected, got="neither", error=FileNotFoundError)
    raise AssertionError


def _shards(index: Path, describe: Callable[[Path], StoredTensors]) -> StoredTensors:
    """Describe the tensors of all shards, as the index says where they are."""
    places = Fields(read_json_object(index), str(index)).inner("weight_map").values
    names = sorted({str(name) for name in places.values()})
    inside = all(Path(name).name == name for name in names)
    require(inside, str(index), expected="names of files next to it", got=names)
    described: dict[str, StoredTensors] = {}
    for name in names:
        shard = index.with_name(name)
        there, what = shard.is_file(), f"a shard that {index.name} names"
        require(there, str(shard), expected=what, got="none", error=FileNotFoundError)
        described[name] = describe(shard)
    tensors: dict[str, StoredTensor] = {}
    for tensor, name in places.items():
        held = tensor in described[name]
        require(
            held, str(index.with_name(name)), expected=f"{tensor}, as {index.name} says", got="none"
        )
        tensors[tensor] = described[name][tensor]
    return tensors


def _from_nanogpt(file: Path, dtype: DTypeLike) -> LoadedModel:
    content = read_pickle(file)
    expected = "a nanoGPT: a dictionary with 'model' and 'model_args'"
    keys = [str(key)[:40] for key in content][:8]
    require(is_nanogpt(content), str(file), expected=expected, got=f"one with {keys}")
    tensors = nanogpt_tensors(content, file)
    fields = Fields(content["model_args"], f"{file}: model_args")
    config = _read(lambda fields: read_nanogpt(fields, tensors), fields)
    return _built(NANOGPT, with_dtype(config, dtype), tensors, file)


def _from_tensorflowjs(file: Path, dtype: DTypeLike) -> LoadedModel:
    fields = Fields(read_json_object(file), str(file))
    config = with_dtype(_read(read_sequence, fields), dtype)
    return _built(TENSORFLOWJS, config, describe_tensorflowjs(file), file)


def _built(
    layout: Layout,
    config: Any,
    tensors: StoredTensors,
    source: Path,
    tokenizer_file: Path | None = None,
) -> LoadedModel:
    module = build_module(layout, config, tensors, str(source))
    return _loaded(module, config, layout.architecture, source, tokenizer_file)


def _loaded(
    module: Any, config: Any, architecture: str, source: Path, tokenizer_file: Path | None = None
) -> LoadedModel:
    is_language = hasattr(config, "tie_embeddings")
    apply_fn, params = split_language_model(module) if is_language else from_nnx(module)
    return LoadedModel(apply_fn, params, module, config, architecture, source, tokenizer_file)
