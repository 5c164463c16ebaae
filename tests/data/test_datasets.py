from __future__ import annotations

import math

import numpy as np
import pytest

from lnpjax.data.datasets import (
    ArrayDataset,
    TokenDataset,
    fingerprint,
)
from lnpjax.data.encoding import encode_documents
from lnpjax.data.splits import size_of_test, split_rows, spread_evenly
from lnpjax.data.tokenizers import ByteTokenizer


def counting_tokens(num_tokens: int = 1000, **settings) -> TokenDataset:
    """Ids that are their own positions: a sequence shows where it was cut."""
    defaults = {"vocab_size": num_tokens, "context_length": 9, "num_validation": 7}
    return TokenDataset(np.arange(num_tokens), **(defaults | settings))


def all_sequences(dataset: TokenDataset) -> tuple[np.ndarray, np.ndarray]:
    train = dataset.train(np.arange(dataset.num_train))
    validation = dataset.validation(np.arange(dataset.num_validation))
    return tuple(np.concatenate([x, y[:, -1:]], axis=1) for x, y in (train, validation))


def test_targets_are_the_next_inputs():
    dataset = counting_tokens()
    for inputs, targets in (dataset.train(np.arange(5)), dataset.validation(np.arange(5))):
        assert inputs.shape == targets.shape == (5, 9)
        assert inputs.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(targets, inputs + 1)


def test_train_and_validation_share_out_every_token_once():
    train, validation = all_sequences(counting_tokens())
    assert len(validation) == 7
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, validation]), axis=None), np.arange(1000)
    )


@pytest.mark.parametrize("stride", [1, 3, 5, 9])
def test_overlapping_training_sequences_never_touch_the_validation_set(stride):
    dataset = counting_tokens(stride=stride)
    train, validation = all_sequences(dataset)
    assert not np.intersect1d(train, validation).size
    starts = np.arange(0, 991, stride)
    clear = [s for s in starts if np.abs(s - validation[:, 0]).min() >= 10]
    assert train[:, 0].tolist() == clear


def test_the_validation_set_is_spread_over_the_stream():
    _, validation = all_sequences(counting_tokens(num_tokens=100, num_validation=2))
    assert validation[:, 0].tolist() == [20, 70]


@pytest.mark.parametrize(("num_items", "num_picked"), [(10, 10), (11, 10), (1000, 160), (5, 1)])
def test_spread_indices_are_distinct_and_symmetric(num_items, num_picked):
    picked = spread_evenly(num_items, num_picked)
    assert len(np.unique(picked)) == num_picked
    assert picked.min() >= 0
    assert picked.max() < num_items
    assert abs(picked[0] - (num_items - 1 - picked[-1])) <= 1


def test_a_stream_is_stored_in_the_smallest_type_and_marks_document_ends():
    calls = []
    documents = ["ab"] * 1500
    ids = encode_documents(documents, ByteTokenizer(), progress=lambda *done: calls.append(done))
    assert ids.dtype == np.uint8
    assert ids.tolist() == [97, 98, 0] * 1500
    assert calls == [(1024, 3072), (1500, 4500)]


def test_a_stream_keeps_to_its_budget():
    ids = encode_documents(["ab"] * 9, ByteTokenizer(), max_bytes=5)
    assert bytes(ids.tolist()) == b"ab\0ab\0a\0"


def test_documents_are_joined_where_there_is_no_end_of_text():
    class Letters(ByteTokenizer):
        end_of_text = None

    assert encode_documents(["a", "b"], Letters()).tolist() == [97, 98]


def test_array_rows_are_shared_out_once():
    dataset = ArrayDataset(
        np.arange(50.0).reshape(25, 2), np.arange(25), vocab_size=25, num_validation=4
    )
    inputs, train = dataset.train(np.arange(dataset.num_train))
    _, validation = dataset.validation(np.arange(4))
    assert sorted([*train, *validation]) == list(range(25))
    assert inputs.dtype == np.float64
    np.testing.assert_array_equal(inputs[:, 0], 2.0 * train)
    assert dataset.context_length is None


def test_the_fingerprint_is_one_value_for_one_data_set():
    assert fingerprint(np.arange(5)) == "ff33a1449bf8a4c4"
    assert counting_tokens().fingerprint == counting_tokens().fingerprint
    small = TokenDataset(
        np.arange(200, dtype=np.uint8), vocab_size=200, context_length=9, num_validation=7
    )
    assert small.fingerprint == counting_tokens(200).fingerprint


def test_the_fingerprint_sees_every_change():
    ids = np.arange(1000)
    changed = ids.copy()
    changed[-1] = 0
    settings = {"vocab_size": 1000, "context_length": 9, "num_validation": 7}
    variants = [
        counting_tokens(),
        TokenDataset(changed, **settings),
        counting_tokens(context_length=8),
        counting_tokens(num_validation=6),
        counting_tokens(stride=5),
        counting_tokens(999),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)
    x, y = np.zeros((9, 2)), np.arange(9)
    arrays = [(x, y), (x, y[::-1].copy()), (x + 1, y), (x.astype(np.float32), y)]
    prints = {ArrayDataset(*a, vocab_size=9, num_validation=2).fingerprint for a in arrays}
    assert len(prints) == 4


