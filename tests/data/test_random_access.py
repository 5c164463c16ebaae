from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data import ArrayDataset, Batches, SourceDataset, TokenDataset

SMALL = {"vocab_size": 50, "num_validation": 4}
IDS = np.random.default_rng(0).integers(0, 50, (20, 9))


class GrainSource:
    """As grain's `RandomAccessDataSource` and `MapDataset` are."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        assert type(index) is int
        return self.samples[index]


FORMS = {
    "ids": lambda row: row,
    "list of ids": lambda row: row.tolist(),
    "pair": lambda row: (row[:-1], row[1:]),
    "mapping": lambda row: {"inputs": row[:-1], "targets": row[1:], "id": 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_samples_gives_the_same_batches_as_arrays(form):
    data = SourceDataset(GrainSource([FORMS[form](row) for row in IDS]), **SMALL)
    same = ArrayDataset(IDS[:, :-1], IDS[:, 1:], **SMALL)
    assert (data.num_train, data.context_length) == (same.num_train, same.context_length)
    assert np.array_equal(Batches(data, 5).batch(7), Batches(same, 5).batch(7))
    assert np.array_equal(data.validation(np.arange(4)), same.validation(np.arange(4)))
    assert data.train(np.arange(2))[0].dtype == np.int32


def test_labels_of_pictures_are_samples_too():
    pictures = np.random.default_rng(0).random((9, 4, 4))
    labels = np.arange(9) % 3
    source = list(zip(pictures, labels, strict=True))
    data = SourceDataset(source, vocab_size=3, num_validation=2)
    same = ArrayDataset(pictures, labels, vocab_size=3, num_validation=2)
    assert data.context_length is None
    for mine, theirs in zip(Batches(data, 3).batch(1), Batches(same, 3).batch(1), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_fingerprint_tells_other_samples_and_another_split():
    data = SourceDataset(GrainSource(IDS), **SMALL)
    changed = IDS.copy()
    changed[7, 3] += 1
    others = [
        SourceDataset(GrainSource(changed % 50), **SMALL),
        SourceDataset(GrainSource(IDS[:-1]), **SMALL),
        SourceDataset(GrainSource(IDS), vocab_size=50, num_validation=5),
    ]
    assert data.fingerprint == SourceDataset(IDS.tolist(), **SMALL).fingerprint
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4


BAD_SOURCES = {
    "iterator": (iter(IDS), TypeError, "source: expected samples with a length .*got .*iterator"),
    "too few": (IDS[:4], ValueError, "data: expected more than num_validation = 4 .*got 4 in"),
    "filtered": ([None] * 9, ValueError, "source: expected samples that .*got NoneType at index 0"),
    "other names": ([{"text": "a"}] * 9, ValueError, r"got keys \['text'\] at index 0"),
    "texts": (["once"] * 9, ValueError, "source: expected samples that are vectors .*got str"),
    "floats": (IDS / 2, ValueError, "source: expected samples that are vectors of ids"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_bad_source_is_refused_at_once(case):
    source, error, message = BAD_SOURCES[case]
    with pytest.raises(error, match=message):
        SourceDataset(source, **SMALL)


def test_a_bad_sample_is_refused_when_it_is_read():
    data = SourceDataset([*IDS[:10], IDS[10][:-1]], vocab_size=50, num_validation=1)
    with pytest.raises(ValueError, match=r"source: expected samples of the same shapes, got \[\(7"):
        data.train(np.arange(10))
    data = SourceDataset([*IDS[:10], IDS[10] + 50], vocab_size=50, num_validation=1)
    with pytest.raises(ValueError, match=r"targets: expected values in \[0, vocab_size\)"):
        data.train(np.arange(10))


def test_sequences_of_a_source_are_those_of_a_stream():
    tokens = TokenDataset(IDS.ravel(), vocab_size=50, context_length=8, num_validation=4)
    data = SourceDataset(GrainSource(IDS), **SMALL)
    rows = np.arange(data.num_train)
    assert np.array_equal(data.train(rows), tokens.train(rows))
