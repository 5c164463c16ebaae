"""The pure functions of a pre-training run: its model, its step, its measurements, its batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax.data import (
    Batches,
    Dataset,
    DatasetWithTest,
    batches_of_test,
    validation_batch,
    validation_batches,
)
from lnpjax.data.datasets import num_test
from lnpjax.decomposition import lnp
from lnpjax.jacobian import ApplyFn, Batch
from lnpjax.jacobian._interaction import samples_interact
from lnpjax.models import Llama, LlamaConfig, ViT, ViTConfig
from lnpjax.pretraining.config import PretrainConfig
from lnpjax.pretraining.config._checks import require_divisible
from lnpjax.pretraining.config.networks import (
    abstract_model,
    build,
    num_outputs_of,
    sample_shape_of,
    split_model,
)
from lnpjax.pretraining.config.own import MakeModel, OwnConfig
from lnpjax.pretraining.config.start import is_within
from lnpjax.pretraining.folders import read_model
from lnpjax.pretraining.lens import Lens, LensSpectra
from lnpjax.pretraining.loss import cross_entropy, hits, sequence_losses
from lnpjax.pretraining.optimisation import learning_rate_of, make_optimizer
from lnpjax.sharding import batch_sharding, gather_over_data, parameter_shardings, place, replicated
from lnpjax.spectra import PositionDistribution, position_distribution, tail_window
from lnpjax.training import InstrumentedStep, Record, instrument

Metrics: TypeAlias = dict[str, Float[Array, ""]]


class PretrainState(NamedTuple):
    """What one step hands to the next."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


