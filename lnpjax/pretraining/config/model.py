"""`--preset` and the sizes that change it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from lnpjax._base.checks import require
from lnpjax.models import LlamaConfig
from lnpjax.models.presets import PRESETS

SIZES = ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
"""What of a model's preset can be changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A Llama: a size by name, any part of which can be changed.

    Example:
        >>> ModelOptions(preset="1.2M", num_layers=2).changes()
        {'num_layers': 2}

    Args:
        preset: Size by name. The vocabulary is that of the data, and the longest sequence at least
            the context length, so that the number of parameters can differ from the name.
            - 115K: small enough for a laptop.
            - 102.6K, 229.7K, 381.4K, 1.1M, 2.3M, 5.2M, 12.5M: Spectral Reach's for images.
            - 1.2M, 2.1M, 3.8M, 7.2M, 15.5M, 31.5M, 65.6M, 134M: Spectral Reach's for stories.
        num_layers: Blocks. None: the preset's.
        hidden_size: Width of the residual stream. None: the preset's.
        intermediate_size: Width inside the feed-forward. None: the preset's.
        num_heads: Query heads; they divide the hidden size. None: the preset's.
        num_kv_heads: Key and value heads; they divide the query heads. None: as many as query
            heads.
        tie_embeddings: Read out with the transposed embedding instead of a matrix of its own.
        dtype: What the forward pass computes in; parameters, losses and norms stay in float32.
    """

    preset: str = "115K"
    num_layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    tie_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def resolve(self, *, vocab_size: int, context_length: int) -> LlamaConfig:
        """Return the configuration of the model for some data.

        Args:
            vocab_size: that of the data; replaces the preset's.
            context_length: that of the data; sets the longest sequence, if the preset's is shorter.

        Returns:
            The configuration.

        Raises:
            ValueError: if there is no such preset, or the sizes do not fit together.

        Example:
            >>> ModelOptions(preset="1.2M").resolve(vocab_size=256, context_length=64).vocab_size
            256
        """
        require(
            self.preset in PRESETS,
            "preset",
            expected=f"one of {', '.join(PRESETS)}",
            got=repr(self.preset),
        )
        base = PRESETS[self.preset]
        own_heads = self.hidden_size is None and self.num_heads is None
        return dataclasses.replace(
            base,
            **self.changes(),
            head_dim=base.head_dim if own_heads else None,  # else the preset's width would stay
            tie_embeddings=self.tie_embeddings,
            dtype=self.dtype,
            vocab_size=vocab_size,
            max_seq_len=max(base.max_seq_len, context_length),
        )

    def changes(self) -> dict[str, Any]:
        """Return the sizes that are not the preset's."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
