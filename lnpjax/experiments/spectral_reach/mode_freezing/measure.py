"""Networks of several sizes that learn with a part of the spectrum frozen.

*Spectral Reach* (section 4) says that larger models reach a lower loss because they learn from
modes of the kernel that smaller ones do not reach, and asks for interventions (section 6). This is
one: every size learns once with all modes; then again, from the same start, with those modes frozen
that lie below the position which it reached, or which the smallest size reached. If the tail is
what larger models win by, the latter makes them as good as the smallest one. Controls freeze as
many modes from the top, or at random, and the mirror freezes all but the tail.

Dense networks learn whether a digit of a few pixels is even, by gradient descent on all samples
with the exact kernel; Llamas learn sequences of pixels, with Ritz vectors.

What is left open, and what is done here: a mode is below a position if its ``p_k`` (eq. 9), as it
is when modes were last renewed, is lower than that chi_pos. A position "reached" is chi_pos where
nine tenths of the fall of the loss are done (`arms.position_reached` says why). Of the arm
"random", the ranks are drawn once for a run, since ranks that are drawn anew would all be learned
in turn. Steps are in units of the inverse of the largest eigenvalue, as it is at each renewal, so
that the same number of steps means the same for all sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.mode_freezing import dense, transformers
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS, position_reached
from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig
from lnpjax.experiments.spectral_reach.mode_freezing.dense import Record

Train = Callable[[str, float, float], Record]
"""Makes the run of an arm, as arrays of numpy."""
NUM_TIMES = 40
"""About how many times of a run are kept."""


def measure(config: FreezingConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: digits come without a folder.
    """
    for width in config.widths:
        for seed in range(config.num_seeds):
            unit = functools.partial(dense_unit, config, width, seed)
            sweep.unit(f"dense-width{width}-seed{seed}", unit)
    for hidden_size in config.hidden_sizes:
        for seed in range(config.num_ritz_seeds):
            unit = functools.partial(transformer_unit, config, hidden_size, seed)
            sweep.unit(f"llama-hidden{hidden_size}-seed{seed}", unit)


def num_units(config: FreezingConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.mode_freezing.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        30
    """
    dense_runs = len(config.widths) * config.num_seeds
    return dense_runs + len(config.hidden_sizes) * config.num_ritz_seeds


def dense_unit(config: FreezingConfig, width: int, seed: int) -> UnitResult:
    """Train the dense network of a width and seed in all arms."""
    with jax.enable_x64(True):
        problem = dense.make_problem(config, seed)
        order = _order(config, seed, config.num_samples)

        def train(width: int, arm: str, own: float, common: float) -> Record:
            graphdef, params = dense.network(config, width, seed)
            positions = (jnp.asarray(own), jnp.asarray(common))
            number = jnp.asarray(ARMS.index(arm))
            run = dense.descend(config, graphdef, params, problem, number, positions, order)
            return jax.tree.map(np.asarray, run)

        trains = [functools.partial(train, size) for size in (width, config.widths[0])]
        params = dense.network(config, width, seed)[1]
        num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        about = {"kind": "dense", "size": width, "seed": seed, "num_params": num_params}
        return all_arms(about, *trains)


def transformer_unit(config: FreezingConfig, hidden_size: int, seed: int) -> UnitResult:
    """Train the Llama of a size and seed in all arms."""
    problem = transformers.make_problem(config, seed)
    order = _order(config, seed, config.num_matvecs)

    def train(size: int, arm: str, own: float, common: float) -> Record:
        shape = transformers.shape(config, size)
        apply_fn, params = language.network(shape), language.start(shape, _start_seed(config, seed))
        positions = (jnp.float32(own), jnp.float32(common))
        number = jnp.asarray(ARMS.index(arm))
        run = transformers.descend(config, apply_fn, params, problem, number, positions, order)
        return jax.tree.map(np.asarray, run)

    trains = [functools.partial(train, size) for size in (hidden_size, config.hidden_sizes[0])]
    num_params = transformers.shape(config, hidden_size).num_parameters
    about = {"kind": "llama", "size": hidden_size, "seed": seed, "num_params": num_params}
    return all_arms(about, *trains)


def all_arms(about: dict[str, object], train: Train, train_smallest: Train) -> UnitResult:
    """Train a network in all arms.

    Args:
        about: columns of every row.
        train: makes the run of an arm, of the own position, and of that of the smallest network.
        train_smallest: the same of the smallest network.

    Returns:
        A row for each arm, and losses and positions at a few times.
    """
    free, smallest = train("free", 0.0, 0.0), train_smallest("free", 0.0, 0.0)
    own, common = (
        position_reached(np.asarray(run.loss), np.asarray(run.chi_pos)) for run in (free, smallest)
    )
    runs = {arm: free if arm == "free" else train(arm, own, common) for arm in ARMS}
    rows = [
        about
        | {
            "arm": arm,
            "own_position": own,
            "common_position": common,
            "first_loss": run.loss[0],
            "last_loss": run.loss[-1],
            "last_test_loss": run.test_loss[-1],
            "first_num_frozen": run.num_frozen[0],
            "last_num_frozen": run.num_frozen[-1],
        }
        for arm, run in runs.items()
    ]
    times = kept_rounds(len(free.loss))
    arrays = {
        name: np.stack([getattr(run, name)[times] for run in runs.values()]).astype(np.float32)
        for name in ("loss", "chi_pos")
    }
    return UnitResult([{k: _plain(v) for k, v in row.items()} for row in rows], arrays)


def kept_rounds(count: int) -> Int[np.ndarray, " time"]:
    """Return rounds that are about evenly spaced in the logarithm, the first and last among them.

    Example:
        >>> kept_rounds(6).tolist()
        [0, 1, 2, 3, 4, 5]
    """
    return np.unique(np.geomspace(1, count, NUM_TIMES).round().astype(int)) - 1


def _start_seed(config: FreezingConfig, seed: int) -> int:
    return 1000 * config.seed + seed


def _order(config: FreezingConfig, seed: int, count: int) -> Int[np.ndarray, " mode"]:
    return np.random.default_rng((config.seed, seed, 1)).permutation(count)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic | np.ndarray) else value
