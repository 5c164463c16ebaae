"""`--model`, `--preset` and the sizes that change it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from lnpjax._base.checks import require
from lnpjax.models import LlamaConfig, ViTConfig
from lnpjax.models.presets import MUP_VIT_PRESETS, PRESETS, VIT_PRESETS
from lnpjax.pretraining.config.networks import KINDS, CNNConfig, MLPConfig, ModelConfig
from lnpjax.pretraining.config.own import is_own, own_config

SIZES = ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
"""What of a model's preset can be changed."""
TINY_VIT = "70K"
CLASSIFIERS = {
    TINY_VIT: dataclasses.replace(
        VIT_PRESETS["546.2K"], num_layers=2, hidden_size=64, intermediate_size=128
    ),
    **MUP_VIT_PRESETS,
    **VIT_PRESETS,
}
"""Sizes of vision transformers by name. The 1.8M of both tables is that of Table 3."""
FIELDS = {
    "llama": (*SIZES, "preset", "tie_embeddings", "dtype"),
    "vit": ("num_layers", "hidden_size", "intermediate_size", "num_heads", "preset", "patch_size",
            "dtype"),
    "mlp": ("num_layers", "hidden_size"),
    "cnn": ("num_layers", "hidden_size", "intermediate_size"),
    "own": (),
}  # fmt: skip
"""Which options each model has."""
SMALL_IMAGE = 8
"""Images up to this size are cut into patches of two pixels, since four would leave few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A network: a size by name, any part of which can be changed, or one of your own.

    Example:
        >>> ModelOptions(preset="1.2M", num_layers=2).changes()
        {'num_layers': 2}

    Args:
        model: Which network. None: llama for tokens and pixels, vit for classify.
            - llama: for --task next-token and next-pixel.
            - vit, mlp, cnn: for --task classify: a vision transformer, dense layers, or
              convolutions with poolings.
            - FILE.py:FUNCTION: a model of your own, for any task. FUNCTION(input_shape,
              num_outputs, *, rngs) returns a flax.nnx.Module from samples to logits. The file runs
              as trusted code, so name only files that you would run.
        preset: Size by name, of a llama (None: 115K) or a vit (None: 70K). The vocabulary or the
            classes are those of the data, and the longest sequence at least the context length, so
            that the number of parameters can differ from the name.
            - 115K: a llama, small enough for a laptop.
            - 102.6K, 229.7K, 381.4K, 1.1M, 2.3M, 5.2M, 12.5M: Spectral Reach's for pixels.
            - 1.2M, 2.1M, 3.8M, 7.2M, 15.5M, 31.5M, 65.6M, 134M: Spectral Reach's for stories.
            - 70K: a vit, small enough for a laptop.
            - 546.2K, 1.8M, 9.4M: Spectral Reach's vits (Table 3).
            - 459.7K, 809.4K, 3.2M, 7.1M: those of Table 4.
        num_layers: Blocks; of mlp the hidden layers (None: 2), of cnn the convolutions (None: 2).
            None: the preset's.
        hidden_size: Width of the residual stream; of mlp of every hidden layer (None: 128), of cnn
            the filters of every convolution (None: 32). None: the preset's.
        intermediate_size: Width inside the feed-forward; of cnn of the dense layer (None: 128).
            None: the preset's.
        num_heads: Query heads; they divide the hidden size. None: the preset's.
        num_kv_heads: Key and value heads; they divide the query heads. None: as many as query
            heads.
        patch_size: Pixels along the edge of a vit's patch, which divides that of the image. None:
            4, and 2 where images have at most 8.
        tie_embeddings: Read out with the transposed embedding instead of a matrix of its own.
        dtype: What the forward pass computes in; parameters, losses and norms stay in float32.
    """

    model: str | None = None
    preset: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    patch_size: int | None = None
    tie_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def kind(self, *, classifies: bool = False) -> str:
        """Return which network is meant: a key of `networks.KINDS`.

        Args:
            classifies: whether samples have one label, which decides where no network is named.

        Raises:
            ValueError: if there is no such network, or it has no such option.

        Example:
            >>> ModelOptions().kind(), ModelOptions().kind(classifies=True)
            ('llama', 'vit')
        """
        if is_own(self.model):
            kind = "own"
        else:
            kind = self.model or ("vit" if classifies else "llama")
            names = [name for name in KINDS if name != "own"]
            expected = f"one of {', '.join(names)}, or FILE.py:FUNCTION"
            require(kind in names, "model", expected=expected, got=repr(kind))
        for field in dataclasses.fields(self):
            value, usual = getattr(self, field.name), field.default
            without = field.name not in ("model", *FIELDS[kind])
            expected = f"{usual} with the model {self.model or kind}"
            require(not without or value == usual, field.name, expected=expected, got=value)
        return kind

    def preset_of(self, kind: str) -> str | None:
        """Return the name of the size that is meant; None for a network without presets.

        Example:
            >>> ModelOptions().preset_of("vit"), ModelOptions().preset_of("mlp")
            ('70K', None)
        """
        usual = {"llama": "115K", "vit": TINY_VIT}.get(kind)
        return usual and (self.preset or usual)

    def resolve(
        self,
        *,
        vocab_size: int,
        context_length: int | None = None,
        sample_shape: tuple[int, ...] = (),
    ) -> ModelConfig:
        """Return the configuration of the model for some data.

        Args:
            vocab_size: how many tokens or classes the data have; replaces the preset's.
            context_length: that of the data, or None where a sample has one label; sets the longest
                sequence, if the preset's is shorter.
            sample_shape: the shape of one sample's inputs; only of labelled samples and for a model
                of one's own.

        Returns:
            The configuration.

        Raises:
            ValueError: if there is no such model or preset, it is for another task, or the sizes do
                not fit together or the images.
            FileNotFoundError: if there is no file of a model of one's own.

        Example:
            >>> ModelOptions(preset="1.2M").resolve(vocab_size=256, context_length=64).vocab_size
            256
            >>> mlp = ModelOptions(model="mlp")
            >>> mlp.resolve(vocab_size=10, sample_shape=(8, 8, 1)).num_parameters
            26122
        """
        classifies = context_length is None
        kind = self.kind(classifies=classifies)
        if kind == "own":
            assert self.model is not None
            shape = sample_shape or (context_length or 1,)
            return own_config(
                self.model, input_shape=shape, num_outputs=vocab_size, positions=context_length
            )
        fits = classifies != (kind == "llama")
        task = "classify (one label per sample)" if classifies else "predicting tokens or pixels"
        names = "vit, mlp or cnn" if classifies else "llama"
        expected = f"{names}, or FILE.py:FUNCTION, for {task}"
        require(fits, "model", expected=expected, got=kind)
        if context_length is not None:
            return self.llama(vocab_size=vocab_size, context_length=context_length)
        of_images = len(sample_shape) == 3 or kind == "mlp"
        expected = "images (height, width, channels)"
        require(of_images, "data", expected=expected, got=f"samples of shape {sample_shape}")
        if kind == "vit":
            return self._vit(vocab_size, sample_shape)
        network: Any = {"mlp": MLPConfig, "cnn": CNNConfig}[kind]
        return network(image_shape=sample_shape, num_classes=vocab_size, **self.changes())

    def llama(self, *, vocab_size: int, context_length: int) -> LlamaConfig:
        """Return the configuration of a llama for some data; see `resolve`.

        Raises:
            ValueError: if there is no such preset, or the sizes do not fit together.

        Example:
            >>> ModelOptions(num_layers=1).llama(vocab_size=256, context_length=64).num_layers
            1
        """
        base = PRESETS[self._known("llama", PRESETS)]
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

    def _vit(self, num_classes: int, image_shape: tuple[int, ...]) -> ViTConfig:
        height, width, channels = image_shape
        expected = "square images for the model vit (mlp and cnn take others)"
        require(height == width, "data", expected=expected, got=f"images of {height} x {width}")
        base = CLASSIFIERS[self._known("vit", CLASSIFIERS)]
        patch_size = 2 if height <= SMALL_IMAGE else base.patch_size
        return dataclasses.replace(
            base,
            **self.changes(),
            image_size=height,
            num_channels=channels,
            num_classes=num_classes,
            patch_size=self.patch_size or patch_size,
            dtype=self.dtype,
        )

    def _known(self, kind: str, presets: Any) -> str:
        name = self.preset_of(kind)
        expected = f"one of {', '.join(presets)} for {kind}"
        require(name in presets, "preset", expected=expected, got=repr(name))
        assert name is not None
        return name

    def changes(self) -> dict[str, Any]:
        """Return the sizes that are not the preset's."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
