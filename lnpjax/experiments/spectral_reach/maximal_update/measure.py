"""Three models of several widths, under the standard parametrisation and muP, learn digits.

The MLP (two hidden layers) and the ViT (patches of 2 x 2, two blocks) classify scikit-learn's
digits, the Llama (two blocks) predicts the next pixel of their upper halves. Optimised by Adam at a
constant rate. The coordinate check (Yang et al., 2022, app. F) takes the size of what changed in
the last hidden layer and in the outputs: the root of the mean square over coordinates and samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from lnpjax.data.image_classes import load_image_classes
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach.maximal_update.config import (
    HEAD_WIDTH,
    MODELS,
    MaximalUpdateConfig,
    Model,
)
from lnpjax.experiments.spectral_reach.parametrisations import ARMS, Arm
from lnpjax.jacobian import Batch
from lnpjax.lens import nnx_hidden_states
from lnpjax.models import MLP, Llama, LlamaConfig, ViT, ViTConfig, maximal_update
from lnpjax.pretraining.loss import cross_entropy

LAYERS = ("hidden", "outputs")
PIXELS = 32
"""Of an image, that the Llama sees."""
LEVELS = 17
"""Gray levels of scikit-learn's digits."""


def measure(config: MaximalUpdateConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: digits come with scikit-learn.
    """
    for model in MODELS:
        for arm in ARMS:
            for width in config.widths:
                unit = functools.partial(width_unit, config, model, arm, width)
                sweep.unit(unit_name(model, arm, width), unit)


def num_units(config: MaximalUpdateConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.maximal_update.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        24
    """
    return len(MODELS) * len(ARMS) * len(config.widths)


def unit_name(model: Model, arm: Arm, width: int) -> str:
    """Return what a unit is called."""
    return f"{model}-{arm}-{width}"


class Network(NamedTuple):
    """A network as it is trained.

    Attributes:
        params: where it starts.
        outputs: of parameters and inputs.
        hidden: the last hidden layer.
        scale: of updates, between Adam and the learning rate.
    """

    params: PyTree
    outputs: Callable[[PyTree, Array], Array]
    hidden: Callable[[PyTree, Array], Array]
    scale: optax.GradientTransformation


def make_module(model: Model, width: int, key: Key[Array, ""]) -> nnx.Module:
    """Return a freshly drawn module."""
    rngs = nnx.Rngs(key)
    heads = width // HEAD_WIDTH
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_layers": 2,
        "num_heads": heads,
    }
    if model == "mlp":
        return MLP((64, width, width, 10), rngs=rngs)
    if model == "vit":
        images: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1}
        return ViT(ViTConfig(**images, num_classes=10, **sizes), rngs=rngs)
    return Llama(LlamaConfig(vocab_size=LEVELS, max_seq_len=PIXELS, **sizes), rngs=rngs)


def network_of(model: Model, arm: Arm, width: int, base_width: int, key: Key[Array, ""]) -> Network:
    """Return a network of a width in one of the parametrisations.

    Args:
        model: which.
        arm: the parametrisation.
        width: of the network.
        base_width: at which both are the same.
        key: of the initial parameters.
    """
    module = make_module(model, width, key)
    hidden_states, params = nnx_hidden_states(module)

    def hidden(params: PyTree, inputs: Array) -> Array:
        *_, last = hidden_states(params, inputs).values()
        return last

    graph, _ = nnx.split(module)

    def outputs(params: PyTree, inputs: Array) -> Array:
        result: Array = nnx.merge(graph, params)(inputs)
        return result

    if arm == "standard":
        return Network(params, outputs, hidden, optax.identity())
    _, base_params = nnx_hidden_states(make_module(model, base_width, key))
    scaled = maximal_update(outputs, params, base_params)
    return Network(
        scaled.params,
        scaled.apply_fn,
        lambda params, inputs: hidden(scaled.as_standard(params), inputs),
        scaled.adam(),
    )


def batches(model: Model, count: int, size: int) -> Batch:
    """Return batches for consecutive steps, ``(count, size, ...)``: the same for all networks."""
    images, labels = load_image_classes("digits").train.take(slice(None))
    rows = np.random.default_rng(0).integers(len(labels), size=(count, size))
    if model == "llama":
        levels = np.round(images.reshape(len(images), -1) * (LEVELS - 1)).astype(np.int32)
        return levels[rows, :PIXELS], levels[rows, 1 : PIXELS + 1]
    return images[rows], labels[rows]


def width_unit(config: MaximalUpdateConfig, model: Model, arm: Arm, width: int) -> UnitResult:
    """Train all seeds of a width at all learning rates."""
    keys = jax.random.split(jax.random.key(0), config.num_seeds)
    networks = [network_of(model, arm, width, config.base_width, key) for key in keys]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(n.params for n in networks))
    data = batches(model, config.steps, config.batch_size)
    over_rates = jax.vmap(functools.partial(trained, networks[0]), (None, 0, None))
    run = jax.jit(jax.vmap(over_rates, (0, None, None)))
    losses, changes = jax.device_get(run(params, jnp.array(config.rates), data))
    rate, steps = config.rates.index(config.check_rate), np.array(config.checked) - 1
    row = {"kind": "network", "model": model, "arm": arm, "width": width}
    checked = {name: sizes[:, rate, steps] for name, sizes in changes.items()}
    return UnitResult([row], {"losses": losses, **checked})


def trained(
    network: Network, params: PyTree, rate: Float[Array, ""], data: Batch
) -> tuple[Float[Array, " steps"], dict[str, Float[Array, " steps"]]]:
    """Return the loss before every step, and how far activations are from the start after it."""
    optimizer = optax.chain(
        optax.scale_by_adam(), network.scale, optax.scale_by_learning_rate(rate)
    )
    probe = data[0][0]

    def activations(params: PyTree) -> dict[str, Array]:
        return {name: getattr(network, name)(params, probe) for name in LAYERS}

    start = activations(params)

    def loss_of(params: PyTree, batch: Batch) -> Float[Array, ""]:
        return cross_entropy(network.outputs(params, batch[0]), batch[1])

    def step(carry: PyTree, batch: Batch) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
        params, memory = carry
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, memory = optimizer.update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
        now = activations(params)
        sizes = {name: jnp.sqrt(jnp.mean((now[name] - start[name]) ** 2)) for name in LAYERS}
        return (params, memory), (loss, sizes)

    found: tuple[Array, dict[str, Array]]
    _, found = jax.lax.scan(step, (params, optimizer.init(params)), data)
    return found
