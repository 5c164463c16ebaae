"""Images as sequences of pixels: the second task of *Spectral Reach* (B.2.2)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from lnpjax._base.checks import import_extra, require
from lnpjax._base.files import check_arrays
from lnpjax.data.datasets import NUM_VALIDATION, ArrayDataset

IMAGE_KEYS = ("x", "images")
"""Arrays looked for in an `.npz` file, in this order."""
DIGITS_WHITE = 16
"""The lightest gray level of scikit-learn's digits."""
_LUMA = np.array([299, 587, 114], np.int32)  # ITU-R BT.601, in thousandths
IMAGES_PER_CHUNK = 4096


def next_pixel_sequences(
    images: UInt8[np.ndarray, "n h w *c"], *, levels: int = 256
) -> UInt8[np.ndarray, "n pixels"]:
    """Flatten images, row by row, into sequences of grayscale values.

    Colour becomes luma, (299 R + 587 G + 114 B) / 1000 rounded to an integer: exact arithmetic,
    the same everywhere.

    Args:
        images: uint8 `(n, h, w)`, `(n, h, w, 1)` or `(n, h, w, 3)`.
        levels: number of gray levels that are kept: value v of 256 becomes `v * levels // 256`.

    Returns:
        uint8 `(n, h * w)` with values in `[0, levels)`.

    Raises:
        ValueError: if `images` is not such an array or `levels` is not in [2, 256].

    Example:
        >>> next_pixel_sequences(np.array([[[0, 255], [128, 7]]], np.uint8), levels=2)
        array([[0, 1, 1, 0]], dtype=uint8)
    """
    is_array = isinstance(images, np.ndarray)
    require(
        is_array
        and images.dtype == np.uint8
        and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))),
        "images",
        expected="a uint8 array of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3)",
        got=f"{images.dtype} of shape {images.shape}" if is_array else type(images).__name__,
    )
    require(2 <= levels <= 256, "levels", expected="an integer in [2, 256]", got=levels)
    sequences = np.empty((len(images), images.shape[1] * images.shape[2]), np.uint8)
    for start in range(0, len(images), IMAGES_PER_CHUNK):
        chunk = gray_images(images[start : start + IMAGES_PER_CHUNK]).astype(np.int32)
        sequences[start : start + len(chunk)] = (chunk * levels // 256).reshape(len(chunk), -1)
    return sequences


def gray_images(images: UInt8[np.ndarray, "n h w *c"]) -> UInt8[np.ndarray, "n h w"]:
    """Reduce colour to luma, as `next_pixel_sequences` says; leave grey levels as they are."""
    if images.ndim == 3 or images.shape[3] == 1:
        return images.reshape(images.shape[:3])
    return ((images.astype(np.int32) @ _LUMA + 500) // 1000).astype(np.uint8)


def next_pixel_dataset(
    sequences: Int[np.ndarray, "n pixels"],
    *,
    levels: int = 256,
    num_validation: int = NUM_VALIDATION,
    name: str = "pixels",
) -> ArrayDataset:
    """Make a data set of next-pixel prediction: each pixel is a token, predicted from those before.

    There is no begin token: pixels 2 to P are predicted, from pixels 1 to P - 1, so that the
    vocabulary is exactly the gray levels, as the parameter counts of *Spectral Reach*, Table 2,
    imply. The first pixel is given, never predicted, and no sequence crosses from one image to
    the next.

    Args:
        sequences: one image per row, values in `[0, levels)`.
        levels: size of the vocabulary.
        num_validation: images in the validation set (*Spectral Reach*: 4096 of CIFAR-5M).
        name: what the data is called in logs.

    Returns:
        A data set with `context_length` P - 1.

    Raises:
        ValueError: if `sequences` is not an integer matrix with at least two columns, or holds
            values out of range.

    Example:
        >>> sequences = np.array([[0, 1, 1, 0], [1, 0, 1, 0]])
        >>> data = next_pixel_dataset(sequences, levels=2, num_validation=1)
        >>> data.train(np.array([0]))
        (array([[0, 1, 1]], dtype=int32), array([[1, 1, 0]], dtype=int32))
    """
    require(
        isinstance(sequences, np.ndarray) and sequences.ndim == 2 and sequences.shape[1] >= 2,
        "sequences",
        expected="an integer array of shape (images, pixels) with at least 2 pixels",
        got=getattr(sequences, "shape", type(sequences).__name__),
    )
    return ArrayDataset(
        inputs=sequences[:, :-1],
        targets=sequences[:, 1:],
        vocab_size=levels,
        num_validation=num_validation,
        name=name,
    )


def read_digits() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, " 1797"]]:
    """Read scikit-learn's handwritten digits, which need no download.

    Returns:
        Gray levels from 0 to `DIGITS_WHITE`, and the digits that they show, int32.

    Raises:
        ImportError: if scikit-learn is not installed (the extra "run").

    Example:
        >>> images, labels = read_digits()
        >>> images.shape, int(images.max()), labels[:3].tolist()
        ((1797, 8, 8), 16, [0, 1, 2])
    """
    sklearn = import_extra("sklearn.datasets", extra="run", purpose="the digits data set")
    bunch = sklearn.load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int32)


def digits(*, num_validation: int = NUM_VALIDATION) -> ArrayDataset:
    """Make next-pixel prediction of scikit-learn's 1,797 digits (8 x 8, 17 gray levels).

    Args:
        num_validation: images in the validation set.

    Returns:
        A data set with `context_length` 63 and `vocab_size` 17.

    Raises:
        ImportError: if scikit-learn is not installed (the extra "run").

    Example:
        >>> data = digits()
        >>> data.context_length, data.vocab_size, data.num_train
        (63, 17, 1637)
    """
    images, _ = read_digits()
    return next_pixel_dataset(
        images.reshape(len(images), -1),
        levels=DIGITS_WHITE + 1,
        num_validation=num_validation,
        name="digits",
    )


def read_images(path: str | Path) -> np.ndarray:
    """Read the images of an `.npz` file, under the first of `IMAGE_KEYS` that is present.

    Args:
        path: the file.

    Returns:
        The array as stored.

    Raises:
        ValueError: if the file is unreadable or lacks such an array; the message lists those
            present.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "images.npz"
        >>> np.savez(file, x=np.zeros((5, 4, 4), np.uint8))
        >>> read_images(file).shape
        (5, 4, 4)
    """
    try:
        check_arrays(Path(path))
        with np.load(path, allow_pickle=False) as file:
            present = list(file)
            key = next((key for key in IMAGE_KEYS if key in present), None)
            images = None if key is None else file[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: expected an .npz file of arrays, got {path} ({error})") from error
    require(
        images is not None,
        "path",
        expected=f"an .npz file with an array {' or '.join(map(repr, IMAGE_KEYS))}",
        got=f"{present} in {path}",
    )
    return np.asarray(images)
