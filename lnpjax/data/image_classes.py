"""Labelled images for classification: digits without a download, and five sets as distributed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from lnpjax._base.checks import import_extra, require
from lnpjax._base.files import load_arrays
from lnpjax.data.idx import read_idx
from lnpjax.data.image_parts import NUM_PARTS, ImageParts, holds_image_parts, read_image_parts
from lnpjax.data.images import DIGITS_WHITE, read_digits
from lnpjax.data.splits import size_of_test, split_rows

TEST_SHARE = 0.2
"""Of a set that comes without a test set, the share that is kept for testing."""
CIFAR5M_TEST_SHARE = 0.1
"""*Spectral Reach*, B.2.3, holds out 600,268 images of 6,002,688."""
_CIFAR_SHAPE = (3, 32, 32)
_NUM_CIFAR_FILES = 5
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images with the numbers of their classes.

    Attributes:
        images: gray levels, ``(n, height, width, channels)``.
        labels: classes, ``(n,)``.
        white: the gray level that counts as 1.
    """

    images: UInt8[np.ndarray, "n height width channels"] | ImageParts
    labels: Int[np.ndarray, " n"]
    white: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, rows: Int[np.ndarray, " k"] | slice
    ) -> tuple[Float[np.ndarray, "k height width channels"], Int[np.ndarray, " k"]]:
        """Return some of the images, as float32 from 0 to 1, with their labels.

        Example:
            >>> data = LabelledImages(np.full((2, 1, 1, 1), 51, np.uint8), np.array([3, 4]))
            >>> images, labels = data.take(np.array([1]))
            >>> images.item(), labels.tolist()
            (0.20000000298023224, [4])
        """
        return self.images[rows].astype(np.float32) / self.white, self.labels[rows]

    def of_classes(self, classes: Sequence[int]) -> LabelledImages:
        """Return the images of some classes, which are renumbered from 0 in the order given.

        Raises:
            ValueError: if a class has no image.

        Example:
            >>> data = LabelledImages(np.zeros((3, 1, 1, 1), np.uint8), np.array([7, 5, 7]))
            >>> data.of_classes((5, 7)).labels.tolist()
            [1, 0, 1]
        """
        missing = sorted(set(classes) - set(self.labels.tolist()))
        require(not missing, "classes", expected="classes of the images", got=missing)
        keep = np.isin(self.labels, classes)
        numbers = {label: number for number, label in enumerate(classes)}
        labels = np.array([numbers[label] for label in self.labels[keep].tolist()], np.int32)
        return LabelledImages(_chosen(self.images, np.flatnonzero(keep)), labels, self.white)

    def subset(self, rows: Int[np.ndarray, " k"]) -> LabelledImages:
        """Return some of the images as a set of their own; those on the disk stay there.

        Example:
            >>> data = LabelledImages(np.zeros((3, 1, 1, 1), np.uint8), np.array([7, 5, 6]))
            >>> data.subset(np.array([2, 0])).labels.tolist()
            [6, 7]
        """
        return LabelledImages(_chosen(self.images, rows), self.labels[rows], self.white)


def _chosen(
    images: np.ndarray | ImageParts, rows: Int[np.ndarray, " k"]
) -> np.ndarray | ImageParts:
    return images.select(rows) if isinstance(images, ImageParts) else images[rows]


@dataclasses.dataclass(frozen=True)
class ImageClasses:
    """A data set of labelled images, made by `load_image_classes`.

    Attributes:
        name: of the set.
        train: what is trained on.
        test: what is not.
    """

    name: str
    train: LabelledImages
    test: LabelledImages

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1


