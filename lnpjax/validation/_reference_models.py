"""Networks to validate on: small ones that train in seconds, and the checkpoints of a run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Float, Int, PyTree

from lnpjax._base import numerics
from lnpjax._base.checks import check_count, require
from lnpjax.adapters import from_nnx
from lnpjax.data import Batches, load_dataset, validation_batch
from lnpjax.data.images import DIGITS_WHITE, read_digits
from lnpjax.jacobian import Batch, OutputSubset
from lnpjax.models import MLP, ConvNet, Llama, LlamaConfig
from lnpjax.pretraining import Experiment, cross_entropy, open_run
from lnpjax.pretraining.config.networks import kind_of_model
from lnpjax.runs import Run
from lnpjax.validation._validate import Subject

ModelName: TypeAlias = Literal["mlp", "cnn", "llama", "llama-tied"]
CONTEXT_LENGTH, VOCABULARY = 16, 256
SMOOTH = nnx.gelu  # at a kink there is no gradient, and none that could predict a step


class Pair(NamedTuple):
    """One network at two states; made by `small_network` and `run_checkpoint`.

    Attributes:
        before: at initialisation.
        after: after training.
        label: what `after` is, for a legend.
    """

    before: Subject
    after: Subject
    label: str


class OutputSpace(NamedTuple):
    """How much of a network is looked at (*Spectral Reach*, D.5: 1 sample, K = 40, S = 256).

    Attributes:
        num_samples: samples of each batch.
        num_vocabulary: K, vocabulary entries of a language model: the most frequent targets.
        num_positions: S, positions of a language model, evenly spread.

    Example:
        >>> space = OutputSpace(num_vocabulary=2, num_positions=2)
        >>> positions, entries = space.chosen(np.array([[3, 3, 1, 3]]), vocab_size=5)
        >>> positions.tolist(), entries.tolist()
        ([0, 3], [1, 3])
    """

    num_samples: int = 1
    num_vocabulary: int = 40
    num_positions: int = 256

    def chosen(self, targets: Int[np.ndarray, "batch time"], vocab_size: int) -> OutputSubset:
        """Return indices of positions and of vocabulary entries."""
        counts = np.bincount(np.asarray(targets).ravel(), minlength=vocab_size)
        frequent = np.argsort(-counts, kind="stable")[: self.num_vocabulary]
        length = targets.shape[1]
        positions = np.linspace(0, length - 1, min(self.num_positions, length)).astype(int)
        return positions, np.sort(frequent)

    def check(self) -> None:
        """Refuse empty spaces.

        Raises:
            ValueError: naming the option.
        """
        for name, value in self._asdict().items():
            check_count(name, value)


def small_network(
    name: ModelName, *, steps: int = 200, space: OutputSpace | None = None, seed: int = 0
) -> Pair:
    """Train a small network, and return it before and after.

    Args:
        name: which: digits for "mlp" and "cnn", text for a Llama.
        steps: Adam steps of training.
        space: how much of it is looked at.
        seed: of its parameters.

    Returns:
        Both states, in the precision that jax is set to.

    Raises:
        ValueError: if there is no such network.
        ImportError: without scikit-learn, for digits (the extra "run").

    Example:
        >>> pair = small_network("mlp", steps=1, space=OutputSpace(num_samples=2))
        >>> pair.after.batch_a[0].shape
        (2, 64)
    """
    builders: dict[str, Callable[[nnx.Rngs], tuple[nnx.Module, Batch, Batch]]] = {
        "mlp": _dense_on_digits,
        "cnn": _convolutional_on_digits,
        "llama": functools.partial(_llama_on_text, tied=False),
        "llama-tied": functools.partial(_llama_on_text, tied=True),
    }
    require(name in builders, "model", expected=f"one of {', '.join(builders)}", got=repr(name))
    space = space or OutputSpace(num_samples=8)
    space.check()
    module, train, held_out = builders[name](nnx.Rngs(seed))
    apply_fn, params = from_nnx(module)
    train, held_out, params = (_in_default_precision(tree) for tree in (train, held_out, params))
    trained = jax.jit(_train, static_argnums=(0, 3))(apply_fn, params, train, steps)
    batches = [jax.tree.map(lambda leaf: leaf[: space.num_samples], b) for b in (train, held_out)]
    outputs = None
    if name.startswith("llama"):
        outputs = space.chosen(np.asarray(batches[0][1]), VOCABULARY)
    before = Subject(apply_fn, cross_entropy, params, batches[0], batches[1], outputs)
    after = dataclasses.replace(before, params=trained)
    return Pair(before, after, f"after {steps} steps")


def run_checkpoint(
    folder: str, *, step: int | None = None, space: OutputSpace | None = None
) -> tuple[Run, Pair]:
    """Load the network of a run at its start and at a checkpoint.

    Args:
        folder: the run's.
        step: one of the run's checkpoints; the last by default.
        space: how much of it is looked at.

    Returns:
        The run, and both states, in the precision that jax is set to.

    Raises:
        ValueError, OSError, ImportError: if the folder does not hold a run whose data is at hand,
            or there is no such checkpoint.

    Example:
        >>> run_checkpoint("no/such/run")
        Traceback (most recent call last):
            ...
        FileNotFoundError: path: expected a run folder, got ...
    """
    space = space or OutputSpace()
    space.check()
    run, config, dataset = open_run(folder)
    expected = "one whose sequences are not padded, since every output is looked at"
    packed = config.data.sequences == "packed"
    require(packed, "run", expected=expected, got=f"sequences={config.data.sequences!r}")
    if not isinstance(config.model, LlamaConfig):
        kind = kind_of_model(config.model)
        expected = "the run of a llama, of whose outputs some are chosen"
        raise ValueError(f"run: expected {expected}, got one of the model {kind}")
    experiment = Experiment(config, dataset)
    checkpoint = run.read_checkpoint(experiment.abstract_state(), step=step)
    if checkpoint is None:
        raise ValueError(f"run: expected a folder with a checkpoint, got none in {run.path}")
    dtype = str(numerics.accumulation_dtype())
    model = dataclasses.replace(config.model, dtype=dtype, param_dtype=dtype)
    apply_fn = Experiment(dataclasses.replace(config, model=model), dataset).apply_fn
    batches = [
        jax.tree.map(lambda leaf: jnp.asarray(leaf[: space.num_samples]), batch)
        for batch in (experiment.batches.batch(0), experiment.validation_batch(0))
    ]
    before = Subject(
        apply_fn,
        cross_entropy,
        _in_default_precision(experiment.initial_state().params),
        batches[0],
        batches[1],
        space.chosen(np.asarray(batches[0][1]), dataset.vocab_size),
    )
    after = dataclasses.replace(before, params=_in_default_precision(checkpoint.state.params))
    return run, Pair(before, after, f"after {checkpoint.step} steps")


def _in_default_precision(tree: PyTree) -> PyTree:
    dtype = numerics.accumulation_dtype()
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(leaf, dtype)
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            else jnp.asarray(leaf)
        ),
        tree,
    )


def _train(apply_fn: Callable, params: PyTree, batch: Batch, steps: int) -> PyTree:
    optimizer = optax.adam(3e-3)
    inputs, targets = batch

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        params, optimizer_state = state
        gradient = jax.grad(lambda p: cross_entropy(apply_fn(p, inputs), targets))(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def _digits() -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    images, labels = read_digits()
    return images / DIGITS_WHITE, labels


def _dense_on_digits(rngs: nnx.Rngs) -> tuple[nnx.Module, Batch, Batch]:
    images, labels = _digits()
    flat = images.reshape(len(images), -1)
    dtype = numerics.accumulation_dtype()
    module = MLP((64, 48, 48, 10), activation=SMOOTH, param_dtype=dtype, rngs=rngs)
    return module, (flat[:256], labels[:256]), (flat[256:512], labels[256:512])


def _convolutional_on_digits(rngs: nnx.Rngs) -> tuple[nnx.Module, Batch, Batch]:
    images, labels = _digits()
    images = images[..., None]
    dtype = numerics.accumulation_dtype()
    module = ConvNet(
        (8, 8, 1),
        channels=(8, 8),
        hidden=16,
        num_outputs=10,
        activation=SMOOTH,
        param_dtype=dtype,
        rngs=rngs,
    )
    return module, (images[:256], labels[:256]), (images[256:512], labels[256:512])


def _llama_on_text(rngs: nnx.Rngs, *, tied: bool) -> tuple[nnx.Module, Batch, Batch]:
    """Build a Llama, and batches of bytes of the Python library's sources."""
    dtype = str(numerics.accumulation_dtype())
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        max_seq_len=CONTEXT_LENGTH,
        tie_embeddings=tied,
        dtype=dtype,
        param_dtype=dtype,
    )
    dataset = load_dataset(
        "stdlib", context_length=CONTEXT_LENGTH, num_validation=64, max_bytes=100_000
    )
    train = Batches(dataset, batch_size=64, seed=0).batch(0)
    return Llama(config, rngs=rngs), train, validation_batch(dataset, 0, size=64, seed=0)
