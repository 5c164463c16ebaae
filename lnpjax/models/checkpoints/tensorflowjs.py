"""TensorFlow.js models: `model.json` and its weights, of networks that are a sequence of layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from lnpjax._base.checks import require
from lnpjax.models.checkpoints.fields import Fields
from lnpjax.models.checkpoints.layouts import Entry, Layout
from lnpjax.models.checkpoints.tensors import StoredTensor, checked_shape, read_json_object

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
}
WITH_WEIGHTS = ("Conv2D", "Dense")
POOLS = {"MaxPooling2D": nnx.max_pool, "AveragePooling2D": nnx.avg_pool}
KNOWN = (*WITH_WEIGHTS, *POOLS, "Activation", "Flatten", "Dropout", "InputLayer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer of a `Sequence`.

    Attributes:
        kind: the name of its class in Keras.
        name: its own.
        activation: applied to what it returns.
        outputs: filters or units of layers with weights.
        window: of a convolution or a pool.
        strides: of either.
        padding: "VALID" or "SAME".
        use_bias: whether a layer with weights has biases.

    Example:
        >>> LayerConfig(kind="Dense", name="output", outputs=10).activation
        'linear'
    """

    kind: str
    name: str
    activation: str = "linear"
    outputs: int = 0
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: str = "VALID"
    use_bias: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """The shape of a network that is a sequence of layers, and the precision it computes in.

    Attributes:
        image_shape: height, width and channels of the images.
        layers: what is applied to them. A softmax at the end is left out: outputs are logits.
        dtype: what it computes in.
        param_dtype: what the parameters are stored in.

    Example:
        >>> dense = LayerConfig(kind="Dense", name="output", outputs=10)
        >>> flat = LayerConfig(kind="Flatten", name="flat")
        >>> SequenceConfig(image_shape=(2, 2, 1), layers=(flat, dense)).num_parameters
        50
    """

    image_shape: tuple[int, ...]
    layers: tuple[LayerConfig, ...]
    dtype: Any = "float32"
    param_dtype: Any = "float32"

    def shapes(self) -> Iterator[tuple[LayerConfig, tuple[int, ...], tuple[int, ...]]]:
        """Yield each layer with the shape of what it reads, and that of its kernel, if any."""
        shape = self.image_shape
        for layer in self.layers:
            kernel: tuple[int, ...] = ()
            if layer.kind == "Dense":
                kernel = (shape[-1], layer.outputs)
            elif layer.kind == "Conv2D":
                kernel = (*layer.window, shape[-1], layer.outputs)
            yield layer, shape, kernel
            shape = _output_shape(layer, shape)

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(
            math.prod(kernel) + (layer.outputs if layer.use_bias else 0)
            for layer, _, kernel in self.shapes()
            if kernel
        )


