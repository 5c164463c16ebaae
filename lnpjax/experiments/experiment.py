"""The pure functions of a pre-training run: its model, its step, its measurements, its batches."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

import lnpjax
from lnpjax._checks import require
from lnpjax.assumptions import Batch
from lnpjax.data import Batches, Dataset, validation_batch, validation_batches
from lnpjax.experiments.lens_spectra import Lens, LensSpectra
from lnpjax.experiments.options import PretrainConfig
from lnpjax.models import Llama, split_llama
from lnpjax.position import PositionDistribution
from lnpjax.spectrum_summary import tail_window
from lnpjax.training import InstrumentedStep, Record

Metrics: TypeAlias = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """What one step hands to the next."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


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
        require(
            config.measurement.spectra <= dataset.num_validation,
            "spectra",
            expected=f"at most the {dataset.num_validation} sequences of --num-validation",
            got=config.measurement.spectra,
        )
        positions = config.measurement.spectra * (dataset.context_length or 1)
        enough = tail_window(model.hidden_size)[1] + 1
        require(
            config.measurement.spectra == 0 or positions >= enough,
            "spectra",
            expected=f"at least {-(-enough // (dataset.context_length or 1))} sequences, whose "
            f"positions resolve the spectrum of {model.hidden_size} features",
            got=config.measurement.spectra,
        )
        self.config = config
        self.dataset = dataset
        self.batches = Batches(dataset, training.batch_size, seed=training.data_seed)
        self.windows = config.measurement.windows(training.steps)
        self._init_key, self._probe_key = jax.random.split(jax.random.key(training.seed))
        # Only the structure of the model is made here; its arrays come with `initial_state`.
        model = nnx.eval_shape(self.model)
        self.apply_fn, _ = split_llama(model)
        self.lens = Lens(model, self.apply_fn, cross_entropy, microbatch_size=training.batch_size)
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
        params = nnx.state(self.model(), nnx.Param)
        return TrainState(params, self._optimizer.init(params), jnp.zeros((), jnp.int32))

    def model(self) -> Llama:
        """The model with its initial parameters."""
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

    @property
    def pool(self) -> Batch:
        """The held-out sequences of the spectra."""
        return self.dataset.validation(np.arange(self.config.measurement.spectra))

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
        params, measurement = state.params, experiment.config.measurement
        lowered = {
            "measured": jax.jit(experiment.measured, donate_argnums=0).lower(
                state, batch_a, batch_b
            ),
            "plain": jax.jit(experiment.plain, donate_argnums=0).lower(state, batch_a),
            "evaluate": jax.jit(experiment.evaluate).lower(params, batch_a, mask),
        }
        if measurement.distribution:
            distribution = jax.jit(experiment.distribution)
            lowered["distribution"] = distribution.lower(params, batch_a, state.step)
        if measurement.spectra:
            lowered["lens"] = jax.jit(experiment.lens).lower(params, experiment.pool)
        with ThreadPoolExecutor(len(lowered)) as threads:  # XLA compiles without Python's lock
            compiled = threads.map(lambda low: low.compile(), lowered.values())
            functions = dict(zip(lowered, compiled, strict=True))
        self.measured, self.plain = functions["measured"], functions["plain"]
        self._evaluate = functions["evaluate"]
        self._distribution, self._lens = functions.get("distribution"), functions.get("lens")
        self._pool = experiment.pool
        self._starts = frozenset(experiment.windows.starts)
        self._last = experiment.config.training.steps - 1

    def distribution(
        self, state: TrainState, batch: Batch, step: int
    ) -> PositionDistribution | None:
        """The distribution of learning at the first step of each window, if it is asked for."""
        if self._distribution is None or step not in self._starts:
            return None
        return self._distribution(state.params, batch, state.step)

    def lens(self, state: TrainState, step: int) -> LensSpectra | None:
        """The spectra at the first step of each window and at the last step, if asked for."""
        if self._lens is None or not (step in self._starts or step == self._last):
            return None
        return self._lens(state.params, self._pool)

    def validation_loss(self, params: PyTree) -> float:
        """The mean loss per token over the whole validation set, in nats."""
        sums = [self._evaluate(params, batch, mask) for batch, mask in self._validation_batches()]
        return math.fsum(float(total) for total in sums) / self._num_validation


def _take_gradient(metrics: dict[str, Any]) -> tuple[PyTree, Metrics]:
    return metrics["gradient"], {name: metrics[name] for name in ("loss", "learning_rate")}
