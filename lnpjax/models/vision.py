"""Dense and convolutional networks for images, as in *NTK Lens* (D.1, D.2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lnpjax._base.checks import require

LECUN_NORMAL = nnx.initializers.lecun_normal()


class MLP(nnx.Module):
    """Dense layers with an activation between them; inputs of any shape are flattened.

    Args:
        sizes: widths from the inputs to the outputs, at least two.
        activation: applied after every layer except the last.
        kernel_init: initialises the weights; biases start at zero.
        param_dtype: what the parameters are stored in.
        rngs: random streams.

    Raises:
        ValueError: if there are fewer than two sizes.

    Example:
        >>> model = MLP((4, 8, 3), rngs=nnx.Rngs(0))
        >>> model(jnp.ones((5, 2, 2))).shape
        (5, 3)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Callable[[Array], Array] = nnx.relu,
        kernel_init: Callable[..., Any] = LECUN_NORMAL,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require(len(sizes) >= 2, "sizes", expected="at least two widths", got=tuple(sizes))
        self.activation = activation
        options = {"kernel_init": kernel_init, "param_dtype": param_dtype}
        self.layers = nnx.List(
            nnx.Linear(d_in, d_out, **options, rngs=rngs)
            for d_in, d_out in itertools.pairwise(sizes)
        )

    def __call__(self, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch outputs"]:
        """Map inputs to logits."""
        hidden = inputs.reshape(len(inputs), -1)
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        return self.layers[-1](hidden)


class ConvNet(nnx.Module):
    """3 x 3 convolutions, each followed by 2 x 2 mean pooling, then a hidden dense layer.

    Args:
        image_shape: ``(height, width, channels)`` of the inputs.
        channels: filters of each convolution.
        hidden: width of the dense layer.
        num_outputs: number of classes.
        activation: applied after every layer except the last.
        kernel_init: initialises the weights; biases start at zero.
        param_dtype: what the parameters are stored in.
        rngs: random streams.

    Raises:
        ValueError: if the image is too small to be halved that often.

    Example:
        >>> model = ConvNet((8, 8, 1), channels=(4, 4), hidden=8, num_outputs=3, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((5, 8, 8, 1))).shape
        (5, 3)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        channels: Sequence[int],
        hidden: int,
        num_outputs: int,
        activation: Callable[[Array], Array] = nnx.relu,
        kernel_init: Callable[..., Any] = LECUN_NORMAL,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, depth = image_shape
        self.activation = activation
        shrink = 2 ** len(channels)
        require(
            min(height, width) >= shrink,
            "image_shape",
            expected=f"at least {shrink} x {shrink} pixels for {len(channels)} poolings",
            got=image_shape,
        )
        options = {"kernel_init": kernel_init, "param_dtype": param_dtype}
        self.convolutions = nnx.List(
            nnx.Conv(d_in, d_out, (3, 3), **options, rngs=rngs)
            for d_in, d_out in itertools.pairwise((depth, *channels))
        )
        flat = (height // shrink) * (width // shrink) * (channels[-1] if channels else depth)
        self.hidden = nnx.Linear(flat, hidden, **options, rngs=rngs)
        self.head = nnx.Linear(hidden, num_outputs, **options, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch outputs"]:
        """Map images to logits."""
        features = images
        for convolution in self.convolutions:
            features = self.activation(convolution(features))
            features = nnx.avg_pool(features, (2, 2), strides=(2, 2))
        flat = features.reshape(len(features), -1)
        return self.head(self.activation(self.hidden(flat)))
