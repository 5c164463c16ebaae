"""The sixteen variants of *Spectral Lens*, each on top of the one before, and their sizes.

What the paper's Table 2 names stands beside what the released scripts change besides (hidden
confounds), every one a flag of `NanoGPTConfig`. Where the two leave open what is meant:

- The script of the Baseline has one matrix for queries, keys and values. Three are the same
  function, with the same start and, under Adam, the same course.
- The script of RoPE adds a bias to the output of attention. Table 4 counts without it, and so do
  its successors.
- TruncRoPE turns pairs the other way round and splits its mask into full and partial blocks, and
  LSWA counts blocks from the most recent one: neither changes which function is computed, up to a
  permutation of the coordinates of a head.
- AttnScale writes multipliers of learning rates ("SubLR") to parameters whose optimizers do not
  read them; it also turns the cap into a sigmoid, of logits divided by the root of the width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from lnpjax._base.checks import check_count, require
from lnpjax.models.nanogpt.config import AttentionWindow, NanoGPTConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class NanoGPTSize:
    """The sizes that all variants of a chain share.

    Attributes:
        num_layers: an even number of blocks, at least four.
        num_heads: number of heads.
        hidden_size: width of the residual stream.
        vocab_size: number of token ids.
        context: positions up to U-Net.
        long_context: positions from FixedWin on.
        fixed_window: of FixedWin.
        first_window: that FlexWin starts with, and is rounded down to a multiple of.
        last_window: that it ends with.
        block: positions of a block of the mask, from BetterWin on.
        chunk: positions that are worked on at a time, from FlexWin on.
        document_token: the token that begins a document, from FixedWin on.

    Raises:
        ValueError: on construction, if a number is invalid; the message names it.

    Example:
        >>> NANOGPT_SIZES["d12"].value_pattern
        (0, 1, 2, None, None, None, None, None, None, 0, 1, 2)
    """

    num_layers: int
    num_heads: int
    hidden_size: int
    vocab_size: int = 50_304
    context: int = 1024
    long_context: int = 65_536
    fixed_window: int = 1024
    first_window: int = 64
    last_window: int = 1792
    block: int = 128
    chunk: int = 2048
    document_token: int | None = 50_256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            optional = field.name == "document_token"
            least = 0 if optional else 4 if field.name == "num_layers" else 1
            check_count(field.name, getattr(self, field.name), least=least, optional=optional)
        even = self.num_layers % 2 == 0
        require(even, "num_layers", expected="an even number", got=self.num_layers)

    @property
    def value_pattern(self) -> tuple[int | None, ...]:
        """The tables of SparseV: 0, 1, 2, 0, ... in the first and the last quarter of the layers.

        At 12 layers and more this is what the scripts do; below, they would put tables everywhere.
        """
        ends = [index % 3 for index in range(max(1, round(self.num_layers / 4)))]
        return (*ends, *(None,) * (self.num_layers - 2 * len(ends)), *ends)

    @property
    def layer_without_attention(self) -> int:
        """The layer of SparseV that has none: the second of the second half, never the last."""
        return min(self.num_layers // 2 + 1, self.num_layers - 2)

    @property
    def short_layers(self) -> tuple[int, ...]:
        """The short layers of LSWA: long, short, short, short, ..., mirrored in the second half."""
        half = self.num_layers // 2
        short = [layer for layer in range(half) if layer % 4 != 0]
        return (*short, *sorted(self.num_layers - 1 - layer for layer in short))


NANOGPT_SIZES = {
    "d12": NanoGPTSize(num_layers=12, num_heads=6, hidden_size=768),
    "d36": NanoGPTSize(num_layers=36, num_heads=20, hidden_size=1280, long_context=32_768),
    "d48": NanoGPTSize(num_layers=48, num_heads=25, hidden_size=1600, long_context=32_768),
    "d6": NanoGPTSize(
        num_layers=6,
        num_heads=2,
        hidden_size=64,
        vocab_size=256,
        context=64,
        long_context=512,
        fixed_window=64,
        first_window=4,
        last_window=112,
        block=8,
        chunk=128,
        document_token=0,
    ),
}
"""The sizes of the paper (its Table 3), and a sixteenth of the lengths of d12 for bytes ("d6")."""

Changes: TypeAlias = Callable[[NanoGPTSize], dict[str, Any]]


def _rope(size: NanoGPTSize) -> dict[str, Any]:  # noqa: ARG001
    return {
        "positions": "rotary",
        "norm_attention": True,
        "initial": "normal",
        "zero_outputs": False,
        "output_bias": True,
    }


def _muon(size: NanoGPTSize) -> dict[str, Any]:  # noqa: ARG001
    return {"initial": "fan_in", "zero_outputs": True, "output_bias": False}


def _value_mix(size: NanoGPTSize) -> dict[str, Any]:  # noqa: ARG001
    return {"value_mix": "interpolated", "shortcut": True, "logit_cap": 30.0}


def _fixed_window(size: NanoGPTSize) -> dict[str, Any]:
    return {
        "window": AttentionWindow(size=size.fixed_window, chunk=size.fixed_window),
        "max_seq_len": size.long_context,
        "document_token": size.document_token,
    }


def _window(size: NanoGPTSize, **rule: Any) -> dict[str, Any]:
    return {"window": AttentionWindow(size=size.last_window, chunk=size.chunk, **rule)}


def _better_window(size: NanoGPTSize) -> dict[str, Any]:
    half = tuple(range(size.num_layers // 2))
    return {"value_tables": (*half, *reversed(half)), **_window(size, block=size.block)}


def _sparse_values(size: NanoGPTSize) -> dict[str, Any]:
    return {
        "value_tables": size.value_pattern,
        "value_mix": "weighted",
        "without_attention": (size.layer_without_attention,),
        **_window(size, block=size.block, by_token=False),
    }


def _long_short(size: NanoGPTSize) -> dict[str, Any]:
    return _window(size, block=size.block, by_token=False, short_layers=size.short_layers)


NANOGPT_VARIANTS: dict[str, Changes] = {
    "Baseline": lambda _: {"zero_outputs": True},
    "RoPE": _rope,
    "Muon": _muon,
    "Untied": lambda _: {"tie_embeddings": False, "zero_head": True, "norm_embedding": True},
    "ValueMix": _value_mix,
    "U-Net": lambda _: {"skips": True},
    "FixedWin": _fixed_window,
    "FlexWin": _window,
    "VTE": lambda size: {"value_tables": tuple(range(size.num_layers))},
    "BetterWin": _better_window,
    "SparseV": _sparse_values,
    "TruncRoPE": lambda _: {"positions": "truncated"},
    "SoftCap": lambda _: {"logit_cap": 15.0},
    "FP8Head": lambda _: {"fp8_head": True, "fp8_gradient_scale": 2.0**29},
    "LSWA": _long_short,
    "AttnScale": lambda _: {"attention_scale": 0.12, "cap_shape": "sigmoid"},
}
"""What each variant changes in the one before, in the paper's order (Tables 1 and 2)."""
LSWA_ADAM = "LSWA-Adam"
"""The model of LSWA, trained by Adam throughout (appendix D)."""


