"""How the tensors of a file become the parameters of a module, and back.

A layout says what each tensor of a file is called and holds. It is read in one direction to load a
model and in the other to save one, so that the two cannot disagree.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax.models.checkpoints.tensors import StoredTensor, StoredTensors


@dataclasses.dataclass(frozen=True)
class Form:
    """How a tensor of a file and parameters of a module are made of each other.

    Attributes:
        stored: ``stored(*parameters) -> tensor``.
        own: ``own(tensor) -> parameters``, its inverse.

    Example:
        >>> kernel, = TRANSPOSED.own(np.ones((3, 2)))
        >>> kernel.shape, TRANSPOSED.stored(kernel).shape
        ((2, 3), (3, 2))
    """

    stored: Callable[..., Any]
    own: Callable[[Any], tuple[Any, ...]]


SAME = Form(lambda x: x, lambda x: (x,))
"""The tensor is the parameter."""
TRANSPOSED = Form(lambda x: x.T, lambda x: (x.T,))
"""PyTorch's linear layers are stored (out, in)."""


def fused(parts: int, *, groups: int = 1, transposed: bool = False) -> Form:
    """Return the form of several layers that are stored as one, such as queries, keys and values.

    Args:
        parts: how many there are.
        groups: how many times they take turns along the outputs: once, or once in each head.
        transposed: whether the tensor is stored (out, in).

    Returns:
        The form, for kernels (in, out) and for biases.

    Example:
        >>> q, k = fused(2, groups=2).own(np.arange(8.0))
        >>> q.tolist(), k.tolist()
        ([0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0])
    """

    def stored(*own: Any) -> Any:
        split = [x.reshape(*x.shape[:-1], groups, 1, -1) for x in own]
        whole = jnp.concatenate(split, axis=-2).reshape(*own[0].shape[:-1], -1)
        return whole.T if transposed else whole

    def own(tensor: Any) -> tuple[Any, ...]:
        whole = tensor.T if transposed else tensor
        split = whole.reshape(*whole.shape[:-1], groups, parts, -1)
        return tuple(split[..., i, :].reshape(*whole.shape[:-1], -1) for i in range(parts))

    return Form(stored, own)


def half_split(heads: int) -> Form:
    """Return the form of queries or keys of a model that rotates the pairs (2i, 2i + 1).

    Files rotate (i, i + half), which the same numbers in another order do.

    Args:
        heads: number of heads.

    Example:
        >>> half_split(1).stored(np.arange(4)[None]).T.tolist()
        [[0, 2, 1, 3]]
    """

    def reorder(x: Any, shape: tuple[int, ...]) -> Any:
        return x.reshape(len(x), heads, *shape).swapaxes(-1, -2).reshape(len(x), -1)

    return Form(lambda x: reorder(x, (-1, 2)).T, lambda x: (reorder(x.T, (2, -1)),))


def leading_ones(count: int) -> Form:
    """Return the form of a parameter that is stored with axes of length one before its own.

    Args:
        count: how many such axes.

    Example:
        >>> leading_ones(2).stored(np.ones(3)).shape
        (1, 1, 3)
    """
    ones = (1,) * count
    return Form(lambda x: x.reshape(*ones, *x.shape), lambda x: (x.reshape(x.shape[count:]),))


def patches(size: int, channels: int) -> Form:
    """Return the form of a convolution that does not overlap, as a linear layer on patches.

    Args:
        size: height and width of a patch.
        channels: of the images.

    Example:
        >>> patches(4, 3).stored(np.ones((48, 8))).shape
        (8, 3, 4, 4)
    """

    def stored(kernel: Any) -> Any:
        return kernel.reshape(size, size, channels, -1).transpose(3, 2, 0, 1)

    def own(tensor: Any) -> tuple[Any]:
        return (tensor.transpose(2, 3, 1, 0).reshape(size * size * channels, -1),)

    return Form(stored, own)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: what the file calls it.
        paths: the parameters that it holds; see `lnpjax.parameters.paths`.
        form: how.

    Example:
        >>> Entry("lm_head.weight", ("head/kernel",), TRANSPOSED).name
        'lm_head.weight'
    """

    name: str
    paths: tuple[str, ...]
    form: Form = SAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What the files of one architecture look like.

    Attributes:
        architecture: its name.
        module: its class, made of a configuration and random streams.
        entries: lists the tensors of a model.
        embedding: the tensor of the embedding.
        head: that of the read-out, which files may have even if it is tied.
        prefix: what names may lack or have before them.
        buffers: matches names of what is stored and is not a parameter.

    Example:
        >>> from lnpjax.models.checkpoints.nanogpt import NANOGPT
        >>> NANOGPT.embedding
        'transformer.wte.weight'
    """

    architecture: str
    module: Callable[..., nnx.Module]
    entries: Callable[[Any], list[Entry]]
    embedding: str = ""
    head: str = ""
    prefix: str = ""
    buffers: str = r"(?!)"