def test_a_long_array_is_hashed_whole(monkeypatch):
    array = np.arange(1001).reshape(-1, 7)
    whole = fingerprint(array)
    monkeypatch.setattr("lnpjax.data.datasets.HASHED_ELEMENTS", 20)
    assert fingerprint(array) == whole


TOKEN_ERRORS = [
    ({"context_length": 0}, r"context_length: expected an integer >= 1, got 0"),
    ({"context_length": 2.5}, r"context_length: expected an integer >= 1, got 2\.5"),
    ({"num_validation": 0}, r"num_validation: expected an integer >= 1, got 0"),
    ({"stride": 0}, r"stride: expected an integer >= 1, got 0"),
    ({"vocab_size": 99}, r"ids: expected values in \[0, vocab_size\) = \[0, 99\), got 0 to 999"),
    ({"num_validation": 100}, r"data: expected more than num_validation = 100 sequences of .*got"),
    ({"context_length": 5000}, r"5001 tokens \(give more text.*got 1000 tokens, 0 sequences"),
    ({"context_length": 400, "stride": 400, "num_validation": 1}, r"got 1000 tokens, 2 sequences"),
]


@pytest.mark.parametrize(("settings", "message"), TOKEN_ERRORS)
def test_bad_token_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        counting_tokens(**settings)


@pytest.mark.parametrize("ids", [np.zeros(9), np.zeros((9, 9), int), list(range(9)), np.array(-1)])
def test_ids_must_be_a_vector_of_integers(ids):
    with pytest.raises(ValueError, match="ids: expected a numpy array of integers"):
        TokenDataset(ids, vocab_size=9, context_length=1)


ARRAY_ERRORS = [
    (
        np.zeros((8, 2)),
        np.arange(9),
        r"inputs: .*one row for each of the 9 targets, got .*\(8, 2\)",
    ),
    ([1] * 9, np.arange(9), r"inputs: expected an array .*got list"),
    (np.zeros((9, 2)), np.zeros(9), r"targets: expected a numpy array of integers .*float64"),
    (np.zeros((9, 2)), np.arange(9) - 1, r"targets: expected values in .*got -1 to 7"),
    (np.zeros((2, 2)), np.arange(2), r"data: expected more than num_validation = 2 samples, got 2"),
]


@pytest.mark.parametrize(("inputs", "targets", "message"), ARRAY_ERRORS)
def test_bad_arrays_are_refused(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(inputs, targets, vocab_size=9, num_validation=2)


def test_three_sets_share_out_every_token_once_and_two_are_as_they_were():
    dataset, without = counting_tokens(num_test=20), counting_tokens()
    train, validation = all_sequences(dataset)
    inputs, targets = dataset.test(np.arange(dataset.num_test))
    test = np.concatenate([inputs, targets[:, -1:]], axis=1)
    assert [len(train), len(validation), len(test)] == [73, 7, 20]
    everything = np.concatenate([train, validation, test], axis=None)
    np.testing.assert_array_equal(np.sort(everything), np.arange(1000))
    assert dataset.fingerprint != without.fingerprint
    old = fingerprint(np.arange(1000), context_length=9, num_validation=7, stride=10)
    assert without.fingerprint == old


@pytest.mark.parametrize("sizes", [(1000, 7, 0), (1000, 7, 93), (10, 3, 6), (9, 0, 2)])
def test_a_split_is_disjoint_whole_and_spread(sizes):
    split = split_rows(*sizes)
    assert (len(split.validation), len(split.test)) == sizes[1:]
    parts = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(parts), np.arange(sizes[0]))
    for part in (split.validation, split.test):
        if len(part) > 1:
            assert np.diff(part).max() <= 3 * sizes[0] / len(part)


def test_a_tenth_of_cifar_5m_is_what_the_paper_holds_out():
    """*Spectral Reach*, B.2.2 and B.2.3: 600,268 held out, 42,207 steps of 128 in one epoch."""
    num_images = 6 * 1_000_448
    assert size_of_test(num_images, 0, None, 0.1) == 600_268
    assert math.ceil((num_images - 600_268) / 128) == 42_207


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 4, None, 1.0), r"held_out: expected a share of the samples, in \(0, 1\), got 1.0"),
        ((100, 11, None, 0.1), "held_out: expected a share with at least the 11 samples of num_va"),
    ],
)
def test_shares_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        size_of_test(*arguments)
    assert size_of_test(100, 4, 3, 0.29) == 3
    assert size_of_test(100, 4, None, 0.29) == 25  # 0.29 * 100 is below 29 in floating point
