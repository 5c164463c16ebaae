"""Whether it helps to move into the tail faster (Spectral Reach, section 7).

A small Llama learns text with AdamW and with Muon; with AdamW whose gradients have passed one of
two transformations (`transforms`): damped top modes, and a ceiling of chi_pos; and with AdamW from
other starts: in muP, relative to a narrower network (Yang et al., 2022), and from smaller matrices.
All have the same budget in gradients of a batch, which pays for the renewal of modes as well: those
two take fewer steps. Every optimizer is tried with every rate; some seeds choose the rate, and the
others are compared at it.

What is left open, and what is done here: everything, since the paper only proposes this. Rates warm
up over 5 % of the steps and fall to a tenth along a cosine. The matrix products of Muon count
nothing, which is in its favour. Damped are the leading Ritz vectors, whatever the position; chi_pos
is that of the test sequences, with A = B.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree
from optax import contrib

from lnpjax._base.checks import require
from lnpjax.decomposition import Hutchinson, lnp
from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.language import Corpus
from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig
from lnpjax.experiments.spectral_reach.spectral_descent.results import mean_by_rate
from lnpjax.experiments.spectral_reach.spectral_descent.transforms import (
    clamp_position,
    damp_top_modes,
    refresh_cost,
)
from lnpjax.jacobian import ApplyFn, linearize
from lnpjax.models import LlamaConfig, maximal_update, preset
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.runs import Row

MUONS_ADAM_RATE = 3e-3
"""Of the parameters of Muon that are not matrices."""
WARM_UP = 0.05
LAST_RATE = 0.1


def measure(config: DescentConfig, sweep: Sweep, data: Path | None) -> None:
    """Train what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of stories; not needed for the standard library.
    """
    for arm in config.arms:
        tuning = functools.partial(tuning_unit, config, data, arm)
        tried = sweep.unit(f"{arm}-rates", tuning).rows

        def comparison(arm: str = arm, tried: Sequence[Row] = tried) -> UnitResult:
            return comparison_unit(config, data, arm, tried)

        sweep.unit(f"{arm}-runs", comparison)


def num_units(config: DescentConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.spectral_descent.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        12
    """
    return 2 * len(config.arms)


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


class Network(NamedTuple):
    """A network as an arm starts it.

    Attributes:
        apply_fn: of parameters and inputs.
        initial: brings freshly drawn parameters to where the arm starts.
        scale: of updates.
    """

    apply_fn: ApplyFn
    initial: Callable[[PyTree], PyTree]
    scale: optax.GradientTransformation


