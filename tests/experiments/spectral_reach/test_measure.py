"""Training and measuring: the data's parts, runs side by side, and whole experiments in small."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lnpjax import Hutchinson, lnp
from lnpjax.experiments import experiment
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import units
from lnpjax.experiments.spectral_reach.data import load
from lnpjax.experiments.spectral_reach.options import Recipe
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS, ScalingConfig
from lnpjax.experiments.spectral_reach.training import (
    COMPONENTS,
    language_model,
    programs_of,
    train,
)
from lnpjax.models import Llama, split_llama
from lnpjax.pretraining.loss import cross_entropy

SMOKE = PRESETS["smoke"]
TASK, RECIPE = SMOKE.tasks[0], SMOKE.recipe


@pytest.fixture(scope="module")
def split():
    return load(TASK, None)


def test_the_parts_of_the_data_are_apart_and_the_same_for_all(split):
    inputs, targets = split.training(3, 2)
    assert inputs.shape == targets.shape == (2, TASK.batch_size, 63)
    np.testing.assert_array_equal(inputs[1], split.training(4, 1)[0][0])
    validation, test = (
        {row.tobytes() for row in part[0].reshape(-1, 63)}
        for part in (split.validation(), split.test())
    )
    assert len(validation) == TASK.num_validation
    assert len(test) == TASK.num_test
    assert not validation & test
    batches = split.comparison(np.array([0, 1, 0]))[0]
    assert {row.tobytes() for row in batches.reshape(-1, 63)} <= validation
    np.testing.assert_array_equal(batches[0], batches[2])
    assert np.any(batches[0] != batches[1])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (TASK, {"num_test": 7}, r"^num_test: expected a multiple of batch_size=4, got 7"),
        (TASK, {"sizes": ((1, 4, 8, 2),)}, r"^sizes: expected two or more"),
        (RECIPE, {"rates": (1e-3, 1e-2)}, r"^rates: expected three or more"),
        (RECIPE, {"rates": (1e-3, 1e-2, 5e-3)}, r"^rates: expected three or more"),
        (RECIPE, {"pilot_steps": 15}, r"^pilot_steps: expected a multiple of chunk_steps=10"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(kind, **change)


def test_steps_that_are_no_whole_chunks_are_refused():
    task = dataclasses.replace(TASK, steps=45)
    with pytest.raises(ValueError, match=r"^steps: expected a multiple of chunk_steps=10, got 45"):
        ScalingConfig(tasks=(task,), recipe=RECIPE)


def test_data_that_are_not_there_are_named(tmp_path):
    task = dataclasses.replace(TASK, source="stories", context_length=8)
    with pytest.raises(ValueError, match=r"^data: expected a folder with the data stories"):
        load(task, None)
    with pytest.raises(FileNotFoundError, match="tinystories"):
        load(task, tmp_path)


@pytest.mark.parametrize("steps", [40, 600, 1500, 66_100])
def test_the_last_window_ends_with_the_run(steps):
    windows = Recipe(window_width=4).windows(steps)
    assert windows.steps[-1] == steps - 1
    assert windows.starts[-1] == steps - max(4, round(0.1 * steps))


def test_neighbours_are_those_with_the_same_config(tmp_path):
    for name, config in (("a", SMOKE), ("b", PRESETS["cpu"]), ("c", SMOKE)):
        sweep = Sweep(tmp_path / name, config)
        sweep.unit("one", lambda name=name: UnitResult([{"place": name}]))
    found = units.neighbours(tmp_path / "c", SMOKE)
    assert [sweep.folder.name for sweep in found] == ["a"]
    result = units.finished_in(found, "one")
    assert result is not None
    assert result.rows == [{"place": "a"}]
    assert units.finished_in(found, "two") is None


def test_runs_side_by_side_are_what_each_is_alone(split):
    """Against a loop over the library's own parts, one step and one measurement at a time."""
    task = dataclasses.replace(TASK, steps=20)
    split = dataclasses.replace(split, task=task)
    model = units.model_of(task, 0, split)
    programs = programs_of(language_model(model), RECIPE)
    rates = np.array([4e-3, 8e-3], np.float32)
    keys = units.initial_keys(0, 2)
    found = train(programs, programs.initial(keys), rates, split, RECIPE)

    apply_fn, _ = split_llama(Llama(model, rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda leaf: leaf[1], programs.initial(keys))
    optimizer = optax.adamw(
        lambda step: 8e-3 * jnp.minimum(1.0, step / RECIPE.warmup_steps),
        b1=0.9,
        b2=0.95,
        weight_decay=RECIPE.weight_decay,
    )
    state = optimizer.init(params)
    probes = jax.random.split(jax.random.key(0), 2)[1]
    measure = jax.jit(lnp(apply_fn, cross_entropy, estimator=Hutchinson(1)))

    @jax.jit
    def loss_of(params, batch):
        return jax.value_and_grad(lambda p: cross_entropy(apply_fn(p, batch[0]), batch[1]))(params)

    for step in range(task.steps):
        batch = tuple(part[0] for part in split.training(step, 1))
        place = np.flatnonzero(found.steps == step)
        if place.size:
            other = tuple(part[0] for part in split.comparison(np.array([step])))
            here = measure(params, batch, other, key=jax.random.fold_in(probes, step))
            for name in COMPONENTS:
                np.testing.assert_allclose(
                    found.components[name][1, place[0]], getattr(here, name), rtol=2e-3, atol=1e-6
                )
        loss, gradient = loss_of(params, batch)
        np.testing.assert_allclose(found.train_loss[1, step], loss, rtol=1e-4)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert np.array_equal(found.test_steps, [0, 10, 20])
    assert not found.status.any()


def test_rates_are_tried_beyond_an_edge_until_the_best_is_inside():
    """Or until twice as many groups as the seeds have been; the loss here is least at ``best``."""

    def tried(best):
        trainee = object.__new__(units.Trainee)
        trainee.recipe, trainee.about = Recipe(rates=(1.0, 2.0, 4.0), num_seeds=2), {}
        trainee._losses_at = lambda rates: {rate: abs(np.log2(rate / best)) for rate in rates}
        rows = trainee.try_rates().rows
        return [row["rate"] for row in rows], units.best_rate(rows)

    assert tried(2.0) == ([1, 2, 4], 2)
    assert tried(8.0) == ([1, 2, 4, 8, 16], 8)
    assert tried(0.125) == ([0.0625, 0.125, 0.25, 0.5, 1, 2, 4], 0.125)
    assert tried(1e9)[1] == 64


def test_one_experiment_takes_over_the_runs_of_another(tmp_path, monkeypatch):
    """All four in small: the runs are made once, and every figure and claim is there."""
    reproduce(experiment("scaling-laws"), "smoke", tmp_path / "scaling")

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(units.SizeUnits, "train", never)
    monkeypatch.setattr(units.SizeUnits, "try_rates", never)
    for name in ("isocompute", "linear-probes", "training-dynamics"):
        done = reproduce(experiment(name), "smoke", tmp_path / name)
        assert {claim.verdict for claim in done.judged if hasattr(claim, "verdict")} == {
            "set-up short of the paper"
        }
    figures = {path.name for path in tmp_path.glob("*/figures/*.png")}
    assert figures == {
        *("scaling.png", "test_losses.png", "spread.png", "floors.png", "components_digits.png"),
        *("isocompute.png", "ratios.png", "network.png"),
        *("along_runs.png", "known_kernels.png"),
    }
