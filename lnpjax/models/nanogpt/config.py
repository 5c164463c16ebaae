"""The shape of a nanoGPT, with every change of the chain of *Spectral Lens* as a flag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from jax.typing import DTypeLike

from lnpjax._base.checks import check_count, is_integer, require
from lnpjax.models.language import floating_dtype_name

Positions: TypeAlias = Literal["learned", "rotary", "truncated"]
Initial: TypeAlias = Literal["fan_in", "normal"]
ValueMix: TypeAlias = Literal["interpolated", "weighted"]
CapShape: TypeAlias = Literal["tanh", "sigmoid"]

TRUNCATED_BASE = 1024.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionWindow:
    """Which earlier positions a query sees, besides the rule that they are not later than itself.

    Attributes:
        size: how many positions at most, itself included, in the long layers. Where the inputs
            bring a window (`WindowedTokens`), this is the widest that they may bring.
        chunk: positions are worked on in chunks of this many, each of which sees itself and the
            one before: the cost is that of ``2 * chunk`` keys to a query, however long the
            sequence and however narrow the window is at present. No less than `size`; of
            sequences that are longer, a divisor.
        by_token: a key is less than the window's positions away.
        block: if given, keys are also seen in whole blocks of so many positions: those of the
            query's own block and of the ``ceil(window / block) - 1`` before it. At least one of
            the two rules must be in force; both are, in one variant.
        short_layers: layers whose window is half of it, in blocks rounded down, at least one.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> AttentionWindow(size=48, chunk=64, block=16, by_token=False).size
        48
    """

    size: int
    chunk: int
    by_token: bool = True
    block: int | None = None
    short_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size", "chunk", "block"):
            check_count(f"window: {name}", getattr(self, name), optional=name == "block")
        object.__setattr__(self, "short_layers", tuple(self.short_layers))
        rule = self.by_token or self.block is not None
        require(rule, "window: block", expected="a number of positions, or by_token", got=None)
        require(
            self.reach(self.size) <= self.chunk,
            "window: chunk",
            expected=f"at least the {self.reach(self.size)} positions of the window",
            got=self.chunk,
        )
        divides = self.block is None or self.chunk % self.block == 0
        expected = f"a multiple of block={self.block}"
        require(divides, "window: chunk", expected=expected, got=self.chunk)

    def reach(self, size: int) -> int:
        """Return how many positions a query sees at most if the window has this size."""
        blocks = size if self.block is None else -(-size // self.block) * self.block
        return min(size, blocks) if self.by_token else blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class NanoGPTConfig:
    """The shape of a nanoGPT and the precision it computes in.

    The defaults are the paper's Baseline without what its script does besides (`zero_outputs`).
    Every flag changes one thing; `lnpjax.models.nanogpt_variant` puts them together.

    Attributes:
        vocab_size: number of token ids.
        hidden_size: width of the residual stream; the feed-forward is four times as wide.
        num_layers: number of blocks.
        num_heads: number of heads, a divisor of `hidden_size`.
        max_seq_len: longest sequence accepted.
        tie_embeddings: read out with the transposed embedding instead of a matrix of its own.
        positions: "learned": a table, added to the embedding; "rotary": rotations of queries and
            keys; "truncated": rotations by the frequencies ``(1/1024)^linspace(0, 1, head_width /
            4)``, while the other half of the pairs stands still.
        rope_base: base of the frequencies of "rotary".
        norm_attention: divide queries and keys by their root mean square, before the rotation.
        norm_embedding: likewise the embedded tokens.
        output_bias: a bias on the output of attention.
        initial: "fan_in": matrices are uniform within ``fan_in^-1/2``, tables standard normal (a
            tied one is a matrix); "normal": standard deviation 0.02, and ``0.02 / sqrt(2
            num_layers)`` for what writes to the residual stream.
        zero_outputs: what writes to the residual stream starts at zero.
        zero_head: a read-out of its own starts at zero.
        value_mix: what is done to a layer's values v with those from elsewhere, u: None;
            "interpolated" ``(1 - l) v + l u``; "weighted" ``a v + b u``. All start at one half.
        value_tables: where u comes from. None: from the first layer, whose own values they are;
            else for each layer the number of the table of tokens, or None for ``u = 0``. Layers
            that name the same number share a table.
        shortcut: a block reads ``a x + b x_0`` of the stream and the embedded tokens; starts at (1,
            0).
        skips: the output of block i of the first half is added, times a weight that starts at one,
            to the input of the block ``num_layers - 1 - i``.
        without_attention: layers that are a feed-forward only.
        window: which earlier positions are seen; None for all of them.
        document_token: the token that begins a document; positions see their own only. None for
            no such token.
        attention_scale: what inner products are multiplied by; None for ``head_width^-1/2``.
        logit_cap: a soft cap of the logits; None for none.
        cap_shape: "tanh": ``c tanh(z / c)``; "sigmoid": ``2 c sigmoid(2 z / (c hidden_size^1/2))``.
        fp8_head: the read-out multiplies in eight-bit floating point; see `fp8_matmul`.
        fp8_gradient_scale: what its gradients are multiplied by before they are rounded; None to
            leave them: rounding is no linear map, so that measurements of the Jacobian want None.
        norm_eps: added to the mean square in every RMSNorm, none of which has gains.
        dtype: what the forward pass computes in, and the logits come in. Rotations, attention
            softmax and mean squares use at least float32.
        param_dtype: what the parameters are stored in.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> config = NanoGPTConfig(vocab_size=256, hidden_size=64, num_layers=2, num_heads=2,
        ...                        max_seq_len=64)
        >>> config.num_parameters
        118784
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_seq_len: int
    tie_embeddings: bool = True
    positions: Positions = "learned"
    rope_base: float = 10000.0
    norm_attention: bool = False
    norm_embedding: bool = False
    output_bias: bool = False
    initial: Initial = "fan_in"
    zero_outputs: bool = False
    zero_head: bool = False
    value_mix: ValueMix | None = None
    value_tables: tuple[int | None, ...] | None = None
    shortcut: bool = False
    skips: bool = False
    without_attention: tuple[int, ...] = ()
    window: AttentionWindow | None = None
    document_token: int | None = None
    attention_scale: float | None = None
    logit_cap: float | None = None
    cap_shape: CapShape = "tanh"
    fp8_head: bool = False
    fp8_gradient_scale: float | None = None
    norm_eps: float = 2.0**-23
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_seq_len"):
            check_count(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, floating_dtype_name(name, getattr(self, name)))
        object.__setattr__(self, "without_attention", tuple(self.without_attention))
        if self.value_tables is not None:
            object.__setattr__(self, "value_tables", tuple(self.value_tables))
        window: Any = self.window
        if isinstance(window, Mapping):  # as JSON has it
            object.__setattr__(self, "window", AttentionWindow(**window))
        _check_words(self)
        _check_sizes(self)
        _check_layers(self)

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        """Width inside the feed-forward."""
        return 4 * self.hidden_size

    @property
    def num_encoders(self) -> int:
        """Number of blocks in the first half, whose outputs `skips` hand on."""
        return self.num_layers // 2

    @property
    def num_value_tables(self) -> int:
        """Number of tables of values."""
        return len({table for table in self.value_tables or () if table is not None})

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form; a tied read-out counts once."""
        width = self.hidden_size
        tables = (1 if self.tie_embeddings else 2) + self.num_value_tables
        attentions = self.num_layers - len(self.without_attention)
        mixed = {None: 0, "interpolated": 1, "weighted": 2}[self.value_mix]
        attention = 4 * width**2 + mixed + (width if self.output_bias else 0)
        block = 2 * width * self.intermediate_size + (2 if self.shortcut else 0)
        return (
            (tables * self.vocab_size) * width
            + (self.max_seq_len * width if self.positions == "learned" else 0)
            + attentions * attention
            + self.num_layers * block
            + (self.num_layers - self.num_encoders if self.skips else 0)
        )


def _check_words(config: NanoGPTConfig) -> None:
    words = {"positions": Positions, "initial": Initial, "cap_shape": CapShape}
    for name, choices in words.items():
        known = getattr(config, name) in get_args(choices)
        expected = f"one of {', '.join(map(repr, get_args(choices)))}"
        require(known, name, expected=expected, got=repr(getattr(config, name)))
    known = config.value_mix is None or config.value_mix in get_args(ValueMix)
    expected = f"None, or one of {', '.join(map(repr, get_args(ValueMix)))}"
    require(known, "value_mix", expected=expected, got=repr(config.value_mix))


def _check_sizes(config: NanoGPTConfig) -> None:
    divides = config.hidden_size % config.num_heads == 0
    expected = f"a divisor of hidden_size={config.hidden_size}"
    require(divides, "num_heads", expected=expected, got=config.num_heads)
    parts = {"learned": 1, "rotary": 2, "truncated": 4}[config.positions]
    require(
        config.head_width % parts == 0,
        "num_heads",
        expected=f"heads whose width {parts} divides, for {config.positions!r} positions",
        got=f"a width of {config.head_width}",
    )
    for name in ("rope_base", "attention_scale", "logit_cap", "fp8_gradient_scale", "norm_eps"):
        value = getattr(config, name)
        optional = name not in ("rope_base", "norm_eps")
        fine = (value is None and optional) or (value is not None and 0 < value < math.inf)
        require(fine, name, expected="a finite number > 0", got=value)
    token = config.document_token
    inside = token is None or (is_integer(token) and 0 <= token < config.vocab_size)
    expected = f"an id below vocab_size={config.vocab_size}"
    require(inside, "document_token", expected=expected, got=token)
    untied = not (config.tie_embeddings and (config.fp8_head or config.zero_head))
    expected = "False where the read-out starts at zero or multiplies in eight bits"
    require(untied, "tie_embeddings", expected=expected, got=config.tie_embeddings)


def _check_layers(config: NanoGPTConfig) -> None:
    layers = range(config.num_layers)
    short = () if config.window is None else config.window.short_layers
    for name, chosen in (
        ("without_attention", config.without_attention),
        ("window: short_layers", short),
    ):
        fine = len(set(chosen)) == len(chosen) and set(chosen) <= set(layers)
        expected = f"distinct layers from 0 to {config.num_layers - 1}"
        require(fine, name, expected=expected, got=chosen)
    own = config.value_mix is not None and config.value_tables is None
    require(
        not (own and 0 in config.without_attention),
        "without_attention",
        expected="not layer 0, whose values the others mix in",
        got=config.without_attention,
    )
    tables = config.value_tables
    if tables is None:
        return
    require(config.value_mix is not None, "value_mix", expected="how tables are mixed in", got=None)
    require(
        len(tables) == config.num_layers,
        "value_tables",
        expected=f"one entry for each of {config.num_layers} layers",
        got=tables,
    )
    numbers = sorted({table for table in tables if table is not None})
    require(
        numbers == list(range(len(numbers))) and len(numbers) > 0,
        "value_tables",
        expected="the numbers 0, 1, ... of tables, none left out",
        got=tables,
    )
