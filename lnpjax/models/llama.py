"""Llama in Flax NNX, with the sizes that *Spectral Reach* trains.

RMSNorm before each sub-layer, rotary position embeddings, causal grouped-query attention, a SwiGLU
feed-forward, no biases, and a read-out that is untied from the embedding unless asked otherwise. A
sample's logits depend on that sample alone, so per-sample Jacobians are meaningful. The only state
is `nnx.Param`, grouped at the top level as `embedding`, `layers`, `norm` and `head`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import check_count, require
from lnpjax.jacobian import ApplyFn
from lnpjax.models.attention import Attention, AttentionShape
from lnpjax.models.language import (
    INITIAL_STD,
    check_length,
    checked_tokens,
    floating_dtype_name,
    residual_std,
    split_language_model,
)
from lnpjax.models.rotary import RopeScaling, rotary_angles


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a Llama and the precision it computes in.

    Attributes:
        vocab_size: number of token ids.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the SwiGLU feed-forward.
        num_layers: number of blocks.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads, a divisor of `num_heads`; None means as many.
        head_dim: width of one head; None means `hidden_size / num_heads`, which must be whole.
        max_seq_len: longest sequence accepted.
        rope_base: base of the rotary frequencies.
        rope_interleaved: rotate the pairs (2i, 2i + 1) of a head instead of (i, i + head_dim / 2).
            The two differ by a fixed permutation of each head: it matters for loaded weights only.
        rope_scaling: how the rotary frequencies are stretched to longer sequences, as a
            `RopeScaling` or its fields in JSON; None leaves them.
        norm_eps: added to the mean square in every RMSNorm.
        tie_embeddings: read out with the transposed embedding instead of a matrix of its own.
        dtype: what the forward pass computes in, and the logits come in. Rotations, attention
            softmax and mean squares use at least float32.
        param_dtype: what the parameters are stored in.

    Both dtypes accept any spelling of a floating dtype and are kept as its name, and sizes as
    integers of Python, so that `dataclasses.asdict` of a config is JSON.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128,
        ...                      num_layers=2, num_heads=4, max_seq_len=128)
        >>> config.num_parameters
        115008
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    max_seq_len: int
    rope_base: float = 10000.0
    rope_interleaved: bool = False
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
        for name in (*sizes, "num_kv_heads", "head_dim", "max_seq_len"):
            size = getattr(self, name)
            check_count(name, size, optional=name in ("num_kv_heads", "head_dim"))
            object.__setattr__(self, name, size if size is None else int(size))  # of numpy, too
        require(
            self.head_dim is not None or self.hidden_size % self.num_heads == 0,
            "num_heads",
            expected=f"a divisor of hidden_size={self.hidden_size}, or head_dim given explicitly",
            got=self.num_heads,
        )
        require(
            self.num_heads % self.kv_heads == 0,
            "num_kv_heads",
            expected=f"a divisor of num_heads={self.num_heads}",
            got=self.num_kv_heads,
        )
        require(
            self.head_width % 2 == 0,
            "head_dim",
            expected="an even width of a head (rotary embeddings turn pairs)",
            got=self.head_width,
        )
        require(self.rope_base > 0, "rope_base", expected="a number > 0", got=self.rope_base)
        require(self.norm_eps > 0, "norm_eps", expected="a number > 0", got=self.norm_eps)
        scaling: Any = self.rope_scaling
        if isinstance(scaling, Mapping):  # as JSON has it
            object.__setattr__(self, "rope_scaling", RopeScaling(**scaling))
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, floating_dtype_name(name, getattr(self, name)))

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, with the default resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of one head, with the default resolved."""
        return self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form; a tied read-out counts once."""
        attention = 2 * self.hidden_size * self.head_width * (self.num_heads + self.kv_heads)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        gains = 2 * self.hidden_size
        token_matrices = 1 if self.tie_embeddings else 2
        return (
            token_matrices * self.vocab_size * self.hidden_size
            + self.num_layers * (attention + feed_forward + gains)
            + self.hidden_size
        )


def _linear(
    config: LlamaConfig, in_size: int, out_size: int, *, std: float = INITIAL_STD, rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        in_size,
        out_size,
        use_bias=False,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        kernel_init=nnx.initializers.normal(std),
        rngs=rngs,
    )


def _norm(config: LlamaConfig, *, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.hidden_size,
        epsilon=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _attention(config: LlamaConfig, *, rngs: nnx.Rngs) -> Attention:
    shape = AttentionShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.kv_heads,
        head_width=config.head_width,
        rope_interleaved=config.rope_interleaved,
    )
    linear = partial(_linear, config, rngs=rngs)
    return Attention(
        shape, linear=linear, output=partial(linear, std=residual_std(config.num_layers))
    )


class FeedForward(nnx.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        linear = partial(_linear, config, rngs=rngs)
        self.gate = linear(config.hidden_size, config.intermediate_size)
        self.up = linear(config.hidden_size, config.intermediate_size)
        self.down = linear(
            config.intermediate_size, config.hidden_size, std=residual_std(config.num_layers)
        )

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        """Apply the feed-forward to every position on its own."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention, then feed-forward, each normalised before and added to the residual stream."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = _norm(config, rngs=rngs)
        self.attention = _attention(config, rngs=rngs)
        self.feed_forward_norm = _norm(config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time hidden"], angles: Float[Array, "time half"]
    ) -> Float[Array, "batch time hidden"]:
        """Apply the block; `angles` come from `rotary_angles`."""
        x = x + self.attention(self.attention_norm(x), angles)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nnx.Module):
    """A Llama 2 language model (Touvron et al., 2023).

    Matrices start as normal draws with standard deviation 0.02, those that write to the residual
    stream (`attention.output`, `feed_forward.down`) with `0.02 / sqrt(2 * num_layers)`; gains start
    at one.

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> from lnpjax.models import preset
        >>> model = Llama(preset("115K"), rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 8), dtype="int32")).shape
        (2, 8, 256)
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            embedding_init=nnx.initializers.normal(INITIAL_STD),
            rngs=rngs,
        )
        self.layers = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = _norm(config, rngs=rngs)
        if not config.tie_embeddings:
            self.head = _linear(config, config.hidden_size, config.vocab_size, rngs=rngs)

    def hidden(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time hidden"]:
        """Compute the final normalised hidden states, which the read-out turns into logits.

        Args:
            tokens: token ids, `(batch, time)`, below `vocab_size`; under `jit` others give NaN.

        Returns:
            Hidden states in the compute dtype, `(batch, time, hidden)`.

        Raises:
            ValueError: if `tokens` is not an integer matrix or is longer than `max_seq_len`; where
                values are known, if an id is outside of the vocabulary.
        """
        ids = checked_tokens(tokens, self.config.vocab_size)
        return self.transform(self.embedding(ids))

    def transform(
        self, embedded: Float[Array, "batch time hidden"]
    ) -> Float[Array, "batch time hidden"]:
        """Compute the final normalised hidden states from embedded tokens.

        Raises:
            ValueError: if the sequences are longer than `max_seq_len`.
        """
        config = self.config
        time = embedded.shape[1]
        check_length(time, config.max_seq_len)
        angles = rotary_angles(
            time,
            config.head_width,
            base=config.rope_base,
            scaling=config.rope_scaling,
            dtype=jnp.promote_types(config.dtype, jnp.float32),
        )
        x = embedded.astype(config.dtype)
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x)

    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]:
        """Compute the logits of the next token at every position.

        Args:
            tokens: token ids, `(batch, time)`, below `vocab_size`; under `jit` others give NaN.

        Returns:
            Logits in the compute dtype, `(batch, time, vocab)`; those at a position depend on no
            later token and on no other sample.

        Raises:
            ValueError: if `tokens` is not an integer matrix or is longer than `max_seq_len`; where
                values are known, if an id is outside of the vocabulary.
        """
        hidden = self.hidden(tokens)
        return self.embedding.attend(hidden) if self.config.tie_embeddings else self.head(hidden)


def split_llama(model: Llama) -> tuple[ApplyFn, PyTree]:
    """Split a Llama into a pure function and its parameters, as `split_language_model` does.

    Args:
        model: the language model.

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, tokens) -> logits``.

    Example:
        >>> from lnpjax.models import preset
        >>> apply_fn, params = split_llama(Llama(preset("115K"), rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.zeros((2, 8), dtype="int32")).shape
        (2, 8, 256)
    """
    return split_language_model(model)