def nanogpt_variant(name: str, size: NanoGPTSize | str = "d12", **changes: Any) -> NanoGPTConfig:
    """Return the shape of a variant: its own change and those of all before it.

    Args:
        name: a key of `NANOGPT_VARIANTS`, or "LSWA-Adam", which has the shape of LSWA.
        size: the sizes, or a key of `NANOGPT_SIZES`.
        **changes: fields of `NanoGPTConfig` that are to be otherwise, such as one hidden confound
            switched off.

    Returns:
        The shape.

    Raises:
        ValueError: if there is no such variant or size, or the changes do not fit.

    Example:
        >>> round(nanogpt_variant("VTE").num_parameters / 1e6, 2)
        625.8
        >>> nanogpt_variant("Untied", "d6", norm_embedding=False).norm_embedding
        False
    """
    known = [*NANOGPT_VARIANTS, LSWA_ADAM]
    require(name in known, "name", expected=f"one of {', '.join(known)}", got=repr(name))
    if isinstance(size, str):
        expected = f"one of {', '.join(NANOGPT_SIZES)}"
        require(size in NANOGPT_SIZES, "size", expected=expected, got=repr(size))
        size = NANOGPT_SIZES[size]
    fields: dict[str, Any] = {"max_seq_len": size.context}
    for step, change in NANOGPT_VARIANTS.items():
        fields |= change(size)
        if step == name.removesuffix("-Adam"):
            break
    for field in ("vocab_size", "hidden_size", "num_layers", "num_heads"):
        fields[field] = getattr(size, field)
    return NanoGPTConfig(**fields | changes)