class Experiment:
    """The pure functions of a run: how it starts, what a step does, which batches it sees.

    Args:
        config: the configuration.
        dataset: the data set that `config.data` loads.
        mesh: the devices that the run is sharded over, as `config.training.mesh` says; None for one
            device. It changes the numbers only by rounding, so that runs can be read without it.
        make_model: the function that makes the model, if it is one of a file; the file that the
            configuration names is not run.

    Raises:
        ValueError: if the configuration does not fit the data or the mesh, or the samples of a
            model of one's own interact.

    Example:
        >>> from lnpjax.pretraining import DataOptions, ModelOptions
        >>> data = DataOptions(max_bytes=20_000, context_length=8, num_validation=4)
        >>> model = ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1)
        >>> dataset = data.load()
        >>> config = PretrainConfig.resolve(dataset, data=data, model=model)
        >>> experiment = Experiment(config, dataset)
        >>> experiment.tokens_per_step, len(experiment.windows.starts)
        (256, 16)
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: Dataset,
        *,
        mesh: Mesh | None = None,
        make_model: MakeModel | None = None,
    ) -> None:
        _check_fits_data(config, dataset)
        training = config.training
        self.config = config
        self.dataset = dataset
        self.mesh = mesh
        self._make_model = make_model
        if mesh is not None:
            samples = {
                "batch_size": training.batch_size,
                "num_validation": self._size_of_batch_b,
                "spectra": config.measurement.spectra,
            }
            for name, number in samples.items():
                require_divisible(name, number, mesh.shape["data"])
        self.batches = Batches(
            dataset, training.batch_size, training.data_seed, training.fill_last_batch
        )
        self.windows = config.measurement.windows(training.steps)
        self._init_key, self._probe_key = jax.random.split(jax.random.key(training.seed))
        # Only the structure of the model is made here; its arrays come with `initial_state`.
        self._structure = abstract_model(config.model, make_model)
        self.apply_fn, params = split_model(self._structure)
        if isinstance(config.model, OwnConfig):
            _check_samples_apart(self.apply_fn, params, self.batches.batch(0)[0])
        if config.measurement.spectra:
            _ = self.lens  # refuses a model without them
        self.learning_rate = learning_rate_of(training)
        self._optimizer = make_optimizer(training)
        self._trained_parts = config.start.groups("wrt")
        wrt = self._trained_parts or None
        self.instrumented: InstrumentedStep = instrument(
            self.train_step,
            lnp(
                self.apply_fn,
                cross_entropy,
                estimator=config.measurement.make_estimator(),
                normalization=config.measurement.normalization_of_lnp(),
                wrt=wrt,
            ),
            self.windows,
            params_of=lambda state: self._gathered(state.params),
            take_gradient=_take_gradient,
        )

    @functools.cached_property
    def compiled(self) -> Compiled:
        """The functions of a step and of the validation, compiled when they are first used."""
        return Compiled(self)

    @functools.cached_property
    def lens(self) -> Lens:
        """What measures the spectra of activations, gradients and weights.

        Raises:
            ValueError: if the model is not a transformer of this library.
        """
        model = self._structure
        expected = "0, since only a llama or a vit has blocks that are compared"
        fits = isinstance(model, Llama | ViT)
        require(fits, "spectra", expected=expected, got=self.config.measurement.spectra)
        return Lens(
            model,
            self.apply_fn,
            cross_entropy,
            microbatch_size=self.config.training.batch_size,
            normalize=self.config.measurement.hidden_states == "normalized",
        )

    @property
    def classifies(self) -> bool:
        """Whether samples have one label each, so that there is an accuracy."""
        return self.dataset.context_length is None

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on in one step: positions, patches of a ViT, or samples without either."""
        model = self.config.model
        patches = model.num_patches if isinstance(model, ViTConfig) else 1
        return self.config.training.batch_size * (self.dataset.context_length or patches)

    def initial_state(self) -> PretrainState:
        """Compute the state before the first step, or read its parameters from another run.

        Raises:
            ValueError: if that run is damaged, or its checkpoint gone.
            FileNotFoundError: if it is not there.
        """
        start = self.config.start
        if start.init_from is None:
            return jax.jit(self._initial_state, out_shardings=self.state_shardings)()
        model, _, _ = read_model(start.init_from, step=start.init_step, make_model=self._make_model)
        read = split_model(model)[1]
        return jax.jit(self._initial_state, out_shardings=self.state_shardings)(read)

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

    def _initial_state(self, read: PyTree | None = None) -> PretrainState:
        """Return the state of random parameters, or of those read, except for the fresh parts."""
        params = nnx.state(self.model(), nnx.Param)
        if read is not None:
            fresh = functools.partial(is_within, groups=self.config.start.groups("fresh"))
            drawn, _ = parameters.split_paths(params, fresh)
            _, kept = parameters.split_paths(read, fresh)
            params = parameters.combine(drawn, kept)
        trained, _ = self._parts(params)
        return PretrainState(params, self._optimizer.init(trained), jnp.zeros((), jnp.int32))

    def _parts(self, params: PyTree) -> tuple[PyTree, PyTree | None]:
        """Split parameters into those that are trained and the others; None where there are none.

        The trained ones then are what was given, so that checkpoints look as they always have.
        """
        if not self._trained_parts:
            return params, None
        return parameters.partition(params, self._trained_parts)

    def _whole(self, trained: PyTree, fixed: PyTree | None) -> PyTree:
        return trained if fixed is None else parameters.combine(trained, fixed)

    def model(self) -> Any:
        """Make the model, a Flax NNX module, with its initial parameters."""
        return build(self.config.model, nnx.Rngs(self._init_key), self._make_model)

    def train_step(
        self, state: PretrainState, batch: Batch
    ) -> tuple[PretrainState, dict[str, Any]]:
        """Make one update; the gradient is among the metrics, for the measurement."""
        inputs, targets = batch
        trained, fixed = self._parts(state.params)

        def loss_of(trained: PyTree) -> Float[Array, ""]:
            params = self._gathered(self._whole(trained, fixed))
            return cross_entropy(self.apply_fn(params, inputs), targets)

        loss, gradient = jax.value_and_grad(loss_of)(trained)
        updates, opt_state = self._optimizer.update(gradient, state.opt_state, trained)
        params = self._whole(optax.apply_updates(trained, updates), fixed)
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
            wrt=self._trained_parts or None,
        )
        return measure(self._gathered(params), batch, key=jax.random.fold_in(self._probe_key, step))

    def spectra(self, params: PyTree, pool: Batch) -> LensSpectra:
        """Measure the spectra of activations, gradients and weights over the held-out pool."""
        return self.lens(self._gathered(params), pool)

    @property
    def pool(self) -> Batch:
        """The held-out sequences of the spectra."""
        return self.dataset.validation(np.arange(self.config.measurement.spectra))

    def evaluate(self, params: PyTree, batch: Batch, mask: Bool[Array, " batch"]) -> Metrics:
        """Sum the scores of the samples in the mask: losses, and where labels are learned, hits."""
        inputs, targets = batch
        logits = self.apply_fn(self._gathered(params), inputs)
        scores = {"loss": sequence_losses(logits, targets)}
        if self.classifies:
            scores["accuracy"] = hits(logits, targets)
        return {name: jnp.sum(jnp.where(mask, score, 0)) for name, score in scores.items()}

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


