"""One document in each sequence: where it begins and ends, what is cut, and what is padded."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data import PADDING, DocumentSequences, SourceDataset, TokenFiles, load_dataset

END, LENGTH = 0, 5


def stream(*lengths: int) -> np.ndarray:
    """Documents of these lengths, of the ids 1, 2, and so on."""
    return np.concatenate([np.append(np.arange(1, n + 1), END) for n in lengths]).astype(np.uint16)


def test_documents_are_predicted_up_to_their_mark_and_no_further():
    documents = DocumentSequences(stream(2, 4, 5, 9), END, LENGTH)
    pad = PADDING
    expected = [
        ([1, 2, 0, 0, 0], [2, 0, pad, pad, pad]),
        ([1, 2, 3, 4, 0], [2, 3, 4, 0, pad]),
        ([1, 2, 3, 4, 5], [2, 3, 4, 5, 0]),
        ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]),
    ]
    assert [tuple(part.tolist() for part in sample) for sample in documents] == expected


def test_marks_in_front_and_text_without_one_at_the_end_are_documents_too():
    ids = np.array([END, 1, 2, END, END, 3, END, 4, 5, 6])
    inputs = [inputs.tolist() for inputs, _ in DocumentSequences(ids, END, LENGTH)]
    assert inputs == [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [4, 5, 0, 0, 0]]


def test_documents_across_files_are_whole(monkeypatch):
    monkeypatch.setattr("lnpjax.data.documents.HASHED_ELEMENTS", 4)
    ids = stream(3, 1, 4, 8, 2)
    files = TokenFiles((ids[:6], ids[6:7], ids[7:]))
    one, several = (DocumentSequences(part, END, LENGTH) for part in (ids, files))
    assert len(one) == len(several) == 5
    for left, right in zip(one, several, strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.fingerprint == several.fingerprint
    assert one.fingerprint != DocumentSequences(ids, END, LENGTH + 1).fingerprint


def test_only_padding_is_excused():
    source = DocumentSequences(stream(2, 4, 5), END, LENGTH)
    data = SourceDataset(source, 6, num_validation=1, padded=True)
    assert (data.train(np.arange(2))[1] == PADDING).any()
    with pytest.raises(ValueError, match="targets: expected values in"):
        SourceDataset(source, 6, num_validation=1)
    with pytest.raises(ValueError, match="targets: expected values in"):
        SourceDataset(source, 3, num_validation=1, padded=True).train(np.arange(2))


def test_a_text_becomes_documents_with_the_splits_of_documents(tmp_path):
    file = tmp_path / "stories.txt"
    file.write_text("".join(f"{'abcdefghij'[: 2 + n % 8]}<|endoftext|>" for n in range(20)))
    data = load_dataset(
        file, sequences="documents", context_length=LENGTH, num_validation=2, held_out=0.25
    )
    assert (data.num_train, data.num_validation, data.num_test) == (15, 2, 3)
    assert data.context_length == LENGTH
    assert data.validation(np.array([0]))[0][0, 0] == ord("a")


def test_what_has_no_documents_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data: expected documents that end in the token 0, got n"):
        DocumentSequences(np.zeros(4, int), END, LENGTH)
    tokens = tmp_path / "train.bin"
    np.ones(40, "<u2").tofile(tokens)
    settings = {"sequences": "documents", "num_validation": 1}
    with pytest.raises(ValueError, match="tokenizer: expected a tokenizer that marks the end"):
        load_dataset(tokens, vocab_size=9, **settings)
    with pytest.raises(ValueError, match=r"sequences: expected packed for images \(digits\)"):
        load_dataset("digits", **settings)
    with pytest.raises(ValueError, match="sequences: expected 'packed' or 'documents', got 'x'"):
        load_dataset("digits", sequences="x")
