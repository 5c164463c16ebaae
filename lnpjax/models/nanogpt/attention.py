"""Attention of a nanoGPT: who sees whom, in windows and documents, chunk by chunk."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base.checks import require
from lnpjax.models.nanogpt.config import AttentionWindow


class Neighbourhood(NamedTuple):
    """What decides who sees whom in one batch, besides causality.

    Attributes:
        window: positions seen by each sample's queries, in the long layers; None without windows.
        documents: the number of the document that each position belongs to; None without any.

    Example:
        >>> Neighbourhood(documents=jnp.array([[0, 0, 1]])).window is None
        True
    """

    window: Int[Array, " batch"] | None = None
    documents: Int[Array, "batch time"] | None = None


@dataclasses.dataclass(frozen=True)
class Visibility:
    """Who sees whom in one layer.

    Attributes:
        window: the rule; None for all earlier positions.
        is_short: whether the layer has half the window.

    Example:
        >>> Visibility(AttentionWindow(size=2, chunk=2)).chunk(8)
        2
    """

    window: AttentionWindow | None = None
    is_short: bool = False

    def chunk(self, time: int) -> int:
        """Return the length of the chunks that a sequence is worked on in.

        Raises:
            ValueError: if it does not divide the sequence.
        """
        if self.window is None or time <= self.window.chunk:
            return time
        require(
            time % self.window.chunk == 0,
            "tokens",
            expected=f"a multiple of the {self.window.chunk} positions of a chunk",
            got=time,
        )
        unit = self.window.block or 1
        half = self.window.chunk // 2
        enough = self.window.reach(self._half(self.window.size)) <= half
        return half if self.is_short and enough and half % unit == 0 else self.window.chunk

    def mask(
        self,
        around: Neighbourhood,
        queries: Int[Array, "chunks q 1"],
        keys: Int[Array, "chunks 1 k"],
        documents: tuple[Int[Array, "batch chunks q 1"], Int[Array, "batch chunks 1 k"]] | None,
    ) -> Bool[Array, "batch chunks q k"]:
        """Tell whether queries see keys at these positions; negative ones are none."""
        seen = ((keys >= 0) & (keys <= queries))[None]
        if documents is not None:
            seen = seen & (documents[0] == documents[1])
        if self.window is None or around.window is None:
            return seen
        size = self._half(around.window) if self.is_short else around.window
        size = size[:, None, None, None]
        if self.window.by_token:
            seen = seen & (queries - keys < size)
        if self.window.block is not None:
            block = self.window.block
            seen = seen & (queries // block - keys // block < (size + block - 1) // block)
        return seen

    def _half(self, size: Any) -> Any:
        """Return half of a window, known or an array, in whole blocks."""
        unit = 1 if self.window is None else self.window.block or 1
        halved = (size + unit - 1) // unit // 2 * unit
        return max(halved, unit) if isinstance(size, int) else jnp.maximum(halved, unit)


def attend(
    query: Float[Array, "batch time heads width"],
    key: Float[Array, "batch time heads width"],
    value: Float[Array, "batch time heads width"],
    *,
    scale: float,
    visible: Visibility,
    around: Neighbourhood,
) -> Float[Array, "batch time heads width"]:
    """Mix the values that each position sees, chunk by chunk.

    A chunk of queries sees its own keys and those of the chunk before, which hold the window: time
    and memory grow with ``time * 2 * chunk`` instead of the square of the time. The softmax is
    computed in at least float32.

    Args:
        query: rotated queries.
        key: rotated keys.
        value: values.
        scale: what inner products are multiplied by.
        visible: who sees whom in the layer.
        around: and in the batch.

    Returns:
        The mixed values, for each position and head.

    Raises:
        ValueError: if chunks do not divide the sequence.

    Example:
        >>> ones = jnp.ones((1, 4, 1, 2))
        >>> sees_itself = Visibility(AttentionWindow(size=1, chunk=2))
        >>> value = jnp.arange(8.0).reshape(1, 4, 1, 2)
        >>> around = Neighbourhood(window=jnp.array([1]))
        >>> out = attend(ones, ones, value, scale=1.0, visible=sees_itself, around=around)
        >>> bool((out == value).all())
        True
    """
    batch, time, *_ = query.shape
    chunk = visible.chunk(time)
    positions = jnp.arange(time).reshape(-1, chunk)
    mask = visible.mask(
        around,
        positions[:, :, None],
        _with_previous(positions[None], fill=-1)[0][:, None, :],
        None
        if around.documents is None
        else (
            (parts := around.documents.reshape(batch, -1, chunk))[..., None],
            _with_previous(parts, fill=-1)[:, :, None, :],
        ),
    )
    queries, keys, values = (
        part.reshape(batch, -1, chunk, *part.shape[2:]) for part in (query * scale, key, value)
    )
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bnqhd,bnkhd->bnhqk", queries, _with_previous(keys)).astype(wide)
    scores = jnp.where(mask[:, :, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    mixed = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, _with_previous(values))
    return mixed.reshape(query.shape)


def _with_previous(
    parts: Array,  # (batch, chunks, chunk, ...)
    fill: int = 0,
) -> Array:
    """Put before each chunk the one before it; a single chunk stays alone."""
    if parts.shape[1] == 1:
        return parts
    widths = [(0, 0), (1, 0), *[(0, 0)] * (parts.ndim - 2)]
    before = jnp.pad(parts[:, :-1], widths, constant_values=fill)
    return jnp.concatenate([before, parts], axis=2)
