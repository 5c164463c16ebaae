"""The options of a run: schedules, parts, recipes, and configurations from before an option."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import optax
import pytest

from lnpjax.commands._config_file import options_before
from lnpjax.commands.train import Train
from lnpjax.data import Batches
from lnpjax.data.splits import size_of_test
from lnpjax.models.presets import PRESETS
from lnpjax.pretraining import (
    DataOptions,
    MeasurementOptions,
    ModelOptions,
    PretrainConfig,
    StartOptions,
    TrainingOptions,
)
from lnpjax.pretraining.config import ADDED_LATER, RECIPES, recipe_of
from lnpjax.pretraining.optimisation import learning_rate_of, make_optimizer
from lnpjax.training import log_windows

STEPS = 40


def rates(**options: Any) -> np.ndarray:
    training = TrainingOptions(steps=STEPS, warmup_steps=4, learning_rate=0.1, **options)
    training.check()
    rate = learning_rate_of(training)
    return np.array([rate(np.int32(step)) for step in range(STEPS)])


def test_schedules_rise_alike_and_fall_as_they_say():
    constant, cosine, wsd = (rates(schedule=name) for name in ("constant", "cosine", "wsd"))
    for curve in (constant, cosine, wsd):
        np.testing.assert_allclose(curve[:4], [0.025, 0.05, 0.075, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(constant[3:], np.float32(0.1))
    steps = np.arange(STEPS)
    expected = 0.05 * (1 + np.cos(np.pi * (steps[4:] - 4) / (STEPS - 4)))
    np.testing.assert_allclose(cosine[4:], expected, rtol=1e-4)
    np.testing.assert_array_equal(wsd[3:33], np.float32(0.1))  # a fifth of 40 steps is 8
    np.testing.assert_allclose(wsd[32:], 0.1 * (STEPS - steps[32:]) / 8, rtol=1e-5)
    ends = rates(schedule="cosine", final_share=0.5), rates(schedule="wsd", final_share=0.5)
    for curve in ends:
        assert 0.05 < curve[-1] < 0.06


def test_a_clipped_gradient_moves_as_one_of_that_norm():
    """Adam forgets the scale of the first gradient, but not of one that is larger than before."""
    params = {"w": np.ones(2, np.float32)}
    states = []
    for clip, large in ((1.0, 100.0), (None, 1.0)):
        optimizer = make_optimizer(
            TrainingOptions(learning_rate=0.1, warmup_steps=0, clip_norm=clip)
        )
        state = optimizer.init(params)
        for size in (0.5, large):
            gradient = {"w": np.array([0.6, 0.8], np.float32) * size}
            updates, state = optimizer.update(gradient, state, params)
        states.append(updates["w"])
    np.testing.assert_allclose(*states, rtol=1e-6)
    plain = make_optimizer(TrainingOptions(learning_rate=0.1)).init(params)
    assert isinstance(plain[0], optax.ScaleByAdamState)  # as checkpoints always had it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule: expected one of constant, cosine, wsd, got 'linear'"),
        ({"clip_norm": 0.0}, "clip_norm: expected a finite number > 0, got 0.0"),
        ({"final_share": 0.1}, "final_share: expected 0 with a constant learning rate"),
        ({"schedule": "wsd", "final_share": 1.5}, r"final_share: expected a share in \[0, 1\]"),
        ({"decay_steps": 3}, "decay_steps: expected None without the schedule wsd, got 3"),
        ({"schedule": "cosine", "warmup_steps": 40}, "warmup_steps: expected fewer than the 40"),
        (
            {"schedule": "wsd", "warmup_steps": 30, "decay_steps": 11},
            "decay_steps: expected at most the 10 steps after the warm-up, got 11",
        ),
        ({"test_every": 0}, "test_every: expected an integer >= 1"),
        *(
            ({"checkpoints_at": text}, "checkpoints_at: expected log:N, or numbers from 1 to 40")
            for text in ("", "log", "log:", "log:0", "log:2,3", "0,4", "3,,4", "41", "-1", "1.5")
        ),
    ],
)
def test_training_options_refuse_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(steps=STEPS, **({"warmup_steps": 4} | options)).check()


def test_kept_checkpoints_are_spaced_like_windows():
    options = TrainingOptions(steps=10_000, checkpoints_at="log:2")
    assert options.pinned_steps() == (1, 3, 10, 31, 100, 316, 1000, 3162, 10_000)
    assert TrainingOptions(checkpoints_at="9, 3,9").pinned_steps() == (3, 9)


@pytest.mark.parametrize("steps", [10, 11, 100, 1200, 42_207])
@pytest.mark.parametrize("growth", [0.0, 0.3])
def test_a_last_window_ends_at_the_last_step_and_changes_no_other(steps, growth):
    settings = {"per_decade": 5, "width": 10, "growth": growth}
    without, windows = log_windows(steps, **settings), log_windows(steps, **settings, last=True)
    assert windows.starts[: len(without.starts)] == without.starts
    assert len(windows.starts) - len(without.starts) in (0, 1)
    assert windows.active(steps - 1)
    assert not windows.active(steps)
    assert windows.widths[: len(without.starts)] == without.widths
    assert windows.widths[-1] >= 10


MODEL = ModelOptions().resolve(vocab_size=256, context_length=64)


def test_what_is_no_part_of_the_model_is_refused_before_compute():
    for name in ("wrt", "fresh"):
        options = StartOptions(init_from="nowhere", **{name: "head,layers/9"})
        with pytest.raises(ValueError, match=rf"{name}: expected parts .*, got 'layers/9'"):
            options.resolve(MODEL)
    with pytest.raises(ValueError, match="init_step: expected None without init_from, got 3"):
        StartOptions(init_step=3).check()
    with pytest.raises(FileNotFoundError, match=r"expected a run folder, got .*nowhere"):
        StartOptions(init_from="nowhere").resolve(MODEL)


def test_a_backbone_of_another_shape_is_refused_before_compute(tiny_run):
    with pytest.raises(ValueError, match=r"init_from: expected a run whose model has .* of shape"):
        StartOptions(init_from=str(tiny_run)).resolve(MODEL)
    same = ModelOptions(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2)
    model = same.resolve(vocab_size=256, context_length=16)
    resolved = StartOptions(init_from=str(tiny_run)).resolve(model)
    assert (resolved.init_from, resolved.init_step) == (str(tiny_run.absolute()), 12)
    message = r"init_step: expected a checkpoint of the run, got 5 \(there are \[4, 8, 12\]\)"
    with pytest.raises(ValueError, match=message):
        StartOptions(init_from=str(tiny_run), init_step=5).resolve(model)
    other = dataclasses.replace(model, vocab_size=300)
    assert StartOptions(init_from=str(tiny_run), fresh="head, embedding").resolve(other)


def test_old_configurations_mean_what_they_meant():
    config = PretrainConfig(
        model=MODEL,
        data=DataOptions(context_length=64, num_test=0),
        training=TrainingOptions(learning_rate=0.01),
        measurement=MeasurementOptions(open_end=True),
    )
    written = config.to_json()
    for name in ADDED_LATER:
        section, option = name.split("/")
        del written[section][option]
    assert not written.pop("start")
    assert PretrainConfig.from_json(written, source="test", refuse_unknown=True) == config
    del written["data"]["data"]
    with pytest.raises(ValueError, match="test: data: expected an object with"):
        PretrainConfig.from_json(written, source="test")


def test_recipes_are_the_paper_s_by_arithmetic():
    """*Spectral Reach*, B.2: one epoch each, of two million stories and of 5,402,420 images."""
    stories, pixels = (options_before(Train, None, name) for name in RECIPES)
    assert stories.training.steps * stories.training.batch_size == 2_115_712
    num_images = 6 * 1_000_448
    size = pixels.data
    tested = size_of_test(num_images, size.num_validation, size.num_test, size.held_out)
    assert size.num_validation + tested == 600_268

    class Images:
        num_train = num_images - 600_268

    training = pixels.training
    batches = Batches(Images(), training.batch_size, fill_last=training.fill_last_batch)  # type: ignore[arg-type]
    assert batches.steps_per_epoch == training.steps == 42_207
    for recipe, windows, measured in ((stories, 24, 801), (pixels, 23, 752)):
        schedule = recipe.measurement.windows(recipe.training.steps)
        assert (len(schedule.starts), len(schedule.steps)) == (windows, measured)
        recipe.training.check()
        recipe.measurement.check()


def test_every_preset_of_the_paper_belongs_to_a_recipe():
    assert [name for name in PRESETS if recipe_of(name) is None] == ["115K"]
    assert {RECIPES[name]["model"]["preset"] for name in RECIPES} == {"1.2M", "102.6K"}


def test_a_file_wins_over_a_recipe_which_it_may_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: stories\nsteps: 500\ndata: {data: book.txt}\n")
    command = options_before(Train, file, None)
    assert (command.recipe, command.training.steps, command.training.batch_size) == (
        "stories",
        500,
        32,
    )
    assert (command.data.data, command.data.sequences) == ("book.txt", "documents")
    assert options_before(Train, file, "pixels").training.batch_size == 128
    file.write_text("recipe: story\n")
    with pytest.raises(ValueError, match="recipe: expected one of stories, pixels, got 'story'"):
        options_before(Train, file, None)