def load_image_classes(name: str, folder: str | Path | None = None) -> ImageClasses:
    """Load labelled images.

    - ``digits``: scikit-learn's 1,797 digits, 8 x 8, which need no folder.
    - ``mnist``, ``fashion_mnist``: from the folder of that name within `folder`, as idx files under
      their published names (``train-images-idx3-ubyte`` ..., ``t10k-labels-idx1-ubyte``), as they
      are or with ``.gz``; in place of the training files also one ``.npz`` file with arrays ``x``
      and ``y``.
    - ``cifar10``: from ``cifar10`` or ``cifar-10-batches-bin``, in its binary version
      (``data_batch_1.bin`` to ``data_batch_5.bin``, ``test_batch.bin``).
    - ``cifar5m``: from the folder of that name, ``part0.npz`` to ``part5.npz`` as distributed.
      Images stay on the disk, unless the files are compressed. A tenth of all, spread evenly and
      rounded down, is kept for testing: 600,268 of 6,002,688.
    - ``natural_patches``: from the folder of that name, one ``.npz`` file with patches ``x`` of
      photographs, of the size of CIFAR-10's images, and the number ``y`` of each one's photograph,
      which is its class.

    Where only training or only test images are present, and for the digits, a fifth of the images
    is kept for testing, drawn with a fixed seed.

    Args:
        name: of the set.
        folder: the folder that holds the folders of the sets.

    Returns:
        The set, in the order of its files, shuffled only where it had to be divided.

    Raises:
        ValueError: if there is no such set, or a file is missing or not what its name says; the
            message says what to put where.
        ImportError: for digits, if scikit-learn is not installed (the extra "run").

    Example:
        >>> data = load_image_classes("digits")
        >>> len(data.train), len(data.test), data.num_classes, data.train.images.shape[1:]
        (1438, 359, 10, (8, 8, 1))
    """
    expected = f"one of {', '.join(_READERS)}"
    require(name in _READERS, "name", expected=expected, got=repr(name))
    if name != "digits":
        require(
            folder is not None,
            "folder",
            expected=f"a folder that holds {' or '.join(_FOLDERS[name])}/ with the files of {name}",
            got="None",
        )
    return _READERS[name](name, Path("." if folder is None else folder))


def read_labelled_images(source: str | Path) -> LabelledImages:
    """Read labelled images of one place, as a whole.

    Args:
        source: ``digits`` (scikit-learn's); an ``.npz`` file with arrays ``x`` (uint8 images) and
            ``y`` (labels); what `read_image_parts` reads, whose images stay on the disk; or a
            folder with a folder of pictures for each class, all of one size.
            Classes are numbered in the order of the folders' names, or by these where all of them
            are numbers. Of a folder with a test set of its own (`read_train_and_test`), the images
            that are trained on.

    Returns:
        The images.

    Raises:
        ValueError: if the source is none of these, or a picture has another size than the first.
        ImportError: if a package that reads them is not installed (the extra "run").

    Example:
        >>> len(read_labelled_images("digits"))
        1797
    """
    if str(source) == "digits":
        images, labels = read_digits()
        return LabelledImages(images[..., None], labels, white=DIGITS_WHITE)
    place = Path(source)
    reader = _published(place)
    if reader is not None:
        return reader(place)[0]
    if place.exists() and holds_image_parts(place):
        return LabelledImages(*read_image_parts(place))
    if place.is_dir():
        return _pictures(place)
    expected = (
        "digits, an .npz file with arrays x and y, the folder of MNIST, CIFAR-10 or CIFAR-5M as "
        "distributed, or a folder with one folder of pictures per class"
    )
    require(place.suffix == ".npz" and place.is_file(), "data", expected=expected, got=source)
    return _npz(place)


def read_train_and_test(source: str | Path) -> tuple[LabelledImages, LabelledImages | None]:
    """Read labelled images of one place, and those that it keeps for testing.

    Args:
        source: what `read_labelled_images` reads; or a folder with the idx files of MNIST or
            Fashion-MNIST, or with CIFAR-10's binary version, which come with a test set.

    Returns:
        The images that are trained on, and those that test; `None` where the place does not say.

    Raises:
        ValueError, ImportError: as `read_labelled_images`.

    Example:
        >>> train, test = read_train_and_test("digits")
        >>> len(train), test
        (1797, None)
    """
    reader = _published(Path(source))
    return (read_labelled_images(source), None) if reader is None else reader(Path(source))


