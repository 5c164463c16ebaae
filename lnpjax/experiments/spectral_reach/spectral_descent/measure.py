"""Whether it helps to move into the tail faster (Spectral Reach, section 7).

A small Llama learns text with AdamW and with Muon; and with AdamW whose gradients have passed one
of two transformations (`transforms`): damped top modes, and a ceiling of chi_pos. All have the same
budget in gradients of a batch, which pays for the renewal of modes as well: those two take fewer
steps. Every optimizer is tried with every rate; some seeds choose the rate, and the others are
compared at it.

What is left open, and what is done here: everything, since the paper only proposes this. Rates warm
up over 5 % of the steps and fall to a tenth along a cosine. The matrix products of Muon count
nothing, which is in its favour. Damped are the leading Ritz vectors, whatever the position; chi_pos
is that of the test sequences, with A = B.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree
from optax import contrib

from lnpjax.decomposition import Hutchinson, lnp
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.language import Corpus
from lnpjax.experiments.spectral_reach.spectral_descent.config import ARMS, DescentConfig
from lnpjax.experiments.spectral_reach.spectral_descent.transforms import (
    clamp_position,
    damp_top_modes,
    refresh_cost,
)
from lnpjax.jacobian import ApplyFn, linearize
from lnpjax.models import preset
from lnpjax.pretraining.loss import cross_entropy

MUONS_ADAM_RATE = 3e-3
"""Of the parameters of Muon that are not matrices."""
WARM_UP = 0.05
LAST_RATE = 0.1


def measure(config: DescentConfig, sweep: Sweep, data: Path | None) -> None:
    """Train what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of stories, where these are learned.
    """
    for arm in ARMS:
        for rate in config.rates:
            unit = functools.partial(arm_unit, config, data, arm, rate)
            sweep.unit(f"{arm}-rate{rate:g}", unit)


def num_units(config: DescentConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.spectral_descent.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        20
    """
    return len(ARMS) * len(config.rates)


def steps_of(config: DescentConfig, arm: str) -> int:
    """Return how many steps the budget pays for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.spectral_descent.config import PRESETS
        >>> [steps_of(PRESETS["cpu"], arm) for arm in ("muon", "damped")]
        [990, 737]
    """
    reweighted = arm in ("damped", "clamped")
    cost = 1 + (refresh_cost(config.num_matvecs) / config.every if reweighted else 0)
    segments = config.num_times - 1
    return max(int(config.budget / cost / segments), 1) * segments


@functools.lru_cache(maxsize=1)
def _corpus(config: DescentConfig, data: Path | None) -> tuple[Corpus, int]:
    return language.load_corpus(
        config.text,
        data,
        context_length=config.context_length,
        num_test=config.num_test,
        max_bytes=config.max_bytes,
    )


def arm_unit(config: DescentConfig, data: Path | None, arm: str, rate: float) -> UnitResult:
    """Train all seeds of an optimizer and a rate at once."""
    corpus, vocab_size = _corpus(config, data)
    shape = language.fitted(
        preset(config.model), vocab_size=vocab_size, context_length=config.context_length
    )
    seeds = range(config.num_tuning + config.num_seeds)
    starts = [language.start(shape, 1000 * config.seed + seed) for seed in seeds]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    keys = jax.random.split(jax.random.key(config.seed), len(seeds))
    apply_fn = language.network(shape)
    run = trained(config, arm, apply_fn, params, corpus, keys, jnp.float32(rate))
    losses, positions, train_losses = map(np.asarray, run)
    rows = [
        {
            "kind": "run",
            "arm": arm,
            "rate": rate,
            "seed": seed,
            "steps": steps_of(config, arm),
            "last_loss": float(losses[seed, -1]),
            "last_train_loss": float(train_losses[seed, -1]),
            "tunes": seed < config.num_tuning,
        }
        for seed in seeds
    ]
    arrays = {"loss": losses, "chi_pos": positions, "train_loss": train_losses}
    return UnitResult(rows, {name: a.astype(np.float32) for name, a in arrays.items()})


def optimizer_of(
    config: DescentConfig, arm: str, apply_fn: ApplyFn, rate: Float[Array, ""]
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer of an arm."""
    steps = steps_of(config, arm)

    def schedule(count: Array) -> Array:
        warm = jnp.minimum(1.0, (count + 1) / max(WARM_UP * steps, 1))
        cosine = (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1))) / 2
        return rate * warm * (LAST_RATE + (1 - LAST_RATE) * cosine)

    if arm == "muon":
        muon = contrib.muon(schedule, adam_learning_rate=MUONS_ADAM_RATE)
        return optax.with_extra_args_support(muon)
    adamw = optax.adamw(schedule, weight_decay=0.0)
    settings = {"num_matvecs": config.num_matvecs, "every": config.every}
    before = {
        "adamw": optax.identity,
        "damped": functools.partial(
            damp_top_modes,
            apply_fn,
            cross_entropy,
            num_modes=config.num_modes,
            left=config.left,
            **settings,
        ),
        "clamped": functools.partial(
            clamp_position, apply_fn, cross_entropy, ceiling=config.ceiling, **settings
        ),
    }[arm]()
    return optax.chain(before, optax.clip_by_global_norm(1.0), adamw)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def trained(
    config: DescentConfig,
    arm: str,
    apply_fn: ApplyFn,
    params: PyTree,
    corpus: Corpus,
    keys: Key[Array, " seed"],
    rate: Float[Array, ""],
) -> tuple[Float[Array, "seed time"], Float[Array, "seed time"], Float[Array, "seed time"]]:
    """Train several seeds with one optimizer, and measure now and then.

    Args:
        config: the size.
        arm: the name of the optimizer in `ARMS`.
        apply_fn: the model.
        params: where the seeds start.
        corpus: what they learn.
        keys: of their batches.
        rate: the learning rate.

    Returns:
        Test losses and chi_pos at the times of measurement, and mean training losses since the one
        before, NaN at the first.
    """
    optimizer = optimizer_of(config, arm, apply_fn, rate)
    segments = config.num_times - 1
    per_segment = steps_of(config, arm) // segments
    test = (corpus.test_inputs, corpus.test_targets)
    components = lnp(apply_fn, cross_entropy, estimator=Hutchinson(1))

    def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
        params, memory = carry
        batch = language.batch_at(corpus, key, config.batch_size)
        here = linearize(apply_fn, params, batch[0])
        loss, gradient = jax.value_and_grad(cross_entropy)(here.outputs, batch[1])
        updates, memory = optimizer.update(here.vjp(gradient), memory, params, batch=batch)
        return (optax.apply_updates(params, updates), memory), loss

    def measured(params: PyTree, key: Array) -> tuple[Array, Array]:
        loss = cross_entropy(apply_fn(params, test[0]), test[1])
        return loss, components(params, test, key=key).chi_pos

    def one_segment(carry: PyTree, key: Array) -> tuple[PyTree, tuple[Array, Array, Array]]:
        carry, losses = jax.lax.scan(step, carry, jax.random.split(key, per_segment))
        return carry, (*measured(carry[0], key), jnp.mean(losses))

    def one_seed(params: PyTree, key: Array) -> tuple[Array, Array, Array]:
        loss, position = measured(params, key)
        carry = (params, optimizer.init(params))
        _, rest = jax.lax.scan(one_segment, carry, jax.random.split(key, segments))
        losses, positions, train_losses = rest
        train_losses = jnp.append(jnp.nan, train_losses)
        return jnp.append(loss, losses), jnp.append(position, positions), train_losses

    return jax.vmap(one_seed)(params, keys)
