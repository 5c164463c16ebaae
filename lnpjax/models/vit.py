"""The vision transformer in Flax NNX, with a class token and learned positions.

The only state is `nnx.Param`, grouped at the top level as `patches`, `class_token`, `positions`,
`layers`, `norm` and `head`.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lnpjax._base.checks import check_count, require
from lnpjax.models.gpt import Block, BlockShape, check_block, layer_norm
from lnpjax.models.language import INITIAL_STD, floating_dtype_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The shape of a vision transformer and the precision it computes in.

    Attributes:
        image_size: height and width of the images, a multiple of `patch_size`.
        patch_size: height and width of a patch.
        num_channels: channels of the images.
        num_classes: number of outputs.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward.
        num_layers: number of blocks.
        num_heads: number of heads, a divisor of `hidden_size`.
        activation: a key of `lnpjax.models.gpt.ACTIVATIONS`.
        norm_eps: added to the variance in every LayerNorm.
        dtype: what the forward pass computes in, and the logits come in.
        param_dtype: what the parameters are stored in.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_classes=10,
        ...                    hidden_size=8, intermediate_size=16, num_layers=1, num_heads=2)
        >>> config.num_patches, config.num_parameters
        (4, 890)
    """

    image_size: int
    patch_size: int
    num_channels: int
    num_classes: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        images = ("image_size", "patch_size", "num_channels", "num_classes")
        for name in (*images, "hidden_size", "intermediate_size", "num_layers", "num_heads"):
            check_count(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))
        whole = self.image_size % self.patch_size == 0
        expected = f"a divisor of image_size={self.image_size}"
        require(whole, "patch_size", expected=expected, got=self.patch_size)
        check_block(self.block)
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
            causal=False,
            activation=self.activation,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    @property
    def num_patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_width(self) -> int:
        """Number of pixels of a patch, times channels."""
        return self.patch_size**2 * self.num_channels

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form."""
        block = self.block
        tokens = self.patch_width + 1 + 1 + self.num_patches + 1  # patches, class token, positions
        return (
            tokens * self.hidden_size
            + self.num_layers * block.num_parameters
            + block.norm_parameters
            + (self.hidden_size + 1) * self.num_classes
        )


class ViT(nnx.Module):
    """A vision transformer that classifies by its class token (Dosovitskiy et al., 2021).

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_classes=10,
        ...                    hidden_size=8, intermediate_size=16, num_layers=1, num_heads=2)
        >>> ViT(config, rngs=nnx.Rngs(0))(jnp.ones((3, 8, 8, 1))).shape
        (3, 10)
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(INITIAL_STD)
        width, dtype = config.hidden_size, config.param_dtype
        options = {"dtype": config.dtype, "param_dtype": dtype, "kernel_init": init, "rngs": rngs}
        self.config = config
        self.patches = nnx.Linear(config.patch_width, width, **options)
        self.class_token = nnx.Param(init(rngs.params(), (width,), dtype))
        self.positions = nnx.Param(init(rngs.params(), (config.num_patches + 1, width), dtype))
        self.layers = nnx.List([Block(config.block, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = layer_norm(config.block, rngs=rngs)
        self.head = nnx.Linear(width, config.num_classes, **options)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """Compute the logits of the classes.

        Args:
            images: normalised as the model was trained, channels last.

        Returns:
            Logits in the compute dtype, `(batch, classes)`.

        Raises:
            ValueError: if the images have another size.
        """
        return self.head(self.hidden(images))

    def hidden(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch hidden"]:
        """Compute the normalised class token, which the read-out turns into logits.

        Args:
            images: as for a call.

        Returns:
            Hidden states in the compute dtype, `(batch, hidden)`.

        Raises:
            ValueError: if the images have another size.
        """
        x = self.patches(self._patches_of(images))
        first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.positions[...].astype(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)[:, 0]

    def _patches_of(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch patches pixels"]:
        config = self.config
        size, patch = config.image_size, config.patch_size
        shape = (size, size, config.num_channels)
        given = jnp.shape(images)
        expected = f"shape {('batch', *shape)}, channels last".replace("'", "")
        require(len(given) == 4 and given[1:] == shape, "images", expected=expected, got=given)
        rows = size // patch
        grid = images.reshape(-1, rows, patch, rows, patch, config.num_channels)
        return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows**2, config.patch_width)