def _published(
    place: Path,
) -> Callable[[Path], tuple[LabelledImages, LabelledImages | None]] | None:
    """Return what reads a folder of a set with its own test images; `None` for any other place."""
    if not place.is_dir():
        return None
    if any(place.glob("*-idx3-ubyte*")):
        return _idx_folder
    return _cifar_folder if (place / "data_batch_1.bin").exists() else None


def _pictures(folder: Path) -> LabelledImages:
    """Read a folder of folders of pictures."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    numbered = all(name.isdecimal() for name in classes)
    numbers = {name: int(name) if numbered else i for i, name in enumerate(classes)}
    files = [file for name in classes for file in sorted((folder / name).iterdir())]
    files = [file for file in files if file.suffix.lower() in PICTURES]
    expected = f"a folder for each class in {folder}, with {', '.join(PICTURES)} in it"
    require(bool(files), "data", expected=expected, got="no picture")
    pillow = import_extra("PIL.Image", extra="run", purpose="pictures")
    images: list[np.ndarray] = []
    for file in files:
        try:
            with pillow.open(file) as picture:
                size = picture.size[::-1]
                want = images[0].shape[:2] if images else size
                require(size == want, str(file), expected=f"the size {want} of the first", got=size)
                images.append(np.asarray(picture.convert("RGB")))
        except OSError as error:
            raise ValueError(f"{file}: expected a picture, got: {error}") from error
    labels = np.array([numbers[file.parent.name] for file in files], np.int32)
    return LabelledImages(np.stack(images), labels)


def _digits(name: str, _: Path) -> ImageClasses:
    images, labels = read_digits()
    return _divided(name, LabelledImages(images[..., None], labels, white=DIGITS_WHITE))


def _mnist(name: str, folder: Path) -> ImageClasses:
    train, test = _idx_folder(_place(name, folder))
    return _divided(name, train) if test is None else ImageClasses(name, train, test)


def _idx_folder(place: Path) -> tuple[LabelledImages, LabelledImages | None]:
    """Read the two sets of a folder, or the only one that it has."""
    train, test = _idx_pair(place, "train"), _idx_pair(place, "t10k")
    archives = sorted(place.glob("*.npz"))
    if train is None and archives:
        require(
            len(archives) == 1, "folder", expected=f"one .npz file in {place}", got=len(archives)
        )
        train = _npz(archives[0])
    if train is not None:
        return train, test
    require(
        test is not None,
        "folder",
        expected=f"{_idx_names('train')} and {_idx_names('t10k')} (or .gz), or an .npz file with "
        f"arrays x and y, in {place}",
        got=sorted(file.name for file in place.iterdir()),
    )
    assert test is not None
    return test, None


def _patches(name: str, folder: Path) -> ImageClasses:
    place = _place(name, folder)
    archives = sorted(place.glob("*.npz"))
    require(len(archives) == 1, "folder", expected=f"one .npz file in {place}", got=len(archives))
    return _divided(name, _npz(archives[0]))


def _cifar(name: str, folder: Path) -> ImageClasses:
    return ImageClasses(name, *_cifar_folder(_place(name, folder)))


def _cifar_folder(place: Path) -> tuple[LabelledImages, LabelledImages]:
    parts = [
        _cifar_file(place / f"data_batch_{number}.bin") for number in range(1, _NUM_CIFAR_FILES + 1)
    ]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test = LabelledImages(*_cifar_file(place / "test_batch.bin"))
    return LabelledImages(images, labels), test


def _cifar5m(name: str, folder: Path) -> ImageClasses:
    images = LabelledImages(*read_image_parts(_place(name, folder), num_parts=NUM_PARTS))
    split = split_rows(len(images), 0, size_of_test(len(images), 0, None, CIFAR5M_TEST_SHARE))
    return ImageClasses(name, images.subset(split.train), images.subset(split.test))


_READERS: dict[str, Callable[[str, Path], ImageClasses]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion_mnist": _mnist,
    "cifar10": _cifar,
    "cifar5m": _cifar5m,
    "natural_patches": _patches,
}
_FOLDERS = {
    "mnist": ("mnist",),
    "fashion_mnist": ("fashion_mnist",),
    "cifar10": ("cifar10", "cifar-10-batches-bin"),
    "cifar5m": ("cifar5m",),
    "natural_patches": ("natural_patches",),
}
_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k (or .gz)"
_FILES = {
    "mnist": _IDX_FILES,
    "fashion_mnist": _IDX_FILES,
    "cifar10": "data_batch_1.bin to data_batch_5.bin and test_batch.bin",
    "cifar5m": "part0.npz to part5.npz",
    "natural_patches": "one .npz file with arrays x and y",
}


def _place(name: str, folder: Path) -> Path:
    places = [folder / place for place in _FOLDERS[name]]
    present = [place for place in places if place.is_dir()]
    require(
        bool(present),
        "folder",
        expected=f"the folder {' or '.join(str(place) for place in places)} with {_FILES[name]}",
        got="no such folder",
    )
    return present[0]


def _divided(name: str, images: LabelledImages) -> ImageClasses:
    rows = np.random.default_rng(0).permutation(len(images))
    num_test = round(TEST_SHARE * len(images))
    return ImageClasses(name, images.subset(rows[num_test:]), images.subset(rows[:num_test]))


def _idx_names(split: str) -> str:
    return f"{split}-images-idx3-ubyte, {split}-labels-idx1-ubyte"


def _idx_pair(place: Path, split: str) -> LabelledImages | None:
    """Read the images and labels of a split; None where neither file is present."""
    names = _idx_names(split).split(", ")
    files = [
        next((file for file in (place / name, place / f"{name}.gz") if file.exists()), None)
        for name in names
    ]
    if files == [None, None]:
        return None
    for name, file in zip(names, files, strict=True):
        require(file is not None, "folder", expected=f"{name} or {name}.gz in {place}", got="none")
    images, labels = (
        read_idx(file, axes) for file, axes in zip(files, (3, 1), strict=True) if file is not None
    )
    return _checked(images, labels, place / names[0])


def _npz(file: Path) -> LabelledImages:
    expected = f"an .npz file with arrays x (uint8 images) and y (labels) at {file}"
    try:
        stored = load_arrays(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"folder: expected {expected}, got {error}") from error
    require({"x", "y"} <= set(stored), "folder", expected=expected, got=sorted(stored))
    return _checked(stored["x"], stored["y"], file)


def _checked(images: np.ndarray, labels: np.ndarray, file: Path) -> LabelledImages:
    require(
        images.dtype == np.uint8
        and images.ndim in (3, 4)
        and labels.shape == images.shape[:1]
        and labels.dtype.kind in "iu",
        "folder",
        expected=f"uint8 images (n, height, width) and n labels, integers, for {file}",
        got=f"{images.dtype} of shape {images.shape} and labels of shape {labels.shape}, "
        f"{labels.dtype}",
    )
    if images.ndim == 3:
        images = images[..., None]
    return LabelledImages(images, labels.astype(np.int32))


def _cifar_file(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read records of one byte for the class and 3,072 for red, green and blue, row by row."""
    expected = f"CIFAR-10's binary version (records of 3,073 bytes, classes 0 to 9) at {file}"
    require(file.exists(), "folder", expected=expected, got="no such file")
    content = np.fromfile(file, np.uint8)
    size = 1 + math.prod(_CIFAR_SHAPE)
    require(
        len(content) > 0 and len(content) % size == 0,
        "folder",
        expected=expected,
        got=f"{len(content)} bytes",
    )
    records = content.reshape(-1, size)
    labels = records[:, 0].astype(np.int32)
    require(int(labels.max()) < 10, "folder", expected=expected, got=f"a class {int(labels.max())}")
    return records[:, 1:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1), labels
