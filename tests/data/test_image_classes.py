"""Labelled images: each layout as it is distributed, and what is said where a file is not right."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from lnpjax.data.image_classes import (
    LabelledImages,
    load_image_classes,
    read_labelled_images,
)


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, split, count, *, compress=False, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 4, 3)), np.arange(count) % 10
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content, file = idx(array), f"{split}-{name}-ubyte"
        if compress:
            content, file = gzip.compress(content), f"{file}.gz"
        (folder / file).write_bytes(content)
    return images, labels


@pytest.fixture
def mnist(tmp_path):
    write_idx(tmp_path / "mnist", "train", 30)
    write_idx(tmp_path / "mnist", "t10k", 20, compress=True, seed=1)
    return tmp_path


def test_idx_as_distributed(tmp_path, mnist):
    train, _ = write_idx(tmp_path / "mnist", "train", 30)
    data = load_image_classes("mnist", mnist)
    assert (len(data.train), len(data.test), data.num_classes) == (30, 20, 10)
    np.testing.assert_array_equal(data.train.images[..., 0], train)
    np.testing.assert_array_equal(data.test.labels, np.arange(20) % 10)


def test_an_archive_in_place_of_training_files(tmp_path):
    folder = tmp_path / "fashion_mnist"
    write_idx(folder, "t10k", 20)
    images = np.random.default_rng(2).integers(0, 256, (8, 4, 3)).astype(np.uint8)
    np.savez(folder / "subset.npz", x=images, y=np.arange(8))
    data = load_image_classes("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(data.train.images[..., 0], images)
    assert len(data.test) == 20


def test_a_set_in_one_piece_is_divided(tmp_path):
    images, labels = write_idx(tmp_path / "mnist", "t10k", 20)
    data = load_image_classes("mnist", tmp_path)
    assert (len(data.train), len(data.test)) == (16, 4)
    both = np.concatenate([data.train.images, data.test.images])[..., 0]
    order = np.lexsort(both.reshape(20, -1).T), np.lexsort(images.reshape(20, -1).T)
    np.testing.assert_array_equal(both[order[0]], images[order[1]])
    divided = np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(divided[order[0]], labels[order[1]])


def test_cifar_in_its_binary_layout(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (6, 2, 3, 32, 32)).astype(np.uint8)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for file, (name, batch) in enumerate(zip(names, planes, strict=True)):
        records = [bytes([file]) + image.tobytes() for image in batch]
        (folder / name).write_bytes(b"".join(records))
    data = load_image_classes("cifar10", tmp_path)
    assert data.train.images.shape == (10, 32, 32, 3)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    np.testing.assert_array_equal(data.train.images[3, :, :, 2], planes[1, 1, 2])
    assert data.test.labels.tolist() == [5, 5]


def test_patches_of_photographs(tmp_path):
    folder = tmp_path / "natural_patches"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"folder: expected one \.npz file in .*, got 0"):
        load_image_classes("natural_patches", tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    names = np.array(["first.png", "second.jpg"])
    np.savez(folder / "patches.npz", x=images, y=np.arange(20) % 2, names=names)
    data = load_image_classes("natural_patches", tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (16, 4, 2)
    assert data.train.images.shape[1:] == (32, 32, 3)
    both = [*data.train.images, *data.test.images]
    labels = [*data.train.labels, *data.test.labels]
    numbers = {image.tobytes(): number for number, image in enumerate(images)}
    assert [numbers[image.tobytes()] % 2 for image in both] == labels


def test_digits_span_zero_to_one():
    pytest.importorskip("sklearn")
    data = load_image_classes("digits")
    images, labels = data.train.take(np.arange(100))
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert set(labels) == set(range(10))


def test_some_classes_in_a_new_order():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    chosen = LabelledImages(images, np.array([2, 0, 1, 2]), white=4).of_classes((2, 1))
    assert chosen.labels.tolist() == [0, 1, 0]
    assert chosen.images.ravel().tolist() == [0, 2, 3]
    assert chosen.white == 4
    with pytest.raises(ValueError, match=r"classes: expected classes of the images, got \[7\]"):
        chosen.of_classes((0, 7))


def break_files(folder, how):
    train = folder / "mnist" / "train-images-idx3-ubyte"
    test = folder / "mnist" / "t10k-labels-idx1-ubyte.gz"
    if how == "no label file":
        test.unlink()
    elif how == "cut":
        train.write_bytes(train.read_bytes()[:-1])
    elif how == "cut archive":
        test.write_bytes(test.read_bytes()[:-9])
    elif how == "empty":
        train.write_bytes(b"")
    elif how == "another format":
        train.write_bytes(b"<html>" * 50)
    elif how == "other labels":
        labels = folder / "mnist" / "train-labels-idx1-ubyte"
        labels.write_bytes(idx(np.zeros(29)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "no label file",
            "expected t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz in .*mnist",
        ),
        (
            "cut",
            "expected an idx file .* at .*train-images-idx3-ubyte, got 359 bytes for the shape",
        ),
        ("cut archive", "expected an idx file .* at .*t10k-labels-idx1-ubyte.gz, got"),
        ("empty", "expected an idx file .* got another header"),
        ("another format", "expected an idx file .* got another header, b'<htm'"),
        (
            "other labels",
            r"expected uint8 images .* n labels, integers, for .*train-images.*shape \(29,\)",
        ),
    ],
)
def test_a_file_that_is_not_right(mnist, how, message):
    break_files(mnist, how)
    with pytest.raises(ValueError, match=f"folder: {message}"):
        load_image_classes("mnist", mnist)


def test_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match="name: expected one of digits, mnist, fashion_mnist"):
        load_image_classes("emnist", tmp_path)
    with pytest.raises(ValueError, match="folder: expected a folder that holds mnist/ with"):
        load_image_classes("mnist")
    with pytest.raises(
        ValueError, match=r"folder: expected the folder .*mnist with train-images.*no such folder"
    ):
        load_image_classes("mnist", tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(ValueError, match="expected train-images-idx3-ubyte, train-labels-idx1"):
        load_image_classes("mnist", tmp_path)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(ValueError, match=r"3,073 bytes.*at .*data_batch_1.bin, got no such file"):
        load_image_classes("cifar10", tmp_path)
    (tmp_path / "cifar10" / "data_batch_1.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"at .*data_batch_1.bin, got 3072 bytes"):
        load_image_classes("cifar10", tmp_path)
    (tmp_path / "mnist" / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"expected an .npz file with arrays x .*broken.npz"):
        load_image_classes("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "sizes"), [("mnist", (8000, 2000)), ("fashion_mnist", (10_000, 10_000))]
)
def test_the_real_files(real_data, name, sizes):
    data = load_image_classes(name, real_data)
    assert (len(data.train), len(data.test)) == sizes
    assert data.train.images.shape[1:] == (28, 28, 1)
    assert data.num_classes == 10
    assert np.bincount(data.train.labels).min() > 700


def test_no_more_is_inflated_than_a_header_promises(mnist):
    content = idx(np.zeros((30, 4, 3))) + bytes(50_000_000)
    (mnist / "mnist" / "train-images-idx3-ubyte").unlink()
    (mnist / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
    with pytest.raises(ValueError, match=r"got more than 360 bytes for the shape \(30, 4, 3\)"):
        load_image_classes("mnist", mnist)
    huge = struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**10, 2**10)
    (mnist / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(huge))
    with pytest.raises(ValueError, match=r"expected at most 4294967296 bytes, got 22517998136852"):
        load_image_classes("mnist", mnist)


def write_pictures(folder, classes, *, size=(3, 5)):
    """Write a picture for each class, which has its number in its first red pixel."""
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[0, 0, 0] = number
        image.fromarray(pixels).save(folder / name / "a.png")
        (folder / name / "notes.txt").write_text("not a picture")


@pytest.mark.parametrize(("classes", "labels"), [(("bee", "ant"), [1, 0]), (("10", "2"), [10, 2])])
def test_folders_of_pictures(tmp_path, classes, labels):
    """Classes are numbered by the order of their names, or by their names, if these are numbers."""
    write_pictures(tmp_path, classes)
    data = read_labelled_images(tmp_path)
    assert data.images.shape == (2, 3, 5, 3)
    numbers = data.images[:, 0, 0, 0].tolist()
    assert {labels[number] for number in numbers} == set(labels)
    assert [labels[number] for number in numbers] == data.labels.tolist()


def test_pictures_that_do_not_fit_are_refused_by_name(tmp_path):
    write_pictures(tmp_path, ("a", "b"))
    write_pictures(tmp_path / "c", ("c",), size=(4, 4))
    (tmp_path / "c" / "c" / "a.png").rename(tmp_path / "b" / "z.png")
    with pytest.raises(ValueError, match=r"z.png: expected the size \(3, 5\) of the first"):
        read_labelled_images(tmp_path)
    (tmp_path / "b" / "z.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"z.png: expected a picture, got"):
        read_labelled_images(tmp_path)


def test_images_of_other_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data: expected digits, an \.npz file"):
        read_labelled_images(tmp_path / "images.tar")
    with pytest.raises(ValueError, match="data: expected a folder for each class in"):
        read_labelled_images(tmp_path)
