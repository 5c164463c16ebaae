"""Labelled images in several `.npz` files, as CIFAR-5M is distributed: read when asked for.

CIFAR-5M (Nakkiran et al., 2020) comes as ``part0.npz`` to ``part5.npz``, each with `X`, 1,000,448
images ``(n, 32, 32, 3)``, and `Y`, their classes. What an archive stores as it is stays on the
disk; what it has compressed is read from one end to the other, a piece at a time, and kept.
"""

from __future__ import annotations

import functools
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int, UInt8

from lnpjax._base.checks import require
from lnpjax._base.files import check_arrays
from lnpjax.data.files import holds
from lnpjax.data.images import IMAGE_KEYS, IMAGES_PER_CHUNK, gray_images, next_pixel_sequences

IMAGES, LABELS = ("X", *IMAGE_KEYS), ("Y", "y", "labels")
"""What the arrays are called, CIFAR-5M's first."""
NUM_PARTS = 6
"""How many files CIFAR-5M has."""
_PART = re.compile(r"part(\d+)\.npz")
_LOCAL_HEADER = 30  # bytes, before the name of a member of a zip archive


@dataclass(frozen=True, eq=False)
class ImageParts:
    """The images of several files as one array, of which only what is asked for is in memory.

    Args:
        parts: the images of each file, all of one size.
        checksums: of each file's images, as its archive has them.
        rows: which images, in which order; None for all.

    Example:
        >>> images = ImageParts((np.zeros((3, 2, 2), np.uint8), np.ones((2, 2, 2), np.uint8)), ())
        >>> images.shape, images[np.array([4, 0])][:, 0, 0]
        ((5, 2, 2), array([1, 0], dtype=uint8))
        >>> images.select(np.array([3, 1])).shape
        (2, 2, 2)
    """

    parts: tuple[UInt8[np.ndarray, "images h w *c"], ...]
    checksums: tuple[int, ...]
    rows: Int[np.ndarray, " images"] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of one array."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Unsigned bytes."""
        return self.parts[0].dtype

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "images h w *c"]:
        """Read images: of a slice, of indices, or where a mask is true."""
        rows = np.arange(len(self))[index] if self.rows is None else self.rows[index]
        images = np.empty((*np.shape(rows), *self.shape[1:]), self.dtype)
        part_of = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(part_of):
            here, part = part_of == number, self.parts[number]
            images[here] = part[rows[here] - (self._ends[number] - len(part))]
        return images

    def select(self, rows: Int[np.ndarray, " images"]) -> ImageParts:
        """Choose images without reading them."""
        chosen = rows if self.rows is None else self.rows[rows]
        return ImageParts(self.parts, self.checksums, chosen)

    @cached_property
    def _ends(self) -> Int[np.ndarray, " parts"]:
        return np.cumsum([len(part) for part in self.parts])


@dataclass(frozen=True, eq=False)
class PixelSequences:
    """The grey levels of images, row by row: a source of sequences, each read when asked for.

    Args:
        images: the images.

    Example:
        >>> images = ImageParts((np.full((3, 2, 2, 3), 9, np.uint8),), (17,))
        >>> PixelSequences(images)[1], PixelSequences(images).fingerprint
        (array([9, 9, 9, 9], dtype=uint8), '((3, 2, 2), (17,))')
    """

    images: ImageParts

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, " pixels"]:
        return next_pixel_sequences(self.images[index : index + 1])[0]

    @property
    def fingerprint(self) -> str:
        """The shape and the checksums of all images, so that none has to be read for it."""
        return repr((self.images.shape[:3], self.images.checksums))


