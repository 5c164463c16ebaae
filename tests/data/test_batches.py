from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data.batches import (
    Batches,
    pad_batch,
    random_order,
    validation_batch,
    validation_batches,
)
from lnpjax.data.datasets import ArrayDataset

GOLDEN_ORDER = [7, 2, 0, 4, 3, 5, 6, 1]
GOLDEN_BATCHES = [[4, 2, 14, 17, 6, 21], [21, 2, 31, 7, 10, 16], [26, 3, 4, 20, 13, 24]]
GOLDEN_VALIDATION = [25, 15, 1, 5]


def labelled(num_train: int = 24, num_validation: int = 10) -> ArrayDataset:
    """Samples whose label is their row, so that a batch shows what was drawn."""
    rows = np.arange(num_train + num_validation)
    return ArrayDataset(
        rows[:, None] * [1.0, 2.0], rows, vocab_size=len(rows), num_validation=num_validation
    )


def assert_same(batch, other):
    for array, expected in zip(batch, other, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_one_seed_is_one_order_for_good():
    assert random_order(8, seed=0, stream=(0, 0)).tolist() == GOLDEN_ORDER
    batches = Batches(labelled(), batch_size=6, seed=7)
    assert [batches.batch(step)[1].tolist() for step in (0, 5, 10**9)] == GOLDEN_BATCHES
    assert validation_batch(labelled(), 3, size=4, seed=7)[1].tolist() == GOLDEN_VALIDATION


def test_any_step_is_reached_without_the_steps_before():
    sequential = Batches(labelled(), batch_size=5, seed=1)
    passed = [sequential.batch(step) for step in range(13)]
    for step in (12, 0, 7, 7, 3, 11):
        assert_same(Batches(labelled(), batch_size=5, seed=1).batch(step), passed[step])
        assert_same(sequential.batch(step), passed[step])


def test_an_epoch_covers_every_training_sample_once():
    dataset = labelled()
    batches = Batches(dataset, batch_size=6, seed=3)
    assert batches.steps_per_epoch == 4
    train = dataset.train(np.arange(dataset.num_train))[1]
    epochs = [[batches.batch(4 * epoch + k)[1] for k in range(4)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == sorted(train)
    assert not np.array_equal(epochs[0], epochs[1])


def test_what_does_not_fill_a_batch_sits_one_epoch_out():
    batches = Batches(labelled(num_train=24), batch_size=7, seed=0)
    assert batches.steps_per_epoch == 3
    left_out = []
    for epoch in range(4):
        drawn = np.concatenate([batches.indices(3 * epoch + k) for k in range(3)])
        assert len(np.unique(drawn)) == 21
        left_out.append(frozenset(range(24)) - set(drawn.tolist()))
    assert len(set(left_out)) > 1


def test_a_last_batch_can_be_filled_with_the_first_of_its_epoch():
    data = ArrayDataset(np.zeros((12, 1)), np.arange(12), vocab_size=12, num_validation=1)
    batches = Batches(data, 4, seed=3, fill_last=True)
    assert batches.steps_per_epoch == 3
    for epoch in range(2):
        seen = np.concatenate([batches.indices(3 * epoch + step) for step in range(3)])
        assert sorted(seen[:11]) == list(range(11))
        assert seen[11] == seen[0]
    np.testing.assert_array_equal(batches.indices(0), Batches(data, 4, seed=3).indices(0))
    assert Batches(data, 11, fill_last=True).steps_per_epoch == 1


def test_the_seed_decides_the_order():
    first, other = (Batches(labelled(), batch_size=24, seed=seed).indices(0) for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_validation_batches_are_drawn_without_replacement_from_the_fixed_set():
    dataset = labelled()
    fixed = set(dataset.validation(np.arange(10))[1].tolist())
    drawn = [validation_batch(dataset, step, size=4, seed=0)[1].tolist() for step in range(50)]
    assert all(len(set(labels)) == 4 and set(labels) <= fixed for labels in drawn)
    assert set().union(*drawn) == fixed
    assert len({tuple(labels) for labels in drawn}) > 40


def test_a_validation_batch_depends_on_its_step_and_seed_alone():
    dataset = labelled()
    again = validation_batch(dataset, 9, size=10, seed=2)
    validation_batch(dataset, 8, size=3, seed=2)
    assert_same(validation_batch(dataset, 9, size=10, seed=2), again)
    assert not np.array_equal(validation_batch(dataset, 9, size=10, seed=3)[1], again[1])


def test_the_training_order_and_the_validation_draw_of_a_seed_differ():
    orders = [random_order(50, seed=0, stream=(use, 0)).tolist() for use in (0, 1)]
    assert orders[0] != orders[1]


def test_padding_repeats_the_last_sample():
    inputs, targets = np.arange(6.0).reshape(3, 2), np.arange(3)
    (padded, labels), mask = pad_batch((inputs, targets), 5)
    np.testing.assert_array_equal(padded, inputs[[0, 1, 2, 2, 2]])
    assert labels.tolist() == [0, 1, 2, 2, 2]
    assert mask.tolist() == [True, True, True, False, False]
    whole, mask = pad_batch((inputs, targets), 3)
    assert_same(whole, (inputs, targets))
    assert mask.all()


@pytest.mark.parametrize("size", [1, 3, 5, 10, 16])
def test_a_pass_over_the_validation_set_counts_every_sample_once(size):
    dataset = labelled()
    passed = list(validation_batches(dataset, size))
    assert {inputs.shape for (inputs, _), _ in passed} == {(size, 2)}
    counted = np.concatenate([targets[mask] for (_, targets), mask in passed])
    np.testing.assert_array_equal(counted, dataset.validation(np.arange(10))[1])


BAD_CALLS = {
    "batch_size larger than the training set": (
        lambda: Batches(labelled(), batch_size=25),
        r"batch_size: expected at most the 24 training samples .*got 25",
    ),
    "batch_size zero": (
        lambda: Batches(labelled(), batch_size=0),
        r"batch_size: expected an integer >= 1, got 0",
    ),
    "negative seed": (
        lambda: Batches(labelled(), batch_size=2, seed=-1),
        r"seed: expected an integer >= 0, got -1",
    ),
    "negative step": (
        lambda: Batches(labelled(), batch_size=2).batch(-1),
        r"step: expected an integer >= 0, got -1",
    ),
    "fractional step": (
        lambda: Batches(labelled(), batch_size=2).batch(1.0),
        r"step: expected an integer >= 0, got 1\.0",
    ),
    "size larger than the validation set": (
        lambda: validation_batch(labelled(), 0, size=11),
        r"size: expected at most the 10 validation samples .*got 11",
    ),
    "negative validation step": (
        lambda: validation_batch(labelled(), -2, size=1),
        r"step: expected an integer >= 0, got -2",
    ),
    "pass of size zero": (
        lambda: validation_batches(labelled(), 0),
        r"size: expected an integer >= 1, got 0",
    ),
    "empty batch": (
        lambda: pad_batch((np.zeros((0, 2)), np.zeros(0, int)), 3),
        r"batch: .*1 to 3 of them, got 0 inputs and 0 targets",
    ),
    "batch too large": (
        lambda: pad_batch((np.zeros((4, 2)), np.zeros(4, int)), 3),
        r"batch: .*got 4 inputs and 4 targets",
    ),
    "unequal lengths": (
        lambda: pad_batch((np.zeros((2, 2)), np.zeros(3, int)), 3),
        r"batch: .*got 2 inputs and 3 targets",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        call()
