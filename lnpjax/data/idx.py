"""Arrays of bytes in the idx format, in which MNIST and Fashion-MNIST are distributed."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import UInt8

from lnpjax._base.checks import require

MOST_BYTES = 4 * 2**30
"""Of one file; the largest published one has 47 million."""
_UNSIGNED_BYTES = 8  # the code of uint8 in the format


def read_idx(file: Path, num_axes: int) -> UInt8[np.ndarray, ...]:
    """Read one file, compressed or not.

    Args:
        file: its path; one that ends in ``.gz`` is decompressed.
        num_axes: how many axes its array has.

    Raises:
        ValueError: if it is not such a file, is not whole, or names a size beyond `MOST_BYTES`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(file, 1)
        array([7, 9], dtype=uint8)
    """
    expected = f"an idx file of unsigned bytes with {num_axes} axes, whole, as published, at {file}"
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            return _read_idx(cast(IO[bytes], stream), num_axes, expected)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"folder: expected {expected}, got {error}") from error


def _read_idx(stream: IO[bytes], num_axes: int, expected: str) -> np.ndarray:
    start = stream.read(4 * (1 + num_axes))
    header = np.frombuffer(start.ljust(4 * (1 + num_axes), b"\0"), ">u4")
    require(
        int(header[0]) == _UNSIGNED_BYTES << 8 | num_axes,
        "folder",
        expected=expected,
        got=f"another header, {start[:4]!r}",
    )
    shape = tuple(int(size) for size in header[1:])
    promised = math.prod(shape)
    got = f"{promised} bytes for the shape {shape} that its header names"
    require(promised <= MOST_BYTES, "folder", expected=f"at most {MOST_BYTES} bytes", got=got)
    content = stream.read(promised + 1)  # a compressed file may hold far more
    require(
        len(content) == promised,
        "folder",
        expected=expected,
        got=f"{'more than ' * (len(content) > promised)}{min(len(content), promised)} bytes for "
        f"the shape {shape} that its header names",
    )
    return np.frombuffer(content, np.uint8).reshape(shape)
