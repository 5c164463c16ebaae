"""Training of one variant of the chain, and its spectra."""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from lnpjax.adapters import from_nnx
from lnpjax.data import load_dataset
from lnpjax.experiments._harness.batches import in_batches
from lnpjax.experiments.spectral_lens.run_config import TrainingConfig
from lnpjax.models import (
    NanoGPT,
    WindowedTokens,
    nanogpt_optimizer,
    nanogpt_recipe,
    nanogpt_variant,
)
from lnpjax.pretraining.lens import Lens, LensSpectra
from lnpjax.pretraining.loss import cross_entropy, sequence_losses

GRADIENT_SCALE_PER_TOKEN = 2.0**13  # 2^29 over the 65,536 tokens of the record runs' sequences
EVALUATION_TOKENS = 2**14


class Text(NamedTuple):
    """Sequences of one length, each with the tokens that follow.

    Attributes:
        inputs: the tokens.
        targets: the token after each.
    """

    inputs: Int[np.ndarray, "n time"]
    targets: Int[np.ndarray, "n time"]

    def cut(self, length: int) -> Text:
        """Cut sequences into shorter ones."""
        return Text(*(part.reshape(-1, length) for part in self))


@dataclasses.dataclass(frozen=True)
class ChainData:
    """The text of all runs: Python's own sources as bytes, whose documents end in byte 0.

    Attributes:
        config: the size of the experiment.
    """

    config: TrainingConfig

    @cached_property
    def _text(self) -> tuple[Text, Text]:
        dataset = load_dataset(
            "stdlib",
            context_length=self.config.size.long_context,
            num_validation=self.config.num_validation,
            max_bytes=self.config.max_bytes,
        )
        learned = dataset.train(np.arange(dataset.num_train))
        held_out = dataset.validation(np.arange(dataset.num_validation))
        return Text(*map(np.asarray, learned)), Text(*map(np.asarray, held_out))

    def train(self, length: int) -> Text:
        """What is trained on, in sequences of this length."""
        return self._text[0].cut(length)

    def validation(self, length: int) -> Text:
        """What is held out."""
        return self._text[1].cut(length)


class RunState(NamedTuple):
    """A run so far."""

    params: PyTree
    optimizer: PyTree
    step: int


class ChainTrainer:
    """Trains one variant; the same arguments give the same numbers.

    Args:
        variant: its name.
        config: the size of the experiment.
        data: the text.

    Attributes:
        measured_fn: the network as a function of parameters and inputs, with exact gradients.
    """

    def __init__(self, variant: str, config: TrainingConfig, data: ChainData) -> None:
        self._variant = variant
        self._set_batches(config)
        self._text, self._held_out = data.train(self.length), data.validation(self.length)
        # Rounded gradients are no pullback: what is measured leaves them as they are.
        plain = dataclasses.replace(self.shape, fp8_gradient_scale=None)
        measured = nnx.eval_shape(lambda: NanoGPT(plain, rngs=nnx.Rngs(0)))
        self.measured_fn = from_nnx(measured)[0]
        self._lens = Lens(
            measured, self.measured_fn, cross_entropy, microbatch_size=8, normalize=True
        )
        self._losses = jax.jit(self._sequence_losses)
        self._spectra = jax.jit(self._lens)

    def with_batches(self, config: TrainingConfig) -> ChainTrainer:
        """The same variant in batches of another size; what measures it is not compiled anew.

        Args:
            config: the size of the experiment, with another `tokens_per_step`.
        """
        other = copy.copy(self)
        other._set_batches(config)
        return other

    def _set_batches(self, config: TrainingConfig) -> None:
        self.config = config
        shape = nanogpt_variant(self._variant, config.size)
        if shape.fp8_head:
            scale = GRADIENT_SCALE_PER_TOKEN * config.tokens_per_step
            shape = dataclasses.replace(shape, fp8_gradient_scale=scale)
        self.shape = shape
        self.length = shape.max_seq_len
        share = config.num_steps / config.reference_steps
        self.recipe = nanogpt_recipe(self._variant).shortened(share)
        model = nnx.eval_shape(lambda: NanoGPT(shape, rngs=nnx.Rngs(0)))
        self._apply = from_nnx(model)[0]
        self._step = jax.jit(self._one_step)

    def initial_state(self, seed: int) -> RunState:
        """The state before the first step."""
        params = from_nnx(NanoGPT(self.shape, rngs=nnx.Rngs(seed)))[1]
        return RunState(params, self._optimizer(1.0).init(params), 0)

    def advance(
        self, state: RunState, *, seed: int, steps: int, factor: float
    ) -> tuple[RunState, float]:
        """Train for some steps.

        Args:
            state: where to start.
            seed: of the batches, which depend on it and the number of the step.
            steps: how many.
            factor: what all rates are multiplied by.

        Returns:
            The state after them, and the seconds that they took.
        """
        size = self.config.tokens_per_step // self.length
        order = np.random.default_rng((seed, self.length)).permutation(len(self._text.inputs))
        params, optimizer, first = state
        began = time.perf_counter()
        for step in range(first, first + steps):
            rows = order[np.arange(step * size, (step + 1) * size) % len(order)]
            batch = self._inputs(self._text.inputs[rows], step), self._text.targets[rows]
            params, optimizer = self._step(params, optimizer, batch, np.float32(factor))
        jax.block_until_ready(params)
        return RunState(params, optimizer, first + steps), time.perf_counter() - began

    def validation_loss(self, state: RunState) -> float:
        """Mean cross-entropy over the held-out text, in nats, with the present window."""
        size = max(EVALUATION_TOKENS // self.length, 1)

        def losses(
            inputs: Int[np.ndarray, "batch time"], targets: Int[np.ndarray, "batch time"]
        ) -> Float[Array, " batch"]:
            return self._losses(state.params, self._inputs(inputs, state.step), targets)

        return float(np.mean(in_batches(losses, *self._held_out, size=size)))

    def spectra(self, state: RunState) -> LensSpectra:
        """The spectra over the held-out pool, with the present window."""
        inputs, targets = (part[: self.config.num_pool] for part in self._held_out)
        pool = self._inputs(inputs, state.step), targets
        return jax.device_get(self._spectra(state.params, pool))

    def held_out(self, rows: Int[np.ndarray, " n"], step: int) -> tuple[Any, Array]:
        """Chosen held-out sequences with their targets, with the window of a step."""
        inputs, targets = self._held_out
        return self._inputs(inputs[rows], step), jnp.asarray(targets[rows])

    def _inputs(self, tokens: Int[np.ndarray, "batch time"], step: int) -> Any:
        window = self.recipe.window_at(step, self.config.size)
        if window is None:
            return tokens
        return WindowedTokens(jnp.asarray(tokens), jnp.full(len(tokens), int(window)))

    def _optimizer(self, factor: Float[Array, ""] | float) -> optax.GradientTransformation:
        steps = round(self.config.layout * self.config.num_steps)
        return nanogpt_optimizer(self.recipe, steps, factor=factor)

    def _sequence_losses(
        self, params: PyTree, inputs: PyTree, targets: Int[Array, "batch time"]
    ) -> Float[Array, " batch"]:
        return sequence_losses(self._apply(params, inputs), targets)

    def _one_step(
        self, params: PyTree, state: PyTree, batch: tuple[PyTree, Array], factor: Float[Array, ""]
    ) -> tuple[PyTree, PyTree]:
        gradients = jax.grad(lambda p: jnp.mean(self._sequence_losses(p, *batch)))(params)
        updates, state = self._optimizer(factor).update(gradients, state, params)
        return optax.apply_updates(params, updates), state
