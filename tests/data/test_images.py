from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data.images import digits, next_pixel_dataset, next_pixel_sequences, read_images


def test_gray_images_are_flattened_row_by_row():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    expected = np.arange(24).reshape(2, 12)
    np.testing.assert_array_equal(next_pixel_sequences(images), expected)
    np.testing.assert_array_equal(next_pixel_sequences(images[..., None]), expected)


def test_colour_becomes_luma():
    pixels = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [7, 7, 7], [1, 2, 3]]
    images = np.array(pixels, np.uint8).reshape(1, 2, 3, 3)
    # 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.1, 0.299 + 1.174 + 0.342 = 1.8
    assert next_pixel_sequences(images).tolist() == [[76, 150, 29, 255, 7, 2]]


def test_levels_divide_the_range_evenly():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    counts = np.bincount(next_pixel_sequences(ramp, levels=8)[0])
    assert counts.tolist() == [32] * 8


def test_many_images_are_converted_in_chunks(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3)).astype(np.uint8)
    whole = next_pixel_sequences(images)
    monkeypatch.setattr("lnpjax.data.images.IMAGES_PER_CHUNK", 3)
    np.testing.assert_array_equal(next_pixel_sequences(images), whole)


def test_pixels_two_to_last_are_predicted_without_a_begin_token():
    sequences = np.random.default_rng(0).integers(0, 256, (10, 16)).astype(np.uint8)
    dataset = next_pixel_dataset(sequences, num_validation=2)
    assert (dataset.context_length, dataset.vocab_size) == (15, 256)
    inputs, targets = dataset.train(np.arange(2))
    assert inputs.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(inputs, sequences[:2, :-1])
    np.testing.assert_array_equal(targets, sequences[:2, 1:])


def test_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    dataset = digits()
    assert (dataset.num_train, dataset.num_validation) == (1637, 160)
    assert (dataset.context_length, dataset.vocab_size) == (63, 17)
    first = datasets.load_digits().images[0].ravel()
    inputs, targets = dataset.train(np.array([0]))
    np.testing.assert_array_equal(np.append(inputs[0], targets[0, -1]), first)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 3)), r"images: expected a uint8 array .*got float64 of shape \(2, 3, 3\)"),
        (np.zeros((2, 9), np.uint8), r"got uint8 of shape \(2, 9\)"),
        (np.zeros((2, 3, 3, 4), np.uint8), r"got uint8 of shape \(2, 3, 3, 4\)"),
        ([[1]], r"got list"),
    ],
)
def test_other_arrays_are_not_images(images, message):
    with pytest.raises(ValueError, match=message):
        next_pixel_sequences(images)


@pytest.mark.parametrize("levels", [1, 257])
def test_levels_out_of_range_are_refused(levels):
    with pytest.raises(
        ValueError, match=rf"levels: expected an integer in \[2, 256\], got {levels}"
    ):
        next_pixel_sequences(np.zeros((1, 2, 2), np.uint8), levels=levels)


@pytest.mark.parametrize("shape", [(9,), (9, 1)])
def test_sequences_need_two_pixels(shape):
    with pytest.raises(ValueError, match=r"sequences: expected .* with at least 2 pixels, got"):
        next_pixel_dataset(np.zeros(shape, int))


def test_pixels_beyond_the_levels_are_refused():
    with pytest.raises(ValueError, match=r"targets: expected values in .*\[0, 16\), got 16 to 16"):
        next_pixel_dataset(np.full((9, 2), [0, 16]), levels=16, num_validation=1)


def test_a_bad_image_file_is_named(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"path: expected an \.npz file of arrays, got .*broken"):
        read_images(tmp_path / "broken.npz")
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3), y=np.zeros(3))
    with pytest.raises(ValueError, match=r"array 'x' or 'images', got \['pictures', 'y'\] in"):
        read_images(tmp_path / "other.npz")
