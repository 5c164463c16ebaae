"""GPT-2, nanoGPT and GPT-NeoX (Pythia) as one Flax NNX module.

LayerNorm before each sub-layer, causal multi-head attention and a feed-forward of two layers, with
positions from a learned table or from rotations of a part of each head, and sub-layers one after
the other or side by side. The only state is `nnx.Param`, grouped at the top level as `embedding`,
`positions` (if learned), `layers`, `norm` and `head` (if untied), as in a `Llama`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_count, require
from lnpjax.models.attention import Attention, AttentionShape
from lnpjax.models.language import (
    INITIAL_STD,
    check_length,
    checked_tokens,
    floating_dtype_name,
    residual_std,
)
from lnpjax.models.rotary import rotary_angles

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
"""Activations of a feed-forward by name: GELU exactly, and with its tanh approximation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT and the precision it computes in.

    The defaults are those of GPT-2. Pythia has ``rotary_fraction=0.25``, ``parallel_residual=True``
    and ``activation="gelu"``; a nanoGPT has ``activation="gelu"``, ``tie_embeddings=True`` and
    often ``use_bias=False``.

    Attributes:
        vocab_size: number of token ids.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward.
        num_layers: number of blocks.
        num_heads: number of heads, a divisor of `hidden_size`.
        max_seq_len: longest sequence accepted.
        rotary_fraction: the part of each head that is rotated; None for a learned table of
            positions instead.
        rope_base: base of the rotary frequencies.
        parallel_residual: feed-forward and attention read the same residual stream, and both are
            added to it, instead of one after the other.
        use_bias: whether linear layers and norms have biases; the read-out never has.
        activation: a key of `ACTIVATIONS`.
        norm_eps: added to the variance in every LayerNorm.
        tie_embeddings: read out with the transposed embedding instead of a matrix of its own.
        dtype: what the forward pass computes in, and the logits come in. Rotations, attention
            softmax and variances use at least float32.
        param_dtype: what the parameters are stored in.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> config = GPTConfig(vocab_size=256, hidden_size=64, intermediate_size=256, num_layers=2,
        ...                    num_heads=4, max_seq_len=128)
        >>> config.num_parameters
        141056
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_seq_len: int
    rotary_fraction: float | None = None
    rope_base: float = 10000.0
    parallel_residual: bool = False
    use_bias: bool = True
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads")
        for name in (*sizes, "max_seq_len"):
            check_count(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))
        fraction = self.rotary_fraction
        in_range = fraction is None or 0 < fraction <= 1
        require(in_range, "rotary_fraction", expected="None, or in (0, 1]", got=fraction)
        check_block(self.block)
        require(
            self.rotary_width % 2 == 0 and (fraction is None or self.rotary_width > 0),
            "rotary_fraction",
            expected=f"an even number of the {self.block.head_width} coordinates of a head",
            got=self.rotary_width,
        )
        require(self.rope_base > 0, "rope_base", expected="a number > 0", got=self.rope_base)
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, floating_dtype_name(name, getattr(self, name)))

    @property
    def block(self) -> BlockShape:
        """The shape of one block."""
        return BlockShape(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            parallel_residual=self.parallel_residual,
            use_bias=self.use_bias,
            activation=self.activation,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    @property
    def rotary_width(self) -> int:
        """How many coordinates of each head are rotated."""
        return int(self.block.head_width * (self.rotary_fraction or 0))

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form; a tied read-out counts once."""
        block = self.block
        token_matrices = 1 if self.tie_embeddings else 2
        positions = self.max_seq_len if self.rotary_fraction is None else 0
        return (
            (token_matrices * self.vocab_size + positions) * self.hidden_size
            + self.num_layers * block.num_parameters
            + block.norm_parameters
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockShape:
    """The shape of a transformer block; fields as in `GPTConfig`, which makes it.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward.
        num_layers: number of blocks, which scales the initial weights.
        num_heads: number of heads.
        causal: whether a position sees only itself and those before it.
        parallel_residual: whether attention and feed-forward read the same stream.
        use_bias: whether layers and norms have biases.
        activation: a key of `ACTIVATIONS`.
        norm_eps: added to the variance in every LayerNorm.
        dtype: what it computes in.
        param_dtype: what its parameters are stored in.

    Example:
        >>> shape = BlockShape(hidden_size=8, intermediate_size=32, num_layers=1, num_heads=2)
        >>> shape.head_width, shape.num_parameters
        (4, 872)
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    causal: bool = True
    parallel_residual: bool = False
    use_bias: bool = True
    activation: str = "gelu"
    norm_eps: float = 1e-5
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def norm_parameters(self) -> int:
        """Number of parameters of one LayerNorm."""
        return self.hidden_size * (2 if self.use_bias else 1)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of one block."""
        matrices = 2 * self.hidden_size * (2 * self.hidden_size + self.intermediate_size)
        biases = 5 * self.hidden_size + self.intermediate_size if self.use_bias else 0
        return matrices + biases + 2 * self.norm_parameters


def check_block(shape: BlockShape) -> None:
    """Refuse a block that cannot be built.

    Args:
        shape: its shape, whose sizes are positive integers.

    Raises:
        ValueError: naming the field that is invalid.

    Example:
        >>> check_block(BlockShape(hidden_size=8, intermediate_size=9, num_layers=1, num_heads=3))
        Traceback (most recent call last):
            ...
        ValueError: num_heads: expected a divisor of hidden_size=8, got 3
    """
    divides = shape.hidden_size % shape.num_heads == 0
    expected = f"a divisor of hidden_size={shape.hidden_size}"
    require(divides, "num_heads", expected=expected, got=shape.num_heads)
    expected = f"one of {', '.join(map(repr, ACTIVATIONS))}"
    known = shape.activation in ACTIVATIONS
    require(known, "activation", expected=expected, got=repr(shape.activation))
    require(shape.norm_eps > 0, "norm_eps", expected="a number > 0", got=shape.norm_eps)


def _linear(
    shape: BlockShape, in_size: int, out_size: int, *, std: float = INITIAL_STD, rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        in_size,
        out_size,
        use_bias=shape.use_bias,
        dtype=shape.dtype,
        param_dtype=shape.param_dtype,
        kernel_init=nnx.initializers.normal(std),
        rngs=rngs,
    )


def layer_norm(shape: BlockShape, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Make a LayerNorm of the residual stream.

    Args:
        shape: of the blocks.
        rngs: random streams.

    Example:
        >>> shape = BlockShape(hidden_size=2, intermediate_size=2, num_layers=1, num_heads=1)
        >>> layer_norm(shape, rngs=nnx.Rngs(0))(jnp.array([[1001.0, 1003.0]])).round(3).tolist()
        [[-1.0, 1.0]]
    """
    return nnx.LayerNorm(
        shape.hidden_size,
        epsilon=shape.norm_eps,
        use_bias=shape.use_bias,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large
        dtype=shape.dtype,
        param_dtype=shape.param_dtype,
        rngs=rngs,
    )


class FeedForward(nnx.Module):
    """`down(activation(up(x)))`."""

    def __init__(self, shape: BlockShape, *, rngs: nnx.Rngs) -> None:
        linear = partial(_linear, shape, rngs=rngs)
        self.activation = shape.activation
        self.up = linear(shape.hidden_size, shape.intermediate_size)
        std = residual_std(shape.num_layers)
        self.down = linear(shape.intermediate_size, shape.hidden_size, std=std)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        """Apply the feed-forward to every position on its own."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """Attention and feed-forward, each normalised before and added to the residual stream.

    Args:
        shape: its shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> shape = BlockShape(hidden_size=8, intermediate_size=32, num_layers=1, num_heads=2)
        >>> Block(shape, rngs=nnx.Rngs(0))(jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    def __init__(self, shape: BlockShape, *, rngs: nnx.Rngs) -> None:
        attention = AttentionShape(
            hidden_size=shape.hidden_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_heads,
            head_width=shape.head_width,
            causal=shape.causal,
        )
        linear = partial(_linear, shape, rngs=rngs)
        output = partial(linear, std=residual_std(shape.num_layers))
        self.parallel_residual = shape.parallel_residual
        self.attention_norm = layer_norm(shape, rngs=rngs)
        self.attention = Attention(attention, linear=linear, output=output)
        self.feed_forward_norm = layer_norm(shape, rngs=rngs)
        self.feed_forward = FeedForward(shape, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch time hidden"],
        angles: Float[Array, "time half"] | None = None,
    ) -> Float[Array, "batch time hidden"]:
        """Apply the block; `angles` come from `rotary_angles`."""
        mixed = x + self.attention(self.attention_norm(x), angles)
        read = x if self.parallel_residual else mixed
        return mixed + self.feed_forward(self.feed_forward_norm(read))


class GPT(nnx.Module):
    """A GPT-2 (Radford et al., 2019) or GPT-NeoX (Black et al., 2022) language model.

    Matrices start as normal draws with standard deviation 0.02, those that write to the residual
    stream (`attention.output`, `feed_forward.down`) with `0.02 / sqrt(2 * num_layers)`; biases
    start at zero and gains at one.

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> config = GPTConfig(vocab_size=16, hidden_size=8, intermediate_size=32, num_layers=1,
        ...                    num_heads=2, max_seq_len=6)
        >>> GPT(config, rngs=nnx.Rngs(0))(jnp.zeros((2, 6), dtype="int32")).shape
        (2, 6, 16)
    """

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        table = partial(
            nnx.Embed,
            features=config.hidden_size,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            embedding_init=nnx.initializers.normal(INITIAL_STD),
            rngs=rngs,
        )
        self.config = config
        self.embedding = table(config.vocab_size)
        if config.rotary_fraction is None:
            self.positions = table(config.max_seq_len)
        block = config.block
        self.layers = nnx.List([Block(block, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = layer_norm(block, rngs=rngs)
        if not config.tie_embeddings:
            bare = dataclasses.replace(block, use_bias=False)
            self.head = _linear(bare, config.hidden_size, config.vocab_size, rngs=rngs)

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
        return self.transform(self.embedding(checked_tokens(tokens, self.config.vocab_size)))

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
        x, angles = embedded.astype(config.dtype), None
        if config.rotary_fraction is None:
            x = x + self.positions.embedding[:time].astype(config.dtype)
        else:
            dtype = jnp.promote_types(config.dtype, jnp.float32)
            angles = rotary_angles(time, config.rotary_width, base=config.rope_base, dtype=dtype)
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