def holds_image_parts(path: str | Path) -> bool:
    """Return whether a path is a file with an array `X`, or a folder of `.npz` files."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("*.npz")) and holds(path, (".npz",))
    return path.suffix == ".npz" and zipfile.is_zipfile(path) and "X.npy" in _members(path)


def read_image_parts(
    path: str | Path, *, gray: bool = False, num_parts: int | None = None
) -> tuple[ImageParts, Int[np.ndarray, " images"]]:
    """Open the images and labels of an `.npz` file, or of a folder of such files.

    Args:
        path: the file or folder. Files that are called part0.npz, part1.npz, ... are read in the
            order of their numbers, all others in that of their names.
        gray: reduce to grey levels what has to be kept in memory.
        num_parts: how many files there have to be; None for any number.

    Returns:
        The images, and the number of each one's class.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if a part is missing, truncated, or lacks arrays `X` and `Y` (or `x` and `y`, or
            `images` and `labels`) that fit each other and the first part; the message names the
            file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(2):
        ...     X, Y = np.full((3, 2, 2, 3), number, np.uint8), np.array([0, 1, 2])
        ...     np.savez(folder / f"part{number}.npz", X=X, Y=Y)
        >>> images, labels = read_image_parts(folder)
        >>> images.shape, labels
        ((6, 2, 2, 3), array([0, 1, 2, 0, 1, 2], dtype=int32))
    """
    path = Path(path)
    expected = "an .npz file with images X and labels Y, or a folder of such files"
    require(path.exists(), "path", expected=expected, got=path, error=FileNotFoundError)
    files = [path] if path.is_file() else _ordered(path, num_parts)
    opened = [_Part(file) for file in files]
    for part in opened:  # all of them, before the first is read
        shape, first = part.shape[1:], opened[0]
        expected = f"images of {first.shape[1:]}, as in {first.file.name}"
        require(shape == first.shape[1:], str(part.file), expected=expected, got=f"of {shape}")
    labels = np.concatenate([part.labels() for part in opened])
    images = tuple(part.images(gray=gray) for part in opened)
    return ImageParts(images, tuple(part.checksum for part in opened)), labels


def _ordered(folder: Path, num_parts: int | None) -> list[Path]:
    """Return the files of a folder in the order of their numbers; refuse gaps."""
    files = sorted(folder.glob("*.npz"))
    require(bool(files), "path", expected="a folder with .npz files", got=f"none in {folder}")
    numbers = {int(match[1]): file for file in files if (match := _PART.fullmatch(file.name))}
    if len(numbers) < len(files) and num_parts is None:
        return files
    wanted = range(num_parts or max(numbers, default=0) + 1)
    missing = [f"part{number}.npz" for number in wanted if number not in numbers]
    expected = f"part0.npz to part{wanted[-1]}.npz in {folder}"
    got = f"all but {', '.join(missing)}" if missing else f"{len(files)} .npz files"
    require(not missing and len(files) == len(wanted), "path", expected=expected, got=got)
    return [numbers[number] for number in wanted]


class _Part:
    """One archive whose headers have been checked, but of which nothing has been read."""

    def __init__(self, file: Path) -> None:
        try:
            check_arrays(file)
            members = _members(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error).removeprefix(f"{file}: expected an .npz file, got: ")
            raise ValueError(f"{file}: expected a whole .npz file, got: {reason}") from error
        self.file = file
        stored = {name.removesuffix(".npy") for name in members}
        found = [next((key for key in keys if key in stored), "") for keys in (IMAGES, LABELS)]
        expected = f"arrays {' or '.join(IMAGES)}, and {' or '.join(LABELS)}"
        require(all(found), str(file), expected=expected, got=sorted(stored))
        self._images, self._labels = members[f"{found[0]}.npy"], found[1]
        self.checksum = self._images.CRC
        with zipfile.ZipFile(file) as archive, archive.open(self._images) as stream:
            self.shape, in_order, dtype = _read_header(stream)
            self._offset = stream.tell()
        fits = dtype == np.uint8 and in_order and len(self.shape) in (3, 4) and all(self.shape)
        fits = fits and (len(self.shape) == 3 or self.shape[3] in (1, 3))
        expected = f"{found[0]} of unsigned bytes (n, h, w, 3), row after row"
        require(fits, str(file), expected=expected, got=f"{dtype} of shape {self.shape}")

    def labels(self) -> Int[np.ndarray, " n"]:
        with np.load(self.file, allow_pickle=False) as arrays:
            labels = self._sound(lambda: arrays[self._labels])
        expected = f"{self._labels} with a class for each of the {self.shape[0]} images"
        fits = labels.dtype.kind in "iu" and labels.shape == self.shape[:1]
        require(fits, str(self.file), expected=expected, got=f"{labels.dtype} of {labels.shape}")
        return labels.astype(np.int32)

    def images(self, *, gray: bool) -> UInt8[np.ndarray, "n h w *c"]:
        if self._images.compress_type == zipfile.ZIP_STORED:
            return np.memmap(self.file, np.uint8, "r", self._place() + self._offset, self.shape)
        num_images, shape = self.shape[0], self.shape[1:3] if gray else self.shape[1:]
        images = np.empty((num_images, *shape), np.uint8)
        start = 0
        for chunk in self._chunks():
            images[start : start + len(chunk)] = gray_images(chunk) if gray else chunk
            start += len(chunk)
        return images

    def _place(self) -> int:
        """Return where the content of the images begins in the file."""
        with self.file.open("rb") as stream:
            stream.seek(self._images.header_offset)
            header = stream.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return self._images.header_offset + _LOCAL_HEADER + sum(lengths)

    def _chunks(self) -> Iterator[UInt8[np.ndarray, "chunk h w *c"]]:
        size = math.prod(self.shape[1:])
        with zipfile.ZipFile(self.file) as archive, archive.open(self._images) as stream:
            _read_header(stream)
            for start in range(0, self.shape[0], IMAGES_PER_CHUNK):
                count = min(IMAGES_PER_CHUNK, self.shape[0] - start)
                content = self._sound(functools.partial(stream.read, count * size))
                complete = len(content) == count * size
                expected = f"{self.shape[0]} images"
                require(
                    complete, str(self.file), expected=expected, got=f"fewer than {start + count}"
                )
                yield np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:])
            self._sound(stream.read)  # to the end, where the checksum is compared

    def _sound(self, read: Callable[[], Any]) -> Any:
        """Read, and say which file is damaged, if it is."""
        try:
            return read()
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.file}: expected undamaged arrays, got: {error}") from error


def _members(file: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(file) as archive:
        return {entry.filename: entry for entry in archive.infolist()}


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether rows come one after the other, and dtype of a `.npy` stream."""
    first_version = np.lib.format.read_magic(stream) == (1, 0)
    formats = np.lib.format
    read = formats.read_array_header_1_0 if first_version else formats.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    return shape, not by_columns, dtype
