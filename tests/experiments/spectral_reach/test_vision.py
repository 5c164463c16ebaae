"""Vision transformers: their data, what muP's intensity is judged by, and the smallest run."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.data.image_classes import load_image_classes
from lnpjax.experiments import experiment
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments.spectral_reach.vision import claims
from lnpjax.experiments.spectral_reach.vision.config import PRESETS
from lnpjax.experiments.spectral_reach.vision.data import ImageSplit, load
from lnpjax.experiments.spectral_reach.vision.measure import relative_change
from lnpjax.experiments.spectral_reach.vision.results import Vision

CPU = PRESETS["cpu"]


def intensity(rng, power, scatter=0.02):
    widths = np.array(CPU.widths, float)
    seeds = CPU.recipe.num_seeds
    changes = [
        (width / 64) ** power * np.exp(scatter * rng.standard_normal((seeds, 4)))
        for width in widths
    ]
    return claims.intensity([Vision("mup", None, widths, changes)], [])


WORLDS = {
    "alike": World(functools.partial(intensity, power=0.0), "holds"),
    "at the bound": World(functools.partial(intensity, power=0.1), "not holds"),
    "more in narrow ones": World(functools.partial(intensity, power=-0.5), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


def test_parts_of_the_data_do_not_overlap_and_epochs_see_all():
    split = load(PRESETS["smoke"], None)
    steps = split.num_train // split.config.batch_size
    inputs, labels = split.training(0, steps)
    assert inputs.shape == (steps, 4, 8, 8, 1)
    assert labels.shape == (steps, 4)
    rows = split._kept
    assert len(set(rows) | set(split._held_out)) == len(split.images.train)
    assert not set(rows) & set(split._held_out)
    again, _ = split.training(1, 2)
    np.testing.assert_array_equal(again, inputs[1:3])
    first = split.comparison(np.array([3, 7]))[0]
    np.testing.assert_array_equal(first[1], split.comparison(np.array([7]))[0][0])


def test_a_second_epoch_has_another_order():
    images = load_image_classes("digits")
    split = ImageSplit(dataclasses.replace(PRESETS["smoke"], num_validation=1436), images)
    assert split.num_train == 2
    inputs, _ = split.training(0, 40)
    orders = {tuple(batch.sum(axis=(1, 2, 3)).round(3)) for batch in inputs}
    assert len(orders) > 1


def test_too_few_images_are_refused(tmp_path):
    small = dataclasses.replace(PRESETS["smoke"], batch_size=1436, num_validation=1436, num_test=0)
    with pytest.raises(ValueError, match="data: expected 2872 images to train on"):
        load(small, None)


def test_relative_change():
    before = np.array([[[3.0, 4.0]], [[1.0, 0.0]]])
    np.testing.assert_allclose(relative_change(before, 2 * before), [1, 1])


def test_the_smallest_size(tmp_path):
    done = reproduce(experiment("vision"), "smoke", tmp_path)
    assert len(done.judged) == 7
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "features.png",
        "vision.png",
    ]
