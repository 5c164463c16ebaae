"""What all language models of this package share."""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import checked_ids, require
from lnpjax.adapters import from_nnx, split_module
from lnpjax.jacobian import ApplyFn, SplitModel

INITIAL_STD = 0.02


class LanguageModelConfig(Protocol):
    """The sizes that every language model has.

    Example:
        >>> from lnpjax.models import preset
        >>> config: LanguageModelConfig = preset("115K")
        >>> config.vocab_size, config.max_seq_len
        (256, 512)
    """

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def max_seq_len(self) -> int:
        """Longest sequence accepted."""

    @property
    def tie_embeddings(self) -> bool:
        """Whether the read-out is the transposed embedding."""


class LanguageModel(Protocol):
    """A Flax NNX module from tokens to logits: an `embedding`, a body, and a `head` unless tied.

    For one, see `lnpjax.models.Llama`.

    Attributes:
        config: the sizes.
    """

    config: Any

    def transform(
        self, embedded: Float[Array, "batch time hidden"]
    ) -> Float[Array, "batch time hidden"]:
        """Compute the final normalised hidden states from embedded tokens."""

    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]:
        """Compute the logits of the next token at every position."""


def floating_dtype_name(argument: str, dtype: DTypeLike) -> str:
    """Return the name of a floating dtype, however it is spelled.

    Args:
        argument: the name of the argument, as the caller wrote it.
        dtype: the dtype.

    Raises:
        ValueError: if it is not a floating dtype.

    Example:
        >>> floating_dtype_name("dtype", jnp.bfloat16)
        'bfloat16'
    """
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:
        resolved = None
    require(
        resolved is not None and jnp.issubdtype(resolved, jnp.floating),
        argument,
        expected="a floating dtype such as 'float32' or 'bfloat16'",
        got=repr(dtype),
    )
    return jnp.dtype(dtype).name


def residual_std(num_layers: int) -> float:
    """Return a scale at which 2 * num_layers additions keep the residual stream's variance.

    Args:
        num_layers: number of blocks, each of which adds twice.

    Example:
        >>> residual_std(8)
        0.005
    """
    return INITIAL_STD / math.sqrt(2 * num_layers)


def checked_tokens(tokens: Any, vocab_size: int) -> Int[Array, "batch time"]:
    """Check the tokens that a language model is called with.

    Args:
        tokens: token ids, `(batch, time)`.
        vocab_size: number of token ids.

    Returns:
        The ids; under `jit`, those outside of the vocabulary have become `vocab_size`.

    Raises:
        ValueError: if `tokens` is not an integer matrix; where values are known, if an id is
            outside of the vocabulary.

    Example:
        >>> checked_tokens(jnp.zeros(4, int), 7)
        Traceback (most recent call last):
            ...
        ValueError: tokens: expected shape (batch, time); add a batch axis to a single sequence, got
            shape (4,)
    """
    require(
        jnp.ndim(tokens) == 2,
        "tokens",
        expected="shape (batch, time); add a batch axis to a single sequence",
        got=f"shape {jnp.shape(tokens)}",
    )
    require(
        jnp.issubdtype(jnp.result_type(tokens), jnp.integer),
        "tokens",
        expected="integer ids",
        got=jnp.result_type(tokens),
    )
    return checked_ids("tokens", tokens, vocab_size)


def check_length(time: int, max_seq_len: int) -> None:
    """Refuse sequences that are longer than a model accepts.

    Args:
        time: how long they are.
        max_seq_len: how long they may be.

    Raises:
        ValueError: if they are longer.

    Example:
        >>> check_length(9, 8)
        Traceback (most recent call last):
            ...
        ValueError: tokens: expected at most max_seq_len=8 positions, got 9
    """
    expected = f"at most max_seq_len={max_seq_len} positions"
    require(time <= max_seq_len, "tokens", expected=expected, got=time)


def split_language_model(model: LanguageModel) -> tuple[ApplyFn, PyTree]:
    """Split a language model into a pure function and its parameters, in closed form if possible.

    Like `lnpjax.from_nnx`; an untied model becomes a `lnpjax.SplitModel`, whose embedding and
    read-out are measured without probes.

    Args:
        model: a `Llama` or `GPT`.

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, tokens) -> logits``.

    Example:
        >>> from flax import nnx
        >>> from lnpjax.models import Llama, preset
        >>> apply_fn, params = split_language_model(Llama(preset("115K"), rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.zeros((2, 8), dtype="int32")).shape
        (2, 8, 256)
    """
    if model.config.tie_embeddings:
        return from_nnx(model)
    parts, params = split_module(model)

    def body(params: PyTree, embedded: Array) -> Array:
        with parts.run_with(params) as own:
            return own.transform(embedded)

    split = SplitModel(body, embedding="embedding/embedding", readout="head/kernel", from_end=False)
    return split, params
