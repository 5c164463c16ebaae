"""The networks that a run can train, as its `config.json` has them, and how each is built."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from flax import nnx
from jaxtyping import PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_count, require
from lnpjax._base.configs import decode
from lnpjax.adapters import from_nnx
from lnpjax.jacobian import ApplyFn
from lnpjax.models import MLP, ConvNet, Llama, LlamaConfig, ViT, ViTConfig, split_llama
from lnpjax.pretraining.config.own import MakeModel, OwnConfig, make_own

KERNEL_SIZE = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Dense layers on flattened images (`lnpjax.models.MLP`).

    Attributes:
        image_shape: height, width and channels.
        num_classes: number of outputs.
        hidden_size: width of every hidden layer.
        num_layers: number of hidden layers.

    Raises:
        ValueError: on construction, if a size is below 1.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    hidden_size: int = 128
    num_layers: int = 2

    def __post_init__(self) -> None:
        for name in ("num_classes", "hidden_size", "num_layers"):
            check_count(name, getattr(self, name))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the pixels to the classes."""
        hidden = (self.hidden_size,) * self.num_layers
        return (math.prod(self.image_shape), *hidden, self.num_classes)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form."""
        return sum((width + 1) * after for width, after in itertools.pairwise(self.sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Convolutions, each followed by a pooling, and a dense layer (`lnpjax.models.ConvNet`).

    Attributes:
        image_shape: height, width and channels.
        num_classes: number of outputs.
        hidden_size: filters of every convolution.
        num_layers: number of convolutions.
        intermediate_size: width of the dense layer.

    Raises:
        ValueError: on construction, if a size is below 1, or images are too small to be halved
            that often.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    hidden_size: int = 32
    num_layers: int = 2
    intermediate_size: int = 128

    def __post_init__(self) -> None:
        for name in ("num_classes", "hidden_size", "num_layers", "intermediate_size"):
            check_count(name, getattr(self, name))
        most = int(math.log2(min(self.image_shape[:2])))
        expected = f"at most {most} convolutions, each halving images of {self.image_shape[:2]}"
        require(self.num_layers <= most, "num_layers", expected=expected, got=self.num_layers)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, in closed form."""
        height, width, channels = self.image_shape
        filters = self.hidden_size
        inputs = (channels, *(filters for _ in range(self.num_layers - 1)))
        convolutions = sum((KERNEL_SIZE**2 * depth + 1) * filters for depth in inputs)
        flat = (height >> self.num_layers) * (width >> self.num_layers) * filters
        dense = (flat + 1) * self.intermediate_size
        return convolutions + dense + (self.intermediate_size + 1) * self.num_classes


ModelConfig: TypeAlias = LlamaConfig | ViTConfig | MLPConfig | CNNConfig | OwnConfig
"""What a run trains."""
KINDS: Mapping[str, type] = {
    "llama": LlamaConfig,
    "vit": ViTConfig,
    "mlp": MLPConfig,
    "cnn": CNNConfig,
    "own": OwnConfig,
}
"""By the word that `--model` and a run's `config.json` have for them; "own" is of a file."""
KIND = "kind"
"""The key of that word in `config.json`; a Llama has none, as it always had."""


def kind_of_model(model: ModelConfig) -> str:
    """Return the word for a network.

    Example:
        >>> kind_of_model(MLPConfig(image_shape=(8, 8, 1), num_classes=10))
        'mlp'
    """
    return next(kind for kind, config in KINDS.items() if isinstance(model, config))


def model_from_json(values: Any, *, source: str, refuse_unknown: bool = False) -> ModelConfig:
    """Return the network that the section "model" of a `config.json` describes.

    Args:
        values: the section.
        source: what it is called in messages.
        refuse_unknown: whether a name that is not a field is refused, or ignored.

    Raises:
        ValueError: if it describes none.
    """
    kind, values = kind_and_values(values, source=source)
    return decode(KINDS[kind], values, source=source, refuse_unknown=refuse_unknown)


