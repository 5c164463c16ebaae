"""The toy transformer of *Spectral Lens* (F.3) in Flax NNX: modular arithmetic, token by token.

Two pre-norm blocks of causal attention and a squared-ReLU feed-forward. RMS norms have no gains,
and the matrices that write to the residual stream start at zero. The interventions `rotary` and
`untied` change the architecture; the third, Muon, is an optimizer.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_count, checked_ids, require
from lnpjax.models.rotary import rotary_angles, rotate_pairs

NORM_EPS = 1e-6
ROTARY_BASE = 10_000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModularTransformerConfig:
    """The shape of the toy transformer.

    The paper gives two layers, four heads, context 64 and vocabulary 1024. The width, the ratio of
    the feed-forward and the initialisation are those of the authors' scripts.

    Attributes:
        vocab_size: number of tokens.
        context_length: longest sequence accepted.
        hidden_size: width of the residual stream.
        num_layers: number of blocks.
        num_heads: number of heads.
        mlp_ratio: width inside the feed-forward, in units of `hidden_size`.
        rotary: rotate queries and keys, each normalised over its head first, instead of adding a
            learned table of positions to the embedding.
        untied: read out with a matrix of its own, which starts at zero, instead of the transposed
            embedding; embedded tokens are then normalised before the first block.
        embedding_std: standard deviation of the initial embedding. At 1, the default of the
            authors' framework, a tied read-out starts by predicting the current token with a logit
            of `hidden_size`.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> tied = ModularTransformerConfig(vocab_size=32, hidden_size=16)
        >>> untied = dataclasses.replace(tied, untied=True)
        >>> untied.num_parameters - tied.num_parameters == 32 * 16
        True
    """

    vocab_size: int = 1024
    context_length: int = 64
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 2
    rotary: bool = False
    untied: bool = False
    embedding_std: float = 1.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context_length", "hidden_size", "num_layers", "num_heads")
        for name in (*sizes, "mlp_ratio"):
            check_count(name, getattr(self, name))
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            "hidden_size",
            expected=f"a multiple of twice num_heads={self.num_heads} (rotations turn pairs)",
            got=self.hidden_size,
        )

    @property
    def num_parameters(self) -> int:
        """Number of parameters; a tied read-out counts once."""
        block = (4 + 2 * self.mlp_ratio) * self.hidden_size**2
        positions = 0 if self.rotary else self.context_length * self.hidden_size
        token_matrices = 2 if self.untied else 1
        return (
            token_matrices * self.vocab_size * self.hidden_size
            + positions
            + self.num_layers * block
        )


def rms_normalized(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """Scale vectors to a root mean square of one.

    Example:
        >>> rms_normalized(jnp.array([3.0, -3.0])).round(3).tolist()
        [1.0, -1.0]
    """
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + NORM_EPS)


def _linear(in_size: int, out_size: int, *, zero: bool = False, rngs: nnx.Rngs) -> nnx.Linear:
    """Make a layer without bias; uniform on +-1 / sqrt(in_size), or zero."""
    uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    init = nnx.initializers.zeros if zero else uniform
    return nnx.Linear(in_size, out_size, use_bias=False, kernel_init=init, rngs=rngs)


class ModularAttention(nnx.Module):
    """Causal attention."""

    def __init__(self, config: ModularTransformerConfig, *, rngs: nnx.Rngs) -> None:
        linear = partial(_linear, config.hidden_size, config.hidden_size, rngs=rngs)
        self.config = config
        self.query, self.key, self.value = linear(), linear(), linear()
        self.output = linear(zero=True)

    def __call__(self, x: Float[Array, "batch time hidden"]) -> Float[Array, "batch time hidden"]:
        """Mix each position with those before it."""
        config = self.config
        batch, time, width = x.shape
        head_width = width // config.num_heads
        query, key, value = (
            layer(x).reshape(batch, time, config.num_heads, head_width).transpose(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        if config.rotary:
            angles = rotary_angles(time, head_width, base=ROTARY_BASE, dtype=x.dtype)
            query, key = (
                rotate_pairs(rms_normalized(heads), angles, interleaved=False)
                for heads in (query, key)
            )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(head_width)
        weights = jax.nn.softmax(jnp.where(jnp.tri(time, dtype=bool), scores, -jnp.inf))
        return self.output((weights @ value).transpose(0, 2, 1, 3).reshape(batch, time, width))


class ModularFeedForward(nnx.Module):
    """`down(relu(up(x))^2)`."""

    def __init__(self, config: ModularTransformerConfig, *, rngs: nnx.Rngs) -> None:
        inner = config.mlp_ratio * config.hidden_size
        self.up = _linear(config.hidden_size, inner, rngs=rngs)
        self.down = _linear(inner, config.hidden_size, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        """Apply the feed-forward to every position on its own."""
        return self.down(jnp.square(jax.nn.relu(self.up(x))))


class ModularBlock(nnx.Module):
    """Attention, then feed-forward, each of the normalised stream and added to it."""

    def __init__(self, config: ModularTransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.attention = ModularAttention(config, rngs=rngs)
        self.feed_forward = ModularFeedForward(config, rngs=rngs)

    def __call__(self, x: Float[Array, "batch time hidden"]) -> Float[Array, "batch time hidden"]:
        """Apply the block."""
        x = x + self.attention(rms_normalized(x))
        return x + self.feed_forward(rms_normalized(x))


class ModularTransformer(nnx.Module):
    """The toy transformer.

    Its parameters are grouped at the top level as `embedding`, `positions` (unless rotary),
    `layers` and `head` (if untied).

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> config = ModularTransformerConfig(vocab_size=16, hidden_size=8, context_length=6)
        >>> model = ModularTransformer(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.zeros((2, 6), dtype="int32")
        >>> model(tokens).shape, model.last_hidden(tokens).shape
        ((2, 6, 16), (2, 8))
    """

    def __init__(self, config: ModularTransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            embedding_init=nnx.initializers.normal(config.embedding_std),
            rngs=rngs,
        )
        if not config.rotary:
            self.positions = nnx.Embed(
                config.context_length,
                config.hidden_size,
                embedding_init=nnx.initializers.normal(0.02),
                rngs=rngs,
            )
        self.layers = nnx.List([ModularBlock(config, rngs=rngs) for _ in range(config.num_layers)])
        if config.untied:
            self.head = _linear(config.hidden_size, config.vocab_size, zero=True, rngs=rngs)

    def hidden(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time hidden"]:
        """Compute the final normalised hidden states, which the read-out turns into logits.

        Args:
            tokens: token ids, `(batch, time)`, below `vocab_size`; under `jit` others give NaN.

        Returns:
            Hidden states, `(batch, time, hidden)`.

        Raises:
            TypeError: if `tokens` are not integers.
            ValueError: if `tokens` is not a matrix or is longer than the context; where values are
                known, if an id is outside of the vocabulary.
        """
        require(
            jnp.ndim(tokens) == 2,
            "tokens",
            expected="shape (batch, time)",
            got=f"shape {jnp.shape(tokens)}",
        )
        time = tokens.shape[1]
        require(
            time <= self.config.context_length,
            "tokens",
            expected=f"at most context_length={self.config.context_length} positions",
            got=time,
        )
        x = self.embedding(checked_ids("tokens", tokens, self.config.vocab_size))
        if not self.config.rotary:
            x = x + self.positions.embedding[:time]
        if self.config.untied:
            x = rms_normalized(x)
        for layer in self.layers:
            x = layer(x)
        return rms_normalized(x)

    def last_hidden(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch hidden"]:
        """Compute the hidden state at the last token: one vector per sequence."""
        return self.hidden(tokens)[:, -1]

    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]:
        """Compute the logits of the next token at every position; none depends on a later token."""
        hidden = self.hidden(tokens)
        return self.head(hidden) if self.config.untied else self.embedding.attend(hidden)
