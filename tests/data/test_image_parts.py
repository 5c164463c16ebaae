"""CIFAR-5M's files: `X` and `Y` in several archives."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data import Batches, TokenDataset, load_dataset, read_image_parts
from lnpjax.data.image_classes import load_image_classes, read_labelled_images
from lnpjax.data.images import next_pixel_sequences

SIZES = (7, 5, 8, 6, 9, 5)  # 40 images in all


def write_parts(folder, save=np.savez):
    """Write six small parts, and return all images and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, size in enumerate(SIZES):
        X = rng.integers(0, 256, (size, 3, 2, 3), np.uint8)
        Y = rng.integers(0, 10, size)
        save(folder / f"part{number}.npz", X=X, Y=Y)
        parts.append((X, Y))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cifar5m"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_parts_are_one_array_in_the_order_of_their_numbers(folder, save):
    images, labels = write_parts(folder, save)
    (folder / "notes.txt").write_text("part9.npz")
    parts, classes = read_image_parts(folder)
    assert parts.shape == images.shape
    assert parts.dtype == np.uint8
    np.testing.assert_array_equal(classes, labels)
    np.testing.assert_array_equal(parts[:], images)
    rows = np.array([39, 0, 7, 6, 12])
    np.testing.assert_array_equal(parts[rows], images[rows])
    np.testing.assert_array_equal(parts[labels == 3], images[labels == 3])
    chosen = parts.select(rows)
    np.testing.assert_array_equal(chosen[1:3], images[rows[1:3]])
    np.testing.assert_array_equal(chosen.select(np.array([4, 4]))[:], images[[12, 12]])


def test_one_file_with_other_names_in_a_folder_will_do_and_text_next_to_it_wins(tmp_path):
    images = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    np.savez(tmp_path / "subset.npz", x=images, y=np.arange(4))
    data = load_dataset(tmp_path, num_validation=1)
    np.testing.assert_array_equal(data.train(np.array([0]))[0], images[:1].reshape(1, 12)[:, :-1])
    (tmp_path / "story.txt").write_text("once upon a time")
    with pytest.warns(UserWarning, match=r"left out 1 ending in '\.npz'"):
        text = load_dataset(tmp_path, num_validation=1, context_length=3)
    assert isinstance(text, TokenDataset)


def test_what_is_not_compressed_stays_on_the_disk(folder):
    write_parts(folder)
    parts, _ = read_image_parts(folder)
    assert all(isinstance(part, np.memmap) for part in parts.parts)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_grey_levels_are_predicted_pixel_by_pixel(folder, save, monkeypatch):
    monkeypatch.setattr("lnpjax.data.image_parts.IMAGES_PER_CHUNK", 4)
    images, _ = write_parts(folder, save)
    data = load_dataset(folder, num_validation=2, held_out=0.1)
    assert (data.num_train, data.num_validation, data.num_test) == (36, 2, 2)
    assert (data.context_length, data.vocab_size, data.name) == (5, 256, "cifar5m")
    rows = next_pixel_sequences(images)
    inputs, targets = data.train(np.arange(36))
    seen = np.concatenate([inputs, targets[:, -1:]], axis=1)
    held_out = [data.validation(np.arange(2)), data.test(np.arange(2))]
    seen = [*seen, *(np.append(x, y[-1]) for pair in held_out for x, y in zip(*pair, strict=True))]
    assert sorted(map(bytes, np.array(seen, np.uint8))) == sorted(map(bytes, rows))
    assert Batches(data, 4, seed=1).batch(3)[0].dtype == np.int32


def test_one_fingerprint_however_they_are_stored_and_another_for_other_pixels(folder, tmp_path):
    images, labels = write_parts(folder)
    write_parts(tmp_path / "compressed", np.savez_compressed)
    first = load_dataset(folder, num_validation=2)
    assert load_dataset(tmp_path / "compressed", num_validation=2).fingerprint == first.fingerprint
    images[3, 0, 0, 0] ^= 1
    np.savez(folder / "part0.npz", X=images[:7], Y=labels[:7])
    assert load_dataset(folder, num_validation=2).fingerprint != first.fingerprint


def test_classes_in_colour(folder):
    images, labels = write_parts(folder)
    data = load_image_classes("cifar5m", folder.parent)
    assert (len(data.train), len(data.test), data.train.images.shape[1:]) == (36, 4, (3, 2, 3))
    pictures, classes = data.test.take(slice(None))
    np.testing.assert_array_equal(pictures, images[[5, 15, 25, 35]].astype(np.float32) / 255)
    np.testing.assert_array_equal(classes, labels[[5, 15, 25, 35]])
    some = data.train.of_classes((int(labels[0]),))
    np.testing.assert_array_equal(some.take(np.array([0]))[0][0], images[0].astype("f4") / 255)
    assert len(read_labelled_images(folder / "part1.npz")) == 5


def without(number):
    return lambda folder: (folder / f"part{number}.npz").unlink()


def cut(folder):
    file = folder / "part2.npz"
    file.write_bytes(file.read_bytes()[:-200])


def flip(folder):
    file = folder / "part2.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"Y.npy") + 150] ^= 255
    file.write_bytes(content)


def replace_part(**arrays):
    return lambda folder: np.savez(folder / "part2.npz", **arrays)


X, Y = np.zeros((4, 3, 2, 3), np.uint8), np.zeros(4, int)
REFUSED = {
    "missing": (without(3), "part0.npz to part5.npz in .*, got all but part3.npz"),
    "last missing": (without(5), "got all but part5.npz"),
    "truncated": (cut, r"part2.npz: expected a whole .npz file, got: File is not a zip file"),
    "flipped": (flip, "part2.npz: expected a whole .npz file, got: Bad CRC"),
    "other name": (replace_part(X=X), r"part2.npz: expected arrays X or x or .*, got \['X'\]"),
    "other size": (replace_part(X=X[:, :2], Y=Y), r"part2.npz: expected images of \(3, 2, 3\)"),
    "other type": (replace_part(X=X * 1.0, Y=Y), "part2.npz: expected X of unsigned bytes"),
    "fewer labels": (replace_part(X=X, Y=Y[1:]), "part2.npz: expected Y with a class for each of"),
    "no labels": (replace_part(X=X, Y=Y * 0.5), "part2.npz: expected Y with a class for each of"),
    "one too many": (
        lambda folder: np.savez(folder / "more.npz", X=X, Y=Y),
        "part0.npz to part5.npz in .*, got 7 .npz files",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_are_not_right_are_named(folder, case):
    write_parts(folder)
    spoil, message = REFUSED[case]
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_image_classes("cifar5m", folder.parent)
    if case not in ("last missing", "one too many"):  # fewer parts, or others, may be meant
        with pytest.raises(ValueError, match=r"part[23].npz"):
            load_dataset(folder, num_validation=2)


def test_compressed_images_that_are_damaged_are_named(tmp_path):
    file = tmp_path / "part0.npz"
    images = np.random.default_rng(0).integers(0, 256, (3000, 3, 2, 3), np.uint8)
    np.savez_compressed(file, X=images, Y=np.zeros(3000, int))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"part0\.npz: expected undamaged arrays"):
        read_image_parts(file)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder with \.npz files, got none in"):
        read_image_parts(tmp_path)
    with pytest.raises(FileNotFoundError, match="images X and labels Y"):
        read_image_parts(tmp_path / "nowhere")