def build_module(layout: Layout, config: Any, tensors: StoredTensors, where: str) -> nnx.Module:
    """Make the module of a configuration, with parameters from a file.

    Names and shapes are compared before anything is read.

    Args:
        layout: what the file looks like.
        config: the configuration, with the dtypes that parameters become.
        tensors: what is in the file.
        where: the file or folder, for messages.

    Returns:
        The module.

    Raises:
        ValueError: if a tensor is missing, unknown, or of another shape than `config` says.
        OSError: if the file cannot be read.

    Example:
        >>> from lnpjax.models import LlamaConfig
        >>> from lnpjax.models.checkpoints.huggingface import ARCHITECTURES
        >>> config = LlamaConfig(vocab_size=4, hidden_size=4, intermediate_size=4, num_layers=1,
        ...                      num_heads=1, max_seq_len=4)
        >>> build_module(ARCHITECTURES["LlamaForCausalLM"].layout, config, {}, "model.safetensors")
        Traceback (most recent call last):
            ...
        ValueError: model.safetensors: expected at least the 156 numbers of the model that its
        configuration describes, got 0
    """
    _check_size(config, tensors, where)
    abstract = nnx.eval_shape(lambda: layout.module(config, rngs=nnx.Rngs(0)))
    structure, state = nnx.split(abstract)
    shapes = dict(zip(parameters.paths(state), jax.tree.leaves(state), strict=True))
    entries = layout.entries(config)
    named = _by_their_names(layout, entries, tensors, where)
    if layout.head in named and getattr(config, "tie_embeddings", False):
        _check_tied(named[layout.embedding], named[layout.head], layout.head)
    for entry in entries:
        expected = _stored_shape(entry.form, tuple(shapes[path].shape for path in entry.paths))
        tensor = named[entry.name]
        why = f"shape {expected}, as the configuration says"
        require(
            tensor.shape == expected,
            f"{tensor.file}: {entry.name}",
            expected=why,
            got=f"shape {tensor.shape}",
        )
    dtype = config.param_dtype
    leaves: dict[str, Array] = {}
    for entry in entries:
        for path, array in zip(entry.paths, entry.form.own(named[entry.name].read()), strict=True):
            leaves[path] = jnp.array(array, dtype)
    ordered = [leaves[path] for path in shapes]
    return nnx.merge(structure, jax.tree.unflatten(jax.tree.structure(state), ordered))


@functools.lru_cache
def _stored_shape(form: Form, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    own = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.eval_shape(form.stored, *own).shape


def _check_size(config: Any, tensors: StoredTensors, where: str) -> None:
    """Refuse sizes that the file does not hold, before a module of these sizes is described."""
    size = sum(tensor.size for tensor in tensors.values())
    expected = f"at least the {config.num_parameters:,} numbers of the model that its configuration"
    require(config.num_parameters <= size, where, expected=f"{expected} describes", got=f"{size:,}")


def _by_their_names(
    layout: Layout, entries: list[Entry], tensors: StoredTensors, where: str
) -> StoredTensors:
    """Return the tensors by the names of the layout, which must all be there and no others."""
    names = {entry.name for entry in entries}
    bare = {name.removeprefix(layout.prefix): name for name in names}
    named = {bare.get(name.removeprefix(layout.prefix), name): t for name, t in tensors.items()}
    missing = sorted(names - set(named))
    expected = f"the tensor {missing[0]} among {len(names)}" if missing else ""
    got = f"{_some(list(tensors))} ({len(missing)} of {layout.architecture} are missing)"
    require(not missing, where, expected=expected, got=got)
    others = set(named) - names - {layout.head}
    unknown = sorted(name for name in others if not re.fullmatch(layout.buffers, name))
    expected = f"the tensors of {layout.architecture} alone"
    require(not unknown, where, expected=expected, got=f"also {_some(unknown)}")
    return named


def _check_tied(embedding: StoredTensor, head: StoredTensor, name: str) -> None:
    same = embedding.shape == head.shape and np.array_equal(embedding.read(), head.read())
    expected = "the embedding, to which the configuration ties the read-out"
    require(same, f"{head.file}: {name}", expected=expected, got="other numbers")


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown


def stored_tensors(layout: Layout, config: Any, params: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a model by the names that files have for them.

    Args:
        layout: what the file will look like.
        config: the configuration.
        params: the parameters.

    Example:
        >>> from lnpjax.models import Llama, preset
        >>> from lnpjax.models.checkpoints.huggingface import ARCHITECTURES
        >>> config = preset("115K")
        >>> params = nnx.state(Llama(config, rngs=nnx.Rngs(0)))
        >>> layout = ARCHITECTURES["LlamaForCausalLM"].layout
        >>> names = [name for name, _ in stored_tensors(layout, config, params)]
        >>> names[0], len(names)
        ('model.embed_tokens.weight', 21)
    """
    own = dict(zip(parameters.paths(params), jax.tree.leaves(params), strict=True))
    for entry in layout.entries(config):
        arrays: list[Any] = [np.asarray(own[path]) for path in entry.paths]
        yield entry.name, np.asarray(entry.form.stored(*arrays))


def with_dtype(config: Any, dtype: DTypeLike) -> Any:
    """Return a configuration that computes in a dtype, and stores its parameters in it.

    Args:
        config: the configuration.
        dtype: any spelling of a floating dtype.

    Raises:
        ValueError: if it is not one.

    Example:
        >>> from lnpjax.models import preset
        >>> with_dtype(preset("115K"), "bfloat16").param_dtype
        'bfloat16'
    """
    return dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