@functools.lru_cache(maxsize=4)
def network_of(config: DescentConfig, arm: str, shape: LlamaConfig) -> Network:
    """Return the network of an arm, the same one for all its rates."""
    apply_fn, usual = language.network(shape), optax.identity()
    if arm == "small":

        def smaller(params: PyTree) -> PyTree:
            return jax.tree.map(lambda w: w * config.initial_scale if w.ndim > 1 else w, params)

        return Network(apply_fn, smaller, usual)
    if arm != "mup":
        return Network(apply_fn, lambda params: params, usual)
    names = ("hidden_size", "intermediate_size", "num_heads")
    widths = {name: getattr(shape, name) // config.narrower for name in names}
    base = dataclasses.replace(shape, **widths)
    scaled = maximal_update(apply_fn, language.start(shape, 0), language.start(base, 0))
    return Network(scaled.apply_fn, scaled.initial, scaled.adam())


def tuning_unit(config: DescentConfig, data: Path | None, arm: str) -> UnitResult:
    """Train the seeds that choose the rate of an optimizer, at all rates."""
    runs = [(rate, seed) for rate in config.rates for seed in range(config.num_tuning)]
    return runs_unit(config, data, arm, runs)


def comparison_unit(
    config: DescentConfig, data: Path | None, arm: str, tried: Sequence[Row]
) -> UnitResult:
    """Train the seeds that are compared at the rate that those before have chosen.

    Raises:
        ValueError: if none has, as where a pattern of units leaves them out.
    """
    require(bool(tried), "only", expected="a pattern with the rates of a run, too", got="none")
    rate = config.rates[lowest_point(mean_by_rate(config, tried))]
    first = config.num_tuning
    runs = [(rate, seed) for seed in range(first, first + config.num_seeds)]
    return runs_unit(config, data, arm, runs)


def runs_unit(
    config: DescentConfig, data: Path | None, arm: str, runs: Sequence[tuple[float, int]]
) -> UnitResult:
    """Train an optimizer at rates with seeds, as many at once as seeds are compared."""
    corpus, vocab_size = _corpus(config, data)
    shape = language.fitted(
        preset(config.model), vocab_size=vocab_size, context_length=config.context_length
    )
    network = network_of(config, arm, shape)
    found = []
    for start in range(0, len(runs), config.num_seeds):
        # A short last group repeats its last run, so that nothing is compiled again.
        group = [
            runs[min(number, len(runs) - 1)] for number in range(start, start + config.num_seeds)
        ]
        drawn = (language.start(shape, 1000 * config.seed + seed) for _, seed in group)
        starts = [network.initial(params) for params in drawn]
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        key = jax.random.key(config.seed)
        keys = jnp.stack([jax.random.fold_in(key, seed) for _, seed in group])
        rates = jnp.array([rate for rate, _ in group])
        found.append(jax.device_get(trained(config, arm, network, params, corpus, keys, rates)))
    losses, positions, train_losses = (
        np.concatenate(parts)[: len(runs)] for parts in zip(*found, strict=True)
    )
    rows = [
        {
            "kind": "run",
            "arm": arm,
            "text": language.text_of(config.text, data),
            "rate": rate,
            "seed": seed,
            "steps": steps_of(config, arm),
            "last_loss": float(losses[number, -1]),
            "last_train_loss": float(train_losses[number, -1]),
            "tunes": seed < config.num_tuning,
        }
        for number, (rate, seed) in enumerate(runs)
    ]
    arrays = {"loss": losses, "chi_pos": positions, "train_loss": train_losses}
    return UnitResult(rows, {name: a.astype(np.float32) for name, a in arrays.items()})


def optimizer_of(
    config: DescentConfig, arm: str, network: Network, rate: Float[Array, ""]
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
    before: optax.GradientTransformationExtraArgs = optax.with_extra_args_support(optax.identity())
    if arm == "damped":
        before = damp_top_modes(
            network.apply_fn,
            cross_entropy,
            num_modes=config.num_modes,
            left=config.left,
            **settings,
        )
    elif arm == "clamped":
        before = clamp_position(network.apply_fn, cross_entropy, ceiling=config.ceiling, **settings)
    return optax.chain(before, optax.clip_by_global_norm(1.0), adamw, network.scale)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def trained(
    config: DescentConfig,
    arm: str,
    network: Network,
    params: PyTree,
    corpus: Corpus,
    keys: Key[Array, " run"],
    rates: Float[Array, " run"],
) -> tuple[Float[Array, "run time"], Float[Array, "run time"], Float[Array, "run time"]]:
    """Train several runs of one optimizer, and measure now and then.

    Args:
        config: the size.
        arm: the name of the optimizer.
        network: what it trains.
        params: where the runs start.
        corpus: what they learn.
        keys: of their batches.
        rates: learning rates.

    Returns:
        Test losses and chi_pos at the times of measurement, and mean training losses since the one
        before, NaN at the first.
    """
    apply_fn = network.apply_fn
    segments = config.num_times - 1
    per_segment = steps_of(config, arm) // segments
    test = (corpus.test_inputs, corpus.test_targets)
    components = lnp(apply_fn, cross_entropy, estimator=Hutchinson(1))

    def measured(params: PyTree, key: Array) -> tuple[Array, Array]:
        loss = cross_entropy(apply_fn(params, test[0]), test[1])
        return loss, components(params, test, key=key).chi_pos

    def one_run(params: PyTree, key: Array, rate: Float[Array, ""]) -> tuple[Array, Array, Array]:
        optimizer = optimizer_of(config, arm, network, rate)

        def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
            params, memory = carry
            batch = language.batch_at(corpus, key, config.batch_size)
            here = linearize(apply_fn, params, batch[0])
            loss, gradient = jax.value_and_grad(cross_entropy)(here.outputs, batch[1])
            updates, memory = optimizer.update(here.vjp(gradient), memory, params, batch=batch)
            return (optax.apply_updates(params, updates), memory), loss

        def one_segment(carry: PyTree, key: Array) -> tuple[PyTree, tuple[Array, Array, Array]]:
            carry, losses = jax.lax.scan(step, carry, jax.random.split(key, per_segment))
            return carry, (*measured(carry[0], key), jnp.mean(losses))

        loss, position = measured(params, key)
        carry = (params, optimizer.init(params))
        _, rest = jax.lax.scan(one_segment, carry, jax.random.split(key, segments))
        losses, positions, train_losses = rest
        train_losses = jnp.append(jnp.nan, train_losses)
        return jnp.append(loss, losses), jnp.append(position, positions), train_losses

    return jax.vmap(one_run)(params, keys, rates)
