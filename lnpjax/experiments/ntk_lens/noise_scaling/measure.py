"""Classes with less and less to learn: noisy copies in place of images (NTK Lens, Figs. 4 and 7).

The CIFAR-4 protocol of appendix D.2 on any image set: the first four classes (in CIFAR-10 those are
airplanes, automobiles, birds and cats), with a share of each class's training images replaced by
noisy copies of the others of the class. Each network is an ensemble over initialisations, draws of
what is replaced, and draws of the test images of the kernel.

What the paper leaves open, and what is done here: pixels are in [0, 1], which is the unit of the
noise; copies are not clipped; `lnpjax.models.vision.ConvNet` pools by the mean after each
convolution; the shares are ours.
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
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax._base.checks import checked_ids
from lnpjax.data.image_classes import ImageClasses, LabelledImages
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.ntk_lens.noise_scaling.config import (
    MOMENTUM,
    NETWORKS,
    NUM_CLASSES,
    NoiseConfig,
)
from lnpjax.experiments.ntk_lens.problems import load_sets, num_sets
from lnpjax.experiments.ntk_lens.training import spectral_ranks
from lnpjax.kernel import dense_kernel, entk, normalized_kernel
from lnpjax.models.vision import MLP, ConvNet


class Network(NamedTuple):
    """A network: its function, how a member starts, and its kernel."""

    apply: Callable[[PyTree, Array], Array]
    start: Callable[[Key[Array, ""]], PyTree]
    kernel: Callable[[PyTree, Array], Array]


def make_network(name: str, config: NoiseConfig, image_shape: tuple[int, int, int]) -> Network:
    """One of `NETWORKS`, initialised as the paper does.

    Args:
        name: of the network.
        config: its sizes.
        image_shape: ``(height, width, channels)``.
    """

    def build(key: Key[Array, ""]) -> Any:
        if name == "dense":
            return MLP(
                (int(np.prod(image_shape)), *config.hidden, NUM_CLASSES),
                kernel_init=nnx.initializers.xavier_uniform(),
                rngs=nnx.Rngs(key),
            )
        return ConvNet(
            image_shape,
            channels=config.channels,
            hidden=config.hidden_after,
            num_outputs=NUM_CLASSES,
            kernel_init=nnx.initializers.he_uniform(),
            rngs=nnx.Rngs(key),
        )

    graphdef = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))), nnx.Param)[0]

    def apply(params: PyTree, images: Array) -> Array:
        return nnx.merge(graphdef, params)(images)

    def start(key: Key[Array, ""]) -> PyTree:
        return nnx.state(build(key), nnx.Param)

    return Network(
        apply, start, dense_kernel if name == "dense" else functools.partial(entk, apply)
    )


def noisy_copies(
    labels: Int[np.ndarray, " n"], share: float, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Which image is shown in place of each: itself, or for a share of each class one of the rest.

    What is left of a class is copied equally often, to within one (appendix D.2).

    Args:
        labels: classes.
        share: of each class that is replaced.
        rng: decides what is replaced by what.

    Returns:
        Rows, equal to ``arange(n)`` where an image stays.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> rows = noisy_copies(labels, 0.5, np.random.default_rng(0))
        >>> int(np.sum(rows == np.arange(6))), bool(np.all(labels[rows] == labels))
        (3, True)
    """
    shown = np.arange(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        num_replaced = min(round(share * len(rows)), len(rows) - 1)
        replaced, kept = rows[:num_replaced], rows[num_replaced:]
        shown[replaced] = np.resize(kept, num_replaced)
    return shown


class NoisyProblem(NamedTuple):
    """What the members learn, and what they are tested and measured on."""

    train_images: Float[np.ndarray, "members n height width channels"]
    train_labels: Int[np.ndarray, " n"]
    test_images: Float[np.ndarray, "k height width channels"]
    test_labels: Int[np.ndarray, " k"]
    ntk_images: Float[np.ndarray, "members b height width channels"]


def noisy_problem(images: ImageClasses, share: float, config: NoiseConfig) -> NoisyProblem:
    """The four classes with a share of the training images replaced, another one per member."""
    classes = range(NUM_CLASSES)
    train, test = images.train.of_classes(classes), images.test.of_classes(classes)
    size = _coarsening(images, config)
    rows = _balanced(train, config.num_train, np.random.default_rng(config.seed))
    pixels, labels = train.take(rows)
    pixels = _coarsened(pixels, size)
    test_pixels, test_labels = test.take(slice(0, max(config.num_test, config.num_ntk)))
    test_pixels = _coarsened(test_pixels, size)
    members, measured = [], []
    for member in range(config.members):
        rng = np.random.default_rng((config.seed, member))
        measured.append(test_pixels[rng.permutation(len(test_pixels))[: config.num_ntk]])
        shown = noisy_copies(labels, share, rng)
        noise = rng.standard_normal(pixels.shape, np.float32) * config.noise
        copied = (shown != np.arange(len(shown)))[:, None, None, None]
        members.append(pixels[shown] + np.where(copied, noise, 0))
    return NoisyProblem(np.stack(members), labels, test_pixels, test_labels, np.stack(measured))


def measure(config: NoiseConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of image sets, or None for the digits.
    """
    for images in load_sets(config.image_sets, data):
        size = _coarsening(images, config)
        height, width, channels = images.train.images.shape[1:]
        for name in NETWORKS:
            network = make_network(name, config, (height // size, width // size, channels))
            trainer = NoiseTrainer(network, config, together=name == "dense")
            for share in config.replaced:
                columns = {"set": images.name, "network": name, "replaced": share}
                unit = functools.partial(_measure_share, trainer, images, config, columns)
                sweep.unit(f"{images.name}-{name}-replaced{share:g}", unit)


def num_units(config: NoiseConfig, data: Path | None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.ntk_lens.noise_scaling.config import PRESETS
        >>> num_units(PRESETS["cpu"], Path("data"))
        10
    """
    return num_sets(config.image_sets, data) * len(NETWORKS) * len(config.replaced)


class NoiseTrainer:
    """Trains the members of one network by SGD.

    Args:
        network: the network.
        config: the training.
        together: as one batched program; else one member and one step after the other. XLA runs
            convolutions within loops some ten times slower than on their own on a CPU, and those
            with batched weights no faster.
    """

    def __init__(self, network: Network, config: NoiseConfig, *, together: bool) -> None:
        self._network, self._config, self._together = network, config, together
        self._optimizer = optax.sgd(config.learning_rate, momentum=MOMENTUM)
        self._start = jax.jit(self._initial)
        self._step = jax.jit(self._one_step)
        self._steps = jax.jit(jax.vmap(self._all_steps, (0, 0, None, 0)))
        self._loss_and_accuracy = jax.jit(self._mean_loss_and_accuracy)
        self._normalized = jax.jit(lambda *batch: normalized_kernel(network.kernel(*batch)))

    def start(self) -> list[PyTree]:
        """Parameters and optimizer of each member."""
        keys = jax.random.split(jax.random.key(self._config.seed), self._config.members)
        return [self._start(key) for key in keys]

    def epoch(self, states: list[PyTree], problem: NoisyProblem, epoch: int) -> list[PyTree]:
        """Train every member for an epoch, in an order of its own."""
        config, members = self._config, range(self._config.members)
        count = len(problem.train_labels)
        batch_size = min(config.batch_size, count)
        steps = count // batch_size
        orders = [
            np.random.default_rng((config.seed, member, epoch)).permutation(count)
            for member in members
        ]
        rows = np.stack(orders)[:, : steps * batch_size].reshape(-1, steps, batch_size)
        if self._together:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            stacked = self._steps(stacked, problem.train_images, problem.train_labels, rows)
            return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in members]
        done = []
        for state, images, order in zip(states, problem.train_images, rows, strict=True):
            for batch in order:
                state = self._step(state, images, problem.train_labels, batch)
            done.append(state)
        return done

    def measured(self, states: list[PyTree], problem: NoisyProblem) -> dict[str, np.ndarray]:
        """Losses, accuracies and effective rank of every member, by name."""
        params = [parameters for parameters, _ in states]
        train = [
            self._loss_and_accuracy(*member, problem.train_labels)
            for member in zip(params, problem.train_images, strict=True)
        ]
        test = [
            self._loss_and_accuracy(p, problem.test_images, problem.test_labels) for p in params
        ]
        kernels = [
            np.asarray(self._normalized(*batch))
            for batch in zip(params, problem.ntk_images, strict=True)
        ]
        return {
            "train_loss": np.array([loss for loss, _ in train]),
            "test_loss": np.array([loss for loss, _ in test]),
            "train_accuracy": np.array([accuracy for _, accuracy in train]),
            "test_accuracy": np.array([accuracy for _, accuracy in test]),
            "rank": spectral_ranks(kernels),
        }

    def _initial(self, key: Key[Array, ""]) -> PyTree:
        params = self._network.start(key)
        return params, self._optimizer.init(params)

    def _one_step(self, state: PyTree, images: Array, labels: Array, rows: Array) -> PyTree:
        def loss(params: PyTree) -> Array:
            return self._mean_loss_and_accuracy(params, images[rows], labels[rows])[0]

        params, memory = state
        updates, memory = self._optimizer.update(jax.grad(loss)(params), memory)
        return optax.apply_updates(params, updates), memory

    def _all_steps(self, state: PyTree, images: Array, labels: Array, rows: Array) -> PyTree:
        def step(state: PyTree, batch: Array) -> tuple[PyTree, None]:
            return self._one_step(state, images, labels, batch), None

        return jax.lax.scan(step, state, rows)[0]

    def _mean_loss_and_accuracy(
        self, params: PyTree, images: Array, labels: Array
    ) -> tuple[Array, Array]:
        """Mean cross-entropy, and the share of the images that are classified right."""
        logits = self._network.apply(params, images)
        ids = checked_ids("labels", labels, logits.shape[-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _measure_share(
    trainer: NoiseTrainer, images: ImageClasses, config: NoiseConfig, columns: dict[str, Any]
) -> UnitResult:
    problem = jax.device_put(noisy_problem(images, columns["replaced"], config))
    states, rows = trainer.start(), []
    for epoch in range(config.epochs + 1):
        if epoch > 0:
            states = trainer.epoch(states, problem, epoch)
        if epoch in config.measured_epochs:
            measured = trainer.measured(states, problem)
            rows += [
                {
                    **columns,
                    "member": member,
                    "epoch": epoch,
                    **{name: float(values[member]) for name, values in measured.items()},
                }
                for member in range(config.members)
            ]
    return UnitResult(rows)


def _balanced(images: LabelledImages, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows with equally many of each class, `count` in all or as many as there are."""
    rows = rng.permutation(len(images))
    by_class = [rows[images.labels[rows] == label] for label in range(NUM_CLASSES)]
    each = min(count // NUM_CLASSES, *map(len, by_class))
    return np.concatenate([found[:each] for found in by_class])


def _coarsening(images: ImageClasses, config: NoiseConfig) -> int:
    side = min(images.train.images.shape[1:3])
    return config.coarsen if side >= config.coarsen_from else 1


def _coarsened(images: np.ndarray, size: int) -> np.ndarray:
    """Means over squares of that many pixels per side."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // size, size, width // size, size, channels)
    return blocks.mean(axis=(2, 4))
