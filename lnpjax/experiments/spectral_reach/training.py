"""Several networks of one size, trained and measured side by side as one program.

They differ in their initial parameters, and in the learning rate where several are tried; all see
the same batches. A chunk of steps is one scan; the components are measured by `lnpjax.lnp` in the
steps that a schedule names, with one independent probe for each sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax.decomposition import Estimator, Hutchinson, lnp
from lnpjax.experiments.spectral_reach.data import DataSource
from lnpjax.experiments.spectral_reach.options import Recipe
from lnpjax.jacobian import ApplyFn, Batch
from lnpjax.models import Llama, LlamaConfig, split_llama
from lnpjax.parameters import Subset, combine, partition
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.training import Windows

COMPONENTS = ("chi_loss", "chi_net", "chi_pos")
Components = dict[str, Float[Array, " runs"]]
"""The components of a step and, as "status", what went wrong; NaN where nothing was measured."""


class State(NamedTuple):
    """Networks in training; every leaf leads with the run.

    Attributes:
        trainable: parameters that are trained.
        frozen: those that are not; None in their place in `trainable`, and the other way round.
        memory: of the optimiser.
    """

    trainable: PyTree
    frozen: PyTree
    memory: PyTree

    @property
    def params(self) -> PyTree:
        """All parameters."""
        return combine(self.trainable, self.frozen)


class Chunk(NamedTuple):
    """What the steps of a chunk need; every leaf leads with the step."""

    steps: Int[Array, " n"]
    batches_a: Batch
    batches_b: Batch
    measured: Bool[Array, " n"]


class Subject(NamedTuple):
    """A network of some size, as it is trained and measured.

    Attributes:
        apply_fn: ``apply_fn(params, inputs)``.
        initial: parameters of a key.
        estimator: of the network's scale.
        scale: of the updates, between Adam and weight decay.
    """

    apply_fn: ApplyFn
    initial: Callable[[Key[Array, ""]], PyTree]
    estimator: Estimator = Hutchinson(1)
    scale: optax.GradientTransformation = optax.identity()


def language_model(model: LlamaConfig) -> Subject:
    """Return a Llama of some size."""
    apply_fn, _ = split_llama(nnx.eval_shape(lambda: Llama(model, rngs=nnx.Rngs(0))))
    return Subject(apply_fn, lambda key: nnx.state(Llama(model, rngs=nnx.Rngs(key)), nnx.Param))


class Programs(NamedTuple):
    """What all runs of a size share, compiled when it is first used.

    Attributes:
        initial: parameters of some keys.
        begin: the state before the first step, of parameters.
        advance: of a state, learning rates, keys of probes and a chunk: the next state, the losses
            ``(n, runs)`` and the components ``(n, runs)``.
        evaluate: mean loss of each run over stacked batches, of parameters and these.
    """

    initial: Callable[[Key[Array, " runs"]], PyTree]
    begin: Callable[[PyTree], State]
    advance: Callable[..., tuple[State, Float[Array, "n runs"], dict[str, Array]]]
    evaluate: Callable[[PyTree, Batch], Float[Array, " runs"]]


def programs_of(subject: Subject, recipe: Recipe, *, wrt: Subset = None) -> Programs:
    """Return the programs of a network.

    Args:
        subject: the network.
        recipe: how it is trained.
        wrt: what is trained and measured (`lnpjax.parameters.partition`); None for all.
    """
    apply_fn = subject.apply_fn
    measure = lnp(apply_fn, cross_entropy, estimator=subject.estimator, wrt=wrt)

    def loss_of(params: PyTree, batch: Batch) -> Float[Array, ""]:
        return cross_entropy(apply_fn(params, batch[0]), batch[1])

    def begin(params: PyTree) -> State:
        trainable, frozen = partition(params, wrt)
        return State(trainable, frozen, _optimizer(subject, recipe, jnp.float32(0)).init(trainable))

    def update(state: State, rate: Array, batch: Batch) -> tuple[State, Array, PyTree]:
        loss, gradient = jax.value_and_grad(
            lambda trainable: loss_of(combine(trainable, state.frozen), batch)
        )(state.trainable)
        step = _optimizer(subject, recipe, rate).update
        updates, memory = step(gradient, state.memory, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return State(trainable, state.frozen, memory), loss, gradient

    def components(state: State, gradient: PyTree, key: Array, chunk: Chunk) -> Components:
        found = measure(
            state.params,
            chunk.batches_a,
            chunk.batches_b,
            key=jax.random.fold_in(key, chunk.steps),
            gradient_a=gradient,
            check_gradient_a=False,
        )
        return {name: getattr(found, name) for name in (*COMPONENTS, "status")}

    def evaluate(params: PyTree, batches: Batch) -> Float[Array, ""]:
        return jnp.mean(jax.lax.map(lambda batch: loss_of(params, batch), batches))

    return Programs(
        jax.jit(jax.vmap(subject.initial)),
        jax.jit(jax.vmap(begin)),
        jax.jit(functools.partial(_advance, update, components), donate_argnums=0),
        jax.jit(jax.vmap(evaluate, (0, None))),
    )


def _optimizer(
    subject: Subject, recipe: Recipe, rate: Float[Array, ""]
) -> optax.GradientTransformation:
    """AdamW of B.2, whose learning rate rises linearly and then is constant."""
    schedule = optax.warmup_constant_schedule(0.0, rate, recipe.warmup_steps)
    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=recipe.second_moment),
        subject.scale,
        optax.add_decayed_weights(recipe.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


def _advance(
    update: Callable[..., tuple[State, Array, PyTree]],
    components: Callable[..., Components],
    state: State,
    rates: Float[Array, " runs"],
    keys: Key[Array, " runs"],
    chunk: Chunk,
) -> tuple[State, Float[Array, "n runs"], dict[str, Array]]:
    """Make the steps of a chunk, and measure in some of them before the update."""

    def step(before: State, now: Chunk) -> tuple[State, tuple[Array, Components]]:
        after, losses, gradients = jax.vmap(update, (0, 0, None))(before, rates, now.batches_a)

        # Which steps are measured is the same for all runs, so that this stays a branch.
        def measured() -> Components:
            return jax.vmap(components, (0, 0, 0, None))(before, gradients, keys, now)

        nothing = {
            name: jnp.full(shape.shape, 0 if name == "status" else jnp.nan, shape.dtype)
            for name, shape in jax.eval_shape(measured).items()
        }
        return after, (losses, jax.lax.cond(now.measured, measured, lambda: nothing))

    state, (losses, found) = jax.lax.scan(step, state, chunk)
    return state, losses, found


class Trained(NamedTuple):
    """What came of some runs.

    Attributes:
        params: at the end; every leaf leads with the run.
        train_loss: of the batch of every step, before its update.
        test_steps: after how many steps the test loss was taken, the first before training.
        test_loss: at these.
        steps: that were measured.
        components: at these, by name, ``(runs, measured)``.
        status: what went wrong in any of them, for each run.
        observed: what was asked for, at the test steps.
    """

    params: PyTree
    train_loss: Float[np.ndarray, "runs steps"]
    test_steps: Int[np.ndarray, " tests"]
    test_loss: Float[np.ndarray, "runs tests"]
    steps: Int[np.ndarray, " measured"]
    components: dict[str, Float[np.ndarray, "runs measured"]]
    status: Int[np.ndarray, " runs"]
    observed: Sequence[Any] = ()


def train(
    programs: Programs,
    params: PyTree,
    rates: Float[np.ndarray, " runs"],
    split: DataSource,
    recipe: Recipe,
    *,
    seed: int = 0,
    observe: Callable[[PyTree], Any] | None = None,
) -> Trained:
    """Train and measure some runs over the task's steps.

    Args:
        programs: of their size.
        params: to start from; every leaf leads with the run.
        rates: learning rates.
        split: the data.
        recipe: how.
        seed: of the probes.
        observe: of the parameters, called whenever the test loss is taken.
    """
    steps, windows = split.num_steps, recipe.windows(split.num_steps)
    keys = jax.random.split(jax.random.key(seed), len(rates))
    tests = split.test()
    test_losses = [programs.evaluate(params, tests)]
    observed = [] if observe is None else [observe(params)]
    state = programs.begin(params)
    losses, found = [], []
    for start in range(0, steps, recipe.chunk_steps):
        chunk = chunk_of(split, windows, start, recipe.chunk_steps)
        state, loss, measured = programs.advance(state, jnp.asarray(rates), keys, chunk)
        losses.append(loss)
        found.append(measured)
        test_losses.append(programs.evaluate(state.params, tests))
        if observe is not None:
            observed.append(observe(state.params))
    columns = {name: _joined([part[name] for part in found])[:, windows.steps] for name in found[0]}
    return Trained(
        state.params,
        _joined(losses),
        np.arange(len(test_losses)) * recipe.chunk_steps,
        np.stack(jax.device_get(test_losses), axis=1),
        windows.steps,
        {name: columns[name] for name in COMPONENTS},
        np.bitwise_or.reduce(columns["status"], axis=1),
        observed,
    )


def pilot(
    programs: Programs,
    params: PyTree,
    rates: Float[np.ndarray, " runs"],
    split: DataSource,
    recipe: Recipe,
) -> Float[np.ndarray, " runs"]:
    """Return the validation loss that each learning rate leads to in a short run.

    Args:
        programs: of the size.
        params: to start from, as often as there are rates.
        rates: learning rates.
        split: the data.
        recipe: how.
    """
    state, keys = programs.begin(params), jax.random.split(jax.random.key(0), len(rates))
    for start in range(0, recipe.pilot_steps, recipe.chunk_steps):
        chunk = chunk_of(split, Windows((), ()), start, recipe.chunk_steps)
        state, _, _ = programs.advance(state, jnp.asarray(rates), keys, chunk)
    return np.asarray(programs.evaluate(state.params, split.validation()))


def chunk_of(split: DataSource, windows: Windows, start: int, count: int) -> Chunk:
    """Return what consecutive steps need; batches B are the first one where none is measured.

    Args:
        split: the data.
        windows: of measured steps.
        start: the first step.
        count: how many.
    """
    steps = np.arange(start, start + count)
    measured = np.isin(steps, windows.steps)
    rows = np.where(measured, np.cumsum(measured) - 1, 0)  # of the batches that are drawn
    drawn = split.comparison(steps[measured] if measured.any() else steps[:1])
    return Chunk(
        steps.astype(np.int32),  # type: ignore[arg-type]
        split.training(start, count),
        (drawn[0][np.maximum(rows, 0)], drawn[1][np.maximum(rows, 0)]),
        measured,  # type: ignore[arg-type]
    )


def _joined(parts: list[Any]) -> np.ndarray:
    """Arrays that lead with the step as one that leads with the run."""
    return np.concatenate(jax.device_get(parts)).T
