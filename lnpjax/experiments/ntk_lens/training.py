"""Ensembles of dense networks that are trained and measured as one program (NTK Lens, D.1)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax._base.checks import checked_ids, import_extra
from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments.ntk_lens.options import TrainingRule
from lnpjax.kernel import (
    dense_kernel,
    dense_sample_kernel,
    dense_trace,
    eigenvector_misalignment,
    label_alignment,
    normalized_kernel,
    ntk_scales,
)
from lnpjax.models.vision import MLP
from lnpjax.spectra import effective_rank

Parametrization = Literal["standard", "ntk"]


class Problem(NamedTuple):
    """What the members of an ensemble are trained and tested on; images are flat."""

    train_inputs: Float[Array, "members n pixels"]
    train_labels: Int[Array, "members n"]
    test_inputs: Float[Array, "k pixels"]
    test_labels: Int[Array, " k"]

    def members(self, part: slice) -> Problem:
        """The problem of some of the members."""
        return self._replace(
            train_inputs=self.train_inputs[part], train_labels=self.train_labels[part]
        )


class EnsembleState(NamedTuple):
    """Every leaf leads with the member; `best` are the parameters of the lowest test loss."""

    params: PyTree
    optimizer: PyTree
    best: PyTree
    best_loss: Float[Array, " members"]


class Record(NamedTuple):
    """What is measured at every measured epoch."""

    train_loss: Array
    test_loss: Array
    test_accuracy: Array
    trace: Array


class KernelDirections:
    """Where kernels between samples point, for all members of an ensemble.

    Compiled once for kernels of all architectures, which have the same shape.
    """

    def __init__(self) -> None:
        self._alignment = jax.jit(jax.vmap(label_alignment, (0, None)))
        self._misalignment = jax.jit(jax.vmap(_misalignment))

    def alignments(
        self, kernels: Float[Array, "members b b"], labels: Float[Array, "b classes"]
    ) -> Float[np.ndarray, " members"]:
        """How each kernel points to the labels."""
        return np.asarray(self._alignment(kernels, labels))

    def misalignments(
        self, before: Float[Array, "members b b"], after: Float[Array, "members b b"]
    ) -> Float[np.ndarray, " members"]:
        """How far the leading eigenvectors of each kernel turned.

        By numpy's eigensolver: compiled for a CPU with few cores, two batched eigendecompositions
        of one program were seen to wait for each other for ever (jaxlib 0.10.1).
        """
        return np.asarray(self._misalignment(*_modes(before), *_modes(after)))


class DenseEnsemble:
    """Trains and measures ensembles of one architecture; compiled once for all of them.

    Args:
        sizes: widths from the pixels to the classes.
        num_ntk: how many of the test images the kernel is taken on.
        every: epochs between two measurements.
        directions: shared with other architectures.
        parametrization: "standard", or "ntk" (`lnpjax.kernel.ntk_scales`), which starts from the
            same functions. It is the same as layers of the standard one that count in the kernel,
            and whose Adam's steps are multiplied, by a factor each: that is what is done.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        num_ntk: int,
        every: int,
        directions: KernelDirections,
        parametrization: Parametrization = "standard",
    ) -> None:
        self.sizes, self.directions = sizes, directions
        self.scales = ntk_scales(sizes) if parametrization == "ntk" else None
        self._num_ntk, self._every = num_ntk, every
        shapes = nnx.eval_shape(lambda: MLP(sizes, rngs=nnx.Rngs(0)))
        self._graphdef = nnx.split(shapes, nnx.Param)[0]
        # Not compiled as one: layers of a size that was drawn before are not compiled again.
        self._start = jax.vmap(self._initial)
        axes = Problem(0, 0, None, None)  # type: ignore[arg-type]
        self.advance = jax.jit(jax.vmap(self.one_block, (0, axes, None)))
        self._sample_kernels = jax.jit(
            jax.vmap(partial(dense_sample_kernel, scales=self.scales), (0, None))
        )
        self._normalized = jax.jit(
            lambda *batch: normalized_kernel(dense_kernel(*batch, scales=self.scales))
        )

    @property
    def num_params(self) -> int:
        """Parameters of one member."""
        return sum((w + 1) * v for w, v in zip(self.sizes, self.sizes[1:], strict=False))

    def start(self, keys: Key[Array, " members"]) -> EnsembleState:
        """The ensemble before training, one member per key."""
        return self._start(keys)

    def one_block(
        self, state: EnsembleState, problem: Problem, rate: Float[Array, ""]
    ) -> tuple[EnsembleState, Record]:
        """Measure one member, then train it until the next measurement; `advance` does it for all.

        Args:
            state: of one member, without the axis of members.
            problem: likewise.
            rate: of Adam.

        Returns:
            The state afterwards, and the record of before.
        """
        optimizer = optax.adam(rate)
        train = (problem.train_inputs, problem.train_labels)
        test_loss, test_accuracy = self._loss(
            state.params, problem.test_inputs, problem.test_labels
        )
        record = Record(
            self._loss(state.params, *train)[0],
            test_loss,
            test_accuracy,
            dense_trace(state.params, problem.test_inputs[: self._num_ntk], scales=self.scales),
        )
        better = test_loss < state.best_loss

        def step(carry: PyTree, _: None) -> tuple[PyTree, None]:
            params, memory = carry
            gradient = jax.grad(lambda p: self._loss(p, *train)[0])(params)
            updates, memory = optimizer.update(gradient, memory, params)
            return (optax.apply_updates(params, self._steps(updates)), memory), None

        best = jax.tree.map(partial(jnp.where, better), state.params, state.best)
        carry = (state.params, state.optimizer)
        (params, memory), _ = jax.lax.scan(step, carry, None, length=self._every)
        return EnsembleState(params, memory, best, jnp.minimum(test_loss, state.best_loss)), record

    def sample_kernels(self, params: PyTree, problem: Problem) -> Float[Array, "members b b"]:
        """The kernels between samples."""
        return self._sample_kernels(params, problem.test_inputs[: self._num_ntk])

    def labels(self, problem: Problem) -> Float[Array, "b classes"]:
        """One-hot labels of the samples of the kernels."""
        return jax.nn.one_hot(problem.test_labels[: self._num_ntk], self.sizes[-1])

    def effective_ranks(
        self, params: PyTree, problem: Problem, members: int
    ) -> Float[np.ndarray, " members"]:
        """Of the kernels of all outputs and of normalised gradients, for the first members."""
        inputs = problem.test_inputs[: self._num_ntk]
        kernels = (
            np.asarray(self._normalized(jax.tree.map(lambda leaf, i=i: leaf[i], params), inputs))
            for i in range(members)
        )
        return spectral_ranks(kernels)

    def _initial(self, key: Key[Array, ""]) -> EnsembleState:
        params = nnx.state(MLP(self.sizes, rngs=nnx.Rngs(key)), nnx.Param)
        return EnsembleState(params, optax.adam(0.0).init(params), params, jnp.float32(jnp.inf))

    def _steps(self, updates: PyTree) -> PyTree:
        """Adam's updates as they act on the weights that a layer uses.

        Adam's update does not depend on the scale of a gradient, except for its epsilon: in ``c W``
        it is c times the update of W.
        """
        if self.scales is None:
            return updates
        leaves, structure = jax.tree.flatten(updates)  # of each layer its bias, then its weights
        factors = [square**0.5 for weight, bias in self.scales for square in (bias, weight)]
        pairs = zip(factors, leaves, strict=True)
        return jax.tree.unflatten(structure, [factor * leaf for factor, leaf in pairs])

    def _loss(self, params: PyTree, inputs: Array, labels: Array) -> tuple[Array, Array]:
        """Mean cross-entropy, and accuracy."""
        logits = nnx.merge(self._graphdef, params)(inputs)
        ids = checked_ids("labels", labels, logits.shape[-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def spectral_ranks(kernels: Any) -> Float[np.ndarray, " n"]:
    """Effective ranks of kernels, by an eigensolver that leaves the eigenvectors out.

    One thread per kernel: LAPACK gains little from several at these sizes.

    Args:
        kernels: an iterable of kernels, in memory a few at a time.

    Returns:
        An effective rank for each.

    Example:
        >>> spectral_ranks([np.eye(3, dtype=np.float32)]).round(3)
        array([3.], dtype=float32)
    """
    threads = import_extra("threadpoolctl", extra="run", purpose="spectra of ensembles")
    with threads.threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(2) as pool:
        spectra = list(pool.map(np.linalg.eigvalsh, kernels))
    return np.asarray(effective_rank(jnp.asarray(np.stack(spectra))))


def _modes(kernels: Float[Array, "members b b"]) -> tuple[np.ndarray, np.ndarray]:
    eigenvalues, eigenvectors = np.linalg.eigh(np.asarray(kernels))
    return eigenvalues[:, ::-1], eigenvectors[:, :, ::-1]


def _misalignment(*modes: Array) -> Array:
    return eigenvector_misalignment(*modes).misalignment


class Trial(NamedTuple):
    """What training at the rate that the rule found ended in; the record leads with the member."""

    rate: float
    attempts: int
    state: EnsembleState
    record: Record


def find_rate(
    ensemble: DenseEnsemble,
    problem: Problem,
    keys: Key[Array, " members"],
    width: int,
    rule: TrainingRule,
) -> tuple[float, int]:
    """The learning rate by the rule, and how many trials it took.

    Args:
        ensemble: the architecture.
        problem: of the whole ensemble.
        keys: likewise; the first members are the pilots.
        width: of the network.
        rule: see `TrainingRule`.
    """
    pilots = slice(0, rule.pilots)
    trial = train_by_rule(ensemble, problem.members(pilots), keys[pilots], width, rule)
    return trial.rate, trial.attempts


def train_by_rule(
    ensemble: DenseEnsemble,
    problem: Problem,
    keys: Key[Array, " members"],
    width: int,
    rule: TrainingRule,
) -> Trial:
    """Train all members, again with another rate until the rule is content.

    Args:
        ensemble: the architecture.
        problem: of the members.
        keys: likewise.
        width: of the network.
        rule: see `TrainingRule`.

    Returns:
        The last `Trial`.
    """
    rate = rule.trial_rate(width)
    for attempt in range(1, rule.attempts + 1):
        state, records = ensemble.start(keys), []
        for _ in rule.measured_epochs:
            state, record = ensemble.advance(state, problem, np.float32(rate))
            records.append(record)
        record = jax.tree.map(lambda *values: np.stack(values, axis=1), *records)
        epoch = int(rule.measured_epochs[lowest_point(np.mean(record.test_loss, axis=0))])
        if rule.earliest <= epoch <= rule.latest or attempt == rule.attempts:
            break
        rate = rule.next_rate(rate, epoch)
    return Trial(rate, attempt, state, record)
