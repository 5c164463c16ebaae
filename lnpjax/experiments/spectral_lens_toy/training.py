"""Training of the modular-arithmetic transformer of Spectral Lens (F.3), stage by stage."""

from __future__ import annotations

import dataclasses
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import checked_ids, require
from lnpjax.data.modular import ModularSequences, ModularTask, modular_sequences
from lnpjax.experiments._harness.batches import in_batches
from lnpjax.experiments.spectral_lens_toy.config import STAGES
from lnpjax.models.modular import ModularTransformer, ModularTransformerConfig

MUON_RATIO = 50.0
MUON_WEIGHT_DECAY = 0.01
EVALUATION_BATCH = 256


def stage_architecture(stage: str, shape: ModularTransformerConfig) -> ModularTransformerConfig:
    """The network of a stage; each stage keeps what the ones before it changed.

    Args:
        stage: one of `STAGES`.
        shape: sizes, for all stages.

    Returns:
        The config with the architectural interventions of the stage.

    Raises:
        ValueError: if there is no such stage.

    Example:
        >>> stage_architecture("muon", ModularTransformerConfig()).rotary
        True
    """
    require(stage in STAGES, "stage", expected=f"one of {', '.join(STAGES)}", got=repr(stage))
    reached = STAGES.index(stage)
    return dataclasses.replace(
        shape,
        rotary=reached >= STAGES.index("rope"),
        untied=reached >= STAGES.index("untied"),
    )


def stage_optimizer(
    stage: str, learning_rate: Float[Array, ""] | float
) -> optax.GradientTransformation:
    """Adam up to the stage that brings Muon; from then on Muon for the matrices inside the blocks.

    The paper does not give the ratio of the two rates. As in the authors' scripts, Muon's is 50
    times Adam's, and Adam then has a weight decay of 0.01; one number scales both.

    Args:
        stage: one of `STAGES`.
        learning_rate: Adam's; may be traced.

    Returns:
        The optimizer.

    Example:
        >>> params = {"layers": {"kernel": jnp.eye(2)}, "head": {"kernel": jnp.eye(2)}}
        >>> optimizer = stage_optimizer("muon", 0.001)
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> [round(float(updates[group]["kernel"][0, 0]), 3) for group in ("layers", "head")]
        [-0.055, -0.001]
    """
    if STAGES.index(stage) < STAGES.index("muon"):
        return optax.adam(learning_rate)
    return optax.partition(
        {
            "inside": optax.contrib.muon(MUON_RATIO * learning_rate),
            "outside": optax.adamw(learning_rate, weight_decay=MUON_WEIGHT_DECAY),
        },
        _where,
    )


def _where(params: PyTree) -> PyTree:
    """Which parameters belong to a block: all of those are matrices."""

    def label(path: tuple[Any, ...], _: Array) -> str:
        return "inside" if path[0].key == "layers" else "outside"

    return jax.tree_util.tree_map_with_path(label, params)


class TrainState(NamedTuple):
    """A run so far: parameters, optimizer state, steps done, and the seed of its batches."""

    params: PyTree
    optimizer: PyTree
    step: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyData:
    """What all runs of a sweep see; drawn once.

    Attributes:
        task: the distribution of the sequences.
        num_train: sequences to train on; batches draw from them with replacement.
        num_validation: sequences that the validation loss is taken on.
        seed: of the sequences.
    """

    task: ModularTask
    num_train: int
    num_validation: int
    seed: int

    @cached_property
    def train(self) -> Int[np.ndarray, "n time"]:
        """Training sequences, one token longer than the context."""
        return self.drawn.tokens

    @cached_property
    def drawn(self) -> ModularSequences:
        """Training sequences with the walks that made them."""
        return modular_sequences(self.task, self.num_train, seed=2 * self.seed)

    @cached_property
    def validation(self) -> Int[np.ndarray, "n time"]:
        """Other sequences of the same distribution."""
        return modular_sequences(self.task, self.num_validation, seed=2 * self.seed + 1).tokens


class ToyTrainer:
    """Trains one stage; the same arguments give the same numbers.

    Args:
        stage: one of `STAGES`.
        shape: sizes of the network.
        data: sequences.
    """

    def __init__(self, stage: str, shape: ModularTransformerConfig, data: ToyData) -> None:
        self.stage, self.data = stage, data
        self._architecture = stage_architecture(stage, shape)
        self._graphdef = nnx.split(self._model(shape.embedding_std, 0), nnx.Param)[0]
        self._train = jax.jit(self._train_block)
        self._losses = jax.jit(self._sequence_losses)
        self._hidden = jax.jit(
            lambda params, tokens: nnx.merge(self._graphdef, params).last_hidden(tokens[:, :-1])
        )

    def initial_state(self, *, seed: int, embedding_std: float) -> TrainState:
        """The state before the first step.

        Args:
            seed: of the parameters, and of the batches to come.
            embedding_std: of the initial embedding.
        """
        params = nnx.split(self._model(embedding_std, seed), nnx.Param)[1]
        return TrainState(params, stage_optimizer(self.stage, 0.0).init(params), 0, seed)

    def advance(
        self, state: TrainState, learning_rate: float, *, batch_size: int, steps: int
    ) -> TrainState:
        """Train for a block of steps at a constant rate.

        Args:
            state: where to start.
            learning_rate: of Adam.
            batch_size: sequences per step.
            steps: of the block; batches depend on its number, so that a run in blocks of one size
                sees the same batches however it is interrupted.
        """
        rng = np.random.default_rng((state.seed, batch_size, state.step // steps))
        rows = rng.integers(0, len(self.data.train), (steps, batch_size))
        params, optimizer = self._train(
            (state.params, state.optimizer), self.data.train[rows], np.float32(learning_rate)
        )
        return TrainState(params, optimizer, state.step + steps, state.seed)

    def validation_loss(self, params: PyTree) -> float:
        """Mean cross-entropy over all positions of the validation sequences, in nats."""
        losses = partial(self._losses, params)
        return float(np.mean(in_batches(losses, self.data.validation, size=EVALUATION_BATCH)))

    def last_hidden(
        self, params: PyTree, sequences: Int[np.ndarray, "n time"]
    ) -> Float[np.ndarray, "n hidden"]:
        """Hidden states at the last token; the target at the end of each sequence is not shown."""
        return in_batches(partial(self._hidden, params), sequences, size=EVALUATION_BATCH)

    def _model(self, embedding_std: float, seed: int) -> ModularTransformer:
        config = dataclasses.replace(self._architecture, embedding_std=embedding_std)
        return ModularTransformer(config, rngs=nnx.Rngs(seed))

    def _sequence_losses(
        self, params: PyTree, tokens: Int[Array, "batch time"]
    ) -> Float[Array, " batch"]:
        logits = nnx.merge(self._graphdef, params)(tokens[:, :-1])
        ids = checked_ids("tokens", tokens[:, 1:], logits.shape[-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        return jnp.mean(losses, axis=-1)

    def _train_block(
        self,
        state: PyTree,
        batches: Int[Array, "steps batch time"],
        learning_rate: Float[Array, ""],
    ) -> PyTree:
        optimizer = stage_optimizer(self.stage, learning_rate)

        def step(state: PyTree, batch: Int[Array, "batch time"]) -> tuple[PyTree, None]:
            params, optimizer_state = state
            gradients = jax.grad(lambda p: jnp.mean(self._sequence_losses(p, batch)))(params)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), None

        return jax.lax.scan(step, state, batches)[0]
