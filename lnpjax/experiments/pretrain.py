"""Pre-training a Llama while measuring the LNP components (Spectral Reach, section 4, B.2.1).

A run continues exactly where it was stopped, since everything that the next step depends on is
either in `TrainState` or a pure function of the configuration and the step's number: the batches,
the random probes, and which steps are measured.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

import lnpjax
from lnpjax._checks import require
from lnpjax.data import Batches, Dataset, validation_batch, validation_batches
from lnpjax.decomposition import Batch
from lnpjax.experiments.options import ADDED_LATER, PretrainConfig
from lnpjax.experiments.recording import NonFiniteLossError, Recorder, save_distribution
from lnpjax.models import Llama, split_llama
from lnpjax.position import PositionDistribution
from lnpjax.progress import Reporter
from lnpjax.rows import flatten
from lnpjax.runs import Checkpoint, Run
from lnpjax.training import InstrumentedStep, Record
from lnpjax.writers import Writer

Metrics: TypeAlias = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """What one step hands to the next."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended.

    Attributes:
        status: "finished"; "stopped" by request, with a checkpoint of where; or "diverged": the
            loss was not finite, the last row says where, and there is no checkpoint after it.
        steps_done: updates made since the start of training.
        tokens_per_second: of this call, measurements and all, compilation left out; NaN where it
            made no step.
        measuring_share: the fraction of that time that went into measuring; NaN where it made no
            step without measuring, to compare with.
    """

    status: Literal["finished", "stopped", "diverged"]
    steps_done: int
    tokens_per_second: float
    measuring_share: float


def cross_entropy(
    logits: Float[Array, "batch time vocab"], targets: Int[Array, "batch time"]
) -> Float[Array, ""]:
    """The mean cross-entropy in nats per token, in float32 whatever the logits' dtype.

    Args:
        logits: `(batch, time, vocab)`.
        targets: token ids, `(batch, time)`.

    Returns:
        A scalar.

    Example:
        >>> cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])).round(4)
        Array(1.3863, dtype=float32)
    """
    return jnp.mean(_token_losses(logits, targets))


def _token_losses(
    logits: Float[Array, "batch time vocab"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


class Experiment:
    """The pure functions of a run: how it starts, what a step does, which batches it sees.

    Args:
        config: the configuration.
        dataset: the data set that `config.data` loads.

    Raises:
        ValueError: if the configuration does not fit the data.
    """

    def __init__(self, config: PretrainConfig, dataset: Dataset) -> None:
        training, model = config.training, config.model
        for name, ours, theirs in (
            ("vocab_size", model.vocab_size, dataset.vocab_size),
            ("context_length", config.data.context_length, dataset.context_length),
        ):
            require(ours == theirs, name, expected=f"that of the data, {theirs}", got=ours)
        self.config = config
        self.dataset = dataset
        self.batches = Batches(dataset, training.batch_size, seed=training.data_seed)
        self.windows = config.measurement.windows(training.steps)
        self._init_key, self._probe_key = jax.random.split(jax.random.key(training.seed))
        # Only the structure of the model is made here; its arrays come with `initial_state`.
        self.apply_fn, _ = split_llama(nnx.eval_shape(self._model))
        self._optimizer = optax.adamw(
            self.learning_rate, b1=0.9, b2=0.95, weight_decay=training.weight_decay
        )
        self.instrumented: InstrumentedStep = lnpjax.instrument(
            self.train_step,
            lnpjax.lnp(
                self.apply_fn,
                cross_entropy,
                estimator=config.measurement.make_estimator(),
                normalization=config.measurement.normalization_of_lnp(),
            ),
            self.windows,
            params_of=lambda state: state.params,
            take_gradient=_take_gradient,
        )

    @functools.cached_property
    def compiled(self) -> Compiled:
        """The functions of a step and of the validation, compiled when first asked for."""
        return Compiled(self)

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on in one step."""
        return self.config.training.batch_size * (self.dataset.context_length or 1)

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        return jax.jit(self._initial_state)()

    def abstract_state(self) -> TrainState:
        """The shapes and dtypes of a state."""
        return jax.eval_shape(self._initial_state)

    def _initial_state(self) -> TrainState:
        params = nnx.state(self._model(), nnx.Param)
        return TrainState(params, self._optimizer.init(params), jnp.zeros((), jnp.int32))

    def _model(self) -> Llama:
        return Llama(self.config.model, rngs=nnx.Rngs(self._init_key))

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate of a step: a linear warm-up that ends at its value, then constant."""
        training = self.config.training
        rise = (step + 1) / max(1, training.warmup_steps)
        return jnp.float32(training.learning_rate) * jnp.minimum(1.0, rise)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """One update; the gradient is among the metrics, for the measurement."""
        inputs, targets = batch
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(self.apply_fn(params, inputs), targets)
        )(state.params)
        updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "learning_rate": self.learning_rate(state.step),
            "gradient": gradient,
        }
        return TrainState(params, opt_state, state.step + 1), metrics

    def plain(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step without a measurement."""
        return self.instrumented.plain(state, batch, None, self._probe_key)[:2]

    def measured(
        self, state: TrainState, batch_a: Batch, batch_b: Batch
    ) -> tuple[TrainState, Metrics, Record]:
        """A step with a measurement; the probes are a function of the seed and the step."""
        key = jax.random.fold_in(self._probe_key, state.step)
        return self.instrumented.measured(state, batch_a, batch_b, key)

    def distribution(
        self, params: PyTree, batch: Batch, step: Int[Array, ""]
    ) -> PositionDistribution:
        """How learning from a batch is spread over the spectrum, before the step's update."""
        measure = lnpjax.position_distribution(
            self.apply_fn,
            cross_entropy,
            num_matvecs=self.config.measurement.distribution,
            estimator=self.config.measurement.make_estimator(),
        )
        return measure(params, batch, key=jax.random.fold_in(self._probe_key, step))

    def evaluate(
        self, params: PyTree, batch: Batch, mask: Bool[Array, " batch"]
    ) -> Float[Array, ""]:
        """The sum over the samples in the mask of their mean loss per token."""
        inputs, targets = batch
        losses = _token_losses(self.apply_fn(params, inputs), targets)
        return jnp.sum(jnp.where(mask, jnp.mean(losses, axis=1), 0))

    def validation_batch(self, step: int) -> Batch:
        """Batch B of a step."""
        training = self.config.training
        size = min(training.batch_size, self.dataset.num_validation)
        return validation_batch(self.dataset, step, size=size, seed=training.data_seed)


