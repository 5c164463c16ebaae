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
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from lnpjax._base.checks import checked_ids, require
from lnpjax.data import Batches, Dataset, validation_batch, validation_batches
from lnpjax.decomposition import lnp
from lnpjax.jacobian import Batch
from lnpjax.models import Llama, split_llama
from lnpjax.pretraining.config import PretrainConfig
from lnpjax.pretraining.config._checks import require_divisible
from lnpjax.pretraining.lens import Lens, LensSpectra
from lnpjax.sharding import batch_sharding, gather_over_data, parameter_shardings, place, replicated
from lnpjax.spectra import PositionDistribution, position_distribution, tail_window
from lnpjax.training import InstrumentedStep, Record, instrument

Metrics: TypeAlias = dict[str, Float[Array, ""]]


class PretrainState(NamedTuple):
    """What one step hands to the next."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


def cross_entropy(
    logits: Float[Array, "batch time vocab"], targets: Int[Array, "batch time"]
) -> Float[Array, ""]:
    """Compute the mean cross-entropy in nats per token, in float32 whatever the logits' dtype.

    Args:
        logits: `(batch, time, vocab)`.
        targets: token ids, `(batch, time)`.

    Returns:
        A scalar. NaN where, under `jit`, a target is not a token.

    Raises:
        ValueError: where values are known, if a target is not a token.

    Example:
        >>> cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])).round(4)
        Array(1.3863, dtype=float32)
    """
    return jnp.mean(_token_losses(logits, targets))


def _token_losses(
    logits: Float[Array, "batch time vocab"], targets: Int[Array, "batch time"]
) -> Float[Array, "batch time"]:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    ids = checked_ids("targets", targets, logits.shape[-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids)


class Experiment:
    """The pure functions of a run: how it starts, what a step does, which batches it sees.

    Args:
        config: the configuration.
        dataset: the data set that `config.data` loads.
        mesh: the devices that the run is sharded over, as `config.training.mesh` says; None for one
            device. It changes the numbers only by rounding, so that runs can be read without it.

    Raises:
        ValueError: if the configuration does not fit the data or the mesh.

    Example:
        >>> from lnpjax.pretraining import DataOptions, ModelOptions
        >>> data = DataOptions(max_bytes=20_000, context_length=8, num_validation=4)
        >>> model = ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(dataset, data=data, model=model)
        >>> experiment = Experiment(config, dataset)
        >>> experiment.tokens_per_step, len(experiment.windows.starts)
        (256, 15)
    """

    def __init__(
        self, config: PretrainConfig, dataset: Dataset, *, mesh: Mesh | None = None
    ) -> None:
        _check_fits_data(config, dataset)
        training = config.training
        self.config = config
        self.dataset = dataset
        self.mesh = mesh
        if mesh is not None:
            samples = {
                "batch_size": training.batch_size,
                "num_validation": self._size_of_batch_b,
                "spectra": config.measurement.spectra,
            }
            for name, number in samples.items():
                require_divisible(name, number, mesh.shape["data"])
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
        self.instrumented: InstrumentedStep = instrument(
            self.train_step,
            lnp(
                self.apply_fn,
                cross_entropy,
                estimator=config.measurement.make_estimator(),
                normalization=config.measurement.normalization_of_lnp(),
            ),
            self.windows,
            params_of=lambda state: self._gathered(state.params),
            take_gradient=_take_gradient,
        )

    @functools.cached_property
    def compiled(self) -> Compiled:
        """The functions of a step and of the validation, compiled when they are first used."""
        return Compiled(self)

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on in one step."""
        return self.config.training.batch_size * (self.dataset.context_length or 1)

    def initial_state(self) -> PretrainState:
        """Compute the state before the first step."""
        return jax.jit(self._initial_state, out_shardings=self.state_shardings)()

    def abstract_state(self) -> PretrainState:
        """Return the shapes and dtypes of a state, and on a mesh its shardings."""
        state = jax.eval_shape(self._initial_state)
        if self.mesh is None:
            return state
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type
            ),
            state,
            self.state_shardings,
        )

    @property
    def state_shardings(self) -> PretrainState | None:
        """How a state is sharded over the mesh, before the first step and after each; or None."""
        if self.mesh is None:
            return None
        return parameter_shardings(jax.eval_shape(self._initial_state), self.mesh)

    def _initial_state(self) -> PretrainState:
        params = nnx.state(self.model(), nnx.Param)
        return PretrainState(params, self._optimizer.init(params), jnp.zeros((), jnp.int32))

    def model(self) -> Llama:
        """Make the model with its initial parameters."""
        return Llama(self.config.model, rngs=nnx.Rngs(self._init_key))

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the learning rate of a step: a linear warm-up to its value, then constant."""
        training = self.config.training
        rise = (step + 1) / max(1, training.warmup_steps)
        return jnp.float32(training.learning_rate) * jnp.minimum(1.0, rise)

    def train_step(
        self, state: PretrainState, batch: Batch
    ) -> tuple[PretrainState, dict[str, Any]]:
        """Make one update; the gradient is among the metrics, for the measurement."""
        inputs, targets = batch
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(self.apply_fn(self._gathered(params), inputs), targets)
        )(state.params)
        updates, opt_state = self._optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "learning_rate": self.learning_rate(state.step),
            "gradient": gradient,
        }
        return PretrainState(params, opt_state, state.step + 1), metrics

    def plain(self, state: PretrainState, batch: Batch) -> tuple[PretrainState, Metrics]:
        """Make a step without a measurement."""
        return self.instrumented.plain(state, batch, None, self._probe_key)[:2]

    def measured(
        self, state: PretrainState, batch_a: Batch, batch_b: Batch
    ) -> tuple[PretrainState, Metrics, Record]:
        """Make a step with a measurement; the probes are a function of the seed and the step."""
        key = jax.random.fold_in(self._probe_key, state.step)
        return self.instrumented.measured(state, batch_a, batch_b, key)

    def distribution(
        self, params: PyTree, batch: Batch, step: Int[Array, ""]
    ) -> PositionDistribution:
        """Measure how learning from a batch is distributed over the spectrum, before the update."""
        measure = position_distribution(
            self.apply_fn,
            cross_entropy,
            num_matvecs=self.config.measurement.distribution,
            estimator=self.config.measurement.make_estimator(),
        )
        return measure(self._gathered(params), batch, key=jax.random.fold_in(self._probe_key, step))

    def spectra(self, params: PyTree, pool: Batch) -> LensSpectra:
        """Measure the spectra of activations, gradients and weights over the held-out pool."""
        return self.lens(self._gathered(params), pool)

    @property
    def pool(self) -> Batch:
        """The held-out sequences of the spectra."""
        return self.dataset.validation(np.arange(self.config.measurement.spectra))

    def evaluate(
        self, params: PyTree, batch: Batch, mask: Bool[Array, " batch"]
    ) -> Float[Array, ""]:
        """Sum the mean loss per token of the samples in the mask."""
        inputs, targets = batch
        losses = _token_losses(self.apply_fn(self._gathered(params), inputs), targets)
        return jnp.sum(jnp.where(mask, jnp.mean(losses, axis=1), 0))

    def validation_batch(self, step: int) -> Batch:
        """Draw batch B of a step."""
        seed = self.config.training.data_seed
        return validation_batch(self.dataset, step, size=self._size_of_batch_b, seed=seed)

    @property
    def _size_of_batch_b(self) -> int:
        return min(self.config.training.batch_size, self.dataset.num_validation)

    def _gathered(self, params: PyTree) -> PyTree:
        return params if self.mesh is None else gather_over_data(params, self.mesh)

    def place(self, samples: PyTree) -> PyTree:
        """Shard samples over the mesh, if there is one."""
        return samples if self.mesh is None else place(samples, batch_sharding(self.mesh))


def _check_fits_data(config: PretrainConfig, dataset: Dataset) -> None:
    """Refuse a configuration that is of other data, or wants more of them than there are."""
    model, num_spectra = config.model, config.measurement.spectra
    for name, ours, theirs in (
        ("vocab_size", model.vocab_size, dataset.vocab_size),
        ("context_length", config.data.context_length, dataset.context_length),
    ):
        require(ours == theirs, name, expected=f"that of the data, {theirs}", got=ours)
    require(
        num_spectra <= dataset.num_validation,
        "spectra",
        expected=f"at most the {dataset.num_validation} sequences of --num-validation",
        got=num_spectra,
    )
    length, enough = dataset.context_length or 1, tail_window(model.hidden_size)[1] + 1
    require(
        num_spectra == 0 or num_spectra * length >= enough,
        "spectra",
        expected=f"at least {math.ceil(enough / length)} sequences, whose "
        f"positions resolve the spectrum of {model.hidden_size} features",
        got=num_spectra,
    )


class Compiled:
    """The functions of an experiment, compiled ahead for its shapes; states are donated.

    On a mesh, states keep their sharding, and every device has all of each result.

    Args:
        experiment: the experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        state, states = experiment.abstract_state(), experiment.state_shardings
        everywhere = None if experiment.mesh is None else replicated(experiment.mesh)
        self._place = experiment.place
        batch_a = self._place(experiment.batches.batch(0))
        batch_b = self._place(experiment.validation_batch(0))
        size = experiment.config.training.batch_size
        self._validation_batches = functools.partial(validation_batches, experiment.dataset, size)
        self._num_validation = experiment.dataset.num_validation
        mask = self._place(np.ones(size, bool))
        params, measurement = state.params, experiment.config.measurement
        lowered = {
            "measured": jax.jit(
                experiment.measured,
                donate_argnums=0,
                out_shardings=(states, everywhere, everywhere),
            ).lower(state, batch_a, batch_b),
            "plain": jax.jit(
                experiment.plain, donate_argnums=0, out_shardings=(states, everywhere)
            ).lower(state, batch_a),
            "evaluate": jax.jit(experiment.evaluate, out_shardings=everywhere).lower(
                params, batch_a, mask
            ),
        }
        if measurement.distribution:
            distribution = jax.jit(experiment.distribution, out_shardings=everywhere)
            lowered["distribution"] = distribution.lower(params, batch_a, state.step)
        if measurement.spectra:
            self._pool = self._place(experiment.pool)
            lens = jax.jit(experiment.spectra, out_shardings=everywhere)
            lowered["lens"] = lens.lower(params, self._pool)
        with ThreadPoolExecutor(len(lowered)) as threads:  # XLA compiles without Python's lock
            compiled = threads.map(lambda low: low.compile(), lowered.values())
            self._functions = dict(zip(lowered, compiled, strict=True))
        self._starts = frozenset(experiment.windows.starts)
        self._last = experiment.config.training.steps - 1

    def plain(self, state: PretrainState, batch: Batch) -> tuple[PretrainState, Metrics]:
        """Make a step without a measurement."""
        return self._functions["plain"](state, self._place(batch))

    def measured(
        self, state: PretrainState, batch_a: Batch, batch_b: Batch
    ) -> tuple[PretrainState, Metrics, Record]:
        """Make a step with a measurement."""
        return self._functions["measured"](state, self._place(batch_a), self._place(batch_b))

    def distribution(
        self, state: PretrainState, batch: Batch, step: int
    ) -> PositionDistribution | None:
        """Measure the distribution of learning at the first step of each window, if configured."""
        if "distribution" not in self._functions or step not in self._starts:
            return None
        return self._functions["distribution"](state.params, self._place(batch), state.step)

    def lens(self, state: PretrainState, step: int) -> LensSpectra | None:
        """Measure the spectra at the first step of each window and at the last, if configured."""
        if "lens" not in self._functions or not (step in self._starts or step == self._last):
            return None
        return self._functions["lens"](state.params, self._pool)

    def validation_loss(self, params: PyTree) -> float:
        """Compute the mean loss per token over the whole validation set, in nats."""
        evaluate = self._functions["evaluate"]
        sums = [evaluate(params, *self._place(padded)) for padded in self._validation_batches()]
        return math.fsum(float(total) for total in sums) / self._num_validation


def _take_gradient(metrics: dict[str, Any]) -> tuple[PyTree, Metrics]:
    return metrics["gradient"], {name: metrics[name] for name in ("loss", "learning_rate")}