def _output_shape(layer: LayerConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    if layer.kind == "Flatten":
        return (math.prod(shape),)
    if layer.kind == "Dense":
        return (*shape[:-1], layer.outputs)
    if layer.kind == "Conv2D" or layer.kind in POOLS:
        expected = "an image of height, width and channels before it"
        require(len(shape) == 3, f"layer {layer.name}", expected=expected, got=shape)
        sizes = zip(shape[:2], layer.window, layer.strides, strict=True)
        lost = 0 if layer.padding == "SAME" else 1
        moved = tuple(-(-(n - lost * (w - 1)) // s) for n, w, s in sizes)
        expected = "an image that its window fits into"
        require(min(moved) > 0, f"layer {layer.name}", expected=expected, got=shape)
        return (*moved, layer.outputs or shape[-1])
    return shape


class Sequence(nnx.Module):
    """A network that is a sequence of layers; those with weights are numbered in `layers`.

    Args:
        config: the shape.
        rngs: the random streams that draw the initial parameters.

    Example:
        >>> dense = LayerConfig(kind="Dense", name="output", outputs=10)
        >>> config = SequenceConfig(image_shape=(4,), layers=(dense,))
        >>> Sequence(config, rngs=nnx.Rngs(0))(jnp.ones((3, 4))).shape
        (3, 10)
    """

    def __init__(self, config: SequenceConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        options = {"dtype": config.dtype, "param_dtype": config.param_dtype, "rngs": rngs}
        layers: list[nnx.Module] = []
        for layer, shape, kernel in config.shapes():
            sizes = (shape[-1], layer.outputs)
            if layer.kind == "Dense":
                layers.append(nnx.Linear(*sizes, use_bias=layer.use_bias, **options))
            elif kernel:
                layers.append(
                    nnx.Conv(
                        *sizes,
                        layer.window,
                        strides=layer.strides,
                        padding=layer.padding,
                        use_bias=layer.use_bias,
                        **options,
                    )
                )
        self.layers = nnx.List(layers)

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch outputs"]:
        """Compute the logits of images, channels last."""
        config, weighted = self.config, iter(self.layers)
        expected = f"shape (batch, {', '.join(map(str, config.image_shape))})"
        given = jnp.shape(images)
        require(given[1:] == config.image_shape, "images", expected=expected, got=given)
        x = images
        for layer in config.layers:
            if layer.kind in WITH_WEIGHTS:
                x = next(weighted)(x)
            elif layer.kind in POOLS:
                x = POOLS[layer.kind](x, layer.window, layer.strides, layer.padding)
            elif layer.kind == "Flatten":
                x = x.reshape(len(x), -1)
            x = ACTIVATIONS[layer.activation](x)
        return x


def read_sequence(fields: Fields) -> SequenceConfig:
    """Read the configuration of a network from its `model.json`.

    Args:
        fields: what the file holds.

    Raises:
        ValueError: if it is not a sequence of layers that are known; the message lists those.

    Example:
        >>> read_sequence(Fields({"format": "graph-model"}, "model.json"))
        Traceback (most recent call last):
            ...
        ValueError: model.json: format: expected 'layers-model', since the model is not written for
        others, got 'graph-model'
    """
    fields.only("format", "layers-model")
    topology = fields.inner("modelTopology")
    network = topology.inner("model_config").values or topology.values
    model = Fields(network, topology.where)
    model.only("class_name", "Sequential")
    listed = model.get("config")
    listed = listed.get("layers") if isinstance(listed, dict) else listed
    good = isinstance(listed, list) and all(isinstance(layer, dict) for layer in listed) and listed
    require(bool(good), f"{fields.where}: layers", expected="a list of layers", got=repr(listed))
    assert isinstance(listed, list)
    entries = [Fields(layer, f"{fields.where}: layer {i}") for i, layer in enumerate(listed)]
    first = entries[0].inner("config").get("batch_input_shape")
    where = f"{entries[0].where}: batch_input_shape"
    some = isinstance(first, list) and len(first) > 1
    require(some, where, expected="the shape of a batch of images", got=first)
    layers = [_read_layer(entry) for entry in entries]
    if layers[-1].activation == "softmax":
        layers[-1] = dataclasses.replace(layers[-1], activation="linear")
    image_shape = checked_shape(first[1:], where)
    require(min(image_shape) > 0, where, expected="positive sizes", got=first)
    return SequenceConfig(image_shape=image_shape, layers=tuple(layers))


def _read_layer(entry: Fields) -> LayerConfig:
    kind = entry.choice("class_name", of={name: name for name in KNOWN}, default="")
    fields = entry.inner("config")
    names = {name: name for name in ACTIVATIONS}
    common = {
        "kind": kind,
        "name": str(fields.get("name", default=kind)),
        "activation": fields.choice("activation", of=names, default="linear"),
        "use_bias": fields.flag("use_bias", default=True),
    }
    if kind == "Dense":
        return LayerConfig(outputs=fields.count("units"), **common)
    if kind != "Conv2D" and kind not in POOLS:
        return LayerConfig(**common)
    fields.only("data_format", "channels_last")
    fields.only("dilation_rate", [1, 1])
    window = _pair(fields, "kernel_size" if kind == "Conv2D" else "pool_size")
    return LayerConfig(
        outputs=fields.count("filters") if kind == "Conv2D" else 0,
        window=window,
        strides=_pair(fields, "strides", default=window),
        padding=fields.choice("padding", of={"valid": "VALID", "same": "SAME"}, default="valid"),
        **common,
    )


def _pair(fields: Fields, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
    where, value = f"{fields.where}: {name}", fields.get(name, default=default)
    pair = checked_shape(value, where)
    require(len(pair) == 2 and min(pair) > 0, where, expected="two positive sizes", got=value)
    return pair[0], pair[1]


def describe_tensorflowjs(file: Path) -> dict[str, StoredTensor]:
    """Read what a `model.json` says of its weights.

    Args:
        file: its path; the files of weights are next to it.

    Returns:
        Its tensors by name.

    Raises:
        ValueError: if they are quantised, not in its folder, or larger or smaller than it says.
        OSError: if a file cannot be read.

    Example:
        >>> describe_tensorflowjs(Path("missing/model.json"))
        Traceback (most recent call last):
            ...
        FileNotFoundError: missing/model.json: expected a JSON file, got none
    """
    description = read_json_object(file)
    manifest = description.get("weightsManifest")
    good = isinstance(manifest, list) and all(isinstance(group, dict) for group in manifest)
    require(good, f"{file}: weightsManifest", expected="a list of groups", got=type(manifest))
    assert isinstance(manifest, list)
    groups = (_describe_group(file, Fields(group, str(file))) for group in manifest)
    return dict(itertools.chain.from_iterable(groups))


def _describe_group(file: Path, group: Fields) -> Iterator[tuple[str, StoredTensor]]:
    names, weights = group.get("paths", default=[]), group.get("weights", default=[])
    where = f"{file}: paths"
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
    inside = plain and all(Path(name).name == name for name in names)
    require(inside, where, expected="names of files next to it", got=names)
    shards = [file.parent / name for name in names]
    held = sum(shard.stat().st_size for shard in shards)
    listed = isinstance(weights, list) and all(isinstance(weight, dict) for weight in weights)
    require(listed, f"{file}: weights", expected="a list of objects", got=type(weights))
    offset = 0
    for weight in weights:
        name = f"{file}: {weight.get('name')}"
        fields = Fields(weight, name)
        fields.only("dtype", "float32")
        plain = "quantization" not in weight and isinstance(weight.get("name"), str)
        require(plain, name, expected="a name, and no quantization", got=sorted(weight))
        shape = checked_shape(weight.get("shape"), name)
        size = 4 * math.prod(shape)
        expected = f"{size} bytes of its shape {shape} in {', '.join(names)}"
        require(offset + size <= held, name, expected=expected, got=held - offset)
        read = _reader(shards, offset, size, shape)
        yield weight["name"], StoredTensor(shape, np.dtype("<f4"), str(file), read)
        offset += size
    expected, got = f"{offset} bytes in {', '.join(names)}", f"{held} bytes"
    require(offset == held, str(file), expected=expected, got=got)


def _reader(
    shards: list[Path], offset: int, size: int, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        data = b"".join(shard.read_bytes() for shard in shards)  # tensors may span two of them
        return np.frombuffer(data[offset : offset + size], "<f4").reshape(shape)

    return read


def _entries(config: SequenceConfig) -> list[Entry]:
    entries = []
    weighted = [layer for layer in config.layers if layer.kind in WITH_WEIGHTS]
    for i, layer in enumerate(weighted):
        for part in ("kernel", "bias") if layer.use_bias else ("kernel",):
            entries.append(Entry(f"{layer.name}/{part}", (f"layers/{i}/{part}",)))
    return entries


TENSORFLOWJS = Layout(
    architecture="Sequential",
    module=Sequence,
    entries=_entries,
)
"""What TensorFlow.js's files of sequences of layers look like."""