class Compiled:
    """The functions of an experiment, compiled ahead for its shapes; states are donated.

    Args:
        experiment: the experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        state = experiment.abstract_state()
        batch_a, batch_b = experiment.batches.batch(0), experiment.validation_batch(0)
        size = experiment.config.training.batch_size
        self._validation_batches = functools.partial(validation_batches, experiment.dataset, size)
        self._num_validation = experiment.dataset.num_validation
        mask = np.ones(size, bool)
        lowered = [
            jax.jit(experiment.measured, donate_argnums=0).lower(state, batch_a, batch_b),
            jax.jit(experiment.plain, donate_argnums=0).lower(state, batch_a),
            jax.jit(experiment.evaluate).lower(state.params, batch_a, mask),
        ]
        if experiment.config.measurement.distribution:
            distribution = jax.jit(experiment.distribution)
            lowered.append(distribution.lower(state.params, batch_a, state.step))
        with ThreadPoolExecutor(len(lowered)) as pool:  # XLA compiles without the interpreter lock
            compiled = list(pool.map(lambda low: low.compile(), lowered))
        self.measured, self.plain, self._evaluate = compiled[:3]
        self._distribution = compiled[3] if len(compiled) > 3 else None
        self._starts = frozenset(experiment.windows.starts)

    def distribution(
        self, state: TrainState, batch: Batch, step: int
    ) -> PositionDistribution | None:
        """The distribution of learning at the first step of each window, if it is asked for."""
        if self._distribution is None or step not in self._starts:
            return None
        return self._distribution(state.params, batch, state.step)

    def validation_loss(self, params: PyTree) -> float:
        """The mean loss per token over the whole validation set, in nats."""
        sums = [self._evaluate(params, batch, mask) for batch, mask in self._validation_batches()]
        return math.fsum(float(total) for total in sums) / self._num_validation


def pretrain(
    experiment: Experiment,
    run: Run,
    *,
    writers: Sequence[Writer] = (),
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train from a run's last checkpoint, or from the start, to the end.

    Rows go to `metrics.jsonl` in the order of the steps. A row of step s counts the tokens seen up
    to and including that step. "train" and "lnp" rows hold for the parameters before its update,
    "validation" rows for those after it.

    Args:
        experiment: what is run.
        run: where it is recorded; see `lnpjax.experiments.run_folders`.
        writers: get the same rows.
        reporter: is told about the progress; nobody, if None.
        should_stop: asked before every step; once it says true, the run is saved and left.

    Returns:
        How it ended.

    Raises:
        ValueError: if the checkpoint is not of this configuration, or is corrupt.
        RuntimeError: if another process is writing to the run.

    Example:
        >>> import tempfile
        >>> from lnpjax.experiments.options import DataOptions, MeasurementOptions, ModelOptions
        >>> from lnpjax.experiments.options import TrainingOptions
        >>> from lnpjax.experiments.run_folders import create_run
        >>> data = DataOptions(max_bytes=20_000, context_length=8, num_validation=4)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(
        ...     dataset,
        ...     data=data,
        ...     model=ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1),
        ...     training=TrainingOptions(steps=5, batch_size=2),
        ...     measurement=MeasurementOptions(window_width=1),
        ... )
        >>> with create_run(config, dataset, tempfile.mkdtemp()) as run:
        ...     pretrain(Experiment(config, dataset), run).status
        ...     [len(run.rows(kind)) for kind in ("train", "lnp", "validation")]
        'finished'
        [5, 3, 2]
    """
    reporter = reporter or Reporter()
    training = experiment.config.training
    extra = {"config": experiment.config.to_json()}
    restored = run.restore(experiment.abstract_state())
    first, state, saved = restored or Checkpoint(0, experiment.initial_state(), extra)
    _check_same_config(saved, extra, run)
    if first == training.steps:
        return Outcome("finished", first, math.nan, math.nan)
    reporter.note("compiling the training step, with and without the measurement")
    compiled = experiment.compiled
    recorder = Recorder(
        run,
        writers=writers,
        reporter=reporter,
        tokens_per_step=experiment.tokens_per_step,
        num_parameters=experiment.config.model.num_parameters,
        log_every=training.log_every,
    )
    reporter.start(first, training.steps, measured=len(run.rows("lnp")))
    status: Literal["finished", "stopped", "diverged"] = "finished"
    done = saved_at = first
    try:
        for step in range(first, training.steps):
            if should_stop():
                status = "stopped"
                break
            batch = experiment.batches.batch(step)
            if (distribution := compiled.distribution(state, batch, step)) is not None:
                save_distribution(run, step, distribution)
            if experiment.windows.active(step):
                batch_b = experiment.validation_batch(step)
                state, metrics, record = compiled.measured(state, batch, batch_b)
                recorder.push(step, metrics, record)
            else:
                state, metrics = compiled.plain(state, batch)
                recorder.push(step, metrics)
            done, last = step + 1, step + 1 == training.steps
            if last or step == 0 or done % training.validate_every == 0:
                recorder.flush()
                recorder.write("validation", step, loss=compiled.validation_loss(state.params))
            if last or done % training.checkpoint_every == 0:
                recorder.flush()
                run.save(done, state, extra)
                saved_at = done
        recorder.flush()
        if saved_at < done:
            run.save(done, state, extra)
    except NonFiniteLossError as error:
        status, done = "diverged", error.step
        reporter.warn(str(error))
    finally:
        reporter.stop()
    return Outcome(status, done, *recorder.speed(done - first))


def _check_same_config(saved: dict[str, Any], given: dict[str, Any], run: Run) -> None:
    old, new = flatten(saved.get("config", {})), flatten(given["config"])
    for name in old | new:
        if name not in old and name.rpartition("/")[2] in ADDED_LATER:
            continue
        was, now = old.get(name, "absent"), new.get(name, "absent")
        expected = f"that of the run's last checkpoint, where {name} is {was!r}"
        require(was == now, f"{run.path / 'config.json'}", expected=expected, got=repr(now))


def _take_gradient(metrics: dict[str, Any]) -> tuple[PyTree, Metrics]:
    return metrics["gradient"], {name: metrics[name] for name in ("loss", "learning_rate")}
