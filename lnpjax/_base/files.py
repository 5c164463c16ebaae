"""Files that are there whole or not at all, whenever the process or the power goes."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lnpjax._base.checks import require

HIGHEST_COMPRESSION = 1100
"""How many bytes one byte of a zip archive can stand for (deflate: 1032)."""


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file that never holds half of the content, not even after a power cut.

    A link of either name is replaced, not followed.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    sync(temporary)
    os.replace(temporary, file)
    sync(file.parent)


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file by their names.

    Raises:
        ValueError: if the file is damaged, holds objects, or see `check_arrays`.
        OSError: if it cannot be read.
    """
    check_arrays(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{file}: expected an .npz file, got: {error}") from error


def check_arrays(file: Path) -> None:
    """Refuse an `.npz` file with an array of more bytes than it can hold, which nobody allocates.

    Raises:
        ValueError: if there is one, or the file is no archive of arrays.
        OSError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".npy"):
                    _check_header(archive, entry, file)
    except (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{file}: expected an .npz file, got: {error}") from error


def _check_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> None:
    """Refuse an array whose header promises more bytes than follow."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(entry) as stream:
        read_header = readers.get(np.lib.format.read_magic(stream))
        if read_header is None:
            return
        shape, _, dtype = read_header(stream)
    promised = math.prod(shape) * dtype.itemsize
    most = min(entry.file_size, HIGHEST_COMPRESSION * entry.compress_size)
    expected = f"an array of at most the {most} bytes of {entry.filename}"
    got = f"the shape {shape}, {promised} bytes"
    require(0 <= promised <= most, str(file), expected=expected, got=got)


def sync(*paths: Path) -> None:
    """Have files and folders written out, so that what is renamed next outlives a power cut too."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def append_synced(file: Path, content: bytes) -> None:
    """Append to a file, which holds the content when this returns, even after a power cut."""
    with file.open("ab") as stream:
        stream.write(content)
    sync(file, file.parent)


def discard(folder: Path) -> None:
    """Remove a folder under another name, so that half of one never looks complete."""
    discarded = folder.with_name(".discarded")
    set_aside(folder, discarded)
    shutil.rmtree(discarded)


def set_aside(folder: Path, name: Path) -> None:
    """Rename a folder; one that has the new name already is removed."""
    shutil.rmtree(name, ignore_errors=True)
    os.rename(folder, name)
    sync(name.parent)