def kind_and_values(values: Any, *, source: str) -> tuple[str, Any]:
    """Split the word for a network from the rest of its section.

    Raises:
        ValueError: if there is no such word.
    """
    if not isinstance(values, Mapping):
        return "llama", values
    kind = values.get(KIND, "llama")
    require(kind in KINDS, f"{source}: {KIND}", expected=f"one of {', '.join(KINDS)}", got=kind)
    return kind, {name: value for name, value in values.items() if name != KIND}


def build(config: ModelConfig, rngs: nnx.Rngs, make_model: MakeModel | None = None) -> Any:
    """Make a network with its initial parameters.

    Args:
        config: of the network.
        rngs: the random streams that draw the parameters.
        make_model: the function of one that is of a file; the file that the configuration names is
            never run.

    Raises:
        ValueError: if it is of a file, and no function is given.

    Example:
        >>> config = MLPConfig(image_shape=(8, 8, 1), num_classes=10)
        >>> build(config, nnx.Rngs(0))(jax.numpy.ones((3, 8, 8, 1))).shape
        (3, 10)
    """
    if isinstance(config, OwnConfig):
        require(
            make_model is not None,
            "make_model",
            expected=f"the function {config.function} of {config.file}, which made the model: no "
            "file runs because a run names it (lnpjax.load_run(RUN).model(make_model=...))",
            got="None",
        )
        assert make_model is not None
        return make_own(make_model, config.input_shape, config.num_outputs, rngs)
    if isinstance(config, LlamaConfig):
        return Llama(config, rngs=rngs)
    if isinstance(config, ViTConfig):
        return ViT(config, rngs=rngs)
    if isinstance(config, MLPConfig):
        return MLP(config.sizes, rngs=rngs)
    height, width, channels = config.image_shape
    return ConvNet(
        (height, width, channels),
        channels=(config.hidden_size,) * config.num_layers,
        hidden=config.intermediate_size,
        num_outputs=config.num_classes,
        rngs=rngs,
    )


def abstract_model(config: ModelConfig, make_model: MakeModel | None = None) -> Any:
    """Make a network without arrays for its parameters.

    One of a file is made as it is: what it holds besides parameters may be needed.

    Raises:
        ValueError: as `build`.
    """
    if isinstance(config, OwnConfig):
        return build(config, nnx.Rngs(0), make_model)
    return nnx.eval_shape(lambda: build(config, nnx.Rngs(0)))


def split_model(model: Any) -> tuple[ApplyFn, PyTree]:
    """Split a network into a pure function and its parameters, in closed form if it is a Llama."""
    return split_llama(model) if isinstance(model, Llama) else from_nnx(model)


def shapes_of(model: ModelConfig, make_model: MakeModel | None = None) -> dict[str, tuple]:
    """Return the shape of every parameter of a network by its path."""
    params = nnx.state(abstract_model(model, make_model), nnx.Param)
    names = parameters.paths(params)
    return {name: leaf.shape for name, leaf in zip(names, jax.tree.leaves(params), strict=True)}


def num_outputs_of(model: ModelConfig) -> int:
    """Return how many values a target can take: tokens, or classes.

    Example:
        >>> num_outputs_of(MLPConfig(image_shape=(8, 8, 1), num_classes=10))
        10
    """
    if isinstance(model, OwnConfig):
        return model.num_outputs
    return model.vocab_size if isinstance(model, LlamaConfig) else model.num_classes


def sample_shape_of(model: ModelConfig) -> tuple[int, ...] | None:
    """Return the shape of a sample that a network takes; None for a Llama, which takes several."""
    if isinstance(model, LlamaConfig):
        return None
    if isinstance(model, ViTConfig):
        return model.image_size, model.image_size, model.num_channels
    return model.input_shape if isinstance(model, OwnConfig) else model.image_shape
