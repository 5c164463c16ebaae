"""nanoGPT in Flax NNX: one decoder with flags for every change of the chain of *Spectral Lens*.

Layers are named as in a `lnpjax.models.Llama`, so that probes and hidden states find their way:
`embedding`, `positions` (if learned), `layers/i/attention/{query,key,value,output}`,
`layers/i/feed_forward/{up,down}`, `norm` and `head` (if untied). Besides, where flags ask for them,
there are `value_tables`, `layers/i/attention/value_mix`, `layers/i/shortcut` and `skip_weights`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import concrete, require
from lnpjax.models.language import INITIAL_STD, check_length, checked_tokens, residual_std
from lnpjax.models.nanogpt.attention import Neighbourhood, Visibility, attend
from lnpjax.models.nanogpt.config import TRUNCATED_BASE, NanoGPTConfig
from lnpjax.models.nanogpt.head import capped, fp8_matmul
from lnpjax.models.rotary import rotary_angles, rotate_pairs


class WindowedTokens(NamedTuple):
    """Tokens, and how far attention reaches at this step of training: an input like any other.

    Attributes:
        tokens: token ids.
        window: positions that a query of the sample sees, at least 1 and at most the
            `AttentionWindow.size` of the model, to which more is cut.

    Example:
        >>> WindowedTokens(jnp.zeros((2, 8), int), jnp.full(2, 4)).window.tolist()
        [4, 4]
    """

    tokens: Int[Array, "batch time"]
    window: Int[Array, " batch"]


Tokens: TypeAlias = Int[Array, "batch time"] | WindowedTokens


@dataclasses.dataclass
class _Pass:
    """What the blocks of one forward pass share.

    A block can return nothing but the stream, or its output would not be a hidden state: the first
    block leaves its values here for the others.
    """

    origin: Array
    around: Neighbourhood
    angles: Array | None
    elsewhere: list[Array | None]
    first_values: Array | None = None


def _norm(config: NanoGPTConfig, width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        width,
        epsilon=config.norm_eps,
        use_scale=False,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _linear(
    config: NanoGPTConfig,
    in_size: int,
    out_size: int,
    *,
    rngs: nnx.Rngs,
    writes: bool = False,
    zero: bool = False,
    use_bias: bool = False,
) -> nnx.Linear:
    """Make a layer; `writes` to the residual stream, or starts at zero."""
    if zero or (writes and config.zero_outputs):
        initial = nnx.initializers.zeros
    elif config.initial == "normal":
        initial = nnx.initializers.normal(
            residual_std(config.num_layers) if writes else INITIAL_STD
        )
    else:
        initial = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Linear(
        in_size,
        out_size,
        use_bias=use_bias,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        kernel_init=initial,
        rngs=rngs,
    )


def _table(config: NanoGPTConfig, size: int, rngs: nnx.Rngs, *, tied: bool = False) -> nnx.Embed:
    if config.initial == "normal":
        initial = nnx.initializers.normal(INITIAL_STD)
    elif tied:  # as the read-out's matrix would start
        initial = nnx.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
        )
    else:
        initial = nnx.initializers.normal(1.0)
    return nnx.Embed(
        size,
        config.hidden_size,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        embedding_init=initial,
        rngs=rngs,
    )


def _scalars(config: NanoGPTConfig, values: list[float] | float) -> nnx.Param:
    return nnx.Param(jnp.asarray(values, config.param_dtype))


class NanoAttention(nnx.Module):
    """Attention of one layer, with the flags of its config.

    Args:
        config: the shape.
        layer: the number of the layer.
        rngs: the random streams that draw the initial parameters.
    """

    def __init__(self, config: NanoGPTConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        linear = partial(_linear, config, width, width, rngs=rngs)
        self.config = config
        window = config.window
        self.visible = Visibility(window, window is not None and layer in window.short_layers)
        self.query, self.key, self.value = linear(), linear(), linear()
        self.output = linear(writes=True, use_bias=config.output_bias)
        if config.norm_attention:
            self.norm = _norm(config, config.head_width, rngs)
        if config.value_mix is not None:
            weighted = config.value_mix == "weighted"
            self.value_mix = _scalars(config, [0.5, 0.5] if weighted else 0.5)

    def __call__(
        self, x: Float[Array, "batch time hidden"], shared: _Pass, layer: int
    ) -> Float[Array, "batch time hidden"]:
        """Mix positions."""
        config = self.config
        heads = (*x.shape[:2], config.num_heads, config.head_width)
        query, key = (part.reshape(heads) for part in (self.query(x), self.key(x)))
        if config.norm_attention:
            query, key = self.norm(query), self.norm(key)
        if shared.angles is not None:
            query, key = (self._rotated(part, shared.angles) for part in (query, key))
        scale = config.attention_scale
        mixed = attend(
            query,
            key,
            self._mixed_values(self.value(x), shared, layer).reshape(heads),
            scale=config.head_width**-0.5 if scale is None else scale,
            visible=self.visible,
            around=shared.around,
        )
        return self.output(mixed.reshape(x.shape))

    def _rotated(
        self, x: Float[Array, "batch time heads width"], angles: Float[Array, "time half"]
    ) -> Float[Array, "batch time heads width"]:
        turned = rotate_pairs(x.swapaxes(1, 2), angles, interleaved=False)
        return turned.swapaxes(1, 2)

    def _mixed_values(
        self, own: Float[Array, "batch time hidden"], shared: _Pass, layer: int
    ) -> Float[Array, "batch time hidden"]:
        config = self.config
        if config.value_mix is None:
            return own
        mix = self.value_mix[...].astype(own.dtype)
        if config.value_tables is not None:
            other = shared.elsewhere[layer]
        else:
            shared.first_values = own if shared.first_values is None else shared.first_values
            other = shared.first_values
        kept, added = (mix[0], mix[1]) if config.value_mix == "weighted" else (1 - mix, mix)
        return kept * own if other is None else kept * own + added * other


class NanoFeedForward(nnx.Module):
    """`down(relu(up(x))^2)` (So et al., 2021).

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.
    """

    def __init__(self, config: NanoGPTConfig, *, rngs: nnx.Rngs) -> None:
        width, inside = config.hidden_size, config.intermediate_size
        self.up = _linear(config, width, inside, rngs=rngs)
        self.down = _linear(config, inside, width, writes=True, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch hidden"]) -> Float[Array, "*batch hidden"]:
        """Apply the feed-forward to every position on its own."""
        return self.down(jax.nn.relu(self.up(x)) ** 2)


class NanoBlock(nnx.Module):
    """Attention (in most layers), then feed-forward, each normalised before and added.

    Args:
        config: the shape.
        layer: the number of the layer.
        rngs: the random streams that draw the initial parameters.
    """

    def __init__(self, config: NanoGPTConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        self.layer = layer
        self.has_attention = layer not in config.without_attention
        self.has_shortcut = config.shortcut
        if self.has_attention:
            self.attention_norm = _norm(config, config.hidden_size, rngs)
            self.attention = NanoAttention(config, layer, rngs=rngs)
        self.feed_forward_norm = _norm(config, config.hidden_size, rngs)
        self.feed_forward = NanoFeedForward(config, rngs=rngs)
        if config.shortcut:
            self.shortcut = _scalars(config, [1.0, 0.0])

    def __call__(
        self, x: Float[Array, "batch time hidden"], shared: _Pass
    ) -> Float[Array, "batch time hidden"]:
        """Apply the block."""
        if self.has_shortcut:
            weights = self.shortcut[...].astype(x.dtype)
            x = weights[0] * x + weights[1] * shared.origin
        if self.has_attention:
            x = x + self.attention(self.attention_norm(x), shared, self.layer)
        return x + self.feed_forward(self.feed_forward_norm(x))


class NanoGPT(nnx.Module):
    """A nanoGPT as the speed runs of GPT-2 have changed it (Jordan et al., 2024).

    `lnpjax.from_nnx` splits it into a pure function and its parameters. Values, documents and
    windows depend on the tokens of a sample alone, so per-sample Jacobians are meaningful.

    Args:
        config: the shape, such as one that `lnpjax.models.nanogpt_variant` makes.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> config = NanoGPTConfig(vocab_size=16, hidden_size=8, num_layers=1, num_heads=2,
        ...                        max_seq_len=6)
        >>> NanoGPT(config, rngs=nnx.Rngs(0))(jnp.zeros((2, 6), dtype="int32")).shape
        (2, 6, 16)
    """

    def __init__(self, config: NanoGPTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = _table(config, config.vocab_size, rngs, tied=config.tie_embeddings)
        if config.positions == "learned":
            self.positions = _table(config, config.max_seq_len, rngs)
        if config.norm_embedding:
            self.embedding_norm = _norm(config, config.hidden_size, rngs)
        if config.num_value_tables:
            self.value_tables = nnx.List(
                [_table(config, config.vocab_size, rngs) for _ in range(config.num_value_tables)]
            )
        self.layers = nnx.List(
            [NanoBlock(config, layer, rngs=rngs) for layer in range(config.num_layers)]
        )
        if config.skips:
            self.skip_weights = _scalars(config, [1.0] * (config.num_layers - config.num_encoders))
        self.norm = _norm(config, config.hidden_size, rngs)
        if not config.tie_embeddings:
            self.head = _linear(
                config, config.hidden_size, config.vocab_size, zero=config.zero_head, rngs=rngs
            )

    def hidden(self, inputs: Tokens) -> Float[Array, "batch time hidden"]:
        """Compute the final normalised hidden states, which the read-out turns into logits.

        Args:
            inputs: token ids, `(batch, time)`, or `WindowedTokens`; ids below `vocab_size`, under
                `jit` others give NaN.

        Returns:
            Hidden states in the compute dtype, `(batch, time, hidden)`.

        Raises:
            ValueError: if the tokens are not an integer matrix, are longer than `max_seq_len` or no
                multiple of a chunk; if a window comes to a model without; where values are known,
                if an id is outside of the vocabulary or a window is below 1.
        """
        config = self.config
        tokens, window = inputs if isinstance(inputs, WindowedTokens) else (inputs, None)
        ids = checked_tokens(tokens, config.vocab_size)
        time = ids.shape[1]
        check_length(time, config.max_seq_len)
        x = self.embedding(ids).astype(config.dtype)
        if config.positions == "learned":
            x = x + self.positions.embedding[:time].astype(config.dtype)
        if config.norm_embedding:
            x = self.embedding_norm(x)
        shared = _Pass(x, self._around(ids, window), self._angles(time), self._values(ids))
        return self.norm(self._through_blocks(x, shared))

    def __call__(self, inputs: Tokens) -> Float[Array, "batch time vocab"]:
        """Compute the logits of the next token at every position.

        Args:
            inputs: token ids, `(batch, time)`, or `WindowedTokens`; ids below `vocab_size`, under
                `jit` others give NaN.

        Returns:
            Logits in the compute dtype, `(batch, time, vocab)`; those at a position depend on no
            later token and on no other sample.

        Raises:
            ValueError: as `hidden` does.
        """
        config = self.config
        hidden = self.hidden(inputs)
        if config.tie_embeddings:
            logits = self.embedding.attend(hidden)
        elif config.fp8_head:
            kernel = self.head.kernel[...].astype(config.dtype)
            logits = fp8_matmul(hidden, kernel, config.fp8_gradient_scale)
        else:
            logits = self.head(hidden)
        return capped(logits, config.logit_cap, config.cap_shape, config.hidden_size)

    def _through_blocks(
        self, x: Float[Array, "batch time hidden"], shared: _Pass
    ) -> Float[Array, "batch time hidden"]:
        config = self.config
        kept: list[Array] = []
        for number, layer in enumerate(self.layers):
            decoder = number - config.num_encoders
            if config.skips and decoder >= 0 and kept:
                x = x + self.skip_weights[decoder].astype(x.dtype) * kept.pop()
            x = layer(x, shared)
            if decoder < 0:
                kept.append(x)
        return x

    def _values(self, ids: Int[Array, "batch time"]) -> list[Array | None]:
        config = self.config
        if config.value_tables is None:
            return []
        rows = [table(ids).astype(config.dtype) for table in self.value_tables]
        return [None if number is None else rows[number] for number in config.value_tables]

    def _angles(self, time: int) -> Float[Array, "time half"] | None:
        config = self.config
        dtype = jnp.promote_types(config.dtype, jnp.float32)
        if config.positions == "rotary":
            return rotary_angles(time, config.head_width, base=config.rope_base, dtype=dtype)
        if config.positions == "truncated":
            return truncated_angles(time, config.head_width, dtype=dtype)
        return None

    def _around(
        self, ids: Int[Array, "batch time"], window: Int[Array, " batch"] | None
    ) -> Neighbourhood:
        rule = self.config.window
        require(
            rule is not None or window is None,
            "window",
            expected="none, since the model has no windows",
            got="a window",
        )
        if rule is not None:
            window = jnp.full(len(ids), rule.size) if window is None else jnp.asarray(window)
            integer = window.shape == ids.shape[:1] and jnp.issubdtype(window.dtype, jnp.integer)
            expected = f"an integer for each of {len(ids)} samples"
            require(integer, "window", expected=expected, got=f"{window.dtype}{window.shape}")
            values = concrete(window)
            known = values is None or bool((values >= 1).all())
            require(known, "window", expected="at least one position", got=values)
            window = jnp.minimum(window, rule.size)
        token = self.config.document_token
        documents = None if token is None else jnp.cumsum(ids == token, axis=1)
        return Neighbourhood(window, documents)


def truncated_angles(time: int, head_width: int, *, dtype: DTypeLike) -> Float[Array, "time half"]:
    """Compute angles ``t (1/1024)^(i / (n - 1))`` of half of a head's n = head_width / 4 pairs.

    The other pairs are not turned: their angles are zero.

    Args:
        time: number of positions, counted from 0.
        head_width: width of one head, a multiple of four.
        dtype: dtype of the result.

    Returns:
        Angles in radians, `(time, head_width / 2)`.

    Example:
        >>> truncated_angles(2, 8, dtype=jnp.float32)[1].tolist()
        [1.0, 0.0009765625, 0.0, 0.0]
    """
    turned = head_width // 4
    frequencies = TRUNCATED_BASE ** -jnp.linspace(0, 1, turned, dtype=dtype)
    frequencies = jnp.pad(frequencies, (0, head_width // 2 - turned))
    return jnp.outer(jnp.arange(time, dtype=dtype), frequencies)