def _check_samples_apart(apply_fn: ApplyFn, params: PyTree, inputs: np.ndarray) -> None:
    """Refuse a model of one's own that has no Jacobian for each sample."""
    expected = (
        "a model that says of a sample the same in any batch (batch normalisation in training mode "
        "and live dropout do not)"
    )
    apart = not bool(samples_interact(apply_fn, params, jnp.asarray(inputs)))
    require(apart, "model", expected=expected, got="one whose samples interact")


def _check_fits_data(config: PretrainConfig, dataset: Dataset) -> None:
    """Refuse a configuration that is of other data, or wants more of them than there are."""
    model, num_spectra = config.model, config.measurement.spectra
    shape = sample_shape_of(model)
    pairs: list[tuple[str, Any, Any]] = [
        ("vocab_size", num_outputs_of(model), dataset.vocab_size),
        ("context_length", config.data.context_length, dataset.context_length),
    ]
    if shape is not None:
        pairs.append(("model", shape, dataset.train(np.array([0]))[0].shape[1:]))
    for name, ours, theirs in pairs:
        require(ours == theirs, name, expected=f"that of the data, {theirs}", got=ours)
    require(
        num_spectra <= dataset.num_validation,
        "spectra",
        expected=f"at most the {dataset.num_validation} sequences of --num-validation",
        got=num_spectra,
    )
    if num_spectra and isinstance(model, LlamaConfig | ViTConfig):
        patches = model.num_patches + 1 if isinstance(model, ViTConfig) else 1  # and a class token
        length, enough = dataset.context_length or patches, tail_window(model.hidden_size)[1] + 1
        require(
            num_spectra * length >= enough,
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
        self._dataset, self._batch_size = experiment.dataset, size
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

    def validation_scores(self, params: PyTree) -> dict[str, float]:
        """Compute the means over the whole validation set: of losses, in nats, and of hits."""
        dataset = self._dataset
        batches = validation_batches(dataset, self._batch_size)
        return self._means(params, batches, dataset.num_validation)

    def test_scores(self, params: PyTree) -> dict[str, float] | None:
        """Compute the means over the whole test set; None without one."""
        if not (count := num_test(self._dataset)):
            return None
        tested = cast(DatasetWithTest, self._dataset)
        return self._means(params, batches_of_test(tested, self._batch_size), count)

    def _means(
        self, params: PyTree, batches: Iterable[tuple[Batch, np.ndarray]], count: int
    ) -> dict[str, float]:
        evaluate = self._functions["evaluate"]
        # One after the other: of a large test set, all batches at once would not fit the device.
        sums = [jax.device_get(evaluate(params, *self._place(one))) for one in batches]
        return {name: math.fsum(float(of[name]) for of in sums) / count for name in sums[0]}


def _take_gradient(metrics: dict[str, Any]) -> tuple[PyTree, Metrics]:
    return metrics["gradient"], {name: metrics[name] for name in ("loss", "learning_rate")}
